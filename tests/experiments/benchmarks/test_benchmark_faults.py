"""Faults of the published evaluation code, each with a test that this evaluation does not have it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import benchmark_data as data
import numpy as np
import pytest
from eval_command import make_item

from flex_judge.experiments.benchmarks.items import TIE, extract_prediction
from flex_judge.experiments.benchmarks.metrics import ranking_distance
from flex_judge.experiments.benchmarks.replies import replay_replies
from flex_judge.experiments.benchmarks.scores import OpinionScoring, RankingScoring
from flex_judge.experiments.benchmarks.scoring import PairScoring
from flex_judge.experiments.benchmarks.stored import StoredReplies
from flex_judge.judges.judgments import Status
from flex_judge.judges.media import opening as media
from flex_judge.judges.models.inputs.preparation import prepare_media
from flex_judge.judges.models.profiles import PROFILES

FIRST, SECOND, TIED, UNPARSEABLE = (
    "<think>x</think><answer>7</answer><answer>5</answer>",
    "<think>x</think><answer>5</answer><answer>7</answer>",
    "<think>x</think><answer>5</answer><answer>5</answer>",
    "<think>x</think>I cannot tell.",
)


def replay(rubric: str, label: Any, *texts: str, responses: int = 2, **groups: str) -> Any:
    return replay_replies(make_item(rubric, label, responses, **groups), StoredReplies("here", texts), "as_given")


def test_three_equal_runs_have_the_metric_of_one() -> None:
    for texts in ([FIRST], [FIRST] * 3):
        outcomes = [replay("mllm_judge_pair", label, *texts) for label in (0, 0, 1)]
        assert PairScoring().compute_metrics(outcomes, 0)["agreement"].value == pytest.approx(2 / 3)


def test_parses_decimal_scores() -> None:
    assert replay("speech_quality", 3.0, "<think>x</think><answer>3.5</answer>", responses=1).score == 3.5


def test_tie_in_a_ranking_is_not_broken_by_position() -> None:
    assert ranking_distance([5, 5], [0, 1]) == ranking_distance([5, 5], [1, 0]) == 0.5


def test_majority_of_ties_is_a_tie() -> None:
    assert extract_prediction(replay("mllm_judge_pair", TIE, FIRST, TIED, TIED).combined_judgment) == TIE
    assert extract_prediction(replay("mllm_judge_pair", TIE, TIED, FIRST, TIED).combined_judgment) == TIE


def test_unknown_option_is_unparseable_and_not_both_bad() -> None:
    outcome = replay("genai_image", "A=B=Bad", "<think>x</think><answer>[[C>D]]</answer>")
    assert outcome.judgments[0].status is Status.UNPARSEABLE
    assert PairScoring(by_options=True).compute_credit(outcome) == (None, 0.0)


def test_failed_replies_do_not_vote() -> None:
    outcome = replay("mllm_judge_pair", 0, UNPARSEABLE, UNPARSEABLE, FIRST)
    assert extract_prediction(outcome.combined_judgment) == 0
    assert PairScoring().compute_credit(outcome) == (1.0, pytest.approx(1 / 3))


def test_failed_replies_do_not_enter_correlations() -> None:
    rows = [(1.0, "1.0"), (2.0, "2.0"), (3.0, "3.0"), (5.0, "none"), (1.0, "-1")]
    outcomes = [
        replay("speech_quality", label, f"<think>x</think><answer>{score}</answer>", responses=1)
        for label, score in rows
    ]
    metrics = OpinionScoring().compute_metrics(outcomes, 0)
    assert metrics["lcc"].value == pytest.approx(1.0)
    assert (metrics["lcc"].count, metrics["lcc"].asked, metrics["lcc"].strict) == (3, 5, None)


def test_missing_ranking_is_not_an_empty_one() -> None:
    outcome = replay("mllm_judge_batch", (0, 1, 2), UNPARSEABLE, responses=3, source="a")
    metric = RankingScoring().compute_metrics([outcome], 0)["distance"]
    assert (metric.value, metric.strict) == (None, 1.0)


def test_unfinished_thinking_is_no_verdict_whatever_it_quotes() -> None:
    outcome = replay("mllm_judge_pair", 0, "<think>They may say <answer>9</answer><answer>1</answer> or")
    assert outcome.judgments[0].status is Status.TRUNCATED


def test_resampling_a_clip_keeps_its_loudness(tmp_path: Path) -> None:
    clips = [data.write_clip(tmp_path / f"{rate}.wav", rate=rate) for rate in (16_000, 48_000)]
    omni = PROFILES["flex-omni"]
    peaks = [float(np.abs(prepare_media(media.make_audio(clip), omni, omni.limits).value).max()) for clip in clips]
    assert peaks == pytest.approx([0.5, 0.5], abs=0.02)
