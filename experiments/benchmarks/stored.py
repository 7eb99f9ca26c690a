"""Files of stored replies: ours, and those that the makers of benchmarks published of the judges that they tried.

Ours has a row for each reply, `{"id", "text"}`, or for all replies to an item, `{"id", "texts": [...]}`; rows with
one id are its runs, in their order. Where a judge reads the responses in several orders, the replies of a run stand in
that order (given, then swapped); a row may say otherwise: `"orders": [[1, 0], ...]`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flex_judge.experiments.benchmarks.data import DATA_SUFFIXES, read_data_file
from flex_judge.experiments.benchmarks.items import Item
from flex_judge.judges.errors import UsageError
from flex_judge.judges.protocol.prompts import THINK_CLOSE, THINK_OPEN


@dataclass(frozen=True)
class StoredReplies:
    """The replies to one item."""

    where: str
    texts: tuple[str | None, ...]
    """None for one that was not made."""
    orders: tuple[tuple[int, ...], ...] | None = None
    """In which order the judge read the responses, where the row says so."""


def read_replies(path: Path) -> dict[str, StoredReplies]:
    """The replies of a file, by the id of their item.

    Raises:
        UsageError: the file, or a row of it, is not as it should be; the message names both and the field.
    """
    found: dict[str, StoredReplies] = {}
    if path.suffix not in DATA_SUFFIXES:
        raise UsageError(f"{path}: expected stored replies, in a file that ends in {', '.join(DATA_SUFFIXES)}")
    for number, (where, published) in enumerate(read_data_file(path), 1):
        row = next((ours for read in CONVERTERS if (ours := read(published, number))), published)
        one = _parse_row(where, row)
        name = str(row["id"])
        if earlier := found.get(name):
            if (earlier.orders is None) != (one.orders is None):
                raise UsageError(f"{where}: field 'orders' must be in every row of {name!r}, or in none")
            both = None if earlier.orders is None or one.orders is None else earlier.orders + one.orders
            one = StoredReplies(earlier.where, earlier.texts + one.texts, both)
        found[name] = one
    if not found:
        raise UsageError(f"{path}: holds no reply")
    return found


def match_replies(path: Path, items: Sequence[Item]) -> dict[str, StoredReplies]:
    """The replies of a file, by the id of the item that they are for.

    Where the items are numbered from 1, as rows without an id are, replies may count them from 0. Where no two items
    end alike (`pair/17`, `score/4`), replies may leave out what is before the end.

    Raises:
        UsageError: a reply is for no item. An item without a reply is no fault here: it is unscored.
    """
    stored = read_replies(path)
    ids = {item.id for item in items}
    if ids == {str(k + 1) for k in range(len(items))} and all(map(str.isdecimal, stored)):
        stored = _shift_ids_to_one(path, stored, len(items))
    ends = Counter(name.rpartition("/")[2] for name in ids)
    short = {name.rpartition("/")[2]: name for name in ids if ends[name.rpartition("/")[2]] == 1}
    named: dict[str, str] = {}
    for name, one in stored.items():
        whole = name if name in ids else short.get(name, name)
        if whole in named:
            raise UsageError(f"{one.where}, field 'id': {name!r} and {named[whole]!r} are the same item; use one id")
        named[whole] = name
    stored = {whole: stored[name] for whole, name in named.items()}
    unknown = stored.keys() - ids
    if unknown:
        first = next(name for name in stored if name in unknown)
        known = ", ".join(repr(item.id) for item in items[:3])
        raise UsageError(
            f"{stored[first].where}, field 'id': {first!r} is no item of the data, as {len(unknown)} ids are; the "
            f"items are {known}, ..."
        )
    return stored


def _shift_ids_to_one(path: Path, stored: dict[str, StoredReplies], items: int) -> dict[str, StoredReplies]:
    """Replies by the number of their row from 1, which may be counted from 0.

    Raises:
        UsageError: they may be counted either way: a row that is missing would move every label by one.
    """
    if "0" in stored:
        return {str(int(name) + 1): one for name, one in stored.items()}
    if str(items) not in stored and len(stored) > 1:
        raise UsageError(
            f"{path}, field 'id': has neither 0 nor {items}, so rows may be counted from 0 or from 1; add a row for "
            'the first or the last, with "text": null where there is no reply'
        )
    return stored


def _parse_row(where: str, row: Mapping[str, Any]) -> StoredReplies:
    def make_error(name: str, expected: str) -> UsageError:
        return UsageError(f"{where}, field {name!r}: expected {expected}, got {row.get(name)!r:.80}")

    name = row.get("id")
    if isinstance(name, bool) or not isinstance(name, str | int) or name == "":
        raise make_error("id", "the id of an item")
    if ("text" in row) == ("texts" in row):
        raise UsageError(f"{where}: expected a field 'text' or a field 'texts'")
    texts = [row["text"]] if "text" in row else row["texts"]
    if not isinstance(texts, list) or not all(text is None or isinstance(text, str) for text in texts):
        raise make_error("text" if "text" in row else "texts", "a reply" if "text" in row else "a list of replies")
    shown = row.get("orders")
    if shown is None:
        return StoredReplies(where, tuple(texts))
    lists = isinstance(shown, list) and len(shown) == len(texts)
    if not lists or not all(isinstance(one, list) and sorted(one) == list(range(len(one))) for one in shown):
        raise make_error("orders", "for each reply the order of the responses, such as [1, 0]")
    return StoredReplies(where, tuple(texts), tuple(tuple(one) for one in shown))


def _convert_pandalm(row: Mapping[str, Any], _: int) -> dict[str, Any] | None:
    """PandaLM's, a row: `{"idx", "NAME_result": 1 | 2 | 0 for a tie, "NAME_reason"}`."""
    results = [name for name in row if name.endswith("_result")]
    if "idx" not in row or len(results) != 1:
        return None
    reason = row.get(results[0].replace("_result", "_reason"))
    return {"id": row["idx"], "text": f"{row[results[0]]}\n{reason or ''}"}


def _convert_llmbar(row: Mapping[str, Any], number: int) -> dict[str, Any] | None:
    """LLMBar's, a row in the order of the data: `{"results": [..., {"swap = False": {"completion", "winner"},
    "swap = True": {...}}]}`. The last result counts, and of it the winner, by the order of the data in both: how the
    judge was asked, and so how it answers, is another thing in every file."""
    results = row.get("results")
    last = results[-1] if isinstance(results, list) and results else None
    if not isinstance(last, dict) or not all(isinstance(last.get(swap), dict) for swap in _SWAPS):
        return None
    orders = [[0, 1], [1, 0]]
    texts = []
    for swap, order in zip(_SWAPS, orders, strict=True):
        winner = {"1": 0, "2": 1}.get(str(last[swap].get("winner")))
        told = last[swap].get("completion")
        said = None if winner is None else "A>B" if order[0] == winner else "B>A"
        texts.append(_format_verdict(told[0] if isinstance(told, list) and told else told, said))
    return {"id": number, "texts": texts, "orders": orders}


def _convert_judgebench(row: Mapping[str, Any], _: int) -> dict[str, Any] | None:
    """JudgeBench's, a row: `{"pair_id", "judgments": [{"judgment": {"response"}, "decision": "A>B" | ...}, ...]}`, in
    the order given and the other. The decision counts, which every kind of judge has; null is none."""
    judgments = row.get("judgments")
    if "pair_id" not in row or not isinstance(judgments, list):
        return None
    if not all(one is None or isinstance(one, dict) for one in judgments):
        return None
    texts = []
    for one in judgments:
        told = (one or {}).get("judgment")
        said = (one or {}).get("decision")
        texts.append(_format_verdict(told.get("response") if isinstance(told, dict) else None, said))
    return {"id": row["pair_id"], "texts": texts}


def _format_verdict(text: Any, verdict: Any) -> str | None:
    """A reply with its verdict as its makers read it; None where they read none."""
    if not isinstance(verdict, str):
        return None
    reasoning = text.replace(THINK_CLOSE, "") if isinstance(text, str) else ""
    return f"{THINK_OPEN}\n{reasoning}\n{THINK_CLOSE}\n\n[[{verdict}]]"


_SWAPS = ("swap = False", "swap = True")
CONVERTERS: tuple[Callable[[Mapping[str, Any], int], dict[str, Any] | None], ...] = (
    _convert_pandalm,
    _convert_llmbar,
    _convert_judgebench,
)
"""How published files become ours, row by row; None for a row that is none of theirs."""
