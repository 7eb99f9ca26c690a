"""The reference of the Prometheus metrics, read from the declarations in the service."""

from __future__ import annotations

from tables import code, table

from flex_judge.reward.server.prometheus import list_series


def generate() -> str:
    """Write a table of all metrics under the names that Prometheus shows."""
    rows = [[code(name), kind, ", ".join(map(code, labels)), text] for name, kind, labels, text in list_series()]
    return "## Metrics of the service { #service }\n\n" + table(["Metric", "Type", "Labels", "Meaning"], sorted(rows))
