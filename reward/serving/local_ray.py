"""Start of a local Ray: within a time limit, outside of the terminal's session, and cleaned up after in any case."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from flex_judge.judges.engines.hardware import count_cpus
from flex_judge.judges.errors import ClusterError, get_first_line
from flex_judge.reward.serving import CLUSTER_VARIABLE

if TYPE_CHECKING:
    import ray

NAMESPACE = "flex-judge"
OBJECT_STORE_BYTES = 256 << 20  # requests are small, and Ray's default would reserve a third of the memory
START_POLL_S, MIN_TRY_S = 0.5, 60.0
NICENESS_VARIABLE = "RAY_worker_niceness"
GCS_WAIT_VARIABLE = "RAY_gcs_server_port_wait_time_s"
SPARE_CPUS = 2
"""CPUs of a local Ray beyond those of the machine. Replicas reserve all of the latter, and other commands that join the
cluster need some too; a reservation is only a count, and limits no process."""
RAY_LOGS = "/tmp/ray/session_latest/logs"
"""Logs of the Ray that was started last, unless it has a temporary folder of its own."""


def start_ray(ray_module: ray, timeout_s: float) -> None:  # type: ignore[valid-type]
    """Start a Ray of this process alone.

    Raises:
        ClusterError: it did not start in time.
    """
    deadline = time.monotonic() + timeout_s
    # Ray's own default gives its workers the lowest priority but four: beside other work on the machine, judges would
    # get almost no time, and nothing would ever be ready.
    os.environ.setdefault(NICENESS_VARIABLE, "0")
    while True:
        try:
            # A start that hangs is tried again while there is time; a slow one needs more than Ray's 30 s.
            with _extend_start(time.monotonic() + max(MIN_TRY_S, (deadline - time.monotonic()) / 2)):
                ray_module.init(
                    address="local",
                    num_cpus=count_local_cpus() + SPARE_CPUS,
                    include_dashboard=False,
                    object_store_memory=OBJECT_STORE_BYTES,
                    namespace=NAMESPACE,
                    log_to_driver=False,
                    logging_level="ERROR",
                )
            break
        except Exception as e:
            # Ray raises a plain Exception if its processes do not start in time; all other types are re-raised.
            if type(e) is not Exception:
                raise
            if time.monotonic() >= deadline:
                raise ClusterError(
                    f"a local Ray did not start within {timeout_s:g} s: {get_first_line(e, 200)}; if the machine is "
                    f"busy, raise --start-timeout-s; its logs: {RAY_LOGS}"
                ) from e
            ray_module.shutdown()
    os.environ.pop(CLUSTER_VARIABLE, None)  # processes that are started from now on do not belong to the cluster


@contextmanager
def _extend_start(deadline: float) -> Iterator[None]:
    """Make `ray.init` wait for its node until the deadline; Ray has no setting for its limit of 30 s."""
    from ray._private import services

    os.environ[GCS_WAIT_VARIABLE] = str(max(1, round(deadline - time.monotonic())))
    get_node = services.get_node

    def wait_for_node(*args: Any, **options: Any) -> Any:
        while True:
            try:
                return get_node(*args, **options)
            except RuntimeError as e:
                if time.monotonic() >= deadline:
                    raise Exception(get_first_line(e, 200)) from e  # as Ray does
            time.sleep(START_POLL_S)

    services.get_node = wait_for_node
    try:
        yield
    finally:
        services.get_node = get_node


def count_local_cpus() -> int:
    """Count the CPUs that engines may use on a local Ray."""
    return max(2, count_cpus())  # two replicas must fit on a single core too


_starts_ray = False


def _start_session_of_ray() -> None:
    if _starts_ray:
        os.setsid()


os.register_at_fork(after_in_child=_start_session_of_ray)


@contextmanager
def detach_from_terminal() -> Iterator[None]:
    """Start the processes of Ray outside of the terminal's session.

    Otherwise Ctrl-C, a closed terminal and timeout(1), which signal all processes of a command, would end Ray before
    the command has drained it or saved its work.
    """
    global _starts_ray
    _starts_ray = True
    try:
        yield
    finally:
        _starts_ray = False


@contextmanager
def keep_signal_handler() -> Iterator[None]:
    """Restore the handler of SIGTERM, which `ray.init` replaces with one that raises SystemExit."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as e:
        raise KeyboardInterrupt from e
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


@contextmanager
def run_cleanup_process() -> Iterator[None]:
    """Run a process that kills the cluster's remaining processes when the block ends or this process is killed."""
    mark = uuid.uuid4().hex
    command = [sys.executable, "-P", "-m", "flex_judge.reward.serving.cleanup", mark]
    # In its own session, so that Ctrl-C does not end it before it has cleaned up.
    cleanup = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    os.environ[CLUSTER_VARIABLE] = mark
    try:
        yield
    finally:
        os.environ.pop(CLUSTER_VARIABLE, None)
        assert cleanup.stdin is not None
        cleanup.stdin.close()
        cleanup.wait()
