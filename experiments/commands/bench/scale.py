"""Scaling of data runs: rows per second as replicas are added, and driver memory as rows are added.

Policy and judge are scripted. The policy answers at once; the judge takes a fixed time for a fixed number of concurrent
answers, as a separate machine would. This measures everything between them: Ray Data, Serve, the router and the shards.

Driver memory is measured in a subprocess whose work needs no model, so that a million rows take minutes. The driver's
own work does not depend on the models.
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
from flex_judge.alignment.pipeline.runner import run_job
from flex_judge.alignment.pipeline.shards import ShardFolder, sum_reports
from flex_judge.alignment.policies.config import PolicyConfig
from flex_judge.experiments.commands.bench.result import BenchResult
from flex_judge.experiments.common.flags import setting
from flex_judge.experiments.common.run_folder import RunFolder
from flex_judge.experiments.common.stopping import run_async
from flex_judge.judges.engines.base import EngineConfig, Sampling
from flex_judge.judges.errors import ClusterError
from flex_judge.judges.protocol.settings import JudgeConfig, JudgeSettings
from flex_judge.judges.validation.classes import PositiveInt, settings_class
from flex_judge.reward.serving.cluster import Cluster, connect
from flex_judge.reward.serving.config import PRIVATE_DRAIN_S
from flex_judge.reward.serving.service import JudgeService, ServiceConfig

GOAL = 0.9
"""Minimum of the rows per second per replica with most replicas, over the rate with one."""
MEMORY_GOAL = 1.3
"""Maximum of the driver's peak memory with most rows, over the peak with fewest."""
REPLICAS = (1, 2, 4, 8)
MAX_BATCH = 4
"""Requests that a scripted engine computes at a time; the router sends a replica a few more."""
LATENCY_S = 1.0
"""Duration of a judgment, in seconds."""
SCRIPTS = "flex_judge.experiments.commands.bench.scale"


@settings_class
class ScaleConfig:
    """Settings of the scale bench."""

    seconds: Annotated[int, Ge(5)] = setting(
        20, "Duration of each measurement in seconds, if scaling is perfect", metavar="S"
    )
    samples: PositiveInt = setting(4, "Number of answers per prompt", metavar="N")
    few: PositiveInt = setting(10_000, "Number of rows in the smaller run of the memory measurement", metavar="N")
    many: PositiveInt = setting(1_000_000, "Number of rows in the larger run of the memory measurement", metavar="N")


def run(config: ScaleConfig) -> BenchResult:
    """Measure on a local Ray cluster.

    Replicas reserve fractions of a CPU, because scripted engines only wait.
    """
    with tempfile.TemporaryDirectory() as folder, connect() as cluster:
        rates = {n: run_async(_measure_rate(config, n, cluster, Path(folder))) for n in REPLICAS}
    peaks = {rows: _measure_peak_mib(rows) for rows in (config.few, config.many)}
    efficiencies = {n: rate / n / rates[1] for n, rate in rates.items()}
    memory_ratio = peaks[config.many] / peaks[config.few]
    ratio = efficiencies[REPLICAS[-1]]
    return BenchResult(
        name="scale",
        ratio=round(ratio, 3),
        goal=GOAL,
        met=ratio >= GOAL and memory_ratio <= MEMORY_GOAL,
        details={
            "judge_seconds": LATENCY_S,
            "answers_at_once": _make_service_config().requests_per_replica,
            "samples": config.samples,
            "memory_ratio": round(memory_ratio, 3),
            "memory_goal": MEMORY_GOAL,
            "by_replicas": [
                {"replicas": n, "rows_per_second": round(rate, 2), "efficiency": round(efficiencies[n], 3)}
                for n, rate in rates.items()
            ],
            "driver": [{"rows": rows, "peak_mib": round(peak)} for rows, peak in peaks.items()],
        },
    )


def answer_prompt(prompt: str, sampling: Sampling) -> str:  # noqa: ARG001 - the signature of a script
    """Answer as the scripted policy, differently for every sample."""
    return f"Answer {sampling.seed}."


async def judge_answer(prompt: str, sampling: Sampling) -> str:
    """Reply as the scripted judge: wait while "thinking", then give a score that depends on the answer."""
    if sampling.stop == ("</think>",):
        await asyncio.sleep(LATENCY_S)
        return "So.</think>"
    score = 1 + len(prompt) % 10
    if sampling.regex:  # one answer, or two in the self-test of a replica
        return f"{score}</answer>" + f"<answer>{score}</answer>" * sampling.regex.count("<answer>")
    return f"<answer>{score}</answer>"


def _make_service_config() -> ServiceConfig:
    engine = EngineConfig(f"{SCRIPTS}:judge_answer", "scripted", max_batch=MAX_BATCH)
    return ServiceConfig(JudgeConfig(engine, JudgeSettings(temperature=0.0)), drain_s=PRIVATE_DRAIN_S)


async def _measure_rate(config: ScaleConfig, replicas: int, cluster: Cluster, folder: Path) -> float:
    """Measure the rows per second with `replicas` judges."""
    cpus = cluster.cpus / (replicas + 1)
    judge = replace(_make_service_config(), replicas=replicas, name=f"scale-{replicas}", cpus_per_replica=cpus)
    judge = judge.place_on(cluster)
    policy = PolicyServiceConfig(
        PolicyConfig(f"{SCRIPTS}:answer_prompt", "scripted"), name=f"scale-policy-{replicas}", cpus_per_replica=cpus
    )
    perfect_rate = replicas * MAX_BATCH / LATENCY_S / config.samples
    rows = max(8, round(config.seconds * perfect_rate))
    async with JudgeService(judge) as judge_service, PolicyService(policy) as policy_service:
        await judge_service.wait_until_ready()
        await policy_service.wait_until_ready()
        sampling = Sampling(64, temperature=1.0, seed=0)
        plan = BestOfNPlan(ServedModels(policy, judge), sampling, config.samples, SelectionSpec())
        concurrent_rows = 2 * max(1, judge.max_requests // config.samples)
        # Shards of one prompt give one time stamp per prompt.
        job = Job(
            open_source(str(_write_prompts(folder / f"{replicas}.jsonl", rows))),
            plan,
            folder / f"parts-{replicas}",
            shard_rows=1,
            rows_at_once=concurrent_rows,
            shards_at_once=concurrent_rows,
        )
        times = await asyncio.to_thread(_collect_finish_times, job)
    report = sum_reports(list(ShardFolder(job.folder).read_reports().values()))
    if report.done != rows:
        raise ClusterError(f"only {report.done} of {rows} rows were done")
    return _compute_steady_rate(times)


def _collect_finish_times(job: Job) -> list[float]:
    """Run a job and collect the time at which each shard is done."""
    return [time.perf_counter() for _ in run_job(job)]


def _compute_steady_rate(times: list[float]) -> float:
    """Compute the rows per second between the first and the last quarter, when all replicas have work."""
    low, high = len(times) // 4, 3 * len(times) // 4
    return (high - low) / (times[high] - times[low])


@dataclass(frozen=True)
class EchoPlan:
    """Plan that needs no model and returns rows with the columns of best-of-N."""

    tables: tuple[str, ...] = ("best_of_n",)

    async def open(self) -> EchoPlan:
        """Return the plan itself; there is nothing to open."""
        return self

    async def __call__(self, row: PromptRow) -> RowResult:
        """Return a fixed result for a prompt."""
        best_of_n_row = {
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
        return RowResult({"best_of_n": [best_of_n_row]})


def _measure_peak_mib(rows: int) -> float:
    """Measure the peak memory of a driver with `rows` rows, in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        prompts = _write_prompts(Path(folder) / "prompts.jsonl", rows)
        command = [sys.executable, "-P", "-m", SCRIPTS, str(prompts), folder]
        process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(process.stdout.split()[-1])


def _run_driver(prompts: str, folder: str) -> None:
    """Do the work of the driver of `flex-judge best-of-n`, and print the peak memory of this process in MiB."""
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
    # VmHWM instead of getrusage, whose peak may be inherited from the parent process.
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(int(peak.split()[1]) / 1024)


def _write_prompts(path: Path, rows: int) -> Path:
    with path.open("w") as file:
        file.writelines(json.dumps({"id": n, "prompt": f"Question {n}?"}) + "\n" for n in range(rows))
    return path


if __name__ == "__main__":
    _run_driver(*sys.argv[1:])
