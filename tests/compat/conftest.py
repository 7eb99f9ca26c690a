"""Fixtures that run a trainer's driver in its own environment, against a served scripted judge."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from compat_table import PROPERTY, TrainerRun
from environments import Environment, EnvironmentUnavailableError, open_environment
from rating_judge import serve_rating_judge
from served import ServedJudge
from trainers import TRAINERS

HERE = Path(__file__).parent
TIME_LIMIT_S = 120.0
"""Time limit for making an environment, unless `-m compat` asks for all of them."""
DRIVER_TIMEOUT_S = 300.0
"""Time limit of a driver. On an idle machine a driver takes a minute at most."""

RunDriver = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="session")
def served_judge() -> Iterator[ServedJudge]:
    """Serve a scripted judge of every rubric, see `rating_judge`."""
    with serve_rating_judge() as service:
        yield service


@pytest.fixture
def run_driver(served_judge: ServedJudge, request: pytest.FixtureRequest) -> RunDriver:
    """Return a function that makes a trainer's environment, runs its driver, and returns the driver's checks.

    The function takes the name of a trainer, and `url` and `variables` (of the environment) for the driver. It skips
    the test with a reason if the environment cannot be made here and now; with `-m compat` that is a failure.
    """
    wants_all = wants_compat(request.config)

    def run(name: str, *, url: str = "", variables: dict[str, str] | None = None) -> list[dict[str, Any]]:
        trainer = TRAINERS[name]
        record = TrainerRun(trainer.name, "", trainer.runs)
        try:
            with open_environment(trainer, None if wants_all else TIME_LIMIT_S, upgrade=wants_all) as environment:
                record = TrainerRun(trainer.name, environment.version, trainer.runs)
                checks = _run_driver(environment, url or served_judge.url, variables or {})
        except EnvironmentUnavailableError as e:
            if wants_all:
                pytest.fail(f"{name}: {e}")
            pytest.skip(f"{name}: {e}")
        finally:
            request.node.user_properties.append((PROPERTY, record.to_json()))
        failed = [check for check in checks if not check["ok"]]
        assert checks, f"the driver of {name} made no check"
        assert not failed, "\n".join(f"{check['check']}: {check['detail']}" for check in failed)
        return checks

    return run


def wants_compat(config: pytest.Config) -> bool:
    """Return whether the option -m asks for the tests with real trainers."""
    expression = str(config.getoption("markexpr"))
    return "compat" in expression and "not compat" not in expression


def _run_driver(environment: Environment, url: str, variables: dict[str, str]) -> list[dict[str, Any]]:
    """Run the driver of a trainer.

    Returns:
        The checks that it printed.

    Raises:
        AssertionError: it failed without a failed check, for example at an import, or it took too long.
    """
    driver = HERE / "drivers" / f"{environment.trainer.name}.py"
    # -P: a driver may have the name of the package that it imports. The checkout must not be importable.
    command = [str(environment.python), "-P", str(driver), url]
    values = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("FLEX_JUDGE_", "PYTEST_"))},
        "PATH": os.pathsep.join([str(environment.python.parent), os.environ.get("PATH", "")]),
        "VIRTUAL_ENV": str(environment.folder),
        "PYTHONPATH": str(HERE / "common"),
        "PYTHONSAFEPATH": "1",  # for the processes that a trainer starts
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",
        **variables,
    }
    with subprocess.Popen(
        command,
        env=values,
        cwd=environment.folder,  # not in the checkout: Ray lets its workers import from the working folder
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, errors = process.communicate(timeout=DRIVER_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            output, errors = process.communicate()
            raise AssertionError(
                f"the driver did not end within {DRIVER_TIMEOUT_S:g} s\n{output[-2000:]}\n{errors[-6000:]}"
            ) from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, 9)
    checks = [json.loads(line) for line in output.splitlines() if line.startswith('{"check"')]
    if process.returncode != 0 and all(check["ok"] for check in checks):
        raise AssertionError(f"the driver ended with {process.returncode}\n{output[-2000:]}\n{errors[-6000:]}")
    return checks
