"""Access to a judge service that is already running, for runs that start no judge of their own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from flex_judge.judges.errors import UsageError
from flex_judge.judges.judgments import Judgment, Status
from flex_judge.judges.rubrics import ASK_OPERATOR
from flex_judge.judges.types import Comparison
from flex_judge.reward.client.api_key import read_key
from flex_judge.reward.client.client import JudgeClient
from flex_judge.reward.client.encoding import encode_rubric
from flex_judge.reward.groups.methods import JudgeFunction


@dataclass(frozen=True)
class RemoteJudge:
    """Judge service that is already running, reached over HTTP."""

    url: str
    max_requests: int = 64
    """Maximum number of comparisons sent at the same time."""
    api_key: str | None = field(default=None, repr=False)
    """Source of the key: `env:NAME` or a file, read in the worker. Never the key itself, because this object is pickled
    and sent to the workers."""

    @property
    def client(self) -> JudgeClient:
        """A new client for the service.

        Raises:
            UsageError: The URL is invalid or the key cannot be read.
        """
        return JudgeClient(self.url, read_key(self.api_key) if self.api_key else None, concurrency=self.max_requests)

    def check(self, rubrics: Iterable[str] = ()) -> None:
        """Check that the service answers, and that it takes rubric files if there are any.

        Args:
            rubrics: names and files of the rubrics of a run.

        Raises:
            UsageError: the service takes no rubrics from requests.
            ServiceUnavailableError: no service answers at the URL.
        """
        health = self.client.health_sync()
        for rubric in rubrics:
            if encode_rubric(rubric) != rubric and not health.get("inline_rubrics"):
                raise UsageError(f"{self.url}: the service cannot open the rubric file {rubric}; {ASK_OPERATOR}")

    def make_ask(self) -> JudgeFunction:
        """Return a function that sends one comparison to the service."""
        client = self.client

        async def ask_client(comparison: Comparison) -> Judgment:
            (judgment,) = await client.judge([comparison])
            # The rubric is a setting of the run, so that a service without it concerns every row.
            if judgment.status == Status.INVALID_INPUT and judgment.detail.startswith("rubric: "):
                raise UsageError(judgment.detail)
            return judgment

        return ask_client
