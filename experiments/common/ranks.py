"""The processes of a training run that `accelerate launch` starts: what one of them does for all, and waiting for it.

Other commands that one of them starts run as if there were no launcher.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

from flex_judge.judges.errors import EngineLostError, JudgeError

Result = TypeVar("Result")
PATIENCE = timedelta(days=30)
"""How long ranks wait for the first one to measure a policy; the default of process groups is ten to thirty minutes."""
LAUNCHER = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_NAME", "ROLE_WORLD_SIZE", "NODE_RANK"),
)
PREFIXES = ("ACCELERATE_", "TORCHELASTIC_", "TORCH_NCCL_", "PET_", "FSDP_")
END_S = 60.0
PR_SET_PDEATHSIG = 1
"""Of <sys/prctl.h>."""


class Ranks:
    """All processes of a run; most often it is one."""

    def __init__(self) -> None:
        """To be made after TRL's settings, which join the process group."""
        from accelerate import PartialState

        state = PartialState()
        self.count: int = state.num_processes
        self.is_first: bool = state.is_main_process
        self._group: Any = None
        if self.count > 1:
            import torch.distributed as dist

            self._group = dist.new_group(backend="gloo", timeout=PATIENCE)

    def run_on_first(self, work: Callable[[], Result]) -> Result:
        """What some work comes to that the first rank does alone; the others wait for it, however long it takes. What
        it raises is raised by all.
        """
        if self.count == 1:
            return work()
        import torch.distributed as dist

        told: list[Any] = [None, None]
        if self.is_first:
            try:
                told[0] = work()
            except (JudgeError, KeyboardInterrupt) as e:
                told[1] = e
        dist.broadcast_object_list(told, src=0, group=self._group)
        result, error = told
        if error is not None:
            raise error
        return cast(Result, result)

    def leave_group(self) -> None:
        """Wait for all ranks to finish, then close their connections.

        A rank that exits while another still uses the process group can be aborted by the C++ threads of gloo.
        """
        if self.count == 1:
            return
        import torch.distributed as dist

        dist.barrier(group=self._group)
        dist.destroy_process_group()


def run_subcommand(*arguments: str) -> None:
    """Run a command of ours to its end, its progress on standard error.

    Raises:
        EngineLostError: it failed; what was wrong it has said itself.
    """
    command = [sys.executable, "-P", "-m", "flex_judge.experiments.cli", *arguments]
    process = subprocess.Popen(
        command, env=build_environment(), stdout=subprocess.DEVNULL, preexec_fn=_set_parent_death_signal
    )
    with _terminate_on_exit(process):
        status = process.wait()
    if status == 130:
        raise KeyboardInterrupt
    if status:
        raise EngineLostError(f"flex-judge {arguments[0]} ended with status {status}")


@contextmanager
def run_judge_server(*arguments: str) -> Iterator[str]:
    """`flex-judge serve` beside this process, until the block ends.

    Yields:
        Its address.

    Raises:
        EngineLostError: it did not start; what was wrong it has said itself.
    """
    command = [sys.executable, "-P", "-m", "flex_judge.experiments.cli", "serve", "--port", "0", *arguments]
    process = subprocess.Popen(
        command, env=build_environment(), stdout=subprocess.PIPE, text=True, preexec_fn=_set_parent_death_signal
    )
    with _terminate_on_exit(process):
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            raise EngineLostError(f"flex-judge serve ended with status {process.wait()}")
        yield url


def _set_parent_death_signal() -> None:
    """Have the kernel end this process when the one that started it is gone, by SIGKILL say (Linux)."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@contextmanager
def _terminate_on_exit(process: subprocess.Popen[Any]) -> Iterator[None]:
    """Have a process end with the block."""
    try:
        yield
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def build_environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables of this process without what a launcher put there, which would make a child one of its ranks."""
    found = dict(os.environ if variables is None else variables)
    if "TORCHELASTIC_RUN_ID" in found and found.get("OMP_NUM_THREADS") == "1":
        del found["OMP_NUM_THREADS"]  # torchrun's choice for its ranks
    return {name: value for name, value in found.items() if name not in LAUNCHER and not name.startswith(PREFIXES)}
