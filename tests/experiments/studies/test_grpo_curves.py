"""GRPO curves: a training with a served judge, its measurements, its page, and what a second start keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from scripts import SETTINGS, judge
from served import served
from tiny_models import tiny_llama

from flex_judge.experiments.studies.grpo_curves.__main__ import main as run_command
from flex_judge.experiments.studies.grpo_curves.run import GrpoCurvesRun, run_study, summarise_seeds
from flex_judge.judges import FlexJudge
from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.judges.errors import UsageError


def make_run(right: list[list[bool]], canaries: list[tuple[float | None, float | None]]) -> dict[str, Any]:
    """Make the result of a seed: one evaluation for each list of right answers, every ten steps."""
    evaluations = [
        {"step": 10 * i, "right": values, "scores": [7.0 if value else None for value in values], "canaries": canaries}
        for i, values in enumerate(right)
    ]
    return {"steps": [{"step": 1, "judge_score": 4.0, "truth": 0.5, "tokens": 9.0}], "evaluations": evaluations}


def test_summary_averages_over_seeds_and_counts_what_has_no_score() -> None:
    runs = [
        make_run([[False, False], [True, False]], [(8.0, 2.0), (3.0, 3.0)]),
        make_run([[True, False], [True, True]], [(8.0, 2.0), (None, 3.0)]),
    ]
    summary = summarise_seeds(runs)
    assert [e["accuracy"]["value"] for e in summary["evaluations"]] == [0.25, 0.75]
    assert summary["gain"]["value"] == 0.5
    assert summary["gains"] == [0.5, 0.5]
    # A tie is no correct verdict, and a pair without a score is left out.
    assert summary["evaluations"][0]["canaries"] == pytest.approx(2 / 3)
    assert summary["evaluations"][0]["judge_score"] == 7.0
    assert summary["unscored"] == 3 + 1 + 2


def test_seeds_with_other_evaluations_are_refused() -> None:
    runs = [make_run([[True], [True]], [(8.0, 2.0)]), make_run([[True]], [(8.0, 2.0)])]
    with pytest.raises(UsageError, match="different steps"):
        summarise_seeds(runs)


@pytest.mark.slow
def test_a_policy_is_trained_and_measured_and_a_finished_seed_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with served(FlexJudge(ScriptedEngine(judge), SETTINGS)) as service:
        settings = {
            "out": str(out),
            "policy": str(tiny_llama(tmp_path / "policy")),
            "judge_url": service.url,
            "steps": 2,
            "prompts_per_step": 1,
            "generations": 2,
            "held_out": 3,
            "canaries": 2,
            "evaluate_every": 1,
        }
        run_study(GrpoCurvesRun(seeds=1, **settings))
        first = (out / "seed-0" / "result.json").read_text()
        summary = run_study(GrpoCurvesRun(seeds=2, **settings))
    assert (out / "seed-0" / "result.json").read_text() == first
    assert [e["step"] for e in summary["evaluations"]] == [0, 1, 2]
    assert [entry["step"] for entry in summary["training"]] == [1, 2]
    assert all(None not in entry["truth"]["values"] for entry in summary["training"])
    assert summary["unscored"] == 0
    # The judge did not change, so the canaries have the same scores at every evaluation.
    result = json.loads(first)
    assert len({json.dumps(e["canaries"]) for e in result["evaluations"]}) == 1
    assert all(len(e["answers"]) == 3 for e in result["evaluations"])
    page = (out / "report.html").read_text()
    assert "Truth, judge and canaries" in page
    assert (out / "curve.svg").read_text().startswith("<svg")


def test_a_wrong_flag_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["--steps", "0"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
