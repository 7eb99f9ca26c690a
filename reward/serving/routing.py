"""Prefix affinity as a request router of Ray Serve. Only the service imports this module, because it imports Ray."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from flex_judge.reward.serving.affinity import Affinity

PREFIX = "prefix"
"""Keyword argument of a request with the key of its prompt."""


class PrefixRouter(RequestRouter):  # type: ignore[misc] # Ray has no types
    """Router that sends requests with the same `prefix` to the same replica, with bounded load, see `Affinity`.

    Ray Serve tries the next replica of the ranking if one is full, waits if all are full, and drops dead replicas.
    """

    def initialize_state(self, **settings: Any) -> None:
        """Create the affinity from `request_router_kwargs`."""
        self._affinity = Affinity(**settings)
        self._running: Counter[ReplicaID] = Counter()

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Rank the replicas for a request; each is a group of its own, which Serve tries in order."""
        prefix = pending_request.kwargs.get(PREFIX) if pending_request is not None else None
        by_name = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        loads = {name: self._running[replica.replica_id] for name, replica in by_name.items()}
        return [[by_name[name]] for name in self._affinity.rank_replicas(prefix, loads)]

    # Serve's own counts are a cache that may lack a replica, so this router counts its requests itself. Serve reports
    # the completion of every sent request exactly once, also if the replica refused it.
    def on_send_request(self, replica_id: ReplicaID) -> None:
        """Count a request as running."""
        super().on_send_request(replica_id)
        self._running[replica_id] += 1

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """Count a request as finished."""
        super().on_request_completed(replica_id, internal_request_id)
        self._running[replica_id] -= 1
        if self._running[replica_id] <= 0:
            del self._running[replica_id]
