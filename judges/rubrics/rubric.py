"""The rubric as a data type, and parsing of rubric files (TOML).

`flex_judge.judges.protocol.prompts` builds a prompt from it.
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
    """Criteria, scale and wording of a judgment. A file needs only `criteria` and, for scores, `scale`."""

    name: str
    """Name of the preset, or path of the file."""
    criteria: str
    """Completes the sentence "Criteria includes ..."."""
    scale: Scale
    """Scale of the scores; for options, the scale of the shares of the win."""
    example: tuple[str, ...]
    """Example answer in the prompt: one option, or scores. If more responses are judged than there are scores, more are
    generated."""
    answer: str = "scores"
    """`scores` (one per response) or `options` (one of four for a pair, see `OPTIONS`)."""
    responses: tuple[int, int | None] = (1, None)
    """Minimum and maximum number of responses; None for no maximum. In a file: 2, "1-2" or "3+"."""
    distinct: bool = False
    """Whether the prompt asks for distinct scores, as a ranking needs. Equal scores are still accepted, as a tie."""
    task: str = "judge the performance of {subjects} in response to the question"
    """Completes the sentence "Now the user asks you to ..."; `{subjects}` becomes "two AI assistants" or similar."""
    subject: str = "AI assistant"
    """Noun for what is judged, in the singular, with a plural in -s. Later mentions use its last word only."""
    question_header: str = "[Question]"
    """Line above the question."""
    answer_header: str = "[Assistant {k}'s Answer]"
    """Line above each response; `{k}` becomes its number (its letter, for options), and nothing for a single one."""
    biases: str = "length, style or other bias"
    """Completes the sentence "Avoid ..."; if several responses are compared, "order" is added."""
    notes: str = ""
    """Sentences after the criteria, for example the meaning of a score."""

    @classmethod
    def from_dict(cls, name: str, data: Mapping[str, Any], source: str) -> Rubric:
        """Parse the table of a rubric file. Runs of white space become one space, so texts may span lines.

        Args:
            name: name of the rubric.
            data: the parsed TOML table.
            source: name of the file for error messages.

        Raises:
            UsageError: a field is missing, unknown or invalid; the message names `source` and the field.
        """
        _reject_unknown_fields(data, source)
        fields: dict[str, Any] = {key: _parse_text(data, key, source) for key in _TEXTS if key in data}
        fields["criteria"] = _parse_text(data, "criteria", source)
        for key in ("criteria", "task", "biases"):  # The prompt adds the period itself.
            if key in fields:
                fields[key] = fields[key].removesuffix(".")
        answer = data.get("answer", "scores")
        if answer not in ("scores", "options"):
            raise UsageError(f'{source}: field \'answer\': expected "scores" or "options", got {answer!r:.40}')
        fields["answer"] = answer
        parse_fields = _parse_option_fields if answer == "options" else _parse_score_fields
        fields |= parse_fields(data, source)
        rubric = cls(name=name, **fields)
        if "{k}" not in rubric.answer_header and rubric.responses != (1, 1):
            raise UsageError(f"{source}: field 'answer_header': expected {{k}}, the number of a response, in the text")
        return rubric

    @property
    def has_options(self) -> bool:
        """Whether a verdict is one of the four options instead of scores."""
        return self.answer == "options"

    @property
    def labels(self) -> tuple[str, ...]:
        """Text of every possible answer."""
        return tuple(f"[[{option}]]" for option in OPTIONS) if self.has_options else self.scale.labels

    def check_response_count(self, responses: int) -> None:
        """Check that the rubric supports the given number of responses.

        Raises:
            UsageError: it does not.
        """
        minimum, maximum = self.responses
        if responses >= minimum and (maximum is None or responses <= maximum):
            return
        if maximum is None:
            supported = f"{minimum} or more"
        else:
            supported = f"{minimum} to {maximum}" if minimum < maximum else str(minimum)
        raise UsageError(f"rubric {self.name!r} is made for {supported} responses at a time, not {responses}")

    def count_answers(self, responses: int) -> int:
        """Return the number of `<answer>` tags in a verdict on the given number of responses."""
        return 1 if self.has_options else responses

    def list_example_answers(self, responses: int) -> tuple[str, ...]:
        """List the answers of the example verdict in the prompt.

        They start with the rubric's own example; further scores are distinct as long as the scale has enough. Steps of
        about the golden ratio spread them evenly over the scale, so that the example suggests no trend.
        """
        labels = self.labels
        start, step = labels.index(self.example[-1]), _find_coprime_step(len(labels))
        scattered = [labels[(start + i * step) % len(labels)] for i in range(len(labels))]
        unused = [label for label in scattered if label not in self.example]
        return tuple(islice(chain(self.example, unused, cycle(scattered)), self.count_answers(responses)))


_TEXTS = ("criteria", "task", "subject", "question_header", "answer_header", "biases", "notes")
_FIELDS = (*_TEXTS, "answer", "scale", "example", "responses", "distinct")


def _reject_unknown_fields(data: Mapping[str, Any], source: str) -> None:
    for key in data:
        if key not in _FIELDS:
            close_names = get_close_matches(key, _FIELDS, n=1)
            hint = f"did you mean {close_names[0]!r}?" if close_names else f"a rubric may have {', '.join(_FIELDS)}"
            raise UsageError(f"{source}: unknown field {key!r}; {hint}")


def _parse_text(data: Mapping[str, Any], key: str, source: str) -> str:
    value = data.get(key)
    if not isinstance(value, str) or not value.strip():
        example = ' such as "accuracy and level of detail"' if key == "criteria" else ""
        raise UsageError(f"{source}: field {key!r}: expected a text{example}")
    return " ".join(value.split())


def _parse_score_fields(data: Mapping[str, Any], source: str) -> dict[str, Any]:
    try:
        scale = Scale.parse(data["scale"])
    except (KeyError, ValueError, TypeError) as e:
        raise UsageError(
            f'{source}: field \'scale\': expected a text such as "1-10" or "1.0-5.0", with at most {MAX_LABELS} scores'
        ) from e
    example = data.get("example", [scale.low, scale.high])
    if not isinstance(example, list) or not example or not all(_is_score(s, scale) for s in example):
        raise UsageError(f"{source}: field 'example': expected a list of scores on the scale {scale}")
    distinct = data.get("distinct", False)
    if not isinstance(distinct, bool):
        raise UsageError(f"{source}: field 'distinct': expected true or false")
    example_labels = tuple(f"{score:.{scale.decimals}f}" for score in example)
    if distinct and len(set(example_labels)) < len(example_labels):
        raise UsageError(f"{source}: field 'example' repeats a score although 'distinct' is true; use distinct scores")
    responses = _parse_range(data.get("responses", "1+"), source)
    return {"scale": scale, "example": example_labels, "distinct": distinct, "responses": responses}


def _parse_option_fields(data: Mapping[str, Any], source: str) -> dict[str, Any]:
    for key in ("scale", "distinct"):
        if key in data:
            raise UsageError(
                f"{source}: field {key!r} applies to scores only; remove it, because 'answer' is \"options\""
            )
    if _parse_range(data.get("responses", 2), source) != (2, 2):
        raise UsageError(f"{source}: field 'responses': expected 2, because 'answer' is \"options\"")
    allowed = [f"[[{option}]]" for option in OPTIONS]
    example = data.get("example", allowed[0])
    if example not in allowed:
        raise UsageError(f"{source}: field 'example': expected one of {', '.join(allowed)}, got {example!r:.40}")
    return {"scale": SHARES, "example": (example,), "responses": (2, 2)}


def _parse_range(value: Any, source: str) -> tuple[int, int | None]:
    """Parse a number of responses, such as 2, "1-2" or "3+", into minimum and maximum."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    match = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4})|(\+))?", text) if isinstance(text, str) else None
    minimum = int(match[1]) if match else 0
    maximum: int | None = minimum
    if match and match[2]:
        maximum = int(match[2])
    elif match and match[3]:
        maximum = None
    if minimum < 1 or (maximum is not None and maximum < minimum):
        raise UsageError(f'{source}: field \'responses\': expected a number or range such as 2, "1-2" or "3+"')
    return minimum, maximum


def _is_score(value: Any, scale: Scale) -> bool:
    # An example must be a label of the scale, not only in its range: it shows the judge how to write scores.
    return isinstance(value, int | float) and not isinstance(value, bool) and value in map(float, scale.labels)


def _find_coprime_step(count: int) -> int:
    """Return the largest step up to 0.62 * count that visits every index before it returns to the first."""
    return next((step for step in range(round(0.62 * count), 1, -1) if gcd(step, count) == 1), 1)
