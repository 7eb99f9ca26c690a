"""Tables of molecules with classes as questions, answers as classes, and figures worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.pampa.__main__ import main
from experiments.pampa.figures import measures, of_any, of_best, of_first
from experiments.pampa.page import table, write_page
from experiments.pampa.task import CLASSES, HIGH, LOW, STYLES, Task, majority, read_molecules, split
from judges.errors import UsageError

TASK = Task.of(CLASSES)


@pytest.mark.parametrize(
    ("text", "said", "outcome"),
    [
        ("It is small.\nFinal answer: High permeability", HIGH, "answered"),
        ("final answer: **low-to-moderate permeability**.", LOW, "answered"),
        ("Final Answer: Moderate permeability", LOW, "answered"),
        ("Low to moderate permeability, I think. Final answer: high-permeability", HIGH, "answered"),
        ("It has high permeability.", HIGH, "answered without the last line"),
        ("High permeability or low permeability?", None, "several classes"),
        ("Final answer: it depends", None, "no class"),
        ("", None, "no class"),
        ("Final answer: highly permeable", None, "no class"),
    ],
)
def test_an_answer_is_the_class_that_it_names_last(text: str, said: str | None, outcome: str) -> None:
    assert TASK.answered(text) == (said, outcome)


def test_styles_ask_the_same_with_more_words() -> None:
    prompts = [TASK.prompt(style) for style in STYLES]
    assert len(set(prompts)) == 3
    assert all(one.count("<mol>") == 1 and f'"Final answer: {HIGH}"' in one for one in prompts)
    assert "PAMPA" in prompts[2]
    assert "PAMPA" not in prompts[0] + prompts[1]


def test_a_table_of_tdc_is_read_and_split_as_tdc_does(tmp_path: Path) -> None:
    path = tmp_path / "pampa_ncats.tab"
    path.write_text("Drug_ID\tDrug\tY\n" + "".join(f"m{i}\t{'C' * (i + 1)}\t{int(i % 7 > 0)}\n" for i in range(2034)))
    molecules = read_molecules(path, TASK)
    assert (molecules[0].smiles, molecules[0].label, molecules[1].label) == ("C", LOW, HIGH)
    train, test = split(molecules)
    assert (len(train), len(test)) == (1627, 407)
    assert {one.id for one in train}.isdisjoint(one.id for one in test)
    assert split(molecules) == (train, test)
    assert majority(test)[0] == HIGH


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a,Y\nC,1\n", "has no column 'Drug'; there are a, Y"),
        ("Drug,Y\nC,2\n", "row 1, column 'Y': expected one of 0, 1, got 2"),
        ("Drug,Y\nC,1\n,0\n", "row 2, column 'Drug': expected a SMILES string"),
        ("Drug,Y\n", "holds no row"),
    ],
)
def test_a_wrong_table_is_one_line(text: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=problem):
        read_molecules(path, TASK)


def test_other_tasks_have_classes_and_a_question_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "bbb.csv"
    path.write_text("smiles,p_np\nCCO,1\nO,0\n")
    task = Task.of(("0=does not cross", "1=crosses|passes"), "Does <mol> cross the blood-brain barrier?", "")
    assert [one.label for one in read_molecules(path, task, label="p_np")] == ["crosses", "does not cross"]
    assert task.answered("Final answer: it passes") == ("crosses", "answered")
    with pytest.raises(UsageError, match="has 0 times <mol>"):
        Task.of(("0=no", "1=yes"), "Does it?")
    with pytest.raises(UsageError, match="expected VALUE=NAME"):
        Task.of(("no", "yes"))


def test_who_always_says_the_same_is_no_better_than_chance() -> None:
    labels = [HIGH] * 8 + [LOW] * 2
    found = measures(labels, [HIGH] * 10)
    assert (found["accuracy"], found["balanced_accuracy"], found["mcc"]) == (0.8, 0.5, 0.0)
    assert majority([_Labelled(one) for one in labels]) == (HIGH, 0.8)  # type: ignore[list-item]


class _Labelled:
    def __init__(self, label: str) -> None:
        self.label = label


def test_no_answer_is_wrong_and_told_beside() -> None:
    found = measures([HIGH, HIGH, LOW, LOW], [HIGH, None, LOW, HIGH])
    assert (found["accuracy"], found["accuracy_answered"], found["answered"]) == (0.5, pytest.approx(2 / 3), 3)
    assert found["balanced_accuracy"] == 0.5


def row(label: str, *answers: tuple[str, float | None]) -> dict[str, Any]:
    texts = {"h": f"Final answer: {HIGH}", "l": f"Final answer: {LOW}", "?": "Hm."}
    return {
        "responses": [texts[kind] for kind, _ in answers],
        "scores": [s for _, s in answers],
        "kept": {"label": label},
    }


def test_the_highest_score_is_chosen_ties_by_lot_and_nothing_leaves_the_count() -> None:
    rows = [
        row(HIGH, ("h", 9), ("l", 3), ("l", 3), ("?", 1)),
        row(LOW, ("h", 5), ("l", 5), ("h", None), ("?", 1)),  # level
        row(LOW, ("l", None), ("l", None), ("l", None), ("l", None)),  # none is scored
    ]
    found = of_best(rows, TASK, draws=200)
    assert set(found) == {"1", "2", "4"}
    assert found["4"]["accuracy"]["mean"] == pytest.approx((1 + 0.5 + 0) / 3, abs=0.05)
    assert found["4"]["accuracy"]["deviation"] > 0
    assert found["1"]["accuracy"]["mean"] == pytest.approx((1 / 4 + 1 / 4 + 0) / 3, abs=0.05)
    assert of_any(rows, TASK) == 1.0
    assert of_first(rows, TASK)["outcomes"] == {"answered": 3}


def summary() -> dict[str, Any]:
    rows = [row(HIGH, ("h", 9), ("l", 3)), row(LOW, ("h", 5), ("l", 6)), row(HIGH, ("?", 1), ("?", None))]
    style = {"greedy": of_first(rows, TASK), "best": of_best(rows, TASK), "any": of_any(rows, TASK)}
    return {
        "data": "pampa.tab",
        "policy": "mol-llama",
        "model": "flex-mol-llama",
        "question": TASK.question,
        "samples": 2,
        "test": 3,
        "majority": {"class": HIGH, "accuracy": 2 / 3},
        "classes_seen": 2,
        "is_paper_s": True,
        "styles": {"default": {**style, "dpo": of_first(rows, TASK)}, "cot": style},
    }


def test_the_page_sets_all_steps_beside_the_paper_and_who_always_says_the_same(tmp_path: Path) -> None:
    head, *rows = table(summary())
    found = {cells[0]: cells[1:] for cells in rows}
    assert all(len(cells) == len(head) for cells in rows)
    assert found[f"always “{HIGH}”"] == ("66.67", "50.00", "0.000", "", "84.52")
    # said h, h and nothing of h, l, h: (1 * 3 - 2 * 2) / sqrt((9 - 5) * (9 - 5)) is the correlation
    assert found["default: greedy"] == ("33.33", "25.00", "-0.250", "2 of 3", "63.55")
    assert found["default: best of 2"][0] == "66.67"
    assert found["default: best of 2"][-1] == "68.85"
    assert found["default: greedy, after DPO"][-1] == "76.41"
    assert "cot: greedy, after DPO" not in found
    (tmp_path / "other").mkdir()
    page = write_page(tmp_path, summary()).read_text()
    assert "84.52" in page
    assert "no class" in page
    assert "<script" not in page
    assert write_page(tmp_path, summary()).read_text() == page
    other = summary() | {"is_paper_s": False}
    assert all(len(cells) == len(head) - 1 for cells in table(other))
    assert "84.52" not in write_page(tmp_path / "other", other).read_text()
    assert "| default: greedy | 33.33 |" in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--policy", "x", "--model", "y"], "--data is needed"),
        (["--data", "t.csv", "--policy", "x", "--model", "y", "--style", "haiku"], "--style haiku: expected one of"),
        (["--data", "t.csv", "--policy", "x", "--model", "y", "--dpo", "beta"], "--dpo beta: expected NAME=VALUE"),
        (["--data", "t.csv", "--policy", "x", "--model", "y"], "t.csv: cannot be read"),
        (
            ["--data", "t.csv", "--policy", "x", "--model", "y", "--pair-rubric", "membrane_permeability"],
            "is made for 1 responses at a time, not 2",
        ),
    ],
)
def test_a_wrong_setting_is_one_line(
    flags: list[str], problem: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(flags) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert problem in said


@pytest.mark.slow
def test_the_study_runs_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rdkit")
    from judges.models.mol_llama.tiny import write_tiny

    monkeypatch.chdir(tmp_path)
    write_tiny(Path("tiny"))
    smiles = ("CCO", "O", "c1ccccc1", "CC(=O)C", "C1CC", "CCN", "CCC", "CO", "CN", "C=O")  # the fifth is none
    Path("table.csv").write_text("Drug,Y\n" + "".join(f"{one},{k % 2}\n" for k, one in enumerate(smiles)))
    flags = ["--data", "table.csv", "--policy", "tiny", "--model", "tiny", "--style", "default", "--train", "0"]
    flags += ["--samples", "2", "--sample-tokens", "8", "--max-think-tokens", "8", "--out", "run"]
    assert main(flags) == 0
    told = json.loads(Path("run/summary.json").read_text())
    assert (told["molecules"], told["test"]) == (10, 2)
    assert told["styles"]["default"]["greedy"]["count"] == 2
    before = Path("run/pampa.html").read_text()
    assert main(flags) == 0
    assert Path("run/pampa.html").read_text() == before
