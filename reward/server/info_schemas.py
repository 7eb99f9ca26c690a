"""Responses of the routes that describe a service, and of errors, as the OpenAPI page shows them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _Description(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)


class ModelCard(_Description):
    """Model of the service, in OpenAI's form."""

    id: str
    """Name of the judge's model."""
    object: Literal["model"] = "model"
    created: int
    """Unix time of the start of the service."""
    owned_by: str = "flex-judge"


class ModelsResponse(_Description):
    """Response of `GET /v1/models`."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class AdapterRequest(_Description):
    """Request of `PUT /v1/adapters/{name}`."""

    model_config = ConfigDict(use_attribute_docstrings=True, extra="forbid", strict=True)

    path: str = Field(min_length=1, max_length=4096)
    """Folder of the adapter (`adapter_config.json`, `adapter_model.safetensors`) where the replicas are: absolute, or
    relative to the folder that the operator allows."""


class AdapterCard(_Description):
    """Adapter of the judge."""

    name: str | None
    """Name of the adapter; null for the one that the service was started with."""
    fingerprint: str | None
    """Fingerprint of its files; null for the adapter of the start."""
    model: str
    """Name of the model with this adapter, as in `GET /v1/models`."""
    created: int
    """Unix time since which it is used; 0 for the adapter of the start."""


class AdaptersResponse(_Description):
    """Response of `GET /v1/adapters`."""

    adapters: list[AdapterCard]
    """The current adapter."""
    allows_updates: bool
    """Whether the operator allows `PUT /v1/adapters/{name}`."""


class SleepRequest(_Description):
    """Request of `POST /v1/sleep`."""

    model_config = ConfigDict(use_attribute_docstrings=True, extra="forbid", strict=True)

    level: Literal[1, 2] = 1
    """1 keeps the weights in the machines' memory, 2 discards them and reads their files again on waking."""


class WakeRequest(_Description):
    """Request of `POST /v1/wake`."""

    model_config = ConfigDict(extra="forbid", strict=True)


class SleepResponse(_Description):
    """Response of `POST /v1/sleep` and `POST /v1/wake`."""

    asleep: bool
    """Whether the judge sleeps now."""
    level: Literal[0, 1, 2]
    """Level of its sleep; 0 while it is awake. A judge that sleeps already keeps its level."""


class RubricCard(_Description):
    """Rubric that requests may name."""

    name: str
    kind: Literal["scores", "options"]
    """Whether the judge writes one score per response, or chooses one of four options."""
    scale: str | None
    """Scale of the scores, such as `1-10`; null for options."""
    min_responses: int
    """Minimum number of responses in a comparison."""
    max_responses: int | None
    """Maximum number of responses in a comparison; null for no maximum."""
    digest: str
    """SHA-256 of the rubric's content. Services with the same digest ask the judge for the same."""


class RubricsResponse(_Description):
    """Response of `GET /v1/rubrics`."""

    rubrics: list[RubricCard]


class VersionResponse(_Description):
    """Response of `GET /version`."""

    version: str
    """Version of the package flex-judge."""
    wire_version: str
    """Version of the JSON of requests and answers. A client of another major version is refused."""
    ledger_format: int
    """Format of ledger files. Another version of the package with the same format can read them."""


class ErrorResponse(BaseModel):
    """Body of all error responses."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)

    error: str
    """The problem and how to fix it, in one line."""
    field: str | None = None
    """The invalid field, such as `samples[3].response`."""
    missing_media: list[str] | None = None
    """With 409: the digests of media that must be uploaded first."""
    wire_version: str | None = None
    """With 400: the wire version of the service."""
