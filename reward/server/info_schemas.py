"""Responses of the routes that describe a service, as the OpenAPI page shows them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


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
