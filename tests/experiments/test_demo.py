"""The demo on the embedded model with default settings, and the use of its results."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from training import two_steps


def run_flex_judge(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flex_judge.experiments.cli", *arguments]
    process = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert process.returncode == 0, process.stderr
    return process


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


SMALL = ("--prompts", "8", "--samples", "6", "--replicas", "2")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "run"
    run_flex_judge("demo", "--out", str(folder), *SMALL)
    return folder


@pytest.mark.slow
def test_demo_writes_all_results(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["engine"], summary["replicas"], summary["prompts"]) == ("vllm", 2, 8)
    assert summary["samples_per_prompt"] == 6
    assert sum(summary["judgments"].values()) == 48
    assert summary["pairs"] + sum(summary["dropped"].values()) == 8
    assert 0 <= summary["accuracy_random"] <= summary["accuracy_pass_at_n"] <= 1
    assert summary["accuracy_best_of_n"] <= summary["accuracy_pass_at_n"]
    assert summary["policy_tokens"] > 0
    assert summary["judge_tokens"] > 0
    assert not summary["forced_answer"]  # the embedded judge answers by itself
    assert summary["judge_auc"] > 0.8
    assert summary["cached_tokens"] > summary["prompt_tokens"] / 2
    judgments = read_rows(run / "judgments.jsonl")
    assert len({j["id"] for j in judgments}) == 48
    assert len({j["provenance"]["replica"] for j in judgments}) == 2
    for row in read_rows(run / "best_of_n.jsonl"):
        assert row["text"] == row["responses"][row["best"]]
        assert row["scores"][row["best"]] == max(s for s in row["scores"] if s is not None)
    assert "<html" in (run / "report.html").read_text()


@pytest.mark.slow
def test_second_run_judges_nothing_again(run: Path) -> None:
    mtimes = {p.name: p.stat().st_mtime_ns for p in run.glob("*s.jsonl")}
    process = run_flex_judge("demo", "--out", str(run), *SMALL)
    assert "nothing is sampled or judged again" in process.stderr
    journals = ("completions.jsonl", "judgments.jsonl")
    assert all((run / name).stat().st_mtime_ns == mtimes[name] for name in journals)


@pytest.mark.slow
def test_preference_pairs_train_a_policy_with_trl(run: Path, tmp_path: Path) -> None:
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    from flex_judge.judges.models import resolve_model

    pairs = load_dataset("json", data_files=str(run / "preferences.jsonl"), split="train", cache_dir=str(tmp_path))
    assert len(pairs) >= 2
    for pair in pairs:
        assert pair["chosen"][0]["content"] != pair["rejected"][0]["content"]
        assert pair["score_chosen"] > pair["score_rejected"]
        assert pair["margin"] == pair["score_chosen"] - pair["score_rejected"]
        assert pair["prompt"][-1]["role"] == "user"
    path = resolve_model("smollm2-135m")
    options = DPOConfig(per_device_train_batch_size=1, learning_rate=1e-4, **two_steps(tmp_path / "dpo"))
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(path, dtype="float32"),
        args=options,
        train_dataset=pairs,
        processing_class=AutoTokenizer.from_pretrained(path),
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 2
    assert losses[0] == pytest.approx(0.693, abs=0.05)
