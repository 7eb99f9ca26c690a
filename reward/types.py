"""Data types between trainers and the judge: samples in, rewards out. All are frozen and picklable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, Literal, get_args

from annotated_types import Interval

from flex_judge.judges.errors import UsageError
from flex_judge.judges.judgments import Status, Usage, convert_shape_errors
from flex_judge.judges.types import Comparison, Message, Response
from flex_judge.judges.validation.classes import NonNegativeFloat, settings_class
from flex_judge.judges.validation.floats import read_optional_float

Method = Literal["pointwise", "round_robin", "circular", "swiss", "knockout", "baseline", "listwise"]
METHODS: tuple[Method, ...] = get_args(Method)
"""How the completions of a prompt are compared.

- `pointwise`: each completion is scored alone.
- `round_robin`: every pair is compared.
- `circular`: each completion is compared with its two neighbors in a shuffled circle.
- `swiss`: rounds of pairs with a similar standing; about log2(n) comparisons of each completion.
- `knockout`: single-elimination tournament.
- `baseline`: each completion is compared with a reference answer from its row.
- `listwise`: all completions are scored in one comparison.
"""
RewardKind = Literal["expected", "score", "win_rate", "rank", "margin"]
REWARDS: tuple[RewardKind, ...] = get_args(RewardKind)
"""Statistics of the judgments that can become the reward, see the fields of `Reward`."""
Normalization = Literal["none", "center", "standardize"]
NORMALIZATIONS: tuple[Normalization, ...] = get_args(Normalization)
"""Normalization of a group's rewards: none, subtract the mean, or also divide by the standard deviation."""
MAX_GROUP_SIZE = 1024
MAX_ROUND_ROBIN_SIZE = 64
"""Maximum number of completions in a round robin. 64 completions need 2016 comparisons; growth is quadratic."""
ROUND_ROBIN_LIMIT = f"at most {MAX_ROUND_ROBIN_SIZE} for the method 'round_robin' ('swiss' and 'circular' take more)"


@dataclass(frozen=True)
class Sample:
    """One completion of one prompt."""

    prompt: tuple[Message, ...]
    response: Response
    baseline: Response | None = None
    """Reference answer that the response is compared with; only for the method `baseline`."""
    group: str | None = None
    """Name of the sample's group. Samples with the same prompt form a group by default; set a name to separate groups
    that share a prompt, for example of two training steps."""
    problem: str = ""
    """Reason why the response cannot be judged; its reward then has the status invalid_input."""

    def to_comparison(self, rubric: str, *opponents: Response, id: str = "") -> Comparison:
        """Build the comparison of this response (first position) with its opponents."""
        return Comparison(id, self.prompt, (self.response, *opponents), rubric)


@settings_class
class RewardSpec:
    """Settings that define how completions become rewards."""

    rubric: str = "general"
    """Rubric of the rewards: name of a preset or a registered rubric."""
    method: Method = "pointwise"
    """Method that compares a prompt's completions."""
    reward: RewardKind = "expected"
    """Statistic of the judgments that becomes the reward."""
    normalize: Normalization = "none"
    """Normalization of the rewards of a group."""
    group_size: Annotated[int, Interval(ge=1, le=MAX_GROUP_SIZE)] | None = None
    """Number of completions in a prompt's group (default: the completions of one call that share the prompt)."""
    group_timeout_s: NonNegativeFloat = 60.0
    """Maximum time in seconds that a group waits for missing completions, counted from the first one."""

    def __post_init__(self) -> None:
        if self.method == "round_robin" and (self.group_size or 0) > MAX_ROUND_ROBIN_SIZE:
            raise UsageError(f"group_size must be {ROUND_ROBIN_LIMIT}, not {self.group_size}")

    @property
    def needs_group(self) -> bool:
        """Whether the reward of a completion depends on the other completions of its prompt."""
        relative = self.reward in ("win_rate", "rank", "margin") and self.method != "baseline"
        return relative or self.normalize != "none" or self.method not in ("pointwise", "baseline")

    def to_json(self) -> dict[str, Any]:
        """Convert to a dict of JSON values, as services take it; fields of a subclass are left out."""
        return {f.name: getattr(self, f.name) for f in fields(RewardSpec)}

    @staticmethod
    def from_fields(source: object) -> RewardSpec:
        """Build it from the attributes of an object that has all of its fields.

        Raises:
            UsageError: a value is invalid.
        """
        return RewardSpec(**{f.name: getattr(source, f.name) for f in fields(RewardSpec)})

    def compute_group_id(self, sample: Sample) -> str:
        """Hash the prompt (with media), the group name and these settings to the identity of the sample's group."""
        identity = [sample.to_comparison(self.rubric).prompt_digest, sample.group, self.to_json()]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()


@dataclass(frozen=True)
class GroupInfo:
    """Group metadata of a completion: size, expected size, and whether the completion arrived late."""

    size: int
    """Number of completions in the group when this one was judged, itself included."""
    wanted: int | None
    """Expected number of completions; None if no group size was set."""
    late: bool = False
    """Whether the completion arrived after its group had been judged."""

    @property
    def is_complete(self) -> bool:
        """Whether all expected completions were present."""
        return self.wanted is None or self.size >= self.wanted

    @property
    def is_whole(self) -> bool:
        """Whether the group was complete and the completion not late."""
        return self.is_complete and not self.late


@dataclass(frozen=True)
class Reward:
    """Reward of one completion, with the statistics behind it.

    An unscored completion is not a zero: without a score, every number is None.
    """

    value: float | None
    """The statistic selected by `RewardSpec.reward`, normalized by `RewardSpec.normalize`."""
    status: Status
    """`ok`, or the reason why there is no value."""
    score: float | None = None
    """Mean of the scores that the judge wrote, on the rubric's scale, over all comparisons of this completion."""
    expected: float | None = None
    """Mean of the expected scores (means of the score distribution) over all comparisons of this completion."""
    win_rate: float | None = None
    """Share of opponents beaten; a tie counts half. The opponent of the method `baseline` is the baseline. With
    `circular` and `swiss`, the mean predicted probability to beat each other completion (Bradley-Terry model)."""
    rank: float | None = None
    """Rank among the scored completions of the prompt: 1 is the best, 0 the worst; ties share their mean rank."""
    margin: float | None = None
    """Score minus the mean score of the opponents; expected scores are used when available. With `circular` and
    `swiss`, the scores are ratings that fit the score differences of all comparisons best (least squares)."""
    reasoning: str = ""
    """The judge's reasoning in the first comparison with a verdict."""
    detail: str = ""
    """Short description of the failure; empty if there is a value."""
    group: GroupInfo = GroupInfo(1, None)
    disagreement: float | None = None
    """Mean disagreement between the two response orders; None if no comparison was judged in both orders."""
    judgments: int = 0
    """Number of comparisons that included this completion."""
    usage: Usage = field(default_factory=Usage)
    """Tokens of those comparisons. Each comparison's tokens are split evenly (rounded down) among its completions."""
    model: str = ""
    """Name and fingerprint of the judge model; empty if there was no judgment."""

    @property
    def best_score(self) -> float | None:
        """The expected score where there is one, else the written score; None without a verdict."""
        return self.score if self.expected is None else self.expected

    @property
    def is_whole(self) -> bool:
        """Whether the completion was judged, or refused as invalid, in time and in a complete group."""
        return self.group.is_whole and (self.judgments > 0 or self.status == Status.INVALID_INPUT)

    def to_json(self) -> dict[str, Any]:
        """Convert to a dict of JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Reward:
        """Build a reward from the output of `to_json`; unknown fields are ignored.

        Raises:
            UsageError: the row is not a reward, or a number in it is not finite.
        """
        with convert_shape_errors("reward"):
            values = {f.name: row[f.name] for f in fields(cls) if f.name in row}
            for name in ("value", "score", "expected", "win_rate", "rank", "margin", "disagreement"):
                values[name] = read_optional_float(values.get(name), name)
            values["status"] = Status(row["status"])
            values["group"] = GroupInfo(**row["group"])
            values["usage"] = Usage.from_json(row["usage"])
            return cls(**values)
