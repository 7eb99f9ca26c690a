"""Start of a local Ray, and joining one with or without a token."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from serving import running_cluster

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


TOKEN = "0123456789abcdef" * 4
STREAM = """
import os, sys
ANSWER_S = 120
from flex_judge.judges.errors import ClusterError
from flex_judge.reward.serving.cluster import connect
mode = os.environ.get("RAY_AUTH_MODE")
try:
    with connect(sys.argv[1]):
        import ray

        @ray.remote(num_cpus=0)
        class Counter:
            def count(self):
                yield 1

        stream = Counter.remote().count.options(num_returns="streaming").remote()
        print("answer", [ray.get(item, timeout=ANSWER_S) for item in stream])
except ClusterError as e:
    print("error", e)
print("mode is unchanged", os.environ.get("RAY_AUTH_MODE") == mode)
"""
"""Program that joins a cluster and reads a stream: its items are sent by the worker, not as answers to requests."""


@pytest.mark.slow
@pytest.mark.parametrize("has_cluster_token", [False, True], ids=["open", "with_token"])
def test_joins_a_cluster_whether_or_not_it_asks_for_the_token_of_this_user(
    has_cluster_token: bool, tmp_path: Path
) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text(TOKEN)
    # Without variables that Ray has set in this process for an earlier test.
    home = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    home["HOME"] = str(tmp_path)
    with running_cluster(HOME=str(tmp_path), RAY_AUTH_MODE="token" if has_cluster_token else "disabled") as address:

        def join(place: str, **variables: str) -> str:
            command = [sys.executable, "-c", STREAM, place]
            run = subprocess.run(command, env=home | variables, capture_output=True, text=True, timeout=200)
            assert "mode is unchanged True" in run.stdout, run.stderr[-3000:]
            return run.stdout

        for place, variables in ((address, {}), ("auto", {"RAY_ADDRESS": address})):
            assert join(place, **variables) == "answer [1]\nmode is unchanged True\n"
        if has_cluster_token:
            assert "error the Ray cluster at" in (output := join(address, RAY_AUTH_MODE="disabled"))
            assert "RAY_AUTH_TOKEN" in output
        else:
            assert "asks for no token" in join(address, RAY_AUTH_MODE="token")
