"""Expected scores: the distribution over all possible answers at the position where the judge wrote one.

Two answers that are both written `4` can differ in their expected score, which breaks ties. The mean of the
distribution beats its mode in most published comparisons (arXiv 2503.03064).
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence

from flex_judge.judges.engines.base import Generation

LabelTokens = Mapping[tuple[int, ...], str]
"""Token ids of an answer -> the answer's text."""
ProbeLogprobs = Callable[[tuple[int, ...]], Awaitable[Mapping[int, float]]]
"""Requests the log-probabilities of the token after the given tokens, which start where the answer starts."""
MIN_MASS = 0.002
"""Probability below which a branch that was not sampled is not probed: a probe costs one engine request."""


class AnswerTokens:
    """Token ids of every possible answer of a rubric.

    Args:
        answers: texts of the answers.
        encode: encodes a text as ordinary tokens.
    """

    def __init__(self, answers: Sequence[str], encode: Callable[[str], list[int]]) -> None:
        # Tokens need not align with the answer: its first token may include the space before it (offset -1), and
        # characters that all answers share (`[[`) may belong to the token before (offsets above 0).
        self._labels_by_offset: dict[int, LabelTokens] = {}
        for offset in range(-1, _count_shared_characters(answers) + 1):
            spellings = {answer: " " + answer if offset < 0 else answer[offset:] for answer in answers}
            self._labels_by_offset[offset] = {tuple(encode(text)): answer for answer, text in spellings.items()}
        ids = {token for labels in self._labels_by_offset.values() for label in labels for token in label}
        self.token_ids = tuple(sorted(ids))
        """Tokens whose log-probabilities the engine must return."""

    def locate_answer(
        self, generation: Generation, index: int, decode: Callable[[Sequence[int]], str]
    ) -> tuple[int, LabelTokens] | None:
        """Find the token at which an answer starts, and the tokens of all answers from there on.

        Args:
            generation: the generated text and tokens.
            index: character at which the answer is written.
            decode: decodes tokens to text.

        Returns:
            Token position and label tokens; None if no token starts there.
        """
        for offset, labels in self._labels_by_offset.items():
            if offset < 0 and generation.text[max(0, index - 1) : index] != " ":
                continue
            position = find_token_position(generation, index + offset, decode)
            if position is not None and any(label[0] == generation.token_ids[position] for label in labels):
                return position, labels
        return None


def find_token_position(generation: Generation, index: int, decode: Callable[[Sequence[int]], str]) -> int | None:
    """Return the position of the token that starts at character `index`; None if no token starts there."""
    if index < 0:
        return None
    for position in range(len(generation.token_ids)):
        # Texts are compared, not lengths: a token can hold part of a character and decode to another length.
        if decode(generation.token_ids[:position]) == generation.text[:index]:
            return position
    return None


async def compute_answer_distribution(
    labels: LabelTokens, sampled: Sequence[int], logprobs: Sequence[Mapping[int, float]], probe: ProbeLogprobs
) -> dict[str, float] | None:
    """Compute the probability of each answer, normalised over all answers.

    Several answers can share their first tokens (1 and 10; 3.0 to 3.9). Log-probabilities after the sampled tokens are
    known; other branches are probed if their probability is at least `MIN_MASS`. The probability of a smaller branch
    is divided evenly among its shortest answers.

    Args:
        labels: tokens of every answer, from the first token on.
        sampled: the tokens that the judge generated, from the same position on.
        logprobs: for each token of `sampled`, the log-probabilities of the tokens in `labels` at its position.
        probe: requests log-probabilities after tokens that were not sampled.

    Returns:
        Answer -> probability; None if the engine returned no log-probabilities or no answer has any probability.
    """
    if not logprobs:
        return None
    distribution: dict[str, float] = {}

    async def get_token_shares(prefix: tuple[int, ...], tokens: Sequence[int], mass: float) -> dict[int, float]:
        """Return the probabilities of tokens after a prefix; empty if the prefix is not worth a probe."""
        if len(prefix) < len(logprobs) and tuple(sampled[: len(prefix)]) == prefix:
            next_logprobs = logprobs[len(prefix)]
        elif mass >= MIN_MASS:
            next_logprobs = await probe(prefix)
        else:
            return {}
        return {token: math.exp(next_logprobs.get(token, -math.inf)) for token in tokens}

    async def split_mass(prefix: tuple[int, ...], suffixes: LabelTokens, mass: float) -> None:
        """Divide the probability `mass` of a prefix among the answers that start with it."""
        if len(suffixes) == 1:
            (answer,) = suffixes.values()
            distribution[answer] = mass
            return
        branches: dict[int, dict[tuple[int, ...], str]] = {}
        for suffix, answer in suffixes.items():
            if suffix:
                branches.setdefault(suffix[0], {})[suffix[1:]] = answer
        complete_answer = suffixes.get(())
        if complete_answer is None and len(branches) == 1:  # All answers share the next token.
            ((token, branch),) = branches.items()
            await split_mass((*prefix, token), branch, mass)
            return
        shares = await get_token_shares(prefix, tuple(branches), mass)
        # A next token that continues no longer answer ends the complete one, whatever it is.
        end_share = 0.0 if complete_answer is None else max(0.0, 1.0 - sum(shares.values()))
        total = sum(shares.values()) + end_share
        if not shares or total <= 0.0:
            shortest = _find_shortest_answers(suffixes)
            for answer in shortest:
                distribution[answer] = mass / len(shortest)
            return
        if complete_answer is not None:
            distribution[complete_answer] = mass * end_share / total
        for token, branch in branches.items():
            await split_mass((*prefix, token), branch, mass * shares[token] / total)

    first_tokens = sorted({label[0] for label in labels if label})
    if sum((await get_token_shares((), first_tokens, 1.0)).values()) <= 0.0:
        return None
    await split_mass((), labels, 1.0)
    return distribution


def compute_moments(
    probabilities: Mapping[str, float], scores: Mapping[str, tuple[float, ...]]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Compute means and standard deviations of the scores, one each per response that an answer scores.

    Args:
        probabilities: answer -> probability; they sum to 1.
        scores: answer -> its score for each response.
    """
    columns = list(zip(*(scores[answer] for answer in probabilities), strict=True))
    weights = list(probabilities.values())
    means = [sum(w * x for w, x in zip(weights, column, strict=True)) for column in columns]
    variances = [
        sum(w * (x - mean) ** 2 for w, x in zip(weights, column, strict=True))
        for column, mean in zip(columns, means, strict=True)
    ]
    return tuple(means), tuple(math.sqrt(max(0.0, variance)) for variance in variances)


def _count_shared_characters(texts: Sequence[str]) -> int:
    # Only the first and the last text in alphabetical order have to be compared.
    first, last = min(texts), max(texts)
    for index, (a, b) in enumerate(zip(first, last, strict=False)):
        if a != b:
            return index
    return len(first)


def _find_shortest_answers(suffixes: LabelTokens) -> list[str]:
    shortest = min(map(len, suffixes))
    return [answer for suffix, answer in suffixes.items() if len(suffix) == shortest]
