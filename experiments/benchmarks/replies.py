"""Stored replies, read into judgments without a model: as our judges write their verdicts, and as published ones do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from flex_judge.experiments.benchmarks.items import Item, ItemOutcome, make_placeholder_judgment
from flex_judge.experiments.benchmarks.stored import StoredReplies
from flex_judge.judges.errors import UsageError
from flex_judge.judges.judgments import Status, Verdict
from flex_judge.judges.protocol.parsing import Reply, parse_verdict
from flex_judge.judges.protocol.parsing import extract_answer
from flex_judge.judges.protocol.prompts import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, THINK_OPEN
from flex_judge.judges.protocol.voting import combine_votes, plan_orders
from flex_judge.judges.rubrics import load_rubric
from flex_judge.judges.rubrics.rubric import Rubric
from flex_judge.judges.rubrics.scale import OPTIONS

NO_REPLY = "there is no reply"


def replay_replies(item: Item, stored: StoredReplies | None, order: str, formats: Sequence[str] = ()) -> ItemOutcome:
    """What stored replies say of an item.

    Args:
        stored: None where there are none; the item is then unscored.
        order: as in `JudgeSettings.order`; of `random`, which only a row itself can tell, the given order is taken.
        formats: of FORMATS, how replies without `<answer>` may say which of two responses is better.

    Raises:
        UsageError: the replies do not make whole runs, or orders that are none.
    """
    rubric, n = load_rubric(item.row.rubric), len(item.row.data["responses"])
    if stored is None or not stored.texts:
        return ItemOutcome(item, (make_placeholder_judgment(item.id, f"{item.id}: {NO_REPLY}"),))
    texts = iter(stored.texts)
    runs = [
        [_parse_reply(next(texts), rubric, one, formats) for one in shown] for shown in _assign_orders(stored, n, order)
    ]
    return ItemOutcome(item, tuple(combine_votes(item.id, [run], model="stored replies") for run in runs))


def _assign_orders(stored: StoredReplies, responses: int, how: str) -> list[list[tuple[int, ...]]]:
    """The order of each reply, by rounds."""
    count = len(stored.texts)
    base = plan_orders(responses, "as_given" if how == "random" else how)
    size = 1 if count == 1 else len(base)
    if count % size:
        raise UsageError(f"{stored.where}: {count} replies do not make whole runs of {size} orders each")
    told = stored.orders or tuple(base[k % size] for k in range(count))
    if any(len(one) != responses for one in told):
        raise UsageError(f"{stored.where}, field 'orders': expected orders of {responses} responses")
    return [list(told[k : k + size]) for k in range(0, count, size)]


def _parse_reply(text: str | None, rubric: Rubric, order: tuple[int, ...], formats: Sequence[str]) -> Verdict:
    """What a reply says, for the responses as they are given."""
    if text is None or not text.strip():
        return Verdict(Status.UNPARSEABLE, order=order, detail=NO_REPLY)
    shown = _parse_verdict(text, rubric, len(order), formats)
    given = tuple(order.index(i) for i in range(len(order)))
    return replace(shown.permute_responses(given), order=order)


def _parse_verdict(text: str, rubric: Rubric, responses: int, formats: Sequence[str]) -> Verdict:
    before, closed, _ = text.rpartition(THINK_CLOSE)
    if not closed and THINK_OPEN in text:
        return Verdict(Status.TRUNCATED, reasoning=text, detail="the thinking has no end")
    said = extract_answer(text)
    reasoning = before if closed else said.partition(ANSWER_OPEN)[0]
    if ANSWER_OPEN not in said and rubric.has_options:
        options = {match[1] for match in _OPTION.finditer(said)}
        said = f"{ANSWER_OPEN}{options.pop()}{ANSWER_CLOSE}" if len(options) == 1 else said
    elif ANSWER_OPEN not in said and responses == 2:
        for name in formats:
            if (shares := REPLY_FORMATS[name](said)) is not None:
                return Verdict(Status.OK, scores=shares, reasoning=reasoning.strip() or said.strip())
    return parse_verdict(Reply(reasoning, said, cut=False), rubric, responses)


PairScores = tuple[float, float]
_FIRST, _SECOND, _LEVEL = OPTIONS["A>B"], OPTIONS["B>A"], OPTIONS["A=B=Good"]
_BRACKETED = re.compile(
    r"\[\[\s*([ABC]|tie|A\s*[<>]{1,2}\s*B|B\s*[<>]{1,2}\s*A|A\s*=\s*B|B\s*=\s*A)\s*\]\]", re.IGNORECASE
)
_OPTION = re.compile(rf"\[\[({'|'.join(map(re.escape, OPTIONS))})\]\]")
_OUTPUT = re.compile(r"\boutput\s*\(([ab])\)", re.IGNORECASE)
_TWO_SCORES = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)[\s,;]+([0-9]+(?:\.[0-9]+)?)\s*")


def _parse_brackets(text: str) -> PairScores | None:
    """`[[A]]`, `[[B]]`, `[[C]]` for a tie, `[[A>B]]`, `[[A>>B]]`, `[[A=B]]`: all that there are must agree."""
    found = {_bracket_scores("".join(match[1].split()).upper()) for match in _BRACKETED.finditer(text)}
    return found.pop() if len(found) == 1 else None


def _bracket_scores(verdict: str) -> PairScores:
    if "=" in verdict or verdict in ("C", "TIE"):
        return _LEVEL
    return _FIRST if verdict == "A" or verdict.startswith(("A>", "B<")) else _SECOND


def _parse_output(text: str) -> PairScores | None:
    """`Output (a)` or `Output (b)`: what the last sentence that names one says, if it names only one."""
    for line in reversed(re.split(r"(?<=[.!?])\s+|\n", text)):
        if found := {match[1].lower() for match in _OUTPUT.finditer(line)}:
            return None if len(found) > 1 else _FIRST if "a" in found else _SECOND
    return None


def _parse_label(text: str) -> PairScores | None:
    """`1`, `2` or `Tie` alone on the first line, as PandaLM answers."""
    first = text.strip().partition("\n")[0].strip().lower()
    return {"1": _FIRST, "2": _SECOND, "tie": _LEVEL, "0": _LEVEL}.get(first)


def _parse_scores(text: str) -> PairScores | None:
    """Two scores alone on the first line, as JudgeLM answers."""
    match = _TWO_SCORES.fullmatch(text.strip().partition("\n")[0])
    return (float(match[1]), float(match[2])) if match else None


REPLY_FORMATS = {"brackets": _parse_brackets, "output": _parse_output, "label": _parse_label, "scores": _parse_scores}
"""How published judges of pairs write their verdicts, where they do not use ours."""
