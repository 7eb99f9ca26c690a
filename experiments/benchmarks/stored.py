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

from experiments.benchmarks.data import ENDINGS, table_rows
from experiments.benchmarks.items import Item
from judges.errors import UsageError


@dataclass(frozen=True)
class Stored:
    """The replies to one item."""

    where: str
    texts: tuple[str | None, ...]
    """None for one that was not made."""
    orders: tuple[tuple[int, ...], ...] | None = None
    """In which order the judge read the responses, where the row says so."""


def read_replies(path: Path) -> dict[str, Stored]:
    """The replies of a file, by the id of their item.

    Raises:
        UsageError: the file, or a row of it, is not as it should be; the message names both and the field.
    """
    found: dict[str, Stored] = {}
    if path.suffix not in ENDINGS:
        raise UsageError(f"{path}: expected stored replies, in a file that ends in {', '.join(ENDINGS)}")
    for number, (where, published) in enumerate(table_rows(path), 1):
        row = next((ours for read in PUBLISHED if (ours := read(published, number))), published)
        one = _stored(where, row)
        name = str(row["id"])
        if earlier := found.get(name):
            if (earlier.orders is None) != (one.orders is None):
                raise UsageError(f"{where}: field 'orders' must be in every row of {name!r}, or in none")
            both = None if earlier.orders is None or one.orders is None else earlier.orders + one.orders
            one = Stored(earlier.where, earlier.texts + one.texts, both)
        found[name] = one
    if not found:
        raise UsageError(f"{path}: holds no reply")
    return found


def matched(path: Path, items: Sequence[Item]) -> dict[str, Stored]:
    """The replies of a file, by the id of the item that they are for.

    Where the items are numbered from 1, as rows without an id are, replies may count them from 0. Where no two items
    end alike (`pair/17`, `score/4`), replies may leave out what is before the end.

    Raises:
        UsageError: a reply is for no item. An item without a reply is no fault here: it is unscored.
    """
    stored = read_replies(path)
    ids = {item.id for item in items}
    from_one = ids == {str(k + 1) for k in range(len(items))}
    if from_one and "0" in stored and str(len(items)) not in stored and all(map(str.isdecimal, stored)):
        stored = {str(int(name) + 1): one for name, one in stored.items()}
    ends = Counter(name.rpartition("/")[2] for name in ids)
    short = {name.rpartition("/")[2]: name for name in ids if ends[name.rpartition("/")[2]] == 1}
    stored = {name if name in ids else short.get(name, name): one for name, one in stored.items()}
    unknown = stored.keys() - ids
    if unknown:
        first = next(name for name in stored if name in unknown)
        known = ", ".join(repr(item.id) for item in items[:3])
        raise UsageError(
            f"{stored[first].where}, field 'id': {first!r} is no item of the data, as {len(unknown)} ids are; the "
            f"items are {known}, ..."
        )
    return stored


def _stored(where: str, row: Mapping[str, Any]) -> Stored:
    def wrong(name: str, expected: str) -> UsageError:
        return UsageError(f"{where}, field {name!r}: expected {expected}, got {row.get(name)!r:.80}")

    name = row.get("id")
    if isinstance(name, bool) or not isinstance(name, str | int) or name == "":
        raise wrong("id", "the id of an item")
    if ("text" in row) == ("texts" in row):
        raise UsageError(f"{where}: expected a field 'text' or a field 'texts'")
    texts = [row["text"]] if "text" in row else row["texts"]
    if not isinstance(texts, list) or not all(text is None or isinstance(text, str) for text in texts):
        raise wrong("text" if "text" in row else "texts", "a reply" if "text" in row else "a list of replies")
    shown = row.get("orders")
    if shown is None:
        return Stored(where, tuple(texts))
    lists = isinstance(shown, list) and len(shown) == len(texts)
    if not lists or not all(isinstance(one, list) and sorted(one) == list(range(len(one))) for one in shown):
        raise wrong("orders", "for each reply the order of the responses, such as [1, 0]")
    return Stored(where, tuple(texts), tuple(tuple(one) for one in shown))


def _pandalm(row: Mapping[str, Any], _: int) -> dict[str, Any] | None:
    """PandaLM's, a row: `{"idx", "NAME_result": 1 | 2 | 0 for a tie, "NAME_reason"}`."""
    results = [name for name in row if name.endswith("_result")]
    if "idx" not in row or len(results) != 1:
        return None
    reason = row.get(results[0].replace("_result", "_reason"))
    return {"id": row["idx"], "text": f"{row[results[0]]}\n{reason or ''}"}


def _llmbar(row: Mapping[str, Any], number: int) -> dict[str, Any] | None:
    """LLMBar's, a row in the order of the data, each run's completions in both orders:
    `{"results": [{"swap = False": {"completion": [TEXT, ...]}, "swap = True": {...}}, ...]}`."""
    runs = row.get("results")
    if not isinstance(runs, list) or not all(isinstance(run, dict) and set(run) == set(_SWAPS) for run in runs):
        return None
    told = [run[swap].get("completion") for run in runs for swap in _SWAPS]
    texts = [one[0] if isinstance(one, list) and one and isinstance(one[0], str) else None for one in told]
    return {"id": number, "texts": texts}


def _judgebench(row: Mapping[str, Any], _: int) -> dict[str, Any] | None:
    """JudgeBench's, a row: `{"pair_id", "judgments": [{"judgment": {"response"}, "decision": "A>B" | ...}, ...]}`, in
    the order given and the other; a reward model has decisions alone."""
    judgments = row.get("judgments")
    if "pair_id" not in row or not isinstance(judgments, list):
        return None
    if not all(one is None or isinstance(one, dict) for one in judgments):
        return None
    return {"id": row["pair_id"], "texts": [_response(one or {}) for one in judgments]}


def _response(judgment: Mapping[str, Any]) -> str | None:
    told = judgment.get("judgment")
    if isinstance(told, dict) and isinstance(told.get("response"), str):
        return str(told["response"])
    return f"[[{judgment['decision']}]]" if isinstance(judgment.get("decision"), str) else None


_SWAPS = ("swap = False", "swap = True")
PUBLISHED: tuple[Callable[[Mapping[str, Any], int], dict[str, Any] | None], ...] = (_pandalm, _llmbar, _judgebench)
"""How published files become ours, row by row; None for a row that is none of theirs."""
