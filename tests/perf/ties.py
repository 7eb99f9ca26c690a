"""Ties at the top of best-of-N: by expected scores compared with written scores."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated

from annotated_types import Ge

from flex_judge.alignment.tasks import arithmetic
from flex_judge.experiments.commands.bench.result import BenchResult
from flex_judge.experiments.common.flags import setting
from flex_judge.judges.engines import load_engine
from flex_judge.judges.engines.base import EngineConfig
from flex_judge.judges.errors import UsageError
from flex_judge.judges.judge import FlexJudge
from flex_judge.judges.protocol.settings import JudgeSettings
from flex_judge.judges.types import Comparison
from flex_judge.judges.validation.classes import PositiveInt, settings_class
from flex_judge.reward.groups.rewards import get_expected_score, get_written_score

GOAL = 0.2
"""Maximum number of groups tied by expected score, as a fraction of those tied by written score."""
FORMS = ("{n}", "It is {n}.", "The answer is {n}.", "{n} is the result.")


@settings_class
class TiesConfig:
    """Settings of the measurement."""

    model: str = setting("smollm2-135m", "Judge model: embedded name, folder or hub id", metavar="MODEL")
    engine: str = setting("auto", "Engine of the judge", choices=("auto", "vllm", "transformers"))
    groups: PositiveInt = setting(12, "Number of questions", metavar="N")
    samples: Annotated[int, Ge(2)] = setting(16, "Number of different candidates per question", metavar="N")
    think: PositiveInt = setting(24, "Thinking budget in tokens", metavar="N")
    rubric: str = setting("general", "Rubric: a preset or a TOML file", metavar="NAME")
    seed: int = setting(0, "Seed of questions and candidates", metavar="N")


def run(config: TiesConfig) -> BenchResult:
    """Judge distinct candidates and count the groups whose best score is shared."""
    engine = load_engine(EngineConfig(config.model, config.engine, max_model_len=1024))
    try:
        settings = JudgeSettings(max_think_tokens=config.think, max_answer_tokens=16, temperature=0.0)
        comparisons = _make_comparisons(config)
        judgments = FlexJudge(engine, settings).judge(comparisons)
        name = engine.name
    finally:
        engine.close()
    written, expected, unscored = 0, 0, 0
    for start in range(0, len(judgments), config.samples):
        group = [j for j in judgments[start : start + config.samples] if j.scores is not None]
        unscored += config.samples - len(group)
        written += _has_tied_top([get_written_score(j) for j in group])
        expected += _has_tied_top([get_expected_score(j) for j in group])
    if not written:
        raise UsageError(
            f"none of {config.groups} groups is tied by written score, so there is no ratio; raise --groups"
        )
    ratio = expected / written
    return BenchResult(
        "ties",
        round(ratio, 4),
        GOAL,
        ratio <= GOAL,
        {
            "groups": config.groups,
            "samples": config.samples,
            "tied_by_written_score": round(written / config.groups, 4),
            "tied_by_expected_score": round(expected / config.groups, 4),
            "unscored": unscored,
            "engine": name,
            "rubric": config.rubric,
        },
    )


def _has_tied_top(scores: Sequence[float | None]) -> bool:
    defined = [score for score in scores if score is not None]
    return len(defined) > 1 and defined.count(max(defined)) > 1


def _make_comparisons(config: TiesConfig) -> list[Comparison]:
    rng = random.Random(f"ties-{config.seed}")
    comparisons = []
    for question in arithmetic.generate_questions(config.groups, config.seed):
        wrong_answers = range(question.answer - config.samples, question.answer + config.samples)
        numbers = [question.answer, *rng.sample([n for n in wrong_answers if n != question.answer], config.samples - 1)]
        rng.shuffle(numbers)
        comparisons += [
            Comparison.of(question.text, rng.choice(FORMS).format(n=n), rubric=config.rubric) for n in numbers
        ]
    return comparisons
