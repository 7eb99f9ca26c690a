"""Report page of a demo: content, escaping, histograms and the sentence on the result."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from flex_judge.experiments.commands.report.run import (
    build_histogram,
    build_view,
    compute_score_axis,
    join_prompts,
    select_prompts,
    write_demo_report,
)
from flex_judge.experiments.common.reporting.wording import (
    compute_chance_margin,
    describe_verdict,
    format_duration,
    list_token_rows,
)
from flex_judge.judges.errors import UsageError

SUMMARY: dict[str, Any] = json.loads("""{
  "policy": "some-policy", "judge": "some-judge", "engine": "vllm", "replicas": 2, "prompts": 2,
  "samples_per_prompt": 3, "accuracy_pass_at_1": 0.5, "accuracy_random": 0.5, "accuracy_best_of_n": 1.0,
  "accuracy_pass_at_n": 1.0, "pairs": 1, "dropped": {"tied": 1, "equal_text": 0}, "judgments": {"ok": 5, "timeout": 1},
  "policy_tokens": 1234, "judge_tokens": 5678, "seconds": {"start_ray": 2.5, "judge": 75.0}
}""")
EVIL = "<script>alert('x')</script><img src=https://evil.example/x.png>"


def make_judgment(id: str, score: float | None, status: str = "ok", forced_answer: str | None = None) -> dict[str, Any]:
    scores = None if score is None else [score]
    detail = "" if status == "ok" else "no verdict within 600 s"
    vote = {"status": status, "scores": scores, "reasoning": "", "forced_answer": forced_answer, "detail": detail}
    reasoning, provenance = f"I think <b>{id}</b> is fine.", {"rubric": "correctness"}
    return vote | {"id": id, "reasoning": reasoning, "votes": [vote], "provenance": provenance}


def make_best_of_n_row(
    id: str, scores: list[float | None], best: int | None, right: list[bool] | None
) -> dict[str, Any]:
    prompt, responses = (
        [{"role": "user", "content": f"Question {id}?"}],
        [f"Answer {k} to {id}" for k in range(len(scores))],
    )
    row = {"id": id, "prompt": prompt, "responses": responses, "scores": scores, "right": right, "best": best}
    return row | {"expected_scores": [None if s is None else s - 0.25 for s in scores], "text": None, "tied": 1}


def make_pair(id: str, chosen: int, rejected: int) -> dict[str, Any]:
    provenance = {"id": id, "chosen_index": chosen, "rejected_index": rejected}
    return {"score_chosen": 5.0, "score_rejected": 1.0, "margin": 4.0, "provenance": provenance}


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Write a run with two prompts of three samples; the second has no pair, and one of its samples timed out."""
    first = make_best_of_n_row("q1", [1.0, 5.0, 3.0], 1, [False, True, False])
    first["responses"][2] = EVIL
    second = make_best_of_n_row("q2", [4.0, None, 4.0], 0, [True, True, False])
    write_rows(tmp_path / "best_of_n.jsonl", [first, second])
    write_rows(tmp_path / "preferences.jsonl", [make_pair("q1", 1, 0)])
    ids = [f"{q}/{k}" for q in ("q1", "q2") for k in range(3)]
    rows = [make_judgment(i, s) for i, s in zip(ids, [1.0, 5.0, 3.0, 4.0, None, 4.0], strict=True)]
    rows[2] = make_judgment("q1/2", 3.0, forced_answer="budget")
    rows[4] = make_judgment("q2/1", None, "timeout")
    write_rows(tmp_path / "judgments.jsonl", rows)
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
    return tmp_path


class _Page(HTMLParser):
    """Parser for tags and attributes of a page, and for its table rows as text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.rows: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "tr":
            self.rows.append("")

    def handle_data(self, data: str) -> None:
        if self.rows:
            self.rows[-1] += data + " "


def render_page(run: Path) -> tuple[str, _Page]:
    html = write_demo_report(run).read_text(encoding="utf-8")
    return html, _Page(html)


def find_row(page: _Page, text: str) -> str:
    (row,) = [" ".join(r.split()) for r in page.rows if text in r]
    return row


def test_texts_of_models_are_escaped(run: Path) -> None:
    html, page = render_page(run)
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in html
    assert "I think &lt;b&gt;q1/0&lt;/b&gt; is fine." in html


def test_page_needs_no_network(run: Path) -> None:
    html, page = render_page(run)
    assert not [(name, value) for name, value in page.attributes if name in ("src", "href", "action", "srcset")]
    assert "link" not in page.tags
    assert not re.search(r"@import|url\((?!#)", html)
    assert "default-src 'none'" in html


def test_shows_score_label_and_badges_of_every_candidate(run: Path) -> None:
    _, page = render_page(run)
    chosen, rejected = find_row(page, "Answer 1 to q1"), find_row(page, "Answer 0 to q1")
    assert chosen.startswith("B 5.00 4.75 ✓ right best chosen Answer 1")
    assert rejected.startswith("A 1.00 0.75 ✗ wrong rejected Answer 0")
    assert "Constrained fallback answer: the thinking ran out of its token budget." in find_row(page, "alert(")


def test_unscored_candidate_shows_its_status_instead_of_zero(run: Path) -> None:
    html, page = render_page(run)
    row = find_row(page, "Answer 1 to q2")
    assert row.startswith("B unscored: timeout ✓ right Answer 1")
    assert "no verdict before the deadline (no verdict within 600 s)" in row
    assert "0.00" not in row
    assert "1 of 6 candidates unscored" in html
    assert build_view(run)["written"].total == 5


def test_shows_pairs_times_and_agreement(run: Path) -> None:
    html, page = render_page(run)
    assert "Preference pairs: 1" in html
    assert find_row(page, "highest and the lowest score").startswith("tied")
    assert find_row(page, "start ray").startswith("start ray 2.5 s")
    assert find_row(page, "judge 1 min").startswith("judge 1 min 15 s")
    assert "1 prefer a right answer to a wrong one, 0 the reverse" in html
    assert "Forced answers" not in html
    assert "cached" not in html


def test_shows_optional_keys_and_ignores_unknown_ones(run: Path) -> None:
    optional = {
        "cached_tokens": 30,
        "prompt_tokens": 40,
        "forced_answer": {"budget": 1},
        "judge_auc": 0.75,
        "seed": 7,
        "new": [],
    }
    (run / "summary.json").write_text(json.dumps(SUMMARY | optional))
    html, _ = render_page(run)
    assert "30 (75.0%)" in html
    assert "Forced answers" in html
    assert "75.0% of the time" in html
    assert "Seed 7" in html


def test_run_without_pairs_labels_or_scores(run: Path) -> None:
    no_accuracies = dict.fromkeys(("accuracy_pass_at_1", "accuracy_random", "accuracy_best_of_n", "accuracy_pass_at_n"))
    (run / "summary.json").write_text(json.dumps(SUMMARY | no_accuracies | {"pairs": 0}))
    (run / "preferences.jsonl").write_text("")
    (run / "judgments.jsonl").write_text("")
    write_rows(run / "best_of_n.jsonl", [make_best_of_n_row("q1", [None, None], None, None)])
    html, _ = render_page(run)
    assert "No best: no candidate has a score" in html
    assert "unscored: not judged" in html
    assert "Accuracy" not in html
    assert "✓" not in html
    assert 'role="img"' not in html


def test_empty_run(run: Path) -> None:
    for name in ("best_of_n", "preferences", "judgments"):
        (run / f"{name}.jsonl").write_text("")
    (run / "summary.json").write_text(json.dumps(SUMMARY | {"prompts": 0}))
    html, _ = render_page(run)
    assert "There are no prompts." in html
    assert "There are no candidates." in html


def test_replaces_a_lone_surrogate(run: Path) -> None:
    row = make_best_of_n_row("q1", [1.0], 0, None)
    row["responses"] = ["half \ud83d of an emoji"]
    write_rows(run / "best_of_n.jsonl", [row])
    assert "half ? of an emoji" in render_page(run)[0]


def test_long_texts_are_folded_but_complete(run: Path) -> None:
    row = make_best_of_n_row("q1", [1.0], 0, None)
    row["responses"] = ["a" * 1000 + "b" * 1000]
    write_rows(run / "best_of_n.jsonl", [row])
    html, _ = render_page(run)
    assert "The other 1,200 characters" in html
    assert "…" + "a" * 200 + "b" * 1000 + "<" in html


@pytest.mark.parametrize("name", ["best_of_n.jsonl", "preferences.jsonl", "judgments.jsonl"])
def test_missing_file_is_named(run: Path, name: str) -> None:
    (run / name).unlink()
    with pytest.raises(UsageError, match=rf"{re.escape(name)}: cannot be read") as caught:
        write_demo_report(run)
    assert "\n" not in str(caught.value)


def test_folder_without_a_finished_run_names_the_command(run: Path) -> None:
    (run / "summary.json").unlink()
    with pytest.raises(UsageError, match="holds no finished run; create one with: flex-judge demo"):
        write_demo_report(run)


@pytest.mark.parametrize(
    ("line", "problem"),
    [(b"{", "not JSON"), (b"\xff", "not JSON"), (b"[]", "JSON object"), (b"{}", "field 'id' is missing")],
)
def test_invalid_line_is_named(run: Path, line: bytes, problem: str) -> None:
    with (run / "judgments.jsonl").open("ab") as file:
        file.write(b"\n" + line)
    with pytest.raises(UsageError, match=rf"judgments\.jsonl, line 8: .*{problem}"):
        write_demo_report(run)


@pytest.mark.parametrize(("text", "problem"), [("{", "not JSON"), ("{}", "field 'policy' is missing")])
def test_invalid_summary_is_named(run: Path, text: str, problem: str) -> None:
    (run / "summary.json").write_text(text)
    with pytest.raises(UsageError, match=rf"summary\.json: {problem}"):
        write_demo_report(run)


def test_rejects_lists_of_different_length() -> None:
    row = make_best_of_n_row("q1", [1.0, 2.0], 1, [True])
    with pytest.raises(UsageError, match="'q1' has 2 responses but 1 right"):
        join_prompts([row], [], [])


def test_selects_prompts_with_a_pair_first() -> None:
    rows = [make_best_of_n_row(f"q{i}", [1.0], 0, None) for i in range(6)]
    prompts = join_prompts(rows, [make_pair("q4", 0, 0), make_pair("q2", 0, 0)], [])
    assert [p.id for p in select_prompts(prompts, 3)] == ["q0", "q2", "q4"]
    assert [p.id for p in select_prompts(prompts, 1)] == ["q2"]


def test_shows_the_reasoning_of_each_vote() -> None:
    row = make_judgment("q1/0", 3.0)
    row["votes"] = [
        row["votes"][0] | {"reasoning": r, "forced_answer": f} for r, f in (("one", "budget"), ("two", None))
    ]
    (prompt,) = join_prompts([make_best_of_n_row("q1", [3.0], 0, None)], [], [row])
    assert prompt.candidates[0].reasonings == ("one", "two")
    assert prompt.candidates[0].detail.startswith("Constrained fallback answer in 1 of 2 votes")


def test_histogram_has_one_bar_per_written_score_and_bins_for_expected_scores() -> None:
    h = build_histogram([(1.0, False), (5.0, True), (5.0, False), (5.0, None)], 1.0, 5.0, 1.0)
    assert [b.label for b in h.bars] == ["1", "2", "3", "4", "5"]
    assert h.bars[0].counts == (0, 1, 0)
    assert h.bars[4].counts == (1, 1, 1)
    assert h.guides == (0, 1, 2, 3)
    assert h.ticks[0] == (0.5, "1")
    h = build_histogram([(1.0, None), (4.99, None), (5.0, None)], 1.0, 5.0, None)
    assert len(h.bars) == 16
    assert h.bars[0].counts[2] == 1
    assert h.bars[-1].counts[2] == 2


@pytest.mark.parametrize(("low", "high", "step", "bars"), [(1.0, 5.0, 0.1, 41), (1.0, 10.0, 1.0, 10), (0, 100, 1, 20)])
def test_histogram_of_other_scales(low: float, high: float, step: float, bars: int) -> None:
    h = build_histogram([(low, None), (high, None)], low, high, step)
    assert len(h.bars) == bars
    assert h.bars[0].counts[2] == h.bars[-1].counts[2] == 1
    assert 2 <= len(h.ticks) <= 11


def test_axis_is_the_scale_of_the_rubric() -> None:
    assert compute_score_axis([make_judgment("a/0", 3.0)], [3.0]) == (1.0, 5.0, 1.0)
    unknown_rubric = {"provenance": {"rubric": "/nowhere/mine.toml"}}
    assert compute_score_axis([unknown_rubric], [2.5, 7.0]) == (2.0, 7.0, 1.0)


def figures(best: float | None, chance: float | None, ceiling: float | None = 0.8, **rest: Any) -> dict[str, Any]:
    accuracy = {"accuracy_best_of_n": best, "accuracy_random": chance, "accuracy_pass_at_n": ceiling}
    return SUMMARY | {"prompts": 100, "samples_per_prompt": 8} | accuracy | rest


def test_sentence_when_better() -> None:
    sentence = describe_verdict(figures(0.7, 0.5))
    assert "20.0 points better than a random pick (50.0%), and closes 67% of the gap to the ceiling (80.0%)" in sentence
    assert "gap" not in describe_verdict(figures(0.7, 0.5, None))


def test_sentence_within_noise() -> None:
    sentence = describe_verdict(figures(0.55, 0.5))
    assert "+5.0 points is within noise (two standard errors are 10.0 points)" in sentence
    assert "this judge chooses no better than chance here" in sentence
    assert "this untuned judge" in describe_verdict(figures(0.55, 0.5, judge="smollm2-135m"))
    assert "difference of 0.0 points" in describe_verdict(figures(0.49999, 0.5))


def test_sentence_when_worse_or_without_ground_truth() -> None:
    sentence = describe_verdict(figures(0.3, 0.5))
    assert "20.0 points below a random pick (50.0%)" in sentence
    assert "worse than chance" in sentence
    sentence = describe_verdict(figures(None, None, None))
    assert "8 samples of each of 100 prompts; there is no ground truth" in sentence
    assert "%" not in sentence


def test_sentence_when_there_was_little_to_go_by() -> None:
    assert "nothing to choose" in describe_verdict(figures(0.5, 0.5, 0.5))
    assert "No prompts were run" in describe_verdict(figures(0.5, 0.5, prompts=0))
    # One lucky prompt of four is no finding.
    assert "within noise" in describe_verdict(figures(0.25, 0.03, 0.25, prompts=4))
    assert compute_chance_margin(0.5, 100) == pytest.approx(0.1)
    assert compute_chance_margin(0.0, 4) > 0.25


def test_small_words() -> None:
    assert [format_duration(s) for s in (0.42, 59.96, 125, 7450)] == [
        "0.42 s",
        "1 min 00 s",
        "2 min 05 s",
        "2 h 04 min",
    ]
    assert list_token_rows({"prompt_tokens": 0, "cached_tokens": 0}) == [("read by the judge", "0")]


def test_importing_the_report_is_light() -> None:
    code = "import sys, flex_judge.experiments.commands.report.run; "
    code += "print({'torch', 'ray', 'jinja2', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_tool_calls_and_definitions_are_shown() -> None:
    call = {"type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "Look: "}, {"type": "image", "digest": "12"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "name": "get_weather", "content": "21C"},
    ]
    row = make_best_of_n_row("q1", [3.0], 0, None)
    row |= {"prompt": messages, "tools": [{"name": "get_weather"}], "responses": [[messages[1]]]}
    (prompt,) = join_prompts([row], [], [])
    assert [message["role"] for message in prompt.messages] == ["tools", "user", "assistant", "tool get_weather"]
    assert [message["content"] for message in prompt.messages[1:]] == [
        "Look: [image]",
        'get_weather({"city": "Rome"})',
        "21C",
    ]
    assert 'get_weather({"city": "Rome"})' in prompt.candidates[0].text
