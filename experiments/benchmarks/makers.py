"""Counting rules of the makers of benchmarks, where they differ from this project's.

A rule turns the outcome of an item into the outcome that the makers' scripts count. Reports show both metrics.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from flex_judge.experiments.benchmarks.items import NOT_JUDGED, ItemOutcome, extract_prediction
from flex_judge.judges.judgments import Judgment, Status, Verdict
from flex_judge.judges.protocol.voting import combine_votes

MakersRule = Callable[[ItemOutcome], ItemOutcome | None]
"""Rule that returns the outcome to count, or None to leave the item out."""


def count_unreadable_as_tie(outcome: ItemOutcome) -> ItemOutcome:
    """Count each reply without a verdict as a tie.

    The rule of JudgeLM and PandaLM; of RewardBench too, where a tie is half a point; and, in expectation, of Multimodal
    RewardBench, which flips a coin. An item that was not judged stays without a verdict, because the makers have a
    reply to every item.
    """
    judgments = tuple(_make_tie(judgment) if _is_unreadable(judgment) else judgment for judgment in outcome.judgments)
    return replace(outcome, judgments=judgments)


def add_up_runs(outcome: ItemOutcome) -> ItemOutcome:
    """Count the runs for the first response minus those for the second; their sign is the verdict.

    Ties and unreadable replies add nothing, so one run outweighs two ties. The rule of Flex-Judge for MLLM-as-a-Judge.
    """
    if any(NOT_JUDGED in judgment.provenance for judgment in outcome.judgments):
        return outcome
    preferences = [judgment.preferred for judgment in outcome.judgments]
    lead = preferences.count(0) - preferences.count(1)
    winner = None if not lead else 0 if lead > 0 else 1
    agreeing = [judgment for judgment in outcome.judgments if winner is not None and judgment.preferred == winner]
    return replace(outcome, judgments=(agreeing[0] if agreeing else _make_tie(outcome.judgments[0]),))


def take_first_mode(outcome: ItemOutcome) -> ItemOutcome:
    """Take the most frequent option of the runs, the first one seen if several are level.

    Unreadable replies vote as an option of their own, which is never right. The rule of Flex-Judge for GenAI-Bench.
    """
    options = [extract_prediction(judgment, by_options=True) for judgment in outcome.judgments]
    # `most_common` keeps the order of first occurrence among equal counts.
    mode = Counter(options).most_common(1)[0][0]
    return replace(outcome, judgments=(outcome.judgments[options.index(mode)],))


def take_absolute_majority(outcome: ItemOutcome) -> ItemOutcome | None:
    """Take the response that more than half of the runs prefer; leave out items without one or with unreadable replies.

    The rule of VL-RewardBench.
    """
    preferences = [judgment.preferred for judgment in outcome.judgments if judgment.scores is not None]
    if len(preferences) < len(outcome.judgments):
        return None
    winner = next((k for k in (0, 1) if 2 * preferences.count(k) > len(preferences)), None)
    if winner is None:
        return None
    return replace(outcome, judgments=(outcome.judgments[preferences.index(winner)],))


def _is_unreadable(judgment: Judgment) -> bool:
    return judgment.scores is None and judgment.status.is_final and NOT_JUDGED not in judgment.provenance


def _make_tie(judgment: Judgment) -> Judgment:
    return combine_votes(judgment.id, [[Verdict(Status.OK, scores=(0.0, 0.0), order=(0, 1))]])
