"""Benchmarks of judges by command name."""

from __future__ import annotations

from flex_judge.experiments.benchmarks.audio import BVCC, NISQA, SOMOS, VoxSim
from flex_judge.experiments.benchmarks.benchmark import Benchmark
from flex_judge.experiments.benchmarks.genai_bench import GenAIBench
from flex_judge.experiments.benchmarks.judge_anything import JudgeAnything
from flex_judge.experiments.benchmarks.labelled import Labelled
from flex_judge.experiments.benchmarks.mllm_judge import MLLMJudge
from flex_judge.experiments.benchmarks.reward_models import JudgeBench, LLMBar, RewardBench
from flex_judge.experiments.benchmarks.rewardbench2 import RewardBench2
from flex_judge.experiments.benchmarks.text import JudgeLM, PandaLM
from flex_judge.experiments.benchmarks.vision import MJBench, MultimodalRewardBench, VLRewardBench

OWN_DATA = Labelled()
"""Benchmark of the user's own data; it has no release and no published results."""
BENCHMARKS: dict[str, Benchmark] = {
    benchmark.spec.name: benchmark
    for benchmark in (
        MLLMJudge(),
        VLRewardBench(),
        MJBench(),
        GenAIBench(),
        MultimodalRewardBench(),
        JudgeAnything(),
        NISQA(),
        BVCC(),
        SOMOS(),
        VoxSim(),
        PandaLM(),
        JudgeLM(),
        LLMBar(),
        JudgeBench(),
        RewardBench(),
        RewardBench2(),
    )
}


def find_benchmark(name: str) -> Benchmark | None:
    """Find a benchmark, also the one of the user's own data, by its command name."""
    return OWN_DATA if name == OWN_DATA.spec.name else BENCHMARKS.get(name)
