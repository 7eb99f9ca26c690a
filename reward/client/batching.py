"""Which completions and comparisons go to the service in one request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Batch:
    """Items of one request."""

    at: tuple[int, ...]
    """Their numbers within the call."""
    waits: bool = False
    """Whether they wait at the service for members of their group that come from elsewhere."""


def batches_of(groups: Sequence[str], most: int, group_size: int | None = None) -> list[Batch]:
    """Items as requests of `most` items. What is of one group stays together, however many that are.

    Groups that are not complete within this call come first, each in a request of its own: a group's time runs from
    its first member on, and an answer comes only when all of its request is there.

    Args:
        groups: the group of each item.
        group_size: members of a complete group, where groups wait for theirs; None if none does.
    """
    members: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    fragments: list[Batch] = []
    packed: list[list[int]] = []
    for at in members.values():
        if group_size is not None and len(at) % group_size:
            fragments.append(Batch(tuple(at), waits=True))
        elif packed and len(packed[-1]) + len(at) <= most:
            packed[-1] += at
        else:
            packed.append(list(at))
    return [*fragments, *(Batch(tuple(at)) for at in packed)]
