"""Environments that hold a trainer's newest release and the wheel of this project's core, made by uv and cached.

The folder of the cache is FLEX_JUDGE_COMPAT_CACHE, else `flex-judge/compat` in the user's cache folder. Each
environment is a folder `<trainer>-<key>`, where the key is a hash of the requirements and of the wheel. An older
environment of the same trainer is removed unless a test uses it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from repository import ROOT
from trainers import OVERRIDES, UNUSED_ON_A_CPU, Trainer

CACHE_VARIABLE = "FLEX_JUDGE_COMPAT_CACHE"
WHEEL_SOURCES = ("judges", "reward", "alignment", "experiments")
"""Folders whose content decides whether a wheel is built again."""
NETWORK_ERRORS = (
    "error sending request",
    "failed to fetch",
    "dns error",
    "connection refused",
    "connect error",
    "could not resolve host",
    "operation timed out",
    "network connectivity is disabled",
)
"""Texts in uv's errors that mean that the package index cannot be reached."""


class EnvironmentUnavailableError(Exception):
    """An environment cannot be made here and now: uv is missing, the index is unreachable, or it takes too long."""


@dataclass(frozen=True)
class Environment:
    """An environment of one trainer."""

    trainer: Trainer
    folder: Path
    version: str
    """Version of the trainer that is installed."""

    @property
    def python(self) -> Path:
        """Path of the interpreter."""
        return self.folder / "bin" / "python"


@contextmanager
def open_environment(trainer: Trainer, limit_s: float | None, *, upgrade: bool) -> Iterator[Environment]:
    """Make or find the environment of a trainer, and keep it from being removed until the block ends.

    Args:
        trainer: the trainer.
        limit_s: maximum number of seconds; None sets no limit.
        upgrade: look for newer releases, also if there is an environment already.

    Raises:
        EnvironmentUnavailableError: the environment cannot be made here and now.
        RuntimeError: uv found no set of versions, or an installation failed.
    """
    deadline = None if limit_s is None else time.monotonic() + limit_s
    folder = get_cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        with _hold_lock(folder / "wheel.lock", deadline):
            wheel = _build_wheel(folder, deadline)
        key = hashlib.sha256(f"{asdict(trainer)} {OVERRIDES} {UNUSED_ON_A_CPU} {wheel.parent.name}".encode())
        target = folder / f"{trainer.name}-{key.hexdigest()[:16]}"
        stack.enter_context(_hold_lock(target.with_suffix(".lock"), deadline))
        stamp = target / "made.json"
        if upgrade or not stamp.exists():
            _remove_unused(folder, trainer, target)
            _install(trainer, wheel, target, deadline, upgrade=upgrade)
            stamp.write_text(json.dumps({"trainer": trainer.name, "version": _read_version(trainer, target)}))
        yield Environment(trainer, target, json.loads(stamp.read_text())["version"])


def get_cache_folder() -> Path:
    """Return the folder of all environments."""
    if folder := os.environ.get(CACHE_VARIABLE):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flex-judge" / "compat"


@cache
def find_uv() -> tuple[str, ...]:
    """Find uv: the program that UV names, `uv` on PATH, or the module of this interpreter.

    Raises:
        EnvironmentUnavailableError: there is none.
    """
    candidates = [(path,) for path in (os.environ.get("UV"), shutil.which("uv")) if path]
    for command in [*candidates, (sys.executable, "-m", "uv")]:
        with suppress(OSError):
            if subprocess.run([*command, "--version"], capture_output=True).returncode == 0:
                return command
    raise EnvironmentUnavailableError("uv is missing; install it with pip install uv")


def _build_wheel(cache_folder: Path, deadline: float | None) -> Path:
    """Build the wheel of this checkout, unless a wheel of the same content is there."""
    digest = hashlib.sha256()
    files = [path for name in WHEEL_SOURCES for path in (ROOT / name).rglob("*") if path.is_file()]
    files += [ROOT / "pyproject.toml", ROOT / "README.md", *(ROOT / "flex_judge").glob("*.py")]
    for path in sorted(files):
        if "__pycache__" not in path.parts:
            digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() + b"\0")
    folder = cache_folder / "wheels" / digest.hexdigest()[:16]
    if not (wheels := list(folder.glob("*.whl"))):
        # Built under another name first: an interrupted build leaves no half-written wheel behind.
        unfinished = folder.with_suffix(".unfinished")
        _run_uv(["build", "--wheel", "--quiet", "--out-dir", str(unfinished), str(ROOT)], deadline)
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
        wheels = list(folder.glob("*.whl"))
    return wheels[0]


def _install(trainer: Trainer, wheel: Path, target: Path, deadline: float | None, *, upgrade: bool) -> None:
    """Create the environment, and install the trainer and the wheel."""
    if not (target / "bin" / "python").exists():
        _run_uv(["venv", "--quiet", "--clear", "--python", _find_python(trainer.python), str(target)], deadline)
    overrides = target / "overrides.txt"
    left_out = [f"{name} ; sys_platform == 'never'" for name in (*UNUSED_ON_A_CPU, *trainer.refuse)]
    overrides.write_text("\n".join([*OVERRIDES, *left_out]) + "\n")
    install = ["pip", "install", "--quiet", "--python", str(target), "--override", str(overrides)]
    install += ["--upgrade"] if upgrade else []
    _run_uv([*install, *trainer.requirements, str(wheel)], deadline)
    if trainer.without_dependencies:
        _run_uv([*install, "--no-deps", *trainer.without_dependencies], deadline)


def _find_python(version: str) -> str:
    """Find an interpreter of a version that pyenv has but does not show on PATH.

    Returns:
        Its path; else the version, for which uv looks on PATH and then downloads an interpreter.
    """
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    paths = sorted(root.glob(f"versions/{version}.*/bin/python{version}"))
    return str(paths[-1]) if paths else version


def _read_version(trainer: Trainer, target: Path) -> str:
    code = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"
    command = [str(target / "bin" / "python"), "-P", "-c", code, trainer.distribution or trainer.name]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _run_uv(arguments: Sequence[str], deadline: float | None) -> None:
    """Run uv until the deadline, away from pyproject.toml, whose [tool.uv] would apply.

    Raises:
        EnvironmentUnavailableError: uv is missing, the deadline has passed, or the index is unreachable.
        RuntimeError: uv failed.
    """
    command = [*find_uv(), *arguments]
    settings = {"VIRTUAL_ENV": "", "PYTHONPATH": ""}
    process = subprocess.Popen(
        command,
        env={**{k: v for k, v in os.environ.items() if k not in settings}, "UV_NO_PROGRESS": "1"},
        cwd=get_cache_folder(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        errors = process.communicate(timeout=None if deadline is None else max(0.1, deadline - time.monotonic()))[1]
    except subprocess.TimeoutExpired:
        raise EnvironmentUnavailableError(
            "the environment is not made within the time limit; run pytest -m compat, which has none"
        ) from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if process.returncode != 0:
        lines = [line.strip() for line in errors.splitlines() if line.strip()]
        message = f"uv {arguments[0]} {arguments[1]}: {' '.join(lines[-12:]) or 'no message'}"
        one_line = " ".join(errors.lower().split())  # uv breaks lines anywhere
        if any(text in one_line for text in NETWORK_ERRORS):
            raise EnvironmentUnavailableError(f"the package index is unreachable: {message}")
        raise RuntimeError(message)


@contextmanager
def _hold_lock(path: Path, deadline: float | None) -> Iterator[None]:
    """Hold an exclusive lock on a file: several test processes share the cache.

    Raises:
        EnvironmentUnavailableError: another process holds the lock until the deadline.
    """
    with path.open("a") as file:
        while not _try_lock(file.fileno()):
            if deadline is not None and time.monotonic() > deadline:
                raise EnvironmentUnavailableError(f"another process holds {path.name} for longer than the time limit")
            time.sleep(0.1)
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_unused(folder: Path, trainer: Trainer, target: Path) -> None:
    """Remove older environments of a trainer that no process uses."""
    for lock in folder.glob(f"{trainer.name}-*.lock"):
        old = lock.with_suffix("")
        if old == target or not old.exists():
            continue
        with lock.open("a") as file:
            if _try_lock(file.fileno()):
                shutil.rmtree(old, ignore_errors=True)
