"""A comparison and its rubric as the chat that the judge reads.

The layout is rubric, media of the prompt, question, then responses: everything up to the first response is the same
for all candidates of a question, so an engine with a prefix cache computes it once.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

from flex_judge.judges.media.types import Media, Modality
from flex_judge.judges.protocol.quoting import format_response_header, quote_section_headers
from flex_judge.judges.protocol.turns import Span, Turn
from flex_judge.judges.rubrics.rubric import Rubric
from flex_judge.judges.types import Comparison, Content, Part, split_content

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"
_NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


def content_to_pieces(content: Content) -> tuple[Span | Media, ...]:
    """A message's content, untrusted, as pieces of a turn."""
    return tuple(Span(part) if isinstance(part, str) else part for part in split_content(content))


def build_system_prompt(rubric: Rubric, responses: int, reason_first: bool = True) -> str:
    """The judge's instructions for judging that many responses together.

    With the `general` rubric, two responses and `reason_first` this is, to the character, what the published
    checkpoints were trained on (arXiv 2505.18601); every other prompt is composed of the same parts.

    Args:
        rubric: what is judged by.
        responses: how many responses are judged together.
        reason_first: think, then answer; otherwise the other way round, the paper's ablation.

    Raises:
        UsageError: the rubric is not made for so many responses.
    """
    rubric.check_response_count(responses)
    parts = _load_sentences()
    order = parts["reason_first" if reason_first else "answer_first"]
    distinct = rubric.distinct and 1 < responses <= len(rubric.labels)
    verdict = parts["choice" if rubric.has_options else "score_distinct" if distinct else "score"]
    sentences = [order["preamble"], parts["task"], verdict, parts["criteria"], parts["biases"], order["closing"]]
    words = _build_template_words(rubric, responses)
    filled = [_fill_placeholders(sentence, words) for sentence in sentences]
    if rubric.notes:
        filled.insert(4, rubric.notes)
    return " ".join(filled)


def build_judge_turns(comparison: Comparison, rubric: Rubric, reason_first: bool = True) -> list[Turn]:
    """The chat for one comparison: our words trusted, the question and the responses not.

    The prompt's images, videos and clips come first, in their order, then the question's text; a response's stand
    where they are in the response. Molecules stay where they are in either, as most judges read them as text.

    Text is shown as it is, with one exception: a line that begins like one of this rubric's section headers, such as
    `[Assistant 2's Answer]`, gets `> ` before it, so that the headers in a prompt are ours alone and a response cannot
    write its rival's. See `flex_judge.judges.protocol.quoting.quote_section_headers`.

    Raises:
        UsageError: the rubric is not made for so many responses.
    """
    system = Span(build_system_prompt(rubric, len(comparison.responses), reason_first), trusted=True)
    pieces = [
        part for message in comparison.prompt for part in split_content(message.content) if _is_leading_media(part)
    ]
    user: list[Span | Media] = [p for p in pieces if isinstance(p, Media)]
    user.append(Span(f"{rubric.question_header}\n", trusted=True))
    user += quote_section_headers(_build_question(comparison), rubric)
    for k, response in enumerate(comparison.responses):
        header = format_response_header(rubric, k, len(comparison.responses))
        user.append(Span(f"\n\n{header}\n", trusted=True))
        user += quote_section_headers(content_to_pieces(response), rubric)
    return [Turn("system", (system,)), Turn("user", tuple(user))]


def build_answer_regex(rubric: Rubric, responses: int) -> str:
    """The grammar of a forced verdict, which starts after a first `<answer>` that we write ourselves."""
    one = "(" + "|".join(map(re.escape, rubric.labels)) + ")"
    return one + ANSWER_CLOSE + (ANSWER_OPEN + one + ANSWER_CLOSE) * (rubric.count_answers(responses) - 1)


def _build_question(comparison: Comparison) -> list[Span | Media]:
    """A single message stands alone; of a conversation, each message is headed by its role."""
    if len(comparison.prompt) == 1:
        return _drop_leading_media(split_content(comparison.prompt[0].content))
    pieces: list[Span | Media] = []
    for message in comparison.prompt:
        lead = "\n\n" if pieces else ""
        pieces += [Span(f"{lead}{message.role.capitalize()}: "), *_drop_leading_media(split_content(message.content))]
    return pieces


def _drop_leading_media(parts: Sequence[Part]) -> list[Span | Media]:
    """What remains of a prompt's message when its media stand before the question. Where one of them parted two words,
    a line break does."""
    pieces: list[Span | Media] = []
    last, parted = "", False
    for part in parts:
        if _is_leading_media(part):
            parted = True
            continue
        text = part if isinstance(part, str) else ""
        if parted and last and text and not (last[-1].isspace() or text[0].isspace()):
            pieces.append(Span("\n"))
        pieces.append(Span(part) if isinstance(part, str) else part)
        last, parted = text, False
    return pieces


def _is_leading_media(part: Part) -> bool:
    """Whether a part of the prompt is put before the question."""
    return isinstance(part, Media) and part.modality != Modality.MOLECULE


def _build_template_words(rubric: Rubric, responses: int) -> Mapping[str, str]:
    """What fills the braces of prompt.toml."""
    noun = rubric.subject.rpartition(" ")[2]
    number = _NUMBERS[responses - 2] if 2 <= responses < 2 + len(_NUMBERS) else str(responses)
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
        "what": "choice" if rubric.has_options else "score" if responses == 1 else "scores",
        "example": "".join(ANSWER_OPEN + answer + ANSWER_CLOSE for answer in answers),
    }


def _fill_placeholders(text: str, words: Mapping[str, str]) -> str:
    """Put words in place of their names in braces, in a single pass: what is filled in is not looked at again, and
    braces around anything else stay as they are."""
    return _PLACEHOLDER.sub(lambda m: words.get(m[1], m[0]), text)


@cache
def _load_sentences() -> dict[str, Any]:
    path = resources.files("flex_judge.judges") / "rubrics" / "prompt.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))
