"""The expected score: the mean of a scale under the model's own distribution where it wrote the score.

Two answers that are both written `4` differ in it, which breaks ties; the mean beats the mode in most published
comparisons (arXiv 2503.03064).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from judges.engines.base import Generation
from judges.rubrics import Scale

Labels = Mapping[tuple[int, ...], float]
"""Token ids of a score as it is written -> the score."""


def score_labels(scale: Scale, encode: Callable[[str], list[int]]) -> Labels:
    """How each score of the scale is written in tokens."""
    return {tuple(encode(label)): float(label) for label in scale.labels}


def logprob_token_ids(labels: Labels) -> tuple[int, ...]:
    """The tokens whose log-probabilities `expected_score` needs."""
    return tuple(sorted({token for label in labels for token in label}))


def token_at(generation: Generation, index: int, decode: Callable[[Sequence[int]], str]) -> int | None:
    """The position of the token that begins at character `index` of the text; None if no token begins there."""
    for position in range(len(generation.token_ids)):
        # Compared as text: a token can hold part of a character, which decodes to a text of another length.
        if index >= 0 and decode(generation.token_ids[:position]) == generation.text[:index]:
            return position
    return None


def expected_score(generation: Generation, position: int, labels: Labels) -> float | None:
    """The mean score under the distribution at `position`, where the written score begins.

    Exact where every score begins with a token of its own (1-5). Where scores share a first token (1 and 10; 3.0 to
    3.9) the shared mass is divided by what follows if the judge took that way, and otherwise counted as the shortest
    of them, or as their mean if they are equally long.

    Returns:
        None where the engine gave no log-probabilities or the model put nothing on the scale.
    """
    return _mean(generation, position, labels, first=True)


def _mean(generation: Generation, position: int, labels: Labels, first: bool = False) -> float | None:
    ended = labels.get(())
    groups: dict[int, dict[tuple[int, ...], float]] = {}
    for label, score in labels.items():
        if label:
            groups.setdefault(label[0], {})[label[1:]] = score
    if not groups or position >= len(generation.logprobs):
        return ended if not first else None
    logprobs = generation.logprobs[position]
    mass = {token: math.exp(logprobs.get(token, -math.inf)) for token in groups}
    total = sum(mass.values())
    # At the first token the scale is all there is; after it, what is not on a longer score ended this one.
    rest = 0.0 if ended is None else max(0.0, 1.0 - total)
    if total + rest <= 0.0:
        return None
    mean = rest * (ended or 0.0)
    for token, group in groups.items():
        taken = generation.token_ids[position] == token
        value = _mean(generation, position + 1, group) if taken else _unseen(group)
        mean += mass[token] * (_unseen(group) if value is None else value)
    return mean / (total + rest)


def _unseen(group: Labels) -> float:
    shortest = min(map(len, group))
    scores = [score for label, score in group.items() if len(label) == shortest]
    return sum(scores) / len(scores)
