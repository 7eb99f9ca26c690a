"""Command-line flags and YAML files for settings classes.

Every field of a configuration, nested ones included, is a flag and a YAML key of the same name (`--max-think-tokens`,
`max_think_tokens:`). Flags override the file, and the file overrides the defaults.
"""

from __future__ import annotations

import argparse
import ast
import functools
import inspect
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, field
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from flex_judge.experiments.common.progress import JSON_FLAG, JSON_HELP, set_json_progress
from flex_judge.judges.errors import UsageError, suggest_name, to_one_line
from flex_judge.judges.validation.classes import Metavar
from flex_judge.judges.validation.flat import Setting, SettingsSection, build_settings, flatten_settings
from flex_judge.judges.validation.text_files import read_text

Config = TypeVar("Config")
METAVARS: Mapping[type[Any], str] = {int: "N", float: "X"}
"""Type of a setting -> placeholder of its value in the help."""


def setting(default: Any, help: str, **metadata: Any) -> Any:
    """Declare a field of a command's configuration, with the help text of its flag.

    Fields of shared settings classes use their docstring as help instead.

    Args:
        default: default value.
        help: help text of the flag.
        metadata: `choices` and `metavar` of the flag, and `group`, its heading in the help.
    """
    return field(default=default, metadata={"help": help, **metadata})


def format_flag(name: str) -> str:
    """Return the flag of a setting: `max_think_tokens` -> `--max-think-tokens`."""
    return "--" + name.replace("_", "-")


def add_flags(parser: argparse.ArgumentParser, config: type[Any], defaults: Mapping[str, Any] | None = None) -> None:
    """Add `--config`, `--json-progress` and one flag per setting of `config`.

    Args:
        parser: parser to extend.
        config: settings class.
        defaults: defaults to show instead of the fields' own; pass the same to `load_config`.
    """
    parser.add_argument("--config", metavar="FILE", help="YAML file with any of these settings; flags override it")
    parser.add_argument(JSON_FLAG, action="store_true", help=JSON_HELP)
    if "engine_arg" in flatten_settings(config):
        parser.add_argument(
            "--help-all", action=_HelpAllAction, nargs=0, help="Show also the arguments of vllm's engine"
        )
    groups: dict[str, argparse._ArgumentGroup] = {}
    for name, declared in flatten_settings(config, SettingsSection(defaults=defaults or {})).items():
        group: argparse._ActionsContainer = parser
        if declared.title:
            group = groups[declared.title] = groups.get(declared.title) or parser.add_argument_group(declared.title)
        kind = declared.kind
        default = "" if declared.default in (None, MISSING, ()) else f" (default: {declared.default})"
        # Suppressed: only flags that were passed appear in the namespace, so that they can override the YAML file.
        options: dict[str, Any] = {"default": argparse.SUPPRESS}
        if kind.scalar is bool:
            # A flag that is on by default gets a --no- form; one that is off is switched on.
            options["action"] = argparse.BooleanOptionalAction if declared.default is True else "store_true"
            default = " (the default)" if declared.default is True else ""
        else:
            options |= {"choices": kind.choices or None, "metavar": _choose_metavar(declared)}
            is_list = kind.scalar is tuple
            options |= {"type": str, "action": "append"} if is_list else {"type": kind.scalar}
        # argparse formats help with %, so literal percent signs are doubled.
        help_text = (_read_help(declared).removesuffix(".") + default).replace("%", "%%")
        group.add_argument(format_flag(name), help=help_text, **options)


def load_config(
    config: type[Config], arguments: argparse.Namespace, defaults: Mapping[str, Any] | None = None
) -> Config:
    """Build the configuration from parsed flags and their `--config` file.

    Args:
        config: settings class.
        arguments: parsed flags.
        defaults: defaults to use instead of the fields' own.

    Raises:
        UsageError: the file cannot be read or has an unknown setting; a value has the wrong type or is out of range.
    """
    values = load_values(config, arguments)
    return build_settings(config, {**(defaults or {}), **values}, format_flag)


class _HelpAllAction(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from flex_judge.judges.engines.vllm.arguments import list_engine_arguments

        arguments = list_engine_arguments()
        width = max(len(argument.name) for argument in arguments)
        parser.print_help()
        print("\narguments of vllm's engine, for --engine-arg NAME=VALUE:")
        for argument in arguments:
            print(f"  {argument.name:<{width}}  {argument.type}{argument.default and f' = {argument.default}'}")
        parser.exit()


class _ModuleParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; --help lists the flags")


def parse_module_flags(module: str, description: str | None, config: type[Config], argv: Sequence[str]) -> Config:
    """Parse the flags of a module with a command line of its own, such as a study.

    Args:
        module: dotted name of the module, and its step if it has several.
        description: description in the help.
        config: settings class.
        argv: the flags.

    Raises:
        UsageError: a flag or a value is invalid.
    """
    parser = _ModuleParser(prog=f"python -m {module}", description=description, allow_abbrev=False)
    add_flags(parser, config)
    return load_config(config, parser.parse_args(argv))


def load_values(config: type[Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """Load the settings that the user gave, by flag or in the `--config` file, see `load_config`."""
    set_json_progress(getattr(arguments, "json_progress", False))
    settings = flatten_settings(config)
    values = _load_yaml(settings, Path(arguments.config)) if arguments.config else {}
    flags = {name: value for name, value in vars(arguments).items() if name in settings}
    return values | {name: tuple(value) if isinstance(value, list) else value for name, value in flags.items()}


def make_config(config: type[Config], **values: Any) -> Config:
    """Build the configuration from flat settings, passed by name.

    Raises:
        UsageError: a setting is unknown, or a value has the wrong type or is out of range.
    """
    if unknown := set(values) - set(flatten_settings(config)):
        raise UsageError(f"unknown setting {min(unknown)!r}; {suggest_name(min(unknown), flatten_settings(config))}")
    return build_settings(config, values, format_flag)


def _choose_metavar(declared: Setting) -> str | None:
    """Choose the placeholder of a flag's value; None leaves it to argparse."""
    if text := declared.field.metadata.get("metavar"):
        return str(text)
    annotations = [item.text for item in declared.kind.metadata if isinstance(item, Metavar)]
    if annotations or declared.kind.choices or "help" in declared.field.metadata:
        return annotations[0] if annotations else None
    return "S" if declared.field.name.endswith("_s") else METAVARS.get(declared.kind.scalar)


def _read_help(declared: Setting) -> str:
    help_text = declared.field.metadata.get("help")
    owner: Any = declared.owner
    return str(help_text) if help_text else _read_field_docs(owner).get(declared.field.name, "")


@functools.cache
def _read_field_docs(cls: Any) -> dict[str, str]:
    """Read the docstrings below a class's fields from its source.

    Returns:
        Field name -> docstring on one line.
    """
    docs: dict[str, str] = {}
    # Base classes first, so that a subclass can document an inherited field again.
    for base in reversed(cls.__mro__[:-1]):
        try:
            source = inspect.getsource(base)
        except OSError:
            continue  # Installed without .py files: the flags work, but have no help texts.
        (node,) = ast.parse(textwrap.dedent(source)).body
        assert isinstance(node, ast.ClassDef)
        for target, text in zip(node.body, node.body[1:], strict=False):
            match target, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(doc))):
                    docs[name] = " ".join(doc.replace("`", "").split())
    return docs


def _load_yaml(settings: Mapping[str, Setting], path: Path) -> dict[str, Any]:
    import yaml

    text = read_text(path)
    try:
        data = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as e:  # ValueError for a date such as 2026-13-01
        raise UsageError(f"{path}: not YAML: {to_one_line(e)}") from e
    if data is None:
        return {}
    if not isinstance(data, dict):
        # A list or a single value is valid YAML but not a configuration.
        raise UsageError(f"{path}: expected settings as 'name: value', got {type(data).__name__}")
    values = {}
    # Commands with a policy call `model` and `adapter` of `serve` `judge` and `judge_adapter`. They read both names, so
    # that a file written for `serve` works for them too.
    field_names = {setting.field.name: name for name, setting in settings.items() if setting.field.name not in settings}
    for key, value in data.items():
        name = str(key).replace("-", "_")
        name = field_names.get(name, name)
        if name in values:
            raise UsageError(f"{path}: setting {key!r}: given twice, also under another name; remove one")
        if name not in settings:
            raise UsageError(f"{path}: unknown setting {key!r}; {suggest_name(name, settings)}")
        values[name] = settings[name].check_value(value, f"{path}: setting {key!r}")
    return values
