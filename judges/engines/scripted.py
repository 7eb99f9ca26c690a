"""Engine without a model: replies come from a Python function. Tests and dry runs use it in place of a real engine."""

from __future__ import annotations

import asyncio
import importlib
import math
import re
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from flex_judge.judges.engines.adapters import AdaptedEngine, Adapter
from flex_judge.judges.engines.base import Engine, EngineConfig, FinishReason, Generation, Sampling
from flex_judge.judges.engines.sleep import EngineSleeper
from flex_judge.judges.errors import AdapterError, EngineLostError, UsageError, to_one_line
from flex_judge.judges.media.prepared import PreparedMedia
from flex_judge.judges.models.inputs.placeholders import PlaceholderTokens
from flex_judge.judges.models.profiles import CHAT, Profile

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Script = Callable[[str, Sampling], str | Awaitable[str]]
"""(prompt text, sampling) -> complete reply. The engine applies stop strings and `max_tokens` to it."""

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class ScriptedEngine:
    """Engine that replies from a script, one token per byte, and applies stop strings and `max_tokens`.

    A grammar (`Sampling.regex`) is only checked: a script that replies outside it raises UsageError. The scripted
    token gets log-probability 0, all others minus infinity. Media are checked against the placeholders of the prompt,
    as by every engine, and recorded for tests; the script sees one placeholder token per medium.

    Example:
        >>> engine = ScriptedEngine(lambda prompt, sampling: "<answer>4</answer>")
    """

    name = "scripted"
    model_id: str = "scripted"

    def __init__(self, script: Script, max_model_len: int = 16384, profile: Profile = CHAT) -> None:
        self.script = script
        self.profile = profile
        marks = [token for p in profile.placeholders.values() for token in (p.opening, p.pad, p.closing)]
        self.tokenizer = build_byte_tokenizer(tuple(dict.fromkeys(marks)))
        self._placeholders = PlaceholderTokens(profile, self.tokenizer)
        self.max_model_len = max_model_len
        self.max_batch = 1024
        self.requests: list[tuple[str, Sampling]] = []
        """All requests so far, as (prompt text, sampling)."""
        self.given: list[tuple[tuple[int, ...], Sampling]] = []
        """All requests so far, as (prompt token ids, sampling)."""
        self.media: list[tuple[PreparedMedia, ...]] = []
        """Media of all requests so far."""
        self.closed = False
        self.sleeper = EngineSleeper(self.name, self._change_nothing, self._change_nothing)
        """Sleep state; a script has no memory to free."""

    async def generate(
        self,
        prompt_token_ids: Sequence[int],
        sampling: Sampling,
        media: Sequence[PreparedMedia] = (),
        adapter: Script | None = None,
    ) -> Generation:
        """Reply from the script, see `Engine.generate`; an adapter is a script that replaces it."""
        await self.check_health()
        with self.sleeper.track_request():
            return await self._run_script(prompt_token_ids, sampling, media, adapter or self.script)

    async def _run_script(
        self, prompt_token_ids: Sequence[int], sampling: Sampling, media: Sequence[PreparedMedia], script: Script
    ) -> Generation:
        self._placeholders.locate_media(prompt_token_ids, media, self.max_model_len)
        prompt = self.tokenizer.decode(list(prompt_token_ids))
        self.requests.append((prompt, sampling))
        self.given.append((tuple(prompt_token_ids), sampling))
        self.media.append(tuple(media))
        reply = script(prompt, sampling)
        text = reply if isinstance(reply, str) else await reply
        await asyncio.sleep(0)  # yield to other tasks, as every real engine does
        if sampling.regex is not None and not re.fullmatch(sampling.regex, text):
            raise UsageError(
                f"script: returned {text!r}; with Sampling.regex set, return only text that matches {sampling.regex!r}"
            )
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
            prompt_tokens=self.profile.count_prompt_tokens(prompt_token_ids, media),
        )

    async def load_adapter(self, adapter: Adapter) -> Engine:
        """Load an adapter if the script can: its attribute `load_adapter` takes a folder and returns another script."""
        load_script = getattr(self.script, "load_adapter", None)
        if load_script is None:
            raise AdapterError(f"adapter {adapter.name!r}: this script of the scripted engine takes no adapters")
        try:
            script = await asyncio.to_thread(load_script, adapter.folder)
        except Exception as e:  # the script is the user's own code, which may raise anything
            raise AdapterError(f"adapter {adapter.name!r}: the script cannot load it: {to_one_line(e)}") from e
        return AdaptedEngine(self, script, f"{self.model_id}+{adapter.identity}")

    async def _change_nothing(self, level: int) -> None:
        pass

    async def check_health(self) -> None:
        """Raise EngineLostError if the engine was closed."""
        if self.closed:
            raise EngineLostError("the scripted engine was closed")

    def close(self) -> None:
        """End the engine; later requests fail."""
        self.closed = True


def load(config: EngineConfig) -> ScriptedEngine:
    """Load the script that `config.model` names as `module:function`.

    The model family is the function's attribute `profile`, if it has one.

    Raises:
        UsageError: no such module or function.
    """
    script = load_script(config.model)
    engine = ScriptedEngine(script, profile=getattr(script, "profile", CHAT))
    engine.model_id = config.model  # so that two scripts do not share the generations in a ledger
    return engine


def load_script(name: str) -> Script:
    """Import the script that `name` gives as `module:function`; loads no model library.

    Raises:
        UsageError: no such module or function.
    """
    module, _, function = name.partition(":")
    try:
        script = getattr(importlib.import_module(module), function)
    except Exception as e:  # the module is the user's own code, which may raise anything
        raise UsageError(
            f"model {name!r}: expected a script as module:function, with the module on PYTHONPATH; {to_one_line(e)}"
        ) from e
    if not callable(script):
        raise UsageError(f"model {name!r}: expected a function as module:function, got a {type(script).__name__}")
    return cast(Script, script)


@cache
def build_byte_tokenizer(control: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """Build a tokenizer with one token per byte, two control tokens and the ChatML template. Needs no files.

    Args:
        control: further control tokens.
    """
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
    """Cut `text` after the stop string that ends first."""
    ends = [text.index(s) + len(s) for s in stop if s in text]
    return ("stop", text[: min(ends)]) if ends else ("eos", text)
