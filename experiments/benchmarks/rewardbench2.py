"""RewardBench 2: the best of four answers, and questions with several right answers (arXiv 2506.01937)."""

from __future__ import annotations

from collections.abc import Sequence

from flex_judge.experiments.benchmarks.benchmark import (
    Benchmark,
    BenchmarkSpec,
    PublishedResult,
    make_item,
    select_sample,
)
from flex_judge.experiments.benchmarks.best_of import (
    PROMPT,
    RIGHT,
    SUBSET,
    UNIT,
    WRONG,
    BestOfScoring,
    find_tie_role,
)
from flex_judge.experiments.benchmarks.data import BenchmarkData, Record, check_fields
from flex_judge.experiments.benchmarks.ids import assign_ids
from flex_judge.experiments.benchmarks.items import Item, Label
from flex_judge.experiments.benchmarks.rewardbench2_rules import TIES

SUBSETS = ("Factuality", "Precise IF", "Math", "Safety", "Focus", TIES)
RATING, RANKING = "rating", "ranking"


def _make_result(judge: str, average: float, *subsets: float) -> PublishedResult:
    figures = {f"{RATING}.{SUBSET}.{name}": value for name, value in zip(SUBSETS, subsets, strict=True)}
    return PublishedResult(judge, {**figures, f"{RATING}.macro": average}, "arXiv 2506.01937, the better protocol")


class RewardBench2(Benchmark):
    """One right and three wrong answers, and the subset Ties with any number of each.

    Task `rating`: the judge scores each answer alone. Task `ranking`: the judge reads the four answers together, in
    random order; Ties is scored answer by answer there too, as in the official evaluation.
    """

    spec = BenchmarkSpec(
        name="rewardbench2",
        about="RewardBench 2: the best of four answers in six subsets, one by one or together (arXiv 2506.01937)",
        expected="RewardBench 2's test split: rows with id, prompt, chosen and rejected (both lists), num_correct and "
        "subset",
        origin="the Hugging Face data set allenai/reward-bench-2, split test",
        patterns=("**/test*.parquet", "**/*.parquet", "**/*.jsonl", "**/*.json"),
        tasks={RATING: BestOfScoring(), RANKING: BestOfScoring()},
        fields=("id", "prompt", "chosen", "rejected", "subset"),
        ids=("id", "subset/id"),
        hub=("hub:allenai/reward-bench-2@test",),
        # The right answers come first in the data, so the judge must read them in random order.
        protocol={"temperature": 0.0, "order": "random"},
        published=(
            _make_result("gemini-2.5-flash-preview-04-17", 0.772, 0.657, 0.553, 0.811, 0.909, 0.867, 0.834),
            _make_result("claude-opus-4-20250514", 0.765, 0.827, 0.419, 0.749, 0.895, 0.862, 0.837),
            _make_result("Skywork-Reward-Gemma-2-27B", 0.758, 0.737, 0.403, 0.705, 0.942, 0.932, 0.826),
            _make_result("gpt-4.1-2025-04-14", 0.723, 0.829, 0.397, 0.652, 0.873, 0.734, 0.854),
            _make_result("gpt-4o-2024-08-06", 0.649, 0.568, 0.331, 0.623, 0.862, 0.729, 0.782),
        ),
    )

    def parse_items(self, data: BenchmarkData) -> list[Item]:
        """See `Benchmark.parse_items`."""
        check_fields(data.records, self.spec.fields, self.spec.expected)
        ids = assign_ids(data.records, self.spec.ids)
        items = []
        for record, prompt_id in zip(data.records, ids, strict=True):
            items += self._parse_record(record, prompt_id)
        return sorted(items, key=lambda item: list(self.spec.tasks).index(item.task))

    def select_sample(self, items: Sequence[Item], limit: int, seed: int) -> list[Item]:
        """Select prompts with all of their answers, because a prompt without one of them cannot be scored."""
        units = list(dict.fromkeys((item.groups[SUBSET], item.groups[UNIT]) for item in items))
        selected = set(select_sample(units, [subset for subset, _ in units], limit, seed))
        return [item for item in items if (item.groups[SUBSET], item.groups[UNIT]) in selected]

    def _parse_record(self, record: Record, prompt_id: str) -> list[Item]:
        """Parse a prompt into one item per answer for `rating`, and one item for `ranking`."""
        name = record.get_text("subset")
        subset = {known.lower(): known for known in SUBSETS}.get(name.strip().lower())
        if subset is None:
            raise record.make_error("subset", f"one of {', '.join(SUBSETS)}", name)
        chosen, rejected = record.get_answers("chosen"), record.get_answers("rejected")
        # The official evaluation counts the first `num_correct` answers as right.
        num_correct = int(record.get_number("num_correct")) if record.get("num_correct") is not None else len(chosen)
        if not chosen or not rejected or num_correct != len(chosen):
            expected = f"{num_correct} right answers in 'chosen' and one or more wrong ones in 'rejected'"
            raise record.make_error("num_correct", expected, f"{len(chosen)} and {len(rejected)}")
        # The two questions of a pair in Ties are one unit: the margin of one is compared with the other's.
        unit = find_tie_role(record)[1] if subset == TIES else prompt_id
        groups = {SUBSET: subset, PROMPT: str(record.get("id")) if subset == TIES else prompt_id, UNIT: unit}
        prompt, rubric = record.get_text("prompt"), "rewardbench2_ties" if subset == TIES else "general"

        def make(id: str, task: str, responses: Sequence[str], label: Label) -> Item:
            return make_item(record, id, task, prompt=prompt, responses=responses, rubric=rubric, label=label, **groups)

        def rate_alone(task: str) -> list[Item]:
            return [
                make(f"{task}/{prompt_id}/{number}", task, [answer], RIGHT if number < num_correct else WRONG)
                for number, answer in enumerate([*chosen, *rejected])
            ]

        if subset == TIES:
            return [*rate_alone(RATING), *rate_alone(RANKING)]
        ranking = make(f"{RANKING}/{prompt_id}", RANKING, [*chosen, *rejected], tuple(range(num_correct)))
        return [*rate_alone(RATING), ranking]
