"""The loop on the embedded task: which questions are asked where, the judge's exam, the figures and the page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alignment.tasks.arithmetic import Question, questions
from alignment.tasks.arithmetic_teacher import Sum
from alignment.tasks.arithmetic_teacher import judge as teach
from experiments.closed_loop.card import write_card
from experiments.closed_loop.exam import Paper, Results, ask, graded, settings_of_exam
from experiments.closed_loop.figures import looped
from experiments.closed_loop.page import write_page
from experiments.closed_loop.questions import (
    DEMO,
    exam_questions,
    policy_questions,
    sums,
    training_questions,
    unrelated,
)
from judges import FlexJudge, Judgment
from judges.engines import Sampling
from judges.engines.scripted import ScriptedEngine

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
def paper(tmp_path: Path) -> Paper:
    return Paper.of(
        answered(
            tmp_path / "answers.jsonl",
            ("What is 3 + 4?", 7, ["It is 7.", "It is 8.", "It is 7.", "  "]),
            ("What is 9 - 2?", 7, ["It is 5.", "It is 7."]),
        )
    )


ROOM = replace(settings_of_exam(), max_think_tokens=1000, max_answer_tokens=64)
"""The scripted engine's tokens are bytes."""


def sat(script: Callable[[str, Sampling], str], paper: Paper, taught: frozenset[Sum] = frozenset()) -> Results:
    judge = FlexJudge(ScriptedEngine(script), ROOM)
    return graded(paper, ask(judge, paper, lambda: None), taught)


def test_a_judge_is_trained_on_no_sum_of_its_exam_or_of_the_demo() -> None:
    exam = exam_questions(120)
    taught = training_questions(520, exam)
    assert len({question.id for question in taught}) == 520
    assert not sums(taught) & sums(exam)
    assert not sums(taught) & sums(questions(DEMO, 0, levels=(1, 2)))
    assert exam_questions(20) == exam[:20]  # so a shorter exam is part of a longer one


def test_a_policy_is_tuned_on_no_sum_that_it_is_measured_on_and_other_seeds_ask_other_questions() -> None:
    held_out = exam_questions(240)
    first, second = (policy_questions(160, held_out, seed) for seed in (0, 1))
    assert not sums(first + second) & sums(held_out)
    assert {q.text for q in first} != {q.text for q in second}


def test_a_sum_is_related_to_the_same_sum_the_other_way_round() -> None:
    asked = [
        Question(str(i), text, 0, "addition", 1)
        for i, text in enumerate(("What is 2 + 3?", "What is 2 * 3?", "What is 5 - 2?"))
    ]
    assert unrelated(asked, {Sum(3, "+", 2)}) == asked[1:]
    assert unrelated(asked, {Sum(3, "*", 2), Sum(2, "-", 5)}) == [asked[0], asked[2]]


def test_an_exam_asks_each_different_answer_once_and_pairs_in_both_orders(paper: Paper) -> None:
    assert [(q.comparison.responses[0], q.scores) for q in paper.singles] == [
        ("It is 7.", (5.0,)),
        ("It is 8.", (1.0,)),
        ("It is 5.", (1.0,)),
        ("It is 7.", (5.0,)),
    ]
    assert len(paper.pairs) == 2
    for pair, swapped in zip(paper.pairs, paper.swapped, strict=True):
        assert swapped.scores == pair.scores[::-1]
        assert swapped.comparison.responses == pair.comparison.responses[::-1]


def test_a_judge_that_knows_passes(paper: Paper) -> None:
    results = sat(knowing, paper)
    assert results.singles.balanced_accuracy == results.pairs.balanced_accuracy == results.swap_consistency == 1.0
    assert results.parsed == 1.0
    assert results.unrelated.asked == 4
    assert sat(knowing, paper, frozenset({Sum(4, "+", 3)})).unrelated.asked == 2


def test_a_judge_with_a_favourite_place_is_found_out(paper: Paper) -> None:
    results = sat(stubborn, paper)
    assert results.singles.balanced_accuracy == results.pairs.balanced_accuracy == 0.5
    assert results.swap_consistency == 0.0


def test_pairs_without_a_verdict_are_not_consistent(paper: Paper) -> None:
    judge = FlexJudge(ScriptedEngine(knowing), ROOM)
    judgments = ask(judge, paper, lambda: None)
    silent = replace(judgments[-1], scores=None)
    assert graded(paper, [*judgments[:-1], silent], frozenset()).swap_consistency == 0.5


def test_ties_in_both_orders_are_the_same_verdict(tmp_path: Path) -> None:
    file = answered(tmp_path / "a.jsonl", ("What is 3 + 4?", 7, ["It is 7.", "It is 8.", "It is 9."]))
    results = sat(knowing, Paper.of(file))
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
        found = {"random": {"value": 0.25}, "best": {}, "any": {}}
        for n, best in (("1", 0.25), ("2", 0.5 + 0.1 * seed)):
            found["best"][n], found["any"][n] = {"value": best}, {"value": 0.75}
        (folder / "best_of_n" / "summary.json").write_text(json.dumps({"accuracies": found, "prompts": 3}))
        pairs = {"pairs": 5, "right": {"chosen": 4, "neither": 1}}
        (folder / "preferences" / "summary.json").write_text(json.dumps(pairs))
        folders.append(folder)
    return looped(folders, start)


def test_the_figures_of_a_loop_are_over_seeds_and_questions(tmp_path: Path) -> None:
    found = results(tmp_path)
    assert found["greedy"]["before"]["value"] == pytest.approx(1 / 3)
    assert found["greedy"]["after"]["value"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["greedy"]["difference"]["value"] == pytest.approx(0.5)
    assert [run["difference"]["value"] for run in found["runs"]] == pytest.approx([1 / 3, 2 / 3])
    assert found["curve"]["best"]["2"]["mean"] == pytest.approx(0.55)
    assert found["curve"]["best"]["2"]["values"] == pytest.approx([0.5, 0.6])


def exam_of(value: float) -> dict[str, Any]:
    grades = {"asked": 10, "balanced_accuracy": value, "agreement": value}
    return {"singles": grades, "unrelated": grades, "pairs": grades, "swap_consistency": value, "parsed": None}


def test_the_page_shows_the_loop_beside_the_paper(tmp_path: Path) -> None:
    exam = {"base": exam_of(0.5), "judge": exam_of(0.9375)}
    figures = results(tmp_path)
    page = write_page(tmp_path, {**figures, "seeds": 2, "exam": exam}).read_text()
    assert "<script" not in page
    assert page.count("<svg") == 2
    for said in ("50.0 (0.0 to", "PAMPA: Mol-LLaMA, chain of thought (paper)", "69.83", "93.8%", "55.0 ± 7.1"):
        assert said in page, said
    assert (tmp_path / "table.md").read_text().startswith("| accuracy, % | policy | best of 2 | after DPO |\n|---|")
    again = {name: (tmp_path / name).read_text() for name in ("curve.svg", "gain.svg")}
    write_page(tmp_path, {**figures, "seeds": 2, "exam": None})
    assert again == {name: (tmp_path / name).read_text() for name in again}


def test_the_card_of_the_judge_says_what_is_synthetic_and_how_it_did(tmp_path: Path) -> None:
    summary = {"base": exam_of(0.5), "judge": exam_of(0.9375), "epochs": 1.0, "size": 1000, "questions": 520}
    write_card(tmp_path, {**summary, "exam_questions": 120, "seconds": {"total": 3000.0}})
    said = (tmp_path / "README.md").read_text()
    for words in ("**synthetic**", "| 50.0 % | 93.8 % |", "50 minutes", "python -m experiments.closed_loop judge"):
        assert words in said, words


def test_judgments_of_an_exam_can_be_read_again(paper: Paper) -> None:
    judge = FlexJudge(ScriptedEngine(knowing), ROOM)
    judgments = ask(judge, paper, lambda: None)
    again = [Judgment.from_json(json.loads(json.dumps(judgment.to_json()))) for judgment in judgments]
    assert graded(paper, again, frozenset()) == graded(paper, judgments, frozenset())
