"""Stopping of a training run between two steps, with a checkpoint that the same command resumes from."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class StopCallback(TrainerCallback):  # type: ignore[misc]
    """Callback that saves a checkpoint and raises KeyboardInterrupt after the step in which a stop was requested."""

    def __init__(self, must_stop: Callable[[], bool], defer_stop: Callable[[], AbstractContextManager[None]]) -> None:
        """Create a callback.

        Args:
            must_stop: whether a stop is requested. Called after each step in every process, with the same result.
            defer_stop: context of the training steps, in which a stop only sets what `must_stop` returns.
        """
        self._must_stop, self._defer_stop = must_stop, defer_stop
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
        raise KeyboardInterrupt


def _is_resumable(args: TrainingArguments, step: int) -> bool:
    """Return whether training can be resumed after a step; GRPO uses its completions for several steps."""
    micro_steps = getattr(args, "steps_per_generation", None)
    if not micro_steps:
        return True
    completion_steps = micro_steps * getattr(args, "num_iterations", 1)
    return bool(step * args.gradient_accumulation_steps % completion_steps == 0)
