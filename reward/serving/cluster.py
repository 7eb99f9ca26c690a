"""Connection to a Ray cluster: start and stop a local one, or join a running one."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import flex_judge
from flex_judge.judges.engines.hardware import GIB, has_accelerators, measure_available_memory
from flex_judge.judges.errors import ClusterError, UsageError, get_first_line
from flex_judge.judges.extras import require_extras
from flex_judge.reward.serving import PROXY_CALLBACK, PROXY_CALLBACK_VARIABLE
from flex_judge.reward.serving.local_ray import (
    NAMESPACE,
    SPARE_CPUS,
    count_local_cpus,
    detach_from_terminal,
    keep_signal_handler,
    run_cleanup_process,
    start_ray,
)

if TYPE_CHECKING:
    import ray

CONNECT_TIMEOUT_S = 5.0
LARGE_HEAD_BYTES = 65 << 10
START_TIMEOUT_S = 180.0
"""Default time limit for a local Ray to start. Ray's own limit of 30 s is too short for a busy machine."""
PACKAGE = "flex_judge"
AUTH_VARIABLE = "RAY_AUTH_MODE"
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


def preview_local_cluster() -> Cluster | None:
    """Describe the cluster that `connect()` would start; None on a machine with GPUs, which only Ray can count."""
    return None if has_accelerators() else Cluster(float(count_local_cpus()), gpus=0.0, local=True)


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
        ClusterError: there is no Ray cluster of the installed Ray version at the address, or it asks for no token and
            this process would.
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
    # Serve replaces a dead HTTP proxy after three failed checks, which at its default of 10 s took half a minute.
    os.environ.setdefault("RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S", "0.5")
    # A busy replica may take longer than Serve's default of 0.1 s to report its queue length. Its prompts would then go
    # to another replica, which does not have them in its prefix cache.
    os.environ.setdefault("RAY_SERVE_QUEUE_LENGTH_RESPONSE_DEADLINE_S", "1.0")
    os.environ.setdefault(PROXY_CALLBACK_VARIABLE, PROXY_CALLBACK)
    with ExitStack() as stack:
        stack.callback(_restore_variable, AUTH_VARIABLE, os.environ.get(AUTH_VARIABLE))  # a local Ray sets it
        if address:
            _authenticate_like(address)  # before the import of Ray, which reads it
        import ray
        from ray._private import worker

        print_message = worker.print_to_stdstream
        stack.callback(setattr, worker, "print_to_stdstream", print_message)
        if not address:
            stack.enter_context(run_cleanup_process())
        stack.callback(ray.shutdown)
        stack.callback(silence_ray_messages)
        with keep_signal_handler():
            if address:
                _join_cluster(ray, address)
            else:
                with detach_from_terminal():
                    start_ray(ray, start_timeout_s)
        resources = ray.cluster_resources()
        gcs_address = ray.get_runtime_context().gcs_address
        cpus = resources.get("CPU", 0.0) - (0 if address else SPARE_CPUS)
        yield Cluster(cpus, resources.get("GPU", 0.0), local=not address, address=gcs_address)


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
        if not os.environ.get("RAY_ADDRESS") and not _find_local_clusters():
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


def has_proxy_limits(url: str) -> bool:
    """Return whether the HTTP proxy of a running service refuses a head that is too large.

    The proxies of a cluster that this process did not start need a variable in their environment, see `connect`.
    """
    address = urlsplit(url)
    try:
        with socket.create_connection((address.hostname or "", address.port or 80), CONNECT_TIMEOUT_S) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-Padding: " + b"a" * LARGE_HEAD_BYTES)
            return b" 431 " in connection.recv(64)
    except OSError:  # no answer in time: the proxy waits for the rest of the head
        return False


def _find_local_clusters() -> set[str]:
    """Return the addresses of the Ray clusters that have a node on this machine."""
    import psutil

    option = "--gcs-address="
    raylets = (p.info["cmdline"] or [] for p in psutil.process_iter(["name", "cmdline"]) if p.info["name"] == "raylet")
    return {part.removeprefix(option) for command in raylets for part in command if part.startswith(option)}


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


def _join_cluster(ray_module: ray, address: str) -> None:  # type: ignore[valid-type]
    check_address(address)
    try:
        ray_module.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError, OSError) as e:
        raise ClusterError(
            f"the Ray cluster at {address} cannot be joined: {get_first_line(e, 200)}; if it asks for a token, set "
            "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
        ) from e


def _restore_variable(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def _authenticate_like(address: str) -> None:
    """Use token authentication if and only if a cluster does.

    Ray decides for this process alone, by RAY_AUTH_MODE, and with `auto` by whether there is a token. In a cluster
    without tokens, a process with one could call actors but would refuse their answers, and wait for these forever.

    Raises:
        ClusterError: RAY_AUTH_MODE asks for a token, and the cluster does not.
    """
    asked_for = {_asks_for_token(place) for place in _list_addresses(address)}
    mode = os.environ.get(AUTH_VARIABLE)
    if asked_for == {False} and (mode or "").lower() == "token":
        raise ClusterError(
            f"the Ray cluster at {address} asks for no token, and with {AUTH_VARIABLE}=token this process would refuse "
            f"its answers; unset {AUTH_VARIABLE}, or start the cluster with it"
        )
    if mode is not None:
        return
    if asked_for == {False}:
        os.environ[AUTH_VARIABLE] = "disabled"
    elif _is_local_address(address) and _has_token():  # a token is not sent to other machines unasked
        os.environ[AUTH_VARIABLE] = "token"


def _list_addresses(address: str) -> set[str]:
    """Return the addresses that may be meant by `auto`, or the address itself."""
    if address != "auto":
        return {address}
    default = os.environ.get("RAY_ADDRESS", "auto")
    return _find_local_clusters() if default == "auto" else {default}


def _asks_for_token(address: str) -> bool | None:
    """Return whether a cluster refuses a request without a token; None if it does not tell, for example with TLS."""
    import grpc

    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary("/ray.rpc.NodeInfoGcsService/CheckAlive")(b"", timeout=CONNECT_TIMEOUT_S)
            return False
        except grpc.RpcError as e:
            return True if e.code() == grpc.StatusCode.UNAUTHENTICATED else None


def _has_token() -> bool:
    """Return whether Ray would find an authentication token."""
    default = Path.home() / ".ray" / "auth_token"
    return bool(os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH") or default.is_file())
