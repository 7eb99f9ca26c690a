"""Flags of `flex-judge sft`, `dpo` and `grpo`: TRL's flags and the flags of this project's recipes."""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

import yaml
from trl import DPOConfig, GRPOConfig, ModelConfig, SFTConfig, TrlParser

from flex_judge.alignment.data.sources import SOURCE_FORMS
from flex_judge.alignment.policy_training.tuning import TRL_ERRORS
from flex_judge.alignment.tasks import arithmetic
from flex_judge.alignment.training.recipes import JudgeRecipe, PolicyRecipe, RewardRecipe
from flex_judge.experiments.common.launching import add_launch_flags
from flex_judge.experiments.common.progress import JSON_FLAG, JSON_HELP, set_json_progress
from flex_judge.judges.errors import UsageError, to_one_line
from flex_judge.judges.models import check_model, resolve_model
from flex_judge.judges.models.embedded import BASE, EMBEDDED
from flex_judge.judges.validation.text_files import read_text

RUN_DEFAULTS = {"report_to": "none", "save_steps": 0.1, "save_total_limit": 2, "logging_steps": 5}
"""Defaults that differ from TRL's: frequent checkpoints, so that a stopped run can resume, and no reporting service."""
CPU_DEFAULTS = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False}
"""Defaults without a GPU; TRL's assume one."""
EMBEDDED_DEFAULTS = {"use_peft": True, "lora_r": 16, "lora_alpha": 32, "lora_target_modules": ["all-linear"]}
"""Defaults for an embedded model: train a LoRA adapter of a few MB."""
DATA_HELP = {
    "dpo": f"Preferences: the folder of a `flex-judge preferences` run, or pairs: {SOURCE_FORMS}",
    "sft": f"Judgments: the folder of a `flex-judge curate` run, or prompts and completions: {SOURCE_FORMS}",
    "grpo": f"Prompts: {SOURCE_FORMS} (default: the embedded task)",
}
"""Command -> help of its data argument."""

PUBLISHED_DEFAULTS = {
    "num_train_epochs": 1.0,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.05,
    "weight_decay": 1e-4,
    "adam_beta1": 0.9,
    "adam_beta2": 0.95,
    "max_length": 4096,
}
"""Hyperparameters of the published judges (arXiv 2505.18601), except those that depend on the model's size."""
EVALUATIONS = {
    "eval_strategy": "steps",
    "eval_steps": 0.25,
    "eval_on_start": True,
    "load_best_model_at_end": True,
    "metric_for_best_model": "eval_balanced_accuracy",
    "greater_is_better": True,
}
"""Defaults of judge training: evaluate regularly and keep the best checkpoint. Dropped with `--eval_strategy no`."""
RECIPES = ("flex-vl-7b", "flex-vl-3b", "flex-vl-32b-lora", "flex-omni-7b", "flex-llama-8b", "flex-smollm2-135m")
"""Names of the included recipes: the published judges and the embedded one."""
DEEPSPEED = "ACCELERATE_USE_DEEPSPEED"
"""Environment variable that a launcher sets to enable DeepSpeed."""
_NO_EVALUATIONS = ("eval_strategy", "no", "the policy is evaluated before and after training")
HELP_ALL = "--help-all"
ALWAYS_SHOWN = ("accelerate_config", "num_processes", "json_progress", "model_name_or_path", "output_dir")
"""Flags of TRL and the launcher that --help lists in addition to the recipe flags."""


@dataclass(frozen=True, kw_only=True)
class TrainingKind:
    """Training method: its settings classes and defaults."""

    name: str
    recipe: type[Any]
    """Settings class of this project."""
    config: type[Any]
    """Settings class of TRL."""
    data: str | None
    """Default training data; None for the embedded task."""
    small: Mapping[str, Any]
    """Defaults for an embedded model, chosen for training within minutes on a CPU."""
    usual: Mapping[str, Any] = field(default_factory=dict)
    """Defaults for all models that differ from TRL's."""
    fixed: tuple[tuple[str, Any, str], ...] = (_NO_EVALUATIONS,)
    """TRL settings that must keep one value: name, value, and the reason or an alternative."""
    recipes: tuple[str, ...] = ()
    """Names of included YAML files that `--config` accepts."""


KINDS = {
    kind.name: kind
    for kind in (
        TrainingKind(
            name="sft",
            recipe=JudgeRecipe,
            config=SFTConfig,
            data="runs/curate",
            small={
                "learning_rate": 1e-3,
                "per_device_train_batch_size": 4,
                "max_length": 1024,
                "train_sampling_strategy": "group_by_length",
            },
            usual={**PUBLISHED_DEFAULTS, "save_steps": 0.25, **EVALUATIONS},
            fixed=(
                ("load_in_4bit", False, "quantised training is not supported"),
                ("load_in_8bit", False, "quantised training is not supported"),
                ("completion_only_loss", None, "the loss is on the reply only"),
                ("chat_template_path", None, "training uses the model's own chat template, as judging does"),
                ("eos_token", None, "training uses the end-of-turn token of the model's own chat template"),
                ("model_init_kwargs", None, "use --dtype and --attn_implementation"),
                ("trust_remote_code", False, "the judge's engines run no code from checkpoints"),
            ),
            recipes=RECIPES,
        ),
        TrainingKind(
            name="dpo",
            recipe=PolicyRecipe,
            config=DPOConfig,
            data="runs/preferences",
            small={"learning_rate": 1e-4, "per_device_train_batch_size": 8, "num_train_epochs": 1.0},
        ),
        TrainingKind(
            name="grpo",
            recipe=RewardRecipe,
            config=GRPOConfig,
            data=None,
            small={
                "learning_rate": 5e-5,
                "per_device_train_batch_size": 16,
                "num_generations": 8,
                "num_train_epochs": 0.1,
                "temperature": 0.8,
            },
        ),
    )
}


@dataclass(frozen=True)
class TrainingFlags:
    """Parsed command line of a training command."""

    kind: TrainingKind
    data: str | None
    """Training data; None for the embedded task."""
    recipe: Any
    """Settings of this project."""
    args: Any
    """SFTConfig, DPOConfig or GRPOConfig."""
    model: Any
    """ModelConfig; the name of an embedded model is replaced by the path of its checkpoint."""
    policy: str
    """Name of the model, as passed on the command line."""

    @property
    def default_args(self) -> Any:
        """TRL's defaults on this machine."""
        args = self.args
        # transformers keeps a global reference to the most recently created DeepSpeed settings. Creating these defaults
        # with DeepSpeed enabled would replace the settings of the run.
        launched = os.environ.pop(DEEPSPEED, None)
        try:
            return self.kind.config(output_dir=args.output_dir, use_cpu=args.use_cpu, bf16=args.bf16)
        finally:
            if launched is not None:
                os.environ[DEEPSPEED] = launched


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Help formatter that appends defaults, but not `(default: None)`."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


class _Parser(TrlParser):  # type: ignore[misc]
    """TRL's parser with one-line errors."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError instead of printing the usage and exiting."""
        raise UsageError(message)


def parse_flags(kind: TrainingKind, argv: Sequence[str]) -> TrainingFlags:
    """Parse the command line of a training command.

    Raises:
        UsageError: an unknown flag, a setting out of range, or no such model.
    """
    argv = _expand_recipe(argv, kind.recipes)
    parser = _Parser((kind.recipe, kind.config, ModelConfig), prog=f"flex-judge {kind.name}", allow_abbrev=False)
    parser.formatter_class = _HelpFormatter
    parser.add_argument("data", metavar="DATA", nargs="?", help=DATA_HELP[kind.name])
    add_launch_flags(parser)
    parser.add_argument(JSON_FLAG, action="store_true", help=JSON_HELP)
    _spell_with_dashes(parser, kind)
    if HELP_ALL in argv:
        argv = ["--help" if text == HELP_ALL else text for text in argv]
    else:
        _hide_trl_flags(parser, kind)
    # Defaults depend on the model, so some flags are read before the real parsing.
    scanned = _scan_flags(argv)
    policy = str(scanned.get("model_name_or_path") or BASE)
    parser.set_defaults_with_config(**_build_defaults(kind, policy, scanned))
    try:
        recipe, args, model, extra, unknown = parser.parse_args_and_config(list(argv), return_remaining_strings=True)
    except UsageError:
        raise
    except IndexError as e:
        raise UsageError("--config: expected the name of a file") from e
    except (*TRL_ERRORS, TypeError, RecursionError, yaml.YAMLError) as e:
        hint = "--config: not YAML in UTF-8: " if isinstance(e, UnicodeDecodeError | RecursionError) else ""
        raise UsageError(f"{hint}{to_one_line(e)}") from e  # an invalid --config, or a setting that TRL rejects
    set_json_progress(extra.json_progress)
    for flag in ("accelerate_config", "num_processes"):
        if getattr(extra, flag) is not None:
            raise UsageError(f"--{flag} is accepted on the command line only, together with --accelerate_config")
    if unknown:
        raise UsageError(f"unknown flags: {' '.join(unknown)}; run flex-judge {kind.name} {HELP_ALL} for all flags")
    for name, value, reason in (
        *kind.fixed,
        ("push_to_hub", False, "the model card is finished after training; then use `hf upload`"),
        ("model_revision", "main", "download that revision, and name its folder"),
    ):
        if getattr(args if hasattr(args, name) else model, name) != value:
            raise UsageError(f"--{name} is not for this command: {reason}")
    policy = model.model_name_or_path
    check_model(policy)
    if policy in EMBEDDED:
        model.model_name_or_path = str(resolve_model(policy))
    if kind.data is None and extra.data is None and "max_completion_length" not in scanned:
        args.max_completion_length = arithmetic.MAX_ANSWER_TOKENS
    return TrainingFlags(kind, extra.data or kind.data, recipe=recipe, args=args, model=model, policy=policy)


def _spell_with_dashes(parser: argparse.ArgumentParser, kind: TrainingKind) -> None:
    """Keep only the spelling with dashes of the recipe's flags; TRL's parser adds one with underscores."""
    recipe_flags = {f.name for f in fields(kind.recipe)}
    for action in parser._actions:
        if action.dest in recipe_flags:
            for text in action.option_strings:
                if "_" in text:
                    del parser._option_string_actions[text]
            action.option_strings = [text for text in action.option_strings if "_" not in text]


def _hide_trl_flags(parser: argparse.ArgumentParser, kind: TrainingKind) -> None:
    """Hide TRL's flags in the help, except those that every run needs. Hidden flags are still accepted."""
    shown_flags = {*(f.name for f in fields(kind.recipe)), *ALWAYS_SHOWN, "help", "data"}
    for action in parser._actions:
        if action.dest not in shown_flags:
            action.help = argparse.SUPPRESS
    parser.usage = "%(prog)s [DATA] [options]"
    parser.epilog = f"--config FILE reads any setting from YAML; flags override it. TRL's own settings: {HELP_ALL}"


def _expand_recipe(argv: Sequence[str], recipes: Collection[str]) -> list[str]:
    """Replace the name of a recipe after --config by the path of its file."""
    expanded: list[str] = []
    for text in argv:
        expanded += text.split("=", 1) if text.startswith("--config=") else [text]
    for i, name in enumerate(expanded[1:], 1):
        if expanded[i - 1] == "--config" and name in recipes and not Path(name).exists():
            expanded[i] = str(Path(__file__).parents[2] / "recipes" / f"{name}.yaml")
    return expanded


def _build_defaults(kind: TrainingKind, policy: str, scanned: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    defaults = {"model_name_or_path": BASE, "output_dir": f"runs/{kind.name}", **RUN_DEFAULTS, **kind.usual}
    if scanned.get("eval_strategy") == "no":  # without evaluations there is no best checkpoint to load
        defaults = {name: value for name, value in defaults.items() if name not in EVALUATIONS}
    if not torch.accelerator.is_available():
        defaults |= CPU_DEFAULTS
    if policy in EMBEDDED:
        defaults |= {**EMBEDDED_DEFAULTS, **kind.small}
    return defaults


def _scan_flags(argv: Sequence[str]) -> dict[str, Any]:
    """Find out which settings a command line and its --config set; errors are left to the real parsing.

    Returns:
        Name of each setting -> its value if it is one that defaults depend on or comes from --config, else None.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--model_name_or_path", "--model-name-or-path")
    parser.add_argument("--eval_strategy", "--eval-strategy")
    parser.add_argument("--config")
    names: dict[str, Any] = {text.partition("=")[0][2:].replace("-", "_"): None for text in argv if text[:2] == "--"}
    try:
        options, _ = parser.parse_known_args(list(argv))
        content = yaml.safe_load(read_text(Path(options.config))) if options.config else {}
    except (argparse.ArgumentError, SystemExit, ValueError, RecursionError, yaml.YAMLError):
        return names
    flags = {name: value for name, value in vars(options).items() if value is not None and name != "config"}
    return names | (content if isinstance(content, dict) else {}) | flags
