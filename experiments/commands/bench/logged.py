"""Engines that log their requests, and the statistics computed from such a log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flex_judge.judges.engines.base import Engine, Generation, Sampling
from flex_judge.judges.media.prepared import PreparedMedia

Log = list[tuple[tuple[int, ...], Sampling, Generation]]
"""Requests in the order of their submission: prompt token ids, sampling settings, generation."""
SALT_TOKENS = 8
SHARED, UNSHARED, PER_COMPARISON = "shared", "nothing shared", "each comparison alone"
"""Salt modes: one salt per run; one per request; one per comparison, so that its answer reuses its own thinking."""


@dataclass(kw_only=True)
class Measurement:
    """One run of one side of a bench."""

    seconds: float
    log: Log

    @property
    def prompt_tokens(self) -> int:
        """Prompt tokens of all requests."""
        return sum(generation.prompt_tokens for _, _, generation in self.log)

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens that the engine read from its cache."""
        return sum(generation.cached_tokens for _, _, generation in self.log)


class LoggedEngine:
    """Wrapper around another engine that logs every request."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.log: Log = []
        self.name, self.model_id, self.profile = engine.name, engine.model_id, engine.profile
        self.tokenizer: Any = engine.tokenizer
        self.max_model_len, self.max_batch = engine.max_model_len, engine.max_batch

    async def generate(
        self, prompt_token_ids: Sequence[int], sampling: Sampling, media: Sequence[PreparedMedia] = ()
    ) -> Generation:
        """Generate with the wrapped engine and log the request."""
        # The entry is reserved before the call, because the log is in the order of submission, not of completion.
        position = len(self.log)
        self.log.append((tuple(prompt_token_ids), sampling, Generation("", (), "length")))
        generation = await self.engine.generate(prompt_token_ids, sampling, media)
        self.log[position] = (tuple(prompt_token_ids), sampling, generation)
        return generation

    async def check_health(self) -> None:
        """Check the wrapped engine."""
        await self.engine.check_health()

    def close(self) -> None:
        """Close the wrapped engine."""
        self.engine.close()


class SaltedEngine(LoggedEngine):
    """Logged engine that inserts a salt of `SALT_TOKENS` digit tokens before every prompt.

    A prefix cache matches prompts from their first token, so two requests with different salts share nothing. All
    modes insert the same number of tokens, which keeps the amount of computation comparable.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        encoded = [self.tokenizer.encode(str(digit), add_special_tokens=False) for digit in range(10)]
        # The last id, because some tokenizers put a space token before a digit.
        self._digits = [ids[-1] for ids in encoded]
        self._mode, self._runs, self._count = SHARED, 0, 0
        self._salts: dict[tuple[int, ...], int] = {}

    def start_run(self, mode: str) -> None:
        """Start a run that shares no prefix with earlier runs, in one of the salt modes, with an empty log."""
        self._mode, self.log, self._runs, self._count = mode, [], self._runs + 1, 0
        self._salts.clear()

    async def generate(
        self, prompt_token_ids: Sequence[int], sampling: Sampling, media: Sequence[PreparedMedia] = ()
    ) -> Generation:
        """Generate from the salted prompt."""
        number = f"{self._runs:03}{self._choose_salt(tuple(prompt_token_ids)):0{SALT_TOKENS - 3}}"
        salt = [self._digits[int(digit)] for digit in number]
        return await super().generate([*salt, *prompt_token_ids], sampling, media)

    def _choose_salt(self, prompt: tuple[int, ...]) -> int:
        if self._mode == SHARED:
            return 0
        self._count += 1
        if self._mode == PER_COMPARISON:
            # The request for an answer extends the prompt of the request for its thinking, and must get its salt.
            for thinking_prompt, salt in self._salts.items():
                if prompt[: len(thinking_prompt)] == thinking_prompt:
                    return salt
            self._salts[prompt] = self._count
        return self._count


def split_into_waves(log: Log) -> list[Log]:
    """Split a log into waves whose requests can run together.

    A request whose prompt extends the prompt of another request needs that request's reply, so it is in a later wave.
    """
    level: dict[tuple[int, ...], int] = {}
    waves: list[Log] = []
    for prompt, sampling, generation in sorted(log, key=lambda entry: len(entry[0])):
        shorter_lengths = {len(p) for p in level if len(p) < len(prompt)}
        prefix_levels = [level[prompt[:end]] for end in shorter_lengths if prompt[:end] in level]
        level[prompt] = max(prefix_levels, default=-1) + 1
        if level[prompt] == len(waves):
            waves.append([])
        waves[level[prompt]].append((prompt, sampling, generation))
    return waves


def count_cacheable_tokens(log: Log, block: int) -> int:
    """Count the prompt tokens that an unlimited prefix cache with whole blocks of `block` tokens would serve.

    An engine always computes the last token of a prompt, and never caches the last token of a finished request.
    """
    cached_prefixes: set[tuple[int, ...]] = set()
    total = 0
    for prompt, _, generation in log:
        hit = 0
        while hit + block <= len(prompt) - 1 and prompt[: hit + block] in cached_prefixes:
            hit += block
        total += hit
        computed = (prompt + generation.token_ids)[:-1]
        cached_prefixes.update(computed[:end] for end in range(block, len(computed) + 1, block))
    return total
