"""Prefix affinity: route a prompt's candidates to the replica that has the prompt cached, unless it is overloaded.

Pure: no Ray, no clock. `flex_judge.reward.serving.routing` connects it to Ray Serve.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, OrderedDict
from collections.abc import Mapping

DEFAULT_SLACK = 16
"""Number of running requests of a replica below which its load is ignored, so that a typical group stays together."""
OVERLOAD_FACTOR = 1.25
"""A replica with more than this multiple of the mean load is overloaded (bounded loads, arXiv 1608.01350)."""
MAX_PROMPTS = 100_000
"""Number of prompts whose replicas are remembered; the least recently used one is forgotten first."""


class Affinity:
    """Assignment of prompts to replicas with bounded load.

    A new prompt goes to the least loaded replica. Ties are broken by the fewest assigned prompts, then by a hash of
    prompt and replica, so that independent routers tend to agree. Further requests with the prompt go to the same
    replica until it is overloaded. Then they go to the least loaded replica, which is assigned the prompt as well.
    """

    def __init__(
        self, slack: int = DEFAULT_SLACK, overload: float = OVERLOAD_FACTOR, max_prompts: int = MAX_PROMPTS
    ) -> None:
        self.slack, self.overload, self.max_prompts = slack, overload, max_prompts
        self._replicas_by_prompt: OrderedDict[str, list[str]] = OrderedDict()
        self._num_prompts: Counter[str] = Counter()

    def rank_replicas(self, prompt: str | None, loads: Mapping[str, int]) -> list[str]:
        """Rank the replicas for a request, best first, and assign the prompt to the first one.

        Args:
            prompt: key of the prompt that the candidates share; None if unknown.
            loads: number of running requests of each available replica.
        """
        # In a burst, prompts are assigned before their requests count as load, so assigned prompts break ties.
        by_load = sorted(
            loads, key=lambda replica: (loads[replica], self._num_prompts[replica], _hash_replica(prompt, replica))
        )
        if prompt is None or not by_load:
            return by_load
        max_load = max(self.slack, math.ceil(self.overload * (sum(loads.values()) + 1) / len(loads)))
        assigned = [replica for replica in self._replicas_by_prompt.pop(prompt, []) if replica in loads]
        first = next((replica for replica in assigned if loads[replica] < max_load), by_load[0])
        if first not in assigned:
            assigned.append(first)
            self._num_prompts[first] += 1
        self._replicas_by_prompt[prompt] = assigned
        if len(self._replicas_by_prompt) > self.max_prompts:
            self._replicas_by_prompt.popitem(last=False)
        # The other assigned replicas come next: they have the prompt cached too.
        return list(dict.fromkeys([first, *sorted(assigned, key=lambda replica: loads[replica]), *by_load]))


def _hash_replica(prompt: str | None, replica: str) -> bytes:
    return hashlib.sha256(f"{prompt}:{replica}".encode()).digest()
