"""Requests and answers as the OpenAPI page shows them. Only the web side loads this module: it imports pydantic.

Rows, which hold prompts, responses and media, are only described here: `flex_judge.reward.server.decoding` reads
them, and says where
something is wrong. The rest of a request is checked by these models.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, WithJsonSchema

from flex_judge.judges.judgments import Judgment
from flex_judge.judges.types import MAX_SAMPLE_INDEX
from flex_judge.reward.server.decoding import check_fields, suggest_name
from flex_judge.reward.server.errors import FieldError
from flex_judge.reward.types import METHODS, NORMALIZATIONS, REWARDS, Reward, RewardSpec

REFERENCES = "#/components/schemas/{model}"
_SPEC = RewardSpec()
_TEXT: dict[str, Any] = {"type": "string"}
_OBJECT: dict[str, Any] = {"type": "object"}

Reference = Annotated[
    Any,
    WithJsonSchema(
        {
            "description": 'A medium: {"digest": ...} of what was uploaded with PUT /v1/media; a base64 data URI; '
            '{"url": "https://..."}, for hosts that the service allows; of a video also {"frames": [...], "fps": ...}. '
            "A molecule is its SMILES. Paths are never opened.",
            "anyOf": [
                _TEXT,
                {"type": "object", "properties": {"digest": _TEXT}, "required": ["digest"]},
                {"type": "object", "properties": {"url": _TEXT}, "required": ["url"]},
                {
                    "type": "object",
                    "properties": {"frames": {"type": "array", "items": {}}, "fps": {"type": "number"}},
                    "required": ["frames", "fps"],
                },
            ],
            "examples": [{"digest": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}],
        }
    ),
]
_PARTS: dict[str, Any] = {
    "type": "array",
    "items": _OBJECT,
    "description": 'Parts: {"type": "text", "text": ...}, {"type": "image", "image": <reference>}, likewise video, '
    'audio and molecule (or {"type": "molecule", "smiles": ...}), or {"type": "image_url", "image_url": {"url": ...}}.',
}
_MESSAGES: dict[str, Any] = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"role": _TEXT, "content": {"anyOf": [_TEXT, _PARTS]}},
        "required": ["role", "content"],
    },
    "description": "Messages.",
}
Prompt = Annotated[
    Any,
    WithJsonSchema(
        {"description": "The question: text, or messages.", "anyOf": [_TEXT, _MESSAGES], "examples": ["What is 2 + 3?"]}
    ),
]
Response = Annotated[
    Any,
    WithJsonSchema(
        {
            "description": "An answer: text, parts, or messages.",
            "anyOf": [_TEXT, _PARTS, _MESSAGES],
            "examples": ["It is 5."],
        }
    ),
]
Images = Annotated[
    list[Reference],
    Field(description="Images that belong to the prompt: for its parts without an image of their own, or before it."),
]


class StrictModel(BaseModel):
    """No field but these, and no text where a number belongs."""

    model_config = ConfigDict(strict=True, extra="forbid", use_attribute_docstrings=True)


def _refer_to_row(model: str) -> WithJsonSchema:
    return WithJsonSchema({"$ref": REFERENCES.format(model=model)})


class ComparisonRow(StrictModel):
    """One question and the answers that are judged together."""

    prompt: Prompt
    responses: list[Response]
    """1 is a single score, 2 a pair, more a batch; the rubric must be made for so many."""
    images: Images = []
    rubric: str = "general"
    """Name of a rubric."""
    id: str = ""
    """Comes back with the judgment."""
    sample_index: Annotated[int, Field(ge=0, le=MAX_SAMPLE_INDEX)] = 0
    """Which judgment of the same comparison is wanted: with another number the judge draws other votes."""


class JudgeRequest(StrictModel):
    comparisons: Annotated[list[Annotated[Any, _refer_to_row("ComparisonRow")]], Field(min_length=1)]
    deadline_s: Annotated[float | None, Field(ge=0, allow_inf_nan=False)] = None
    """Seconds until the answer; what is not ready by then has status timeout. The service has a longest one."""


class JudgeResponse(BaseModel):
    judgments: list[Judgment]


class SampleRow(StrictModel):
    """One completion of one prompt."""

    prompt: Prompt
    response: Response
    baseline: Response = None
    """The answer that it is held against, for the method `baseline`."""
    group: str | None = None
    """Tells apart groups whose prompts are the same."""
    images: Images = []


class RewardsRequest(StrictModel):
    samples: Annotated[list[Annotated[Any, _refer_to_row("SampleRow")]], Field(min_length=1)]
    rubric: str = _SPEC.rubric
    """Name of a rubric."""
    method: Annotated[str, Field(json_schema_extra={"enum": list(METHODS)})] = _SPEC.method
    """How the completions of a prompt are judged: each alone, every pair, a knock-out, each against its baseline, or
    all in one comparison."""
    reward: Annotated[str, Field(json_schema_extra={"enum": list(REWARDS)})] = _SPEC.reward
    """What becomes the reward."""
    normalize: Annotated[str, Field(json_schema_extra={"enum": list(NORMALIZATIONS)})] = _SPEC.normalize
    """What is done to the rewards of a group."""
    group_size: int | None = None
    """Completions that a prompt's group has, from any number of requests; null: those of this request."""
    group_timeout_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = _SPEC.group_timeout_s
    """Seconds that a group waits for its missing members."""
    deadline_s: Annotated[float | None, Field(ge=0, allow_inf_nan=False)] = None
    """Seconds until the answer; what is not ready by then has status timeout. The service has a longest one."""


class RewardsResponse(BaseModel):
    rewards: list[Reward]


class OpenRlhfRequest(BaseModel):
    """What OpenRLHF sends to its remote reward model."""

    model_config = ConfigDict(strict=True, extra="ignore", use_attribute_docstrings=True)

    query: list[str]
    """Prompt and response in one text, with the tokens of the chat template."""
    prompts: list[str]
    """What each query begins with."""
    labels: list[Any] | None = None
    """One for each query. A JSON object, or the text of one, may hold `prompt` (what the judge is shown in the place of
    the templated text: text or messages), `images`, `baseline`, `group` and `rubric`; all else is left alone."""


class OpenRlhfResponse(BaseModel):
    rewards: list[float | None]
    """null where there is no score."""
    scores: list[float | None]
    """From 0 to 1 on the rubric's scale."""
    extra_logs: dict[str, list[float]]


class ErrorResponse(BaseModel):
    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)

    error: str
    """What is wrong and what to do, in one line."""
    field: str | None = None
    """The field that is wrong, such as `samples[3].response`."""
    missing_media: list[str] | None = None
    """With 409: the digests of media that must be uploaded first."""


M = TypeVar("M", bound=BaseModel)


def validate_request(model: type[M], value: Any) -> M:
    """A request's JSON as its model.

    Raises:
        FieldError: a field is missing, unknown or wrong; the first one is named.
    """
    if not isinstance(value, dict):
        check_fields(value, "body", ())
    try:
        return model.model_validate(value)
    except ValidationError as e:
        wrong = e.errors(include_url=False, include_input=False)[0]
        field = "".join(f"[{p}]" if isinstance(p, int) else f".{p:.60}" for p in wrong["loc"]).lstrip(".")
        problem = wrong["msg"].removeprefix("Input ").lower()
        if wrong["type"] == "extra_forbidden":
            problem = f"unknown field; {suggest_name(str(wrong['loc'][-1]), list(model.model_fields))}"
        elif wrong["type"] == "missing":
            problem = "is missing"
        raise FieldError.at_field(field, problem) from e


def build_schemas() -> dict[str, Any]:
    """JSON schemas of all requests and answers, by name."""
    requests = JudgeRequest, ComparisonRow, RewardsRequest, SampleRow, OpenRlhfRequest
    answers = JudgeResponse, RewardsResponse, OpenRlhfResponse, ErrorResponse
    adapters: list[Any] = [(model.__name__, "validation", TypeAdapter(model)) for model in requests]
    adapters += [(model.__name__, "serialization", TypeAdapter(model)) for model in answers]
    _, definitions = TypeAdapter.json_schemas(adapters, ref_template=REFERENCES)
    found: dict[str, Any] = definitions["$defs"]
    return found
