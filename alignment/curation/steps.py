"""Curation steps: each one splits the training examples into kept and dropped ones and gives the reasons."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from flex_judge.alignment.curation.examples import TrainingExample
from flex_judge.alignment.curation.rows import DropRecord


@dataclass(frozen=True)
class StepResult:
    """Kept examples of a step, and records of the dropped ones."""

    kept: list[TrainingExample]
    """Kept examples in input order."""
    dropped: list[DropRecord]


class CurationStep(Protocol):
    """Interface of a curation step. Steps are pure: equal input gives equal output."""

    @property
    def name(self) -> str:
        """Name of the step in tables."""
        ...

    def __call__(self, examples: Sequence[TrainingExample]) -> StepResult:
        """Split examples into kept and dropped ones."""
        ...


@dataclass(frozen=True)
class StepCounts:
    """Number of kept and dropped examples of one step."""

    step: str
    kept: int
    dropped: Counter[str]
    """Number of dropped examples by reason."""


@dataclass(frozen=True)
class CurationResult:
    """Examples that passed all steps, counts per step, and records of all dropped examples."""

    examples: list[TrainingExample]
    step_counts: list[StepCounts]
    dropped: list[DropRecord]


@dataclass(frozen=True)
class CurationPipeline:
    """Sequence of curation steps; each step gets the examples that the previous one kept."""

    steps: tuple[CurationStep, ...]

    def __call__(self, examples: Sequence[TrainingExample]) -> CurationResult:
        """Run all steps on examples."""
        remaining, step_counts, dropped = list(examples), [], []
        for step in self.steps:
            result = step(remaining)
            remaining = result.kept
            reasons = Counter(record.reason for record in result.dropped)
            step_counts.append(StepCounts(step.name, len(remaining), reasons))
            dropped += result.dropped
        return CurationResult(remaining, step_counts, dropped)


def split_examples(
    examples: Sequence[TrainingExample], find_drop: Callable[[TrainingExample], DropRecord | None]
) -> StepResult:
    """Split examples into those without a drop record, and the records of the others."""
    result = StepResult([], [])
    for example in examples:
        record = find_drop(example)
        if record is None:
            result.kept.append(example)
        else:
            result.dropped.append(record)
    return result


@dataclass(frozen=True)
class AgreementFilter:
    """Curation step that keeps judgments whose scores agree with the reference scores."""

    tolerance: float = 0.0
    """Maximum difference of each score from its reference score, on the scale of the example."""
    name: str = "agreement with the reference"

    def __call__(self, examples: Sequence[TrainingExample]) -> StepResult:
        """Split examples by agreement."""
        return split_examples(examples, self._find_disagreement)

    def _find_disagreement(self, example: TrainingExample) -> DropRecord | None:
        expected = example.reference_scores
        if all(abs(a - b) <= self.tolerance for a, b in zip(example.scores, expected, strict=True)):
            return None
        detail = f"scores {_format_scores(example.scores)}, reference {_format_scores(expected)}"
        return example.record_drop("disagrees with the reference", detail)


@dataclass(frozen=True)
class LongestReplyFilter:
    """Curation step that keeps the longest reasoning for each prompt (question and answers).

    If several are equally long, the first one is kept.
    """

    name: str = "longest reply per prompt"

    def __call__(self, examples: Sequence[TrainingExample]) -> StepResult:
        """Split examples into the longest ones and the others."""
        longest: dict[str, TrainingExample] = {}
        for example in examples:
            current = longest.setdefault(example.prompt_digest, example)
            if example.tokens > current.tokens:
                longest[example.prompt_digest] = example
        kept_ids = {example.id for example in longest.values()}

        def find_drop(example: TrainingExample) -> DropRecord | None:
            return None if example.id in kept_ids else example.record_drop("shorter reply to the same prompt")

        return split_examples(examples, find_drop)


_FORGED_TAG = re.compile(
    r"<\s*/?\s*(?:think|answer)\s*>"  # the judge's own tags
    r"|<[|｜][^<>|｜\n]{1,40}[|｜]>"  # control tokens such as <|im_end|>, in ASCII and full-width form
    r"|</?s>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class ForgedTagFilter:
    """Curation step that drops examples whose texts contain tags of the judge or chat control tokens.

    Trainers encode such text as control tokens. A judge would learn to follow a verdict that an answer forges.
    """

    control_tokens: Collection[str] = ()
    """Control tokens of the tokenizer in use; the common ones are always recognised."""
    name: str = "forged-tag removal"

    def __call__(self, examples: Sequence[TrainingExample]) -> StepResult:
        """Split examples into clean ones and those with tags or control tokens."""
        # Longer tokens come first, because an alternation takes the first match. (?!) never matches.
        tokens = sorted(self.control_tokens, key=len, reverse=True)
        control_token = re.compile("|".join(map(re.escape, tokens)) or r"(?!)")

        def find_drop(example: TrainingExample) -> DropRecord | None:
            tag = _find_forged_tag((*example.texts, example.reasoning), control_token)
            return None if tag is None else example.record_drop("tag or control token in its text", repr(tag))

        return split_examples(examples, find_drop)


def _find_forged_tag(texts: Sequence[str], control_token: re.Pattern[str]) -> str | None:
    """Find the first tag or control token in texts."""
    for text in texts:
        if match := _FORGED_TAG.search(text) or control_token.search(text):
            return match[0]
    return None


def _format_scores(scores: Sequence[float]) -> str:
    return ", ".join(f"{score:g}" for score in scores)
