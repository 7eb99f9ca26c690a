"""The reference of the HTTP API, read from the OpenAPI description that the service serves at `/openapi.json`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

from tables import code, table, text

from flex_judge.reward.server.gateway import Gateway, GatewayConfig
from flex_judge.reward.server.routes import create_app

Schema = Mapping[str, Any]


def generate() -> str:
    """Write one section per route and one per schema."""
    page = read_openapi()
    parts = [part for path, routes in page["paths"].items() for part in _describe_path(path, routes)]
    parts.append("## Schemas { #schemas }\n")
    for name, schema in sorted(page["components"]["schemas"].items()):
        parts += _describe_schema(name, schema)
    return "\n".join(parts)


def read_openapi() -> dict[str, Any]:
    """Return the OpenAPI description of a service. Its judge is never called."""

    async def never(*_: object) -> Any:
        raise NotImplementedError

    description: dict[str, Any] = create_app(Gateway(never, GatewayConfig())).openapi()
    return description


def _describe_path(path: str, routes: Mapping[str, Any]) -> Iterator[str]:
    for method, route in routes.items():
        yield f"## {method.upper()} {path}\n"
        yield f"{route['summary']}\n"
        if route.get("security") == []:
            yield "This route needs no API key.\n"
        if parameters := route.get("parameters"):
            rows = [[code(p["name"]), p["in"], _type(p["schema"]), text(p.get("description", ""))] for p in parameters]
            yield table(["Parameter", "In", "Type", "Meaning"], rows)
        if body := route.get("requestBody"):
            yield from _describe_body(body["content"])
        rows = [_describe_response(status, response) for status, response in sorted(route["responses"].items())]
        yield table(["Status", "Body", "When"], rows)


def _describe_body(content: Mapping[str, Any]) -> Iterator[str]:
    for media_type, body in content.items():
        yield f"Request body: {code(media_type)}, {_type(body['schema'])}.\n"
        if example := body.get("example"):
            yield f"```json\n{json.dumps(example, indent=2)}\n```\n"


def _describe_response(status: str, response: Mapping[str, Any]) -> list[str]:
    bodies = [_type(body["schema"]) for body in response.get("content", {}).values() if body.get("schema")]
    return [f"{status} {HTTPStatus(int(status)).phrase}", ", ".join(bodies), text(response["description"])]


def _describe_schema(name: str, schema: Schema) -> Iterator[str]:
    yield f"### {name} {{ #{name.lower()} }}\n"
    if description := schema.get("description"):
        yield f"{text(' '.join(description.split()))}\n"
    if values := schema.get("enum"):
        yield f"One of {', '.join(code(value) for value in values)}.\n"
    required = schema.get("required", ())
    rows = [
        [code(field), _type(value), _default(value, field in required), text(value.get("description", ""))]
        for field, value in schema.get("properties", {}).items()
    ]
    if rows:
        yield table(["Field", "Type", "Default", "Meaning"], rows)


def _default(schema: Schema, required: bool) -> str:
    if "default" in schema:
        return code(json.dumps(schema["default"]))
    return "required" if required else ""


def _type(schema: Schema) -> str:
    """Describe the type of a value in a few words, with links to schemas."""
    if reference := schema.get("$ref"):
        name = reference.rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if values := schema.get("enum"):
        return " or ".join(code(json.dumps(value)) for value in values)
    if choices := schema.get("anyOf", schema.get("oneOf")):
        return " or ".join(dict.fromkeys(map(_type, choices)))
    if all_of := schema.get("allOf"):
        return " and ".join(map(_type, all_of))
    kind = schema.get("type", "any")
    if kind == "array":
        items = schema.get("prefixItems") or [schema.get("items", {})]
        return f"array of {' and '.join(dict.fromkeys(map(_type, items)))}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        return f"object of {_type(schema['additionalProperties'])}"
    if kind == "object" and (properties := schema.get("properties")):
        return f"object with {', '.join(code(name) for name in properties)}"
    return str(kind)
