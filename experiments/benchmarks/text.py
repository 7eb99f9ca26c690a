"""Benchmarks of judges of text: pairs of answers, and which of the two people, or GPT-4, prefer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flex_judge.experiments.benchmarks.benchmark import BenchmarkSpec, PublishedResult, RowBenchmark, make_item
from flex_judge.experiments.benchmarks.data import BenchmarkData, Record, assign_ids, check_fields
from flex_judge.experiments.benchmarks.items import TIE, Item, Label
from flex_judge.experiments.benchmarks.replies import REPLY_FORMATS
from flex_judge.experiments.benchmarks.scoring import PairScoring
from flex_judge.judges.errors import UsageError

FIRST_SECOND_TIE: Mapping[Any, Label] = {1: 0, 2: 1, 0: TIE, "1": 0, "2": 1, "0": TIE, "tie": TIE, "Tie": TIE}
FIRST_SECOND = {name: label for name, label in FIRST_SECOND_TIE.items() if label != TIE}
"""How PandaLM and LLMBar write which of two answers is better."""


def _make_result(judge: str, *figures: float, source: str = "arXiv 2504.00050") -> PublishedResult:
    names = ("agreement", "precision", "recall", "f1")
    return PublishedResult(judge, {f"pair.{name}": one for name, one in zip(names, figures, strict=False)}, source)


class PandaLM(RowBenchmark):
    """Label: the majority of three annotators; where all three differ the first one's, as in the published metrics."""

    spec = BenchmarkSpec(
        "pandalm",
        "PandaLM: two answers to an instruction, against the majority of three annotators (arXiv 2306.05087)",
        "PandaLM's testset-v1.json: rows with instruction, response1, response2 and annotator1-3, or label",
        ("**/testset-v1.json", "**/*.json", "**/*.jsonl"),
        {"pair": PairScoring(classes=True)},
        fields=("instruction", "response1", "response2"),
        ids=("idx", "id"),
        counts={"pair": 999},
        protocol={"temperature": 0.6, "top_p": 0.95},
        formats=("label", "brackets"),
        published=(
            PublishedResult("Flex-VL-7B", {"pair.agreement": 0.7684}),
            _make_result("JudgeLRM-7B", 0.7828, 0.7490, 0.7574, 0.7505),
            _make_result("DeepSeek-R1", 0.7867, 0.7751, 0.6997, 0.7248),
            _make_result("PandaLM-70B", 0.6687, 0.7402, 0.6687, 0.6923),
            _make_result("JudgeLM-7B", 0.6507, 0.6689, 0.7195, 0.6192),
            _make_result("GPT-4", 0.6647, 0.6620, 0.6815, 0.6180),
        ),
    )

    def parse_record(self, record: Record, id: str) -> Item:
        answers = [record.get_text_or_empty("response1"), record.get_text_or_empty("response2")]
        context = record.get_text("input") if record.get("input") is not None else None
        asked = "\n\n".join(filter(None, [record.get_text("instruction"), context]))
        return make_item(
            record,
            id,
            "pair",
            asked,
            answers,
            "pandalm",
            self._parse_label(record),
            **self._group_by_annotators(record),
        )

    def _parse_label(self, record: Record) -> Label:
        if record.get("label") is not None:
            label: Label = record.get_choice(FIRST_SECOND_TIE, "label")
            return label
        return Counter(self._parse_annotators(record)).most_common(1)[0][0]  # of those that are level, the first

    def _group_by_annotators(self, record: Record) -> dict[str, str]:
        if record.get("label") is not None:
            return {}
        return {"annotators": "all differ" if len(set(self._parse_annotators(record))) == 3 else "two agree or more"}

    def _parse_annotators(self, record: Record) -> list[Label]:
        return [record.get_choice(FIRST_SECOND_TIE, f"annotator{k}") for k in (1, 2, 3)]


class JudgeLM(RowBenchmark):
    """Label: which answer GPT-4 gave the higher score. Its judgments may be in the rows, or in a file beside them with
    the same question ids; where it gave no scores the item is left out, as its makers do."""

    spec = BenchmarkSpec(
        "judgelm",
        "JudgeLM: two answers to a question, against GPT-4's scores (arXiv 2310.17631)",
        "JudgeLM's judgelm_val_5k.jsonl and judgelm_val_5k_gpt4.jsonl: rows with question_id, question_body, "
        "answer1_body and answer2_body, and rows with question_id and text (or score)",
        ("**/judgelm_val_5k*.jsonl", "**/*.jsonl", "**/*.json"),
        {"pair": PairScoring(classes=True)},
        ids=("question_id", "id"),
        counts={"pair": 5000},
        protocol={"temperature": 0.6, "top_p": 0.95},
        formats=("scores", "brackets"),
        published=(
            PublishedResult("Flex-VL-7B", {"pair.agreement": 0.8421}),
            _make_result("JudgeLRM-7B", 0.8374, 0.8584, 0.8365, 0.8473),
            _make_result("JudgeLM-7B", 0.8111, 0.6967, 0.7839, 0.7221, source="arXiv 2310.17631"),
            _make_result("JudgeLM-33B", 0.8903, 0.8097, 0.8476, 0.8264, source="arXiv 2310.17631"),
        ),
    )

    def parse_items(self, data: BenchmarkData) -> list[Item]:
        asked = [record for record in data.records if record.get("question_body") is not None]
        check_fields(asked or data.records, ("question_body", "answer1_body", "answer2_body"), self.spec.expected)
        judged = [record for record in data.records if _parse_gpt4_scores(record) is not None]
        # One that was judged beside a reference answer is another benchmark's.
        judged = [record for record in judged if "with_reference" not in record.file.name] or judged
        if not judged:
            raise UsageError(f"{data.name}: holds no scores of GPT-4; expected {self.spec.expected}")
        # GPT-4's own words count before a number that stands in a row.
        judged.sort(key=lambda record: isinstance(record.get("text", "review"), str))
        scores = {str(record.get("question_id")): _parse_gpt4_scores(record) for record in judged}
        rows = [replace(one, data={**one.data, "gpt4": scores.get(str(one.get("question_id")))}) for one in asked]
        return [
            self.parse_record(record, name) for record, name in zip(rows, assign_ids(rows, self.spec.ids), strict=True)
        ]

    def parse_record(self, record: Record, id: str) -> Item:
        answers = [record.get_text("answer1_body"), record.get_text("answer2_body")]
        first, second = record.get("gpt4") or (-1.0, -1.0)
        label: Label | None = TIE if first == second else 0 if first > second else 1
        if min(first, second) < 0:
            label = None
        return make_item(
            record, id, "pair", record.get_text("question_body"), answers, "judgelm", label, "GPT-4 gave no scores"
        )


def _parse_gpt4_scores(record: Record) -> tuple[float, float] | None:
    """The two scores in a row: those on the first line of GPT-4's text, or those of its own field."""
    text, scores = record.get("text", "review"), record.get("score")
    if isinstance(text, str):
        return REPLY_FORMATS["scores"](text) or (-1.0, -1.0)
    if isinstance(scores, list) and len(scores) == 2 and all(isinstance(one, int | float) for one in scores):
        if not all(map(math.isfinite, scores)):
            raise record.make_error("score", "two numbers", scores)
        return float(scores[0]), float(scores[1])
    return None
