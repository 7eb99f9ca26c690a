"""`python -m tests.perf.faults [FAULT...]`: kill parts of a service under load, and count what was lost or repeated.

Each fault gets a service of its own with scripted engines, and 600 requests with idempotency keys from one client. It
prints one row per fault: requests without a judgment, judgments that came twice, comparisons that the engines finished
more than once, and the longest time without any answer.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [sys.path[0], os.environ.get("PYTHONPATH")]))

from ray.cluster_utils import Cluster
from served import free_port
from serving import Serving, serving, within

from flex_judge.judges import Comparison, Status
from flex_judge.reward.client import JudgeClient

NUM_REQUESTS = 600
FLAGS = ("--engine", "scripted", "--model", "scripts:counted_judge", "--temperature", "0", "--max-batch", "8")
PARTS = {
    "nothing": (),
    "gateway": ("JudgeGateway",),
    "store": ("KeptWork",),
    "proxy": ("ProxyActor",),
    "controller": ("ServeController",),
    "gateway, then controller": ("JudgeGateway", "ServeController"),
}
"""Names of the processes that each fault kills, in order."""


@dataclass
class FaultResult:
    """Outcome of the requests around one fault."""

    name: str
    lost: int
    """Requests without a judgment."""
    doubled: int
    """Judgments that came for more than one request, or not for their own."""
    judged_twice: int
    """Comparisons that were answered more than once."""
    started: int
    """Reasonings that were started."""
    longest_gap_s: float
    """Longest time between two answers."""
    total_s: float


def measure_fault(
    name: str,
    inject: Callable[[Serving], None],
    flags: Sequence[str] = (),
    replicas: int = 2,
    requests: int = NUM_REQUESTS,
    delay_s: float = 3.0,
    think_s: float = 0.5,
    start_ray: Callable[[], AbstractContextManager[Sequence[str]]] = lambda: nullcontext(()),
) -> FaultResult:
    """Send requests to a new service, cause a fault in the middle, and count.

    Args:
        name: name of the fault in the result.
        inject: causes the fault.
        flags: further flags of the service.
        replicas: number of replicas.
        requests: number of requests, each with one comparison.
        delay_s: seconds from the first request to the fault.
        think_s: seconds of reasoning about each comparison.
        start_ray: starts a Ray for the service, and gives the flags with which the service joins it.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        calls = folder / "calls"
        # Engines read these variables. A Ray that the service joins has its own environment, so all processes get them.
        os.environ |= {"FLEX_JUDGE_TEST_CALLS": str(calls), "FLEX_JUDGE_TEST_THINK": str(think_s)}
        flags = (*FLAGS, "--replicas", str(replicas), "--cpus-per-replica", "0.5", *flags)
        flags = (*flags, *stack.enter_context(start_ray()), "--ledger", str(folder / "ledger"))
        service = stack.enter_context(serving(*flags))
        timer = threading.Timer(delay_s, inject, [service])
        timer.start()
        comparisons = [
            Comparison.of(f"Question {i}?", f"answer {i}", rubric="correctness", id=str(i)) for i in range(requests)
        ]
        client = JudgeClient(service.url, concurrency=64, attempt_s=60, deadline_s=300)
        started = time.monotonic()
        answered_at: list[float] = [started]

        async def ask(comparison: Comparison) -> tuple[str, Status]:
            (judgment,) = await client.judge([comparison])
            answered_at.append(time.monotonic())
            return judgment.id, judgment.status

        async def ask_all() -> list[tuple[str, Status]]:
            return await asyncio.gather(*map(ask, comparisons))

        answers = asyncio.run(ask_all())
        timer.join()
        client.close()
        events = Counter(tuple(line.split(" ", 1)) for line in calls.read_text().splitlines() if " answer " in line)
    ends = {candidate: count for (event, candidate), count in events.items() if event == "end"}
    gaps = [later - earlier for earlier, later in pairwise(answered_at)]
    return FaultResult(
        name,
        lost=sum(status != Status.OK for _, status in answers),
        doubled=sum(answer != comparison.id for (answer, _), comparison in zip(answers, comparisons, strict=True)),
        judged_twice=sum(count > 1 for count in ends.values()),
        started=sum(count for (event, _), count in events.items() if event == "start"),
        longest_gap_s=max(gaps),
        total_s=answered_at[-1] - started,
    )


def kill_parts(*names: str) -> Callable[[Serving], None]:
    """Return a function that kills the processes of each name, one name after the other."""

    def inject(service: Serving) -> None:
        for name in names:
            for process in service.processes(name):
                process.kill()
            time.sleep(1.0)

    return inject


def kill_all_replicas(service: Serving) -> None:
    """Kill three replicas at once."""
    for _ in within(60, what="three replicas"):
        if len(service.replicas()) == 3:
            break
    for process in service.replicas():
        process.kill()


def measure_restart_by_hand() -> FaultResult:
    """Kill the whole service, and start it again with the same command."""
    with ExitStack() as stack:
        port = str(free_port())

        def restart(service: Serving) -> None:
            # The environment of the first start is still needed, and both share the ledger.
            command, environment = service.process.args, service.environment
            service.process.kill()
            service.process.wait()
            for _ in within(30, what="the end of the first service, which holds the port"):
                if not service.processes():
                    break
            assert isinstance(command, list)
            again = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
            stack.callback(again.wait)
            stack.callback(again.terminate)

        return measure_fault("whole service, by hand", restart, ("--port", port))


def measure_dead_node() -> FaultResult:
    """Kill the second of two nodes, which has half of the replicas."""
    cluster = Cluster()

    @contextmanager
    def start_two_nodes() -> Iterator[Sequence[str]]:
        cluster.add_node(num_cpus=1)
        cluster.add_node(num_cpus=1)
        try:
            yield "--address", cluster.address, "--port", str(free_port())
        finally:
            cluster.shutdown()

    def kill_second_node(_: Serving) -> None:
        (node,) = cluster.worker_nodes
        cluster.remove_node(node, allow_graceful=False)

    return measure_fault("second node", kill_second_node, replicas=4, start_ray=start_two_nodes)


def main(names: Sequence[str]) -> int:
    """Measure faults, and return 1 if anything was lost, doubled or judged twice."""
    faults: dict[str, Callable[[], FaultResult]] = {
        name: lambda name=name, parts=parts: measure_fault(name, kill_parts(*parts)) for name, parts in PARTS.items()
    }
    faults["3 of 3 replicas"] = lambda: measure_fault("3 of 3 replicas", kill_all_replicas, replicas=3)
    faults["second node"] = measure_dead_node
    faults["whole service"] = measure_restart_by_hand
    header = f"{'fault':<28}{'lost':>6}{'doubled':>9}{'twice':>7}{'started':>9}{'gap s':>8}{'total s':>9}"
    print(header, flush=True)
    failures = 0
    for name in names or faults:
        r = faults[name]()
        failures += r.lost + r.doubled + r.judged_twice
        row = f"{r.name:<28}{r.lost:>6}{r.doubled:>9}{r.judged_twice:>7}{r.started:>9}"
        print(f"{row}{r.longest_gap_s:>8.1f}{r.total_s:>9.1f}", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
