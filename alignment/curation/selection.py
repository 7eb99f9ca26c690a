"""Selection of training examples: kinds, held-out split, balance of winners, and mapping to the smaller scale."""

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
"""Preference among examples: longest or shortest reasoning, random order, or order of the rows."""
SortKey = Callable[[TrainingExample], Any]
Balance = Literal["none", "pairwise", "all"]
"""Kinds of examples that are balanced.

`pairwise` balances how often each answer wins; `all` also balances pointwise scores above and below the middle of the
scale. Both balance listwise examples by the position of the winner.
"""
MENTIONS_SCORES, WINNER_LOST = "reasoning mentions scores of its scale", "winner would be lost in a tie"


@settings_class
class Selection:
    """Settings of the selection. The defaults reproduce the published judges (arXiv 2505.18601)."""

    pointwise: NonNegativeInt = 500
    """Number of pointwise training examples."""
    pairwise: NonNegativeInt = 500
    """Number of pairwise training examples."""
    listwise: NonNegativeInt = 0
    """Number of listwise training examples; the published judges have none."""
    pointwise_tokens: NonNegativeInt = 375
    """Reasoning of a pointwise example must be longer than this, in tokens."""
    pairwise_tokens: NonNegativeInt = 750
    """Reasoning of a pairwise example must be longer than this for both answers together, in tokens."""
    order: SelectionOrder = "longest"
    """Order of preference: longest or shortest reasoning first, random (seeded), or given (order of the rows)."""
    balance: Balance = "pairwise"
    """Kinds to balance by dropping examples: winners of pairs (pairwise), also pointwise scores (all), or none."""
    held_out: NonNegativeInt = 50
    """Number of held-out examples, divided evenly among the kinds."""
    remap: Share = 0.5
    """Fraction of the examples on 1-10 that is mapped to 1-5 by halving and rounding up."""
    seed: int = 0
    """Seed of random orders and of remapping. The choice of held-out examples does not depend on it."""

    def __post_init__(self) -> None:
        """Reject settings that select nothing."""
        if not any(self.sizes.values()):
            raise UsageError("pointwise, pairwise and listwise must not all be 0")

    @property
    def sizes(self) -> dict[str, int]:
        """Number of training examples of each kind."""
        return dict(zip(KINDS, (self.pointwise, self.pairwise, self.listwise), strict=True))


@dataclass(frozen=True)
class SelectionResult:
    """Training and held-out examples, with counts of the examples they were selected from."""

    train: list[TrainingExample]
    held_out: list[TrainingExample]
    """Held-out examples; none of their questions is in `train`."""
    candidates: Counter[str] = field(default_factory=Counter)
    """Number of candidates of each kind."""
    unfit: Counter[str] = field(default_factory=Counter)
    """Number of examples that could not be candidates, by reason."""
    kept_scale: Counter[str] = field(default_factory=Counter)
    """Number of examples that must stay on their scale, by reason."""
    missing: Counter[str] = field(default_factory=Counter)
    """Shortfall against the requested number of examples, by split and kind."""


def select_examples(examples: Sequence[TrainingExample], spec: Selection, count: CountTokens) -> SelectionResult:
    """Select training and held-out examples so that no prompt occurs twice.

    The held-out examples are those with the smallest prompt hashes, each with a different question. The choice depends
    on the kinds that are requested, but not on their sizes, the order or the seed.

    Args:
        examples: Judgments of two or more answers with distinct prompts.
        spec: Settings of the selection.
        count: Function that counts tokens, used for reasoning that is cut to the first answer.
    """
    result = SelectionResult([], [])
    pools = _build_pools(examples, spec, count, result)
    held_out: list[TrainingExample] = []
    for kind, number in _split_held_out(spec).items():
        used_questions = {example.question_digest for example in held_out}
        pool = [example for example in pools[kind] if example.question_digest not in used_questions]
        chosen = _choose_examples(
            pool,
            number,
            key=lambda example: example.prompt_digest,
            balance=spec.balance,
            identity=lambda example: example.question_digest,
        )
        _note_missing(result, "held out", kind, number - len(chosen))
        held_out += chosen
    # The split is by question, not by prompt: other answers to a held-out question would leak it.
    held_out_questions = {example.question_digest for example in held_out}
    train: list[TrainingExample] = []
    # Pairs come before pointwise examples, because fewer of them are long enough.
    for kind, number in reversed(spec.sizes.items()):
        used_ids = {example.id for example in train}
        pool = [
            example
            for example in pools[kind]
            if example.question_digest not in held_out_questions and example.id not in used_ids
        ]
        chosen = _choose_examples(
            pool,
            number,
            key=_make_sort_key(spec),
            balance=spec.balance,
            identity=lambda example: example.prompt_digest,
        )
        _note_missing(result, "train", kind, number - len(chosen))
        train += chosen
    result.train.extend(_remap_and_shuffle(train, spec, result))
    result.held_out.extend(_remap_and_shuffle(held_out, spec, result))
    return result


def _make_sort_key(spec: Selection) -> SortKey:
    """Make the sort key of an order. Equal lengths are ordered by id, independently of the order of the rows."""
    keys: dict[str, SortKey] = {
        "longest": lambda example: (-example.tokens, example.id),
        "shortest": lambda example: (example.tokens, example.id),
        "random": lambda example: _compute_sort_hash(spec.seed, "order", example),
        "given": lambda _: 0,
    }
    return keys[spec.order]


def _split_held_out(spec: Selection) -> dict[str, int]:
    """Divide the number of held-out examples evenly among the requested kinds."""
    kinds = [kind for kind, number in spec.sizes.items() if number]
    # The remainder goes to the last kinds.
    return {kind: (spec.held_out + i) // len(kinds) for i, kind in enumerate(kinds)}


def _build_pools(
    examples: Sequence[TrainingExample], spec: Selection, count: CountTokens, result: SelectionResult
) -> dict[str, list[TrainingExample]]:
    """Collect the examples that are long enough, by kind, and count the others in `result`.

    Several pointwise examples may share a question and an answer; `_choose_examples` keeps one of them.
    """
    pairs = [example for example in examples if example.kind == "pairwise"]
    singles: list[TrainingExample] = []
    for example in pairs if spec.pointwise else ():
        single = cut_to_first_answer(example)
        if isinstance(single, str):
            result.unfit[f"pointwise: {single}"] += 1
        else:
            singles.append(single)
    singles = add_token_counts(singles, count)
    pools = {
        "pointwise": [example for example in singles if example.tokens > spec.pointwise_tokens],
        "pairwise": [example for example in pairs if example.tokens > spec.pairwise_tokens] if spec.pairwise else [],
        "listwise": [example for example in examples if example.kind == "listwise"] if spec.listwise else [],
    }
    if too_short := len(singles) - len(pools["pointwise"]):
        result.unfit[f"pointwise: reasoning of {spec.pointwise_tokens} tokens or fewer"] = too_short
    if spec.pairwise and (too_short := len(pairs) - len(pools["pairwise"])):
        result.unfit[f"pairwise: reasoning of {spec.pairwise_tokens} tokens or fewer"] = too_short
    # The published recipe has no listwise examples, so they are reported only on request.
    result.candidates.update({kind: len(pool) for kind, pool in pools.items() if kind != "listwise" or spec.listwise})
    return pools


def _choose_examples(
    pool: Sequence[TrainingExample],
    number: int,
    *,
    key: SortKey,
    balance: str,
    identity: Callable[[TrainingExample], str],
) -> list[TrainingExample]:
    """Choose the examples with the smallest keys, balanced if requested.

    Balanced examples have as many winners on the first side as on the second, plus or minus one, and as many ties as
    the unbalanced choice would have. Listwise examples are balanced over the places of the winner.

    Args:
        pool: Examples of one kind.
        number: Maximum number of examples.
        key: Sort key; smaller keys are chosen first.
        balance: Kinds that are balanced, see Balance.
        identity: Function that maps an example to the value that must be unique among the chosen ones.
    """
    # Of several examples with the same identity, the first one in sort order stays.
    unique: dict[str, TrainingExample] = {}
    for example in sorted(pool, key=key):
        unique.setdefault(identity(example), example)
    ranked = list(unique.values())
    if balance == "none" or (balance == "pairwise" and ranked and ranked[0].kind == "pointwise"):
        return ranked[:number]
    if ranked and ranked[0].kind == "listwise":
        return _interleave_winners(ranked)[:number]
    sides = {side: [example for example in ranked if _find_balance_group(example) == side] for side in (0, 1, None)}
    ties = sum(_find_balance_group(example) is None for example in ranked[:number])
    first, second = (number - ties + 1) // 2, (number - ties) // 2
    if len(sides[0]) < first and len(sides[1]) > len(sides[0]):
        first, second = second, first  # an odd number gives the extra example to the larger side
    if len(sides[0]) < first or len(sides[1]) < second:
        first = second = min(len(sides[0]), len(sides[1]))
    return [*sides[0][:first], *sides[1][:second], *sides[None][:ties]]


def _interleave_winners(ranked: Sequence[TrainingExample]) -> list[TrainingExample]:
    """Order listwise examples so that every winning place occurs once before any occurs again."""
    rounds: Counter[int | None] = Counter()
    keyed = []
    for rank, example in enumerate(ranked):
        keyed.append((rounds[example.winner], rank, example))
        rounds[example.winner] += 1
    keyed.sort(key=lambda item: item[:2])
    return [example for *_, example in keyed]


def _find_balance_group(example: TrainingExample) -> int | None:
    """Find the group for balancing: the winner of a pair, or 0 above and 1 below the middle of the scale.

    Returns:
        The group, or None for a tie or a score in the middle of the scale.
    """
    if example.kind == "pairwise":
        return example.winner
    middle = Scale.parse(example.scale).middle
    (score,) = example.scores
    return None if score == middle else int(score < middle)


def _remap_and_shuffle(
    examples: Sequence[TrainingExample], spec: Selection, result: SelectionResult
) -> list[TrainingExample]:
    """Map the requested share of each kind to the smaller scale, and put all examples in random order."""
    remapped_ids: set[str] = set()
    for kind in KINDS:
        on_ten = [example for example in examples if example.kind == kind and example.scale == TEN]
        eligible = []
        for example in on_ten if spec.remap else ():
            if mentions_scores(example.reasoning):
                result.kept_scale[MENTIONS_SCORES] += 1
            elif hides_winner(example.scores):
                result.kept_scale[WINNER_LOST] += 1
            else:
                eligible.append(example)
        eligible.sort(key=lambda example: _compute_sort_hash(spec.seed, "scale", example))
        # The share refers to all examples on 1-10, so that examples which keep their scale do not reduce the number.
        remapped_ids.update(example.id for example in eligible[: round(spec.remap * len(on_ten))])
    shuffled = sorted(examples, key=lambda example: _compute_sort_hash(spec.seed, "place", example))
    return [example.rescale_to_five() if example.id in remapped_ids else example for example in shuffled]


def _note_missing(result: SelectionResult, split: str, kind: str, number: int) -> None:
    if number:
        result.missing[f"{split}: {kind}"] += number


def _compute_sort_hash(seed: int, purpose: str, example: TrainingExample) -> str:
    """Hash an example for a random order. The order does not change when other examples are added or removed."""
    return compute_seeded_hash(seed, f"{purpose} {example.id}", *example.texts)
