"""Reference rows of the embedded task: pairs and lists of sampled answers, scored by their correctness."""

from __future__ import annotations

import itertools
import reprlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flex_judge.alignment.curation.rows import BadRowError, DropRecord, ReferenceRow, RowFault, check_row, require_text
from flex_judge.alignment.curation.scales import FIVE
from flex_judge.alignment.data.normal_forms import fold_text
from flex_judge.alignment.data.numbers import read_number
from flex_judge.alignment.data.sources import Source
from flex_judge.alignment.data.texts import compute_seeded_hash, replace_surrogates
from flex_judge.alignment.tasks.arithmetic import find_last_number, is_correct_answer
from flex_judge.alignment.tasks.synthetic_teacher import RIGHT_SCORE, WRONG_SCORE, parse_question
from flex_judge.judges.errors import UsageError

PAIR_MIX = {"one right": 0.68, "one right, the other without a number": 0.12, "both right": 0.1, "both wrong": 0.1}
"""Share of each kind of pair.

Answers without a number are easy to reject, so they are limited to 12 % of the pairs. The first kind determines the
number of pairs; a kind that runs short gets a smaller share.
"""
_COLUMNS = ("prompt", "responses", "kept")
_ONE_RIGHT, _NO_NUMBER, _BOTH_RIGHT, _BOTH_WRONG = PAIR_MIX


@dataclass(frozen=True)
class _AnsweredPrompt:
    """Question with its distinct answers."""

    row: int
    where: str
    question: str
    answers: Mapping[int, str]
    """Answers by their sample index, from 0."""
    right: Mapping[int, bool]
    """Correctness of the answers by sample index."""

    def iter_pairs(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """Yield every pair of answers with its kind. If one answer is right, it comes first."""
        for i, j in itertools.combinations(self.answers, 2):
            lacks_number = [find_last_number(self.answers[k]) is None for k in (i, j)]
            if self.right[i] and self.right[j]:
                yield _BOTH_RIGHT, (i, j)
            elif self.right[i] or self.right[j]:
                yield _NO_NUMBER if any(lacks_number) else _ONE_RIGHT, (i, j) if self.right[i] else (j, i)
            # Two wrong answers without a number are left out: there is nothing to calculate in them.
            elif not any(lacks_number):
                yield _BOTH_WRONG, (i, j)


@dataclass
class _PairPools:
    """Pairs of answers by kind, in order of use."""

    pairs: dict[str, list[tuple[_AnsweredPrompt, tuple[int, int]]]] = field(default_factory=dict)

    @classmethod
    def from_prompts(cls, prompts: Sequence[_AnsweredPrompt], seed: int) -> _PairPools:
        """Order the pairs of all prompts at random. Every prompt contributes once before any does again."""
        keyed: dict[str, list[tuple[int, str, _AnsweredPrompt, tuple[int, int]]]] = defaultdict(list)
        for prompt in prompts:
            hashed = []
            for kind, pair in prompt.iter_pairs():
                hashed.append((compute_seeded_hash(seed, str(prompt.row), *map(str, pair)), kind, pair))
            rounds: Counter[str] = Counter()
            for sort_hash, kind, pair in sorted(hashed):
                keyed[kind].append((rounds[kind], sort_hash, prompt, pair))
                rounds[kind] += 1
        pairs = {}
        for kind, items in keyed.items():
            items.sort(key=lambda item: item[:2])
            pairs[kind] = [(prompt, pair) for *_, prompt, pair in items]
        return cls(pairs)

    def iter_mix(self) -> Iterator[tuple[_AnsweredPrompt, tuple[int, int]]]:
        """Yield pairs in the shares of PAIR_MIX until the first kind is used up.

        The shares hold for every prefix of the output, and so does the balance between first and second answer being
        the right one.
        """
        used: Counter[str] = Counter()
        while used[_ONE_RIGHT] < len(self.pairs.get(_ONE_RIGHT, ())):
            available = [kind for kind in PAIR_MIX if used[kind] < len(self.pairs.get(kind, ()))]
            total = used.total() + 1
            # Take the kind that is furthest below its share.
            kind = max(available, key=lambda kind: PAIR_MIX[kind] * total - used[kind])
            prompt, (i, j) = self.pairs[kind][used[kind]]
            # Alternating the place of the right answer keeps the data free of a position bias.
            yield prompt, (i, j) if used[kind] % 2 == 0 else (j, i)
            used[kind] += 1


def build_task_rows(source: Source, seed: int, list_size: int = 0) -> list[ReferenceRow | DropRecord]:
    """Build reference rows on the scale 1-5 from sampled answers: pairs in the shares of PAIR_MIX, then lists.

    Args:
        source: `best_of_n.jsonl` of a `flex-judge best-of-n` run on the embedded task, with `prompt`, `responses` and
            the right answer as `answer` in `kept`.
        seed: Seed that decides which answers are combined, and in which order.
        list_size: Number of answers per list; 0 makes no lists. A question yields one list if it has enough distinct
            answers with at least one right and one wrong.

    Returns:
        Drop records of faulty rows, then pairs, then lists.

    Raises:
        UsageError: No question has both a right and a wrong answer.
    """
    prompts: list[_AnsweredPrompt] = []
    dropped: list[DropRecord] = []
    for number, (where, data) in enumerate(source.read_range(0, len(source), _COLUMNS.__contains__), 1):
        try:
            prompts.append(_parse_prompt(check_row(data), number, where))
        except BadRowError as e:
            dropped.append(DropRecord(number, e.fault, f"{where}: {e.detail}"))
    pairs = [_make_reference(prompt, pair) for prompt, pair in _PairPools.from_prompts(prompts, seed).iter_mix()]
    if not pairs:
        fault = f"; the first faulty row: {dropped[0].detail}" if dropped else ""
        raise UsageError(
            f"{source.name}: no question has both a right answer and a wrong answer with a number; sample more answers "
            f"per question{fault}"
        )
    lists = []
    for prompt in prompts if list_size else ():
        if indices := _choose_list(prompt, list_size, seed):
            lists.append(_make_reference(prompt, indices))
    return [*dropped, *pairs, *lists]


def _choose_list(prompt: _AnsweredPrompt, size: int, seed: int) -> tuple[int, ...]:
    """Choose answers at random, with at least one right and one wrong.

    Returns:
        Sample indices in random order; empty if the prompt does not have enough answers.
    """
    candidates = sorted(prompt.answers, key=lambda k: compute_seeded_hash(seed, f"batch {prompt.row} {k}"))
    if len(candidates) < size or len({prompt.right[k] for k in candidates}) < 2:
        return ()
    chosen = candidates[:size]
    if len({prompt.right[k] for k in chosen}) < 2:
        # The last random answer makes room for the first one of the missing kind.
        chosen[-1] = next(k for k in candidates if prompt.right[k] is not prompt.right[chosen[0]])
    return tuple(sorted(chosen, key=lambda k: compute_seeded_hash(seed, f"place {prompt.row} {k}")))


def _make_reference(prompt: _AnsweredPrompt, indices: tuple[int, ...]) -> ReferenceRow:
    numbers = [str(k + 1) for k in indices]
    return ReferenceRow(
        id=f"{prompt.row}.{'-'.join(map(str, indices))}",
        row=prompt.row,
        question=prompt.question,
        answers=tuple(prompt.answers[k] for k in indices),
        scores=tuple(float(RIGHT_SCORE if prompt.right[k] else WRONG_SCORE) for k in indices),
        scale=FIVE,
        where=f"{prompt.where}, answers {', '.join(numbers[:-1])} and {numbers[-1]}",
    )


def _parse_prompt(data: Mapping[str, Any], row: int, where: str) -> _AnsweredPrompt:
    question = require_text(_extract_question(data.get("prompt")), "prompt", RowFault.NO_QUESTION)
    try:
        parse_question(question)
    except UsageError as e:
        raise BadRowError(RowFault.NOT_THE_TASK, f"field 'prompt': {e}") from e
    columns = data.get("kept")
    truth = columns.get("answer") if isinstance(columns, Mapping) else None
    if truth is None:
        raise BadRowError(RowFault.NO_TRUTH, "field 'kept' has no 'answer'")
    try:
        read_number(truth)
    except UsageError as e:
        raise BadRowError(RowFault.WRONG_TYPE, f"field 'kept', 'answer': {e}") from e
    responses = data.get("responses")
    if not isinstance(responses, list) or not all(isinstance(response, str) for response in responses):
        raise BadRowError(
            RowFault.NO_ANSWERS, f"field 'responses': expected a list of texts, got {reprlib.repr(responses)}"
        )
    # A policy often repeats an answer. Each distinct one is used once, so that no pair has equal answers.
    distinct: dict[str, int] = {}
    for k, response in enumerate(responses):
        if folded := fold_text(response):
            distinct.setdefault(folded, k)
    answers = {k: replace_surrogates(responses[k]) for k in distinct.values()}
    right = {k: is_correct_answer(answer, truth) for k, answer in answers.items()}
    return _AnsweredPrompt(row=row, where=where, question=question, answers=answers, right=right)


def _extract_question(prompt: Any) -> Any:
    """Return the text of a prompt with a single user message; other prompts are returned unchanged.

    The embedded task has single-message prompts only, so the caller rejects every other prompt.
    """
    if not isinstance(prompt, list) or len(prompt) != 1 or not isinstance(prompt[0], Mapping):
        return prompt
    message = prompt[0]
    return message.get("content") if message.get("role") == "user" else prompt
