"""Package extras that each command needs, checked before the command starts."""

from __future__ import annotations

from flex_judge.judges.engines.base import is_address
from flex_judge.judges.extras import MissingExtraError, describe_missing_extras, find_extras_with_module, require_extras

COMMAND_EXTRAS: dict[str, tuple[str, ...]] = {
    "demo": ("serve", "train"),
    "judge": ("judge",),
    "serve": ("serve",),
    "best-of-n": ("serve", "train"),
    "preferences": ("serve", "train"),
    "curate": ("train",),
    "eval": ("eval",),
    "bench": ("serve", "train"),
    "model": ("judge",),
    "sft": ("train",),
    "dpo": ("serve", "train"),
    "grpo": ("serve", "train"),
}
"""Command -> required extras. `doctor` needs none, so that it can report what is missing; `report` needs those of the
command of the run."""
HELP_NEEDS_EXTRAS = ("eval", "sft", "dpo", "grpo")
"""Commands whose flags are defined by a library of their extra, so that even --help needs it."""


def require_command_extras(command: str, model: str | None = None) -> None:
    """Check that the extras of a command are installed.

    Args:
        command: Name of the command.
        model: Model of the judge, if the command has one; a model at an address needs no library that runs models.

    Raises:
        MissingExtraError: at least one extra is missing.
    """
    extras = COMMAND_EXTRAS.get(command, ())
    if extras == ("judge",) and is_address(model or ""):
        extras = ("remote",)
    require_extras(f"flex-judge {command}", *extras)


def explain_missing_module(command: str, error: ModuleNotFoundError) -> MissingExtraError | None:
    """Turn a failed import into an error that names the missing extra; None if no extra provides the module."""
    extras = find_extras_with_module(error.name or "")
    # One extra is enough to fix the import, so only the first is suggested.
    return MissingExtraError(describe_missing_extras(f"flex-judge {command}", extras[:1])) if extras else None
