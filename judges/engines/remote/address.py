"""Addresses of served models: `http://HOST:PORT/v1#NAME`."""

from __future__ import annotations

from dataclasses import dataclass

from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.http import normalize_base_url


@dataclass(frozen=True)
class ServedModel:
    """Address of a server, and the name of one of its models."""

    url: str
    """Base URL of its OpenAI-compatible API, such as `http://10.0.0.1:8000/v1`."""
    name: str
    """Name of the model; empty for the only model of the server."""

    @classmethod
    def parse(cls, model: str) -> ServedModel:
        """Parse the `model` of an engine configuration.

        Raises:
            UsageError: it is not an address. The message does not repeat the address, which may hold a key.
        """
        url, _, name = model.partition("#")
        try:
            return cls(normalize_base_url(url), name.strip())
        except UsageError as e:
            raise UsageError(
                "model: expected the address of a served model as http(s)://HOST[:PORT][/PATH]#NAME, such as "
                "http://10.0.0.1:8000/v1#judge, without a key; pass the key with --model-key"
            ) from e

    @property
    def root_url(self) -> str:
        """Address of the server itself, for routes outside of its OpenAI-compatible API."""
        return self.url.removesuffix("/v1")
