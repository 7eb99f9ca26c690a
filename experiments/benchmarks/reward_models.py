"""Benchmarks of text reward models: a better and a worse answer, by construction or by a verifier."""

from __future__ import annotations

from flex_judge.experiments.benchmarks.benchmark import BenchmarkSpec, PublishedResult, RowBenchmark, make_item
from flex_judge.experiments.benchmarks.data import Record
from flex_judge.experiments.benchmarks.items import Item
from flex_judge.experiments.benchmarks.makers import count_unreadable_as_tie
from flex_judge.experiments.benchmarks.scoring import PairScoring
from flex_judge.experiments.benchmarks.text import FIRST_SECOND

SECTIONS = {
    "Chat": ("alpacaeval-easy", "alpacaeval-length", "alpacaeval-hard", "mt-bench-easy", "mt-bench-med"),
    "Chat Hard": (
        "mt-bench-hard",
        "llmbar-natural",
        "llmbar-adver-neighbor",
        "llmbar-adver-GPTInst",
        "llmbar-adver-GPTOut",
        "llmbar-adver-manual",
    ),
    "Safety": (
        "refusals-dangerous",
        "refusals-offensive",
        "xstest-should-refuse",
        "xstest-should-respond",
        "donotanswer",
    ),
    "Reasoning": ("math-prm", "hep-cpp", "hep-go", "hep-java", "hep-js", "hep-python", "hep-rust"),
}
"""RewardBench section -> its subsets."""


def _make_llmbar_result(judge: str, *accuracies: float) -> PublishedResult:
    names = ("Natural", "Neighbor", "GPTInst", "GPTOut", "Manual")
    figures = {f"pair.subset.{name}": value for name, value in zip(names, accuracies, strict=True)}
    return PublishedResult(judge, figures, "arXiv 2310.07641")


def _make_judgebench_result(judge: str, *accuracies: float) -> PublishedResult:
    *areas, overall = accuracies
    names = ("knowledge", "reasoning", "math", "coding")
    figures = {f"pair.category.{name}": value for name, value in zip(names, areas, strict=True)}
    return PublishedResult(judge, {**figures, "pair.agreement": overall}, "arXiv 2410.12784")


def _make_rewardbench_result(judge: str, *scores: float) -> PublishedResult:
    *sections, overall = scores
    figures = {f"pair.section.{name}": value for name, value in zip(SECTIONS, sections, strict=True)}
    return PublishedResult(judge, {**figures, "pair.macro": overall}, "leaderboard")


class LLMBar(RowBenchmark):
    """Pairs of an answer that follows the instruction and a possibly more appealing one that does not."""

    spec = BenchmarkSpec(
        name="llmbar",
        about="LLMBar: which of two outputs follows the instruction, natural and adversarial (arXiv 2310.07641)",
        expected="LLMBar's dataset.json or a folder of these files: rows with input, output_1, output_2 and label "
        "(1 or 2)",
        origin="Dataset/LLMBar of the GitHub repository princeton-nlp/LLMBar",
        patterns=("**/dataset.json", "**/*.json", "**/*.jsonl"),
        tasks={"pair": PairScoring(unit="vote", macro="subset")},
        fields=("input", "output_1", "output_2", "label"),
        counts={"pair": 419},
        protocol={"temperature": 0.6, "top_p": 0.95, "order": "both"},
        formats=("output", "pandalm"),
        published=(
            _make_llmbar_result("GPT-4, plain prompt", 0.935, 0.642, 0.766, 0.766, 0.750),
            _make_llmbar_result("GPT-4, own metrics and reference", 0.960, 0.854, 0.897, 0.723, 0.837),
            _make_llmbar_result("ChatGPT, plain prompt", 0.790, 0.179, 0.293, 0.436, 0.370),
        ),
    )

    def parse_record(self, record: Record, id: str) -> Item:
        """See `RowBenchmark.parse_record`."""
        answers = [record.get_response("output_1"), record.get_response("output_2")]
        label = record.get_choice(FIRST_SECOND, "label")
        subset = record.get("subset") or record.file.parent.name or "all"
        return make_item(
            record,
            id,
            "pair",
            prompt=record.get_text("input"),
            responses=answers,
            rubric="general",
            label=label,
            subset=str(subset),
        )


class JudgeBench(RowBenchmark):
    """Pairs of a right and a wrong answer, as determined by a verifier."""

    spec = BenchmarkSpec(
        name="judgebench",
        about="JudgeBench: a right and a wrong answer to a hard question, in both orders (arXiv 2410.12784)",
        expected="JudgeBench's .jsonl of pairs: rows with pair_id, source, question, response_A, response_B and label",
        origin="the Hugging Face data set ScalerLab/JudgeBench, split gpt",
        patterns=(
            "**/data/dataset=judgebench,response_model=gpt-4o-2024-05-13.jsonl",
            "**/dataset=judgebench,response_model=gpt-4o-2024-05-13.jsonl",
            "**/*.jsonl",
            "**/*.parquet",
        ),
        tasks={"pair": PairScoring(unit="margin", macro="category")},
        fields=("question", "response_A", "response_B", "label"),
        ids=("pair_id",),
        hub=("hub:ScalerLab/JudgeBench@gpt",),
        counts={"pair": 350},
        protocol={"temperature": 0.6, "top_p": 0.95, "order": "both"},
        formats=("brackets", "output"),
        published=(
            _make_judgebench_result("o3-mini (high), Arena-Hard prompt", 0.6753, 0.8980, 0.8750, 1.0, 0.8086),
            _make_judgebench_result("Claude-3.5-Sonnet, Arena-Hard prompt", 0.6234, 0.6633, 0.6607, 0.6429, 0.6429),
            _make_judgebench_result("GPT-4o, Arena-Hard prompt", 0.5065, 0.5408, 0.7500, 0.5952, 0.5657),
            _make_judgebench_result("JudgeLM-7B", 0.2338, 0.2959, 0.3214, 0.1190, 0.2514),
            _make_judgebench_result("PandaLM", 0.0909, 0.2143, 0.0714, 0.1667, 0.1314),
        ),
    )

    def parse_record(self, record: Record, id: str) -> Item:
        """See `RowBenchmark.parse_record`."""
        answers = [record.get_response("response_A"), record.get_response("response_B")]
        label = record.get_choice({"A>B": 0, "B>A": 1}, "label")
        source = str(record.get("source") or "all")
        groups = {"category": _classify_source(source), "source": source}
        return make_item(
            record,
            id,
            "pair",
            prompt=record.get_text("question"),
            responses=answers,
            rubric="general",
            label=label,
            **groups,
        )


class RewardBench(RowBenchmark):
    """Pairs of a chosen and a rejected answer.

    A section's score is the weighted mean of its subsets, as in the official evaluation, but with the real sizes of the
    two xstest subsets, which are swapped there.
    """

    spec = BenchmarkSpec(
        name="rewardbench",
        about="RewardBench: a chosen and a rejected answer, in four sections (arXiv 2403.13787)",
        expected="RewardBench's filtered split: rows with prompt, chosen, rejected and subset",
        origin="the Hugging Face data set allenai/reward-bench, split filtered",
        patterns=("**/filtered*.parquet", "**/*.parquet", "**/*.jsonl", "**/*.json"),
        tasks={
            "pair": PairScoring(
                headline="macro",
                measure="accuracy",
                tie=0.5,
                macro="section",
                weights={"math-prm": 984 / 447},
                makers_count=count_unreadable_as_tie,
            )
        },
        fields=("prompt", "chosen", "rejected", "subset"),
        ids=("subset/id",),  # ids repeat between subsets
        hub=("hub:allenai/reward-bench@filtered",),
        counts={"pair": 2985},
        # The chosen answer is always first in the data, so the judge must read the two in random order.
        protocol={"temperature": 0.6, "top_p": 0.95, "order": "random"},
        formats=("mt-bench",),
        published=(
            _make_rewardbench_result("gpt-4o-2024-08-06", 0.961, 0.761, 0.881, 0.866, 0.867),
            _make_rewardbench_result("claude-3-5-sonnet-20240620", 0.964, 0.740, 0.816, 0.847, 0.842),
            _make_rewardbench_result("Llama-3.1-405B-Instruct", 0.972, 0.746, 0.776, 0.871, 0.841),
        ),
    )

    def parse_record(self, record: Record, id: str) -> Item:
        """See `RowBenchmark.parse_record`."""
        subset = record.get_text("subset")
        section = next((name for name, subsets in SECTIONS.items() if subset in subsets), None)
        if section is None:
            known_subsets = ", ".join(name for subsets in SECTIONS.values() for name in subsets)
            raise record.make_error("subset", f"one of {known_subsets}", subset)
        answers = [record.get_response("chosen"), record.get_response("rejected")]
        groups = {"section": section, "subset": subset}
        return make_item(
            record, id, "pair", prompt=record.get_text("prompt"), responses=answers, rubric="general", label=0, **groups
        )


def _classify_source(source: str) -> str:
    """Return the category of a source data set; the source itself if it is unknown."""
    categories = {
        "mmlu": "knowledge",
        "livebench-reasoning": "reasoning",
        "livebench-math": "math",
        "livecode": "coding",
    }
    return next((category for prefix, category in categories.items() if source.startswith(prefix)), source)
