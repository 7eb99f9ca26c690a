"""Rows of a data set through policy and judges: rows a second as replicas are added, the driver's memory as rows are.

Policy and judge are scripted: the policy answers at once, the judge takes a fixed time and so many answers at a time,
as a machine of its own would. What is measured is what is between them: Ray Data, Serve, the router, the shards.

The driver's memory is that of a process of its own with work that needs no model, so that a million rows are done in
minutes; the driver does the same, whatever the work.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from flex_judge.alignment.best_of_n.selection import SelectionSpec
from flex_judge.alignment.data.rows import PromptRow
from flex_judge.alignment.data.sources import open_source
from flex_judge.alignment.pipeline.best_of_n import BestOfNPlan
from flex_judge.alignment.pipeline.job import Job, RowResult, choose_shard_rows
from flex_judge.alignment.pipeline.models import ServedModels
from flex_judge.alignment.pipeline.policy_service import PolicyService, PolicyServiceConfig
from flex_judge.alignment.pipeline.runner import run_job as run_job
from flex_judge.alignment.pipeline.shards import ShardFolder, sum_reports
from flex_judge.alignment.policies.config import PolicyConfig
from flex_judge.experiments.commands.bench.result import BenchResult
from flex_judge.experiments.common.flags import setting
from flex_judge.experiments.common.run_folder import RunFolder
from flex_judge.judges.engines.base import EngineConfig, Sampling
from flex_judge.judges.errors import ClusterError
from flex_judge.judges.protocol.settings import JudgeConfig, JudgeSettings
from flex_judge.judges.validation.classes import PositiveInt, settings_class
from flex_judge.reward.serving.cluster import Cluster, connect
from flex_judge.reward.serving.service import JudgeService, ServiceConfig

GOAL = 0.9
"""Rows a second and replica with the most replicas, over those with one: at least."""
MEMORY_GOAL = 1.3
"""The driver's peak with most rows over that with fewest: at most."""
REPLICAS = (1, 2, 4, 8)
ANSWERS_AT_ONCE = 4
"""That an engine computes at a time; a replica is sent a few more."""
LATENCY_S = 1.0
"""That a judgment takes."""


@settings_class
class ScaleConfig:
    """Settings of the bench."""

    seconds: Annotated[int, Ge(5)] = setting(
        20, "Seconds of work per number of replicas, with perfect scaling", metavar="S"
    )
    samples: PositiveInt = setting(4, "Number of answers per prompt", metavar="N")
    few: PositiveInt = setting(10_000, "Rows in the smaller run of the memory measurement", metavar="N")
    many: PositiveInt = setting(1_000_000, "Rows in the larger run of the memory measurement", metavar="N")


def run(config: ScaleConfig) -> BenchResult:
    """Measure on a local Ray, whose processors count for more than there are: scripts only wait."""
    with tempfile.TemporaryDirectory() as folder, connect() as cluster:
        rates = {n: asyncio.run(_measure_rate(config, n, cluster, Path(folder))) for n in REPLICAS}
    peaks = {rows: _measure_peak_mib(rows) for rows in (config.few, config.many)}
    efficiencies = {n: rate / n / rates[1] for n, rate in rates.items()}
    growth = peaks[config.many] / peaks[config.few]
    ratio = efficiencies[REPLICAS[-1]]
    return BenchResult(
        "scale",
        round(ratio, 3),
        GOAL,
        ratio >= GOAL and growth <= MEMORY_GOAL,
        {
            "judge_seconds": LATENCY_S,
            "answers_at_once": _make_service_config().requests_per_replica,
            "samples": config.samples,
            "memory_ratio": round(growth, 3),
            "memory_goal": MEMORY_GOAL,
            "by_replicas": [
                {"replicas": n, "rows_per_second": round(rate, 2), "efficiency": round(efficiencies[n], 3)}
                for n, rate in rates.items()
            ],
            "driver": [{"rows": rows, "peak_mib": round(peak)} for rows, peak in peaks.items()],
        },
    )


def say(prompt: str, sampling: Sampling) -> str:  # noqa: ARG001 - the signature of a script
    """The scripted policy: every sample another answer."""
    return f"Answer {sampling.seed}."


async def judge(prompt: str, sampling: Sampling) -> str:
    """The scripted judge: thinks for a while, then gives a score that depends on the answer."""
    if sampling.stop == ("</think>",):
        await asyncio.sleep(LATENCY_S)
        return "So.</think>"
    score = 1 + len(prompt) % 10
    if sampling.regex:  # of one answer, or of two where a replica tries itself out
        return f"{score}</answer>" + f"<answer>{score}</answer>" * sampling.regex.count("<answer>")
    return f"<answer>{score}</answer>"


def _make_service_config() -> ServiceConfig:
    engine = EngineConfig("flex_judge.experiments.commands.bench.scale:judge", "scripted", max_batch=ANSWERS_AT_ONCE)
    return ServiceConfig(JudgeConfig(engine, JudgeSettings(temperature=0.0)))


async def _measure_rate(config: ScaleConfig, replicas: int, cluster: Cluster, folder: Path) -> float:
    """Rows a second with so many judges, from the first shard that is done to the last."""
    share = cluster.cpus / (replicas + 1)
    judges = replace(
        _make_service_config(), replicas=replicas, name=f"scale-{replicas}", cpus_per_replica=share
    ).place_on(cluster)
    policy = PolicyServiceConfig(
        PolicyConfig("flex_judge.experiments.commands.bench.scale:say", "scripted"),
        name=f"scale-policy-{replicas}",
        cpus_per_replica=share,
    )
    per_second = replicas * ANSWERS_AT_ONCE / LATENCY_S / config.samples
    rows = max(8, round(config.seconds * per_second))
    async with JudgeService(judges) as service, PolicyService(policy) as answering:
        await service.wait_until_ready()
        await answering.wait_until_ready()
        sampling = Sampling(64, temperature=1.0, seed=0)
        plan = BestOfNPlan(ServedModels(policy, judges), sampling, config.samples, SelectionSpec())
        at_once = 2 * max(1, judges.max_requests // config.samples)
        # Shards of one prompt, so that the clock starts and stops between prompts.
        job = Job(
            open_source(str(_write_prompts(folder / f"{replicas}.jsonl", rows))),
            plan,
            folder / f"parts-{replicas}",
            shard_rows=1,
            rows_at_once=at_once,
            shards_at_once=at_once,
        )
        times = await asyncio.to_thread(_collect_finish_times, job)
    reports = ShardFolder(job.folder).read_reports().values()
    if sum_reports(list(reports)).done != rows:
        raise ClusterError(f"only {sum_reports(list(reports)).done} of {rows} rows were done")
    return _compute_steady_rate(times)


def _collect_finish_times(job: Job) -> list[float]:
    return [time.perf_counter() for _ in run_job(job)]


def _compute_steady_rate(times: list[float]) -> float:
    """Rows a second between the first quarter and the last, where all replicas have work."""
    low, high = len(times) // 4, 3 * len(times) // 4
    return (high - low) / (times[high] - times[low])


@dataclass(frozen=True)
class EchoPlan:
    """Work that needs no model, with rows as those of best-of-N are."""

    tables: tuple[str, ...] = ("best_of_n",)

    async def open(self) -> EchoPlan:
        return self

    async def __call__(self, row: PromptRow) -> RowResult:
        said = {
            "id": row.id,
            "prompt": [{"role": "user", "content": row.prompt[0].content}],
            "responses": ["Yes.", "No."],
            "scores": [7.0, 3.0],
            "expected_scores": [6.5, 3.5],
            "statuses": ["ok", "ok"],
            "ranking": [0, 1],
            "best": 0,
            "tied": 1,
            "judgments": 2,
            "tokens": [2, 2],
            "cut": [False, False],
            "kept": {},
        }
        return RowResult({"best_of_n": [said]})


def _measure_peak_mib(rows: int) -> float:
    """Peak memory of a driver that has so many rows worked on, in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        prompts = _write_prompts(Path(folder) / "prompts.jsonl", rows)
        command = [sys.executable, "-P", "-m", "flex_judge.experiments.commands.bench.scale", str(prompts), folder]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split()[-1])


def _run_driver(prompts: str, folder: str) -> None:
    """What the driver of `flex-judge best-of-n` does: hands out shards, joins their rows, and sums them up."""
    from flex_judge.experiments.commands.best_of_n.run import write_summary

    source = open_source(prompts)
    with RunFolder(Path(folder) / "run", {}) as run:
        shard_folder = ShardFolder(run.path / "shards")
        job = Job(source, EchoPlan(), shard_folder.folder, shard_rows=choose_shard_rows(len(source)), workers=2)
        with connect():
            for _ in run_job(job):
                pass
        reports = shard_folder.read_reports()
        shard_folder.join_table("best_of_n", reports, run.path / "best_of_n.jsonl")
        done = write_summary(run, sum_reports(list(reports.values())), None)["done"]
    if done != len(source):
        raise ClusterError(f"only {done} of {len(source)} rows were done")
    # Not getrusage, whose peak can be that of the process that started this one.
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(int(peak.split()[1]) / 1024)


def _write_prompts(path: Path, rows: int) -> Path:
    with path.open("w") as file:
        file.writelines(json.dumps({"id": n, "prompt": f"Question {n}?"}) + "\n" for n in range(rows))
    return path


if __name__ == "__main__":
    _run_driver(*sys.argv[1:])
