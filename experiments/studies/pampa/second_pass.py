"""Second pass of the published evaluation: answers without `Final answer:` are continued after these words.

Also the published reading of the answers: regular expressions for the names of the two classes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flex_judge.alignment.policies.sampling import seed_for_sample
from flex_judge.experiments.common.stopping import run_async
from flex_judge.experiments.studies.pampa.statistics import AnswerReader, compute_best_of_n, compute_pass_at_1
from flex_judge.experiments.studies.pampa.task import ANSWERED, FINAL, HIGH, LOW, NONE, ClassificationTask
from flex_judge.judges.concurrency import run_concurrently
from flex_judge.judges.conversations.reader import ConversationReader
from flex_judge.judges.engines import Engine, EngineConfig, Sampling, load_engine
from flex_judge.judges.errors import MediaError, RenderError, UsageError
from flex_judge.judges.io.jsonl import read_rows, write_rows
from flex_judge.judges.media.opening import open_local_media
from flex_judge.judges.media.types import Modality
from flex_judge.judges.protocol.rendering import Renderer
from flex_judge.judges.protocol.sections import content_to_pieces
from flex_judge.judges.protocol.turns import Turn
from flex_judge.judges.types import Message

Row = Mapping[str, Any]
APPENDED = f"\n\n{FINAL} "
"""Text after which an answer is continued."""
_MARKER = re.compile(r"[Ff]inal [Aa]nswer:")
_OFFICIAL_CLASSES = (
    (re.compile(r"[Hh]igh [Pp]ermeability"), HIGH),
    (re.compile(r"[Ll]ow-to-[Mm]oderate [Pp]ermeability|[Mm]oderate [Pp]ermeability"), LOW),
)


class OfficialReading:
    """Reads the class of an answer as the published scripts do."""

    def read_class(self, text: str) -> tuple[str | None, str]:
        """Read the class from the text after the last `Final answer: `; `High permeability` counts first."""
        end = text.split(f"{FINAL} ")[-1].strip()
        for pattern, name in _OFFICIAL_CLASSES:
            if pattern.search(end):
                return name, ANSWERED
        return None, NONE


def compute_step_metrics(step: str, rows: Sequence[Row], reader: AnswerReader, seed: int) -> dict[str, Any]:
    """Compute the metrics of a step of the study: `best`, or one of first answers, such as `greedy`."""
    if step == "best":
        return compute_best_of_n(rows, reader, seed=seed)
    return compute_pass_at_1(rows, reader)


def compute_official_metrics(step: str, rows: Sequence[Row], seed: int) -> dict[str, Any]:
    """Compute the metrics of a step as the published scripts do.

    They leave out first answers without a class, whose accuracy is `accuracy_answered`; best-of-N leaves out molecules
    without any score, and a chosen answer without a class is wrong.
    """
    if step == "best":
        rows = [row for row in rows if any(score is not None for score in row["scores"] or ())]
    return compute_step_metrics(step, rows, OfficialReading(), seed) if rows else {}


def add_second_pass_metrics(
    results: dict[str, Any], step: str, rows: Sequence[Row], task: ClassificationTask, seed: int
) -> None:
    """Add the metrics of a step after the second pass: read by the task, and as the published scripts read them."""
    results.setdefault("second_pass", {})[step] = compute_step_metrics(step, rows, task, seed)
    # The published patterns know the two classes of PAMPA only.
    if set(task.names) == {HIGH, LOW}:
        results.setdefault("official", {})[step] = compute_official_metrics(step, rows, seed)


def needs_second_pass(answer: str) -> bool:
    """Check whether the published scripts continue an answer."""
    return not _MARKER.search(answer)


def continue_answers(
    rows: Sequence[Row], questions: Sequence[Row], policy: EngineConfig, sampling: Sampling, out: Path
) -> list[dict[str, Any]]:
    """Continue the answers without `Final answer:`, or read the continuations of an earlier call.

    The judge's scores stay: in the published pipeline it reads an answer up to `Final answer:` only.

    Args:
        rows: Rows with `responses`; None for a question without an answer.
        questions: The question of each row: `prompt` and `molecules`.
        policy: Model that gave the answers.
        sampling: Sampling settings of the answers.
        out: File for the continuations.

    Returns:
        The rows, with the continuations in `responses`.
    """
    pending = [
        (row_number, answer_number)
        for row_number, row in enumerate(rows)
        for answer_number, answer in enumerate(row["responses"] or ())
        if needs_second_pass(answer)
    ]
    if not out.is_file():
        texts = _continue_pending(rows, questions, pending, policy, sampling) if pending else []
        write_rows(out, ({"row": r, "answer": a, "text": t} for (r, a), t in zip(pending, texts, strict=True)))
    continued = [{**row, "responses": list(row["responses"]) if row["responses"] else None} for row in rows]
    for continuation in read_rows(out):
        if continuation["text"] is not None:
            responses = continued[continuation["row"]]["responses"]
            responses[continuation["answer"]] += APPENDED + continuation["text"]
    return continued


def _continue_pending(
    rows: Sequence[Row],
    questions: Sequence[Row],
    pending: Sequence[tuple[int, int]],
    policy: EngineConfig,
    sampling: Sampling,
) -> list[str | None]:
    engine = load_engine(policy)
    try:
        return run_async(_Continuer(engine, sampling).continue_all(rows, questions, pending))
    finally:
        engine.close()


class _Continuer:
    """Continues answers on one engine."""

    def __init__(self, engine: Engine, sampling: Sampling) -> None:
        self.engine, self.sampling = engine, sampling
        self.renderer = Renderer(engine.tokenizer, engine.profile)

    async def continue_all(
        self, rows: Sequence[Row], questions: Sequence[Row], pending: Sequence[tuple[int, int]]
    ) -> list[str | None]:
        async def continue_one(numbers: tuple[int, int]) -> str | None:
            row_number, answer_number = numbers
            question = questions[row_number]
            molecules = {f"molecules[{i}]": smiles for i, smiles in enumerate(question["molecules"])}
            prompt = ConversationReader(open_local_media).read_prompt(
                question["prompt"], {Modality.MOLECULE: molecules}
            )
            return await self._continue_answer(prompt, rows[row_number]["responses"][answer_number], answer_number)

        texts: dict[int, str | None] = {}
        async for index, text in run_concurrently(pending, continue_one, 2 * self.engine.max_batch):
            texts[index] = text
        return [texts[index] for index in range(len(pending))]

    async def _continue_answer(self, prompt: Sequence[Message], answer: str, answer_number: int) -> str | None:
        """Continue one answer; None if it cannot be continued, which leaves it as it is."""
        beginning = answer + APPENDED
        # The beginning is rendered as the model's own text, where a control token would end its turn.
        if self.renderer.has_control_token(answer):
            return None
        turns = [Turn(message.role, content_to_pieces(message.content)) for message in prompt]
        try:
            rendered = await asyncio.to_thread(self.renderer.render, turns, beginning)
        except (RenderError, MediaError, UsageError):
            return None
        if rendered.length + self.sampling.max_tokens > self.engine.max_model_len:
            return None
        # The beginning is part of the seed's prompt, so that the second pass does not repeat the noise of the first.
        seed = seed_for_sample([*prompt, Message("assistant", beginning)], self.sampling, answer_number)
        sampling = Sampling(self.sampling.max_tokens, self.sampling.temperature, sample_index=answer_number, seed=seed)
        generation = await self.engine.generate(rendered.token_ids, sampling, rendered.media)
        return generation.text
