"""Command line. Each command imports its modules only when it runs, so `--help` answers at once."""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
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
from flex_judge.experiments.common.command_line import LAUNCHED_COMMAND, format_command, record_command
from flex_judge.experiments.common.console import show_silent_start
from flex_judge.experiments.common.stop_state import RESUME
from flex_judge.experiments.common.stopping import describe_stop, run_process, run_stoppable
from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.storage import find_storage_error

PROGRAM = "flex-judge"
UMASK_VARIABLE, PRIVATE_UMASK = "FLEX_JUDGE_UMASK", "077"
"""Environment variable with the umask of all commands, and its default: files are for the user alone."""
QUIET_LIBRARIES = ("HF_DATASETS_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_PROGRESS_BARS")
"""Environment variables that switch off progress bars of libraries, which would mix with ours."""
SHORT_SPIN = {"GOMP_SPINCOUNT": "3000"}
"""Environment variable that limits how long a computing thread waits actively for the others.

By default they wait for about a millisecond, many times for each token. On a machine with other work the others are not
running, and the waiting takes most of the time: an operation of two threads took 5 times as long, and no longer on an
idle machine."""
FLAG_SYNONYMS = {"--model": "--judge", "--adapter": "--judge-adapter"}
FLAG_SYNONYMS |= {judge: model for model, judge in FLAG_SYNONYMS.items()}
"""Flags with another name in commands that have a policy and a judge, for suggestions in errors."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Exit with a one-line error; argparse would print the usage as well."""
        # `--judge` is not meant as the start of `--judge-url` where the judge's model is `--model`.
        if (match := re.search(r"ambiguous option: (--[\w-]+) could", message)) and match[1] in FLAG_SYNONYMS:
            message = f"unrecognized arguments: {match[1]}"
        self.exit(2, f"{self.prog}: error: {message}{self._suggest_flag(message)}\n")

    def _suggest_flag(self, message: str) -> str:
        """Return `; did you mean --FLAG?` for an unrecognized flag, or nothing."""
        if not (match := re.search(r"unrecognized arguments: (--[\w-]+)", message)):
            return ""
        flags = [*self._option_string_actions, *_list_subcommand_flags(self)]
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
        arguments: arguments of the command line. None: the arguments of this process, which the command then owns: its
            output cannot fail, and it may end without returning, see `run_process`.

    Returns:
        The exit status: 0, 1 for a failure, 2 for bad input, 130 after Ctrl-C or another stop signal.
    """
    if arguments is None:
        return run_process(PROGRAM, lambda: _run_command(sys.argv[1:]))
    return run_stoppable(PROGRAM, lambda: _run_command(list(arguments)))


def _run_command(argv: list[str]) -> int:
    record_command([PROGRAM, *argv])
    for variable, value in (dict.fromkeys(QUIET_LIBRARIES, "1") | SHORT_SPIN).items():
        os.environ.setdefault(variable, value)
    try:
        _make_files_private()
        if argv and argv[0] in HELP_NEEDS_EXTRAS:
            require_command_extras(argv[0])
        parser = _build_parser(argv[0] if argv else "")
        if not argv:
            parser.print_help()
            return 0
        if argv[0] in TRAINING_COMMANDS:
            return _run_training(argv[0], argv[1:])
        options = parser.parse_args(spell_with_dashes(argv))
        require_command_extras(options.command, getattr(options, "model", None))
        command = COMMANDS[options.command]
        with describe_stop(command.stop_plan), show_silent_start():
            status: int = command.load_package().main(options)
        return status
    except ModuleNotFoundError as e:
        if not argv or (missing_extra := explain_missing_module(argv[0], e)) is None:
            raise
        raise missing_extra from e
    except Exception as e:
        # Libraries that save models and data sets report a full disk in many ways.
        if (storage_error := find_storage_error(e)) is None:
            raise
        raise storage_error from e
    finally:
        # A process may run several commands, and the judge service of one is none of the next one's business.
        if (rubrics := sys.modules.get("flex_judge.judges.rubrics")) is not None:
            rubrics.set_rubric_source(None)


def _make_files_private() -> None:
    """Set the umask, so that only the user can read what this process and its children write.

    Outputs, ledgers and logs hold prompts and replies.
    """
    value = os.environ.get(UMASK_VARIABLE, PRIVATE_UMASK)
    if not re.fullmatch("0?[0-7]{3}", value):
        raise UsageError(f"{UMASK_VARIABLE}: expected three octal digits, such as 027 for a group, got {value!r:.40}")
    os.umask(int(value, 8))


def spell_with_dashes(argv: Sequence[str]) -> list[str]:
    """Spell flags with dashes: `--max_pending=8`, the name in YAML files and in Python, becomes `--max-pending=8`."""
    spelled, is_flag = [], True
    for text in argv:
        is_flag = is_flag and text != "--"  # what follows is no flag
        name, equals, value = text.partition("=")
        if is_flag and re.fullmatch(r"--[a-z][a-z0-9_-]*", name):
            name = f"--{name[2:].replace('_', '-')}"
        spelled.append(f"{name}{equals}{value}")
    return spelled


def _run_training(name: str, argv: Sequence[str]) -> int:
    from flex_judge.experiments.common.launching import build_launch_command

    if command := build_launch_command(name, argv):
        from flex_judge.experiments.common.ranks import launch_ranks

        os.environ[LAUNCHED_COMMAND] = format_command([PROGRAM, name, *argv])
        return launch_ranks(command)
    with show_silent_start():
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
        "Write the HTML page of a run again, also of an unfinished one.", "report", "the page is not written"
    ),
    "model": Command(
        "Print the folder of an embedded model, for your own scripts. Downloads nothing.", "model", "nothing is printed"
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
