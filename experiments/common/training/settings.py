"""The settings of a training run, as its folder and its model card hold them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from flex_judge.alignment.training.recipes import PolicyRecipe
from flex_judge.experiments.common.training.flags import TrainingFlags
from flex_judge.judges.models import identify_model

NOT_TOLD = ("output_dir", "model_name_or_path")
"""Settings of TRL's that are said elsewhere."""
AT_WILL = ("logging_", "save_", "report_to", "run_name", "disable_tqdm", "dataloader_", "gradient_checkpointing")
"""What settings begin with that do not determine the results: a run may go on with others."""


def build_identity(flags: TrainingFlags, recipe: PolicyRecipe) -> dict[str, Any]:
    """What determines the results of a run, as far as the settings go.

    Args:
        recipe: that of the flags, with what the data says of their judge.
    """
    told = {name: value for name, value in asdict(recipe).items() if name != "judge_key"}
    return {
        "command": flags.kind.name,
        "policy": identify_model(flags.policy),
        **told,
        **{f"trl.{name}": value for name, value in collect_trl_settings(flags).items() if not name.startswith(AT_WILL)},
        "trl.bf16": flags.args.bf16,
    }


def collect_trl_settings(flags: TrainingFlags) -> dict[str, Any]:
    """The settings of TRL's that differ from its own on this machine, as JSON holds them, without keys."""
    found: dict[str, Any] = {}
    for settings, plain in ((flags.args, flags.default_args), (flags.model, type(flags.model)())):
        for name in (f.name for f in fields(settings) if f.name not in NOT_TOLD and not f.name.endswith("_token")):
            if getattr(settings, name) != getattr(plain, name):
                found[name] = _convert_to_json(getattr(settings, name))
    return found


def _convert_to_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _convert_to_json(v) for name, v in value.items() if not str(name).endswith("token")}
    return json.loads(json.dumps(value, default=str))
