"""First checks of a request, before its content is decoded: API key, size, and JSON syntax."""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from flex_judge.judges.errors import AccessError, RequestTooLargeError
from flex_judge.judges.validation.json_structure import is_deeper, make_unique_object
from flex_judge.reward.client.api_key import hash_key, hash_keys, split_keys
from flex_judge.reward.server.errors import FieldError

if TYPE_CHECKING:
    from starlette.requests import Request

MIB = 1 << 20
MAX_DEPTH = 32
"""Maximum nesting of lists and objects in a row. Valid rows need about a dozen levels."""
MAX_BODY_DEPTH = 256
"""Maximum nesting in a request. Above MAX_DEPTH, so that a deep row costs itself only, and low enough for the stack."""

TOKENS_PER_MIB = 50_000
"""Maximum number of strings, lists, objects and commas for each MiB of text allowed.

Rows of a few words have about as many, rows with texts of a page a hundredth."""
# A string that does not end matches too: the search would otherwise start again at each quote inside it.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_DATA_URI = re.compile(rb'"data:[\w.+-]{1,40}\\?/[\w.+-]{1,80};base64,')
_STRUCTURE = (b",", b"[", b"{")


def check_api_key(authorization: str | None, api_key: str | None) -> str:
    """Raise AccessError unless a request has an API key of the service.

    Keys are compared by their SHA-256, so a service needs no key in clear. Keys are long and random, so the hash needs
    no salt.

    Args:
        authorization: the Authorization header. Either `Bearer KEY`, or `Basic` with any user name and the key as
            password, for clients that can only put a key into the URL (OpenRLHF, browsers).
        api_key: the expected keys or their hashes, see `GatewayConfig.api_key`; None accepts every request.

    Returns:
        The name of the key; empty for a key without one.
    """
    if api_key is None:
        return ""
    scheme, _, key = (authorization or "").partition(" ")
    if scheme.lower() == "basic":
        key = _decode_basic_password(key)
    elif scheme.lower() != "bearer":
        key = ""
    names = [name for name, expected in split_keys(hash_keys(api_key)) if _is_same_key(key.strip(), name, expected)]
    if not names:
        problem = "the API key is wrong" if key else "an API key is needed"
        raise AccessError(f"{problem}: send the header 'Authorization: Bearer KEY'")
    return names[0]


def _is_same_key(key: str, name: str, expected: str) -> bool:
    """Compare hashes of keys in constant time: response times must not reveal how much of a guessed key is right.

    A client may send the whole entry `NAME:KEY`, so that it can use the service's own key file.
    """
    sent = key.removeprefix(f"{name}:") if name else key
    return hmac.compare_digest(hash_key(sent), expected)


async def read_body(request: Request, max_mib: int, count_bytes: Callable[[int], None]) -> bytes:
    """Read the body of a request.

    Args:
        request: the request.
        max_mib: maximum size in MiB. The received bytes are counted, as Content-Length may be missing or wrong.
        count_bytes: called with the size of each received chunk; may raise to stop reading.

    Raises:
        RequestTooLargeError: the body is larger than `max_mib`.
    """
    max_bytes = max_mib * MIB
    error = RequestTooLargeError(f"the request is larger than the {max_mib} MiB allowed; send several smaller ones")
    content_length = request.headers.get("Content-Length", "")
    # Only 20 digits are parsed, because Python rejects integers of more than 4300 digits with another error.
    if content_length.isdecimal() and int(content_length[:20]) > max_bytes:
        raise error
    body = bytearray()
    async for chunk in request.stream():
        if len(body) + len(chunk) > max_bytes:
            raise error
        count_bytes(len(chunk))
        body += chunk
    return bytes(body)


def check_structure(body: bytes, max_text_mib: int) -> None:
    """Check that a JSON body is cheap enough to parse, in one pass over its bytes.

    Parsing is expensive where bytes are cheap: 58 MiB of `[],` become 20 million lists, which take 2 GB and many
    seconds.

    Args:
        body: the body. It need not be valid JSON.
        max_text_mib: maximum size of everything except base64 data URIs, in MiB. It also bounds the number of values.

    Raises:
        RequestTooLargeError: the body has too much text or too many values.
    """
    text_bytes, max_tokens = len(body), max_text_mib * TOKENS_PER_MIB
    tokens = position = 0
    while tokens <= max_tokens:
        start = body.find(b'"', position)
        tokens += sum(body.count(mark, position, start if start >= 0 else None) for mark in _STRUCTURE)
        if start < 0:
            break
        tokens += 1
        position = _find_string_end(body, start)
        if _DATA_URI.match(body, start):
            text_bytes -= position - start
    advice = "send several smaller requests"
    if tokens > max_tokens:
        raise RequestTooLargeError(f"the request has more than the {max_tokens} JSON values allowed; {advice}")
    if text_bytes > max_text_mib * MIB:
        raise RequestTooLargeError(
            f"the texts of the request have {text_bytes / MIB:.1f} MiB, more than the {max_text_mib} MiB allowed "
            f"(max_text_mib; media as base64 data URIs do not count); {advice}"
        )


def parse_strict_json(data: bytes | str, field: str = "body", max_depth: int = MAX_DEPTH) -> Any:
    """Parse standard JSON (without NaN, Infinity and repeated fields) of limited nesting depth.

    Args:
        data: the text, or its UTF-8 bytes.
        field: name of the field, for error messages.
        max_depth: maximum nesting.

    Raises:
        FieldError: the data is invalid or nested too deeply.
    """
    try:
        text = data.decode() if isinstance(data, bytes) else data
        value = json.loads(text, parse_constant=_reject_constant, object_pairs_hook=make_unique_object)
    except (ValueError, RecursionError) as e:  # UnicodeDecodeError and numbers of too many digits are ValueErrors
        reason = "nested too deeply" if isinstance(e, RecursionError) else str(e)[:200]
        raise FieldError.at_field(field, f"not JSON: {reason}") from e
    check_depth(value, field, max_depth)
    return value


def check_depth(value: Any, field: str, max_depth: int = MAX_DEPTH) -> None:
    """Raise FieldError if a value is nested too deeply."""
    if is_deeper(value, max_depth):
        raise FieldError.at_field(field, f"expected JSON of at most {max_depth} nested levels, got more")


def _reject_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number in JSON")


def _decode_basic_password(encoded: str) -> str:
    try:
        return base64.b64decode(encoded, validate=True).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return ""


def _find_string_end(body: bytes, start: int) -> int:
    """Find the position after a string that starts at a quote."""
    end = body.find(b'"', start + 1)
    if end >= 0 and not body.count(b"\\", end - 1, end):
        return end + 1  # The usual case, and much faster than the pattern for long media: no escape before the quote.
    string = _STRING.match(body, start)
    assert string is not None
    return string.end()
