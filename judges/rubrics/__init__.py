"""Rubrics: what is judged by, on which scale, and in which words. A rubric is a small TOML file.

Those that come with the project lie in `presets/`; one of your own is used by its path and needs two lines:

    criteria = "politeness and clarity"
    scale = "1-5"

`flex_judge.judges.rubrics.rubric.Rubric` lists the fields.
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

__all__ = ["MAX_LABELS", "OPTIONS", "SHARES", "Rubric", "Scale", "get_rubric", "list_rubrics", "load_rubric"]

_PRESETS = resources.files("flex_judge.judges") / "rubrics" / "presets"


def list_rubrics() -> list[str]:
    """The rubrics that come with the project, sorted."""
    return sorted(f.name.removesuffix(".toml") for f in _PRESETS.iterdir() if f.name.endswith(".toml"))


def load_rubric(name: str) -> Rubric:
    """The rubric called `name`: one that comes with the project, or the path of a TOML file.

    Raises:
        UsageError: there is none, or its file is wrong; the message names file and field.
    """
    names = list_rubrics()
    if name not in names and not (name.endswith(".toml") and Path(name).is_file()):
        near = get_close_matches(name, names, n=1)
        guess = f" (did you mean {near[0]!r}?)" if near else ""
        raise UsageError(
            f"rubric {name!r} does not exist{guess}; choose one of {', '.join(names)}, or give a TOML file"
        )
    path = _PRESETS / f"{name}.toml" if name in names else Path(name)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise UsageError(f"{name}: not a TOML file: {e}") from e
    return Rubric.from_dict(name, data, source=name)


@lru_cache(maxsize=64)
def get_rubric(name: str) -> Rubric:
    """Load a rubric once per process; a changed file is noticed by the next process only."""
    return load_rubric(name)
