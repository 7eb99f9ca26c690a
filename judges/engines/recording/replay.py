"""The replay engine: answers from a ledger alone, without the model that wrote it.

Its model is the path of a ledger. If several models wrote to that one, `PATH#MODEL` chooses: MODEL is the beginning of
a model id (`ledger.sqlite#smollm2`), or of engine and model id where two engines ran it (`ledger.sqlite#vllm:smollm2`).
"""

from __future__ import annotations

import asyncio
import io
import json
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


def load(config: EngineConfig) -> ReplayEngine:
    """Open the ledger that `config.model` names.

    Raises:
        LedgerError: there is no such ledger, or not exactly one model in it that was asked for.
    """
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
    """Passes for the engine that wrote the ledger, so that the same requests find what it answered then."""

    def __init__(self, ledger: Ledger, model: RecordedModel, max_model_len: int) -> None:
        """Args:
        ledger: closed with the engine.
        model: one of `ledger.models()`.
        max_model_len: in tokens; cut to what the model was run with.
        """
        if model.profile not in PROFILES:
            known = ", ".join(PROFILES)
            raise LedgerError(
                f"{ledger.path}: {model.model_id} has the profile {model.profile!r}, which is none of {known}"
            )
        self.ledger = ledger
        self.name = model.engine
        self.model_id = model.model_id
        self.tokenizer: Any = _unpack_tokenizer(ledger, model)
        self.profile = PROFILES[model.profile]
        self.max_model_len = min(max_model_len, model.max_model_len)
        self.max_batch = 1024  # nothing is computed
        self.hits = 0
        """Requests that were answered."""
        self.misses = 0
        """Requests that are not in the ledger."""

    async def generate(
        self, prompt_token_ids: Sequence[int], sampling: Sampling, media: Sequence[PreparedMedia] = ()
    ) -> Generation:
        """See `Engine.generate`.

        Raises:
            NotRecordedError: the ledger does not hold this request.
            LedgerError: the ledger cannot be read.
        """
        await asyncio.sleep(0)  # let others run, as every real engine does
        key = compute_generation_key(self.name, self.model_id, prompt_token_ids, sampling, media)
        found = self.ledger.get(key)
        if found is None:
            self.misses += 1
            raise NotRecordedError(
                f"{self.ledger.path}: holds no answer of {self.model_id} to this prompt of {len(prompt_token_ids)} "
                "tokens and this sampling; replay with the data, rubric and settings that were recorded, or with the "
                "model and this ledger, which computes what is missing"
            )
        self.hits += 1
        return found

    async def check_health(self) -> None:
        """A ledger does not die."""

    def close(self) -> None:
        self.ledger.close()


def record_model(ledger: Ledger, engine: Engine) -> None:
    """Put into `ledger` what a replay needs of an engine, unless it is there."""
    model = RecordedModel(engine.name, engine.model_id, engine.profile.name, engine.max_model_len)
    known = {(m.engine, m.model_id): m.max_model_len for m in ledger.list_models()}
    if model.max_model_len > known.get((model.engine, model.model_id), 0):
        ledger.add_model(model, _pack_tokenizer(engine.tokenizer))


def _choose_model(ledger: Ledger, wanted: str) -> RecordedModel:
    models = ledger.list_models()
    matching = [m for m in models if m.model_id.startswith(wanted) or f"{m.engine}:{m.model_id}".startswith(wanted)]
    exact = [m for m in matching if wanted in (m.model_id, f"{m.engine}:{m.model_id}")]
    chosen = exact or matching
    if len(chosen) == 1:
        return chosen[0]
    if not models:
        raise LedgerError(f"{ledger.path}: no model has written to this ledger, so there is nothing to replay")
    there = ", ".join(f"{m.engine}:{m.model_id}" for m in chosen or models)
    problem = "several models wrote to this ledger" if chosen else f"no model in this ledger is called {wanted!r}"
    raise LedgerError(f"{ledger.path}: {problem}; choose one of {there}, as {ledger.path}#MODEL")


def _pack_tokenizer(tokenizer: Any) -> bytes:
    """The files of a tokenizer, as `save_pretrained` writes them, in a zip archive."""
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
            settings = json.loads((Path(folder) / "tokenizer_config.json").read_bytes())
        except (zipfile.BadZipFile, zlib.error, FileNotFoundError) as e:
            raise LedgerError(f"{ledger.path}: the tokenizer of {model.model_id} in it is damaged; {REMEDY}") from e
        return _find_tokenizer_class(settings.get("tokenizer_class") or "").from_pretrained(folder)


def _find_tokenizer_class(name: str) -> Any:
    """The class that was saved. AutoTokenizer finds it too, but imports torch for that, which takes ten seconds."""
    import transformers

    found = getattr(transformers, name, None)
    is_one = isinstance(found, type) and issubclass(found, transformers.PreTrainedTokenizerBase)
    return found if is_one else transformers.AutoTokenizer
