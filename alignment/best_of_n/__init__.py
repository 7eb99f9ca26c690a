"""Best-of-N: choosing the best sample, successive halving and pass@N metrics.

May import judges and reward.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flex_judge.lazy import lazy_exports

if TYPE_CHECKING:
    from flex_judge.alignment.best_of_n.selection import (
        Choice,
        Selection,
        SelectionSpec,
        choose_best,
        judgment_sort_key,
        select_best,
    )

__getattr__ = lazy_exports(
    __name__,
    {
        "flex_judge.alignment.best_of_n.selection": [
            "Choice",
            "Selection",
            "SelectionSpec",
            "choose_best",
            "judgment_sort_key",
            "select_best",
        ]
    },
)

__all__ = ["Choice", "Selection", "SelectionSpec", "choose_best", "judgment_sort_key", "select_best"]
