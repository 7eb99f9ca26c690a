"""Start of a local Ray."""

from __future__ import annotations

from pathlib import Path

import pytest

from flex_judge.judges.errors import UsageError
from flex_judge.reward.serving.cluster import connect


def test_rejects_a_working_folder_with_a_package_of_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "flex_judge").mkdir()
    (tmp_path / "flex_judge" / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="would import this instead of the installed flex_judge package"), connect():
        pass
