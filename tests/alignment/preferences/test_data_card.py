"""The data card: counted in parts that add up to the whole, read by the hub, and frank about what is wrong."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

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


def prompt(number: int, rng: random.Random, text: str = "") -> tuple[SampledPrompt, list[Judgment], PairResult]:
    """A prompt with two answers and what came of it; the judge leans to what it reads first."""
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
    told = {"model": "judge@1", "provenance": {"rubric": "general"}}
    judgments = [combine_votes(c.id, [votes], **told) for c in comparisons]
    return sampled, judgments, filter_pairs(make_rule(RULE).make_pairs(sampled, judgments), SETTINGS.filters)


def counted(numbers: Sequence[int], seed: int = 0) -> CardStats:
    stats = CardStats()
    for number in numbers:
        sampled, judgments, found = prompt(number, random.Random(seed + number))
        stats.add_prompt(sampled, judgments, found, rows=len(found.pairs))
    return stats


@pytest.fixture(scope="module")
def whole() -> CardStats:
    stats = counted(range(300))
    stats.bad_rows["no prompt"] += 1
    return stats


def test_parts_that_are_counted_apart_add_up_to_the_whole_in_any_order(whole: CardStats) -> None:
    parts = [counted(range(k, min(k + 70, 300))) for k in range(0, 300, 70)]
    parts[1].bad_rows["no prompt"] += 1
    random.Random(0).shuffle(parts)
    kept = [CardStats.from_json(json.loads(json.dumps(part.to_json()))) for part in parts]
    total = sum(kept, CardStats())
    assert render_card(total, SETTINGS) == render_card(whole, SETTINGS)
    in_order = replace(whole, digests=total.digests).to_json()
    assert json.dumps(total.to_json()) == json.dumps(in_order)
    assert sorted(total.digests) == sorted(whole.digests)


def test_every_prompt_is_accounted_for(whole: CardStats) -> None:
    assert whole.prompts == 300
    assert whole.pairs + whole.dropped.total() == 300
    assert set(whole.dropped) <= set(DROP_REASONS)
    assert whole.completions == 600
    assert whole.judgments.total() == 300
    assert whole.pairs == whole.rows == whole.margins.count == whole.chosen_is.total() == whole.sampled_first.total()
    assert 500 < whole.places.total() < 600


def test_counts_of_a_part_do_not_grow_with_its_prompts_but_for_eight_bytes_each() -> None:
    few, many = (len(json.dumps(counted(range(n)).to_json())) for n in (200, 400))
    assert many - few < 200 * 8 * 4 / 3 + 200


def test_prompts_that_repeat_are_found_across_parts_and_warned_of() -> None:
    first, second = counted(range(30)), counted(range(20, 40))
    assert (first.repeated_prompts, second.repeated_prompts) == (0, 0)
    assert (first + second).repeated_prompts == 10
    assert "Prompts repeat: 10 of 50 (20.0 %)" in render_card(first + second, SETTINGS)
    assert "Prompts repeat" not in render_card(first, SETTINGS)


def test_pairs_of_repeated_prompts_can_be_taken_back() -> None:
    stats = counted(range(50))
    before = stats.pairs
    stats.drop_repeated_pairs(pairs=2, rows=2)
    assert (stats.pairs, stats.rows, stats.dropped["repeated_prompt"]) == (before - 2, before - 2, 2)


def test_the_card_warns_of_a_judge_that_leans_to_one_place_and_to_one_length(whole: CardStats) -> None:
    shown = render_card(whole, SETTINGS)
    assert "The judge prefers the answer that it reads first in" in shown
    assert "judge's preference changes with the order" in shown
    assert "is the longer one in" not in shown.partition("## Loading")[0]
    longer = replace(whole, chosen_is=Counter(longer=80, shorter=20))
    assert "The chosen answer is the longer one in 80.0 % of the pairs" in render_card(longer, SETTINGS)
    cut = replace(whole, chosen_cut=5)
    assert "were cut off" in render_card(cut, SETTINGS)
    failed = replace(whole, judgments=Counter(ok=80, timeout=15, unparseable=5))
    assert "20.0 % of the judgments have no score" in render_card(failed, SETTINGS)
    mixed = replace(whole, rubrics=Counter(general=1, other=2))
    assert "several rubrics" in render_card(mixed, SETTINGS)


def test_the_card_says_what_made_the_data(whole: CardStats) -> None:
    shown = render_card(whole, SETTINGS)
    for told in (
        "# Sums, judged",
        f"Preference pairs: {whole.pairs}, from 300 prompts of `questions.jsonl`",
        "| policy | `policy@1` |",
        "most tokens 256, temperature 0.8 and 1.2",
        "| judge | `judge@1` |",
        "votes 1, order both",
        "`two_temperatures` (winner low)",
        "margin 1",
        "| rows read | 301 |",
        "| - left out: no prompt | 1 | 0.3 % |",
        f"| `orders_disagree` | {DROP_REASONS['orders_disagree']} | {whole.dropped['orders_disagree']} |",
    ):
        assert told in shown


def test_the_hub_reads_the_cards_header_and_a_user_adds_the_license(whole: CardStats) -> None:
    from huggingface_hub import DatasetCard

    data = DatasetCard(render_card(whole, SETTINGS)).data.to_dict()
    assert data["pretty_name"] == "Sums, judged"
    assert data["size_categories"] == ["n<1K"]
    assert "license" not in data
    assert "preference" in data["tags"]
    huge = DatasetCard(render_card(replace(whole, rows=250_000), SETTINGS)).data.to_dict()
    assert huge["size_categories"] == ["100K<n<1M"]


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "image_pairs"])
def test_the_folder_loads_by_its_card_even_where_a_file_knows_no_types(name: str, tmp_path: Path) -> None:
    from datasets import load_dataset

    stats, rows = CardStats(), []
    for number in range(40):
        sampled, judgments, found = prompt(number, random.Random(number))
        made = FORMATS[name].make_rows(found.pairs)
        stats.add_prompt(sampled, judgments, found, len(made))
        rows += made
    for row in rows[len(rows) // 2 :]:
        row["provenance"]["expected_score_chosen"] = 4.5
    for half in (0, 1):
        part = rows[half * len(rows) // 2 : (half + 1) * len(rows) // 2]
        (tmp_path / f"pairs-{half}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    (tmp_path / "README.md").write_text(render_card(stats, replace(SETTINGS, files="pairs-*.jsonl", format=name)))
    data = load_dataset(str(tmp_path), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(data) == len(rows) == stats.rows
    assert [row["provenance"]["id"] for row in data] == [row["provenance"]["id"] for row in rows]
    assert data[0]["provenance"]["expected_score_chosen"] is None
    assert data[len(rows) - 1]["provenance"]["expected_score_chosen"] == 4.5


def test_a_set_without_a_pair_has_a_card_all_the_same() -> None:
    stats = CardStats()
    row = PromptRow("q", (Message("user", "What?"),))
    failed = Judgment.from_failure("q/0", Status.TIMEOUT, "late", model="judge@1")
    stats.add_prompt(SampledPrompt(row, ("a", "b"), (1.0, 1.0)), [failed], PairResult.without_pairs("unscored"), 0)
    shown = render_card(stats, CardSettings("pairs.jsonl"))
    assert "There is no pair" in shown
    assert "| - timeout | 1 | 100.0 % |" in shown
    assert "n<1K" in shown


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 100_000), min_size=1, max_size=200), st.sampled_from([0.1, 0.5, 0.9]))
def test_quantiles_are_right_to_within_a_few_per_cent(numbers: list[int], share: float) -> None:
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


def test_a_histogram_of_many_tenths_is_shown_in_whole_numbers() -> None:
    coarse, fine = ScoreHistogram(), ScoreHistogram()
    for score in (1, 2, 2, 2.5):
        coarse.add(score)
    for tenths in range(10, 51):
        fine.add(tenths / 10)
    assert coarse.compute_shares() == {1: 0.25, 2: 0.5, 2.5: 0.25}
    assert list(fine.compute_shares()) == [1, 2, 3, 4, 5]
    assert fine.mean == pytest.approx(3)
