"""`flex-judge serve`: run the reward service in the foreground until a stop signal."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from typing import TextIO

from flex_judge.experiments.commands.serve.config import ServeRun
from flex_judge.experiments.common.console import build_console, print_status, reserve_stdout
from flex_judge.experiments.common.progress import Progress, show_ray_start
from flex_judge.experiments.common.stopping import call_on_stop, describe_stop, is_stop_requested
from flex_judge.judges.errors import ClusterError, UsageError
from flex_judge.reward.serving import PROXY_BODY_VARIABLE, PROXY_CALLBACK, PROXY_CALLBACK_VARIABLE
from flex_judge.reward.serving.cluster import Cluster, check_address, connect, has_proxy_limits, is_raylet_gone
from flex_judge.reward.serving.logs import copy_log, find_log_file, find_log_folder
from flex_judge.reward.serving.service import HttpAddress, JudgeService

STARTING_PLAN = "the service is starting and ends, requests that it has accepted are answered"
DRAINING_PLAN = "draining, new requests are rejected and accepted ones answered"
"""What a stop signal does, as its acknowledgement says it."""
POLL_S = 2.0
"""Seconds between two checks of the local Ray."""


def main(config: ServeRun) -> int:
    """Start the service, print its address when it is ready, and serve until a stop signal.

    The first signal drains the service: it rejects new requests and answers accepted ones. A second signal ends the
    process at once.

    Returns:
        The exit status: 0 after a clean stop, 1 if accepted requests were not answered.

    Raises:
        UsageError: Bad input; nothing was started.
    """
    config.check_start()
    if config.address:
        check_address(config.address)
        if config.port == 0:
            raise UsageError(
                "--port 0: a joined cluster listens on its head node, where no free port is known; name one"
            )
    else:
        config = config.with_port(find_free_port(config.host, config.port))
    config, has_short_key = config.hide_key()
    if has_short_key:
        print_status("warning: the API key is short and could be guessed; make one with: openssl rand -hex 32")
    # The proxies read this when they start: they store a body until the gateway has taken it.
    os.environ.setdefault(PROXY_BODY_VARIABLE, str(config.gateway_config.max_body_mib))
    print_status(f"starting {config.service.judge.engine.model}; the first start of a model can take minutes")
    try:
        with reserve_stdout() as out, describe_stop(STARTING_PLAN), _start_ray(config) as cluster:
            return asyncio.run(_run_service(config, cluster, out))
    except KeyboardInterrupt:  # while Ray was starting
        return 0


async def _run_service(config: ServeRun, cluster: Cluster, out: TextIO) -> int:
    model = config.service.judge.engine.model
    service_config = config.build_service_config(cluster)
    http = HttpAddress(config.host, config.port, config.every_node)
    log_file = find_log_file(service_config.log, service_config.name)
    print_status(f"log: {log_file}; logs of Ray: {find_log_folder()}")
    # Without --log-file, the log is shown here too.
    copying = copy_log(log_file) if log_file and service_config.log.log_file is None else contextlib.nullcontext()
    with copying, _set_event_on_stop() as stop:
        async with JudgeService(service_config, http) as service:
            if not await _run_unless_stopped(stop, _wait_until_ready(service, model)):
                return 0
            with describe_stop(DRAINING_PLAN):
                fewest, most = service_config.replica_range
                replicas = f"{fewest}" if fewest == most else f"{fewest} to {most}"
                print_status(f"{model} with {replicas} replica(s); metrics for Prometheus: {service.url}/metrics")
                if cluster.local:
                    print_status(f"other commands can join this Ray with --address {cluster.address}")
                if config.host not in ("127.0.0.1", "localhost", "::1") and config.api_key is None:
                    print_status(
                        "warning: anyone who can reach this address can use the service; require a key with --api-key"
                    )
                if not await asyncio.to_thread(has_proxy_limits, service.url):
                    print_status(
                        "warning: the HTTP proxies of this cluster do not limit request heads; set "
                        f"{PROXY_CALLBACK_VARIABLE}={PROXY_CALLBACK} wherever `ray start` runs"
                    )
                # The only line on standard output: scripts wait for it to know that the service is ready.
                print(service.url, file=out, flush=True)
                await _wait_for_stop(stop, cluster)
            try:
                await asyncio.wait_for(service.drain(), config.service.drain_s)
                return 0
            except TimeoutError:
                print_status(
                    f"stopping: accepted requests are still unanswered after --drain-s {config.service.drain_s:g} s"
                )
                return 1


@contextlib.contextmanager
def _start_ray(config: ServeRun) -> Iterator[Cluster]:
    """Connect to a cluster, see `connect`, and show its start."""
    with contextlib.ExitStack() as stack:
        timeout_s = config.start_timeout_s
        with (
            Progress(build_console(sys.stderr)) as progress,
            show_ray_start(progress, config.address, timeout_s),
        ):
            cluster = stack.enter_context(connect(config.address, timeout_s))
        yield cluster


async def _wait_until_ready(service: JudgeService, model: str) -> None:
    """Wait until a service is ready, and show how many of its replicas are."""
    with Progress(build_console(sys.stderr)) as progress, progress.show_phase(f"loading {model}") as phase:
        await service.wait_until_ready(phase.report_replicas)


async def _wait_for_stop(stop: asyncio.Event, cluster: Cluster) -> None:
    """Wait for the stop event; exit the process if the local Ray has died."""
    while not stop.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), POLL_S)
        if cluster.local and is_raylet_gone():
            print_status("the local Ray has died (its raylet is gone) and with it the service; start the service again")
            # Nothing can be shut down in order without a raylet. The process cleanup stops the remaining processes.
            os._exit(1)


async def _run_unless_stopped(stop: asyncio.Event, work: object) -> bool:
    """Run an awaitable until it is done or `stop` is set; return whether it is done."""
    task = asyncio.ensure_future(work)  # type: ignore[call-overload]
    waiting = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        return bool(task.done())
    finally:
        for future in (task, waiting):
            future.cancel()
        await asyncio.gather(task, waiting, return_exceptions=True)


@contextlib.contextmanager
def _set_event_on_stop() -> Iterator[asyncio.Event]:
    """Yield an event that the first stop signal sets; the second one ends the process."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()

    def set_event() -> None:
        loop.call_soon_threadsafe(stop.set)

    with call_on_stop(set_event, must_stop=False):
        if is_stop_requested():
            stop.set()
        yield stop


def find_free_port(host: str, port: int) -> int:
    """Return `port`, or any free port for 0.

    Called before Ray starts, which takes seconds.

    Raises:
        ClusterError: The port is taken, or the address does not belong to this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            # Without this option, a port that was closed seconds ago counts as taken.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return int(probe.getsockname()[1])
    except OSError as e:
        raise ClusterError(f"cannot listen on {host}:{port}: {e.strerror or e}; choose another --host or --port") from e
