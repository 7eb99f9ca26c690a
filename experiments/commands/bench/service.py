"""The whole service (HTTP, gateway, router, replica) against `LLM.generate` with the same prompts at once.

Both sides run the same model greedily on the same prompts with all cores of this machine, one after the other, several
times. A judgment is more than one request, because the judge thinks, then answers; `LLM.generate` gets each of these
waves as one call. Each pass has questions of its own, so that neither side finds a pass in its prefix cache; within a
pass both use it.

Besides, what a request costs on top of its judgment: the same way through HTTP with a scripted engine that answers at
once, on several numbers of replicas.
"""

from __future__ import annotations

import asyncio
import itertools
import os
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
from flex_judge.reward.serving.service import HttpAddress, JudgeService, ServiceConfig

GOAL = 0.9
"""Time of `LLM.generate` over time of the service: at least."""
REPLICAS = (1, 2, 4, 8)
WORKER_NICENESS = 15
"""Of Ray's workers, as Ray sets it; the other side runs with the same, or what Ray does besides would cost it less."""
SCRIPT = "flex_judge.experiments.commands.bench.service:answer"


@settings_class
class ServiceBenchConfig:
    """Settings of the bench."""

    model: str = setting("smollm2-135m", "Judge model: embedded name, folder or hub id", metavar="MODEL")
    questions: PositiveInt = setting(8, "Number of questions, each with a group of candidates", metavar="N")
    candidates: PositiveInt = setting(8, "Number of candidates per question", metavar="N")
    words: PositiveInt = setting(60, "Length of a question and of a candidate in words", metavar="N")
    think: PositiveInt = setting(48, "Thinking budget in tokens", metavar="N")
    repeats: PositiveInt = setting(3, "Number of runs of each side", metavar="N")
    requests: PositiveInt = setting(100, "Number of requests for each overhead measurement", metavar="N")
    seed: int = setting(0, "Seed of the texts", metavar="N")


def run(config: ServiceBenchConfig) -> BenchResult:
    """Measure with the vllm engine on a local Ray."""
    # The first pass warms both sides up (grammars are compiled at their first use) and does not count.
    passes = [_make_comparisons(config, f"{config.seed}-{repeat}") for repeat in range(config.repeats + 1)]
    settings = JudgeSettings(max_think_tokens=config.think, max_answer_tokens=16, temperature=0.0)
    with connect() as cluster:
        engine = EngineConfig(config.model, "vllm", max_model_len=2048, max_batch=256)
        service = ServiceConfig(JudgeConfig(engine, settings), replicas=1, name="bench").place_on(cluster)
        logs, arguments = _record_requests(service.judge.engine, settings, passes)
        times = asyncio.run(_measure_passes(service, passes, logs, arguments))[1:]
        overheads = [asyncio.run(_measure_overhead(cluster, replicas, config)) for replicas in REPLICAS]
    ratios = [alone / served for served, alone in times]
    ratio = statistics.median(ratios)
    tokens = sum(len(generation.token_ids) for log in logs[1:] for _, _, generation in log)
    return BenchResult(
        "service",
        round(ratio, 3),
        GOAL,
        ratio >= GOAL,
        {
            "worst_ratio": round(min(ratios), 3),
            "judgments_of_a_pass": len(passes[0]),
            "generated_tokens": tokens,
            "tokens_per_second_service": round(tokens / sum(served for served, _ in times)),
            "passes": [{"service_s": round(served, 2), "llm_generate_s": round(alone, 2)} for served, alone in times],
            "overhead_by_replicas": overheads,
        },
    )


def answer(prompt: str, sampling: Sampling) -> str:  # noqa: ARG001 - the signature of a script
    """What the scripted engine says: as little as a judge can."""
    if sampling.stop == ("</think>",):
        return "So.</think>"
    answers = "<answer>7</answer>" * max(1, (sampling.regex or "").count("</answer>"))
    return answers.removeprefix("<answer>") if sampling.regex else answers


def _make_comparisons(config: ServiceBenchConfig, seed: str) -> list[Comparison]:
    return make_comparisons(config.questions, config.candidates, config.words, config.words, random.Random(seed))


def _record_requests(
    config: EngineConfig, settings: JudgeSettings, passes: Sequence[Sequence[Comparison]]
) -> tuple[list[Log], dict[str, Any]]:
    """What the judge asks of its engine in each pass, and the arguments that the engine was made with."""
    engine: Any = load_engine(config)
    try:
        logs = []
        for work in passes:
            logged = LoggedEngine(engine)
            FlexJudge(logged, settings).judge(work)
            logs.append(logged.log)
        return logs, dict(engine.engine_args)
    finally:
        engine.close()


async def _measure_passes(
    config: ServiceConfig, passes: Sequence[Sequence[Comparison]], logs: Sequence[Log], arguments: dict[str, Any]
) -> list[tuple[float, float]]:
    """Seconds of each pass, through the service and by `LLM.generate`."""
    from vllm import LLM

    os.nice(max(0, WORKER_NICENESS - os.nice(0)))
    llm = LLM(**arguments)
    async with _run_service(config) as (_, client):
        times = []
        for work, requests in zip(passes, map(split_into_waves, logs), strict=True):
            start = time.perf_counter()
            judgments = await client.judge(work)
            middle = time.perf_counter()
            for wave in requests:
                _generate_wave(llm, wave)
            times.append((middle - start, time.perf_counter() - middle))
            _check_judgments(judgments)
    return times


def _generate_wave(llm: Any, requests: Log) -> None:
    """Give `LLM.generate` requests at once, each with the sampling that the judge asked for."""
    from vllm import SamplingParams, TokensPrompt
    from vllm.sampling_params import StructuredOutputsParams

    prompts = [TokensPrompt(prompt_token_ids=list(prompt)) for prompt, _, _ in requests]
    sampling = [
        SamplingParams(
            max_tokens=len(generation.token_ids) + (generation.finish_reason == "eos"),  # just what the judge wrote
            ignore_eos=True,
            temperature=s.temperature,
            structured_outputs=StructuredOutputsParams(regex=s.regex) if s.regex else None,
            logprob_token_ids=list(s.logprob_token_ids) or None,
        )
        for _, s, generation in requests
    ]
    llm.generate(prompts, sampling, use_tqdm=False)


@asynccontextmanager
async def _run_service(config: ServiceConfig) -> AsyncIterator[tuple[JudgeService, JudgeClient]]:
    """The service with HTTP on a free port of this machine, ready, and a client to it."""
    config = replace(config, gateway=GatewayConfig())
    async with JudgeService(config, HttpAddress(port=find_free_port("127.0.0.1", 0))) as service:
        await service.wait_until_ready()
        yield service, JudgeClient(service.url)


async def _measure_overhead(cluster: Cluster, replicas: int, config: ServiceBenchConfig) -> dict[str, Any]:
    """Milliseconds of a request with a judge that answers at once: one request at a time, and many."""
    judge = JudgeConfig(EngineConfig(SCRIPT, "scripted"), JudgeSettings(temperature=0.0))
    share = cluster.cpus / replicas
    service = ServiceConfig(judge, replicas, name=f"bench-{replicas}", cpus_per_replica=share).place_on(cluster)
    many = itertools.islice(itertools.cycle(_make_comparisons(config, "overhead")), config.requests)
    work = [replace(comparison, id=str(i)) for i, comparison in enumerate(many)]
    async with _run_service(service) as (_, client):
        await client.judge(work[:8])
        alone = []
        for comparison in work:
            start = time.perf_counter()
            await client.judge([comparison])
            alone.append(time.perf_counter() - start)
        start = time.perf_counter()
        for judgments in await asyncio.gather(*(client.judge([comparison]) for comparison in work)):
            _check_judgments(judgments)
        together = time.perf_counter() - start
    return {
        "replicas": replicas,
        "ms_alone": round(1000 * statistics.median(alone), 1),
        "ms_each_of_many": round(1000 * together / len(work), 1),
    }


def _check_judgments(judgments: Sequence[Judgment]) -> None:
    """A bench of a service that failed says nothing of its speed."""
    wrong = [j for j in judgments if j.status != Status.OK]
    if wrong:
        raise UsageError(
            f"{len(wrong)} judgments have no score, the first is {wrong[0].status}: {wrong[0].votes[0].detail}"
        )
