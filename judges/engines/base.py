"""Engine interface, the only access to language models: token ids in, a `Generation` out.

Engines are asynchronous and batch concurrent requests internally. Callers that want throughput submit many requests at
once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
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

if TYPE_CHECKING:  # importing profiles loads pydantic, which not every user of this module needs
    from flex_judge.judges.models.profiles import Profile

FinishReason = Literal["stop", "eos", "length"]
REMOTE = "remote"
"""Name of the engine whose model runs on a server of the user."""
NEVER = -100.0
"""Logit bias of tokens that are never generated: the strongest that vllm accepts, in a process or over HTTP."""


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters of one request."""

    max_tokens: int
    """Maximum number of tokens to generate."""
    temperature: float = 0.0
    """Sampling temperature; 0 is greedy decoding."""
    top_p: float = 1.0
    """Nucleus sampling: probability mass to sample from."""
    stop: tuple[str, ...] = ()
    """Stop strings. Generation ends with the token that completes one. That token is kept in full, so the text can
    extend a few characters past the stop string."""
    regex: str | None = None
    """Regular expression that the complete generated text must match (grammar-constrained decoding)."""
    logprob_token_ids: tuple[int, ...] = ()
    """Tokens to report log-probabilities for at every generated position. They come from the model's distribution
    after the mask of `regex` and before temperature."""
    sample_index: int = 0
    """Index of the sample among several of the same request. Engines ignore it; a ledger stores each index
    separately."""
    seed: int | None = None
    """Random seed of this request, 0 to 2**63 - 1. A seeded request gives the same reply in any batch, up to rounding.
    None uses the engine's own generator."""


@dataclass(frozen=True)
class Generation:
    """Continuation of one prompt."""

    text: str
    """Decoded text, without the end-of-turn token."""
    token_ids: tuple[int, ...]
    """Generated tokens, without the end-of-turn token."""
    finish_reason: FinishReason
    """`stop`: a stop string was generated; `eos`: the model ended its turn; `length`: `max_tokens` was reached."""
    logprobs: tuple[Mapping[int, float], ...] = ()
    """Log-probabilities of `Sampling.logprob_token_ids` at each of `token_ids`; empty unless requested."""
    prompt_tokens: int = 0
    """Length of the prompt in tokens, media included."""
    cached_tokens: int = 0
    """Prompt tokens that were served from the prefix cache."""

    @property
    def usage(self) -> Usage:
        """Token counts of the request."""
        return Usage(self.prompt_tokens, self.cached_tokens, len(self.token_ids))


@runtime_checkable
class Engine(Protocol):
    """Inference engine with one loaded model."""

    name: str
    """Name of the engine: `vllm`, `transformers`, `remote` or `scripted`."""
    model_id: str
    """Name and fingerprint of the model."""
    tokenizer: Any
    """Transformers tokenizer of the model, with its chat template."""
    profile: Profile
    """Model family."""
    max_model_len: int
    """Longest sequence in tokens, prompt and continuation together."""
    max_batch: int
    """Maximum number of requests computed at the same time; further requests wait."""

    async def generate(
        self, prompt_token_ids: Sequence[int], sampling: Sampling, media: Sequence[PreparedMedia] = ()
    ) -> Generation:
        """Continue one prompt. Cancelling the call cancels the computation.

        Args:
            prompt_token_ids: the prompt, with one placeholder token per medium; the engine repeats it as often as its
                model needs.
            sampling: sampling parameters.
            media: media of the placeholders, in order.

        Raises:
            EngineLostError: the engine has ended.
        """
        ...

    async def check_health(self) -> None:
        """Raise EngineLostError if the engine has ended or hangs. Returns at once, also while the engine computes.

        An engine that hangs is shut down, and its pending requests fail with EngineLostError too.
        """
        ...

    def close(self) -> None:
        """Free the model and end all processes and threads of the engine. Idempotent."""
        ...


@settings_class
class EngineConfig:
    """Model, engine, and the machine resources that the engine may use."""

    model: Annotated[str, Metavar("MODEL")]
    """Judge model: embedded name, local folder, hub id, or URL#NAME of a model that your own server runs."""
    engine: str = "auto"
    """Inference engine; auto is remote for a URL, else vllm if installed, else transformers."""
    dtype: str = "auto"
    """Torch dtype of the weights; auto is bfloat16 if the hardware supports it, else float32."""
    adapter: Annotated[str, Metavar("MODEL")] | None = None
    """LoRA adapter of the judge: folder or hub id."""
    max_model_len: PositiveInt = 8192
    """Context length in tokens, prompt and reply together; capped at the model's own."""
    max_batch: PositiveInt = 64
    """Maximum number of requests that the engine computes at the same time."""
    seed: NonNegativeInt = 0
    """Sampling seed. Changing it invalidates cached judgments."""
    threads: PositiveInt | None = None
    """Number of CPU threads (default: chosen by the libraries)."""
    kv_cache_gib: PositiveFloat = 1.0
    """KV cache on a CPU, in GiB; on a GPU, gpu_memory_utilization applies instead."""
    gpu_memory_utilization: Fraction = 0.85
    """Fraction of the GPU memory that vllm may use."""
    own_process: bool = False
    """Run vllm with the model in separate processes, which keeps a GPU busy while this process does other work. In
    this process, vllm starts in a third of the time and memory, which matters on a CPU."""
    tensor_parallel: PositiveInt = 1
    """Number of GPUs per engine (tensor parallelism); above 1 needs vllm and own_process."""
    stall_s: PositiveFloat = 300.0
    """Seconds after which a running vllm step, or a server without a response, counts as hung. A first step may
    compile for minutes. A transformers step is a whole batch and has no limit."""
    ledger: str | None = None
    """SQLite file that records every generation; recorded generations are not recomputed."""
    max_adapter_rank: NonNegativeInt = 0
    """Maximum rank of LoRA adapters that are loaded while the engine runs, see `FlexJudge.load_adapter`; 0 loads none.
    Above 0, the first adapter is not merged into the weights, which costs some speed."""
    allow_sleep: bool = False
    """Whether the engine may be put to sleep while it runs, see `FlexJudge.sleep`. On a GPU, vllm then allocates its
    memory in another way."""
    engine_arg: Annotated[tuple[str, ...], Metavar("NAME=VALUE")] = ()
    """Argument of vllm's engine, such as gpu_memory_utilization=0.5; the value is YAML; may be repeated. --help-all
    lists them."""
    model_key: Annotated[str, Metavar("env:NAME|FILE")] | None = None
    """API key of the server of a remote model: an environment variable or a file."""
    model_tokenizer: Annotated[str, Metavar("MODEL")] | None = None
    """Tokenizer of a remote model: folder or hub id (default: the model that the server names)."""

    def __post_init__(self) -> None:
        if self.model_key is not None and not self.model_key.startswith("env:"):
            # Absolute, because replicas have other working directories.
            object.__setattr__(self, "model_key", str(Path(self.model_key).expanduser().absolute()))

    @property
    def is_remote(self) -> bool:
        """Whether a server of the user runs the model, so that the engine needs no GPU."""
        return self.engine == REMOTE or (self.engine == "auto" and is_address(self.model))


def find_server(engine: Engine) -> Mapping[str, Any] | None:
    """Return what is known of the server that runs an engine's model; None for a model in this process."""
    server: Mapping[str, Any] | None = getattr(engine, "server", None)
    return server


def is_address(model: str) -> bool:
    """Whether a model is named by the address of its server."""
    return model.startswith(("http://", "https://"))
