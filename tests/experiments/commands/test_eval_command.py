"""`flex-judge eval`: data in, metrics out, every error on one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import benchmark_data as data
import pytest
from eval_command import JUDGE, PANDALM_REPLIES, Run, write_replies


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


def test_prints_metrics_with_intervals_by_group_and_notes(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    run = Run(
        capfd, "eval", "pandalm", "--data", str(data.write_pandalm(folder)), "--replay", write_replies(*PANDALM_REPLIES)
    )
    assert "agreement" in run.out
    assert "0.5655 to 1.0000" in run.out
    assert "annotators all differ" in run.out
    assert "note: 5 items; the published version has 999" in run.out


def test_missing_or_changed_data_give_one_line_with_the_expected_format(
    capfd: pytest.CaptureFixture[str], folder: Path
) -> None:
    for arguments in (("--data", "nowhere"), ("--data", str(folder)), ()):
        run = Run(capfd, "eval", "pandalm", *arguments)
        assert run.status == 2
        assert "testset-v1.json" in run.err
        assert len(run.err.splitlines()) == 1
    other = data.write_table(folder / "other.json", [{"question": "?", "answer": "!"}])
    run = Run(capfd, "eval", "pandalm", "--data", str(other))
    assert "row 1" in run.err
    assert "no field 'instruction', only question, answer" in run.err
    rows = json.loads(data.write_pandalm(folder).read_text())
    rows[1]["annotator2"] = "left"
    wrong = data.write_table(folder / "wrong.json", rows)
    run = Run(capfd, "eval", "pandalm", "--data", str(wrong))
    assert "wrong.json, row 2, field 'annotator2': expected one of 1, 2, 0" in run.err


def test_protocol_gives_the_defaults_and_notes_name_deviations(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    file = str(data.write_judgebench(folder / "data"))
    run = Run(capfd, "eval", "judgebench", "--data", file, *JUDGE, "--temperature", "0.1", "--json")
    assert run.json["settings"]["order"] == "both"
    assert run.json["settings"]["top_p"] == 0.95
    assert "temperature is 0.1; the published protocol has 0.6" in run.json["notes"]
    help_text = Run(capfd, "eval", "judgebench", "--help").out
    assert "(default: both)" in help_text


def test_limit_selects_items_evenly(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    run = Run(
        capfd, "eval", "llmbar", "--data", str(data.write_llmbar(folder / "data")), *JUDGE, "--limit", "2", "--json"
    )
    assert run.json["items"] == 2
    assert set(run.json["tasks"]["pair"]["tables"]["subset"]) == {"Natural", "Manual"}
    assert run.json["notes"] == ["only 2 items, by --limit 2"]


def test_resumes_a_run_and_rejects_other_settings(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    file = str(data.write_pandalm(folder))
    command = ("eval", "pandalm", "--data", file, *JUDGE, "--json")
    first = Run(capfd, *command).json
    journal = folder / "runs" / "eval-pandalm" / "judgments.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:2]) + lines[2][:20])  # a kill can leave an incomplete line
    again = Run(capfd, *command).json
    assert {k: v for k, v in first.items() if k != "seconds"} == {k: v for k, v in again.items() if k != "seconds"}
    run = Run(capfd, *command, "--seed", "1")
    assert run.status == 2
    assert "seed" in run.err


def test_unreadable_clip_is_named_and_changes_no_other_score(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    release = data.write_somos(folder / "data")
    complete = Run(capfd, "eval", "somos", "--data", str(release), *JUDGE, "--json", "--out", "complete").json
    (release / "audios" / "LJ003-0304_078.wav").write_bytes(b"RIFF")
    run = Run(capfd, "eval", "somos", "--data", str(release), *JUDGE, "--json", "--out", "part")
    assert run.status == 1
    assert run.json["unscored"] == {"not judged": 1}
    assert "LJ003-0304_078.wav" in run.json["examples_not_judged"][0]
    assert complete["scored"] == 3

    def read_items(name: str) -> dict[str, Any]:
        lines = (folder / name / "items.jsonl").read_text().splitlines()
        return {row["id"]: row for row in map(json.loads, lines)}

    part = read_items("part")
    assert part.pop("LJ003-0304_078.wav")["predictions"] == [None]
    assert part == {name: row for name, row in read_items("complete").items() if name in part}


def test_report_rebuilds_the_page(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    Run(capfd, "eval", "pandalm", "--data", str(data.write_pandalm(folder)), *JUDGE, "--out", "run")
    page = folder / "run" / "report.html"
    html = page.read_text()
    page.unlink()
    assert Run(capfd, "report", "run").status == 0
    assert page.read_text() == html
    assert "Flex-VL-7B" in html
    assert "people say tie, the judge A 2, B 6" in html


def test_page_escapes_texts_of_the_judge(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    stored = write_replies(
        {"id": 7, "text": "<think><script>alert(1)</script></think><answer>1</answer><answer>9</answer>"}
    )
    file = str(data.write_pandalm(folder))
    Run(capfd, "eval", "pandalm", "--data", file, "--replay", stored, "--out", "run", "--max-failures", "9")
    page = (folder / "run" / "report.html").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_unknown_benchmark_or_task_gives_one_line(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    assert Run(capfd, "eval", "pandallm").status == 2
    run = Run(capfd, "eval", "pandalm", "--data", str(data.write_pandalm(folder)), "--task", "score")
    assert run.status == 2
    assert "--task score: pandalm has pair" in run.err


def test_more_runs_and_items_continue_a_smaller_run(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    command = ("eval", "pandalm", "--data", str(data.write_pandalm(folder)), *JUDGE, "--json")
    assert Run(capfd, *command, "--limit", "2").json["judgments"] == 2
    journal = folder / "runs" / "eval-pandalm" / "judgments.jsonl"
    first_run = journal.read_text()
    assert Run(capfd, *command, "--runs", "2").json["judgments"] == 10
    assert journal.read_text().startswith(first_run)


def test_files_of_the_same_name_are_told_apart_by_their_folders(
    capfd: pytest.CaptureFixture[str], folder: Path
) -> None:
    release = data.write_llmbar(folder / "data")
    files = [str(release / "Natural" / "dataset.json"), str(release / "Adversarial" / "Manual" / "dataset.json")]
    complete = Run(capfd, "eval", "llmbar", "--data", str(release), *JUDGE, "--json", "--out", "complete").json
    parts = Run(
        capfd, "eval", "llmbar", "--data", files[0], "--data", files[1], *JUDGE, "--json", "--out", "parts"
    ).json
    assert parts["tasks"]["pair"]["tables"] == complete["tasks"]["pair"]["tables"]


def test_ignores_other_files_in_a_clone_of_a_release(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    file = data.write_judgebench(folder / "clone" / "data")
    outputs = folder / "clone" / "outputs"
    outputs.mkdir()
    (outputs / f"{file.stem},judge_name=arena_hard,judge_model=m.jsonl").write_bytes(file.read_bytes())
    (file.parent / "dataset=judgebench,response_model=claude-3-5-sonnet-20240620.jsonl").write_bytes(file.read_bytes())
    run = Run(capfd, "eval", "judgebench", "--data", str(folder / "clone"), *JUDGE, "--json")
    assert run.json["items"] == 3


@pytest.mark.parametrize(
    ("benchmark", "row", "problem"),
    [
        ("pandalm", {"input": [5]}, "field 'input': expected a text, got [5]"),
        ("pandalm", {"response1": {"text": "8"}}, "field 'response1': expected a text, got {'text': '8'}"),
        ("vl-rewardbench", {"human_ranking": 0}, "field 'human_ranking': expected [0, 1] or [1, 0], got 0"),
        ("judgelm", {"text": None, "score": [float("nan"), 3]}, "field 'score': expected two numbers"),
    ],
)
def test_wrong_field_gives_one_line(
    benchmark: str, row: dict[str, Any], problem: str, capfd: pytest.CaptureFixture[str], folder: Path
) -> None:
    write_data = {
        "pandalm": data.write_pandalm,
        "vl-rewardbench": data.write_vl_rewardbench,
        "judgelm": data.write_judgelm,
    }[benchmark]
    write_data(folder / "data")
    file = next(f for f in sorted((folder / "data").rglob("*.json*")))
    text = file.read_text()
    rows = json.loads(text) if file.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
    data.write_table(file, [{**rows[0], **row}, *rows[1:]])
    run = Run(capfd, "eval", benchmark, "--data", str(folder / "data"), *JUDGE)
    assert (run.status, len(run.err.splitlines())) == (2, 1)
    assert problem in run.err


@pytest.mark.parametrize("mos", ["nan", "45", "true", ""])
def test_score_off_the_scale_gives_one_line(mos: str, capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    release = data.write_somos(folder / "data")
    score_list = release / "training_files/split1/clean/test_mos_list.txt"
    score_list.write_text(score_list.read_text().replace(",3.4", f",{mos}"))
    run = Run(capfd, "eval", "somos", "--data", str(release), *JUDGE)
    assert (run.status, len(run.err.splitlines())) == (2, 1)
    assert "a number from 1 to 5" in run.err
