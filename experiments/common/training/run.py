"""Training runs of `flex-judge sft`, `dpo` and `grpo`: run folder, resuming, ranks and summary."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from flex_judge.alignment.policy_training.tuning import LOG_FILE, find_last_checkpoint
from flex_judge.experiments.common.console import print_status, redirect_libraries, reserve_stdout
from flex_judge.experiments.common.progress import Progress
from flex_judge.experiments.common.ranks import Ranks
from flex_judge.experiments.common.run_folder import RunFolder
from flex_judge.experiments.common.stopping import call_on_stop, describe_stop, is_stop_requested
from flex_judge.experiments.common.training.flags import KINDS, TrainingFlags, parse_flags
from flex_judge.experiments.common.training.progress import show_training
from flex_judge.judges.errors import UsageError

LIBRARY_LOG = "training.log"
"""What transformers, TRL and other libraries print during the training."""
SUMMARY = "summary.json"
"""Written at the very end; its presence marks a complete run."""


class TrainingRun(ABC):
    """Run of a training command in one of its processes (ranks)."""

    record = ""
    """Name of the subfolder of the model folder that holds everything except the model."""
    makes = "model"
    """Word for the trained model in messages."""

    def __init__(self, flags: TrainingFlags, ranks: Ranks) -> None:
        self.flags, self.ranks = flags, ranks
        self.out = Path(flags.args.output_dir)

    def complete(self) -> dict[str, Any]:
        """Run or resume the training.

        Returns:
            The summary, as written to `summary.json`.
        """
        # Only the first rank opens the folder; its lock would keep the other ranks out.
        with ExitStack() as stack:
            self.ranks.run_on_first(lambda: self._open_folder(stack))
            summary: dict[str, Any] | None = self.ranks.run_on_first(self._read_summary)
            if summary is not None:
                self._print_status(f"{self.out} is complete: nothing is trained again")
                return summary
            with redirect_libraries(self.out / self.record / LIBRARY_LOG) as console:
                self.console = console
                self._train_model()
            return self.ranks.run_on_first(self._write_summary)

    @contextmanager
    def _show_training(self) -> Iterator[list[TrainerCallback]]:
        """Show the training of the block; only the first rank does.

        Yields:
            The callbacks of the trainer, which count its steps and stop it with a checkpoint.
        """
        stop = StopCallback(lambda: self.ranks.is_any(is_stop_requested()), self._defer_stop, self.ranks.leave_group)
        if not self.ranks.is_first:
            yield [stop]
            return
        with Progress(self.console) as progress, show_training(progress) as count:
            yield [stop, count]

    @property
    @abstractmethod
    def _identity(self) -> dict[str, Any]:
        """Settings that determine the results; a folder holds one run with one identity."""

    @abstractmethod
    def _prepare_folder(self, folder: Path) -> None:
        """Write the files that are known before training into the run folder. Called on the first rank."""

    @abstractmethod
    def _train_model(self) -> None:
        """Train the model. Called on every rank."""

    @abstractmethod
    def _write_summary(self) -> dict[str, Any]:
        """Write the summary and the model card, and return the summary. Called on the first rank."""

    @contextmanager
    def _defer_stop(self) -> Iterator[None]:
        if self.flags.args.save_only_model:
            plan = f"training ends after this step; the same command resumes from the last checkpoint in {self.out}"
        else:
            plan = f"after this step training saves a checkpoint in {self.out}, from which the same command resumes"
        with describe_stop(plan), call_on_stop(lambda: None, must_stop=False):
            yield

    def _open_folder(self, stack: ExitStack) -> None:
        path = self.out / self.record
        # A model without run.json comes from elsewhere; training over it would lose it.
        if not (path / "run.json").exists() and ((self.out / LOG_FILE).exists() or find_last_checkpoint(self.out)):
            raise UsageError(
                f"{self.out} holds a {self.makes} but no record of its training; choose another --output_dir"
            )
        self.folder = stack.enter_context(RunFolder(path, self._identity, "--output_dir", self.flags.kind.name))
        self._prepare_folder(path)

    def _read_summary(self) -> dict[str, Any] | None:
        """Read the summary of a complete run; None if the run is not complete."""
        path = self.out / self.record / SUMMARY
        summary: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        return summary

    def _print_status(self, text: str) -> None:
        if self.ranks.is_first:
            print_status(text)


class StopCallback(TrainerCallback):  # type: ignore[misc]
    """Callback that saves a checkpoint and raises KeyboardInterrupt after the step in which a stop was requested."""

    def __init__(
        self,
        must_stop: Callable[[], bool],
        defer_stop: Callable[[], AbstractContextManager[None]],
        leave_group: Callable[[], None],
    ) -> None:
        """Create a callback.

        Args:
            must_stop: whether a stop is requested. Called after each step in every process, with the same result.
            defer_stop: context of the training steps, in which a stop only sets what `must_stop` returns.
            leave_group: waits for the other processes, which must not lose a connection while they still save.
        """
        self._must_stop, self._defer_stop, self._leave_group = must_stop, defer_stop, leave_group
        self._steps = ExitStack()
        self._is_stopping = False

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Defer stops from now on."""
        self._steps.enter_context(self._defer_stop())

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Request a checkpoint if a stop is requested."""
        if not self._must_stop() or not _is_resumable(args, state.global_step):
            return
        if args.save_only_model:  # such a checkpoint lacks the optimizer, so training could not continue from it
            self._interrupt_training()
        self._is_stopping = control.should_save = True

    def on_save(self, *_: Any, **__: Any) -> None:
        """End training once the requested checkpoint is complete."""
        if self._is_stopping:
            self._interrupt_training()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Stop deferring: the trainer has done its last step."""
        self._steps.close()

    def _interrupt_training(self) -> None:
        self._steps.close()
        self._leave_group()
        raise KeyboardInterrupt


def _is_resumable(args: TrainingArguments, step: int) -> bool:
    """Return whether training can be resumed after a step; GRPO uses its completions for several steps."""
    micro_steps = getattr(args, "steps_per_generation", None)
    if not micro_steps:
        return True
    completion_steps = micro_steps * getattr(args, "num_iterations", 1)
    return bool(step * args.gradient_accumulation_steps % completion_steps == 0)


def run_command(
    name: str,
    argv: Sequence[str],
    make: Callable[[TrainingFlags, Ranks], TrainingRun],
    show: Callable[[Mapping[str, Any], Path], None],
) -> int:
    """Run a training command; a launcher calls it on every rank.

    Args:
        name: name of the command.
        argv: its flags.
        make: creates the run.
        show: prints the summary; the path is the output folder.

    Returns:
        The exit status.

    Raises:
        UsageError: the user can fix the problem; nothing was trained yet.
        JudgeError: the run ended early. Running the same command again resumes it.
    """
    flags = parse_flags(KINDS[name], argv)
    run = make(flags, Ranks())
    with reserve_stdout():  # transformers prints its logs to standard output
        summary = run.complete()
    if run.ranks.is_first:
        show(summary, run.out)
    run.ranks.leave_group()
    return 0
