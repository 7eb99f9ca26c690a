"""Formats of preference data: consistent column types over shards, loadable by `datasets` and by TRL's trainers."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from clips import noise, picture
from training import load_rows, two_steps, write_lines

from flex_judge.alignment.data.image_uris import encode_data_uri
from flex_judge.alignment.data.rows import PromptRow
from flex_judge.alignment.preferences import FORMATS, Pair, Side
from flex_judge.judges import Message, UsageError
from flex_judge.judges.media.opening import make_audio, make_image, make_molecule
from flex_judge.judges.types import Content

PNG = make_image(picture(noise(40, 60)))
OTHER = make_image(picture(noise(30, 30)))
KINDS = [(name, images) for name, f in FORMATS.items() for images in (False, True) if f.takes_images or not images]


def make_prompt(*content: Any, id: str = "q1") -> PromptRow:
    user_content: Content = content[0] if len(content) == 1 and isinstance(content[0], str) else content
    return PromptRow(id, (Message("system", "Be brief."), Message("user", user_content)), where="prompts.jsonl, line 3")


def make_pair(
    prompt: PromptRow, chosen: Any = "It is 5.", rejected: Any = "It is 6.", has_details: bool = True
) -> Pair:
    """Make a pair with or without the expected scores and temperatures that some engines do not report."""
    expected, temperature = (4.8, 0.8) if has_details else (None, None)
    high = Side(1, chosen, 5, expected, "right", temperature)
    low = Side(0, rejected, 2, expected and 2.25, "", temperature)
    return Pair(prompt, high, low, "highest_lowest", 2, 0.0, "general", "judge@1", "policy@1")


def test_preference_row_for_text_models_has_text() -> None:
    (row,) = FORMATS["preference"].make_rows([make_pair(make_prompt("What is 2 + 3?"))])
    assert row["prompt"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 2 + 3?"},
    ]
    assert row["chosen"] == [{"role": "assistant", "content": "It is 5."}]
    assert row["rejected"] == [{"role": "assistant", "content": "It is 6."}]
    assert "images" not in row
    assert (row["score_chosen"], row["score_rejected"], row["margin"]) == (5.0, 2.0, 3.0)
    assert row["judge_reasoning"] == {"chosen": "right", "rejected": ""}
    assert row["provenance"]["policy"] == "policy@1"
    assert isinstance(row["score_chosen"], float)


def test_preference_row_for_image_models_has_parts_and_images_in_order() -> None:
    prompt = make_prompt("Compare ", PNG, "with", OTHER, "in ", "short.")
    (row,) = FORMATS["preference"].make_rows([make_pair(prompt)], images=True)
    assert row["prompt"][1]["content"] == [
        {"type": "text", "text": "Compare "},
        {"type": "image", "text": ""},
        {"type": "text", "text": "with"},
        {"type": "image", "text": ""},
        {"type": "text", "text": "in short."},
    ]
    assert row["chosen"] == [{"role": "assistant", "content": [{"type": "text", "text": "It is 5."}]}]
    assert row["images"] == [encode_data_uri(PNG), encode_data_uri(OTHER)]
    (text,) = FORMATS["preference"].make_rows([make_pair(make_prompt("What?"))], images=True)
    assert text["images"] == []
    assert text.keys() == row.keys()


def test_kto_has_one_row_per_unambiguous_answer() -> None:
    prompt, best, middle, worst = make_prompt("What?"), *(Side(i, f"answer {i}", 9 - i, None, "") for i in range(3))
    pairs = [
        replace(make_pair(prompt), chosen=high, rejected=low)
        for high, low in ((best, middle), (best, worst), (middle, worst))
    ]
    rows = FORMATS["kto"].make_rows(pairs)
    assert [(r["completion"][0]["content"], r["label"]) for r in rows] == [("answer 0", True), ("answer 2", False)]
    assert [r["margin"] for r in rows] == [1, 2]
    assert not {"chosen", "rejected"} & rows[0].keys()


def test_kto_never_labels_one_answer_true_and_false() -> None:
    texts = ("It is −3.", "It is 4.", "It is 5.", "It  is\u00a0-3.\n")
    best, low, high, copy = (Side(i, text, 9 - i, None, "") for i, text in enumerate(texts))
    pairs = [replace(make_pair(make_prompt("What?")), chosen=a, rejected=b) for a, b in ((best, low), (high, copy))]
    rows = FORMATS["kto"].make_rows(pairs)
    assert [(r["completion"][0]["content"], r["label"]) for r in rows] == [("It is 4.", False), ("It is 5.", True)]
    copies = [replace(pairs[0], chosen=side) for side in (best, copy)]
    assert [r["label"] for r in FORMATS["kto"].make_rows(copies)] == [True, False]


def test_reward_rows_are_conversations_without_a_margin_column() -> None:
    (row,) = FORMATS["reward"].make_rows([make_pair(make_prompt("What?"))])
    assert [m["role"] for m in row["chosen"]] == ["system", "user", "assistant"]
    assert row["rejected"][-1]["content"] == "It is 6."
    assert row["score_margin"] == 3
    assert not {"prompt", "margin"} & row.keys()


def test_image_answers_have_their_own_format() -> None:
    (row,) = FORMATS["image_pairs"].make_rows([make_pair(make_prompt("A red square."), (PNG,), (OTHER, " "))])
    assert (row["chosen_image"], row["rejected_image"]) == (encode_data_uri(PNG), encode_data_uri(OTHER))
    assert row["prompt"][1]["content"] == "A red square."
    (edit,) = FORMATS["image_pairs"].make_rows(
        [make_pair(make_prompt(PNG, "Make it green."), (PNG,), (OTHER,))], images=True
    )
    assert edit["images"] == [encode_data_uri(PNG)]
    with pytest.raises(
        UsageError, match=r"line 3: format 'image_pairs' needs answers of exactly one image, got 'a red one'"
    ):
        FORMATS["image_pairs"].make_rows([make_pair(make_prompt("A red square."), "a red one", (OTHER,))])


def test_names_media_that_a_format_cannot_hold() -> None:
    sound = make_audio(noise().astype("float32").mean(axis=(1, 2)) / 255, rate=16_000)
    with pytest.raises(UsageError, match="line 3: has an image, but the data set is for text models"):
        FORMATS["preference"].make_rows([make_pair(make_prompt(PNG, "What?"))])
    with pytest.raises(UsageError, match=r"line 3: has a part of type audio, which TRL's formats cannot hold"):
        FORMATS["preference"].make_rows([make_pair(make_prompt(sound, "What?"))], images=True)
    with pytest.raises(UsageError, match=r"has media, .* use the format 'image_pairs'"):
        FORMATS["preference"].make_rows([make_pair(make_prompt("What?"), (PNG,), (OTHER,))], images=True)
    with pytest.raises(UsageError, match=r"format 'reward' is text-only, like TRL's RewardTrainer"):
        FORMATS["reward"].make_rows([], images=True)


def test_molecule_becomes_its_smiles_string() -> None:
    (row,) = FORMATS["preference"].make_rows([make_pair(make_prompt("What is ", make_molecule("CCO"), "?"))])
    assert row["prompt"][1]["content"] == "What is CCO?"


def test_lone_surrogate_becomes_a_replacement_character(tmp_path: Path) -> None:
    rows = FORMATS["preference"].make_rows([make_pair(make_prompt("What \ud83d?"), "It is \udc00 5.")])
    assert rows[0]["prompt"][1]["content"] == "What \ufffd?"
    assert (
        load_rows("json", write_lines(tmp_path / "a.jsonl", rows), tmp_path)[0]["chosen"][0]["content"]
        == "It is \ufffd 5."
    )


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF"])
def test_image_is_stored_in_its_original_encoding(form: str) -> None:
    original = make_image(picture(noise(), form))
    header, _, text = encode_data_uri(original).partition(",")
    assert header == f"data:image/{form.lower()};base64"
    assert base64.b64decode(text) == original.data


def test_image_of_a_rare_type_is_stored_as_png() -> None:
    assert encode_data_uri(make_image(picture(noise(), "TIFF"))).startswith("data:image/png;base64,")


def test_image_feature_opens_data_uris_with_any_slashes() -> None:
    from datasets import Image

    for seed in range(40):
        media = make_image(picture(noise(8, 8 + seed)) + b"\xff" * seed)  # decoders ignore bytes after the end of a PNG
        assert "//" not in encode_data_uri(media).partition(",")[2]
        opened = Image().decode_example({"path": encode_data_uri(media), "bytes": None})
        assert opened.size == (8 + seed, 8)


@pytest.mark.parametrize(("name", "images"), KINDS)
def test_rows_with_and_without_details_fit_into_one_table(name: str, images: bool, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from flex_judge.alignment.preferences.schema import make_features, make_parquet_table

    answers = ((PNG,), (OTHER,)) if name == "image_pairs" else ("It is 5.", "It is 6.")
    prompts = [make_prompt(PNG, id="a") if images else make_prompt("What?", id="a"), make_prompt("Say.", id="b")]
    rows_with_details, rows_without_details = (
        FORMATS[name].make_rows([make_pair(prompt, *answers, has_details=has_details)], images)
        for prompt, has_details in zip(prompts, (True, False), strict=True)
    )
    # JSON lines, one file each; the first lacks all optional numbers.
    features = make_features(name, images)
    files = [
        write_lines(tmp_path / f"{i}.jsonl", rows) for i, rows in enumerate((rows_without_details, rows_with_details))
    ]
    from_json = load_rows("json", files, tmp_path, features=features)
    # Parquet, one file each, without passing the features.
    for i, rows in enumerate((rows_without_details, rows_with_details)):
        pq.write_table(make_parquet_table(rows, name, images), tmp_path / f"{i}.parquet")
    tables = [pq.read_table(tmp_path / f"{i}.parquet") for i in range(2)]
    assert pa.concat_tables(tables).num_rows == 2 * len(rows_with_details)
    from_parquet = load_rows("parquet", [str(tmp_path / f"{i}.parquet") for i in range(2)], tmp_path)
    assert from_json.features == from_parquet.features == features
    for json_row, parquet_row in zip(from_json, from_parquet, strict=True):
        assert json_row["provenance"] == parquet_row["provenance"]
        assert [i.size for i in json_row.get("images", [])] == [i.size for i in parquet_row.get("images", [])]
    assert from_json[0]["provenance"]["expected_score_chosen"] is None
    assert from_json[len(rows_with_details)]["provenance"]["expected_score_chosen"] == 4.8
    if images:
        assert [len(r["images"]) for r in from_parquet] == [0] * len(rows_with_details) + [1] * len(rows_with_details)
    if name == "image_pairs":
        assert from_parquet[0]["chosen_image"].size == from_json[0]["chosen_image"].size == (60, 40)


@pytest.mark.slow
def test_trl_trainers_accept_the_rows(tmp_path: Path) -> None:
    from tiny_models import tiny_llama
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer, is_conversational

    cases = [(make_prompt(f"What is {n} + 3?", id=f"q{n}"), n % 2 == 0) for n in range(4)]
    model = tiny_llama(tmp_path / "llama")
    tokenizer = AutoTokenizer.from_pretrained(model)
    trainers: dict[str, Any] = {
        "preference": (DPOTrainer, DPOConfig, AutoModelForCausalLM, {}, {"prompt_ids", "chosen_ids", "rejected_ids"}),
        "kto": (KTOTrainer, KTOConfig, AutoModelForCausalLM, {}, {"prompt_ids", "completion_ids", "label"}),
        "reward": (
            RewardTrainer,
            RewardConfig,
            AutoModelForSequenceClassification,
            {"num_labels": 1},
            {"chosen_ids", "rejected_ids"},
        ),
    }
    for name, (trainer, config, architecture, options, columns) in trainers.items():
        rows = []
        for prompt, has_details in cases:
            rows += FORMATS[name].make_rows([make_pair(prompt, has_details=has_details)])
        data = load_rows("json", write_lines(tmp_path / f"{name}.jsonl", rows), tmp_path)
        assert all(map(is_conversational, data))
        run = trainer(
            model=architecture.from_pretrained(model, **options),
            args=config(per_device_train_batch_size=2, **two_steps(tmp_path / name)),
            train_dataset=data,
            processing_class=tokenizer,
        )
        assert columns <= set(run.train_dataset.column_names)
        assert "margin" not in next(iter(run.get_train_dataloader()))
        run.train()


@pytest.mark.slow
def test_trl_trains_an_image_model_on_mixed_rows_with_and_without_features(tmp_path: Path) -> None:
    from tiny_models import tiny_qwen_vl
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from trl import DPOConfig, DPOTrainer

    from flex_judge.alignment.preferences.schema import make_features

    model = tiny_qwen_vl(tmp_path / "qwen")
    prompts = [make_prompt(PNG, "What is it?", id="a"), make_prompt("What is 2 + 3?", id="b")]
    rows = [row for p in prompts for row in FORMATS["preference"].make_rows([make_pair(p)], images=True)]
    file = write_lines(tmp_path / "a.jsonl", rows)
    batches = []
    for options in ({}, {"features": make_features("preference", images=True)}):
        run = DPOTrainer(
            model=AutoModelForImageTextToText.from_pretrained(model),
            args=DPOConfig(per_device_train_batch_size=2, max_length=None, **two_steps(tmp_path / "dpo")),
            train_dataset=load_rows("json", file, tmp_path, **options),
            processing_class=AutoProcessor.from_pretrained(model),
        )
        batches.append(next(iter(run.get_train_dataloader())))
    assert [len(batch["image_grid_thw"]) for batch in batches] == [2, 2]  # the image, for the chosen and the rejected
    assert batches[0]["pixel_values"].equal(batches[1]["pixel_values"])
    run.train()
