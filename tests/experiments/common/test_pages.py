"""Pages: hostile texts, bounds, filters, charts, media and the selection of judgments."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clips import tone, wav
from html_page import HtmlPage
from PIL import Image

from flex_judge.alignment.reporting.model import Table, name_option
from flex_judge.experiments.common.reporting.blocks import (
    Card,
    Cards,
    CommandLine,
    ItemList,
    Page,
    PageSection,
    Progress,
    TextBudget,
)
from flex_judge.experiments.common.reporting.charts import (
    Point,
    Series,
    count_values,
    draw_bars,
    draw_lines,
    make_standalone,
)
from flex_judge.experiments.common.reporting.html import write_page
from flex_judge.experiments.common.reporting.judgments import ItemBuilder
from flex_judge.experiments.common.reporting.runs import build_failed_section, build_judgments_section
from flex_judge.experiments.common.reporting.sampling import sample_judgments
from flex_judge.experiments.common.reporting.tables import iterate_rows

EVIL = (
    "</script><script>alert(1)</script><img src=https://evil.example/x.png onerror=alert(2)>",
    "</div></details></main><iframe src='data:text/html,<script>alert(3)</script>'></iframe>",
    '" onmouseover="alert(4)" x=\'',
    "{{ 7 * 7 }} {% include 'base.html' %}",
    "<!-- <style>*{display:none}</style> ]]> &amp; &#60;b&#62;",
    "safe \u202e gnp.exe \u2066 \x00 \x1b[2J end",
)


def make_judgment(id: str, **fields: Any) -> dict[str, Any]:
    vote = {"status": "ok", "scores": [1.0], "reasoning": "", "detail": "", "forced_answer": None}
    row = {"id": id, "status": "ok", "scores": [1.0], "expected_scores": [1.0], "votes": [vote], "spread": [0.0]}
    return {**row, "preferred": None, "choice": None, "disagreement": None, **fields}


def make_failure(id: str, status: str, detail: str = "too long") -> dict[str, Any]:
    vote = {"status": status, "scores": None, "reasoning": "", "detail": detail, "forced_answer": None}
    return make_judgment(id, status=status, scores=None, expected_scores=None, spread=None, votes=[vote])


def write_list(folder: Path, rows: list[dict[str, Any]]) -> HtmlPage:
    builder = ItemBuilder.for_folder(folder)
    section = build_judgments_section(builder, sample_judgments(rows), folder)
    return HtmlPage.load(write_page(folder / "page.html", Page("Judgments", [], [section])))


@pytest.mark.parametrize("evil", EVIL)
def test_texts_of_models_are_text(evil: str, tmp_path: Path) -> None:
    vote = {"status": "ok", "scores": [1.0, 2.0], "reasoning": evil, "detail": evil, "forced_answer": evil}
    call = {"type": "function", "function": {"name": evil, "arguments": evil}}
    comparison = {
        "prompt": [
            {"role": evil, "name": evil, "content": evil, "tool_calls": [call], "reasoning_content": evil},
            {"role": "user", "content": [{"type": "text", "text": evil}, {"type": evil, "digest": evil}]},
            {"role": "user", "content": [{"type": "image", "file": evil}, {"type": "molecule", "smiles": evil}]},
        ],
        "responses": [evil, [{"role": evil, "content": evil}]],
        "where": evil,
    }
    rows = [make_judgment(evil, scores=[1.0, 2.0], votes=[vote], choice=evil, comparison=comparison)]
    rows += [make_failure(evil, evil, evil)]
    chart = draw_bars(evil, [(evil, 3)], label=evil, unit=evil, note=evil)
    lines = draw_lines(evil, [evil], [Series(evil, [Point(1.0)])], x_label=evil, y_label=evil)
    builder = ItemBuilder.for_folder(tmp_path)
    sections = [build_judgments_section(builder, sample_judgments(rows), tmp_path)]
    failed = build_failed_section(builder, [{"id": evil, "reason": evil, "problem": evil}])
    assert failed is not None
    blocks = [
        Cards([Card(evil, evil, evil)]),
        CommandLine(evil, evil),
        chart,
        lines,
        Table((evil, evil), [(evil, evil)]),
    ]
    page = Page(evil, [evil, *blocks], [*sections, failed, PageSection(evil, [evil])])
    html = HtmlPage.load(write_page(tmp_path / "page.html", page))
    assert not any(character in html.html for character in "\u202e\u2066\x00\x1b")
    for part in ("alert", "7 * 7", "gnp.exe", "display:none"):
        assert (part in evil) <= (part in html.text)
    (svg,) = [tag for tag in ("svg",) if tag in html.tags]
    assert svg
    assert "49" not in html.text


def test_control_characters_are_visible(tmp_path: Path) -> None:
    comparison = {"prompt": [{"role": "user", "content": "a\u202eb\x00c"}], "responses": ["سلام"]}
    page = write_list(tmp_path, [make_judgment("1", comparison=comparison)])
    assert "a\\u202eb\\x00c" in page.text
    assert "سلام" in page.text
    assert 'dir="auto"' in page.html


def test_selection_starts_with_failures_of_every_status_and_is_the_same_each_time() -> None:
    rows = [make_judgment(str(i), scores=[i % 5 + 1.0]) for i in range(3000)]
    rows += [make_failure(f"long {i}", "overlong") for i in range(500)]
    rows += [make_failure("late", "timeout", "no verdict within 600 s")]
    rows += [make_judgment(f"unsure {i}", disagreement=1.0, spread=[0.1 * i]) for i in range(30)]
    random.Random(1).shuffle(rows)
    first, second = sample_judgments(rows), sample_judgments(iter(rows))
    assert [row["id"] for row in first.shown] == [row["id"] for row in second.shown]
    assert first.total == 3531
    assert first.num_failed == 501
    assert "late" in [row["id"] for row in first.failed]
    assert len(first.failed) == 40
    assert [row["id"] for row in first.doubtful][:2] == ["unsure 29", "unsure 28"]
    assert first.reasons["overlong", "too long"] == 500
    assert len({row["id"] for row in first.shown}) == len(first.shown) == 80
    assert first.describe_selection() == (
        "80 of 3,531 judgments: 40 of 501 without a score, taken from every status; 15 that the judge was least sure "
        "of; 25 at random (seeded)."
    )


def test_large_run_makes_a_small_page(tmp_path: Path) -> None:
    file = tmp_path / "judgments.jsonl"
    long = "x" * 200_000

    def write_rows() -> Iterator[str]:
        prompt = [{"role": "user", "content": long}] * 100
        comparison = {"prompt": prompt, "responses": [long] * 64, "where": long}
        vote = {"status": "ok", "scores": [1.0], "reasoning": long, "detail": long, "forced_answer": "budget"}
        fields = {"disagreement": 1.0, "comparison": comparison}
        yield from (json.dumps(make_judgment(f"big {i}", votes=[vote] * 8, **fields)) for i in range(3))
        short = json.dumps(make_judgment("ID", scores=[3.0]))
        yield from (short.replace("ID", str(i)) for i in range(200_000))

    with file.open("w") as out:
        out.writelines(line + "\n" for line in write_rows())
    sample = sample_judgments(iterate_rows(file))
    builder = ItemBuilder.for_folder(tmp_path)
    section = build_judgments_section(builder, sample, tmp_path)
    page = write_page(tmp_path / "page.html", Page("Large", [], [section]))
    assert page.stat().st_size < 5_000_000
    html = HtmlPage.load(page)
    assert "of 200,003 judgments" in html.text
    assert "not on this page" in html.text
    assert "68 earlier messages not on this page" in html.text
    assert "32 responses not on this page" in html.text


def test_failed_rows_show_reason_row_and_prompt(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "first"}\n{"prompt": [{"role": "user", "content": "What is <b>2</b>?"}]}\n')
    rows = [
        {"id": "2", "reason": "invalid_input", "problem": f"{file}, row 2, field 'images': no such file"},
        {"id": None, "reason": "failed", "problem": "elsewhere.jsonl, row 9: gone"},
    ]
    section = build_failed_section(ItemBuilder.for_folder(tmp_path), rows)
    assert section is not None
    html = HtmlPage.load(write_page(tmp_path / "page.html", Page("Failed", [], [section])))
    first, second = html.find_items("failed")
    assert "What is <b>2</b>?" in first
    assert "invalid input" in first
    assert "row 2, field 'images': no such file" in first
    assert "elsewhere.jsonl, row 9: gone" in second
    assert ["invalid input", "1"] in html.rows
    assert build_failed_section(ItemBuilder.for_folder(tmp_path), []) is None


def test_filters_have_a_button_and_a_rule_for_each_status(tmp_path: Path) -> None:
    page = write_list(tmp_path, [make_judgment("a"), make_failure("b", "overlong"), make_failure("c", "timeout")])
    labels = [text for tag, _, text in page.elements if tag == "label"]
    assert labels == ["all 3", "overlong 1", "scored 1", "timeout 1"]
    assert page.tags.count("input") == 4
    for number in range(8):
        assert f".filter > .f{number}:checked ~ .items > .item:not(.s{number})" in page.html
    only = write_list(tmp_path, [make_judgment("a")])
    assert "input" not in only.tags
    many = write_list(tmp_path, [make_failure(str(i), f"status {i}") for i in range(20)])
    assert many.tags.count("input") == 9


def test_pictures_and_sounds_are_small_or_named(tmp_path: Path) -> None:
    Image.new("RGB", (2000, 1000), "red").save(tmp_path / "red.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "beep.wav").write_bytes(wav(tone(0.2)))
    content = [
        {"type": "image", "file": "red.png"},
        {"type": "image", "file": "broken.png"},
        {"type": "image", "file": "gone.png"},
        {"type": "image", "digest": "abcdef0123456789"},
        {"type": "audio", "file": str(tmp_path / "beep.wav")},
        {"type": "video", "file": "red.png"},
        {"type": "molecule", "smiles": "CCO"},
    ]
    comparison = {"prompt": [{"role": "user", "content": content}], "responses": ["yes"]}
    page = write_list(tmp_path, [make_judgment("1", comparison=comparison)])
    assert sum(link.startswith("data:image/jpeg;base64,") for link in page.links) == 1
    assert sum(link.startswith("data:audio/wav;base64,") for link in page.links) == 1
    assert max(map(len, page.links)) < 400_000
    for text in (
        "gone.png (the file is missing)",
        "broken.png (cannot be shown)",
        "content abcdef012345",
        "CCO",
        "video:",
    ):
        assert text in page.text


def test_text_budget_cuts_long_texts_and_says_so() -> None:
    budget = TextBudget(total=1000, each=500, least=50, open_chars=100)
    text = budget.clip_text("a" * 600)
    assert (len(text.head), len(text.rest), text.left) == (100, 360, 140)
    assert budget.clip_text("short").head == "short"
    for _ in range(5):
        budget.clip_text("b" * 500)
    assert budget.clip_text("c" * 500).left == 490


def test_charts_have_the_figures_as_a_table_and_a_file_of_their_own(tmp_path: Path) -> None:
    series = [Series("judge", [Point(10.0, 5.0, 15.0), Point(None)]), Series("other", [Point(99.5), Point(0.0)])]
    chart = draw_lines("Share", ["1", "2"], series, x_label="N", y_label="%", top=100)
    page = HtmlPage.load(write_page(tmp_path / "page.html", Page("Chart", [chart, chart, "text"], [])))
    assert ["1", "10.0", "99.5"] in page.rows
    assert ["2", "–", "0.0"] in page.rows
    assert page.html.count('<div class="charts">') == 1
    standalone = make_standalone(chart)
    assert standalone.startswith('<svg xmlns="http://www.w3.org/2000/svg" ')
    assert "prefers-color-scheme:dark" in standalone
    for values in ([], [3.0], [1.0, 1.0, 5.0], [0.1, 0.15, 0.9], [1e6, -1e6], [float(i) for i in range(101)]):
        counts = count_values(values)
        assert sum(count for _, count in counts) == len(values)
        assert len(counts) <= 21
        draw_bars("Scores", counts, label="score", unit="answers")
    assert count_values([1.0, 5.0, 5.0]) == [("1", 1), ("2", 0), ("3", 0), ("4", 0), ("5", 2)]


def test_equal_inputs_give_equal_pages(tmp_path: Path) -> None:
    rows = [make_judgment(str(i), scores=[float(i % 7)]) for i in range(500)]
    pages = []
    for _ in range(2):
        pages.append(write_list(tmp_path, rows).html)
        time.sleep(0.01)
    assert pages[0] == pages[1]


def test_empty_lists_and_bars() -> None:
    assert not ItemList("none", []).filters
    assert [name_option(i) for i in (0, 25, 26)] == ["A", "Z", "AA"]
    assert Progress(0, 0, 0).template == "progress"
