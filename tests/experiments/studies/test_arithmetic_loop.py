"""The loop on the embedded task: which questions are asked where, the judge's evaluation, the figures and the page."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from examples import example
from lazy import lazy
from scripts import policy

from flex_judge.alignment.tasks.arithmetic import SAMPLING, ArithmeticQuestion, generate_questions
from flex_judge.alignment.tasks.synthetic_teacher import Calculation
from flex_judge.alignment.tasks.synthetic_teacher import judge_answers as teach
from flex_judge.experiments.commands.best_of_n.config import BestOfNRun
from flex_judge.experiments.commands.preferences.config import PreferenceRun
from flex_judge.experiments.common.flags import add_flags, load_config, make_config
from flex_judge.experiments.common.run_folder import RunFolder
from flex_judge.experiments.studies.arithmetic_loop import judge as judge_making
from flex_judge.experiments.studies.arithmetic_loop import loop, samples
from flex_judge.experiments.studies.arithmetic_loop.__main__ import main as closed_loop
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
    collect_sums,
    exclude_related_sums,
    make_evaluation_questions,
    make_policy_questions,
    make_training_questions,
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

_ASKED = re.compile(r"\[Question\]\n(.*?)\n\n\[Assistant", re.DOTALL)
_SAID = re.compile(r"Answer\]\n(.*?)(?=\n\n\[Assistant \d's Answer\]|<\|im_end\|>)", re.DOTALL)


def knowing(prompt: str, sampling: Sampling) -> str:
    """Judges as the teacher does."""
    shown = prompt.rpartition("user\n")[2]
    question = _ASKED.search(shown)
    assert question is not None
    reasoning, scores = teach(question[1], _SAID.findall(shown))
    return f"{reasoning}\n</think>" if sampling.stop else "".join(f"<answer>{score}</answer>" for score in scores)


def stubborn(prompt: str, sampling: Sampling) -> str:
    """Always finds the first answer good, and the second one bad."""
    said = _SAID.findall(prompt.rpartition("user\n")[2])
    return "So be it.</think>" if sampling.stop else "<answer>5</answer><answer>1</answer>"[: 18 * len(said)]


def answered(path: Path, *rows: tuple[str, int, list[str]]) -> Path:
    """A file of answers to questions."""
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
def paper(tmp_path: Path) -> EvaluationSet:
    return EvaluationSet.from_samples(
        answered(
            tmp_path / "answers.jsonl",
            ("What is 3 + 4?", 7, ["It is 7.", "It is 8.", "It is 7.", "  "]),
            ("What is 9 - 2?", 7, ["It is 5.", "It is 7."]),
        )
    )


ROOM = replace(make_study_settings(), max_think_tokens=1000, max_answer_tokens=64)
"""The scripted engine's tokens are bytes."""


def sat(
    script: Callable[[str, Sampling], str], paper: EvaluationSet, taught: frozenset[Calculation] = frozenset()
) -> EvaluationResults:
    judge = FlexJudge(ScriptedEngine(script), ROOM)
    return grade_judgments(paper, judge_evaluation_set(judge, paper, lambda: None), taught)


def test_a_judge_is_trained_on_no_sum_of_its_exam_or_of_the_demo() -> None:
    evaluation = make_evaluation_questions(120)
    taught = make_training_questions(520, evaluation)
    assert len({question.id for question in taught}) == 520
    assert not collect_sums(taught) & collect_sums(evaluation)
    assert not collect_sums(taught) & collect_sums(generate_questions(DEMO, 0, levels=(1, 2)))
    assert make_evaluation_questions(20) == evaluation[:20]  # so a shorter evaluation is part of a longer one


def test_a_policy_is_tuned_on_no_sum_that_it_is_measured_on_and_other_seeds_ask_other_questions() -> None:
    held_out = make_evaluation_questions(240)
    first, second = (make_policy_questions(160, held_out, seed) for seed in (0, 1))
    assert not collect_sums(first + second) & collect_sums(held_out)
    assert {q.text for q in first} != {q.text for q in second}


def test_a_sum_is_related_to_the_same_sum_the_other_way_round() -> None:
    asked = [
        ArithmeticQuestion(str(i), text, 0, "addition", 1)
        for i, text in enumerate(("What is 2 + 3?", "What is 2 * 3?", "What is 5 - 2?"))
    ]
    assert exclude_related_sums(asked, {Calculation(3, "+", 2)}) == asked[1:]
    assert exclude_related_sums(asked, {Calculation(3, "*", 2), Calculation(2, "-", 5)}) == [asked[0], asked[2]]


def test_an_exam_asks_each_different_answer_once_and_pairs_in_both_orders(paper: EvaluationSet) -> None:
    assert [(q.comparison.responses[0], q.scores) for q in paper.pointwise] == [
        ("It is 7.", (5.0,)),
        ("It is 8.", (1.0,)),
        ("It is 5.", (1.0,)),
        ("It is 7.", (5.0,)),
    ]
    assert len(paper.pairwise) == 2
    for pair, swapped in zip(paper.pairwise, paper.swapped, strict=True):
        assert swapped.scores == pair.scores[::-1]
        assert swapped.comparison.responses == pair.comparison.responses[::-1]


def test_a_judge_that_knows_passes(paper: EvaluationSet) -> None:
    results = sat(knowing, paper)
    assert results.pointwise.balanced_accuracy == results.pairwise.balanced_accuracy == results.swap_consistency == 1.0
    assert results.parse_rate == 1.0
    assert results.unrelated.asked == 4
    assert sat(knowing, paper, frozenset({Calculation(4, "+", 3)})).unrelated.asked == 2


def test_a_judge_with_a_favourite_place_is_found_out(paper: EvaluationSet) -> None:
    results = sat(stubborn, paper)
    assert results.pointwise.balanced_accuracy == results.pairwise.balanced_accuracy == 0.5
    assert results.swap_consistency == 0.0


def test_pairs_without_a_verdict_are_not_consistent(paper: EvaluationSet) -> None:
    judge = FlexJudge(ScriptedEngine(knowing), ROOM)
    judgments = judge_evaluation_set(judge, paper, lambda: None)
    silent = replace(judgments[-1], scores=None)
    assert grade_judgments(paper, [*judgments[:-1], silent], frozenset()).swap_consistency == 0.5


def test_ties_in_both_orders_are_the_same_verdict(tmp_path: Path) -> None:
    file = answered(tmp_path / "a.jsonl", ("What is 3 + 4?", 7, ["It is 7.", "It is 8.", "It is 9."]))
    results = sat(knowing, EvaluationSet.from_samples(file))
    assert results.swap_consistency == 1.0


def results(tmp_path: Path) -> dict[str, Any]:
    """A run of two seeds: one turns a wrong answer right, the other two."""
    before = [("What is 1 + 1?", 2, ["2"]), ("What is 1 + 2?", 3, ["4"]), ("What is 1 + 3?", 4, ["5"])]
    start = answered(tmp_path / "greedy_before.jsonl", *before)
    folders = []
    for seed, right in enumerate((1, 2)):
        folder = tmp_path / f"seed-{seed}"
        for name in ("best_of_n", "preferences"):
            (folder / name).mkdir(parents=True)
        after = [(text, n, [str(n)] if i <= right else said) for i, (text, n, said) in enumerate(before)]
        answered(folder / "greedy_after.jsonl", *after)
        found = {"random": {"value": 0.25}, "best": {}, "pass_at": {}}
        for n, best in (("1", 0.25), ("2", 0.5 + 0.1 * seed)):
            found["best"][n], found["pass_at"][n] = {"value": best}, {"value": 0.75}
        (folder / "best_of_n" / "summary.json").write_text(json.dumps({"accuracies": found, "prompts": 3}))
        pairs = {"pairs": 5, "right": {"chosen": 4, "neither": 1}}
        (folder / "preferences" / "summary.json").write_text(json.dumps(pairs))
        folders.append(folder)
    return summarise_loop(folders, start)


def test_the_figures_of_a_loop_are_over_seeds_and_questions(tmp_path: Path) -> None:
    found = results(tmp_path)
    assert found["greedy"]["before"]["value"] == pytest.approx(1 / 3)
    assert found["greedy"]["after"]["value"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["greedy"]["difference"]["value"] == pytest.approx(0.5)
    assert [run["difference"]["value"] for run in found["runs"]] == pytest.approx([1 / 3, 2 / 3])
    assert found["curve"]["best"]["2"]["mean"] == pytest.approx(0.55)
    assert found["curve"]["best"]["2"]["values"] == pytest.approx([0.5, 0.6])


def exam_of(value: float) -> dict[str, Any]:
    metrics = {"asked": 10, "balanced_accuracy": value, "agreement": value}
    return {"pointwise": metrics, "unrelated": metrics, "pairwise": metrics, "swap_consistency": value, "parsed": None}


def test_the_page_shows_the_loop_beside_the_paper(tmp_path: Path) -> None:
    evaluation = {"base": exam_of(0.5), "judge": exam_of(0.9375)}
    figures = results(tmp_path)
    told = {**figures, "seeds": 2, "policy": "p", "judge": "<j>", "prompts": 10, "prompts_taught": [7, 9]}
    page = write_page(tmp_path, {**told, "evaluation": evaluation}).read_text()
    assert "&lt;j&gt;" in page
    assert "<script" not in page
    assert page.count("<svg") == 2
    for said in (
        "50.0 (0.0 to",
        "PAMPA: Mol-LLaMA, chain of thought (paper)",
        "69.83",
        "93.8 %",
        "55.0 ± 7.1",
        "7, 9 of them ask",
    ):
        assert said in page, said
    assert (
        (tmp_path / "table.md")
        .read_text()
        .startswith("| accuracy, % | policy | best of 2; paper: of 16 | after DPO |\n|---|")
    )
    again = {name: (tmp_path / name).read_text() for name in ("curve.svg", "gain.svg")}
    write_page(tmp_path, {**told, "evaluation": None})
    assert again == {name: (tmp_path / name).read_text() for name in again}


def test_the_card_of_the_judge_says_what_is_synthetic_and_how_it_did(tmp_path: Path) -> None:
    summary = {"base": exam_of(0.5), "judge": exam_of(0.9375), "epochs": 1.0, "judgments": 990}
    summary |= {"questions_taught": 331, "sums_taught": 204}
    write_card(tmp_path, {**summary, "evaluation_questions": 120, "seconds": {"total": 3000.0}})
    said = (tmp_path / "README.md").read_text()
    for words in (
        "**synthetic**",
        "| 50.0 % | 93.8 % |",
        "50 minutes",
        "990",
        "331",
        "python -m flex_judge.experiments.studies.arithmetic_loop judge",
    ):
        assert words in said, words


def test_judgments_of_an_exam_can_be_read_again(paper: EvaluationSet) -> None:
    judge = FlexJudge(ScriptedEngine(knowing), ROOM)
    judgments = judge_evaluation_set(judge, paper, lambda: None)
    again = [Judgment.from_json(json.loads(json.dumps(judgment.to_json()))) for judgment in judgments]
    assert grade_judgments(paper, again, frozenset()) == grade_judgments(paper, judgments, frozenset())


def noisy(prompt: str, sampling: Sampling) -> str:
    """Of two answers finds the first one better in two of three votes, and both good in the third."""
    if sampling.stop:
        return f"Vote {sampling.sample_index % 3}.</think>"
    return "<answer>5</answer><answer>5</answer>" if "Vote 0" in prompt else "<answer>4</answer><answer>1</answer>"


def test_the_majority_of_votes_on_a_pair_is_what_counts(paper: EvaluationSet) -> None:
    pairs = replace(paper, pointwise=())
    judge = FlexJudge(ScriptedEngine(noisy), replace(ROOM, votes=9, temperature=0.7))
    judgments = judge_evaluation_set(judge, pairs, lambda: None)
    assert {judgment.preferred for judgment in judgments} == {0}
    flat = [replace(judgment, preferred=None) for judgment in judgments]  # as if most votes had found them level
    assert grade_judgments(pairs, flat, frozenset()).swap_consistency == 1.0
    assert grade_judgments(pairs, flat, frozenset()).pairwise.accuracy == 0.0


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that a loop runs, which do nothing here."""
    ran: list[list[str]] = []
    monkeypatch.setattr(loop, "run_subcommand", lambda *arguments: ran.append(list(arguments)))
    monkeypatch.setattr(loop, "sample_answers", lambda *_, **__: None)
    monkeypatch.setattr(loop, "summarise_loop", lambda *_: {})
    monkeypatch.setattr(loop, "write_page", lambda *_: None)
    return ran


def test_the_loop_asks_its_commands_for_what_they_know(commands: list[list[str]], tmp_path: Path) -> None:
    config = loop.ClosedLoopRun(out=str(tmp_path / "loop"), judge=JUDGE, seeds=2, held_out=9, curve=5, prompts=7)
    summary = loop.main(config)
    assert [command[0] for command in commands] == ["best-of-n", "preferences", "dpo"] * 2
    best, pairs, dpo = commands[3:]
    seen = []
    for command, settings in ((best, BestOfNRun), (pairs, PreferenceRun)):
        parser = argparse.ArgumentParser(allow_abbrev=False)
        parser.add_argument("file")
        add_flags(parser, settings)
        options = parser.parse_args(command[1:])
        run = load_config(settings, options)
        seen.append((run.open_prompts(options.file), run))
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
    assert [len(source) for source, _ in seen] == [5, 7]
    assert [run.num_answers for _, run in seen] == [16, 8]
    flags = parse_flags(KINDS["dpo"], dpo[1:])
    assert (flags.data, flags.args.seed, flags.recipe.held_out_prompts) == (seen[1][1].out, 1, 0)
    assert summary["prompts_taught"][0] <= 7


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"curve": 300}, "--curve 300 is more than --held-out 240"),
        ({"judge": JUDGE, "curve": 130}, "--curve above 120"),
        ({"samples": 1}, "--samples must be at least 2"),
    ],
)
def test_a_loop_that_would_measure_on_what_was_taught_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_config(loop.ClosedLoopRun, **settings)


def test_an_unknown_judge_is_refused_before_anything_is_asked(commands: list[list[str]], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelNotFoundError):
        loop.main(loop.ClosedLoopRun(out=str(tmp_path / "loop"), judge=str(tmp_path / "empty")))
    assert not (tmp_path / "loop").exists()
    assert not commands


@pytest.mark.parametrize(
    ("argv", "wanted"),
    [
        (["--seed", "1"], "--seed"),
        (["judge", "--seeds", "2"], "--seeds"),
        (["judge", "--config", "missing.yaml"], "missing.yaml: cannot be read"),
        (["ablations", "--no-reason-first"], "reasons first"),
    ],
)
def test_each_step_has_its_own_flags(argv: list[str], wanted: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert closed_loop(argv) == 2
    said = capsys.readouterr().err
    assert wanted in said
    assert said.count("\n") == 1


def test_an_adapter_is_shipped_in_half_precision_and_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    (tmp_path / "judge").mkdir()
    weights = {"a": torch.randn(4, 4)}
    (tmp_path / "judge" / ADAPTER_FILES[0]).write_text("{}")
    (tmp_path / "out.partial").mkdir()  # of a start that was killed
    save_file(weights, tmp_path / "judge" / ADAPTER_FILES[1])
    out = save_half_precision(tmp_path / "judge", tmp_path / "out")
    found = load_file(out / ADAPTER_FILES[1])["a"]
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), weights["a"], atol=1e-3, rtol=1e-3)
    assert not (tmp_path / "out.partial").exists()


def test_an_exam_that_was_held_is_not_held_again_but_for_another_adapter(
    paper: EvaluationSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []

    def load(config: EngineConfig) -> ScriptedEngine:
        loaded.append(config.adapter)
        engine = ScriptedEngine(knowing)
        engine.model_id = "base@0" + (f"+x@{fingerprint_folder(Path(config.adapter))}" if config.adapter else "")
        return engine

    monkeypatch.setattr(judge_making, "load_engine", load)
    adapters = [tmp_path / name for name in ("one", "two")]
    for adapter in adapters:
        adapter.mkdir()
        (adapter / "adapter_config.json").write_text(adapter.name)
    file = tmp_path / "run" / "evaluation.jsonl"
    with RunFolder(tmp_path / "run", {}) as folder:
        sittings = [
            evaluate_judge(folder, paper, frozenset(), ROOM, file, adapter) for adapter in (*adapters, adapters[1])
        ]
    assert loaded == list(map(str, adapters))
    assert sittings[0] == sittings[1] == sittings[2]


def test_the_ablations_change_one_thing_each() -> None:
    config = EmbeddedJudgeRun(size=100)
    found = {variant.name: variant for variant in list_variants(config)}
    assert len(found) == len(list_variants(config))
    assert {variant.recipe.size for variant in found.values()} == {100, 50, 25}
    assert [v.judging.votes for v in found.values() if "vote" in v.name] == [1, 3, 7, 15]
    assert [v.judging.num_waits for v in found.values() if "wait" in v.name] == [0, 1, 2, 4]
    (answer_first,) = (v for v in found.values() if not v.recipe.reason_first)
    assert not answer_first.judging.reason_first
    assert sum(not variant.in_steps for variant in found.values()) == 1


def test_short_reasoning_gives_the_same_judgment_without_steps(tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    file.write_text(json.dumps(example("What is 17 + 15?", "It is 32.", "It is 33.")) + "\n")
    shorten_reasoning(file)
    (said,) = json.loads(file.read_text())["completion"]
    assert said["content"].startswith("<think>\n17 + 15 = 32. Assistant 1 said 32, result 32: same, right, so 5.")
    assert said["content"].endswith("</think>\n\n<answer>5</answer><answer>1</answer>")


def test_answers_stand_in_the_order_of_the_questions_and_are_sampled_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = []

    def load(config: EngineConfig) -> ScriptedEngine:
        engines.append(ScriptedEngine(policy))
        return engines[-1]

    monkeypatch.setattr(samples, "load_engine", load)
    asked = generate_questions(6)
    file = tmp_path / "answers.jsonl"
    sample_answers(BASE, [asked[4], asked[2]], 2, file)
    sample_answers(BASE, asked, 2, file)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["id"] for row in rows] == [question.id for question in asked]
    assert [len(engine.requests) for engine in engines] == [4, 8]
    sample_answers(BASE, asked, 2, file)
    assert len(engines) == 2


@pytest.mark.slow
def test_the_judge_is_made_by_one_command_and_goes_on_from_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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
    assert closed_loop(argv) == 0
    assert "| Verdicts given without being forced |" in capsys.readouterr().out
    adapter = tmp_path / "run" / JUDGE
    card = (adapter / "README.md").read_text()
    assert "**synthetic**" in card
    before = {file.name: file.stat().st_mtime_ns for file in adapter.iterdir() if file.name != "README.md"}
    (tmp_path / "run" / "evaluation_judge.jsonl").unlink()
    assert closed_loop(argv) == 0  # its evaluation is held again, out of the ledger
    after = {file.name: file.stat().st_mtime_ns for file in adapter.iterdir() if file.name != "README.md"}
    assert (after, (adapter / "README.md").read_text().split("which took")[0]) == (before, card.split("which took")[0])
