"""The OpenAPI page: what each route takes and gives. The routes read their bodies themselves, so it is put together
here.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from flex_judge.reward.server.schemas import REFERENCES, build_schemas

_DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "maxLength": 255},
    "description": "A request that is sent again with the same key and content joins the one under way, or gets its "
    "answer: it is judged once. The work goes on when the client disconnects.",
}
_ERRORS = {
    401: "No key, or a wrong one.",
    409: "Media must be uploaded first; `missing_media` holds their digests. Nothing was judged.",
    413: "Too large, or too many.",
    422: "Something is wrong in the request; `field` says where.",
    502: "A host of media by URL does not answer.",
    503: "Too much is waiting, or the service is shutting down; `Retry-After` says when to come back. Nothing was "
    "judged.",
}
_EXAMPLES: dict[str, Any] = {
    "/v1/judge": {
        "comparisons": [
            {"prompt": "What is 2 + 3?", "responses": ["It is 5.", "It is 6."], "id": "a pair"},
            {
                "prompt": "What is in the picture?",
                "images": [{"digest": _DIGEST}],
                "responses": ["A cat."],
                "rubric": "correctness",
            },
        ]
    },
    "/v1/rewards": {
        "samples": [
            {"prompt": "What is 2 + 3?", "response": "It is 5."},
            {"prompt": "What is 2 + 3?", "response": "It is 6."},
        ],
        "method": "round_robin",
        "reward": "win_rate",
    },
    "/get_reward": {
        "query": ["<|im_start|>user\nWhat is 2 + 3?<|im_end|>\n<|im_start|>assistant\nIt is 5.<|im_end|>"],
        "prompts": ["<|im_start|>user\nWhat is 2 + 3?<|im_end|>\n<|im_start|>assistant\n"],
        "labels": ['{"prompt": "What is 2 + 3?"}'],
    },
}
_ROUTES: dict[str, tuple[str, str | None, str | None, tuple[int, ...]]] = {
    "/v1/judge": ("Judge comparisons.", "JudgeRequest", "JudgeResponse", (401, 409, 413, 422, 502, 503)),
    "/v1/rewards": ("Rewards for completions.", "RewardsRequest", "RewardsResponse", (401, 409, 413, 422, 502, 503)),
    "/get_reward": ("OpenRLHF's remote reward model.", "OpenRlhfRequest", "OpenRlhfResponse", (401, 413, 422, 503)),
    "/v1/media/{modality}/{digest}": ("Upload a medium, once for many requests.", None, None, (401, 413, 422, 503)),
    "/healthz": ("Whether the service takes requests; needs no key.", None, None, (503,)),
}
"""Summary, names of what it takes and gives, and errors of each route."""


def build_operation(path: str) -> dict[str, Any]:
    """What FastAPI is told of a route: arguments of `add_api_route`."""
    summary, takes, gives, errors = _ROUTES[path]
    responses: dict[int | str, dict[str, Any]] = {
        status: {"description": _ERRORS[status], **_refer_to_schema("ErrorResponse")} for status in errors
    }
    responses[200] = {"description": "Done.", **(_refer_to_schema(gives) if gives else {})}
    extra: dict[str, Any] = {}
    if takes:
        body = _refer_to_schema(takes)
        body["content"]["application/json"]["example"] = _EXAMPLES[path]
        extra = {"requestBody": {"required": True, **body}, "parameters": [_KEY]}
    if path.startswith("/v1/media"):
        binary = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
        extra = {
            "requestBody": {"required": True, "content": binary},
            "parameters": [
                _build_path_parameter("modality", "`image`, `video` or `audio`."),
                _build_path_parameter(
                    "digest", "SHA-256 of `MODALITY:None:` and the file's bytes, in hex: `Media.digest`."
                ),
            ],
        }
    if path == "/healthz":
        extra["security"] = []
    return {"summary": summary, "responses": responses, "openapi_extra": extra, "response_model": None}


def install_openapi(app: FastAPI) -> None:
    """Give an application its OpenAPI page."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            page = get_openapi(title=app.title, version="1", description=app.description, routes=app.routes)
            components = page.setdefault("components", {})
            components["schemas"] = build_schemas()
            components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            page["security"] = [{"key": []}]
            app.openapi_schema = page
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _refer_to_schema(schema: str) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": {"$ref": REFERENCES.format(model=schema)}}}}


def _build_path_parameter(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}, "description": description}
