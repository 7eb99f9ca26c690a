"""Molecule case study: parsing of answers, table and split, metrics checked by hand, and the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pampa import TASK, compute_style, make_summary

from flex_judge.experiments.cli import main as run_command
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
from flex_judge.experiments.studies.pampa.task import HIGH, LOW, STYLES, ClassificationTask
from flex_judge.judges.errors import UsageError


@pytest.mark.parametrize(
    ("text", "name", "outcome"),
    [
        ("It is small.\nFinal answer: High permeability", HIGH, "answered"),
        ("final answer: **low-to-moderate permeability**.", LOW, "answered"),
        ("Final Answer: Moderate permeability", LOW, "answered"),
        ("Low to moderate permeability, I think. Final answer: high-permeability", HIGH, "answered"),
        ("It has high permeability.", HIGH, "answered without a final line"),
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
def test_answer_is_parsed_as_the_class_of_its_final_line(text: str, name: str | None, outcome: str) -> None:
    assert TASK.read_class(text) == (name, outcome)


def test_all_styles_ask_the_same_question() -> None:
    prompts = [TASK.make_prompt(style) for style in STYLES]
    assert len(set(prompts)) == 3
    assert all(prompt.count("<mol>") == 1 and f'"Final answer: {HIGH}"' in prompt for prompt in prompts)
    assert "PAMPA" in prompts[2]
    assert "PAMPA" not in prompts[0] + prompts[1]


def test_tdc_table_is_read_and_split_like_tdc(tmp_path: Path) -> None:
    path = tmp_path / "pampa_ncats.tab"
    path.write_text("Drug_ID\tDrug\tY\n" + "".join(f"m{i}\t{'C' * (i + 1)}\t{int(i % 7 > 0)}\n" for i in range(2034)))
    molecules = read_molecules(path, TASK).molecules
    assert (molecules[0].smiles, molecules[0].label, molecules[1].label) == ("C", LOW, HIGH)
    train, test = split_molecules(molecules)
    assert (len(train), len(test)) == (1627, 407)
    assert {molecule.id for molecule in train}.isdisjoint(molecule.id for molecule in test)
    assert split_molecules(molecules) == (train, test)
    assert find_majority_class(test)[0] == HIGH


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a,Y\nC,1\n", "the columns are a, Y; expected one of 'Drug', 'smiles', 'SMILES'"),
        ("Drug,Y\nC,2\n", "row 1: column 'Y': expected one of 0, 1, got '2'"),
        ("Drug,Y\nC,1\n,0\n", "row 2: column 'Drug': expected a SMILES string"),
        ("Drug,Y\n", "the table has no rows"),
    ],
)
def test_invalid_table_is_rejected_with_its_problem(text: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=problem):
        read_molecules(path, TASK)


def test_other_classification_tasks_are_supported(tmp_path: Path) -> None:
    path = tmp_path / "bbb.csv"
    path.write_text("smiles,p_np\nCCO,1\nO,0\n")
    task = ClassificationTask.from_classes(
        ("0=does not cross", "1=crosses|passes"), "Does <mol> cross the blood-brain barrier?", ""
    )
    assert [molecule.label for molecule in read_molecules(path, task, label="p_np").molecules] == [
        "crosses",
        "does not cross",
    ]
    assert task.read_class("Final answer: it passes") == ("crosses", "answered")
    toxic = ClassificationTask.from_classes(("0.0=not toxic|non-toxic", "1=toxic"), "Is <mol> toxic?", "")
    assert toxic.read_class("It is toxic at first sight.\nFinal answer: non-toxic") == ("not toxic", "answered")
    path.write_text("smiles,label\nCCO,1.0\nO,0\nN,\nO,0\n")
    table = read_molecules(path, toxic)
    assert [(molecule.smiles, molecule.label) for molecule in table.molecules] == [("CCO", "toxic"), ("O", "not toxic")]
    assert table.left_out == {"repeats another row": 1, "has no label": 1}
    with pytest.raises(UsageError, match="found <mol> 0 times"):
        ClassificationTask.from_classes(("0=no", "1=yes"), "Does it?")
    with pytest.raises(UsageError, match="expected VALUE=NAME"):
        ClassificationTask.from_classes(("no", "yes"))
    for classes, problem in (
        (("0=-", "1=+"), "the answer '-' would not be parsed as '-'"),
        (("0=a", "0.0=b"), "a class with the value 0 already exists"),
        (("0=Low", "1=Low"), "two classes have the same name"),
    ):
        with pytest.raises(UsageError, match=problem):
            ClassificationTask.from_classes(classes)


def test_test_molecules_are_excluded_from_training_by_structure(tmp_path: Path) -> None:
    pytest.importorskip("rdkit")
    path = tmp_path / "table.csv"
    path.write_text("Drug,Y\nCCO,1\nOCC,0\nC(C)O,1\nCC,0\nnonsense,1\n")
    molecules = read_molecules(path, TASK).molecules
    assert [molecule.smiles for molecule in exclude_test_molecules(molecules[1:], molecules[:1])] == ["CC", "nonsense"]


def test_constant_answer_scores_at_chance_level() -> None:
    labels = [HIGH] * 8 + [LOW] * 2
    metrics = compute_accuracy_metrics(labels, [HIGH] * 10)
    assert (metrics["accuracy"], metrics["balanced_accuracy"], metrics["mcc"]) == (0.8, 0.5, 0.0)
    assert find_majority_class([LabelledItem(label) for label in labels]) == (HIGH, 0.8)  # type: ignore[list-item]


class LabelledItem:
    def __init__(self, label: str) -> None:
        self.label = label


def test_missing_answer_counts_as_wrong() -> None:
    metrics = compute_accuracy_metrics([HIGH, HIGH, LOW, LOW], [HIGH, None, LOW, HIGH])
    assert (metrics["accuracy"], metrics["accuracy_answered"], metrics["answered"]) == (0.5, pytest.approx(2 / 3), 3)
    assert metrics["balanced_accuracy"] == 0.5


def make_row(label: str, *answers: tuple[str, float | None]) -> dict[str, Any]:
    texts = {"h": f"Final answer: {HIGH}", "l": f"Final answer: {LOW}", "?": "Hm."}
    return {
        "responses": [texts[kind] for kind, _ in answers],
        "scores": [s for _, s in answers],
        "kept": {"label": label},
    }


def test_best_of_n_breaks_ties_at_random_and_keeps_all_molecules() -> None:
    rows = [
        make_row(HIGH, ("h", 9), ("l", 3), ("l", 3), ("?", 1)),
        make_row(LOW, ("h", 5), ("l", 5), ("h", None), ("?", 1)),  # a tie
        make_row(LOW, ("l", None), ("l", None), ("l", None), ("l", None)),  # no answer is scored
    ]
    results = compute_best_of_n(rows, TASK, draws=200)
    assert set(results) == {"1", "2", "4"}
    assert results["4"]["accuracy"]["mean"] == pytest.approx((1 + 0.5 + 0) / 3, abs=0.05)
    assert results["4"]["accuracy"]["deviation"] > 0
    assert results["1"]["accuracy"]["mean"] == pytest.approx((1 / 4 + 1 / 4 + 0) / 3, abs=0.05)
    assert results["1"]["interval"]["value"] == pytest.approx(results["1"]["accuracy"]["mean"])
    assert results["1"]["interval"]["low"] < results["1"]["interval"]["value"] < results["1"]["interval"]["high"]
    assert compute_pass_at_n(rows, TASK) == pytest.approx(
        {"1": (1 + 1 + 4) / 12, "2": (1 / 2 + 1 / 2 + 1) / 3, "4": 1.0}
    )
    assert compute_pass_at_1(rows, TASK)["outcomes"] == {"answered": 3}


def test_unanswered_molecule_counts_as_wrong() -> None:
    lost: dict[str, Any] = {"responses": None, "scores": None, "kept": {"label": HIGH}}
    rows = [make_row(LOW, ("h", 9), ("l", 3)), make_row(HIGH, ("h", 5), ("h", 5)), lost]
    assert count_outcomes(rows, TASK) == {"answered": 4, "could not be answered": 1}
    assert compute_pass_at_1(rows, TASK)["outcomes"] == {"answered": 2, "could not be answered": 1}
    assert compute_best_of_n(rows, TASK)["2"]["accuracy"] == {"mean": pytest.approx(1 / 3), "deviation": 0.0}
    assert compute_pass_at_n(rows, TASK) == pytest.approx({"1": 0.5, "2": 2 / 3})
    gain = estimate_gain(rows, [make_row(LOW, ("l", 9)), make_row(HIGH, ("h", 5)), lost], TASK)
    assert gain["value"] == pytest.approx(1 / 3)
    assert gain["low"] <= gain["value"] <= gain["high"]


def test_missing_answers_do_not_raise_the_correlation() -> None:
    assert compute_accuracy_metrics([HIGH] * 4 + [LOW] * 4, [HIGH] * 4 + [None] * 4)["mcc"] == 0.0


def make_trained_summary() -> dict[str, Any]:
    rows = [
        make_row(HIGH, ("h", 9), ("l", 3)),
        make_row(LOW, ("h", 5), ("l", 6)),
        make_row(HIGH, ("?", 1), ("?", None)),
    ]
    style = compute_style(rows)
    trained = {**style, "dpo": compute_pass_at_1(rows, TASK), "gain": estimate_gain(rows, rows, TASK)}
    return make_summary(
        {"default": trained, "cot": style},
        test=3,
        majority={"class": HIGH, "accuracy": 2 / 3},
        left_out={"has no label": 2},
        dpo={"pairs": 40, "steps": 4, "highest_learning_rate": 1e-5},
    )


def test_page_compares_all_steps_with_the_paper_and_a_constant_answer(tmp_path: Path) -> None:
    head, *rows = list_table_rows(make_trained_summary())
    cells_by_row = {cells[0]: cells[1:] for cells in rows}
    assert all(len(cells) == len(head) for cells in rows)
    assert cells_by_row[f"always “{HIGH}”"] == ("66.67", "50.00", "0.000", "", "84.52")
    # Labels h, l, h; answers h, h and none, which counts as l: one of two h is right, and no l.
    assert cells_by_row["default: greedy"] == ("33.33 (6.15 to 79.23)", "25.00", "-0.500", "2 of 3", "63.55")
    assert cells_by_row["default: best of 2"][0].startswith("66.67 (")
    assert cells_by_row["default: best of 2"][-1] == ""  # the paper has best of 16 only
    assert cells_by_row["default: pass@2"][0] == "66.67"
    assert cells_by_row["default: gain of DPO"][0] == "+0.00 (0.00 to 0.00)"
    assert cells_by_row["default: greedy, after DPO"][-1] == "76.41"
    assert "cot: greedy, after DPO" not in cells_by_row
    (tmp_path / "other").mkdir()
    page = write_page(tmp_path, make_trained_summary()).read_text()
    assert "84.52" in page
    assert "no class" in page
    assert "<script" not in page
    assert write_page(tmp_path, make_trained_summary()).read_text() == page
    other = make_trained_summary() | {"is_paper_s": False}
    assert all(len(cells) == len(head) - 1 for cells in list_table_rows(other))
    assert "84.52" not in write_page(tmp_path / "other", other).read_text()
    assert "learning rate at most 1.0e-05" in page
    assert "Dropped rows: 2 (has no label)" in page
    assert "| default: greedy | 33.33 (" in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--policy", "x", "--judge", "y"], "--data is required"),
        (["--data", "t.csv", "--policy", "x", "--judge", "y", "--style", "haiku"], "--style haiku: expected one of"),
        (["--data", "t.csv", "--policy", "x", "--judge", "y", "--dpo", "beta"], "--dpo beta: expected NAME=VALUE"),
        (
            ["--data", "t.csv", "--policy", "x", "--judge", "y", "--dpo", "num_epochs=3"],
            "flex-judge dpo has no such flag",
        ),
        (
            ["--data", "t.csv", "--policy", "x", "--judge", "y", "--sample-temperature", "1.3"],
            "--hot-temperature must be above --sample-temperature",
        ),
        (["--data", "t.csv", "--policy", "x", "--judge", "y"], "t.csv: cannot be read"),
        (
            ["--data", "t.csv", "--policy", "x", "--judge", "y", "--pair-rubric", "membrane_permeability"],
            "is made for 1 responses at a time, not 2",
        ),
    ],
)
def test_invalid_setting_is_a_one_line_error(
    flags: list[str], problem: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(flags) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert problem in error


@pytest.mark.slow
def test_study_runs_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rdkit")
    from flex_judge.judges.models.mol_llama.tiny import write_tiny_model

    def run_in_process(*arguments: str) -> None:
        """Run the command in this process, to avoid the import time of a new one."""
        assert run_command(arguments) == 0

    monkeypatch.setattr(run, "run_subcommand", run_in_process)
    monkeypatch.chdir(tmp_path)
    write_tiny_model(Path("tiny"))
    smiles = ("CCO", "O", "c1ccccc1", "CC(=O)C", "C1CC", "CCN", "CCC", "CO", "CN", "C=O")  # the fifth is invalid
    Path("table.csv").write_text("Drug,Y\n" + "".join(f"{text},{k % 2}\n" for k, text in enumerate(smiles)))
    flags = ["--data", "table.csv", "--policy", "tiny", "--judge", "tiny", "--style", "default", "--samples", "2"]
    flags += ["--sample-tokens", "8", "--max-think-tokens", "8", "--out", "run"]
    assert main([*flags, "--train", "0"]) == 0
    summary_json = json.loads(Path("run/summary.json").read_text())
    assert (summary_json["molecules"], summary_json["test"], summary_json["is_paper_s"], summary_json["dpo"]) == (
        10,
        2,
        False,
        None,
    )
    assert summary_json["styles"]["default"]["greedy"]["count"] == 2
    untuned = summary_json["styles"]["default"]
    rows = [
        {
            "prompt": [{"role": "user", "content": TASK.make_prompt("default")}],
            "chosen": [{"role": "assistant", "content": "Final answer: High permeability"}],
            "rejected": [{"role": "assistant", "content": "No."}],
            "molecules": [text],
        }
        for text in smiles[:4]
    ]
    Path("pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in rows))
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
    assert main(flags) == 0  # the finished steps are reused, and DPO is added
    summary_json = json.loads(Path("run/summary.json").read_text())
    tuned = summary_json["styles"]["default"]
    # DPO adds a step of its own to the second pass and to the published reading; all else stays.
    for name in ("second_pass", "official"):
        assert set(tuned[name]) - set(untuned[name]) == {"dpo"}
        tuned[name] = {step: metrics for step, metrics in tuned[name].items() if step != "dpo"}
    assert {name: tuned[name] for name in untuned} == untuned
    assert (summary_json["dpo"]["pairs"], summary_json["dpo"]["steps"], tuned["dpo"]["count"]) == (4, 1, 2)
    assert "4 pairs, 1 steps" in Path("run/report.html").read_text()
