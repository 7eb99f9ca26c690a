"""Connection to a Ray cluster: start and stop a local one, or join a running one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import flex_judge
from flex_judge.judges.engines.hardware import GIB, count_cpus, measure_available_memory
from flex_judge.judges.errors import ClusterError, UsageError, get_first_line
from flex_judge.judges.extras import require_extras
from flex_judge.reward.serving import CLUSTER_VARIABLE

if TYPE_CHECKING:
    import ray

NAMESPACE = "flex-judge"
OBJECT_STORE_BYTES = 256 << 20  # requests are small, and Ray's default would reserve a third of the memory
CONNECT_TIMEOUT_S = 5.0
START_TRIES = 2
PACKAGE = "flex_judge"
LOOPBACK = ("localhost", "127.0.0.1")


@dataclass(frozen=True)
class Cluster:
    """Cluster that this process is connected to."""

    cpus: float
    gpus: float
    local: bool
    """Whether this process started the cluster, and ends it."""
    metrics: tuple[str, ...] = ()
    """URLs of the nodes' metrics for Prometheus."""


def is_raylet_gone() -> bool:
    """Whether the local Ray of this process has lost its raylet, without which it cannot work."""
    import psutil

    names = {child.name() for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE}
    return "raylet" not in names


@contextmanager
def connect(address: str | None = None) -> Iterator[Cluster]:
    """Connect to a cluster until the block ends.

    Args:
        address: `host:port` or `auto` of a running cluster; None starts a local one and stops it at the end.

    Raises:
        ClusterError: there is no Ray cluster of the installed Ray version at the address.
        UsageError: a package in the current folder would hide the installed one from Ray's workers.
        MissingExtraError: the extra `serve` is not installed.
    """
    require_extras("a cluster of judges on Ray", "serve")
    _check_working_folder()
    # Under `uv run`, Ray would start every worker with `uv run` too, each in its own environment.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    # Processes that an engine starts must not outlive their worker.
    os.environ.setdefault("RAY_process_group_cleanup_enabled", "true")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Serve's controller loops ten times a second by default, which on two cores cost an eighth of an engine's speed.
    os.environ.setdefault("RAY_SERVE_CONTROL_LOOP_INTERVAL_S", "0.5")
    # A busy replica may take longer than Serve's default of 0.1 s to report its queue length. Its prompts would then go
    # to another replica, which does not have them in its prefix cache.
    os.environ.setdefault("RAY_SERVE_QUEUE_LENGTH_RESPONSE_DEADLINE_S", "1.0")
    if address and address.rpartition(":")[0] in LOOPBACK and _has_token():
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # must be set before Ray is imported
    import ray
    from ray._private import worker

    print_message = worker.print_to_stdstream
    with ExitStack() as stack:
        stack.callback(setattr, worker, "print_to_stdstream", print_message)
        if not address:
            stack.enter_context(_run_cleanup_process())
        # Registered first, because an interrupt may leave a Ray that is half started.
        stack.callback(ray.shutdown)
        stack.callback(silence_ray_messages)
        with _keep_signal_handler():
            if address:
                _join_cluster(ray, address)
            else:
                with _detach_from_terminal():
                    _start_ray(ray)
        resources = ray.cluster_resources()
        ports = [(n["NodeManagerAddress"], n["MetricsExportPort"]) for n in ray.nodes() if n["Alive"]]
        metrics = tuple(f"http://{host}:{port}/metrics" for host, port in ports)
        yield Cluster(resources.get("CPU", 0.0), resources.get("GPU", 0.0), local=not address, metrics=metrics)


def silence_ray_messages() -> None:
    """Print no more messages of Ray's until `connect` is called again.

    Called before a shutdown, because Ray reports the end of its own actors as failures.
    """
    from ray._private import worker  # Ray has no public setting for these messages

    worker.print_to_stdstream = _discard_message


def _discard_message(*_: object, **__: object) -> None:
    pass


def check_address(address: str) -> None:
    """Check that an address is `auto`, or a `host:port` that accepts connections.

    Raises:
        UsageError: the address has another format.
        ClusterError: nothing listens at the address.
    """
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if "/" in address or not host or not port.isdigit():
        raise UsageError(f"Ray address {address!r} must be host:port or auto; run on a node of the cluster")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as e:
        raise ClusterError(
            f"no Ray cluster answers at {address} ({e}); start one with: ray start --head, or leave --address out"
        ) from e


def check_memory(needed_gib: float, consumer: str) -> None:
    """Raise UsageError if less memory is free than the named consumer needs."""
    free = measure_available_memory() / GIB
    if free < needed_gib:
        raise UsageError(
            f"{consumer} needs about {needed_gib:.1f} GiB of memory and {free:.1f} GiB are free; "
            "use fewer --replicas, or --engine transformers, or free some memory"
        )


def _start_ray(ray_module: ray) -> None:  # type: ignore[valid-type]
    # Started twice at most: on a busy machine, the first start may exceed Ray's own time limit.
    for tries_left in reversed(range(START_TRIES)):
        try:
            ray_module.init(
                address="local",
                num_cpus=max(2, count_cpus()),  # two replicas must fit on a single core too
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                namespace=NAMESPACE,
                log_to_driver=False,
                logging_level="ERROR",
            )
            break
        except Exception as e:
            # If its processes do not start within 30 s, Ray raises a plain Exception; all other types are re-raised.
            if type(e) is not Exception:
                raise
            if not tries_left:
                raise ClusterError(f"a local Ray did not start: {get_first_line(e, 200)}") from e
            ray_module.shutdown()
    os.environ.pop(CLUSTER_VARIABLE, None)  # processes that are started from now on do not belong to the cluster


_starts_ray = False


def _start_session_of_ray() -> None:
    if _starts_ray:
        os.setsid()


os.register_at_fork(after_in_child=_start_session_of_ray)


@contextmanager
def _detach_from_terminal() -> Iterator[None]:
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
def _keep_signal_handler() -> Iterator[None]:
    """Restore the handler of SIGTERM, which `ray.init` replaces with one that raises SystemExit."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as e:
        raise KeyboardInterrupt from e
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _check_working_folder() -> None:
    """Raise UsageError if Ray's workers would import another package of our name.

    Workers search the driver's working folder first.
    """
    folder = Path.cwd()
    installed = Path(flex_judge.__file__).resolve()
    for path in (folder / PACKAGE / "__init__.py", folder / f"{PACKAGE}.py"):
        if path.is_file() and path.resolve() != installed:
            raise UsageError(
                f"{path}: Ray workers would import this instead of the installed {PACKAGE} package; start the "
                "command in another folder"
            )


@contextmanager
def _run_cleanup_process() -> Iterator[None]:
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


def _join_cluster(ray_module: ray, address: str) -> None:  # type: ignore[valid-type]
    check_address(address)
    try:
        ray_module.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError, OSError) as e:
        raise ClusterError(
            f"the Ray cluster at {address} cannot be joined: {get_first_line(e, 200)}; if it asks for a token, set "
            "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
        ) from e


def _has_token() -> bool:
    """Whether Ray would find an authentication token.

    A cluster on this machine requires the token if there is one, but `ray.init` does not send it to an explicit
    address unless RAY_AUTH_MODE is set, because the address may belong to anyone.
    """
    default = Path.home() / ".ray" / "auth_token"
    return bool(os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH") or default.is_file())
