"""Configuration dataclasses as command-line flags and YAML files.

A field's `metadata["help"]` is its help; flags win over the file, the file over the defaults. Fields are texts,
numbers, truth values, and tuples of texts (a flag that may be repeated).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import MISSING, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_type_hints

from flex_judge.judges.errors import UsageError

Config = TypeVar("Config")


def setting(default: Any, help: str, **metadata: Any) -> Any:
    """A field of a configuration, with its help.

    Args:
        metadata: `choices` and `metavar` of its flag, and `group`, the heading under which the help lists it.
    """
    return field(default=default, metadata={"help": help, **metadata})


def add_flags(parser: argparse.ArgumentParser, config: type[Any], defaults: Mapping[str, Any] | None = None) -> None:
    """Add `--config` and one flag per field of the dataclass `config`.

    Args:
        defaults: values to say in the help instead of the fields' own, as `build` is given them.
    """
    parser.add_argument("--config", metavar="FILE", help="YAML file with any of these settings; flags win over it")
    types = get_type_hints(config)
    groups: dict[str, argparse._ArgumentGroup] = {}
    for f in fields(config):
        place: argparse._ActionsContainer = parser
        if heading := f.metadata.get("group"):
            place = groups[heading] = groups.get(heading) or parser.add_argument_group(heading)
        kind = _scalar(types[f.name])
        given = (defaults or {}).get(f.name, f.default)
        default = "" if given in (None, MISSING, ()) else f" (default: {given})"
        if kind is bool:
            default = " (the default)" if f.default else ""
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": f.metadata["help"] + default}
        if kind is bool:
            # A flag that is on by default is switched off, one that is off is switched on.
            options["action"] = argparse.BooleanOptionalAction if f.default else "store_true"
        else:
            options |= {"choices": f.metadata.get("choices"), "metavar": f.metadata.get("metavar")}
            options |= {"type": str, "action": "append"} if kind is list else {"type": kind}
        place.add_argument("--" + f.name.replace("_", "-"), **options)


def build(config: type[Config], arguments: argparse.Namespace, defaults: Mapping[str, Any] | None = None) -> Config:
    """The configuration that the parsed flags and their `--config` file describe.

    Args:
        defaults: values of fields that neither says anything of, instead of the fields' own.

    Raises:
        UsageError: the file cannot be read, has an unknown setting or one of a wrong type; named with its file.
    """
    names = {f.name for f in fields(config)}  # type: ignore[arg-type]
    values = _from_file(config, Path(arguments.config)) if arguments.config else {}
    values |= {name: value for name, value in vars(arguments).items() if name in names}
    values = {**(defaults or {}), **values}
    return config(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def check_least(config: object, least: Mapping[str, float]) -> None:
    """Raise UsageError naming the flag of a field that is set below its least value."""
    for name, bound in least.items():
        value = getattr(config, name)
        if value is not None and not value >= bound:
            raise UsageError(f"--{name.replace('_', '-')} must be at least {bound}, not {value}")


def _from_file(config: type[Any], path: Path) -> dict[str, Any]:
    import yaml

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise UsageError(f"{path}: cannot be read: {e.strerror}") from e
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise UsageError(f"{path}: not YAML: {' '.join(str(e).split())}") from e
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise UsageError(f"{path}: expected settings as 'name: value', got {type(data).__name__}")
    types = get_type_hints(config)
    choices: dict[str, Any] = {f.name: f.metadata.get("choices") for f in fields(config)}
    unset = {f.name for f in fields(config) if f.default is None}
    values = {}
    for key, value in data.items():
        name = str(key).replace("-", "_")
        if name not in types:
            raise UsageError(f"{path}: unknown setting {key!r}; there are {', '.join(types)}")
        if value is None and name in unset:
            continue
        wanted = _scalar(types[name])
        if wanted is float and type(value) is int:  # a truth value is an int to Python, but no number to a person
            value = float(value)
        texts = not isinstance(value, list) or all(isinstance(v, str) for v in value)
        if type(value) is not wanted or not texts or (choices[name] and value not in choices[name]):
            raise UsageError(f"{path}: setting {key!r} must be {_expected(wanted, choices[name])}, not {value!r}")
        values[name] = value
    return values


def _expected(wanted: type, choices: Any) -> str:
    if wanted is list:
        return "a list of texts"
    return f"one of {', '.join(choices)}" if choices else f"of type {wanted.__name__}"


def _scalar(annotation: Any) -> type[Any]:
    """`int` of `int` and of `int | None`, `list` of `tuple[str, ...]`."""
    if isinstance(annotation, UnionType):
        (annotation,) = (a for a in get_args(annotation) if a is not type(None))
    kinds: dict[Any, type[Any]] = {int: int, float: float, str: str, bool: bool, tuple[str, ...]: list}
    return kinds[annotation]
