"""Rubrics: what is judged by, and on which scale. A rubric is a small TOML file."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from judges.errors import UsageError


@dataclass(frozen=True)
class Scale:
    """Evenly spaced scores, as they are written in an answer: `1-10` has ten, `1.0-5.0` has 41."""

    low: float
    high: float
    decimals: int = 0

    @classmethod
    def parse(cls, text: str) -> Scale:
        if not re.fullmatch(r"\d+(\.\d+)?-\d+(\.\d+)?", text):
            raise ValueError(f"{text!r} is not a scale such as 1-10 or 1.0-5.0")
        low, _, high = text.partition("-")
        decimals = len(low.partition(".")[2])
        scale = cls(float(low), float(high), decimals)
        if scale.low >= scale.high or len(high.partition(".")[2]) != decimals or str(scale) != text:
            raise ValueError(f"{text!r} is not a scale such as 1-10 or 1.0-5.0")
        return scale

    def __str__(self) -> str:
        return f"{self.low:.{self.decimals}f}-{self.high:.{self.decimals}f}"

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Every score as it is written, lowest first."""
        steps = round((self.high - self.low) * 10**self.decimals)
        return tuple(f"{self.low + i / 10**self.decimals:.{self.decimals}f}" for i in range(steps + 1))

    @property
    def regex(self) -> str:
        """A regular expression for exactly the labels."""
        return "(" + "|".join(label.replace(".", r"\.") for label in self.labels) + ")"

    def __contains__(self, score: float) -> bool:
        return self.low <= score <= self.high


@dataclass(frozen=True)
class Rubric:
    name: str
    criteria: str
    """Completes the sentence "Criteria includes ..."."""
    scale: Scale
    example: tuple[str, ...]
    """Scores shown as the example of the answer's form: one per response, the first ones are used."""

    @classmethod
    def from_dict(cls, name: str, data: Mapping[str, Any], source: str) -> Rubric:
        """Raises UsageError naming `source` and the field that is wrong."""
        unknown = sorted(set(data) - {"criteria", "scale", "example"})
        if unknown:
            raise UsageError(f"{source}: unknown field {unknown[0]!r}; a rubric has criteria, scale and example")
        criteria = data.get("criteria")
        if not isinstance(criteria, str) or not criteria.strip():
            raise UsageError(f"{source}: field 'criteria' must be a text such as \"accuracy and level of detail\"")
        try:
            scale = Scale.parse(data["scale"])
        except (KeyError, ValueError, TypeError, AttributeError) as e:
            raise UsageError(f'{source}: field \'scale\' must be a text such as "1-10" or "1.0-5.0"') from e
        example = data.get("example", [scale.low, scale.high])
        if not isinstance(example, list) or len(example) != 2 or not all(_is_score(s, scale) for s in example):
            raise UsageError(f"{source}: field 'example' must be two scores on the scale {scale}")
        return cls(name, criteria, scale, tuple(f"{s:.{scale.decimals}f}" for s in example))


def load_rubric(name: str) -> Rubric:
    """The rubric called `name`: one that comes with the project, or the path of a TOML file.

    Raises:
        UsageError: there is none, or its file is wrong; the message names file and field.
    """
    folder = resources.files("judges") / "rubrics"
    own = sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))
    own.remove("forms")
    path = folder / f"{name}.toml" if name in own else Path(name)
    if name not in own and not (name.endswith(".toml") and Path(name).is_file()):
        raise UsageError(f"rubric {name!r} does not exist; choose one of {', '.join(own)}, or give a TOML file")
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise UsageError(f"{name}: not a TOML file: {e}") from e
    return Rubric.from_dict(name, data, source=name)


def _is_score(value: Any, scale: Scale) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value in map(float, scale.labels)
