"""LoRA adapters of a running engine: load another one, without loading the model again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

from flex_judge.judges.engines.base import Engine, Generation, Sampling
from flex_judge.judges.engines.sleep import find_sleeper, hold_awake
from flex_judge.judges.errors import AdapterError, EngineLostError
from flex_judge.judges.media.prepared import PreparedMedia
from flex_judge.judges.models import resolve_adapter
from flex_judge.judges.models.cache import fingerprint_folder


@dataclass(frozen=True)
class Adapter:
    """LoRA adapter in a folder."""

    name: str
    folder: Path
    fingerprint: str
    """Fingerprint of the folder's content, see `fingerprint_folder`."""

    @property
    def identity(self) -> str:
        """Name and fingerprint, as they appear in the id of a model."""
        return f"{self.name}@{self.fingerprint}"


@runtime_checkable
class AdapterHost(Protocol):
    """Engine that can load adapters while it runs."""

    async def load_adapter(self, adapter: Adapter) -> Engine:
        """Load an adapter; requests that are in progress keep theirs.

        Returns:
            An engine with the new adapter on the same model. Closing it frees the adapter only.

        Raises:
            AdapterError: the adapter does not fit the model, or the engine is not set up for it.
            EngineLostError: the engine has ended.
        """
        ...


class SupportsAdapters(Protocol):
    """Engine whose requests can each name an adapter."""

    async def generate(
        self,
        prompt_token_ids: Sequence[int],
        sampling: Sampling,
        media: Sequence[PreparedMedia] = (),
        adapter: Any = None,
    ) -> Generation:
        """Continue one prompt with an adapter; None is the adapter that the engine was started with."""
        ...


class AdaptedEngine:
    """Engine with another adapter on the model of a running engine. It has its own model id."""

    def __init__(self, engine: Any, adapter: Any, model_id: str, free: Callable[[], None] | None = None) -> None:
        """Wrap an engine that has loaded the adapter.

        Args:
            engine: the engine that owns the model, see `SupportsAdapters`.
            adapter: the adapter in the form that the engine's `generate` takes.
            model_id: name and fingerprint of the model with this adapter.
            free: frees the adapter.
        """
        self._engine, self._adapter, self._free = engine, adapter, free
        self.model_id = model_id
        self.name: str = engine.name
        self.tokenizer: Any = engine.tokenizer
        self.profile: Any = engine.profile
        self.max_model_len: int = engine.max_model_len
        self.max_batch: int = engine.max_batch
        self.sleeper = find_sleeper(engine)
        self._is_closed = False

    async def generate(
        self, prompt_token_ids: Sequence[int], sampling: Sampling, media: Sequence[PreparedMedia] = ()
    ) -> Generation:
        """Continue one prompt with this adapter, see `Engine.generate`."""
        if self._is_closed:
            raise EngineLostError(f"the adapter of {self.model_id} was closed; use the judge that replaced it")
        generation: Generation = await self._engine.generate(prompt_token_ids, sampling, media, adapter=self._adapter)
        return generation

    async def load_adapter(self, adapter: Adapter) -> Engine:
        """Load another adapter on the same model, see `AdapterHost.load_adapter`."""
        engine: Engine = await self._engine.load_adapter(adapter)
        return engine

    async def check_health(self) -> None:
        """Check the engine that owns the model, see `Engine.check_health`."""
        await self._engine.check_health()

    def close(self) -> None:
        """Free the adapter. Idempotent; the engine that owns the model continues."""
        if not self._is_closed and self._free is not None:
            self._free()
        self._is_closed = True


class AdapterMethods:
    """Methods of a judge that load another LoRA adapter into its engine."""

    def __init__(self, engine: Engine, settings: Any = None) -> None:
        self.engine, self.settings = engine, settings

    def load_adapter(self, adapter: str, name: str | None = None) -> Self:
        """Load an adapter from code without an event loop, see `aload_adapter`."""
        return asyncio.run(self.aload_adapter(adapter, name))

    async def aload_adapter(self, adapter: str, name: str | None = None, fingerprint: str | None = None) -> Self:
        """Load another LoRA adapter and return a judge that uses it, on the same loaded model.

        This judge keeps its adapter, also for judgments in progress. Closing the new judge frees its adapter; closing
        the first one frees the model.

        Args:
            adapter: folder or hub id of the adapter.
            name: name of the adapter in the ids of models; None uses the last part of `adapter`.
            fingerprint: expected fingerprint of its files; None accepts any.

        Example:
            >>> judge = FlexJudge.from_pretrained("smollm2-135m", adapter="step-0", max_adapter_rank=16)
            >>> judge = judge.load_adapter("step-100")

        Raises:
            AdapterError: the adapter does not fit, or the engine was started without `max_adapter_rank`.
            ModelNotFoundError: the folder does not exist or lacks a file.
        """
        return type(self)(await load_adapter(self.engine, adapter, name, fingerprint), self.settings)


async def load_adapter(engine: Engine, path: str, name: str | None = None, fingerprint: str | None = None) -> Engine:
    """Load another LoRA adapter into a running engine.

    Args:
        engine: engine that was started with `EngineConfig.max_adapter_rank`.
        path: folder or hub id of the adapter.
        name: name of the adapter in the id of the model; None uses the last part of the path.
        fingerprint: expected fingerprint of the folder; None accepts any content.

    Returns:
        An engine with the adapter on the same model, see `AdapterHost.load_adapter`.

    Raises:
        AdapterError: the engine cannot load adapters, or this one does not fit.
        ModelNotFoundError: the folder does not exist or lacks a file.
        EngineAsleepError: the engine sleeps.
    """
    if not isinstance(engine, AdapterHost):
        raise AdapterError(
            f"adapter {path!r}: the {engine.name} engine cannot load an adapter while it runs; use vllm or transformers"
        )
    folder = await asyncio.to_thread(resolve_adapter, path)
    actual = await asyncio.to_thread(fingerprint_folder, folder)
    if fingerprint is not None and actual != fingerprint:
        raise AdapterError(
            f"adapter {path!r}: its files have the fingerprint {actual}, expected {fingerprint}; give each version of "
            "an adapter a folder of its own"
        )
    with hold_awake(engine):
        loaded = await engine.load_adapter(Adapter(name or folder.resolve().name, folder, actual))
    if await asyncio.to_thread(fingerprint_folder, folder) != actual:
        loaded.close()
        raise AdapterError(f"adapter {path!r}: its files changed while they were loaded; write them before the request")
    return loaded
