"""Scripted judge for every rubric, whose scores depend on the text of each response alone.

Unlike the judges in `scripts`, it takes any number of responses, in any order, with and without media. To serve it for
a driver in tests/compat that is run by hand: `python -m rating_judge` in tests/support prints its URL.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from served import ServedJudge, served

from flex_judge import FlexJudge
from flex_judge.judges.engines import Sampling
from flex_judge.judges.models.profiles import PROFILES

_HEADER = r"\[(?:Assistant(?: \d+)?'s Answer|(?:Image|Video|Speech Clip)(?: [A-Z0-9]+)?)\]\n"
_RESPONSES = re.compile(rf"^{_HEADER}(.*?)(?=\n\n{_HEADER}|<\|im_end\|>|\Z)", re.DOTALL | re.MULTILINE)
_MEDIA = re.compile(r"<\|(?:vision_bos|audio_bos)\|>")
_SCALE = re.compile(r" ([0-9]+)(?:\.[0-9])?-([0-9]+)(\.[0-9])? ")


async def rate(prompt: str, sampling: Sampling) -> str:
    """Rate each response by the last `says=N` in its text, or by a hash of the text.

    `says=media` rates it by the number of images, videos and audio clips in the prompt and in the responses. A response
    with the word `mumble` makes the reply unparseable, so that the comparison stays unscored. One with the word
    `dawdle` keeps the judge busy for a second.
    """
    # The prompt that is judged may hold control tokens of a chat template as text: take the first and the last ones.
    system, _, turns = prompt.partition("<|im_end|>\n<|im_start|>user\n")
    user = turns.rpartition("<|im_start|>assistant")[0]
    count = len(_MEDIA.findall(user))
    responses = [text.strip().replace("says=media", f"says={count}") for text in _RESPONSES.findall(user)]
    if sampling.stop == ("</think>",):
        if any("dawdle" in text for text in responses):
            await asyncio.sleep(1)
        return f"I look at {len(responses)} responses.</think>"
    if any("mumble" in text for text in responses):
        return "<answer>perhaps</answer>"
    if "[[A>B]]" in system:
        first, second = (_rate_response(text, 0, 9) for text in responses)
        verdict = "A>B" if first > second else "B>A" if second > first else "A=B=Good"
        reply = f"<answer>[[{verdict}]]</answer>"
    else:
        low, high, decimals = _SCALE.findall(system)[0]
        scores = [_rate_response(text, int(low), int(high)) for text in responses]
        reply = "".join(f"<answer>{score}{'.0' if decimals else ''}</answer>" for score in scores)
    return reply


rate.profile = PROFILES["flex-omni"]  # type: ignore[attr-defined]


def _rate_response(text: str, low: int, high: int) -> int:
    if named := re.findall(r"says=([0-9]+)", text):
        return min(high, max(low, int(named[-1])))
    return low + hashlib.sha256(text.encode()).digest()[0] % (high - low + 1)


@contextmanager
def serve_rating_judge() -> Iterator[ServedJudge]:
    """Serve the judge without Ray. It never forces an answer, so that `mumble` stays unscored."""
    settings = {"max_think_tokens": 400, "temperature": 0.0, "forced_answer": False}
    with served(FlexJudge.from_pretrained("rating_judge:rate", engine="scripted", **settings)) as service:
        yield service


if __name__ == "__main__":
    with serve_rating_judge() as running:
        print(running.url, flush=True)
        threading.Event().wait()
