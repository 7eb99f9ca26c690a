"""What runs of `flex-judge sft`, `dpo` and `grpo` have in common: a folder that says how the model was made, a summary
that ends the run, and processes of which the first one speaks.
"""

from __future__ import annotations

import json
import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from flex_judge.alignment.policy_training.tuning import LOG_FILE, find_last_checkpoint
from flex_judge.experiments.common.console import reserve_stdout
from flex_judge.experiments.common.ranks import Ranks
from flex_judge.experiments.common.run_folder import RunFolder
from flex_judge.experiments.common.training.flags import KINDS, TrainingFlags, parse_flags
from flex_judge.judges.errors import UsageError

SUMMARY = "summary.json"


class TrainingRun(ABC):
    """A run of one of the commands, in one of its processes."""

    record = ""
    """Name of the folder, within that of the model, where all is that is not the model."""
    makes = "model"
    """What is made, in a word."""

    def __init__(self, flags: TrainingFlags, ranks: Ranks) -> None:
        self.flags, self.ranks = flags, ranks
        self.out = Path(flags.args.output_dir)

    def complete(self) -> dict[str, Any]:
        """Do what is not done yet.

        Returns:
            The summary, as written to `summary.json`.
        """
        with ExitStack() as stack:
            self.ranks.run_on_first(lambda: self._open_folder(stack))
            done: dict[str, Any] | None = self.ranks.run_on_first(self._read_summary)
            if done is not None:
                self._print_status(f"{self.out} is complete: nothing is trained again")
                return done
            self._train_model()
            return self.ranks.run_on_first(self._write_summary)

    @property
    @abstractmethod
    def _identity(self) -> dict[str, Any]:
        """What determines the results; a folder holds one such run."""

    @abstractmethod
    def _prepare_folder(self, folder: Path) -> None:
        """Write into the folder of the run what is known before anything is trained. In the first process."""

    @abstractmethod
    def _train_model(self) -> None:
        """Train, in every process."""

    @abstractmethod
    def _write_summary(self) -> dict[str, Any]:
        """Write the summary and the model card, and return the summary. In the first process."""

    def _open_folder(self, stack: ExitStack) -> None:
        path = self.out / self.record
        if not (path / "run.json").exists() and ((self.out / LOG_FILE).exists() or find_last_checkpoint(self.out)):
            raise UsageError(f"{self.out} holds a {self.makes}, and not how it was made; choose another --output_dir")
        self.folder = stack.enter_context(RunFolder(path, self._identity, "--output_dir"))
        self._prepare_folder(path)

    def _read_summary(self) -> dict[str, Any] | None:
        """That of a run that has ended."""
        path = self.out / self.record / SUMMARY
        summary: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        return summary

    def _print_status(self, text: str) -> None:
        if self.ranks.is_first:
            print(f"flex-judge: {text}", file=sys.stderr, flush=True)


def run_command(
    name: str,
    argv: Sequence[str],
    make: Callable[[TrainingFlags, Ranks], TrainingRun],
    show: Callable[[Mapping[str, Any], Path], None],
) -> int:
    """Run a command, in every process that a launcher starts.

    Returns:
        The exit status.

    Raises:
        UsageError: something the user can mend; nothing was trained yet.
        JudgeError: what ended the run. The same command goes on from there.
    """
    flags = parse_flags(KINDS[name], argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as after Ctrl-C, nothing is left running
    run = make(flags, Ranks())
    with reserve_stdout():  # where transformers prints what it logs
        summary = run.complete()
    if run.ranks.is_first:
        show(summary, run.out)
    run.ranks.leave_group()
    return 0
