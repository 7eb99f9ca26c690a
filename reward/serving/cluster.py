"""Connection to a Ray cluster: start and stop a local one, or join a running one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flex_judge
from flex_judge.judges.engines.hardware import GIB, count_cpus, has_accelerators, measure_available_memory
from flex_judge.judges.errors import ClusterError, UsageError, get_first_line
from flex_judge.judges.extras import require_extras
from flex_judge.reward.serving import CLUSTER_VARIABLE

if TYPE_CHECKING:
    import ray

NAMESPACE = "flex-judge"
OBJECT_STORE_BYTES = 256 << 20  # requests are small, and Ray's default would reserve a third of the memory
CONNECT_TIMEOUT_S = 5.0
START_TIMEOUT_S = 180.0
"""Default time limit for a local Ray to start. Ray's own limit of 30 s is too short for a busy machine."""
START_POLL_S, MIN_TRY_S = 0.5, 60.0
GCS_WAIT_VARIABLE = "RAY_gcs_server_port_wait_time_s"
SPARE_CPUS = 2
"""CPUs of a local Ray beyond those of the machine. Replicas reserve all of the latter, and other commands that join the
cluster need some too; a reservation is only a count, and limits no process."""
PACKAGE = "flex_judge"
LOOPBACK = ("localhost", "127.0.0.1")


@dataclass(frozen=True)
class Cluster:
    """Cluster that this process is connected to."""

    cpus: float
    gpus: float
    local: bool
    """Whether this process started the cluster, and ends it."""
    address: str = ""
    """Address at which other commands join it with `--address`."""
    metrics: tuple[str, ...] = ()
    """URLs of the nodes' metrics for Prometheus."""


def preview_local_cluster() -> Cluster | None:
    """Describe the cluster that `connect()` would start; None on a machine with GPUs, which only Ray can count."""
    return None if has_accelerators() else Cluster(float(_count_local_cpus()), gpus=0.0, local=True)


def is_raylet_gone() -> bool:
    """Whether the local Ray of this process has lost its raylet, without which it cannot work."""
    import psutil

    names = {child.name() for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE}
    return "raylet" not in names


@contextmanager
def connect(address: str | None = None, start_timeout_s: float = START_TIMEOUT_S) -> Iterator[Cluster]:
    """Connect to a cluster until the block ends.

    Args:
        address: `host:port` or `auto` of a running cluster; None starts a local one and stops it at the end.
        start_timeout_s: maximum time for a local Ray to start, in seconds.

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
    if address and _is_local_address(address) and _has_token():
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # must be set before Ray is imported
    import ray

    with ExitStack() as stack:
        if address:
            _join_cluster(ray, address)
        else:
            stack.enter_context(_run_cleanup_process())
            _start_ray(ray, start_timeout_s)
        stack.callback(ray.shutdown)
        resources = ray.cluster_resources()
        ports = [(n["NodeManagerAddress"], n["MetricsExportPort"]) for n in ray.nodes() if n["Alive"]]
        metrics = tuple(f"http://{host}:{port}/metrics" for host, port in ports)
        gcs_address = ray.get_runtime_context().gcs_address
        cpus = resources.get("CPU", 0.0) - (0 if address else SPARE_CPUS)
        yield Cluster(cpus, resources.get("GPU", 0.0), local=not address, address=gcs_address, metrics=metrics)


def check_address(address: str) -> None:
    """Check that an address is `auto`, or a `host:port` that accepts connections.

    Raises:
        UsageError: the address has another format.
        ClusterError: nothing listens at the address.
    """
    if address == "auto":
        if not os.environ.get("RAY_ADDRESS") and not _find_local_cluster():
            raise ClusterError(
                "no Ray cluster runs on this machine; start one with: ray start --head, name one with --address "
                "HOST:PORT, or leave --address out"
            )
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


def _find_local_cluster() -> bool:
    """Whether a Ray cluster runs on this machine."""
    import psutil

    return any(process.info["name"] == "raylet" for process in psutil.process_iter(["name"]))


def _is_local_address(address: str) -> bool:
    """Whether an address belongs to this machine: a local Ray listens at the machine's own network address."""
    host = address.rpartition(":")[0]
    if address == "auto" or host in LOOPBACK:
        return True
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.bind((host.strip("[]"), 0))  # possible only for an address of this machine
            return True
    except OSError:
        return False


def check_memory(
    needed_gib: float, consumer: str, hint: str = "use fewer --replicas, or --engine transformers"
) -> None:
    """Raise UsageError if less memory is free than the named consumer needs; `hint` says how to need less."""
    free = measure_available_memory() / GIB
    if free < needed_gib:
        raise UsageError(
            f"{consumer} needs about {needed_gib:.1f} GiB of memory and {free:.1f} GiB are free; "
            f"{hint}, or free some memory"
        )


def _start_ray(ray_module: ray, timeout_s: float) -> None:  # type: ignore[valid-type]
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            # A start that hangs is tried again while there is time; a slow one needs more than Ray's 30 s.
            with _extend_start(time.monotonic() + max(MIN_TRY_S, (deadline - time.monotonic()) / 2)):
                ray_module.init(
                    address="local",
                    num_cpus=_count_local_cpus() + SPARE_CPUS,
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
                    "busy, raise --start-timeout-s"
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


def _count_local_cpus() -> int:
    return max(2, count_cpus())  # two replicas must fit on a single core too


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
