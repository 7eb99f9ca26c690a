"""Which lessons become samples: singles, pairs and batches, a part of them held out, some on the smaller scale."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from flex_judge.alignment.curation.examples import KINDS, CountTokens, Lesson
from flex_judge.alignment.curation.pointwise import first_of
from flex_judge.alignment.curation.scales import TEN, hides_winner, speaks_of_scale
from flex_judge.alignment.curation.teacher import counted
from flex_judge.alignment.data.texts import draw
from flex_judge.judges.errors import UsageError
from flex_judge.judges.rubrics import Scale

ORDERS = ("longest", "shortest", "drawn", "given")
"""Which come first: those with the longest or the shortest reasoning, as the lot falls, or as the rows stand."""
Key = Callable[[Lesson], Any]
BALANCES = ("none", "pairs", "all")
"""What is balanced: of pairs and batches, how often each answer wins; of singles, scores above and below the middle of
the scale."""
SPEAKS, HIDES = "reasoning names scores of its scale", "winner would be lost in a tie"


@dataclass(frozen=True)
class Selection:
    """How many samples there are, and which ones. The defaults are those of the published judges."""

    singles: int = 500
    pairs: int = 500
    batches: int = 0
    """The published judges have none: ranking batches is what they were never shown."""
    single_tokens: int = 375
    """A single's reasoning is longer than this."""
    pair_tokens: int = 750
    """A pair's reasoning, on both together, is longer than this."""
    order: str = "longest"
    """A name in ORDERS."""
    balance: str = "pairs"
    """A name in BALANCES. Where one side is short, the other is cut to it, and there are fewer samples."""
    held_out: int = 50
    """Samples that are kept apart, as many of each kind."""
    remap: float = 0.5
    """The share of samples on 1-10 that are mapped to 1-5."""
    seed: int = 0
    """Decides lots: orders, and which samples change their scale. Not which ones are held out."""

    def __post_init__(self) -> None:
        for name in ("singles", "pairs", "batches", "single_tokens", "pair_tokens", "held_out"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} must be 0 or more, not {getattr(self, name)}")
        if not any(self.sizes.values()):
            raise UsageError("singles, pairs and batches must not all be 0")
        if not 0 <= self.remap <= 1:
            raise UsageError(f"remap must be from 0 to 1, not {self.remap}")
        for name, known in (("order", ORDERS), ("balance", BALANCES)):
            if getattr(self, name) not in known:
                raise UsageError(f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}")

    @property
    def sizes(self) -> dict[str, int]:
        """Kind -> how many samples of it are trained on."""
        return dict(zip(KINDS, (self.singles, self.pairs, self.batches), strict=True))


@dataclass(frozen=True)
class Selected:
    """The samples of a data set, and what they were chosen from."""

    train: list[Lesson]
    held_out: list[Lesson]
    """No question of these is in `train`."""
    candidates: Counter[str] = field(default_factory=Counter)
    """Kind -> lessons that could have become a sample of it."""
    unfit: Counter[str] = field(default_factory=Counter)
    """Why lessons could not -> how many."""
    kept_scale: Counter[str] = field(default_factory=Counter)
    """Why samples stay on their scale though they might have been mapped -> how many."""
    missing: Counter[str] = field(default_factory=Counter)
    """Split and kind -> how many fewer there are than wanted."""


def selected(lessons: Sequence[Lesson], spec: Selection, count: CountTokens) -> Selected:
    """Choose samples. No prompt is in two of them.

    The held-out ones are those whose prompts have the smallest hashes, each with a question of its own: the same ones,
    whatever sizes, order and seed are. Of the others pairs are chosen before singles, as fewer of them are long enough.

    Args:
        lessons: judgments of two answers or more, no two with one prompt.
        count: counts the tokens of what remains of a reasoning when a single is cut out of it.
    """
    made = Selected([], [])
    pools = _pools(lessons, spec, count, made)
    held: list[Lesson] = []
    for kind, number in _shares(spec).items():
        taken = {lesson.question_digest for lesson in held}
        pool = [lesson for lesson in pools[kind] if lesson.question_digest not in taken]
        found = _chosen(
            pool, number, lambda lesson: lesson.prompt_digest, spec.balance, lambda lesson: lesson.question_digest
        )
        _note_missing(made, "held out", kind, number - len(found))
        held += found
    taken = {lesson.question_digest for lesson in held}
    keys: dict[str, Key] = {
        "longest": lambda lesson: (-lesson.tokens, lesson.id),
        "shortest": lambda lesson: (lesson.tokens, lesson.id),
        "drawn": lambda lesson: _lot(spec.seed, "order", lesson),
        "given": lambda _: 0,
    }
    train: list[Lesson] = []
    for kind, number in reversed(spec.sizes.items()):
        used = {lesson.id for lesson in train}
        pool = [ls for ls in pools[kind] if ls.question_digest not in taken and ls.id not in used]
        found = _chosen(pool, number, keys[spec.order], spec.balance, lambda lesson: lesson.prompt_digest)
        _note_missing(made, "train", kind, number - len(found))
        train += found
    made.train.extend(_mixed(train, spec, made))
    made.held_out.extend(_mixed(held, spec, made))
    return made


def _shares(spec: Selection) -> dict[str, int]:
    """How many of each kind are held out."""
    kinds = [kind for kind, number in spec.sizes.items() if number]
    return {kind: (spec.held_out + i) // len(kinds) for i, kind in enumerate(kinds)}


def _pools(lessons: Sequence[Lesson], spec: Selection, count: CountTokens, made: Selected) -> dict[str, list[Lesson]]:
    """The lessons that are long enough, by kind. Of singles with the same question and answer there may be several."""
    twos = [lesson for lesson in lessons if lesson.kind == "pair"]
    cut: list[Lesson] = []
    for lesson in twos if spec.singles else ():
        first = first_of(lesson)
        if isinstance(first, str):
            made.unfit[f"single: {first}"] += 1
        else:
            cut.append(first)
    cut = counted(cut, count)
    pools = {
        "single": [lesson for lesson in cut if lesson.tokens > spec.single_tokens],
        "pair": [lesson for lesson in twos if lesson.tokens > spec.pair_tokens] if spec.pairs else [],
        "batch": [lesson for lesson in lessons if lesson.kind == "batch"] if spec.batches else [],
    }
    if short := len(cut) - len(pools["single"]):
        made.unfit[f"single: reasoning of {spec.single_tokens} tokens or fewer"] = short
    if spec.pairs and (short := len(twos) - len(pools["pair"])):
        made.unfit[f"pair: reasoning of {spec.pair_tokens} tokens or fewer"] = short
    made.candidates.update({kind: len(pool) for kind, pool in pools.items() if kind != "batch" or spec.batches})
    return pools


def _chosen(
    pool: Sequence[Lesson],
    number: int,
    key: Key,
    balance: str,
    apart: Callable[[Lesson], str],
) -> list[Lesson]:
    """So many of a pool, all of one kind, those first whose key is smallest, no two that `apart` gives one name.

    Where they are balanced there are as many on either side, one more at most, and as many on none as stand among the
    first; within each of the three those with the smallest keys. Of batches every place wins in turn, as long as it has
    any that it wins, and none does as often as one place.
    """
    once: dict[str, Lesson] = {}
    for lesson in sorted(pool, key=key):
        once.setdefault(apart(lesson), lesson)
    ranked = list(once.values())
    if balance == "none" or (balance == "pairs" and ranked and ranked[0].kind == "single"):
        return ranked[:number]
    if ranked and ranked[0].kind == "batch":
        return _in_turn(ranked)[:number]
    sides = {side: [lesson for lesson in ranked if _side(lesson) == side] for side in (0, 1, None)}
    even = sum(_side(lesson) is None for lesson in ranked[:number])
    first, second = (number - even + 1) // 2, (number - even) // 2
    if len(sides[0]) < first and len(sides[1]) > len(sides[0]):
        first, second = second, first  # the odd one is on the side that has it
    most = min(len(sides[0]), len(sides[1]))
    if len(sides[0]) < first or len(sides[1]) < second:
        first = second = most
    return [*sides[0][:first], *sides[1][:second], *sides[None][:even]]


def _in_turn(ranked: Sequence[Lesson]) -> list[Lesson]:
    """Batches in an order in which each place wins once before any wins again."""
    turns: Counter[int | None] = Counter()
    placed = []
    for place, lesson in enumerate(ranked):
        placed.append((turns[lesson.winner], place, lesson))
        turns[lesson.winner] += 1
    return [lesson for *_, lesson in sorted(placed, key=lambda one: one[:2])]


def _side(lesson: Lesson) -> int | None:
    """0 or 1 for the answer that wins, or for a score above or below the middle; None in between."""
    if lesson.kind == "pair":
        return lesson.winner
    middle = Scale.parse(lesson.scale).middle
    (score,) = lesson.scores
    return None if score == middle else int(score < middle)


def _mixed(lessons: Sequence[Lesson], spec: Selection, made: Selected) -> list[Lesson]:
    """Samples in the order of their lots, the wanted share of each kind mapped to the smaller scale."""
    mapped: set[str] = set()
    for kind in KINDS:
        on_ten = [lesson for lesson in lessons if lesson.kind == kind and lesson.scale == TEN]
        free = []
        for lesson in on_ten if spec.remap else ():
            why = SPEAKS if speaks_of_scale(lesson.reasoning) else HIDES if hides_winner(lesson.scores) else None
            if why:
                made.kept_scale[why] += 1
            else:
                free.append(lesson)
        free.sort(key=lambda lesson: _lot(spec.seed, "scale", lesson))
        mapped.update(lesson.id for lesson in free[: round(spec.remap * len(on_ten))])
    ordered = sorted(lessons, key=lambda lesson: _lot(spec.seed, "place", lesson))
    return [lesson.halved() if lesson.id in mapped else lesson for lesson in ordered]


def _note_missing(made: Selected, split: str, kind: str, number: int) -> None:
    if number:
        made.missing[f"{split}: {kind}"] += number


def _lot(seed: int, what: str, lesson: Lesson) -> str:
    return draw(seed, f"{what} {lesson.id}", *lesson.texts)
