"""Preferences of any form that TRL knows as conversations, which is how a chat model is asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flex_judge.judges.errors import UsageError

Row = Mapping[str, Any]


def conversational(rows: Any, name: str) -> Any:
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
    if all(_is_messages(first.get(part)) for part in ("prompt", "chosen", "rejected")):
        return rows
    whole = _is_messages(first["chosen"]) and any(m["role"] == "user" for m in first["chosen"])
    if whole or "prompt" not in rows.column_names:
        from trl import extract_prompt

        if not whole:
            raise UsageError(f"{name}: has no column 'prompt', and answers that hold none; DPO needs one")
        return rows.map(extract_prompt)
    return rows.map(lambda row, i: _row(row, f"{name}, row {i + 1}"), with_indices=True)


def _row(row: Row, where: str) -> dict[str, Any]:
    roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
    return {part: _messages(row[part], role, f"{where}, field {part!r}") for part, role in roles.items()}


def _messages(content: Any, role: str, where: str) -> Any:
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    if _is_messages(content):
        return content
    raise UsageError(f"{where}: expected text or a list of messages, got {type(content).__name__}")


def _is_messages(content: Any) -> bool:
    return isinstance(content, list) and all(isinstance(m, Mapping) and "role" in m for m in content)
