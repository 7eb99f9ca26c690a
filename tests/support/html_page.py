"""Parser of pages for tests: structure, texts, cards and items, and what is wrong with the markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

PAGE_OF_A_PART = re.compile(r"[\w-]+/report\.html")
VOID = {"meta", "br", "img", "input", "link", "hr"}
SELF_CLOSING = {"line", "rect", "circle", "polyline", "path"}
"""SVG elements that a page closes in place."""


class HtmlPage(HTMLParser):
    """A page with its elements, in the order of the file."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.problems: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        """Values of attributes that make a browser fetch something."""
        self.labels: list[str] = []
        self.images_without_text = 0
        self.inputs_without_label: set[str] = set()
        self._open: list[tuple[str, list[str], dict[str, str | None]]] = []
        self.elements: list[tuple[str, dict[str, str | None], str]] = []
        """Tag, attributes and text of every element, inner ones first."""
        self.feed(html)
        self.close()
        self.problems += [f"<{tag}> is not closed" for tag, _, _ in self._open]
        self.problems += [f"id {name} occurs twice" for name in set(self.ids) if self.ids.count(name) > 1]

    @classmethod
    def load(cls, path: Path) -> HtmlPage:
        """Load a page and check its markup."""
        page = cls(path.read_text(encoding="utf-8"))
        page.check_markup()
        return page

    def check_sentences(self) -> None:
        """Check that paragraphs and notes end like sentences."""
        for tag, attributes, text in self.elements:
            if tag == "p" and attributes.get("class") in (None, "quiet"):
                assert text.strip().endswith((".", ":", "!", "?")), text

    def check_markup(self) -> None:
        """Check that the page is valid, self-contained and labelled."""
        assert not self.problems, self.problems
        assert '<html lang="en">' in self.html
        assert self.tags.count("title") >= 1
        assert self.tags.count("h1") == self.tags.count("main") == 1
        assert "default-src 'none'" in self.html
        assert not {"script", "link", "iframe", "object", "form", "base"} & set(self.tags)
        # A suite links the pages of its benchmarks, in its own folder.
        assert all(link.startswith("data:") or PAGE_OF_A_PART.fullmatch(link) for link in self.links), self.links
        assert not re.search(r"@import|url\((?!#)", self.html)
        assert not self.images_without_text
        assert self.inputs_without_label <= set(self.labels)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append(tag)
        self.ids += [attributes["id"] or ""] if "id" in attributes else []
        self.problems += [f"<{tag} {name}>" for name in attributes if name.startswith("on")]
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "action", "srcset", "poster")]
        self.labels += [attributes.get("for") or ""] if tag == "label" else []
        self.images_without_text += tag == "img" and not attributes.get("alt")
        self.images_without_text += tag == "svg" and not ("aria-label" in attributes or "aria-hidden" in attributes)
        if tag == "input":
            self.inputs_without_label.add(attributes.get("id") or "")
        if tag not in VOID and not self.get_starttag_text().endswith("/>"):  # type: ignore[union-attr]
            self._open.append((tag, [], attributes))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID | SELF_CLOSING:
            self.problems.append(f"<{tag}/>")
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open[-1][0] != tag:
            self.problems.append(f"</{tag}> closes {self._open[-1][0] if self._open else 'nothing'}")
            return
        name, texts, attributes = self._open.pop()
        text = " ".join("".join(texts).split())
        self.elements.append((name, attributes, text))
        if self._open:
            self._open[-1][1].append(f" {text} ")

    def handle_data(self, data: str) -> None:
        if self._open:
            self._open[-1][1].append(data)

    @property
    def text(self) -> str:
        """Text of the page."""
        return next(text for tag, _, text in self.elements if tag == "main")

    @property
    def cards(self) -> dict[str, str]:
        """Figures of the page, with what stands below them, by their names."""
        cards: dict[str, str] = {}
        for i, (tag, _, text) in enumerate(self.elements):
            if tag == "b" and self.elements[i - 1][0] == "span" and self.elements[i + 1][0] in ("small", "li"):
                note = self.elements[i + 1][2] if self.elements[i + 1][0] == "small" else ""
                cards[self.elements[i - 1][2]] = f"{text} {note}".strip()
        return cards

    @property
    def rows(self) -> list[list[str]]:
        """Cells of all table rows."""
        rows: list[list[str]] = []
        cells: list[str] = []
        for tag, _, text in self.elements:
            if tag in ("td", "th"):
                cells.append(text)
            elif tag == "tr":
                rows.append(cells)
                cells = []
        return rows

    def find_items(self, kind: str = "item") -> list[str]:
        """Find the texts of the items of lists, such as `failed`."""
        return [text for tag, attributes, text in self.elements if kind in (attributes.get("class") or "").split()]
