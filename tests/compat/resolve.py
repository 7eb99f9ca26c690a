"""Resolve the core requirements together with each trainer, for Python 3.12, with uv. Nothing is installed.

Example:
    python tests/compat/resolve.py                    # the trainers below
    python tests/compat/resolve.py skyrl==0.3.0       # others
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

TRAINERS = ("verl==0.9.1", "verifiers==0.4.0", "openrlhf==0.11.2", "trl==1.16.0")
PYTHON = "3.12"
PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def read_core_requirements() -> list[str]:
    """Return what the package requires without any extra."""
    requirements: list[str] = tomllib.loads(PYPROJECT.read_text())["project"]["dependencies"]
    return requirements


def resolve(package: str, core: list[str]) -> tuple[bool, str]:
    """Resolve the core requirements together with one package.

    Args:
        package: a requirement, `name==version`.
        core: the core requirements.

    Returns:
        Whether a set of versions exists, and one line about it.
    """
    command = [os.environ.get("UV", "uv"), "pip", "compile", "--quiet", "--no-header", "--no-annotate"]
    command += ["--python-version", PYTHON, "-"]
    requirements = "\n".join([*core, package])
    with tempfile.TemporaryDirectory() as folder:  # away from pyproject.toml, whose [tool.uv] would apply
        done = subprocess.run(command, input=requirements, capture_output=True, text=True, cwd=folder)
    if done.returncode == 0:
        return True, f"{package}: resolved, {len(done.stdout.splitlines())} packages"
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    reasons = [line for line in lines if "Because" in line or "error" in line.lower()]
    return False, f"{package}: {(reasons or lines or ['no answer'])[-1]}"


def main(packages: list[str]) -> int:
    core = read_core_requirements()
    succeeded = []
    for package in packages or TRAINERS:
        is_resolved, line = resolve(package, core)
        print(line, flush=True)
        succeeded.append(is_resolved)
    return 0 if all(succeeded) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
