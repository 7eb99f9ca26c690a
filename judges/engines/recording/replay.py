"""Replay engine: answers requests from a ledger alone, without the recorded model.

The model name is the path of a ledger. If the ledger holds several models, `PATH#MODEL` selects one: MODEL is a prefix
of a model id (`ledger.sqlite#smollm2`), or of engine and model id (`ledger.sqlite#vllm:smollm2`) if two engines ran it.
"""

from __future__ import annotations

import asyncio
import io
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flex_judge.judges.engines.base import Engine, EngineConfig, Generation, Sampling
from flex_judge.judges.engines.recording.ledger import REMEDY, Ledger, RecordedModel, compute_generation_key
from flex_judge.judges.errors import LedgerError, NotRecordedError
from flex_judge.judges.media.prepared import PreparedMedia
from flex_judge.judges.models.profiles import PROFILES
from flex_judge.judges.models.tokenizers import load_tokenizer


def load(config: EngineConfig) -> ReplayEngine:
    """Open the ledger that `config.model` names.

    Raises:
        LedgerError: no such ledger, or not exactly one of its models matches.
    """
    # A file name may itself contain a hash, so a name that is a file is taken as a path.
    path, _, model = config.model.rpartition("#")
    if not path or Path(config.model).expanduser().is_file():
        path, model = config.model, ""
    ledger = Ledger(path, read_only=True)
    try:
        return ReplayEngine(ledger, _choose_model(ledger, model), config.max_model_len)
    except BaseException:
        ledger.close()
        raise


class ReplayEngine:
    """Engine that takes the identity of the recorded engine, so that equal requests have equal ledger keys."""

    def __init__(self, ledger: Ledger, model: RecordedModel, max_model_len: int) -> None:
        """Take the identity of a recorded model.

        Args:
            ledger: the ledger; closed with the engine.
            model: one of `ledger.list_models()`.
            max_model_len: context length in tokens; capped at the length that the model was run with.
        """
        if model.profile not in PROFILES:
            raise LedgerError(
                f"{ledger.path}: {model.model_id} has the unknown profile {model.profile!r}; expected one of "
                f"{', '.join(PROFILES)}, so replay it with the version that recorded it"
            )
        self.ledger = ledger
        self.name = model.engine
        self.model_id = model.model_id
        self.tokenizer: Any = _unpack_tokenizer(ledger, model)
        self.profile = PROFILES[model.profile]
        self.max_model_len = min(max_model_len, model.max_model_len)
        self.max_batch = 1024  # nothing is computed
        self.hits = 0
        """Number of requests answered."""
        self.misses = 0
        """Number of requests that are not in the ledger."""

    async def generate(
        self, prompt_token_ids: Sequence[int], sampling: Sampling, media: Sequence[PreparedMedia] = ()
    ) -> Generation:
        """Answer from the ledger, see `Engine.generate`.

        Raises:
            NotRecordedError: the ledger does not hold this request.
            LedgerError: the ledger cannot be read.
        """
        await asyncio.sleep(0)  # yield to other tasks, as every real engine does
        key = compute_generation_key(self.name, self.model_id, prompt_token_ids, sampling, media)
        generation = self.ledger.get(key)
        if generation is None:
            self.misses += 1
            raise NotRecordedError(
                f"{self.ledger.path}: holds no answer of {self.model_id} to this prompt of {len(prompt_token_ids)} "
                "tokens with this sampling; replay with the recorded data, rubric and settings, or run the model with "
                "--ledger, which computes only what is missing"
            )
        self.hits += 1
        return generation

    async def check_health(self) -> None:
        """Do nothing: a ledger cannot die."""

    def close(self) -> None:
        """Close the ledger."""
        self.ledger.close()


def record_model(ledger: Ledger, engine: Engine) -> None:
    """Record in `ledger` the properties of an engine that a replay needs, unless they are recorded already."""
    model = RecordedModel(engine.name, engine.model_id, engine.profile.name, engine.max_model_len)
    recorded_lengths = {(m.engine, m.model_id): m.max_model_len for m in ledger.list_models()}
    if model.max_model_len > recorded_lengths.get((model.engine, model.model_id), 0):
        ledger.add_model(model, _pack_tokenizer(engine.tokenizer))


def _choose_model(ledger: Ledger, prefix: str) -> RecordedModel:
    """Select the model whose id, or engine and id, is `prefix` or else starts with it."""
    models = ledger.list_models()
    matching = [m for m in models if m.model_id.startswith(prefix) or f"{m.engine}:{m.model_id}".startswith(prefix)]
    exact = [m for m in matching if prefix in (m.model_id, f"{m.engine}:{m.model_id}")]
    candidates = exact or matching
    if len(candidates) == 1:
        return candidates[0]
    if not models:
        raise LedgerError(f"{ledger.path}: no model has written to this ledger, so there is nothing to replay")
    names = ", ".join(f"{m.engine}:{m.model_id}" for m in candidates or models)
    problem = "several models wrote to this ledger" if candidates else f"no model in this ledger is called {prefix!r}"
    raise LedgerError(f"{ledger.path}: {problem}; choose one of {names}, as {ledger.path}#MODEL")


def _pack_tokenizer(tokenizer: Any) -> bytes:
    """Pack the files of `tokenizer.save_pretrained` into a zip archive."""
    archive = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        tokenizer.save_pretrained(folder)
        for file in sorted(p for p in Path(folder).rglob("*") if p.is_file()):
            packed.write(file, file.relative_to(folder))
    return archive.getvalue()


def _unpack_tokenizer(ledger: Ledger, model: RecordedModel) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        try:
            with zipfile.ZipFile(io.BytesIO(ledger.read_tokenizer(model))) as packed:
                packed.extractall(folder)
            return load_tokenizer(Path(folder))
        except (zipfile.BadZipFile, zlib.error, FileNotFoundError) as e:
            raise LedgerError(f"{ledger.path}: the tokenizer of {model.model_id} is damaged; {REMEDY}") from e
