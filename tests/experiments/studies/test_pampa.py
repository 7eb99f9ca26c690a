"""Tables of molecules with classes as questions, answers as classes, and figures worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flex_judge.experiments.cli import main as command
from flex_judge.experiments.studies.pampa import run
from flex_judge.experiments.studies.pampa.__main__ import main
from flex_judge.experiments.studies.pampa.page import list_table_rows, write_page
from flex_judge.experiments.studies.pampa.statistics import (
    compute_accuracy_metrics,
    compute_best_of_n,
    compute_pass_at_1,
    compute_pass_at_n,
    count_outcomes,
    estimate_gain,
)
from flex_judge.experiments.studies.pampa.table import (
    exclude_test_molecules,
    find_majority_class,
    read_molecules,
    split_molecules,
)
from flex_judge.experiments.studies.pampa.task import CLASSES, HIGH, LOW, STYLES, ClassificationTask
from flex_judge.judges.errors import UsageError

TASK = ClassificationTask.from_classes(CLASSES)


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
        ("Unlike compounds of low permeability.\n\n**Final Answer**: High permeability", HIGH, "answered"),
        ("Final answer: High permeability. Unlike those of low permeability, it is lipophilic.", HIGH, "answered"),
        ("High permeability?\nFinal answer is Low-to-moderate permeability.", LOW, "answered"),
        ("Final answer: High", HIGH, "answered"),
        ("Final answer: low", LOW, "answered"),
        ("Final answer: not high permeability", None, "no class"),
        ("Final answer: moderate to high permeability", None, "no class"),
        ("Final answer: this leads to high permeability", HIGH, "answered"),
        ("Final answer: High permeability\n\nFinal answer:", HIGH, "answered"),
        ("Final answer: I think\nit has high permeability", HIGH, "answered"),
        ('"Final answer: Low permeability" or "Final answer: High permeability".', None, "several classes"),
    ],
)
def test_an_answer_is_the_class_that_it_names_last(text: str, said: str | None, outcome: str) -> None:
    assert TASK.read_class(text) == (said, outcome)


def test_styles_ask_the_same_with_more_words() -> None:
    prompts = [TASK.make_prompt(style) for style in STYLES]
    assert len(set(prompts)) == 3
    assert all(one.count("<mol>") == 1 and f'"Final answer: {HIGH}"' in one for one in prompts)
    assert "PAMPA" in prompts[2]
    assert "PAMPA" not in prompts[0] + prompts[1]


def test_a_table_of_tdc_is_read_and_split_as_tdc_does(tmp_path: Path) -> None:
    path = tmp_path / "pampa_ncats.tab"
    path.write_text("Drug_ID\tDrug\tY\n" + "".join(f"m{i}\t{'C' * (i + 1)}\t{int(i % 7 > 0)}\n" for i in range(2034)))
    molecules = read_molecules(path, TASK).molecules
    assert (molecules[0].smiles, molecules[0].label, molecules[1].label) == ("C", LOW, HIGH)
    train, test = split_molecules(molecules)
    assert (len(train), len(test)) == (1627, 407)
    assert {one.id for one in train}.isdisjoint(one.id for one in test)
    assert split_molecules(molecules) == (train, test)
    assert find_majority_class(test)[0] == HIGH


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a,Y\nC,1\n", "has no column 'Drug'; there are a, Y"),
        ("Drug,Y\nC,2\n", "row 1, column 'Y': expected one of 0, 1, got '2'"),
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
    task = ClassificationTask.from_classes(
        ("0=does not cross", "1=crosses|passes"), "Does <mol> cross the blood-brain barrier?", ""
    )
    assert [one.label for one in read_molecules(path, task, label="p_np").molecules] == ["crosses", "does not cross"]
    assert task.read_class("Final answer: it passes") == ("crosses", "answered")
    toxic = ClassificationTask.from_classes(("0.0=not toxic|non-toxic", "1=toxic"), "Is <mol> toxic?", "")
    assert toxic.read_class("It is toxic at first sight.\nFinal answer: non-toxic") == ("not toxic", "answered")
    path.write_text("smiles,label\nCCO,1.0\nO,0\nN,\nO,0\n")
    table = read_molecules(path, toxic)
    assert [(one.smiles, one.label) for one in table.molecules] == [("CCO", "toxic"), ("O", "not toxic")]
    assert table.left_out == {"repeats another row": 1, "has no label": 1}
    with pytest.raises(UsageError, match="has 0 times <mol>"):
        ClassificationTask.from_classes(("0=no", "1=yes"), "Does it?")
    with pytest.raises(UsageError, match="expected VALUE=NAME"):
        ClassificationTask.from_classes(("no", "yes"))
    for classes, problem in (
        (("0=-", "1=+"), "an answer '-' would not be read as '-'"),
        (("0=a", "0.0=b"), "there is a class of the value 0 already"),
        (("0=Low", "1=Low"), "two have the same name"),
    ):
        with pytest.raises(UsageError, match=problem):
            ClassificationTask.from_classes(classes)


def test_a_molecule_that_is_tested_is_not_trained_on_however_it_is_written(tmp_path: Path) -> None:
    pytest.importorskip("rdkit")
    path = tmp_path / "table.csv"
    path.write_text("Drug,Y\nCCO,1\nOCC,0\nC(C)O,1\nCC,0\nnonsense,1\n")
    molecules = read_molecules(path, TASK).molecules
    assert [one.smiles for one in exclude_test_molecules(molecules[1:], molecules[:1])] == ["CC", "nonsense"]


def test_who_always_says_the_same_is_no_better_than_chance() -> None:
    labels = [HIGH] * 8 + [LOW] * 2
    found = compute_accuracy_metrics(labels, [HIGH] * 10)
    assert (found["accuracy"], found["balanced_accuracy"], found["mcc"]) == (0.8, 0.5, 0.0)
    assert find_majority_class([_Labelled(one) for one in labels]) == (HIGH, 0.8)  # type: ignore[list-item]


class _Labelled:
    def __init__(self, label: str) -> None:
        self.label = label


def test_no_answer_is_wrong_and_told_beside() -> None:
    found = compute_accuracy_metrics([HIGH, HIGH, LOW, LOW], [HIGH, None, LOW, HIGH])
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
    found = compute_best_of_n(rows, TASK, draws=200)
    assert set(found) == {"1", "2", "4"}
    assert found["4"]["accuracy"]["mean"] == pytest.approx((1 + 0.5 + 0) / 3, abs=0.05)
    assert found["4"]["accuracy"]["deviation"] > 0
    assert found["1"]["accuracy"]["mean"] == pytest.approx((1 / 4 + 1 / 4 + 0) / 3, abs=0.05)
    assert found["1"]["interval"]["value"] == pytest.approx(found["1"]["accuracy"]["mean"])
    assert found["1"]["interval"]["low"] < found["1"]["interval"]["value"] < found["1"]["interval"]["high"]
    assert compute_pass_at_n(rows, TASK) == pytest.approx(
        {"1": (1 + 1 + 4) / 12, "2": (1 / 2 + 1 / 2 + 1) / 3, "4": 1.0}
    )
    assert compute_pass_at_1(rows, TASK)["outcomes"] == {"answered": 3}


def test_a_molecule_without_any_answer_is_wrong_and_told_as_such() -> None:
    lost: dict[str, Any] = {"responses": None, "scores": None, "kept": {"label": HIGH}}
    rows = [row(LOW, ("h", 9), ("l", 3)), row(HIGH, ("h", 5), ("h", 5)), lost]
    assert count_outcomes(rows, TASK) == {"answered": 4, "could not be answered": 1}
    assert compute_pass_at_1(rows, TASK)["outcomes"] == {"answered": 2, "could not be answered": 1}
    assert compute_best_of_n(rows, TASK)["2"]["accuracy"] == {"mean": pytest.approx(1 / 3), "deviation": 0.0}
    assert compute_pass_at_n(rows, TASK) == pytest.approx({"1": 0.5, "2": 2 / 3})
    found = estimate_gain(rows, [row(LOW, ("l", 9)), row(HIGH, ("h", 5)), lost], TASK)
    assert found["value"] == pytest.approx(1 / 3)
    assert found["low"] <= found["value"] <= found["high"]


def test_silence_is_no_way_to_be_right_half_the_time() -> None:
    assert compute_accuracy_metrics([HIGH] * 4 + [LOW] * 4, [HIGH] * 4 + [None] * 4)["mcc"] == 0.0


def summary() -> dict[str, Any]:
    rows = [row(HIGH, ("h", 9), ("l", 3)), row(LOW, ("h", 5), ("l", 6)), row(HIGH, ("?", 1), ("?", None))]
    style = {
        "greedy": compute_pass_at_1(rows, TASK),
        "best": compute_best_of_n(rows, TASK),
        "pass_at": compute_pass_at_n(rows, TASK),
    }
    style["sampled"] = {"outcomes": count_outcomes(rows, TASK)}
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
        "left_out": {"has no label": 2},
        "dpo": {"pairs": 40, "steps": 4, "highest_learning_rate": 1e-5},
        "styles": {
            "default": {**style, "dpo": compute_pass_at_1(rows, TASK), "gain": estimate_gain(rows, rows, TASK)},
            "cot": style,
        },
    }


def test_the_page_sets_all_steps_beside_the_paper_and_who_always_says_the_same(tmp_path: Path) -> None:
    head, *rows = list_table_rows(summary())
    found = {cells[0]: cells[1:] for cells in rows}
    assert all(len(cells) == len(head) for cells in rows)
    assert found[f"always “{HIGH}”"] == ("66.67", "50.00", "0.000", "", "84.52")
    # said h, h and nothing, which is l, of h, l, h: 1 right of h, h, and l is called h
    assert found["default: greedy"] == ("33.33 (6.15 to 79.23)", "25.00", "-0.500", "2 of 3", "63.55")
    assert found["default: best of 2"][0].startswith("66.67 (")
    assert found["default: best of 2"][-1] == ""  # the paper's is of 16
    assert found["default: pass@2"][0] == "66.67"
    assert found["default: DPO gains"][0] == "+0.00 (0.00 to 0.00)"
    assert found["default: greedy, after DPO"][-1] == "76.41"
    assert "cot: greedy, after DPO" not in found
    (tmp_path / "other").mkdir()
    page = write_page(tmp_path, summary()).read_text()
    assert "84.52" in page
    assert "no class" in page
    assert "<script" not in page
    assert write_page(tmp_path, summary()).read_text() == page
    other = summary() | {"is_paper_s": False}
    assert all(len(cells) == len(head) - 1 for cells in list_table_rows(other))
    assert "84.52" not in write_page(tmp_path / "other", other).read_text()
    assert "a learning rate of at most 1.0e-05" in page
    assert "Rows left out: 2 (has no label)" in page
    assert "| default: greedy | 33.33 (" in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--policy", "x", "--model", "y"], "--data is needed"),
        (["--data", "t.csv", "--policy", "x", "--model", "y", "--style", "haiku"], "--style haiku: expected one of"),
        (["--data", "t.csv", "--policy", "x", "--model", "y", "--dpo", "beta"], "--dpo beta: expected NAME=VALUE"),
        (
            ["--data", "t.csv", "--policy", "x", "--model", "y", "--dpo", "num_epochs=3"],
            "flex-judge dpo has no such flag",
        ),
        (
            ["--data", "t.csv", "--policy", "x", "--model", "y", "--sample-temperature", "1.3"],
            "--hot-temperature must be above --sample-temperature",
        ),
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
    from flex_judge.judges.models.mol_llama.tiny import write_tiny_model

    def here(*arguments: str) -> None:
        """The command in this process, which has imported all that it takes seconds to import."""
        assert command(arguments) == 0

    monkeypatch.setattr(run, "run", here)
    monkeypatch.chdir(tmp_path)
    write_tiny_model(Path("tiny"))
    smiles = ("CCO", "O", "c1ccccc1", "CC(=O)C", "C1CC", "CCN", "CCC", "CO", "CN", "C=O")  # the fifth is none
    Path("table.csv").write_text("Drug,Y\n" + "".join(f"{one},{k % 2}\n" for k, one in enumerate(smiles)))
    flags = ["--data", "table.csv", "--policy", "tiny", "--model", "tiny", "--style", "default", "--samples", "2"]
    flags += ["--sample-tokens", "8", "--max-think-tokens", "8", "--out", "run"]
    assert main([*flags, "--train", "0"]) == 0
    told = json.loads(Path("run/summary.json").read_text())
    assert (told["molecules"], told["test"], told["is_paper_s"], told["dpo"]) == (10, 2, False, None)
    assert told["styles"]["default"]["greedy"]["count"] == 2
    before = told["styles"]["default"]
    rows = [
        {
            "prompt": [{"role": "user", "content": TASK.make_prompt("default")}],
            "chosen": [{"role": "assistant", "content": "Final answer: High permeability"}],
            "rejected": [{"role": "assistant", "content": "No."}],
            "molecules": [one],
        }
        for one in smiles[:4]
    ]
    Path("pairs.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    flags += [
        "--preferences",
        "pairs.jsonl",
        "--dpo",
        "num_train_epochs=1",
        "--dpo",
        "use_cpu=True",
        "--dpo",
        "bf16=False",
    ]
    assert main(flags) == 0  # what was done is not done again; DPO comes to it
    told = json.loads(Path("run/summary.json").read_text())
    after = told["styles"]["default"]
    assert {name: after[name] for name in before} == before
    assert (told["dpo"]["pairs"], told["dpo"]["steps"], after["dpo"]["count"]) == (4, 1, 2)
    assert "4 pairs, 1 steps" in Path("run/pampa.html").read_text()
