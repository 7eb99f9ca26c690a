"""Rows of the embedded task: pairs and lists of answers that a policy itself sampled, scored by what is true."""

from __future__ import annotations

import itertools
import reprlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flex_judge.alignment.curation.rows import BadRowError, DropRecord, ReferenceRow, RowFault, check_row, require_text
from flex_judge.alignment.curation.scales import FIVE
from flex_judge.alignment.data.sources import Source
from flex_judge.alignment.data.texts import compute_seeded_hash, normalise_text, replace_surrogates
from flex_judge.alignment.tasks.arithmetic import find_last_number, is_correct_answer
from flex_judge.alignment.tasks.synthetic_teacher import RIGHT_SCORE, WRONG_SCORE, parse_question
from flex_judge.judges.errors import UsageError

PAIR_MIX = {"one right": 0.68, "one right, the other without a number": 0.12, "both right": 0.1, "both wrong": 0.1}
"""The shares of rows. Of wrong answers so 12 % have no number, which are the easy ones. The first kind sets how many
rows there are; where another is short, its share is smaller."""
_MAIN, _SILENT, _BOTH_RIGHT, _BOTH_WRONG = PAIR_MIX


@dataclass(frozen=True)
class _AnsweredPrompt:
    """A question with the different answers to it."""

    row: int
    where: str
    question: str
    answers: Mapping[int, str]
    """By their number among the samples, from 0."""
    right: Mapping[int, bool]

    def iter_pairs(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """Each two answers with the name of their kind; of one that is right, it stands first."""
        for i, j in itertools.combinations(self.answers, 2):
            silent = [find_last_number(self.answers[k]) is None for k in (i, j)]
            if self.right[i] and self.right[j]:
                yield _BOTH_RIGHT, (i, j)
            elif self.right[i] or self.right[j]:
                yield _SILENT if any(silent) else _MAIN, (i, j) if self.right[i] else (j, i)
            elif not any(silent):
                yield _BOTH_WRONG, (i, j)


@dataclass
class _PairPools:
    """Pairs by kind, in the order in which they are taken."""

    pairs: dict[str, list[tuple[_AnsweredPrompt, tuple[int, int]]]] = field(default_factory=dict)

    @classmethod
    def from_prompts(cls, prompts: Sequence[_AnsweredPrompt], seed: int) -> _PairPools:
        """Of every prompt a pair is taken before any gives a second one; beyond that the lot decides."""
        ranked: dict[str, list[tuple[int, str, _AnsweredPrompt, tuple[int, int]]]] = defaultdict(list)
        for prompt in prompts:
            drawn = [
                (compute_seeded_hash(seed, str(prompt.row), *map(str, pair)), kind, pair)
                for kind, pair in prompt.iter_pairs()
            ]
            ranks: Counter[str] = Counter()
            for lot, kind, pair in sorted(drawn):
                ranked[kind].append((ranks[kind], lot, prompt, pair))
                ranks[kind] += 1
        return cls(
            {
                kind: [(prompt, pair) for *_, prompt, pair in sorted(found, key=lambda one: one[:2])]
                for kind, found in ranked.items()
            }
        )

    def iter_mix(self) -> Iterator[tuple[_AnsweredPrompt, tuple[int, int]]]:
        """Pairs in the shares of MIX at any length, each side right equally often, until the first kind runs out."""
        taken: Counter[str] = Counter()
        while taken[_MAIN] < len(self.pairs.get(_MAIN, ())):
            left = [kind for kind in PAIR_MIX if taken[kind] < len(self.pairs.get(kind, ()))]
            total = taken.total() + 1
            kind = max(left, key=lambda kind: PAIR_MIX[kind] * total - taken[kind])
            prompt, (i, j) = self.pairs[kind][taken[kind]]
            yield prompt, (i, j) if taken[kind] % 2 == 0 else (j, i)
            taken[kind] += 1


def build_task_rows(source: Source, seed: int, batch: int = 0) -> list[ReferenceRow | DropRecord]:
    """Pairs of different answers to one question with reference scores on 1-5, in the shares of MIX; then batches.

    Args:
        source: a `best_of_n.jsonl` of `flex-judge best-of-n` over the embedded task: `prompt`, `responses`, and the
            right answer in `kept`, as `answer`.
        seed: decides which answers meet, and in which order.
        batch: answers of a batch, of which there is one of each question that has so many different ones with a right
            and a wrong one among them; 0: no lists.

    Returns:
        The pairs and lists, and of the rows of the source that give none because of a fault, what it is.

    Raises:
        UsageError: there is no question with a right and a wrong answer.
    """
    prompts: list[_AnsweredPrompt] = []
    bad: list[DropRecord] = []
    for number, (where, data) in enumerate(source.read_range(0, len(source)), 1):
        try:
            prompts.append(_parse_prompt(check_row(data), number, where))
        except BadRowError as e:
            bad.append(DropRecord(number, e.fault, f"{where}: {e.detail}"))
    pairs = [_make_reference(prompt, pair) for prompt, pair in _PairPools.from_prompts(prompts, seed).iter_mix()]
    if not pairs:
        said = f"; the first fault: {bad[0].detail}" if bad else ""
        raise UsageError(f"{source.name}: no question has a right answer and a wrong one with a number{said}")
    batches = [
        _make_reference(prompt, found) for prompt in prompts if batch and (found := _choose_list(prompt, batch, seed))
    ]
    return [*bad, *pairs, *batches]


def _choose_list(prompt: _AnsweredPrompt, size: int, seed: int) -> tuple[int, ...]:
    """So many answers in the order of their lots, a right and a wrong one among them; none where that cannot be."""
    drawn = sorted(prompt.answers, key=lambda k: compute_seeded_hash(seed, f"batch {prompt.row} {k}"))
    if len(drawn) < size or len({prompt.right[k] for k in drawn}) < 2:
        return ()
    found = drawn[:size]
    if len({prompt.right[k] for k in found}) < 2:
        found[-1] = next(k for k in drawn if prompt.right[k] is not prompt.right[found[0]])
    return tuple(sorted(found, key=lambda k: compute_seeded_hash(seed, f"place {prompt.row} {k}")))


def _make_reference(prompt: _AnsweredPrompt, places: tuple[int, ...]) -> ReferenceRow:
    return ReferenceRow(
        f"{prompt.row}.{'-'.join(map(str, places))}",
        prompt.row,
        prompt.question,
        tuple(prompt.answers[k] for k in places),
        tuple(float(RIGHT_SCORE if prompt.right[k] else WRONG_SCORE) for k in places),
        FIVE,
        f"{prompt.where}, answers {', '.join(str(k + 1) for k in places[:-1])} and {places[-1] + 1}",
    )


def _parse_prompt(data: Mapping[str, Any], row: int, where: str) -> _AnsweredPrompt:
    question = require_text(_extract_question(data.get("prompt")), "prompt", RowFault.NO_QUESTION)
    try:
        parse_question(question)
    except UsageError as e:
        raise BadRowError(RowFault.NOT_THE_TASK, f"field 'prompt': {e}") from e
    kept = data.get("kept")
    truth = kept.get("answer") if isinstance(kept, Mapping) else None
    if truth is None:
        raise BadRowError(RowFault.NO_TRUTH, "field 'kept' has no 'answer'")
    if isinstance(truth, bool) or not isinstance(truth, int | float):
        raise BadRowError(RowFault.WRONG_TYPE, f"field 'kept': 'answer' must be a number, not {reprlib.repr(truth)}")
    responses = data.get("responses")
    if not isinstance(responses, list) or not all(isinstance(response, str) for response in responses):
        raise BadRowError(RowFault.NO_ANSWERS, f"field 'responses': expected texts, got {reprlib.repr(responses)}")
    different: dict[str, int] = {}
    for k, response in enumerate(responses):
        if response.strip():
            different.setdefault(normalise_text(response), k)
    answers = {k: replace_surrogates(responses[k]) for k in different.values()}
    return _AnsweredPrompt(
        row, where, question, answers, {k: is_correct_answer(said, truth) for k, said in answers.items()}
    )


def _extract_question(prompt: Any) -> Any:
    """The text of a prompt that is one message of a user's; else the prompt as it is, which is none of the task's."""
    one = isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], Mapping)
    return prompt[0].get("content") if one and prompt[0].get("role") == "user" else prompt
