"""Settings of a reward function that a trainer calls: how completions are judged, and what happens around it."""

from __future__ import annotations

from dataclasses import field, replace
from typing import Annotated, Literal, TypedDict

from annotated_types import Interval

from flex_judge.judges.conversations.messages import View
from flex_judge.judges.errors import UsageError
from flex_judge.judges.validation.classes import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    settings_class,
)
from flex_judge.reward.turns import Combination, Granularity, check_turn_spec
from flex_judge.reward.types import MAX_GROUP_SIZE, Method, Normalization, RewardKind, RewardSpec

DEFAULT_NAME = "flex_judge"
LengthUnit = Literal["word", "token"]
Unscored = Literal["none", "raise"]
OnModelChange = Literal["raise", "warn", "allow"]


@settings_class(kw_only=True)
class RewardSettings(RewardSpec):
    """Settings of a reward function: the fields of `RewardSpec`, and how calls of a trainer are handled.

    Example:
        >>> settings = RewardSettings(rubric="correctness", length_penalty=0.01, length_limit=200)
        >>> JudgeReward("http://10.0.0.1:8000", settings)
    """

    view: View = "full"
    """Part of a completion with several messages that the judge sees: `full`, with tool calls and their results, or the
    `final` answer."""
    granularity: Granularity = "response"
    """Part of a completion that is judged: the whole `response`, each `turn` (an assistant message), or each `step` (an
    assistant message with its tool results). See `flex_judge.reward.turns`."""
    combination: Combination = "mean"
    """How the rewards of turns become one number per completion: `mean`, `last`, or `discounted`. A completion has no
    reward if one of these turns has none."""
    discount: Fraction = 0.9
    """Factor between the weights of two turns, for the combination `discounted`."""
    length_penalty: NonNegativeFloat = 0.0
    """Amount that is subtracted from a reward for each word or token beyond `length_limit`. A completion without a
    reward stays without one."""
    length_limit: NonNegativeInt | None = None
    """Length in words or tokens up to which nothing is subtracted; required with `length_penalty`."""
    max_length_penalty: PositiveFloat | None = None
    """Largest amount that is subtracted; None has no limit."""
    length_unit: LengthUnit = "word"
    """Unit of lengths: each `word` of the assistant messages that the judge sees, or each `token` that the trainer
    counts, which with tools includes their results."""
    unscored: Unscored = "none"
    """Result for completions without a score. `none` returns None, which GRPOTrainer, RLOOTrainer and AsyncGRPOTrainer
    leave out if this is their only reward function. `raise` ends the run; it is required for OnlineDPOTrainer, which
    counts None as 0."""
    on_model_change: OnModelChange = "raise"
    """Reaction to another judge model at the same address: `raise` ends the run, because rewards of two models are not
    comparable; `warn` logs a warning and continues, `allow` continues with a note in the log."""
    baseline_column: str | None = None
    """Data set column with the answers that the method `baseline` compares with."""
    name: str = DEFAULT_NAME
    """Name of the reward in the trainer's logs; must be unique per trainer."""
    run: str | None = None
    """Id that separates the groups of runs that share a service and a data set. None uses an id that the ranks of this
    run agree on."""
    api_key: str | None = field(default=None, repr=False)
    """API key of the service; None reads the environment variable FLEX_JUDGE_API_KEY."""
    deadline_s: PositiveFloat | None = None
    """Time limit of one call to the service in seconds; None uses the client's (600). Keep it below the trainer's own
    limits: ddp_timeout (default 1800), AsyncGRPOTrainer's heartbeat_stale_after_s (default 300)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_turn_spec(self, self.granularity)
        if self.granularity != "response" and self.view == "final":
            raise UsageError.of_setting(
                "view",
                f"view 'final' shows the judge one message, so there is no {self.granularity} to judge; use view "
                "'full', or granularity 'response'",
            )
        if (self.method == "baseline") != (self.baseline_column is not None):
            raise UsageError.of_setting(
                "baseline_column",
                "baseline_column: must name a column of answers if method is 'baseline', else be None",
            )
        if (self.length_penalty > 0) != (self.length_limit is not None):
            raise UsageError.of_setting(
                "length_limit", "length_limit must be set if length_penalty is above 0, else be None"
            )
        if not self.name:
            raise UsageError.of_setting("name", "name must not be empty: trainers log the reward under it")

    @property
    def spec(self) -> RewardSpec:
        """The settings that define how completions become rewards."""
        return RewardSpec.from_fields(self)


class RewardFields(TypedDict, total=False):
    """Fields of `RewardSettings` as keyword arguments, for type checkers."""

    rubric: str
    method: Method
    reward: RewardKind
    normalize: Normalization
    group_size: Annotated[int, Interval(ge=1, le=MAX_GROUP_SIZE)] | None
    group_timeout_s: NonNegativeFloat
    view: View
    granularity: Granularity
    combination: Combination
    discount: Fraction
    length_penalty: NonNegativeFloat
    length_limit: NonNegativeInt | None
    max_length_penalty: PositiveFloat | None
    length_unit: LengthUnit
    unscored: Unscored
    on_model_change: OnModelChange
    baseline_column: str | None
    name: str
    run: str | None
    api_key: str | None
    deadline_s: PositiveFloat | None


def build_reward_settings(settings: RewardSettings | None, values: RewardFields) -> RewardSettings:
    """Build settings from others, of which some fields have new values.

    Raises:
        UsageError: a field is unknown, has an invalid value, or conflicts with another one.
    """
    if settings is None:
        return RewardSettings(**values)
    if not isinstance(settings, RewardSettings):
        hint = f"; write rubric={settings!r}" if isinstance(settings, str) else ""
        raise UsageError(f"settings must be a RewardSettings, not {settings!r:.80}{hint}")
    return replace(settings, **values)
