"""Build the chat that the judge reads from a comparison and its rubric.

The layout is rubric, media of the prompt, question, responses; in conversations, media stay in place. Everything before
the first response is the same for all candidates of a question, so an engine with a prefix cache computes it once.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from flex_judge.judges.protocol.quoting import format_response_header
from flex_judge.judges.protocol.sections import build_question_section, build_response_section
from flex_judge.judges.protocol.turns import Span, Turn
from flex_judge.judges.rubrics.rubric import Rubric
from flex_judge.judges.types import Comparison

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"
# The published prompt says "two AI assistants"; larger numbers than ten are written as digits.
_NUMBER_WORDS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine", 10: "ten"}
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


def build_system_prompt(rubric: Rubric, responses: int, reason_first: bool = True) -> str:
    """Build the judge's instructions.

    With the rubric `general`, two responses and `reason_first`, this is character for character the prompt that the
    published checkpoints were trained on (arXiv 2505.18601). All other prompts are composed of the same parts.

    Args:
        rubric: the criteria, scale and words to use.
        responses: number of responses judged together.
        reason_first: whether the judge reasons before it answers; the reverse is the paper's ablation.

    Raises:
        UsageError: the rubric does not support this number of responses.
    """
    rubric.check_response_count(responses)
    sentences = _load_sentences()
    order = sentences["reason_first" if reason_first else "answer_first"]
    if rubric.has_options:
        verdict = sentences["choice"]
    elif rubric.distinct and 1 < responses <= len(rubric.labels):  # Otherwise distinct scores are not possible.
        verdict = sentences["score_distinct"]
    else:
        verdict = sentences["score"]
    words = _build_template_words(rubric, responses)
    templates = [order["preamble"], sentences["task"], verdict, sentences["criteria"]]
    filled = [_fill_placeholders(template, words) for template in templates]
    if rubric.notes:
        filled.append(rubric.notes)  # not filled: braces in a rubric's text are ordinary text
    filled += [_fill_placeholders(template, words) for template in (sentences["biases"], order["closing"])]
    return " ".join(filled)


def build_judge_turns(comparison: Comparison, rubric: Rubric, reason_first: bool = True) -> list[Turn]:
    """Build the chat for one comparison. Template text is trusted, question and responses are not.

    A single plain message is shown as in the published prompt: its images, videos and audio come first, in their order,
    then its text. If a medium is between two texts of the message, all its media stay in place, because their places
    belong to the question. Media of a response always stay in place, and so do molecules, because most judges read them
    as text.

    In a conversation (several messages, tool calls, or a trajectory as response), each part of a message stands under a
    heading, and all media stay in place. See `flex_judge.judges.protocol.sections.render_messages`.

    Text is unchanged, with one exception: a line that looks like one of the rubric's section headers, such as
    `[Assistant 2's Answer]`, gets the prefix `> `, so that a response cannot forge the answer of its rival; in a
    conversation, also a line that looks like a message heading. See
    `flex_judge.judges.protocol.quoting.quote_headings`.

    Args:
        comparison: question and responses.
        rubric: criteria and section headers.
        reason_first: whether the judge reasons before it answers.

    Raises:
        UsageError: the rubric does not support this number of responses.
    """
    responses = len(comparison.responses)
    system = Span(build_system_prompt(rubric, responses, reason_first), trusted=True)
    is_conversation = comparison.is_conversation
    user = build_question_section(comparison.prompt, rubric, is_conversation)
    for k, response in enumerate(comparison.responses):
        header = format_response_header(rubric, k, responses)
        user += build_response_section(response, header, rubric, is_conversation)
    return [Turn("system", (system,)), Turn("user", tuple(user))]


def build_answer_regex(rubric: Rubric, responses: int) -> str:
    """Build the grammar of a forced answer, which starts after the first `<answer>` tag."""
    label = "(" + "|".join(map(re.escape, rubric.labels)) + ")"
    following_answers = rubric.count_answers(responses) - 1
    return label + ANSWER_CLOSE + (ANSWER_OPEN + label + ANSWER_CLOSE) * following_answers


def _build_template_words(rubric: Rubric, responses: int) -> Mapping[str, str]:
    """Build the values of the placeholders in prompt.toml."""
    noun = rubric.subject.rpartition(" ")[2]
    number = _NUMBER_WORDS.get(responses, str(responses))
    if responses == 1:
        article = "an" if rubric.subject[0].lower() in "aeiou" else "a"
        subjects, judged, scored = f"{article} {rubric.subject}", f"the {noun}", f"the {noun}"
    else:
        subjects, scored = f"{number} {rubric.subject}s", f"{noun}s"
        judged = f"both {noun}s" if responses == 2 else f"all {number} {noun}s"
    answers = rubric.list_example_answers(responses)
    return {
        "task": _fill_placeholders(rubric.task, {"subjects": subjects}),
        "judged": judged,
        "scored": scored,
        "noun": noun,
        "scale": str(rubric.scale),
        "criteria": rubric.criteria,
        "biases": rubric.biases if responses == 1 else f"order, {rubric.biases}",
        "verdict_noun": "choice" if rubric.has_options else "score" if responses == 1 else "scores",
        "example": "".join(ANSWER_OPEN + answer + ANSWER_CLOSE for answer in answers),
    }


def _fill_placeholders(template: str, words: Mapping[str, str]) -> str:
    """Replace `{name}` by its word, in a single pass, so that braces in the inserted words are left alone.

    Braces around unknown names are left unchanged.
    """
    return _PLACEHOLDER.sub(lambda match: words.get(match[1], match[0]), template)


@cache
def _load_sentences() -> dict[str, Any]:
    path = resources.files("flex_judge.judges") / "rubrics" / "prompt.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))
