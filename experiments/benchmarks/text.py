"""Text benchmarks: pairs of answers with the preference of humans or of GPT-4."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flex_judge.experiments.benchmarks.benchmark import BenchmarkSpec, PublishedResult, RowBenchmark, make_item
from flex_judge.experiments.benchmarks.data import BenchmarkData, Record, check_fields
from flex_judge.experiments.benchmarks.ids import assign_ids
from flex_judge.experiments.benchmarks.items import TIE, Item, Label
from flex_judge.experiments.benchmarks.makers import count_unreadable_as_tie
from flex_judge.experiments.benchmarks.reply_formats import parse_judgelm_line, parse_score_line
from flex_judge.experiments.benchmarks.scoring import PairScoring
from flex_judge.judges.errors import UsageError

FIRST_SECOND_TIE: Mapping[Any, Label] = {1: 0, 2: 1, 0: TIE, "1": 0, "2": 1, "0": TIE, "tie": TIE, "Tie": TIE}
FIRST_SECOND = {name: label for name, label in FIRST_SECOND_TIE.items() if label != TIE}
"""Labels of PandaLM and LLMBar."""


def _make_result(judge: str, *values: float, source: str = "arXiv 2504.00050") -> PublishedResult:
    names = ("agreement", "precision", "recall", "f1")
    return PublishedResult(judge, {f"pair.{name}": value for name, value in zip(names, values, strict=False)}, source)


class PandaLM(RowBenchmark):
    """Pairs labelled by the majority of three annotators.

    If all three differ, the first one's label counts, as in the published metrics.
    """

    spec = BenchmarkSpec(
        name="pandalm",
        about="PandaLM: two answers to an instruction, against the majority of three annotators (arXiv 2306.05087)",
        expected="PandaLM's testset-v1.json: rows with instruction, response1, response2 and annotator1-3, or label",
        origin="data/testset-v1.json of the GitHub repository WeOpenML/PandaLM",
        patterns=("**/testset-v1.json", "**/*.json", "**/*.jsonl"),
        tasks={"pair": PairScoring(classes=True, makers_count=count_unreadable_as_tie)},
        fields=("instruction", "response1", "response2"),
        ids=("idx", "id"),
        counts={"pair": 999},
        protocol={"temperature": 0.6, "top_p": 0.95},
        formats=("pandalm", "scores"),
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
        """See `RowBenchmark.parse_record`."""
        answers = [record.get_answer("response1"), record.get_answer("response2")]
        context = record.get_response("input") if record.get("input") is not None else None
        prompt = "\n\n".join(filter(None, [record.get_response("instruction"), context]))
        return make_item(
            record,
            id,
            "pair",
            prompt=prompt,
            responses=answers,
            rubric="pandalm",
            label=self._parse_label(record),
            **self._group_by_annotators(record),
        )

    def _parse_label(self, record: Record) -> Label:
        if record.get("label") is not None:
            label: Label = record.get_choice(FIRST_SECOND_TIE, "label")
            return label
        # `most_common` keeps the order of first occurrence among equal counts.
        return Counter(self._parse_annotators(record)).most_common(1)[0][0]

    def _group_by_annotators(self, record: Record) -> dict[str, str]:
        if record.get("label") is not None:
            return {}
        return {"annotators": "all differ" if len(set(self._parse_annotators(record))) == 3 else "two agree or more"}

    def _parse_annotators(self, record: Record) -> list[Label]:
        return [record.get_choice(FIRST_SECOND_TIE, f"annotator{k}") for k in (1, 2, 3)]


class JudgeLM(RowBenchmark):
    """Pairs labelled by the scores of GPT-4.

    Its judgments are in the rows or in a separate file with the same question ids. Items without scores are left out,
    as in the official evaluation.
    """

    spec = BenchmarkSpec(
        name="judgelm",
        about="JudgeLM: two answers to a question, against GPT-4's scores (arXiv 2310.17631)",
        expected="JudgeLM's judgelm_val_5k.jsonl and judgelm_val_5k_gpt4.jsonl: rows with question_id, question_body, "
        "answer1_body and answer2_body, and rows with question_id and text (or score)",
        origin="judgelm_val_5k.jsonl and judgelm_val_5k_gpt4.jsonl of the release (arXiv 2310.17631)",
        patterns=("**/judgelm_val_5k*.jsonl", "**/*.jsonl", "**/*.json"),
        tasks={"pair": PairScoring(classes=True, makers_count=count_unreadable_as_tie)},
        ids=("question_id", "id"),
        counts={"pair": 5000},
        protocol={"temperature": 0.6, "top_p": 0.95},
        formats=("scores",),
        published=(
            PublishedResult("Flex-VL-7B", {"pair.agreement": 0.8421}),
            _make_result("JudgeLRM-7B", 0.8374, 0.8584, 0.8365, 0.8473),
            _make_result("JudgeLM-7B", 0.8111, 0.6967, 0.7839, 0.7221, source="arXiv 2310.17631"),
            _make_result("JudgeLM-33B", 0.8903, 0.8097, 0.8476, 0.8264, source="arXiv 2310.17631"),
        ),
    )

    def parse_items(self, data: BenchmarkData) -> list[Item]:
        """See `Benchmark.parse_items`."""
        questions = [record for record in data.records if record.get("question_body") is not None]
        check_fields(questions or data.records, ("question_body", "answer1_body", "answer2_body"), self.spec.expected)
        judged = [record for record in data.records if _parse_gpt4_scores(record) is not None]
        # Judgments made with a reference answer belong to another benchmark.
        judged = [record for record in judged if "with_reference" not in record.file.name] or judged
        if not judged:
            raise UsageError(f"{data.name}: has no scores of GPT-4; expected {self.spec.expected}")
        # Judgments in GPT-4's own words are sorted last, so that they override a plain score in a row.
        judged.sort(key=lambda record: isinstance(record.get("text", "review"), str))
        scores = {str(record.get("question_id")): _parse_gpt4_scores(record) for record in judged}
        rows = []
        for question in questions:
            gpt4_scores = scores.get(str(question.get("question_id")))
            rows.append(replace(question, data={**question.data, GPT4_FIELD: gpt4_scores}))
        item_ids = assign_ids(rows, self.spec.ids)
        return [self.parse_record(row, item_id) for row, item_id in zip(rows, item_ids, strict=True)]

    def parse_record(self, record: Record, id: str) -> Item:
        """See `RowBenchmark.parse_record`."""
        answers = [record.get_response("answer1_body"), record.get_response("answer2_body")]
        first, second, in_published = record.get(GPT4_FIELD) or (*NO_SCORES, True)
        label: Label | None = TIE if first == second else 0 if first > second else 1
        if -1.0 in (first, second):
            label = None
        # A grouping that all items share is not shown.
        groups = {} if label is None else {"label line": "as the makers read it" if in_published else "only read here"}
        item = make_item(
            record,
            id,
            "pair",
            prompt=record.get_text("question_body"),
            responses=answers,
            rubric="judgelm",
            label=label,
            left_out="GPT-4 gave no scores",
            **groups,
        )
        return replace(item, in_published=in_published)


GPT4_FIELD = "gpt4"
"""Field of a joined row: the two scores of GPT-4, and whether the makers' scripts read them."""
NO_SCORES = (-1.0, -1.0)
"""Scores of a text without scores. The makers leave out items with a score of -1."""


def _parse_gpt4_scores(record: Record) -> tuple[float, float, bool] | None:
    """Return the two scores of a row, from the first line of GPT-4's text or from the field `score`.

    Returns:
        The scores, NO_SCORES for a text without any, and whether the makers' scripts read the same; None for a row
        without a judgment. The makers read two numbers separated by one space or comma, and nothing else on the line.
    """
    text, scores = record.get("text", "review"), record.get("score")
    if isinstance(text, str):
        published = parse_judgelm_line(text)
        return (*(published or parse_score_line(text) or NO_SCORES), published is not None)
    if isinstance(scores, list) and len(scores) == 2 and all(isinstance(score, int | float) for score in scores):
        if not all(map(math.isfinite, scores)):
            raise record.make_error("score", "two numbers", scores)
        return float(scores[0]), float(scores[1]), True
    return None
