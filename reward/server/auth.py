"""What is done with a request before anybody looks at what it asks: its key, its size, its JSON."""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from flex_judge.judges.errors import AccessError, RequestTooLargeError
from flex_judge.reward.server.errors import FieldError

if TYPE_CHECKING:
    from starlette.requests import Request

MIB = 1 << 20
MAX_DEPTH = 32
"""Lists and objects in each other. What we take is a dozen deep."""


def check_api_key(authorization: str | None, api_key: str | None) -> None:
    """Raise AccessError unless a request may pass.

    Args:
        authorization: the header. `Bearer KEY`; or `Basic`, any user with the key as password, for clients that can
            only put a key into the URL, as OpenRLHF and browsers do.
        api_key: the key; None lets everybody in.
    """
    if api_key is None:
        return
    scheme, _, given = (authorization or "").partition(" ")
    if scheme.lower() == "basic":
        given = _decode_basic_password(given)
    elif scheme.lower() != "bearer":
        given = ""
    # In constant time, so that answers do not tell how much of a guess was right.
    if not hmac.compare_digest(given.strip().encode(errors="replace"), api_key.encode()):
        problem = "the API key is wrong" if given else "an API key is needed"
        raise AccessError(f"{problem}: send the header 'Authorization: Bearer KEY'")


async def read_body(request: Request, most_mib: int, count: Callable[[int], None]) -> bytes:
    """The body of a request.

    Args:
        most_mib: how large it may be; what it says of itself is not relied on.
        count: called with the bytes of every piece that arrives, and may refuse them.

    Raises:
        RequestTooLargeError: it is larger.
    """
    most = most_mib * MIB
    announced = request.headers.get("Content-Length", "")
    if announced.isdecimal() and int(announced[:20]) > most:
        raise RequestTooLargeError(f"the request is larger than the {most_mib} MiB allowed; send it in several")
    body = bytearray()
    async for piece in request.stream():
        if len(body) + len(piece) > most:
            raise RequestTooLargeError(f"the request is larger than the {most_mib} MiB allowed; send it in several")
        count(len(piece))
        body += piece
    return bytes(body)


def parse_strict_json(data: bytes | str, field: str = "body") -> Any:
    """Read JSON as the standard has it: no NaN, no Infinity; and not nested without end.

    Raises:
        FieldError: it is not that.
    """
    try:
        text = data.decode() if isinstance(data, bytes) else data
        value = json.loads(text, parse_constant=_reject_constant)
    except (ValueError, RecursionError) as e:  # UnicodeDecodeError and numbers of too many digits are ValueErrors
        reason = "nested too deeply" if isinstance(e, RecursionError) else str(e)[:200]
        raise FieldError.at_field(field, f"not JSON: {reason}") from e
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in _list_nested_values(outer)]
        if not level:
            return value
    raise FieldError.at_field(field, f"not JSON that is taken here: nested more than {MAX_DEPTH} deep")


def _list_nested_values(value: Any) -> list[Any]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [v for v in inner if isinstance(v, dict | list)]


def _reject_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number in JSON")


def _decode_basic_password(encoded: str) -> str:
    try:
        return base64.b64decode(encoded, validate=True).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return ""
