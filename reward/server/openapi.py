"""OpenAPI description of the routes.

The routes parse their bodies themselves, so FastAPI cannot derive the description from their signatures.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from flex_judge.reward.server.schemas import REFERENCES, build_schemas
from flex_judge.reward.wire import WIRE_HEADER, WIRE_VERSION

_DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "description": "Makes the request idempotent: a repeated request with the same key and content joins the running "
    "one or gets its answer, so it is judged once. The work continues if the client disconnects.",
}
_WIRE = {
    "name": WIRE_HEADER,
    "in": "header",
    "required": False,
    "schema": {"type": "string", "pattern": r"^[0-9]{1,6}(\.[0-9]{1,6})?$"},
    "description": "Version of the wire format that the client uses, such as `1.0`. Another major version is refused.",
}
_ERRORS = {
    400: "The request is not valid HTTP, has headers that are not UTF-8, or comes from a client with another major "
    "version of the wire format; `wire_version` is the service's.",
    401: "The API key is missing or wrong.",
    409: "Media must be uploaded first; `missing_media` holds their digests. Nothing was judged.",
    408: "The head or the body of the request arrived too slowly.",
    413: "The request is too large, or has too many items or JSON values.",
    415: "The body is not declared as `Content-Type: application/json`.",
    422: "A field of the request is invalid; `field` names it. An invalid row is no error: its result has the status "
    "`invalid_input`, and the detail names the field.",
    431: "The head of the request is too large.",
    503: "The service is overloaded, asleep or shutting down; retry after `Retry-After` seconds. Nothing was judged.",
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
    "/v1/adapters/{name}": {"path": "step-100"},
    "/v1/sleep": {"level": 1},
    "/v1/wake": {},
    "/get_reward": {
        "query": ["<|im_start|>user\nWhat is 2 + 3?<|im_end|>\n<|im_start|>assistant\nIt is 5.<|im_end|>"],
        "prompts": ["<|im_start|>user\nWhat is 2 + 3?<|im_end|>\n<|im_start|>assistant\n"],
        "labels": ['{"prompt": "What is 2 + 3?"}'],
    },
    "/rm": {"prompt": "What is 2 + 3?", "response": "It is 5.<|im_end|>", "label": "5"},
}
_COMMON_ERRORS = (400, 408, 431, 503)
"""Errors of all routes; the first three come from the HTTP proxy."""
_POST_ERRORS = (401, 409, 413, 415, 422)
_ROUTES: dict[str, tuple[str, str | None, str | None, tuple[int, ...]]] = {
    "/v1/judge": ("Judge comparisons.", "JudgeRequest", "JudgeResponse", _POST_ERRORS),
    "/v1/rewards": ("Reward completions.", "RewardsRequest", "RewardsResponse", _POST_ERRORS),
    "/get_reward": (
        "Remote reward model for OpenRLHF.",
        "OpenRlhfRequest",
        "OpenRlhfResponse",
        _POST_ERRORS,
    ),
    "/rm": ("Remote reward model for slime.", "SlimeRequest", "SlimeResponse", _POST_ERRORS),
    "/v1/adapters": ("List the judge's adapter.", None, "AdaptersResponse", (401,)),
    "/v1/adapters/{name}": (
        "Replace the judge's LoRA adapter on all replicas. Judgments in progress finish with the earlier one.",
        "AdapterRequest",
        "AdapterCard",
        (401, 413, 422),
    ),
    "/v1/sleep": (
        "Answer all accepted requests, then free the judge's memory on all replicas until it wakes.",
        "SleepRequest",
        "SleepResponse",
        (401, 413, 415, 422),
    ),
    "/v1/wake": ("Wake the judge on all replicas.", "WakeRequest", "SleepResponse", (401, 413, 415, 422)),
    "/v1/media/{modality}/{digest}": ("Upload a medium for any number of requests.", None, None, (401, 413, 422)),
    "/v1/models": ("List the judge's model, in OpenAI's form.", None, "ModelsResponse", (401,)),
    "/v1/rubrics": ("List the rubrics that requests may name.", None, "RubricsResponse", (401,)),
    "/version": ("Report the versions of the service.", None, "VersionResponse", (401,)),
    "/metrics": ("Report metrics in the text format of Prometheus.", None, None, (401,)),
    "/healthz": ("Report whether the service accepts requests; needs no key.", None, None, ()),
}
"""Summary, request schema, response schema, and further error statuses of each route."""


def build_operation(path: str) -> dict[str, Any]:
    """Build the arguments of FastAPI's `add_api_route` for a route."""
    summary, request_schema, response_schema, errors = _ROUTES[path]
    responses: dict[int | str, dict[str, Any]] = {
        status: {"description": _ERRORS[status], **_refer_to_schema("ErrorResponse")}
        for status in sorted({*_COMMON_ERRORS, *errors})
    }
    responses[200] = {"description": "Done.", **(_refer_to_schema(response_schema) if response_schema else {})}
    extra: dict[str, Any] = {}
    if request_schema:
        body = _refer_to_schema(request_schema)
        body["content"]["application/json"]["example"] = _EXAMPLES[path]
        parameters = [_KEY] if 409 in errors else []
        if path.startswith("/v1/adapters"):
            pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
            parameters = [_build_path_parameter("name", "Name of the adapter in judgments.", pattern=pattern)]
        extra = {"requestBody": {"required": True, **body}, "parameters": parameters}
    if path.startswith("/v1/media"):
        binary = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
        extra = {
            "requestBody": {"required": True, "content": binary},
            "parameters": [
                _build_path_parameter("modality", "`image`, `video` or `audio`.", enum=["image", "video", "audio"]),
                _build_path_parameter(
                    "digest",
                    "SHA-256 of `MODALITY:None:` and the file's bytes, in hex: `Media.digest`.",
                    pattern="^[0-9a-f]{64}$",
                ),
            ],
        }
    if path == "/metrics":
        responses[200]["content"] = {"text/plain": {"schema": {"type": "string"}}}
    if path == "/healthz":
        extra["security"] = []
    else:
        extra["parameters"] = [*extra.get("parameters", ()), _WIRE]
    return {"summary": summary, "responses": responses, "openapi_extra": extra, "response_model": None}


def install_openapi(app: FastAPI) -> None:
    """Install the OpenAPI description in an application."""

    def build_openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=WIRE_VERSION, description=app.description, routes=app.routes)
            components = schema.setdefault("components", {})
            components["schemas"] = build_schemas()
            components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            schema["security"] = [{"key": []}]
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = build_openapi  # type: ignore[method-assign]


def _refer_to_schema(schema: str) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": {"$ref": REFERENCES.format(model=schema)}}}}


def _build_path_parameter(name: str, description: str, **schema: Any) -> dict[str, Any]:
    schema = {"type": "string", **schema}
    return {"name": name, "in": "path", "required": True, "schema": schema, "description": description}
