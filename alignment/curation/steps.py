"""Steps of curation: each looks at all training examples and says which it keeps, and why it drops the others."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from flex_judge.alignment.curation.examples import TrainingExample
from flex_judge.alignment.curation.rows import DropRecord


@dataclass(frozen=True)
class StepResult:
    """What a step leaves."""

    kept: list[TrainingExample]
    """In the order in which they came."""
    dropped: list[DropRecord]


class CurationStep(Protocol):
    """Something that training examples pass through. Pure: the same training examples give the same."""

    @property
    def name(self) -> str:
        """What a table calls it."""
        ...

    def __call__(self, examples: Sequence[TrainingExample]) -> StepResult: ...


@dataclass(frozen=True)
class StepCounts:
    """What became of the training examples at one step."""

    step: str
    kept: int
    dropped: Counter[str]
    """Reason -> how many."""


@dataclass(frozen=True)
class CurationResult:
    """What all steps leave, and the counts after each."""

    examples: list[TrainingExample]
    passed: list[StepCounts]
    dropped: list[DropRecord]


@dataclass(frozen=True)
class CurationPipeline:
    """Steps, one after the other."""

    steps: tuple[CurationStep, ...]

    def __call__(self, examples: Sequence[TrainingExample]) -> CurationResult:
        left, passed, dropped = list(examples), [], []
        for step in self.steps:
            sifted = step(left)
            left = sifted.kept
            passed.append(StepCounts(step.name, len(left), Counter(d.reason for d in sifted.dropped)))
            dropped += sifted.dropped
        return CurationResult(left, passed, dropped)


@dataclass(frozen=True)
class AgreementFilter:
    """Keeps judgments whose scores are the reference's."""

    tolerance: float = 0.0
    """By how much each score may differ, on the training example's scale."""
    name: str = "agreement with the reference"

    def __call__(self, examples: Sequence[TrainingExample]) -> StepResult:
        sifted = StepResult([], [])
        for example in examples:
            wanted = example.reference_scores
            if all(abs(a - b) <= self.tolerance for a, b in zip(example.scores, wanted, strict=True)):
                sifted.kept.append(example)
            else:
                said = f"scores {_format_scores(example.scores)}, reference {_format_scores(wanted)}"
                sifted.dropped.append(example.record_drop("disagrees with the reference", said))
        return sifted


@dataclass(frozen=True)
class LongestReplyFilter:
    """Keeps the longest reasoning of each prompt, which is question and answers; of equally long ones the first."""

    name: str = "longest reply to each prompt"

    def __call__(self, examples: Sequence[TrainingExample]) -> StepResult:
        best: dict[str, TrainingExample] = {}
        for example in examples:
            kept = best.setdefault(example.prompt_digest, example)
            if example.tokens > kept.tokens:
                best[example.prompt_digest] = example
        chosen = {example.id for example in best.values()}
        return StepResult(
            [example for example in examples if example.id in chosen],
            [
                example.record_drop("shorter reply to the same prompt")
                for example in examples
                if example.id not in chosen
            ],
        )


_FORGED = re.compile(
    r"<\s*/?\s*(?:think|answer)\s*>"  # the judge's own
    r"|<[|｜][^<>|｜\n]{1,40}[|｜]>"  # <|im_end|> and what other families write so
    r"|</?s>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class ForgedTagFilter:
    """Drops examples in which question, answers or reasoning hold a tag of the judge's or a control token of a chat:
    trainers encode them as such, and a verdict that an answer forges would be learnt."""

    controls: Collection[str] = ()
    """Control tokens of the tokenizer that is at hand; the usual ones are known without."""
    name: str = "no tags and control tokens in texts"

    def __call__(self, examples: Sequence[TrainingExample]) -> StepResult:
        own = re.compile("|".join(map(re.escape, sorted(self.controls, key=len, reverse=True))) or r"(?!)")
        sifted = StepResult([], [])
        for example in examples:
            found = next(
                filter(None, (_find_forged_tag(text, own) for text in (*example.texts, example.reasoning))), None
            )
            if found is None:
                sifted.kept.append(example)
            else:
                sifted.dropped.append(example.record_drop("tag or control token in its text", repr(found)))
        return sifted


def _find_forged_tag(text: str, own: re.Pattern[str]) -> str | None:
    found = _FORGED.search(text) or own.search(text)
    return found[0] if found else None


def _format_scores(scores: Sequence[float]) -> str:
    return ", ".join(f"{score:g}" for score in scores)
