"""Training data of policies, held-out prompts, and the settings of training recipes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from clips import encode_uri, film, noise, picture
from PIL import Image
from tiny_models import tiny_llama

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
from flex_judge.alignment.policy_training.tool_rows import write_tools_for_policy
from flex_judge.alignment.tasks.arithmetic import ArithmeticSource
from flex_judge.alignment.training.recipes import PolicyRecipe, RewardRecipe
from flex_judge.judges.errors import UsageError
from flex_judge.judges.models.embedded import JUDGE


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def make_messages(text: str, role: str = "user") -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def make_preference(question: str, **more: Any) -> dict[str, Any]:
    return {
        "prompt": make_messages(question),
        "chosen": make_messages("Yes.", "assistant"),
        "rejected": make_messages("No.", "assistant"),
        **more,
    }


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def make_data(folder: Path, prompts: int, each: int = 2) -> PolicyTrainingData:
    rows = [make_preference(f"Question {n}?", pair=k) for n in range(prompts) for k in range(each)]
    return load_preference_data(write_rows(folder / "rows.jsonl", rows))


def test_prompt_digest_ignores_case_and_white_space(tmp_path: Path) -> None:
    rows = [
        make_preference("Is it so?"),
        make_preference("  is it SO? ") | {"prompt": make_messages("  is it SO? ")},
        make_preference("Why?"),
    ]
    data = load_preference_data(write_rows(tmp_path / "rows.jsonl", rows))
    assert len(data.rows) == 3
    assert data.prompts[0] == data.prompts[1] != data.prompts[2]


def test_prompt_inside_the_answers_is_extracted(tmp_path: Path) -> None:
    row = {
        "chosen": [*make_messages("Is it?"), *make_messages("Yes.", "assistant")],
        "rejected": [*make_messages("Is it?"), *make_messages("No.", "assistant")],
    }
    data = load_preference_data(write_rows(tmp_path / "rows.jsonl", [row]))
    assert data.get_prompt(0).prompt[0].content == "Is it?"
    assert data.rows[0]["chosen"] == make_messages("Yes.", "assistant")


def test_preferences_folder_is_loaded_and_the_embedded_task_recognised(tmp_path: Path) -> None:
    for source, is_task in (("arithmetic", True), ("mine.jsonl", False)):
        run = tmp_path / source.partition(".")[0]
        (run / "data").mkdir(parents=True)
        (run / "run.json").write_text(json.dumps({"settings": {"source": source, "judge": "mine"}}))
        write_rows(run / "data" / "train.jsonl", [make_preference("Is it?")])
        data = load_preference_data(str(run))
        assert (data.is_task, len(data.rows)) == (is_task, 1)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"prompt": make_messages("?"), "completion": make_messages("!", "assistant"), "label": True}],
            "column 'chosen' is missing",
        ),
        ([make_preference("x") | {"prompt": 3}], "row 1, field 'prompt': expected text or a list of messages"),
    ],
)
def test_invalid_preference_data_is_rejected_with_its_file_name(
    rows: list[dict[str, Any]], message: str, tmp_path: Path
) -> None:
    path = write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(UsageError, match="rows.jsonl.*" + message):
        load_preference_data(path)


def test_missing_data_is_rejected_with_the_accepted_forms() -> None:
    with pytest.raises(UsageError, match="runs/none: no such preference data; expected the folder"):
        load_preference_data("runs/none")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Is it?", "chosen": "Yes.", "rejected": "No."},
        {
            "prompt": "Is it?",
            "chosen": make_messages("Yes.", "assistant"),
            "rejected": make_messages("No.", "assistant"),
        },
        {
            "prompt": "Is it?",
            "chosen": [*make_messages("Is it?"), *make_messages("Yes.", "assistant")],
            "rejected": [*make_messages("Is it?"), *make_messages("No.", "assistant")],
        },
    ],
)
def test_plain_text_becomes_user_and_assistant_messages(row: dict[str, Any], tmp_path: Path) -> None:
    data = load_preference_data(write_rows(tmp_path / "rows.jsonl", [row]))
    assert data.rows[0] == {
        "prompt": make_messages("Is it?"),
        "chosen": make_messages("Yes.", "assistant"),
        "rejected": make_messages("No.", "assistant"),
    }


def test_answers_without_a_prompt_are_rejected(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"chosen": "Yes.", "rejected": "No."}])
    with pytest.raises(UsageError, match=r"rows\.jsonl: column 'prompt' is missing"):
        load_preference_data(path)


def test_judge_and_rubric_default_to_those_that_made_the_data(tmp_path: Path) -> None:
    data = tmp_path / "run" / "data"
    data.mkdir(parents=True)
    write_rows(data / "train.jsonl", [make_preference("Is it?", provenance={"rubric": "judgelm"})])
    for settings, expected in (
        ({"judge": "mine@0123456789ab", "judge_adapter": None}, ("mine", None, None)),
        ({"judge": "mine", "judge_adapter": "lora@0123456789ab"}, ("mine", "lora", None)),
        ({"judge": "http://h:1", "judge_adapter": None}, (None, None, "http://h:1")),
    ):
        (tmp_path / "run" / "run.json").write_text(json.dumps({"settings": settings}))
        made_by = load_preference_data(str(tmp_path / "run")).made_by
        recipe = PolicyRecipe().with_data_defaults(made_by, is_task=False)
        assert (recipe.judge, recipe.judge_adapter, recipe.judge_url, recipe.rubric) == (*expected, "judgelm")
        explicit = PolicyRecipe(judge="other", rubric="general").with_data_defaults(made_by, is_task=False)
        assert (explicit.judge, explicit.judge_adapter, explicit.judge_url, explicit.rubric) == (
            "other",
            None,
            None,
            "general",
        )
    default = PolicyRecipe().with_data_defaults({}, is_task=True)
    assert (default.judge, default.rubric) == (JUDGE, "correctness")


def test_prompt_digest_uses_image_files_not_pixels(tmp_path: Path) -> None:
    from datasets import Dataset, Features, List, Value
    from datasets import Image as ImageFeature

    Image.effect_noise((32, 32), 90).convert("RGB").save(tmp_path / "noise.jpg", quality=30)
    row = {"prompt": "What is it?", "images": ["noise.jpg"]}
    prompts = load_prompt_data(open_source(write_rows(tmp_path / "rows.jsonl", [row] * 2)), PromptColumns())
    held_out, excluded = select_held_out(PolicyRecipe(held_out_prompts=1), prompts, seed=0)
    assert held_out is not None
    assert len(prompts.exclude_prompts(excluded).rows) == 0
    message_type = List({"role": Value("string"), "content": Value("string")})
    features = Features(
        {"prompt": message_type, "chosen": message_type, "rejected": message_type, "images": List(ImageFeature())}
    )
    pair = make_preference("What is it?") | {"images": [str(tmp_path / "noise.jpg")]}
    Dataset.from_list([pair], features=features).to_parquet(tmp_path / "pairs.parquet")
    assert load_preference_data(str(tmp_path / "pairs.parquet")).prompts == prompts.prompts[:1]


def test_prompt_data_has_trainer_format_and_reports_bad_rows(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "Is it?"},
        {"question": "?"},
        {"prompt": make_messages("Why?"), "id": "why"},
    ]
    data = load_prompt_data(open_source(write_rows(tmp_path / "rows.jsonl", rows)), PromptColumns())
    assert data.rows.to_list() == [
        {"id": "1", "prompt": make_messages("Is it?")},
        {"id": "why", "prompt": make_messages("Why?")},
    ]
    assert len(data.problems) == 1
    assert "rows.jsonl, line 2, field 'prompt': missing or null" in data.problems[0]


def test_prompt_data_includes_images(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), "red").save(tmp_path / "red.png")
    rows: list[dict[str, Any]] = [{"prompt": "What is it?", "images": ["red.png"]}, {"prompt": "Why?"}]
    data = load_prompt_data(open_source(write_rows(tmp_path / "rows.jsonl", rows)), PromptColumns())
    first, second = data.rows[0], data.rows[1]
    assert [part["type"] for part in first["prompt"][0]["content"]] == ["image", "text"]
    assert first["images"][0].getpixel((0, 0)) == (255, 0, 0)
    assert second["images"] == []


def test_held_out_prompts_are_removed_from_the_training_data(tmp_path: Path) -> None:
    data = make_data(tmp_path, 40)
    held_out, excluded = select_held_out(PolicyRecipe(), data, seed=0)
    assert held_out is not None
    assert len(held_out.rows) == len(excluded) == 4  # a tenth
    remaining = data.exclude_prompts(excluded)
    assert len(remaining.rows) == 2 * 36
    texts = {row["prompt"][0]["content"] for row in remaining.rows}
    assert not texts & {str(row.prompt[0].content) for row in held_out.rows}
    repeated, _ = select_held_out(PolicyRecipe(), data, seed=0)
    other, _ = select_held_out(PolicyRecipe(), data, seed=1)
    assert repeated == held_out
    assert other is not None
    assert other.digest != held_out.digest


def test_held_out_prompts_from_a_file_exclude_trained_prompts(tmp_path: Path) -> None:
    data = make_data(tmp_path, 4)
    rows = [{"prompt": f"Question {n}?", "result": n} for n in range(8)]
    recipe = PolicyRecipe(
        held_out=write_rows(tmp_path / "others.jsonl", rows), held_out_prompts=3, held_out_answer="result"
    )
    held_out, excluded = select_held_out(recipe, data, seed=0)
    assert held_out is not None
    assert not excluded
    assert [row.kept for row in held_out.rows] == [{"result": 4}, {"result": 5}, {"result": 6}]
    with pytest.raises(UsageError, match=r"rows.jsonl: every prompt is also trained on"):
        select_unseen_prompts(open_source(str(tmp_path / "rows.jsonl")), PromptColumns(), set(data.prompts), 2)


def test_embedded_task_is_evaluated_on_new_questions_with_answers() -> None:
    data = load_prompt_data(ArithmeticSource(200, seed=0), PromptColumns())
    held_out, excluded = select_held_out(PolicyRecipe(), data, seed=0)
    assert held_out is not None
    assert (len(held_out.rows), held_out.answer, held_out.tokens, held_out.is_task, excluded) == (
        100,
        "answer",
        40,
        True,
        frozenset(),
    )
    texts = {row["prompt"][0]["content"] for row in data.rows}
    assert not texts & {str(row.prompt[0].content) for row in held_out.rows}


def test_held_out_prompts_are_distinct_and_have_unique_ids(tmp_path: Path) -> None:
    rows = [{"prompt": text, "id": "same"} for text in ("One?", "one?", "Two?")]
    results = select_unseen_prompts(open_source(write_rows(tmp_path / "rows.jsonl", rows)), PromptColumns(), (), 3)
    assert [(row.id, row.prompt[0].content) for row in results] == [("same#1", "One?"), ("same#2", "Two?")]


def test_data_digest_depends_on_the_answers(tmp_path: Path) -> None:
    digests = set()
    for n, answer in enumerate(("Yes.", "Yes.", "Perhaps.")):
        row = make_preference("Is it?") | {"chosen": make_messages(answer, "assistant")}
        digests.add(load_preference_data(write_rows(tmp_path / f"rows{n}.jsonl", [row])).digest)
    assert len(digests) == 2


def test_zero_held_out_prompts_select_nothing(tmp_path: Path) -> None:
    assert select_held_out(PolicyRecipe(held_out_prompts=0), make_data(tmp_path, 3), seed=0) == (None, frozenset())


def test_written_prompts_are_read_back_unchanged(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), "red").save(tmp_path / "red.png")
    rows = [{"prompt": "What is it?", "images": ["red.png"], "n": 3}, {"prompt": make_messages("Why?"), "n": 4}]
    source = open_source(write_rows(tmp_path / "rows.jsonl", rows))
    results = select_unseen_prompts(source, PromptColumns(number="n"), (), 2)
    write_prompts(tmp_path / "held.jsonl", results)
    repeated = select_unseen_prompts(open_source(str(tmp_path / "held.jsonl")), PromptColumns(number="n"), (), 2)
    assert [(row.id, row.prompt, row.kept) for row in repeated] == [(row.id, row.prompt, row.kept) for row in results]


@pytest.mark.parametrize(
    ("recipe", "settings", "message"),
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
def test_contradictory_settings_are_rejected(
    recipe: type[PolicyRecipe], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        recipe(**settings)


def test_folders_with_the_same_name_are_not_confused(tmp_path: Path) -> None:
    """`datasets` caches a folder with a card by its last path component and its card."""
    results = []
    for n, name in enumerate(("first", "second", "second")):
        folder = tmp_path / name / "data"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: train.jsonl\n---\n")
        row = {"prompt": f"What is {n}?", "chosen": "Yes.", "rejected": "No."}
        (folder / "train.jsonl").write_text(json.dumps(row) + "\n")
        (prompt,) = load_preference_data(str(folder)).rows["prompt"]
        results.append(prompt[0]["content"])
    assert results == ["What is 0?", "What is 1?", "What is 2?"]


# Rows with tools

TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]


def make_call(name: str, arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def make_tool_preference(**more: Any) -> dict[str, Any]:
    call = {"role": "assistant", "content": None, "tool_calls": [make_call("get_weather", '{"city": "Rome"}')]}
    prompt = [*make_messages("Weather in Rome?"), call, {"role": "tool", "name": "get_weather", "content": "21C"}]
    chosen = [{"role": "assistant", "content": None, "tool_calls": [make_call("send", {"to": "ann"})]}]
    return {"prompt": prompt, "chosen": chosen, "rejected": make_messages("No.", "assistant"), **more}


@pytest.mark.parametrize("tools", [TOOLS, json.dumps(TOOLS)])
def test_tool_calls_and_definitions_reach_the_trainer(tools: Any, tmp_path: Path) -> None:
    rows = [make_tool_preference(tools=tools, margin=2.0), make_preference("Hi?", margin=1.0)]
    data = load_preference_data(write_rows(tmp_path / "rows.jsonl", rows))
    first, second = data.rows
    assert first["prompt"][1] == {
        "role": "assistant",
        "content": "",
        "tool_calls": [make_call("get_weather", {"city": "Rome"})],
    }
    assert first["prompt"][2] == {"role": "tool", "content": "21C", "name": "get_weather"}
    assert first["chosen"][0]["tool_calls"] == [make_call("send", {"to": "ann"})]
    assert json.loads(first["tools"]) == TOOLS
    assert second["prompt"] == make_messages("Hi?")  # no field of other rows, not even with null
    assert (second["tools"], second["margin"]) == (None, 1.0)
    assert len(set(data.prompts)) == 2
    without = load_preference_data(write_rows(tmp_path / "without.jsonl", [make_tool_preference(margin=2.0)]))
    assert without.prompts[0] != data.prompts[0]


def test_null_fields_of_tables_are_dropped(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    calls = [make_call("get_weather", {"city": "Rome"}), make_call("send", {"to": "ann"})]
    answers = [[{"role": "assistant", "content": None, "tool_calls": [call]}] for call in calls]
    rows = [make_preference(f"Question {i}?", chosen=answer) for i, answer in enumerate(answers)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    data = load_preference_data(str(tmp_path / "rows.parquet"))
    assert [row["chosen"][0]["tool_calls"][0]["function"]["arguments"] for row in data.rows] == [
        {"city": "Rome"},
        {"to": "ann"},
    ]


def test_image_marks_become_parts_of_the_prompt(tmp_path: Path) -> None:
    row = make_preference("First <image> then text.", images=[encode_uri(picture(noise(8, 8)), "image/png")])
    data = load_preference_data(write_rows(tmp_path / "rows.jsonl", [row]))
    (message,) = data.rows[0]["prompt"]
    assert [part["type"] for part in message["content"]] == ["text", "image", "text"]
    assert data.rows[0]["images"][0].size == (8, 8)


def test_media_that_the_trainer_does_not_take_are_an_error(tmp_path: Path) -> None:
    video = tmp_path / "a.mkv"
    video.write_bytes(film(range(9)))
    row = make_preference("What is it?", videos=[str(video)])
    with pytest.raises(UsageError, match=r"row 1.*type video, which TRL's formats cannot hold"):
        load_preference_data(write_rows(tmp_path / "rows.jsonl", [row]))


def test_prompts_with_tools_keep_them_for_grpo_and_held_out_files(tmp_path: Path) -> None:
    rows = [{"prompt": make_tool_preference()["prompt"], "tools": TOOLS}, {"prompt": "Hi?"}]
    source = open_source(write_rows(tmp_path / "rows.jsonl", rows))
    data = load_prompt_data(source, PromptColumns())
    assert data.rows[0]["prompt"][1]["tool_calls"] == [make_call("get_weather", {"city": "Rome"})]
    assert json.loads(data.rows[0]["tools"]) == TOOLS
    assert data.rows[1]["prompt"] == make_messages("Hi?")
    unseen = select_unseen_prompts(source, PromptColumns(), (), 2)
    write_prompts(tmp_path / "held_out.jsonl", unseen)
    again = load_prompt_data(open_source(str(tmp_path / "held_out.jsonl")), PromptColumns())
    assert again.prompts == data.prompts


def test_tools_are_text_for_a_policy_whose_template_leaves_them_out(tmp_path: Path) -> None:
    rows = [make_tool_preference(tools=TOOLS), make_preference("Hi?")]
    data = load_preference_data(write_rows(tmp_path / "rows.jsonl", rows))
    policy = str(tiny_llama(tmp_path / "llama"))
    written = write_tools_for_policy(data, policy, trainer_takes_tools=True)
    first, second = written.rows
    assert all(set(message) == {"role", "content"} for message in (*first["prompt"], *first["chosen"]))
    assert first["prompt"][0]["content"].count('"name": "get_weather"') == 1
    assert first["chosen"] == make_messages('{"name": "send", "arguments": {"to": "ann"}}', "assistant")
    assert second["prompt"] == make_messages("Hi?")
    assert "tools" not in written.rows.column_names
    assert written.prompts == data.prompts
    assert "leaves out tool calls; tools are text in 1 rows" in written.notes[0]
    plain = make_data(tmp_path, 2)
    assert write_tools_for_policy(plain, policy, trainer_takes_tools=True) is plain


def test_definitions_are_text_for_a_trainer_that_takes_none(tmp_path: Path) -> None:
    rows = [{"prompt": make_messages("Weather?"), "tools": TOOLS}]
    data = load_prompt_data(open_source(write_rows(tmp_path / "rows.jsonl", rows)), PromptColumns())
    written = write_tools_for_policy(data, str(tiny_llama(tmp_path / "llama")), trainer_takes_tools=False)
    (row,) = written.rows
    assert [message["role"] for message in row["prompt"]] == ["system", "user"]
    assert json.dumps(TOOLS[0]) in row["prompt"][0]["content"]
    assert row["id"] == data.rows[0]["id"]
    assert "no definitions of tools" in written.notes[0]
