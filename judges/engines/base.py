"""The one seam to language models: token ids in, a `Generation` out.

An engine is asynchronous and takes one request at a time; it batches what is under way by itself. Callers that want
throughput submit many requests at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, runtime_checkable

from flex_judge.judges.judgments import Usage
from flex_judge.judges.media.prepared import PreparedMedia
from flex_judge.judges.validation.classes import (
    Fraction,
    Metavar,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    settings_class,
)

if TYPE_CHECKING:  # profiles hold limits of media, which load pydantic; an engine is made later
    from flex_judge.judges.models.profiles import Profile

FinishReason = Literal["stop", "eos", "length"]


@dataclass(frozen=True)
class Sampling:
    """How to continue a prompt."""

    max_tokens: int
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    """Generation ends with the token that completes one of these strings. That token is kept whole, so the text can
    run a few characters past the stop string."""
    regex: str | None = None
    """Only text that matches this regular expression as a whole can be generated."""
    logprob_token_ids: tuple[int, ...] = ()
    """At every generated position, report the log-probability of these tokens: of the model's distribution as
    masked by `regex`, before temperature."""
    sample_index: int = 0
    """Which of several draws of the same request this is. Engines ignore it; a ledger tells the draws apart by it."""
    seed: int | None = None
    """Of this request's draws, from 0 to 2**63 - 1: with it, the same request gives the same reply whatever else is
    computed beside it, but for rounding. None draws from the engine's own generator."""


@dataclass(frozen=True)
class Generation:
    """One continuation."""

    text: str
    """The decoded continuation, without the end-of-turn token."""
    token_ids: tuple[int, ...]
    """The generated tokens, without the end-of-turn token."""
    finish_reason: FinishReason
    """`stop`: a stop string; `eos`: the model ended its turn; `length`: `max_tokens` was reached."""
    logprobs: tuple[Mapping[int, float], ...] = ()
    """For each of `token_ids`, the log-probabilities of `Sampling.logprob_token_ids` (empty unless asked for)."""
    prompt_tokens: int = 0
    cached_tokens: int = 0

    @property
    def usage(self) -> Usage:
        return Usage(self.prompt_tokens, self.cached_tokens, len(self.token_ids))


@runtime_checkable
class Engine(Protocol):
    """What a judge or a policy needs of a model."""

    name: str
    """`vllm`, `transformers`, `scripted`."""
    model_id: str
    """Name and fingerprint of the model."""
    tokenizer: Any
    """The model's transformers tokenizer, with its chat template."""
    profile: Profile
    """The model's family."""
    max_model_len: int
    """Longest sequence, prompt and continuation together, in tokens."""
    max_batch: int
    """Requests that are computed at the same time; more than these wait."""

    async def generate(
        self, prompt_token_ids: Sequence[int], sampling: Sampling, media: Sequence[PreparedMedia] = ()
    ) -> Generation:
        """Continue one prompt. Cancelling the call gives the work up.

        Args:
            prompt_token_ids: with one placeholder pad token per medium, which the engine repeats as its model needs.
            sampling: how to continue.
            media: what the pads stand for, in their order.

        Raises:
            EngineLostError: the engine died.
        """
        ...

    async def check_health(self) -> None:
        """Raise EngineLostError if the engine can no longer answer; answers at once, also while the engine computes.

        An engine that is found to hang is ended, and everyone who waits for it gets an EngineLostError too.
        """
        ...

    def close(self) -> None:
        """Free the model and end every process and thread of the engine. Idempotent."""
        ...


@settings_class
class EngineConfig:
    """Which model runs in which engine, and how much of the machine it may use."""

    model: Annotated[str, Metavar("MODEL")]
    """Model: name of an embedded model, local folder or hub id."""
    engine: str = "auto"
    """Inference engine; auto is vllm where it is installed, else transformers."""
    dtype: str = "auto"
    """Torch dtype of the weights; auto is bfloat16 where the hardware computes in it, else float32."""
    adapter: Annotated[str, Metavar("MODEL")] | None = None
    """LoRA adapter on the model: folder or hub id."""
    max_model_len: PositiveInt = 8192
    """Context length in tokens, prompt and reply together; capped at what the model supports."""
    max_batch: PositiveInt = 64
    """Maximum number of requests that the engine computes at the same time."""
    seed: NonNegativeInt = 0
    """Sampling seed. Changing it invalidates cached judgments."""
    threads: PositiveInt | None = None
    """CPU threads (default: as the libraries choose)."""
    kv_cache_gib: PositiveFloat = 1.0
    """Memory for the KV cache on a CPU, in GiB; a GPU uses gpu_memory_utilization."""
    gpu_memory_utilization: Fraction = 0.85
    """Fraction of the GPU memory that vllm may use."""
    own_process: bool = False
    """Run vllm as AsyncLLM with the model in separate processes, which keeps a GPU busy while this process does other
    work. In this process vllm starts in a third of the time and memory, which matters on a CPU."""
    tensor_parallel: PositiveInt = 1
    """GPUs that one engine spreads its model over; above 1 needs vllm and own_process."""
    stall_s: PositiveFloat = 300.0
    """Seconds after which a running step of vllm counts as a lost engine. A first step may compile for minutes. A step
    of transformers is a whole batch and has no limit."""
    ledger: str | None = None
    """SQLite file that records every generation; recorded generations are not computed again."""
