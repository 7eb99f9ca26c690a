"""Sampling of a policy's answers to questions of the embedded task, in the format of `flex-judge best-of-n`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from flex_judge.alignment.policies.engine import EnginePolicy
from flex_judge.alignment.tasks.arithmetic import SAMPLING, ArithmeticQuestion
from flex_judge.experiments.common.console import redirect_libraries
from flex_judge.experiments.common.progress import Progress
from flex_judge.experiments.common.stopping import run_async
from flex_judge.judges.concurrency import gather_all
from flex_judge.judges.engines import load_engine
from flex_judge.judges.engines.base import EngineConfig, Sampling
from flex_judge.judges.io.jsonl import Journal, write_rows

MAX_MODEL_LEN = 1024


def sample_answers(
    model: str,
    questions: Sequence[ArithmeticQuestion],
    *,
    samples: int,
    path: Path,
    seed: int = 0,
    adapter: Path | None = None,
    temperature: float = SAMPLING.temperature,
    advance: Callable[[], object] = lambda: None,
) -> None:
    """Sample a policy's answers to questions and write one row per question.

    A row has the prompt, the answers, and the right answer in `kept`. Questions that an interrupted call has finished
    are not sampled again.

    Args:
        model: Policy: embedded name, folder or hub id.
        questions: Questions to answer.
        samples: Number of answers per question.
        path: JSON lines file, extended as answers arrive.
        seed: Sampling seed.
        adapter: Folder of a LoRA adapter for the policy.
        temperature: Sampling temperature; 0 is greedy, for which one sample is enough.
        advance: Function that is called after each question.

    Raises:
        ModelNotFoundError: The policy cannot be loaded.
        EngineLostError: The engine died.
    """
    with Journal(path) as journal:
        remaining = [question for question in questions if question.id not in journal.rows]
        # Questions of an earlier call count as progress.
        for _ in range(len(questions) - len(remaining)):
            advance()
        if remaining:
            # The model is tiny and its answers are one line, so a large batch is fast and fits into memory.
            config = EngineConfig(
                model, adapter=str(adapter) if adapter else None, max_model_len=MAX_MODEL_LEN, max_batch=128, seed=seed
            )
            policy = EnginePolicy(load_engine(config))
            sampling = replace(SAMPLING, temperature=temperature, seed=seed)
            try:
                work = _sample_questions(
                    policy, remaining, sampling, sample_indices=range(samples), journal=journal, advance=advance
                )
                run_async(work)
            finally:
                policy.close()
        rows = journal.rows
    # Answers arrive in any order. Later random choices depend on the line number, so the order has to be fixed.
    order = [question.id for question in questions]
    if list(rows) != order:
        write_rows(path, [rows[name] for name in order])


async def _sample_questions(
    policy: EnginePolicy,
    questions: Sequence[ArithmeticQuestion],
    sampling: Sampling,
    *,
    sample_indices: Sequence[int],
    journal: Journal,
    advance: Callable[[], object],
) -> None:
    async def sample_question(question: ArithmeticQuestion) -> None:
        answers = await policy.sample(question.prompt, sampling, sample_indices)
        prompt = [{"role": message.role, "content": message.content} for message in question.prompt]
        row = {"id": question.id, "prompt": prompt, "responses": [answer.text for answer in answers]}
        journal.append({**row, "kept": {"answer": question.answer}})
        advance()

    await gather_all(map(sample_question, questions))


@contextmanager
def track_engine_progress(out: Path, title: str) -> Iterator[Callable[[int], Callable[[], object]]]:
    """Show a progress bar and redirect the engine's output to `engines.log`.

    Yields:
        Function that adds a number of work items and returns the function that marks one item as done.
    """
    with (
        redirect_libraries(out / "engines.log") as console,
        Progress(console) as progress,
        progress.show_phase(title, total=0) as phase,
    ):

        def add_work(total: int) -> Callable[[], object]:
            phase.set_counts(phase.done, total=(phase.total or 0) + total)
            return phase.advance

        yield add_work
