"""Score the conversations of a trainer that has no reward function of TRL's kind: rows in, one reward each out."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flex_judge.judges.conversations.messages import View, select_view
from flex_judge.judges.errors import ServiceTimeoutError, UsageError
from flex_judge.judges.judgments import Status
from flex_judge.reward.client.client import JudgeClient
from flex_judge.reward.integrations.converted import report_timeout
from flex_judge.reward.integrations.local import resolve_judge
from flex_judge.reward.integrations.rows import RowConverter
from flex_judge.reward.turns import NO_TURN, Granularity, check_turn_spec, split_sample
from flex_judge.reward.types import Reward, RewardSpec, Sample

if TYPE_CHECKING:
    from flex_judge.judges.judge import FlexJudge

CONCURRENCY = 64
Rows = Iterable[Mapping[str, Any]]
"""Rows with the arguments of `flex_judge.reward.integrations.rows.RowConverter.build_sample`."""
logger = logging.getLogger(__name__)


class ConversationScorer:
    """Scorer of conversations. A conversation without a score is a reward without a value, never an error.

    Example:
        >>> scorer = ConversationScorer("http://127.0.0.1:8000", rubric="correctness")
        >>> (reward,) = scorer.score_rows_sync([{"prompt": "What is 2 + 3?", "response": "It is 5."}])
    """

    def __init__(
        self,
        judge: FlexJudge | JudgeClient | str,
        *,
        api_key: str | None = None,
        deadline_s: float | None = None,
        view: View = "full",
        **spec: Any,
    ) -> None:
        """Configure the scorer.

        Args:
            judge: the URL of a judge service, a client of one, or a judge in this process.
            api_key: API key of the service; None reads the environment variable FLEX_JUDGE_API_KEY.
            deadline_s: time limit of a call in seconds (default 600).
            view: what the judge sees of a response with several messages: `full`, or the `final` answer.
            spec: rubric, method, reward, normalize, group_size and group_timeout_s, see
                `flex_judge.reward.types.RewardSpec`.

        Raises:
            UsageError: a setting has an invalid value or conflicts with another one.
        """
        self.spec = RewardSpec(**spec)
        if self.spec.method == "baseline":
            raise UsageError("method 'baseline' has no answers to compare with here; choose another method")
        self._judge = resolve_judge(judge, api_key, deadline_s, concurrency=CONCURRENCY)
        self._view: View = view
        RowConverter(view)  # checks the view

    async def score_rows(self, rows: Rows) -> list[Reward]:
        """Score one response per row. Rows with the same prompt and `group` are compared with each other.

        Raises:
            UsageError: the service rejects the settings.
            ServiceUnavailableError: the service judged nothing in the calls before this one either.
        """
        return await RowConverter(self._view).convert_rows(rows).judge(self._judge, self.spec)

    def score_rows_sync(self, rows: Rows) -> list[Reward]:
        """Score rows from code without an event loop, see `score_rows`."""
        return RowConverter(self._view).convert_rows(rows).judge_sync(self._judge, self.spec)

    async def score_turns(self, row: Mapping[str, Any], granularity: Granularity = "turn") -> list[Reward]:
        """Score each turn or step of the response of a row, see `flex_judge.reward.turns`.

        Returns:
            One reward per assistant message; a single one without a value if the row cannot be judged.

        Raises:
            UsageError: the settings compare responses, and turns of different responses have different prompts.
        """
        check_turn_spec(self.spec, granularity)
        converted = RowConverter().convert_rows([row])
        turns = [turn for sample in converted.samples for turn in self._split(sample, granularity)]
        if not turns:
            return converted.insert_failures(
                [Reward(None, Status.INVALID_INPUT, detail=NO_TURN)] * len(converted.samples)
            )
        try:
            return await self._judge.rewards(turns, self.spec)
        except ServiceTimeoutError as e:
            return report_timeout(e, len(turns))

    def score_last_turn_sync(self, row: Mapping[str, Any], granularity: Granularity = "turn") -> Reward:
        """Score the last turn or step of the response of a row, from code without an event loop."""
        check_turn_spec(self.spec, granularity)
        converted = RowConverter().convert_rows([row])
        turns = [self._split(sample, granularity)[-1] for sample in converted.samples]
        (reward,) = replace(converted, samples=turns).judge_sync(self._judge, self.spec)
        return reward

    def _split(self, sample: Sample, granularity: Granularity) -> list[Sample]:
        # The response is split after it was read: only a prompt may name local files, and its turns become prompts.
        turns = split_sample(sample, granularity)
        return [replace(turn, response=select_view(turn.response, self._view)) for turn in turns]
