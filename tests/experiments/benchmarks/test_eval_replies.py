"""`flex-judge eval --replay`: stored replies of any judge, in every supported format, and the errors in them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import benchmark_data as data
import pytest
from eval_command import JUDGE, PANDALM_REPLIES, Run, make_reply, write_replies


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


def test_scores_stored_replies_without_a_model(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    file = str(data.write_pandalm(folder))
    run = Run(capfd, "eval", "pandalm", "--data", file, "--replay", write_replies(*PANDALM_REPLIES), "--json")
    assert run.status == 0
    assert run.json["agreement"] == 1.0
    assert (run.json["items"], run.json["scored"], run.json["out"]) == (5, 5, None)
    assert not (folder / "runs").exists()


def test_item_without_a_reply_is_unscored_and_counts_as_wrong(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    file, incomplete = str(data.write_pandalm(folder)), write_replies(*PANDALM_REPLIES[:2])
    run = Run(capfd, "eval", "pandalm", "--data", file, "--replay", incomplete, "--json")
    assert run.status == 1
    assert run.json["agreement"] == 2 / 5
    assert run.json["tasks"]["pair"]["figures"]["agreement"]["value"] == 1.0
    assert run.json["unscored"] == {"not judged": 3}
    assert Run(capfd, "eval", "pandalm", "--data", file, "--replay", incomplete, "--max-failures", "3").status == 0


def test_reads_several_runs_from_one_row_or_several(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    file = str(data.write_pandalm(folder))
    texts = [make_reply(8, 3), make_reply(3, 8), make_reply(8, 3)]
    other_replies = PANDALM_REPLIES[1:]
    one_row = write_replies({"id": 7, "texts": texts}, *other_replies)
    first = Run(capfd, "eval", "pandalm", "--data", file, "--replay", one_row, "--json").json
    several_rows = write_replies(*({"id": 7, "text": text} for text in texts), *other_replies)
    second = Run(capfd, "eval", "pandalm", "--data", file, "--replay", several_rows, "--json").json
    assert first == second
    figures = first["tasks"]["pair"]["figures"]
    assert figures["agreement"]["value"] == pytest.approx((2 / 3 + 4) / 5)
    assert figures["majority"]["value"] == 1.0


def test_reads_replies_in_both_orders(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    file = str(data.write_judgebench(folder / "data"))
    stored = write_replies(
        {"id": "p1", "texts": [make_reply(8, 3), make_reply(3, 8)]},  # prefers the first response in both orders
        {"id": "p2", "texts": [make_reply(8, 3), make_reply(8, 3)]},  # prefers whichever response is read first
        {"id": "p3", "text": "The first. [[A>B]]"},  # in one order only, in the format of another judge
    )
    run = Run(capfd, "eval", "judgebench", "--data", file, "--replay", stored, "--json")
    assert run.json["agreement"] == pytest.approx(2 / 3)
    assert run.json["tasks"]["pair"]["figures"]["consistency"]["value"] == 0.5
    with_orders = write_replies(
        {"id": "p1", "texts": [make_reply(3, 8)], "orders": [[1, 0]]}, {"id": "p2", "text": "[[B]]"}
    )
    run = Run(capfd, "eval", "judgebench", "--data", file, "--replay", with_orders, "--json", "--max-failures", "1")
    assert run.json["tasks"]["pair"]["figures"]["agreement"]["value"] == 1.0


def test_reads_replies_as_published_by_the_authors(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    results = [(7, 1), (9, 0), (4, 0), (5, 2), (6, 2)]
    rows = [{"idx": i, "pandalm_result": k, "pandalm_reason": "So.", "pandalm_reference": "Thus."} for i, k in results]
    Path("pandalm-7b.json").write_text(json.dumps(rows))
    file = str(data.write_pandalm(folder))
    run = Run(capfd, "eval", "pandalm", "--data", file, "--replay", "pandalm-7b.json", "--json")
    assert run.json["agreement"] == 4 / 5

    def llmbar(plain: str | None, swapped: str | None) -> dict[str, Any]:
        completion = ["As Output (a) is level with Output (b), I say nothing of how I say it.", "stop"]
        result = {
            "swap = False": {"completion": completion, "winner": plain},
            "swap = True": {"completion": completion, "winner": swapped},
        }
        # Only the last result counts.
        return {"results": [["a list of metrics"], {**result, "swap = False": {"winner": "2"}}, result]}

    Path("result.json").write_text(
        json.dumps([llmbar("1", "1"), llmbar("1", "2")])
    )  # right; prefers whichever is read first
    file = str(data.write_llmbar(folder / "data") / "Natural" / "dataset.json")
    run = Run(capfd, "eval", "llmbar", "--data", file, "--replay", "result.json", "--json")
    assert run.json["agreement"] == 3 / 4

    def judgebench(id: str, *responses: str | None, decisions: Sequence[str | None] = ("A>B", "B>A")) -> dict[str, Any]:
        pairs = zip(responses, decisions, strict=True)
        return {
            "pair_id": id,
            "judgments": [{"judgment": {"response": response}, "decision": decision} for response, decision in pairs],
        }

    rows = [
        judgebench("p1", "[[A>>B]]", "[[B>A]]"),
        judgebench("p2", None, decisions=["B>A"]),
        judgebench("p3", None, None),
    ]
    file = str(data.write_judgebench(folder / "data"))
    run = Run(capfd, "eval", "judgebench", "--data", file, "--replay", write_replies(*rows), "--json")
    assert run.json["agreement"] == 1.0


def test_replies_to_rows_without_ids_may_count_from_0_or_1(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    file = str(data.write_llmbar(folder / "data") / "Natural" / "dataset.json")
    for start in (0, 1):
        stored = write_replies({"id": start, "text": make_reply(8, 3)}, {"id": start + 1, "text": "Output (b)"})
        run = Run(capfd, "eval", "llmbar", "--data", file, "--replay", stored, "--json")
        assert run.json["agreement"] == 0.5, start


def test_reply_id_may_leave_out_the_file_if_the_rest_is_unique(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    data_folder = str(data.write_llmbar(folder / "data"))
    stored = write_replies({"id": "Manual/1", "text": make_reply(3, 8)}, {"id": 2, "text": make_reply(8, 3)})
    run = Run(capfd, "eval", "llmbar", "--data", data_folder, "--replay", stored, "--json", "--max-failures", "1")
    assert run.json["agreement"] == pytest.approx(2 / 3)
    assert run.json["scored"] == 2


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"id": 70, "text": "x"}, "field 'id': '70' is no item of the data"),
        ({"id": 7}, "expected a field 'text' or a field 'texts'"),
        ({"text": "x"}, "field 'id': expected the id of an item"),
        ({"id": 7, "texts": "x"}, "field 'texts': expected a list of replies"),
        (
            {"id": 7, "text": "x", "orders": [[0, 0]]},
            "field 'orders': expected the order of the responses for each reply",
        ),
    ],
)
def test_names_an_invalid_reply(
    row: dict[str, Any], problem: str, capfd: pytest.CaptureFixture[str], folder: Path
) -> None:
    run = Run(capfd, "eval", "pandalm", "--data", str(data.write_pandalm(folder)), "--replay", write_replies(row))
    assert run.status == 2
    assert problem in run.err
    assert "replies.jsonl" in run.err
    assert len(run.err.splitlines()) == 1


def test_rejects_ambiguous_numbering(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    table = data.write_table(folder / "dataset.json", [_make_task(k, 1 + k % 2) for k in range(6)])
    texts = [{"id": k, "text": "Output (a)" if k % 2 == 0 else "Output (b)"} for k in range(6)]
    command = ("eval", "llmbar", "--data", str(table), "--json", "--max-failures", "1", "--replay")
    assert Run(capfd, *command, write_replies(*texts)).json["agreement"] == 1.0
    run = Run(capfd, *command, write_replies(*texts[1:]))  # with a wrong guess, every label would be shifted
    assert run.status == 2
    assert "has neither 0 nor 6" in run.err
    run = Run(capfd, *command, write_replies({"id": 0, "text": None}, *texts[1:]))
    assert run.json["agreement"] == pytest.approx(5 / 6)


def _make_task(number: int, label: int) -> dict[str, Any]:
    return {"input": f"Task {number}.", "output_1": "A.", "output_2": "B.", "label": label}


def test_rejects_two_ids_of_one_item(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    stored = write_replies({"id": "Natural/2", "text": make_reply(8, 3)}, {"id": "2", "text": make_reply(3, 8)})
    run = Run(capfd, "eval", "llmbar", "--data", str(data.write_llmbar(folder / "data")), "--replay", stored)
    assert run.status == 2
    assert "are the same item" in run.err


def test_ignores_replies_to_items_beyond_the_limit(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    file, stored = str(data.write_pandalm(folder)), write_replies(*PANDALM_REPLIES)
    run = Run(capfd, "eval", "pandalm", "--data", file, "--replay", stored, "--limit", "2", "--json")
    assert (run.status, run.json["items"], run.json["agreement"]) == (0, 2, 1.0)


def test_rejects_settings_that_do_not_affect_replies(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    command = (
        "eval",
        "pandalm",
        "--data",
        str(data.write_pandalm(folder)),
        "--replay",
        write_replies(*PANDALM_REPLIES),
    )
    for flags in (("--votes", "3"), ("--model", "some/judge"), ("--temperature", "1.5"), ("--replicas", "2")):
        run = Run(capfd, *command, *flags)
        assert (run.status, f"leave out {flags[0]}" in run.err) == (2, True), flags


def test_notes_unknown_orders_unequal_runs_and_missing_verdicts(
    capfd: pytest.CaptureFixture[str], folder: Path
) -> None:
    file = str(data.write_rewardbench(folder / "data"))
    ids = ("alpacaeval-easy/30", "llmbar-natural/31", "donotanswer/32", "math-prm/33", "hep-cpp/34")
    stored = [{"id": name, "text": make_reply(8, 3)} for name in ids]
    run = Run(capfd, "eval", "rewardbench", "--data", file, "--replay", write_replies(*stored, stored[0]), "--json")
    assert any("reading order" in note for note in run.json["notes"])
    assert "items have between 1 and 2 runs" in run.json["notes"]
    with_orders = [{"id": name, "text": make_reply(3, 8), "orders": [[1, 0]]} for name in ids]
    assert not any("order" in note for note in _run_rewardbench(capfd, file, with_orders)["notes"])
    without_verdicts = [{"id": name, "text": "I would rather not say."} for name in ids]
    assert any("no verdict in" in note for note in _run_rewardbench(capfd, file, without_verdicts)["notes"])


def _run_rewardbench(capfd: pytest.CaptureFixture[str], file: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return Run(capfd, "eval", "rewardbench", "--data", file, "--replay", write_replies(*rows), "--json").json


def test_reads_options_in_brackets(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    data_folder = str(data.write_genai_bench(folder / "data"))
    first = Run(capfd, "eval", "genai-bench", "--data", data_folder, *JUDGE, "--out", "run", "--json").json
    rows = [json.loads(line) for line in (folder / "run" / "items.jsonl").read_text().splitlines()]
    stored = write_replies(
        *({"id": row["id"], "texts": [f"So: [[{option}]]" for option in row["predictions"]]} for row in rows)
    )
    again = Run(
        capfd, "eval", "genai-bench", "--data", data_folder, "--replay", stored, "--json", "--max-failures", "9"
    ).json
    for name in ("image.accuracy", "edit.accuracy", "video.accuracy", "overall", "majority"):
        assert first[name] == again[name], name
    assert again["scored"] == first["scored"] > 0


def test_replay_does_not_need_the_clips(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    data_folder = data.write_bvcc(folder / "data")
    names = [line.partition(",")[0] for line in (data_folder / "DATA/sets/test_mos_list.txt").read_text().splitlines()]
    for clip in (data_folder / "DATA" / "wav").iterdir():
        clip.unlink()
    stored = write_replies(*({"id": name, "text": f"<answer>{4 - k}.0</answer>"} for k, name in enumerate(names)))
    run = Run(capfd, "eval", "bvcc", "--data", str(data_folder), "--replay", stored, "--json")
    assert (run.status, run.json["scored"]) == (0, 4)
    run = Run(capfd, "eval", "bvcc", "--data", str(data_folder), *JUDGE)
    assert run.status == 2
    assert "no item can be judged, as the audio file is missing" in run.err
