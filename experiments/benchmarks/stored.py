"""Files of stored replies: this project's format, and those published by the authors of benchmarks.

This project's format has a row for each reply, `{"id", "text"}`, or for all replies to an item,
`{"id", "texts": [...]}`. Rows with the same id are its runs, in order. If a judge reads the responses in several
orders, the replies of a run are listed in those orders (as given, then swapped); a row may state other orders:
`"orders": [[1, 0], ...]`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flex_judge.experiments.benchmarks.data_files import DATA_SUFFIXES, read_data_file
from flex_judge.experiments.benchmarks.items import Item
from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.json_rows import is_row_id
from flex_judge.judges.protocol.prompts import THINK_CLOSE, THINK_OPEN
from flex_judge.judges.validation.text_files import get_format_suffix

ROW = "row"
"""Field of a converted row without an id: the number of the item in the data, from 1."""


@dataclass(frozen=True)
class StoredReplies:
    """Replies to one item."""

    where: str
    """File and row of the first reply, for error messages."""
    texts: tuple[str | None, ...]
    """Text of each reply; None for a missing one."""
    orders: tuple[tuple[int, ...], ...] | None = None
    """Reading order of the judge for each reply; None if the file does not state it."""


def read_replies(path: Path) -> dict[str, StoredReplies]:
    """Read the replies of a file: item id -> replies.

    Raises:
        UsageError: The file or one of its rows is invalid; the message names file, row and field.
    """
    replies: dict[str, StoredReplies] = {}
    if get_format_suffix(path) not in DATA_SUFFIXES:
        raise UsageError(f"{path}: expected stored replies, in a file that ends in {', '.join(DATA_SUFFIXES)}")
    for number, (where, file_row) in enumerate(read_data_file(path), 1):
        row = next((row for convert in CONVERTERS if (row := convert(file_row, number))), file_row)
        item_replies = _parse_row(where, row)
        item_id = str(row["id"]) if "id" in row else f"{ROW} {row[ROW]}"
        if earlier := replies.get(item_id):
            item_replies = _append_replies(earlier, item_replies, item_id)
        replies[item_id] = item_replies
    if not replies:
        raise UsageError(f"{path}: has no reply; expected rows with id and text")
    return replies


def _append_replies(first: StoredReplies, second: StoredReplies, item_id: str) -> StoredReplies:
    """Append the replies of another row with the same id."""
    if (first.orders is None) != (second.orders is None):
        raise UsageError(f"{second.where}: field 'orders' must be in every row of {item_id!r}, or in none")
    orders = None if first.orders is None or second.orders is None else first.orders + second.orders
    return StoredReplies(first.where, first.texts + second.texts, orders)


def match_replies(path: Path, items: Sequence[Item]) -> dict[str, StoredReplies]:
    """Read the replies of a file and match them to items: item id -> replies.

    If the items are numbered from 1 (rows without ids), replies may be numbered from 0. If the last parts of the item
    ids are unique (`pair/17`, `score/4`), replies may leave out the parts before. An item without a reply is unscored.

    Raises:
        UsageError: A reply matches no item.
    """
    replies = read_replies(path)
    id_by_row = {f"{ROW} {k}": item.id for k, item in enumerate(items, 1)}
    replies = {id_by_row.get(reply_id, reply_id): item_replies for reply_id, item_replies in replies.items()}
    item_ids = {item.id for item in items}
    if item_ids == {str(k + 1) for k in range(len(items))} and all(map(str.isdecimal, replies)):
        replies = _shift_ids_to_one(path, replies, len(items))
    suffix_counts = Counter(item_id.rpartition("/")[2] for item_id in item_ids)
    id_by_suffix = {item_id.rpartition("/")[2]: item_id for item_id in item_ids}
    reply_ids: dict[str, str] = {}
    for reply_id, item_replies in replies.items():
        item_id = reply_id
        if reply_id not in item_ids and suffix_counts[reply_id] == 1:
            item_id = id_by_suffix[reply_id]
        if item_id in reply_ids:
            raise UsageError(
                f"{item_replies.where}, field 'id': {reply_id!r} and {reply_ids[item_id]!r} are the same item; use one "
                "id"
            )
        reply_ids[item_id] = reply_id
    matched_replies = {item_id: replies[reply_id] for item_id, reply_id in reply_ids.items()}
    unknown_ids = [item_id for item_id in matched_replies if item_id not in item_ids]
    if unknown_ids:
        examples = ", ".join(repr(item.id) for item in items[:3])
        raise UsageError(
            f"{matched_replies[unknown_ids[0]].where}, field 'id': {unknown_ids[0]!r} is no item of the data "
            f"({len(unknown_ids)} unknown ids); expected ids like {examples}; if the replies belong to more data than "
            "this, name all of them with --data"
        )
    return matched_replies


def _shift_ids_to_one(path: Path, replies: dict[str, StoredReplies], item_count: int) -> dict[str, StoredReplies]:
    """Renumber replies from 1 if they are numbered from 0.

    Raises:
        UsageError: The numbering is ambiguous. A wrong guess would shift every label by one row.
    """
    if "0" in replies:
        return {str(int(number) + 1): item_replies for number, item_replies in replies.items()}
    if str(item_count) not in replies and len(replies) > 1:
        raise UsageError(
            f"{path}, field 'id': has neither 0 nor {item_count}, so rows may be counted from 0 or from 1; add a row "
            'for the first or the last item, with "text": null if it has no reply'
        )
    return replies


def _parse_row(where: str, row: Mapping[str, Any]) -> StoredReplies:
    def make_error(name: str, expected: str) -> UsageError:
        return UsageError(f"{where}, field {name!r}: expected {expected}, got {row.get(name)!r:.80}")

    item_id = row.get("id", row.get(ROW))
    if not is_row_id(item_id):
        raise make_error("id", "the id of an item")
    if ("text" in row) == ("texts" in row):
        raise UsageError(f"{where}: expected a field 'text' or a field 'texts'")
    texts = [row["text"]] if "text" in row else row["texts"]
    if not isinstance(texts, list) or not all(text is None or isinstance(text, str) for text in texts):
        raise make_error("text" if "text" in row else "texts", "a reply" if "text" in row else "a list of replies")
    orders = row.get("orders")
    if orders is None:
        return StoredReplies(where, tuple(texts))
    has_one_per_text = isinstance(orders, list) and len(orders) == len(texts)
    if not has_one_per_text or not all(
        isinstance(order, list) and sorted(order) == list(range(len(order))) for order in orders
    ):
        raise make_error("orders", "the order of the responses for each reply, such as [1, 0]")
    return StoredReplies(where, tuple(texts), tuple(tuple(order) for order in orders))


def _convert_pandalm(row: Mapping[str, Any], _: int) -> dict[str, Any] | None:
    """Convert a row of PandaLM: `{"idx", "NAME_result": 1 | 2 | 0 for a tie, "NAME_reason"}`."""
    results = [name for name in row if name.endswith("_result")]
    if "idx" not in row or len(results) != 1:
        return None
    reason = row.get(results[0].replace("_result", "_reason"))
    return {"id": row["idx"], "text": f"{row[results[0]]}\n{reason or ''}"}


def _convert_judgelrm(row: Mapping[str, Any], _: int) -> dict[str, Any] | None:
    """Convert a row of JudgeLRM: the row of PandaLM with the reply as `output`."""
    return {"id": row["idx"], "text": row["output"]} if {"idx", "output", "result"} <= row.keys() else None


def _convert_genai_bench(row: Mapping[str, Any], _: int) -> dict[str, Any] | None:
    """Convert a row of GenAI-Bench: `{"idx", "response", "model_vote"}`, with the number of the item from 0."""
    if not {"idx", "response", "model_vote"} <= row.keys() or not isinstance(row["idx"], int):
        return None
    return {ROW: row["idx"] + 1, "text": row["response"]}


def _convert_vl_rewardbench(row: Mapping[str, Any], _: int) -> dict[str, Any] | None:
    """Convert a row of VL-RewardBench: `{"id", "meta": {"filter_choice": reply, "random_number": 0 if in order}}`."""
    meta = row.get("meta")
    if not isinstance(meta, dict) or not {"filter_choice", "random_number"} <= meta.keys():
        return None
    order = [0, 1] if meta["random_number"] == 0 else [1, 0]
    return {"id": row.get("id"), "text": meta["filter_choice"], "orders": [order]}


def _convert_multimodal_rewardbench(row: Mapping[str, Any], _: int) -> dict[str, Any] | None:
    """Convert a row of Multimodal RewardBench: `{"ID", "output"}`, or `"outputs"` for several samples."""
    texts = row.get("outputs") or [row.get("output")]
    return {"id": row["ID"], "texts": texts} if "ID" in row and {"output", "outputs"} & row.keys() else None


def _convert_flex_judge(row: Mapping[str, Any], number: int) -> dict[str, Any] | None:
    """Convert a row of Flex-Judge's scripts: `{"text", "pred"}`, in the order of the data."""
    return {ROW: number, "text": row["text"]} if "pred" in row and "text" in row and "id" not in row else None


def _convert_llmbar(row: Mapping[str, Any], number: int) -> dict[str, Any] | None:
    """Convert a row of LLMBar: `{"results": [..., {"swap = False": {"completion", "winner"}, "swap = True": {...}}]}`.

    Rows are in the order of the data. The last result counts. Its `winner` is used rather than the completion, because
    the format of the completion differs between files; it names the response by its position in the data in both
    orders.
    """
    results = row.get("results")
    last = results[-1] if isinstance(results, list) and results else None
    if not isinstance(last, dict) or not all(isinstance(last.get(swap), dict) for swap in _SWAPS):
        return None
    orders = [[0, 1], [1, 0]]
    texts = []
    for swap, order in zip(_SWAPS, orders, strict=True):
        winner = {"1": 0, "2": 1}.get(str(last[swap].get("winner")))
        verdict = None if winner is None else "A>B" if order[0] == winner else "B>A"
        completion = last[swap].get("completion")
        if isinstance(completion, list) and completion:
            completion = completion[0]
        texts.append(_format_reply(completion, verdict))
    return {"id": number, "texts": texts, "orders": orders}


def _convert_judgebench(row: Mapping[str, Any], _: int) -> dict[str, Any] | None:
    """Convert a row of JudgeBench.

    The row is `{"pair_id", "judgments": [{"judgment": {"response"}, "decision": "A>B" | ...}, ...]}`, with the given
    order first and the swapped one second. `decision` is used because every kind of judge has it; null is no verdict.
    """
    judgments = row.get("judgments")
    if "pair_id" not in row or not isinstance(judgments, list):
        return None
    if not all(entry is None or isinstance(entry, dict) for entry in judgments):
        return None
    texts = []
    for entry in judgments:
        judgment = (entry or {}).get("judgment")
        response = judgment.get("response") if isinstance(judgment, dict) else None
        texts.append(_format_reply(response, (entry or {}).get("decision")))
    return {"id": row["pair_id"], "texts": texts}


def _format_reply(text: Any, verdict: Any) -> str | None:
    """Format a reply with the verdict that the authors parsed from it; None if they parsed none."""
    if not isinstance(verdict, str):
        return None
    # A closing tag in the text would end the reasoning early.
    reasoning = text.replace(THINK_CLOSE, "") if isinstance(text, str) else ""
    return f"{THINK_OPEN}\n{reasoning}\n{THINK_CLOSE}\n\n[[{verdict}]]"


_SWAPS = ("swap = False", "swap = True")
CONVERTERS: tuple[Callable[[Mapping[str, Any], int], dict[str, Any] | None], ...] = (
    _convert_pandalm,
    _convert_judgelrm,
    _convert_genai_bench,
    _convert_vl_rewardbench,
    _convert_multimodal_rewardbench,
    _convert_flex_judge,
    _convert_llmbar,
    _convert_judgebench,
)
"""Converters of published rows to this project's format; each returns None for a row of another format."""
