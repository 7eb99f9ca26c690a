"""`flex-judge curate`: rows in, a data set with its card out; no judgment is repeated."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from curating import data, read, written
from scripts import count_calls

import flex_judge.experiments.commands.curate.run as curate_run
from flex_judge.alignment.curation.rows import RowFault
from flex_judge.experiments.cli import main
from flex_judge.experiments.commands.curate.config import CurateRun
from flex_judge.experiments.common.flags import make_config
from flex_judge.judges.engines import Sampling
from flex_judge.judges.errors import UsageError

TEACHER = ["--engine", "scripted", "--model", f"{__name__}:teacher", "--max-think-tokens", "900"]
SIZES = [
    "--pointwise",
    "6",
    "--pairwise",
    "8",
    "--held-out",
    "4",
    "--pointwise-tokens",
    "60",
    "--pairwise-tokens",
    "120",
]
COMMAND = ["curate", "rows.jsonl", "--out", "run", "--max-similarity", "1", *TEACHER, *SIZES]


async def teacher(prompt: str, sampling: Sampling) -> str:
    """Judge answers that state their own score, with longer reasoning for each sample; log the calls.

    Keywords in an answer make it think without end, give no answer, or send itself a signal once.
    """
    await asyncio.sleep(0)
    question = prompt.rpartition("user\n")[2]
    number = int(re.findall(r"What is (\d+)", question)[0])
    scores = re.findall(r"worth (\d+)", question)
    if sampling.stop == ("</think>",):
        notes = Path(os.environ["FLEX_JUDGE_TEST_CALLS"])
        signal_name = next((name for name in ("SIGINT", "SIGKILL") if name in question), None)
        if signal_name and not notes.with_name(signal_name).exists():
            notes.with_name(signal_name).touch()
            os.kill(os.getpid(), signal.Signals[signal_name])
            await asyncio.sleep(0.1)
        with notes.open("a") as file:
            file.write(f"{number}/{sampling.sample_index}\n")
        if "endless" in question:
            return "and so on " * 100
        length = "really " * (number % 40 + 5 * sampling.sample_index + 3)
        return f"Assistant 1 is {length}good. Assistant 2 is {length}bad.</think>"
    if "fickle" in question and sampling.sample_index != 1:
        scores = scores[::-1]
    if sampling.regex:
        return "1</answer><answer>1</answer>"
    return "Hm." if "mute" in question else "".join(f"<answer>{score}</answer>" for score in scores)


def make_row(number: int, first: int = 8, second: int = 4, score: Any = None, **other: Any) -> dict[str, Any]:
    answers = {"answer1_body": f"Answer worth {first}.", "answer2_body": f"Reply worth {second}."}
    return data(number, (first, second) if score is None else score, **(answers | other))


GOOD = [make_row(n, *((9, 4), (3, 8), (6, 6))[n % 3]) for n in range(1, 37)]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty working directory; the teacher logs its calls outside of it."""
    (tmp_path / "notes").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("FLEX_JUDGE_TEST_CALLS", str(tmp_path / "notes" / "calls"))
    return tmp_path


def write_rows(*rows: dict[str, Any] | str) -> None:
    written(Path("rows.jsonl"), rows)


def read_summary() -> dict[str, Any]:
    summary: dict[str, Any] = json.loads(Path("run/summary.json").read_text())
    return summary


def test_rows_become_examples_and_dropped_rows_are_listed(capfd: pytest.CaptureFixture[str]) -> None:
    bad = [
        make_row(91, score=(8, 4, 2)),
        make_row(92, answer1_body=""),
        make_row(93, text="error"),
        {k: v for k, v in make_row(94).items() if k != "score"},
        make_row(95, score="8 4"),
        "{broken",
    ]
    odd = [
        make_row(51, score=(2, 9)),
        make_row(52, answer1_body="endless, worth 8"),
        make_row(53, answer1_body="mute, worth 8"),
        make_row(54, answer1_body="fickle, worth 8"),
        make_row(55, answer1_body="See <answer>10</answer>, worth 8"),
        make_row(56),
        make_row(56),
    ]
    write_rows(*GOOD, *bad, *odd)
    written(Path("bench.jsonl"), [{"question": "what is 36?"}])
    command = [*COMMAND, "--seeds", "2", "--max-similarity", "0.99", "--benchmark", "bench.jsonl"]
    assert main(command) == 1
    out, err = capfd.readouterr()
    assert "2 rows without a usable judgment" in out
    assert "14 training examples with a data card: run" in out
    assert "judging" in err

    result = read_summary()
    assert (result["rows"], result["judged_rows"], result["rows_lost"]) == (49, 43, 2)
    assert result["bad_rows"] == {
        "wrong number of scores": 1,
        "empty answer": 1,
        "marked as error": 1,
        "score missing": 1,
        "wrong type": 1,
        "cannot be read": 1,
    }
    assert result["bad_judgments"] == {"unfinished reasoning": 2, "no answer without constrained decoding": 2}
    assert result["judgments"] == 2 * 43 - 4
    flow = {step["step"]: (step["kept"], step["dropped"]) for step in result["steps"]}
    assert flow == {
        "agreement with the reference": (79, {"disagrees with the reference": 3}),
        "forged-tag removal": (77, {"tag or control token in its text": 2}),
        "benchmark decontamination": (75, {"benchmark question": 2}),
        "longest reply per prompt": (37, {"shorter reply to the same prompt": 38}),
        "near-duplicate removal": (37, {}),
    }
    dropped = read(Path("run/dropped.jsonl"))
    assert [one["row"] for one in dropped] == sorted(one["row"] for one in dropped)
    assert [(one["row"], one["reason"]) for one in dropped if one["reason"] in list(RowFault)] == [
        (37, "wrong number of scores"),
        (38, "empty answer"),
        (39, "marked as error"),
        (40, "score missing"),
        (41, "wrong type"),
        (42, "cannot be read"),
    ]
    assert {one["row"] for one in dropped if one["reason"] == "unfinished reasoning"} == {44}
    assert "rows.jsonl, line 44, sample 1: the answer was forced by constrained decoding (budget)" in {
        one["detail"] for one in dropped
    }

    train, held = read(Path("run/train.jsonl")), read(Path("run/held_out.jsonl"))
    assert Counter(one["kind"] for one in train) == {"pointwise": 6, "pairwise": 8}
    assert Counter(one["kind"] for one in held) == {"pointwise": 2, "pairwise": 2}
    assert not {one["question"] for one in train} & {one["question"] for one in held}
    assert all(one["id"].endswith("/1") for one in train)  # the longer of the two samples
    assert {one["scale"] for one in train} == {"1-10", "1-5"}
    assert {one["teacher"] for one in train} == {f"{__name__}:teacher"}
    card = Path("run/README.md").read_text()
    for text in (
        "| rows read | 49 |",
        "CC BY-NC 4.0",
        "| row: wrong type | 1 |",
        "halved and rounded up",
        "arXiv 2505.18601",
    ):
        assert text in card
    assert main([*command, "--max-failures", "2"]) == 0


def test_folder_loads_as_a_data_set_by_its_card(tmp_path: Path) -> None:
    from datasets import load_dataset

    write_rows(*GOOD)
    assert main(COMMAND) == 0
    dataset = load_dataset("run", cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in dataset.items()} == {"train": 14, "held_out": 4}
    assert dataset["train"].features == dataset["held_out"].features
    assert all("ssistant" in one["completion"][0]["content"] for one in dataset["train"])


def test_rows_with_more_answers_become_listwise_examples_on_request(capfd: pytest.CaptureFixture[str]) -> None:
    three = [
        make_row(100 + n, 9, 4, (9, 4, 2), answer3_body=f"Third, worth {2 if n else 3}.") for n in range(6)
    ]  # teacher and reference disagree on the first one
    write_rows(*GOOD, *three)
    assert main(COMMAND) == 0
    assert read_summary()["bad_rows"] == {"more than two answers": 6}
    record = next(one for one in read(Path("run/dropped.jsonl")) if one["row"] == 37)
    assert "3 answers; use --listwise N to include it" in record["detail"]
    assert not any(name.startswith("10") and len(name) > 4 for name in count_calls())
    assert main([*COMMAND, "--listwise", "4"]) == 0
    samples = [one for one in read(Path("run/train.jsonl")) if one["kind"] == "listwise"]
    assert len(samples) == 4 - read_summary()["missing"].get("train: listwise", 0)
    assert all(one["scores"] == [9, 4, 2] and len(one["responses"]) == 3 for one in samples if one["scale"] == "1-10")
    assert all("[Assistant 3's Answer]" in one["prompt"][-1]["content"] for one in samples)
    assert "listwise samples, train" in Path("run/README.md").read_text()
    assert "Examples train: listwise" in capfd.readouterr().out


def test_stored_judgments_are_curated_again_without_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows(*GOOD)
    assert main(COMMAND) == 0
    calls_before, judgments = count_calls(), Path("run/judgments.jsonl").read_bytes()
    held = {one["id"] for one in read(Path("run/held_out.jsonl"))}
    monkeypatch.setattr(curate_run, "judge_rows", lambda *_: pytest.fail("asked the teacher"))
    assert (
        main(
            [*COMMAND, "--pairwise", "3", "--pointwise", "2", "--remap", "0", "--order-seed", "7", "--order", "random"]
        )
        == 0
    )
    assert Counter(one["kind"] for one in read(Path("run/train.jsonl"))) == {"pointwise": 2, "pairwise": 3}
    assert {one["id"] for one in read(Path("run/held_out.jsonl"))} == held
    assert main([*COMMAND, "--seeds", "1", "--rows", "30"]) == 0
    assert {one["row"] for one in read(Path("run/train.jsonl"))} <= set(range(1, 31))
    assert main([*COMMAND, "--size", "4", "--held-out", "0"]) == 0
    assert len(read(Path("run/train.jsonl"))) == 4
    assert not Path("run/held_out.jsonl").exists()
    assert count_calls() == calls_before
    assert Path("run/judgments.jsonl").read_bytes() == judgments


def test_more_rows_and_samples_extend_the_judgments() -> None:
    write_rows(*GOOD)
    assert main([*COMMAND, "--seeds", "2", "--rows", "30"]) == 0
    assert count_calls().total() == 60
    assert main([*COMMAND, "--seeds", "1"]) == 0
    assert count_calls().total() == 66
    assert main([*COMMAND, "--seeds", "2"]) == 0
    assert count_calls().total() == 72
    assert set(count_calls().values()) == {1}
    assert len(read(Path("run/judgments.jsonl"))) == 72


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--temperature", "0.2"], "holds a run with judging = "),
        (["--model", "scripts:fair_judge"], f"holds a run with teacher = '{__name__}:teacher'"),
        (["--rubric", "pandalm", "--pointwise", "0"], "holds a run with rubric = "),
        (["--seed", "1"], "holds a run with judging = "),
    ],
)
def test_rejects_another_teacher(flags: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    write_rows(*GOOD[:12])
    main(COMMAND)
    judgments = Path("run/judgments.jsonl").read_bytes()
    capfd.readouterr()
    assert main([*COMMAND, *flags]) == 2
    assert message in capfd.readouterr().err
    assert Path("run/judgments.jsonl").read_bytes() == judgments


def test_rejects_other_rows(capfd: pytest.CaptureFixture[str]) -> None:
    write_rows(*GOOD[:12])
    main(COMMAND)
    write_rows(*GOOD[:11], make_row(99))
    assert main(COMMAND) == 2
    assert "holds a run with source_digest = " in capfd.readouterr().err


def test_ctrl_c_keeps_judgments_and_the_same_command_resumes(capfd: pytest.CaptureFixture[str]) -> None:
    write_rows(*GOOD[:20], make_row(60, answer1_body="SIGINT, worth 8"), *GOOD[20:])
    assert main([*COMMAND, "--concurrency", "1"]) == 130
    assert "run the same command again to resume" in capfd.readouterr().err
    assert len(read(Path("run/judgments.jsonl"))) == 60
    assert not Path("run/summary.json").exists()
    assert main(COMMAND) == 0
    assert set(count_calls().values()) == {1}
    assert count_calls().total() == 3 * 37
    assert main([*COMMAND, "--out", "uninterrupted"]) == 0
    for name in ("train.jsonl", "held_out.jsonl", "dropped.jsonl"):
        assert Path("run", name).read_bytes() == Path("uninterrupted", name).read_bytes()


def test_killed_run_resumes_without_repeating_stored_judgments() -> None:
    write_rows(*GOOD[:20], make_row(60, answer1_body="SIGKILL, worth 8"), *GOOD[20:])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "flex_judge.experiments.cli", *COMMAND, "--concurrency", "1"]
    assert subprocess.run(command, capture_output=True, env=environment, timeout=90).returncode == -signal.SIGKILL
    assert len(read(Path("run/judgments.jsonl"))) == 60
    with Path("run/judgments.jsonl").open("a") as file:
        file.write('{"id": "21/0", "sta')  # a kill can leave an incomplete line
    calls_before = count_calls()
    assert main(COMMAND) == 0
    assert not set(calls_before) & set(count_calls() - calls_before)
    assert len(read(Path("run/judgments.jsonl"))) == 3 * 37


def write_samples(path: str = "best_of_n.jsonl") -> None:
    """Write sums with answers as a policy might sample them."""
    lines = []
    for n in range(40):
        question = f"What is {n % 9 + 2} + {n}? Write the equation and its result."
        right = n % 9 + 2 + n
        responses = [f"It is {right}.", f"The result is {right + 1}", f"= {right}", "No idea.", f"So {right - 1}"]
        prompt = [{"role": "user", "content": question}]
        lines.append({"id": f"q{n}", "prompt": prompt, "responses": responses, "kept": {"answer": right}})
    written(Path(path), lines)


def test_synthetic_teacher_needs_no_model(capfd: pytest.CaptureFixture[str]) -> None:
    write_samples()
    command = ["curate", "--samples", "best_of_n.jsonl", "--teacher", "synthetic", "--tokenizer", "scripted"]
    assert main([*command, "--out", "run", "--size", "80", "--held-out", "10"]) == 0
    train, held = read(Path("run/train.jsonl")), read(Path("run/held_out.jsonl"))
    assert Counter(one["kind"] for one in train) == {"pointwise": 40, "pairwise": 40}
    assert Counter(one["kind"] for one in held) == {"pointwise": 5, "pairwise": 5}
    assert {one["rubric"] for one in train} == {"correctness"}
    assert Counter(one["scores"][0] for one in train if one["kind"] == "pointwise") == {1.0: 20, 5.0: 20}
    pair_scores = Counter(tuple(one["scores"]) for one in train if one["kind"] == "pairwise")
    assert pair_scores[5.0, 1.0] == pair_scores[1.0, 5.0]
    assert 28 <= pair_scores[5.0, 1.0] * 2 <= 36
    assert not {one["question"] for one in train} & {one["question"] for one in held}
    assert not Path("run/judgments.jsonl").exists()
    card = Path("run/README.md").read_text()
    assert "`arithmetic-teacher`, a program: its judgments are synthetic" in card
    assert "CC BY-NC" not in card
    assert "80 training examples with a data card: run" in capfd.readouterr().out
    first = Path("run/train.jsonl").read_bytes()
    assert main([*command, "--out", "again", "--size", "80", "--held-out", "10"]) == 0
    assert Path("again/train.jsonl").read_bytes() == first


def test_reads_settings_from_file_and_flags() -> None:
    write_rows(*GOOD)
    Path("c.yaml").write_text("pointwise: 2\npairwise: 2\nseeds: 1\nbenchmark: []\n")
    command = ["curate", "rows.jsonl", "--out", "run", *TEACHER, "--config", "c.yaml", *SIZES[-4:]]
    assert main([*command, "--pairwise", "4", "--max-similarity", "1", "--held-out", "0"]) == 0
    assert Counter(one["kind"] for one in read(Path("run/train.jsonl"))) == {"pointwise": 2, "pairwise": 4}


def test_fails_if_no_training_example_is_left(capfd: pytest.CaptureFixture[str]) -> None:
    write_rows(*[make_row(n, score=(1, 1)) for n in range(5)])
    assert main(COMMAND) == 1
    assert "No training example is left; run/README.md counts what was dropped at each step" in capfd.readouterr().out
    assert not Path("run/train.jsonl").exists()
    assert "too few (train: pairwise)" in Path("run/README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "curate takes a FILE of rows, or --samples FILE with --teacher synthetic"),
        (["nowhere.jsonl"], "nowhere.jsonl: cannot be read"),
        (["bad.jsonl"], "bad.jsonl: none of 1 rows can be used; the first: bad.jsonl, line 1: field 'question_body'"),
        (
            ["rows.jsonl", "--samples", "rows.jsonl"],
            "--samples are of the embedded task; add --teacher synthetic",
        ),
        (["rows.jsonl", "--samples", "s", "--teacher", "synthetic"], "either a FILE of rows or --samples, not both"),
        (["rows.jsonl", "--benchmark", "bad.jsonl"], "bad.jsonl, row 1: no question text found; expected text"),
        (["rows.jsonl", "--rubric", "judgelm"], "rubric 'judgelm' is made for 2 responses at a time, not 1"),
        (["rows.jsonl", "--rubric", "speech_quality"], "its scale is 1.0-5.0; choose a rubric with 1-10 or 1-5"),
        (["rows.jsonl", "--remapped-rubric", "general"], "its scale is 1-10; expected a rubric with scores on 1-5"),
        (
            ["rows.jsonl", "--teacher", "synthetic", "--rubric", "general"],
            "its scale is 1-10; the synthetic teacher needs 1-5",
        ),
        (["rows.jsonl", "--model", "no such model"], "model 'no such model' is no embedded model"),
        (["rows.jsonl", "--max-similarity", "0.2"], "--max-similarity must be from 0.7 to 1, not 0.2"),
        (["rows.jsonl", "--temperature", "0"], "--seeds above 1 need a --temperature above 0"),
        (["rows.jsonl", "--seeds", "0"], "--seeds must be at least 1, not 0"),
        (["rows.jsonl", "--size", "0"], "--size must be at least 1, not 0"),
        (["rows.jsonl", "--pointwise", "0", "--pairwise", "0"], "pointwise, pairwise and listwise must not all be 0"),
    ],
)
def test_bad_input_gives_one_line_before_anything_starts(
    arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    write_rows(*GOOD)
    written(Path("bad.jsonl"), [{"text": "no row"}])
    assert main(["curate", *arguments, "--out", "run"]) == 2
    error = capfd.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not Path("run").exists()


def test_size_keeps_the_ratio_of_pointwise_and_pairwise() -> None:
    selection = make_config(CurateRun, pointwise=300, pairwise=100, size=41).selection
    assert (selection.pointwise, selection.pairwise) == (31, 10)
    assert make_config(CurateRun, size=1).selection.pairwise + make_config(CurateRun, size=1).selection.pointwise == 1
    with pytest.raises(UsageError, match="--pointwise-tokens must be at least 0"):
        make_config(CurateRun, pointwise_tokens=-1)


def test_defaults_are_the_published_recipe() -> None:
    config = make_config(CurateRun)
    selection = config.selection
    engine, settings = config.judge.engine, config.judge.settings
    assert (engine.model, settings.temperature, settings.top_p) == ("nuojohnchen/JudgeLRM-7B", 0.1, 0.95)
    assert (settings.max_think_tokens, config.seeds, config.rubrics_by_scale) == (
        4096,
        3,
        {"1-10": "general", "1-5": "general_1_5"},
    )
    assert (selection.pointwise, selection.pairwise, selection.pointwise_tokens, selection.pairwise_tokens) == (
        500,
        500,
        375,
        750,
    )
    assert (selection.order, selection.balance, selection.remap, selection.held_out) == ("longest", "pairwise", 0.5, 50)
    settings = config.build_teacher_run(None).build_settings(engine.model)
    assert (settings.votes, settings.order, settings.reason_first) == (1, "as_given", True)
