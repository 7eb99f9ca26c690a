"""`flex-judge sft` on tiny checkpoints of the real architectures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from examples import curated
from html_page import HtmlPage
from mol_llama import write_tiny_model
from repository import ROOT
from sft_command import sft, tensors
from tiny_models import tiny_llama, tiny_qwen_omni, tiny_qwen_vl

from flex_judge.judges import FlexJudge
from flex_judge.judges.models.checkpoints import open_checkpoint
from flex_judge.judges.models.embedded import JUDGE

RECIPES = sorted(path.stem for path in (ROOT / "experiments" / "recipes").rglob("flex-*.yaml"))

TINY = {"flex-vl": tiny_qwen_vl, "flex-omni": tiny_qwen_omni, "flex-llama": tiny_llama}


@pytest.mark.parametrize(
    "recipe",
    [pytest.param(name, marks=[] if name == "flex-omni-7b" else pytest.mark.slow) for name in RECIPES if name != JUDGE],
)
def test_every_recipe_trains_only_the_language_model(
    recipe: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    family = "-".join(recipe.split("-")[:2])
    base, out = TINY[family](tmp_path / "base"), tmp_path / "judge"
    assert sft(base, curated(tmp_path / "data"), out, "--config", recipe, "--load_best_model_at_end", "False") == 0
    capfd.readouterr()
    if recipe.endswith("lora"):
        lora = tensors(out)
        assert lora
        assert all("language_model" in name and "visual" not in name for name in lora)
        assert any(name.endswith("lora_B.weight") and bool(tensor.any()) for name, tensor in lora.items())
        assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    else:
        before, after = tensors(base), tensors(out)
        assert before.keys() == after.keys()
        changed = {name for name in before if not bool((before[name] == after[name]).all())}
        encoders = {name for name in before if any(part in name for part in ("visual", "audio_tower", "talker"))}
        assert changed
        assert not changed & encoders
        assert any("layers.1.mlp" in name for name in changed)
        config = open_checkpoint(str(out)).config
        assert config["model_type"] == open_checkpoint(str(base)).config["model_type"]
        assert config.get("use_cache", True)
    adapter = str(out) if recipe.endswith("lora") else None
    judge = FlexJudge.from_pretrained(
        str(base if adapter else out), "transformers", adapter, max_think_tokens=4, max_answer_tokens=8, temperature=0.0
    )
    judge.close()
    summary = json.loads((out / "recipe" / "summary.json").read_text())
    assert summary["rows"] == 6
    assert [evaluation["step"] for evaluation in summary["evaluations"]] == [0, 1, 2]
    assert 0 < summary["learning"] <= summary["parameters"]
    assert f"{summary['learning']:,} of" in (out / "README.md").read_text()


@pytest.mark.parametrize(
    "evaluations",
    [("--eval_strategy", "no"), ("--eval_steps", "1", "--load_best_model_at_end", "False")],
    ids=["none", "some"],
)
def test_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(
    evaluations: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flex_judge.alignment.judge_training.trainer import JudgeTrainer

    base, data, flags = tiny_qwen_vl(tmp_path / "base"), curated(tmp_path / "data"), ("--save_steps", "1", *evaluations)
    assert sft(base, data, tmp_path / "uninterrupted", *flags) == 0
    step = JudgeTrainer.training_step
    calls: list[int] = []

    def interrupt_third_call(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(self.state.global_step)
        if len(calls) == 3:  # one step has two batches
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(JudgeTrainer, "training_step", interrupt_third_call)
    assert sft(base, data, tmp_path / "interrupted", *flags) == 130
    cards = HtmlPage.load(tmp_path / "interrupted" / "recipe" / "report.html").cards
    assert (cards["Done"], cards["Left"]) == ("1", "1 of 2 steps")
    assert sft(base, data, tmp_path / "interrupted", *flags) == 0
    assert calls == [0, 0, 1, 1, 1]
    expected, resumed = tensors(tmp_path / "uninterrupted"), tensors(tmp_path / "interrupted")
    assert all(bool((expected[name] == resumed[name]).all()) for name in expected)
    histories = [
        json.loads((tmp_path / run / "recipe" / "summary.json").read_text())["evaluations"]
        for run in ("uninterrupted", "interrupted")
    ]
    assert [[evaluation["step"] for evaluation in evaluations] for evaluations in histories] == [
        [0, 1, 2] if len(evaluations) > 2 else []
    ] * 2


def test_keeps_the_best_judge_instead_of_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flex_judge.alignment.judge_training.evaluation import JudgeMetrics
    from flex_judge.alignment.judge_training.trainer import JudgeTrainer

    shares = iter((0.1, 0.9, 0.2))

    def evaluate_judge(_: JudgeTrainer) -> JudgeMetrics:
        share = next(shares)
        return JudgeMetrics(2, 1.0, share, share, share, None, share)

    monkeypatch.setattr(JudgeTrainer, "evaluate_judge", evaluate_judge)
    base, data, out = tiny_qwen_vl(tmp_path / "base"), curated(tmp_path / "data"), tmp_path / "judge"
    assert sft(base, data, out) == 0
    best, last = tensors(out / "checkpoint-1"), tensors(out / "checkpoint-2")
    saved = tensors(out)
    assert all(bool((saved[name] == best[name]).all()) for name in best)
    assert any(not bool((saved[name] == last[name]).all()) for name in last)
    evaluations = json.loads((out / "recipe" / "summary.json").read_text())["evaluations"]
    assert [evaluation["balanced_accuracy"] for evaluation in evaluations] == [0.1, 0.9, 0.2]
    assert json.loads((out / "recipe" / "summary.json").read_text())["metrics"]["balanced_accuracy"] == 0.9


def test_complete_judge_is_not_trained_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    base, data, out = tiny_llama(tmp_path / "base"), curated(tmp_path / "data"), tmp_path / "judge"
    assert sft(base, data, out) == 0
    first = json.loads((out / "recipe" / "summary.json").read_text())
    page = HtmlPage.load(out / "recipe" / "report.html")
    assert page.cards["Trained on"] == f"{first['rows']} judgments"
    assert ["Trained parameters", f"{first['learning']:,} of {first['parameters']:,}"] in page.rows
    assert page.cards["Balanced accuracy"].startswith(f"{100 * first['metrics']['balanced_accuracy']:.1f}%")
    assert sft(base, data, out) == 0
    assert "nothing is trained again" in capfd.readouterr().err
    assert json.loads((out / "recipe" / "summary.json").read_text()) == first
    assert sft(base, data, out, "--weight_decay", "0.5") == 2
    assert "weight_decay" in capfd.readouterr().err


def test_rejects_held_out_questions_of_the_training_data(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = curated(tmp_path / "data")
    (data / "held_out.jsonl").write_text((data / "train.jsonl").read_text().splitlines()[0] + "\n")
    assert sft(tiny_llama(tmp_path / "base"), data, tmp_path / "judge") == 2
    assert "1 question of the training data, such as 'What is 0 + 3?'" in capfd.readouterr().err


def test_lists_rows_that_are_no_training_examples(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = curated(tmp_path / "data", held_out=0)
    with (data / "train.jsonl").open("a") as file:
        file.write(json.dumps({"prompt": [{"role": "user", "content": "?"}], "completion": "none"}) + "\n")
    base, out = tiny_llama(tmp_path / "base"), tmp_path / "judge"
    assert sft(base, data, out) == 2
    assert "--eval_strategy no" in capfd.readouterr().err
    assert sft(base, data, out, "--eval_strategy", "no") == 0
    assert "left out" in capfd.readouterr().out
    (dropped,) = (json.loads(line) for line in (out / "recipe" / "dropped.jsonl").read_text().splitlines())
    assert (dropped["row"], dropped["reason"]) == (7, "prompt or completion is not a list of messages")
    assert json.loads((out / "recipe" / "summary.json").read_text())["metrics"] is None


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (
            ["--effective-batch", "3", "--per_device_train_batch_size", "2"],
            "3: must be a multiple of 2",
        ),
        (["--held-out", "nowhere.jsonl"], "nowhere.jsonl does not exist"),
        (["--load_in_4bit"], "--load_in_4bit is not for this command"),
        (["--completion_only_loss", "False"], "the loss is on the reply"),
        (["--think-tokens", "0"], "--think-tokens must be at least 1"),
        (["--held-out", "x.jsonl", "--held-out-rows", "0"], "omit one of them"),
        (["--held-out-rows", "0"], "has no held-out judgments for evaluations"),
        (["--patience", "1", "--load_best_model_at_end", "False"], "--patience needs evaluations during training"),
        (["--metric_for_best_model", "eval_singels"], "not measured; the metrics are eval_accuracy, eval_agreement"),
        (["--chat_template_path", "x.jinja"], "--chat_template_path is not for this command"),
        (["--packing", "--packing_strategy", "wrapped"], "--packing_strategy wrapped: cuts training examples in two"),
        (["--use_peft", "--lora_target_modules", "visual"], "the language model has no visual; choose from down_proj"),
    ],
)
def test_bad_input_gives_one_line(
    flags: list[str], complaint: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    base = tiny_llama(tmp_path / "base")
    assert sft(base, curated(tmp_path / "data"), tmp_path / "judge", *flags) == 2
    assert complaint in capfd.readouterr().err


def test_rejects_a_model_whose_adapter_would_be_lost(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    base = write_tiny_model(tmp_path / "base")
    assert sft(base, curated(tmp_path / "data"), tmp_path / "judge") == 2
    assert "python -m flex_judge.judges.models.mol_llama import-judge" in capfd.readouterr().err
    assert not (tmp_path / "judge").exists()
