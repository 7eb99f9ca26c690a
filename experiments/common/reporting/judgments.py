"""Judgments and failed rows on pages, with prompt, responses, scores and reasoning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flex_judge.alignment.reporting.model import MISSING, name_option
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
from flex_judge.experiments.common.reporting.sampling import JudgmentSample
from flex_judge.experiments.common.reporting.wording import (
    FORCED_ANSWER_REASONS,
    STATUS_WORDS,
    format_count,
)
from flex_judge.judges.io.comparison_rows import read_comparison_json

Row = dict[str, Any]
SCORED, FORCED = "scored", "forced answer"
"""Filters of judgments with a score."""
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
        messages = self.build_prompt(comparison.get("prompt"))
        all_responses = comparison.get("responses") or ()
        responses = [self._build_response(i, response, row) for i, response in enumerate(all_responses[:MAX_MESSAGES])]
        if len(all_responses) > MAX_MESSAGES:
            responses.append(ShownMessage(_describe_rest(len(all_responses), "response"), ()))
        status = str(row["status"]).replace("_", " ") if is_failed else FORCED if forced else SCORED
        return ShownItem(
            status=status,
            title=find_title(messages) or shorten_line(f"Judgment {row['id']}"),
            outcome=status if is_failed else _describe_scores(row, scores or ()),
            where=" · ".join(filter(None, (_name_id(row), str(comparison.get("where") or "")))),
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
        messages = self.build_prompt(prompt)
        name = row["id"] if row.get("id") is not None else row.get("row", "")
        return ShownItem(
            status=reason,
            title=find_title(messages) or shorten_line(problem) or f"Row {name}",
            outcome=reason,
            where=shorten_line(f"row {name}", 200) if name not in (None, "") else "",
            detail=self.texts.clip_text(problem).head,
            messages=messages,
            is_failed=True,
        )

    def build_prompt(self, prompt: Any) -> list[ShownMessage]:
        """Build the messages of a prompt of any form, the last ones if there are many."""
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
        for title, column in (("score", "scores"), ("expected", "expected_scores"), ("±", "spread")):
            values = row.get(column) or ()
            value = values[index] if index < len(values) else None
            # A spread of 0 is that of a single vote without a distribution.
            if value is not None and (value or column != "spread"):
                facts.append(f"{title} {value:.2f}")
        parts = [part for message in _make_messages(response) for part in self._build_trajectory_part(message)]
        marks = ("preferred",) if row.get("preferred") == index else ()
        return ShownMessage(f"Response {name_option(index)}", parts, ", ".join(facts), marks)

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


def _name_id(row: Mapping[str, Any]) -> str:
    # A bare number below a question would look like its answer.
    return f"id {shorten_line(str(row['id']), 80)}" if row["id"] != "" else ""


def find_title(messages: Sequence[ShownMessage]) -> str:
    """Find the first line of the last message with text."""
    texts: list[ShownText] = [part.text for message in messages for part in message.parts if part.text is not None]
    return next((line for text in reversed(texts) if (line := shorten_line(text.head))), "")


def _describe_scores(row: Mapping[str, Any], scores: Sequence[float | None]) -> str:
    # Of several answers to a prompt, each with a judgment of its own, some may have no score.
    values = " : ".join(MISSING if score is None else f"{score:.3g}" for score in scores)
    if len(scores) < 2:
        return f"score {values}"
    if row.get("choice"):
        return str(row["choice"])
    preferred = row.get("preferred")
    return f"{values} · {'tie' if preferred is None else f'{name_option(preferred)} is better'}"


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
