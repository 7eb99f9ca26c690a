"""Arithmetic loop: separation of the questions, evaluation of the judge, metrics, report and commands."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from examples import make_example
from lazy import lazy
from scripts import policy

from flex_judge.alignment.tasks.arithmetic import SAMPLING, ArithmeticQuestion, generate_questions
from flex_judge.alignment.tasks.synthetic_teacher import Calculation, judge_answers, parse_question
from flex_judge.experiments.commands.best_of_n.config import BestOfNRun
from flex_judge.experiments.commands.preferences.config import PreferenceRun
from flex_judge.experiments.common.flags import add_flags, load_config, make_config
from flex_judge.experiments.common.run_folder import RunFolder
from flex_judge.experiments.studies.arithmetic_loop import judge as judge_module
from flex_judge.experiments.studies.arithmetic_loop import loop, samples
from flex_judge.experiments.studies.arithmetic_loop.__main__ import main as run_study
from flex_judge.experiments.studies.arithmetic_loop.ablations import list_variants, shorten_reasoning
from flex_judge.experiments.studies.arithmetic_loop.card import write_card
from flex_judge.experiments.studies.arithmetic_loop.evaluation import (
    EvaluationResults,
    EvaluationSet,
    grade_judgments,
    judge_evaluation_set,
    make_study_settings,
)
from flex_judge.experiments.studies.arithmetic_loop.judge import EmbeddedJudgeRun, evaluate_judge, save_half_precision
from flex_judge.experiments.studies.arithmetic_loop.loop import summarise_loop
from flex_judge.experiments.studies.arithmetic_loop.page import write_page
from flex_judge.experiments.studies.arithmetic_loop.questions import (
    DEMO,
    collect_calculations,
    make_evaluation_questions,
    make_policy_questions,
    make_training_questions,
    mirror_calculation,
)
from flex_judge.experiments.studies.arithmetic_loop.samples import sample_answers
from flex_judge.judges import FlexJudge, Judgment
from flex_judge.judges.engines import EngineConfig, Sampling
from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.judges.errors import ModelNotFoundError, UsageError
from flex_judge.judges.models import ADAPTER_FILES
from flex_judge.judges.models.cache import fingerprint_folder
from flex_judge.judges.models.embedded import BASE, JUDGE

KINDS, parse_flags = lazy("flex_judge.experiments.common.training.flags", "KINDS", "parse_flags")

_QUESTION = re.compile(r"\[Question\]\n(.*?)\n\n\[Assistant", re.DOTALL)
_ANSWERS = re.compile(r"Answer\]\n(.*?)(?=\n\n\[Assistant \d's Answer\]|<\|im_end\|>)", re.DOTALL)


def judge_like_teacher(prompt: str, sampling: Sampling) -> str:
    """Judge like the synthetic teacher."""
    user_turn = prompt.rpartition("user\n")[2]
    question = _QUESTION.search(user_turn)
    assert question is not None
    reasoning, scores = judge_answers(question[1], _ANSWERS.findall(user_turn))
    return f"{reasoning}\n</think>" if sampling.stop else "".join(f"<answer>{score}</answer>" for score in scores)


def prefer_first_answer(prompt: str, sampling: Sampling) -> str:
    """Score the first answer high and the second one low, whatever they are."""
    answers = _ANSWERS.findall(prompt.rpartition("user\n")[2])
    return "So be it.</think>" if sampling.stop else "<answer>5</answer><answer>1</answer>"[: 18 * len(answers)]


def write_answers(path: Path, *rows: tuple[str, int, list[str]]) -> Path:
    """Write a file of sampled answers; a row is a question, its right answer and the responses."""
    path.write_text(
        "".join(
            json.dumps(
                {
                    "id": f"q{i}",
                    "prompt": [{"role": "user", "content": text}],
                    "responses": responses,
                    "kept": {"answer": answer},
                }
            )
            + "\n"
            for i, (text, answer, responses) in enumerate(rows)
        )
    )
    return path


@pytest.fixture
def evaluation_set(tmp_path: Path) -> EvaluationSet:
    return EvaluationSet.from_samples(
        write_answers(
            tmp_path / "answers.jsonl",
            ("What is 3 + 4?", 7, ["It is 7.", "It is 8.", "It is 7.", "  "]),
            ("What is 9 - 2?", 7, ["It is 5.", "It is 7."]),
        )
    )


SETTINGS = replace(make_study_settings(), max_think_tokens=1000, max_answer_tokens=64)
"""Evaluation settings with larger budgets, because the scripted engine makes one token of every byte."""


def evaluate_script(
    script: Callable[[str, Sampling], str], evaluation_set: EvaluationSet, trained: frozenset[Calculation] = frozenset()
) -> EvaluationResults:
    judge = FlexJudge(ScriptedEngine(script), SETTINGS)
    return grade_judgments(evaluation_set, judge_evaluation_set(judge, evaluation_set, lambda: None), trained)


def test_judge_is_not_trained_on_calculations_of_the_evaluation_or_the_demo() -> None:
    evaluation = make_evaluation_questions(120)
    trained = make_training_questions(520, evaluation)
    assert len({question.id for question in trained}) == 520
    assert not collect_calculations(trained) & collect_calculations(evaluation)
    assert not collect_calculations(trained) & collect_calculations(generate_questions(DEMO, 0, levels=(1, 2)))
    assert make_evaluation_questions(20) == evaluation[:20]  # so a shorter evaluation is part of a longer one


def test_policy_is_not_tuned_on_held_out_calculations_and_seeds_differ() -> None:
    held_out = make_evaluation_questions(240)
    first, second = (make_policy_questions(160, held_out, seed) for seed in (0, 1))
    assert not collect_calculations(first + second) & collect_calculations(held_out)
    assert {q.text for q in first} != {q.text for q in second}


def test_mirror_calculation_swaps_operands_except_of_subtractions() -> None:
    questions = [
        ArithmeticQuestion(str(i), text, 0, "addition", 1)
        for i, text in enumerate(("What is 2 + 3?", "What is 2 * 3?", "What is 5 - 2?"))
    ]
    mirrored = [mirror_calculation(parse_question(question.text)) for question in questions]
    assert mirrored == [Calculation(3, "+", 2), Calculation(3, "*", 2), Calculation(5, "-", 2)]


def test_evaluation_set_has_distinct_answers_and_pairs_in_both_orders(evaluation_set: EvaluationSet) -> None:
    assert [(q.comparison.responses[0], q.scores) for q in evaluation_set.pointwise] == [
        ("It is 7.", (5.0,)),
        ("It is 8.", (1.0,)),
        ("It is 5.", (1.0,)),
        ("It is 7.", (5.0,)),
    ]
    assert len(evaluation_set.pairwise) == 2
    for pair, swapped in zip(evaluation_set.pairwise, evaluation_set.swapped, strict=True):
        assert swapped.scores == pair.scores[::-1]
        assert swapped.comparison.responses == pair.comparison.responses[::-1]


def test_perfect_judge_gets_perfect_metrics(evaluation_set: EvaluationSet) -> None:
    results = evaluate_script(judge_like_teacher, evaluation_set)
    assert results.pointwise.balanced_accuracy == results.pairwise.balanced_accuracy == results.swap_consistency == 1.0
    assert results.parse_rate == 1.0
    assert results.unrelated.asked == 4
    assert evaluate_script(judge_like_teacher, evaluation_set, frozenset({Calculation(4, "+", 3)})).unrelated.asked == 2


def test_position_bias_shows_in_the_metrics(evaluation_set: EvaluationSet) -> None:
    results = evaluate_script(prefer_first_answer, evaluation_set)
    assert results.pointwise.balanced_accuracy == results.pairwise.balanced_accuracy == 0.5
    assert results.swap_consistency == 0.0


def test_pairs_without_a_verdict_count_as_inconsistent(evaluation_set: EvaluationSet) -> None:
    judge = FlexJudge(ScriptedEngine(judge_like_teacher), SETTINGS)
    judgments = judge_evaluation_set(judge, evaluation_set, lambda: None)
    silent = replace(judgments[-1], scores=None)
    assert grade_judgments(evaluation_set, [*judgments[:-1], silent], frozenset()).swap_consistency == 0.5


def test_ties_in_both_orders_count_as_consistent(tmp_path: Path) -> None:
    file = write_answers(tmp_path / "a.jsonl", ("What is 3 + 4?", 7, ["It is 7.", "It is 8.", "It is 9."]))
    results = evaluate_script(judge_like_teacher, EvaluationSet.from_samples(file))
    assert results.swap_consistency == 1.0


def make_loop_summary(tmp_path: Path) -> dict[str, Any]:
    """Summarise a loop of two seeds; the first corrects one wrong answer, the second two."""
    rows = [("What is 1 + 1?", 2, ["2"]), ("What is 1 + 2?", 3, ["4"]), ("What is 1 + 3?", 4, ["5"])]
    start = write_answers(tmp_path / "greedy_before.jsonl", *rows)
    folders = []
    for seed, right in enumerate((1, 2)):
        folder = tmp_path / f"seed-{seed}"
        for name in ("best_of_n", "preferences"):
            (folder / name).mkdir(parents=True)
        tuned_rows = [(text, n, [str(n)] if i <= right else old) for i, (text, n, old) in enumerate(rows)]
        write_answers(folder / "greedy_after.jsonl", *tuned_rows)
        accuracies = {"random": {"value": 0.25}, "best": {}, "pass_at": {}}
        for n, best in (("1", 0.25), ("2", 0.5 + 0.1 * seed)):
            accuracies["best"][n], accuracies["pass_at"][n] = {"value": best}, {"value": 0.75}
        (folder / "best_of_n" / "summary.json").write_text(json.dumps({"accuracies": accuracies, "prompts": 3}))
        pairs = {"pairs": 5, "right": {"chosen": 4, "neither": 1}}
        (folder / "preferences" / "summary.json").write_text(json.dumps(pairs))
        folders.append(folder)
    return summarise_loop(folders, start)


def test_loop_metrics_average_over_seeds_and_questions(tmp_path: Path) -> None:
    summary = make_loop_summary(tmp_path)
    assert summary["greedy"]["before"]["value"] == pytest.approx(1 / 3)
    assert summary["greedy"]["after"]["value"] == pytest.approx((2 / 3 + 1) / 2)
    assert summary["greedy"]["difference"]["value"] == pytest.approx(0.5)
    assert [run["difference"]["value"] for run in summary["runs"]] == pytest.approx([1 / 3, 2 / 3])
    assert summary["curve"]["best"]["2"]["mean"] == pytest.approx(0.55)
    assert summary["curve"]["best"]["2"]["values"] == pytest.approx([0.5, 0.6])


def make_evaluation(value: float) -> dict[str, Any]:
    metrics = {"asked": 10, "balanced_accuracy": value, "agreement": value}
    return {"pointwise": metrics, "unrelated": metrics, "pairwise": metrics, "swap_consistency": value, "parsed": None}


def test_page_compares_the_loop_with_the_paper(tmp_path: Path) -> None:
    evaluation = {"base": make_evaluation(0.5), "judge": make_evaluation(0.9375)}
    summary = make_loop_summary(tmp_path)
    summary |= {"seeds": 2, "policy": "p", "judge": "<j>", "prompts": 10, "prompts_taught": [7, 9]}
    page = write_page(tmp_path, {**summary, "evaluation": evaluation}).read_text()
    assert "&lt;j&gt;" in page
    assert "<script" not in page
    assert page.count("<svg") == 2
    for text in (
        "50.0 (0.0 to",
        "PAMPA: Mol-LLaMA, chain of thought (paper)",
        "69.83",
        "93.8 %",
        "55.0 ± 7.1",
        "7, 9 of them have a calculation",
    ):
        assert text in page, text
    assert (
        (tmp_path / "table.md")
        .read_text()
        .startswith("| accuracy, % | policy | best of 2; paper: of 16 | after DPO |\n|---|")
    )
    first_plots = {name: (tmp_path / name).read_text() for name in ("curve.svg", "gain.svg")}
    write_page(tmp_path, {**summary, "evaluation": None})
    assert first_plots == {name: (tmp_path / name).read_text() for name in first_plots}


def test_model_card_states_synthetic_data_and_metrics(tmp_path: Path) -> None:
    summary = {"base": make_evaluation(0.5), "judge": make_evaluation(0.9375), "epochs": 1.0, "judgments": 990}
    summary |= {"questions_taught": 331, "sums_taught": 204}
    write_card(tmp_path, {**summary, "evaluation_questions": 120, "seconds": {"total": 3000.0}})
    card = (tmp_path / "README.md").read_text()
    for text in (
        "**synthetic**",
        "| 50.0 % | 93.8 % |",
        "50 minutes",
        "990",
        "331",
        "python -m flex_judge.experiments.studies.arithmetic_loop judge",
    ):
        assert text in card, text


def test_judgments_survive_a_json_round_trip(evaluation_set: EvaluationSet) -> None:
    judge = FlexJudge(ScriptedEngine(judge_like_teacher), SETTINGS)
    judgments = judge_evaluation_set(judge, evaluation_set, lambda: None)
    repeated = [Judgment.from_json(json.loads(json.dumps(judgment.to_json()))) for judgment in judgments]
    assert grade_judgments(evaluation_set, repeated, frozenset()) == grade_judgments(
        evaluation_set, judgments, frozenset()
    )


def vote_with_noise(prompt: str, sampling: Sampling) -> str:
    """Prefer the first of two answers in two of three votes, and vote for a tie in the third."""
    if sampling.stop:
        return f"Vote {sampling.sample_index % 3}.</think>"
    return "<answer>5</answer><answer>5</answer>" if "Vote 0" in prompt else "<answer>4</answer><answer>1</answer>"


def test_pairwise_metrics_count_the_majority_vote(evaluation_set: EvaluationSet) -> None:
    pairs = replace(evaluation_set, pointwise=())
    judge = FlexJudge(ScriptedEngine(vote_with_noise), replace(SETTINGS, votes=9, temperature=0.7))
    judgments = judge_evaluation_set(judge, pairs, lambda: None)
    assert {judgment.preferred for judgment in judgments} == {0}
    flat = [replace(judgment, preferred=None) for judgment in judgments]  # as if the majority had voted for ties
    assert grade_judgments(pairs, flat, frozenset()).swap_consistency == 1.0
    assert grade_judgments(pairs, flat, frozenset()).pairwise.accuracy == 0.0


@pytest.fixture
def recorded_commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Record the commands that a loop runs, instead of running them."""
    recorded: list[list[str]] = []
    monkeypatch.setattr(loop, "run_subcommand", lambda *arguments: recorded.append(list(arguments)))
    monkeypatch.setattr(loop, "sample_answers", lambda *_, **__: None)
    monkeypatch.setattr(loop, "summarise_loop", lambda *_: {})
    return recorded


def test_loop_passes_valid_flags_to_its_commands(recorded_commands: list[list[str]], tmp_path: Path) -> None:
    config = loop.ClosedLoopRun(out=str(tmp_path / "loop"), judge=JUDGE, seeds=2, held_out=9, curve=5, prompts=7)
    summary = loop.main(config)
    assert [command[0] for command in recorded_commands] == ["best-of-n", "preferences", "dpo"] * 2
    best, pairs, dpo = recorded_commands[3:]
    inputs = []
    for command, settings in ((best, BestOfNRun), (pairs, PreferenceRun)):
        parser = argparse.ArgumentParser(allow_abbrev=False)
        parser.add_argument("file")
        add_flags(parser, settings)
        options = parser.parse_args(command[1:])
        run = load_config(settings, options)
        inputs.append((run.open_prompts(options.file), run))
        engine = run.judge.engine
        assert (engine.model, run.policy, engine.seed, run.resolve_rubric(options.file)) == (
            JUDGE,
            BASE,
            1,
            "correctness",
        )
        assert run.build_settings(JUDGE).temperature == 0.0
        assert run.build_sampling(options.file) == replace(SAMPLING, seed=1)
        assert run.get_answer_column(options.file) == "answer"
    assert [len(source) for source, _ in inputs] == [5, 7]
    assert [run.num_answers for _, run in inputs] == [16, 8]
    flags = parse_flags(KINDS["dpo"], dpo[1:])
    assert (flags.data, flags.args.seed, flags.recipe.held_out_prompts) == (inputs[1][1].out, 1, 0)
    assert summary["prompts_taught"][0] <= 7


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"curve": 300}, "--curve 300: must be at most --held-out, which is 240"),
        ({"judge": JUDGE, "curve": 130}, "--curve 130: more than 120 questions"),
        ({"samples": 1}, "--samples must be at least 2"),
    ],
)
def test_contradictory_loop_settings_are_rejected(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_config(loop.ClosedLoopRun, **settings)


def test_unknown_judge_is_rejected_before_the_run_starts(recorded_commands: list[list[str]], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelNotFoundError):
        loop.main(loop.ClosedLoopRun(out=str(tmp_path / "loop"), judge=str(tmp_path / "empty")))
    assert not (tmp_path / "loop").exists()
    assert not recorded_commands


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--seed", "1"], "--seed"),
        (["judge", "--seeds", "2"], "--seeds"),
        (["judge", "--config", "missing.yaml"], "missing.yaml: cannot be read"),
        (["ablations", "--no-reason-first"], "--no-reason-first: not supported by the ablations"),
    ],
)
def test_usage_errors_are_one_line(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_study(argv) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_half_precision_adapter_is_written_atomically(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    (tmp_path / "judge").mkdir()
    weights = {"a": torch.randn(4, 4)}
    (tmp_path / "judge" / ADAPTER_FILES[0]).write_text("{}")
    (tmp_path / "out.partial").mkdir()  # left by a killed run
    save_file(weights, tmp_path / "judge" / ADAPTER_FILES[1])
    out = save_half_precision(tmp_path / "judge", tmp_path / "out")
    tensor = load_file(out / ADAPTER_FILES[1])["a"]
    assert tensor.dtype == torch.float16
    torch.testing.assert_close(tensor.float(), weights["a"], atol=1e-3, rtol=1e-3)
    assert not (tmp_path / "out.partial").exists()


def test_stored_evaluation_is_reused_for_the_same_adapter_only(
    evaluation_set: EvaluationSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []

    def load(config: EngineConfig) -> ScriptedEngine:
        loaded.append(config.adapter)
        engine = ScriptedEngine(judge_like_teacher)
        engine.model_id = "base@0" + (f"+x@{fingerprint_folder(Path(config.adapter))}" if config.adapter else "")
        return engine

    monkeypatch.setattr(judge_module, "load_engine", load)
    adapters = [tmp_path / name for name in ("one", "two")]
    for adapter in adapters:
        adapter.mkdir()
        (adapter / "adapter_config.json").write_text(adapter.name)
    file = tmp_path / "run" / "evaluation.jsonl"
    with RunFolder(tmp_path / "run", {}) as folder:
        evaluations = [
            evaluate_judge(folder, evaluation_set, frozenset(), settings=SETTINGS, file=file, adapter=adapter)
            for adapter in (*adapters, adapters[1])
        ]
    assert loaded == list(map(str, adapters))
    assert evaluations[0] == evaluations[1] == evaluations[2]


def test_each_ablation_changes_one_setting() -> None:
    config = EmbeddedJudgeRun(size=100)
    by_name = {variant.name: variant for variant in list_variants(config)}
    assert len(by_name) == len(list_variants(config))
    assert {variant.recipe.size for variant in by_name.values()} == {100, 50, 25}
    assert [v.judging.votes for v in by_name.values() if "vote" in v.name] == [1, 3, 7, 15]
    assert [v.judging.num_waits for v in by_name.values() if "wait" in v.name] == [0, 1, 2, 4]
    (answer_first,) = (v for v in by_name.values() if not v.recipe.reason_first)
    assert not answer_first.judging.reason_first
    assert sum(not variant.in_steps for variant in by_name.values()) == 1


def test_short_reasoning_keeps_the_judgment_and_drops_the_steps(tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    file.write_text(json.dumps(make_example("What is 17 + 15?", "It is 32.", "It is 33.")) + "\n")
    shorten_reasoning(file)
    (message,) = json.loads(file.read_text())["completion"]
    assert message["content"].startswith("<think>\n17 + 15 = 32. Assistant 1 said 32, result 32: same, right, so 5.")
    assert message["content"].endswith("</think>\n\n<answer>5</answer><answer>1</answer>")


def test_answers_follow_the_order_of_the_questions_and_are_sampled_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = []

    def load(config: EngineConfig) -> ScriptedEngine:
        engines.append(ScriptedEngine(policy))
        return engines[-1]

    monkeypatch.setattr(samples, "load_engine", load)
    questions = generate_questions(6)
    file = tmp_path / "answers.jsonl"
    sample_answers(BASE, [questions[4], questions[2]], samples=2, path=file)
    sample_answers(BASE, questions, samples=2, path=file)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["id"] for row in rows] == [question.id for question in questions]
    assert [len(engine.requests) for engine in engines] == [4, 8]
    sample_answers(BASE, questions, samples=2, path=file)
    assert len(engines) == 2


@pytest.mark.slow
def test_judge_command_trains_the_judge_and_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = [
        "--questions",
        "16",
        "--samples",
        "4",
        "--size",
        "4",
        "--evaluation-questions",
        "6",
        "--evaluation-samples",
        "4",
    ]
    argv = ["judge", "--out", str(tmp_path / "run"), *small]
    assert run_study(argv) == 0
    assert "| Verdicts parsed without forcing |" in capsys.readouterr().out
    adapter = tmp_path / "run" / JUDGE
    card = (adapter / "README.md").read_text()
    assert "**synthetic**" in card
    first_times = {file.name: file.stat().st_mtime_ns for file in adapter.iterdir() if file.name != "README.md"}
    (tmp_path / "run" / "evaluation_judge.jsonl").unlink()
    assert run_study(argv) == 0  # the evaluation is repeated from the ledger
    second_times = {file.name: file.stat().st_mtime_ns for file in adapter.iterdir() if file.name != "README.md"}
    assert second_times == first_times
    assert (adapter / "README.md").read_text().split("It took")[0] == card.split("It took")[0]
