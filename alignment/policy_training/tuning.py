"""Training of a policy with TRL's trainers: resume from the last checkpoint, train to the end and save."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from flex_judge.alignment.training.weights import FamilyWeightsMixin
from flex_judge.judges.errors import UsageError, to_one_line
from flex_judge.judges.io.json_values import dump_json
from flex_judge.judges.io.jsonl import write_text
from flex_judge.judges.models import MOL_LLAMA, read_model_type, resolve_model
from flex_judge.judges.models.checkpoints import open_checkpoint

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import TrainerState
    from trl import DPOConfig, GRPOConfig, ModelConfig

    from flex_judge.alignment.policy_training.data import PolicyTrainingData
    from flex_judge.reward.trl import JudgeReward

Trainer = TypeVar("Trainer", bound=FamilyWeightsMixin)
Result = TypeVar("Result")
TRL_ERRORS = (ValueError, NotImplementedError, ImportError, OSError)
"""Errors that TRL raises for unsuitable settings or data; NotImplementedError for settings that it does not support
together, such as `sync_ref_model` with an adapter."""
LOG_FILE = "training.json"
"""File with the trainer's log. It is written last, so a folder with it holds a fully trained model."""


def tune_dpo(model: ModelConfig, args: DPOConfig, rows: Dataset, callbacks: Sequence[Any] = ()) -> None:
    """Tune a policy with DPO and save it to `args.output_dir`.

    Args:
        model: TRL's settings of the model.
        args: TRL's training settings.
        rows: Preferences from `prepare_preferences`.
        callbacks: Further callbacks of the trainer, see `build_trainer`.

    Raises:
        UsageError: TRL rejects a setting or the data.
    """
    from trl import DPOTrainer

    if read_model_type(model.model_name_or_path) == MOL_LLAMA:
        _tune_on_molecules(model, args, rows, callbacks)
    else:
        _tune_with_trainer(DPOTrainer, model, args, rows, callbacks=callbacks)


def prepare_preferences(model: ModelConfig, args: DPOConfig, data: PolicyTrainingData) -> PolicyTrainingData:
    """Convert preferences to the form that a policy is trained on.

    Molecules are expanded for a molecular policy, and tools are written as text if its chat template leaves them out.

    Args:
        model: TRL's settings of the model.
        args: TRL's training settings.
        data: Preferences.

    Raises:
        UsageError: The data has molecules that the policy does not support, invalid molecules, or a setting does not
            suit a molecular policy.
    """
    from flex_judge.alignment.policy_training.molecule_rows import expand_molecules, has_molecules
    from flex_judge.alignment.policy_training.tool_rows import write_tools_for_policy

    policy = str(model.model_name_or_path)
    # TRL's collator of rows with images leaves out definitions of tools.
    data = write_tools_for_policy(data, policy, trainer_takes_tools="images" not in data.rows.column_names)
    if read_model_type(policy) == MOL_LLAMA:
        from flex_judge.alignment.policy_training.molecules import check_molecule_settings

        check_molecule_settings(model, args)
        return expand_molecules(data, open_checkpoint(policy).profile.molecule_tokens)
    if has_molecules(data):
        raise UsageError(
            f"{data.name}: has molecules, which policy {policy!r} does not support; run flex-judge preferences without "
            "--with-molecules to write them as SMILES into the text"
        )
    return data


def prepare_prompts(model: ModelConfig, data: PolicyTrainingData) -> PolicyTrainingData:
    """Convert prompts to the form that GRPO takes: definitions of tools are text, and calls if the policy needs it.

    Args:
        model: TRL's settings of the model.
        data: Prompts.
    """
    from flex_judge.alignment.policy_training.tool_rows import write_tools_for_policy

    return write_tools_for_policy(data, str(model.model_name_or_path), trainer_takes_tools=False)


def _tune_on_molecules(model: ModelConfig, args: DPOConfig, rows: Dataset, callbacks: Sequence[Any]) -> None:
    from transformers import AutoTokenizer
    from trl import get_peft_config

    from flex_judge.alignment.policy_training.molecules import (
        MoleculeDPOTrainer,
        MoleculePreferenceCollator,
        load_trainable_policy,
        remove_reference_adapter,
    )

    name = model.model_name_or_path
    # Loading the model raises the same kinds of errors as creating a trainer.
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
        callbacks=callbacks,
    )
    _train_and_save(trainer, args)
    remove_reference_adapter(Path(args.output_dir))


def tune_grpo(
    model: ModelConfig, args: GRPOConfig, rows: Dataset, reward: JudgeReward, callbacks: Sequence[Any] = ()
) -> None:
    """Tune a policy with GRPO on its own answers and save it to `args.output_dir`.

    Args:
        model: TRL's settings of the model.
        args: TRL's training settings.
        rows: Prompts.
        reward: Reward function of the judge.
        callbacks: Further callbacks of the trainer, see `build_trainer`.

    Raises:
        UsageError: TRL rejects a setting or the data.
        ServiceUnavailableError: The judge service cannot be reached any more.
    """
    from trl import GRPOTrainer

    # The class is created here, because importing TRL at module level takes seconds.
    trainer = type(GRPOTrainer.__name__, (_OrderByEpochMixin, GRPOTrainer), {})
    _tune_with_trainer(trainer, model, args, rows, reward_funcs=reward, callbacks=callbacks)


class _OrderByEpochMixin:
    """Trainer whose order of prompts depends only on seed and epoch.

    TRL draws the orders of all epochs from one generator, and a resumed run would draw the first one again: it would
    train on some prompts of its epoch twice, and on others not at all.
    """

    state: TrainerState

    def _get_train_sampler(self, *args: Any) -> _EpochSampler:
        sampler = super()._get_train_sampler(*args)  # type: ignore[misc] # a method of TRL's trainer
        return _EpochSampler(sampler, lambda: int(self.state.epoch or 0))


class _EpochSampler:
    """Sampler of TRL (`trl.trainer.utils.RepeatSampler`) that is seeded anew for each epoch."""

    def __init__(self, sampler: Any, get_epoch: Callable[[], int]) -> None:
        self._sampler, self._get_epoch = sampler, get_epoch

    def __iter__(self) -> Iterator[int]:
        if self._sampler.shuffle:
            self._sampler.generator.manual_seed(self._sampler.seed + self._get_epoch())
        yield from self._sampler

    def __len__(self) -> int:
        return len(self._sampler)


def check_grpo_policy(policy: str) -> None:
    """Raise UsageError for a molecular policy, which TRL's GRPOTrainer does not support."""
    if read_model_type(policy) == MOL_LLAMA:
        raise UsageError(
            f"policy {policy!r}: TRL's GRPOTrainer does not support molecules; make pairs with flex-judge preferences "
            "--with-molecules and train with flex-judge dpo"
        )


def _add_model_settings(args: Any, model: ModelConfig) -> Any:
    """Copy the settings for loading the model into the trainer's arguments, as TRL's own scripts do."""
    model_settings = {
        "revision": model.model_revision,
        "trust_remote_code": args.trust_remote_code,
        "attn_implementation": model.attn_implementation,
        "dtype": model.dtype,
    }
    # Explicit settings of the user take precedence.
    args.model_init_kwargs = {**model_settings, **(args.model_init_kwargs or {})}
    return args


def _tune_with_trainer(kind: type[Any], model: ModelConfig, args: Any, rows: Dataset, **kwargs: Any) -> None:
    from trl import get_peft_config, get_quantization_config

    trainer = build_trainer(
        type(kind.__name__, (FamilyWeightsMixin, kind), {}),
        model=model.model_name_or_path,
        args=_add_model_settings(args, model),
        train_dataset=rows,
        quantization_config=get_quantization_config(model),
        peft_config=get_peft_config(model),
        **kwargs,
    )
    _train_and_save(trainer, args)


def _train_and_save(trainer: Any, args: Any) -> None:
    """Train to the end, resuming if possible, save the model and free its memory."""
    out = Path(args.output_dir)
    # The run's own last checkpoint is newer than the checkpoint that the user started it from.
    trainer.train(resume_from_checkpoint=find_last_checkpoint(out) or args.resume_from_checkpoint)
    trainer.save_model(str(out))
    write_training_log(trainer, out)
    # The evaluation that follows starts an engine in this process, which needs the accelerator's memory.
    trainer.accelerator.free_memory()
    del trainer
    gc.collect()
    _empty_cache()


def build_trainer(kind: Callable[..., Trainer], *, callbacks: Sequence[Any] = (), **arguments: Any) -> Trainer:
    """Create a trainer and check that it can train and save.

    Args:
        kind: Trainer class of TRL, combined with `FamilyWeightsMixin`.
        callbacks: Further callbacks of transformers. If there are any, its progress bars are left out.
        **arguments: Arguments of the class.

    Raises:
        UsageError: TRL rejects a setting or the data, no row is short enough to train on, or the model would not be
            saved.
    """
    if callbacks:
        arguments["args"].disable_tqdm = True
    trainer = _call_trl(kind, **arguments)
    if callbacks:
        from transformers import PrinterCallback

        trainer.remove_callback(PrinterCallback)  # type: ignore[attr-defined]
        for callback in callbacks:
            trainer.add_callback(callback)  # type: ignore[attr-defined]
    rows = trainer.train_dataset  # type: ignore[attr-defined]
    # Streaming data sets have no length.
    if hasattr(rows, "__len__") and not len(rows):
        limit = arguments["args"].max_length
        raise UsageError(f"--max_length {limit}: no row is left to train on, because every prompt is longer; raise it")
    trainer.check_saves()
    return trainer


def _call_trl(function: Callable[..., Result], *arguments: Any, **keywords: Any) -> Result:
    """Call a function of TRL, with its errors converted to UsageError."""
    try:
        return function(*arguments, **keywords)
    except TRL_ERRORS as e:
        raise UsageError(to_one_line(e)) from e


def write_training_log(trainer: Any, folder: Path) -> None:
    """Write LOG_FILE, which marks the end of training. Call it in every process."""
    if trainer.accelerator.is_main_process:
        content = {"rows": len(trainer.train_dataset), "log": trainer.state.log_history}
        write_text(folder / LOG_FILE, dump_json(content, indent=1) + "\n")
    trainer.accelerator.wait_for_everyone()


def find_last_checkpoint(folder: Path) -> str | None:
    """Find the newest complete checkpoint in a folder, or return None."""
    # The trainer writes the state last, so a checkpoint with a state is complete.
    steps: dict[int, Path] = {}
    for state in folder.glob("checkpoint-*/trainer_state.json"):
        step = state.parent.name.rpartition("-")[2]
        if step.isdecimal():
            steps[int(step)] = state.parent
    return str(steps[max(steps)]) if steps else None


def _empty_cache() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
