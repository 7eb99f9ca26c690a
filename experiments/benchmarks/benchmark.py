"""What a benchmark is: rows become items, verdicts become figures, and published figures stand beside them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from flex_judge.experiments.benchmarks.data import BenchmarkData, Record, assign_ids, check_fields
from flex_judge.experiments.benchmarks.items import Item, Label
from flex_judge.experiments.benchmarks.scoring import Scoring
from flex_judge.judges.io.files import ComparisonFileRow


@dataclass(frozen=True)
class PublishedResult:
    """Figures of a judge as they were published."""

    judge: str
    figures: Mapping[str, float] = field(default_factory=dict)
    """By `task.figure`, or `overall`; on the scale of ours: shares, not percent."""
    source: str = "arXiv 2505.18601"


@dataclass(frozen=True)
class BenchmarkSpec:
    """What is fixed about a benchmark. Its settings are the published protocol's; each is a flag."""

    name: str
    about: str
    """For the help: its title, a colon, what is judged, and the paper."""
    expected: str
    """What the release looks like, for messages."""
    patterns: tuple[str, ...]
    """Of the files to take from a folder; those of the first that any matches."""
    tasks: Mapping[str, Scoring]
    """The parts that have figures of their own, and how their verdicts are counted."""
    fields: tuple[str, ...] = ()
    """That a row must have."""
    ids: tuple[str, ...] = ("id",)
    """Where a row's own id may stand."""
    hub: tuple[str, ...] = ()
    """The data sets to take where no other is named."""
    columns: tuple[str, ...] = ()
    """Of tables without a header line."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Items of the published version, by task."""
    protocol: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the run that differ from its defaults."""
    formats: tuple[str, ...] = ()
    """How stored replies may be written beside our own form, see `replies.FORMATS`."""
    overall: bool = False
    """Whether the mean of the tasks' headlines is a published figure."""
    published: tuple[PublishedResult, ...] = ()

    @property
    def title(self) -> str:
        """Its name, as its makers write it."""
        return self.about.partition(":")[0]


class Benchmark(ABC):
    """One benchmark: data become items."""

    spec: ClassVar[BenchmarkSpec]

    @abstractmethod
    def parse_items(self, data: BenchmarkData) -> list[Item]:
        """The items of the data.

        Raises:
            UsageError: a row is not as it should be; the message names file, row and field.
        """

    def mark_missing_media(self, items: Sequence[Item]) -> list[Item]:
        """The items as a judge can be asked them. Where a release leaves media to others, those of its rows that lack
        them have no label; elsewhere a missing file is an item that could not be judged."""
        return list(items)


class RowBenchmark(Benchmark):
    """A benchmark of which each row is an item."""

    def parse_items(self, data: BenchmarkData) -> list[Item]:
        check_fields(data.records, self.spec.fields, self.spec.expected)
        names = assign_ids(data.records, self.spec.ids)
        return [self.parse_record(record, name) for record, name in zip(data.records, names, strict=True)]

    @abstractmethod
    def parse_record(self, record: Record, id: str) -> Item:
        """The item of a row. Raises UsageError as `items` does."""


def make_item(
    record: Record,
    id: str,
    task: str,
    prompt: Any,
    responses: Sequence[Any],
    rubric: str,
    label: Label | None,
    left_out: str = Item.left_out,
    **groups: str,
) -> Item:
    """An item of a row. Paths of media are as `Record.locate` gives them."""
    content = {"prompt": prompt, "responses": list(responses)}
    return Item(ComparisonFileRow(id, record.where, content, rubric, Path()), task, label, groups, left_out)


def make_medium_response(modality: str, source: Any) -> list[dict[str, Any]]:
    """A response that is one medium."""
    return [{"type": modality, modality: source}]


def make_question(text: str, *media: tuple[str, Any]) -> list[dict[str, Any]]:
    """A question with media before it, each as (modality, source)."""
    parts = [{"type": modality, modality: source} for modality, source in media]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]
