"""`flex-judge sft` on two processes, with replicated and with sharded weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from examples import curated
from lazy import lazy
from repository import SUPPORT
from sft_command import HERE, SEEN, sft, tensors
from tiny_models import tiny_llama, tiny_qwen_omni, tiny_qwen_vl

from flex_judge.alignment.training.weights import FamilyWeightsMixin
from flex_judge.experiments.cli import main
from flex_judge.experiments.common.launching import build_launch_command
from flex_judge.judges import FlexJudge
from flex_judge.judges.errors import UsageError

resolve_accelerate_config_argument = lazy("trl.cli.accelerate_config", "resolve_accelerate_config_argument")
KINDS, parse_flags = lazy("flex_judge.experiments.common.training.flags", "KINDS", "parse_flags")

SCRIPT = str(SUPPORT / "sharded.py")
SEED = ("--logging_steps", "1", "--data_seed", "1")


def write_config(name: str, file: Path, **more: Any) -> str:
    """Write a configuration of accelerate from TRL, adapted to this machine and changed by `more`."""
    config = yaml.safe_load(Path(str(resolve_accelerate_config_argument(["--accelerate_config", name])[1])).read_text())
    config |= {"mixed_precision": "no", "num_processes": 2}
    for settings in ("fsdp_config", "deepspeed_config"):
        if settings in config:
            config[settings] |= more
    file.write_text(yaml.safe_dump(config))
    return str(file)


def run_on_two_processes(
    config: str, model: Path, data: Path, out: Path, *flags: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config, "--main_process_port", "0"]
    kind = yaml.safe_load(Path(config).read_text())["distributed_type"]
    command += ["-m", "flex_judge.experiments.cli"] if kind == "MULTI_GPU" else [SCRIPT]
    command += ["sft", str(data), "--model_name_or_path", str(model), "--output_dir", str(out), *HERE, *SEEN, *SEED]
    command += [*flags, *(["--use_cpu", "False"] if kind == "DEEPSPEED" else [])]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu"}
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)


def read_losses(out: Path) -> list[float]:
    return [entry["loss"] for entry in json.loads((out / "training.json").read_text())["log"] if "loss" in entry]


def read_evaluations(out: Path) -> list[dict[str, Any]]:
    evaluations: list[dict[str, Any]] = json.loads((out / "recipe" / "summary.json").read_text())["evaluations"]
    return evaluations


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["multi_gpu", "fsdp2", "zero3"])
def test_two_processes_train_the_same_judge_as_one(kind: str, tmp_path: Path) -> None:
    if kind == "zero3":
        pytest.importorskip("deepspeed")
    base, data = tiny_qwen_vl(tmp_path / "base"), curated(tmp_path / "data")
    assert sft(base, data, tmp_path / "one", *SEED) == 0
    process = run_on_two_processes(write_config(kind, tmp_path / "config.yaml"), base, data, tmp_path / "two")
    assert process.returncode == 0, process.stderr
    before, one, two = tensors(base), tensors(tmp_path / "one"), tensors(tmp_path / "two")
    assert two.keys() == before.keys()
    changed = {name for name in before if not bool((before[name] == two[name]).all())}
    assert changed == {name for name in before if not bool((before[name] == one[name]).all())}
    assert read_losses(tmp_path / "two") == pytest.approx(read_losses(tmp_path / "one"), rel=1e-3)
    for alone, together in zip(read_evaluations(tmp_path / "one"), read_evaluations(tmp_path / "two"), strict=True):
        assert together == pytest.approx(alone, rel=1e-2)
    assert not (tmp_path / "two" / "evaluation").exists()
    FlexJudge.from_pretrained(str(tmp_path / "two"), "transformers", max_think_tokens=4).close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "flags"),
    # All evaluations are equal, so the best checkpoint would be the untrained one.
    [(tiny_qwen_omni, ()), (tiny_llama, ("--use_peft", "--load_best_model_at_end", "False"))],
    ids=["thinker", "adapter"],
)
def test_sharded_weights_are_evaluated_and_saved_in_the_format_of_their_family(
    make: Any, flags: tuple[str, ...], tmp_path: Path
) -> None:
    base, data, out = make(tmp_path / "base"), curated(tmp_path / "data"), tmp_path / "judge"
    process = run_on_two_processes(write_config("fsdp2", tmp_path / "config.yaml"), base, data, out, *flags)
    assert process.returncode == 0, process.stderr
    assert [evaluation["step"] for evaluation in read_evaluations(out)] == [0, 1, 2]
    if flags:
        FlexJudge.from_pretrained(str(base), "transformers", str(out), max_think_tokens=4).close()
        assert any(bool(tensor.any()) for name, tensor in tensors(out).items() if "lora_B" in name)
    else:
        assert tensors(out).keys() == tensors(base).keys()
        FlexJudge.from_pretrained(str(out), "transformers", max_think_tokens=4).close()


def make_trainer(kind: str, **settings: Any) -> FamilyWeightsMixin:
    """Make a stub of a trainer that knows only how its weights are sharded."""

    class ShardedTrainer(FamilyWeightsMixin):
        is_fsdp_enabled, is_deepspeed_enabled = kind == "fsdp", kind == "deepspeed"
        accelerator = SimpleNamespace(
            state=SimpleNamespace(
                fsdp_plugin=SimpleNamespace(**settings),
                deepspeed_plugin=SimpleNamespace(deepspeed_config={"zero_optimization": settings}),
            )
        )

    return ShardedTrainer()


@pytest.mark.parametrize(
    ("kind", "saved", "not_saved", "fix"),
    [
        (
            "fsdp",
            {"state_dict_type": "StateDictType.FULL_STATE_DICT"},
            {"state_dict_type": "StateDictType.SHARDED_STATE_DICT"},
            "fsdp_state_dict_type: .* set it to FULL_STATE_DICT",
        ),
        (
            "deepspeed",
            {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True},
            {"stage": 3},
            "zero3_save_16bit_model: .* set it to true",
        ),
        ("deepspeed", {"stage": 2}, None, ""),
    ],
)
def test_rejects_a_configuration_that_saves_no_model(
    kind: str, saved: dict[str, Any], not_saved: dict[str, Any] | None, fix: str
) -> None:
    make_trainer(kind, **saved).check_saves()
    if not_saved is not None:
        with pytest.raises(UsageError, match=fix):
            make_trainer(kind, **not_saved).check_saves()


def test_default_args_do_not_replace_the_deepspeed_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If they did, one process would load the whole model while the others wait for it."""
    flags = parse_flags(KINDS["sft"], ["--output_dir", str(tmp_path)])
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    assert flags.default_args.deepspeed_plugin is None
    assert os.environ["ACCELERATE_USE_DEEPSPEED"] == "true"


def test_command_restarts_itself_under_accelerate(tmp_path: Path) -> None:
    argv = ["runs/curate", "--accelerate_config", "multi_gpu", "--num_processes", "8", "--config", "flex-vl-7b"]
    command = build_launch_command("sft", argv)
    assert command is not None
    assert command[:3] == [sys.executable, "-m", "accelerate.commands.launch"]
    assert command[-6:] == ["-m", "flex_judge.experiments.cli", "sft", "runs/curate", "--config", "flex-vl-7b"]
    assert command[command.index("--num_processes") + 1] == "8"
    assert yaml.safe_load(Path(command[command.index("--config_file") + 1]).read_text())["num_processes"] == 8
    file = write_config("multi_gpu", tmp_path / "mine.yaml")
    custom = build_launch_command("sft", ["x", f"--accelerate_config={file}"])
    assert custom is not None
    assert file in custom
    assert build_launch_command("sft", ["runs/curate"]) is None


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--accelerate_config", "nope"], "nope: no such file, and TRL has no configuration of that name"),
        (["--accelerate_config", "HERE/odd.yaml"], "odd.yaml: not an accelerate configuration"),
        (["--accelerate_config"], "argument --accelerate_config/--accelerate-config: expected one argument"),
        (
            ["--num_processes", "2"],
            "--num_processes is accepted on the command line only, together with --accelerate_config",
        ),
        (["--config", "HERE/run.yaml"], "--accelerate_config is accepted on the command line only"),
    ],
)
def test_bad_launch_flags_give_one_line(
    flags: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "odd.yaml").write_text("- 1\n")
    (tmp_path / "run.yaml").write_text("accelerate_config: zero3\n")
    assert main(["sft", "x", *(flag.replace("HERE", str(tmp_path)) for flag in flags)]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1
