"""Run id that the ranks of a run agree on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

RANK = """
import sys, torch.distributed as dist
from flex_judge.reward.integrations.training import count_ranks, get_run_id
rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
print(get_run_id(), get_run_id(), count_ranks())
dist.destroy_process_group()
"""


@pytest.mark.slow  # two processes that import torch
def test_ranks_share_a_run_id_that_changes_with_each_start(tmp_path: Path) -> None:
    names = []
    for start in ("first", "second"):
        command = [sys.executable, "-c", RANK]
        processes = [
            subprocess.Popen([*command, str(rank), str(tmp_path / start)], stdout=subprocess.PIPE, text=True)
            for rank in (0, 1)
        ]
        outputs = [process.communicate(timeout=120)[0].split() for process in processes]
        assert outputs[0] == outputs[1]
        name, again, count_ranks = outputs[0]
        assert (name == again, count_ranks) == (True, "2")
        names.append(name)
    assert names[0] != names[1]
