"""The Ray cluster: a local one that is started and stopped here, or a running one that is joined."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import flex_judge
from flex_judge.judges.errors import ClusterError, UsageError
from flex_judge.judges.extras import require_extras
from flex_judge.judges.hardware import GIB, count_cpus, measure_available_memory
from flex_judge.reward.serving import CLUSTER_VARIABLE

if TYPE_CHECKING:
    import ray

NAMESPACE = "flex-judge"
OBJECT_STORE_BYTES = 256 << 20  # requests are small; Ray's default would reserve a third of the memory
CONNECT_TIMEOUT_S = 5.0
START_TRIES = 2
PACKAGE = "flex_judge"
LOOPBACK = ("localhost", "127.0.0.1")


@dataclass(frozen=True)
class Cluster:
    """A cluster that this process is connected to."""

    cpus: float
    gpus: float
    local: bool
    """Whether it was started here, and ends with this process."""
    metrics: tuple[str, ...] = ()
    """Where each node shows its metrics to Prometheus."""


def is_raylet_gone() -> bool:
    """Whether the local Ray that this process started has lost its raylet, without which it is nothing."""
    import psutil

    names = {child.name() for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE}
    return "raylet" not in names


@contextmanager
def connect(address: str | None = None) -> Iterator[Cluster]:
    """Connect to the cluster at `address` (`host:port` or `auto`), or start a local one and stop it afterwards.

    Raises:
        ClusterError: nothing answers at the address, or what answers is no Ray cluster of this Ray version.
        UsageError: this folder holds a package that would hide one of ours from Ray's workers.
        MissingExtraError: the extra `serve` is not installed.
    """
    require_extras("a cluster of judges on Ray", "serve")
    _check_working_folder()
    # Started through `uv run`, Ray would start every worker through `uv run` again, each in an environment of its own.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    # Engines start processes of their own; they must not outlive the worker that started them.
    os.environ.setdefault("RAY_process_group_cleanup_enabled", "true")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Serve's controller looks at everything ten times a second, which on two cores took an eighth of an engine's speed.
    os.environ.setdefault("RAY_SERVE_CONTROL_LOOP_INTERVAL_S", "0.5")
    # A replica that is busy computing may take longer than Serve's tenth of a second to say how much it has; its
    # prompts would go to another, which would compute them anew.
    os.environ.setdefault("RAY_SERVE_QUEUE_LENGTH_RESPONSE_DEADLINE_S", "1.0")
    if address and address.rpartition(":")[0] in LOOPBACK and _has_token():
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray reads it when it is imported
    import ray

    with ExitStack() as stack:
        if address:
            _join_cluster(ray, address)
        else:
            stack.enter_context(_run_cleanup_process())
            _start_ray(ray)
        stack.callback(ray.shutdown)
        resources = ray.cluster_resources()
        ports = [(n["NodeManagerAddress"], n["MetricsExportPort"]) for n in ray.nodes() if n["Alive"]]
        metrics = tuple(f"http://{host}:{port}/metrics" for host, port in ports)
        yield Cluster(resources.get("CPU", 0.0), resources.get("GPU", 0.0), local=not address, metrics=metrics)


def check_address(address: str) -> None:
    """Raise unless `address` is `auto` or a `host:port` at which something listens."""
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


def check_memory(needed_gib: float, what: str) -> None:
    """Raise UsageError if this machine has less memory free than `what` needs."""
    free = measure_available_memory() / GIB
    if free < needed_gib:
        raise UsageError(
            f"{what} needs about {needed_gib:.1f} GiB of memory and {free:.1f} GiB are free; "
            "use fewer --replicas, or --engine transformers, or free some memory"
        )


def _start_ray(ray_module: ray) -> None:  # type: ignore[valid-type]
    for tries_left in reversed(range(START_TRIES)):
        try:
            ray_module.init(
                address="local",
                num_cpus=max(2, count_cpus()),  # so that two replicas have a place on a single core too
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                namespace=NAMESPACE,
                log_to_driver=False,
                logging_level="ERROR",
            )
            break
        except Exception as e:
            # Ray raises no narrower one where its processes do not come up in the half minute that it gives them.
            if type(e) is not Exception:
                raise
            if not tries_left:
                raise ClusterError(f"a local Ray did not start: {_get_first_line(e)}") from e
            ray_module.shutdown()
    os.environ.pop(CLUSTER_VARIABLE, None)  # what this process starts from now on is not the cluster's


def _check_working_folder() -> None:
    """Ray's workers look for packages in the folder that the driver was started in before all other places."""
    here = Path.cwd()
    ours = Path(flex_judge.__file__).resolve()
    for path in (here / PACKAGE / "__init__.py", here / f"{PACKAGE}.py"):
        if path.is_file() and path.resolve() != ours:
            raise UsageError(
                f"{path}: Ray workers would import this instead of the installed {PACKAGE} package; start the "
                "command in another folder"
            )


@contextmanager
def _run_cleanup_process() -> Iterator[None]:
    """A process beside this one that ends what the cluster started, when this one is done or is killed."""
    mark = uuid.uuid4().hex
    command = [sys.executable, "-P", "-m", "flex_judge.reward.serving.cleanup", mark]
    # In a session of its own, so that Ctrl-C does not end it before its work begins.
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
            f"the Ray cluster at {address} cannot be joined: {_get_first_line(e)}; if it asks for a token, set "
            "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
        ) from e


def _get_first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def _has_token() -> bool:
    """Whether Ray would find an authentication token. A cluster started here asks for it as soon as there is one, but
    `ray.init` sends it by itself to no address that it is given, because that may be anybody's.
    """
    default = Path.home() / ".ray" / "auth_token"
    return bool(os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH") or default.is_file())
