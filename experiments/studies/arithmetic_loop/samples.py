"""A policy's answers to questions of the embedded task, in the form of `flex-judge best-of-n`, without a judge."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from flex_judge.alignment.policies.engine import EnginePolicy
from flex_judge.alignment.tasks.arithmetic import SAMPLING, ArithmeticQuestion
from flex_judge.judges.concurrency import gather_all
from flex_judge.judges.engines import load_engine
from flex_judge.judges.engines.base import EngineConfig, Sampling
from flex_judge.judges.io.jsonl import Journal, write_rows

MAX_MODEL_LEN = 1024


def sample_answers(
    policy: str,
    asked: Sequence[ArithmeticQuestion],
    samples: int,
    path: Path,
    seed: int = 0,
    *,
    adapter: Path | None = None,
    temperature: float = SAMPLING.temperature,
    advance: Callable[[], object] = lambda: None,
) -> None:
    """Write a row for each question: its prompt, the policy's answers, and the right one in `kept`. What an earlier,
    interrupted call has written is not sampled again.

    Args:
        policy: name of an embedded model, a folder or a hub id.
        samples: answers to each.
        adapter: a LoRA adapter on the policy.
        temperature: 0: the policy's greedy answer, of which one is enough.
        path: a JSON lines file that takes the rows as they are made.
        advance: is called after each question.

    Raises:
        ModelNotFoundError: the policy cannot be had.
        EngineLostError: it died.
    """
    with Journal(path) as journal:
        left = [question for question in asked if question.id not in journal.rows]
        for _ in range(len(asked) - len(left)):
            advance()
        if left:
            config = EngineConfig(
                policy, adapter=str(adapter) if adapter else None, max_model_len=MAX_MODEL_LEN, max_batch=128, seed=seed
            )
            drawing = EnginePolicy(load_engine(config))
            sampling = replace(SAMPLING, temperature=temperature, seed=seed)
            try:
                asyncio.run(_sample_questions(drawing, left, sampling, range(samples), journal, advance))
            finally:
                drawing.close()
        rows = journal.rows
    # In the order of the questions, whichever was answered first: what is drawn from them goes by the line.
    if list(rows) != (order := [question.id for question in asked]):
        write_rows(path, [rows[name] for name in order])


async def _sample_questions(
    policy: EnginePolicy,
    asked: Sequence[ArithmeticQuestion],
    sampling: Sampling,
    draws: Sequence[int],
    journal: Journal,
    advance: Callable[[], object],
) -> None:
    async def sample_question(question: ArithmeticQuestion) -> None:
        answers = await policy.sample(question.prompt, sampling, draws)
        prompt = [{"role": message.role, "content": message.content} for message in question.prompt]
        row = {"id": question.id, "prompt": prompt, "responses": [answer.text for answer in answers]}
        journal.append({**row, "kept": {"answer": question.answer}})
        advance()

    await gather_all(map(sample_question, asked))
