"""Deploy, wait for, and remove one application on Ray Serve; starts Serve itself if it is not running."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from flex_judge.judges.errors import ClusterError
from flex_judge.reward.serving.cluster import silence_ray_messages

QUIET = {"enable_access_log": False, "log_level": "ERROR"}
READY_POLL_S = 0.5
DRAIN_POLL_S = 0.2
"""Seconds between the checks whether a stopping replica is idle. Serve's default of 2 s also delays the first check."""


@dataclass(frozen=True)
class HttpAddress:
    """Address of the HTTP server."""

    host: str = "127.0.0.1"
    port: int = 8000
    every_node: bool = False
    """Whether every node with a replica listens, or only the head node."""


ReportReplicas = Callable[[int, int, str], None]
"""Receives the number of running replicas, the number of all, and why the others wait."""


class ServeApplication:
    """Application on Ray Serve.

    `deploy` and `remove` block for seconds; in an event loop, use `deploy_async` and `remove_async`.
    """

    def __init__(
        self,
        name: str,
        label: str,
        http: HttpAddress | None = None,
        private: bool = False,
        other_parts: Mapping[str, str] | None = None,
    ) -> None:
        """Describe an application without deploying it.

        Args:
            name: name of the application; must be unique within the cluster.
            label: name in error messages, such as "judge service".
            http: HTTP address. If Serve runs already, it must listen there.
            private: whether the name is reserved for this caller. An existing application of that name is then a
                leftover of a killed process, and is removed first.
            other_parts: deployments whose replicas are not counted, with their names in words, such as "the gateway".
        """
        self.name = name
        self.http = http
        self._label = label
        self._private = private
        self._other_parts = other_parts or {}
        self._deployed = self._started_serve = False

    def deploy(self, target: Any, route_prefix: str | None = None) -> None:
        """Request the deployment; `wait_until_ready` waits for it.

        Args:
            target: the bound deployment.
            route_prefix: HTTP path of the application; None for no HTTP.

        Raises:
            ClusterError: the name or path is taken, or Serve listens at another address.
        """
        import ray
        from ray import serve
        from ray.serve.exceptions import RayServeException

        logging.getLogger("ray.serve").setLevel(logging.ERROR)  # its messages are about its own steps
        try:
            ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
        except ValueError:
            self._started_serve = True
        if self.http is None:
            serve.start(proxy_location="Disabled", logging_config=QUIET)
        else:
            serve.start(
                proxy_location="EveryNode" if self.http.every_node else "HeadOnly",
                http_options={"host": self.http.host, "port": self.http.port},
                logging_config=QUIET,
            )
            if not self._started_serve:
                _check_serve_address(self.http)
        if self.name in serve.status().applications:
            if not self._private:
                raise ClusterError(
                    f"the cluster already runs an application called {self.name!r}; if nobody uses it, remove it with: "
                    f"serve delete {self.name} -y"
                )
            serve.delete(self.name)
        run = serve.RunTarget(target=target, name=self.name, route_prefix=route_prefix)
        try:
            with _hide_reconnect_warning():
                serve.run_many([run], wait_for_applications_running=False)
        except RayServeException as e:  # another application has the same route prefix
            raise ClusterError(f"the {self._label} could not start: {_extract_error_line(str(e))}") from e
        self._deployed = True

    async def deploy_async(self, target: Any, route_prefix: str | None = None) -> None:
        """Deploy from an event loop; if it is cancelled or fails, the application is removed again."""
        deploying = asyncio.ensure_future(asyncio.to_thread(self.deploy, target, route_prefix))
        try:
            await asyncio.shield(deploying)
        except BaseException:
            await asyncio.wait([deploying])  # a thread cannot be cancelled
            await self.remove_async()
            raise

    async def remove_async(self) -> None:
        """Remove from an event loop; completes even if the caller is cancelled."""
        await asyncio.shield(asyncio.to_thread(self.remove))

    async def wait_until_ready(self, report: ReportReplicas | None = None) -> None:
        """Wait until every replica is running.

        Args:
            report: called with the number of running replicas, the number of all, and why the others wait.

        Raises:
            ClusterError: a replica could not be started; the message says why.
        """
        from ray import serve
        from ray.serve.schema import ApplicationStatus, DeploymentStatus

        while True:
            application = (await asyncio.to_thread(serve.status)).applications.get(self.name)
            if application is not None:
                failed = [d for d in application.deployments.values() if d.status == DeploymentStatus.DEPLOY_FAILED]
                if application.status == ApplicationStatus.DEPLOY_FAILED or failed:
                    reason = (failed[0].message if failed else "") or application.message
                    raise ClusterError(f"the {self._label} could not start: {_extract_error_line(reason)}")
                if report is not None:
                    report(*count_replicas(application, self._other_parts))
                if application.status == ApplicationStatus.RUNNING:
                    return
            await asyncio.sleep(READY_POLL_S)

    def remove(self) -> None:
        """Remove the application, and shut down Serve if it was started here and has no other application."""
        from ray import serve

        silence_ray_messages()
        # Without `_deployed`, an application of this name belongs to another process.
        if self._started_serve and serve.status().applications.keys() <= {self.name}:
            serve.shutdown()
        elif self._deployed:
            serve.delete(self.name)


@contextmanager
def _hide_reconnect_warning() -> Iterator[None]:
    """Hide Serve's warning that its HTTP options are not applied again.

    `run_many` connects to the Serve that was started just before with these options, so the warning misleads.
    """

    def is_other(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("Connecting to existing Serve app")

    logger = logging.getLogger("ray.serve")
    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)


def _check_serve_address(http: HttpAddress) -> None:
    """Raise ClusterError if the running Serve listens at another address; it cannot listen at a second one."""
    from ray.serve.context import _get_global_client  # Serve has no public API for its HTTP options

    running = _get_global_client().http_config
    if (running.host, running.port) != (http.host, http.port):
        raise ClusterError(
            f"Ray Serve runs on this cluster already and listens at {running.host}:{running.port}; "
            f"use --host {running.host} --port {running.port}"
        )


def count_replicas(application: Any, other_parts: Mapping[str, str]) -> tuple[int, int, str]:
    """Count the running replicas of an application and all of them; the last item says why the others wait.

    Args:
        application: status of the application, as Ray Serve reports it.
        other_parts: see `ServeApplication`.
    """
    from ray.serve.schema import DeploymentStatus, ReplicaState

    running = wanted = 0
    reason = waiting = ""
    for name, deployment in application.deployments.items():
        if name in other_parts:
            waiting = waiting if deployment.status == DeploymentStatus.HEALTHY else f"waiting for {other_parts[name]}"
        else:
            states = {ReplicaState(state): count for state, count in deployment.replica_states.items()}
            running += states.get(ReplicaState.RUNNING, 0)
            wanted += sum(count for state, count in states.items() if state != ReplicaState.STOPPING)
        if "Resources required" in deployment.message:  # such as `Resources required for each replica: {"CPU": 1.0}`
            reason = "the cluster has too few free resources; " + " ".join(deployment.message.split())[-160:]
    return running, wanted, reason or (waiting if running == wanted else "")


def _extract_error_line(text: str) -> str:
    """Extract the line of a traceback that names the error."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line.split(":")[0]]
    return (errors or lines or ["no reason given"])[-1][:300]
