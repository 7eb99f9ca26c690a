"""Training data of a policy (preference pairs or prompts), and selection of prompts that are not trained on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flex_judge.alignment.data.folders import disable_decoding
from flex_judge.alignment.data.prompts import PromptColumns, parse_prompt_row, read_prompts
from flex_judge.alignment.data.rows import ANSWER_COLUMNS, PromptRow
from flex_judge.alignment.data.sources import Source
from flex_judge.alignment.data.texts import compute_prompt_digest
from flex_judge.alignment.policy_training.preference_rows import read_preferences
from flex_judge.alignment.policy_training.tool_rows import (
    make_tool_dataset,
    needs_reading,
    read_tool_rows,
)
from flex_judge.alignment.preferences.prompt_columns import has_images, has_molecules, make_prompt_columns
from flex_judge.alignment.tasks import arithmetic
from flex_judge.judges.conversations.columns import PROMPT_COLUMNS
from flex_judge.judges.errors import UsageError, to_one_line
from flex_judge.judges.io.columns import NO_MAPPING, ColumnMapping
from flex_judge.judges.io.json_values import dump_json
from flex_judge.judges.io.jsonl import write_lines
from flex_judge.judges.models import strip_fingerprint

READ_AHEAD = 64
"""Number of rows that are read at a time in search of unseen prompts."""


@dataclass(frozen=True)
class PolicyTrainingData:
    """Rows that a policy is trained on."""

    name: str
    rows: Any
    """Data set (`datasets.Dataset`) in the format of TRL's trainers."""
    prompts: tuple[str, ...]
    """Prompt digest of every row."""
    digest: str
    """Digest of the content."""
    is_task: bool
    """Whether the prompts are questions of the embedded task."""
    made_by: Mapping[str, str] = field(default_factory=dict)
    """Origin of preference data; empty if unknown.

    The keys are `judge` (and `judge_adapter`) or `judge_url`, and `rubric`.
    """
    problems: tuple[str, ...] = ()
    """Messages about dropped rows."""
    notes: tuple[str, ...] = ()
    """Messages about rows that differ from the data, such as tools as text."""

    def exclude_prompts(self, prompts: Collection[str]) -> PolicyTrainingData:
        """Drop all rows whose prompt has one of the given digests."""
        indices = [i for i, digest in enumerate(self.prompts) if digest not in prompts]
        return replace(self, rows=self.rows.select(indices), prompts=tuple(self.prompts[i] for i in indices))

    def sample_rows(self, count: int, seed: int) -> list[int]:
        """Sample the indices of rows with distinct prompts; all prompts are equally likely."""
        first_rows: dict[str, int] = {}
        for i, digest in enumerate(self.prompts):
            first_rows.setdefault(digest, i)
        # Sorting by a hash keeps the order of the prompts when rows are added or removed.
        sort_hashes = {digest: hashlib.sha256(f"{seed}:{digest}".encode()).digest() for digest in first_rows}
        return sorted(first_rows[digest] for digest in sorted(first_rows, key=sort_hashes.__getitem__)[:count])

    def get_prompt(self, i: int) -> PromptRow:
        """Parse the prompt of a row."""
        return _parse_prompt(self.rows[i], self.name, i)


def load_preference_data(text: str, columns: ColumnMapping = NO_MAPPING) -> PolicyTrainingData:
    """Load preference data as conversations.

    Args:
        text: Folder of a `flex-judge preferences` run, another folder for `load_dataset`, or any source of rows (see
            `open_source`). Rows of a table that cannot be read are reported in `problems`.
        columns: Columns of the data that hold fields under other names.

    Raises:
        UsageError: The data does not exist, or a row is not in a preference format of TRL.
    """
    made_by: dict[str, str] = {}
    is_task = False
    if (Path(text) / "run.json").is_file() and (Path(text) / "data").is_dir():
        settings = json.loads((Path(text) / "run.json").read_text(encoding="utf-8"))["settings"]
        is_task, made_by = settings.get("source") == "arithmetic", _find_judge(settings)
        text = str(Path(text) / "data")
    loaded_rows, problems = read_preferences(text, columns)
    rows = convert_to_conversations(loaded_rows, text)
    if "provenance" in rows.column_names and (rows[0]["provenance"] or {}).get("rubric"):
        # All rows of a run have the same rubric.
        made_by["rubric"] = rows[0]["provenance"]["rubric"]
    names = [name for name in ("prompt", *PROMPT_COLUMNS, *ANSWER_COLUMNS) if name in rows.column_names]
    prompts, content, is_plain = [], hashlib.sha256(), True
    # The digest of a prompt is computed from image files; decoded images would give other digests.
    for i, row in enumerate(disable_decoding(rows.select_columns(names))):
        prompts.append(compute_prompt_digest(_parse_prompt(row, text, i).prompt))
        content.update(dump_json([prompts[-1], *(row[name] for name in ANSWER_COLUMNS)], ascii_only=True).encode())
        is_plain = is_plain and not needs_reading(row)
    if not is_plain:
        rows = read_tool_rows(disable_decoding(rows), text)
    return PolicyTrainingData(
        name=text,
        rows=rows,
        prompts=tuple(prompts),
        digest=content.hexdigest()[:16],
        is_task=is_task,
        made_by=made_by,
        problems=tuple(problems),
    )


def _find_judge(settings: Mapping[str, Any]) -> dict[str, str]:
    """Find the judge in the settings of a `flex-judge preferences` run."""
    judge = str(settings["judge"])
    if judge.startswith(("http://", "https://")):
        return {"judge_url": judge}
    models = {"judge": judge, "judge_adapter": settings.get("judge_adapter")}
    return {name: strip_fingerprint(model) for name, model in models.items() if model}


def load_prompt_data(source: Source, columns: PromptColumns) -> PolicyTrainingData:
    """Load the prompts that a policy answers during training. Bad rows are dropped and reported in `problems`.

    Raises:
        UsageError: No row has a valid prompt.
    """
    from datasets import Dataset, Image, List

    prompt_rows, problems = [], []
    for row in read_prompts(source, 0, len(source), columns):
        if isinstance(row, UsageError):
            problems.append(to_one_line(row))
        else:
            prompt_rows.append(row)
    if not prompt_rows:
        raise UsageError(problems[0])
    with_images = any(map(has_images, prompt_rows))
    if all(message.is_plain for row in prompt_rows for message in row.prompt):
        rows = Dataset.from_list([{"id": row.id, **make_prompt_columns(row, with_images)} for row in prompt_rows])
        rows = rows.cast_column("images", List(Image())) if with_images else rows
    else:
        rows = make_tool_dataset(prompt_rows).add_column("id", [row.id for row in prompt_rows])
    prompts = tuple(compute_prompt_digest(row.prompt) for row in prompt_rows)
    is_task = isinstance(source, arithmetic.ArithmeticSource)
    return PolicyTrainingData(
        name=source.name,
        rows=rows,
        prompts=prompts,
        digest=source.digest,
        is_task=is_task,
        problems=tuple(problems),
    )


def select_unseen_prompts(
    source: Source, columns: PromptColumns, trained: Collection[str], count: int
) -> list[PromptRow]:
    """Select the first distinct prompts of a source that are not trained on.

    Args:
        source: Source of the prompts.
        columns: Mapping of the source's columns.
        trained: Digests of the prompts that are trained on.
        count: Maximum number of prompts.

    Raises:
        UsageError: A row has no valid prompt, or every prompt is trained on.
    """
    unseen: dict[str, PromptRow] = {}
    for row in _iter_prompt_rows(source, columns):
        if len(unseen) == count:
            break
        digest = compute_prompt_digest(row.prompt)
        if digest not in trained:
            unseen.setdefault(digest, row)
    if not unseen:
        raise UsageError(f"{source.name}: every prompt is also trained on; none is left for the evaluation")
    rows = list(unseen.values())
    # Results before and after training are matched by id.
    if len({row.id for row in rows}) < len(rows):
        return [replace(row, id=f"{row.id}#{n}") for n, row in enumerate(rows, 1)]
    return rows


def write_prompts(path: Path, rows: Sequence[PromptRow]) -> None:
    """Write prompts to a JSON lines file that `flex-judge best-of-n` reads."""
    lines = []
    for row in rows:
        columns = make_prompt_columns(row, has_images(row), has_molecules(row))
        lines.append({"id": row.id, **columns, **row.kept})
    write_lines(path, lines)


def _iter_prompt_rows(source: Source, columns: PromptColumns) -> Iterator[PromptRow]:
    for start in range(0, len(source), READ_AHEAD):
        for row in read_prompts(source, start, start + READ_AHEAD, columns):
            if isinstance(row, UsageError):
                raise row
            yield row


def _parse_prompt(row: dict[str, Any], name: str, i: int) -> PromptRow:
    columns = {column: row[column] for column in ("prompt", *PROMPT_COLUMNS) if row.get(column) is not None}
    return parse_prompt_row(columns, f"{name}, row {i + 1}", i + 1, PromptColumns(), Path())


Row = Mapping[str, Any]


def convert_to_conversations(rows: Any, name: str) -> Any:
    """Convert preference rows to conversations: prompt and answers as lists of messages.

    Plain text becomes a user or assistant message. TRL would show plain text to the model without its chat template,
    which is not how a policy is used. If the answers include the prompt, it is extracted.

    Args:
        rows: Data set (`datasets.Dataset`) with columns `chosen` and `rejected`, and usually `prompt`.
        name: Name of the data, for messages.

    Raises:
        UsageError: A row has another format.
    """
    first = rows[0]
    # Data sets of TRL are uniform, so the first row shows the format of all rows.
    if all(_is_message_list(first.get(part)) for part in ("prompt", "chosen", "rejected")):
        return rows
    has_prompt_inside = _is_message_list(first["chosen"]) and any(m["role"] == "user" for m in first["chosen"])
    if has_prompt_inside or "prompt" not in rows.column_names:
        from trl import extract_prompt

        if not has_prompt_inside:
            raise UsageError(f"{name}: column 'prompt' is missing, and the answers do not include a prompt")
        return rows.map(extract_prompt)
    return rows.map(lambda row, i: _convert_row(row, f"{name}, row {i + 1}"), with_indices=True)


def _convert_row(row: Row, where: str) -> dict[str, Any]:
    roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
    return {part: _convert_messages(row[part], role, f"{where}, field {part!r}") for part, role in roles.items()}


def _convert_messages(content: Any, role: str, where: str) -> Any:
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    if _is_message_list(content):
        return content
    raise UsageError(f"{where}: expected text or a list of messages, got {type(content).__name__}")


def _is_message_list(content: Any) -> bool:
    return isinstance(content, list) and all(isinstance(m, Mapping) and "role" in m for m in content)
