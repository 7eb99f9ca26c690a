"""Version of the wire format between clients and services: the JSON of requests, answers and errors.

Both sides send their version with every message. A different major version is refused with an error that says what to
upgrade; a message without a version is accepted, because clients in other languages and trainers send none.
"""

from __future__ import annotations

import re

import flex_judge
from flex_judge.judges.errors import IncompatibleVersionError

WIRE_VERSION = "1.0"
"""MAJOR.MINOR. The minor version grows with new fields and routes, the major version if old messages lose their
meaning."""
WIRE_HEADER = "Flex-Judge-Wire-Version"
"""Header of requests and responses."""


def check_client_version(header: str | None) -> None:
    """Check the wire version that a client sent.

    Args:
        header: the header; None if the client sent none.

    Raises:
        IncompatibleVersionError: the client has another major version.
    """
    _check_version(header, "client", "service")


def check_service_version(header: str | None, url: str) -> None:
    """Check the wire version that a service sent, like `check_client_version`.

    Args:
        header: the header; None if the service sent none.
        url: address of the service, for the message.
    """
    _check_version(header, "service", "client", f"{url}: ")


def _check_version(header: str | None, other: str, own: str, place: str = "") -> None:
    if header is None or _parse_major(header) == _parse_major(WIRE_VERSION):
        return
    raise IncompatibleVersionError(
        f"{place}the {other} uses wire version {_show(header)} and this {own} {WIRE_VERSION} (flex-judge "
        f"{flex_judge.__version__}); {_advise(header, other, own)}"
    )


def _advise(header: str, other: str, own: str) -> str:
    """Say which side is older and must be upgraded."""
    major = _parse_major(header)
    if major is None:
        return f"the {other} must send {WIRE_HEADER}: MAJOR.MINOR, or no such header"
    older = other if major < int(WIRE_VERSION.partition(".")[0]) else own
    return f"upgrade flex-judge in the {older}, or install the same version on both sides"


def _parse_major(version: str) -> int | None:
    """Parse the major version; None if it is not a version."""
    match = re.fullmatch(r"([0-9]{1,6})(\.[0-9]{1,6})?", version)
    return int(match[1]) if match else None


def _show(header: str) -> str:
    return header if _parse_major(header) is not None else repr(header[:40])
