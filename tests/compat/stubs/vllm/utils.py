"""Ids of requests."""

from __future__ import annotations

from uuid import uuid4


def random_uuid() -> str:
    """Make an id."""
    return uuid4().hex
