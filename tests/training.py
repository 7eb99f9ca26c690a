"""Settings for the few training steps that tests take with TRL on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def two_steps(out: Path) -> dict[str, Any]:
    """Arguments for any TRL configuration: two steps on the CPU, each logged, nothing saved or reported."""
    return {
        "output_dir": str(out),
        "max_steps": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
    }
