"""MLLM-as-a-Judge: answers about an image, scored alone, in pairs, or ranked together, from 14 sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flex_judge.experiments.benchmarks.benchmark import Published, RowBenchmark, Spec, make_item, question
from flex_judge.experiments.benchmarks.data import Record
from flex_judge.experiments.benchmarks.items import TIE, Item, Label
from flex_judge.experiments.benchmarks.scores import Correlations, Rankings
from flex_judge.experiments.benchmarks.scoring import Pairs
from flex_judge.experiments.benchmarks.vision import source

RUNS = 3
HUMAN_PAIR: Mapping[Any, Label] = {"A": 0, "B": 1, "C": TIE}


def _files(folder: str) -> str:
    """The patterns of the three files in a folder."""
    return "|".join(f"{folder}/{task}.jsonl" for task in ("score", "pair", "batch"))


def _published(judge: str, *figures: float) -> Published:
    names = ("score.pearson", "pair.macro", "pair.macro_without_ties", "batch.distance")
    return Published(judge, dict(zip(names, figures, strict=True)))


class MLLMJudge(RowBenchmark):
    """Three tasks with three metrics: correlation, agreement of the majority of three runs, and edit distance."""

    spec = Spec(
        "mllm-judge",
        "MLLM-as-a-Judge: answers about an image, by score, pair and batch, three runs (arXiv 2402.04788)",
        "MLLM-as-a-Judge's Benchmark folder with score.jsonl, pair.jsonl and batch.jsonl, images in image/ beside it: "
        "rows with image_path, original_dataset, instruction, answer(s) and human",
        (_files("**/Benchmark"), _files("."), _files("**/Benchmark_Lite"), _files("**"), "**/*.jsonl"),
        {
            "score": Correlations(),
            "pair": Pairs(headline="macro", measure="agreement", unit="voted", macro="source"),
            "batch": Rankings(),
        },
        fields=("image_path", "original_dataset", "instruction"),
        ids=("score_id", "pair_id", "batch_id", "id"),
        protocol={"temperature": 0.4, "top_p": 0.8, "runs": RUNS, "image_max_pixels": 448 * 448},
        published=(
            _published("Flex-VL-7B", 0.332, 0.538, 0.655, 0.426),
            Published("Flex-VL-3B", {"score.pearson": 0.176}),
            Published("Flex-VL-32B-LoRA", {"score.pearson": 0.361}),
            _published("Flex-Omni-7B", 0.306, 0.532, 0.650, 0.425),
            _published("Qwen2.5-VL-7B", 0.165, 0.423, 0.425, 0.585),
            _published("LLaVA-Critic-7B", 0.314, 0.556, 0.689, 0.565),
            _published("GPT-4V", 0.424, 0.538, 0.717, 0.361),
            _published("Gemini-2.5-Pro", 0.390, 0.556, 0.668, 0.512),
        ),
    )

    def item(self, record: Record, id: str) -> Item:
        picture = source(record, record.get("image_path"), "image_path")
        asked = question(record.text("instruction"), ("image", picture))
        if record.get("answers") is not None:
            task, answers = "batch", record.need("answers")
            if not isinstance(answers, list) or len(answers) < 3:
                raise record.wrong("answers", "three answers or more", answers)
        elif record.get("answer1") is not None:
            task, answers = "pair", [record.need("answer1"), record.need("answer2")]
        else:
            task, answers = "score", [record.need("answer")]
        texts = [_text(record, answer) for answer in answers]
        label, rubric = self._label(record, task, len(texts)), f"mllm_judge_{task}"
        return make_item(record, id, task, asked, texts, rubric, label, source=record.text("original_dataset"))

    def _label(self, record: Record, task: str, answers: int) -> Label:
        names = ("human", "human_answer", "human_score")
        if task == "score":
            return record.number_of(*names)
        if task == "pair":
            label: Label = record.one_of(HUMAN_PAIR, *names)
            return label
        ranking = record.text(*names)
        order = tuple(ord(letter) - ord("A") for letter in ranking.strip().upper())
        if sorted(order) != list(range(answers)):
            raise record.wrong("human", f"a ranking of {answers} answers, such as BAC", ranking)
        return order


def _text(record: Record, answer: str | Mapping[str, Any] | Sequence[Any]) -> str:
    """An answer, which may have its author beside it."""
    text = answer.get("answer") if isinstance(answer, Mapping) else answer
    if not isinstance(text, str):
        raise record.wrong("answer", "a text", answer)
    return text
