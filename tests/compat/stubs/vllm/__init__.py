"""Names of vLLM that OpenRLHF imports. The engine itself needs a GPU; the driver has a scripted one in its place."""

from __future__ import annotations

from types import SimpleNamespace

__version__ = "0.29.0"


class SamplingParams(SimpleNamespace):
    """Sampling settings of a request."""
