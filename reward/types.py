"""What a trainer asks and gets: completions of prompts in, rewards out. Plain, frozen, picklable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, Literal, get_args

from annotated_types import Interval

from flex_judge.judges.errors import UsageError
from flex_judge.judges.judgments import Status, Usage
from flex_judge.judges.types import Comparison, Content, Message
from flex_judge.judges.validation.classes import NonNegativeFloat, settings_class

Method = Literal["pointwise", "round_robin", "knockout", "baseline", "listwise"]
METHODS: tuple[Method, ...] = get_args(Method)
"""How the completions of a prompt are judged: each alone, every pair, a knock-out, each against a given answer, or
all in one comparison."""
RewardKind = Literal["expected", "score", "win_rate", "rank", "margin"]
REWARDS: tuple[RewardKind, ...] = get_args(RewardKind)
"""What of a judgment becomes the reward, see `Reward`."""
Normalization = Literal["none", "center", "standardize"]
NORMALIZATIONS: tuple[Normalization, ...] = get_args(Normalization)
"""What is done to the rewards of a group: nothing, minus their mean, or also divided by their standard deviation."""
MAX_GROUP_SIZE = 1024
MAX_ROUND_ROBIN_SIZE = 64
"""Completions of which every pair may be compared: that is 2016 comparisons, and twice as many are four times that."""
ROUND_ROBIN_LIMIT = f"at most {MAX_ROUND_ROBIN_SIZE} for the method 'round_robin' ('knockout' takes more)"


@dataclass(frozen=True)
class Sample:
    """One completion of one prompt."""

    prompt: tuple[Message, ...]
    response: Content
    baseline: Content | None = None
    """The answer that it is held against; for the method `baseline` alone."""
    group: str | None = None
    """Name of the group that it belongs to. Samples with the same prompt belong together as it is; a name tells apart
    groups whose prompts are the same."""

    def to_comparison(self, rubric: str, *others: Content, id: str = "") -> Comparison:
        """Its response, and others after it, as what a judge is asked."""
        return Comparison(id, self.prompt, (self.response, *others), rubric)


@settings_class
class RewardSpec:
    """How completions become rewards."""

    rubric: str = "general"
    """Rubric: name of a preset or a registered rubric."""
    method: Method = "pointwise"
    """How a prompt's completions are compared."""
    reward: RewardKind = "expected"
    """Statistic of the judgments that becomes the reward."""
    normalize: Normalization = "none"
    """How the rewards of a group are normalized."""
    group_size: Annotated[int, Interval(ge=1, le=MAX_GROUP_SIZE)] | None = None
    """Number of completions in a prompt's group (default: the completions of one call that share the prompt)."""
    group_timeout_s: NonNegativeFloat = 60.0
    """Seconds that a group waits for missing members, counted from its first completion."""

    def __post_init__(self) -> None:
        if self.method == "round_robin" and (self.group_size or 0) > MAX_ROUND_ROBIN_SIZE:
            raise UsageError(f"group_size must be {ROUND_ROBIN_LIMIT}, not {self.group_size}")

    @property
    def needs_group(self) -> bool:
        """Whether a completion's reward depends on the others of its prompt."""
        relative = self.reward in ("win_rate", "rank", "margin") and self.method != "baseline"
        return relative or self.normalize != "none" or self.method in ("round_robin", "knockout", "listwise")

    def compute_group_id(self, sample: Sample) -> str:
        """Identity of the sample's group: its prompt with its media, how it is judged, and the name it was given."""
        what = [sample.to_comparison(self.rubric).prompt_digest, sample.group, asdict(self)]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()


@dataclass(frozen=True)
class GroupInfo:
    """In what company a completion was judged."""

    size: int
    """Completions that were there when it was judged, itself included."""
    wanted: int | None
    """Completions that the group should have; None where nobody said."""
    late: bool = False
    """Whether it came after its group had been judged."""

    @property
    def is_complete(self) -> bool:
        return self.wanted is None or self.size >= self.wanted


@dataclass(frozen=True)
class Reward:
    """What one completion gets. Unscored is not zero: without a score, every number is None."""

    value: float | None
    """The reward that was asked for, normalised as was asked for."""
    status: Status
    """ok, or why there is no value."""
    score: float | None = None
    """The written score on the rubric's scale; the mean over the comparisons in which it took part."""
    expected: float | None = None
    """The expected score likewise."""
    win_rate: float | None = None
    """Share of its opponents that it beat, a tie counting half; of a prompt's others, or the baseline."""
    rank: float | None = None
    """Its place among the scored completions of its prompt: 1 for the best, 0 for the worst, ties in the middle."""
    margin: float | None = None
    """Its score minus the mean score of its opponents, expected scores where there are."""
    reasoning: str = ""
    """What the judge thought, of the first comparison with a verdict."""
    detail: str = ""
    """Without a value: what was wrong, in a few words."""
    group: GroupInfo = GroupInfo(1, None)
    disagreement: float | None = None
    """Mean of its comparisons' disagreement between orders; None where no comparison was read in two orders."""
    judgments: int = 0
    """Comparisons in which it took part."""
    usage: Usage = field(default_factory=Usage)
    """Tokens of those comparisons, each divided evenly among the completions in it (rounded down)."""
    model: str = ""
    """Name and fingerprint of the judge's model; empty where it judged nothing."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Reward:
        values = {f.name: row[f.name] for f in fields(cls) if f.name in row}
        values["status"] = Status(row["status"])
        values["group"] = GroupInfo(**row["group"])
        values["usage"] = Usage(**row["usage"])
        return cls(**values)
