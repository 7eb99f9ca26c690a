"""Requests generated from `/openapi.json`: no 5xx, no undocumented answer, nothing judged against the schema."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from served import served
from web import HeldJudge, client, get_results

from flex_judge.reward.server.routes import create_app

schemathesis: Any = pytest.importorskip("schemathesis", reason="part of the dev group")
from schemathesis.checks import not_a_server_error  # noqa: E402
from schemathesis.generation import GenerationMode  # noqa: E402
from schemathesis.specs.openapi.checks import (  # noqa: E402
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CASES = 250
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
ROWS = {
    "/v1/judge": ("comparisons", "judgments", "ComparisonRow"),
    "/v1/rewards": ("samples", "rewards", "SampleRow"),
}
"""Path -> names of the rows and of their results, and schema of a row."""
MODES = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]
OPERATIONS = [
    "/v1/judge",
    "/v1/rewards",
    "/get_reward",
    "/rm",
    "/v1/media/{modality}/{digest}",
    "/v1/sleep",
    "/v1/wake",
]


@pytest.fixture(scope="module")
def schema() -> Iterator[Any]:
    with served(HeldJudge().judge) as service:
        yield schemathesis.openapi.from_url(f"{service.url}/openapi.json")


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES, ids=["valid", "invalid"])
@pytest.mark.parametrize("path", OPERATIONS)
def test_generated_requests(schema: Any, path: str, mode: Any) -> None:
    operation = schema[path]["PUT" if "media" in path else "POST"]
    answered = 0

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=CASES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    def run(case: Any) -> None:
        nonlocal answered
        response = case.call()
        case.validate_response(response, checks=CHECKS)
        if response.status_code == 200 and path in ROWS:
            answered += 1
            check_scored_rows(schema.raw_schema, path, case.body, response.json())

    run()
    assert answered or path not in ROWS


def check_scored_rows(document: dict[str, Any], path: str, body: Any, answer: dict[str, Any]) -> None:
    """Check that every row with another status than `invalid_input` conforms to the schema of its row."""
    rows_name, results_name, model = ROWS[path]
    validator = jsonschema.Draft202012Validator({**document, "$ref": f"#/components/schemas/{model}"})
    for row, result in zip(json.loads(json.dumps(body))[rows_name], answer[results_name], strict=True):
        if result["status"] != "invalid_input":
            validator.validate(row)


ACCEPTED: list[dict[str, Any]] = [
    {"images": None, "tools": None, "view": None, "rubric": None, "id": None, "sample_index": None},
    {"image": None, "videos": [], "audio": [None], "molecule": "CCO", "tools": "[]"},
    {"molecules": ["CCO", None], "view": "final", "tools": [{"name": "f"}, "g"]},
    {"prompt": {"role": "user", "content": {"type": "text", "text": "a"}}},
    {"prompt": [{"role": "user", "content": None, "name": "a", "tool_calls": [{"function": {"name": "f"}}]}]},
    {"responses": [[{"role": "assistant", "content": None}, {"role": "tool", "content": "a"}]]},
]
REFUSED: list[dict[str, Any]] = [
    {"images": [["AAA"]]},
    {"video": [[]]},
    {"audio": {}},
    {"molecules": [{}, None]},
    {"images": 1},
    {"images": [{"unknown": "a"}]},
    {"responses": []},
    {"responses": None},
    {"prompt": None},
    {"prompt": []},
    {"view": "half"},
    {"sample_index": -1},
    {"sample_index": 1.5},
    {"id": 1},
    {"rubric": ["general"]},
    {"unknown": None},
    {"tools": 1},
]


@pytest.mark.parametrize("fields", [*ACCEPTED, *REFUSED], ids=repr)
async def test_the_service_and_the_schema_of_a_row_agree(fields: dict[str, Any]) -> None:
    gateway = HeldJudge().gateway()
    app = create_app(gateway)
    validator = jsonschema.Draft202012Validator({**app.openapi(), "$ref": "#/components/schemas/ComparisonRow"})
    row = {"prompt": "a", "responses": ["b"], **fields}
    async with client(gateway) as http:
        (judgment,) = get_results(await http.post("/v1/judge", json={"comparisons": [row]}))
    assert (judgment["status"] != "invalid_input") == (fields in ACCEPTED), judgment["votes"]
    assert validator.is_valid(row) == (fields in ACCEPTED)
