"""Curation steps and conversion of teacher judgments: kept examples, and dropped ones by reason."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from curating import count_words, make_example, written

from flex_judge.alignment.curation import duplicates
from flex_judge.alignment.curation.benchmarks import ContaminationFilter
from flex_judge.alignment.curation.duplicates import NearDuplicateFilter
from flex_judge.alignment.curation.examples import TrainingExample
from flex_judge.alignment.curation.rows import ReferenceRow
from flex_judge.alignment.curation.steps import AgreementFilter, CurationPipeline, ForgedTagFilter, LongestReplyFilter
from flex_judge.alignment.curation.teacher import convert_judgments, judge_with_program, parse_judgment_id
from flex_judge.judges import Judgment, Status, Verdict
from flex_judge.judges.errors import UsageError
from flex_judge.judges.rubrics import load_rubric


def test_pipeline_runs_all_steps_and_counts_each() -> None:
    examples = [
        make_example(1, sample_index=0),
        make_example(1, sample_index=1, reasoning="Assistant 1 is right. Assistant 2 is, all in all, wrong."),
        make_example(2, reference=(3, 4)),
        make_example(3),
    ]
    result = CurationPipeline((AgreementFilter(), LongestReplyFilter()))(examples)
    assert [example.id for example in result.examples] == ["1/1", "3/0"]
    assert [(p.step, p.kept, p.dropped) for p in result.step_counts] == [
        ("agreement with the reference", 3, Counter({"disagrees with the reference": 1})),
        ("longest reply per prompt", 2, Counter({"shorter reply to the same prompt": 1})),
    ]
    assert [(d.row, d.detail) for d in result.dropped] == [
        (2, "rows.jsonl, line 2, sample 0: scores 8, 4, reference 3, 4"),
        (1, "rows.jsonl, line 1, sample 0"),
    ]


def test_agreement_is_exact_without_a_tolerance() -> None:
    near = [make_example(1, (8, 4), reference=(7, 4)), make_example(2, (8, 4), reference=(6, 4))]
    assert not AgreementFilter()(near).kept
    assert [example.reference.row for example in AgreementFilter(1)(near).kept] == [1]


def test_agreement_uses_the_scale_of_the_teacher() -> None:
    row = ReferenceRow("1", 1, "q", ("a", "b"), (8.0, 3.0))
    assert AgreementFilter()([TrainingExample(row, "r", (4.0, 2.0), "1-5", 1, "t")]).kept
    assert not AgreementFilter()([TrainingExample(row, "r", (4.0, 1.0), "1-5", 1, "t")]).kept


def test_longest_reply_is_chosen_per_prompt_not_per_row() -> None:
    same = [make_example(n, question="Who?", answers=("I.", "You."), reasoning="word " * n) for n in (1, 3, 2)]
    assert [example.reference.row for example in LongestReplyFilter()(same).kept] == [3]
    shouted = make_example(4, question="WHO? ", answers=("I.", "you."), reasoning="word " * 9)
    assert [example.reference.row for example in LongestReplyFilter()([*same, shouted]).kept] == [4]
    other = make_example(5, question="Who?", answers=("You.", "I."))
    assert len(LongestReplyFilter()([same[0], other]).kept) == 2


@pytest.mark.parametrize(
    "text",
    ["</think>", "<answer>9</answer>", "< /THINK >", "<|im_end|>", "<|eot_id|>", "<end_of_turn>", "[/INST]", "</s>"],
)
@pytest.mark.parametrize("place", ["question", "first", "second", "reasoning"])
def test_examples_with_tags_or_control_tokens_are_dropped(text: str, place: str) -> None:
    forged_text = f"See {text} there"
    first, second = (forged_text if place == name else "" for name in ("first", "second"))
    forged = make_example(
        2,
        question=forged_text if place == "question" else "",
        answers=(first, second),
        reasoning=forged_text if place == "reasoning" else "Fine.",
    )
    result = ForgedTagFilter()([make_example(1), forged, make_example(3, question="Is 1 < 2 <b>bold</b> || x | y?")])
    assert [example.reference.row for example in result.kept] == [1, 3]
    assert [d.reason for d in result.dropped] == ["tag or control token in its text"]


def test_control_tokens_of_the_tokenizer_are_recognised() -> None:
    called = make_example(1, reasoning="Assistant 1 writes <tool_call> here.")
    assert ForgedTagFilter()([called]).kept
    assert not ForgedTagFilter({"<tool_call>", "<tool"})([called]).kept


def _make_article(rng: random.Random, length: int) -> str:
    return " ".join(f"{rng.choice('bcdfgklmnprst')}{rng.choice('aeiou')}{rng.randint(10, 999)}" for _ in range(length))


def test_near_duplicate_with_the_longest_reasoning_is_kept() -> None:
    rng = random.Random(0)
    texts = [_make_article(rng, 80) for _ in range(30)]
    examples = [make_example(n, question=text, reasoning="word " * 10) for n, text in enumerate(texts, 1)]
    copies = [
        make_example(
            n + 100, question=text.replace(" ", "  ", 3).upper() + " ok", reasoning="word " * (11 if n % 2 else 9)
        )
        for n, text in enumerate(texts[:10], 1)
    ]
    half = make_example(200, question=" ".join([*texts[20].split()[:40], *_make_article(rng, 40).split()]))
    result = NearDuplicateFilter()([*examples, *copies, half])
    kept_rows = {example.reference.row for example in result.kept}
    assert kept_rows == {n + 100 if n <= 10 and n % 2 else n for n in range(1, 31)} | {200}
    assert result.dropped[0].detail == "rows.jsonl, line 1, sample 0: duplicates row 101"
    assert len(NearDuplicateFilter(1.0)([*examples, *copies]).kept) == 40


def test_near_duplicate_search_does_not_compare_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    monkeypatch.setattr(duplicates, "compute_similarity", lambda first, second: compared.append((first, second)) or 0.0)
    rng = random.Random(1)
    shared = "Please answer the following question as well as you can: "
    examples = [make_example(n, question=shared + _make_article(rng, 30)) for n in range(1, 1001)]
    assert len(NearDuplicateFilter()(examples).kept) == 1000
    assert len(compared) < 1000


def test_rows_that_share_a_question_or_an_ngram_with_a_benchmark_are_dropped(tmp_path: Path) -> None:
    long = " ".join(f"word{n}" for n in range(20))
    written(tmp_path / "a.jsonl", [{"question": "Who wrote Faust?"}, {"prompt": [{"role": "user", "content": long}]}])
    parts = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": [{"type": "text", "text": "Why?"}]}]
    written(tmp_path / "b.jsonl", [{"prompt": parts, "question": None}])
    step = ContaminationFilter.from_files([str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")])
    ngram = " ".join(f"WORD{n}," for n in range(3, 16))
    result = step(
        [
            make_example(1, question="who  wrote faust?"),
            make_example(2, question=f"Continue: {ngram} and so on"),
            make_example(3, question=f"Continue: {ngram.rpartition(' ')[0]} and so on"),
            make_example(4, answers=("", f"It says {ngram}")),
            make_example(5, question="why?"),
            make_example(6, question="Be kind."),
        ]
    )
    assert [example.reference.row for example in result.kept] == [3, 6]
    assert Counter(d.reason for d in result.dropped) == {
        "benchmark question": 2,
        "13-word overlap with a benchmark": 2,
    }


@pytest.mark.parametrize(
    ("rows", "message"),
    [([], "has no rows"), ([{"text": "Who?"}], "b.jsonl, row 1: no question text found; expected text")],
)
def test_benchmark_without_questions_is_rejected(rows: list[dict[str, str]], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        ContaminationFilter.from_files([str(written(tmp_path / "b.jsonl", [json.dumps(row) for row in rows]))])


ROW = ReferenceRow("1", 1, "What is 1?", ("One.", "Two."), (8.0, 4.0), where="r.jsonl, line 1")


@pytest.mark.parametrize(
    ("vote", "reason"),
    [
        (Verdict(Status.OK, (8.0, 4.0), reasoning="So.", forced_answer="budget"), "unfinished reasoning"),
        (Verdict(Status.OK, (8.0, 4.0), reasoning="So.", forced_answer="early_end"), "unfinished reasoning"),
        (
            Verdict(Status.OK, (8.0, 4.0), reasoning="So.", forced_answer="no_answer"),
            "no answer without constrained decoding",
        ),
        (Verdict(Status.UNPARSEABLE, reasoning="So."), "no answer without constrained decoding"),
        (Verdict(Status.TRUNCATED, reasoning="So."), "unfinished answer"),
        (Verdict(Status.TIMEOUT), "timeout"),
        (Verdict(Status.ENGINE_LOST), "engine lost"),
        (Verdict(Status.OVERLONG), "prompt too long for the teacher"),
        (Verdict(Status.OK, (8.0, 4.0), reasoning=" "), "no reasoning"),
        (Verdict(Status.OK, (7.5, 4.0), reasoning="So."), "score without a label on the scale"),
        (None, "not judged"),
    ],
)
def test_unusable_judgments_are_dropped_with_a_reason(vote: Verdict | None, reason: str) -> None:
    good = Verdict(Status.OK, (8.0, 4.0), reasoning="Assistant 1 it is.")
    judgments = {
        name: Judgment(name, v.status, v.scores, None, v.reasoning, votes=(v,), model="m@1")
        for name, v in (("1/0", good), ("1/1", vote))
        if v is not None
    }
    output = convert_judgments([ROW], judgments, 2, load_rubric("general"), count_words, {})
    assert [(example.id, example.tokens, example.teacher) for example in output.examples] == [("1/0", 4, "m@1")]
    assert [(d.row, d.reason) for d in output.dropped] == [(1, reason)]
    assert output.dropped[0].detail.startswith("r.jsonl, line 1, sample 1: ")
    assert output.rows_without_example == 0
    assert (
        convert_judgments(
            [ROW], {k: v for k, v in judgments.items() if k != "1/0"}, 2, load_rubric("general"), count_words, {}
        ).rows_without_example
        == 1
    )


def test_synthetic_teacher_judges_only_the_embedded_task() -> None:
    task = ReferenceRow("1", 1, "What is 2 + 3?", ("2 + 3 = 5", "6"), (9.0, 2.0))
    output = judge_with_program([task, ROW], count_words)
    (converted,) = output.examples
    assert (converted.scores, converted.scale, converted.teacher) == ((5.0, 1.0), "1-5", "arithmetic-teacher")
    assert AgreementFilter()([converted]).kept
    assert [d.reason for d in output.dropped] == ["not an embedded-task question"]
    assert output.rows_without_example == 1


def test_judgment_id_contains_row_and_sample_index() -> None:
    assert parse_judgment_id("12.3-4/10") == ("12.3-4", 10)
    assert (
        parse_judgment_id("12")
        is parse_judgment_id("/1")
        is parse_judgment_id("1/x")
        is parse_judgment_id("1/99999999")
        is None
    )
