"""Parse stored replies into judgments without a model, in this project's format and in published ones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from flex_judge.experiments.benchmarks.items import Item, ItemOutcome, make_placeholder_judgment
from flex_judge.experiments.benchmarks.stored import StoredReplies
from flex_judge.judges.errors import UsageError
from flex_judge.judges.judgments import Status, Verdict
from flex_judge.judges.protocol.parsing import Reply, extract_answer, parse_verdict
from flex_judge.judges.protocol.prompts import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, THINK_OPEN
from flex_judge.judges.protocol.voting import combine_votes, plan_orders
from flex_judge.judges.rubrics import load_rubric
from flex_judge.judges.rubrics.rubric import Rubric
from flex_judge.judges.rubrics.scale import OPTIONS

NO_REPLY = "there is no reply"


def replay_replies(item: Item, stored: StoredReplies | None, order: str, formats: Sequence[str] = ()) -> ItemOutcome:
    """Parse the stored replies to an item.

    Args:
        item: The item.
        stored: Its replies; None leaves the item unscored.
        order: See `JudgeSettings.order`. `random` is taken as the given order, unless the row states its orders.
        formats: Names in REPLY_FORMATS: further formats of pairwise verdicts, for replies without `<answer>`.

    Raises:
        UsageError: A run lacks replies, or the orders are invalid.
    """
    rubric, response_count = load_rubric(item.row.rubric), len(item.row.data["responses"])
    if stored is None or not stored.texts:
        return ItemOutcome(item, (make_placeholder_judgment(item.id, f"{item.id}: {NO_REPLY}"),))
    texts = iter(stored.texts)
    judgments = []
    for run_orders in _assign_orders(stored, response_count, order):
        votes = [_parse_reply(next(texts), rubric, reply_order, formats) for reply_order in run_orders]
        judgments.append(combine_votes(item.id, [votes], model="stored replies"))
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


def _parse_reply(text: str | None, rubric: Rubric, order: tuple[int, ...], formats: Sequence[str]) -> Verdict:
    """Parse a reply into a verdict on the responses in their given order."""
    if text is None or not text.strip():
        return Verdict(Status.UNPARSEABLE, order=order, detail=NO_REPLY)
    verdict = _parse_verdict(text, rubric, len(order), formats)
    given_order = tuple(order.index(i) for i in range(len(order)))
    return replace(verdict.permute_responses(given_order), order=order)


def _parse_verdict(text: str, rubric: Rubric, response_count: int, formats: Sequence[str]) -> Verdict:
    """Parse a reply into a verdict on the responses in the judge's reading order."""
    before_close, close_tag, _ = text.rpartition(THINK_CLOSE)
    # Scores quoted within unfinished thinking are not a verdict.
    if not close_tag and THINK_OPEN in text:
        return Verdict(Status.TRUNCATED, reasoning=text, detail="the thinking has no end")
    answer = extract_answer(text)
    reasoning = before_close if close_tag else answer.partition(ANSWER_OPEN)[0]
    if ANSWER_OPEN not in answer and rubric.has_options:
        options = {match[1] for match in _OPTION.finditer(answer)}
        # Several different options contradict each other and stay unparsed.
        if len(options) == 1:
            answer = f"{ANSWER_OPEN}{options.pop()}{ANSWER_CLOSE}"
    elif ANSWER_OPEN not in answer and response_count == 2:
        for name in formats:
            if (scores := REPLY_FORMATS[name](answer)) is not None:
                return Verdict(Status.OK, scores=scores, reasoning=reasoning.strip() or answer.strip())
    return parse_verdict(Reply(reasoning, answer, cut=False), rubric, response_count)


PairScores = tuple[float, float]
_FIRST, _SECOND, _LEVEL = OPTIONS["A>B"], OPTIONS["B>A"], OPTIONS["A=B=Good"]
_BRACKETED = re.compile(
    r"\[\[\s*([ABC]|tie|A\s*[<>]{1,2}\s*B|B\s*[<>]{1,2}\s*A|A\s*=\s*B|B\s*=\s*A)\s*\]\]", re.IGNORECASE
)
_OPTION = re.compile(rf"\[\[({'|'.join(map(re.escape, OPTIONS))})\]\]")
_OUTPUT = re.compile(r"\boutput\s*\(([ab])\)", re.IGNORECASE)
_TWO_SCORES = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)[\s,;]+([0-9]+(?:\.[0-9]+)?)\s*")


def _parse_brackets(text: str) -> PairScores | None:
    """Parse `[[A]]`, `[[B]]`, `[[C]]` for a tie, `[[A>B]]`, `[[A>>B]]` or `[[A=B]]`; None if they contradict."""
    scores = {_bracket_scores("".join(match[1].split()).upper()) for match in _BRACKETED.finditer(text)}
    return scores.pop() if len(scores) == 1 else None


def _bracket_scores(verdict: str) -> PairScores:
    if "=" in verdict or verdict in ("C", "TIE"):
        return _LEVEL
    return _FIRST if verdict == "A" or verdict.startswith(("A>", "B<")) else _SECOND


def _parse_output(text: str) -> PairScores | None:
    """Parse `Output (a)` or `Output (b)` from the last sentence that names one; None if it names both."""
    for sentence in reversed(re.split(r"(?<=[.!?])\s+|\n", text)):
        if letters := {match[1].lower() for match in _OUTPUT.finditer(sentence)}:
            return None if len(letters) > 1 else _FIRST if "a" in letters else _SECOND
    return None


def _parse_label(text: str) -> PairScores | None:
    """Parse `1`, `2` or `Tie` alone on the first line, the format of PandaLM."""
    first_line = text.strip().partition("\n")[0].strip().lower()
    return {"1": _FIRST, "2": _SECOND, "tie": _LEVEL, "0": _LEVEL}.get(first_line)


def _parse_scores(text: str) -> PairScores | None:
    """Parse two scores alone on the first line, the format of JudgeLM."""
    match = _TWO_SCORES.fullmatch(text.strip().partition("\n")[0])
    return (float(match[1]), float(match[2])) if match else None


REPLY_FORMATS = {"brackets": _parse_brackets, "output": _parse_output, "label": _parse_label, "scores": _parse_scores}
"""Formats of pairwise verdicts by published judges."""
