"""One application on Ray Serve: asked for, waited for, removed; and Serve itself, started where there is none."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from flex_judge.judges.errors import ClusterError

QUIET = {"enable_access_log": False, "log_level": "ERROR"}
READY_POLL_S = 0.5
DRAIN_POLL_S = 0.2
"""How often a replica that is to end looks whether it is idle. Serve's own 2 s pass before the first look."""


@dataclass(frozen=True)
class HttpAddress:
    """Where HTTP is served."""

    host: str = "127.0.0.1"
    port: int = 8000
    every_node: bool = False
    """Whether every node of the cluster with a replica listens, or the head node alone."""


class ServeApplication:
    """An application of ours on Ray Serve.

    `deploy` and `remove` block for seconds; in an event loop use `started` and `removed`.
    """

    def __init__(self, name: str, what: str, http: HttpAddress | None = None, private: bool = False) -> None:
        """Args:
        name: of the application; must be unique within the cluster.
        what: what messages call it, such as "judge service".
        http: where to listen. A cluster whose Serve runs already must listen there.
        private: whether nobody else can have an application of that name, so that one which is there is what a
            killed process left, and is removed first.
        """
        self.name = name
        self.http = http
        self._what = what
        self._private = private
        self._deployed = self._started_serve = False

    def deploy(self, target: Any, route_prefix: str | None = None) -> None:
        """Ask for an application; `ready` waits for it.

        Raises:
            ClusterError: its name or its path is taken, or Serve listens elsewhere.
        """
        import ray
        from ray import serve
        from ray.serve.exceptions import RayServeException

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
        if self.name in serve.status().applications and self._private:
            serve.delete(self.name)
        elif self.name in serve.status().applications:
            raise ClusterError(
                f"the cluster already runs an application called {self.name!r}; if nobody uses it, remove it with: "
                f"serve delete {self.name} -y"
            )
        run = serve.RunTarget(target=target, name=self.name, route_prefix=route_prefix)
        try:
            serve.run_many([run], wait_for_applications_running=False)
        except RayServeException as e:  # another application answers at the same path
            raise ClusterError(f"the {self._what} could not start: {_extract_error_line(str(e))}") from e
        self._deployed = True

    async def deploy_async(self, target: Any, route_prefix: str | None = None) -> None:
        """As `deploy`, within an event loop. Cancelled, or failed, it leaves nothing behind."""
        deploying = asyncio.ensure_future(asyncio.to_thread(self.deploy, target, route_prefix))
        try:
            await asyncio.shield(deploying)
        except BaseException:
            await asyncio.wait([deploying])  # a thread cannot be stopped halfway
            await self.remove_async()
            raise

    async def remove_async(self) -> None:
        """As `remove`, within an event loop; done whether or not the caller is cancelled."""
        await asyncio.shield(asyncio.to_thread(self.remove))

    async def wait_until_ready(self) -> None:
        """Wait until every replica is at work.

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
                    raise ClusterError(f"the {self._what} could not start: {_extract_error_line(reason)}")
                if application.status == ApplicationStatus.RUNNING:
                    return
            await asyncio.sleep(READY_POLL_S)

    def remove(self) -> None:
        """End the application, and Serve with it where it was started for it and nobody else uses it."""
        from ray import serve

        # Another's application of the same name is not ours to delete, nor is a Serve that others use by now to end.
        if self._started_serve and serve.status().applications.keys() <= {self.name}:
            serve.shutdown()
        elif self._deployed:
            serve.delete(self.name)


def _check_serve_address(http: HttpAddress) -> None:
    """Raise ClusterError if the Serve that runs already listens elsewhere: it would not listen here too."""
    from ray.serve.context import _get_global_client

    there = _get_global_client().http_config
    if (there.host, there.port) != (http.host, http.port):
        raise ClusterError(
            f"Ray Serve runs on this cluster already and listens at {there.host}:{there.port}; "
            f"use --host {there.host} --port {there.port}"
        )


def _extract_error_line(text: str) -> str:
    """The line of a traceback that says what happened."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line.split(":")[0]]
    return (errors or lines or ["no reason given"])[-1][:300]
