"""Command line. Each command imports its modules only when it runs, so `--help` answers at once."""

from __future__ import annotations

import argparse
import difflib
import importlib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from flex_judge.experiments.common.command_extras import (
    HELP_NEEDS_EXTRAS,
    explain_missing_module,
    require_command_extras,
)
from flex_judge.experiments.common.stop_state import RESUME
from flex_judge.experiments.common.stopping import describe_stop, run_process, run_stoppable

PROGRAM = "flex-judge"
FLAG_SYNONYMS = {"--model": "--judge", "--adapter": "--judge-adapter"}
FLAG_SYNONYMS |= {judge: model for model, judge in FLAG_SYNONYMS.items()}
"""Flags with another name in commands that have a policy and a judge, for suggestions in errors."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Exit with a one-line error; argparse would print the usage as well."""
        self.exit(2, f"{self.prog}: error: {message}{self._suggest_flag(message)}\n")

    def _suggest_flag(self, message: str) -> str:
        """Return `; did you mean --FLAG?` for an unrecognized flag, or nothing."""
        if not (match := re.search(r"unrecognized arguments: (--[\w-]+)", message)):
            return ""
        flags = _list_subcommand_flags(self)
        synonym = FLAG_SYNONYMS.get(match[1])
        found = [synonym] if synonym in flags else difflib.get_close_matches(match[1], flags, n=1, cutoff=0.75)
        return f"; did you mean {found[0]}?" if found else ""


@dataclass(frozen=True)
class Command:
    """Command whose package in `experiments/commands` has `add_arguments(parser)` and `main(options)`."""

    help: str
    package: str
    stop_plan: str = RESUME
    """What a stop of the command does, as the acknowledgement of a signal says it."""

    def load_package(self) -> Any:
        """Import the package of the command."""
        return importlib.import_module(f"flex_judge.experiments.commands.{self.package}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: arguments of the command line. None runs those of this process, and owns the process: its output
            cannot fail, and it may end without returning, see `run_process`.

    Returns:
        The exit status: 0, 1 for a failure, 2 for bad input, 130 after Ctrl-C or another stop signal.
    """
    if arguments is None:
        return run_process(PROGRAM, lambda: _run_command(sys.argv[1:]))
    return run_stoppable(PROGRAM, lambda: _run_command(list(arguments)))


def _run_command(argv: list[str]) -> int:
    try:
        if argv and argv[0] in HELP_NEEDS_EXTRAS:
            require_command_extras(argv[0])
        parser = _build_parser(argv[0] if argv else "")
        if not argv:
            parser.print_help()
            return 0
        if argv[0] in TRAINING_COMMANDS:
            return _run_training(argv[0], argv[1:])
        options = parser.parse_args(argv)
        require_command_extras(options.command)
        command = COMMANDS[options.command]
        with describe_stop(command.stop_plan):
            status: int = command.load_package().main(options)
        return status
    except ModuleNotFoundError as e:
        if not argv or (missing_extra := explain_missing_module(argv[0], e)) is None:
            raise
        raise missing_extra from e


def _run_training(name: str, argv: Sequence[str]) -> int:
    from flex_judge.experiments.common.launching import build_launch_command

    if command := build_launch_command(name, argv):
        from flex_judge.experiments.common.ranks import launch_ranks

        return launch_ranks(command)
    if name == "sft":
        from flex_judge.experiments.commands.sft.run import main as train_judge

        return train_judge(argv)
    from flex_judge.experiments.commands.train_policy.run import main as train_policy

    return train_policy(name, argv)


def _list_subcommand_flags(parser: argparse.ArgumentParser) -> list[str]:
    """List the flags of all subcommands, nested ones too; only the selected command has more than --help."""
    flags: list[str] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                flags += [*subparser._option_string_actions, *_list_subcommand_flags(subparser)]
    return flags


def _build_parser(selected: str) -> argparse.ArgumentParser:
    """Build the parser; only the selected command gets its flags, because they need its modules."""
    parser = _Parser(prog="flex-judge", description="A reasoning multimodal judge as a reward model.")
    parser.add_argument("--version", action=_VersionAction, nargs=0, help="Print the version")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=command.help, description=command.help)
        if name == selected:
            command.load_package().add_arguments(subparser)
    for name, help_text in TRAINING_COMMANDS.items():
        subparsers.add_parser(name, help=help_text)
    return parser


class _VersionAction(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from flex_judge import __version__

        print(__version__)
        parser.exit()


COMMANDS = {
    "demo": Command(
        "Run the whole workflow on the embedded model: judge service, best-of-N, preference pairs, report. Resumable.",
        "demo",
    ),
    "judge": Command("Judge a file of comparisons, or one comparison from flags. Resumable.", "judge"),
    "serve": Command("Serve a judge as a reward model over HTTP, with replicas on Ray Serve.", "serve"),
    "best-of-n": Command("Sample N answers per prompt, judge them and select the best. Resumable.", "best_of_n"),
    "preferences": Command("Build a preference data set: sample, judge and pair answers. Resumable.", "preferences"),
    "curate": Command("Build training data for a judge from a teacher's judgments. Resumable.", "curate"),
    "eval": Command("Run a judge benchmark, or re-score stored replies, next to published results. Resumable.", "eval"),
    "bench": Command(
        "Measure one performance ratio on this machine.", "bench", "unfinished measurements are not saved"
    ),
    "report": Command(
        "Rebuild the HTML page of a finished demo or benchmark run.", "report", "the page is not written"
    ),
    "doctor": Command(
        "Show what this machine can run, what is missing, and how to fix it.", "doctor", "the checks end"
    ),
}
TRAINING_COMMANDS = {
    "sft": "Train a judge on curated judgments with TRL's SFTTrainer. Resumable.",
    "dpo": "Train a policy on preferences with TRL's DPOTrainer; evaluate it before and after. Resumable.",
    "grpo": "Train a policy on rewards from a judge with TRL's GRPOTrainer; evaluate it before and after. Resumable.",
}
"""Commands that parse their flags themselves, because most of these are TRL's."""


if __name__ == "__main__":
    sys.exit(main())
