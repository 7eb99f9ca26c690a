"""Whole checkpoints of a trainer, read and written as their families name things."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flex_judge.judges.errors import UsageError


class FamilyWeightsMixin:
    """To stand before a trainer of transformers among a class's bases.

    transformers saves the weights of some architectures (Qwen2.5-VL) under other names than its modules have. Its
    trainer (5.19) looks for the modules' names when it resumes or takes the best checkpoint back: it finds none, warns,
    and goes on with the weights it had. It also notes in the configuration that the model is to generate without a
    cache. And where a checkpoint holds TRL's copy of the adapters beside those that are trained, it takes back the copy
    alone, and the trained ones begin anew.
    """

    @property
    def is_sharded(self) -> bool:
        """Whether the weights are spread over the processes (FSDP, DeepSpeed)."""
        return bool(self.is_deepspeed_enabled or self.is_fsdp_enabled)  # type: ignore[attr-defined]

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        config = self.model.config  # type: ignore[attr-defined]
        config.use_cache = True
        try:
            super().save_model(output_dir, _internal_call)  # type: ignore[misc]
        finally:
            config.use_cache = self.args.use_cache  # type: ignore[attr-defined]

    def check_saves(self) -> None:
        """Raise UsageError where weights in pieces would be trained and then not saved as a model."""
        trainer: Any = self
        state = trainer.accelerator.state
        if trainer.is_fsdp_enabled and "FULL_STATE_DICT" not in str(state.fsdp_plugin.state_dict_type):
            raise UsageError(
                "with this FSDP configuration no model would be saved: set fsdp_state_dict_type to FULL_STATE_DICT"
            )
        if trainer.is_deepspeed_enabled:
            zero = state.deepspeed_plugin.deepspeed_config.get("zero_optimization", {})
            if zero.get("stage") == 3 and not zero.get("stage3_gather_16bit_weights_on_model_save"):
                raise UsageError(
                    "with this DeepSpeed configuration no model would be saved: set zero3_save_16bit_model "
                    "(stage3_gather_16bit_weights_on_model_save in a file of DeepSpeed's)"
                )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not self._restore_weights(resume_from_checkpoint, model):
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]

    def _load_best_model(self) -> None:
        if not self._restore_weights(self.state.best_model_checkpoint):  # type: ignore[attr-defined]
            super()._load_best_model()  # type: ignore[misc]

    def _restore_weights(self, checkpoint: str, model: Any = None) -> bool:
        """Whether the checkpoint is of this kind; if so, the model has its weights now."""
        trainer: Any = self
        model = trainer.model if model is None else model
        if not self.is_sharded and any(Path(checkpoint).glob("*/adapter_model.safetensors")):
            return _restore_adapter(checkpoint, model)
        if self.is_sharded or hasattr(model, "peft_config") or not any(Path(checkpoint).glob("*.safetensors")):
            return False
        model.load_state_dict(type(model).from_pretrained(checkpoint, dtype=model.dtype).state_dict())
        return True


def _restore_adapter(checkpoint: str, model: Any) -> bool:
    """Give the adapter that is trained the weights of a checkpoint which holds others too, in folders of their own;
    those are as they were."""
    from peft import load_peft_weights, set_peft_model_state_dict

    weights = load_peft_weights(checkpoint, device="cpu")
    unplaced = set_peft_model_state_dict(model, weights, adapter_name=model.active_adapters[0]).unexpected_keys
    if unplaced:
        raise UsageError(f"checkpoint {checkpoint}: does not fit the policy: no place for {unplaced[0]!r}")
    return True
