"""Fine-tuning of a base model into a judge: load the model, train it with TRL, evaluate it and save it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flex_judge.alignment.judge_training.data import JudgeTrainingData
from flex_judge.alignment.judge_training.evaluation import JudgeMetrics
from flex_judge.alignment.judge_training.trainer import HeldOutEvaluation, JudgeTrainer
from flex_judge.alignment.policy_training.tuning import build_trainer, find_last_checkpoint, write_training_log
from flex_judge.alignment.training.trainable_parameters import find_lora_targets, freeze_all_but_language_model
from flex_judge.judges.errors import UsageError
from flex_judge.judges.models.adapters import resolve_architecture
from flex_judge.judges.models.checkpoints import Checkpoint, open_checkpoint
from flex_judge.judges.protocol.rendering import Renderer

if TYPE_CHECKING:
    from trl import ModelConfig, SFTConfig


@dataclass(frozen=True)
class TuningResult:
    """Parameter counts and metrics of a tuned judge."""

    learning: int
    """Number of trained parameters."""
    parameters: int
    """Number of all parameters."""
    metrics: JudgeMetrics | None
    """Metrics of the saved judge; None without an evaluation."""


def load_renderer(base: str) -> Renderer:
    """Load the renderer of a base model.

    Raises:
        UsageError: The model cannot be loaded or has no chat template; its template ends turns with a token that is not
            a stop token; or its language model has an adapter, which fine-tuning would lose.
    """
    checkpoint = open_checkpoint(base)
    if checkpoint.adapter is not None:
        raise UsageError(
            f"model {base!r}: its language model has an adapter for molecules, which fine-tuning would lose; tune the "
            "Llama model underneath, then combine both: python -m flex_judge.judges.models.mol_llama import-judge"
        )
    renderer = Renderer(checkpoint.tokenizer, checkpoint.profile)
    end = renderer.encode_end_of_turn()[-1]
    # Without this check the judge would learn an end of turn that no engine recognises, and would never stop.
    if end not in checkpoint.stop_ids:
        token = checkpoint.tokenizer.convert_ids_to_tokens(end)
        raise UsageError(
            f"model {base!r}: its chat template ends a turn with {token}, which is not a stop token; add {end} to "
            "eos_token_id in its generation_config.json"
        )
    return renderer


def tune_judge(
    base: str,
    model: ModelConfig,
    args: SFTConfig,
    examples: JudgeTrainingData,
    *,
    held_out: JudgeTrainingData | None,
    evaluation: HeldOutEvaluation | None,
    patience: int,
    callbacks: Sequence[Any] = (),
) -> TuningResult:
    """Tune a judge and save it to `args.output_dir`. Training resumes from the last checkpoint there, if any.

    Args:
        base: Name of an embedded model, folder or hub id.
        model: TRL's settings of the adapter and of loading the model.
        args: TRL's training settings.
        examples: Training examples.
        held_out: Examples for the evaluation loss; None for no evaluation loss.
        evaluation: Held-out comparisons; None for no evaluation.
        patience: Early stopping, see `JudgeTrainer`.
        callbacks: Further callbacks of the trainer, see `build_trainer`.

    Raises:
        UsageError: TRL rejects a setting.
    """
    checkpoint = open_checkpoint(base)
    out = Path(args.output_dir)
    _check_packing(checkpoint, model, args)
    if find_last_checkpoint(out):
        # The evaluation at the start was done by the first run. Early stopping must continue its count.
        args.eval_on_start, args.restore_callback_states_from_checkpoint = False, True
    loaded = _load_model(checkpoint, model)
    # An adapter stores the name of its base model: it must be the public name, not a path on this machine.
    loaded.name_or_path = loaded.config._name_or_path = base
    peft_config = None
    if model.use_peft:
        from trl import get_peft_config

        peft_config = get_peft_config(model)
        peft_config.target_modules = find_lora_targets(loaded, model.lora_target_modules)
    else:
        freeze_all_but_language_model(loaded)
    trainer = build_trainer(
        JudgeTrainer,
        base=base,
        checkpoint=checkpoint,
        evaluation=evaluation,
        patience=patience,
        callbacks=callbacks,
        model=loaded,
        args=args,
        train_dataset=examples.dataset,
        eval_dataset=held_out.dataset if held_out else None,
        processing_class=checkpoint.tokenizer,
        peft_config=peft_config,
    )
    # DeepSpeed leaves empty tensors in place of sharded parameters and stores their size in `ds_numel`.
    sizes = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in trainer.model.parameters()]
    trainer.train(resume_from_checkpoint=find_last_checkpoint(out) or args.resume_from_checkpoint)
    metrics = trainer.compute_final_metrics() if evaluation else None
    trainer.save_judge(out)
    write_training_log(trainer, out)
    return TuningResult(
        learning=sum(size for size, is_trained in sizes if is_trained),
        parameters=sum(size for size, _ in sizes),
        metrics=metrics,
    )


def _check_packing(checkpoint: Checkpoint, model: ModelConfig, args: SFTConfig) -> None:
    """Raise UsageError for packing that would silently mix examples or cut them in two."""
    if args.packing and args.packing_strategy == "wrapped":
        raise UsageError("--packing_strategy wrapped: cuts training examples in two; use bfd")
    has_flash_attention = "flash" in (model.attn_implementation or "")
    # Multimodal models compute three-dimensional positions, from which the attention mask cannot tell where an example
    # begins. FlashAttention gets the boundaries separately.
    if (args.packing or args.padding_free) and not has_flash_attention and checkpoint.profile.placeholders:
        raise UsageError(
            "--packing, --padding_free: training examples of this multimodal model would attend to each other; set "
            "--attn_implementation flash_attention_2"
        )


def _load_model(checkpoint: Checkpoint, model: ModelConfig) -> Any:
    import torch

    dtype = model.dtype if model.dtype in (None, "auto") else getattr(torch, model.dtype)
    options = {"attn_implementation": model.attn_implementation} if model.attn_implementation else {}
    loaded = resolve_architecture(checkpoint).from_pretrained(checkpoint.path, dtype=dtype or torch.float32, **options)
    if loaded.base_model is loaded:
        # TRL reads hidden states from `base_model`. Qwen2.5-Omni's thinker declares a prefix that does not exist.
        loaded.base_model_prefix = next(name for name, part in loaded.named_children() if part is loaded.get_decoder())
    return loaded
