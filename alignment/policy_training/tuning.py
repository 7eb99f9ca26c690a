"""TRL's trainers, run to the end: from the last checkpoint where there is one, and saved."""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from flex_judge.alignment.training.weights import FamilyWeightsMixin
from flex_judge.judges.errors import UsageError, to_one_line
from flex_judge.judges.io.jsonl import write_text
from flex_judge.judges.models import MOL_LLAMA, read_model_type, resolve_model
from flex_judge.judges.models.checkpoints import open_checkpoint

if TYPE_CHECKING:
    from datasets import Dataset
    from trl import DPOConfig, GRPOConfig, ModelConfig

    from flex_judge.alignment.policy_training.data import PolicyTrainingData
    from flex_judge.reward.trl import JudgeReward

Trainer = TypeVar("Trainer", bound=FamilyWeightsMixin)
Made = TypeVar("Made")
TRL_ERRORS = (ValueError, NotImplementedError, ImportError, OSError)
"""What TRL's trainers raise, when they are made, for what does not fit."""
LOG_FILE = "training.json"
"""Name of the file with what the trainer logged; a folder that has it holds a policy whose training has ended."""


def tune_dpo(model: ModelConfig, args: DPOConfig, rows: Dataset) -> None:
    """Tune a policy on preferences that went through `shown`.

    Raises:
        UsageError: TRL refuses a setting or the data.
    """
    from trl import DPOTrainer

    if read_model_type(model.model_name_or_path) == MOL_LLAMA:
        _tune_on_molecules(model, args, rows)
    else:
        _tune_with_trainer(DPOTrainer, model, args, rows)


def prepare_preferences(model: ModelConfig, args: DPOConfig, data: PolicyTrainingData) -> PolicyTrainingData:
    """Preferences as a policy sees them.

    Raises:
        UsageError: they have molecules, and the policy sees none; or it sees them, and they cannot be shown, or a
            setting of TRL's does not fit.
    """
    from flex_judge.alignment.policy_training.molecule_rows import expand_molecules, has_molecules

    policy = str(model.model_name_or_path)
    if read_model_type(policy) == MOL_LLAMA:
        from flex_judge.alignment.policy_training.molecules import check_molecule_settings

        check_molecule_settings(model, args)
        return expand_molecules(data, open_checkpoint(policy).profile.molecule_tokens)
    if has_molecules(data):
        raise UsageError(
            f"{data.name}: has molecules, which policy {policy!r} does not see; make it with flex-judge preferences "
            "without --with-molecules, and their SMILES are in the text"
        )
    return data


def _tune_on_molecules(model: ModelConfig, args: DPOConfig, rows: Dataset) -> None:
    """As `_tune`, of a policy that sees molecules."""
    from transformers import AutoTokenizer
    from trl import get_peft_config

    from flex_judge.alignment.policy_training.molecules import (
        MoleculeDPOTrainer,
        MoleculePreferenceCollator,
        load_trainable_policy,
        remove_reference_adapter,
    )

    name = model.model_name_or_path
    policy = _call_trl(load_trainable_policy, name, model.dtype, get_peft_config(model), model.attn_implementation)
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(name))
    collator = MoleculePreferenceCollator(
        tokenizer.pad_token_id, args.max_length, args.truncation_mode, args.pad_to_multiple_of
    )
    trainer = build_trainer(
        MoleculeDPOTrainer,
        model=policy,
        args=args,
        train_dataset=rows,
        processing_class=tokenizer,
        data_collator=collator,
    )
    _train_and_save(trainer, args)
    remove_reference_adapter(Path(args.output_dir))


def tune_grpo(model: ModelConfig, args: GRPOConfig, rows: Dataset, reward: JudgeReward) -> None:
    """Tune a policy on its own answers to prompts, as a judge rewards them.

    Raises:
        UsageError: TRL refuses a setting or the data.
        ServiceUnavailableError: the judge is gone.
    """
    from trl import GRPOTrainer

    _tune_with_trainer(GRPOTrainer, model, args, rows, reward_funcs=reward)


def check_grpo_policy(policy: str) -> None:
    """Raise UsageError if a policy sees what TRL's GRPOTrainer does not show it."""
    if read_model_type(policy) == MOL_LLAMA:
        raise UsageError(
            f"policy {policy!r} sees molecules, which TRL's GRPOTrainer does not show it; make pairs with flex-judge "
            "preferences --with-molecules, and train with flex-judge dpo"
        )


def _add_model_settings(args: Any, model: ModelConfig) -> Any:
    """The settings with how the model is loaded, as TRL's own scripts put it there."""
    given = {
        "revision": model.model_revision,
        "trust_remote_code": args.trust_remote_code,
        "attn_implementation": model.attn_implementation,
        "dtype": model.dtype,
    }
    args.model_init_kwargs = {**given, **(args.model_init_kwargs or {})}
    return args


def _tune_with_trainer(kind: type[Any], model: ModelConfig, args: Any, rows: Dataset, **more: Any) -> None:
    from trl import get_peft_config, get_quantization_config

    trainer = build_trainer(
        type(kind.__name__, (FamilyWeightsMixin, kind), {}),
        model=model.model_name_or_path,
        args=_add_model_settings(args, model),
        train_dataset=rows,
        quantization_config=get_quantization_config(model),
        peft_config=get_peft_config(model),
        **more,
    )
    _train_and_save(trainer, args)


def _train_and_save(trainer: Any, args: Any) -> None:
    """Train to the end, from where an earlier start was, and save."""
    out = Path(args.output_dir)
    # The run's own checkpoint is further than the one that it began from.
    trainer.train(resume_from_checkpoint=find_last_checkpoint(out) or args.resume_from_checkpoint)
    trainer.save_model(str(out))
    write_training_log(trainer, out)
    trainer.accelerator.free_memory()
    del trainer
    gc.collect()
    _empty_cache()


def build_trainer(kind: Callable[..., Trainer], **arguments: Any) -> Trainer:
    """A trainer of TRL's, with `FamilyWeights`.

    Raises:
        UsageError: TRL refuses a setting or the data, no row is left to train on, or nothing would be saved.
    """
    trainer = _call_trl(kind, **arguments)
    rows = trainer.train_dataset  # type: ignore[attr-defined]
    if hasattr(rows, "__len__") and not len(rows):
        limit = arguments["args"].max_length
        raise UsageError(f"no row is left to train on: each prompt alone is longer than --max_length {limit}")
    trainer.check_saves()
    return trainer


def _call_trl(make: Callable[..., Made], *arguments: Any, **named: Any) -> Made:
    """What is made of settings, or a UsageError where they are refused."""
    try:
        return make(*arguments, **named)
    except TRL_ERRORS as e:
        raise UsageError(to_one_line(e)) from e


def write_training_log(trainer: Any, folder: Path) -> None:
    """Note in LOG that training has ended, with what was logged; in every process."""
    if trainer.accelerator.is_main_process:
        told = {"rows": len(trainer.train_dataset), "log": trainer.state.log_history}
        write_text(folder / LOG_FILE, json.dumps(_replace_non_finite(told), indent=1) + "\n")
    trainer.accelerator.wait_for_everyone()


def find_last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end; its state is written last."""
    found = [state.parent for state in folder.glob("checkpoint-*/trainer_state.json")]
    steps = {int(path.name.rpartition("-")[2]): path for path in found if path.name.rpartition("-")[2].isdecimal()}
    return str(steps[max(steps)]) if steps else None


def _empty_cache() -> None:
    """Give the accelerator's memory back, for the engines that measure the policy."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _replace_non_finite(value: Any) -> Any:
    """The value as JSON holds it, which has no number for what is none."""
    if isinstance(value, Mapping):
        return {name: _replace_non_finite(v) for name, v in value.items()}
    if isinstance(value, list):
        return [_replace_non_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
