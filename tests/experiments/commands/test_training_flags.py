"""Flags of `flex-judge dpo` and `flex-judge grpo`: defaults, checks and help."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lazy import lazy

from flex_judge.experiments.cli import main
from flex_judge.experiments.common.ranks import build_environment

build_identity, collect_trl_settings = lazy(
    "flex_judge.experiments.common.training.settings", "build_identity", "collect_trl_settings"
)
KINDS, parse_flags = lazy("flex_judge.experiments.common.training.flags", "KINDS", "parse_flags")


@pytest.mark.parametrize("command", ["dpo", "grpo"])
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nowhere.jsonl"], "nowhere.jsonl"),
        (["--nonsense"], "unknown flags: --nonsense; run flex-judge"),
        (["--model_name", "x"], "unknown flags: --model_name"),
        (["--config"], "--config: expected the name of a file"),
        (["--learning_rate", "fast"], "invalid float value: 'fast'"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--config", "wide.yaml"], "--config: not YAML in UTF-8: "),
        (["--config", "deep.yaml"], "--config: not YAML in UTF-8: maximum recursion depth exceeded"),
        (["--model_name_or_path", "/no/such/model"], "/no/such/model"),
        (["--model_revision", "v2"], "--model_revision is not for this command"),
        (["--eval_strategy", "steps"], "the policy is evaluated before and after training"),
        (["--push_to_hub"], "--push_to_hub is not for this command"),
        (["--held-out-samples", "0"], "--held-out-samples must be at least 1"),
    ],
)
def test_bad_input_gives_one_line_before_anything_starts(
    command: str,
    arguments: list[str],
    complaint: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("wide.yaml").write_text("output_dir: x\n", encoding="utf-16")
    Path("deep.yaml").write_text("output_dir: " + "[" * 5000 + "]" * 5000)
    assert main([command, *arguments]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_missing_judge_is_reported_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": f"Question {n}?", "chosen": "Yes.", "rejected": "No."} for n in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for k, (flags, status, complaint) in enumerate(
        (
            (["--judge", "/no/such/judge"], 2, "/no/such/judge"),
            (["--judge-url", "http://127.0.0.1:1"], 1, "check that the judge service runs there"),
        )
    ):
        assert main(["dpo", str(tmp_path / "rows.jsonl"), "--output_dir", str(tmp_path / f"out{k}"), *flags]) == status
        assert complaint in capsys.readouterr().err


def test_flags_and_file_of_trl_override_our_defaults(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("learning_rate: 0.5\nbeta: 0.3\nheld_out: task\n")
    flags = parse_flags(KINDS["dpo"], ["data", "--config", str(file), "--learning_rate", "0.25"])
    assert (flags.data, flags.args.learning_rate, flags.args.beta, flags.recipe.held_out) == ("data", 0.25, 0.3, "task")
    assert flags.model.use_peft
    assert flags.args.report_to == []


def test_other_models_have_the_defaults_of_trl(tmp_path: Path) -> None:
    from tiny_models import tiny_llama

    policy = str(tiny_llama(tmp_path / "policy"))
    file = tmp_path / "run.yaml"
    file.write_text(f"model_name_or_path: {policy}\n")
    from_flag = parse_flags(KINDS["dpo"], ["--model_name_or_path", policy])
    from_file = parse_flags(KINDS["dpo"], ["--config", str(file)])
    for flags in (from_flag, from_file):
        assert flags.policy == policy
        assert not flags.model.use_peft
        assert flags.args.learning_rate == KINDS["dpo"].config.learning_rate


def test_answers_to_the_embedded_task_are_short_by_default() -> None:
    lengths = [
        parse_flags(KINDS["grpo"], arguments).args.max_completion_length
        for arguments in ([], ["--max-completion-length", "99"], ["prompts.jsonl"])
    ]
    assert lengths == [40, 99, KINDS["grpo"].config.max_completion_length]


def test_secrets_are_in_neither_card_nor_folder() -> None:
    flags = parse_flags(
        KINDS["dpo"], ["--hub_token", "secret", "--beta", "0.3", "--model_init_kwargs", '{"token": "secret"}']
    )
    assert collect_trl_settings(flags)["beta"] == 0.3
    assert "secret" not in json.dumps(collect_trl_settings(flags)) + json.dumps(build_identity(flags, flags.recipe))


def test_settings_without_effect_on_results_may_change() -> None:
    plain, other = (
        build_identity(flags, flags.recipe)
        for flags in (parse_flags(KINDS["dpo"], argv) for argv in ([], ["--save_steps", "7", "--logging_steps", "3"]))
    )
    assert plain == other
    flags = parse_flags(KINDS["dpo"], ["--bf16", "true", "--use_cpu"])
    assert build_identity(flags, flags.recipe) != plain


def test_rejects_a_folder_with_another_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": f"Question {n}?", "chosen": "Yes.", "rejected": "No."} for n in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "training.json").touch()
    assert main(["dpo", str(tmp_path / "rows.jsonl"), "--output_dir", str(tmp_path)]) == 2
    assert "holds a policy but no record of its training" in capsys.readouterr().err


def test_rejects_adapters_that_cannot_be_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": f"Question {n}?", "chosen": "Yes.", "rejected": "No."} for n in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["dpo", str(tmp_path / "rows.jsonl"), "--output_dir", str(tmp_path / "out"), "--use_dora"]) == 2
    assert "--use_dora" in capsys.readouterr().err


def test_help_all_lists_our_flags_and_those_of_trl(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["grpo", "--help-all"])
    assert end.value.code == 0
    help_text = capsys.readouterr().out
    for flag in ("--judge-method", "--held-out", "--num_generations", "--lora_r", "DATA"):
        assert flag in help_text


@pytest.mark.parametrize(("command", "flag"), [("sft", "--patience"), ("dpo", "--judge"), ("grpo", "--judge-method")])
def test_help_lists_our_flags_and_mentions_help_all(
    command: str, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    help_text = capsys.readouterr().out
    for text in (flag, "--held-out", "--model_name_or_path", "DATA", "TRL's own settings: --help-all"):
        assert text in " ".join(help_text.split())
    for trl_flag in ("--learning_rate", "--lora_r", "--logging_steps"):
        assert trl_flag not in help_text
    assert len(help_text.splitlines()) < 100


def test_subprocesses_do_not_inherit_the_rank_of_their_parent() -> None:
    environment = {
        "RANK": "1",
        "MASTER_PORT": "9",
        "TORCHELASTIC_RUN_ID": "x",
        "OMP_NUM_THREADS": "1",
        "HOME": "/h",
        "A": "b",
    }
    assert build_environment(environment) == {"HOME": "/h", "A": "b"}
    assert build_environment({"OMP_NUM_THREADS": "1"}) == {"OMP_NUM_THREADS": "1"}
