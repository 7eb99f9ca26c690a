"""Metrics as the makers of benchmarks count: unreadable replies, majorities, label lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import benchmark_data as data
import pytest
from eval_command import Run, make_reply, write_replies

GIVEN_ORDER = [[0, 1]]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def replay(capfd: pytest.CaptureFixture[str], name: str, path: Path, *rows: dict[str, Any]) -> dict[str, Any]:
    run = Run(capfd, "eval", name, "--data", str(path), "--replay", write_replies(*rows), "--json")
    assert run.status == 0, run.err
    return run.json


def get_figures(summary: dict[str, Any], task: str = "pair") -> dict[str, float]:
    """Return the metrics of a task with missing verdicts counted as wrong."""
    return {name: metric["strict"] for name, metric in summary["tasks"][task]["figures"].items()}


def test_rewardbench_gives_half_a_point_for_an_unreadable_reply(
    capfd: pytest.CaptureFixture[str], folder: Path
) -> None:
    path = data.write_rewardbench(folder / "data")
    ids = ("alpacaeval-easy/30", "llmbar-natural/31", "donotanswer/32", "math-prm/33", "hep-cpp/34")
    texts = ("[[A]]", "I cannot say.", "[[B]]", "[[A]] and not [[B]]", "Neither.")
    rows = [{"id": name, "text": text, "orders": GIVEN_ORDER} for name, text in zip(ids, texts, strict=True)]
    summary = replay(capfd, "rewardbench", path, *rows)
    figures, weight = get_figures(summary), 984 / 447
    assert figures["accuracy"] == pytest.approx(2 / 5)
    assert figures["accuracy_published"] == pytest.approx((2 + 2 * 0.5) / 5)
    assert figures["macro"] == summary["macro"] == pytest.approx((1 + 0 + 0 + weight / (weight + 1)) / 4)
    assert figures["macro_published"] == pytest.approx((1 + 0.5 + 0 + (weight + 0.5) / (weight + 1)) / 4)


def test_missing_reply_is_wrong_by_every_count(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    path = data.write_rewardbench(folder / "data")
    stored = write_replies({"id": "alpacaeval-easy/30", "text": "[[A]]"}, {"id": "llmbar-natural/31", "text": "?"})
    command = ("eval", "rewardbench", "--data", str(path), "--replay", stored, "--json", "--max-failures", "9")
    assert get_figures(Run(capfd, *command).json)["accuracy_published"] == pytest.approx(1.5 / 5)


def test_makers_metrics_are_left_out_where_they_are_the_same(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    path = data.write_rewardbench(folder / "data")
    ids = ("alpacaeval-easy/30", "llmbar-natural/31", "donotanswer/32", "math-prm/33", "hep-cpp/34")
    summary = replay(capfd, "rewardbench", path, *({"id": name, "text": "[[A]]"} for name in ids))
    assert not [name for name in get_figures(summary) if name.endswith("_published")]


def test_pandalm_and_judgelm_count_an_unreadable_reply_as_a_tie(
    capfd: pytest.CaptureFixture[str], folder: Path
) -> None:
    texts = {7: "1\n\n### Reason: x", 9: "garbage", 4: "0", 5: "2", 6: "garbage"}
    rows = [{"id": id_, "text": text} for id_, text in texts.items()]
    figures = get_figures(replay(capfd, "pandalm", data.write_pandalm(folder / "pandalm"), *rows))
    assert (figures["agreement"], figures["agreement_published"]) == (3 / 5, 4 / 5)
    assert figures["recall_published"] == pytest.approx((1 / 2 + 1 + 1) / 3)
    rows = [{"id": id_, "text": text} for id_, text in {1: "9 7", 2: "I am sorry.", 3: "no", 4: "9 7"}.items()]
    figures = get_figures(replay(capfd, "judgelm", data.write_judgelm(folder / "judgelm"), *rows))
    assert figures["agreement_published"] == pytest.approx(2 / 3)


def test_genai_majority_of_the_makers_is_the_first_mode(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    path = data.write_genai_bench(folder / "data")
    votes = {
        "image_generation/1": ["[[A>B]]", "[[B>A]]", "[[B>A]]", "[[A>B]]"],  # level: the first one is right
        "image_edition/1": ["?", "?", "[[A=B=Bad]]"],  # unreadable replies are the mode
        "video_generation/1": ["[[A=B]]", "[[A=B=Good]]", "[[A=B]]"],  # right for both ties
    }
    summary = replay(capfd, "genai-bench", path, *({"id": name, "texts": texts} for name, texts in votes.items()))
    majorities = {}
    for task in ("image", "edit", "video"):
        figures = get_figures(summary, task)
        majorities[task] = (figures["majority"], figures["majority_published"])
    assert majorities == {"image": (0.0, 1.0), "edit": (1.0, 0.0), "video": (1.0, 1.0)}
    assert (summary["majority"], summary["majority_published"]) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert summary["video.accuracy"] == 1.0


def test_genai_tie_without_a_kind_is_right_for_both_ties_only(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    path = data.write_genai_bench(folder / "data")
    ids = ("image_generation/1", "image_edition/1", "video_generation/1")
    summary = replay(capfd, "genai-bench", path, *({"id": name, "text": "So [[A=B]]."} for name in ids))
    assert [summary[f"{task}.accuracy"] for task in ("image", "edit", "video")] == [0.0, 1.0, 1.0]


def test_mllm_pair_of_the_makers_adds_up_the_runs(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    path = data.write_mllm_judge(folder / "data")
    first, tie = make_reply(8, 3), make_reply(5, 5)
    rows = [
        {"id": "pair/1", "texts": [first, tie, tie]},  # labelled first
        {"id": "pair/2", "texts": ["?", "?", "?"]},  # labelled a tie
        {"id": "pair/3", "texts": [first, first, tie]},  # labelled first
    ]
    stored = write_replies(*rows)
    command = ("eval", "mllm-judge", "--data", str(path), "--task", "pair", "--replay", stored, "--json")
    figures = get_figures(Run(capfd, *command).json)
    assert (figures["agreement"], figures["agreement_published"]) == (pytest.approx(1 / 3), 1.0)
    assert (figures["macro"], figures["macro_published"]) == (0.5, 1.0)
    assert (figures["macro_without_ties"], figures["macro_without_ties_published"]) == (0.5, 1.0)


def test_vl_rewardbench_majority_of_the_makers_leaves_items_out(
    capfd: pytest.CaptureFixture[str], folder: Path
) -> None:
    path = data.write_vl_rewardbench(folder / "data")

    def row(id: str, verdict: str, random_number: int) -> dict[str, Any]:
        return {"id": id, "query": "x", "meta": {"filter_choice": verdict, "random_number": random_number}}

    first, second = "**Overall Judgment**: Answer 1 is better.", "Therefore, Answer 2 is slightly better."
    rows = [
        *(row("wildvision-battle-1", text, 0) for text in (first, first, second)),  # right in two of three
        *(row("RLAIF-V-2", text, k) for k, text in ((0, second), (1, first), (0, "Both are fine."))),  # one unreadable
        *(row("mathverse_3", text, k) for k, text in ((0, second), (1, first), (0, second))),  # wrong
    ]
    summary = replay(capfd, "vl-rewardbench", path, *rows)
    figures = summary["tasks"]["pair"]["figures"]
    assert summary["accuracy"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert figures["majority"]["strict"] == pytest.approx(2 / 3)
    assert (figures["majority_published"]["strict"], figures["majority_published"]["asked"]) == (0.5, 2)


def test_multimodal_rewardbench_makers_toss_a_coin(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    path = data.write_multimodal_rewardbench(folder / "data")
    texts = {"k-1": "[[A]]", "k-2": "[[C]]", "math-1": "Neither."}
    rows = [{"ID": id_, "Text": "x", "Label": "A", "output": text} for id_, text in texts.items()]
    figures = get_figures(replay(capfd, "multimodal-rewardbench", path, *rows))
    assert (figures["accuracy"], figures["accuracy_published"]) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert figures["macro_published"] == pytest.approx((0.75 + 0.5) / 2)


def test_judgelm_shows_both_counts_of_label_lines(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    lines = ("8 3", "8,3", "3, 8", "3 8 ", "8\t3", "-1 -1", "eight to three")
    questions = [
        {"question_id": k, "question_body": "Q?", "answer1_body": f"A{k}.", "answer2_body": "B.", "score": [1, 1]}
        for k in range(len(lines))
    ]
    path = folder / "data"
    data.write_table(path / "judgelm_val_5k.jsonl", questions)
    labels = [{"question_id": k, "text": f"{line}\nSo."} for k, line in enumerate(lines)]
    data.write_table(path / "judgelm_val_5k_gpt4.jsonl", labels)
    rows = [{"id": k, "text": "9 1"} for k in range(len(lines))]
    summary = replay(capfd, "judgelm", path, *rows)
    figures = summary["tasks"]["pair"]["figures"]
    assert (figures["agreement"]["asked"], figures["agreement"]["value"]) == (5, 3 / 5)
    assert (figures["agreement_published"]["asked"], figures["agreement_published"]["value"]) == (2, 1.0)
    table = summary["tasks"]["pair"]["tables"]["label line"]
    assert {name: group["asked"] for name, group in table.items()} == {"as the makers read it": 2, "only read here": 3}
    assert any(note.startswith("5 items have a label, 2 by the stricter rule") for note in summary["notes"])
    assert summary["left_out"] == {"GPT-4 gave no scores": 2}


def test_report_shows_both_counts_and_names_the_prompts(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    path = data.write_rewardbench(folder / "data")
    ids = ("alpacaeval-easy/30", "llmbar-natural/31", "donotanswer/32", "math-prm/33", "hep-cpp/34")
    stored = write_replies(*({"id": name, "text": "?" if name < "b" else "[[A]]"} for name in ids))
    run = Run(capfd, "eval", "rewardbench", "--data", str(path), "--replay", stored, "--out", "run")
    output = " ".join(run.out.split())
    assert "this run, as the makers count" in output
    assert "mean of groups, as the makers count" in output
    assert "The stored replies answer the prompts of their own judge." in output
    assert "as the makers count" in (folder / "run" / "report.html").read_text()


def test_off_scale_replies_are_marked_and_counted(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    rows = [{"id": id_, "text": make_reply(first, 0)} for id_, first in {7: 6, 9: 0, 4: 0, 5: 5, 6: 11}.items()]
    path = data.write_pandalm(folder / "data")
    stored = write_replies(*rows[:3], {"id": 5, "text": make_reply(5, 6)}, rows[4])
    command = ("eval", "pandalm", "--data", str(path), "--replay", stored, "--json")
    summary = Run(capfd, *command, "--out", "run").json
    assert (summary["agreement"], summary["off_scale"]) == (1.0, 4)
    assert "4 of 5 replies have scores off our scale; their order counts" in summary["notes"]
    items = [json.loads(line) for line in (folder / "run" / "items.jsonl").read_text().splitlines()]
    assert {item["id"]: item["off_scale"] for item in items}["5"] == [False]
    strict = Run(capfd, *command, "--replay-format", "flex-judge").json
    assert (strict["scored"], strict["off_scale"]) == (1, 0)
    fewer = write_replies(*rows[:3])
    partial = Run(capfd, *command[:4], "--replay", fewer, "--json").json
    assert "3 of 3 replies have scores off our scale; their order counts" in partial["notes"]


def test_reply_format_is_checked(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    path, stored = str(data.write_pandalm(folder / "data")), write_replies({"id": 7, "text": "1"})
    run = Run(capfd, "eval", "pandalm", "--data", path, "--replay", stored, "--replay-format", "mtbench")
    assert (run.status, "--replay-format mtbench: no such format; choose one of" in run.err) == (2, True)
    run = Run(capfd, "eval", "pandalm", "--data", path, "--replay-format", "mt-bench")
    assert (run.status, "--replay-format needs --replay FILE" in run.err) == (2, True)


def test_replies_as_released_name_items_by_their_place(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    path = data.write_genai_bench(folder / "data") / "image_generation.jsonl"
    row = json.loads(path.read_text())
    data.write_table(
        path, [{**row, "id": f"image{k}", "vote_type": vote} for k, vote in enumerate(("leftvote", "tievote"))]
    )
    rows = [{"idx": k, "prompt": "x", "response": text, "model_vote": text} for k, text in ((1, "[[A=B]]"), (0, "?"))]
    assert replay(capfd, "genai-bench", path, *rows)["image.accuracy"] == 0.5
    rows = [{"text": text, "pred": "None"} for text in ("<answer>[[A>B]]</answer>", "<answer>[[B>A]]</answer>")]
    assert replay(capfd, "genai-bench", path, *rows)["image.accuracy"] == 0.5
    judgelrm = [{"idx": id_, "output": make_reply(9, 0), "result": 1} for id_ in (7, 9, 4, 5, 6)]
    assert replay(capfd, "pandalm", data.write_pandalm(folder), *judgelrm)["agreement"] == 2 / 5
