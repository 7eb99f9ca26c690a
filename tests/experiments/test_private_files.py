"""Commands write files that only their user can read, and keep keys away from the processes that they start."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import run_command

from flex_judge.experiments.cli import main
from flex_judge.experiments.commands.serve.config import ServeRun
from flex_judge.judges.engines.base import EngineConfig
from flex_judge.judges.engines.recording.ledger import Ledger
from flex_judge.judges.errors import UsageError
from flex_judge.judges.protocol.settings import JudgeConfig
from flex_judge.reward.server.auth import check_api_key
from flex_judge.reward.server.config import GatewayConfig
from flex_judge.reward.serving.config import ServiceConfig

KEY = "a-long-and-secret-key-of-this-test"


@pytest.fixture
def umask() -> Iterator[None]:
    """Restore the umask after the test."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def judge_file(folder: Path, **environment: str) -> dict[str, int]:
    """Judge a file in a process of its own; return the modes of all files and folders that it writes."""
    rows = folder / "rows.jsonl"
    rows.write_text(json.dumps({"id": "a", "prompt": "Question?", "responses": ["answer"]}) + "\n")
    out = folder / "new" / "out.jsonl"
    flags = ["--model", "scripts:steady_judge", "--engine", "scripted", "--ledger", str(folder / "new" / "l.sqlite")]
    done = run_command("judge", str(rows), "--out", str(out), *flags, **environment)
    assert done.returncode == 0, done.stderr
    written = [folder / "new", *(folder / "new").iterdir()]
    assert out in written
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in written}


@pytest.mark.usefixtures("umask")
def test_outputs_and_ledgers_are_private(tmp_path: Path) -> None:
    modes = judge_file(tmp_path)
    assert len(modes) >= 3
    assert not [name for name, mode in modes.items() if mode & 0o077]


@pytest.mark.usefixtures("umask")
def test_a_group_can_share_outputs_but_not_ledgers(tmp_path: Path) -> None:
    modes = judge_file(tmp_path, FLEX_JUDGE_UMASK="027")
    assert modes["out.jsonl"] == 0o640
    assert modes["new"] == 0o750
    assert modes["l.sqlite"] == 0o600


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize("value", ["", "7", "abc", "0888", "00022"])
def test_a_wrong_umask_is_an_error(
    value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FLEX_JUDGE_UMASK", value)
    assert main(["report", "nowhere"]) == 2
    assert "FLEX_JUDGE_UMASK: expected three octal digits" in capsys.readouterr().err


@pytest.mark.usefixtures("umask")
def test_a_ledger_is_private_in_python_too(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite"):
        for path in tmp_path.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600


def make_run(api_key: str) -> ServeRun:
    service = ServiceConfig(JudgeConfig(EngineConfig("scripts:judge", "scripted")), gateway=GatewayConfig())
    return ServeRun(service=service, api_key=api_key)


def test_serve_forgets_the_key_before_ray_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)
    hidden, has_short_key = make_run("env:TEST_KEY").hide_key()
    assert not has_short_key
    assert KEY not in os.environ.values()
    assert KEY not in repr(hidden)
    check_api_key(f"Bearer {KEY}", hidden.gateway_config.api_key)
    with pytest.raises(UsageError):
        check_api_key("Bearer other", hidden.gateway_config.api_key)
    monkeypatch.setenv("TEST_KEY", "short")
    assert make_run("env:TEST_KEY").hide_key()[1]
    assert make_run(str(hidden.api_key)).hide_key() == (hidden, False)
