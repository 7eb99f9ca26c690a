"""Settings as command-line flags and YAML files.

Flags and keys are the flat view of a configuration: every field is one, and those of nested settings are too, under the
same names (`--max-think-tokens`, `max_think_tokens:`). Flags win over the file, the file over the defaults.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import textwrap
from collections.abc import Mapping
from dataclasses import MISSING, field
from pathlib import Path
from typing import Any, TypeVar

from flex_judge.judges.errors import UsageError
from flex_judge.judges.validation.classes import Metavar
from flex_judge.judges.validation.flat import Setting, SettingsSection, build_settings, flatten_settings

Config = TypeVar("Config")
METAVARS: Mapping[type[Any], str] = {int: "N", float: "X"}


def setting(default: Any, help: str, **metadata: Any) -> Any:
    """Declare a field of a configuration that only one command has.

    Args:
        help: its help; other fields have their docstring for it.
        metadata: `choices` and `metavar` of its flag, and `group`, the heading under which the help lists it.
    """
    return field(default=default, metadata={"help": help, **metadata})


def format_flag(name: str) -> str:
    """Spell a setting's name as a flag."""
    return "--" + name.replace("_", "-")


def add_flags(parser: argparse.ArgumentParser, config: type[Any], defaults: Mapping[str, Any] | None = None) -> None:
    """Add `--config` and one flag per setting of `config`.

    Args:
        defaults: defaults to show instead of the fields' own; `build` takes the same.
    """
    parser.add_argument("--config", metavar="FILE", help="YAML file with any of these settings; flags win over it")
    groups: dict[str, argparse._ArgumentGroup] = {}
    for name, found in flatten_settings(config, SettingsSection(defaults=defaults or {})).items():
        place: argparse._ActionsContainer = parser
        if found.title:
            place = groups[found.title] = groups.get(found.title) or parser.add_argument_group(found.title)
        kind = found.kind
        default = "" if found.default in (None, MISSING, ()) else f" (default: {found.default})"
        options: dict[str, Any] = {"default": argparse.SUPPRESS}
        if kind.scalar is bool:
            # A flag that is on by default is switched off, one that is off is switched on.
            options["action"] = argparse.BooleanOptionalAction if found.default is True else "store_true"
            default = " (the default)" if found.default is True else ""
        else:
            options |= {"choices": kind.choices or None, "metavar": _choose_metavar(found)}
            is_list = kind.scalar is tuple
            options |= {"type": str, "action": "append"} if is_list else {"type": kind.scalar}
        place.add_argument(
            format_flag(name), help=(_read_help(found).removesuffix(".") + default).replace("%", "%%"), **options
        )


def load_config(
    config: type[Config], arguments: argparse.Namespace, defaults: Mapping[str, Any] | None = None
) -> Config:
    """Make the configuration that the parsed flags and their `--config` file describe.

    Args:
        defaults: defaults instead of the fields' own.

    Raises:
        UsageError: the file cannot be read, or has an unknown setting; a value is of a wrong type or out of its bounds.
    """
    settings = flatten_settings(config)
    values = _load_yaml(settings, Path(arguments.config)) if arguments.config else {}
    flags = {name: value for name, value in vars(arguments).items() if name in settings}
    values |= {name: tuple(value) if isinstance(value, list) else value for name, value in flags.items()}
    return build_settings(config, {**(defaults or {}), **values}, format_flag)


def make_config(config: type[Config], **values: Any) -> Config:
    """Make a configuration from its flat settings, as `build` does from flags.

    Raises:
        UsageError: an unknown setting; a value of a wrong type or out of its bounds.
    """
    if unknown := set(values) - set(flatten_settings(config)):
        raise UsageError(f"unknown setting {min(unknown)!r}; there are {', '.join(flatten_settings(config))}")
    return build_settings(config, values, format_flag)


def _choose_metavar(found: Setting) -> str | None:
    if text := found.field.metadata.get("metavar"):
        return str(text)
    declared = [item.text for item in found.kind.metadata if isinstance(item, Metavar)]
    if declared or found.kind.choices or "help" in found.field.metadata:
        return declared[0] if declared else None
    return "S" if found.field.name.endswith("_s") else METAVARS.get(found.kind.scalar)


def _read_help(found: Setting) -> str:
    declared = found.field.metadata.get("help")
    return str(declared) if declared else _read_field_docs(found.owner).get(found.field.name, "")


def _read_field_docs(cls: type[Any]) -> dict[str, str]:
    """Field name -> the docstring below the field, on one line."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(node, ast.ClassDef)
        for target, text in zip(node.body, node.body[1:], strict=False):
            match target, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(doc))):
                    docs[name] = " ".join(doc.replace("`", "").split())
    return docs


def _load_yaml(settings: Mapping[str, Setting], path: Path) -> dict[str, Any]:
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
    values = {}
    for key, value in data.items():
        name = str(key).replace("-", "_")
        if name not in settings:
            raise UsageError(f"{path}: unknown setting {key!r}; there are {', '.join(settings)}")
        values[name] = settings[name].check_value(value, f"{path}: setting {key!r}")
    return values
