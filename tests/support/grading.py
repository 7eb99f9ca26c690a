"""Judge that reads each score from the answer itself, and a judge function that records its comparisons."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection

from flex_judge.judges import Comparison, FlexJudge, JudgeSettings, Judgment, Message
from flex_judge.judges.engines import Sampling
from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.judges.types import content_to_text
from flex_judge.reward.types import Sample

_CANDIDATES = re.compile(r"Answer\]\n(.*?)(?=\n\n\[Assistant \d+'s Answer\]|<\|im_end\|>)", re.DOTALL)


def grade_answers(prompt: str, sampling: Sampling) -> str:
    """Score `worth 4` with 4, for any number of candidates; a candidate with `mumble` makes the verdict unparseable."""
    candidates = _CANDIDATES.findall(prompt.rpartition("user\n")[2])
    if sampling.stop == ("</think>",):
        return f"I look at: {' and '.join(candidates)}</think>"
    if any("mumble" in candidate for candidate in candidates):
        return "<answer>perhaps</answer>"
    scores = [re.findall(r"worth (\d+)", candidate)[0] for candidate in candidates]
    return "".join(f"<answer>{score}</answer>" for score in scores)


class RecordingJudge:
    """Judge function that records its comparisons. Texts in `held` are not judged until `go` is set."""

    def __init__(self, held: Collection[str] = (), order: str = "as_given") -> None:
        settings = JudgeSettings(max_think_tokens=400, temperature=0.0, forced_answer=False, order=order)
        self.judge = FlexJudge(ScriptedEngine(grade_answers), settings)
        self.comparisons: list[Comparison] = []
        """Received comparisons, in order."""
        self.held_back: list[Comparison] = []
        self.cancelled: list[Comparison] = []
        self.held = held
        self.go = asyncio.Event()

    async def __call__(self, comparison: Comparison) -> Judgment:
        self.comparisons.append(comparison)
        try:
            if not set(self.held).isdisjoint(map(content_to_text, comparison.responses)):
                self.held_back.append(comparison)
                await self.go.wait()
            return await self.judge.ajudge(comparison)
        except asyncio.CancelledError:
            self.cancelled.append(comparison)
            raise

    @property
    def texts(self) -> list[tuple[str, ...]]:
        """Responses of the received comparisons."""
        return [tuple(map(content_to_text, comparison.responses)) for comparison in self.comparisons]


def sample(response: str, prompt: str = "How much?", baseline: str | None = None, group: str | None = None) -> Sample:
    return Sample((Message("user", prompt),), response, baseline, group)


def worth(*scores: int | str) -> list[Sample]:
    """Make samples of one prompt; numbers become `worth N`."""
    return [sample(f"worth {score}" if isinstance(score, int) else score) for score in scores]
