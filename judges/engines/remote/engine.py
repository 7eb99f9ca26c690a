"""Engine whose model runs on the user's own server, at the level of token ids.

`load` asks the server what it offers and refuses it if something is missing, so that a verdict is made with the same
tokens, grammars and log-probabilities as in this process.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flex_judge.judges.engines.base import REMOTE, EngineConfig, Generation, Sampling
from flex_judge.judges.engines.remote.address import ServedModel
from flex_judge.judges.engines.remote.messages import build_request, read_generation
from flex_judge.judges.engines.remote.probing import ServerModel, ServerProbe, check_settings
from flex_judge.judges.engines.remote.transport import Transport
from flex_judge.judges.errors import EngineLostError, MediaError, ModelNotFoundError
from flex_judge.judges.media.prepared import PreparedMedia
from flex_judge.judges.models import WEIGHT_PATTERNS, resolve_tokenizer
from flex_judge.judges.models.cache import fingerprint_folder
from flex_judge.judges.models.checkpoints import collect_stop_ids, read_json
from flex_judge.judges.models.inputs.placeholders import PlaceholderTokens
from flex_judge.judges.models.profiles import Profile, detect_profile
from flex_judge.judges.models.tokenizers import load_tokenizer

LEVEL = "tokens"
"""Level of judging: prompts and replies are token ids, answers have grammars and log-probabilities."""


def load(config: EngineConfig) -> RemoteEngine:
    """Connect to the server of a model, and check what it offers.

    Raises:
        ServiceUnavailableError: the server does not answer.
        EngineUnavailableError: the server cannot judge with token ids.
        ModelNotFoundError: the tokenizer is not available.
        UsageError: the address, the key, the name or the tokenizer is wrong.
    """
    check_settings(config)
    with ServerProbe(config) as probe:
        model = probe.find_model()
        tokenizer_name = probe.name_tokenizer(model)
        folder = find_tokenizer(config, tokenizer_name)
        tokenizer = load_tokenizer(folder)
        probe.check_tokenizer(model, tokenizer, tokenizer_name)
        probe.check_token_level(model, tokenizer)
        return RemoteEngine(config, model, folder, tokenizer, probe.key)


class RemoteEngine:
    """Engine that sends each request to a server; usable from any event loop."""

    name = REMOTE

    def __init__(self, config: EngineConfig, model: ServerModel, folder: Path, tokenizer: Any, key: str | None) -> None:
        """Create the engine; sends nothing.

        Args:
            config: limits of the engine.
            model: the served model.
            folder: folder with its configuration and its tokenizer.
            tokenizer: the tokenizer.
            key: API key of the server, or None.
        """
        checkpoint_config, vocabulary = read_json(folder / "config.json"), tokenizer.get_added_vocab()
        self.tokenizer = tokenizer
        self.profile: Profile = detect_profile(checkpoint_config, vocabulary)
        self.max_model_len = min(config.max_model_len, model.max_model_len or config.max_model_len)
        self.max_batch = config.max_batch
        fingerprint, is_complete = _fingerprint_model(model, folder)
        self.model_id = f"{model.name}@{fingerprint}"
        self.server: Mapping[str, Any] = {
            "url": model.url,
            "level": LEVEL,
            "software": model.software or "unknown",
            "weights": f"{'files of' if is_complete else 'not verified: the server names'} {model.root or 'none'}",
        }
        """Facts about the server, for the provenance of judgments."""
        self._name, self._stall_s = model.name, config.stall_s
        self._placeholders = PlaceholderTokens(self.profile, tokenizer)
        self._stop_ids = sorted(collect_stop_ids(folder, tokenizer, vocabulary, self.profile))
        self._transport = Transport(model.url, key, config.stall_s, config.max_batch)
        self._health_url = f"{ServedModel(model.url, model.name).root_url}/health"
        self._probe: asyncio.Task[bool] | None = None

    async def generate(
        self, prompt_token_ids: Sequence[int], sampling: Sampling, media: Sequence[PreparedMedia] = ()
    ) -> Generation:
        """Continue one prompt, see `Engine.generate`. Cancelling the call closes its connection.

        Raises:
            EngineLostError: the server has not answered for `stall_s`, or the engine was closed.
            GenerationError: the server fails at this request, or its response is not what was asked for.
            MediaError: there are media.
            UsageError: the server rejects the request.
        """
        if media:
            raise MediaError(
                f"{media[0].modality}: a remote model with token ids takes text only; judge media with an engine in "
                "this process"
            )
        self._placeholders.locate_media(prompt_token_ids, media, self.max_model_len)
        forbidden = list(self._placeholders.ids.values())
        request = build_request(self._name, prompt_token_ids, sampling, self._stop_ids, forbidden)
        body = await self._transport.post("/completions", request)
        return read_generation(body, sampling, prompt_token_ids, self.tokenizer)

    async def check_health(self) -> None:
        """Raise EngineLostError if the engine was closed or the server has not answered for `stall_s`.

        Each call asks the server in the background, so that an idle engine notices too.
        """
        self._transport.check_open()
        loop = asyncio.get_running_loop()
        if self._probe is None or self._probe.done() or self._probe.get_loop() is not loop:
            self._probe = asyncio.create_task(self._transport.is_answering(self._health_url))
        if self._transport.away_s > self._stall_s:
            raise EngineLostError(f"{self._transport.url}: no answer for {self._stall_s:g} s")

    def close(self) -> None:
        """Close the connections; the server continues. Idempotent."""
        self._transport.close()


def find_tokenizer(config: EngineConfig, name: str) -> Path:
    """Find the folder of a remote model's tokenizer, on this machine or the hub.

    Raises:
        ModelNotFoundError: it is in neither.
    """
    try:
        return resolve_tokenizer(name)
    except ModelNotFoundError as e:
        if config.model_tokenizer is not None:
            raise
        raise ModelNotFoundError(
            f"the server names {name!r}, which is not available here; name the tokenizer's folder or hub id with "
            f"--model-tokenizer ({e})"
        ) from e


def _fingerprint_model(model: ServerModel, tokenizer_folder: Path) -> tuple[str, bool]:
    """Identify the weights as far as the server tells them.

    Returns:
        Twelve hex digits, and whether they identify the weights. They do if the files that the server names can be read
        here; otherwise they identify the names of the files and the tokenizer only.
    """
    folders = [Path(name).expanduser() for name in dict.fromkeys((model.base, model.root))]
    if model.root and all(any(any(f.glob(pattern)) for pattern in WEIGHT_PATTERNS) for f in folders):
        fingerprints = [fingerprint_folder(folder) for folder in folders]
        if len(fingerprints) == 1:
            return fingerprints[0], True
        return hashlib.sha256("+".join(fingerprints).encode()).hexdigest()[:12], True
    names = (model.base, model.root, fingerprint_folder(tokenizer_folder))
    return hashlib.sha256(repr(names).encode()).hexdigest()[:12], False
