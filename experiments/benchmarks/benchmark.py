"""Base classes of benchmarks: rows become items, verdicts become metrics, next to published results.

To add a benchmark, derive from RowBenchmark, describe the release in a BenchmarkSpec, implement `parse_record`, and add
an instance to BENCHMARKS in `flex_judge.experiments.benchmarks`.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from flex_judge.experiments.benchmarks.cells import is_missing, parse_list
from flex_judge.experiments.benchmarks.data import BenchmarkData, Record, check_fields
from flex_judge.experiments.benchmarks.ids import assign_ids
from flex_judge.experiments.benchmarks.items import Item, Label
from flex_judge.experiments.benchmarks.scoring import Scoring
from flex_judge.judges.io.files import ComparisonFileRow

_Value = TypeVar("_Value")
MEDIA_FOLDERS = ("images", "image", "videos", "video")
"""Folders that releases use for their media."""


PAPER_JUDGES = "Flex-"
"""Start of the names of the judges of the Flex-Judge paper (arXiv 2505.18601)."""


@dataclass(frozen=True)
class PublishedResult:
    """Published metrics of a judge."""

    judge: str
    figures: Mapping[str, float] = field(default_factory=dict)
    """`task.metric` or `overall` -> value, as a fraction instead of percent."""
    source: str = "arXiv 2505.18601"


@dataclass(frozen=True, kw_only=True)
class BenchmarkSpec:
    """Fixed properties of a benchmark. The settings follow the published protocol; each is a flag."""

    name: str
    about: str
    """Help text: title, colon, what is judged, and the paper."""
    expected: str
    """Files and fields of the release, for error messages."""
    origin: str = ""
    """Where the data can be downloaded, for help and error messages."""
    patterns: tuple[str, ...]
    """Glob patterns of the files in a folder, in order of preference: only the first one that matches is used."""
    tasks: Mapping[str, Scoring]
    """Task -> scoring. Each task has its own metrics."""
    fields: tuple[str, ...] = ()
    """Required fields of a row."""
    ids: tuple[str, ...] = ("id",)
    """Fields that may hold a row's id, in order of preference."""
    hub: tuple[str, ...] = ()
    """Data sets of the Hugging Face hub to use by default."""
    columns: tuple[str, ...] = ()
    """Column names for tables without a header."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Task -> number of items in the published version."""
    protocol: Mapping[str, Any] = field(default_factory=dict)
    """Run settings that differ from the defaults."""
    formats: tuple[str, ...] = ()
    """Formats of stored replies to try before the common ones, see `reply_formats.REPLY_FORMATS`."""
    other_formats: bool = True
    """Whether to try the common formats too. Without them, the makers' rule decides which replies are unreadable."""
    overall: bool = False
    """Whether the mean of the tasks' headline metrics is a published metric."""
    published: tuple[PublishedResult, ...] = ()

    @property
    def title(self) -> str:
        """Name of the benchmark as its authors write it."""
        return self.about.partition(":")[0]


class Benchmark(ABC):
    """Benchmark: turns its data into items."""

    spec: ClassVar[BenchmarkSpec]

    @abstractmethod
    def parse_items(self, data: BenchmarkData) -> list[Item]:
        """Parse the items of the data.

        Raises:
            UsageError: A row is invalid; the message names file, row and field.
        """

    def mark_missing_media(self, items: Sequence[Item]) -> list[Item]:
        """Remove the labels of items whose media the release does not contain.

        By default, no item is changed: a missing file then makes an item that could not be judged.
        """
        return list(items)

    def select_sample(self, items: Sequence[Item], limit: int, seed: int) -> list[Item]:
        """Select at most `limit` items of a task for `--limit`, see `select_sample`."""
        return select_sample(items, [tuple(sorted(item.groups.items())) for item in items], limit, seed)


class RowBenchmark(Benchmark):
    """Benchmark whose rows are the items."""

    def parse_items(self, data: BenchmarkData) -> list[Item]:
        """See `Benchmark.parse_items`."""
        check_fields(data.records, self.spec.fields, self.spec.expected)
        ids = assign_ids(data.records, self.spec.ids)
        return [self.parse_record(record, item_id) for record, item_id in zip(data.records, ids, strict=True)]

    @abstractmethod
    def parse_record(self, record: Record, id: str) -> Item:
        """Parse one row.

        Args:
            record: The row.
            id: Id of the item.

        Raises:
            UsageError: The row is invalid.
        """


def select_sample(values: Sequence[_Value], groups: Sequence[Hashable], limit: int, seed: int) -> list[_Value]:
    """Select a stratified random sample: each group has its share of it, and a smaller sample is part of a larger one.

    Args:
        values: The values.
        groups: Group of each value.
        limit: Maximum size of the sample.
        seed: Seed of the sample.

    Returns:
        The sample, in the order of the values.
    """
    rng, shuffled = random.Random(seed), list(range(len(values)))
    rng.shuffle(shuffled)
    sizes, places = Counter(groups), dict[int, float]()
    starts = {group: rng.random() for group in sizes}
    ranks: Counter[Hashable] = Counter()
    for index in shuffled:
        # Members of each group are spread evenly from 0 to 1, so every part from 0 on holds the same share of all.
        places[index] = (ranks[groups[index]] + starts[groups[index]]) / sizes[groups[index]]
        ranks[groups[index]] += 1
    chosen = sorted(shuffled, key=places.__getitem__)[:limit]
    return [values[index] for index in sorted(chosen)]


def make_item(
    record: Record,
    id: str,
    task: str,
    *,
    prompt: Any,
    responses: Sequence[Any],
    rubric: str,
    label: Label | None,
    left_out: str = Item.left_out,
    **groups: str,
) -> Item:
    """Make the item of a row.

    Args:
        record: The row.
        id: Id of the item.
        task: Task of the benchmark.
        prompt: Text or messages.
        responses: Responses to judge. Paths of media are results of `Record.locate_file`.
        rubric: Name of the rubric.
        label: Human label; None leaves the item out.
        left_out: Reason for leaving the item out.
        **groups: Groups of the item, such as `source="coco"`.
    """
    content = {"prompt": prompt, "responses": list(responses)}
    return Item(ComparisonFileRow(id, record.where, content, rubric, Path()), task, label, groups, left_out)


def make_medium_response(modality: str, source: Any) -> list[dict[str, Any]]:
    """Make a response of one medium."""
    return [{"type": modality, modality: source}]


def resolve_media(record: Record, value: Any, name: str) -> Any:
    """Resolve an image, video or clip of a row.

    Args:
        record: The row.
        value: Value of the field: a path, an address, a data URI, bytes, or an object of `datasets`.
        name: Name of the field, for error messages.

    Returns:
        The path of the file for a path; for an address, the file of that name if it has been downloaded, else the
        address; other values unchanged.

    Raises:
        UsageError: The field is empty.
    """
    if isinstance(value, Mapping) and "bytes" in value:  # an image or a clip of `datasets`
        value = value["bytes"] or value.get("path")
    if is_missing(value) or (isinstance(value, str | bytes) and not value):
        raise record.make_error(name, "an image or its path", value)
    if not isinstance(value, str) or value.startswith("data:"):
        return value
    if "://" not in value:
        return record.locate_file(value, *MEDIA_FOLDERS)
    downloaded = record.locate_file(value.rpartition("/")[2], *MEDIA_FOLDERS)
    return downloaded if Path(downloaded).is_file() else value


def resolve_media_list(record: Record, value: Any, name: str) -> list[Any]:
    """Resolve one or several images, videos or clips of a row, see `resolve_media`.

    A list may be stored as text.

    Raises:
        UsageError: There is no value, or one of them is empty.
    """
    values = value if isinstance(value, list | tuple) else None
    if isinstance(value, str) and value.lstrip().startswith("["):
        values = parse_list(value)
    # An empty list is no value, like null.
    return [resolve_media(record, item, name) for item in (values or [None if values == [] else value])]


def make_question(text: str, *media: tuple[str, Any]) -> list[dict[str, Any]]:
    """Make a question with media before its text, each given as (modality, source)."""
    parts = [{"type": modality, modality: source} for modality, source in media]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]
