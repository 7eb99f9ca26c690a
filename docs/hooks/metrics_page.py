"""The reference of the Prometheus metrics, read from the declarations in the service."""

from __future__ import annotations

from collections.abc import Callable
from unittest import mock

from tables import code, table

from flex_judge.reward.serving.ingress import PrometheusMetrics

KINDS = ("Counter", "Gauge", "Histogram")


def generate() -> str:
    """Write a table of all metrics under the names that Prometheus shows."""
    rows = [[code(_shown_name(kind, name)), kind.lower(), _labels(keys), text] for kind, name, text, keys in declared()]
    return "## Metrics of the service { #service }\n\n" + table(["Metric", "Type", "Labels", "Meaning"], sorted(rows))


def declared() -> list[tuple[str, str, str, tuple[str, ...]]]:
    """Return kind, name, description and labels of each metric that the service declares."""
    metrics: list[tuple[str, str, str, tuple[str, ...]]] = []

    def record(kind: str) -> Callable[..., mock.Mock]:
        def make(name: str, description: str, *arguments: object) -> mock.Mock:
            metrics.append((kind, name, description, arguments[-1]))  # type: ignore[arg-type]
            return mock.Mock()

        return make

    with mock.patch.multiple("ray.util.metrics", **{kind: record(kind) for kind in KINDS}):
        PrometheusMetrics("flex-judge")
    return metrics


def _shown_name(kind: str, name: str) -> str:
    """Ray adds a prefix to each metric, and a suffix to counters."""
    return f"ray_{name}_total" if kind == "Counter" else f"ray_{name}"


def _labels(keys: tuple[str, ...]) -> str:
    return ", ".join(map(code, keys))
