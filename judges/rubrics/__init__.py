"""Rubrics: criteria, scale and wording of a judgment. A rubric is a small TOML file.

Presets are in `presets/`. To use your own rubric, pass the path of its file; two lines are enough:

    criteria = "politeness and clarity"
    scale = "1-5"

`flex_judge.judges.rubrics.rubric.Rubric` documents all fields.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Callable
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from flex_judge.judges.errors import UsageError, hint_similar_name
from flex_judge.judges.rubrics.rubric import Rubric
from flex_judge.judges.rubrics.scale import MAX_LABELS, OPTIONS, SHARES, Scale
from flex_judge.judges.validation.text_files import read_text

__all__ = ["MAX_LABELS", "OPTIONS", "SHARES", "Rubric", "Scale", "get_rubric", "list_rubrics", "load_rubric"]

INLINE = "inline:"
"""Start of the name of a rubric whose content is in the name itself, as JSON; see `make_inline_name`."""
MAX_INLINE_CHARS = 16_384
"""Maximum length of such a name."""
ASK_OPERATOR = (
    "ask its operator to start it with --allow-inline-rubrics, or with --allow-rubric FILE, and name the rubric by the "
    "file's name without .toml"
)
"""Way to use a rubric that a service does not have, as the end of an error message."""
_PRESETS = resources.files("flex_judge.judges") / "rubrics" / "presets"


_source: Callable[[str], Rubric] | None = None


def set_rubric_source(source: Callable[[str], Rubric] | None) -> None:
    """Set where this process looks for rubrics that are neither presets nor files, such as a judge service.

    Args:
        source: returns the rubric of a name or raises UsageError; None for no source.
    """
    global _source
    _source = source
    get_rubric.cache_clear()  # it may hold rubrics of an earlier source


def list_rubrics() -> list[str]:
    """List the names of the presets, sorted."""
    return sorted(f.name.removesuffix(".toml") for f in _PRESETS.iterdir() if f.name.endswith(".toml"))


def load_rubric(name: str) -> Rubric:
    """Load a preset by its name, or a rubric from a TOML file.

    Args:
        name: name of a preset, path of a file that ends in `.toml`, or a name that the source of this process knows,
            see `set_rubric_source`.

    Raises:
        UsageError: the rubric does not exist, or its file is invalid; the message names file and field.

    Example:
        >>> str(load_rubric("general").scale)
        '1-10'
    """
    if name.startswith(INLINE):
        return _load_inline_rubric(name)
    names = list_rubrics()
    if _source is not None and name not in names and not name.endswith(".toml"):
        return _source(name)
    if name not in names and not (name.endswith(".toml") and Path(name).is_file()):
        raise UsageError(
            f"rubric {name!r} does not exist{hint_similar_name(name, names)}; choose one of {', '.join(names)}, or "
            "pass the path of a TOML file"
        )
    text = (_PRESETS / f"{name}.toml").read_text(encoding="utf-8") if name in names else read_text(Path(name))
    return Rubric.from_dict(name, _parse_toml(text, name), source=name)


def make_inline_name(path: str) -> str:
    """Return the content of a rubric file as the name of a rubric, for a judge that cannot open the file.

    Equal contents have equal names, so that judgments under different contents are never mixed.

    Raises:
        UsageError: the file is invalid or too long.
    """
    load_rubric(path)
    data = _parse_toml(read_text(Path(path)), path)
    name = INLINE + json.dumps(data, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    if len(name) > MAX_INLINE_CHARS:
        raise UsageError(f"{path}: has {len(name)} characters; a service takes at most {MAX_INLINE_CHARS}")
    return name


def shorten_inline_name(name: str) -> str:
    """Return the name of a rubric, with a digest (16 hex digits) in place of an inline content."""
    if not name.startswith(INLINE):
        return name
    return INLINE + hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:16]


def _load_inline_rubric(name: str) -> Rubric:
    source = "inline rubric"
    if len(name) > MAX_INLINE_CHARS:
        raise UsageError(f"{source}: has {len(name)} characters; at most {MAX_INLINE_CHARS} are allowed")
    try:
        data = json.loads(name.removeprefix(INLINE))
    except (ValueError, RecursionError) as e:
        raise UsageError(f"{source}: not JSON") from e
    if not isinstance(data, dict):
        raise UsageError(f"{source}: expected a JSON object with the fields of a rubric file")
    return Rubric.from_dict(name, data, source=source)


def _parse_toml(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as e:  # ValueError: TOMLDecodeError, or a number of too many digits
        raise UsageError(f"{source}: not a valid TOML file: {e}") from e


@lru_cache(maxsize=64)
def get_rubric(name: str) -> Rubric:
    """Load a rubric and cache it for the lifetime of the process; later changes of its file have no effect."""
    return load_rubric(name)
