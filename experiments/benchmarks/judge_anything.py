"""Judge Anything: answers of any modality to questions of any modality, in pairs and alone.

The release has separate files for the questions, the answers of four models to each question, and the human judgments.
They are joined by question id and model name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flex_judge.experiments.benchmarks.benchmark import (
    Benchmark,
    BenchmarkSpec,
    PublishedResult,
    make_item,
    make_question,
    resolve_media_list,
)
from flex_judge.experiments.benchmarks.cells import parse_list, read_answer
from flex_judge.experiments.benchmarks.data import BenchmarkData, Record
from flex_judge.experiments.benchmarks.items import TIE, Item
from flex_judge.experiments.benchmarks.scores import CorrelationScoring
from flex_judge.experiments.benchmarks.scoring import PairScoring
from flex_judge.judges.errors import UsageError

OVERALL_RUBRICS = ("overall", "overall_score")
"""Rubric names of the judgments that are used: of the whole answer, not by one of the six criteria."""
CHOICE_LABELS = {0: 0, 1: TIE, 2: 1, "0": 0, "1": TIE, "2": 1}
QUESTION_FIELDS = ("question", "prompt", "instruction", "query", "text")
MEDIA_FIELDS = (("image", "image_path"), ("video", "video_path"), ("audio", "audio_path"))
Answers = dict[tuple[str, str], Record]
"""(Question id, model name) -> row of the answer."""


class JudgeAnything(Benchmark):
    """Human choices between the answers of two models, and scores of single answers; grouped by task (`Text2Image`)."""

    spec = BenchmarkSpec(
        name="judge-anything",
        about="Judge Anything: answers of any modality, in pairs and alone, over 15 tasks (arXiv 2503.17489)",
        expected="Judge Anything's files: questions (uniq_id, task_name), answers (uniq_id, model_name, response) and "
        "human judgments (uniq_id, rubric_name, model_pair and choice, or model_name and score)",
        origin="dataset/ of the GitHub repository URRealHero/JudgeAnything, with the media of its hub data set",
        patterns=("**/*.json", "**/*.jsonl"),
        tasks={
            "score": CorrelationScoring(group="modalities"),
            "pair": PairScoring(headline="macro", measure="accuracy", macro="modalities"),
        },
        fields=("uniq_id",),
        protocol={"temperature": 0.6, "top_p": 0.95},
        published=tuple(
            PublishedResult(judge, {"pair.macro": accuracy})
            for judge, accuracy in (
                ("Flex-Omni-7B", 0.553),
                ("GPT-4o", 0.554),
                ("Gemini-1.5-Pro", 0.566),
                ("Gemini-2.0-Flash", 0.541),
                ("Qwen2.5-Omni-7B", 0.398),
            )
        ),
    )

    def parse_items(self, data: BenchmarkData) -> list[Item]:
        """See `Benchmark.parse_items`."""
        records = [record for record in data.records if record.get("uniq_id") is not None]
        judgments = [record for record in records if record.get("rubric_name") in OVERALL_RUBRICS]
        answers = {
            (str(record.get("uniq_id")), record.get_text("model_name")): record
            for record in records
            if record.get("response") is not None
        }
        questions = {
            str(record.get("uniq_id")): record
            for record in records
            if record.get("response") is None
            and record.get("rubric_name") is None
            # The release has a file of checklists too, whose rows have a question's id.
            and record.get(*QUESTION_FIELDS) is not None
        }
        for name, rows in (("human judgments", judgments), ("answers", answers), ("questions", questions)):
            if not rows:
                raise UsageError(f"{data.name}: has no {name}; expected {self.spec.expected}")
        return [self._join_record(record, questions, answers) for record in judgments]

    def _join_record(self, record: Record, questions: dict[str, Record], answers: Answers) -> Item:
        """Join a human judgment with its question and answers."""
        question_id = str(record.require_value("uniq_id"))
        question = questions.get(question_id)
        if question is None:
            raise record.make_error("uniq_id", "the id of a question", question_id)
        answering_models = [model for answered_id, model in answers if answered_id == question_id]
        is_pair = record.get("choice") is not None
        models = _parse_model_pair(record, answering_models) if is_pair else [record.get_text("model_name")]
        for model in models:
            if model not in answering_models:
                raise record.make_error("model_name", f"a model that answered: {', '.join(answering_models)}", model)
        responses = [_parse_answer(answers[question_id, model]) for model in models]
        label = record.get_choice(CHOICE_LABELS, "choice") if is_pair else record.get_number("score")
        task, rubric = ("pair", "judge_anything_pair") if is_pair else ("score", "judge_anything_score")
        item_id, modalities = "/".join((question_id, *models)), question.get_text("task_name")
        prompt = _make_question(question)
        return make_item(
            record, item_id, task, prompt=prompt, responses=responses, rubric=rubric, label=label, modalities=modalities
        )


def _parse_model_pair(record: Record, models: Sequence[str]) -> list[str]:
    """Parse the two models of a judgment: a list, or a text that starts with one name and ends with the other."""
    value = record.require_value("model_pair")
    names = parse_list(value)
    if names is not None and len(names) == 2:
        return [str(name) for name in names]
    text = str(value)
    matches = [[a, b] for a in models for b in models if a != b and text.startswith(a) and text.endswith(b)]
    if not matches:
        raise record.make_error("model_pair", f"two of {', '.join(models)}", value)
    # One name may be a prefix of another (gpt, gpt-mini), so the longest match is the right one.
    return max(matches, key=lambda pair: len("".join(pair)))


def _make_question(record: Record) -> list[dict[str, Any]]:
    media: list[tuple[str, Any]] = []
    for modality, field in MEDIA_FIELDS:
        if (value := record.get(field)) not in (None, [], ""):
            media += [(modality, source) for source in resolve_media_list(record, value, field)]
    return make_question(record.get_text(*QUESTION_FIELDS), *media)


def _parse_answer(record: Record) -> Any:
    response = record.require_value("response")
    kind = str(response.get("type", "")).lower() if isinstance(response, dict) else ""
    if kind not in ("text", "image", "video", "audio"):
        raise record.make_error("response", "an object with type text, image, video or audio, and content", response)
    content = response.get("content")
    if kind == "text":
        texts = content if isinstance(content, list) else [content]
        return "\n".join(text for text in map(read_answer, texts) if text is not None)
    return [{"type": kind, kind: source} for source in resolve_media_list(record, content, "response")]
