"""Rubrics: criteria, scale and wording of a judgment. A rubric is a small TOML file.

Presets are in `presets/`. To use your own rubric, pass the path of its file; two lines are enough:

    criteria = "politeness and clarity"
    scale = "1-5"

`flex_judge.judges.rubrics.rubric.Rubric` documents all fields.
"""

from __future__ import annotations

import tomllib
from difflib import get_close_matches
from functools import lru_cache
from importlib import resources
from pathlib import Path

from flex_judge.judges.errors import UsageError
from flex_judge.judges.rubrics.rubric import Rubric
from flex_judge.judges.rubrics.scale import MAX_LABELS, OPTIONS, SHARES, Scale
from flex_judge.judges.validation.text_files import read_text

__all__ = ["MAX_LABELS", "OPTIONS", "SHARES", "Rubric", "Scale", "get_rubric", "list_rubrics", "load_rubric"]

_PRESETS = resources.files("flex_judge.judges") / "rubrics" / "presets"


def list_rubrics() -> list[str]:
    """List the names of the presets, sorted."""
    return sorted(f.name.removesuffix(".toml") for f in _PRESETS.iterdir() if f.name.endswith(".toml"))


def load_rubric(name: str) -> Rubric:
    """Load a preset by its name, or a rubric from a TOML file.

    Args:
        name: name of a preset, or path of a file that ends in `.toml`.

    Raises:
        UsageError: the rubric does not exist, or its file is invalid; the message names file and field.

    Example:
        >>> str(load_rubric("general").scale)
        '1-10'
    """
    names = list_rubrics()
    if name not in names and not (name.endswith(".toml") and Path(name).is_file()):
        close_names = get_close_matches(name, names, n=1)
        hint = f" (did you mean {close_names[0]!r}?)" if close_names else ""
        raise UsageError(
            f"rubric {name!r} does not exist{hint}; choose one of {', '.join(names)}, or pass the path of a TOML file"
        )
    text = (_PRESETS / f"{name}.toml").read_text(encoding="utf-8") if name in names else read_text(Path(name))
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as e:  # ValueError: TOMLDecodeError, or a number of too many digits
        raise UsageError(f"{name}: not a valid TOML file: {e}") from e
    return Rubric.from_dict(name, data, source=name)


@lru_cache(maxsize=64)
def get_rubric(name: str) -> Rubric:
    """Load a rubric and cache it for the lifetime of the process; later changes of its file have no effect."""
    return load_rubric(name)
