"""Metrics and tables as text and Markdown."""

from __future__ import annotations

import pytest

from flex_judge.alignment.reporting import (
    RULE,
    Figure,
    MetricValue,
    Note,
    Report,
    Section,
    Table,
    as_number,
    as_percent,
    format_cell,
    format_code,
    to_markdown,
)


@pytest.mark.parametrize(
    ("metric", "text"),
    [
        (as_percent(0.417), "41.7 %"),
        (as_percent({"value": 0.245, "low": 0.191, "high": 0.309}), "24.5 % (19.1 to 30.9)"),
        (as_number({"mean": 0.5, "deviation": 0.0707}, scale=100, digits=1), "50.0 ± 7.1"),
        (as_number({"mean": 0.5, "deviation": 0.0}), "0.50"),
        (as_number(0.0, scale=100, sign="+"), "+0.00"),
        (as_number(None), "–"),
        (MetricValue(1.0, low=0.5, high=None), "1.00"),
    ],
)
def test_metric_prints_its_value_and_uncertainty(metric: MetricValue, text: str) -> None:
    assert str(metric) == text


def test_cells_have_thousands_separators() -> None:
    assert [format_cell(cell) for cell in (1234, "a", None, as_number(1234.5))] == ["1,234", "a", "", "1234.50"]


def test_table_is_aligned_and_escapes_its_texts() -> None:
    table = Table(("name", "count"), [("a|b", 1000), RULE, ("c", as_percent(0.5))], note="A note.")
    assert to_markdown(table) == ("| name | count |\n|---|---:|\n| a\\|b | 1,000 |\n| c | 50.0 % |\n\nA note.\n")


def test_report_renders_title_introduction_and_sections() -> None:
    report = Report("A\nmodel", ["Intro."], (Section(name, iter([Note(name)])) for name in ("one", "two")))
    text = "# A model\n\nIntro.\n\n## one\n\none\n\n## two\n\ntwo\n"
    assert to_markdown(report) == to_markdown(report) == text


def test_figure_in_a_card_raises_a_type_error() -> None:
    with pytest.raises(TypeError, match="put it on a page"):
        to_markdown(Report("", [Figure("<svg/>")], []))


def test_code_is_one_line_without_backticks() -> None:
    assert format_code("a `b`\nc") == "`a 'b' c`"
