"""MLLM-as-a-Judge: answers about images from 14 sources, scored, compared in pairs, or ranked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flex_judge.experiments.benchmarks.benchmark import (
    BenchmarkSpec,
    PublishedResult,
    RowBenchmark,
    make_item,
    make_question,
    resolve_media_list,
)
from flex_judge.experiments.benchmarks.cells import parse_list
from flex_judge.experiments.benchmarks.data import Record
from flex_judge.experiments.benchmarks.items import TIE, Item, Label
from flex_judge.experiments.benchmarks.makers import add_up_runs
from flex_judge.experiments.benchmarks.scores import CorrelationScoring, RankingScoring
from flex_judge.experiments.benchmarks.scoring import PairScoring

RUNS = 3
PAIR_LABELS: Mapping[Any, Label] = {"A": 0, "B": 1, "C": TIE, "TIE": TIE}
LABEL_FIELDS = ("human", "human_answer", "human_score")
"""Names of the label; they differ between the files of the release."""


def _file_patterns(folder: str, suffix: str = "") -> str:
    """Return the joined patterns of the three files in a folder. Some folders of the release capitalize the names."""
    names = [name for task in ("score", "pair", "batch") for name in (task, task.capitalize())]
    return "|".join(f"{folder}/{name}{suffix}.jsonl" for name in names)


def _make_result(judge: str, *values: float) -> PublishedResult:
    names = ("score.pearson", "pair.macro", "pair.macro_without_ties", "batch.distance")
    return PublishedResult(judge, dict(zip(names, values, strict=True)))


class MLLMJudge(RowBenchmark):
    """Three tasks: score (correlation), pair (agreement of the majority of three runs), batch (edit distance)."""

    spec = BenchmarkSpec(
        name="mllm-judge",
        about="MLLM-as-a-Judge: answers about an image, by score, pair and batch, three runs (arXiv 2402.04788)",
        expected="MLLM-as-a-Judge's Benchmark folder with score.jsonl, pair.jsonl and batch.jsonl, next to image/: "
        "rows with image_path, original_dataset, instruction, answer(s) and human",
        origin="the folder Benchmark (or Benchmark_Lite), next to image/, of the GitHub repository "
        "Dongping-Chen/MLLM-Judge",
        patterns=(
            _file_patterns("**/Benchmark"),
            _file_patterns("."),
            _file_patterns("**/Benchmark_Lite", "_lite"),
            _file_patterns(".", "_lite"),
            _file_patterns("**/Benchmark_Lite"),
            _file_patterns("**"),
            "**/*.jsonl",
        ),
        tasks={
            "score": CorrelationScoring(),
            "pair": PairScoring(
                headline="macro", measure="agreement", unit="voted", macro="source", makers_count=add_up_runs
            ),
            "batch": RankingScoring(),
        },
        fields=("image_path", "original_dataset", "instruction"),
        ids=("score_id", "pair_id", "batch_id", "id"),
        protocol={"temperature": 0.4, "top_p": 0.8, "runs": RUNS, "image_max_pixels": 448 * 448},
        published=(
            _make_result("Flex-VL-7B", 0.332, 0.538, 0.655, 0.426),
            PublishedResult("Flex-VL-3B", {"score.pearson": 0.176}),
            PublishedResult("Flex-VL-32B-LoRA", {"score.pearson": 0.361}),
            _make_result("Flex-Omni-7B", 0.306, 0.532, 0.650, 0.425),
            _make_result("Qwen2.5-VL-7B", 0.165, 0.423, 0.425, 0.585),
            _make_result("LLaVA-Critic-7B", 0.314, 0.556, 0.689, 0.565),
            _make_result("GPT-4V", 0.424, 0.538, 0.717, 0.361),
            _make_result("Gemini-2.5-Pro", 0.390, 0.556, 0.668, 0.512),
        ),
    )

    def parse_record(self, record: Record, id: str) -> Item:
        """See `RowBenchmark.parse_record`."""
        images = resolve_media_list(record, record.get("image_path", "image"), "image_path")
        question = make_question(record.get_text("instruction"), *(("image", image) for image in images))
        # The three files differ in the fields of their answers, and may come without their names.
        if record.get("answers") is not None:
            task, texts = "batch", record.get_answers("answers")
            if len(texts) < 3:
                raise record.make_error("answers", "three or more answers", record.get("answers"))
        elif "answer1" in record.data:
            task, texts = "pair", [record.get_answer("answer1"), record.get_answer("answer2")]
        else:
            task, texts = "score", [record.get_answer("answer")]
        label, rubric = self._parse_label(record, task, len(texts)), f"mllm_judge_{task}"
        return make_item(
            record,
            id,
            task,
            prompt=question,
            responses=texts,
            rubric=rubric,
            label=label,
            source=record.get_text("original_dataset"),
        )

    def _parse_label(self, record: Record, task: str, answer_count: int) -> Label:
        if task == "score":
            return record.get_number(*LABEL_FIELDS)
        if task == "pair":
            label: Label = record.get_choice(PAIR_LABELS, *LABEL_FIELDS, ignore_case=True)
            return label
        ranking = record.require_value(*LABEL_FIELDS)
        letters = ranking if isinstance(ranking, str) else "".join(map(str, parse_list(ranking) or ()))
        order = tuple(ord(letter) - ord("A") for letter in letters.upper() if letter.isalpha())
        if sorted(order) != list(range(answer_count)):
            raise record.make_error("human", f"a ranking of {answer_count} answers, such as BAC", ranking)
        return order
