"""Training examples as data set rows in TRL's conversational prompt-completion format.

Prompts and completions use the judge's own protocol. The judge is therefore trained on exactly the texts that it reads
and writes when it judges.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flex_judge.alignment.curation.examples import TrainingExample
from flex_judge.judges.errors import UsageError, VerdictParseError
from flex_judge.judges.protocol.parsing import Reply, extract_answer, parse_verdict, split_answer_first_reply
from flex_judge.judges.protocol.prompts import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, THINK_OPEN, build_judge_turns
from flex_judge.judges.protocol.turns import Span
from flex_judge.judges.rubrics import load_rubric
from flex_judge.judges.rubrics.rubric import Rubric
from flex_judge.judges.types import Comparison, Message


@dataclass(frozen=True)
class TrainingRubrics:
    """Rubrics of the training examples, one per scale, and the order of reasoning and answer."""

    by_scale: Mapping[str, Rubric]
    reason_first: bool = True
    """Whether the judge reasons before it answers. False is the answer-first ablation of arXiv 2505.18601."""

    @classmethod
    def from_names(cls, names: Mapping[str, str], reason_first: bool = True) -> TrainingRubrics:
        """Load rubrics by name.

        Args:
            names: Rubric name for each scale.
            reason_first: Whether the judge reasons before it answers.

        Raises:
            UsageError: A rubric does not exist or has another scale.
        """
        rubrics = {scale: load_rubric(name) for scale, name in names.items()}
        for scale, rubric in rubrics.items():
            if str(rubric.scale) != scale or rubric.has_options:
                raise UsageError(
                    f"rubric {rubric.name!r}: its scale is {rubric.scale}; expected a rubric with scores on {scale}"
                )
        return cls(rubrics, reason_first)

    def to_row(self, example: TrainingExample) -> dict[str, Any]:
        """Convert a training example to a data set row.

        The prompt is the text that `flex_judge.judges.protocol.rendering.Renderer` shows a judge for this comparison.

        Raises:
            VerdictParseError: The judge's parser would read other scores or other reasoning from the completion.
            UsageError: The rubric does not support this number of answers.
        """
        rubric = self.by_scale[example.scale]
        comparison = Comparison(example.id, (Message("user", example.question),), example.answers, rubric.name)
        reply = format_completion(example, rubric, self.reason_first)
        # Every completion is parsed once, because a tag inside the reasoning would change its meaning.
        check_completion(reply, example, rubric, self.reason_first)
        prompt = []
        for turn in build_judge_turns(comparison, rubric, self.reason_first):
            text = "".join(piece.text for piece in turn.pieces if isinstance(piece, Span))
            prompt.append({"role": turn.role, "content": text})
        return {
            "prompt": prompt,
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
    """Format the reply that the judge is trained to give."""
    digits = rubric.scale.decimals
    answers = "".join(f"{ANSWER_OPEN}{score:.{digits}f}{ANSWER_CLOSE}" for score in example.scores)
    thinking = f"{THINK_OPEN}\n{example.reasoning.strip()}\n{THINK_CLOSE}"
    return f"{thinking}\n\n{answers}" if reason_first else f"{answers}\n\n{thinking}"


def check_completion(reply: str, example: TrainingExample, rubric: Rubric, reason_first: bool = True) -> None:
    """Raise VerdictParseError unless the judge's parser reads the example's scores and reasoning from a reply."""
    if reason_first:
        thinking, _, answer = reply.partition(THINK_CLOSE)
        answer = extract_answer(answer)
    else:
        answer, thinking = split_answer_first_reply(reply)
    verdict = parse_verdict(Reply(thinking, answer, cut=False), rubric, len(example.answers))
    if verdict.scores != example.scores or verdict.reasoning != example.reasoning.strip():
        raise VerdictParseError(
            f"{example.reference.where}: the sample would be parsed as {verdict.scores}, not as {example.scores}"
        )
