"""Blocks of HTML pages that reports do not have: cards of figures, command lines, charts, and lists of judgments."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from flex_judge.alignment.reporting.model import Block, Table

_HIDDEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff]")
"""Control characters, and marks that reverse the order of the text after them."""
MAX_FILTERS = 8
"""Maximum number of statuses to filter by; the style sheet has a rule for each."""


@dataclass(frozen=True)
class Card:
    """One figure with its name."""

    label: str
    value: str
    note: str = ""
    tone: str = ""
    """`good` or `bad` to colour the value."""


@dataclass(frozen=True)
class Cards:
    """Row of figures."""

    cards: Sequence[Card]
    template: ClassVar[str] = "cards"


@dataclass(frozen=True)
class CommandLine:
    """Command to copy into a shell."""

    text: str
    label: str
    template: ClassVar[str] = "command"


@dataclass(frozen=True)
class Links:
    """Links to pages of other runs, relative to this page."""

    lead: str
    links: Sequence[tuple[str, str]]
    """Address and text of each link."""
    template: ClassVar[str] = "links"


@dataclass(frozen=True)
class Progress:
    """Bar of a run: rows that are done, that failed, and all."""

    done: int
    failed: int
    total: int
    template: ClassVar[str] = "progress"


@dataclass(frozen=True)
class Chart:
    """Chart with the same figures as a table that is folded away."""

    svg: str
    """SVG source of `charts`, whose texts are escaped."""
    table: Table
    caption: str = ""
    note: str = ""
    template: ClassVar[str] = "chart"


@dataclass(frozen=True)
class Fold:
    """Table that is folded away under its title."""

    title: str
    table: Table
    template: ClassVar[str] = "fold"


@dataclass(frozen=True)
class ShownText:
    """Text on a page: its beginning, a part that is folded away, and the length of what is left out."""

    head: str
    rest: str = ""
    left: int = 0


@dataclass(frozen=True)
class ShownPart:
    """Part of a message on a page."""

    text: ShownText | None = None
    image: str = ""
    """Data URI of a small image."""
    audio: str = ""
    """Data URI of a sound."""
    label: str = ""
    """Name of the medium, or what is in its place."""


@dataclass(frozen=True)
class ShownMessage:
    """Message or response on a page."""

    name: str
    """Role of a message, or `Response A`."""
    parts: Sequence[ShownPart]
    facts: str = ""
    """Scores and the like."""
    marks: Sequence[str] = ()
    """Short labels, such as `preferred`."""


@dataclass(frozen=True)
class ShownItem:
    """Judgment or failed row on a page."""

    status: str
    """Name of the filter that shows it."""
    title: str
    outcome: str = ""
    """Scores or status, at the right of the title."""
    where: str = ""
    """Id, file and row."""
    detail: str = ""
    """Reason of a failure."""
    messages: Sequence[ShownMessage] = ()
    responses: Sequence[ShownMessage] = ()
    thoughts: Sequence[tuple[str, ShownText]] = ()
    """Title and text of the reasoning of each vote."""
    is_failed: bool = False


@dataclass(frozen=True)
class ItemList:
    """List of judgments or rows, with buttons that select one status."""

    name: str
    """Unique on the page."""
    items: Sequence[ShownItem]
    note: str = ""
    open_items: int = 0
    """Number of items that are unfolded."""
    template: ClassVar[str] = "items"

    @property
    def filters(self) -> list[tuple[str, int]]:
        """Statuses and their number of items, the most frequent first."""
        counts: dict[str, int] = {}
        for item in self.items:
            counts[item.status] = counts.get(item.status, 0) + 1
        ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
        return ordered[:MAX_FILTERS] if len(ordered) > 1 else []

    def get_filter_index(self, item: ShownItem) -> int:
        """Return the number of the filter that shows an item; `MAX_FILTERS` without one."""
        names = [name for name, _ in self.filters]
        return names.index(item.status) if item.status in names else MAX_FILTERS


PageBlock = Block | Cards | CommandLine | Links | Progress | Chart | Fold | ItemList


@dataclass(frozen=True)
class PageSection:
    """Heading with the blocks below it."""

    title: str
    blocks: Sequence[PageBlock]


@dataclass(frozen=True)
class Page:
    """Page with its title, the blocks at its top, and sections."""

    title: str
    intro: Sequence[PageBlock]
    sections: Sequence[PageSection]


class TextBudget:
    """Limit on the texts of a page: `each` characters of a text, and fewer once `total` is used up.

    Args:
        total: number of characters on the page.
        each: maximum length of one text.
        least: length that every text gets, however many there are.
        open_chars: length above which the end of a text is folded away.
    """

    def __init__(self, total: int = 1_500_000, each: int = 12_000, least: int = 300, open_chars: int = 800) -> None:
        self._left, self._each, self._least, self._open_chars = total, each, least, open_chars

    def clip_text(self, text: str) -> ShownText:
        """Cut a text to what the page can hold."""
        limit = min(self._each, max(self._least, self._left))
        # Whole at a little above the limit: a remark about ten missing characters helps nobody.
        start = text if len(text) <= limit else text[: limit - 40]
        self._left -= len(start)
        head = start if len(start) <= 1.5 * self._open_chars else start[: self._open_chars]
        return ShownText(head, start[len(head) :], len(text) - len(start))


def show_hidden_characters(text: str) -> str:
    r"""Write control characters and marks of the text direction as escapes: `\u202e` could forge what a page says."""
    return _HIDDEN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def shorten_line(text: str, limit: int = 140) -> str:
    """Join the lines of a text and cut it, for a title."""
    line = " ".join(text[: 4 * limit].split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
