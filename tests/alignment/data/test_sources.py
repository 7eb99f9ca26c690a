"""Sources of prompts: any range of rows can be read on its own."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from clips import noise, picture
from file_forms import BAD_TEXT, format_parquet
from PIL import Image

from flex_judge.alignment.data.hub import HubDataset
from flex_judge.alignment.data.prompts import PromptColumns, read_prompts
from flex_judge.alignment.data.row_files import INDEX_STRIDE
from flex_judge.alignment.data.rows import PromptRow
from flex_judge.alignment.data.sources import FirstRows, Source, open_source
from flex_judge.alignment.tasks.arithmetic import ArithmeticSource
from flex_judge.judges.errors import MediaError, UsageError
from flex_judge.judges.io.files import write_table

COUNT = 3 * INDEX_STRIDE + 5


def make_rows(count: int = COUNT) -> list[dict[str, Any]]:
    return [{"prompt": f"Question {n}?", "id": n} for n in range(count)]


@pytest.fixture(params=["p.jsonl", "p.parquet", "folder"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    if request.param == "folder":
        write_table(tmp_path / "train.jsonl", make_rows())
        return open_source(f"hub:{tmp_path}")
    write_table(tmp_path / request.param, make_rows())
    return open_source(str(tmp_path / request.param))


def test_rows_are_counted_and_read_in_order(source: Source) -> None:
    assert len(source) == COUNT
    assert [row["id"] for _, row in source.read_range(0, COUNT) if not isinstance(row, UsageError)] == list(
        range(COUNT)
    )


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 1), (INDEX_STRIDE - 1, INDEX_STRIDE + 1), (70, 140), (COUNT - 2, COUNT + 9), (5, 5)]
)
def test_range_is_read_on_its_own(source: Source, start: int, stop: int) -> None:
    again: Source = pickle.loads(pickle.dumps(source))
    expected = make_rows()[start:stop]
    assert [dict(row) for _, row in again.read_range(start, stop) if not isinstance(row, UsageError)] == expected


def test_first_rows_form_a_source(source: Source) -> None:
    first = FirstRows(source, 3)
    assert (len(first), len(FirstRows(source, COUNT + 1))) == (3, COUNT)
    assert [dict(row) for _, row in first.read_range(1, 99) if not isinstance(row, UsageError)] == make_rows()[1:3]
    assert first.digest != source.digest


def test_empty_lines_are_skipped_but_counted_in_line_numbers(tmp_path: Path) -> None:
    lines = [json.dumps(row) for row in make_rows(INDEX_STRIDE + 2)]
    (tmp_path / "p.jsonl").write_text("\n" + "\n\n".join(lines) + "\n")
    source = open_source(str(tmp_path / "p.jsonl"))
    assert len(source) == INDEX_STRIDE + 2
    ((where, row),) = source.read_range(INDEX_STRIDE, INDEX_STRIDE + 1)
    assert (where, row) == (
        f"p.jsonl, line {2 * INDEX_STRIDE + 2}",
        {"prompt": f"Question {INDEX_STRIDE}?", "id": INDEX_STRIDE},
    )


def test_invalid_line_is_reported_in_place_and_the_others_are_read(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n{"prompt": \n[1]\n{"prompt": "b"}\n')
    rows = [row for _, row in open_source(str(tmp_path / "p.jsonl")).read_range(0, 9)]
    assert rows[0] == {"prompt": "a"}
    assert "p.jsonl, line 2: not JSON" in str(rows[1])
    assert str(rows[2]).startswith("p.jsonl, line 3: expected a JSON object, got list")
    assert rows[3] == {"prompt": "b"}


def test_digest_changes_with_the_content(tmp_path: Path) -> None:
    digests = set()
    for number in (1, 2, 2):
        write_table(tmp_path / "p.jsonl", make_rows(number))
        digests.add(open_source(str(tmp_path / "p.jsonl")).digest)
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("p.xlsx", r"p.xlsx: no such file or folder; expected a .jsonl, .json, .csv, .tsv or .parquet file, .*hub:"),
        ("none.csv", "none.csv: cannot be read: No such file"),
        ("none.jsonl", "none.jsonl: cannot be read: No such file"),
        ("none.parquet", "none.parquet: cannot be read: No such file"),
        ("text.parquet", "not a Parquet file"),
        ("empty.jsonl", "has no rows"),
    ],
)
def test_invalid_source_raises_a_one_line_error(name: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("words")
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(UsageError, match=complaint):
        open_source(str(tmp_path / name))


def test_missing_data_set_raises_a_one_line_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"hub:.*nothing: cannot be loaded: ") as error:
        open_source(f"hub:{tmp_path}/nothing")
    assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match="expected hub:OWNER/NAME"):
        open_source("hub:@train")


def test_media_of_a_data_set_are_not_decoded_and_a_bad_one_costs_only_its_row(tmp_path: Path) -> None:
    from datasets import Dataset, Features, Image, List, Value

    good = picture(noise(6, 8))
    files = [good, b"no picture", good]
    features = Features({"prompt": Value("string"), "image": Image(), "nested": [{"images": List(Image())}]})
    rows = [{"prompt": f"q{n}", "image": {"bytes": file, "path": None}, "nested": []} for n, file in enumerate(files)]
    rows[0]["nested"] = [{"images": [{"bytes": files[1], "path": None}]}]
    (tmp_path / "data").mkdir()
    Dataset.from_list(rows, features=features).to_parquet(tmp_path / "data" / "train.parquet")
    source = open_source(f"hub:{tmp_path / 'data'}")
    first = next(row for _, row in source.read_range(0, 9))
    assert isinstance(first, dict)
    assert first["image"] == {"bytes": files[0], "path": None}
    assert first["nested"] == [{"images": [{"bytes": files[1], "path": None}]}]
    prompts = list(read_prompts(source, 0, 9, PromptColumns()))
    assert [type(prompt) for prompt in prompts] == [PromptRow, MediaError, PromptRow]
    assert "row 2, field 'image'" in str(prompts[1])
    assert source.digest == HubDataset.open(source.name).table._fingerprint
    assert source.table[2]["image"].size == (8, 6)  # trainers still get pictures


def test_bad_text_of_a_data_set_costs_only_its_row(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "note": "x"}, {"prompt": BAD_TEXT, "note": "x"}, {"prompt": "c", "note": BAD_TEXT}]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.parquet").write_bytes(format_parquet(rows))
    source = open_source(f"hub:{tmp_path / 'data'}")
    first, second, third = read_prompts(source, 0, 9, PromptColumns())
    assert isinstance(first, PromptRow)
    assert isinstance(third, PromptRow)
    assert str(second).endswith("data, row 2, field 'prompt': cannot be read: not UTF-8 text: byte 2 is invalid")


def test_ranges_of_compressed_files_are_read_in_any_order(tmp_path: Path) -> None:
    lines = "\n".join(json.dumps(row) for row in make_rows())
    (tmp_path / "p.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    source = open_source(str(tmp_path / "p.jsonl.gz"))
    starts = [*range(0, COUNT, 10), 7, 100, 3]
    with ThreadPoolExecutor(4) as pool:
        for start, rows in zip(starts, pool.map(lambda s: list(source.read_range(s, s + 10)), starts), strict=True):
            assert [row for _, row in rows] == make_rows()[start : start + 10]
    with pytest.raises(StopIteration):
        next(source.read_range(COUNT, COUNT + 1))


def test_embedded_task_is_a_source_with_answers() -> None:
    source: Source = ArithmeticSource(30, seed=1)
    assert len(source) == 30
    ((where, row),) = source.read_range(29, 30)
    assert where == "arithmetic, question 30"
    assert isinstance(row, dict)
    assert row["prompt"][0]["content"].startswith("What") or "has" in row["prompt"][0]["content"]
    assert isinstance(row["answer"], int)
    assert source.digest != ArithmeticSource(30, seed=2).digest


def write_splits(folder: Path) -> None:
    for split, count in {"train": 3, "test": 2}.items():
        write_table(folder / f"{split}-00000-of-00001.parquet", make_rows(count))


def test_folder_of_files_is_one_source(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for n in range(3):
        write_table(tmp_path / "sub" / f"part-{n}.jsonl", make_rows(COUNT)[n::3])
    (tmp_path / "sub" / "notes.txt").write_text("no rows")
    joined: Source = pickle.loads(pickle.dumps(open_source(str(tmp_path))))
    expected = [row for n in range(3) for row in make_rows(COUNT)[n::3]]
    assert len(joined) == COUNT
    for start, stop in ((0, COUNT), (60, 140), (COUNT - 1, COUNT + 5), (5, 5)):
        rows = list(joined.read_range(start, stop))
        assert [row for _, row in rows] == expected[start:stop]
    assert next(where for where, _ in joined.read_range(COUNT - 1, COUNT)).startswith("sub/part-2.jsonl, line ")
    digest = joined.digest
    (tmp_path / "sub" / "part-2.jsonl").rename(tmp_path / "sub" / "part-3.jsonl")
    assert open_source(str(tmp_path)).digest != digest


def test_split_of_a_folder_has_to_be_named(tmp_path: Path) -> None:
    write_splits(tmp_path)
    with pytest.raises(UsageError, match=r"has the splits test, train; choose one, such as .*@test"):
        open_source(str(tmp_path))
    assert len(open_source(f"{tmp_path}@train")) == 3
    with pytest.raises(UsageError, match="@dev: the folder has no such split; there are test, train"):
        open_source(f"{tmp_path}@dev")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "has no file of rows; expected files that end in"),
        (["README.md"], "has no file of rows; expected files that end in"),
        (["a.csv", "b.jsonl"], "has tables of several formats, such as a.csv and b.jsonl; name one file"),
    ],
)
def test_folder_without_clear_rows_is_an_error(files: list[str], message: str, tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).write_text("a\n")
    with pytest.raises(UsageError, match=message):
        open_source(str(tmp_path))


def test_saved_dataset_is_read_with_its_splits(tmp_path: Path) -> None:
    import datasets

    table = datasets.Dataset.from_list(
        [{"prompt": f"Q{n}", "images": [Image.new("RGB", (9, 9), (n, 0, 0))]} for n in range(70)]
    )
    table = table.cast_column("images", datasets.List(datasets.Image()))
    table.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=table, test=table.select([1])).save_to_disk(tmp_path / "two")
    one: Source = pickle.loads(pickle.dumps(open_source(str(tmp_path / "one"))))
    assert len(one) == 70
    (row,) = read_prompts(one, 69, 70, PromptColumns())
    assert isinstance(row, PromptRow)
    assert row.prompt[0].content[0].modality == "image"  # type: ignore[union-attr]
    with pytest.raises(UsageError, match="has the splits train, test; choose one, such as"):
        open_source(str(tmp_path / "two"))
    with pytest.raises(UsageError, match="has no split 'dev'; there are train, test"):
        open_source(f"{tmp_path / 'two'}@dev")
    assert len(open_source(f"{tmp_path / 'two'}@test")) == 1
    assert len(open_source(f"hub:{tmp_path / 'two'}@test")) == 1
    assert open_source(f"{tmp_path / 'two'}@test").digest != one.digest


@pytest.mark.parametrize("environment", [{"HF_ENDPOINT": "http://127.0.0.1:1"}, {"HF_HUB_OFFLINE": "1"}])
def test_hub_that_cannot_be_reached_is_one_line(environment: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "flex_judge.experiments.cli", "judge", "hub:nobody/nothing"]
    variables = {**os.environ, "HF_HOME": str(tmp_path), **environment}
    run = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 2
    # A slow start says so before.
    lines = [line for line in run.stderr.splitlines() if not line.startswith("flex-judge: loading libraries")]
    assert len(lines) == 1, run.stderr
    assert lines[0].startswith("flex-judge: error: hub:nobody/nothing: cannot be loaded: ")
