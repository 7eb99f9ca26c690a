"""Mixin for trainers that saves and restores checkpoints under the weight names of their model family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flex_judge.judges.errors import UsageError


class FamilyWeightsMixin:
    """Mixin that corrects how a transformers trainer saves and restores checkpoints.

    List it before the trainer among the base classes. It corrects three faults of transformers 5.19:

    - Some architectures (Qwen2.5-VL) save their weights under other names than their modules have. When the trainer
      resumes or restores the best checkpoint, it looks for the names of the modules, finds none, warns, and continues
      with the weights in memory.
    - The saved configuration says that the model generates without a cache.
    - If a checkpoint contains TRL's reference copy of the adapters, the trainer restores that copy only, and the
      trained adapters start anew.
    """

    @property
    def is_sharded(self) -> bool:
        """Whether the weights are sharded over the processes (FSDP, DeepSpeed)."""
        return bool(self.is_deepspeed_enabled or self.is_fsdp_enabled)  # type: ignore[attr-defined]

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model with the cache enabled in its configuration."""
        config = self.model.config  # type: ignore[attr-defined]
        config.use_cache = True
        try:
            super().save_model(output_dir, _internal_call)  # type: ignore[misc]
        finally:
            config.use_cache = self.args.use_cache  # type: ignore[attr-defined]

    def check_saves(self) -> None:
        """Raise UsageError if sharded weights would not be saved as a full model at the end of training."""
        trainer: Any = self
        state = trainer.accelerator.state
        # With other types transformers saves shards, which no engine can load.
        if trainer.is_fsdp_enabled and "FULL_STATE_DICT" not in str(state.fsdp_plugin.state_dict_type):
            raise UsageError(
                "fsdp_state_dict_type: this FSDP configuration would not save a model; set it to FULL_STATE_DICT"
            )
        if trainer.is_deepspeed_enabled:
            zero = state.deepspeed_plugin.deepspeed_config.get("zero_optimization", {})
            # Stages 1 and 2 keep the full weights in every process.
            if zero.get("stage") == 3 and not zero.get("stage3_gather_16bit_weights_on_model_save"):
                raise UsageError(
                    "zero3_save_16bit_model: this DeepSpeed configuration would not save a model; set it to true "
                    "(in a DeepSpeed file: stage3_gather_16bit_weights_on_model_save)"
                )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not self._restore_weights(resume_from_checkpoint, model):
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]

    def _load_best_model(self) -> None:
        if not self._restore_weights(self.state.best_model_checkpoint):  # type: ignore[attr-defined]
            super()._load_best_model()  # type: ignore[misc]

    def _restore_weights(self, checkpoint: str, model: Any = None) -> bool:
        """Restore the weights of a checkpoint that transformers would restore wrongly.

        Returns:
            Whether the weights were restored; False leaves it to transformers.
        """
        trainer: Any = self
        model = trainer.model if model is None else model
        if not self.is_sharded and any(Path(checkpoint).glob("*/adapter_model.safetensors")):
            return _restore_adapter(checkpoint, model)
        # Sharded weights, plain adapters and other formats are restored correctly by transformers.
        if self.is_sharded or hasattr(model, "peft_config") or not any(Path(checkpoint).glob("*.safetensors")):
            return False
        # `from_pretrained` maps the saved names to the names of the modules.
        model.load_state_dict(type(model).from_pretrained(checkpoint, dtype=model.dtype).state_dict())
        return True


def _restore_adapter(checkpoint: str, model: Any) -> bool:
    """Restore the trained adapter from a checkpoint that holds other adapters in subfolders; those stay unchanged."""
    from peft import load_peft_weights, set_peft_model_state_dict

    weights = load_peft_weights(checkpoint, device="cpu")
    unexpected = set_peft_model_state_dict(model, weights, adapter_name=model.active_adapters[0]).unexpected_keys
    if unexpected:
        raise UsageError(f"checkpoint {checkpoint}: does not fit the policy: unexpected weight {unexpected[0]!r}")
    return True
