"""Vision benchmarks: answers about an image, and generated images."""

from __future__ import annotations

import re
from typing import Any

from flex_judge.experiments.benchmarks.benchmark import (
    BenchmarkSpec,
    PublishedResult,
    RowBenchmark,
    make_item,
    make_medium_response,
    make_question,
    resolve_media,
    resolve_media_list,
)
from flex_judge.experiments.benchmarks.cells import parse_list
from flex_judge.experiments.benchmarks.data import Record
from flex_judge.experiments.benchmarks.items import Item
from flex_judge.experiments.benchmarks.makers import (
    count_unreadable_as_tie,
    take_absolute_majority,
)
from flex_judge.experiments.benchmarks.scoring import PairScoring
from flex_judge.judges.errors import UsageError

MJ_SPLITS = {"alignment": "alignment", "safety": "safety", "artifact": "quality"}
"""MJ-Bench task -> split of the data set."""
MJ_LABELS = {0: 0, 1: 1, "0": 0, "1": 1, "image0": 0, "image1": 1}


def _make_vl_result(judge: str, *values: float) -> PublishedResult:
    """Make a result from the accuracies of the three groups, optionally followed by overall and macro accuracy."""
    names = ("group.general", "group.hallucination", "group.reasoning", "accuracy", "macro")
    return PublishedResult(judge, {f"pair.{name}": value for name, value in zip(names, values, strict=False)})


def _make_mj_result(judge: str, *accuracies: tuple[float, float]) -> PublishedResult:
    """Make a result from each task's accuracy over all verdicts and over those that are no tie."""
    figures: dict[str, float] = {}
    for name, (accuracy, decided) in zip(MJ_SPLITS, accuracies, strict=True):
        figures |= {f"{name}.accuracy": accuracy, f"{name}.decided": decided}
    return PublishedResult(judge, figures)


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
        origin="the Hugging Face data set MMInstruction/VL-RewardBench, split test",
        patterns=("**/test*.parquet", "**/*.parquet", "**/*.jsonl", "**/*.json"),
        tasks={
            "pair": PairScoring(
                headline="accuracy", measure="accuracy", macro="group", makers_majority=take_absolute_majority
            )
        },
        fields=("query", "response", "human_ranking"),
        hub=("hub:MMInstruction/VL-RewardBench@test",),
        counts={"pair": 1250},
        protocol={"temperature": 0.6, "top_p": 0.95, "order": "random", "runs": 5},
        formats=("vl-rewardbench",),
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


class MJBench(RowBenchmark):
    """Pairs of images generated for a text, labelled by the task's criterion; read in both orders."""

    spec = BenchmarkSpec(
        name="mj-bench",
        about="MJ-Bench: two generated images, by alignment, safety and artifacts, in both orders (arXiv 2407.04842)",
        expected="MJ-Bench's splits alignment, safety and quality, each in a file of that name: rows with caption, "
        "image0, image1 and label (0 or 1, the better image)",
        origin="the Hugging Face data set MJ-Bench/MJ-Bench, splits alignment, safety and quality",
        patterns=("**/*alignment*|**/*safety*|**/*quality*|**/*artifact*", "**/*.parquet", "**/*.jsonl", "**/*.json"),
        tasks={name: PairScoring(headline="accuracy", measure="accuracy", unit="vote") for name in MJ_SPLITS},
        fields=("caption", "image0", "image1", "label"),
        hub=tuple(f"hub:MJ-Bench/MJ-Bench@{split}" for split in MJ_SPLITS.values()),
        counts={"alignment": 724, "safety": 574, "artifact": 1121},
        protocol={"temperature": 0.6, "top_p": 0.95, "order": "both", "image_max_pixels": 336 * 336},
        published=(
            _make_mj_result("Flex-VL-7B", (0.5816, 0.5913), (0.5751, 0.6688), (0.8232, 0.8908)),
            _make_mj_result("Flex-Omni-7B", (0.6084, 0.6246), (0.4769, 0.6521), (0.7580, 0.9166)),
            _make_mj_result("GPT-4o", (0.615, 0.625), (0.353, 1.0), (0.976, 0.987)),
            _make_mj_result("PickScore", (0.588, 0.646), (0.372, 0.422), (0.838, 0.896)),
        ),
    )

    def parse_record(self, record: Record, id: str) -> Item:
        """See `RowBenchmark.parse_record`."""
        category = str(record.get("category") or "").lower()
        place = category or record.file.as_posix().lower()
        task = next((name for name, split in MJ_SPLITS.items() if split in place or name in place), None)
        # The release of 2025 has further categories, which belong to no task of the published results.
        left_out = f"its category {category!r} is no task of the published results"
        if task is None and not category:
            raise UsageError(f"{record.where}: the name of its file contains no task; expected {self.spec.expected}")
        images = [
            make_medium_response("image", resolve_media(record, record.get(name), name))
            for name in ("image0", "image1")
        ]
        label = record.get_choice(MJ_LABELS, "label")
        # A long info is free text and would make a group of its own for nearly every item.
        info = record.get("info", "subcategory")
        groups = {"info": str(info)} if info and len(str(info)) < 60 else {}
        return make_item(
            record,
            id,
            task or "alignment",
            prompt=record.get_answer("caption"),
            responses=images,
            rubric=f"mjbench_{task or 'alignment'}",
            label=label if task else None,
            left_out=left_out,
            **groups,
        )


class MultimodalRewardBench(RowBenchmark):
    """Pairs of answers about an image, labelled by experts."""

    spec = BenchmarkSpec(
        name="multimodal-rewardbench",
        about="Multimodal RewardBench: two answers about an image, in six areas (arXiv 2502.14191)",
        expected="Multimodal RewardBench's all_data.json, which the authors' scripts/0_download_data.py makes from "
        "all_data_release.json: rows with ID, Category, Text, Image, Output1, Output2 and Better",
        origin="data/ of the GitHub repository facebookresearch/multimodal_rewardbench, after its "
        "scripts/0_download_data.py has made all_data.json",
        patterns=("**/all_data.json", "**/*.json", "**/*.jsonl", "**/*.parquet"),
        tasks={
            "pair": PairScoring(
                headline="accuracy",
                measure="accuracy",
                macro="area",
                makers_count=count_unreadable_as_tie,
                makers_tie=0.5,
            )
        },
        fields=("Text", "Output1", "Output2", "Better"),
        ids=("ID",),
        counts={"pair": 5211},
        protocol={"temperature": 0.6, "top_p": 0.95, "order": "random"},
        formats=("mt-bench",),
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
