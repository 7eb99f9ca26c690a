"""An engine that keeps what it was asked, and what follows from such a log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flex_judge.judges.engines.base import Engine, Generation, Sampling
from flex_judge.judges.media.prepared import PreparedMedia

Log = list[tuple[tuple[int, ...], Sampling, Generation]]
"""Requests in the order in which they were made: prompt token ids, sampling, and what came of it."""


class LoggedEngine:
    """Another engine, with a log."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.log: Log = []
        self.name, self.model_id, self.profile = engine.name, engine.model_id, engine.profile
        self.tokenizer: Any = engine.tokenizer
        self.max_model_len, self.max_batch = engine.max_model_len, engine.max_batch

    async def generate(
        self, prompt_token_ids: Sequence[int], sampling: Sampling, media: Sequence[PreparedMedia] = ()
    ) -> Generation:
        place = len(self.log)
        self.log.append((tuple(prompt_token_ids), sampling, Generation("", (), "length")))
        generation = await self.engine.generate(prompt_token_ids, sampling, media)
        self.log[place] = (tuple(prompt_token_ids), sampling, generation)
        return generation

    async def check_health(self) -> None:
        await self.engine.check_health()

    def close(self) -> None:
        self.engine.close()


def split_into_waves(log: Log) -> list[Log]:
    """The log in waves that can be computed at once: what goes on from another request's prompt comes after it."""
    level: dict[tuple[int, ...], int] = {}
    ordered: list[Log] = []
    for prompt, sampling, generation in sorted(log, key=lambda entry: len(entry[0])):
        before = (level[prompt[:end]] for end in {len(p) for p in level} if end < len(prompt) and prompt[:end] in level)
        level[prompt] = max(before, default=-1) + 1
        if level[prompt] == len(ordered):
            ordered.append([])
        ordered[level[prompt]].append((prompt, sampling, generation))
    return ordered


def count_cacheable_tokens(log: Log, block: int) -> int:
    """The most prompt tokens that an engine can take from its cache, if it keeps all and reuses whole blocks.

    The last token of a prompt is always computed, and of a finished request all tokens but the last one were.
    """
    known: set[tuple[int, ...]] = set()
    total = 0
    for prompt, _, generation in log:
        hit = 0
        while hit + block <= len(prompt) - 1 and prompt[: hit + block] in known:
            hit += block
        total += hit
        whole = (prompt + generation.token_ids)[:-1]
        known.update(whole[:end] for end in range(block, len(whole) + 1, block))
    return total
