"""GenAI-Bench: pairs of generated images, edits and videos, labelled with one of four options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flex_judge.experiments.benchmarks.benchmark import (
    BenchmarkSpec,
    PublishedResult,
    RowBenchmark,
    make_item,
    make_medium_response,
    make_question,
    resolve_media,
)
from flex_judge.experiments.benchmarks.data import Record
from flex_judge.experiments.benchmarks.items import Item, Label
from flex_judge.experiments.benchmarks.makers import take_first_mode
from flex_judge.experiments.benchmarks.scoring import PairScoring
from flex_judge.judges.rubrics.scale import OPTIONS

TASK_NAMES = ("image_generation", "image_edition", "video_generation")
"""Configurations of the data set."""


def _make_result(judge: str, *accuracies: float) -> PublishedResult:
    names = ("image.accuracy", "edit.accuracy", "video.accuracy", "overall")
    return PublishedResult(judge, dict(zip(names, accuracies, strict=True)))


def _make_majority_result(judge: str, *majorities: float) -> PublishedResult:
    names = ("image.majority", "edit.majority", "video.majority", "majority")
    return PublishedResult(judge, dict(zip(names, majorities, strict=True)))


class GenAIBench(RowBenchmark):
    """Pairs of images, edits or videos of two generators, labelled with one of four options."""

    spec = BenchmarkSpec(
        name="genai-bench",
        about="GenAI-Bench: two generated images, edits or videos, by four options, seven runs (arXiv 2406.04485)",
        expected="GenAI-Bench's test_v1 of image_generation, image_edition and video_generation, each in a folder or "
        "file of that name: rows with prompt, left_image, right_image (or left_video, right_video) and vote_type",
        origin="the Hugging Face data set TIGER-Lab/GenAI-Bench, split test_v1 of its three configurations",
        patterns=("**/*test_v1*", "**/*.parquet", "**/*.jsonl", "**/*.json"),
        tasks={
            name: PairScoring(by_options=True, headline="accuracy", measure="accuracy", makers_majority=take_first_mode)
            for name in ("image", "edit", "video")
        },
        fields=("vote_type",),
        ids=("id", "vote_id", "conv_id"),
        hub=tuple(f"hub:TIGER-Lab/GenAI-Bench:{name}@test_v1" for name in TASK_NAMES),
        counts={"image": 1735, "edit": 919, "video": 1069},
        protocol={
            "temperature": 0.6,
            "top_p": 0.95,
            "runs": 7,
            "image_max_pixels": 448 * 448,
            "video_fps": 1.0,
            "video_max_pixels": 224 * 224,
        },
        formats=("genai-bench",),
        other_formats=False,
        overall=True,
        published=(
            _make_result("Flex-VL-7B", 0.4332, 0.4741, 0.4478, 0.4517),
            _make_majority_result("Flex-VL-7B, majority of 7", 0.4634, 0.5419, 0.4734, 0.4929),
            _make_result("Flex-Omni-7B", 0.3815, 0.4673, 0.3710, 0.4066),
            _make_majority_result("Flex-Omni-7B, majority of 7", 0.4167, 0.5201, 0.4425, 0.4598),
            _make_result("GPT-4o", 0.4559, 0.5354, 0.4846, 0.4920),
        ),
    )

    def parse_record(self, record: Record, id: str) -> Item:
        """See `RowBenchmark.parse_record`."""
        label = record.get_choice(VOTE_LABELS, "vote_type")
        if record.get("left_video") is not None:
            task, sides, prompt = "video", ("left_video", "right_video"), make_question(record.get_text("prompt"))
        elif record.get("source_image") is not None:
            source_image = resolve_media(record, record.get("source_image"), "source_image")
            task, sides = "edit", ("left_output_image", "right_output_image")
            prompt = make_question(_describe_edit(record), ("image", source_image))
        else:
            task, sides, prompt = "image", ("left_image", "right_image"), make_question(record.get_text("prompt"))
        kind = "video" if task == "video" else "image"
        responses = [make_medium_response(kind, resolve_media(record, record.get(side), side)) for side in sides]
        return make_item(record, id, task, prompt=prompt, responses=responses, rubric=f"genai_{task}", label=label)


def _describe_edit(record: Record) -> str:
    """Describe an edit by all texts of its row, as the makers' prompt does: both captions and the instruction.

    Raises:
        UsageError: The row has neither an instruction nor the caption of the edited image.
    """
    if not (record.get("instruct_prompt") or record.get("target_prompt")):
        raise record.make_error("instruct_prompt", "an editing instruction", record.get("instruct_prompt"))
    texts = [(title, record.get(name)) for name, title in EDIT_TEXTS.items()]
    return "\n".join(f"{title}: {text}" for title, text in texts if text)


EDIT_TEXTS = {
    "source_prompt": "Caption of the source image",
    "target_prompt": "Caption of the image after the edit",
    "instruct_prompt": "Editing instruction",
}
"""Field of an edit -> its title in the question."""

VOTE_LABELS: Mapping[Any, Label] = {
    "leftvote": "A>B",
    "rightvote": "B>A",
    "tievote": "A=B=Good",
    "bothbad_vote": "A=B=Bad",
    **{option: option for option in OPTIONS},
}
"""GenAI-Bench vote -> option of the rubric."""
