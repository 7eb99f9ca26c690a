"""Checks of a scrape as `promtool check metrics` makes them, and a look at its values."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

BASE_UNITS = ("seconds", "bytes", "ratio", "celsius", "meters", "joules", "grams", "volts", "amperes")
OTHER_UNITS = r"(milli|micro|nano)?seconds?|minutes|hours|days|ms|kib|mib|gib|kilobytes|megabytes|percent"
ABBREVIATIONS = {"s", "ms", "us", "ns", "sec", "b", "kb", "mb", "gb", "pct"}
RESERVED_LABELS = {"le", "quantile", "job", "instance"}


def parse_scrape(text: str) -> dict[str, Metric]:
    """Parse the text format; the parser raises an error for invalid text."""
    families = list(text_string_to_metric_families(text))
    names = Counter(family.name for family in families)
    assert max(names.values()) == 1, names
    return {family.name: family for family in families}


def list_values(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """List all series with their values; fails if a series occurs twice."""
    values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for family in parse_scrape(text).values():
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in values, f"duplicate series {key}"
            values[key] = sample.value
    return values


def find_problems(text: str) -> Iterator[str]:
    """Find violations of Prometheus' naming rules."""
    helps = Counter(re.findall(r"^# HELP (\S+) \S", text, re.MULTILINE))
    types = Counter(re.findall(r"^# TYPE (\S+) (?:counter|gauge|histogram|summary)$", text, re.MULTILINE))
    if helps != types or max(helps.values()) > 1:
        yield f"every metric needs one HELP and one TYPE: {helps - types} {types - helps}"
    for name, family in parse_scrape(text).items():
        shown = f"{name}_total" if family.type == "counter" else name
        if shown not in helps:
            yield f"{name}: no HELP"
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            yield f"{name}: expected snake_case"
        if family.type == "counter" and not all(sample.name == shown for sample in family.samples):
            yield f"{name}: counters end in _total"
        if family.type != "counter" and name.endswith("_total"):
            yield f"{name}: only counters end in _total"
        if family.type != "histogram" and name.endswith(("_bucket", "_count", "_sum")):
            yield f"{name}: the suffix is reserved for histograms"
        words = name.split("_")
        if ABBREVIATIONS & set(words):
            yield f"{name}: abbreviated unit"
        if re.search(rf"_({OTHER_UNITS})(_|$)", name) and not {"seconds", "bytes"} & set(words):
            yield f"{name}: expected a base unit"
        if {"seconds", "bytes"} & set(words) and words[-1] not in BASE_UNITS:
            yield f"{name}: the unit belongs at the end"
        if {"counter", "gauge", "histogram"} & set(words):
            yield f"{name}: the name repeats the type"
        if family.type == "histogram" and not any(
            s.labels.get("le") == "+Inf" for s in family.samples if family.samples
        ):
            yield from [f"{name}: no bucket +Inf"] if family.samples else []
        for sample in family.samples:
            labels = set(sample.labels) - ({"le"} if family.type == "histogram" else set())
            if RESERVED_LABELS & labels:
                yield f"{name}: reserved label {RESERVED_LABELS & labels}"
