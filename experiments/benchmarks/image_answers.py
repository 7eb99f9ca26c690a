"""Benchmarks of answers about an image: VL-RewardBench and Multimodal RewardBench."""

from __future__ import annotations

import re
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
from flex_judge.experiments.benchmarks.items import Item
from flex_judge.experiments.benchmarks.scoring import PairScoring


def _make_vl_result(judge: str, *values: float) -> PublishedResult:
    """Make a result from the accuracies of the three groups, optionally followed by overall and macro accuracy."""
    names = ("group.general", "group.hallucination", "group.reasoning", "accuracy", "macro")
    return PublishedResult(judge, {f"pair.{name}": value for name, value in zip(names, values, strict=False)})


def _make_mmrb_result(judge: str, *accuracies: float) -> PublishedResult:
    *areas, overall = accuracies
    names = ("correctness", "preference", "knowledge", "math", "coding", "vqa")
    figures = {f"pair.area.{name}": value for name, value in zip(names, areas, strict=True)}
    return PublishedResult(judge, {**figures, "pair.accuracy": overall})


class VLRewardBench(RowBenchmark):
    """Pairs of answers about an image, labelled by annotators."""

    spec = BenchmarkSpec(
        name="vl-rewardbench",
        about="VL-RewardBench: two answers about an image, read in random order five times (arXiv 2411.17451)",
        expected="VL-RewardBench's test split: rows with id, query, response (two), human_ranking and image",
        patterns=("**/test*.parquet", "**/*.parquet", "**/*.jsonl", "**/*.json"),
        tasks={"pair": PairScoring(headline="accuracy", measure="accuracy", macro="group")},
        fields=("query", "response", "human_ranking"),
        hub=("hub:MMInstruction/VL-RewardBench@test",),
        counts={"pair": 1250},
        protocol={"temperature": 0.6, "top_p": 0.95, "order": "random", "runs": 5},
        formats=("brackets",),
        published=(
            _make_vl_result("Flex-VL-7B", 0.4611, 0.4339, 0.6287, 0.4860, 0.5079),
            _make_vl_result("Flex-Omni-7B", 0.4701, 0.4272, 0.6108, 0.4802, 0.5027),
            _make_vl_result("Flex-VL-3B", 0.4639, 0.3685, 0.5808),
            _make_vl_result("Flex-VL-32B-LoRA", 0.5452, 0.4192, 0.6446),
            _make_vl_result("GPT-4o", 0.491, 0.676, 0.705, 0.658, 0.624),
            _make_vl_result("Qwen2.5-VL-7B", 0.377, 0.331, 0.482, 0.363, 0.397),
        ),
    )

    def parse_record(self, record: Record, id: str) -> Item:
        """See `RowBenchmark.parse_record`."""
        answers = record.get_answers("response")
        if len(answers) != 2:
            raise record.make_error("response", "two texts", record.get("response"))
        ranking = parse_list(record.require_value("human_ranking"))
        if ranking not in ([0, 1], [1, 0]):
            raise record.make_error("human_ranking", "[0, 1] or [1, 0]", record.get("human_ranking"))
        images = resolve_media_list(record, record.get("image", "image_path"), "image")
        # The text repeats the placeholder of the image, which is a part of its own here.
        text = record.get_text("query").replace("<image>\n", "").removesuffix("\n<image>")
        question = make_question(text, *(("image", image) for image in images))
        group = _classify_vl_item(str(record.get("id") or ""), str(record.get("image_path") or ""))
        return make_item(
            record,
            id,
            "pair",
            prompt=question,
            responses=answers,
            rubric="vl_rewardbench",
            label=int(ranking[0]),
            group=group,
        )


VL_GROUPS = {
    "mathverse": "reasoning",
    "mmmu": "reasoning",
    "reasoning": "reasoning",
    "rlaif": "hallucination",
    "rlhf": "hallucination",
    "povid": "hallucination",
    "hallucination": "hallucination",
}
"""Source of an item -> its group; all other sources are general."""


def _classify_vl_item(item_id: str, image_path: str) -> str:
    """Return the published group of an item: by the start of its id, else by the folder of its image."""
    source = re.split(r"[-_]", item_id.lower(), maxsplit=1)[0]
    if source in VL_GROUPS or not image_path:
        return VL_GROUPS.get(source, "general")
    return next((group for name, group in VL_GROUPS.items() if name in image_path.lower()), "general")


class MultimodalRewardBench(RowBenchmark):
    """Pairs of answers about an image, labelled by experts."""

    spec = BenchmarkSpec(
        name="multimodal-rewardbench",
        about="Multimodal RewardBench: two answers about an image, in six areas (arXiv 2502.14191)",
        expected="Multimodal RewardBench's all_data.json, which the authors' scripts/0_download_data.py makes from "
        "all_data_release.json: rows with ID, Category, Text, Image, Output1, Output2 and Better",
        patterns=("**/all_data.json", "**/*.json", "**/*.jsonl", "**/*.parquet"),
        tasks={"pair": PairScoring(headline="accuracy", measure="accuracy", macro="area")},
        fields=("Text", "Output1", "Output2", "Better"),
        ids=("ID",),
        counts={"pair": 5211},
        protocol={"temperature": 0.6, "top_p": 0.95, "order": "random"},
        formats=("brackets",),
        published=(
            _make_mmrb_result("Flex-VL-7B", 0.620, 0.618, 0.630, 0.677, 0.550, 0.837, 0.686),
            _make_mmrb_result("Flex-Omni-7B", 0.616, 0.612, 0.657, 0.625, 0.582, 0.777, 0.631),
        ),
    )

    def parse_record(self, record: Record, id: str) -> Item:
        """See `RowBenchmark.parse_record`."""
        answers = [record.get_answer("Output1"), record.get_answer("Output2")]
        label = record.get_choice({"OUTPUT1": 0, "OUTPUT2": 1}, "Better", ignore_case=True)
        prompt: Any = record.get_text("Text")
        if record.get("Image") is not None:
            images = resolve_media_list(record, record.get("Image"), "Image")
            prompt = make_question(prompt, *(("image", image) for image in images))
        area = _classify_area(str(record.get("Category") or "").lower(), str(record.get("ID") or "").lower())
        return make_item(
            record, id, "pair", prompt=prompt, responses=answers, rubric="vl_rewardbench", label=label, area=area
        )


def _classify_area(category: str, name: str) -> str:
    """Return the published area of an item: its category; two categories are split by the item's source."""
    if "reasoning" in category:
        return "math" if "math" in name else "coding"
    if "safety" in category:
        return "bias" if "pairs" in name else "toxicity"
    areas = ("correctness", "preference", "knowledge", "vqa")
    return next((area for area in areas if area in category), category or "all")
