"""Column types of the formats, and conversion of rows to Parquet tables. Imports `datasets`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from datasets import Dataset, Features, Image, Json, List, Value

from flex_judge.alignment.data.image_uris import decode_data_uri
from flex_judge.alignment.preferences.formats import FORMATS

if TYPE_CHECKING:
    import pyarrow as pa

_PROVENANCE_TYPES = {
    "id": "string",
    "prompt_digest": "string",
    "rule": "string",
    "rubric": "string",
    "judge": "string",
    "policy": "string",
    "chosen_index": "int64",
    "rejected_index": "int64",
    "expected_score_chosen": "float64",
    "expected_score_rejected": "float64",
    "temperature_chosen": "float64",
    "temperature_rejected": "float64",
    "votes": "int64",
    "disagreement": "float64",
}


def make_features(format: str, images: bool = False, molecules: bool = False, tools: bool = False) -> Features:
    """Make the `datasets` features of a format's rows.

    Pass them to `load_dataset("json", features=...)` where types cannot be inferred, such as expected scores that are
    null in a whole file, or images.

    Args:
        format: A name in FORMATS.
        images: Whether the data set is for models that take images.
        molecules: Whether the data set is for models that take molecules.
        tools: Whether a row has tool calls, definitions of tools, names or reasoning.
    """
    FORMATS[format].check_media(images, molecules)
    part = {"type": Value("string"), "text": Value("string")}
    message = {"role": Value("string"), "content": List(part) if images else Value("string")}
    # Arguments differ from tool to tool; Json keeps the fields of each message as they are.
    messages = List(Json() if tools else message)
    format_columns: dict[str, dict[str, Any]] = {
        "preference": {"prompt": messages, "chosen": messages, "rejected": messages},
        "kto": {"prompt": messages, "completion": messages, "label": Value("bool")},
        "reward": {"chosen": messages, "rejected": messages},
        "image_pairs": {"prompt": messages, "chosen_image": Image(), "rejected_image": Image()},
    }
    return Features(
        {
            **format_columns[format],
            **({"images": List(Image())} if images else {}),
            **({"molecules": List(Value("string"))} if molecules else {}),
            **({"tools": Value("string")} if tools else {}),
            "score_chosen": Value("float64"),
            "score_rejected": Value("float64"),
            "score_margin" if format == "reward" else "margin": Value("float64"),
            "judge_reasoning": {"chosen": Value("string"), "rejected": Value("string")},
            "provenance": {name: Value(kind) for name, kind in _PROVENANCE_TYPES.items()},
        }
    )


def make_parquet_table(
    rows: Sequence[Mapping[str, Any]], format: str, images: bool = False, molecules: bool = False, tools: bool = False
) -> pa.Table:
    """Convert rows of a format to an Arrow table with image bytes.

    The table carries the features, so that `load_dataset` recognises them in a file written by
    `pyarrow.parquet.write_table`.

    Args:
        rows: Rows of the format.
        format: A name in FORMATS.
        images: Whether the data set is for models that take images.
        molecules: Whether the data set is for models that take molecules.
        tools: Whether a row of the data set has tool calls, definitions of tools, names or reasoning.
    """
    import pyarrow as pa

    # Explicit types: pyarrow would infer the type null for a column without values.
    features = make_features(format, images, molecules, tools)
    replaced = [_replace_data_uris(row) for row in rows]
    if tools:
        columns = {name: [row.get(name) for row in replaced] for name in features}
        return Dataset.from_dict(columns, features=features).data.table  # pyarrow cannot make the type Json
    return pa.Table.from_pylist(replaced, schema=features.arrow_schema)


def _replace_data_uris(row: Mapping[str, Any]) -> dict[str, Any]:
    """Replace data URIs by the structure that `datasets` uses to store an image."""
    replaced = dict(row)
    for name in ("chosen_image", "rejected_image"):
        if name in row:
            replaced[name] = _encode_image(row[name])
    if "images" in row:
        replaced["images"] = [_encode_image(uri) for uri in row["images"]]
    return replaced


def _encode_image(uri: str) -> dict[str, Any]:
    return {"bytes": decode_data_uri(uri), "path": None}
