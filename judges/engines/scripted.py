"""An engine without a model: a function from prompt to reply. Tests and dry runs replace this one seam."""

from __future__ import annotations

import asyncio
import importlib
import math
import re
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from flex_judge.judges.engines.base import EngineConfig, FinishReason, Generation, Sampling
from flex_judge.judges.errors import EngineLostError, UsageError
from flex_judge.judges.media.prepared import PreparedMedia
from flex_judge.judges.models.inputs.placeholders import PlaceholderTokens
from flex_judge.judges.models.profiles import CHAT, Profile

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Script = Callable[[str, Sampling], str | Awaitable[str]]
"""(prompt as text, sampling) -> the whole continuation; stop strings and `max_tokens` are applied by the engine."""

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class ScriptedEngine:
    """Answers from a script, one token per byte; obeys stop strings and `max_tokens` as a real engine would.

    A grammar (`Sampling.regex`) is not generated but checked: a script that answers outside it raises AssertionError.
    Log-probabilities put everything on the scripted token. Media are checked against the prompt's pads, as by every
    engine, and kept for tests to look at; the script sees one pad for each.
    """

    name = "scripted"
    model_id: str = "scripted"

    def __init__(self, script: Script, max_model_len: int = 16384, profile: Profile = CHAT) -> None:
        self.script = script
        self.profile = profile
        marks = [(p.opening, p.pad, p.closing) for p in profile.placeholders.values()]
        self.tokenizer = build_byte_tokenizer(tuple(dict.fromkeys(token for mark in marks for token in mark)))
        self._placeholders = PlaceholderTokens(profile, self.tokenizer)
        self.max_model_len = max_model_len
        self.max_batch = 1024
        self.requests: list[tuple[str, Sampling]] = []
        """Every request so far, as (prompt text, sampling)."""
        self.given: list[tuple[tuple[int, ...], Sampling]] = []
        """Every request so far, as (prompt token ids, sampling)."""
        self.media: list[tuple[PreparedMedia, ...]] = []
        """The media of every request so far."""
        self.closed = False

    async def generate(
        self, prompt_token_ids: Sequence[int], sampling: Sampling, media: Sequence[PreparedMedia] = ()
    ) -> Generation:
        await self.check_health()
        self._placeholders.locate_media(prompt_token_ids, media, self.max_model_len)
        prompt = self.tokenizer.decode(list(prompt_token_ids))
        self.requests.append((prompt, sampling))
        self.given.append((tuple(prompt_token_ids), sampling))
        self.media.append(tuple(media))
        reply = self.script(prompt, sampling)
        text = reply if isinstance(reply, str) else await reply
        await asyncio.sleep(0)  # let others run, as every real engine does
        if sampling.regex is not None and not re.fullmatch(sampling.regex, text):
            raise AssertionError(f"the script answers {text!r} where the grammar {sampling.regex!r} was asked for")
        reason, text = _cut_at_stop(text, sampling.stop)
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        if len(ids) > sampling.max_tokens:
            ids, reason = ids[: sampling.max_tokens], "length"
            text = self.tokenizer.decode(ids)
        logprobs = tuple({t: 0.0 if t == i else -math.inf for t in sampling.logprob_token_ids} for i in ids)
        return Generation(
            text,
            tuple(ids),
            reason,
            logprobs if sampling.logprob_token_ids else (),
            prompt_tokens=len(prompt_token_ids) + sum(self.profile.count_tokens(medium) - 1 for medium in media),
        )

    async def check_health(self) -> None:
        if self.closed:
            raise EngineLostError("the scripted engine was closed")

    def close(self) -> None:
        self.closed = True


def load(config: EngineConfig) -> ScriptedEngine:
    """Load the script that `config.model` names as `module:function`. An attribute `profile` of the function is its
    model family.
    """
    module, _, function = config.model.partition(":")
    try:
        script = getattr(importlib.import_module(module), function)
        engine = ScriptedEngine(script, profile=getattr(script, "profile", CHAT))
    except (ImportError, AttributeError, ValueError) as e:
        raise UsageError(
            f"model {config.model!r}: the scripted engine takes its script as module:function ({e})"
        ) from e
    engine.model_id = config.model  # so that two scripts do not share what a ledger holds
    return engine


@cache
def build_byte_tokenizer(control: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """A tokenizer of 256 bytes, two control tokens (and those of `control`) and the ChatML template; needs no file."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(t, special=True) for t in ("<|im_start|>", "<|im_end|>", *control)])
    options: dict[str, Any] = {"eos_token": "<|im_end|>", "pad_token": "<|im_end|>", "chat_template": CHATML}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **options)


def _cut_at_stop(text: str, stop: Sequence[str]) -> tuple[FinishReason, str]:
    """`text` up to and including the stop string that ends first."""
    ends = [text.index(s) + len(s) for s in stop if s in text]
    return ("stop", text[: min(ends)]) if ends else ("eos", text)
