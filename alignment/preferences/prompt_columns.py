"""Messages of prompts and answers in the columns of preference rows, see `formats`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flex_judge.alignment.data.image_uris import encode_data_uri
from flex_judge.alignment.data.rows import MOLECULE_MARK, PromptRow
from flex_judge.alignment.data.texts import replace_surrogates
from flex_judge.alignment.preferences.pairs import Pair
from flex_judge.judges.conversations.openai import message_to_template, response_to_messages, split_tools
from flex_judge.judges.errors import UsageError
from flex_judge.judges.media.types import Media, Modality
from flex_judge.judges.types import Content, Message, Response, Trajectory, content_to_text, split_content

JsonRow = dict[str, Any]


@dataclass(frozen=True)
class MediaOptions:
    """Media that the models of a data set take as input."""

    images: bool = False
    molecules: bool = False


def make_prompt_columns(row: PromptRow, images: bool = False, molecules: bool = False) -> JsonRow:
    """Make the columns of a prompt: `prompt`, `images` or `molecules` if requested, and `tools` if it has definitions.

    Raises:
        UsageError: The prompt has media that the format cannot represent.
    """
    options = MediaOptions(images, molecules)
    return {"prompt": make_messages(row, options), **make_input_columns(row, options)}


def has_images(row: PromptRow) -> bool:
    """Return whether a prompt has images."""
    return bool(_find_media(row.prompt, Modality.IMAGE))


def has_molecules(row: PromptRow) -> bool:
    """Return whether a prompt has molecules."""
    return bool(_find_media(row.prompt, Modality.MOLECULE))


def has_tools(pair: Pair) -> bool:
    """Return whether the messages of a pair have tools, calls, names or reasoning."""
    has_trajectory = any(isinstance(side.response, Trajectory) for side in (pair.chosen, pair.rejected))
    return has_trajectory or any(not message.is_plain for message in pair.row.prompt)


def make_messages(row: PromptRow, options: MediaOptions) -> list[JsonRow]:
    """Make the messages of a prompt, without definitions of tools."""
    messages, _ = split_tools(row.prompt)
    return [_make_message(row, message, options) for message in messages]


def make_answer(row: PromptRow, response: Response, options: MediaOptions) -> list[JsonRow]:
    """Make the messages of an answer.

    Raises:
        UsageError: The answer has media.
    """
    if any(isinstance(part, Media) and part.modality != Modality.MOLECULE for part in split_content(response)):
        raise UsageError(
            f"{locate_row(row)}: the answer {content_to_text(response)!r:.60} has media, which trainers of "
            "language models do not take; use the format 'image_pairs'"
        )
    return [_make_message(row, message, options) for message in response_to_messages(response)]


def _make_message(row: PromptRow, message: Message, options: MediaOptions) -> JsonRow:
    columns: JsonRow = message_to_template(message, _make_content(row, message.content, options))
    return columns if message.is_plain else _replace_all_surrogates(columns)


def make_tools_column(row: PromptRow) -> JsonRow:
    """Make the column `tools`, only for a prompt with definitions."""
    _, definitions = split_tools(row.prompt)
    text = json.dumps(_replace_all_surrogates(definitions), ensure_ascii=False)
    return {"tools": text} if definitions else {}


def _replace_all_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return replace_surrogates(value)
    if isinstance(value, Mapping):
        return {replace_surrogates(name): _replace_all_surrogates(item) for name, item in value.items()}
    return [_replace_all_surrogates(item) for item in value] if isinstance(value, list | tuple) else value


def _make_content(row: PromptRow, content: Content, options: MediaOptions) -> Any:
    """Make text, or a list of parts for models that take images."""
    parts = _flatten_parts(row, content, options.molecules)
    if options.images:
        # Every part has both fields: Arrow fills a missing field with null, which breaks chat templates.
        return [{"type": "image", "text": ""} if isinstance(p, Media) else {"type": "text", "text": p} for p in parts]
    if any(isinstance(part, Media) for part in parts):
        raise UsageError(f"{locate_row(row)}: has an image, but the data set is for text models; enable images")
    return "".join(str(part) for part in parts)


def _flatten_parts(row: PromptRow, content: Content, molecules: bool) -> list[str | Media]:
    """Reduce content to texts and images; adjacent texts are joined.

    Args:
        row: The prompt, for error messages.
        content: Content of a message or an answer.
        molecules: Whether a molecule becomes its placeholder; if not, its SMILES string, as the policy read it.
    """
    parts: list[str | Media] = []
    for part in split_content(content):
        if isinstance(part, Media) and part.modality == Modality.IMAGE:
            parts.append(part)
            continue
        if isinstance(part, str):
            text = replace_surrogates(part)
        elif part.modality == Modality.MOLECULE:
            text = MOLECULE_MARK if molecules else part.data.decode()
        else:
            raise UsageError(
                f"{locate_row(row)}: has a part of type {part.modality}, which TRL's formats cannot hold; "
                "leave the row out"
            )
        if parts and isinstance(parts[-1], str):
            parts[-1] += text
        else:
            parts.append(text)
    return parts


def make_input_columns(row: PromptRow, options: MediaOptions) -> JsonRow:
    """Make the columns of the prompt's media that `options` names, in order of their parts, and the column `tools`."""
    columns: JsonRow = {}
    if options.images:
        columns["images"] = [encode_data_uri(image) for image in _find_media(row.prompt, Modality.IMAGE)]
    if options.molecules:
        # A literal placeholder in the text would be counted as one more molecule by the trainer.
        if MOLECULE_MARK in "".join(content_to_text(message.content) for message in row.prompt):
            raise UsageError(
                f"{locate_row(row)}: has {MOLECULE_MARK} in its text, which stands for a molecule in the data set; "
                "remove it"
            )
        molecules = _find_media(row.prompt, Modality.MOLECULE)
        columns["molecules"] = [molecule.data.decode() for molecule in molecules]
    return columns | make_tools_column(row)


def _find_media(prompt: Sequence[Message], modality: Modality) -> list[Media]:
    parts = (part for message in prompt for part in split_content(message.content))
    return [part for part in parts if isinstance(part, Media) and part.modality == modality]


def locate_row(row: PromptRow) -> str:
    """Return the place of a row for messages."""
    return row.where or f"prompt {row.id!r}"
