"""Run folders: times of all starts."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import pytest

from flex_judge.experiments.common.run_folder import RunFolder


def test_the_total_time_includes_starts_that_were_stopped_before_their_first_result(tmp_path: Path) -> None:
    with suppress(KeyboardInterrupt), RunFolder(tmp_path / "run", {"judge": "a"}):
        time.sleep(0.3)
        raise KeyboardInterrupt
    with RunFolder(tmp_path / "run", {"judge": "a"}) as folder:
        assert folder.total_seconds >= 0.3


def test_settings_can_be_mended_before_the_first_result_and_the_time_starts_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with suppress(KeyboardInterrupt), RunFolder(tmp_path / "run", {"judge": "a"}):
        now = 130.0
        raise KeyboardInterrupt
    with RunFolder(tmp_path / "run", {"judge": "b"}) as folder:
        now = 135.0
        assert folder.total_seconds == 5.0
