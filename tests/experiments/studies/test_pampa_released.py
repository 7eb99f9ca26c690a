"""The released PAMPA file: its split and prompts, the second pass, the published reading, and the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pampa import TASK, compute_style, make_summary
from tiny_models import tiny_llama

from flex_judge.experiments.cli import main as run_command
from flex_judge.experiments.studies.pampa import run
from flex_judge.experiments.studies.pampa.__main__ import main
from flex_judge.experiments.studies.pampa.page import list_table_rows, write_page
from flex_judge.experiments.studies.pampa.released import load_split, read_released_file
from flex_judge.experiments.studies.pampa.second_pass import (
    OfficialReading,
    add_second_pass_metrics,
    compute_official_metrics,
    continue_answers,
    needs_second_pass,
)
from flex_judge.experiments.studies.pampa.task import HIGH, LOW
from flex_judge.judges.engines import EngineConfig, Sampling
from flex_judge.judges.errors import UsageError

SMILES = ("CCO", "O", "c1ccccc1", "CC(=O)C", "CCN", "CCC", "CO", "CN", "C=O", "C#N")


def make_released_file(**changes: Any) -> dict[str, Any]:
    """Make a file in the form of the release; the last row is in no part of the split."""
    rows = [
        {
            "smiles": smiles,
            "atoms": ["C", "O"],
            "coordinates": [[[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]],
            "answer": HIGH if k % 2 else LOW,
        }
        for k, smiles in enumerate(SMILES)
    ]
    prompts = {
        name: {"system": f"System of {name}.", "user": f"Predict for <mol>, {name}."}
        for name in ("default", "rationale", "task_info")
    }
    split = {"train": [0, 2, 4, 6], "valid": [1, 3], "test": [8, 5, 7]}
    return {"prompts": prompts, "data_list": rows, "split": split, **changes}


def write_released_file(path: Path, **changes: Any) -> Path:
    path.write_text(json.dumps(make_released_file(**changes)))
    return path


def test_released_file_gives_its_split_and_prompts(tmp_path: Path) -> None:
    table, train, test = load_split(write_released_file(tmp_path / "pampa.json"), TASK)
    # The order of the test part is the file's, so that answers can be compared with published ones.
    assert [molecule.smiles for molecule in test] == ["C=O", "CCC", "CN"]
    assert [molecule.label for molecule in test] == [LOW, HIGH, HIGH]
    assert [molecule.smiles for molecule in train] == ["CCO", "O", "c1ccccc1", "CC(=O)C", "CCN", "CO"]
    assert table.left_out == {"is in no split": 1}
    assert table.released is not None
    assert table.released.has_conformers
    assert table.released.prompts["cot"] == [
        {"role": "system", "content": "System of rationale."},
        {"role": "user", "content": "Predict for <mol>, rationale."},
    ]
    assert set(table.released.prompts) == {"default", "cot", "task-info"}


def test_answers_may_be_class_values_and_prompts_may_be_missing(tmp_path: Path) -> None:
    rows = [
        {"smiles": "CCO", "answer": 1},
        {"smiles": "O", "answer": "0"},
        {"smiles": "N", "answer": "high permeability"},
    ]
    path = write_released_file(tmp_path / "pampa.json", data_list=rows, split={"test": [0, 1, 2]}, prompts=None)
    table = read_released_file(path, TASK)
    assert [molecule.label for molecule in table.molecules] == [HIGH, LOW, HIGH]
    assert table.released is not None
    assert not table.released.prompts
    assert not table.released.has_conformers
    assert not table.released.train


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"data_list": "x"},
            "an object with 'data_list', 'split' and 'prompts'; the fields are prompts, data_list, split",
        ),
        ({"data_list": [{"smiles": "C", "answer": "Maybe"}]}, "data_list, row 1, field 'answer': expected one of"),
        ({"data_list": [{"smiles": "", "answer": HIGH}]}, "data_list, row 1, field 'smiles': expected a SMILES"),
        ({"data_list": ["CCO"]}, "data_list, row 1: expected an object with smiles and answer, got str"),
        ({"split": {"train": [0]}}, "field 'split': expected row numbers of 'test', got train"),
        ({"split": {"test": [10]}}, "split, field 'test': expected row numbers from 0 to 9, got 10"),
        ({"split": {"test": [True]}}, "split, field 'test': expected row numbers from 0 to 9, got True"),
        ({"split": {"test": [1, 1]}}, "the row number 1 occurs more than once"),
        ({"prompts": {"default": {"user": "No mark."}}}, "prompts, field 'default': expected <mol> once"),
        ({"prompts": {"default": "Hello"}}, "prompts, field 'default': expected an object with texts"),
    ],
)
def test_invalid_released_file_is_one_line(changes: dict[str, Any], problem: str, tmp_path: Path) -> None:
    path = write_released_file(tmp_path / "pampa.json", **changes)
    with pytest.raises(UsageError) as error:
        read_released_file(path, TASK)
    assert problem in str(error.value)
    path.write_text("[1]")
    with pytest.raises(UsageError, match=r"an object with 'data_list', 'split' and 'prompts', got list"):
        read_released_file(path, TASK)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("It is high permeability.", HIGH),
        ("High Permeability? No.\n\nFinal answer: low-to-moderate permeability", LOW),
        ("Final answer: Moderate permeability or high permeability", HIGH),  # the first pattern counts
        ("Final answer: low permeability", None),
        ("Final answer:high permeability", HIGH),  # without a space, the whole text is searched
        ("Final answer: High", None),
        ("", None),
    ],
)
def test_official_reading_is_that_of_the_published_patterns(text: str, name: str | None) -> None:
    assert OfficialReading().read_class(text)[0] == name


def test_second_pass_continues_answers_without_a_final_line(tmp_path: Path) -> None:
    folder, out = tiny_llama(tmp_path / "tiny"), tmp_path / "second_pass.jsonl"
    policy = EngineConfig(str(folder), engine="transformers", dtype="float32")
    questions = [{"prompt": "Does <mol> pass?", "molecules": [smiles]} for smiles in SMILES[:3]]
    done = "It does.\nFinal answer: High permeability"
    rows: list[dict[str, Any]] = [
        {"responses": ["It may pass.", done], "scores": [3, 5]},
        {"responses": None, "scores": None},
        {"responses": ["It ends here.<|eot_id|>", "It passes."], "scores": [1, None]},
    ]
    assert [needs_second_pass(text) for text in ("", done, "final Answer: x", "Final  answer:")] == [
        True,
        False,
        False,
        True,
    ]
    continued = continue_answers(rows, questions, policy, Sampling(4, seed=0), out)
    first, second = continued[0]["responses"]
    assert first.startswith("It may pass.\n\nFinal answer: ")
    assert len(first) > len("It may pass.\n\nFinal answer: ")
    assert second == done
    assert continued[1]["responses"] is None
    # A control token in the answer would end the model's turn, so that answer stays as it is.
    assert continued[2]["responses"][0] == "It ends here.<|eot_id|>"
    assert continued[2]["responses"][1].startswith("It passes.\n\nFinal answer: ")
    assert [row["scores"] for row in continued] == [row["scores"] for row in rows]
    assert rows[0]["responses"][0] == "It may pass."
    # A second call reads the file and loads no model.
    missing = EngineConfig(str(tmp_path / "missing"), engine="transformers")
    assert continue_answers(rows, questions, missing, Sampling(4), out) == continued


def make_row(label: str, *answers: tuple[str, float | None]) -> dict[str, Any]:
    return {
        "responses": [text for text, _ in answers],
        "scores": [score for _, score in answers],
        "kept": {"label": label},
    }


def test_official_metrics_leave_out_what_the_published_scripts_leave_out() -> None:
    rows = [
        make_row(HIGH, ("Final answer: High permeability", 9)),
        make_row(LOW, ("Final answer: High permeability", 9)),
        make_row(LOW, ("Hm.", 5)),  # no class: left out of first answers, wrong in best-of-N
        make_row(HIGH, ("Final answer: High permeability", None)),  # no score: left out of best-of-N
    ]
    greedy = compute_official_metrics("greedy", rows, seed=0)
    assert (greedy["accuracy_answered"], greedy["answered"], greedy["count"]) == (pytest.approx(2 / 3), 3, 4)
    best = compute_official_metrics("best", rows, seed=0)["1"]
    assert best["accuracy"]["mean"] == pytest.approx(1 / 3)


def test_report_shows_answers_with_and_without_the_second_pass(tmp_path: Path) -> None:
    rows = [make_row(HIGH, ("It passes.", 9), ("Low permeability.", 3)), make_row(LOW, ("It may.", 5), ("Hm.", 6))]
    results = compute_style(rows)
    continued = [
        make_row(HIGH, ("It passes.\n\nFinal answer: High permeability", 9), ("Low permeability.", 3)),
        make_row(LOW, ("It may.\n\nFinal answer: High permeability", 5), ("Hm.", 6)),
    ]
    for step in ("greedy", "best"):
        add_second_pass_metrics(results, step, continued, TASK, seed=0)
    released = {"data": "pampa.json", "released_prompts": ["default"], "ignored_conformers": True}
    summary = make_summary({"default": results}, **released)
    head, *table = list_table_rows(summary)
    cells = {row[0]: row[1:] for row in table}
    assert all(len(row) == len(head) for row in table)
    assert cells["default: greedy"][0].startswith("0.00")
    assert cells["default: greedy, second pass"][0].startswith("50.00 (")
    assert cells["default: greedy, second pass, official reading"][0] == "50.00"
    # The published figure stands beside each reading of the step.
    assert {row[-1] for name, row in cells.items() if name.startswith("default: greedy")} == {"63.55"}
    assert "default: best of 2, second pass, official reading" in cells
    page = write_page(tmp_path, summary).read_text()
    assert "The conformers of the file are not used" in page
    assert "Prompts of the released file: default" in page
    assert "Second pass:" in page
    own = {**summary, "released_prompts": [], "ignored_conformers": False, "styles": {}}
    own["styles"] = {"default": {name: results[name] for name in ("greedy", "best", "pass_at", "sampled")}}
    page = write_page(tmp_path, own).read_text()
    assert "our own wording" in page
    assert "Second pass:" not in page


@pytest.mark.slow
def test_study_runs_on_the_released_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rdkit")
    from flex_judge.judges.models.mol_llama.tiny import write_tiny_model

    def run_in_process(*arguments: str) -> None:
        """Run the command in this process, to avoid the import time of a new one."""
        assert run_command(arguments) == 0

    monkeypatch.setattr(run, "run_subcommand", run_in_process)
    monkeypatch.chdir(tmp_path)
    write_tiny_model(Path("tiny"))
    write_released_file(Path("pampa.json"))
    flags = ["--data", "pampa.json", "--policy", "tiny", "--judge", "tiny", "--style", "default", "--samples", "2"]
    flags += ["--sample-tokens", "8", "--max-think-tokens", "8", "--out", "run", "--train", "0"]
    assert main(flags) == 0
    summary = json.loads(Path("run/summary.json").read_text())
    assert (summary["molecules"], summary["test"], summary["released_prompts"]) == (
        10,
        3,
        ["cot", "default", "task-info"],
    )
    assert summary["styles"]["default"]["second_pass"]["greedy"]["count"] == 3
    questions = [json.loads(line) for line in Path("run/default/test.jsonl").read_text().splitlines()]
    assert questions[0]["prompt"][0] == {"role": "system", "content": "System of default."}
    continuations = Path("run/default/sampled/second_pass.jsonl").read_text().splitlines()
    assert len(continuations) == 6
    assert "second pass" in Path("run/table.md").read_text()
    assert main(flags) == 0  # resumed: the continuations are read
    assert main([*flags, "--no-second-pass"]) == 0
