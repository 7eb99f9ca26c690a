"""Access to a judge service that is already running, for runs that start no judge of their own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from flex_judge.judges.errors import UsageError, hint_similar_name
from flex_judge.judges.io.http import read_key
from flex_judge.judges.judgments import Judgment, Status
from flex_judge.judges.rubrics import ASK_OPERATOR, Rubric, list_rubrics, load_rubric, set_rubric_source
from flex_judge.judges.types import Comparison
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

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Unpickle in a worker, which then knows the rubrics of the service too."""
        self.__dict__.update(state)
        self.use_rubrics()

    def use_rubrics(self) -> None:
        """Make the rubrics that the service has by name known to this process, see `ServiceRubrics`."""
        set_rubric_source(ServiceRubrics(self))

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


def use_rubrics_of(url: str | None, key: str | None) -> None:
    """Make the rubrics of a judge service known to this process, or forget the rubrics of an earlier service.

    Args:
        url: address of the service; None for no service.
        key: API key of the service, see `RemoteJudge`.
    """
    if url is None:
        set_rubric_source(None)
    else:
        RemoteJudge(url, api_key=key).use_rubrics()


class ServiceRubrics:
    """Rubrics that only a service has. It tells their scale and number of responses, not their texts.

    Args:
        service: the service.
    """

    def __init__(self, service: RemoteJudge) -> None:
        self._service = service
        self._cards: dict[str, dict[str, Any]] | None = None

    def __call__(self, name: str) -> Rubric:
        """Return a rubric by its name; the first call asks the service.

        Raises:
            UsageError: the service has no such rubric, or rejects the key.
            ServiceUnavailableError: the service does not answer.
        """
        if self._cards is None:
            self._cards = {card["name"]: card for card in self._service.client.rubrics_sync()}
        if name not in self._cards:
            raise UsageError(
                f"rubric {name!r} does not exist at {self._service.url}{hint_similar_name(name, self._cards)}; the "
                f"service has {', '.join(self._cards)}; or pass the path of a TOML file"
            )
        card = self._cards[name]
        fewest, most = card["min_responses"], card["max_responses"]
        count = f"{fewest}+" if most is None else fewest if fewest == most else f"{fewest}-{most}"
        # The digest stands for the texts, so that results under changed texts are not mixed.
        content = {"criteria": f"those of the service, digest {card['digest']}", "responses": count}
        content |= {"answer": "options"} if card["kind"] == "options" else {"scale": card["scale"]}
        return Rubric.from_dict(name, content, f"rubric {name!r} of {self._service.url}")


def require_rubric_text(name: str) -> None:
    """Check that the text of a rubric is known here, and not only to a service.

    Raises:
        UsageError: only a service has the rubric, or it does not exist.
    """
    load_rubric(name)
    if name not in list_rubrics() and not name.endswith(".toml"):
        raise UsageError(
            f"--rubric {name}: only the service has its text, which the training examples need; pass the path of its "
            "TOML file"
        )
