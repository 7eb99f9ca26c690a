"""What a policy is trained on, and what is held out to measure it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from flex_judge.alignment.data.prompts import PromptColumns
from flex_judge.alignment.data.sources import open_source
from flex_judge.alignment.policy_training.data import (
    PolicyTrainingData,
    load_preference_data,
    load_prompt_data,
    select_unseen_prompts,
    write_prompts,
)
from flex_judge.alignment.policy_training.held_out import select_held_out
from flex_judge.alignment.tasks.arithmetic import ArithmeticSource
from flex_judge.alignment.training.recipes import PolicyRecipe, RewardRecipe
from flex_judge.judges.errors import UsageError
from flex_judge.judges.models.embedded import JUDGE


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def said(text: str, role: str = "user") -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def preference(question: str, **more: Any) -> dict[str, Any]:
    return {"prompt": said(question), "chosen": said("Yes.", "assistant"), "rejected": said("No.", "assistant"), **more}


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def data_of(folder: Path, prompts: int, each: int = 2) -> PolicyTrainingData:
    rows = [preference(f"Question {n}?", pair=k) for n in range(prompts) for k in range(each)]
    return load_preference_data(written(folder / "rows.jsonl", rows))


def test_rows_of_a_prompt_share_its_digest_however_it_is_written(tmp_path: Path) -> None:
    rows = [preference("Is it so?"), preference("  is it SO? ") | {"prompt": said("  is it SO? ")}, preference("Why?")]
    data = load_preference_data(written(tmp_path / "rows.jsonl", rows))
    assert len(data.rows) == 3
    assert data.prompts[0] == data.prompts[1] != data.prompts[2]


def test_a_prompt_that_is_within_its_answers_is_found(tmp_path: Path) -> None:
    row = {
        "chosen": [*said("Is it?"), *said("Yes.", "assistant")],
        "rejected": [*said("Is it?"), *said("No.", "assistant")],
    }
    data = load_preference_data(written(tmp_path / "rows.jsonl", [row]))
    assert data.get_prompt(0).prompt[0].content == "Is it?"
    assert data.rows[0]["chosen"] == said("Yes.", "assistant")


def test_the_folder_of_a_preferences_run_is_taken_and_known_for_the_embedded_task(tmp_path: Path) -> None:
    for source, is_task in (("arithmetic", True), ("mine.jsonl", False)):
        run = tmp_path / source.partition(".")[0]
        (run / "data").mkdir(parents=True)
        (run / "run.json").write_text(json.dumps({"settings": {"source": source, "judge": "mine"}}))
        written(run / "data" / "train.jsonl", [preference("Is it?")])
        data = load_preference_data(str(run))
        assert (data.is_task, len(data.rows)) == (is_task, 1)


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([{"prompt": said("?"), "completion": said("!", "assistant"), "label": True}], "column 'chosen' is missing"),
        ([preference("x") | {"prompt": 3}], "row 1, field 'prompt': expected text or a list of messages"),
    ],
)
def test_what_is_no_preference_is_said_with_its_file(
    rows: list[dict[str, Any]], complaint: str, tmp_path: Path
) -> None:
    path = written(tmp_path / "rows.jsonl", rows)
    with pytest.raises(UsageError, match="rows.jsonl.*" + complaint):
        load_preference_data(path)


def test_data_that_is_nowhere_is_said_with_what_would_do() -> None:
    with pytest.raises(UsageError, match="runs/none: no such preference data; expected the folder"):
        load_preference_data("runs/none")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Is it?", "chosen": "Yes.", "rejected": "No."},
        {"prompt": "Is it?", "chosen": said("Yes.", "assistant"), "rejected": said("No.", "assistant")},
        {
            "prompt": "Is it?",
            "chosen": [*said("Is it?"), *said("Yes.", "assistant")],
            "rejected": [*said("Is it?"), *said("No.", "assistant")],
        },
    ],
)
def test_text_becomes_what_a_user_says_and_an_assistant(row: dict[str, Any], tmp_path: Path) -> None:
    data = load_preference_data(written(tmp_path / "rows.jsonl", [row]))
    assert data.rows[0] == {
        "prompt": said("Is it?"),
        "chosen": said("Yes.", "assistant"),
        "rejected": said("No.", "assistant"),
    }


def test_answers_without_any_prompt_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.jsonl", [{"chosen": "Yes.", "rejected": "No."}])
    with pytest.raises(UsageError, match=r"rows\.jsonl: column 'prompt' is missing"):
        load_preference_data(path)


def test_the_judge_and_the_rubric_that_made_the_data_measure_the_policy(tmp_path: Path) -> None:
    data = tmp_path / "run" / "data"
    data.mkdir(parents=True)
    written(data / "train.jsonl", [preference("Is it?", provenance={"rubric": "judgelm"})])
    for settings, wanted in (
        ({"judge": "mine@0123456789ab", "judge_adapter": None}, ("mine", None, None)),
        ({"judge": "mine", "judge_adapter": "lora@0123456789ab"}, ("mine", "lora", None)),
        ({"judge": "http://h:1", "judge_adapter": None}, (None, None, "http://h:1")),
    ):
        (tmp_path / "run" / "run.json").write_text(json.dumps({"settings": settings}))
        made_by = load_preference_data(str(tmp_path / "run")).made_by
        recipe = PolicyRecipe().with_data_defaults(made_by, is_task=False)
        assert (recipe.judge, recipe.judge_adapter, recipe.judge_url, recipe.rubric) == (*wanted, "judgelm")
        asked = PolicyRecipe(judge="other", rubric="general").with_data_defaults(made_by, is_task=False)
        assert (asked.judge, asked.judge_adapter, asked.judge_url, asked.rubric) == ("other", None, None, "general")
    nothing = PolicyRecipe().with_data_defaults({}, is_task=True)
    assert (nothing.judge, nothing.rubric) == (JUDGE, "correctness")


def test_images_are_known_by_their_files_though_trainers_are_given_pixels(tmp_path: Path) -> None:
    from datasets import Dataset, Features, List, Value
    from datasets import Image as ImageFeature

    Image.effect_noise((32, 32), 90).convert("RGB").save(tmp_path / "noise.jpg", quality=30)
    row = {"prompt": "What is it?", "images": ["noise.jpg"]}
    prompts = load_prompt_data(open_source(written(tmp_path / "rows.jsonl", [row] * 2)), PromptColumns())
    held, taken = select_held_out(PolicyRecipe(held_out_prompts=1), prompts, seed=0)
    assert held is not None
    assert len(prompts.exclude_prompts(taken).rows) == 0
    message = List({"role": Value("string"), "content": Value("string")})
    features = Features({"prompt": message, "chosen": message, "rejected": message, "images": List(ImageFeature())})
    pair = preference("What is it?") | {"images": [str(tmp_path / "noise.jpg")]}
    Dataset.from_list([pair], features=features).to_parquet(tmp_path / "pairs.parquet")
    assert load_preference_data(str(tmp_path / "pairs.parquet")).prompts == prompts.prompts[:1]


def test_prompts_are_as_trainers_take_them_and_bad_rows_are_told(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"prompt": "Is it?"}, {"question": "?"}, {"prompt": said("Why?"), "id": "why"}]
    data = load_prompt_data(open_source(written(tmp_path / "rows.jsonl", rows)), PromptColumns())
    assert data.rows.to_list() == [{"id": "1", "prompt": said("Is it?")}, {"id": "why", "prompt": said("Why?")}]
    assert len(data.problems) == 1
    assert "rows.jsonl, line 2: field 'prompt' is missing" in data.problems[0]


def test_prompts_with_images_come_with_them(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), "red").save(tmp_path / "red.png")
    rows: list[dict[str, Any]] = [{"prompt": "What is it?", "images": ["red.png"]}, {"prompt": "Why?"}]
    data = load_prompt_data(open_source(written(tmp_path / "rows.jsonl", rows)), PromptColumns())
    first, second = data.rows[0], data.rows[1]
    assert [part["type"] for part in first["prompt"][0]["content"]] == ["image", "text"]
    assert first["images"][0].getpixel((0, 0)) == (255, 0, 0)
    assert second["images"] == []


def test_out_of_the_data_whole_prompts_are_held_out_and_never_trained_on(tmp_path: Path) -> None:
    data = data_of(tmp_path, 40)
    held, taken = select_held_out(PolicyRecipe(), data, seed=0)
    assert held is not None
    assert len(held.rows) == len(taken) == 4  # a tenth
    left = data.exclude_prompts(taken)
    assert len(left.rows) == 2 * 36
    asked = {row["prompt"][0]["content"] for row in left.rows}
    assert not asked & {str(row.prompt[0].content) for row in held.rows}
    again, _ = select_held_out(PolicyRecipe(), data, seed=0)
    other, _ = select_held_out(PolicyRecipe(), data, seed=1)
    assert again == held
    assert other is not None
    assert other.digest != held.digest


def test_held_out_prompts_of_a_file_are_those_that_are_not_trained_on(tmp_path: Path) -> None:
    data = data_of(tmp_path, 4)
    rows = [{"prompt": f"Question {n}?", "result": n} for n in range(8)]
    recipe = PolicyRecipe(
        held_out=written(tmp_path / "others.jsonl", rows), held_out_prompts=3, held_out_answer="result"
    )
    held, taken = select_held_out(recipe, data, seed=0)
    assert held is not None
    assert not taken
    assert [row.kept for row in held.rows] == [{"result": 4}, {"result": 5}, {"result": 6}]
    with pytest.raises(UsageError, match=r"rows.jsonl: every prompt is also trained on"):
        select_unseen_prompts(open_source(str(tmp_path / "rows.jsonl")), PromptColumns(), set(data.prompts), 2)


def test_the_embedded_task_is_measured_on_new_questions_whose_answers_are_known() -> None:
    data = load_prompt_data(ArithmeticSource(200, seed=0), PromptColumns())
    held, taken = select_held_out(PolicyRecipe(), data, seed=0)
    assert held is not None
    assert (len(held.rows), held.answer, held.tokens, held.is_task, taken) == (100, "answer", 40, True, frozenset())
    asked = {row["prompt"][0]["content"] for row in data.rows}
    assert not asked & {str(row.prompt[0].content) for row in held.rows}


def test_held_out_prompts_are_different_ones_with_names_of_their_own(tmp_path: Path) -> None:
    rows = [{"prompt": text, "id": "same"} for text in ("One?", "one?", "Two?")]
    found = select_unseen_prompts(open_source(written(tmp_path / "rows.jsonl", rows)), PromptColumns(), (), 3)
    assert [(row.id, row.prompt[0].content) for row in found] == [("same#1", "One?"), ("same#2", "Two?")]


def test_the_digest_of_data_follows_its_answers(tmp_path: Path) -> None:
    digests = set()
    for n, answer in enumerate(("Yes.", "Yes.", "Perhaps.")):
        row = preference("Is it?") | {"chosen": said(answer, "assistant")}
        digests.add(load_preference_data(written(tmp_path / f"rows{n}.jsonl", [row])).digest)
    assert len(digests) == 2


def test_no_held_out_prompts_are_an_answer_too(tmp_path: Path) -> None:
    assert select_held_out(PolicyRecipe(held_out_prompts=0), data_of(tmp_path, 3), seed=0) == (None, frozenset())


def test_held_out_prompts_are_written_as_best_of_n_reads_them(tmp_path: Path) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(picture, "PNG")
    (tmp_path / "red.png").write_bytes(picture.getvalue())
    rows = [{"prompt": "What is it?", "images": ["red.png"], "n": 3}, {"prompt": said("Why?"), "n": 4}]
    source = open_source(written(tmp_path / "rows.jsonl", rows))
    found = select_unseen_prompts(source, PromptColumns(number="n"), (), 2)
    write_prompts(tmp_path / "held.jsonl", found)
    again = select_unseen_prompts(open_source(str(tmp_path / "held.jsonl")), PromptColumns(number="n"), (), 2)
    assert [(row.id, row.prompt, row.kept) for row in again] == [(row.id, row.prompt, row.kept) for row in found]


@pytest.mark.parametrize(
    ("recipe", "settings", "complaint"),
    [
        (PolicyRecipe, {"held_out_prompts": -1}, "--held-out-prompts must be at least 0"),
        (PolicyRecipe, {"held_out_answer": "x"}, "--held-out-answer: names a column of a file"),
        (PolicyRecipe, {"judge_key": "env:KEY"}, "--judge-key requires --judge-url"),
        (PolicyRecipe, {"judge_url": "http://h", "judge_adapter": "a"}, "not allowed with --judge-url"),
        (PolicyRecipe, {"judge_url": "http://h", "judge": "j"}, "not allowed with --judge-url"),
        (PolicyRecipe, {"judge_adapter": "a"}, "--judge-adapter requires --judge"),
        (PolicyRecipe, {"rubric": "nonsense"}, "nonsense"),
        (RewardRecipe, {"judge_reward": "applause"}, "applause"),
        (RewardRecipe, {"judge_group_timeout_s": 700.0}, "--judge-group-timeout-s must be above 0 and below"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    recipe: type[PolicyRecipe], settings: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(UsageError, match=complaint):
        recipe(**settings)


def test_folders_of_one_name_are_not_taken_for_each_other(tmp_path: Path) -> None:
    """`datasets` caches a folder with a card by its last name and its card."""
    found = []
    for n, name in enumerate(("first", "second", "second")):
        folder = tmp_path / name / "data"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: train.jsonl\n---\n")
        row = {"prompt": f"What is {n}?", "chosen": "Yes.", "rejected": "No."}
        (folder / "train.jsonl").write_text(json.dumps(row) + "\n")
        (prompt,) = load_preference_data(str(folder)).rows["prompt"]
        found.append(prompt[0]["content"])
    assert found == ["What is 0?", "What is 1?", "What is 2?"]
