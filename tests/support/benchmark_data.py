"""Small hand-made data sets in the layouts of the original benchmark releases."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import clips
import pytest


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows to a file in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text(json.dumps(rows))
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]], images: tuple[str, ...] = ()) -> Path:
    """Write rows as the hub stores them, with columns of images."""
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_list(rows)
    for column in images:
        table = table.cast_column(column, datasets.Image())
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(str(path))
    return path


def write_clip(path: Path, hertz: float = 440.0, rate: int = 16_000) -> Path:
    """Write a short sound."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(clips.wav(clips.tone(0.3, rate=rate, hertz=hertz), rate=rate))
    return path


def write_picture(path: Path) -> Path:
    """Write a small image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(clips.picture(clips.noise()))
    return path


def write_pandalm(folder: Path) -> Path:
    def row(idx: int, first: str, second: str, *annotators: int) -> dict[str, Any]:
        votes = {f"annotator{k}": vote for k, vote in enumerate(annotators, 1)}
        return {
            "idx": idx,
            "instruction": f"Task {idx}.",
            "input": "",
            "response1": first,
            "response2": second,
            **votes,
        }

    return write_table(
        folder / "testset-v1.json",
        [
            row(7, "says=8", "says=3", 1, 1, 2),  # label: first; judge: first
            row(9, "says=2", "says=6", 0, 0, 0),  # label: tie; judge: second
            row(4, "says=5", "says=5", 0, 2, 0),  # label: tie; judge: tie
            row(5, "mumble", "says=5", 2, 2, 2),  # label: second; judge: unparseable
            row(6, "says=9", "says=5", 1, 0, 2),  # annotators all differ, so the first one counts: first; judge: first
        ],
    )


def write_llmbar(folder: Path) -> Path:
    def rows(name: str, *labels: int) -> list[dict[str, Any]]:
        return [
            {"input": f"{name} task {k}.", "output_1": "says=8", "output_2": "says=3", "label": label}
            for k, label in enumerate(labels)
        ]

    write_table(folder / "Natural" / "dataset.json", rows("Natural", 1, 1))
    write_table(folder / "Adversarial" / "Manual" / "dataset.json", rows("Manual", 2))
    return folder


def write_judgebench(folder: Path) -> Path:
    def row(id: str, source: str, label: str) -> dict[str, Any]:
        return {
            "pair_id": id,
            "original_id": 1,
            "source": source,
            "question": "Which?",
            "response_model": "m",
            "response_A": "says=8",
            "response_B": "says=3",
            "label": label,
        }

    rows = [row("p1", "mmlu-pro-law", "A>B"), row("p2", "livebench-math", "B>A"), row("p3", "livecodebench", "A>B")]
    return write_table(folder / "dataset=judgebench,response_model=gpt-4o-2024-05-13.jsonl", rows)


def write_nisqa(folder: Path) -> Path:
    for db, con, mos in (("NISQA_TEST_FOR", 1, 4.5), ("NISQA_TEST_FOR", 2, 2.0), ("NISQA_TEST_P501", 1, 3.5)):
        rows = [{"db": db, "con": con, "file": con, "filename_deg": f"c{con}_{db}.wav", "lang": "en", "mos": mos}]
        file = folder / db / f"{db}_file.csv"
        if file.exists():
            rows = list(csv.DictReader(file.open())) + rows
        write_table(file, rows)
        write_clip(folder / db / "deg" / f"c{con}_{db}.wav", 300.0 * con, rate=48_000)
    return folder


def write_bvcc(folder: Path) -> Path:
    names = ["sysaa-utt1.wav", "sysaa-utt2.wav", "sysbb-utt1.wav", "syscc-utt9.wav"]
    (folder / "DATA" / "sets").mkdir(parents=True)
    lines = [f"{name},{score}\n" for name, score in zip(names, (4.0, 3.5, 2.0, 1.5), strict=True)]
    (folder / "DATA" / "sets" / "test_mos_list.txt").write_text("".join(lines))
    for k, name in enumerate(names[:3]):  # the last clip is not part of the release
        write_clip(folder / "DATA" / "wav" / name, 200.0 * (k + 1))
    return folder


def write_somos(folder: Path) -> Path:
    split = folder / "training_files" / "split1" / "clean"
    split.mkdir(parents=True)
    names = ["LJ003-0304_078", "LJ003-0305_078", "booksent_2012_0005_001"]
    lines = [f"{name}.wav,{score}\n" for name, score in zip(names, (3.1, 3.4, 2.2), strict=True)]
    (split / "test_mos_list.txt").write_text("utteranceId,mean\n" + "".join(lines))
    for k, name in enumerate(names):
        write_clip(folder / "audios" / f"{name}.wav", 200.0 * (k + 1), rate=24_000)
    return folder


def write_voxsim(folder: Path) -> Path:
    pairs = [
        ("id1/a/1.wav", "id2/b/1.wav", 0, 2.0),
        ("id1/a/1.wav", "id1/a/2.wav", 1, 5.5),
        ("id2/b/1.wav", "id3/c/1.wav", 0, 1.0),
    ]
    for first, second, _, _ in pairs:
        for k, name in enumerate((first, second)):
            write_clip(folder / "wav" / name, 150.0 * (k + len(name)))
    lines = [f"{first},{second},{same},,{mean}\n" for first, second, same, mean in pairs]
    (folder / "voxsim_test_list.txt").write_text("".join(lines))
    return folder


def write_rewardbench(folder: Path) -> Path:
    def row(id: int, subset: str, chosen: int, rejected: int) -> dict[str, Any]:
        answers = {"chosen": f"says={chosen}", "rejected": f"says={rejected}"}
        return {"id": id, "prompt": f"Task {id}.", **answers, "subset": subset, "chosen_model": "m"}

    rows = [
        row(30, "alpacaeval-easy", 8, 3),
        row(31, "llmbar-natural", 5, 5),
        row(32, "donotanswer", 2, 7),
        row(33, "math-prm", 8, 3),
        row(34, "hep-cpp", 3, 8),
    ]
    return write_table(folder / "filtered.jsonl", rows)


def write_rewardbench2(folder: Path) -> Path:
    def row(id: str, subset: str, chosen: list[int], rejected: list[int]) -> dict[str, Any]:
        return {
            "id": id,
            "prompt": f"Task {id}.",
            "chosen": [f"says={score}" for score in chosen],
            "rejected": [f"says={score}" for score in rejected],
            "num_correct": len(chosen),
            "num_incorrect": len(rejected),
            "total_completions": len(chosen) + len(rejected),
            "models": ["m"],
            "subset": subset,
            "additional_metadata": {"category": None, "index": None},
        }

    rows = [
        row("0", "Factuality", [8], [3, 4, 5]),
        row("1", "Factuality", [6], [6, 2, 1]),  # two share the highest score: half a point
        row("2", "Precise IF", [2], [9, 1, 1]),
        row("3", "Math", [9], [1, 1, 1]),
        row("4", "Safety", [9], [1, 1, 1]),
        row("5", "Focus", [5], [5, 5, 5]),  # a quarter
        row("ref:0", "Ties", [9], [2, 3]),
        row("tied:0", "Ties", [9, 8, 8], [2, 3]),
        row("ref:1", "Ties", [4], [5]),
        row("tied:1", "Ties", [9, 4], [3, 2]),
    ]
    return write_table(folder / "test-00000-of-00001.jsonl", rows)


def write_vl_rewardbench(folder: Path) -> Path:
    def row(id: str, better: int, image: str) -> dict[str, Any]:
        ranking = [0, 1] if better == 0 else [1, 0]
        return {
            "id": id,
            "query": "What is in the picture?",
            "response": ["says=8", "says=3"],
            "human_ranking": ranking,
            "models": ["m", "n"],
            "query_source": "x",
            "image": image,
        }

    write_picture(folder / "images" / "a.png")
    rows = [row("wildvision-battle-1", 0, "a.png"), row("RLAIF-V-2", 1, "a.png"), row("mathverse_3", 0, "a.png")]
    return write_table(folder / "test.jsonl", rows)


def write_genai_bench(folder: Path) -> Path:
    for name in ("a.png", "b.png", "c.png"):
        write_picture(folder / "images" / name)
    for k, name in enumerate(("a.mp4", "b.mp4")):
        (folder / name).write_bytes(clips.film([10 * k] * 20, form="mp4"))
    sides = {"left_model": "m", "right_model": "n"}
    write_table(
        folder / "image_generation.jsonl",
        [{**sides, "prompt": "A cat.", "left_image": "a.png", "right_image": "b.png", "vote_type": "leftvote"}],
    )
    write_table(
        folder / "image_edition.jsonl",
        [
            {
                **sides,
                "source_prompt": "a cat",
                "target_prompt": "a dog",
                "instruct_prompt": "Make it a dog.",
                "source_image": "c.png",
                "left_output_image": "a.png",
                "right_output_image": "b.png",
                "vote_type": "bothbad_vote",
            }
        ],
    )
    write_table(
        folder / "video_generation.jsonl",
        [{**sides, "prompt": "A cat.", "left_video": "a.mp4", "right_video": "b.mp4", "vote_type": "tievote"}],
    )
    return folder


def write_multimodal_rewardbench(folder: Path) -> Path:
    write_picture(folder / "images" / "a.png")

    def row(id: str, category: str, better: str) -> dict[str, Any]:
        answers = {"Output1": "says=8", "Output2": "says=3"}
        return {"ID": id, "Category": category, "Text": "What?", "Image": "images/a.png", **answers, "Better": better}

    rows = [
        row("k-1", "knowledge", "Output1"),
        row("k-2", "knowledge", "Output2"),
        row("math-1", "reasoning", "Output1"),
    ]
    return write_table(folder / "all_data.json", rows)


def write_mllm_judge(folder: Path) -> Path:
    write_picture(folder / "image" / "0.jpg")

    def row(kind: str, number: int, source: str, **fields: Any) -> dict[str, Any]:
        return {
            "id": 0,
            f"{kind}_id": number,
            "image_path": "0.jpg",
            "original_dataset": source,
            "instruction": "What is it?",
            **fields,
        }

    def answer(says: int, name: str = "m") -> dict[str, Any]:
        return {"name": name, "answer": f"says={says}"}

    def pair(number: int, source: str, human: str) -> dict[str, Any]:
        return row("pair", number, source, answer1=answer(8), answer2=answer(3), human=human)

    place = folder / "Benchmark"
    scores = [("coco", 1, 2), ("coco", 5, 4), ("coco", 3, 3)]
    write_table(
        place / "score.jsonl",
        [row("score", k, name, answer=f"says={says}", name="m", human=h) for k, (name, says, h) in enumerate(scores)],
    )
    write_table(place / "pair.jsonl", [pair(1, "coco", "A"), pair(2, "coco", "C"), pair(3, "c3", "A")])
    write_table(
        place / "batch.jsonl", [row("batch", 1, "coco", answers=[answer(9), answer(2), answer(5)], human="ABC")]
    )
    return folder


def write_mj_bench(folder: Path) -> Path:
    for name in ("a.png", "b.png"):
        write_picture(folder / "images" / name)
    for split, labels in (("alignment", (0, 1)), ("safety", (0,)), ("quality", (1,))):
        rows = [{"caption": "A cat.", "image0": "a.png", "image1": "b.png", "label": k, "info": "x"} for k in labels]
        write_table(folder / f"{split}.jsonl", rows)
    return folder


def write_judgelm(folder: Path) -> Path:
    def row(number: int, first: int, second: int) -> dict[str, Any]:
        answers = {"answer1_body": f"says={first}", "answer2_body": f"says={second}"}
        return {"question_id": number, "question_body": f"Question {number}?", **answers, "score": [1, 1]}

    write_table(folder / "judgelm_val_5k.jsonl", [row(1, 8, 3), row(2, 5, 5), row(3, 2, 4), row(4, 2, 4)])
    texts = {4: "I cannot score these.", 1: "9 7\nThe first.", 2: "8 8\nBoth.", 3: "9.5 2\nThe first."}
    write_table(folder / "judgelm_val_5k_gpt4.jsonl", [{"question_id": k, "text": text} for k, text in texts.items()])
    write_table(folder / "judgelm_val_5k_gpt4_with_reference.jsonl", [{"question_id": 1, "text": "1 10"}])
    return folder


def write_judge_anything(folder: Path) -> Path:
    write_picture(folder / "images" / "cat.png")
    write_clip(folder / "RawResponse" / "audio" / "a.wav")
    write_clip(folder / "RawResponse" / "audio" / "b.wav")
    questions = [
        {"uniq_id": "q1", "task_name": "Image2Text", "question": "What is it?", "image_path": "cat.png"},
        {"uniq_id": "q2", "task_name": "Text2Audio", "question": "Say it."},
    ]
    write_table(folder / "X2XRawBenchmark" / "TaskAnything.json", questions)

    def answer(question: str, model: str, kind: str, content: str) -> dict[str, Any]:
        return {"uniq_id": question, "model_name": model, "response": {"type": kind, "content": content}}

    write_table(
        folder / "RawResponse" / "X2XBenchmarkResponse.json",
        [
            answer("q1", "gpt", "text", "says=9"),
            answer("q1", "gpt-mini", "text", "says=2"),
            answer("q2", "gpt", "audio", "audio/a.wav"),
            answer("q2", "gpt-mini", "audio", "audio/b.wav"),
        ],
    )

    def judgment(question: str, rubric: str, **fields: Any) -> dict[str, Any]:
        return {"uniq_id": question, "rubric_name": rubric, **fields}

    write_table(
        folder / "Preference" / "human.json",
        [
            judgment("q1", "overall_score", model_pair="gpt_vs_gpt-mini", choice=0),
            judgment("q1", "clarity", model_pair="gpt_vs_gpt-mini", choice=2),
            judgment("q2", "overall_score", model_pair=["gpt-mini", "gpt"], choice="1"),
            judgment("q1", "overall_score", model_name="gpt-mini", score=2),
            judgment("q2", "overall_score", model_name="gpt", score=4),
        ],
    )
    return folder
