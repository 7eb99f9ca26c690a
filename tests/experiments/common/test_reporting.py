"""Terminal tables and HTML reports."""

from __future__ import annotations

from pathlib import Path

import pytest

from flex_judge.alignment.reporting import Figure, Note, Report, Section, Table, as_percent
from flex_judge.experiments.common.reporting.html import write_page
from flex_judge.experiments.common.reporting.terminal import print_run, print_table


def test_model_output_has_no_effect_in_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(Table(("", "[b]x[/b]"), [("[red]a[/red]", "\x1b[2J")], title="[i]t[/i]", note="[u]n[/u]"))
    out = capsys.readouterr().out
    for text in ("[red]a[/red]", "[b]x[/b]", "[i]t[/i]", "[u]n[/u]", "\\x1b[2J"):
        assert text in out


def test_run_output_ends_with_the_total_time(capsys: pytest.CaptureFixture[str]) -> None:
    print_run("title", {"seconds": {"total": 125.0}}, [("rows", 1234)], [("right", as_percent(0.5))])
    out = capsys.readouterr().out
    assert "1,234" in out
    assert "50.0 %" in out
    assert "2 min 05 s" in out


def test_page_escapes_texts_and_keeps_plots(tmp_path: Path) -> None:
    table = Table(("<name>", "share"), [("<a>", as_percent(0.5)), ("b", None)], highlight=0, bars=True)
    sections = [Section("one", [table, Note("<note>"), Figure("<svg></svg>", "caption", "below")])]
    page = write_page(tmp_path / "page.html", Report("<title>", ["<intro>"], sections)).read_text()
    for text in ("&lt;name&gt;", "&lt;a&gt;", "&lt;note&gt;", "&lt;intro&gt;", "<svg></svg>", "caption", "below"):
        assert text in page
    assert '<tr class="ours">' in page
    assert 'style="width: 4.00rem"' in page
    assert "default-src 'none'" in page
