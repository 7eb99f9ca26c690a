"""Helpers for tests of engines with a ledger."""

from __future__ import annotations

from pathlib import Path

from flex_judge.judges.engines import Sampling
from flex_judge.judges.engines.recording.ledger import Ledger
from flex_judge.judges.engines.recording.recording import RecordingEngine
from flex_judge.judges.engines.scripted import Script, ScriptedEngine, build_byte_tokenizer

SAMPLING = Sampling(1000, temperature=0.4)


def encode(text: str) -> list[int]:
    return list(build_byte_tokenizer().encode(text, add_special_tokens=False))


def greet(prompt: str, sampling: Sampling) -> str:
    return f"Hello, {prompt}!"


def recording(path: Path, script: Script = greet) -> tuple[RecordingEngine, ScriptedEngine]:
    """Create an engine with a ledger; returns it together with the wrapped engine."""
    inner = ScriptedEngine(script)
    return RecordingEngine(inner, Ledger(path)), inner
