"""One rubric as data, and its reading out of a TOML table. How its words become a prompt is in
`flex_judge.judges.protocol.prompts`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import chain, cycle, islice
from math import gcd
from typing import Any

from flex_judge.judges.errors import UsageError
from flex_judge.judges.rubrics.scale import MAX_LABELS, OPTIONS, SHARES, Scale


@dataclass(frozen=True)
class Rubric:
    """What is judged by. In a file only `criteria` and, for scores, `scale` are needed."""

    name: str
    """The preset's name, or the path of the file."""
    criteria: str
    """Completes the sentence "Criteria includes ..."."""
    scale: Scale
    """The scores to choose from. Where the answer is an option, what shares of the win are counted in."""
    example: tuple[str, ...]
    """Shown as the example of an answer: scores, of which the first ones are used and more are made where more
    responses are judged; or one option."""
    answer: str = "scores"
    """`scores` (one per response) or `options` (one of four for a pair, see `OPTIONS`)."""
    responses: tuple[int, int | None] = (1, None)
    """Fewest and most responses that the rubric is made for; None for any number. In a file: 2, "1-2" or "3+"."""
    distinct: bool = False
    """Whether the judge is asked to give no two responses the same score, as a ranking needs. One that does so all
    the same has made a tie."""
    task: str = "judge the performance of {subjects} in response to the question"
    """Completes the sentence "Now the user asks you to ..."; `{subjects}` becomes "two AI assistants" and the like."""
    subject: str = "AI assistant"
    """What is judged, in the singular, of words that form their plural with s; the last word alone is used where the
    prompt speaks of it again."""
    question_header: str = "[Question]"
    """The line above the question."""
    answer_header: str = "[Assistant {k}'s Answer]"
    """The line above each response; `{k}` becomes its number (its letter, for options) or, of a single response,
    nothing."""
    biases: str = "length, style or other bias"
    """Completes the sentence "Avoid ..."; "order" is put before it where several responses are compared."""
    notes: str = ""
    """Sentences that follow the criteria: what a score means, say."""

    @classmethod
    def from_dict(cls, name: str, data: Mapping[str, Any], source: str) -> Rubric:
        """Read a rubric's table. White space within its texts counts as one space, so they may run over lines.

        Raises:
            UsageError: a field is missing, unknown or wrong; the message names `source` and the field.
        """
        _reject_unknown_fields(data, source)
        fields: dict[str, Any] = {key: _parse_text(data, key, source) for key in _TEXTS if key in data}
        fields["criteria"] = _parse_text(data, "criteria", source)
        for key in ("criteria", "task", "biases"):  # the prompt ends these sentences itself
            if key in fields:
                fields[key] = fields[key].removesuffix(".")
        fields["answer"] = answer = data.get("answer", "scores")
        if answer == "options":
            fields |= _parse_option_fields(data, source)
        elif answer == "scores":
            fields |= _parse_score_fields(data, source)
        else:
            raise UsageError(f'{source}: field \'answer\' must be "scores" or "options", not {answer!r:.40}')
        rubric = cls(name=name, **fields)
        if "{k}" not in rubric.answer_header and rubric.responses != (1, 1):
            raise UsageError(f"{source}: field 'answer_header' must hold {{k}}, the number of a response")
        return rubric

    @property
    def has_options(self) -> bool:
        """Whether a verdict is one of the four options rather than scores."""
        return self.answer == "options"

    @property
    def labels(self) -> tuple[str, ...]:
        """Every way in which one answer is written."""
        return tuple(f"[[{option}]]" for option in OPTIONS) if self.has_options else self.scale.labels

    def check_response_count(self, responses: int) -> None:
        """Raises UsageError if the rubric is not made for so many responses."""
        fewest, most = self.responses
        if responses < fewest or (most is not None and responses > most):
            made_for = f"{fewest} or more" if most is None else f"{fewest} to {most}" if fewest < most else str(fewest)
            raise UsageError(f"rubric {self.name!r} is made for {made_for} responses at a time, not {responses}")

    def count_answers(self, responses: int) -> int:
        """How many answers a verdict on so many responses consists of."""
        return 1 if self.has_options else responses

    def list_example_answers(self, responses: int) -> tuple[str, ...]:
        """The answers of an example verdict: the rubric's own first, then others, none twice while there are more.

        The others are taken in steps of about the golden section of the scale, which scatters them evenly.
        """
        labels = self.labels
        place, step = labels.index(self.example[-1]), _find_coprime_step(len(labels))
        scattered = [labels[(place + i * step) % len(labels)] for i in range(len(labels))]
        fresh = [label for label in scattered if label not in self.example]
        return tuple(islice(chain(self.example, fresh, cycle(scattered)), self.count_answers(responses)))


_TEXTS = ("criteria", "task", "subject", "question_header", "answer_header", "biases", "notes")
_FIELDS = (*_TEXTS, "answer", "scale", "example", "responses", "distinct")


def _reject_unknown_fields(data: Mapping[str, Any], source: str) -> None:
    for key in data:
        if key not in _FIELDS:
            near = get_close_matches(key, _FIELDS, n=1)
            guess = f"did you mean {near[0]!r}?" if near else f"a rubric may have {', '.join(_FIELDS)}"
            raise UsageError(f"{source}: unknown field {key!r}; {guess}")


def _parse_text(data: Mapping[str, Any], key: str, source: str) -> str:
    value = data.get(key)
    if not isinstance(value, str) or not value.strip():
        example = ' such as "accuracy and level of detail"' if key == "criteria" else ""
        raise UsageError(f"{source}: field {key!r} must be a text{example}")
    return " ".join(value.split())


def _parse_score_fields(data: Mapping[str, Any], source: str) -> dict[str, Any]:
    try:
        scale = Scale.parse(data["scale"])
    except (KeyError, ValueError, TypeError) as e:
        limit = f"with at most {MAX_LABELS} scores"
        raise UsageError(f'{source}: field \'scale\' must be a text such as "1-10" or "1.0-5.0", {limit}') from e
    example = data.get("example", [scale.low, scale.high])
    if not isinstance(example, list) or not example or not all(_is_score(s, scale) for s in example):
        raise UsageError(f"{source}: field 'example' must be a list of scores on the scale {scale}")
    distinct = data.get("distinct", False)
    if not isinstance(distinct, bool):
        raise UsageError(f"{source}: field 'distinct' must be true or false")
    written = tuple(f"{s:.{scale.decimals}f}" for s in example)
    if distinct and len(set(written)) < len(written):
        raise UsageError(f"{source}: field 'example' must not repeat a score where 'distinct' is true")
    responses = _parse_range(data.get("responses", "1+"), source)
    return {"scale": scale, "example": written, "distinct": distinct, "responses": responses}


def _parse_option_fields(data: Mapping[str, Any], source: str) -> dict[str, Any]:
    for key in ("scale", "distinct"):
        if key in data:
            raise UsageError(f"{source}: field {key!r} is for scores; leave it out where 'answer' is \"options\"")
    if _parse_range(data.get("responses", 2), source) != (2, 2):
        raise UsageError(f"{source}: field 'responses' must be 2 where 'answer' is \"options\"")
    allowed = [f"[[{option}]]" for option in OPTIONS]
    example = data.get("example", allowed[0])
    if example not in allowed:
        raise UsageError(f"{source}: field 'example' must be one of {', '.join(allowed)}, not {example!r:.40}")
    return {"scale": SHARES, "example": (example,), "responses": (2, 2)}


def _parse_range(value: Any, source: str) -> tuple[int, int | None]:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    match = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4})|(\+))?", text) if isinstance(text, str) else None
    fewest = int(match[1]) if match else 0
    most = None if match and match[3] else int(match[2]) if match and match[2] else fewest
    if fewest < 1 or (most is not None and most < fewest):
        raise UsageError(f'{source}: field \'responses\' must be a number or range such as 2, "1-2" or "3+"')
    return fewest, most


def _is_score(value: Any, scale: Scale) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value in map(float, scale.labels)


def _find_coprime_step(count: int) -> int:
    """The step nearest below 0.62 of `count` that reaches every place before it comes back to the first."""
    return next((step for step in range(round(0.62 * count), 1, -1) if gcd(step, count) == 1), 1)
