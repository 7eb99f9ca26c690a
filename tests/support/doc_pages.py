"""Parser of the blocks and test directives of a documentation page.

The blocks of a page run in order (`doc_runner.py`). A fence with a title writes a file, `bash` and `python` fences run,
other fences are text. Directives are HTML comments on lines of their own, directly before a block:

    <!-- test: replace OLD => NEW -->     replace a text in the next block (repeatable)
    <!-- test: background -->             the next block starts a server and prints its URL
    <!-- test: skip REASON -->            do not run the next block
    <!-- test: exit STATUS -->            the next bash block ends with this exit status
    <!-- test: output -->                 the next fence is the output of the block before; `...` matches anything
    <!-- test: setup                      hidden bash; `setup background` for a hidden server
    ...
    -->
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass, field, replace

RUNNABLE = ("bash", "python")
ALIASES = {"sh": "bash", "shell": "bash", "console": "bash", "zsh": "bash", "py": "python", "python3": "python"}
"""Fence languages that would escape the test, with the language to write instead."""
_COMMENT = re.compile(r"\s*<!--\s*(test:)?")
_FENCE = re.compile(r"(\s*)(`{3,}|~{3,})\s*([\w+-]*)(.*)")
_TITLE = re.compile(r'\btitle="([^"]+)"')
_REPLACE = re.compile(r"(.+?)\s+=>(?:\s+(.*))?")
_INDENTED_COMMAND = re.compile(r"(?: {4,}|\t)(?:flex-judge|python -m flex_judge|uv run|pip install) ")


class PageError(Exception):
    """A page breaks a convention. The message names the page and the line."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """One fence or one hidden setup of a page."""

    line: int
    """Number of the first line of its code in the page."""
    language: str
    code: str
    """The code after its replacements."""
    title: str = ""
    background: bool = False
    skip_reason: str = ""
    exit_status: int = 0
    is_setup: bool = False
    expected_output: str | None = None

    @property
    def is_file(self) -> bool:
        return bool(self.title)

    @property
    def is_runnable(self) -> bool:
        """Whether the block is a command or Python code that a reader would run."""
        return self.language in RUNNABLE and not self.is_file and not self.is_setup


@dataclass
class _Directives:
    """Directives that wait for the next block."""

    line: int = 0
    replacements: list[tuple[str, str]] = field(default_factory=list)
    background: bool = False
    skip_reason: str = ""
    exit_status: int = 0
    is_output: bool = False


class _Parser:
    def __init__(self, text: str, name: str) -> None:
        self.lines = text.splitlines()
        self.name = name
        self.index = 0
        self.blocks: list[Block] = []
        self.pending: _Directives | None = None

    def parse(self) -> list[Block]:
        while self.index < len(self.lines):
            line = self.lines[self.index]
            if comment := _COMMENT.match(line):
                self._parse_comment(is_directive=comment[1] is not None)
            elif fence := _FENCE.match(line):
                self._parse_fence(*fence.groups())
            else:
                self._check_text(line)
                self.index += 1
        if self.pending is not None:
            raise self._error(self.pending.line, "no block follows this directive")
        return self.blocks

    def _error(self, line: int, problem: str) -> PageError:
        return PageError(f"{self.name}:{line}: {problem}")

    def _check_text(self, line: str) -> None:
        if _INDENTED_COMMAND.match(line):
            raise self._error(self.index + 1, "an indented command is not tested; put it into a ```bash fence")
        if line.strip() and self.pending is not None:
            raise self._error(self.pending.line, "text between this directive and its block; move the directive down")

    def _parse_comment(self, *, is_directive: bool) -> None:
        start = self.index
        while "-->" not in self.lines[self.index]:
            self.index += 1
            if self.index == len(self.lines):
                raise self._error(start + 1, "this comment does not end; add -->")
        comment = "\n".join(self.lines[start : self.index + 1]).partition("-->")[0]
        self.index += 1
        if is_directive:
            self._parse_directive(comment.partition("test:")[2], start + 1)

    def _parse_directive(self, text: str, line: int) -> None:
        verb, argument = re.fullmatch(r"\s*(\S*)(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
        if verb == "setup":
            self._add_setup(argument, line)
            return
        self.pending = self.pending or _Directives(line)
        argument = argument.strip()
        if verb == "replace" and (texts := _REPLACE.fullmatch(argument)):
            self.pending.replacements.append((texts[1], texts[2] or ""))
        elif verb == "background" and not argument:
            self.pending.background = True
        elif verb == "skip" and argument:
            self.pending.skip_reason = argument
        elif verb == "exit" and argument.isdecimal():
            self.pending.exit_status = int(argument)
        elif verb == "output" and not argument:
            self.pending.is_output = True
        else:
            raise self._error(line, f"unknown directive {verb} {argument!r}; tests/support/doc_pages.py lists them")

    def _add_setup(self, argument: str, line: int) -> None:
        first, _, rest = argument.partition("\n")
        background = first.strip() == "background"
        code = textwrap.dedent(rest if background or not first.strip() else argument.strip())
        if not code.strip():
            raise self._error(line, "a setup without commands")
        self.blocks.append(Block(line=line + 1, language="bash", code=code, background=background, is_setup=True))

    def _parse_fence(self, indent: str, marks: str, language: str, attributes: str) -> None:
        start = self.index
        end = re.compile(rf"\s*{re.escape(marks[0])}{{{len(marks)},}}\s*")
        self.index += 1
        code: list[str] = []
        while self.index < len(self.lines) and not end.fullmatch(self.lines[self.index]):
            line = self.lines[self.index]
            code.append(line[len(indent) :] if line.startswith(indent) else line.lstrip())
            self.index += 1
        if self.index == len(self.lines):
            raise self._error(start + 1, f"this fence does not end; add {marks}")
        self.index += 1
        title = _TITLE.search(attributes)
        block = Block(line=start + 2, language=language, code="\n".join(code) + "\n", title=title[1] if title else "")
        self._add_fence(block)

    def _add_fence(self, block: Block) -> None:
        directives, self.pending = self.pending or _Directives(), None
        if directives.is_output:
            self._attach_output(block, directives)
            return
        if block.language in ALIASES and not block.is_file:
            raise self._error(block.line - 1, f"write ```{ALIASES[block.language]}, not ```{block.language}")
        code = block.code
        for text, substitute in directives.replacements:
            if text not in code:
                raise self._error(directives.line, f"the next block does not contain {text!r}")
            code = code.replace(text, substitute)
        self.blocks.append(
            replace(
                block,
                code=code,
                background=directives.background,
                skip_reason=directives.skip_reason,
                exit_status=directives.exit_status,
            )
        )

    def _attach_output(self, block: Block, directives: _Directives) -> None:
        if not self.blocks or not self.blocks[-1].is_runnable:
            raise self._error(directives.line, "no bash or python block before this output")
        self.blocks[-1] = replace(self.blocks[-1], expected_output=block.code)


def parse_page(text: str, name: str) -> list[Block]:
    """Parse the blocks of a page.

    Args:
        text: The page's Markdown.
        name: The page's name in error messages.

    Returns:
        Blocks in page order, hidden setups included.

    Raises:
        PageError: The page breaks a convention.
    """
    blocks = _Parser(text, name).parse()
    for index, block in enumerate(blocks):
        if block.is_file and block.language in RUNNABLE and not block.skip_reason:
            stem = block.title.rpartition("/")[2].rpartition(".")[0]
            if not any(stem in later.code for later in blocks[index + 1 :] if later.is_runnable or later.is_setup):
                raise PageError(f"{name}:{block.line - 1}: no later block runs {block.title}")
    return blocks


def output_matches(expected: str, actual: str) -> bool:
    """Whether an output is the expected one. `...` matches any text; white space at line ends does not count."""
    pieces = [re.escape(piece) for piece in _normalize_output(expected).split("...")]
    return re.fullmatch(".*?".join(pieces), _normalize_output(actual), re.DOTALL) is not None


def _normalize_output(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())
