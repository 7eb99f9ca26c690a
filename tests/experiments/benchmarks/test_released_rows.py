"""Rows as the benchmarks release them: names, types, labels, paths and odd values, made by hand after the releases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import benchmark_data as data
import clips
import pytest
from eval_command import parse_items

from flex_judge.experiments.benchmarks.cells import parse_list, read_answer
from flex_judge.experiments.benchmarks.items import TIE, Item
from flex_judge.judges.errors import UsageError
from flex_judge.judges.types import Comparison

PICTURE = {"bytes": clips.picture(clips.noise()), "path": "a.png"}
"""An image as `datasets` stores it in Parquet."""


def load(item: Item) -> Comparison:
    return item.row.load_comparison()


def count_media(comparison: Comparison) -> int:
    contents = [message.content for message in comparison.prompt] + list(comparison.responses)
    return sum(not isinstance(part, str) for content in contents if not isinstance(content, str) for part in content)


# MLLM-as-a-Judge: batch.jsonl names the folder of its images, the other files do not; the label has two names; scores
# are numbers or texts; the small version has files of other names, and the Hard and HQ sets capitalize them.


def write_mllm_judge(folder: Path, suffix: str = "", capitalize: bool = False) -> Path:
    for name in ("0.jpg", "200.jpg"):
        data.write_picture(folder / "image" / name)
    common = {"original_dataset": "coco", "instruction": "What is it?"}
    answer = {"name": "m", "answer": "says=8"}
    rows = {
        "score": [
            {"score_id": 0, "name": "m", "answer": "says=3", "id": 9, "image_path": "0.jpg", **common, "human": 3},
            {"score_id": 6, "name": "m", "answer": "", "id": 9, "image_path": "0.jpg", **common, "human": "4"},
        ],
        "pair": [
            {"pair_id": k, "id": 0, "image_path": "0.jpg", **common, "answer1": answer, "answer2": answer, key: label}
            for k, (key, label) in enumerate(
                [("human_answer", "A"), ("human", "c"), ("human", " B "), ("human", "Tie")]
            )
        ],
        "batch": [
            {"id": 200, "image_path": "image/200.jpg", **common, "answers": [answer] * 4, "human_answer": ranking}
            for ranking in ("CDAB", "C, D, A, B")
        ],
    }
    for task, task_rows in rows.items():
        name = f"{task.capitalize() if capitalize else task}{suffix}.jsonl"
        data.write_table(folder / "Benchmark" / name, task_rows)
    return folder


@pytest.mark.parametrize(("suffix", "capitalize"), [("", False), ("_lite", False), ("", True)])
def test_mllm_judge_as_released(suffix: str, capitalize: bool, tmp_path: Path) -> None:
    folder = write_mllm_judge(tmp_path / "Dataset", suffix, capitalize)
    if suffix:
        (folder / "Benchmark").rename(folder / "Benchmark_Lite")
    items = parse_items("mllm-judge", folder)
    assert len({item.id for item in items}) == len(items) == 8
    by_task = {task: [item for item in items if item.task == task] for task in ("score", "pair", "batch")}
    assert [item.label for item in by_task["score"]] == [3, 4]
    assert [item.label for item in by_task["pair"]] == [0, TIE, 1, TIE]
    assert [item.label for item in by_task["batch"]] == [(2, 3, 0, 1)] * 2
    assert load(by_task["score"][1]).responses == ("",)
    assert all(count_media(load(item)) == 1 for item in items)


def test_mllm_judge_answers_of_other_types(tmp_path: Path) -> None:
    data.write_picture(tmp_path / "image" / "0.jpg")
    common = {"image_path": "0.jpg", "original_dataset": "coco", "instruction": "What?", "id": 0}
    rows = [
        {**common, "answer1": {"name": "m", "answer": 12}, "answer2": True, "human": "A"},
        {**common, "answer1": None, "answer2": {"name": "m", "answer": None}, "human": "C"},
    ]
    first, second = parse_items("mllm-judge", data.write_table(tmp_path / "pair.jsonl", rows))
    assert load(first).responses == ("12", "true")
    assert load(second).responses == ("", "")
    bad = [{**common, "answer1": {"text": "x"}, "answer2": "y", "human": "A"}]
    with pytest.raises(UsageError, match="row 1, field 'answer1': expected a text"):
        parse_items("mllm-judge", data.write_table(tmp_path / "pair.jsonl", bad))


# VL-RewardBench: Parquet with images as bytes, further columns, ids that repeat, and the mark of the image in the text.


def test_vl_rewardbench_as_released(tmp_path: Path) -> None:
    sources = (
        "wildvision-battle-7",
        "VLFeedback_1",
        "RLAIF-V-3",
        "RLHF-V-2",
        "hallucination_pair-9",
        "mathverse_2",
        "mmmu_1",
    )
    rows = [
        {
            "id": name,
            "query": f"<image>\nWhat is in it, {k}?" if k % 2 else f"What is in it, {k}?\n<image>",
            "response": ["says=8", "says=3"],
            "image": PICTURE,
            "human_ranking": [k % 2, 1 - k % 2],
            "models": ["m", "n"],
            "judge": None,
            "rationale": "Because.",
            "query_source": "x",
            "ground_truth": "A cat.",
            "human_error_analysis": [],
        }
        for k, name in enumerate([*sources, "RLAIF-V-3"])
    ]
    path = data.write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", rows, ("image",))
    items = parse_items("vl-rewardbench", path)
    assert [item.groups["group"] for item in items] == [
        *("general", "general", "hallucination", "hallucination", "hallucination", "reasoning", "reasoning"),
        "hallucination",
    ]
    assert [item.label for item in items] == [0, 1] * 4
    assert len({item.id for item in items}) == 8
    comparison = load(items[0])
    assert count_media(comparison) == 1
    assert "<image>" not in str(comparison.prompt[0].content)
    # The judge sees neither the right answer nor the annotators' reasons, as in the makers' prompt.
    assert "A cat." not in str(comparison.prompt)


def test_vl_rewardbench_lists_may_be_texts(tmp_path: Path) -> None:
    data.write_picture(tmp_path / "images" / "a.png")
    row = {"id": "x", "query": "What?", "response": "['it\\'s 3', 'no']", "human_ranking": "[1, 0]", "image": "a.png"}
    two_images = {**row, "image": ["a.png", "a.png"], "response": [3, None], "human_ranking": [1.0, 0.0]}
    first, second = parse_items("vl-rewardbench", data.write_table(tmp_path / "test.jsonl", [row, two_images]))
    assert load(first).responses == ("it's 3", "no")
    assert load(second).responses == ("3", "")
    assert (first.label, second.label) == (1, 1)
    assert (count_media(load(first)), count_media(load(second))) == (1, 2)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"response": ["a"]}, "field 'response': expected two texts"),
        ({"response": "a or b"}, "field 'response': expected a list of texts"),
        ({"human_ranking": [0, 0]}, "field 'human_ranking': expected"),
        ({"image": {"bytes": None, "path": None}}, "field 'image': expected an image or its path"),
        ({"image": []}, "field 'image': expected an image or its path"),
        ({"image": b""}, "field 'image': expected an image or its path"),
    ],
)
def test_vl_rewardbench_names_an_unusable_value(change: dict[str, Any], problem: str, tmp_path: Path) -> None:
    row = {"id": "x", "query": "What?", "response": ["a", "b"], "human_ranking": [1, 0], "image": "a.png", **change}
    encoded = json.dumps(row, default=lambda value: None)
    (tmp_path / "test.jsonl").write_text(encoded + "\n")
    with pytest.raises(UsageError, match=problem):
        parse_items("vl-rewardbench", tmp_path / "test.jsonl")


# MJ-Bench: splits as Parquet files with images as bytes; the release of 2025 has one file with a column `category`.


def test_mj_bench_as_released(tmp_path: Path) -> None:
    row = {"caption": "A cat.", "image0": PICTURE, "image1": PICTURE, "label": 1, "info": "existence"}
    for split in ("alignment", "safety", "quality"):
        rows = [row, {**row, "caption": None, "label": 0, "info": ""}]
        data.write_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet", rows, ("image0", "image1"))
    items = parse_items("mj-bench", tmp_path)
    assert [(item.task, item.label) for item in items] == [
        *(("alignment", 1), ("alignment", 0), ("artifact", 1), ("artifact", 0), ("safety", 1), ("safety", 0))
    ]
    assert all(count_media(load(item)) == 2 for item in items)
    assert [message.content for message in load(items[1]).prompt] == [""]


def test_mj_bench_of_2025_has_categories(tmp_path: Path) -> None:
    row = {
        "caption": "A cat.",
        "image0": PICTURE,
        "image1": PICTURE,
        "label": 0,
        "model": "flux",
        "subcategory": "light",
    }
    rows = [{**row, "category": category} for category in ("Quality", "alignment", "composition", "bias")]
    items = parse_items("mj-bench", data.write_parquet(tmp_path / "train.parquet", rows, ("image0", "image1")))
    assert [item.task for item in items if item.label is not None] == ["artifact", "alignment"]
    assert [item.left_out for item in items if item.label is None] == [
        "its category 'composition' is no task of the published results",
        "its category 'bias' is no task of the published results",
    ]
    assert items[0].groups == {"info": "light"}


# Multimodal RewardBench: categories are paths; the images lie in data/images; answers are single letters or numbers.


def test_multimodal_rewardbench_as_released(tmp_path: Path) -> None:
    data.write_picture(tmp_path / "data" / "images" / "nocaps" / "1.jpg")
    row = {"Text": "What?", "Image": "images/nocaps/1.jpg", "Output1": 4, "Output2": "B", "Better": "Output2"}
    kinds = [
        ("nocaps_1", "open_generation/correctness_task", "correctness"),
        ("visitbench_2", "open_generation/preference_task", "preference"),
        ("mathvista_3", "reasoning", "math"),
        ("EMMA-Coding_4", "reasoning", "coding"),
        ("image2struct_5", "reasoning", "coding"),
        ("pairs_6", "safety", "bias"),
        ("RealworldQA_7", "vqa", "vqa"),
        ("mmmu-s_8", "knowledge", "knowledge"),
    ]
    rows = [{**row, "ID": name, "Category": category} for name, category, _ in kinds]
    data.write_table(tmp_path / "data" / "all_data.json", rows)
    items = parse_items("multimodal-rewardbench", tmp_path)
    assert [item.groups["area"] for item in items] == [area for _, _, area in kinds]
    assert load(items[0]).responses == ("4", "B")
    assert items[0].label == 1
    assert count_media(load(items[0])) == 1
    del rows[0]["Text"]
    data.write_table(tmp_path / "data" / "all_data.json", rows)
    with pytest.raises(UsageError, match=r"scripts/0_download_data.py makes from all_data_release.json"):
        parse_items("multimodal-rewardbench", tmp_path)


# Judge Anything: paths relative to the folder of their file, lists of images, empty answers, and a file of checklists.


def test_judge_anything_as_released(tmp_path: Path) -> None:
    folder = tmp_path / "dataset"
    for name in ("1.jpg", "2.jpg"):
        data.write_picture(folder / "X2XRawBenchmark" / "images" / "Demon" / name)
        data.write_picture(folder / "ResponseCollection" / "Image" / "CoDi" / name)
    images = ["images/Demon/1.jpg", "images/Demon/2.jpg"]
    questions = [
        {"uniq_id": "b", "task_name": "Image2Image", "image_path": images, "question": "Go on."},
        {"uniq_id": "a", "task_name": "Text2Text", "question": "\n\nWhy?"},
    ]
    data.write_table(folder / "X2XRawBenchmark" / "TaskAnything.json", questions)

    def answer(question: str, model: str, kind: str, content: Any) -> dict[str, Any]:
        response = {"type": kind, "content": content}
        return {"uniq_id": question, "response_id": "r", "task_name": "x", "model_name": model, "response": response}

    answers = [
        answer("a", "meta-llama/M-3.1_answer", "text", "Because."),
        answer("a", "Qwen/Q2.5_answer", "text", None),
        answer("b", "codi", "image", ["Image/CoDi/1.jpg", "Image/CoDi/2.jpg"]),
        answer("b", "any2pix_response", "image", "Image/CoDi/1.jpg"),
    ]
    data.write_table(folder / "ResponseCollection" / "JudgeAnything.json", answers)
    # A question's id in a file that is read after the questions must not hide the question.
    checklists = [{"uniq_id": name, "rubric": "clarity", "checklists": ["Is it clear?"]} for name in "ab"]
    data.write_table(folder / "Zchecklist" / "checklist.json", checklists)
    judgments = [
        {"uniq_id": "a", "rubric_name": "overall_score", "model_pair": "meta-llama/M-3.1_answer_vs_Qwen/Q2.5_answer"},
        {"uniq_id": "b", "rubric_name": "overall_score", "model_pair": "['codi', 'any2pix_response']"},
    ]
    rows = [{**judgments[0], "choice": "0"}, {**judgments[1], "choice": 2.0}]
    rows.append({"uniq_id": "b", "rubric_name": "overall_score", "model_name": "codi", "score": "3"})
    data.write_table(folder / "Preference" / "Human.json", rows)
    items = parse_items("judge-anything", folder)
    assert [(item.task, item.label) for item in items] == [("pair", 0), ("pair", 1), ("score", 3.0)]
    assert load(items[0]).responses == ("Because.", "")
    assert count_media(load(items[1])) == 2 + 2 + 1


# Audio: NISQA's file of the whole corpus names its clips by a path; SOMOS has a header, BVCC has none.


def test_nisqa_corpus_file_keeps_the_three_test_sets(tmp_path: Path) -> None:
    rows = []
    for db in ("NISQA_TRAIN_SIM", "NISQA_TEST_FOR", "NISQA_TEST_LIVETALK", "NISQA_TEST_NSC"):
        path = f"{db}/deg/c1_{db}.wav"
        data.write_clip(tmp_path / path)
        rows.append({"db": db, "con": "1", "filepath_deg": path, "votes": "24", "mos": "3.04166666666667", "noi": ""})
    items = parse_items("nisqa", data.write_table(tmp_path / "NISQA_corpus_file.csv", rows))
    assert [item.groups["set"] for item in items if item.label is not None] == ["NISQA_TEST_FOR", "NISQA_TEST_LIVETALK"]
    assert {item.left_out for item in items if item.label is None} == {"its set is none of the three test sets"}
    assert count_media(load(items[1])) == 1


def test_voxsim_reads_labels_between_the_steps_of_the_scale(tmp_path: Path) -> None:
    lines = [
        "id1/9w-E_x/1.wav,id2/-b/2.wav,0,,1.0",
        "id1/9w-E_x/1.wav,id1/c/3.wav,1,,5.7",
        "id3/a/1.wav,id3/b/1.wav,1,,6.0",
    ]
    (tmp_path / "voxsim_test_list.txt").write_text("\n".join(lines) + "\n")
    for folder, name in (("dev/wav", "id1/9w-E_x/1.wav"), ("test/wav", "id2/-b/2.wav")):
        data.write_clip(tmp_path / folder / name)
    items = parse_items("voxsim", tmp_path)
    assert [item.label for item in items] == [1.0, 5.7, 6.0]
    assert count_media(load(items[0])) == 2


# Cells of all releases.


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        ("a", "a"),
        (True, "true"),
        (4, "4"),
        (2.5, "2.5"),
        (None, ""),
        (float("nan"), ""),
        ({"answer": "b"}, "b"),
        ([], None),
    ],
)
def test_answer_of_a_cell(value: Any, answer: str | None) -> None:
    assert read_answer(value) == answer


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([1, 2], [1, 2]),
        ((1, 2), [1, 2]),
        ("[1, null]", [1, None]),
        ("['a', None]", ["a", None]),
        ("text", None),
        ('{"a": 1}', None),
        ("[" * 5000, None),
        (5, None),
    ],
)
def test_list_of_a_cell(value: Any, expected: list[Any] | None) -> None:
    assert parse_list(value) == expected


def test_list_of_a_cell_may_be_an_array() -> None:
    numpy = pytest.importorskip("numpy")
    assert parse_list(numpy.array([0, 1])) == [0, 1]
    assert parse_list(numpy.int64(3)) is None
