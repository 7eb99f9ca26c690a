"""Where a local Ray is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from judges.errors import UsageError
from reward.cluster import connect


def test_a_folder_with_a_package_of_the_same_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "reward").mkdir()
    (tmp_path / "reward" / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="would be taken for flex-judge's own package 'reward'"), connect():
        pass
