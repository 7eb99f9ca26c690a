"""Access log: one line per HTTP request, with its id, key, status, duration, results and tokens, and without texts."""

from __future__ import annotations

import json
import logging
import re
import uuid
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flex_judge.judges.judgments import Judgment, Status, Usage
from flex_judge.reward.server.logs import TEXT_LOGGER, with_fields
from flex_judge.reward.types import Reward

if TYPE_CHECKING:
    from starlette.types import Scope

ID_HEADER = "X-Request-ID"
MAX_ID_LENGTH, MAX_PATH_LENGTH = 128, 200
OTHER_ROUTE = "other"
"""Route of a request that matches none, or that is refused before it is matched."""
PROBES = ("/healthz", "/metrics")
"""Routes that monitors request every few seconds; only the level debug logs their successes."""
ROWS = ("comparisons", "samples", "query")
"""Fields of requests with one row for each result. A request without such a field is one row."""
_DATA_URI = re.compile(r"(data:[\w/.+-]{1,100};base64,)[A-Za-z0-9+/=]{64,}")
log = logging.getLogger("flex_judge.access")
texts_log = logging.getLogger(TEXT_LOGGER)


@dataclass
class RequestRecord:
    """Facts about a request for the access log. They are filled while the request is handled."""

    id: str
    """Id from the header X-Request-ID, or a new one."""
    key_name: str = ""
    """Name of the API key."""
    judgments: int = 0
    """Number of judgments or rewards in the answer."""
    failures: int = 0
    """Number of those without a score."""
    usage: Usage = field(default_factory=Usage)
    """Tokens of the answer."""
    replayed: int | None = None
    """For a repeated request: number of rows in the answer of the request with the same idempotency key."""
    has_results: bool = False
    """Whether the results were computed for this request."""


_current: ContextVar[RequestRecord | None] = ContextVar("flex_judge_request", default=None)


def start_record(scope: Scope) -> RequestRecord:
    """Start the record of a request; it belongs to the current task and the tasks that it starts."""
    record = RequestRecord(_read_request_id(scope["headers"]))
    _current.set(record)
    return record


def get_request_id() -> str:
    """Return the id of the current request; empty outside of a request."""
    record = _current.get()
    return record.id if record is not None else ""


def record_results(results: Sequence[Judgment | Reward]) -> None:
    """Add judgments or rewards to the record of the current request."""
    record = _current.get()
    if record is None:
        return
    record.has_results = True
    record.judgments += len(results)
    record.failures += sum(result.status != Status.OK for result in results)
    record.usage = sum((result.usage for result in results), record.usage)


def record_answer(request: Any) -> None:
    """Record that the current request was answered. Without results of its own, it got the answer of another one."""
    record = _current.get()
    if record is not None and not record.has_results:
        record.replayed = next((len(getattr(request, name)) for name in ROWS if hasattr(request, name)), 1)


def log_texts(request: Any, answer: Any) -> None:
    """Log the content of a request and its answer, if the operator asked for texts."""
    if texts_log.isEnabledFor(logging.INFO):
        content = _DATA_URI.sub(r"\1...", json.dumps(request.model_dump(mode="json")))
        texts_log.info(
            "texts",
            extra=with_fields(request_id=get_request_id(), content=content, answer=json.dumps(answer, default=str)),
        )


def log_request(record: RequestRecord, scope: Scope, route: str, status: int, seconds: float) -> None:
    """Write the line of a finished request."""
    is_probe = route in PROBES and status < 400
    level = logging.DEBUG if is_probe else logging.ERROR if status >= 500 and status != 503 else logging.INFO
    if not log.isEnabledFor(level):
        return
    fields: dict[str, Any] = {
        "request_id": record.id,
        "method": str(scope["method"])[:16],
        "route": route,
        **({"path": str(scope["path"])[:MAX_PATH_LENGTH]} if route == OTHER_ROUTE else {}),
        "status": status,
        "ms": round(seconds * 1000, 1),
        "key": record.key_name or "-",
    }
    if record.judgments:
        fields |= {
            "judgments": record.judgments,
            "failures": record.failures,
            "prompt_tokens": record.usage.prompt_tokens,
            "cached_tokens": record.usage.cached_tokens,
            "generated_tokens": record.usage.generated_tokens,
        }
    if record.replayed is not None:
        fields["replayed"] = record.replayed
    log.log(level, "request", extra=with_fields(**fields))


def _read_request_id(headers: Sequence[tuple[bytes, bytes]]) -> str:
    """Read the request's id. It is data of a stranger, so its length and characters are limited."""
    name = ID_HEADER.lower().encode()
    value = next((value for key, value in headers if key.lower() == name), b"").decode("latin-1")
    return re.sub(r"[^A-Za-z0-9._:-]", "_", value[:MAX_ID_LENGTH]) or uuid.uuid4().hex
