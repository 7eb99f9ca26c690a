"""`flex-judge eval --replay`: replies of any judge, however they are written, and every way to misread them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import benchmark_data as data
import pytest
from eval_command import JUDGE, PANDALM, Run, replies, said


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


def test_stored_replies_are_scored_without_a_model(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    file = str(data.pandalm(folder))
    run = Run(capfd, "eval", "pandalm", "--data", file, "--replay", replies(*PANDALM), "--json")
    assert run.status == 0
    assert run.json["agreement"] == 1.0
    assert (run.json["items"], run.json["scored"], run.json["out"]) == (5, 5, None)
    assert not (folder / "runs").exists()


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

    def llmbar(plain: str | None, swapped: str | None) -> dict[str, Any]:
        said = ["As Output (a) is level with Output (b), I say nothing of how I say it.", "stop"]
        told = {"swap = False": {"completion": said, "winner": plain}, "swap = True": {"completion": said}}
        told["swap = True"]["winner"] = swapped
        return {"results": [["a list of metrics"], {**told, "swap = False": {"winner": "2"}}, told]}  # the last counts

    Path("result.json").write_text(json.dumps([llmbar("1", "1"), llmbar("1", "2")]))  # right; whatever is read first
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


def test_rows_that_may_be_counted_from_0_or_from_1_are_refused(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    table = data.table(folder / "dataset.json", [_task(k, 1 + k % 2) for k in range(6)])
    texts = [{"id": k, "text": "Output (a)" if k % 2 == 0 else "Output (b)"} for k in range(6)]
    command = ("eval", "llmbar", "--data", str(table), "--json", "--max-failures", "1", "--replay")
    assert Run(capfd, *command, replies(*texts)).json["agreement"] == 1.0
    run = Run(capfd, *command, replies(*texts[1:]))  # without the first, which failed, every label would be another's
    assert run.status == 2
    assert "has neither 0 nor 6" in run.err
    run = Run(capfd, *command, replies({"id": 0, "text": None}, *texts[1:]))
    assert run.json["agreement"] == pytest.approx(5 / 6)


def _task(number: int, label: int) -> dict[str, Any]:
    return {"input": f"Task {number}.", "output_1": "A.", "output_2": "B.", "label": label}


def test_two_ids_of_one_item_are_refused(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    stored = replies({"id": "Natural/2", "text": said(8, 3)}, {"id": "2", "text": said(3, 8)})
    run = Run(capfd, "eval", "llmbar", "--data", str(data.llmbar(folder / "data")), "--replay", stored)
    assert run.status == 2
    assert "are the same item" in run.err


def test_replies_to_what_is_not_asked_for_are_passed_over(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    file, stored = str(data.pandalm(folder)), replies(*PANDALM)
    run = Run(capfd, "eval", "pandalm", "--data", file, "--replay", stored, "--limit", "2", "--json")
    assert (run.status, run.json["items"], run.json["agreement"]) == (0, 2, 1.0)


def test_a_setting_that_acts_on_no_reply_is_refused(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    command = ("eval", "pandalm", "--data", str(data.pandalm(folder)), "--replay", replies(*PANDALM))
    for flags in (("--votes", "3"), ("--model", "some/judge"), ("--temperature", "1.5"), ("--replicas", "2")):
        run = Run(capfd, *command, *flags)
        assert (run.status, f"leave out {flags[0]}" in run.err) == (2, True), flags


def test_replies_of_unknown_order_unequal_runs_and_without_verdicts_are_noted(
    capfd: pytest.CaptureFixture[str], folder: Path
) -> None:
    file = str(data.rewardbench(folder / "data"))
    ids = ("alpacaeval-easy/30", "llmbar-natural/31", "donotanswer/32", "math-prm/33", "hep-cpp/34")
    stored = [{"id": name, "text": said(8, 3)} for name in ids]
    run = Run(capfd, "eval", "rewardbench", "--data", file, "--replay", replies(*stored, stored[0]), "--json")
    assert any("reading order" in note for note in run.json["notes"])
    assert "items have between 1 and 2 runs" in run.json["notes"]
    told = [{"id": name, "text": said(3, 8), "orders": [[1, 0]]} for name in ids]
    assert not any("order" in note for note in _rewarded(capfd, file, told)["notes"])
    mute = [{"id": name, "text": "I would rather not say."} for name in ids]
    assert any("no verdict in" in note for note in _rewarded(capfd, file, mute)["notes"])


def _rewarded(capfd: pytest.CaptureFixture[str], file: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return Run(capfd, "eval", "rewardbench", "--data", file, "--replay", replies(*rows), "--json").json


def test_options_are_read_in_brackets_alone(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    place = str(data.genai_bench(folder / "data"))
    first = Run(capfd, "eval", "genai-bench", "--data", place, *JUDGE, "--out", "run", "--json").json
    rows = [json.loads(line) for line in (folder / "run" / "items.jsonl").read_text().splitlines()]
    stored = replies(*({"id": row["id"], "texts": [f"So: [[{said}]]" for said in row["predictions"]]} for row in rows))
    again = Run(capfd, "eval", "genai-bench", "--data", place, "--replay", stored, "--json", "--max-failures", "9").json
    for name in ("image.accuracy", "edit.accuracy", "video.accuracy", "overall", "majority"):
        assert first[name] == again[name], name


def test_clips_are_not_needed_to_read_what_was_said_of_them(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    place = data.bvcc(folder / "data")
    names = [line.partition(",")[0] for line in (place / "DATA/sets/test_mos_list.txt").read_text().splitlines()]
    for clip in (place / "DATA" / "wav").iterdir():
        clip.unlink()
    stored = replies(*({"id": name, "text": f"<answer>{4 - k}.0</answer>"} for k, name in enumerate(names)))
    run = Run(capfd, "eval", "bvcc", "--data", str(place), "--replay", stored, "--json")
    assert (run.status, run.json["scored"]) == (0, 4)
    run = Run(capfd, "eval", "bvcc", "--data", str(place), *JUDGE)
    assert run.status == 2
    assert "no item can be judged, as their audio is not there" in run.err
