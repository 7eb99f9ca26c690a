"""Pages of runs: real commands on small inputs, whose pages have the figures of their results, finished or not."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import benchmark_data
import pytest
from browser import FIND_OVERFLOW, NARROW, OPEN_ALL, WIDE, open_browser
from curating import data as make_reference_row
from eval_command import JUDGE, PANDALM_REPLIES, write_replies
from html_page import HtmlPage

from flex_judge.alignment.pipeline.job import Job, WorkPlan
from flex_judge.alignment.pipeline.models import LocalModels
from flex_judge.alignment.pipeline.shards import ShardFolder
from flex_judge.alignment.pipeline.worker import ShardWorker
from flex_judge.experiments.cli import main
from flex_judge.experiments.commands.best_of_n.config import BestOfNRun
from flex_judge.experiments.commands.best_of_n.run import write_summary
from flex_judge.experiments.commands.preferences.config import PreferenceRun
from flex_judge.experiments.common.data_runs.config import DataFlags
from flex_judge.experiments.common.data_runs.run import CompletedRun
from flex_judge.experiments.common.flags import make_config
from flex_judge.experiments.common.reporting.pages import write_page
from flex_judge.experiments.common.run_folder import RunFolder
from flex_judge.judges.io.files import read_table
from flex_judge.judges.io.jsonl import write_rows

SCRIPTED = {"engine": "scripted", "policy": "scripts:slow_drawn_policy", "judge": "scripts:fair_judge"}
JUDGE_COMMAND = ["judge", "c.jsonl", "--engine", "scripted", "--max-think-tokens", "400", "--out", "o.jsonl"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty working directory; the script logs its calls outside of it."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("FLEX_JUDGE_TEST_CALLS", str(tmp_path / "calls"))
    return tmp_path


@contextlib.contextmanager
def interrupt_run(path: Path, settings: Mapping[str, Any], kind: str) -> Iterator[RunFolder]:
    """Open a run folder, and end its run as Ctrl-C does after the block."""
    with contextlib.suppress(KeyboardInterrupt), RunFolder(path, settings, kind=kind) as folder:
        yield folder
        raise KeyboardInterrupt


def write_comparisons(count: int = 8, **second: str) -> None:
    rows: list[dict[str, Any]] = [
        {"id": f"r{i}", "prompt": f"What is {i}?", "responses": [f"It is {i}.", second.get(f"r{i}", f"It was {i}.")]}
        for i in range(count)
    ]
    write_rows(Path("c.jsonl"), rows)


def read_rows(path: str) -> list[dict[str, Any]]:
    return [dict(row) for _, row in read_table(Path(path)) if isinstance(row, dict)]


@pytest.mark.parametrize("out", ["o.jsonl", "o.parquet"])
def test_judge_writes_a_page_with_the_figures_of_its_judgments(out: str) -> None:
    write_comparisons(5)
    with Path("c.jsonl").open("a") as file:
        file.write(
            '{"id": "bad", "prompt": "Who is in <b>this</b> picture?", "image": "no.png", "responses": ["Me"]}\n'
        )
    command = [*JUDGE_COMMAND, "--model", "scripts:fair_judge", "--out", out, "--max-failures", "1"]
    assert main(command) == 0
    html = HtmlPage.load(Path(f"{out}.html"))
    rows = read_rows(out)
    assert html.cards["Comparisons with a score"] == "5 of 6"
    assert html.cards["Without a score"] == "1"
    scores = [score for row in rows for score in row["scores"] or ()]
    for score in set(scores):
        assert [f"{score:g}", str(scores.count(score))] in html.rows
    assert len(html.find_items()) == len(rows)
    (failed,) = html.find_items("failed")
    assert "c.jsonl, row 6, field 'image': no.png: cannot be read" in failed
    assert "Who is in <b>this</b> picture?" in failed
    assert any("What is 3?" in item and "It was 3." in item and "I look at" in item for item in html.find_items())
    assert "flex-judge judge c.jsonl --engine scripted --max-think-tokens 400 --out o.jsonl" in html.text
    before = html.html
    assert main(["report", out]) == 0
    assert Path(f"{out}.html").read_text() == before


def test_judgments_can_be_read_without_their_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flex_judge.judges.io.comparison_rows.MAX_CHARS", 400)
    write_comparisons(2, r1="very " * 200 + "long")
    assert main([*JUDGE_COMMAND, "--model", "scripts:fair_judge"]) == 0
    short, long = read_rows("o.jsonl")
    assert short["comparison"]["prompt"] == [{"role": "user", "content": "What is 0?"}]
    assert short["comparison"]["responses"] == ["It is 0.", "It was 0."]
    assert short["comparison"]["where"] == long["comparison"]["where"].replace("row 2", "row 1") == "c.jsonl, row 1"
    assert "prompt" not in long["comparison"]
    assert len(long["comparison"]["digest"]) == 64
    # The page follows the pointer, and names it if the input is gone.
    assert HtmlPage.load(Path("o.jsonl.html")).text.count("Response B") == 2
    Path("c.jsonl").unlink()
    page = HtmlPage.load(write_page(Path("o.jsonl")))
    assert "What is 0?" in page.text
    assert HtmlPage.load(Path("o.jsonl.html")).text.count("Response B") == 1
    assert "r1 · c.jsonl, row 2" in page.text


def test_stopped_run_has_a_page_that_says_what_is_left_and_how_to_resume(capfd: pytest.CaptureFixture[str]) -> None:
    write_comparisons(8, r3="SIGINT")
    command = [*JUDGE_COMMAND, "--model", "scripts:logged_judge", "--concurrency", "1"]
    assert main(command) == 130
    assert "page of the unfinished run: o.jsonl.html" in capfd.readouterr().err
    html = HtmlPage.load(Path("o.jsonl.html"))
    assert (html.cards["Done"], html.cards["Failed"], html.cards["Left"]) == ("3", "0", "5 of 8 comparisons")
    assert "This run is not finished" in html.text
    assert f"flex-judge {' '.join(command)}" in html.text
    with Path("o.jsonl").open("a") as file:
        file.write('{"id": "r9", "sta')  # a process may be writing the last line
    assert main(["report", "o.jsonl"]) == 0
    assert HtmlPage.load(Path("o.jsonl.html")).cards == html.cards
    assert main(command) == 0
    finished = HtmlPage.load(Path("o.jsonl.html"))
    assert finished.cards["Comparisons with a score"] == "8 of 8"
    assert "not finished" not in finished.text


def test_rows_of_earlier_versions_have_a_page(capfd: pytest.CaptureFixture[str]) -> None:
    write_comparisons(2)
    assert main([*JUDGE_COMMAND, "--model", "scripts:fair_judge"]) == 0
    rows = [{name: value for name, value in row.items() if name != "comparison"} for row in read_rows("o.jsonl")]
    write_rows(Path("old.jsonl"), rows)
    html = HtmlPage.load(write_page(Path("old.jsonl")))
    assert html.cards["Comparisons with a score"] == "2 of 2"
    assert "Judgment r0" in html.text
    write_rows(Path("other.jsonl"), [{"id": "x"}])
    assert main(["report", "other.jsonl"]) == 2
    assert "holds something other than judgments" in capfd.readouterr().err


def test_eval_page_has_the_metrics_and_the_failures(folder: Path) -> None:
    release = benchmark_data.write_somos(folder / "data")
    (release / "audios" / "LJ003-0304_078.wav").write_bytes(b"RIFF")
    command = ["eval", "somos", "--data", str(release), *JUDGE, "--out", "run", "--max-failures", "9"]
    assert main(command) == 0
    summary = json.loads(Path("run/summary.json").read_text())
    html = HtmlPage.load(Path("run/report.html"))
    task = next(iter(summary["tasks"].values()))
    estimate = task["figures"][task["headline"]]
    value = estimate["value"] if estimate["strict"] is None else estimate["strict"]
    assert any(card.startswith("–" if value is None else f"{value:.4f}") for card in html.cards.values())
    assert html.cards["Judgments without a score"] == str(sum(summary["unscored"].values())) == "1"
    (failed,) = html.find_items("failed")
    assert "LJ003-0304_078.wav" in failed
    assert any(link.startswith("data:audio/wav;base64,") for link in html.links)


def test_replies_of_others_have_the_texts_of_their_items(folder: Path) -> None:
    file = str(benchmark_data.write_pandalm(folder))
    replies = write_replies({"id": 7, "text": "no scores at all"}, *PANDALM_REPLIES[1:])
    assert main(["eval", "pandalm", "--data", file, "--replay", replies, "--out", "run", "--max-failures", "9"]) == 0
    rows = read_rows("run/judgments.jsonl")
    assert all(len(row["comparison"]["responses"]) == 2 for row in rows)
    html = HtmlPage.load(Path("run/report.html"))
    (failed,) = html.find_items("failed")
    texts = next(row["comparison"]["responses"] for row in rows if row["id"] == "7")
    assert all(text in failed for text in texts)


def test_unfinished_eval_and_demo_have_a_page(folder: Path) -> None:
    file = str(benchmark_data.write_pandalm(folder))
    assert main(["eval", "pandalm", "--data", file, *JUDGE, "--out", "run"]) == 0
    record = json.loads(Path("run/run.json").read_text())
    assert (record["kind"], record["is_finished"]) == ("eval", True)
    lines = Path("run/judgments.jsonl").read_text().splitlines(keepends=True)
    Path("run/judgments.jsonl").write_text("".join(lines[:2]) + lines[2][:30])
    Path("run/run.json").write_text(json.dumps({**record, "is_finished": False}))
    html = HtmlPage.load(write_page(Path("run")))
    assert (html.cards["Done"], html.cards["Left"]) == ("2", f"{len(lines) - 2} of {len(lines)} judgments")
    assert "Benchmark pandalm" in html.text
    with interrupt_run(Path("demo"), {"policy": "p"}, "demo") as demo:
        demo.expect_rows(24, "judgment")
        (demo.path / "judgments.jsonl").write_text("".join(lines[:2]))
    html = HtmlPage.load(Path("demo/report.html"))
    assert html.cards["Left"] == "22 of 24 judgments"


def test_curate_page_has_the_steps_and_the_dropped_rows() -> None:
    rows = [make_reference_row(n, (8, 4)) for n in range(1, 9)]
    rows[2]["score"] = "none"
    write_rows(Path("rows.jsonl"), rows)
    teacher = ["--engine", "scripted", "--model", "scripts:fair_judge", "--max-think-tokens", "900", "--seeds", "1"]
    sizes = ["--pointwise", "2", "--pairwise", "2", "--held-out", "0", "--tolerance", "9", "--max-similarity", "1"]
    more = ["--pointwise-tokens", "0", "--pairwise-tokens", "0"]
    assert main(["curate", "rows.jsonl", "--out", "run", *teacher, *sizes, *more]) == 0
    summary = json.loads(Path("run/summary.json").read_text())
    html = HtmlPage.load(Path("run/report.html"))
    assert html.cards["Training examples"] == str(sum(summary["samples"]["train"].values()))
    assert html.cards["Usable judgments"] == str(summary["judgments"])
    html.check_sentences()
    assert set(summary["winners"]["train"]) <= {"A", "B", "tie"}
    for name, number in summary["winners"]["train"].items():
        assert [f"  training pairs, winner: {name}".strip(), str(number)] in [[c.strip() for c in r] for r in html.rows]
    for step in summary["steps"]:
        assert [f"After {step['step']}", str(step["kept"])] in html.rows
    dropped = read_rows("run/dropped.jsonl")
    assert len(html.find_items("failed")) == len(dropped) > 0
    assert "What is 3?" in html.find_items("failed")[0]


async def process_shards(
    config: DataFlags, plan: WorkPlan, folder: Path, file: str, shards: Sequence[int] = ()
) -> None:
    """Process shards in this process."""
    job = Job(config.open_prompts(file), plan, folder, config.build_columns(file), 4)
    worker = ShardWorker(job)
    for number in shards or range(job.shard_count):
        await worker.process_shard(number)


def write_prompts() -> str:
    rows: list[dict[str, Any]] = [
        {"id": f"q{n}", "prompt": f"What is {n} + {n % 7}?", "answer": n + n % 7} for n in range(12)
    ]
    rows[5] = {"id": "q5", "text": "in another column"}
    write_rows(Path("prompts.jsonl"), rows)
    return "prompts.jsonl"


def test_best_of_n_page_has_the_figures_of_the_summary() -> None:
    file = write_prompts()
    config = make_config(BestOfNRun, **SCRIPTED, samples=4, temperature=0.0, answer="answer", out="run")
    from flex_judge.alignment.pipeline.best_of_n import BestOfNPlan

    models = LocalModels(config.policy_config, config.judge_config)
    plan = BestOfNPlan(models, config.build_sampling(file), 4, config.build_selection(file))
    identity = config.build_identity(config.open_prompts(file), file)
    with interrupt_run(Path("run"), identity, "best-of-n") as folder:
        folder.expect_rows(12, "prompt")
        asyncio.run(process_shards(config, plan, folder.path / "shards", file, [1]))
    html = HtmlPage.load(Path("run/report.html"))
    assert (html.cards["Done"], html.cards["Failed"], html.cards["Left"]) == ("3", "1", "8 of 12 prompts")
    assert "line 6" in html.find_items("failed")[0]
    with RunFolder(Path("run"), identity, kind="best-of-n") as folder:
        asyncio.run(process_shards(config, plan, folder.path / "shards", file))
        completed = CompletedRun(
            ShardFolder(folder.path / "shards"), ShardFolder(folder.path / "shards").read_reports()
        )
        for table in ("best_of_n", "judgments", "failed"):
            completed.join_table(table, folder.path / f"{table}.jsonl")
        summary = write_summary(folder, completed.report, "answer")
    html = HtmlPage.load(Path("run/report.html"))
    html.check_sentences()
    assert html.cards["Prompts with a best answer"] == "11 of 12"
    assert html.cards["Prompts without a result"] == "1"
    assert html.cards["Judgments"] == str(summary["judgments"])
    best = {int(n): estimate for n, estimate in summary["accuracies"]["best"].items()}[4]["value"]
    assert html.cards["The best of 4 is right"] == f"{100 * best:.1f}%"
    (judgment, *_) = read_rows("run/judgments.jsonl")
    assert judgment["comparison"]["prompt"][0]["content"].startswith("What is 0 + 0?")
    assert len(judgment["comparison"]["responses"]) == len(judgment["responses"])
    # Judgments of earlier versions have no comparison; the page finds it in the table of the prompts.
    rows = [{k: v for k, v in row.items() if k != "comparison"} for row in read_rows("run/judgments.jsonl")]
    write_rows(Path("run/judgments.jsonl"), rows)
    old = HtmlPage.load(write_page(Path("run")))
    assert len(old.find_items()) == len(html.find_items())
    assert old.text.count("What is 0 + 0?") == html.text.count("What is 0 + 0?") > 0
    # An answer of a prompt can have no score, while others have one.
    (first, *others) = read_rows("run/best_of_n.jsonl")
    place = (first["best"] + 1) % 4
    for name in ("scores", "expected_scores"):
        first[name] = [None if k == place else value for k, value in enumerate(first[name])]
    write_rows(Path("run/best_of_n.jsonl"), [first, *others])
    item = next(item for item in HtmlPage.load(write_page(Path("run"))).find_items() if first["id"] in item)
    assert f"Response {'ABCD'[place]} · no score" in item


def test_preferences_page_shows_pairs() -> None:
    file = write_prompts()
    config = make_config(PreferenceRun, **SCRIPTED, samples=4, temperature=0.0, out="run")
    plan = config.make_plan(LocalModels(config.policy_config, config.judge_config), file)
    identity = {**config.build_identity(config.open_prompts(file), file), "rule": "r"}
    with interrupt_run(Path("run"), identity, "preferences") as folder:
        folder.expect_rows(12, "prompt")
        asyncio.run(process_shards(config, plan, folder.path / "shards", file))
    html = HtmlPage.load(Path("run/report.html"))
    assert (html.cards["Done"], html.cards["Failed"], html.cards["Left"]) == ("11", "1", "0 of 12 prompts")
    pairs = read_rows("run/shards/preferences-000000.jsonl")
    html.check_sentences()
    text = pairs[0]["chosen"][-1]["content"]
    assert any(text in item and "chosen" in item and "margin" in item for item in html.find_items())
    judgments = read_rows("run/shards/judgments-000000.jsonl")
    assert all(len(row["comparison"]["responses"]) == 1 for row in judgments)


def test_kind_of_a_run_that_did_not_record_it_is_found(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Path("run").mkdir()
    assert main(["report", "run"]) == 2
    assert "run: holds no run: run.json is missing; name a folder" in capfd.readouterr().err
    Path("run/run.json").write_text('{"settings": {"something": 1}}')
    assert main(["report", "run"]) == 2
    assert "kind: expected one of demo, eval," in capfd.readouterr().err
    Path("run/run.json").write_text('{"settings": {"teacher": "t", "source": "s"}}')
    assert "Training data for a judge" in HtmlPage.load(write_page(Path("run"))).text


def test_page_that_cannot_be_written_does_not_fail_the_run(capfd: pytest.CaptureFixture[str]) -> None:
    write_comparisons(2)
    Path("o.jsonl.html").mkdir()
    assert main([*JUDGE_COMMAND, "--model", "scripts:fair_judge"]) == 0
    assert "no page was written" in capfd.readouterr().err


def test_credentials_in_urls_are_not_recorded() -> None:
    from flex_judge.experiments.common.command_line import get_command, record_command

    record_command(["flex-judge", "best-of-n", "my prompts.jsonl", "--judge-url", "http://me:secret@host:1/v1"])
    assert get_command() == "flex-judge best-of-n 'my prompts.jsonl' --judge-url http://host:1/v1"
    record_command([])


def test_pages_in_a_real_browser(folder: Path) -> None:
    write_comparisons(6, r2="<script>alert(1)</script>" + "w" * 600)
    with Path("c.jsonl").open("a") as output:
        output.write('{"id": "bad", "prompt": "Who is this?", "image": "no.png", "responses": ["Me"]}\n')
    assert main([*JUDGE_COMMAND, "--model", "scripts:fair_judge", "--max-failures", "1"]) == 0
    file = str(benchmark_data.write_pandalm(folder))
    assert main(["eval", "pandalm", "--data", file, *JUDGE, "--out", "run"]) == 0
    with open_browser(folder / "profile") as browser:
        for path in (Path("o.jsonl.html"), Path("run/report.html")):
            page = browser.open_page(path)
            page.evaluate(OPEN_ALL)
            for width, dark in ((WIDE, False), (NARROW, False), (NARROW, True)):
                page.resize(width, dark=dark)
                overflow = page.evaluate(FIND_OVERFLOW)
                assert overflow["width"] <= width, (path, overflow)
                assert not overflow["wide"], (path, overflow)
                assert page.evaluate(FIND_PALE_TEXTS) == [], (path, dark)
            assert not page.requests
            assert not page.problems
        # The buttons work without scripts of the page, and with the keyboard.
        page = browser.open_page(Path("o.jsonl.html"))
        assert page.evaluate(COUNT_SHOWN) == 7
        page.evaluate("[...document.querySelectorAll('label')].find(e => e.textContent.includes('invalid')).click()")
        assert page.evaluate(COUNT_SHOWN) == 1
        page.evaluate("document.querySelector('.filter input:checked').focus()")
        for _ in range(3):
            browser.press_key("ArrowUp")
            label = page.evaluate("document.querySelector('.filter input:checked + label').textContent")
            assert page.evaluate(COUNT_SHOWN) == int(label.rpartition(" ")[2])


COUNT_SHOWN = "[...document.querySelectorAll('.item')].filter(e => e.offsetParent !== null).length"
FIND_PALE_TEXTS = """
(() => {
  const parse = c => c.match(/[\\d.]+/g).map(Number);
  const light = c => c.slice(0, 3).map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
    if (c.length === 3 || c[3] > .99) return c; } return [255, 255, 255]; };
  return [...document.querySelectorAll('main *')].filter(e =>
    [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()) && e.getBoundingClientRect().width > 0
  ).filter(e => { const style = getComputedStyle(e);
    const [a, b] = [light(parse(e.closest('svg') ? style.fill : style.color)), light(ground(e))].sort((x, y) => y - x);
    return (a + .05) / (b + .05) < 4.5; }).map(e => e.outerHTML.slice(0, 100));
})()
"""
"""JavaScript that lists texts whose contrast to their background is below 4.5, the limit of WCAG 2.1 AA."""
