"""JSON responses of all routes, and the declaration of JSON in requests."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from flex_judge.judges.io.json_values import dump_json


def build_json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Build a JSON response from a JSON value, or from bytes that are JSON already."""
    body = content if isinstance(content, bytes) else encode_json(content)
    return Response(body, status, headers, media_type="application/json")


def encode_json(content: Any) -> bytes:
    """Encode JSON in ASCII, because texts may contain lone surrogates, which UTF-8 cannot encode."""
    return dump_json(content, ascii_only=True).encode()


def check_json_type(request: Request) -> None:
    """Raise HTTPException unless the body of a request is declared as JSON.

    Browsers send other content types across sites without a preflight request, so any web page could post here.
    """
    if request.headers.get("Content-Type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "send JSON, with the header 'Content-Type: application/json'")
