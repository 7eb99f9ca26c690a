"""The reference of the command line, read from the parsers that `--help` prints."""

from __future__ import annotations

import argparse
import importlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from unittest import mock

from tables import code, table, text

from flex_judge.experiments.cli import main

PROGRAMS = (
    "flex_judge.experiments.studies.arithmetic_loop",
    "flex_judge.experiments.studies.grpo_curves",
    "flex_judge.experiments.studies.pampa",
    "flex_judge.judges.models.mol_llama",
)
"""Modules with a command line of their own."""
_DEFAULT = re.compile(r"\s*\(default: (.*)\)\.?$", re.DOTALL)


class _ParserFoundError(BaseException):
    """Carries the parser of a command out of its `--help`. No handler of the command line catches it."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__()
        self.parser = parser


def generate() -> str:
    """Write one section per command, one per module with a command line, and their flags."""
    commands = list_choices(find_parser(main))
    rows = [[f"[`{name}`](#{name})", text(purpose)] for name, purpose in commands.items()]
    parts = ["## Commands\n", table(["Command", "Purpose"], rows)]
    parts += [_describe_command(name, purpose) for name, purpose in commands.items()]
    parts.append("## Modules with a command line { #modules }\n")
    parts += [part for module in PROGRAMS for part in _describe_program(module)]
    return "\n".join(parts)


def find_parser(run: Callable[[list[str]], Any], *arguments: str) -> argparse.ArgumentParser:
    """Return the parser whose help a command line prints.

    Args:
        run: Function that runs a command line.
        arguments: Command and subcommand.
    """

    def stop(parser: argparse.ArgumentParser, file: object = None) -> None:
        del file
        raise _ParserFoundError(parser)

    with mock.patch.object(argparse.ArgumentParser, "print_help", stop):
        try:
            run([*arguments, "--help"])
        except _ParserFoundError as found:
            return found.parser
    raise RuntimeError(f"no help of {arguments}")


def list_subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of the subcommands, empty if there are none."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def list_choices(parser: argparse.ArgumentParser) -> dict[str, str]:
    """Return the subcommands of a parser and their help, empty if it has none."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return {choice.dest: choice.help or "" for choice in action._choices_actions}
    return {}


def _describe_command(name: str, purpose: str) -> str:
    parser = find_parser(main, name)
    parts = [f"## flex-judge {name} {{ #{name} }}\n", f"{text(purpose)}\n", _format_usage(parser)]
    choices = list_choices(parser)
    parsers = list_subparsers(parser)
    if name == "eval":
        parts += _describe_benchmarks(parsers, choices)
    elif parsers:
        parts.append(
            table(["Name", "Measures"], [[code(choice), text(measures)] for choice, measures in choices.items()])
        )
        parts += [f"### {name} {choice}\n\n" + _format_groups(sub, 4) for choice, sub in parsers.items()]
    else:
        parts.append(_format_groups(parser, 3))
    return "\n".join(parts)


def _describe_program(module: str) -> Iterator[str]:
    parser = find_parser(importlib.import_module(f"{module}.__main__").main)
    name = module.rpartition(".")[2]
    yield f"### {name} {{ #{name} }}\n"
    yield f"```text\npython -m {module} --help\n```\n"
    parsers = list_subparsers(parser)
    if not parsers:
        yield _format_groups(parser, 4)
    for choice, purpose in list_choices(parser).items():
        yield f"**`{choice}`**: {text(purpose)}\n"
        yield _format_groups(parsers[choice], 4)


def _describe_benchmarks(parsers: dict[str, argparse.ArgumentParser], about: dict[str, str]) -> Iterator[str]:
    """All benchmarks share their flags, so these are listed once; defaults that differ go into a table."""
    suite = parsers.pop("suite")
    yield "### eval suite { #eval-suite }\n"
    yield f"{text(about['suite'])}.\n"
    yield _format_groups(suite, 4)
    widest = max(parsers, key=lambda name: len(parsers[name]._actions))
    flags = {name: dict(_list_defaults(parser)) for name, parser in parsers.items()}
    usual = {flag: _commonest(flags[name].get(flag, "") for name in parsers) for flag in flags[widest]}
    rows = []
    for name, parser in parsers.items():
        special = [f"{code(flag)} {value or 'unset'}" for flag, value in flags[name].items() if value != usual[flag]]
        data = " ".join((parser.epilog or "").split()).removeprefix("Data: ")
        rows.append([code(name), text(about[name]), text(data), ", ".join(special)])
    yield "### Benchmarks { #benchmarks }\n"
    yield table(["Name", "Benchmark", "Data", "Defaults of its own"], rows)
    yield "### Flags of every benchmark { #eval-flags }\n"
    yield _format_groups(parsers[_commonest_parser(flags, usual)], 4)


def _commonest(values: Iterable[str]) -> str:
    return Counter(values).most_common(1)[0][0]


def _commonest_parser(flags: dict[str, dict[str, str]], usual: dict[str, str]) -> str:
    """Return the benchmark whose defaults differ least from the usual ones."""
    return min(flags, key=lambda name: sum(flags[name].get(flag) != value for flag, value in usual.items()))


def _list_defaults(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    for action in parser._actions:
        if action.option_strings and action.help != argparse.SUPPRESS:
            yield action.option_strings[0], _split_help(parser, action)[1]


def _format_usage(parser: argparse.ArgumentParser) -> str:
    usage = parser.format_usage().removeprefix("usage: ")
    if len(usage.splitlines()) > 3:  # a list of all flags, which the tables hold
        positional = [action.metavar or action.dest for action in parser._get_positional_actions()]
        usage = " ".join([parser.prog, *map(str, positional), "[options]"])
    usage = "\n".join(line.strip() for line in usage.splitlines())
    return f"```text\n{usage.strip()}\n```\n"


def _format_groups(parser: argparse.ArgumentParser, level: int) -> str:
    parts = []
    for group in parser._action_groups:
        rows = [_format_action(parser, action) for action in group._group_actions if _is_shown(action)]
        if rows:
            title = (group.title or "").replace("positional arguments", "arguments")
            parts += [f"{'#' * level} {title[:1].upper()}{title[1:]}\n", table(["Flag", "Default", "Meaning"], rows)]
    if parser.epilog and not parser.epilog.startswith("Data: "):
        parts.append(f"{text(' '.join(parser.epilog.split()))}\n")
    return "\n".join(parts)


def _is_shown(action: argparse.Action) -> bool:
    return action.help != argparse.SUPPRESS and not isinstance(
        action, argparse._HelpAction | argparse._SubParsersAction
    )


def _format_action(parser: argparse.ArgumentParser, action: argparse.Action) -> list[str]:
    meaning, default = _split_help(parser, action)
    if not action.option_strings:
        return [code(action.metavar or action.dest), default, meaning]
    spellings = {name.replace("_", "-"): name for name in reversed(action.option_strings)}
    names = reversed(spellings.values())  # TRL's parser knows --output_dir and --output-dir; the first one is enough
    value = ""
    if action.choices:
        meaning += f". One of {', '.join(map(code, action.choices))}"
    elif action.nargs != 0 and not isinstance(action, argparse.BooleanOptionalAction):
        metavar = action.metavar or action.dest.upper()
        value = f" {metavar if isinstance(metavar, str) else ' '.join(metavar)}"
    return [", ".join(code(name + value) for name in names), default, meaning]


def _split_help(parser: argparse.ArgumentParser, action: argparse.Action) -> tuple[str, str]:
    """Return the help of an action without its default, and the default, both as Markdown."""
    meaning = " ".join(parser._get_formatter()._expand_help(action).split()) if action.help else ""
    if meaning.endswith("(the default)"):
        return text(meaning.removesuffix("(the default)").strip()), "on"
    if match := _DEFAULT.search(meaning):
        value = match[1]
        return text(meaning[: match.start()].strip()), code(value) if re.fullmatch(r"[\w./:-]+", value) else text(value)
    return text(meaning), ""
