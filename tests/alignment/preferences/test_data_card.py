"""Data card: counts merge over shards, the hub reads the header, and problems are reported as warnings."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flex_judge.alignment.data.rows import PromptRow, SampledPrompt
from flex_judge.alignment.preferences import (
    DROP_REASONS,
    FORMATS,
    CardSettings,
    CardStats,
    FilterSpec,
    PairResult,
    RuleSpec,
    filter_pairs,
    make_rule,
)
from flex_judge.alignment.preferences.card import render_card
from flex_judge.alignment.preferences.histogram import LogHistogram, ScoreHistogram
from flex_judge.judges import Judgment, Message, Status, Verdict
from flex_judge.judges.protocol.voting import combine_votes

RULE = RuleSpec("two_temperatures")
SETTINGS = CardSettings(
    "pairs.jsonl",
    RULE,
    FilterSpec(margin=1),
    title="Sums, judged",
    source="questions.jsonl",
    policy={"most tokens": 256},
    judge={"votes": 1, "order": "both"},
)


def judge_prompt(number: int, rng: random.Random, text: str = "") -> tuple[SampledPrompt, list[Judgment], PairResult]:
    """Make a prompt with two answers, its judgments and pairs. The judge prefers the answer that it reads first."""
    row = PromptRow(f"q{number}", (Message("user", text or f"Question {number}?"),))
    answers = "word " * rng.randint(1, 40), "other " * rng.randint(1, 40)
    sampled = SampledPrompt(row, answers, (0.8, 1.2), (9, 9), (rng.random() < 0.1, False), "policy@1")
    comparisons = make_rule(RULE).make_comparisons(sampled, "general")
    votes = []
    for order in ((0, 1), (1, 0)):
        scores = [rng.randint(2, 7), rng.randint(1, 5)]
        scores[order[0]] += 2
        failed = rng.random() < 0.05
        votes.append(
            Verdict(Status.UNPARSEABLE, order=order) if failed else Verdict(Status.OK, tuple(scores), order=order)
        )
    fields: dict[str, Any] = {"model": "judge@1", "provenance": {"rubric": "general"}}
    judgments = [combine_votes(c.id, [votes], **fields) for c in comparisons]
    return sampled, judgments, filter_pairs(make_rule(RULE).make_pairs(sampled, judgments), SETTINGS.filters)


def count_prompts(numbers: Sequence[int], seed: int = 0) -> CardStats:
    stats = CardStats()
    for number in numbers:
        sampled, judgments, result = judge_prompt(number, random.Random(seed + number))
        stats.add_prompt(sampled, judgments, result, rows=len(result.pairs))
    return stats


@pytest.fixture(scope="module")
def stats() -> CardStats:
    all_stats = count_prompts(range(300))
    all_stats.bad_rows["no prompt"] += 1
    return all_stats


def test_shards_merge_to_the_same_stats_in_any_order(stats: CardStats) -> None:
    shards = [count_prompts(range(k, min(k + 70, 300))) for k in range(0, 300, 70)]
    shards[1].bad_rows["no prompt"] += 1
    random.Random(0).shuffle(shards)
    restored = [CardStats.from_json(json.loads(json.dumps(shard.to_json()))) for shard in shards]
    total = sum(restored, CardStats())
    assert render_card(total, SETTINGS) == render_card(stats, SETTINGS)
    in_order = replace(stats, digests=total.digests).to_json()
    assert json.dumps(total.to_json()) == json.dumps(in_order)
    assert sorted(total.digests) == sorted(stats.digests)


def test_counts_every_prompt(stats: CardStats) -> None:
    assert stats.prompts == 300
    assert stats.pairs + stats.dropped.total() == 300
    assert set(stats.dropped) <= set(DROP_REASONS)
    assert stats.completions == 600
    assert stats.judgments.total() == 300
    assert stats.pairs == stats.rows == stats.margins.count == stats.chosen_is.total() == stats.sampled_first.total()
    assert 500 < stats.places.total() < 600


def test_size_grows_by_eight_bytes_per_prompt_only() -> None:
    few, many = (len(json.dumps(count_prompts(range(n)).to_json())) for n in (200, 400))
    assert many - few < 200 * 8 * 4 / 3 + 200


def test_warns_of_repeated_prompts_across_shards() -> None:
    first, second = count_prompts(range(30)), count_prompts(range(20, 40))
    assert (first.repeated_prompts, second.repeated_prompts) == (0, 0)
    assert (first + second).repeated_prompts == 10
    assert "Prompts repeat: 10 of 50 (20.0 %)" in render_card(first + second, SETTINGS)
    assert "Prompts repeat" not in render_card(first, SETTINGS)


def test_drops_pairs_of_repeated_prompts() -> None:
    stats = count_prompts(range(50))
    pairs = stats.pairs
    stats.drop_repeated_pairs(pairs=2, rows=2)
    assert (stats.pairs, stats.rows, stats.dropped["repeated_prompt"]) == (pairs - 2, pairs - 2, 2)


def test_card_warns_of_position_and_length_bias(stats: CardStats) -> None:
    card = render_card(stats, SETTINGS)
    assert "The judge prefers the answer that it reads first in" in card
    assert "judge's preference changes with the order" in card
    assert "is the longer one in" not in card.partition("## Loading")[0]
    longer = replace(stats, chosen_is=Counter(longer=80, shorter=20))
    assert "The chosen answer is the longer one in 80.0 % of the pairs" in render_card(longer, SETTINGS)
    cut = replace(stats, chosen_cut=5)
    assert "were truncated" in render_card(cut, SETTINGS)
    failed = replace(stats, judgments=Counter(ok=80, timeout=15, unparseable=5))
    assert "20.0 % of the judgments have no score" in render_card(failed, SETTINGS)
    mixed = replace(stats, rubrics=Counter(general=1, other=2))
    assert "several rubrics" in render_card(mixed, SETTINGS)


def test_card_describes_how_the_data_was_made(stats: CardStats) -> None:
    card = render_card(stats, SETTINGS)
    for text in (
        "# Sums, judged",
        f"Preference pairs: {stats.pairs}, from 300 prompts of `questions.jsonl`",
        "| policy | `policy@1` |",
        "most tokens 256, temperature 0.8 and 1.2",
        "| judge | `judge@1` |",
        "votes 1, order both",
        "`two_temperatures` (winner low)",
        "margin 1",
        "| rows read | 301 |",
        "| - left out: no prompt | 1 | 0.3 % |",
        f"| `orders_disagree` | {DROP_REASONS['orders_disagree']} | {stats.dropped['orders_disagree']} |",
    ):
        assert text in card


def test_hub_reads_the_header_and_the_license_is_left_to_the_user(stats: CardStats) -> None:
    from huggingface_hub import DatasetCard

    data = DatasetCard(render_card(stats, SETTINGS)).data.to_dict()
    assert data["pretty_name"] == "Sums, judged"
    assert data["size_categories"] == ["n<1K"]
    assert "license" not in data
    assert "preference" in data["tags"]
    huge = DatasetCard(render_card(replace(stats, rows=250_000), SETTINGS)).data.to_dict()
    assert huge["size_categories"] == ["100K<n<1M"]


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "image_pairs"])
def test_folder_loads_by_its_card_even_if_types_cannot_be_inferred(name: str, tmp_path: Path) -> None:
    from datasets import load_dataset

    stats, rows = CardStats(), []
    for number in range(40):
        sampled, judgments, result = judge_prompt(number, random.Random(number))
        new_rows = FORMATS[name].make_rows(result.pairs)
        stats.add_prompt(sampled, judgments, result, len(new_rows))
        rows += new_rows
    for row in rows[len(rows) // 2 :]:
        row["provenance"]["expected_score_chosen"] = 4.5
    for half in (0, 1):
        half_rows = rows[half * len(rows) // 2 : (half + 1) * len(rows) // 2]
        (tmp_path / f"pairs-{half}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in half_rows))
    (tmp_path / "README.md").write_text(render_card(stats, replace(SETTINGS, files="pairs-*.jsonl", format=name)))
    data = load_dataset(str(tmp_path), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(data) == len(rows) == stats.rows
    assert [row["provenance"]["id"] for row in data] == [row["provenance"]["id"] for row in rows]
    assert data[0]["provenance"]["expected_score_chosen"] is None
    assert data[len(rows) - 1]["provenance"]["expected_score_chosen"] == 4.5


def test_data_set_without_pairs_has_a_card() -> None:
    stats = CardStats()
    row = PromptRow("q", (Message("user", "What?"),))
    failed = Judgment.from_failure("q/0", Status.TIMEOUT, "late", model="judge@1")
    stats.add_prompt(SampledPrompt(row, ("a", "b"), (1.0, 1.0)), [failed], PairResult.without_pairs("unscored"), 0)
    card = render_card(stats, CardSettings("pairs.jsonl"))
    assert "The data set has no pair" in card
    assert "| - timeout | 1 | 100.0 % |" in card
    assert "n<1K" in card


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 100_000), min_size=1, max_size=200), st.sampled_from([0.1, 0.5, 0.9]))
def test_quantiles_are_accurate_within_a_few_percent(numbers: list[int], share: float) -> None:
    halves = [LogHistogram(), LogHistogram()]
    for i, number in enumerate(numbers):
        halves[i % 2].add(number)
    histogram = halves[0] + halves[1]
    exact = sorted(numbers)[int(share * (len(numbers) - 1))]
    assert histogram.quantile(share) == pytest.approx(exact, abs=0.025 * exact + 0.5)
    assert histogram.mean == sum(numbers) / len(numbers)


def test_quantiles_of_small_numbers_are_exact() -> None:
    for number in range(21):
        histogram = LogHistogram()
        histogram.add(number)
        assert histogram.quantile(0.5) == number
    assert LogHistogram().quantile(0.5) is None


def test_histogram_with_many_tenths_rounds_to_integers() -> None:
    coarse, fine = ScoreHistogram(), ScoreHistogram()
    for score in (1, 2, 2, 2.5):
        coarse.add(score)
    for tenths in range(10, 51):
        fine.add(tenths / 10)
    assert coarse.compute_shares() == {1: 0.25, 2: 0.5, 2.5: 0.25}
    assert list(fine.compute_shares()) == [1, 2, 3, 4, 5]
    assert fine.mean == pytest.approx(3)
