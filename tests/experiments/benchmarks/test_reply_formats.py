"""Verdicts of other judges in stored replies, each form read by the rule of its makers."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from eval_command import make_item
from repository import ROOT

from flex_judge.experiments.benchmarks.items import OFF_SCALE, ItemOutcome, extract_prediction
from flex_judge.experiments.benchmarks.replies import replay_replies
from flex_judge.experiments.benchmarks.reply_formats import OWN_FORMAT, REPLY_FORMATS, list_formats
from flex_judge.experiments.benchmarks.stored import StoredReplies
from flex_judge.judges.judgments import Status

FIRST, SECOND, LEVEL = (1.0, 0.0), (0.0, 1.0), (0.5, 0.5)


def replay(rubric: str, text: str, formats: tuple[str, ...] = list_formats(), **item: Any) -> ItemOutcome:
    responses = item.pop("responses", 2)
    return replay_replies(
        make_item(rubric, item.pop("label", 0), responses), StoredReplies("here", (text,), **item), "as_given", formats
    )


@pytest.mark.parametrize(
    ("name", "text", "verdict"),
    [
        ("judgelrm", "<answer> 6 </answer><answer>0</answer><|im_end|>", (6.0, 0.0)),
        ("judgelrm", "<answer>-1</answer><answer>8.5/10</answer>", (-1.0, 8.5)),
        ("judgelrm", "<answer>9</answer><answer>1</answer> or <answer>1</answer><answer>9</answer>", None),
        ("judgelrm", "<answer>9</answer>", None),
        ("genai-bench", "Both fail.\n**Verdict**: [[A=B=Bad]]", "A=B=Bad"),
        ("genai-bench", "[[B>>A]]", "B>A"),
        ("genai-bench", "[[A=B]]", "A=B"),
        ("genai-bench", "[[A>B]]\nNot [[B>A]].", "A>B"),  # the first line with brackets counts
        ("genai-bench", "[[A>B]], not [[B>A]].", None),
        ("genai-bench", "[[a>b]] or [[C]]", None),
        ("arena-hard", "[[A>>B]]", FIRST),
        ("arena-hard", "[[A>>B]] so [[A>B]]", None),
        ("brackets", "[[A>>B]] so [[A>B]]", FIRST),
        ("brackets", "[[A]] or [[B]]", None),
        ("mt-bench", "[[B]], not [[A]]", FIRST),
        ("mt-bench", "[[C]]", LEVEL),
        ("mt-bench-scores", "Rating: [[7.05, 7]]", (7.05, 7.05)),
        ("mt-bench-scores", "[6,9]", (6.0, 9.0)),
        ("prometheus", "Response A is vague. [RESULT] B", SECOND),
        ("prometheus", "So it is.\nResult: a\nThe end.", FIRST),
        ("prometheus", "[RESULT] A or B", None),
        ("atla", "**Reasoning:** Short.\n\n**Result:** B", SECOND),
        ("auto-j", "So, the final decision is Tie.", LEVEL),
        ("auto-j", "The final decision is Response 1? No: the final decision is Response 2.", SECOND),
        ("auto-j", "Response 1", None),
        ("vl-rewardbench", "**Overall\n Judgment**: Answer 2 is the better one.", SECOND),
        ("vl-rewardbench", "Therefore Answer 1 is better. Answer 2 is slightly better.", SECOND),
        ("vl-rewardbench", "Answer 1 is better.", None),
        ("llmbar", "Output (b)", SECOND),
        ("llmbar", "Neither is right.\n Output (a)", FIRST),
        ("llmbar", "I prefer Output (a).", None),
        ("llmbar-cot", "Output (a) is wrong. Therefore, Output (b) is better.", SECOND),
        ("output", "Output (a) is wrong. I choose output (b).", SECOND),
        ("output", "Output (a) and Output (b) are level.", None),
        ("pandalm", "Tie\n\n### Reason: Both are right.", LEVEL),
        ("pandalm", "garbage", None),
        ("judgelm", "8,9\nThe second.", (8.0, 9.0)),
        ("judgelm", "8, 9\nThe second.", None),
        ("judgelm", "8 9 \nThe second.", None),
        ("scores", "8, 9 \nThe second.", (8.0, 9.0)),
    ],
)
def test_makers_rule_of_each_format(name: str, text: str, verdict: tuple[float, float] | str | None) -> None:
    assert REPLY_FORMATS[name].parse(text) == verdict


def test_every_format_is_documented() -> None:
    page = (ROOT / "docs" / "guides" / "evaluate.md").read_text()
    missing = [name for name in (OWN_FORMAT, *REPLY_FORMATS) if f"| `{name}` |" not in page]
    assert missing == []


@pytest.mark.parametrize(
    ("first", "second", "preferred"), [("6", "0", 0), ("0", "0", "tie"), ("11", "100", 1), ("-1", "0.5", 1)]
)
def test_scores_off_the_scale_are_a_preference_of_another_judge(first: str, second: str, preferred: int | str) -> None:
    text = f"<think>x</think><answer>{first}</answer><answer>{second}</answer>"
    outcome = replay("pandalm", text)
    assert extract_prediction(outcome.judgments[0]) == preferred
    assert outcome.judgments[0].provenance == {OFF_SCALE: 1}
    assert replay("pandalm", text, (OWN_FORMAT,)).judgments[0].status is Status.UNPARSEABLE


def test_scores_on_the_scale_are_not_marked() -> None:
    for text in ("<answer>10</answer><answer>1</answer>", "[[A]]", "Output (a)"):
        outcome = replay("general", text)
        assert (extract_prediction(outcome.judgments[0]), outcome.judgments[0].provenance) == (0, {}), text


def test_ranking_off_the_scale_keeps_its_order() -> None:
    text = "<answer>0</answer><answer>50</answer><answer>7</answer>"
    judgment = replay("mllm_judge_batch", text, label=(1, 2, 0), responses=3).judgments[0]
    assert (judgment.scores, judgment.provenance) == ((0.0, 50.0, 7.0), {OFF_SCALE: 1})
    assert replay("mllm_judge_batch", text, (OWN_FORMAT,), responses=3).judgments[0].scores is None


def test_single_score_off_the_scale_is_unscored() -> None:
    assert replay("speech_quality", "<answer>9.0</answer>", label=3.0, responses=1).judgments[0].scores is None


def test_options_follow_the_reading_order() -> None:
    outcome = replay("genai_image", "[[A>>B]]", list_formats(["genai-bench"]), orders=((1, 0),))
    assert (outcome.judgments[0].choice, outcome.judgments[0].preferred) == ("B>A", 1)


def test_format_adapts_to_the_rubric() -> None:
    # Scores are an option where the benchmark asks for one, and an option is a preference where it asks for scores.
    assert replay("genai_image", "8 3", ("scores",)).judgments[0].choice == "A>B"
    assert replay("genai_image", "3 3", ("scores",)).judgments[0].choice == "A=B"
    assert extract_prediction(replay("pandalm", "[[A=B=Bad]]", ("genai-bench",)).judgments[0]) == "tie"


def test_quoted_verdict_is_no_verdict_of_our_judge() -> None:
    text = "<think>x</think><answer>8</answer><answer>3</answer> <answer>3</answer><answer>8</answer> [[A]]"
    assert replay("general", text).judgments[0].status is Status.UNPARSEABLE
    assert replay("general", "<think>[[A]] or").judgments[0].status is Status.TRUNCATED
    # A format that is named is the only one that is read.
    assert extract_prediction(replay("general", text, ("brackets",)).judgments[0]) == 0
    assert replay("general", "<answer>8</answer><answer>3</answer>", ("brackets",)).judgments[0].scores is None


def test_number_without_end_is_no_score() -> None:
    digits = "9" * 400
    for text in (f"<answer>{digits}</answer><answer>3</answer>", f"{digits} 3", f"[[{digits},3]]"):
        for formats in (list_formats(["scores"]), ("scores",), ("judgelm",), ("mt-bench-scores",), ("judgelrm",)):
            assert replay("pandalm", text, formats).judgments[0].scores is None
    assert replay("mllm_judge_batch", f"<answer>{digits}</answer>" * 3, responses=3).judgments[0].scores is None


def test_any_text_gives_a_verdict_or_none_and_valid_json() -> None:
    parts = [
        *(
            "<answer>",
            "</answer>",
            "<think>",
            "</think>",
            "[[",
            "]]",
            "[",
            "A",
            "B",
            "C",
            ">",
            "=",
            "=Good",
            "Output (a)",
        ),
        *(
            "is better.",
            "[RESULT] ",
            "final decision is ",
            "Response 1",
            "**Result:** ",
            "8",
            "-1",
            ".5",
            "1e999",
            "\n",
        ),
        *("٣", "８", "\u2028", " ", ",", "/", "Tie", "nan", "Therefore", "Answer 2 "),
    ]
    rng = random.Random(0)
    for _ in range(3000):
        text = "".join(rng.choices(parts, k=rng.randint(1, 9)))
        for rubric, formats in (
            ("pandalm", list_formats(["pandalm", "scores"])),
            ("genai_image", tuple(REPLY_FORMATS)),
        ):
            judgment = replay(rubric, text, formats).judgments[0]
            json.dumps(judgment.to_json(), allow_nan=False)
            assert (judgment.scores is None) == (judgment.status is not Status.OK)
