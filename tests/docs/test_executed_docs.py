"""Every bash and Python block of the README, the guides and the pages around them runs.

`pytest tests/docs/test_executed_docs.py` prints how many blocks of each page ran, and which were skipped and why. Of
commands in skipped blocks, the flags are checked.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from doc_hooks import load_hook
from doc_pages import Block, parse_page
from doc_runner import PageRunner
from repository import DOCS, ROOT

from flex_judge.experiments.cli import main

FOLDERS = ("getting-started", "guides", "trainers", "operations", "reference")
PAGES = [ROOT / "README.md", *(page for folder in (".", *FOLDERS) for page in sorted((DOCS / folder).glob("*.md")))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
MAX_SKIPPED = 0.25
"""Share of the blocks outside docs/operations that may be skipped."""
COMMANDS = ("flex-judge", "flex_judge.experiments.cli")


def blocks_of(page: Path) -> list[Block]:
    return [b for b in parse_page(page.read_text(encoding="utf-8"), page.name) if b.is_runnable]


def list_commands(code: str) -> Iterator[list[str]]:
    """Yield the arguments of each `flex-judge` command in a bash block."""
    for line in re.split(r"\n|&&", code.replace("\\\n", " ")):
        words = shlex.split(line, comments=True)
        for index, word in enumerate(words):
            if word in COMMANDS and index + 1 < len(words):
                yield words[index + 1 :]
                break


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_a_page_keeps_the_conventions(page: Path) -> None:
    blocks_of(page)


def test_few_blocks_are_skipped() -> None:
    blocks = [block for page in PAGES if page.parent.name != "operations" for block in blocks_of(page)]
    skipped = [block.skip_reason for block in blocks if block.skip_reason]
    assert len(skipped) <= MAX_SKIPPED * len(blocks), skipped


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_block_of_a_page_runs(page: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with PageRunner(page, tmp_path / "run") as runner:
        report = runner.run()
    with capsys.disabled():
        print(f"\n{report}")


@pytest.mark.slow  # loads TRL, which has the flags of the training commands
def test_flags_of_skipped_commands_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    hook = load_hook("cli_page", monkeypatch)
    pages = [*PAGES, *sorted((DOCS / "results").glob("*.md"))]
    known = hook.list_choices(hook.find_parser(main))
    checked = 0
    for command in (c for page in pages for b in blocks_of(page) if b.skip_reason for c in list_commands(b.code)):
        if command[0] not in known:  # `kubectl create secret generic flex-judge ...`
            continue
        names = command[: 2 if command[0] in ("eval", "bench") else 1]
        parser = hook.find_parser(main, *names)
        flags = {word.partition("=")[0] for word in command if word.startswith("--")}
        assert flags <= {*parser._option_string_actions, "--config"}, " ".join(command)  # TRL reads --config itself
        checked += 1
    assert checked > 10


def test_commands_are_found_in_a_block() -> None:
    code = "A=1 flex-judge judge rows.jsonl \\\n    --votes 3  # a comment\npip install uv && uv run flex-judge demo\n"
    assert list(list_commands(code)) == [["judge", "rows.jsonl", "--votes", "3"], ["demo"]]
