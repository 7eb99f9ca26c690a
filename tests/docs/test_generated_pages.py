"""The pages that docs/hooks makes of the code, and the navigation. Needs no mkdocs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from doc_hooks import HOOKS, load_hook
from import_graph import LAYERS
from repository import DOCS, ROOT

from flex_judge import Status
from flex_judge.experiments import cli


def list_nav(entries: list[Any]) -> Iterator[str]:
    for entry in entries:
        if isinstance(entry, str):  # the page of a section, which has the section's title
            yield entry
            continue
        for value in entry.values():
            yield from [value] if isinstance(value, str) else list_nav(value)


def list_generated() -> set[str]:
    """Pages that the hook adds. It is read, not imported, as it needs mkdocs."""
    return set(re.findall(r'"([\w/-]+\.md)"', (HOOKS / "generate.py").read_text(encoding="utf-8"))) - {
        "CONTRIBUTING.md"
    }


def test_the_navigation_has_every_page_once_and_no_other() -> None:
    nav = list(list_nav(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    written = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md") if HOOKS not in path.parents}
    assert not written & list_generated()
    assert sorted(nav) == sorted(written | list_generated())


def test_generated_pages_have_an_introduction() -> None:
    names = {path.rpartition("/")[2] for path in list_generated()} - {"contributing.md"}
    assert names == {path.name for path in (HOOKS / "intro").glob("*.md")}


@pytest.mark.slow  # loads TRL, which has the flags of the training commands
def test_the_command_line_page_has_every_command_and_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    hook = load_hook("cli_page", monkeypatch)
    page = hook.generate()
    for command in hook.list_choices(hook.find_parser(cli.main)):
        assert f"## flex-judge {command} {{ #{command} }}" in page
    for row in (
        "| `--votes N` | `1` |",
        "| `--reason-first`, `--no-reason-first` | on |",
        "| `--output_dir OUTPUT_DIR` | `runs/dpo` |",
        "One of `as_given`, `random`, `both`, `rotations` |",
        "| `llmbar` |",
    ):
        assert row in page


def test_the_http_page_has_every_route_and_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    hook = load_hook("http_page", monkeypatch)
    page, description = hook.generate(), hook.read_openapi()
    for path in description["paths"]:
        assert f" {path}\n" in page
    anchors = set(re.findall(r"\{ #(\w+) \}", page))
    assert anchors == {name.lower() for name in description["components"]["schemas"]} | {"schemas"}
    assert set(re.findall(r"\]\(#(\w+)\)", page)) <= anchors


def test_the_metrics_page_has_every_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    page = load_hook("metrics_page", monkeypatch).generate()
    assert "| `flex_judge_pending` | gauge | `model` |" in page
    assert "| `flex_judge_requests_total` | counter | `model`, `route`, `code` |" in page
    assert "| `flex_judge_judgment_seconds` | histogram |" in page


def test_the_errors_page_has_every_status_and_error(monkeypatch: pytest.MonkeyPatch) -> None:
    hook = load_hook("errors_page", monkeypatch)
    page = hook.generate()
    for status in Status:
        assert re.search(rf"\| `{status}` \| \w[^|]+ \| (yes|no) \|", page)
    assert len(hook.list_errors()) > 15
    assert "| `UsageError` | `JudgeError`, `ValueError` | 2 | 422 |" in page


def test_the_architecture_page_has_every_package(monkeypatch: pytest.MonkeyPatch) -> None:
    page = load_hook("architecture_page", monkeypatch).generate()
    for layer in LAYERS:
        for package in (ROOT / layer).glob("*/__init__.py"):
            assert f"### {layer}/{package.parent.name} {{" in page


def test_the_examples_page_has_every_example(monkeypatch: pytest.MonkeyPatch) -> None:
    page = load_hook("examples_page", monkeypatch).generate()
    for path in (ROOT / "experiments" / "examples").glob("[!_]*.py"):
        assert f"{{ #{path.stem} }}" in page


def test_bars_end_cells_except_in_code(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_hook("tables", monkeypatch).table(["A"], [["x | `y|z`\nw"]]) == "| A |\n| --- |\n| x \\| `y|z` w |\n"


@pytest.mark.parametrize(
    ("plain", "markdown"),
    [
        ("a | b * c_d", "a | b \\* c\\_d"),
        ("see --out and `--ledger`", "see `--out` and `--ledger`"),
        ('{"id": ["x"]} <url>', '\\{"id": \\["x"\\]\\} &lt;url>'),
        ("a two-step --max-think-tokens", "a two-step `--max-think-tokens`"),
    ],
)
def test_plain_text_is_escaped(plain: str, markdown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_hook("tables", monkeypatch).text(plain) == markdown
