"""Preference rows with tool calls, in every format, as JSON lines and Parquet, and in the trainers of TRL."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_models import tiny_llama
from training import load_rows, two_steps, write_lines

from flex_judge.alignment.data.rows import PromptRow
from flex_judge.alignment.data.texts import (
    compute_prompt_digest,
    compute_seeded_hash,
    compute_similarity,
    is_empty_response,
    make_equality_key,
)
from flex_judge.alignment.preferences import FORMATS, CardSettings, CardStats, Pair, PairResult, Side
from flex_judge.alignment.preferences.card import render_card
from flex_judge.alignment.preferences.prompt_columns import has_tools, make_prompt_columns
from flex_judge.alignment.preferences.schema import make_features, make_parquet_table
from flex_judge.judges import Message
from flex_judge.judges.conversations.messages import Trajectory
from flex_judge.judges.conversations.reader import ConversationReader
from flex_judge.judges.media.opening import open_local_media
from flex_judge.judges.types import Response

TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}},
    {"name": "send"},
]
TEXT_FORMATS = [name for name in FORMATS if name != "image_pairs"]


def read_prompt(tools: Any = None, city: str = "Rome", **changes: Any) -> tuple[Message, ...]:
    call = {"id": "c1", "function": {"name": "get_weather", "arguments": {"city": city}}}
    chat = [
        {"role": "user", "content": "Weather, then tell Ann.", "name": "bob"},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "Look it up.", **changes},
        {"role": "tool", "tool_call_id": "c1", "name": "get_weather", "content": "21C"},
    ]
    return ConversationReader(open_local_media).read_prompt(chat, tools=tools)


def read_answer(to: Any, text: str = "") -> Response:
    call = {"function": {"name": "send", "arguments": {"to": to, "urgent": True}}}
    return ConversationReader(open_local_media).read_response(
        [{"role": "assistant", "content": text, "tool_calls": [call]}]
    )


def make_pair(prompt: tuple[Message, ...], chosen: Response = "", rejected: Response = "I cannot.", n: int = 0) -> Pair:
    row = PromptRow(f"q{n}", prompt, where=f"prompts.jsonl, line {n}")
    high = Side(1, chosen or read_answer("ann"), 5, 4.8, "right", 0.8)
    return Pair(row, high, Side(0, rejected, 2, 2.25, "", 0.8), "highest_lowest", 2, 0.0, "general", "judge", "policy")


def test_preference_row_keeps_calls_results_names_reasoning_and_definitions() -> None:
    (row,) = FORMATS["preference"].make_rows([make_pair(read_prompt(TOOLS))])
    assert row["prompt"] == [
        {"role": "user", "content": "Weather, then tell Ann.", "name": "bob"},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "Look it up.",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Rome"}}}
            ],
        },
        {"role": "tool", "content": "21C", "name": "get_weather", "tool_call_id": "c1"},
    ]
    (answer,) = row["chosen"]
    assert answer["tool_calls"][0]["function"] == {"name": "send", "arguments": {"to": "ann", "urgent": True}}
    assert row["rejected"] == [{"role": "assistant", "content": "I cannot."}]
    assert json.loads(row["tools"]) == [TOOLS[0], {"type": "function", "function": {"name": "send"}}]


def test_answer_of_several_messages_is_written_in_order() -> None:
    trajectory = ConversationReader(open_local_media).read_response(
        [
            {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "send", "arguments": "{}"}}]},
            {"role": "tool", "content": "sent"},
            {"role": "assistant", "content": "Done."},
        ]
    )
    (row,) = FORMATS["kto"].make_rows([make_pair(read_prompt(), trajectory)])[:1]
    assert [message["role"] for message in row["completion"]] == ["assistant", "tool", "assistant"]
    (row,) = FORMATS["reward"].make_rows([make_pair(read_prompt(TOOLS), trajectory)])
    assert [message["role"] for message in row["chosen"]] == [
        "user",
        "assistant",
        "tool",
        "assistant",
        "tool",
        "assistant",
    ]
    assert "tools" in row


def test_rows_of_plain_messages_have_no_further_fields() -> None:
    pair = make_pair((Message("user", "Hi"),), "Hello")
    assert not has_tools(pair)
    for name in TEXT_FORMATS:
        for row in FORMATS[name].make_rows([pair]):
            assert "tools" not in row
            messages = [m for column in row.values() if isinstance(column, list) for m in column]
            assert all(list(message) == ["role", "content"] for message in messages)


def test_lone_surrogates_are_replaced_in_calls_and_definitions() -> None:
    prompt = read_prompt([{"name": "f", "description": "\ud83d"}], city="\udc00")
    (row,) = FORMATS["preference"].make_rows([make_pair(prompt)])
    json.dumps(row, ensure_ascii=False).encode()


def test_prompt_columns_are_read_back_unchanged() -> None:
    prompt = read_prompt(TOOLS)
    columns = json.loads(json.dumps(make_prompt_columns(PromptRow("q", prompt))))
    again = ConversationReader(open_local_media).read_prompt(columns["prompt"], tools=columns["tools"])
    assert compute_prompt_digest(again) == compute_prompt_digest(prompt)


@pytest.mark.parametrize("name", TEXT_FORMATS)
@pytest.mark.parametrize("kind", ["json", "json without features", "parquet"])
def test_arguments_of_different_tools_keep_their_fields(name: str, kind: str, tmp_path: Path) -> None:
    pairs = [
        make_pair(read_prompt(TOOLS), n=0),
        make_pair(read_prompt(), read_answer(["ann", "bo"], "Sending"), n=1),
        make_pair((Message("user", "Hi"),), "Hello", n=2),
    ]
    rows = [{"tools": None, **row} for pair in pairs for row in FORMATS[name].make_rows([pair])]
    if kind == "parquet":
        import pyarrow.parquet as pq

        path = tmp_path / "a.parquet"
        with pq.ParquetWriter(path, make_features(name, tools=True).arrow_schema) as writer:
            for row in rows:  # several chunks of one schema
                writer.write_table(make_parquet_table([row], name, tools=True))
        loaded = load_rows("parquet", str(path), tmp_path)
    else:
        options = {"features": make_features(name, tools=True)} if kind == "json" else {}
        loaded = load_rows("json", write_lines(tmp_path / "a.jsonl", rows), tmp_path, **options)
    for row, expected in zip(loaded, rows, strict=True):
        assert row["tools"] == expected["tools"]
        for column in ("prompt", "chosen", "rejected", "completion"):
            if kind == "json without features" and column in expected:
                assert json.loads(json.dumps(_drop_nulls(row[column]))) == expected[column]
            else:
                assert row.get(column) == expected.get(column)


def _drop_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _drop_nulls(item) for name, item in value.items() if item is not None}
    return [_drop_nulls(item) for item in value] if isinstance(value, list) else value


def test_empty_table_has_the_same_schema() -> None:
    table = make_parquet_table([], "preference", tools=True)
    assert table.schema == make_features("preference", tools=True).arrow_schema


def test_card_describes_the_column_and_its_features() -> None:
    stats = CardStats()
    for prompt in (read_prompt(TOOLS), (Message("user", "Hi"),)):
        pair = make_pair(prompt, "It is 21.")
        stats._count_pair(pair)
    assert (stats.pairs, stats.tool_pairs) == (2, 1)
    card = render_card(stats, CardSettings("train.jsonl", tools=True))
    assert "`tools`: definitions of the tools" in card
    assert "list: json" in card
    assert "`tools`" not in render_card(stats, CardSettings("train.jsonl"))


def test_counts_of_older_versions_are_read() -> None:
    row = CardStats().to_json()
    del row["tool_pairs"]
    assert CardStats.from_json(row) == CardStats()


# Digests and equality


def test_digests_of_plain_prompts_are_those_of_stored_runs() -> None:
    prompt = (Message("system", "Be brief."), Message("user", "What is 2 + 3?"))
    assert compute_prompt_digest(prompt) == "30c3720d4d68ceba"
    assert compute_seeded_hash(3, "q", "It is 5.")[:16] == "9c0120ad69019b82"


def test_prompt_digest_depends_on_calls_names_reasoning_and_tools_but_not_on_ids() -> None:
    prompts = [
        read_prompt(),
        read_prompt(TOOLS),
        read_prompt(TOOLS[:1]),
        read_prompt(city="Oslo"),
        read_prompt(reasoning_content="Hm."),
        read_prompt(tool_calls=[]),
        tuple(replace(message, name="") for message in read_prompt()),
    ]
    assert len({compute_prompt_digest(prompt) for prompt in prompts}) == len(prompts)
    same = {"id": "other", "function": {"name": "get_weather", "arguments": '{"city":"Rome"}'}}
    assert compute_prompt_digest(read_prompt(tool_calls=[same])) == compute_prompt_digest(read_prompt())


def test_answers_with_different_calls_are_different() -> None:
    first, second = read_answer("ann"), read_answer("bo")
    assert make_equality_key(first) != make_equality_key(second)
    assert make_equality_key(first) == make_equality_key(read_answer("ann", " \n"))
    assert compute_seeded_hash(0, "q", first) != compute_seeded_hash(0, "q", second)
    assert compute_similarity(make_pair(read_prompt(), first).chosen.text, "send") < 1


def test_reasoning_without_an_answer_is_empty() -> None:
    assert not is_empty_response(read_answer("ann"))
    assert is_empty_response(Trajectory((Message("assistant", " ", reasoning="I thought for long."),)))
    assert not is_empty_response(Trajectory((Message("assistant", "Yes", reasoning="I thought."),)))


# Trainers

# In the style of Qwen2.5, for the tokens of the tiny Llama.
TEMPLATE = """\
{%- if tools %}<|start_header_id|>system<|end_header_id|>
{% for tool in tools %}{{ tool | tojson }}{% endfor %}<|eot_id|>{% endif %}
{%- for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>
{{ m.content }}{% for call in m.tool_calls or [] %}<call>{{ call.function.name }} {{ call.function.arguments | tojson }}
{%- endfor %}<|eot_id|>{% endfor %}
{%- if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>
{% endif %}"""


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model") / "llama")


@pytest.mark.slow  # trains with three trainers of TRL
@pytest.mark.parametrize("name", TEXT_FORMATS)
@pytest.mark.parametrize("kind", ["json", "parquet"])
def test_trl_trains_on_calls_and_definitions(name: str, kind: str, llama: Path, tmp_path: Path) -> None:
    import trl
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(llama)
    tokenizer.chat_template = TEMPLATE
    pairs = [make_pair(read_prompt(TOOLS), read_answer(f"ann {n}"), n=n) for n in range(3)]
    pairs.append(make_pair((Message("user", "Hi"),), "Hello", n=3))
    rows = [{"tools": None, **row} for pair in pairs for row in FORMATS[name].make_rows([pair])]
    if kind == "parquet":
        import pyarrow.parquet as pq

        pq.write_table(make_parquet_table(rows, name, tools=True), tmp_path / "a.parquet")
        data = load_rows("parquet", str(tmp_path / "a.parquet"), tmp_path)
    else:
        features = make_features(name, tools=True)
        data = load_rows("json", write_lines(tmp_path / "a.jsonl", rows), tmp_path, features=features)
    kinds = {"preference": "DPO", "kto": "KTO", "reward": "Reward"}
    if name == "reward":
        network = AutoModelForSequenceClassification.from_pretrained(llama, num_labels=1)
    else:
        network = AutoModelForCausalLM.from_pretrained(llama)
    config = getattr(trl, f"{kinds[name]}Config")
    trainer = getattr(trl, f"{kinds[name]}Trainer")(
        model=network,
        args=config(per_device_train_batch_size=2, max_length=2048, **two_steps(tmp_path / "out")),
        train_dataset=data,
        processing_class=tokenizer,
    )
    row = trainer.train_dataset[0]
    prompt_ids = row["chosen_ids"] if name == "reward" else row["prompt_ids"]
    answer_ids = row["completion_ids"] if name == "kto" else row["chosen_ids"]
    assert '<call>get_weather {"city": "Rome"}' in tokenizer.decode(prompt_ids)
    assert '"name": "send"' in tokenizer.decode(prompt_ids)
    assert '<call>send {"to": "ann 0", "urgent": true}' in tokenizer.decode(answer_ids)
    trainer.train()
    assert trainer.state.global_step == 2


def test_pairs_of_calls_count_in_the_statistics() -> None:
    stats = CardStats()
    stats._count_pair(make_pair(read_prompt(), read_answer("ann"), read_answer("bo")))
    result = PairResult((make_pair(read_prompt()),))
    assert stats.tool_pairs == len(result.pairs) == 1
    assert stats.length_chosen.mean
