"""Scripts for the scripted engine: replies of policies and judges as functions of the prompt."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from flex_judge.alignment.data.rows import PromptRow
from flex_judge.alignment.pipeline.job import RowResult
from flex_judge.judges import JudgeSettings
from flex_judge.judges.engines import Sampling
from flex_judge.judges.engines.scripted import Script
from flex_judge.judges.errors import AccessError
from flex_judge.judges.models.profiles import PROFILES


def _pick(text: str, sides: int) -> int:
    return hashlib.sha256(text.encode()).digest()[0] % sides


class _Counter:
    """Counts calls per prompt, so that repeated samples differ."""

    calls: dict[str, int] = {}  # noqa: RUF012 - one per process on purpose

    @classmethod
    def next(cls, prompt: str) -> int:
        cls.calls[prompt] = cls.calls.get(prompt, -1) + 1
        return cls.calls[prompt]


def policy(prompt: str, sampling: Sampling) -> str:
    """Answer with the right sum or a number near it."""
    numbers = [int(n) for n in re.findall(r"\d+", prompt.rpartition("user\n")[2])]
    return f"The result is {sum(numbers[:2]) + _pick(prompt + str(_Counter.next(prompt)), 4)}."


def drawn_policy(prompt: str, sampling: Sampling) -> str:
    """Answer like `policy`, but the same prompt and seed give the same answer in every process."""
    numbers = [int(n) for n in re.findall(r"\d+", prompt.rpartition("user\n")[2])]
    return f"The result is {sum(numbers[:2]) + _pick(f'{prompt}/{sampling.seed}', 4)}."


async def mortal_policy(prompt: str, sampling: Sampling) -> str:
    """Answer like `drawn_policy`, but kill the process at the prompt `poison` while FLEX_JUDGE_TEST_POISON exists.

    At the prompt `once`, the process removes that file before it dies.
    """
    file = Path(os.environ.get("FLEX_JUDGE_TEST_POISON", "/nonexistent"))
    if file.exists() and ("poison" in prompt or "once" in prompt):
        if "once" in prompt:
            file.unlink()
        os._exit(1)
    return drawn_policy(prompt, sampling)


async def slow_drawn_policy(prompt: str, sampling: Sampling) -> str:
    """Answer like `drawn_policy`, after a tenth of a second."""
    await asyncio.sleep(0.1)
    return drawn_policy(prompt, sampling)


def judge(prompt: str, sampling: Sampling) -> str:
    """Reason, then give a score from 1 to 5 that depends on the candidate only."""
    candidate = prompt.rpartition("Answer]\n")[2].partition("<|im_end|>")[0]
    if sampling.stop == ("</think>",):
        return f"I look at: {candidate}</think>"
    answer = f"<answer>{1 + _pick(candidate, 5)}</answer>"
    if sampling.regex:  # A forced answer continues after the first "<answer>" and may need one for each candidate.
        return (answer * sampling.regex.count("</answer>")).removeprefix("<answer>")
    return answer


async def slow_judge(prompt: str, sampling: Sampling) -> str:
    """Judge like `judge`, but think for half a second."""
    if sampling.stop == ("</think>",):
        await asyncio.sleep(0.5)
    return judge(prompt, sampling)


async def mortal_judge(prompt: str, sampling: Sampling) -> str:
    """Judge like `judge`, but kill the process at the candidate `poison` while FLEX_JUDGE_TEST_POISON exists.

    At the candidate `once`, the process removes that file before it dies.
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
    """Judge any number of candidates; scores do not depend on the order. `mumble` makes the reply invalid."""
    candidates = _CANDIDATES.findall(prompt.rpartition("user\n")[2])
    if sampling.stop == ("</think>",):
        return f"I look at: {' and '.join(candidates)}</think>"
    if "mumble" in candidates:
        return "<answer>perhaps</answer>"
    answers = "".join(f"<answer>{1 + _pick(candidate, 5)}</answer>" for candidate in candidates)
    # The prompt of a forced answer already ends with the first tag.
    return answers.removeprefix("<answer>") if sampling.regex else answers


def count_calls() -> Counter[str]:
    """Count the lines that scripts logged in the file FLEX_JUDGE_TEST_CALLS."""
    file = Path(os.environ["FLEX_JUDGE_TEST_CALLS"])
    return Counter(file.read_text().splitlines() if file.exists() else [])


async def logged_judge(prompt: str, sampling: Sampling) -> str:
    """Judge like `fair_judge`, and log every call in the file FLEX_JUDGE_TEST_CALLS.

    At a candidate that is the name of a signal, the process first sends itself that signal. It does so only once,
    marked by a file next to the log. With the prefix `late `, it does so at the answer instead of the reasoning.
    """
    await asyncio.sleep(0.02)
    reply = fair_judge(prompt, sampling)
    calls = Path(os.environ["FLEX_JUDGE_TEST_CALLS"])
    for text in _CANDIDATES.findall(prompt.rpartition("user\n")[2]):
        candidate = text.removeprefix("late ")
        if candidate != text and sampling.stop == ("</think>",):
            continue
        marker = calls.with_name(candidate)
        if candidate in signal.Signals.__members__ and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.Signals[candidate])
            await asyncio.sleep(0.1)
    with calls.open("a") as file:
        file.write(json.dumps([prompt, sampling.stop]) + "\n")
    return reply


async def steady_judge(prompt: str, sampling: Sampling) -> str:
    """Judge like `fair_judge`, but think for FLEX_JUDGE_TEST_THINK seconds."""
    if sampling.stop == ("</think>",):
        await asyncio.sleep(float(os.environ.get("FLEX_JUDGE_TEST_THINK", "0.3")))
    return fair_judge(prompt, sampling)


async def counted_judge(prompt: str, sampling: Sampling) -> str:
    """Judge like `steady_judge`, and log the start of each reasoning and each answer in FLEX_JUDGE_TEST_CALLS.

    A line holds `start`, `end` (for an answer) or `cancel`, and the candidates.
    """
    candidates = " | ".join(_CANDIDATES.findall(prompt.rpartition("user\n")[2]))

    def log_event(name: str) -> None:
        with Path(os.environ["FLEX_JUDGE_TEST_CALLS"]).open("a") as file:
            file.write(f"{name} {candidates}\n")

    is_reasoning = sampling.stop == ("</think>",)
    if is_reasoning:
        log_event("start")
    try:
        reply = await steady_judge(prompt, sampling)
    except asyncio.CancelledError:
        log_event("cancel")
        raise
    if not is_reasoning:
        log_event("end")
    return reply


def whole_judge(prompt: str, sampling: Sampling) -> str:
    """Judge images, audio and text with every rubric; responses name their scores as `says=7`.

    Without such a name, the score depends on the prompt. `mumble` in the prompt makes the reply invalid.
    """
    user_text = prompt.rpartition("user\n")[2].partition("<|im_end|>")[0]
    if sampling.stop == ("</think>",):
        return "I have looked.</think>"
    if "mumble" in user_text:
        return "<answer>perhaps</answer>"
    system = prompt.partition("<|im_end|>")[0]
    named_scores = re.findall(r"says=([0-9.]+)", user_text)
    if "[[A>B]]" in system:
        options = ("[[A>B]]", "[[B>A]]", "[[A=B=Good]]", "[[A=B=Bad]]")
        answers = [options[_pick(user_text, 4)]]
    else:
        low, high, point = re.findall(r" ([0-9]+)(?:\.[0-9])?-([0-9]+)(\.[0-9])? ", system)[0]
        count = max(1, len(re.findall(r"<answer>", system.rpartition("example,")[2])))
        derived_scores = [
            str(int(low) + _pick(f"{user_text}{k}", int(high) - int(low) + 1)) + (".0" if point else "")
            for k in range(count)
        ]
        answers = named_scores if len(named_scores) == count else derived_scores
    reply = "".join(f"<answer>{answer}</answer>" for answer in answers)
    return reply.removeprefix("<answer>") if sampling.regex else reply


whole_judge.profile = PROFILES["flex-omni"]  # type: ignore[attr-defined]


def _build_adapted_judge(score: float, think_s: float = 0.0) -> Script:
    async def judge(prompt: str, sampling: Sampling) -> str:
        if sampling.stop == ("</think>",):
            await asyncio.sleep(think_s or float(os.environ.get("FLEX_JUDGE_TEST_THINK", "0")))
            return "I have looked.</think>"
        user_text = prompt.rpartition("user\n")[2]
        count = sampling.regex.count("</answer>") if sampling.regex else user_text.count("'s Answer]")
        answers = f"<answer>{score:g}</answer>" * count
        return answers.removeprefix("<answer>") if sampling.regex else answers

    return judge


def _load_adapted_judge(folder: Path) -> Script:
    """Load a judge that gives the `score` in the adapter's configuration.

    With `fail_once`, only the first process that loads it fails; with `fail`, every process does. The file `blocked`
    beside the configuration makes loading fail too.
    """
    settings = json.loads((folder / "adapter_config.json").read_text())
    if settings.get("fail") or (folder / "blocked").exists():
        raise RuntimeError("its weights are damaged")
    if settings.get("fail_once"):
        with contextlib.suppress(FileExistsError):
            (folder / "failed").touch(exist_ok=False)
            raise RuntimeError("out of memory on this replica")
    return _build_adapted_judge(settings.get("score", 2))


adapted_judge = _build_adapted_judge(1)
"""Judge that gives every response the score 1, or that of the adapter that it loads."""
adapted_judge.load_adapter = _load_adapted_judge  # type: ignore[attr-defined]


def deaf_judge(prompt: str, sampling: Sampling) -> str:
    """Judge like `fair_judge`, but log the first call and block the event loop, as a library that hears no signal."""
    Path(os.environ["FLEX_JUDGE_TEST_CALLS"]).touch()
    time.sleep(20)
    return fair_judge(prompt, sampling)


async def steady_whole_judge(prompt: str, sampling: Sampling) -> str:
    """Judge like `whole_judge`, but think for FLEX_JUDGE_TEST_THINK seconds."""
    if sampling.stop == ("</think>",):
        await asyncio.sleep(float(os.environ.get("FLEX_JUDGE_TEST_THINK", "0.3")))
    return whole_judge(prompt, sampling)


steady_whole_judge.profile = PROFILES["flex-omni"]  # type: ignore[attr-defined]


def seeing_judge(prompt: str, sampling: Sampling) -> str:
    """Judge two candidates whose text or pictures are of no importance; its model takes images."""
    return "I see.</think>" if sampling.stop == ("</think>",) else "<answer>4</answer><answer>2</answer>"


seeing_judge.profile = PROFILES["flex-vl"]  # type: ignore[attr-defined]


def score_five(prompt: str, sampling: Sampling) -> str:
    """Give every candidate a 5; its model takes images, audio and video."""
    if sampling.stop == ("</think>",):
        return "I looked.</think>"
    if sampling.regex:  # A forced answer continues after the first "<answer>".
        return ("<answer>5</answer>" * sampling.regex.count("</answer>")).removeprefix("<answer>")
    return "<answer>5</answer>" * prompt.rpartition("user\n")[2].count("'s Answer]")


score_five.profile = PROFILES["flex-omni"]  # type: ignore[attr-defined]

SETTINGS = JudgeSettings(max_think_tokens=400, max_answer_tokens=64, temperature=0.0)


@dataclass(frozen=True)
class DeniedWork:
    """Work on a data set whose models deny access. Defined here so that Ray workers can import it."""

    tables: tuple[str, ...] = ()

    async def open(self) -> DeniedWork:
        return self

    async def __call__(self, row: PromptRow) -> RowResult:
        raise AccessError("401: no such key")
