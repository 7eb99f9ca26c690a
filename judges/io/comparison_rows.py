"""Comparisons as JSON values in rows of judgments, so that a judgment can be read without its input file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flex_judge.judges.conversations.openai import (
    describe_medium,
    message_to_openai,
    response_to_openai,
    split_tools,
)
from flex_judge.judges.media.types import Media, Modality
from flex_judge.judges.types import Comparison

MAX_CHARS = 16_000
"""Maximum length of the texts of a comparison in a row, as JSON; a longer one is only pointed to by `where`."""
COMPARISON = "comparison"
"""Field of a row with its comparison."""


def comparison_to_json(comparison: Comparison, where: str = "") -> dict[str, Any]:
    """Convert a comparison to JSON values for a row with its judgment.

    Args:
        comparison: what was judged.
        where: file and row that it comes from.

    Returns:
        `prompt`, `tools` and `responses` in OpenAI's format, with media as modality, digest and file name; left out if
        they are longer than `MAX_CHARS`. Then `rubric`, `digest` and `where`.
    """
    messages, tools = split_tools(comparison.prompt)
    texts: dict[str, Any] = {
        "prompt": [message_to_openai(message, _name_medium) for message in messages],
        **({"tools": list(tools)} if tools else {}),
        "responses": [response_to_openai(response, _name_medium) for response in comparison.responses],
    }
    return {**_drop_long(texts), "rubric": comparison.rubric, "digest": comparison.digest, "where": where}


def input_to_json(data: Mapping[str, Any], rubric: str, where: str = "") -> dict[str, Any]:
    """Convert a row of an input to the comparison of its judgment, without reading its media.

    Args:
        data: row with `prompt` and `responses`.
        rubric: rubric of the row.
        where: file and row.
    """
    texts = {name: data[name] for name in ("prompt", "responses") if name in data}
    return {**_drop_long(texts), "rubric": rubric, "where": where}


def read_comparison_json(row: Mapping[str, Any]) -> dict[str, Any]:
    """Read the comparison of a row with a judgment; empty for rows of earlier versions, which have none."""
    value = row.get(COMPARISON)
    if isinstance(value, str):  # Parquet holds JSON text, because the parts of messages have no common type.
        try:
            value = json.loads(value)
        except ValueError:
            return {}
    return dict(value) if isinstance(value, Mapping) else {}


def _drop_long(texts: dict[str, Any]) -> dict[str, Any]:
    """Return the texts of a comparison, or nothing if they are too long or not JSON, such as media as bytes."""
    try:
        return texts if len(json.dumps(texts, ensure_ascii=False)) <= MAX_CHARS else {}
    except (TypeError, ValueError):
        return {}


def _name_medium(medium: Media) -> dict[str, Any]:
    """Make a part that names a medium, with the file that it was read from or the SMILES of a molecule."""
    part = describe_medium(medium)
    if medium.modality == Modality.MOLECULE:
        return {**part, "smiles": medium.data.decode(errors="replace")}
    # Names of media that were in a row, such as data URIs, are no files.
    return {**part, "file": medium.name} if len(medium.name) < 1024 and Path(medium.name).is_file() else part
