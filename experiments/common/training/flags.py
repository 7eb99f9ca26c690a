"""The flags of `flex-judge sft`, `dpo` and `grpo`: TRL's own, and those of our recipes."""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

import yaml
from trl import DPOConfig, GRPOConfig, ModelConfig, SFTConfig, TrlParser

from flex_judge.alignment.tasks import arithmetic
from flex_judge.alignment.training.recipes import JudgeRecipe, PolicyRecipe, RewardRecipe
from flex_judge.experiments.common.launching import CONFIG_HELP, PROCESSES_HELP
from flex_judge.judges.errors import UsageError, to_one_line
from flex_judge.judges.models import check_model, resolve_model
from flex_judge.judges.models.embedded import BASE, EMBEDDED

RUN_DEFAULTS = {"report_to": "none", "save_steps": 0.1, "save_total_limit": 2, "logging_steps": 5}
"""Defaults that are not TRL's: a run can be stopped and goes on where it was, and reports to nobody unless told to."""
CPU_DEFAULTS = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False}
"""TRL's are for accelerators."""
EMBEDDED_DEFAULTS = {"use_peft": True, "lora_r": 16, "lora_alpha": 32, "lora_target_modules": ["all-linear"]}
"""For an embedded model: an adapter of a few MB."""
DATA_HELP = {
    "dpo": "preferences: the folder of a `flex-judge preferences` run, another that load_dataset takes, a .jsonl or "
    ".parquet file, or hub:OWNER/NAME[:CONFIG][@SPLIT]",
    "sft": "judgments: the folder of a `flex-judge curate` run, or a .jsonl or .parquet file of prompts and "
    "completions",
    "grpo": "prompts: a .jsonl or .parquet file, or hub:OWNER/NAME[:CONFIG][@SPLIT] (default: the embedded task)",
}


PUBLISHED_DEFAULTS = {
    "num_train_epochs": 1.0,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.05,
    "weight_decay": 1e-4,
    "adam_beta1": 0.9,
    "adam_beta2": 0.95,
    "max_length": 4096,
}
"""The recipe of the published judges (arXiv 2505.18601), but for what depends on the model's size."""
EVALUATIONS = {
    "eval_strategy": "steps",
    "eval_steps": 0.25,
    "eval_on_start": True,
    "load_best_model_at_end": True,
    "metric_for_best_model": "eval_balanced_accuracy",
    "greater_is_better": True,
}
"""A judge in training is evaluated, and the best one is kept. Left out where there are no evaluations."""
RECIPES = ("flex-vl-7b", "flex-vl-3b", "flex-vl-32b-lora", "flex-omni-7b", "flex-llama-8b", "flex-smollm2-135m")
"""Those of the published judges, and of the embedded one."""
DEEPSPEED = "ACCELERATE_USE_DEEPSPEED"
"""Variable by which a launcher says that weights are spread with DeepSpeed."""
_MEASURED = ("eval_strategy", "no", "the policy is measured before and after")


HELP_ALL = "--help-all"
ALWAYS_SHOWN = ("accelerate_config", "num_processes", "model_name_or_path", "output_dir")
"""Flags that --help lists besides those of our recipes."""


@dataclass(frozen=True)
class TrainingKind:
    """A way of training."""

    name: str
    recipe: type[Any]
    config: type[Any]
    data: str | None
    """What is trained on where nothing else is named; None for the embedded task."""
    small: Mapping[str, Any]
    """Defaults for an embedded model, with which training takes minutes on a CPU."""
    usual: Mapping[str, Any] = field(default_factory=dict)
    """Defaults for any model, where they are not TRL's."""
    fixed: tuple[tuple[str, Any, str], ...] = (_MEASURED,)
    """Settings of TRL's that can only be what they are: name, value, and why or what to do instead."""
    recipes: tuple[str, ...] = ()
    """Files of settings that come with the project, which `--config` takes by these names."""


KINDS = {
    kind.name: kind
    for kind in (
        TrainingKind(
            "sft",
            JudgeRecipe,
            SFTConfig,
            "runs/curate",
            {
                "learning_rate": 1e-3,
                "per_device_train_batch_size": 4,
                "max_length": 1024,
                "train_sampling_strategy": "group_by_length",
            },
            {**PUBLISHED_DEFAULTS, "save_steps": 0.25, **EVALUATIONS},
            (
                ("load_in_4bit", False, "load the model as it is"),
                ("load_in_8bit", False, "load the model as it is"),
                ("completion_only_loss", None, "the loss is on the reply, always"),
                ("chat_template_path", None, "training examples are cut by the model's own template, as it judges"),
                ("eos_token", None, "turns end as the model's own template ends them"),
                ("model_init_kwargs", None, "use --dtype and --attn_implementation"),
                ("trust_remote_code", False, "the judge's engines run no code of checkpoints"),
            ),
            RECIPES,
        ),
        TrainingKind(
            "dpo",
            PolicyRecipe,
            DPOConfig,
            "runs/preferences",
            {"learning_rate": 1e-4, "per_device_train_batch_size": 8, "num_train_epochs": 1.0},
        ),
        TrainingKind(
            "grpo",
            RewardRecipe,
            GRPOConfig,
            None,
            {
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
    """What a command line says."""

    kind: TrainingKind
    data: str | None
    recipe: Any
    args: Any
    """SFTConfig, DPOConfig or GRPOConfig."""
    model: Any
    """ModelConfig, with the path of an embedded model for its name."""
    policy: str
    """The policy's name, as it was given."""

    @property
    def default_args(self) -> Any:
        """TRL's own settings for this machine."""
        args = self.args
        # transformers spreads weights with DeepSpeed by the settings that were made last, as long as they live.
        launched = os.environ.pop(DEEPSPEED, None)
        try:
            return self.kind.config(output_dir=args.output_dir, use_cpu=args.use_cpu, bf16=args.bf16)
        finally:
            if launched is not None:
                os.environ[DEEPSPEED] = launched


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Appends defaults to help texts, but not `(default: None)`."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


class _Parser(TrlParser):  # type: ignore[misc]
    """As TRL's, but what is wrong is one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def parse_flags(kind: TrainingKind, argv: Sequence[str]) -> TrainingFlags:
    """What a command line says.

    Raises:
        UsageError: an unknown flag, a setting that is out of its range, or no such model.
    """
    argv = _expand_recipe(argv, kind.recipes)
    types = (kind.recipe, kind.config, ModelConfig)
    asked = _Parser(types, prog=f"flex-judge {kind.name}", allow_abbrev=False)
    asked.formatter_class = _HelpFormatter
    asked.add_argument("data", metavar="DATA", nargs="?", help=DATA_HELP[kind.name])
    asked.add_argument("--accelerate_config", metavar="NAME", help=CONFIG_HELP)
    asked.add_argument("--num_processes", metavar="N", help=PROCESSES_HELP)
    _spell_with_dashes(asked, kind)
    if HELP_ALL in argv:
        argv = ["--help" if text == HELP_ALL else text for text in argv]
    else:
        _hide_trl_flags(asked, kind)
    given = _scan_flags(argv)
    asked.set_defaults_with_config(**_build_defaults(kind, str(given.get("model_name_or_path") or BASE), given))
    try:
        recipe, args, model, rest, unknown = asked.parse_args_and_config(list(argv), return_remaining_strings=True)
    except UsageError:
        raise
    except IndexError as e:
        raise UsageError("--config: expected the name of a file") from e
    except (ValueError, TypeError, NotImplementedError, OSError, ImportError, yaml.YAMLError) as e:
        raise UsageError(to_one_line(e)) from e  # of a --config, or what TRL refuses
    for flag in ("accelerate_config", "num_processes"):
        if getattr(rest, flag) is not None:
            raise UsageError(f"--{flag} goes on the command line, beside --accelerate_config")
    if unknown:
        raise UsageError(f"unknown: {' '.join(unknown)}; flex-judge {kind.name} --help lists what there is")
    for name, value, why in (
        *kind.fixed,
        ("push_to_hub", False, "the model card is finished after training; then use `hf upload`"),
        ("model_revision", "main", "download that revision, and name its folder"),
    ):
        if getattr(args if hasattr(args, name) else model, name) != value:
            raise UsageError(f"--{name} is not for this command: {why}")
    policy = model.model_name_or_path
    check_model(policy)
    if policy in EMBEDDED:
        model.model_name_or_path = str(resolve_model(policy))
    if kind.data is None and rest.data is None and "max_completion_length" not in given:
        args.max_completion_length = arithmetic.MAX_ANSWER_TOKENS
    return TrainingFlags(kind, rest.data or kind.data, recipe, args, model, policy)


def _spell_with_dashes(parser: argparse.ArgumentParser, kind: TrainingKind) -> None:
    """Give our own flags the one spelling they have in all commands; TRL's parser adds one with underscores."""
    ours = {f.name for f in fields(kind.recipe)}
    for action in parser._actions:
        if action.dest in ours:
            for text in action.option_strings:
                if "_" in text:
                    del parser._option_string_actions[text]
            action.option_strings = [text for text in action.option_strings if "_" not in text]


def _hide_trl_flags(parser: argparse.ArgumentParser, kind: TrainingKind) -> None:
    """Leave the flags that are TRL's out of the help, but those that every run needs. They are still accepted."""
    shown = {*(f.name for f in fields(kind.recipe)), *ALWAYS_SHOWN, "help", "data"}
    for action in parser._actions:
        if action.dest not in shown:
            action.help = argparse.SUPPRESS
    parser.usage = "%(prog)s [DATA] [options]"
    parser.epilog = f"--config FILE reads any setting from YAML; flags win over it. TRL's own settings: {HELP_ALL}"


def _expand_recipe(argv: Sequence[str], recipes: Collection[str]) -> list[str]:
    """A command line in which the name of a recipe after --config has become that of its file."""
    found = [part for text in argv for part in (text.split("=", 1) if text.startswith("--config=") else [text])]
    for i, name in enumerate(found[1:], 1):
        if found[i - 1] == "--config" and name in recipes and not Path(name).exists():
            found[i] = str(Path(__file__).parents[2] / "recipes" / f"{name}.yaml")
    return found


def _build_defaults(kind: TrainingKind, policy: str, given: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    defaults = {"model_name_or_path": BASE, "output_dir": f"runs/{kind.name}", **RUN_DEFAULTS, **kind.usual}
    if given.get("eval_strategy") == "no":  # there is no best one then
        defaults = {name: value for name, value in defaults.items() if name not in EVALUATIONS}
    if not torch.accelerator.is_available():
        defaults |= CPU_DEFAULTS
    if policy in EMBEDDED:
        defaults |= {**EMBEDDED_DEFAULTS, **kind.small}
    return defaults


def _scan_flags(argv: Sequence[str]) -> dict[str, Any]:
    """The settings that a command line or its --config names, with what it says there, as far as that is known before
    it is parsed; what is wrong with it is said later.
    """
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    early.add_argument("--model_name_or_path", "--model-name-or-path")
    early.add_argument("--eval_strategy", "--eval-strategy")
    early.add_argument("--config")
    found: dict[str, Any] = {text.partition("=")[0][2:].replace("-", "_"): None for text in argv if text[:2] == "--"}
    try:
        known, _ = early.parse_known_args(list(argv))
        told = yaml.safe_load(Path(known.config).read_text(encoding="utf-8")) if known.config else {}
    except (argparse.ArgumentError, SystemExit, OSError, ValueError, yaml.YAMLError):
        return found
    said = {name: value for name, value in vars(known).items() if value is not None and name != "config"}
    return found | (told if isinstance(told, dict) else {}) | said
