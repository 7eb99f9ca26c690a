"""`flex-judge eval labelled`: one's own pairs and scores with human labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from eval_command import JUDGE, Run
from sklearn.metrics import cohen_kappa_score

from flex_judge.experiments.benchmarks.benchmark import select_sample
from flex_judge.judges.io.jsonl import read_rows, write_rows


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


PAIRS = [
    ("A", 8, 3, "maths"),
    ("b", 2, 6, "maths"),
    ("tie", 5, 5, "maths"),
    ("0", 4, 7, "law"),
    ("1", 3, 9, "law"),
    ("A", 6, 6, "law"),
    ("tie", 9, 1, "law"),
]


def write_pairs(path: Path, *pairs: tuple[str, int, int, str]) -> str:
    lines = [f"Question {i}?,says={a},says={b},{label},{group}" for i, (label, a, b, group) in enumerate(pairs)]
    path.write_text("\n".join(["prompt,first,second,label,category", *lines]) + "\n")
    return path.name


COLUMNS = ["--column", "responses=first", "--column", "responses=second"]


def test_pairs_have_agreement_kappa_biases_and_groups(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    file = write_pairs(folder / "pairs.csv", *PAIRS)
    run = Run(capfd, "eval", "labelled", file, *COLUMNS, *JUDGE, "--json")
    assert run.status == 0, run.err
    figures = run.json["tasks"]["pair"]["figures"]
    judged = [0, 1, "tie", 1, 1, "tie", 0]
    labels = [0, 1, "tie", 0, 1, 0, "tie"]
    assert figures["agreement"]["value"] == pytest.approx(4 / 7)
    assert figures["without_ties"]["value"] == pytest.approx(3 / 5)
    assert figures["kappa"]["value"] == pytest.approx(cohen_kappa_score(list(map(str, judged)), list(map(str, labels))))
    assert figures["kappa"]["low"] < figures["kappa"]["value"] < figures["kappa"]["high"]
    assert run.json["tasks"]["pair"]["tables"]["category"]["maths"]["value"] == 1.0
    assert run.json["tasks"]["pair"]["biases"]["ties"] == pytest.approx(2 / 7)
    assert run.json["pair.agreement"] == pytest.approx(4 / 7)
    table = Run(capfd, "eval", "labelled", file, *COLUMNS, *JUDGE)
    assert "Cohen's kappa" in table.out
    html = (folder / "runs/eval-labelled/report.html").read_text()
    assert "people say tie, the judge A 9, B 1" in html
    assert "people say A, the judge A 4, B 7" in html


def test_votes_give_a_calibration_error(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    file = write_pairs(folder / "pairs.csv", *PAIRS)
    run = Run(capfd, "eval", "labelled", file, *COLUMNS, *JUDGE, "--order", "both", "--json")
    # All votes agree, so the confidence is 1 and the error is the share of wrong verdicts.
    assert run.json["tasks"]["pair"]["figures"]["calibration_error"]["value"] == pytest.approx(3 / 7)


def test_chosen_and_rejected_have_no_fixed_place(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    rows = [{"prompt": f"Q{n}", "chosen": "says=9", "rejected": "says=1", "id": f"p{n}"} for n in range(20)]
    (folder / "pairs.json").write_text(json.dumps(rows))
    run = Run(capfd, "eval", "labelled", "pairs.json", *JUDGE, "--json")
    assert run.json["pair.agreement"] == 1.0
    labels = [row["label"] for row in read_rows(folder / "runs/eval-labelled/items.jsonl")]
    assert 4 <= sum(labels) <= 16


def test_scores_have_three_correlations(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    rows: list[dict[str, Any]] = [{"prompt": "Q", "response": f"says={n}", "score": 10 * n} for n in (1, 3, 2, 8)]
    rows.append({"prompt": "Q", "responses": ["says=5", "says=4"], "score": [70, 60]})
    write_rows(folder / "scores.jsonl", rows)
    run = Run(capfd, "eval", "labelled", "scores.jsonl", *JUDGE, "--json")
    figures = run.json["tasks"]["score"]["figures"]
    assert (figures["spearman"]["value"], figures["kendall"]["value"]) == (pytest.approx(1), pytest.approx(1))
    assert 0.9 < figures["pearson"]["value"] < 1
    assert run.json["items"] == 6


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (
            {"prompt": "Q", "responses": ["a", "b"], "label": 2},
            "field 'label': expected A, B, tie, or the index",
        ),
        ({"prompt": "Q", "responses": ["a"], "label": "A"}, "field 'responses': expected two responses for a 'label'"),
        ({"prompt": "Q", "responses": ["a", "b"]}, "row 1: field 'score' or 'scores' or 'label' is missing"),
        ({"prompt": "Q", "responses": ["a", "b"], "score": [1]}, "field 'score': expected 2 numbers"),
        ({"prompt": "Q", "response": "a", "score": "good"}, "field 'score': expected a number, got 'good'"),
        ({"question": "Q", "response": "a", "score": 1}, "the columns are question, response, score; map one with"),
        ({"prompt": "Q", "chosen": "a"}, "row 1: field 'rejected' is missing"),
        ({"prompt": "Q", "response": "a", "score": 1, "rubric": "pandalm"}, "'pandalm' is made for 2 responses"),
    ],
)
def test_bad_row_is_one_line(
    row: dict[str, Any], complaint: str, capfd: pytest.CaptureFixture[str], folder: Path
) -> None:
    write_rows(folder / "rows.jsonl", [row])
    run = Run(capfd, "eval", "labelled", "rows.jsonl", *JUDGE)
    assert (run.status, complaint in run.err) == (2, True), run.err
    assert run.err.count("\n") == 1


def test_sample_is_stratified_seeded_and_nested() -> None:
    groups = ["big"] * 60 + ["small"] * 20 + [f"single {n}" for n in range(20)]
    values = list(range(100))
    small, large = (select_sample(values, groups, size, 3) for size in (20, 50))
    assert set(small) <= set(large)
    assert small == sorted(small)
    assert abs(sum(value < 60 for value in large) - 30) <= 3
    assert abs(sum(60 <= value < 80 for value in large) - 10) <= 2
    assert select_sample(values, groups, 20, 3) == small != select_sample(values, groups, 20, 4)
    assert select_sample(values, groups, 200, 3) == values
