"""Prefix affinity as a request router of Ray Serve. Only the service loads this module: it imports Ray."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from flex_judge.reward.serving.affinity import Affinity

PREFIX = "prefix"
"""The keyword argument of a request that says which prompt it shares with others."""


class PrefixRouter(RequestRouter):  # type: ignore[misc] # Ray has no types
    """Sends requests with the same `prefix` to the same replica, with bounded load, see `Affinity`.

    Ray Serve does the rest: it asks the next replica of the ranking where one has no room, forgets replicas that died
    and waits where all are full.
    """

    def initialize_state(self, **settings: Any) -> None:
        """Take `request_router_kwargs`: the settings of Affinity."""
        self._affinity = Affinity(**settings)
        self._under_way: Counter[ReplicaID] = Counter()

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        prefix = pending_request.kwargs.get(PREFIX) if pending_request is not None else None
        by_name = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        loads = {name: self._under_way[replica.replica_id] for name, replica in by_name.items()}
        return [[by_name[name]] for name in self._affinity.rank_replicas(prefix, loads)]

    # Serve's own counts are a cache that may lack a replica; these are exact for what this router sent. Every sent
    # request is completed once, also one that the replica refuses.
    def on_send_request(self, replica_id: ReplicaID) -> None:
        super().on_send_request(replica_id)
        self._under_way[replica_id] += 1

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        super().on_request_completed(replica_id, internal_request_id)
        self._under_way[replica_id] -= 1
        if self._under_way[replica_id] <= 0:
            del self._under_way[replica_id]
