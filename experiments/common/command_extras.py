"""The extras that each command needs, checked before the command starts."""

from __future__ import annotations

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
    "report": ("eval",),
    "sft": ("train",),
    "dpo": ("serve", "train"),
    "grpo": ("serve", "train"),
}
"""Command -> extras; `doctor` is not here because it needs none."""
HELP_NEEDS_EXTRAS = ("eval", "sft", "dpo", "grpo")
"""Commands whose flags come from a library of their extra, so that even --help needs it."""


def require_command_extras(command: str) -> None:
    """Check that the extras of a command are installed.

    Raises:
        MissingExtraError: at least one is missing.
    """
    require_extras(f"flex-judge {command}", *COMMAND_EXTRAS.get(command, ()))


def explain_missing_module(command: str, error: ModuleNotFoundError) -> MissingExtraError | None:
    """Turn a failed import into the error that names the extra; None if no extra brings the module."""
    extras = find_extras_with_module(error.name or "")
    return MissingExtraError(describe_missing_extras(f"flex-judge {command}", extras[:1])) if extras else None
