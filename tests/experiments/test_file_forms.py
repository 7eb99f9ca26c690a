"""Every form of a file through every entrance, and what a fault in a file costs there."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from file_forms import BAD_TEXT, FORMS, Rows, format_csv, format_lines, format_list, format_parquet, write_form
from PIL import Image

from flex_judge.alignment.curation.benchmarks import ContaminationFilter
from flex_judge.alignment.curation.rows import DropRecord, read_reference_rows
from flex_judge.alignment.data.prompts import PromptColumns, read_prompts
from flex_judge.alignment.data.sources import open_source
from flex_judge.alignment.judge_training.data import FIELDS, read_training_rows
from flex_judge.alignment.policy_training.data import load_preference_data, load_prompt_data
from flex_judge.experiments.benchmarks.data import open_data
from flex_judge.experiments.benchmarks.stored import read_replies
from flex_judge.experiments.cli import main
from flex_judge.experiments.commands.judge.config import JudgeRun
from flex_judge.experiments.commands.judge.view import read_comparison_source
from flex_judge.judges.engines.base import EngineConfig
from flex_judge.judges.errors import UsageError, to_one_line
from flex_judge.judges.io.columns import ColumnMapping
from flex_judge.judges.io.files import InvalidRow, read_comparisons
from flex_judge.judges.protocol.settings import JudgeConfig
from flex_judge.judges.types import Comparison, content_to_text, split_content

QUESTIONS = ("Was ist 2 + 3?", 'Say "}],{" 🙂\nplease.', "Ж?")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def message(text: str, role: str = "user") -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


@dataclass(frozen=True)
class Entrance:
    """One place where rows of users come in."""

    make_row: Callable[[str], dict[str, Any]]
    """Row for a question."""
    read: Callable[[Path], list[str | UsageError]]
    """Question or error of each row of a file."""
    drops_bad_rows: bool = True
    """Whether a bad row costs only itself. Otherwise, it is an error: half a benchmark has no comparable score."""


def get_question(comparison: Comparison) -> str:
    return content_to_text(split_content(comparison.prompt[-1].content))


def read_judge_file(path: Path) -> list[str | UsageError]:
    rows = read_comparison_source(JudgeRun(judge=JudgeConfig(EngineConfig("scripts:fair_judge"))), str(path))
    assert len({row.id for row in rows}) == len(rows)
    return [row.error if isinstance(row, InvalidRow) else get_question(row.load_comparison()) for row in rows]


def read_data_run(path: Path) -> list[str | UsageError]:
    source = open_source(str(path))
    rows = list(read_prompts(source, 0, len(source), PromptColumns()))
    assert len(rows) == len(source)
    # Workers read ranges, in any order.
    for start in reversed(range(len(source))):
        (row,) = read_prompts(source, start, start + 1, PromptColumns())
        assert str(row) == str(rows[start])
    return [
        row if isinstance(row, UsageError) else content_to_text(split_content(row.prompt[0].content)) for row in rows
    ]


def read_grpo(path: Path) -> list[str | UsageError]:
    data = load_prompt_data(open_source(str(path)), PromptColumns())
    prompts = [data.get_prompt(i).prompt[0].content for i in range(len(data.rows))]
    return [*map(str, prompts), *map(UsageError, data.problems)]


def read_dpo(path: Path) -> list[str | UsageError]:
    data = load_preference_data(str(path))
    prompts = [data.get_prompt(i).prompt[0].content for i in range(len(data.rows))]
    return [*map(str, prompts), *map(UsageError, data.problems)]


def read_sft(path: Path) -> list[str | UsageError]:
    rows = read_training_rows(path)
    return [row if isinstance(row, UsageError) else row["prompt"][0]["content"] for row in rows]


def read_curation(path: Path) -> list[str | UsageError]:
    rows = read_reference_rows(open_source(str(path)))
    return [UsageError(row.detail) if isinstance(row, DropRecord) else row.question for row in rows]


def read_contamination(path: Path) -> list[str | UsageError]:
    questions = ContaminationFilter.from_files([str(path)]).questions
    return sorted(questions, key=len)


def read_benchmark(path: Path) -> list[str | UsageError]:
    return [record.get_text("question") for record in open_data([str(path)], ("*.csv",), "rows").records]


def read_stored_replies(path: Path) -> list[str | UsageError]:
    return [str(reply.texts[0]) for reply in read_replies(path).values()]


ENTRANCES = {
    "judge FILE": Entrance(lambda q: {"prompt": q, "responses": ["a", "b"]}, read_judge_file),
    "best-of-n and preferences": Entrance(lambda q: {"prompt": message(q)}, read_data_run),
    "grpo": Entrance(lambda q: {"prompt": q}, read_grpo),
    "dpo": Entrance(
        lambda q: {"prompt": message(q), "chosen": message("a", "assistant"), "rejected": message("b", "assistant")},
        read_dpo,
    ),
    "sft": Entrance(lambda q: {"prompt": message(q), "completion": message("a", "assistant")}, read_sft),
    "curate": Entrance(
        lambda q: {"question_body": q, "answer1_body": "a", "answer2_body": "b", "score": [8, 4]}, read_curation
    ),
    "curate --benchmark": Entrance(lambda q: {"question": q}, read_contamination, drops_bad_rows=False),
    "eval --data": Entrance(lambda q: {"question": q}, read_benchmark, drops_bad_rows=False),
    "eval --replay": Entrance(lambda q: {"id": q, "text": q}, read_stored_replies, drops_bad_rows=False),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("entrance", ENTRANCES)
def test_every_entrance_reads_every_form(entrance: str, form: str, tmp_path: Path) -> None:
    reader = ENTRANCES[entrance]
    path = write_form(tmp_path, form, [reader.make_row(question) for question in QUESTIONS])
    plain = write_form(tmp_path, "plain", [reader.make_row(question) for question in QUESTIONS], stem="plain")
    questions = reader.read(path)
    assert len(questions) == len(QUESTIONS)
    assert questions == reader.read(plain)
    if entrance != "curate --benchmark":  # which normalises the questions
        assert questions == list(QUESTIONS)


def write_folder(folder: Path, rows: Rows) -> Path:
    """Write rows to the files of a folder, next to files that hold none."""
    parts = folder / "parts"
    parts.mkdir()
    write_form(parts, "CSV", rows[:1], "rows-0")
    write_form(parts, "CSV, gzip", rows[1:], "rows-1")
    (parts / "README.md").write_text("# Rows")
    (parts / ".hidden.csv").write_text("a\n1\n")
    return parts


def write_saved(folder: Path, rows: Rows) -> Path:
    """Write rows with `save_to_disk`."""
    import datasets

    datasets.Dataset.from_list(list(rows)).save_to_disk(folder / "saved")
    return folder / "saved"


def write_saved_splits(folder: Path, rows: Rows) -> Path:
    """Write rows with `save_to_disk` as one of two splits."""
    import datasets

    table = datasets.Dataset.from_list(list(rows))
    datasets.DatasetDict(test=table, train=table.select([0])).save_to_disk(folder / "saved")
    return Path(f"{folder / 'saved'}@test")


FOLDERS = {"folder of files": write_folder, "save_to_disk": write_saved, "split of save_to_disk": write_saved_splits}
NO_FOLDERS = ("curate --benchmark", "eval --replay")
"""Entrances for one file."""


@pytest.mark.parametrize("form", FOLDERS)
@pytest.mark.parametrize("entrance", [name for name in ENTRANCES if name not in NO_FOLDERS])
def test_every_entrance_reads_folders(entrance: str, form: str, tmp_path: Path) -> None:
    reader = ENTRANCES[entrance]
    path = FOLDERS[form](tmp_path, [reader.make_row(question) for question in QUESTIONS])
    assert reader.read(path) == list(QUESTIONS)


def break_line(rows: Rows) -> bytes:
    first, _, last = format_lines(rows).splitlines()
    return "\n".join([first, '{"prompt": "cut', last]).encode()


def nest_line(rows: Rows) -> bytes:
    first, _, last = format_lines(rows).splitlines()
    return "\n".join([first, '{"prompt": ' + "[" * 10**5 + "]" * 10**5 + "}", last]).encode()


def break_element(rows: Rows) -> bytes:
    elements = [json.dumps(row) for row in rows]
    return f"[{elements[0]},\n{{broken: 1}},\n{elements[2]}]".encode()


def break_text(rows: Rows) -> bytes:
    """Replace the first text of the second row by one that is not UTF-8."""
    changed = json.loads(format_list(rows))
    name = next(name for name, value in changed[1].items() if isinstance(value, str | list))
    changed[1][name] = message(BAD_TEXT) if isinstance(changed[1][name], list) else BAD_TEXT
    return format_parquet(changed)


def add_cells(rows: Rows) -> bytes:
    first, last = format_csv(rows[:1]), format_csv(rows[2:]).split("\r\n", 1)[1]
    return f"{first}a,b,c,d,e,f\r\n{last}".encode()


def break_cell(rows: Rows) -> bytes:
    changed = json.loads(format_list(rows))
    name = next(name for name, value in changed[1].items() if isinstance(value, str | list))
    changed[1][name] = "b?d"
    return format_csv(changed).encode().replace(b"b?d", b"b\xffd")


FAULTS: dict[str, tuple[str, Callable[[Rows], bytes]]] = {
    "broken line": (".jsonl", break_line),
    "deep line": (".jsonl", nest_line),
    "broken element of a list": (".json", break_element),
    "text that is not UTF-8": (".parquet", break_text),
    "cell that is not UTF-8": (".csv", break_cell),
    "too many cells": (".csv", add_cells),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("entrance", ENTRANCES)
def test_bad_row_costs_only_itself_and_is_named(entrance: str, fault: str, tmp_path: Path) -> None:
    reader = ENTRANCES[entrance]
    suffix, write = FAULTS[fault]
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(write([reader.make_row(question) for question in QUESTIONS]))
    location = re.compile(rf"rows\{suffix}, (row|line) 2[:,] ")
    if not reader.drops_bad_rows:
        with pytest.raises(UsageError, match=location):
            reader.read(path)
        return
    results = reader.read(path)
    errors = [row for row in results if isinstance(row, UsageError)]
    assert [row for row in results if not isinstance(row, UsageError)] == [QUESTIONS[0], QUESTIONS[2]]
    assert len(errors) == 1
    assert location.search(str(errors[0]))
    assert to_one_line(errors[0]) == str(errors[0])


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_bad_value_in_a_column_that_is_not_needed_costs_nothing(entrance: str, tmp_path: Path) -> None:
    reader = ENTRANCES[entrance]
    rows = [{**reader.make_row(question), "crawler": "x"} for question in QUESTIONS]
    rows[1]["crawler"] = BAD_TEXT
    (tmp_path / "rows.parquet").write_bytes(format_parquet(rows))
    assert len(reader.read(tmp_path / "rows.parquet")) == len(QUESTIONS)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.jsonl.gz", "rows.jsonl.zst", "rows.csv"])
@pytest.mark.parametrize("entrance", ENTRANCES)
def test_file_without_rows_is_one_error(entrance: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"")
    if entrance == "sft":  # its caller reports that no row can be used
        assert read_sft(tmp_path / name) == []
        return
    with pytest.raises(UsageError, match=re.escape(name)) as error:
        ENTRANCES[entrance].read(tmp_path / name)
    assert "\n" not in str(error.value)


def write_hub_cache(folder: Path, name: str, content: bytes) -> Path:
    """Write a file and a picture as the cache of the hub lays them out, and return the path of the file's link."""
    snapshot, blobs = folder / "snapshots" / "r1", folder / "blobs"
    (snapshot / "images").mkdir(parents=True)
    blobs.mkdir()
    (blobs / "1f").write_bytes(content)
    Image.new("RGB", (40, 30), "red").save(blobs / "2e", "PNG")
    (snapshot / name).symlink_to("../../blobs/1f")
    (snapshot / "images" / "cat.png").symlink_to("../../../blobs/2e")
    return snapshot / name


IMAGE_ROWS = [{"prompt": "What is it?", "responses": ["a", "b"], "images": ["images/cat.png"]}]


@pytest.mark.parametrize("entrance", ["judge FILE", "best-of-n and preferences", "grpo"])
@pytest.mark.parametrize("form", ["plain", "gzip", "UTF-16", "JSON list", "Parquet"])
def test_media_are_next_to_the_link_in_a_cache_of_the_hub(form: str, entrance: str, tmp_path: Path) -> None:
    suffix, format_rows = FORMS[form]
    path = write_hub_cache(tmp_path, f"rows{suffix}", format_rows(IMAGE_ROWS))
    (result,) = ENTRANCES[entrance].read(path)
    assert not isinstance(result, UsageError)


@pytest.mark.parametrize("entrance", ["judge FILE", "best-of-n and preferences", "grpo"])
def test_media_are_next_to_the_target_if_they_are_not_next_to_the_link(
    entrance: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, work = tmp_path / "store", tmp_path / "work"
    (store / "images").mkdir(parents=True)
    work.mkdir()
    Image.new("RGB", (40, 30), "red").save(store / "images" / "cat.png")
    write_form(store, "plain", IMAGE_ROWS)
    (work / "rows.jsonl").symlink_to(store / "rows.jsonl")
    monkeypatch.chdir(work)
    (result,) = ENTRANCES[entrance].read(Path("rows.jsonl"))
    assert not isinstance(result, UsageError)


@pytest.mark.parametrize("entrance", ["judge FILE", "best-of-n and preferences", "grpo"])
def test_media_are_next_to_any_link_of_a_chain(entrance: str, tmp_path: Path) -> None:
    target = write_hub_cache(tmp_path, "rows.jsonl", format_lines(IMAGE_ROWS).encode())
    work = tmp_path / "work"
    work.mkdir()
    (work / "first.jsonl").symlink_to(target)
    (work / "second.jsonl").symlink_to("first.jsonl")
    (result,) = ENTRANCES[entrance].read(work / "second.jsonl")
    assert not isinstance(result, UsageError)


def test_circle_of_links_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").symlink_to("rows.jsonl")
    for read in (read_comparisons, lambda path: open_source(str(path))):
        with pytest.raises(UsageError, match=r"rows\.jsonl: "):
            read(tmp_path / "rows.jsonl")


def test_media_of_a_benchmark_are_next_to_the_link(tmp_path: Path) -> None:
    path = write_hub_cache(tmp_path, "rows.jsonl", format_lines([{"question": "Q"}]).encode())
    for name in (path, path.parent):
        (record,) = open_data([str(name)], ("*.jsonl",), "rows").records
        assert Path(record.locate_file("images/cat.png")) == path.parent / "images" / "cat.png"
        assert Path(record.locate_file("cat.png", "images")).is_file()


def test_digest_of_a_source_does_not_depend_on_links_or_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_hub_cache(tmp_path, "rows.jsonl", format_lines(IMAGE_ROWS).encode())
    source = open_source(str(path))
    assert source.digest == open_source(str(write_form(tmp_path, "plain", IMAGE_ROWS))).digest
    monkeypatch.chdir(path.parent)
    relative = open_source("rows.jsonl")
    assert (relative.digest, relative.name) == (source.digest, "rows.jsonl")
    monkeypatch.chdir("/")  # as a worker in another folder
    (row,) = read_prompts(relative, 0, 1, PromptColumns())
    assert not isinstance(row, UsageError)


def test_sft_takes_columns_of_other_names(tmp_path: Path) -> None:
    mapping = ColumnMapping.from_arguments(["prompt=input", "completion=output"], FIELDS)
    rows = [{"input": message(str(n)), "output": message("a", "assistant"), "prompt": "other"} for n in range(2)]
    table = tmp_path / "rows.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({name: json.dumps(value) for name, value in row.items()} for row in rows)
    for path in (table, tmp_path / "rows.csv"):
        training = read_training_rows(path, mapping)
        assert [(row["prompt"], row["completion"]) for row in training if not isinstance(row, UsageError)] == [
            (row["input"], row["output"]) for row in rows
        ]
    # Held-out judgments may have the names of the project.
    held_out = [{"question": "2 + 3?", "responses": ["5"], "rubric": "general", "scores": [9]}]
    (tmp_path / "held_out.jsonl").write_text(json.dumps(held_out[0]) + "\n")
    assert read_training_rows(tmp_path / "held_out.jsonl", mapping) == held_out
    # Those of `curate` have a bare question beside the whole prompt of the judge.
    curated = [{"question": "2 + 3?", "prompt": message("Judge: 2 + 3?"), "completion": message("9", "assistant")}]
    (tmp_path / "held_out.jsonl").write_text(json.dumps(curated[0]) + "\n")
    mapping = ColumnMapping.from_arguments(["prompt=question", "completion=answer"], FIELDS)
    assert read_training_rows(tmp_path / "held_out.jsonl", mapping, keeps_fields=True) == curated


def test_sft_names_a_column_that_does_not_exist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "rows.jsonl"
    table.write_text(json.dumps({"prompt": message("q"), "completion": message("a", "assistant")}) + "\n")
    command = ["sft", str(table), "--output_dir", str(tmp_path / "out"), "--eval_strategy", "no", "--use_cpu"]
    for flags, problem in (
        (
            ["--column", "prompt=promt"],
            "rows.jsonl: has no column 'promt'; the columns are prompt, completion; did you",
        ),
        (["--column", "promt=prompt"], "there is no field 'promt'; did you mean 'prompt'?"),
        (["--column", "prompt"], "--column prompt: expected FIELD=COLUMN"),
    ):
        assert main([*command, *flags]) == 2
        assert problem in capsys.readouterr().err
