"""The whole service (HTTP, gateway, router, replica) against `LLM.generate` with the same prompts at once.

Both sides run the same model greedily on the same prompts with all cores of this machine, in turn, several times. A
judgment takes several requests, because the judge thinks and then answers; `LLM.generate` gets each of these waves as
one call. Each pass has its own questions, so no pass is in a prefix cache when it starts; within a pass both sides use
their prefix cache.

The bench also measures the cost of a request on top of its judgment: the same path over HTTP with a scripted engine
that answers at once, for several numbers of replicas.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from flex_judge.experiments.commands.bench.logged import Log, LoggedEngine, split_into_waves
from flex_judge.experiments.commands.bench.result import BenchResult
from flex_judge.experiments.commands.bench.texts import make_comparisons
from flex_judge.experiments.commands.serve.run import find_free_port
from flex_judge.experiments.common.flags import setting
from flex_judge.experiments.common.stopping import run_async
from flex_judge.judges.engines import load_engine
from flex_judge.judges.engines.base import EngineConfig, Sampling
from flex_judge.judges.errors import UsageError
from flex_judge.judges.judge import FlexJudge
from flex_judge.judges.judgments import Judgment, Status
from flex_judge.judges.protocol.settings import JudgeConfig, JudgeSettings
from flex_judge.judges.types import Comparison
from flex_judge.judges.validation.classes import PositiveInt, settings_class
from flex_judge.reward.client.client import JudgeClient
from flex_judge.reward.server.gateway import GatewayConfig
from flex_judge.reward.serving.cluster import Cluster, connect
from flex_judge.reward.serving.config import PRIVATE_DRAIN_S
from flex_judge.reward.serving.service import HttpAddress, JudgeService, ServiceConfig

GOAL = 0.9
"""Minimum of the time of `LLM.generate` over the time of the service."""
REPLICAS = (1, 2, 4, 8)
SCRIPT = "flex_judge.experiments.commands.bench.service:answer_at_once"


@settings_class
class ServiceBenchConfig:
    """Settings of the service bench."""

    model: str = setting("smollm2-135m", "Judge model: embedded name, folder or hub id", metavar="MODEL")
    questions: PositiveInt = setting(8, "Number of questions, each with a group of candidates", metavar="N")
    candidates: PositiveInt = setting(8, "Number of candidates per question", metavar="N")
    words: PositiveInt = setting(60, "Length of a question and of a candidate in words", metavar="N")
    think: PositiveInt = setting(48, "Thinking budget in tokens", metavar="N")
    repeats: PositiveInt = setting(3, "Number of runs of each side", metavar="N")
    requests: PositiveInt = setting(100, "Number of requests for each overhead measurement", metavar="N")
    seed: int = setting(0, "Seed of the generated texts", metavar="N")


def run(config: ServiceBenchConfig) -> BenchResult:
    """Measure with the vllm engine on a local Ray cluster."""
    # The first pass warms up both sides (grammars are compiled on their first use) and does not count.
    passes = [_make_comparisons(config, f"{config.seed}-{repeat}") for repeat in range(config.repeats + 1)]
    settings = JudgeSettings(max_think_tokens=config.think, max_answer_tokens=16, temperature=0.0)
    with connect() as cluster:
        engine = EngineConfig(config.model, "vllm", max_model_len=2048, max_batch=256)
        service = ServiceConfig(JudgeConfig(engine, settings), replicas=1, name="bench", drain_s=PRIVATE_DRAIN_S)
        service = service.place_on(cluster)
        logs, engine_args = _record_requests(service.judge.engine, settings, passes)
        times = run_async(_measure_passes(service, passes, logs, engine_args))[1:]
        overheads = [run_async(_measure_overhead(cluster, replicas, config)) for replicas in REPLICAS]
    ratios = [llm_s / service_s for service_s, llm_s in times]
    ratio = statistics.median(ratios)
    tokens = sum(len(generation.token_ids) for log in logs[1:] for _, _, generation in log)
    return BenchResult(
        name="service",
        ratio=round(ratio, 3),
        goal=GOAL,
        met=ratio >= GOAL,
        details={
            "worst_ratio": round(min(ratios), 3),
            "judgments_of_a_pass": len(passes[0]),
            "generated_tokens": tokens,
            "tokens_per_second_service": round(tokens / sum(service_s for service_s, _ in times)),
            "passes": [
                {"service_s": round(service_s, 2), "llm_generate_s": round(llm_s, 2)} for service_s, llm_s in times
            ],
            "overhead_by_replicas": overheads,
        },
    )


def answer_at_once(prompt: str, sampling: Sampling) -> str:  # noqa: ARG001 - the signature of a script
    """Give the shortest valid reply of a judge, as the scripted engine."""
    if sampling.stop == ("</think>",):
        return "So.</think>"
    answers = "<answer>7</answer>" * max(1, (sampling.regex or "").count("</answer>"))
    # With a grammar, the prompt ends with the first opening tag already.
    return answers.removeprefix("<answer>") if sampling.regex else answers


def _make_comparisons(config: ServiceBenchConfig, seed: str) -> list[Comparison]:
    return make_comparisons(config.questions, config.candidates, config.words, config.words, random.Random(seed))


def _record_requests(
    config: EngineConfig, settings: JudgeSettings, passes: Sequence[Sequence[Comparison]]
) -> tuple[list[Log], dict[str, Any]]:
    """Judge each pass in this process.

    Returns:
        The requests of the judge to its engine in each pass, and the arguments for `vllm.LLM`.
    """
    engine: Any = load_engine(config)
    try:
        logs = []
        for comparisons in passes:
            logged = LoggedEngine(engine)
            FlexJudge(logged, settings).judge(comparisons)
            logs.append(logged.log)
        return logs, dict(engine.engine_args)
    finally:
        engine.close()


async def _measure_passes(
    config: ServiceConfig, passes: Sequence[Sequence[Comparison]], logs: Sequence[Log], engine_args: dict[str, Any]
) -> list[tuple[float, float]]:
    """Measure the seconds of each pass through the service and with `LLM.generate`."""
    from vllm import LLM

    llm = LLM(**engine_args)
    async with _run_service(config) as (_, client):
        times = []
        for comparisons, log in zip(passes, logs, strict=True):
            waves = split_into_waves(log)
            start = time.perf_counter()
            judgments = await client.judge(comparisons)
            middle = time.perf_counter()
            for wave in waves:
                _generate_wave(llm, wave)
            times.append((middle - start, time.perf_counter() - middle))
            _check_judgments(judgments)
    return times


def _generate_wave(llm: Any, requests: Log) -> None:
    """Generate all requests with one call of `LLM.generate`, each with the sampling settings of the judge."""
    from vllm import SamplingParams, TokensPrompt
    from vllm.sampling_params import StructuredOutputsParams

    prompts = [TokensPrompt(prompt_token_ids=list(prompt)) for prompt, _, _ in requests]
    params = [
        SamplingParams(
            # Exactly the length that the judge generated, so that both sides do the same amount of work.
            max_tokens=len(generation.token_ids) + (generation.finish_reason == "eos"),
            ignore_eos=True,
            temperature=sampling.temperature,
            structured_outputs=StructuredOutputsParams(regex=sampling.regex) if sampling.regex else None,
            logprob_token_ids=list(sampling.logprob_token_ids) or None,
        )
        for _, sampling, generation in requests
    ]
    llm.generate(prompts, params, use_tqdm=False)


@asynccontextmanager
async def _run_service(config: ServiceConfig) -> AsyncIterator[tuple[JudgeService, JudgeClient]]:
    """Run a service with HTTP on a free local port; yield it with a client when it is ready."""
    config = replace(config, gateway=GatewayConfig())
    async with JudgeService(config, HttpAddress(port=find_free_port("127.0.0.1", 0))) as service:
        await service.wait_until_ready()
        yield service, JudgeClient(service.url)


async def _measure_overhead(cluster: Cluster, replicas: int, config: ServiceBenchConfig) -> dict[str, Any]:
    """Measure the milliseconds per request with a judge that answers at once: sequential, and concurrent."""
    judge = JudgeConfig(EngineConfig(SCRIPT, "scripted"), JudgeSettings(temperature=0.0))
    cpus = cluster.cpus / replicas
    service = ServiceConfig(judge, replicas, name=f"bench-{replicas}", cpus_per_replica=cpus, drain_s=PRIVATE_DRAIN_S)
    service = service.place_on(cluster)
    repeated = itertools.islice(itertools.cycle(_make_comparisons(config, "overhead")), config.requests)
    comparisons = [replace(comparison, id=str(i)) for i, comparison in enumerate(repeated)]
    async with _run_service(service) as (_, client):
        await client.judge(comparisons[:8])
        sequential_s = []
        for comparison in comparisons:
            start = time.perf_counter()
            await client.judge([comparison])
            sequential_s.append(time.perf_counter() - start)
        start = time.perf_counter()
        for judgments in await asyncio.gather(*(client.judge([comparison]) for comparison in comparisons)):
            _check_judgments(judgments)
        concurrent_s = time.perf_counter() - start
    return {
        "replicas": replicas,
        "ms_alone": round(1000 * statistics.median(sequential_s), 1),
        "ms_each_of_many": round(1000 * concurrent_s / len(comparisons), 1),
    }


def _check_judgments(judgments: Sequence[Judgment]) -> None:
    """Raise UsageError for a failed judgment, because the speed of failures means nothing."""
    failed = [judgment for judgment in judgments if judgment.status != Status.OK]
    if failed:
        raise UsageError(
            f"{len(failed)} judgments have no score, the first is {failed[0].status}: {failed[0].votes[0].detail}"
        )
