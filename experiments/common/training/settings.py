"""Settings of a training run in the form that its folder and its model card store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from flex_judge.alignment.training.recipes import PolicyRecipe
from flex_judge.experiments.common.training.flags import TrainingFlags
from flex_judge.judges.models import identify_model

OMITTED = ("output_dir", "model_name_or_path")
"""TRL settings that are stored elsewhere."""
FREE_PREFIXES = ("logging_", "save_", "report_to", "run_name", "disable_tqdm", "dataloader_", "gradient_checkpointing")
"""Prefixes of settings that do not affect the results: a run may be resumed with other values."""


def build_identity(flags: TrainingFlags, recipe: PolicyRecipe) -> dict[str, Any]:
    """Collect the settings that determine the results of a run.

    Args:
        flags: parsed flags of the command.
        recipe: recipe of the flags, completed with the judge that the data names.
    """
    recipe_settings = {name: value for name, value in asdict(recipe).items() if name != "judge_key"}
    trl_settings = collect_trl_settings(flags)
    return {
        "command": flags.kind.name,
        "policy": identify_model(flags.policy),
        **recipe_settings,
        **{f"trl.{name}": value for name, value in trl_settings.items() if not name.startswith(FREE_PREFIXES)},
        "trl.bf16": flags.args.bf16,
    }


def collect_trl_settings(flags: TrainingFlags) -> dict[str, Any]:
    """Collect the TRL settings that differ from TRL's defaults on this machine, as JSON values and without keys."""
    changed: dict[str, Any] = {}
    for settings, defaults in ((flags.args, flags.default_args), (flags.model, type(flags.model)())):
        for name in (f.name for f in fields(settings)):
            # Fields that end in _token hold access keys, which must not end up in a model card.
            if name in OMITTED or name.endswith("_token"):
                continue
            if getattr(settings, name) != getattr(defaults, name):
                changed[name] = _convert_to_json(getattr(settings, name))
    return changed


def _convert_to_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _convert_to_json(v) for name, v in value.items() if not str(name).endswith("token")}
    return json.loads(json.dumps(value, default=str))
