"""Which replica a prompt's candidates go to: the one that has their prompt in its cache, unless it is overloaded.

Pure: no Ray, no clock. `flex_judge.reward.serving.routing` puts it into Ray Serve.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, OrderedDict
from collections.abc import Mapping

DEFAULT_SLACK = 16
"""Requests that a replica may have under way before its load counts: a group of usual size stays together."""
OVERLOAD_FACTOR = 1.25
"""A replica is overloaded with more than this many times the mean load (bounded loads, arXiv 1608.01350)."""
MAX_PROMPTS = 100_000
"""Prompts whose replicas are remembered; the longest unused is forgotten first."""


class Affinity:
    """Sends what shares a prompt to the replicas that had it before, with bounded load.

    A new prompt goes to the replica with the least under way; where several have, to the one with the fewest prompts,
    and then to the one that a hash of prompt and replica names, so that routers that know nothing of each other tend
    to agree. What follows goes there too until that replica is overloaded; then to the least loaded one, which has
    the prompt from then on as well.
    """

    def __init__(
        self, slack: int = DEFAULT_SLACK, overload: float = OVERLOAD_FACTOR, remembered: int = MAX_PROMPTS
    ) -> None:
        self.slack, self.overload, self.remembered = slack, overload, remembered
        self._homes: OrderedDict[str, list[str]] = OrderedDict()
        self._placed: Counter[str] = Counter()

    def rank_replicas(self, prompt: str | None, loads: Mapping[str, int]) -> list[str]:
        """The replicas, best first, and the first of them remembered as one that has the prompt.

        Args:
            prompt: what the candidates share, as a key; None where nothing is known.
            loads: requests under way at each replica that is there.
        """
        # In a burst, prompts are placed faster than what they bring is under way, so those placed count as well.
        least = sorted(
            loads, key=lambda replica: (loads[replica], self._placed[replica], _hash_replica(prompt, replica))
        )
        if prompt is None or not least:
            return least
        bound = max(self.slack, math.ceil(self.overload * (sum(loads.values()) + 1) / len(loads)))
        homes = [replica for replica in self._homes.pop(prompt, []) if replica in loads]
        chosen = next((replica for replica in homes if loads[replica] < bound), least[0])
        if chosen not in homes:
            homes.append(chosen)
            self._placed[chosen] += 1
        self._homes[prompt] = homes
        if len(self._homes) > self.remembered:
            self._homes.popitem(last=False)
        return list(dict.fromkeys([chosen, *sorted(homes, key=lambda replica: loads[replica]), *least]))


def _hash_replica(prompt: str | None, replica: str) -> bytes:
    return hashlib.sha256(f"{prompt}:{replica}".encode()).digest()
