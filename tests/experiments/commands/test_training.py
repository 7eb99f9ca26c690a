"""`flex-judge dpo` and `flex-judge grpo` as a user runs them: real models, TRL's trainers, `accelerate launch`."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from scripts import SETTINGS, fair_judge
from served import served
from tiny_models import tiny_llama

from flex_judge.judges import FlexJudge
from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.judges.models.profiles import PROFILES

pytestmark = pytest.mark.slow
RUN_S = 500.0  # two minutes where nothing else runs


def completed(*command: str) -> str:
    """Run a command that is to succeed. Returns what it prints."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_a_policy_is_tuned_on_preferences_and_measured_before_and_after(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    with rows.open("w") as file:
        for n in range(8):
            row = {"prompt": f"What is {n} + 1?", "chosen": f"It is {n + 1}.", "rejected": "Who knows."}
            file.write(json.dumps({name: said(text, name) for name, text in row.items()}) + "\n")
    held = tmp_path / "held.jsonl"
    held.write_text("".join(json.dumps({"prompt": f"What is {n} + 1?", "sum": n + 1}) + "\n" for n in range(6, 12)))
    out = tmp_path / "policy"
    engine = ScriptedEngine(fair_judge, profile=PROFILES["flex-vl"])
    with served(FlexJudge(engine, SETTINGS)) as service:
        command = [sys.executable, "-m", "flex_judge.experiments.cli", "dpo", str(rows), "--judge-url", service.url]
        command += ["--model_name_or_path", str(tiny_llama(tmp_path / "base")), "--output_dir", str(out)]
        command += ["--held-out", str(held), "--held-out-answer", "sum", "--held-out-samples", "2"]
        command += ["--held-out-tokens", "8", "--held-out-engine", "transformers"]
        command += ["--max_steps", "2", "--learning_rate", "1e-3"]
        shown = completed(*command)
        asked = len(engine.requests)
        again = completed(*command)
    summary = read(out / "evaluation" / "summary.json")
    measured = summary["measured"]
    assert measured["prompts"] == 4  # the first two are trained on
    assert measured["score"]["before"]["count"] == 4
    assert measured["right"]["after"]["value"] == 0.0  # of a model that says nothing sensible
    before, after = ((out / "evaluation" / when / "best_of_n.jsonl").read_text() for when in ("before", "after"))
    assert before != after
    assert "Score by the judge" in shown
    assert "before" in shown
    assert summary["rows"] == 8
    from huggingface_hub import ModelCard

    assert "| Score by the judge |" in ModelCard.load(out / "README.md").text
    assert (out / "model.safetensors").is_file()
    assert again == shown  # and nothing of what libraries print
    assert "base after DPO" in shown
    assert len(engine.requests) == asked


def said(text: str, name: str) -> list[dict[str, str]]:
    return [{"role": "user" if name == "prompt" else "assistant", "content": text}]


def test_two_ranks_are_rewarded_by_the_judge_that_the_command_serves(tmp_path: Path) -> None:
    judge = tmp_path / "judge.yaml"
    judge.write_text(
        "max_think_tokens: 16\nmax_answer_tokens: 16\ntemperature: 0\nmax_model_len: 2048\nmax_batch: 16\n"
    )
    out = tmp_path / "policy"
    # Not --cpu: with it one rank is started, whatever number is asked for.
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--main_process_port", "0", "-m", "flex_judge.experiments.cli", "grpo", "--output_dir", str(out)]
    # Two completions on each rank: every group spans both.
    command += ["--per_device_train_batch_size", "2", "--num_generations", "4", "--max_completion_length", "8"]
    command += ["--judge-config", str(judge), "--judge-method", "round_robin", "--judge-reward", "win_rate"]
    command += ["--max_steps", "2", "--logging_steps", "1", "--held-out-prompts", "0"]
    shown = completed(*command)
    log = read(out / "training.json")["log"]
    steps = [entry for entry in log if "judge/whole" in entry]
    assert [step["judge/whole"] for step in steps] == [1.0, 1.0]
    assert [step["rewards/flex_judge/mean"] for step in steps] == pytest.approx([0.5, 0.5])  # as win rates are
    assert all(math.isfinite(step["loss"]) for step in steps)
    assert read(out / "evaluation" / "summary.json")["measured"] is None
    assert shown.count("smollm2-135m after GRPO") == 1  # one rank speaks for all
    assert (out / "adapter_model.safetensors").is_file()
