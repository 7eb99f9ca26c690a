"""Training examples as samples: TRL's conversational prompt-completion format, in the words of the judge's own
protocol.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flex_judge.alignment.curation.examples import TrainingExample
from flex_judge.judges.errors import UsageError, VerdictParseError
from flex_judge.judges.protocol.parsing import Reply, parse_verdict
from flex_judge.judges.protocol.parsing import extract_answer, split_answer_first_reply
from flex_judge.judges.protocol.prompts import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, THINK_OPEN, build_judge_turns
from flex_judge.judges.protocol.turns import Span
from flex_judge.judges.rubrics import load_rubric
from flex_judge.judges.rubrics.rubric import Rubric
from flex_judge.judges.types import Comparison, Message


@dataclass(frozen=True)
class TrainingRubrics:
    """By which rubric a judge is taught on each scale, and in which order it speaks."""

    by_scale: Mapping[str, Rubric]
    reason_first: bool = True
    """Whether it reasons, then answers; otherwise the other way round, the paper's ablation."""

    @classmethod
    def from_names(cls, names: Mapping[str, str], reason_first: bool = True) -> TrainingRubrics:
        """Load rubrics, named by the scale they must have.

        Raises:
            UsageError: a rubric does not exist, or has another scale.
        """
        found = {scale: load_rubric(name) for scale, name in names.items()}
        for scale, rubric in found.items():
            if str(rubric.scale) != scale or rubric.has_options:
                raise UsageError(f"rubric {rubric.name!r} must be for scores on {scale}, not on {rubric.scale}")
        return cls(found, reason_first)

    def to_row(self, example: TrainingExample) -> dict[str, Any]:
        """A training example as a row. What a judge is taught is what
        `flex_judge.judges.protocol.rendering.Renderer` will
        show it, and the
        completion is one that it would read as exactly these scores.

        Raises:
            VerdictParseError: the completion would be read as something else.
            UsageError: the rubric is not made for so many answers.
        """
        rubric = self.by_scale[example.scale]
        comparison = Comparison(example.id, (Message("user", example.question),), example.answers, rubric.name)
        reply = format_completion(example, rubric, self.reason_first)
        check_completion(reply, example, rubric, self.reason_first)
        return {
            "prompt": [
                {"role": turn.role, "content": "".join(p.text for p in turn.pieces if isinstance(p, Span))}
                for turn in build_judge_turns(comparison, rubric, self.reason_first)
            ],
            "completion": [{"role": "assistant", "content": reply}],
            "id": example.id,
            "kind": example.kind,
            "question": example.question,
            "responses": list(example.answers),
            "scores": list(example.scores),
            "reference_scores": list(example.reference_scores),
            "rubric": rubric.name,
            "scale": example.scale,
            "reasoning_tokens": example.tokens,
            "teacher": example.teacher,
            "row": example.reference.row,
        }


def format_completion(example: TrainingExample, rubric: Rubric, reason_first: bool = True) -> str:
    """What the judge is taught to say."""
    digits = rubric.scale.decimals
    answers = "".join(f"{ANSWER_OPEN}{score:.{digits}f}{ANSWER_CLOSE}" for score in example.scores)
    thinking = f"{THINK_OPEN}\n{example.reasoning.strip()}\n{THINK_CLOSE}"
    return f"{thinking}\n\n{answers}" if reason_first else f"{answers}\n\n{thinking}"


def check_completion(reply: str, example: TrainingExample, rubric: Rubric, reason_first: bool = True) -> None:
    """Raise VerdictParseError unless a judge that says this is understood as the training example means it."""
    if reason_first:
        thinking, _, said = reply.partition(THINK_CLOSE)
        said = extract_answer(said)
    else:
        said, thinking = split_answer_first_reply(reply)
    verdict = parse_verdict(Reply(thinking, said, cut=False), rubric, len(example.answers))
    if verdict.scores != example.scores or verdict.reasoning != example.reasoning.strip():
        raise VerdictParseError(f"{example.reference.where}: the sample would be read as {verdict.scores}")
