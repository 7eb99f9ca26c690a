"""Training rows with tools: calls, results and definitions of tools, names and reasoning in the messages.

TRL passes messages to the chat template of the policy. A template leaves out fields that it does not know, without a
word. Rows are therefore checked with the template first, and are written as text if it would lose something.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flex_judge.alignment.data.rows import ANSWER_COLUMNS, PromptRow
from flex_judge.alignment.preferences.prompt_columns import (
    MediaOptions,
    has_images,
    has_molecules,
    make_answer,
    make_prompt_columns,
)
from flex_judge.judges.conversations.columns import PROMPT_COLUMNS, TOOLS_COLUMN, read_row_prompt
from flex_judge.judges.conversations.openai import response_to_messages
from flex_judge.judges.conversations.parts import MARKS
from flex_judge.judges.conversations.reader import MESSAGE_FIELDS, ConversationReader
from flex_judge.judges.conversations.values import is_empty
from flex_judge.judges.errors import UsageError
from flex_judge.judges.media.paths import make_folder_opener
from flex_judge.judges.media.types import Modality
from flex_judge.judges.models.checkpoints import open_checkpoint
from flex_judge.judges.types import Response, Trajectory

if TYPE_CHECKING:
    from flex_judge.alignment.policy_training.data import PolicyTrainingData

_TRL_COLUMNS = ("images", "image", "molecules")
_FURTHER_FIELDS = frozenset(MESSAGE_FIELDS) - {"role", "content"}
Row = Mapping[str, Any]
ToolRow = tuple[PromptRow, dict[str, Response]]
"""A prompt, and the answer of each answer column."""


def needs_reading(row: Row) -> bool:
    """Return whether TRL would lose or misread a part of a row that has lists of messages.

    These are tools, further fields of messages, messages without content, marks of images, and media
    that TRL does not take.
    """
    if any(not is_empty(row.get(name)) for name in PROMPT_COLUMNS if name not in _TRL_COLUMNS):
        return True
    messages = [message for name in ("prompt", *ANSWER_COLUMNS) for message in row.get(name) or ()]
    has_row_images = not is_empty(row.get("images")) or not is_empty(row.get("image"))
    return any(
        message.get("content") is None
        or any(name in _FURTHER_FIELDS and not is_empty(value) for name, value in message.items())
        or (has_row_images and MARKS[Modality.IMAGE].search(str(message["content"])))
        for message in messages
    )


def read_tool_rows(rows: Any, name: str) -> Any:
    """Read preference rows in any form of messages, and write them in the form of chat templates.

    Args:
        rows: Data set (`datasets.Dataset`) whose prompts and answers are lists of messages; images as files.
        name: Name of the data, for messages.

    Raises:
        UsageError: A row has an unknown form.
    """
    return _replace_columns(rows, list(_read_rows(rows, name)), rows.column_names)


def write_tools_for_policy(data: PolicyTrainingData, policy: str, trainer_takes_tools: bool) -> PolicyTrainingData:
    """Write the tools of rows as text where the policy's chat template or the trainer would leave them out.

    Args:
        data: Training data; rows without tools are unchanged.
        policy: Policy to be trained.
        trainer_takes_tools: Whether the trainer reads definitions of tools from the column `tools`.
    """
    # Imported here, because only rows with tools need the renderer and its models.
    from flex_judge.judges.protocol.chats import (
        find_template_problem,
        write_conversation_as_text,
        write_tools_as_text,
    )
    from flex_judge.judges.protocol.rendering import Renderer

    if not has_tool_rows(data.rows):
        return data
    renderer = Renderer(open_checkpoint(policy).tokenizer)
    rows: list[ToolRow] = []
    problems: Counter[str] = Counter()
    for prompt, answers in _read_rows(data.rows, data.name):
        if not trainer_takes_tools and any(message.tools for message in prompt.prompt):
            problems["TRL's trainer takes no definitions of tools from data"] += 1
            prompt = replace(prompt, prompt=write_tools_as_text(prompt.prompt))
        parts = [response_to_messages(answer) for answer in answers.values()]
        conversations = [(*prompt.prompt, *part) for part in parts] or [prompt.prompt]
        problem = next(filter(None, (find_template_problem(renderer, messages) for messages in conversations)), "")
        if problem:
            problems[problem] += 1
            messages, *parts = write_conversation_as_text(renderer, prompt.prompt, *parts)
            prompt = replace(prompt, prompt=messages)
            answers = {name: Trajectory(part) for name, part in zip(answers, parts, strict=True)}
        rows.append((prompt, answers))
    notes = [f"{data.name}: {problem}; tools are text in {count} rows" for problem, count in problems.items()]
    converted = _replace_columns(data.rows, rows, data.rows.column_names) if problems else data.rows
    return replace(data, rows=converted, notes=(*data.notes, *notes))


def has_tool_rows(rows: Any) -> bool:
    """Return whether a data set has rows with tools, see `make_tool_dataset`."""
    from datasets import Json

    return isinstance(getattr(rows.features["prompt"], "feature", None), Json)


def make_tool_dataset(prompts: Sequence[PromptRow], answers: Sequence[Mapping[str, Response]] = ()) -> Any:
    """Make a data set (`datasets.Dataset`) of prompts and answers whose messages keep all their fields.

    Args:
        prompts: The prompts.
        answers: Answers of each prompt by column.

    Raises:
        UsageError: A prompt or an answer has media that the format cannot represent.
    """
    from datasets import Dataset, Features, Image, Json, List, Value

    options = MediaOptions(any(map(has_images, prompts)), any(map(has_molecules, prompts)))
    rows = [make_prompt_columns(prompt, options.images, options.molecules) for prompt in prompts]
    for row, prompt, answer in zip(rows, prompts, answers or [{}] * len(prompts), strict=True):
        row.update({name: make_answer(prompt, response, options) for name, response in answer.items()})
    types = {
        **{name: List(Json()) for name in ("prompt", *ANSWER_COLUMNS)},
        TOOLS_COLUMN: Value("string"),
        "images": List(Image()),
        "molecules": List(Value("string")),
    }
    features = {name: kind for name, kind in types.items() if any(name in row for row in rows)}
    columns = {name: [row.get(name) for row in rows] for name in features}
    return Dataset.from_dict(columns, features=Features(features))


def _replace_columns(rows: Any, converted: Sequence[ToolRow], names: Sequence[str]) -> Any:
    """Replace prompts and answers of a data set; other columns stay."""
    from datasets import concatenate_datasets

    new_columns = make_tool_dataset([prompt for prompt, _ in converted], [answers for _, answers in converted])
    old_columns = [name for name in names if name not in ("prompt", *ANSWER_COLUMNS, *PROMPT_COLUMNS)]
    return concatenate_datasets([new_columns, rows.select_columns(old_columns)], axis=1) if old_columns else new_columns


def _read_rows(rows: Any, name: str) -> Iterator[ToolRow]:
    reader = ConversationReader(make_folder_opener(Path()))
    answer_columns = [column for column in ANSWER_COLUMNS if column in rows.column_names]
    for number, row in enumerate(rows, 1):
        where = f"{name}, row {number}"
        try:
            prompt = read_row_prompt(reader, row)
            answers = {column: reader.read_response(row[column], field=column) for column in answer_columns}
        except UsageError as e:
            raise e.locate(where) from e
        yield PromptRow(str(row.get("id") or number), prompt, where=where), answers
