"""A command that shows nothing for a while says that it is loading; one that shows something does not."""

from __future__ import annotations

import time

import pytest
from rich.console import Console

from flex_judge.experiments.common import console
from flex_judge.experiments.common.progress import Progress


@pytest.fixture(autouse=True)
def _short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "NOTICE_S", (0.05, 0.05))


def test_a_silent_start_is_mentioned_again_and_again(capfd: pytest.CaptureFixture[str]) -> None:
    with console.show_silent_start():
        time.sleep(0.5)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) > 1
    assert set(lines) <= {f"flex-judge: loading libraries: {n} s so far" for n in range(3)}


def test_nothing_is_mentioned_after_a_status_line(capfd: pytest.CaptureFixture[str]) -> None:
    with console.show_silent_start():
        console.print_status("training on 32 judgments")
        time.sleep(0.3)
    assert capfd.readouterr().err == "flex-judge: training on 32 judgments\n"


def test_nothing_is_mentioned_after_a_phase_has_started(capfd: pytest.CaptureFixture[str]) -> None:
    with console.show_silent_start(), Progress(Console(stderr=True)) as progress, progress.show_phase("judging"):
        time.sleep(0.3)
    assert "loading libraries" not in capfd.readouterr().err


def test_other_ranks_say_nothing(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with console.show_silent_start():
        time.sleep(0.3)
    assert capfd.readouterr().err == ""
