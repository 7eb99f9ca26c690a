"""Page of the HTTP API at `/docs`: the OpenAPI description as HTML, without files of other hosts.

A small script sends the example of a route, which a reader may change. The page has no other script.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Schema = Mapping[str, Any]
REFERENCE_PREFIX = "#/components/schemas/"
STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
h2 { border-top: 1px solid var(--line); padding-top: 1rem; overflow-wrap: anywhere; }
h2 code { font-size: 1.1rem; }
code, pre, textarea { font: 14px/1.4 ui-monospace, monospace; }
pre, textarea { background: var(--soft); padding: .6rem; overflow-x: auto; border: 0; border-radius: 4px; }
textarea { width: 100%; box-sizing: border-box; min-height: 14rem; color: inherit; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { border: 1px solid var(--line); padding: .2rem .5rem; text-align: left; vertical-align: top; }
.method { background: var(--soft); border-radius: 4px; padding: 0 .4rem; }
"""
SCRIPT = """
for (const form of document.querySelectorAll("form")) form.addEventListener("submit", async event => {
  event.preventDefault();
  const output = form.querySelector("pre"), body = form.querySelector("textarea");
  output.hidden = false;
  output.textContent = "waiting for the answer";
  const options = body ? {method: "POST", headers: {"Content-Type": "application/json"}, body: body.value} : {};
  try {
    const answer = await fetch(form.dataset.path, options), text = await answer.text();
    let shown = text;
    try { shown = JSON.stringify(JSON.parse(text), null, 2); } catch {}
    output.textContent = answer.status + " " + answer.statusText + "\\n" + shown;
  } catch (error) { output.textContent = "no answer: " + error; }
});
"""


def _compute_source_hash(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; connect-src 'self'; script-src {_compute_source_hash(SCRIPT)}; "
    f"style-src {_compute_source_hash(STYLE)}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Header of the page: only its own style and script run, and they reach only this service."""


def build_page(description: Mapping[str, Any]) -> str:
    """Build the page.

    Args:
        description: the OpenAPI description.
    """
    title, about = html.escape(description["info"]["title"]), html.escape(description["info"]["description"])
    links = "".join(
        f'<li><a href="#{_make_anchor(method, path)}"><code>{method.upper()} {html.escape(path)}</code></a> '
        f"{_format_text(operation['summary'])}</li>"
        for path, operations in description["paths"].items()
        for method, operation in operations.items()
    )
    routes = "".join(
        section
        for path, operations in description["paths"].items()
        for method, operation in operations.items()
        for section in _describe_operation(path, method, operation)
    )
    schemas = "".join(
        section
        for name, schema in sorted(description["components"]["schemas"].items())
        for section in _describe_schema(name, schema)
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head><body>'
        f"<h1>{title}</h1><p>{about} Wire version {html.escape(description['info']['version'])}. The same as "
        f'<a href="openapi.json">openapi.json</a>.</p><ul>{links}</ul>{routes}<h2 id="schemas">Schemas</h2>{schemas}'
        f"<script>{SCRIPT}</script></body></html>"
    )


def _describe_operation(path: str, method: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f'<section><h2 id="{_make_anchor(method, path)}"><code class="method">{method.upper()}</code> '
        f"<code>{html.escape(path)}</code></h2><p>{_format_text(operation['summary'])}</p>"
    )
    rows = [
        (f"<code>{html.escape(p['name'])}</code>", p["in"], _format_type(p["schema"]), _format_text(p["description"]))
        for p in operation.get("parameters", ())
    ]
    if rows:
        yield _format_table(("Parameter", "In", "Type", "Meaning"), rows)
    for media_type, body in operation.get("requestBody", {}).get("content", {}).items():
        yield f"<p>Request body: <code>{html.escape(media_type)}</code>, {_format_type(body['schema'])}.</p>"
        if "example" in body:
            example = html.escape(json.dumps(body["example"], indent=2))
            yield _format_form(path, f'<textarea aria-label="Request body" spellcheck="false">{example}</textarea>')
    if method == "get":
        yield _format_form(path, "")
    answers = []
    for status, response in sorted(operation["responses"].items()):
        kinds = [_format_type(content["schema"]) for content in response.get("content", {}).values()]
        answers.append((html.escape(status), ", ".join(kinds), _format_text(response["description"])))
    yield f"{_format_table(('Status', 'Body', 'When'), answers)}</section>"


def _format_form(path: str, body: str) -> str:
    return (
        f'<form data-path="{html.escape(path.removeprefix("/"))}">{body}<p><button>Send</button></p>'
        "<pre hidden></pre></form>"
    )


def _describe_schema(name: str, schema: Schema) -> Iterator[str]:
    yield f'<section><h3 id="{html.escape(name)}">{html.escape(name)}</h3><p>'
    yield f"{_format_text(schema.get('description', ''))}</p>"
    if values := schema.get("enum"):
        yield f"<p>One of {', '.join(f'<code>{html.escape(str(value))}</code>' for value in values)}.</p>"
    required = schema.get("required", ())
    rows = [
        (
            f"<code>{html.escape(field)}</code>",
            _format_type(value),
            f"<code>{html.escape(json.dumps(value['default']))}</code>"
            if "default" in value
            else "required"
            if field in required
            else "",
            _format_text(value.get("description", "")),
        )
        for field, value in schema.get("properties", {}).items()
    ]
    yield f"{_format_table(('Field', 'Type', 'Default', 'Meaning'), rows) if rows else ''}</section>"


def _format_type(schema: Schema) -> str:
    """Format the type of a value in a few words, with links to schemas."""
    if reference := schema.get("$ref"):
        name = html.escape(reference.removeprefix(REFERENCE_PREFIX))
        return f'<a href="#{name}">{name}</a>'
    if choices := schema.get("anyOf", schema.get("oneOf", schema.get("allOf"))):
        return " or ".join(dict.fromkeys(map(_format_type, choices)))
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return " or ".join(f"<code>{html.escape(json.dumps(value))}</code>" for value in values)
    kind = schema.get("type", "any")
    return f"array of {_format_type(schema.get('items', {}))}" if kind == "array" else html.escape(str(kind))


def _format_text(text: str) -> str:
    """Format text with code in backticks."""
    pieces = [html.escape(piece) for piece in " ".join(text.split()).split("`")]
    return "".join(f"<code>{piece}</code>" if i % 2 else piece for i, piece in enumerate(pieces))


def _format_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    head = "".join(f"<th>{cell}</th>" for cell in header)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _make_anchor(method: str, path: str) -> str:
    return html.escape("".join(c if c.isalnum() else "-" for c in f"{method}{path}"))
