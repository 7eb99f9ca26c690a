"""What tells the groups of one training run from those of every other that asks the same service."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any
from uuid import uuid4

_LOCK = threading.Lock()
_names: list[str] = []


def run_name() -> str:
    """A name that all ranks of this run have and nobody else; another one after every start.

    The first call is a broadcast where torch.distributed is set up, so all ranks must make it, as they do when their
    trainer rewards a step.
    """
    with _LOCK:  # two reward functions that run side by side must not broadcast in another order on every rank
        if not _names:
            _names.append(_shared(uuid4().hex[:16]))
        return _names[0]


def ranks() -> int:
    """How many processes train."""
    distributed = _distributed()
    return int(distributed.get_world_size()) if distributed else int(os.environ.get("WORLD_SIZE") or 1)


def _shared(name: str) -> str:
    distributed = _distributed()
    if distributed is None or distributed.get_world_size() == 1:
        return name
    told = [name]
    distributed.broadcast_object_list(told, src=0)
    return str(told[0])


def _distributed() -> Any:
    """torch.distributed where it is set up. It is not imported for that: trainers have done so."""
    torch = sys.modules.get("torch.distributed")
    return torch if torch is not None and torch.is_available() and torch.is_initialized() else None
