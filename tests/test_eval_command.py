"""`flex-judge eval` as its user meets it: data and replies in, figures out, every fault in one line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import benchmark_data as data
import pytest

from experiments.cli import main

JUDGE = ("--engine", "scripted", "--model", "scripts:whole_judge", "--max-think-tokens", "400", "--no-force")


class Run:
    """What a command came to."""

    def __init__(self, capfd: pytest.CaptureFixture[str], *arguments: str) -> None:
        capfd.readouterr()
        try:
            self.status = main(list(arguments))
        except SystemExit as e:
            self.status = e.code  # type: ignore[assignment]
        self.out, self.err = capfd.readouterr()

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


def said(first: float, second: float) -> str:
    return f"<think>\nThe first is {first}.\n</think>\n<answer>{first}</answer><answer>{second}</answer>"


def replies(*rows: dict[str, Any]) -> str:
    return str(data.table(Path("replies.jsonl"), list(rows)))


PANDALM = (
    {"id": 7, "text": said(8, 3)},
    {"id": "9", "text": said(5, 5)},
    {"id": 4, "text": said(5, 5)},
    {"id": 5, "text": said(3.5, 4.5)},
    {"id": 6, "text": said(9, 1)},
)


def test_stored_replies_are_scored_without_a_model(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    file = str(data.pandalm(folder))
    run = Run(capfd, "eval", "pandalm", "--data", file, "--replay", replies(*PANDALM), "--json")
    assert run.status == 0
    assert run.json["agreement"] == 1.0
    assert (run.json["items"], run.json["scored"], run.json["out"]) == (5, 5, None)
    assert not (folder / "runs").exists()


def test_a_person_sees_the_figures_with_intervals_by_group_and_notes(
    capfd: pytest.CaptureFixture[str], folder: Path
) -> None:
    run = Run(capfd, "eval", "pandalm", "--data", str(data.pandalm(folder)), "--replay", replies(*PANDALM))
    assert "agreement" in run.out
    assert "1.0000 to 1.0000" in run.out
    assert "annotators all differ" in run.out
    assert "note: 5 items where the published version has 999" in run.out


def test_an_item_without_a_reply_is_unscored_and_counts_as_wrong(
    capfd: pytest.CaptureFixture[str], folder: Path
) -> None:
    file, some = str(data.pandalm(folder)), replies(*PANDALM[:2])
    run = Run(capfd, "eval", "pandalm", "--data", file, "--replay", some, "--json")
    assert run.status == 1
    assert run.json["agreement"] == 2 / 5
    assert run.json["tasks"]["pair"]["figures"]["agreement"]["value"] == 1.0
    assert run.json["unscored"] == {"not judged": 3}
    assert Run(capfd, "eval", "pandalm", "--data", file, "--replay", some, "--max-failures", "3").status == 0


def test_several_runs_stand_in_one_row_or_in_several(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    file = str(data.pandalm(folder))
    texts = [said(8, 3), said(3, 8), said(8, 3)]
    others = PANDALM[1:]
    one = replies({"id": 7, "texts": texts}, *others)
    first = Run(capfd, "eval", "pandalm", "--data", file, "--replay", one, "--json").json
    several = replies(*({"id": 7, "text": text} for text in texts), *others)
    second = Run(capfd, "eval", "pandalm", "--data", file, "--replay", several, "--json").json
    assert first == second
    figures = first["tasks"]["pair"]["figures"]
    assert figures["agreement"]["value"] == pytest.approx((2 / 3 + 4) / 5)
    assert figures["majority"]["value"] == 1.0


def test_replies_in_both_orders_stand_one_after_the_other(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    file = str(data.judgebench(folder / "data"))
    stored = replies(
        {"id": "p1", "texts": [said(8, 3), said(3, 8)]},  # the first both times
        {"id": "p2", "texts": [said(8, 3), said(8, 3)]},  # whatever is read first
        {"id": "p3", "text": "The first. [[A>B]]"},  # in one order alone, as another judge writes it
    )
    run = Run(capfd, "eval", "judgebench", "--data", file, "--replay", stored, "--json")
    assert run.json["agreement"] == pytest.approx(2 / 3)
    assert run.json["tasks"]["pair"]["figures"]["consistency"]["value"] == 0.5
    told = replies({"id": "p1", "texts": [said(3, 8)], "orders": [[1, 0]]}, {"id": "p2", "text": "[[B]]"})
    run = Run(capfd, "eval", "judgebench", "--data", file, "--replay", told, "--json", "--max-failures", "1")
    assert run.json["tasks"]["pair"]["figures"]["agreement"]["value"] == 1.0


def test_replies_are_read_as_the_makers_of_benchmarks_published_them(
    capfd: pytest.CaptureFixture[str], folder: Path
) -> None:
    told = [(7, 1), (9, 0), (4, 0), (5, 2), (6, 2)]
    rows = [{"idx": i, "pandalm_result": k, "pandalm_reason": "So.", "pandalm_reference": "Thus."} for i, k in told]
    Path("pandalm-7b.json").write_text(json.dumps(rows))
    file = str(data.pandalm(folder))
    run = Run(capfd, "eval", "pandalm", "--data", file, "--replay", "pandalm-7b.json", "--json")
    assert run.json["agreement"] == 4 / 5

    def llmbar(plain: str, swapped: str) -> dict[str, Any]:
        run = {"swap = False": {"completion": [plain, "stop"]}, "swap = True": {"completion": [swapped, "stop"]}}
        return {"results": [run]}

    Path("result.json").write_text(
        json.dumps([llmbar("Output (a)", "Output (b)"), llmbar("Output (a)", "Output (a)")])  # right; first seen
    )
    file = str(data.llmbar(folder / "data") / "Natural" / "dataset.json")
    run = Run(capfd, "eval", "llmbar", "--data", file, "--replay", "result.json", "--json")
    assert run.json["agreement"] == 3 / 4

    def judgebench(id: str, *responses: str | None, decisions: Sequence[str | None] = ("A>B", "B>A")) -> dict[str, Any]:
        told = zip(responses, decisions, strict=True)
        return {"pair_id": id, "judgments": [{"judgment": {"response": r}, "decision": one} for r, one in told]}

    rows = [
        judgebench("p1", "[[A>>B]]", "[[B>A]]"),
        judgebench("p2", None, decisions=["B>A"]),
        judgebench("p3", None, None),
    ]
    file = str(data.judgebench(folder / "data"))
    run = Run(capfd, "eval", "judgebench", "--data", file, "--replay", replies(*rows), "--json")
    assert run.json["agreement"] == 1.0


def test_replies_to_rows_without_an_id_may_count_them_from_0_or_1(
    capfd: pytest.CaptureFixture[str], folder: Path
) -> None:
    file = str(data.llmbar(folder / "data") / "Natural" / "dataset.json")
    for start in (0, 1):
        stored = replies({"id": start, "text": said(8, 3)}, {"id": start + 1, "text": "Output (b)"})
        run = Run(capfd, "eval", "llmbar", "--data", file, "--replay", stored, "--json")
        assert run.json["agreement"] == 0.5, start


def test_an_item_of_several_files_is_called_by_its_file_too_unless_its_own_end_is_enough(
    capfd: pytest.CaptureFixture[str], folder: Path
) -> None:
    place = str(data.llmbar(folder / "data"))
    stored = replies({"id": "Manual/1", "text": said(3, 8)}, {"id": 2, "text": said(8, 3)})  # of Natural, which has two
    run = Run(capfd, "eval", "llmbar", "--data", place, "--replay", stored, "--json", "--max-failures", "1")
    assert run.json["agreement"] == pytest.approx(2 / 3)
    assert run.json["scored"] == 2


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"id": 70, "text": "x"}, "field 'id': '70' is no item of the data"),
        ({"id": 7}, "expected a field 'text' or a field 'texts'"),
        ({"text": "x"}, "field 'id': expected the id of an item"),
        ({"id": 7, "texts": "x"}, "field 'texts': expected a list of replies"),
        ({"id": 7, "text": "x", "orders": [[0, 0]]}, "field 'orders': expected for each reply"),
    ],
)
def test_a_wrong_reply_is_named(
    row: dict[str, Any], problem: str, capfd: pytest.CaptureFixture[str], folder: Path
) -> None:
    run = Run(capfd, "eval", "pandalm", "--data", str(data.pandalm(folder)), "--replay", replies(row))
    assert run.status == 2
    assert problem in run.err
    assert "replies.jsonl" in run.err
    assert len(run.err.splitlines()) == 1


def test_data_that_are_not_there_or_changed_get_one_line_that_says_what_was_expected(
    capfd: pytest.CaptureFixture[str], folder: Path
) -> None:
    for arguments in (("--data", "nowhere"), ("--data", str(folder)), ()):
        run = Run(capfd, "eval", "pandalm", *arguments)
        assert run.status == 2
        assert "testset-v1.json" in run.err
        assert len(run.err.splitlines()) == 1
    other = data.table(folder / "other.json", [{"question": "?", "answer": "!"}])
    run = Run(capfd, "eval", "pandalm", "--data", str(other))
    assert "row 1" in run.err
    assert "no 'instruction', but question, answer" in run.err
    rows = json.loads(data.pandalm(folder).read_text())
    rows[1]["annotator2"] = "left"
    wrong = data.table(folder / "wrong.json", rows)
    run = Run(capfd, "eval", "pandalm", "--data", str(wrong))
    assert "wrong.json, row 2, field 'annotator2': expected one of 1, 2, 0" in run.err


def test_the_protocol_is_the_default_and_a_note_says_where_a_flag_left_it(
    capfd: pytest.CaptureFixture[str], folder: Path
) -> None:
    file = str(data.judgebench(folder / "data"))
    run = Run(capfd, "eval", "judgebench", "--data", file, *JUDGE, "--temperature", "0.1", "--json")
    assert run.json["settings"]["order"] == "both"
    assert run.json["settings"]["top_p"] == 0.95
    assert "temperature is 0.1; the published protocol has 0.6" in run.json["notes"]
    told = Run(capfd, "eval", "judgebench", "--help").out
    assert "(default: both)" in told


def test_a_limit_takes_items_from_all_over_the_data(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    run = Run(capfd, "eval", "llmbar", "--data", str(data.llmbar(folder / "data")), *JUDGE, "--limit", "2", "--json")
    assert run.json["items"] == 2
    assert set(run.json["tasks"]["pair"]["tables"]["subset"]) == {"Natural", "Manual"}
    assert run.json["notes"] == ["only 2 items, by --limit 2"]


def test_what_was_judged_is_not_judged_again_and_other_settings_are_refused(
    capfd: pytest.CaptureFixture[str], folder: Path
) -> None:
    file = str(data.pandalm(folder))
    command = ("eval", "pandalm", "--data", file, *JUDGE, "--json")
    first = Run(capfd, *command).json
    journal = folder / "runs" / "eval-pandalm" / "judgments.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:2]) + lines[2][:20])  # as a killed run leaves it
    again = Run(capfd, *command).json
    assert {k: v for k, v in first.items() if k != "seconds"} == {k: v for k, v in again.items() if k != "seconds"}
    run = Run(capfd, *command, "--seed", "1")
    assert run.status == 2
    assert "seed" in run.err


def test_a_clip_that_cannot_be_read_is_named_and_moves_no_other_s_score(
    capfd: pytest.CaptureFixture[str], folder: Path
) -> None:
    place = data.somos(folder / "data")
    whole = Run(capfd, "eval", "somos", "--data", str(place), *JUDGE, "--json", "--out", "whole").json
    (place / "audios" / "LJ003-0304_078.wav").write_bytes(b"RIFF")
    run = Run(capfd, "eval", "somos", "--data", str(place), *JUDGE, "--json", "--out", "part")
    assert run.status == 1
    assert run.json["unscored"] == {"not judged": 1}
    assert "LJ003-0304_078.wav" in run.json["examples_not_judged"][0]
    assert whole["scored"] == 3

    def rows(name: str) -> dict[str, Any]:
        lines = (folder / name / "items.jsonl").read_text().splitlines()
        return {row["id"]: row for row in map(json.loads, lines)}

    part = rows("part")
    assert part.pop("LJ003-0304_078.wav")["said"] == [None]
    assert part == {name: row for name, row in rows("whole").items() if name in part}


def test_the_page_is_written_again_from_the_run(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    Run(capfd, "eval", "pandalm", "--data", str(data.pandalm(folder)), *JUDGE, "--out", "run")
    page = folder / "run" / "report.html"
    before = page.read_text()
    page.unlink()
    assert Run(capfd, "report", "run").status == 0
    assert page.read_text() == before
    assert "Flex-VL-7B" in before
    assert "people say tie, the judge 2.0 and 6.0" in before


def test_a_judge_s_words_are_shown_and_not_obeyed(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    stored = replies({"id": 7, "text": "<think><script>alert(1)</script></think><answer>1</answer><answer>9</answer>"})
    file = str(data.pandalm(folder))
    Run(capfd, "eval", "pandalm", "--data", file, "--replay", stored, "--out", "run", "--max-failures", "9")
    page = (folder / "run" / "report.html").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_an_unknown_benchmark_or_task_is_one_line(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    assert Run(capfd, "eval", "pandallm").status == 2
    run = Run(capfd, "eval", "pandalm", "--data", str(data.pandalm(folder)), "--task", "score")
    assert run.status == 2
    assert "--task score: pandalm has pair" in run.err
