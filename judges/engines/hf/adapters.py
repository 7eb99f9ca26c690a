"""A transformers model and its LoRA adapters. One adapter at a time is active."""

from __future__ import annotations

import itertools
from typing import Any

import torch

from flex_judge.judges.engines.sleep import check_files
from flex_judge.judges.models.adapters import check_adapter, resolve_architecture
from flex_judge.judges.models.checkpoints import Checkpoint

FIRST = "default"
"""Name of the adapter that the model was loaded with, if it can change."""


class ModelAdapters:
    """Model that generates text, with the adapters that were added to it. Belongs to the engine's thread."""

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype, can_change: bool, model: Any = None) -> None:
        """Load the model with its adapter, if any.

        Args:
            checkpoint: the checkpoint.
            dtype: type of the weights.
            can_change: whether other adapters will be added. The first one is then not merged into the weights.
            model: a model that is loaded already; it takes no other adapters.
        """
        self.can_change = can_change
        self._checkpoint, self._dtype = checkpoint, dtype
        self._has_first = checkpoint.adapter is not None
        self._names = itertools.count(1)
        self._added: dict[str, Checkpoint] = {}
        self._peft: Any = None
        self._active: str | None = None
        self.model: Any = model
        """The model; None while it is discarded."""
        if model is None:
            self._load()

    def _load(self) -> None:
        self.model = _load_model(self._checkpoint, self._dtype, self.can_change)
        if self.can_change and self._has_first:
            self._peft, self.model = self.model, self.model.get_base_model()

    def reload(self) -> None:
        """Load the model again after `discard`, with all adapters that were added.

        Raises:
            SleepError: files have changed since the first load.
        """
        for checkpoint in (self._checkpoint, *self._added.values()):
            check_files(checkpoint)
        self.discard()  # an earlier try may have failed half-way
        self._load()
        for name, checkpoint in self._added.items():
            self._load_adapter(name, checkpoint)

    def discard(self) -> None:
        """Free the model and its adapters until `reload`."""
        self.model = self._peft = self._active = None

    def add(self, checkpoint: Checkpoint) -> str:
        """Add the adapter of a checkpoint and return its name here; the active adapter does not change."""
        name = f"adapter-{next(self._names)}"
        self._load_adapter(name, checkpoint)
        self._added[name] = checkpoint
        return name

    def _load_adapter(self, name: str, checkpoint: Checkpoint) -> None:
        from peft import PeftModel

        device = str(self.model.device)
        if self._peft is None:
            # peft changes the model's own modules, so `model` gets the adapter too.
            self._peft = PeftModel.from_pretrained(self.model, checkpoint.adapter, name, torch_device=device)
        else:
            self._peft.load_adapter(str(checkpoint.adapter), name, torch_device=device)
        self._peft.eval()
        self._set_active(self._active)

    def remove(self, name: str) -> None:
        """Free an adapter."""
        del self._added[name]
        if self.model is None:
            return
        if name == self._active:
            self.activate(None)
        self._peft.delete_adapter(name)
        self._set_active(self._active)

    def activate(self, name: str | None) -> None:
        """Select the adapter of the next batch; None is the one that the model was loaded with, or no adapter."""
        if name != self._active:
            self._set_active(name)
            self._active = name

    def _set_active(self, name: str | None) -> None:
        tuner = self._peft.base_model
        if name is None and not self._has_first:
            tuner.disable_adapter_layers()
            return
        tuner.enable_adapter_layers()
        self._peft.set_adapter(name or FIRST)


def _load_model(checkpoint: Checkpoint, dtype: torch.dtype, can_change: bool) -> Any:
    """Load the text-generating model with its adapter, if any; as a `PeftModel` if the adapter can change."""
    check_adapter(checkpoint)
    model = resolve_architecture(checkpoint).from_pretrained(checkpoint.path, dtype=dtype)
    if checkpoint.adapter is None:
        return model
    from peft import PeftModel

    adapted = PeftModel.from_pretrained(model, checkpoint.adapter, FIRST)
    if can_change:
        return adapted
    # A merged adapter costs no time, but half-precision weights would round much of its small change away.
    return adapted.merge_and_unload() if dtype == torch.float32 else adapted.get_base_model()
