"""Request and response models, as the OpenAPI page shows them.

Rows (with prompts, responses and media) are only described here; `flex_judge.reward.server.decoding` decodes and checks
them. These models check all other fields of a request. Only the HTTP side imports this module.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, RootModel, TypeAdapter, ValidationError, WithJsonSchema

from flex_judge.judges.conversations.messages import VIEWS
from flex_judge.judges.errors import suggest_name
from flex_judge.judges.judgments import Judgment
from flex_judge.judges.media.types import Modality
from flex_judge.judges.types import MAX_SAMPLE_INDEX
from flex_judge.reward.server import info_schemas as info
from flex_judge.reward.server.decoding import check_fields
from flex_judge.reward.server.errors import FieldError
from flex_judge.reward.types import METHODS, NORMALIZATIONS, REWARDS, Reward, RewardSpec

REFERENCES = "#/components/schemas/{model}"
_SPEC = RewardSpec()
_TEXT: dict[str, Any] = {"type": "string"}
_OBJECT: dict[str, Any] = {"type": "object"}

_NULL: dict[str, Any] = {"type": "null"}
_MEDIUM: dict[str, Any] = {
    "description": 'A medium: {"digest": ...} of a file uploaded with PUT /v1/media; a base64 data URI; '
    '{"url": "https://..."}, if the service allows the host; {"data": <base64>}; for a video also {"frames": [...], '
    '"fps": ...}. A molecule is its SMILES. Paths are never opened. Null is no medium.',
    "anyOf": [
        _TEXT,
        {"type": "object", "properties": {"digest": _TEXT}, "required": ["digest"]},
        {"type": "object", "properties": {"url": _TEXT}, "required": ["url"]},
        {"type": "object", "properties": {"data": _TEXT}, "required": ["data"]},
        {"type": "object", "properties": {"base64": _TEXT}, "required": ["base64"]},
        {
            "type": "object",
            "properties": {"frames": {"type": "array", "items": {}}, "fps": {"type": "number"}},
            "required": ["frames", "fps"],
        },
        *(
            {"type": "object", "properties": {name: {"type": ["string", "object"]}}, "required": [name]}
            for name in (*map(str, Modality), *(f"{modality}_url" for modality in Modality))
        ),
        _NULL,
    ],
    "examples": [{"digest": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}],
}
_PART: dict[str, Any] = {
    "anyOf": [_TEXT, _OBJECT],
    "description": 'A part: {"type": "text", "text": ...}, {"type": "image", "image": <medium>}, the same for video, '
    'audio and molecule (or {"type": "molecule", "smiles": ...}), or {"type": "image_url", "image_url": {"url": ...}}.',
}
_CONTENT: list[dict[str, Any]] = [_TEXT, _PART, {"type": "array", "items": _PART}]
_OPTIONAL_TEXT: dict[str, Any] = {"anyOf": [_TEXT, _NULL]}
_TOOLS: dict[str, Any] = {
    "anyOf": [{"type": "array", "items": {"anyOf": [_OBJECT, _TEXT]}}, _OBJECT, _TEXT, _NULL],
    "description": "Definitions of tools: a list of objects, or JSON text.",
}
_CALLS: dict[str, Any] = {
    "anyOf": [{"type": "array", "items": {"anyOf": [_OBJECT, _TEXT]}}, _OBJECT, _TEXT, _NULL],
    "description": "Tool calls in OpenAI's format: a list of objects, or JSON text.",
}
_MESSAGE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "role": _TEXT,
        "content": {"anyOf": [*_CONTENT, _NULL]},
        "tool_calls": _CALLS,
        "tools": _TOOLS,
        **dict.fromkeys(("tool_call_id", "name", "reasoning_content", "refusal"), _OPTIONAL_TEXT),
    },
    "required": ["role"],
    "description": "A message in OpenAI's format. An unknown field with a value is an error.",
}
Prompt = Annotated[
    Any,
    WithJsonSchema(
        {
            "description": "The question: text, or messages in OpenAI's format.",
            "anyOf": [_TEXT, _MESSAGE, {"type": "array", "items": _MESSAGE, "minItems": 1}],
            "examples": ["What is 2 + 3?"],
        }
    ),
]
_RESPONSE: dict[str, Any] = {
    "description": "An answer: text, parts, or messages.",
    "anyOf": [*_CONTENT, _MESSAGE, {"type": "array", "items": _MESSAGE}],
    "examples": ["It is 5."],
}
Response = Annotated[Any, WithJsonSchema(_RESPONSE)]
OptionalResponse = Annotated[Any, WithJsonSchema({**_RESPONSE, "anyOf": [*_RESPONSE["anyOf"], _NULL]})]
MediaColumn = Annotated[
    Any,
    WithJsonSchema(
        {
            "anyOf": [{"type": "array", "items": _MEDIUM}, _MEDIUM],
            "description": "Media of the prompt, or a single one. They fill its parts without a medium, or its marks "
            "such as <image> (<mol> for molecules), or stand before the user's last message. The singular name is a "
            "synonym.",
        }
    ),
]
Tools = Annotated[Any, WithJsonSchema({**_TOOLS, "description": "Tools that the response could call."})]
ViewName = Annotated[
    Any,
    WithJsonSchema(
        {
            "enum": [*VIEWS, None],
            "description": "What the judge sees of a response with several messages: all of them, or the final answer.",
        }
    ),
]


class StrictModel(BaseModel):
    """Base of models that reject unknown fields and convert no types."""

    model_config = ConfigDict(strict=True, extra="forbid", use_attribute_docstrings=True)


def _refer_to_row(model: str) -> WithJsonSchema:
    return WithJsonSchema({"$ref": REFERENCES.format(model=model)})


class _PromptRow(StrictModel):
    """Base of rows with a prompt. An optional field may be null, which is the same as leaving it out."""

    prompt: Prompt
    images: MediaColumn = None
    image: MediaColumn = None
    videos: MediaColumn = None
    video: MediaColumn = None
    audios: MediaColumn = None
    audio: MediaColumn = None
    molecules: MediaColumn = None
    molecule: MediaColumn = None
    tools: Tools = None
    view: ViewName = "full"


class ComparisonRow(_PromptRow):
    """One question and the responses that are judged together."""

    responses: Annotated[list[Response], Field(min_length=1)]
    """One response is scored alone, two are a pair, more a list; the rubric must support that number."""
    rubric: str | None = "general"
    """Name of a rubric."""
    id: str | None = ""
    """Id that the judgment repeats."""
    sample_index: Annotated[int, Field(ge=0, le=MAX_SAMPLE_INDEX)] | None = 0
    """Index of a repeated judgment of the same comparison; another index gives other sampling seeds."""


class JudgeRequest(StrictModel):
    """Body of `POST /v1/judge`."""

    comparisons: Annotated[list[Annotated[Any, _refer_to_row("ComparisonRow")]], Field(min_length=1)]
    deadline_s: Annotated[float | None, Field(ge=0, allow_inf_nan=False)] = None
    """Time limit in seconds; items that are not ready by then get the status timeout. The service limits it too."""


class JudgeResponse(BaseModel):
    """Response of `POST /v1/judge`."""

    judgments: list[Judgment]


class SampleRow(_PromptRow):
    """One completion of one prompt."""

    response: Response
    baseline: OptionalResponse = None
    """Answer that the response is compared with, for the method `baseline`."""
    group: str | None = None
    """Name that separates groups with the same prompt."""
    problem: str | None = ""
    """Reason why the response cannot be judged; its reward is then null, and its group does not wait for it."""


class RewardsRequest(StrictModel):
    """Body of `POST /v1/rewards`."""

    samples: Annotated[list[Annotated[Any, _refer_to_row("SampleRow")]], Field(min_length=1)]
    rubric: str = _SPEC.rubric
    """Name of a rubric."""
    method: Annotated[str, Field(json_schema_extra={"enum": list(METHODS)})] = _SPEC.method
    """How the completions of a prompt are judged: each alone, every pair, each with two neighbors in a circle, a Swiss
    or a knock-out tournament, each against its baseline, or all in one comparison."""
    reward: Annotated[str, Field(json_schema_extra={"enum": list(REWARDS)})] = _SPEC.reward
    """Statistic that becomes the reward."""
    normalize: Annotated[str, Field(json_schema_extra={"enum": list(NORMALIZATIONS)})] = _SPEC.normalize
    """Normalization of the rewards of a group."""
    group_size: int | None = None
    """Number of completions in a prompt's group, from any number of requests; null: those in this request."""
    group_timeout_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = _SPEC.group_timeout_s
    """Seconds that a group waits for its missing members."""
    deadline_s: Annotated[float | None, Field(ge=0, allow_inf_nan=False)] = None
    """Time limit in seconds; items that are not ready by then get the status timeout. The service limits it too."""


class RewardsResponse(BaseModel):
    """Response of `POST /v1/rewards`."""

    rewards: list[Reward]


class OpenRlhfRequest(BaseModel):
    """Body of `POST /get_reward`, as OpenRLHF sends it."""

    model_config = ConfigDict(strict=True, extra="ignore", use_attribute_docstrings=True)

    query: list[str]
    """Prompt and response in one text, with the tokens of the chat template."""
    prompts: list[str]
    """Prompt at the beginning of each query."""
    labels: list[Any] | None = None
    """One label per query. A JSON object, or its text, may hold `prompt` (text or messages that the judge sees instead
    of the templated text), `images`, `videos`, `audios`, `molecules`, `tools`, `view`, `baseline`, `group` and
    `rubric`; other labels and fields are ignored."""


class OpenRlhfResponse(BaseModel):
    """Response of `POST /get_reward`."""

    rewards: list[float | None]
    """null without a score."""
    scores: list[float | None]
    """Scores scaled to 0..1; null without a score."""
    extra_logs: dict[str, list[float]]


class SlimeRequest(BaseModel):
    """Body of `POST /rm`, as slime sends it."""

    model_config = ConfigDict(strict=True, extra="ignore", use_attribute_docstrings=True)

    prompt: Prompt
    response: str
    """The response; tokens at its end that close the turn are cut."""
    label: Any = None
    """The label of the row. A JSON object, or its text, may hold the same fields as a label of `/get_reward`."""


class SlimeResponse(RootModel[float | None]):
    """Response of `POST /rm`: the reward, or null without a score."""


M = TypeVar("M", bound=BaseModel)


def validate_request(model: type[M], value: Any) -> M:
    """Validate the JSON of a request.

    Raises:
        FieldError: a field is missing, unknown or invalid; the error names the first one.
    """
    if not isinstance(value, dict):
        check_fields(value, "body", ())
    try:
        return model.model_validate(value)
    except ValidationError as e:
        error = e.errors(include_url=False, include_input=False)[0]
        field = "".join(f"[{p}]" if isinstance(p, int) else f".{p:.60}" for p in error["loc"]).lstrip(".")
        problem = error["msg"].removeprefix("Input ").lower()
        if error["type"] == "extra_forbidden":
            problem = f"unknown field; {suggest_name(str(error['loc'][-1]), list(model.model_fields))}"
        elif error["type"] == "missing":
            problem = "is missing"
        raise FieldError.at_field(field, problem) from e


def build_schemas() -> dict[str, Any]:
    """Build the JSON schemas of all requests and responses, by name."""
    requests: tuple[type[BaseModel], ...] = JudgeRequest, ComparisonRow, RewardsRequest, SampleRow, OpenRlhfRequest
    requests += SlimeRequest, info.AdapterRequest, info.SleepRequest, info.WakeRequest
    responses: tuple[type[BaseModel], ...] = JudgeResponse, RewardsResponse, OpenRlhfResponse, SlimeResponse
    responses += (
        info.SleepResponse,
        info.ErrorResponse,
        info.AdapterCard,
        info.AdaptersResponse,
        info.ModelsResponse,
        info.RubricsResponse,
        info.VersionResponse,
    )
    adapters: list[Any] = [(model.__name__, "validation", TypeAdapter(model)) for model in requests]
    adapters += [(model.__name__, "serialization", TypeAdapter(model)) for model in responses]
    _, definitions = TypeAdapter.json_schemas(adapters, ref_template=REFERENCES)
    schemas: dict[str, Any] = definitions["$defs"]
    return schemas
