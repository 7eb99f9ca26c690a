"""Progress of a training: steps with loss and reward, and completions that can be read at any width."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from random import Random
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from flex_judge.experiments.common.progress import Phase, Progress, uses_json_progress
from flex_judge.experiments.common.reporting.terminal import escape_control_characters

if TYPE_CHECKING:
    from rich.console import Console

LOGGED = {"loss": "loss", "eval_loss": "evaluation loss", "reward": "reward", "eval_balanced_accuracy": "accuracy"}
"""Value in the trainer's log -> its name beside the progress."""
MAX_CHARS = 600
"""Maximum length of a text in a completion that is shown."""
SHOWN_COMPLETIONS = 4
"""Default number of completions per step that are shown."""


class TrainingCallback(TrainerCallback):  # type: ignore[misc] # transformers is not typed
    """Callback of transformers that counts the steps of a training in a phase."""

    def __init__(self, phase: Phase) -> None:
        self._phase = phase
        self._values: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Start to count; a training that resumes has steps behind it."""
        self._phase.restart(state.global_step, state.max_steps)
        self._describe("evaluating before the first step" if args.eval_on_start and not state.global_step else "")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Count a step."""
        self._phase.set_counts(state.global_step)
        self._describe("evaluating" if control.should_evaluate else "")

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any], **_: Any) -> None:  # noqa: ARG002
        """Note the loss and the reward."""
        self._values |= {name: value for name, value in logs.items() if name in LOGGED and isinstance(value, float)}
        self._describe("")

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Note that an evaluation has ended."""
        self._describe("")

    def _describe(self, activity: str) -> None:
        values = [f"{LOGGED[name]} {value:.4g}" for name, value in self._values.items()]
        self._phase.waiting_for = ", ".join([*([activity] if activity else []), *values])


@contextmanager
def show_training(progress: Progress) -> Iterator[TrainingCallback]:
    """Show the training of the block as a phase, instead of the bars and tables of transformers and TRL.

    Yields:
        The callback of the trainer that counts its steps.
    """
    from trl.trainer import grpo_trainer

    def print_sample(*arguments: Any, **options: Any) -> None:
        print_completions(progress.console, *arguments, **options)

    print_table = grpo_trainer.print_prompt_completions_sample
    with progress.show_phase("training", waiting_for="loading the model") as phase:
        grpo_trainer.print_prompt_completions_sample = print_sample
        try:
            yield TrainingCallback(phase)
        finally:
            grpo_trainer.print_prompt_completions_sample = print_table


def print_completions(
    console: Console,
    prompts: Sequence[Any],
    completions: Sequence[Any],
    rewards: Mapping[str, Sequence[float | None]],
    advantages: Sequence[float] | None,
    step: int,
    num_samples: int | None = None,
    extra: Mapping[str, Sequence[Any]] | None = None,
) -> None:
    """Print completions of a step, one below the other with one line per field.

    TRL prints a table with one column per field, of which 80 columns show a few letters each. The parameters are those
    of TRL's function.
    """
    if uses_json_progress():
        return
    from rich.table import Table
    from rich.text import Text

    indices = range(len(prompts))
    limit = SHOWN_COMPLETIONS if num_samples is None else num_samples
    shown = sorted(Random(step).sample(indices, min(limit, len(indices))))
    console.print(Text(f"step {step}: {len(shown)} of {len(indices)} completions", style="bold"))
    for i in shown:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="fold")
        numbers = {name: values[i] for name, values in rewards.items()}
        if advantages is not None:
            numbers["advantage"] = advantages[i]
        texts = {"prompt": prompts[i], "completion": completions[i]}
        texts |= {name: values[i] for name, values in (extra or {}).items()}
        for name, text in texts.items():
            grid.add_row(name, Text(_shorten(text)))
        for name, number in numbers.items():
            grid.add_row(name, Text("none" if number is None else f"{number:.4g}"))
        console.print(grid)
        console.print()


def _shorten(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(message, dict) for message in value):
        value = " / ".join(f"{message.get('role', '')}: {message.get('content', '')}" for message in value)
    text = escape_control_characters(" ".join(str(value).split()))
    return text if len(text) <= MAX_CHARS else text[: MAX_CHARS - 1] + "…"
