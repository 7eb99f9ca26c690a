"""Texts that cannot fit into the context are refused before they are tokenized, and long ones do not block the loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from scripts import SETTINGS, fair_judge

from flex_judge.judges import Comparison, FlexJudge, Status
from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.judges.protocol.rendering import Renderer

HUGE = "word " * 2_000_000


@pytest.fixture
def judge() -> FlexJudge:
    return FlexJudge(ScriptedEngine(fair_judge), SETTINGS)


CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": f'"{HUGE}"'}}


@pytest.mark.parametrize(
    ("prompt", "response"),
    [
        (HUGE, "a"),
        ("a", HUGE),
        ([{"role": "user", "content": [{"type": "text", "text": HUGE}]}], "a"),
        (
            "a",
            [{"role": "assistant", "content": "a", "reasoning_content": HUGE}, {"role": "assistant", "content": "b"}],
        ),
        ("a", [{"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "assistant", "content": "b"}]),
    ],
    ids=["prompt", "response", "part", "reasoning", "tool call"],
)
def test_huge_texts_are_overlong_without_being_tokenized(
    judge: FlexJudge, monkeypatch: pytest.MonkeyPatch, prompt: Any, response: Any
) -> None:
    lengths: list[int] = []
    encode = Renderer.encode_as_plain_text

    def record_and_encode(renderer: Renderer, text: str) -> list[int]:
        lengths.append(len(text))
        return encode(renderer, text)

    monkeypatch.setattr(Renderer, "encode_as_plain_text", record_and_encode)
    (judgment,) = judge.judge([Comparison.of(prompt, response)])
    assert judgment.status == Status.OVERLONG
    assert "cannot fit into the context" in judgment.votes[0].detail
    assert max(lengths, default=0) < 100_000


def test_a_text_that_might_fit_is_measured_in_tokens(judge: FlexJudge) -> None:
    (judgment,) = judge.judge([Comparison.of("a", "word " * judge.engine.max_model_len)])
    assert judgment.status == Status.OVERLONG
    assert "tokens leaves" in judgment.votes[0].detail


async def test_long_texts_are_rendered_in_another_thread(judge: FlexJudge, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: dict[int, threading.Thread] = {}
    render = Renderer.render

    def record_and_render(renderer: Renderer, turns: Sequence[Any], *arguments: Any) -> Any:
        threads[sum(len(piece.text) for turn in turns for piece in turn.pieces)] = threading.current_thread()
        return render(renderer, turns, *arguments)

    monkeypatch.setattr(Renderer, "render", record_and_render)
    comparisons = [Comparison.of("a", "b"), Comparison.of("a", "word " * 20_000)]
    await asyncio.gather(*map(judge.ajudge, comparisons))
    assert [threads[length] is threading.main_thread() for length in sorted(threads)] == [True, False]
