"""Contents of items: the judge gets the facts that the makers' prompts hold, whatever types a release uses for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import benchmark_data as data
import pytest
from eval_command import JUDGE, Run, parse_items, write_replies

from flex_judge.judges.errors import UsageError


@pytest.mark.parametrize(("value", "text"), [(True, "true"), (False, "false"), (7, "7"), (2.5, "2.5"), ("5", "5")])
def test_response_may_be_a_json_scalar(value: Any, text: str, tmp_path: Path) -> None:
    rows = {
        "pandalm": {"instruction": "Is it?", "input": value, "response1": value, "response2": "No.", "label": 1},
        "llmbar": {"input": "Is it?", "output_1": value, "output_2": "No.", "label": 1},
        "judgebench": {"question": "Is it?", "response_A": value, "response_B": "No.", "label": "A>B"},
        "rewardbench": {"prompt": "Is it?", "chosen": value, "rejected": "No.", "subset": "hep-go"},
        "judgelm": {"question_body": "Is it?", "answer1_body": value, "answer2_body": "No.", "score": [3, 2]},
        "multimodal-rewardbench": {"Text": "Is it?", "Output1": value, "Output2": "No.", "Better": "Output1"},
    }
    for name, row in rows.items():
        path = data.write_table(tmp_path / f"{name}.json", [row])
        (item,) = parse_items(name, path)
        assert item.row.load_comparison().responses == (text, "No."), name
        if name == "pandalm":
            assert item.row.load_comparison().prompt[0].content == f"Is it?\n\n{text}"


def test_genai_edit_states_all_facts_of_the_makers_prompt(tmp_path: Path) -> None:
    path = data.write_genai_bench(tmp_path / "data") / "image_edition.jsonl"
    row = json.loads(path.read_text())
    data.write_table(path, [row, {**row, "source_prompt": None}, {**row, "instruct_prompt": ""}])
    items = parse_items("genai-bench", path)
    questions = [item.row.data["prompt"][0]["content"] for item in items]
    assert [question[0]["type"] for question in questions] == ["image"] * 3
    lines = [
        "Caption of the source image: a cat",
        "Caption of the image after the edit: a dog",
        "Editing instruction: Make it a dog.",
    ]
    texts = [question[1]["text"].splitlines() for question in questions]
    assert texts == [lines, lines[1:], lines[:2]]
    data.write_table(path, [{**row, "instruct_prompt": "", "target_prompt": None}])
    with pytest.raises(UsageError, match="row 1, field 'instruct_prompt': expected an editing instruction"):
        parse_items("genai-bench", path)


def test_report_says_whose_prompts_were_used(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    command = ("eval", "pandalm", "--data", str(data.write_pandalm(tmp_path)))
    run = Run(capfd, *command, *JUDGE)
    assert "Our prompts are in this project's own wording" in run.out
    assert "in this project&#39;s own wording" in (tmp_path / "runs" / "eval-pandalm" / "report.html").read_text()
    run = Run(capfd, *command, "--replay", write_replies({"id": 7, "text": "1"}), "--max-failures", "4")
    assert "The stored replies answer the prompts of their own judge." in run.out
