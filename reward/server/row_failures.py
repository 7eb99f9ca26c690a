"""Rows of a request that cannot be judged: they get a result with a status, and the other rows are judged."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from flex_judge.judges.errors import INPUT_ERRORS, UsageError, describe_input_error, is_input_error, to_one_line
from flex_judge.judges.judgments import Judgment, Status
from flex_judge.reward.server.errors import MediaFetchError
from flex_judge.reward.server.logs import with_fields
from flex_judge.reward.server.request_log import get_request_id
from flex_judge.reward.types import Reward, RewardSpec, Sample

T = TypeVar("T")
log = logging.getLogger(__name__)
_ROW_ERRORS = (*INPUT_ERRORS, MediaFetchError)


@dataclass(frozen=True)
class RowFailure:
    """Reason why a row gets no judgment."""

    detail: str
    """The problem; starts with the field, such as `comparisons[3].prompt`."""
    status: Status = Status.INVALID_INPUT
    field: str = ""
    """The invalid field; empty if unknown."""
    id: str = ""
    """Id of the row, if it has one."""

    @classmethod
    def from_error(cls, error: Exception, field: str = "") -> RowFailure:
        """Describe an error of a row.

        Args:
            error: the error.
            field: field of the row, for errors that name none.

        Raises:
            Exception: the error itself, if it does not concern this row only.
        """
        if isinstance(error, MediaFetchError):
            return cls(to_one_line(error), Status.TIMEOUT)  # another try may succeed
        if not is_input_error(error):
            raise error
        problem = describe_input_error(error)
        if isinstance(error, UsageError) and error.field:
            return cls(problem, field=error.field)
        return cls(f"{field}: {problem}" if field else problem, field=field)

    @classmethod
    def from_timeout(cls, limit_s: float) -> RowFailure:
        """Describe a row without a result at the time limit of its request."""
        return cls(f"not ready within the request's deadline of {limit_s:g} s", Status.TIMEOUT)

    @classmethod
    def from_unexpected(cls, error: Exception, field: str = "") -> RowFailure:
        """Log an unexpected error, which costs its row only; its message is not sent to the client."""
        request_id = get_request_id()
        extra = with_fields(request_id=request_id)
        log.error("request %s: %s failed", request_id, field or "a comparison", exc_info=error, extra=extra)
        problem = "failed because of an internal error; see the service's log"
        return cls(f"{field}: {problem}" if field else problem, Status.FAILED, field)

    @classmethod
    def from_any_error(cls, error: Exception, field: str = "") -> RowFailure:
        """Describe any error of a row.

        Args:
            error: the error.
            field: field of the row, for errors that name none.

        Raises:
            Exception: the error itself, if it concerns the setup of the judge and with it every row.
        """
        if isinstance(error, _ROW_ERRORS):
            return cls.from_error(error, field)
        return cls.from_unexpected(error, field)

    def make_judgment(self) -> Judgment:
        """Make the row's judgment."""
        return Judgment.from_failure(self.id, self.status, self.detail)

    def make_reward(self) -> Reward:
        """Make the row's reward."""
        return Reward(None, self.status, detail=self.detail)


def try_row(work: Callable[[], T], field: str = "", raises: tuple[type[Exception], ...] = ()) -> T | RowFailure:
    """Do some work on a row, such as decoding it; an error is returned, unless it concerns every row.

    Args:
        work: the work.
        field: field of the row, for errors that name none.
        raises: types of errors that concern the request as a whole, if the work is on several rows.
    """
    try:
        return work()
    except raises:
        raise
    except Exception as e:  # noqa: BLE001 - an unexpected error costs its row, not its neighbours
        return RowFailure.from_any_error(e, field)


def locate_detail(detail: str, field: str) -> str:
    """Start the detail of a failure with the field of its row, such as `samples[3]`.

    Members of a group share one prompt, so the detail may start with the field of another member.
    """
    name = field.partition("[")[0]
    located, count = re.subn(rf"^{name}\[\d+\](?=[.:])", field, detail)
    return located if count else f"{field}: {detail}"


def locate_judgment(judgment: Judgment, field: str) -> Judgment:
    """Start the detail of a judgment of invalid input with the field of its row; others are unchanged."""
    if judgment.status != Status.INVALID_INPUT:
        return judgment
    votes = [replace(vote, detail=locate_detail(vote.detail, field)) for vote in judgment.votes]
    return replace(judgment, votes=tuple(votes))


def locate_reward(reward: Reward, field: str) -> Reward:
    """Start the detail of a reward of invalid input with the field of its row; others are unchanged."""
    if reward.status != Status.INVALID_INPUT:
        return reward
    return replace(reward, detail=locate_detail(reward.detail, field))


def check_baseline(sample: Sample, spec: RewardSpec, field: str) -> Sample:
    """Return the sample; if it lacks the baseline that the method needs, with this problem."""
    if spec.method != "baseline" or sample.baseline is not None or sample.problem:
        return sample
    return replace(sample, problem=f"{field}.baseline: missing, and the method 'baseline' compares with it")
