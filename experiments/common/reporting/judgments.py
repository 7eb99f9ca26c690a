"""Judgments and failed rows on pages: a bounded selection of them, with prompt, responses, scores and reasoning."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flex_judge.experiments.common.reporting.blocks import (
    ItemList,
    ShownItem,
    ShownMessage,
    ShownPart,
    ShownText,
    TextBudget,
    shorten_line,
)
from flex_judge.experiments.common.reporting.media import MediaShelf
from flex_judge.experiments.common.reporting.wording import FORCED_ANSWER_REASONS, STATUS_WORDS, format_count
from flex_judge.judges.io.comparison_rows import read_comparison_json
from flex_judge.judges.judgments import Status

Row = dict[str, Any]

MAX_FAILED, MAX_DOUBTFUL, MAX_OTHERS = 40, 15, 25
"""Maximum number of judgments on a page: without a score, those that the judge was least sure of, and others."""
SEED = 0
SCORED, FORCED = "scored", "forced answer"
"""Filters of judgments with a score."""


@dataclass
class JudgmentSample:
    """Counts over all judgments of a file, and the selection of them that a page shows."""

    failed: list[Row] = field(default_factory=list)
    doubtful: list[Row] = field(default_factory=list)
    others: list[Row] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Status and detail of the judgments without a score."""
    scores: list[float] = field(default_factory=list)
    """Written scores of all responses."""
    forced: Counter[str] = field(default_factory=Counter)
    """Reason of forced answers -> number of votes."""
    votes: int = 0
    total: int = 0

    @property
    def num_failed(self) -> int:
        """Number of judgments without a score."""
        return self.total - self.statuses[str(Status.OK)]

    @property
    def shown(self) -> list[Row]:
        """Judgments on the page: failures first, then the least certain ones, then others at random."""
        return [*self.failed, *self.doubtful, *self.others]

    def describe_selection(self) -> str:
        """Describe how many judgments are shown, and which."""
        if len(self.shown) == self.total:
            return f"All {format_count(self.total, 'judgment')}, failures first."
        parts = [f"{len(self.shown):,} of {format_count(self.total, 'judgment')}"]
        if self.num_failed:
            parts.append(f"{len(self.failed):,} of {self.num_failed:,} without a score, taken from every status")
        if self.doubtful:
            parts.append(f"{len(self.doubtful):,} that the judge was least sure of")
        if self.others:
            parts.append(f"{len(self.others):,} at random (seeded)")
        return f"{parts[0]}: {'; '.join(parts[1:])}."


def sample_judgments(rows: Iterable[Row]) -> JudgmentSample:
    """Select judgments for a page in one pass, so that a file of any size can be read. Equal files give equal pages."""
    sample, rng = JudgmentSample(), random.Random(SEED)
    by_status: dict[str, list[Row]] = {}
    doubtful: list[tuple[float, int, Row]] = []
    num_others = 0
    for number, row in enumerate(rows):
        status = str(row["status"])
        sample.total += 1
        sample.statuses[status] += 1
        for vote in row["votes"]:
            sample.votes += 1
            if vote.get("forced_answer"):
                sample.forced[vote["forced_answer"]] += 1
        if row.get("scores") is None:
            detail = next((str(vote["detail"]) for vote in row["votes"] if vote.get("detail")), "")
            if len(sample.reasons) < 1000 or (status, detail) in sample.reasons:
                sample.reasons[status, detail] += 1
            kept = by_status.setdefault(status, [])
            _keep_at_random(kept, row, MAX_FAILED, sample.statuses[status], rng)
            continue
        sample.scores += [float(score) for score in row["scores"]]
        doubt = _measure_doubt(row)
        if doubt > 0:
            # Of equal doubt the first rows stay; the number also keeps rows from being compared.
            evicted = (doubt, -number, row)
            if len(doubtful) < MAX_DOUBTFUL:
                heapq.heappush(doubtful, evicted)
                continue
            evicted = heapq.heappushpop(doubtful, evicted)
            row = evicted[2]
        num_others += 1
        _keep_at_random(sample.others, row, MAX_OTHERS, num_others, rng)
    sample.failed = _take_in_turn(list(by_status.values()), MAX_FAILED)
    sample.doubtful = [row for _, _, row in sorted(doubtful, key=lambda entry: (-entry[0], -entry[1]))]
    return sample


def _keep_at_random(kept: list[Row], row: Row, limit: int, count: int, rng: random.Random) -> None:
    """Add the row number `count` to a uniform sample of at most `limit` rows."""
    if len(kept) < limit:
        kept.append(row)
    elif (place := rng.randrange(count)) < limit:
        kept[place] = row


def _take_in_turn(groups: Sequence[list[Row]], limit: int) -> list[Row]:
    """Take rows from every group in turn, so that a frequent status does not hide a rare one; keep groups together."""
    counts = [0] * len(groups)
    while sum(counts) < limit and any(count < len(group) for count, group in zip(counts, groups, strict=True)):
        for i, group in enumerate(groups):
            if counts[i] < len(group) and sum(counts) < limit:
                counts[i] += 1
    return [row for count, group in zip(counts, groups, strict=True) for row in group[:count]]


def _measure_doubt(row: Mapping[str, Any]) -> float:
    """Measure how unsure a judgment is: orders that disagree first, then the spread of its scores."""
    spread = max((float(s) for s in row.get("spread") or () if s is not None), default=0.0)
    return 1000 * float(row.get("disagreement") or 0.0) + spread


MAX_MESSAGES = 32
"""Maximum number of messages of a prompt, and of responses, of one judgment."""
FindTexts = Callable[[Sequence[Row]], Mapping[str, Row]]
"""Function that finds the comparisons of judgments which do not hold them: judgment id -> comparison."""


@dataclass
class ItemBuilder:
    """Turns rows of judgments into items of a page, within the limits of the page."""

    texts: TextBudget
    media: MediaShelf

    @classmethod
    def for_folder(cls, *folders: Path) -> ItemBuilder:
        """Create a builder for a page; file names of media may refer to these folders."""
        return cls(TextBudget(), MediaShelf(folders))

    def build_list(self, name: str, sample: JudgmentSample, find_texts: FindTexts | None = None) -> ItemList:
        """Build the list of the judgments of a sample."""
        rows = sample.shown
        lacking = [row for row in rows if "prompt" not in read_comparison_json(row)]
        comparisons = find_texts(lacking) if lacking and find_texts else {}
        items = [self.build_item(row, comparisons.get(str(row["id"]))) for row in rows]
        return ItemList(name, items, sample.describe_selection())

    def build_item(self, row: Row, comparison: Mapping[str, Any] | None = None) -> ShownItem:
        """Build the item of one judgment; `comparison` replaces one that the row does not hold."""
        comparison = read_comparison_json(row) | dict(comparison or {})
        votes: list[Row] = list(row["votes"])
        scores, is_failed = row.get("scores"), row.get("scores") is None
        forced = Counter(str(vote["forced_answer"]) for vote in votes if vote.get("forced_answer"))
        messages = self._build_prompt(comparison.get("prompt"))
        all_responses = comparison.get("responses") or ()
        responses = [self._build_response(i, response, row) for i, response in enumerate(all_responses[:MAX_MESSAGES])]
        if len(all_responses) > MAX_MESSAGES:
            responses.append(ShownMessage(_describe_rest(len(all_responses), "response"), ()))
        status = str(row["status"]).replace("_", " ") if is_failed else FORCED if forced else SCORED
        return ShownItem(
            status=status,
            title=_find_title(messages) or shorten_line(f"Judgment {row['id']}"),
            outcome=status if is_failed else _describe_scores(row, scores or ()),
            where=" · ".join(filter(None, (shorten_line(str(row["id"]), 80), str(comparison.get("where") or "")))),
            detail=_describe_problem(row, votes, forced),
            messages=messages,
            responses=responses,
            thoughts=[
                (f"Reasoning of vote {i}" if len(votes) > 1 else "Reasoning", self.texts.clip_text(vote["reasoning"]))
                for i, vote in enumerate(votes, 1)
                if vote.get("reasoning")
            ],
            is_failed=is_failed,
        )

    def build_failed_row(self, row: Mapping[str, Any], prompt: Any = None) -> ShownItem:
        """Build the item of a row without a result, as in `failed.jsonl`: id, reason and problem."""
        reason = str(row.get("reason") or "failed").replace("_", " ")
        problem = str(row.get("problem") or row.get("detail") or "")
        messages = self._build_prompt(prompt)
        name = row["id"] if row.get("id") is not None else row.get("row", "")
        return ShownItem(
            status=reason,
            title=_find_title(messages) or shorten_line(problem) or f"Row {name}",
            outcome=reason,
            where=shorten_line(f"row {name}", 200) if name not in (None, "") else "",
            detail=self.texts.clip_text(problem).head,
            messages=messages,
            is_failed=True,
        )

    def _build_prompt(self, prompt: Any) -> list[ShownMessage]:
        messages = _make_messages(prompt)
        shown = [self.build_message(message) for message in messages[-MAX_MESSAGES:]]
        if len(messages) > MAX_MESSAGES:
            shown.insert(0, ShownMessage(_describe_rest(len(messages), "earlier message"), ()))
        return shown

    def build_message(self, message: Mapping[str, Any], name: str = "", facts: str = "") -> ShownMessage:
        """Build a message in OpenAI's format."""
        parts = [*self._build_parts(message.get("reasoning_content")), *self._build_parts(message.get("content"))]
        for call in message.get("tool_calls") or ():
            function = call.get("function", {})
            parts.append(self._build_text(f"{function.get('name')}({function.get('arguments')})"))
        role = name or " ".join(filter(None, (str(message.get("role", "")), str(message.get("name") or ""))))
        return ShownMessage(shorten_line(role, 60), parts, facts)

    def _build_response(self, index: int, response: Any, row: Mapping[str, Any]) -> ShownMessage:
        facts = []
        for title, column in (("score", "scores"), ("expected", "expected_scores"), ("± ", "spread")):
            values = row.get(column)
            if values is not None and index < len(values) and values[index] is not None:
                facts.append(f"{title}{'' if title.endswith(' ') else ' '}{values[index]:.2f}")
        parts = [part for message in _make_messages(response) for part in self._build_trajectory_part(message)]
        marks = ("preferred",) if row.get("preferred") == index else ()
        return ShownMessage(f"Response {name_response(index)}", parts, ", ".join(facts), marks)

    def _build_trajectory_part(self, message: Mapping[str, Any]) -> Iterator[ShownPart]:
        if message.get("role"):
            yield ShownPart(label=shorten_line(str(message["role"]), 60))
        yield from self.build_message(message).parts

    def _build_parts(self, content: Any) -> Iterator[ShownPart]:
        if isinstance(content, str):
            yield self._build_text(content)
            return
        for part in content or ():
            if isinstance(part, Mapping) and part.get("type") == "text":
                yield self._build_text(str(part.get("text", "")))
            elif isinstance(part, Mapping):
                yield self.media.show_medium(part)
            else:
                yield self._build_text(str(part))

    def _build_text(self, text: str) -> ShownPart:
        return ShownPart(text=self.texts.clip_text(text))


def name_response(index: int) -> str:
    """Name a response by a letter, `A` for the first; by its number after the 26th."""
    return chr(ord("A") + index) if index < 26 else str(index + 1)


def _describe_rest(count: int, noun: str) -> str:
    return f"{format_count(count - MAX_MESSAGES, noun)} not on this page"


def _make_messages(value: Any) -> list[Mapping[str, Any]]:
    """Make messages from a prompt or response of any form: text, parts, or messages."""
    if value is None:
        return []
    if isinstance(value, Sequence) and not isinstance(value, str):
        if any(isinstance(message, Mapping) and "role" in message for message in value):
            return [message for message in value if isinstance(message, Mapping)]
        return [{"content": value}]
    if isinstance(value, Mapping):
        return [value] if "role" in value or "content" in value else [{"content": [value]}]
    return [{"content": str(value)}]


def _find_title(messages: Sequence[ShownMessage]) -> str:
    """Find the first line of the last message with text."""
    texts: list[ShownText] = [part.text for message in messages for part in message.parts if part.text is not None]
    return next((line for text in reversed(texts) if (line := shorten_line(text.head))), "")


def _describe_scores(row: Mapping[str, Any], scores: Sequence[float]) -> str:
    values = " : ".join(f"{score:.3g}" for score in scores)
    if len(scores) < 2:
        return f"score {values}"
    if row.get("choice"):
        return str(row["choice"])
    preferred = row.get("preferred")
    return f"{values} · {'tie' if preferred is None else f'{name_response(preferred)} is better'}"


def _describe_problem(row: Mapping[str, Any], votes: Sequence[Row], forced: Mapping[str, int]) -> str:
    sentences = []
    if row.get("scores") is None:
        causes = "; ".join(dict.fromkeys(str(vote["detail"]) for vote in votes if vote.get("detail")))
        status = str(row["status"])
        sentences.append(f"No score: {STATUS_WORDS.get(status, status)}{f' ({causes})' if causes else ''}.")
    for reason, times in forced.items():
        of_votes = f" in {times} of {len(votes)} votes" if len(votes) > 1 else ""
        sentences.append(f"Constrained fallback answer{of_votes}: {FORCED_ANSWER_REASONS.get(reason, reason)}.")
    if row.get("disagreement"):
        sentences.append(
            f"The order of the responses changed the preference in {100 * row['disagreement']:.0f} % of rounds."
        )
    return " ".join(sentences)
