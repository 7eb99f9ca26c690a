"""What a policy is trained on, and the prompts that are kept apart to measure it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flex_judge.alignment.data.folders import load_split
from flex_judge.alignment.data.prompts import MOLECULES, PromptColumns, parse_prompt_row, read_prompts
from flex_judge.alignment.data.rows import PromptRow
from flex_judge.alignment.data.sources import HUB, HubDataset, Source
from flex_judge.alignment.data.texts import compute_prompt_digest
from flex_judge.alignment.preferences.formats import has_images, has_molecules, make_prompt_columns
from flex_judge.alignment.tasks import arithmetic
from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.jsonl import write_lines
from flex_judge.judges.models import strip_fingerprint

PROMPT_COLUMNS = ("prompt", "images", "image", MOLECULES)
"""Columns that a prompt is in."""
ANSWER_COLUMNS = ("chosen", "rejected")
READ_AHEAD = 64
"""Rows read at a time in search of held-out prompts."""


@dataclass(frozen=True)
class PolicyTrainingData:
    """What is trained on."""

    name: str
    rows: Any
    """A `datasets.Dataset` as TRL's trainers take it."""
    prompts: tuple[str, ...]
    """Of every row, the digest of its prompt."""
    digest: str
    """Changes with what was read."""
    is_task: bool
    """Whether the prompts are questions of the embedded task."""
    made_by: Mapping[str, str] = field(default_factory=dict)
    """What is known of the judge that made the data: `judge` (with `judge_adapter`) or `judge_url`, and `rubric`."""
    problems: tuple[str, ...] = ()
    """What was wrong with rows that are left out."""

    def exclude_prompts(self, prompts: Collection[str]) -> PolicyTrainingData:
        """The same without all rows of prompts with these digests."""
        kept = [i for i, digest in enumerate(self.prompts) if digest not in prompts]
        return replace(self, rows=self.rows.select(kept), prompts=tuple(self.prompts[i] for i in kept))

    def sample_rows(self, count: int, seed: int) -> list[int]:
        """Numbers of rows with different prompts, drawn by lot from all prompts."""
        first: dict[str, int] = {}
        for i, digest in enumerate(self.prompts):
            first.setdefault(digest, i)
        lots = {digest: hashlib.sha256(f"{seed}:{digest}".encode()).digest() for digest in first}
        return sorted(first[digest] for digest in sorted(first, key=lots.__getitem__)[:count])

    def get_prompt(self, i: int) -> PromptRow:
        """The prompt of a row."""
        return _parse_prompt(self.rows[i], self.name, i)


def load_preference_data(text: str) -> PolicyTrainingData:
    """Preference data, as conversations: text without roles is what a user says, and an assistant.

    Args:
        text: the folder of a `flex-judge preferences` run, another folder that `load_dataset` takes, a .jsonl or
            .parquet file, or `hub:OWNER/NAME[:CONFIG][@SPLIT]`.

    Raises:
        UsageError: there is none, or a row is no preference of TRL's.
    """
    made_by: dict[str, str] = {}
    is_task = False
    if (Path(text) / "run.json").is_file() and (Path(text) / "data").is_dir():
        settings = json.loads((Path(text) / "run.json").read_text(encoding="utf-8"))["settings"]
        is_task, made_by = settings.get("source") == "arithmetic", _find_judge(settings)
        text = str(Path(text) / "data")
    rows = convert_to_conversations(_read_preferences(text), text)
    if "provenance" in rows.column_names and (rows[0]["provenance"] or {}).get("rubric"):
        made_by["rubric"] = rows[0]["provenance"]["rubric"]
    prompts, content = [], hashlib.sha256()
    for i, row in enumerate(
        _disable_image_decoding(
            rows.select_columns([c for c in (*PROMPT_COLUMNS, *ANSWER_COLUMNS) if c in rows.column_names])
        )
    ):
        prompts.append(compute_prompt_digest(_parse_prompt(row, text, i).prompt))
        content.update(json.dumps([prompts[-1], *(row[side] for side in ANSWER_COLUMNS)]).encode())
    return PolicyTrainingData(text, rows, tuple(prompts), content.hexdigest()[:16], is_task, made_by)


def _read_preferences(text: str) -> Any:
    if text.startswith(HUB):
        rows = HubDataset.open(text).table
    elif Path(text).is_dir():
        rows = load_split(text, text)
    elif Path(text).is_file() and Path(text).suffix in (".jsonl", ".parquet"):
        rows = load_split(text, "json" if Path(text).suffix == ".jsonl" else "parquet", data_files=text)
    else:
        raise UsageError(
            f"{text}: no such preference data; expected the folder of a `flex-judge preferences` run, a .jsonl or "
            ".parquet file, or hub:OWNER/NAME"
        )
    missing = [name for name in ANSWER_COLUMNS if name not in rows.column_names]
    if missing:
        known = ", ".join(rows.column_names)
        raise UsageError(f"{text}: has no column {missing[0]!r}, which DPO needs; there are {known}")
    if not len(rows):
        raise UsageError(f"{text}: holds no row")
    return rows


def _find_judge(settings: Mapping[str, Any]) -> dict[str, str]:
    """The judge that the settings of a `flex-judge preferences` run name."""
    judge = str(settings["judge"])
    if judge.startswith(("http://", "https://")):
        return {"judge_url": judge}
    named = {"judge": judge, "judge_adapter": settings.get("judge_adapter")}
    return {name: strip_fingerprint(value) for name, value in named.items() if value}


def _disable_image_decoding(rows: Any) -> Any:
    """The rows with the files of their images as they are, not as pixels, whose digest would be another."""
    from datasets import Image, List

    for name, feature in rows.features.items():
        if isinstance(feature, Image):
            rows = rows.cast_column(name, Image(decode=False))
        elif isinstance(feature, List) and isinstance(feature.feature, Image):
            rows = rows.cast_column(name, List(Image(decode=False)))
    return rows


def load_prompt_data(source: Source, columns: PromptColumns) -> PolicyTrainingData:
    """Prompts to be answered while the policy is trained.

    Raises:
        UsageError: no row is a prompt.
    """
    from datasets import Dataset, Image, List

    found, problems = [], []
    for row in read_prompts(source, 0, len(source), columns):
        if isinstance(row, UsageError):
            problems.append(" ".join(str(row).split()))
        else:
            found.append(row)
    if not found:
        raise UsageError(problems[0])
    images = any(map(has_images, found))
    rows = Dataset.from_list([{"id": row.id, **make_prompt_columns(row, images)} for row in found])
    if images:
        rows = rows.cast_column("images", List(Image()))
    prompts = tuple(compute_prompt_digest(row.prompt) for row in found)
    is_task = isinstance(source, arithmetic.ArithmeticSource)
    return PolicyTrainingData(source.name, rows, prompts, source.digest, is_task, problems=tuple(problems))


def select_unseen_prompts(
    source: Source, columns: PromptColumns, trained: Collection[str], count: int
) -> list[PromptRow]:
    """The first prompts of a source that are not trained on, each of them once.

    Args:
        trained: digests of the prompts that are.

    Raises:
        UsageError: a row is no prompt, or all are trained on.
    """
    found: dict[str, PromptRow] = {}
    for row in _iter_prompt_rows(source, columns):
        if len(found) == count:
            break
        digest = compute_prompt_digest(row.prompt)
        if digest not in trained:
            found.setdefault(digest, row)
    if not found:
        raise UsageError(f"{source.name}: every prompt in it is trained on, and there is none to measure with")
    if len({row.id for row in found.values()}) < len(found):  # results are matched by it
        return [replace(row, id=f"{row.id}#{n}") for n, row in enumerate(found.values(), 1)]
    return list(found.values())


def write_prompts(path: Path, rows: Sequence[PromptRow]) -> None:
    """Write prompts to a JSON lines file that `flex-judge best-of-n` reads."""
    write_lines(
        path,
        ({"id": row.id, **make_prompt_columns(row, has_images(row), has_molecules(row)), **row.kept} for row in rows),
    )


def _iter_prompt_rows(source: Source, columns: PromptColumns) -> Iterator[PromptRow]:
    for start in range(0, len(source), READ_AHEAD):
        for row in read_prompts(source, start, start + READ_AHEAD, columns):
            if isinstance(row, UsageError):
                raise row
            yield row


def _parse_prompt(row: dict[str, Any], name: str, i: int) -> PromptRow:
    asked = {column: row[column] for column in PROMPT_COLUMNS if row.get(column) is not None}
    return parse_prompt_row(asked, f"{name}, row {i + 1}", i + 1, PromptColumns(), Path())


Row = Mapping[str, Any]


def convert_to_conversations(rows: Any, name: str) -> Any:
    """Preference rows with a prompt and answers that are lists of messages.

    Text without roles is what a user says, and an assistant; where the answers hold the prompt too, it is taken out.
    TRL would show plain text to the model without its chat template, and a policy is not asked so.

    Args:
        rows: a `datasets.Dataset` with columns `chosen` and `rejected`, perhaps `prompt`.
        name: what messages call it.

    Raises:
        UsageError: a row of another form.
    """
    first = rows[0]
    if all(_is_message_list(first.get(part)) for part in ("prompt", "chosen", "rejected")):
        return rows
    whole = _is_message_list(first["chosen"]) and any(m["role"] == "user" for m in first["chosen"])
    if whole or "prompt" not in rows.column_names:
        from trl import extract_prompt

        if not whole:
            raise UsageError(f"{name}: has no column 'prompt', and answers that hold none; DPO needs one")
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
