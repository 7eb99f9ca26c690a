"""Scripts for the scripted engine: what a policy or a judge says, as a function of the prompt's text."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import signal
from dataclasses import dataclass
from pathlib import Path

from flex_judge.alignment.data.rows import PromptRow
from flex_judge.alignment.pipeline.job import RowResult
from flex_judge.judges import JudgeSettings
from flex_judge.judges.engines import Sampling
from flex_judge.judges.errors import AccessError
from flex_judge.judges.models.profiles import PROFILES


def _pick(text: str, sides: int) -> int:
    return hashlib.sha256(text.encode()).digest()[0] % sides


class _Counter:
    """Tells repeated calls with one prompt apart, so that samples differ."""

    calls: dict[str, int] = {}  # noqa: RUF012 - one per process on purpose

    @classmethod
    def next(cls, prompt: str) -> int:
        cls.calls[prompt] = cls.calls.get(prompt, -1) + 1
        return cls.calls[prompt]


def policy(prompt: str, sampling: Sampling) -> str:
    """Answers with the right sum or something near it."""
    numbers = [int(n) for n in re.findall(r"\d+", prompt.rpartition("user\n")[2])]
    return f"The result is {sum(numbers[:2]) + _pick(prompt + str(_Counter.next(prompt)), 4)}."


def drawn_policy(prompt: str, sampling: Sampling) -> str:
    """As `policy`, but the same prompt and seed always give the same answer, in whatever process."""
    numbers = [int(n) for n in re.findall(r"\d+", prompt.rpartition("user\n")[2])]
    return f"The result is {sum(numbers[:2]) + _pick(f'{prompt}/{sampling.seed}', 4)}."


async def mortal_policy(prompt: str, sampling: Sampling) -> str:
    """As `drawn_policy`, but the process dies over the prompt `poison` while the file FLEX_JUDGE_TEST_POISON exists,
    and over `once` removes that file first.
    """
    file = Path(os.environ.get("FLEX_JUDGE_TEST_POISON", "/nonexistent"))
    if file.exists() and ("poison" in prompt or "once" in prompt):
        if "once" in prompt:
            file.unlink()
        os._exit(1)
    return drawn_policy(prompt, sampling)


async def slow_drawn_policy(prompt: str, sampling: Sampling) -> str:
    """As `drawn_policy`, in a tenth of a second."""
    await asyncio.sleep(0.1)
    return drawn_policy(prompt, sampling)


def judge(prompt: str, sampling: Sampling) -> str:
    """Thinks, then gives a score from 1 to 5 that depends on the candidate only."""
    candidate = prompt.rpartition("Answer]\n")[2].partition("<|im_end|>")[0]
    if sampling.stop == ("</think>",):
        return f"I look at: {candidate}</think>"
    answer = f"<answer>{1 + _pick(candidate, 5)}</answer>"
    if sampling.regex:  # what is forced goes on after the first "<answer>", and may want one for each of several
        return (answer * sampling.regex.count("</answer>")).removeprefix("<answer>")
    return answer


async def slow_judge(prompt: str, sampling: Sampling) -> str:
    """As `judge`, but takes half a second to think."""
    if sampling.stop == ("</think>",):
        await asyncio.sleep(0.5)
    return judge(prompt, sampling)


async def mortal_judge(prompt: str, sampling: Sampling) -> str:
    """As `judge`, but the process dies at the candidate `poison` while the file FLEX_JUDGE_TEST_POISON exists, and at
    `once` removes that file first.
    """
    file = Path(os.environ.get("FLEX_JUDGE_TEST_POISON", "/nonexistent"))
    candidate = prompt.rpartition("Answer]\n")[2].partition("<|im_end|>")[0]
    await asyncio.sleep(0.05)
    if candidate in ("poison", "once") and file.exists():
        if candidate == "once":
            file.unlink()
        os._exit(1)
    return judge(prompt, sampling)


_CANDIDATES = re.compile(r"Answer\]\n(.*?)(?=\n\n\[Assistant \d+'s Answer\]|<\|im_end\|>)", re.DOTALL)


def fair_judge(prompt: str, sampling: Sampling) -> str:
    """As `judge`, for any number of candidates: each has its own score, wherever it stands. `mumble` gets none."""
    candidates = _CANDIDATES.findall(prompt.rpartition("user\n")[2])
    if sampling.stop == ("</think>",):
        return f"I look at: {' and '.join(candidates)}</think>"
    if "mumble" in candidates:
        return "<answer>perhaps</answer>"
    answers = "".join(f"<answer>{1 + _pick(candidate, 5)}</answer>" for candidate in candidates)
    return answers.removeprefix("<answer>") if sampling.regex else answers  # of a forced answer, that is written


async def logged_judge(prompt: str, sampling: Sampling) -> str:
    """As `fair_judge`, and notes every call in the file FLEX_JUDGE_TEST_CALLS. At a candidate that is the name of a
    signal it first sends itself that signal, once: it leaves a file beside that one. After `late`, it does so when it
    has thought and is to answer.
    """
    await asyncio.sleep(0.02)
    reply = fair_judge(prompt, sampling)
    calls = Path(os.environ["FLEX_JUDGE_TEST_CALLS"])
    for said in _CANDIDATES.findall(prompt.rpartition("user\n")[2]):
        candidate = said.removeprefix("late ")
        if candidate != said and sampling.stop == ("</think>",):
            continue
        sent = calls.with_name(candidate)
        if candidate in signal.Signals.__members__ and not sent.exists():
            sent.touch()
            os.kill(os.getpid(), signal.Signals[candidate])
            await asyncio.sleep(0.1)
    with calls.open("a") as file:
        file.write(json.dumps([prompt, sampling.stop]) + "\n")
    return reply


async def steady_judge(prompt: str, sampling: Sampling) -> str:
    """As `fair_judge`, but takes as many seconds to think as FLEX_JUDGE_TEST_THINK says."""
    if sampling.stop == ("</think>",):
        await asyncio.sleep(float(os.environ.get("FLEX_JUDGE_TEST_THINK", "0.3")))
    return fair_judge(prompt, sampling)


def whole_judge(prompt: str, sampling: Sampling) -> str:
    """A judge that sees and hears, for every rubric: what it says stands in the responses as `says=7`, in the order in
    which it reads them, or is drawn from the prompt. One that says `mumble` gets no verdict.
    """
    asked = prompt.rpartition("user\n")[2].partition("<|im_end|>")[0]
    if sampling.stop == ("</think>",):
        return "I have looked.</think>"
    if "mumble" in asked:
        return "<answer>perhaps</answer>"
    system = prompt.partition("<|im_end|>")[0]
    said = re.findall(r"says=([0-9.]+)", asked)
    if "[[A>B]]" in system:
        options = ("[[A>B]]", "[[B>A]]", "[[A=B=Good]]", "[[A=B=Bad]]")
        answers = [options[_pick(asked, 4)]]
    else:
        low, high, point = re.findall(r" ([0-9]+)(?:\.[0-9])?-([0-9]+)(\.[0-9])? ", system)[0]
        wanted = max(1, len(re.findall(r"<answer>", system.rpartition("example,")[2])))
        drawn = [
            str(int(low) + _pick(f"{asked}{k}", int(high) - int(low) + 1)) + (".0" if point else "")
            for k in range(wanted)
        ]
        answers = said if len(said) == wanted else drawn
    reply = "".join(f"<answer>{answer}</answer>" for answer in answers)
    return reply.removeprefix("<answer>") if sampling.regex else reply


whole_judge.profile = PROFILES["flex-omni"]  # type: ignore[attr-defined]

SETTINGS = JudgeSettings(max_think_tokens=400, max_answer_tokens=64, temperature=0.0)


@dataclass(frozen=True)
class DeniedWork:
    """Work on a data set that finds its models' door closed. Here, so that Ray's workers can import it."""

    tables: tuple[str, ...] = ()

    async def open(self) -> DeniedWork:
        return self

    async def __call__(self, row: PromptRow) -> RowResult:
        raise AccessError("401: no such key")
