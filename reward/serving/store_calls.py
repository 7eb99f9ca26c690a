"""Calls to the deployment `KeptWork` from other processes of a service."""

from __future__ import annotations

from contextvars import Context
from typing import Any


async def call_store(method: Any, *args: Any) -> Any:
    """Call a method of the store through its handle."""
    # In a new context, as for the calls of `ReplicaSender`.
    response = Context().run(method.remote, *args)
    return await response
