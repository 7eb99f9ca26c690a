"""A comparison and its rubric as the chat that the judge reads.

The layout is rubric, question, then responses: everything up to the first response is the same for all candidates of
a question, so an engine with a prefix cache computes it once.
"""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources

from judges.errors import UsageError
from judges.rendering import Span, Turn
from judges.rubrics import Rubric
from judges.types import Comparison

THINK_CLOSE = "</think>"
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"
_FORMS = {1: "single", 2: "pair"}


def system_prompt(rubric: Rubric, responses: int) -> str:
    """The judge's instructions for comparing that many responses.

    With the `general` rubric and two responses this is, to the character, what the published checkpoints were
    trained on (arXiv 2505.18601).
    """
    words = _form(responses)
    example = "".join(f"{ANSWER_OPEN}{score}{ANSWER_CLOSE}" for score in rubric.example[:responses])
    return _text("system.txt").format(**words, scale=rubric.scale, criteria=rubric.criteria, example=example)


def judge_turns(comparison: Comparison, rubric: Rubric) -> list[Turn]:
    """The chat for one comparison: our words trusted, the question and the responses not."""
    header = _form(len(comparison.responses))["header"]
    spans = [Span("[Question]\n", trusted=True)]
    spans += _question_spans(comparison)
    for k, response in enumerate(comparison.responses, 1):
        spans += [Span(f"\n\n{header.format(k=k)}\n", trusted=True), Span(response)]
    system = Turn("system", (Span(system_prompt(rubric, len(comparison.responses)), trusted=True),))
    return [system, Turn("user", tuple(spans))]


def answer_regex(rubric: Rubric, responses: int) -> str:
    """The grammar of a forced answer, which starts after a first `<answer>` that we write ourselves."""
    score = rubric.scale.regex
    return score + ANSWER_CLOSE + (ANSWER_OPEN + score + ANSWER_CLOSE) * (responses - 1)


def _question_spans(comparison: Comparison) -> list[Span]:
    """A single message stands alone; of a conversation, each message is headed by its role."""
    if len(comparison.prompt) == 1:
        return [Span(comparison.prompt[0].content)]
    spans: list[Span] = []
    for message in comparison.prompt:
        lead = "\n\n" if spans else ""
        spans += [Span(f"{lead}{message.role.capitalize()}: "), Span(message.content)]
    return spans


def _form(responses: int) -> dict[str, str]:
    if responses not in _FORMS:
        raise UsageError(f"a comparison has one or two responses, not {responses}")
    return _forms()[_FORMS[responses]]


@cache
def _forms() -> dict[str, dict[str, str]]:
    return tomllib.loads(_text("forms.toml"))


@cache
def _text(name: str) -> str:
    return (resources.files("judges") / "rubrics" / name).read_text(encoding="utf-8").removesuffix("\n")
