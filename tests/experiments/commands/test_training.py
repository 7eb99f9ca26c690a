"""`flex-judge dpo` and `flex-judge grpo` with real models, TRL's trainers and `accelerate launch`."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from html_page import HtmlPage
from scripts import SETTINGS, fair_judge
from served import served
from tiny_models import tiny_llama

from flex_judge.judges import FlexJudge
from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.judges.models.profiles import PROFILES

pytestmark = pytest.mark.slow
RUN_S = 500.0  # takes two minutes on an idle machine


def run_command(*command: str) -> str:
    """Run a command that must succeed, and return its standard output."""
    process = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S)
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def test_dpo_trains_a_policy_and_evaluates_it_before_and_after(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    with rows.open("w") as file:
        for n in range(8):
            row = {"prompt": f"What is {n} + 1?", "chosen": f"It is {n + 1}.", "rejected": "Who knows."}
            file.write(json.dumps({name: make_message(text, name) for name, text in row.items()}) + "\n")
    held_out = tmp_path / "held.jsonl"
    held_out.write_text("".join(json.dumps({"prompt": f"What is {n} + 1?", "sum": n + 1}) + "\n" for n in range(6, 12)))
    out = tmp_path / "policy"
    engine = ScriptedEngine(fair_judge, profile=PROFILES["flex-vl"])
    with served(FlexJudge(engine, SETTINGS)) as service:
        command = [sys.executable, "-m", "flex_judge.experiments.cli", "dpo", str(rows), "--judge-url", service.url]
        command += ["--model_name_or_path", str(tiny_llama(tmp_path / "base")), "--output_dir", str(out)]
        command += ["--held-out", str(held_out), "--held-out-answer", "sum", "--held-out-samples", "2"]
        command += ["--held-out-tokens", "8", "--held-out-engine", "transformers"]
        command += ["--max_steps", "2", "--learning_rate", "1e-3"]
        output = run_command(*command)
        num_requests = len(engine.requests)
        second_output = run_command(*command)
    summary = read_json(out / "evaluation" / "summary.json")
    measured = summary["measured"]
    assert measured["prompts"] == 4  # the first two prompts are training data
    assert measured["score"]["before"]["count"] == 4
    assert measured["right"]["after"]["value"] == 0.0  # the model is random
    rows_before, rows_after = (
        (out / "evaluation" / when / "best_of_n.jsonl").read_text() for when in ("before", "after")
    )
    assert rows_before != rows_after
    assert "Judge score" in output
    assert "before" in output
    assert summary["rows"] == 8
    page = HtmlPage.load(out / "evaluation" / "report.html")
    assert page.cards["Held-out prompts"] == "4"
    score = measured["score"]
    assert page.cards["Judge score"] == f"{score['after']['value']:.2f} {score['before']['value']:.2f} before training"
    assert "Judgments before training" in page.text
    assert "What is 8 + 1?" in page.text  # the first two prompts are training data
    from huggingface_hub import ModelCard

    assert "| Judge score |" in ModelCard.load(out / "README.md").text
    assert (out / "model.safetensors").is_file()
    assert second_output == output  # without library output
    assert "base after DPO" in output
    assert len(engine.requests) == num_requests


def make_message(text: str, name: str) -> list[dict[str, str]]:
    return [{"role": "user" if name == "prompt" else "assistant", "content": text}]


def test_grpo_serves_a_judge_for_two_ranks(tmp_path: Path) -> None:
    judge = tmp_path / "judge.yaml"
    judge.write_text(
        "max_think_tokens: 16\nmax_answer_tokens: 16\ntemperature: 0\nmax_model_len: 2048\nmax_batch: 16\n"
    )
    out = tmp_path / "policy"
    # Without --cpu, which starts one rank whatever --num_processes says.
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--main_process_port", "0", "-m", "flex_judge.experiments.cli", "grpo", "--output_dir", str(out)]
    # Two completions per rank, so that every group spans both ranks.
    command += ["--per_device_train_batch_size", "2", "--num_generations", "4", "--max_completion_length", "8"]
    command += ["--judge-config", str(judge), "--judge-method", "round_robin", "--judge-reward", "win_rate"]
    command += ["--max_steps", "2", "--logging_steps", "1", "--held-out-prompts", "0"]
    output = run_command(*command)
    log = read_json(out / "training.json")["log"]
    steps = [entry for entry in log if "judge/whole" in entry]
    assert [step["judge/whole"] for step in steps] == [1.0, 1.0]
    assert [step["rewards/flex_judge/mean"] for step in steps] == pytest.approx(
        [0.5, 0.5]
    )  # the mean win rate of a group
    assert all(math.isfinite(step["loss"]) for step in steps)
    assert read_json(out / "evaluation" / "summary.json")["measured"] is None
    assert output.count("smollm2-135m after GRPO") == 1  # only the first rank prints
    assert (out / "adapter_model.safetensors").is_file()
