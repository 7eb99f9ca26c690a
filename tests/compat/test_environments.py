"""Environments of the tests with real trainers, and the table of what was run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from compat_table import PROPERTY, TrainerRun, format_markdown, list_rows, write_table
from environments import EnvironmentUnavailableError, get_cache_folder, open_environment
from trainers import TRAINERS, Trainer

TRAINER = Trainer(name="flex-judge-no-such-package", runs="nothing", requirements=("flex-judge-no-such-package",))
DRIVERS = Path(__file__).parent / "drivers"


@pytest.fixture
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLEX_JUDGE_COMPAT_CACHE", str(tmp_path))
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    return tmp_path


def test_every_trainer_has_a_driver_and_a_test() -> None:
    assert {path.stem for path in DRIVERS.glob("*.py")} == set(TRAINERS)
    tested = {path.stem.removeprefix("test_").replace("_", "-") for path in DRIVERS.parent.glob("test_*.py")}
    assert tested >= set(TRAINERS)


def test_the_cache_is_outside_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLEX_JUDGE_COMPAT_CACHE", raising=False)
    assert not get_cache_folder().is_relative_to(DRIVERS.parents[2])


def test_a_time_limit_that_is_over_is_a_reason(cache_folder: Path) -> None:
    environment = open_environment(TRAINER, 0.0, upgrade=False)
    with pytest.raises(EnvironmentUnavailableError, match="not made within the time limit"):
        environment.__enter__()


def test_an_unreachable_index_is_a_reason(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_CACHE_DIR", str(cache_folder / "uv"))
    environment = open_environment(TRAINER, 60.0, upgrade=False)
    with pytest.raises(EnvironmentUnavailableError, match="the package index is unreachable"):
        environment.__enter__()


def make_report(name: str, when: str = "call", reason: str = "") -> Any:
    run = TrainerRun(name, "1.0" if not reason else "", "its reward path")
    longrepr = ("file.py", 3, f"Skipped: {reason}") if reason else ""
    return SimpleNamespace(user_properties=[(PROPERTY, run.to_json())], when=when, longrepr=longrepr)


def test_the_table_has_one_row_per_trainer(tmp_path: Path) -> None:
    stats = {
        "passed": [
            make_report("trl"),
            make_report("trl", "teardown"),
            SimpleNamespace(user_properties=[], when="call"),
        ],
        "skipped": [make_report("areal", reason="areal: the package index is unreachable")],
        "failed": [make_report("verl")],
    }
    rows = list_rows(stats)
    assert [row[0] for row in rows] == ["areal", "trl", "verl"]
    assert rows[0] == ("areal", "-", "its reward path", "skipped: areal: the package index is unreachable")
    assert "| trl | 1.0 | its reward path | passed |\n" in format_markdown(rows)


def test_without_a_trainer_there_is_no_table(tmp_path: Path) -> None:
    file = tmp_path / "table.md"
    write_table(SimpleNamespace(stats={"passed": []}), str(file))
    assert not file.exists()
