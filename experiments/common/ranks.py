"""Ranks of a training run under `accelerate launch`: work that only the first rank does while the others wait.

Commands that a rank starts run outside the launcher's process group, as if there were no launcher.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar, cast

from flex_judge.experiments.common.console import get_terminal
from flex_judge.experiments.common.progress import JSON_FLAG, uses_json_progress
from flex_judge.experiments.common.stop_state import COMMAND, LAUNCHER, STARTED_BY, STATUS
from flex_judge.experiments.common.stopping import call_on_stop, describe_stop
from flex_judge.judges.errors import EngineLostError, JudgeError

Result = TypeVar("Result")
FIRST_RANK_TIMEOUT = timedelta(days=30)
"""How long ranks wait for the first one, which may evaluate a policy for hours. The default of process groups is 10 to
30 minutes."""
LAUNCHER_VARIABLES = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_NAME", "ROLE_WORLD_SIZE", "NODE_RANK"),
)
LAUNCHER_PREFIXES = ("ACCELERATE_", "TORCHELASTIC_", "TORCH_NCCL_", "PET_", "FSDP_")
"""Names and prefixes of the environment variables that a launcher sets for its ranks."""
TERMINATE_S = 60.0
"""Seconds between SIGTERM and SIGKILL."""
PR_SET_PDEATHSIG = 1
"""Constant of <sys/prctl.h>."""


class Ranks:
    """All processes of a training run; usually one."""

    def __init__(self) -> None:
        """Join the other ranks. Must be created after TRL's configuration, which sets up the process group."""
        from accelerate import PartialState

        state = PartialState()
        self.count: int = state.num_processes
        self.is_first: bool = state.is_main_process
        self._group: Any = None
        if self.count > 1:
            import torch.distributed as dist

            # gloo also works without GPUs, and waiting in it does not occupy them.
            self._group = dist.new_group(backend="gloo", timeout=FIRST_RANK_TIMEOUT)

    def run_on_first(self, work: Callable[[], Result]) -> Result:
        """Run `work` on the first rank while the others wait; return its result, or raise its error, on all ranks."""
        if self.count == 1:
            return work()
        import torch.distributed as dist

        outcome: list[Any] = [None, None]  # result and error
        if self.is_first:
            try:
                outcome[0] = work()
            except (JudgeError, KeyboardInterrupt) as e:
                outcome[1] = e  # raised on all ranks below, so that none of them waits forever
        dist.broadcast_object_list(outcome, src=0, group=self._group)
        result, error = outcome
        if error is not None:
            raise error
        return cast(Result, result)

    def is_any(self, flag: bool) -> bool:
        """Return whether the flag is set on any rank. Call it on every rank."""
        if self.count == 1:
            return flag
        import torch
        import torch.distributed as dist

        flags = torch.tensor([int(flag)])
        dist.all_reduce(flags, dist.ReduceOp.MAX, group=self._group)
        return bool(flags.item())

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
    """Run a flex-judge command and wait for it; its progress goes to standard error.

    Raises:
        EngineLostError: the command failed; it has printed the reason itself.
    """
    process = _start_process(_build_command(*arguments), stdout=subprocess.DEVNULL)
    with _terminate_on_exit(process):
        status = process.wait()
    if status == STATUS:  # somebody has stopped it
        raise KeyboardInterrupt
    if status:
        raise EngineLostError(f"flex-judge {arguments[0]} ended with status {status}")


@contextmanager
def run_judge_server(*arguments: str) -> Iterator[str]:
    """Run `flex-judge serve` until the block ends.

    Yields:
        The URL of the service.

    Raises:
        EngineLostError: the service did not start; it has printed the reason itself.
    """
    process = _start_process(_build_command("serve", "--port", "0", *arguments), stdout=subprocess.PIPE)
    with _terminate_on_exit(process):
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            raise EngineLostError(f"flex-judge serve ended with status {process.wait()}")
        yield url


def _build_command(*arguments: str) -> list[str]:
    # -P: the working directory may hold modules that would shadow installed packages.
    command = [sys.executable, "-P", "-m", "flex_judge.experiments.cli", *arguments]
    return [*command, JSON_FLAG] if uses_json_progress() else command


def launch_ranks(command: Sequence[str]) -> int:
    """Run the launcher of a training with several ranks, and stop the ranks if this process is stopped.

    A launcher that gets a signal itself ends its ranks before they can save a checkpoint.

    Returns:
        The exit status of the launcher.

    Raises:
        KeyboardInterrupt: the training was stopped.
    """
    environment = {**os.environ, STARTED_BY: LAUNCHER}
    process = subprocess.Popen(command, env=environment, start_new_session=True, preexec_fn=_set_parent_death_signal)

    def stop_ranks() -> None:
        ranks = _find_ranks(process.pid)
        for rank in ranks:
            rank.terminate()
        if not ranks:
            process.kill()

    plan = "training saves a checkpoint after its step under way, from which the same command resumes"
    with _terminate_on_exit(process), describe_stop(plan), call_on_stop(stop_ranks):
        return process.wait()


def _find_ranks(launcher: int) -> list[Any]:
    """Find the processes of the ranks of a launcher."""
    import psutil

    ranks = []
    for process in psutil.Process(launcher).children(recursive=True):
        with suppress(psutil.Error, OSError):
            is_own_parent = process.ppid() == launcher or "RANK" not in psutil.Process(process.ppid()).environ()
            if "RANK" in process.environ() and is_own_parent:
                ranks.append(process)
    return ranks


def _start_process(command: Sequence[str], stdout: int) -> subprocess.Popen[str]:
    """Start a command of ours, which ends when this process does."""
    return subprocess.Popen(
        command,
        env=build_environment() | {STARTED_BY: COMMAND},
        stdout=stdout,
        stderr=get_terminal(),
        text=True,
        # In a session of its own: Ctrl-C reaches this process only, which stops the command once it needs it no more.
        start_new_session=True,
        preexec_fn=_set_parent_death_signal,
    )


def _set_parent_death_signal() -> None:
    """Ask the Linux kernel to end this process when its parent ends, even by SIGKILL."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@contextmanager
def _terminate_on_exit(process: subprocess.Popen[Any]) -> Iterator[None]:
    """Terminate a process when the block ends."""
    try:
        yield
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(TERMINATE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def build_environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of this process without the launcher's variables, which would turn a child into a rank."""
    environment = dict(os.environ if variables is None else variables)
    if "TORCHELASTIC_RUN_ID" in environment and environment.get("OMP_NUM_THREADS") == "1":
        del environment["OMP_NUM_THREADS"]  # torchrun limits its ranks to one thread; a child may use more
    return {
        name: value
        for name, value in environment.items()
        if name not in LAUNCHER_VARIABLES and not name.startswith(LAUNCHER_PREFIXES)
    }
