"""Inputs of the engine."""

from __future__ import annotations

from typing import Any

TokensPrompt = dict[str, Any]
