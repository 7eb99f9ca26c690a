"""Reference rows: valid rows, bad rows with their number and fault, and rows of the embedded task."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from curating import data, written

from flex_judge.alignment.curation.rows import DropRecord, ReferenceRow, RowFault, read_reference_rows
from flex_judge.alignment.curation.scales import halve_score, hides_winner, mentions_scores
from flex_judge.alignment.curation.task_rows import build_task_rows
from flex_judge.alignment.data.sources import open_source
from flex_judge.judges.errors import UsageError


def test_row_has_question_two_answers_and_scores(tmp_path: Path) -> None:
    source = open_source(str(written(tmp_path / "r.jsonl", [data(7, (8, 4.5), answer1_model_id="a", text="So.")])))
    (row,) = read_reference_rows(source)
    assert row == ReferenceRow(
        "1", 1, "What is 7?", ("It is 7.", "It was 7."), (8.0, 4.5), "1-10", where="r.jsonl, line 1"
    )
    assert row.rescale_scores("1-5") == (4.0, 3.0)
    with pytest.raises(UsageError, match="1-10 cannot be mapped to 1-7"):
        row.rescale_scores("1-7")


BAD: list[tuple[dict[str, Any] | str, RowFault, str]] = [
    ("{broken", RowFault.UNREADABLE, "not JSON"),
    ("[1, 2]", RowFault.UNREADABLE, "expected a JSON object, got list"),
    (data(1, None), RowFault.NO_SCORE, "field 'score' is missing"),
    ({k: v for k, v in data(1).items() if k != "score"}, RowFault.NO_SCORE, "field 'score' is missing"),
    (data(1, (8, None)), RowFault.NO_SCORE, "one is missing"),
    (data(1, (8, 4, 3)), RowFault.NOT_ALL_SCORES, "got 3"),
    (data(1, (8,)), RowFault.NOT_ALL_SCORES, "got 1"),
    (data(1, "8 4"), RowFault.WRONG_TYPE, "expected 2 numbers, got '8 4'"),
    (data(1, ("8", 4)), RowFault.WRONG_TYPE, "expected numbers, got '8'"),
    (data(1, (True, 4)), RowFault.WRONG_TYPE, "expected numbers, got True"),
    (data(1, (11, 4)), RowFault.OUT_OF_SCALE, "11 is not within 1-10"),
    (data(1, (0, 4)), RowFault.OUT_OF_SCALE, "0 is not within 1-10"),
    (data(1, (float("nan"), 4)), RowFault.OUT_OF_SCALE, "nan is not within"),
    (data(1, (float("inf"), 4)), RowFault.OUT_OF_SCALE, "inf is not within"),
    (data(1, (10**400, 4)), RowFault.OUT_OF_SCALE, "is not within 1-10"),
    (data(1, answer1_body=""), RowFault.EMPTY_ANSWER, "field 'answer1_body' is empty"),
    (data(1, answer2_body=" \n"), RowFault.EMPTY_ANSWER, "field 'answer2_body' is empty"),
    (data(1, answer2_body=None), RowFault.EMPTY_ANSWER, "field 'answer2_body' is missing"),
    (data(1, answer2_body=["a"]), RowFault.WRONG_TYPE, "field 'answer2_body': expected text, got ['a']"),
    (data(1, question_body=" "), RowFault.NO_QUESTION, "field 'question_body' is empty"),
    (data(1, question_body=5), RowFault.WRONG_TYPE, "field 'question_body': expected text, got 5"),
    (data(1, text="error"), RowFault.ERROR_TEXT, "field 'text' is 'error'"),
    (data(1, answer1_body="error"), RowFault.ERROR_TEXT, "field 'answer1_body' is 'error'"),
]


def test_bad_rows_are_dropped_with_number_and_reason(tmp_path: Path) -> None:
    rows = [line for bad, *_ in BAD for line in (data(0), bad)]
    results = list(read_reference_rows(open_source(str(written(tmp_path / "r.jsonl", rows)))))
    assert [row.row for row in results] == list(range(1, len(rows) + 1))
    assert all(isinstance(row, ReferenceRow) for row in results[::2])
    for row, (_, fault, message) in zip(results[1::2], BAD, strict=True):
        assert isinstance(row, DropRecord)
        assert row.reason == fault
        assert row.detail.startswith(f"r.jsonl, line {row.row}")
        assert message in row.detail


def test_parquet_rows_are_read_like_json_lines(tmp_path: Path) -> None:
    rows = [data(1), data(2, answer1_body=None), data(3, None)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "r.parquet")
    results = list(read_reference_rows(open_source(str(tmp_path / "r.parquet"))))
    assert [isinstance(row, ReferenceRow) for row in results] == [True, False, False]
    assert isinstance(results[1], DropRecord)
    assert results[1].detail == "r.parquet, row 2: field 'answer1_body' is missing"


def test_unpaired_surrogate_becomes_a_replacement_character(tmp_path: Path) -> None:
    (row,) = read_reference_rows(open_source(str(written(tmp_path / "r.jsonl", [data(1, answer1_body="oh \ud83d")]))))
    assert isinstance(row, ReferenceRow)
    assert row.answers[0] == "oh \N{REPLACEMENT CHARACTER}"


def test_halving_rounds_up_and_keeps_the_ends_of_the_scale() -> None:
    assert [halve_score(score) for score in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert halve_score(8.5) == 5
    assert hides_winner((8, 7))
    assert not hides_winner((9, 8))
    assert not hides_winner((8, 8))
    assert not hides_winner((8,))


@pytest.mark.parametrize(
    "text",
    [
        "I give it 8/10.",
        "7 out of 10",
        "a score of 8",
        "Rating: 6",
        "it deserves 7",
        "I would give it an 8",
        "6 points",
    ],
)
def test_score_mentions_are_detected(text: str) -> None:
    assert mentions_scores(f"It is good. {text} So.")


@pytest.mark.parametrize(
    "text",
    [
        "Assistant 2 gives 3 examples.",
        "It points out three issues.",
        "The score of Assistant 1 is high.",
        "It got lost.",
    ],
)
def test_other_numbers_are_not_score_mentions(text: str) -> None:
    assert not mentions_scores(text)


def test_row_can_have_more_than_two_answers(tmp_path: Path) -> None:
    rows = [
        data(1, (8, 4, 2), answer3_body="It will be 1."),
        data(2, (8, 4, 2, 2), answer4_body="Well."),
        data(3, (8, 4), answer3_body="It will be 3."),
        data(4, (8, 4), answer3_body=None),
    ]
    results = list(read_reference_rows(open_source(str(written(tmp_path / "rows.jsonl", rows)))))
    three, gap, short, two = results
    assert isinstance(three, ReferenceRow)
    assert (three.answers, three.scores) == (("It is 1.", "It was 1.", "It will be 1."), (8.0, 4.0, 2.0))
    assert isinstance(gap, DropRecord)
    assert (gap.reason, "'answer3_body' is missing" in gap.detail) == (RowFault.EMPTY_ANSWER, True)
    assert isinstance(short, DropRecord)
    assert (short.reason, "expected 3 numbers, got 2" in short.detail) == (RowFault.NOT_ALL_SCORES, True)
    assert isinstance(two, ReferenceRow)
    assert len(two.answers) == 2


def make_sampled_row(number: int, *responses: str, answer: Any = None) -> dict[str, Any]:
    """Make a row of best_of_n.jsonl about an addition."""
    question = f"What is {number} + 2? Write the equation and its result."
    right_answer = number + 2 if answer is None else answer
    return {
        "id": f"q{number}",
        "prompt": [{"role": "user", "content": question}],
        "responses": list(responses),
        "kept": {"answer": right_answer},
    }


def read_task_rows(tmp_path: Path, rows: list[Any], seed: int = 0) -> list[ReferenceRow | DropRecord]:
    return build_task_rows(open_source(str(written(tmp_path / "b.jsonl", rows))), seed)


def test_task_samples_become_pairs_in_the_specified_mix(tmp_path: Path) -> None:
    rows = [
        make_sampled_row(
            n, f"It is {n + 2}.", f"{n} + 2 = {n + 2}", f"It is {n}.", f"{n} + 2 = {n + 3}", "No idea.", ""
        )
        for n in range(50)
    ]
    results = [row for row in read_task_rows(tmp_path, rows) if isinstance(row, ReferenceRow)]
    assert len(results) >= 200
    assert len({row.id for row in results}) == len(results)
    for subset in (results[:100], results):
        counts = Counter(row.scores for row in subset)
        for scores, share in (((5, 1), 0.4), ((1, 5), 0.4), ((5, 5), 0.1), ((1, 1), 0.1)):
            assert counts[scores] == pytest.approx(share * len(subset), abs=2)
        wrong = [a for row in subset for a, score in zip(row.answers, row.scores, strict=True) if score == 1]
        assert 0 < wrong.count("No idea.") <= len(wrong) / 5
    assert len({row.row for row in results[:50]}) >= 34  # every question gives one pair of a kind before any gives two
    assert all(row.scale == "1-5" for row in results)
    assert all(len(set(row.answers)) == 2 for row in results)


def test_task_samples_become_lists_with_right_and_wrong_answers(tmp_path: Path) -> None:
    right, wrong = [f"It is {5}.", "2 + 3 = 5", "So 5."], ["It is 6.", "It is 7.", "It is 8."]
    rows = [
        make_sampled_row(3, *wrong, *right),
        make_sampled_row(3, *right, "6"),
        make_sampled_row(3, *right),
        make_sampled_row(3, "5", "6"),
    ]
    file = open_source(str(written(tmp_path / "b.jsonl", rows)))
    for seed in range(8):
        results = [
            row for row in build_task_rows(file, seed, 3) if isinstance(row, ReferenceRow) and len(row.answers) > 2
        ]
        assert [row.row for row in results] == [1, 2]
        for row in results:
            assert len(set(row.answers)) == 3
            assert set(row.scores) == {5.0, 1.0}
            assert all((score == 5) == ("5" in answer) for answer, score in zip(row.answers, row.scores, strict=True))
        assert len(build_task_rows(file, seed)) == len(build_task_rows(file, seed, 3)) - 2


def test_pairs_depend_on_the_seed(tmp_path: Path) -> None:
    rows = [make_sampled_row(n, f"It is {n + 2}.", f"It is {n}.", f"It is {n + 1}.") for n in range(20)]
    assert read_task_rows(tmp_path, rows) == read_task_rows(tmp_path, rows)
    assert read_task_rows(tmp_path, rows) != read_task_rows(tmp_path, rows, seed=1)


def test_bad_sample_rows_are_dropped_with_their_number(tmp_path: Path) -> None:
    good = make_sampled_row(3, "It is 5.", "It is 6.")
    system = [{"role": "system", "content": "Be short."}, *good["prompt"]]
    bad: list[tuple[Any, RowFault]] = [
        ("{", RowFault.UNREADABLE),
        ({**good, "prompt": [{"role": "user", "content": "Write a poem."}]}, RowFault.NOT_THE_TASK),
        ({**good, "prompt": system}, RowFault.WRONG_TYPE),
        ({**good, "prompt": None}, RowFault.NO_QUESTION),
        ({**good, "kept": {}}, RowFault.NO_TRUTH),
        ({**good, "kept": {"answer": "five"}}, RowFault.WRONG_TYPE),
        ({**good, "responses": "It is 5."}, RowFault.NO_ANSWERS),
        ({**good, "responses": ["It is 5.", 6]}, RowFault.NO_ANSWERS),
    ]
    results = read_task_rows(tmp_path, [*(row for row, _ in bad), good])
    assert [(row.row, row.reason) for row in results if isinstance(row, DropRecord)] == [
        (number, fault) for number, (_, fault) in enumerate(bad, 1)
    ]
    assert [row.row for row in results if isinstance(row, ReferenceRow)] == [len(bad) + 1]


def test_samples_need_both_a_right_and_a_wrong_answer(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"b\.jsonl: no question has both a right answer and a wrong answer with a number"
    ):
        read_task_rows(tmp_path, [make_sampled_row(3, "It is 5.", "5", "No idea.")])
