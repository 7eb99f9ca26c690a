"""Judge Anything: answers of any modality to questions of any modality, in pairs and alone.

The release holds questions, the answers of four models to each, and people's judgments in files of their own, which
are joined here by the question's id and the models' names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flex_judge.experiments.benchmarks.benchmark import Benchmark, BenchmarkSpec, PublishedResult, make_item
from flex_judge.experiments.benchmarks.data import BenchmarkData, Record
from flex_judge.experiments.benchmarks.items import TIE, Item
from flex_judge.experiments.benchmarks.scores import CorrelationScoring
from flex_judge.experiments.benchmarks.scoring import PairScoring
from flex_judge.experiments.benchmarks.vision import resolve_media
from flex_judge.judges.errors import UsageError

OVERALL_RUBRICS = ("overall", "overall_score")
"""The judgments that are taken: those of an answer as a whole, not by one of the six criteria."""
CHOICE_LABELS = {0: 0, 1: TIE, 2: 1, "0": 0, "1": TIE, "2": 1}
QUESTION_FIELDS = ("question", "prompt", "instruction", "query", "text")
MEDIA_FIELDS = (("image", "image_path"), ("video", "video_path"), ("audio", "audio_path"))
Answers = dict[tuple[str, str], Record]
"""Of a question and a model, its answer."""


class JudgeAnything(Benchmark):
    """People's choices between two models' answers, and their scores of one, by task (`Text2Image`)."""

    spec = BenchmarkSpec(
        "judge-anything",
        "Judge Anything: answers of any modality, in pairs and alone, over 15 tasks (arXiv 2503.17489)",
        "Judge Anything's files: questions (uniq_id, task_name), answers (uniq_id, model_name, response) and people's "
        "judgments (uniq_id, rubric_name, model_pair and choice, or model_name and score)",
        ("**/*.json", "**/*.jsonl"),
        {
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
        records = [record for record in data.records if record.get("uniq_id") is not None]
        judged = [record for record in records if record.get("rubric_name") in OVERALL_RUBRICS]
        answers = {
            (str(record.get("uniq_id")), record.get_text("model_name")): record
            for record in records
            if record.get("response") is not None
        }
        questions = {
            str(record.get("uniq_id")): record
            for record in records
            if record.get("response") is None and record.get("rubric_name") is None
        }
        for what, found in (("judgments of people", judged), ("answers", answers), ("questions", questions)):
            if not found:
                raise UsageError(f"{data.name}: holds no {what}; expected {self.spec.expected}")
        return [self._join_record(record, questions, answers) for record in judged]

    def _join_record(self, record: Record, questions: dict[str, Record], answers: Answers) -> Item:
        name = str(record.require_value("uniq_id"))
        asked = questions.get(name)
        if asked is None:
            raise record.make_error("uniq_id", "that of a question", name)
        known = [model for question, model in answers if question == name]
        paired = record.get("choice") is not None
        models = _parse_model_pair(record, known) if paired else [record.get_text("model_name")]
        missing = [model for model in models if model not in known]
        if missing:
            raise record.make_error("model_name", f"a model that answered: {', '.join(known)}", missing[0])
        shown = [_parse_answer(answers[name, model]) for model in models]
        label = record.get_choice(CHOICE_LABELS, "choice") if paired else record.get_number("score")
        task, rubric = ("pair", "general") if paired else ("score", "general_1_5")
        whole, kind = "/".join((name, *models)), asked.get_text("task_name")
        return make_item(record, whole, task, _make_question(asked), shown, rubric, label, modalities=kind)


def _parse_model_pair(record: Record, known: Sequence[str]) -> list[str]:
    """The two models of a judgment: a list, or a text that begins with one's name and ends with the other's."""
    value = record.require_value("model_pair")
    if isinstance(value, list) and len(value) == 2:
        return [str(one) for one in value]
    text = str(value)
    found = [[a, b] for a in known for b in known if a != b and text.startswith(a) and text.endswith(b)]
    if not found:
        raise record.make_error("model_pair", f"two of {', '.join(known)}", value)
    return max(found, key=lambda pair: len("".join(pair)))  # one name may begin with another


def _make_question(record: Record) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    for modality, field in MEDIA_FIELDS:
        value = record.get(field)
        for one in value if isinstance(value, list) else [value]:
            if one is not None:
                parts.append({"type": modality, modality: resolve_media(record, one, field)})
    return [{"role": "user", "content": [*parts, {"type": "text", "text": record.get_text(*QUESTION_FIELDS)}]}]


def _parse_answer(record: Record) -> Any:
    response = record.require_value("response")
    kind = str(response.get("type", "")).lower() if isinstance(response, dict) else ""
    if kind not in ("text", "image", "video", "audio"):
        raise record.make_error("response", "an object with type text, image, video or audio, and content", response)
    content = response.get("content")
    if kind == "text":
        return str(content)
    several = content if isinstance(content, list) else [content]
    return [{"type": kind, kind: resolve_media(record, one, "response")} for one in several]
