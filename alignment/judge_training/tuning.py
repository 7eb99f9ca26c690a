"""Make a judge of a base model: load it, train its language model with TRL, evaluate it, save it for every engine."""

from __future__ import annotations

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
    """What tuning came to."""

    learning: int
    """Parameters that learnt."""
    parameters: int
    """All of them."""
    metrics: JudgeMetrics | None
    """Of the judge that was saved: the best one where that is asked for. None without an evaluation."""


def load_renderer(base: str) -> Renderer:
    """What renders for a base model.

    Raises:
        UsageError: it cannot be had, has no chat template, or one that ends turns with a token it does not stop at;
            or an adapter belongs to its language model, which tuning would leave behind.
    """
    checkpoint = open_checkpoint(base)
    if checkpoint.adapter is not None:
        raise UsageError(
            f"model {base!r}: sees molecules through the adapter that it brings along, which tuning would leave "
            "behind; tune the Llama that is under it, then join the two: "
            "python -m flex_judge.judges.models.mol_llama import-judge"
        )
    renderer = Renderer(checkpoint.tokenizer, checkpoint.profile)
    end = renderer.encode_end_of_turn()[-1]
    if end not in checkpoint.stop_ids:
        token = checkpoint.tokenizer.convert_ids_to_tokens(end)
        raise UsageError(
            f"model {base!r}: its chat template ends a turn with {token}, at which no engine would stop; add {end} to "
            "eos_token_id in its generation_config.json"
        )
    return renderer


def tune_judge(
    base: str,
    model: ModelConfig,
    args: SFTConfig,
    examples: JudgeTrainingData,
    held_out: JudgeTrainingData | None,
    evaluation: HeldOutEvaluation | None,
    patience: int,
) -> TuningResult:
    """Tune a judge into `args.output_dir`, from the last checkpoint there if there is one.

    Args:
        base: name of an embedded model, a folder, or a hub id.
        model: TRL's: the adapter, and how the model is loaded.
        args: TRL's.
        examples: what it is trained on.
        held_out: what the loss is measured on beside; None: nothing.
        evaluation: None: there is none.
        patience: see `JudgeTrainer`.

    Raises:
        UsageError: TRL refuses a setting.
    """
    checkpoint = open_checkpoint(base)
    out = Path(args.output_dir)
    _check_packing(checkpoint, model, args)
    if find_last_checkpoint(out):  # its evaluation has been held, and what counts evaluations goes on
        args.eval_on_start, args.restore_callback_states_from_checkpoint = False, True
    loaded = _load_model(checkpoint, model)
    loaded.name_or_path = loaded.config._name_or_path = base  # what an adapter notes: a name, not where it was found
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
        model=loaded,
        args=args,
        train_dataset=examples.dataset,
        eval_dataset=held_out.dataset if held_out else None,
        processing_class=checkpoint.tokenizer,
        peft_config=peft_config,
    )
    # DeepSpeed leaves of a parameter that it spreads nothing here, and notes its size.
    sizes = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in trainer.model.parameters()]
    trainer.train(resume_from_checkpoint=find_last_checkpoint(out) or args.resume_from_checkpoint)
    metrics = trainer.compute_final_metrics() if evaluation else None
    trainer.save_judge(out)
    write_training_log(trainer, out)
    return TuningResult(sum(n for n, learns in sizes if learns), sum(n for n, _ in sizes), metrics)


def _check_packing(checkpoint: Checkpoint, model: ModelConfig, args: SFTConfig) -> None:
    """Raise UsageError where packed training examples would see each other, or be cut in two, in silence."""
    if args.packing and args.packing_strategy == "wrapped":
        raise UsageError("--packing_strategy wrapped cuts training examples in two; use bfd")
    flash = "flash" in (model.attn_implementation or "")
    if (args.packing or args.padding_free) and not flash and checkpoint.profile.placeholders:
        raise UsageError(
            "--packing and --padding_free: with this model's positions training examples would see each other, but for "
            "FlashAttention (--attn_implementation flash_attention_2)"
        )


def _load_model(checkpoint: Checkpoint, model: ModelConfig) -> Any:
    import torch

    dtype = model.dtype if model.dtype in (None, "auto") else getattr(torch, model.dtype)
    options = {"attn_implementation": model.attn_implementation} if model.attn_implementation else {}
    loaded = resolve_architecture(checkpoint).from_pretrained(checkpoint.path, dtype=dtype or torch.float32, **options)
    if loaded.base_model is loaded:
        # TRL takes hidden states from there; Qwen2.5-Omni's thinker names a part for it that it has not.
        loaded.base_model_prefix = next(name for name, part in loaded.named_children() if part is loaded.get_decoder())
    return loaded
