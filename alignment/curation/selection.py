"""Select training examples: pointwise, pairwise and listwise, some of them held out, some on the smaller scale."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from flex_judge.alignment.curation.examples import KINDS, CountTokens, TrainingExample, cut_to_first_answer
from flex_judge.alignment.curation.scales import TEN, hides_winner, mentions_scores
from flex_judge.alignment.curation.teacher import add_token_counts
from flex_judge.alignment.data.texts import compute_seeded_hash
from flex_judge.judges.errors import UsageError
from flex_judge.judges.rubrics.scale import Scale
from flex_judge.judges.validation.classes import NonNegativeInt, Share, settings_class

SelectionOrder = Literal["longest", "shortest", "random", "given"]
"""Which examples come first: the longest or the shortest reasoning, a random order, or the order of the rows."""
SortKey = Callable[[TrainingExample], Any]
Balance = Literal["none", "pairwise", "all"]
"""What is balanced: with `pairwise`, how often each answer wins; with `all`, also pointwise scores above and below the
middle of the scale."""
MENTIONS_SCORES, WINNER_LOST = "reasoning names scores of its scale", "winner would be lost in a tie"


@settings_class
class Selection:
    """How many samples there are, and which ones. The defaults are those of the published judges."""

    pointwise: NonNegativeInt = 500
    """Number of pointwise training examples."""
    pairwise: NonNegativeInt = 500
    """Number of pairwise training examples."""
    listwise: NonNegativeInt = 0
    """Number of listwise training examples; the published judges have none."""
    pointwise_tokens: NonNegativeInt = 375
    """Minimum reasoning length of a pointwise example in tokens, exclusive."""
    pairwise_tokens: NonNegativeInt = 750
    """Minimum reasoning length of a pairwise example in tokens, for both answers together, exclusive."""
    order: SelectionOrder = "longest"
    """Order of selection: longest or shortest reasoning first, random (seeded) or given (order of the rows)."""
    balance: Balance = "pairwise"
    """Balance the winners of pairs, or with all also pointwise scores. The larger side is cut to the smaller."""
    held_out: NonNegativeInt = 50
    """Number of held-out examples, divided evenly among the kinds."""
    remap: Share = 0.5
    """Fraction of the examples on 1-10 that is mapped to 1-5 by halving and rounding up."""
    seed: int = 0
    """Seed of random orders and of which examples change their scale; held-out examples do not depend on it."""

    def __post_init__(self) -> None:
        if not any(self.sizes.values()):
            raise UsageError("pointwise, pairwise and listwise must not all be 0")

    @property
    def sizes(self) -> dict[str, int]:
        """Kind -> how many samples of it are trained on."""
        return dict(zip(KINDS, (self.pointwise, self.pairwise, self.listwise), strict=True))


@dataclass(frozen=True)
class SelectionResult:
    """The samples of a data set, and what they were chosen from."""

    train: list[TrainingExample]
    held_out: list[TrainingExample]
    """No question of these is in `train`."""
    candidates: Counter[str] = field(default_factory=Counter)
    """Kind -> training examples that could have become a sample of it."""
    unfit: Counter[str] = field(default_factory=Counter)
    """Why training examples could not -> how many."""
    kept_scale: Counter[str] = field(default_factory=Counter)
    """Why samples stay on their scale though they might have been mapped -> how many."""
    missing: Counter[str] = field(default_factory=Counter)
    """Split and kind -> how many fewer there are than wanted."""


def select_examples(examples: Sequence[TrainingExample], spec: Selection, count: CountTokens) -> SelectionResult:
    """Choose samples. No prompt is in two of them.

    The held-out ones are those whose prompts have the smallest hashes, each with a question of its own: the same ones,
    whatever sizes, order and seed are. Of the others pairs are chosen before pointwise examples, as fewer of them
    are long enough.

    Args:
        examples: judgments of two answers or more, no two with one prompt.
        count: counts the tokens of what remains of a reasoning when a single is cut out of it.
    """
    made = SelectionResult([], [])
    pools = _build_pools(examples, spec, count, made)
    held: list[TrainingExample] = []
    for kind, number in _split_held_out(spec).items():
        taken = {example.question_digest for example in held}
        pool = [example for example in pools[kind] if example.question_digest not in taken]
        found = _choose_examples(
            pool, number, lambda example: example.prompt_digest, spec.balance, lambda example: example.question_digest
        )
        _note_missing(made, "held out", kind, number - len(found))
        held += found
    taken = {example.question_digest for example in held}
    keys: dict[str, SortKey] = {
        "longest": lambda example: (-example.tokens, example.id),
        "shortest": lambda example: (example.tokens, example.id),
        "random": lambda example: _compute_sort_hash(spec.seed, "order", example),
        "given": lambda _: 0,
    }
    train: list[TrainingExample] = []
    for kind, number in reversed(spec.sizes.items()):
        used = {example.id for example in train}
        pool = [ls for ls in pools[kind] if ls.question_digest not in taken and ls.id not in used]
        found = _choose_examples(pool, number, keys[spec.order], spec.balance, lambda example: example.prompt_digest)
        _note_missing(made, "train", kind, number - len(found))
        train += found
    made.train.extend(_remap_and_shuffle(train, spec, made))
    made.held_out.extend(_remap_and_shuffle(held, spec, made))
    return made


def _split_held_out(spec: Selection) -> dict[str, int]:
    """How many of each kind are held out."""
    kinds = [kind for kind, number in spec.sizes.items() if number]
    return {kind: (spec.held_out + i) // len(kinds) for i, kind in enumerate(kinds)}


def _build_pools(
    examples: Sequence[TrainingExample], spec: Selection, count: CountTokens, made: SelectionResult
) -> dict[str, list[TrainingExample]]:
    """Return the examples that are long enough, by kind. Several pointwise ones may share a question and an answer."""
    twos = [example for example in examples if example.kind == "pairwise"]
    cut: list[TrainingExample] = []
    for example in twos if spec.pointwise else ():
        first = cut_to_first_answer(example)
        if isinstance(first, str):
            made.unfit[f"pointwise: {first}"] += 1
        else:
            cut.append(first)
    cut = add_token_counts(cut, count)
    pools = {
        "pointwise": [example for example in cut if example.tokens > spec.pointwise_tokens],
        "pairwise": [example for example in twos if example.tokens > spec.pairwise_tokens] if spec.pairwise else [],
        "listwise": [example for example in examples if example.kind == "listwise"] if spec.listwise else [],
    }
    if short := len(cut) - len(pools["pointwise"]):
        made.unfit[f"pointwise: reasoning of {spec.pointwise_tokens} tokens or fewer"] = short
    if spec.pairwise and (short := len(twos) - len(pools["pairwise"])):
        made.unfit[f"pairwise: reasoning of {spec.pairwise_tokens} tokens or fewer"] = short
    made.candidates.update({kind: len(pool) for kind, pool in pools.items() if kind != "listwise" or spec.listwise})
    return pools


def _choose_examples(
    pool: Sequence[TrainingExample],
    number: int,
    key: SortKey,
    balance: str,
    apart: Callable[[TrainingExample], str],
) -> list[TrainingExample]:
    """So many of a pool, all of one kind, those first whose key is smallest, no two that `apart` gives one name.

    Where they are balanced there are as many on either side, one more at most, and as many on none as stand among the
    first; within each of the three those with the smallest keys. Of listwise examples every place wins in turn, as
    long as it has
    any that it wins, and none does as often as one place.
    """
    once: dict[str, TrainingExample] = {}
    for example in sorted(pool, key=key):
        once.setdefault(apart(example), example)
    ranked = list(once.values())
    if balance == "none" or (balance == "pairwise" and ranked and ranked[0].kind == "pointwise"):
        return ranked[:number]
    if ranked and ranked[0].kind == "listwise":
        return _interleave_winners(ranked)[:number]
    sides = {side: [example for example in ranked if _find_side(example) == side] for side in (0, 1, None)}
    even = sum(_find_side(example) is None for example in ranked[:number])
    first, second = (number - even + 1) // 2, (number - even) // 2
    if len(sides[0]) < first and len(sides[1]) > len(sides[0]):
        first, second = second, first  # the odd one is on the side that has it
    most = min(len(sides[0]), len(sides[1]))
    if len(sides[0]) < first or len(sides[1]) < second:
        first = second = most
    return [*sides[0][:first], *sides[1][:second], *sides[None][:even]]


def _interleave_winners(ranked: Sequence[TrainingExample]) -> list[TrainingExample]:
    """Listwise examples in an order in which each place wins once before any wins again."""
    turns: Counter[int | None] = Counter()
    placed = []
    for place, example in enumerate(ranked):
        placed.append((turns[example.winner], place, example))
        turns[example.winner] += 1
    return [example for *_, example in sorted(placed, key=lambda one: one[:2])]


def _find_side(example: TrainingExample) -> int | None:
    """0 or 1 for the answer that wins, or for a score above or below the middle; None in between."""
    if example.kind == "pairwise":
        return example.winner
    middle = Scale.parse(example.scale).middle
    (score,) = example.scores
    return None if score == middle else int(score < middle)


def _remap_and_shuffle(
    examples: Sequence[TrainingExample], spec: Selection, made: SelectionResult
) -> list[TrainingExample]:
    """Samples in the order of their lots, the wanted share of each kind mapped to the smaller scale."""
    mapped: set[str] = set()
    for kind in KINDS:
        on_ten = [example for example in examples if example.kind == kind and example.scale == TEN]
        free = []
        for example in on_ten if spec.remap else ():
            why = (
                MENTIONS_SCORES
                if mentions_scores(example.reasoning)
                else WINNER_LOST
                if hides_winner(example.scores)
                else None
            )
            if why:
                made.kept_scale[why] += 1
            else:
                free.append(example)
        free.sort(key=lambda example: _compute_sort_hash(spec.seed, "scale", example))
        mapped.update(example.id for example in free[: round(spec.remap * len(on_ten))])
    ordered = sorted(examples, key=lambda example: _compute_sort_hash(spec.seed, "place", example))
    return [example.rescale_to_five() if example.id in mapped else example for example in ordered]


def _note_missing(made: SelectionResult, split: str, kind: str, number: int) -> None:
    if number:
        made.missing[f"{split}: {kind}"] += number


def _compute_sort_hash(seed: int, what: str, example: TrainingExample) -> str:
    return compute_seeded_hash(seed, f"{what} {example.id}", *example.texts)
