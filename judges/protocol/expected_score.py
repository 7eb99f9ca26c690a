"""How sure the judge was: the distribution over all possible answers at the place where it wrote one.

Two answers that are both written `4` differ in their expected score, which breaks ties; the mean of the distribution
beats its mode in most published comparisons (arXiv 2503.03064).
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence

from flex_judge.judges.engines.base import Generation

LabelTokens = Mapping[tuple[int, ...], str]
"""Token ids of an answer as it is written -> the answer."""
ProbeLogprobs = Callable[[tuple[int, ...]], Awaitable[Mapping[int, float]]]
"""Log-probabilities of the token that follows these tokens, which stand where the answer begins."""
MIN_MASS = 0.002
"""Probability below which a branch that the judge did not take is not looked into."""


class AnswerTokens:
    """How the possible answers of a rubric are written in the tokens of a model."""

    def __init__(self, answers: Sequence[str], encode: Callable[[str], list[int]]) -> None:
        shared = len(_find_common_prefix(answers))
        # An answer need not begin with a token of its own: a space before it may belong to its first token, and of
        # what all answers begin with (`[[`), some may belong to the token before.
        self._starts: dict[int, LabelTokens] = {
            cut: {tuple(encode(" " * (cut < 0) + a[max(0, cut) :])): a for a in answers}
            for cut in range(-1, shared + 1)
        }
        self.token_ids = tuple(sorted({t for labels in self._starts.values() for label in labels for t in label}))
        """The tokens whose log-probabilities are needed."""

    def locate_answer(
        self, generation: Generation, index: int, decode: Callable[[Sequence[int]], str]
    ) -> tuple[int, LabelTokens] | None:
        """Where an answer written at character `index` begins in tokens, and how all answers go on from there.

        Returns:
            None if no token begins there.
        """
        for cut, labels in self._starts.items():
            if cut >= 0 or generation.text[max(0, index - 1) : index] == " ":
                position = find_token_position(generation, index + cut, decode)
                if position is not None and any(label[0] == generation.token_ids[position] for label in labels):
                    return position, labels
        return None


def find_token_position(generation: Generation, index: int, decode: Callable[[Sequence[int]], str]) -> int | None:
    """The position of the token that begins at character `index` of the text; None if no token begins there."""
    for position in range(len(generation.token_ids)):
        # Compared as text: a token can hold part of a character, which decodes to a text of another length.
        if index >= 0 and decode(generation.token_ids[:position]) == generation.text[:index]:
            return position
    return None


async def compute_answer_distribution(
    labels: LabelTokens, taken: Sequence[int], logprobs: Sequence[Mapping[int, float]], ask: ProbeLogprobs
) -> dict[str, float] | None:
    """The probability of each answer, given that it is one of them.

    Where several answers begin alike (1 and 10; 3.0 to 3.9), what follows is known along the way that the judge took;
    for the other branches of at least `MIN_MASS` it is asked for. A smaller branch counts as the shortest of its
    answers, in equal parts.

    Args:
        labels: how the answers are written, from the first token on.
        taken: the tokens that the judge wrote, from the same place on.
        logprobs: for each of `taken`, the log-probabilities of the tokens in `labels` at its place.
        ask: gives the log-probabilities after other beginnings.

    Returns:
        None where the engine gave no log-probabilities or the model put nothing on any answer.
    """
    if not logprobs:
        return None
    found: dict[str, float] = {}

    async def split_mass(prefix: tuple[int, ...], rest: LabelTokens, mass: float) -> None:
        branches: dict[int, dict[tuple[int, ...], str]] = {}
        for label, answer in rest.items():
            if label:
                branches.setdefault(label[0], {})[label[1:]] = answer
        ended = rest.get(())
        if len(rest) == 1:
            found[next(iter(rest.values()))] = mass
        elif ended is None and len(branches) == 1:  # all go on alike: there is nothing to divide yet
            ((token, branch),) = branches.items()
            await split_mass((*prefix, token), branch, mass)
        else:
            shares = await get_token_shares(prefix, tuple(branches), mass)
            total = sum(shares.values())
            # At the first token an answer is all there is; later, what goes on to no longer answer ended this one.
            here = max(0.0, 1.0 - total) if ended is not None else 0.0
            if not shares or total + here <= 0.0:
                for answer in _find_shortest_answers(rest):
                    found[answer] = mass / len(_find_shortest_answers(rest))
                return
            if ended is not None:
                found[ended] = mass * here / (total + here)
            for token, branch in branches.items():
                await split_mass((*prefix, token), branch, mass * shares[token] / (total + here))

    async def get_token_shares(prefix: tuple[int, ...], tokens: Sequence[int], mass: float) -> dict[int, float]:
        n = len(prefix)
        if n < len(logprobs) and tuple(taken[:n]) == prefix:
            at = logprobs[n]
        elif mass >= MIN_MASS:
            at = await ask(prefix)
        else:
            return {}
        return {token: math.exp(at.get(token, -math.inf)) for token in tokens}

    first = await get_token_shares((), sorted({label[0] for label in labels if label}), 1.0)
    if sum(first.values()) <= 0.0:
        return None
    await split_mass((), labels, 1.0)
    return found


def compute_moments(
    probabilities: Mapping[str, float], scores: Mapping[str, tuple[float, ...]]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Means and standard deviations of what the answers are worth, one of each per response that an answer scores.

    Args:
        probabilities: of each answer; they add up to 1.
        scores: what each answer is worth to each response.
    """
    columns = list(zip(*(scores[answer] for answer in probabilities), strict=True))
    weights = list(probabilities.values())
    means = [sum(w * x for w, x in zip(weights, column, strict=True)) for column in columns]
    variances = [
        sum(w * (x - mean) ** 2 for w, x in zip(weights, column, strict=True))
        for column, mean in zip(columns, means, strict=True)
    ]
    return tuple(means), tuple(math.sqrt(max(0.0, v)) for v in variances)


def _find_common_prefix(texts: Sequence[str]) -> str:
    """What all texts begin with; of the first and the last in the alphabet it is the same as of all."""
    first, last = min(texts), max(texts)
    return first[: next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))]


def _find_shortest_answers(rest: LabelTokens) -> list[str]:
    least = min(map(len, rest))
    return [answer for label, answer in rest.items() if len(label) == least]
