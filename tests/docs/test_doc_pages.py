"""The parser of documentation pages: blocks, directives and the errors of pages that break a convention."""

from __future__ import annotations

import textwrap

import pytest
from doc_pages import Block, PageError, output_matches, parse_page


def parse(text: str) -> list[Block]:
    return parse_page(textwrap.dedent(text), "page.md")


def test_fences_become_blocks_in_order_with_their_lines() -> None:
    blocks = parse(
        """\
        # A page
        ```bash
        echo one
        ```
        ~~~~python
        x = 1
        ~~~
        ~~~~
        ```json
        {}
        ```
        """
    )
    assert [(b.line, b.language, b.code, b.is_runnable) for b in blocks] == [
        (3, "bash", "echo one\n", True),
        (6, "python", "x = 1\n~~~\n", True),
        (10, "json", "{}\n", False),
    ]


def test_an_indented_fence_loses_its_indentation_only() -> None:
    (block,) = parse('=== "Tab"\n\n    ```python\n    if True:\n        pass\n\n    ```\n')
    assert block.code == "if True:\n    pass\n\n"


def test_a_title_makes_a_file() -> None:
    (block,) = parse('```yaml title="judge.yaml" hl_lines="1"\nvotes: 3\n```\n')
    assert (block.title, block.is_file, block.is_runnable) == ("judge.yaml", True, False)


def test_a_python_file_must_be_run_by_a_later_block() -> None:
    page = '```python title="train.py"\nprint(1)\n```\n'
    with pytest.raises(PageError, match=r"page.md:1: no later block runs train.py"):
        parse(page)
    assert len(parse(page + "```bash\npython train.py\n```\n")) == 2


def test_replacements_hold_for_the_next_block_only() -> None:
    first, second = parse(
        """\
        <!-- test: replace jongwooko/Flex-VL-7B => flex-smollm2-135m -->

        <!-- test: replace --votes 7 => -->
        ```bash
        flex-judge judge --model jongwooko/Flex-VL-7B --votes 7
        ```
        ```bash
        flex-judge judge --model jongwooko/Flex-VL-7B
        ```
        """
    )
    assert first.code == "flex-judge judge --model flex-smollm2-135m \n"
    assert "jongwooko" in second.code


def test_directives_describe_the_next_block() -> None:
    server, skipped, failing = parse(
        """\
        <!-- test: background -->
        ```bash
        flex-judge serve
        ```
        <!-- test: skip needs a GPU -->
        ```bash
        nvidia-smi
        ```
        <!-- test: exit 2 -->
        ```bash
        flex-judge judge --no-such-flag
        ```
        """
    )
    assert (server.background, skipped.skip_reason, failing.exit_status) == (True, "needs a GPU", 2)


def test_a_setup_is_hidden_bash() -> None:
    setup, server, short = parse(
        """\
        <!-- test: setup
          mkdir data
            touch data/a
        -->
        <!-- test: setup background
        python -m doc_server
        -->
        <!-- test: setup touch b -->
        """
    )
    assert (setup.code, setup.is_setup, setup.is_runnable, setup.background) == (
        "mkdir data\n  touch data/a\n",
        True,
        False,
        False,
    )
    assert (server.code, server.background) == ("python -m doc_server\n", True)
    assert short.code == "touch b"


def test_an_output_belongs_to_the_block_before() -> None:
    (block,) = parse("```bash\necho 1\n```\nIt prints:\n<!-- test: output -->\n```text\n1\n```\n")
    assert block.expected_output == "1\n"


def test_other_comments_and_what_they_hold_are_ignored() -> None:
    assert parse("<!-- a note\n```bash\nexit 1\n```\n-->\nText.\n") == []


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("```bash\n", "page.md:1: this fence does not end"),
        ("Text\n<!-- test: setup\n", "page.md:2: this comment does not end"),
        ("<!-- test: setup -->\n", "page.md:1: a setup without commands"),
        ("<!-- test: skip -->\n```bash\n```\n", "page.md:1: unknown directive skip ''"),
        ("<!-- test: ignore it -->\n", "page.md:1: unknown directive ignore 'it'"),
        ("<!-- test: replace a b -->\n```bash\n```\n", "page.md:1: unknown directive replace 'a b'"),
        ("<!-- test: replace a => b -->\n```bash\nc\n```\n", "page.md:1: the next block does not contain 'a'"),
        ("<!-- test: background -->\nText\n```bash\nc\n```\n", "page.md:1: text between"),
        ("<!-- test: background -->\n", "page.md:1: no block follows"),
        ("<!-- test: output -->\n```text\nc\n```\n", "page.md:1: no bash or python block before"),
        ("```console\n$ ls\n```\n", "page.md:1: write ```bash, not ```console"),
        ("Text:\n\n    flex-judge demo\n", "page.md:3: an indented command"),
    ],
)
def test_a_page_that_breaks_a_convention_is_an_error(page: str, message: str) -> None:
    with pytest.raises(PageError, match="^" + message.replace("(", r"\(")):
        parse(page)


@pytest.mark.parametrize(
    ("expected", "actual", "matches"),
    [
        ("a\nb\n", "a  \nb", True),
        ("a\n", "a\nb\n", False),
        ("a\n...\n", "a\nb\nc\n", True),
        ("score 9, expected 8.9...", "score 9, expected 8.97 (5 s)", True),
        ("...b...", "a\nbc", True),
        ("1.5", "105", False),
    ],
)
def test_three_dots_match_anything(expected: str, actual: str, matches: bool) -> None:
    assert output_matches(expected, actual) is matches
