"""Files of comparisons, JSON lines or Parquet: all rows are validated before anything is judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from flex_judge.judges import Message, UsageError
from flex_judge.judges.errors import MediaError
from flex_judge.judges.io.files import ComparisonFileRow, InvalidRow, read_comparisons, read_table, write_table
from flex_judge.judges.media.opening import make_image
from flex_judge.judges.media.types import Media
from flex_judge.judges.types import split_content

PAIR: dict[str, Any] = {"prompt": "What is 2 + 3?", "responses": ["5", "6"]}


def write_file(path: Path, *rows: Any) -> Path:
    """Write rows to a file, in the format of its suffix."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(params=["c.jsonl", "c.parquet"])
def path(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(request.param)


@pytest.fixture
def jsonl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path("c.jsonl")


def read_error(path: Path, rubric: str = "general") -> str:
    with pytest.raises(UsageError) as e:
        read_comparisons(path, rubric)
    assert "\n" not in str(e.value)
    return str(e.value)


def test_rows_keep_their_order_and_have_ids_or_row_numbers(path: Path) -> None:
    rows = read_comparisons(write_file(path, {**PAIR, "id": "z"}, PAIR, {**PAIR, "id": "a"}))
    assert [row.id for row in rows] == ["z", "2", "a"]
    assert [row.where for row in rows] == [f"{path}, row {n}" for n in (1, 2, 3)]
    comparison = rows[1].load_comparison()
    assert (comparison.id, comparison.prompt) == ("2", (Message("user", "What is 2 + 3?"),))
    assert comparison.responses == ("5", "6")


def test_integer_is_a_valid_id(path: Path) -> None:
    assert [row.id for row in read_comparisons(write_file(path, {**PAIR, "id": 7}, {**PAIR, "id": 3}))] == ["7", "3"]


def test_prompts_and_responses_may_be_messages(path: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    row = {"prompt": turns, "responses": [turns[1:], turns[1:]]}
    comparison = read_comparisons(write_file(path, row))[0].load_comparison()
    assert comparison.prompt == (Message("user", "Hi"), Message("assistant", "Hello"))
    assert comparison.responses == ("Hello", "Hello")


def test_rows_without_rubric_use_the_runs_rubric(path: Path) -> None:
    rows = read_comparisons(write_file(path, {**PAIR, "rubric": "vl_rewardbench"}, PAIR), "pandalm")
    assert [row.load_comparison().rubric for row in rows] == ["vl_rewardbench", "pandalm"]


def test_null_fields_count_as_missing(path: Path) -> None:
    rows = read_comparisons(write_file(path, {**PAIR, "id": None, "rubric": None, "images": None}, {**PAIR, "id": "b"}))
    assert [(row.id, row.rubric) for row in rows] == [("1", "general"), ("b", "general")]
    assert rows[0].load_comparison().responses == ("5", "6")


def test_unknown_columns_are_ignored(path: Path) -> None:
    row = {**PAIR, "uid": "x", "idx": 3, "prompt_id": 4, "source": "web", "image_size": [3, 4]}
    assert read_comparisons(write_file(path, row))[0].id == "1"


def test_media_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    Image.new("RGB", (40, 30), "red").save("data/red.png")
    part = {"type": "image", "image": "red.png"}
    rows = [
        {**PAIR, "images": ["red.png"]},
        {**PAIR, "images": [str(tmp_path / "data" / "red.png")]},
        {**PAIR, "images": [{"bytes": None, "path": "red.png"}]},
        {"prompt": [{"role": "user", "content": [part, {"type": "text", "text": "What?"}]}], "responses": ["a", "b"]},
    ]
    for row in read_comparisons(write_file(Path("data/c.jsonl"), *rows)):
        medium = split_content(row.load_comparison().prompt[0].content)[0]
        assert isinstance(medium, Media)
        assert medium.digest == make_image("data/red.png").digest
    in_response = {"prompt": "Draw.", "responses": [[part], "no"]}
    comparison = read_comparisons(write_file(Path("data/d.jsonl"), in_response))[0].load_comparison()
    assert isinstance(split_content(comparison.responses[0])[0], Media)


def test_parquet_file_may_hold_images_as_bytes(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")
    stored = {"bytes": (tmp_path / "red.png").read_bytes(), "path": "elsewhere.png"}
    row = read_comparisons(write_file(tmp_path / "c.parquet", {**PAIR, "images": [stored]}))[0]
    assert isinstance(split_content(row.load_comparison().prompt[0].content)[0], Media)


def test_media_are_loaded_lazily_and_errors_name_the_row(jsonl: Path) -> None:
    Path("broken.png").write_bytes(b"no image")
    rows = read_comparisons(
        write_file(jsonl, PAIR, {**PAIR, "images": ["broken.png"]}, {**PAIR, "images": ["gone.png"]})
    )
    with pytest.raises(
        MediaError,
        match=r"^c\.jsonl, row 2, field 'images\[0\]': broken\.png: cannot be read as image: unknown format$",
    ):
        rows[1].load_comparison()
    with pytest.raises(
        MediaError, match=r"^c\.jsonl, row 3, field 'images\[0\]': gone\.png: cannot be read: No such file"
    ):
        rows[2].load_comparison()


def test_too_few_images_are_reported_with_the_row(jsonl: Path) -> None:
    row = {**PAIR, "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "image"}]}], "images": []}
    with pytest.raises(
        UsageError, match=r"^c\.jsonl, row 1, field 'prompt\[0\].content\[0\]': more parts of type 'image' than images"
    ):
        read_comparisons(write_file(jsonl, row))[0].load_comparison()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": None}, "c.jsonl, row 2: field 'prompt' is missing"),
        ({"responses": None}, "c.jsonl, row 2: field 'responses' is missing"),
        ({"prompt": 3}, "c.jsonl, row 2, field 'prompt': expected text or a list of messages, got 3"),
        ({"prompt": []}, "c.jsonl, row 2, field 'prompt': expected text or a list of messages, got an empty list"),
        ({"prompt": [{"role": "user"}]}, "row 2, field 'prompt[0].content': is missing; expected text or a list"),
        ({"responses": "5"}, "row 2, field 'responses': expected a list of one or more texts or messages, got '5'"),
        ({"responses": []}, "row 2, field 'responses': expected a list of one or more texts or messages, got []"),
        ({"responses": ["5", 6]}, "row 2, field 'responses[1]': expected text or a list of parts, got 6"),
        (
            {"responses": ["5", [{"type": "gif"}]]},
            "row 2, field 'responses[1][0]': expected a part with a type of 'text'",
        ),
        ({"image": "a.png", "images": ["b.png"]}, "row 2, field 'image': differs from 'images', which has images too"),
        ({"view": "last"}, "row 2, field 'view': expected one of full, final, got 'last'"),
        ({"tools": 3}, "row 2, field 'tools': expected a list of tool definitions, got 3"),
        ({"rubric": 3}, "row 2, field 'rubric': expected the name of a rubric, got 3"),
        ({"rubric": "pandalmm"}, "row 2, field 'rubric': rubric 'pandalmm' does not exist (did you mean 'pandalm'?)"),
        ({"rubric": "pandalm", "responses": ["5"]}, "row 2, field 'rubric': rubric 'pandalm' is made for 2 responses"),
        ({"id": True}, "row 2, field 'id': expected a text or a whole number, got True"),
        ({"id": 1.5}, "row 2, field 'id': expected a text or a whole number, got 1.5"),
        ({"id": ""}, "row 2, field 'id': expected a text or a whole number, got ''"),
        (
            {"id": "b\ud83d"},
            r"row 2, field 'id': expected a text without lone surrogates, got 'b\ud83d'",
        ),
        ({"id": "a"}, "c.jsonl, row 2, field 'id': 'a' is also the id of c.jsonl, row 1"),
        ({"imgaes": "a.png"}, "c.jsonl, row 2: unknown field 'imgaes'; did you mean 'images'?"),
        ({"Rubric": "general"}, "c.jsonl, row 2: unknown field 'Rubric'; did you mean 'rubric'?"),
        ({"ID": "x"}, "c.jsonl, row 2: unknown field 'ID'; did you mean 'id'?"),
        ({"prompts": "Hi", "prompt": None}, "c.jsonl, row 2: unknown field 'prompts'; did you mean 'prompt'?"),
        ({"response": ["a"], "responses": None}, "c.jsonl, row 2: unknown field 'response'; did you mean 'responses'?"),
    ],
)
def test_invalid_row_is_reported_with_file_row_and_field(change: dict[str, Any], message: str, jsonl: Path) -> None:
    rows = read_comparisons(write_file(jsonl, {**PAIR, "id": "a"}, {**PAIR, **change}, PAIR))
    assert [type(row) for row in rows] == [ComparisonFileRow, InvalidRow, ComparisonFileRow]
    assert len({row.id for row in rows}) == 3
    with pytest.raises(UsageError) as e:
        rows[1].load_comparison()
    assert message in str(e.value)


def test_invalid_value_is_abbreviated_in_the_error(jsonl: Path) -> None:
    assert len(read_error(write_file(jsonl, {**PAIR, "responses": {"long": "x" * 5000}}))) < 200


def test_invalid_run_rubric_is_not_blamed_on_the_first_row(jsonl: Path) -> None:
    assert read_error(write_file(jsonl, PAIR), "generall").startswith(
        "rubric 'generall' does not exist (did you mean 'gen"
    )


def test_user_rubric_is_reloaded_for_every_file(jsonl: Path) -> None:
    Path("mine.toml").write_text('criteria = "brevity"\nscale = "1-5"\n')
    assert read_comparisons(write_file(jsonl, PAIR), "mine.toml")[0].rubric == "mine.toml"
    Path("mine.toml").write_text('criteria = "brevity"\nscale = "5-1"\n')
    assert read_error(jsonl, "mine.toml").startswith("mine.toml: field 'scale'")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.jsonl", None, "c.jsonl: cannot be read: No such file or directory"),
        ("c.parquet", None, "c.parquet: cannot be read: No such file or directory"),
        ("c.jsonl", b"", "c.jsonl: has no rows"),
        ("c.jsonl", b"\n\n", "c.jsonl: has no rows"),
        ("c.parquet", b"", "c.parquet: not a Parquet file"),
        ("c.parquet", b"PAR1 no, PAR1", "c.parquet: not a Parquet file"),
        ("c.xlsx", b"a,b\n", "c.xlsx: expected a file that ends in .jsonl, .json, .csv, .tsv or .parquet"),
        ("c.csv", b"a,b\n", "c.csv: has no rows"),
        ("c.parquet.gz", b"", "c.parquet.gz: expected a file that ends in .jsonl, .json, .csv, .tsv or .parquet"),
        ("c.json", b"[]", "c.json: has no rows"),
        ("c.json", b"", "c.json: has no rows"),
        ("c.json", b"5", "c.json: expected a list of rows, got int"),
        ("c.json", b"[5]", "c.json, row 1: expected a JSON object, got int"),
        ("c.jsonl", b'\n{"prompt": "a",\n', "c.jsonl, line 2: not JSON"),
        ("c.jsonl", b"[]\n", "c.jsonl, line 1: expected a JSON object, got list"),
        ("c.jsonl", b"\xff\xfe\n", "c.jsonl, line 1: not JSON"),
    ],
)
def test_invalid_file_is_reported_by_name(
    name: str, content: bytes | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path(name).write_bytes(content)
    assert message in read_error(Path(name))


def test_folder_is_rejected(path: Path) -> None:
    path.mkdir()
    assert f"{path}: cannot be read: Is a directory" in read_error(path)


def test_parquet_file_without_rows_is_rejected(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), tmp_path / "c.parquet")
    assert "has no rows" in read_error(tmp_path / "c.parquet")


def test_tables_round_trip(path: Path) -> None:
    rows = [{"id": "a", "scores": [1.0, 2.5], "votes": [{"order": [0, 1], "choice": None}]}, {"id": "b ü\n"}]
    write_table(path, rows)
    rows_read = [{k: v for k, v in row.items() if v is not None} for _, row in read_table(path)]
    assert rows_read == rows
    write_table(path, rows[:1])
    assert len(list(read_table(path))) == 1
    assert [p.name for p in Path().iterdir()] == [path.name]


BROKEN = "broken \ud83d emoji \udc00"


def test_lone_surrogates_are_escaped_in_parquet(tmp_path: Path) -> None:
    path = tmp_path / "o.parquet"
    votes = [{"reasoning": BROKEN, "order": [0, 1], "parts": (BROKEN, None)}]
    write_table(path, [{"id": "a", "reasoning": BROKEN, "votes": votes}, {"id": "b", "reasoning": "fine 🙂"}])
    (_, first), (_, second) = read_table(path)
    escaped = r"broken \ud83d emoji \udc00"
    assert first["reasoning"] == first["votes"][0]["reasoning"] == escaped
    assert second == {"id": "b", "reasoning": "fine 🙂", "votes": None}


def test_lone_surrogates_round_trip_through_json_lines(tmp_path: Path) -> None:
    write_table(tmp_path / "o.jsonl", [{"id": "a", "reasoning": BROKEN}])
    assert [row for _, row in read_table(tmp_path / "o.jsonl")] == [{"id": "a", "reasoning": BROKEN}]


@pytest.mark.parametrize("half", ["\ud83d", "🙂\ud83d"])
def test_lone_surrogates_are_allowed_in_texts_but_not_in_ids(half: str, jsonl: Path) -> None:
    rows = read_comparisons(write_file(jsonl, {"prompt": half, "responses": [half, "5"]}))
    assert rows[0].load_comparison().responses == (half, "5")
    assert "field 'id'" in read_error(write_file(jsonl, {**PAIR, "id": f"a{half}"}))


def test_id_may_contain_a_complete_surrogate_pair(jsonl: Path) -> None:
    assert read_comparisons(write_file(jsonl, {**PAIR, "id": "a🙂"}))[0].id == "a🙂"
