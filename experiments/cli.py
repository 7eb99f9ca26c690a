"""The command line. Each command imports what it needs when it runs, so that `--help` is instant."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from flex_judge.judges.errors import JudgeError, UsageError

if TYPE_CHECKING:
    from flex_judge.experiments.common.data_runs.config import DataFlags

RunOverPrompts = Callable[[Any, str | None], dict[str, Any]]
"""Takes settings and a file; returns a summary."""
ShowSummary = Callable[[dict[str, Any], Path], None]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One clear line; argparse would print the usage as well."""
        self.exit(2, f"{self.prog}: error: {message}\n")


@dataclass(frozen=True)
class _Command:
    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit status: 0, 1 for a failure, 2 for bad input, 130 after Ctrl-C.
    """
    argv = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser(argv[0] if argv else "")
    if not argv:
        parser.print_help()
        return 0
    try:
        if argv[0] in TRAINING:
            return _train(argv[0], argv[1:])
        options = parser.parse_args(argv)
        status = COMMANDS[options.command].run(options)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except UsageError as e:
        return _fail(f"error: {e}", 2)
    except JudgeError as e:
        return _fail(f"{type(e).__name__}: {e}", 1)
    except KeyboardInterrupt:
        return _fail("stopped; what was written is kept, and the same command goes on from there", 130)


def _train(name: str, argv: Sequence[str]) -> int:
    from flex_judge.experiments.common.launching import launched

    if command := launched(name, argv):
        os.execv(command[0], command)
    if name == "sft":
        from flex_judge.experiments.commands.sft.run import main as tune

        return tune(argv)
    from flex_judge.experiments.commands.train_policy.run import main

    return main(name, argv)


def _fail(message: str, status: int) -> int:
    print("flex-judge:", " ".join(message.split()), file=sys.stderr)
    return status


def _parser(chosen: str) -> argparse.ArgumentParser:
    """The parser; of all commands only the chosen one gets its flags, which need its module."""
    parser = _Parser(prog="flex-judge", description="A reasoning multimodal judge as a reward model.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        sub = commands.add_parser(name, help=command.help, description=command.help)
        if name == chosen:
            command.add_arguments(sub)
    for name, said in TRAINING.items():
        commands.add_parser(name, help=said)
    return parser


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(version("flex-judge"))
        parser.exit()


def _demo_arguments(parser: argparse.ArgumentParser) -> None:
    from flex_judge.experiments.commands.demo.run import DemoConfig
    from flex_judge.experiments.common.flags import add_flags

    add_flags(parser, DemoConfig)


def _demo(options: argparse.Namespace) -> int:
    from flex_judge.experiments.commands.demo.run import DemoConfig, main
    from flex_judge.experiments.commands.demo.view import print_summary
    from flex_judge.experiments.common.flags import build

    config = build(DemoConfig, options)
    print_summary(main(config), Path(config.out))
    return 0


def _over_prompts(help: str, load: Callable[[], tuple[type[DataFlags], RunOverPrompts, ShowSummary]]) -> _Command:
    """A command that goes over prompts: its settings, what it does, and what it shows in the end."""

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        from flex_judge.experiments.common.flags import add_flags

        parser.add_argument(
            "file",
            metavar="FILE",
            nargs="?",
            help="prompts: a .jsonl or .parquet file, or hub:OWNER/NAME[:CONFIG][@SPLIT] (default: the embedded task)",
        )
        add_flags(parser, load()[0])

    def run(options: argparse.Namespace) -> int:
        from flex_judge.experiments.common.data_runs.view import exit_status
        from flex_judge.experiments.common.flags import build

        settings, main, show = load()
        config = build(settings, options)
        summary = main(config, options.file)
        show(summary, Path(config.out))
        return exit_status(summary, config.max_failures)

    return _Command(help, add_arguments, run)


def _best_of_n() -> tuple[type[DataFlags], RunOverPrompts, ShowSummary]:
    from flex_judge.experiments.commands.best_of_n.run import BestOfNRun, main
    from flex_judge.experiments.common.data_runs.view import print_best_of_n

    return BestOfNRun, main, print_best_of_n


def _preferences() -> tuple[type[DataFlags], RunOverPrompts, ShowSummary]:
    from flex_judge.experiments.commands.preferences.run import PreferenceRun, main
    from flex_judge.experiments.common.data_runs.view import print_preferences

    return PreferenceRun, main, print_preferences


def _curate_arguments(parser: argparse.ArgumentParser) -> None:
    from flex_judge.experiments.commands.curate.config import CurateRun
    from flex_judge.experiments.common.flags import add_flags

    parser.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        help="rows with question_body, answer1_body, answer2_body and score, as JudgeLM-100K has them: "
        "a .jsonl or .parquet file, or hub:OWNER/NAME[:CONFIG][@SPLIT]",
    )
    add_flags(parser, CurateRun)


def _curate(options: argparse.Namespace) -> int:
    from flex_judge.experiments.commands.curate.config import CurateRun
    from flex_judge.experiments.commands.curate.run import exit_status, main
    from flex_judge.experiments.commands.curate.view import print_curated
    from flex_judge.experiments.common.flags import build

    config = build(CurateRun, options)
    summary = main(config, options.file)
    print_curated(summary, Path(config.out))
    return exit_status(summary, config.max_failures)


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="folder of a finished run")


def _report(options: argparse.Namespace) -> int:
    from flex_judge.experiments.commands.report.run import write_page

    print(write_page(Path(options.run)))
    return 0


def _doctor_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def _doctor(options: argparse.Namespace) -> int:
    from flex_judge.experiments.commands.doctor.run import main

    return main(as_json=options.json)


def _judge_arguments(parser: argparse.ArgumentParser) -> None:
    from flex_judge.experiments.commands.judge.config import JudgeRun
    from flex_judge.experiments.common.flags import add_flags
    from flex_judge.judges.rubrics import rubric_names

    one = "--prompt TEXT --response TEXT [--response TEXT ...]"
    parser.usage = f"%(prog)s FILE [options]\n       %(prog)s {one} [options]"
    parser.epilog = f"Rubrics that come with it: {', '.join(rubric_names())}."
    parser.add_argument("file", metavar="FILE", nargs="?", help="comparisons as .jsonl or .parquet")
    parser.add_argument(
        "--json", action="store_true", help="print judgments as JSON lines; what a FILE without --out does anyway"
    )
    group = parser.add_argument_group("one comparison instead of a file; @FILE stands for what is in a file, @@ for @")
    group.add_argument("--prompt", metavar="TEXT", help="the question")
    group.add_argument("--response", metavar="TEXT", action="append", help="an answer; repeat it to compare several")
    for medium, metavar in (("image", "FILE"), ("video", "FILE"), ("audio", "FILE"), ("molecule", "SMILES")):
        said = f"{medium} that belongs to the question; may be repeated"
        group.add_argument(f"--{medium}", metavar=metavar, action="append", default=[], help=said)
    add_flags(parser, JudgeRun)


def _judge(options: argparse.Namespace) -> int:
    from flex_judge.experiments.commands.judge.config import JudgeRun
    from flex_judge.experiments.commands.judge.view import main
    from flex_judge.experiments.common.flags import build

    return main(build(JudgeRun, options), options)


def _serve_arguments(parser: argparse.ArgumentParser) -> None:
    from flex_judge.experiments.commands.serve.config import ServeRun
    from flex_judge.experiments.common.flags import add_flags

    add_flags(parser, ServeRun)


def _serve(options: argparse.Namespace) -> int:
    from flex_judge.experiments.commands.serve.config import ServeRun
    from flex_judge.experiments.commands.serve.run import main
    from flex_judge.experiments.common.flags import build

    return main(build(ServeRun, options))


def _eval_arguments(parser: argparse.ArgumentParser) -> None:
    from flex_judge.experiments.commands.eval.command import add_arguments

    add_arguments(parser)


def _eval(options: argparse.Namespace) -> int:
    from flex_judge.experiments.commands.eval.command import main

    return main(options)


def _bench_arguments(parser: argparse.ArgumentParser) -> None:
    from flex_judge.experiments.commands.bench import add_arguments

    add_arguments(parser)


def _bench(options: argparse.Namespace) -> int:
    from flex_judge.experiments.commands.bench import main

    return main(options)


COMMANDS = {
    "demo": _Command(
        "run the main job end to end on the embedded model: judge service, best-of-N, preference pairs, report",
        _demo_arguments,
        _demo,
    ),
    "judge": _Command(
        "judge a file of comparisons, or one from flags, with scores and reasoning", _judge_arguments, _judge
    ),
    "serve": _Command(
        "start the reward service: replicas of a judge on Ray, HTTP for trainers; prints its address",
        _serve_arguments,
        _serve,
    ),
    "best-of-n": _over_prompts(
        "sample N answers to every prompt of a data set, judge them, and keep the best; resumable", _best_of_n
    ),
    "preferences": _over_prompts(
        "sample answers to every prompt of a data set, judge them, and make a preference data set; resumable",
        _preferences,
    ),
    "curate": _Command(
        "have a teacher judge rows, and make training data for a judge of its judgments; resumable",
        _curate_arguments,
        _curate,
    ),
    "eval": _Command(
        "run a benchmark of judges, or re-score stored replies, beside published figures; resumable",
        _eval_arguments,
        _eval,
    ),
    "bench": _Command("measure one of the performance ratios, both sides in the same run", _bench_arguments, _bench),
    "report": _Command("write the HTML page of a finished run again", _report_arguments, _report),
    "doctor": _Command(
        "show what this machine can run, what is missing, and the command that mends it", _doctor_arguments, _doctor
    ),
}
TRAINING = {
    "sft": "tune a judge on curated judgments with TRL's SFTTrainer, examined on held-out ones; resumable",
    "dpo": "tune a policy on preferences with TRL's DPOTrainer, measured before and after; resumable",
    "grpo": "tune a policy on rewards of the judge with TRL's GRPOTrainer, measured before and after; resumable",
}
"""Commands that parse their own flags, as these are TRL's."""


if __name__ == "__main__":
    sys.exit(main())
