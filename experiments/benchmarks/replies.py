"""Parse stored replies into judgments without a model, in this project's format and in published ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from flex_judge.experiments.benchmarks.items import ANY_TIE, OFF_SCALE, Item, ItemOutcome, make_placeholder_judgment
from flex_judge.experiments.benchmarks.reply_formats import (
    LEVEL,
    OWN_FORMAT,
    REPLY_FORMATS,
    PairScores,
    parse_answer_tags,
)
from flex_judge.experiments.benchmarks.stored import StoredReplies
from flex_judge.judges.errors import UsageError
from flex_judge.judges.judgments import Status, Verdict
from flex_judge.judges.protocol.parsing import Reply, extract_answer, parse_verdict
from flex_judge.judges.protocol.prompts import ANSWER_OPEN, THINK_CLOSE, THINK_OPEN
from flex_judge.judges.protocol.voting import combine_votes, plan_orders
from flex_judge.judges.rubrics import load_rubric
from flex_judge.judges.rubrics.rubric import Rubric
from flex_judge.judges.rubrics.scale import OPTIONS

NO_REPLY = "there is no reply"


def replay_replies(
    item: Item, stored: StoredReplies | None, order: str, formats: Sequence[str] = (OWN_FORMAT,)
) -> ItemOutcome:
    """Parse the stored replies to an item.

    Args:
        item: The item.
        stored: Its replies; None leaves the item unscored.
        order: See `JudgeSettings.order`. `random` is taken as the given order, unless the row states its orders.
        formats: Formats to try for replies to pairs, see `list_formats`. Replies to single responses are always in
            OWN_FORMAT. A score off the rubric's scale is accepted from other judges of two or more responses only,
            where the order is all that counts, and is counted in the provenance.

    Raises:
        UsageError: A run lacks replies, or the orders are invalid.
    """
    rubric, response_count = load_rubric(item.row.rubric), len(item.row.data["responses"])
    if stored is None or not stored.texts:
        return ItemOutcome(item, (make_placeholder_judgment(item.id, f"{item.id}: {NO_REPLY}"),))
    texts = iter(stored.texts)
    judgments = []
    for run_orders in _assign_orders(stored, response_count, order):
        replies = [_parse_reply(next(texts), rubric, reply_order, formats) for reply_order in run_orders]
        votes, num_off_scale = [reply.verdict for reply in replies], sum(reply.is_off_scale for reply in replies)
        provenance = {OFF_SCALE: num_off_scale} if num_off_scale else {}
        judgments.append(combine_votes(item.id, [votes], model="stored replies", provenance=provenance))
    return ItemOutcome(item, tuple(judgments))


def _assign_orders(stored: StoredReplies, response_count: int, order: str) -> list[list[tuple[int, ...]]]:
    """Return the orders of the replies, grouped by run."""
    count = len(stored.texts)
    run_orders = plan_orders(response_count, "as_given" if order == "random" else order)
    # A single reply is a run of one order, even if the settings ask for several.
    run_size = 1 if count == 1 else len(run_orders)
    if count % run_size:
        raise UsageError(
            f"{stored.where}: got {count} replies, expected a multiple of {run_size}: one per reading order"
        )
    reply_orders = stored.orders or tuple(run_orders[k % run_size] for k in range(count))
    if any(len(reply_order) != response_count for reply_order in reply_orders):
        raise UsageError(f"{stored.where}, field 'orders': expected orders of {response_count} responses")
    return [list(reply_orders[k : k + run_size]) for k in range(0, count, run_size)]


@dataclass(frozen=True)
class _ParsedReply:
    verdict: Verdict
    is_off_scale: bool = False
    """Whether the verdict has a score off the rubric's scale, which only other judges may give."""


def _parse_reply(text: str | None, rubric: Rubric, order: tuple[int, ...], formats: Sequence[str]) -> _ParsedReply:
    """Parse a reply into a verdict on the responses in their given order."""
    if text is None or not text.strip():
        return _ParsedReply(Verdict(Status.UNPARSEABLE, order=order, detail=NO_REPLY))
    parsed = _parse_verdict(text, rubric, len(order), formats)
    given_order = tuple(order.index(i) for i in range(len(order)))
    verdict = replace(parsed.verdict.permute_responses(given_order), order=order)
    return replace(parsed, verdict=verdict)


def _parse_verdict(text: str, rubric: Rubric, response_count: int, formats: Sequence[str]) -> _ParsedReply:
    """Parse a reply into a verdict on the responses in the judge's reading order."""
    before_close, close_tag, _ = text.rpartition(THINK_CLOSE)
    # Scores quoted within unfinished thinking are not a verdict.
    if not close_tag and THINK_OPEN in text:
        return _ParsedReply(Verdict(Status.TRUNCATED, reasoning=text, detail="the thinking has no end"))
    answer = extract_answer(text)
    reasoning = before_close if close_tag else answer.partition(ANSWER_OPEN)[0]
    verdict = parse_verdict(Reply(reasoning, answer, cut=False), rubric, response_count)
    is_only_format = response_count == 1 or tuple(formats) == (OWN_FORMAT,)
    is_tried = response_count != 2 or OWN_FORMAT in formats
    if is_only_format or (is_tried and verdict.scores is not None):
        return _ParsedReply(verdict)
    scored = Verdict(Status.OK, reasoning=reasoning.strip() or answer.strip())
    if response_count > 2:
        scores = parse_answer_tags(answer, response_count)
        if scores is None or not all(map(math.isfinite, scores)):
            return _ParsedReply(verdict)
        return _ParsedReply(replace(scored, scores=scores), is_off_scale=True)
    for name in formats:
        # Tags that our own judges write are no verdict in another format, unless it is the only one.
        is_other = ANSWER_OPEN in answer and name != "judgelrm" and len(formats) > 1
        parsed = None if name == OWN_FORMAT or is_other else REPLY_FORMATS[name].parse(answer)
        # A number of hundreds of digits is infinite, which is no score.
        if isinstance(parsed, str) or (parsed is not None and all(map(math.isfinite, parsed))):
            return _adapt_to_rubric(scored, parsed, rubric, REPLY_FORMATS[name].has_scores)
    detail = verdict.detail or f"no verdict in the format {' or '.join(formats)}"
    return _ParsedReply(Verdict(Status.UNPARSEABLE, reasoning=verdict.reasoning, detail=detail))


def _adapt_to_rubric(verdict: Verdict, parsed: PairScores | str, rubric: Rubric, has_scores: bool) -> _ParsedReply:
    """Add what another judge said to a verdict: an option if the rubric asks for one, else scores."""
    if isinstance(parsed, str):
        option, scores = parsed, OPTIONS.get(parsed, LEVEL)
    else:
        option = ANY_TIE if parsed[0] == parsed[1] else "A>B" if parsed[0] > parsed[1] else "B>A"
        scores = parsed
    if rubric.has_options:
        return _ParsedReply(replace(verdict, scores=OPTIONS.get(option, LEVEL), choice=option))
    is_off_scale = has_scores and any(score not in rubric.scale for score in scores)
    return _ParsedReply(replace(verdict, scores=scores), is_off_scale)
