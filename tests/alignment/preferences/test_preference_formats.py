"""Formats of preference data: rows that fit together however they are split, and that data sets and trainers load."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from clips import noise, picture
from training import two_steps

from flex_judge.alignment.data.image_uris import encode_data_uri
from flex_judge.alignment.data.rows import PromptRow
from flex_judge.alignment.preferences import FORMATS, Pair, Side
from flex_judge.judges import Message, UsageError
from flex_judge.judges.media.opening import make_audio, make_image, make_molecule
from flex_judge.judges.types import Content

PNG = make_image(picture(noise(40, 60)))
OTHER = make_image(picture(noise(30, 30)))
KINDS = [(name, images) for name, f in FORMATS.items() for images in (False, True) if f.takes_images or not images]


def row(*content: Any, id: str = "q1") -> PromptRow:
    asked: Content = content[0] if len(content) == 1 and isinstance(content[0], str) else content
    return PromptRow(id, (Message("system", "Be brief."), Message("user", asked)), where="prompts.jsonl, line 3")


def pair(prompt: PromptRow, chosen: Any = "It is 5.", rejected: Any = "It is 6.", known: bool = True) -> Pair:
    """A pair, with or without what an engine may not tell."""
    finer, temperature = (4.8, 0.8) if known else (None, None)
    high = Side(1, chosen, 5, finer, "right", temperature)
    low = Side(0, rejected, 2, finer and 2.25, "", temperature)
    return Pair(prompt, high, low, "highest_lowest", 2, 0.0, "general", "judge@1", "policy@1")


def lines(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def load(builder: str, files: Any, cache: Path, **options: Any) -> Any:
    from datasets import load_dataset

    return load_dataset(builder, data_files=files, split="train", cache_dir=str(cache / "cache"), **options)


def test_a_preference_row_for_text_models_has_text() -> None:
    (made,) = FORMATS["preference"].make_rows([pair(row("What is 2 + 3?"))])
    assert made["prompt"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 2 + 3?"},
    ]
    assert made["chosen"] == [{"role": "assistant", "content": "It is 5."}]
    assert made["rejected"] == [{"role": "assistant", "content": "It is 6."}]
    assert "images" not in made
    assert (made["score_chosen"], made["score_rejected"], made["margin"]) == (5.0, 2.0, 3.0)
    assert made["judge_reasoning"] == {"chosen": "right", "rejected": ""}
    assert made["provenance"]["policy"] == "policy@1"
    assert isinstance(made["score_chosen"], float)


def test_a_preference_row_for_models_that_see_has_parts_and_images_in_their_order() -> None:
    asked = row("Compare ", PNG, "with", OTHER, "in ", "short.")
    (made,) = FORMATS["preference"].make_rows([pair(asked)], images=True)
    assert made["prompt"][1]["content"] == [
        {"type": "text", "text": "Compare "},
        {"type": "image", "text": ""},
        {"type": "text", "text": "with"},
        {"type": "image", "text": ""},
        {"type": "text", "text": "in short."},
    ]
    assert made["chosen"] == [{"role": "assistant", "content": [{"type": "text", "text": "It is 5."}]}]
    assert made["images"] == [encode_data_uri(PNG), encode_data_uri(OTHER)]
    (text,) = FORMATS["preference"].make_rows([pair(row("What?"))], images=True)
    assert text["images"] == []
    assert text.keys() == made.keys()


def test_of_kto_rows_there_is_one_for_each_answer_that_is_on_one_side_only() -> None:
    asked, best, middle, worst = row("What?"), *(Side(i, f"answer {i}", 9 - i, None, "") for i in range(3))
    pairs = [
        replace(pair(asked), chosen=high, rejected=low)
        for high, low in ((best, middle), (best, worst), (middle, worst))
    ]
    made = FORMATS["kto"].make_rows(pairs)
    assert [(r["completion"][0]["content"], r["label"]) for r in made] == [("answer 0", True), ("answer 2", False)]
    assert [r["margin"] for r in made] == [1, 2]
    assert not {"chosen", "rejected"} & made[0].keys()


def test_rows_of_the_reward_format_are_conversations_without_a_margin_for_the_loss() -> None:
    (made,) = FORMATS["reward"].make_rows([pair(row("What?"))])
    assert [m["role"] for m in made["chosen"]] == ["system", "user", "assistant"]
    assert made["rejected"][-1]["content"] == "It is 6."
    assert made["score_margin"] == 3
    assert not {"prompt", "margin"} & made.keys()


def test_images_that_were_compared_have_a_form_of_their_own() -> None:
    (made,) = FORMATS["image_pairs"].make_rows([pair(row("A red square."), (PNG,), (OTHER, " "))])
    assert (made["chosen_image"], made["rejected_image"]) == (encode_data_uri(PNG), encode_data_uri(OTHER))
    assert made["prompt"][1]["content"] == "A red square."
    (edit,) = FORMATS["image_pairs"].make_rows([pair(row(PNG, "Make it green."), (PNG,), (OTHER,))], images=True)
    assert edit["images"] == [encode_data_uri(PNG)]
    with pytest.raises(UsageError, match=r"line 3: format 'image_pairs' is for answers of one image, got 'a red one'"):
        FORMATS["image_pairs"].make_rows([pair(row("A red square."), "a red one", (OTHER,))])


def test_what_a_format_has_no_place_for_is_named() -> None:
    sound = make_audio(noise().astype("float32").mean(axis=(1, 2)) / 255, rate=16_000)
    with pytest.raises(UsageError, match="line 3: has an image, and the data set is made for text models"):
        FORMATS["preference"].make_rows([pair(row(PNG, "What?"))])
    with pytest.raises(UsageError, match=r"line 3: has a part of type audio, for which TRL's formats have no place"):
        FORMATS["preference"].make_rows([pair(row(sound, "What?"))], images=True)
    with pytest.raises(UsageError, match=r"has media, .* use the format 'image_pairs'"):
        FORMATS["preference"].make_rows([pair(row("What?"), (PNG,), (OTHER,))], images=True)
    with pytest.raises(UsageError, match=r"format 'reward' is for text alone, as is TRL's RewardTrainer"):
        FORMATS["reward"].make_rows([], images=True)


def test_a_molecule_is_its_smiles_as_the_policy_read_it() -> None:
    (made,) = FORMATS["preference"].make_rows([pair(row("What is ", make_molecule("CCO"), "?"))])
    assert made["prompt"][1]["content"] == "What is CCO?"


def test_half_a_surrogate_pair_becomes_a_character_that_arrow_can_hold(tmp_path: Path) -> None:
    made = FORMATS["preference"].make_rows([pair(row("What \ud83d?"), "It is \udc00 5.")])
    assert made[0]["prompt"][1]["content"] == "What \ufffd?"
    assert load("json", lines(tmp_path / "a.jsonl", made), tmp_path)[0]["chosen"][0]["content"] == "It is \ufffd 5."


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF"])
def test_an_image_is_stored_as_the_file_it_was(form: str) -> None:
    original = make_image(picture(noise(), form))
    header, _, text = encode_data_uri(original).partition(",")
    assert header == f"data:image/{form.lower()};base64"
    assert base64.b64decode(text) == original.data


def test_an_image_of_a_kind_that_some_loaders_cannot_open_is_stored_as_png() -> None:
    assert encode_data_uri(make_image(picture(noise(), "TIFF"))).startswith("data:image/png;base64,")


def test_the_image_feature_opens_every_data_uri_whatever_slashes_it_has() -> None:
    from datasets import Image

    for seed in range(40):
        media = make_image(
            picture(noise(8, 8 + seed)) + b"\xff" * seed
        )  # what follows the end of a PNG is not looked at
        assert "//" not in encode_data_uri(media).partition(",")[2]
        opened = Image().decode_example({"path": encode_data_uri(media), "bytes": None})
        assert opened.size == (8 + seed, 8)


@pytest.mark.parametrize(("name", "images"), KINDS)
def test_rows_of_different_kinds_fit_into_one_table(name: str, images: bool, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from flex_judge.alignment.preferences.schema import make_features, make_parquet_table

    answers = ((PNG,), (OTHER,)) if name == "image_pairs" else ("It is 5.", "It is 6.")
    prompts = [row(PNG, id="a") if images else row("What?", id="a"), row("Say.", id="b")]
    known, unknown = (
        FORMATS[name].make_rows([pair(prompt, *answers, known=known)], images)
        for prompt, known in zip(prompts, (True, False), strict=True)
    )
    # As JSON lines, a file each; the first has none of the numbers that may be missing.
    wanted = make_features(name, images)
    files = [lines(tmp_path / f"{i}.jsonl", rows) for i, rows in enumerate((unknown, known))]
    from_json = load("json", files, tmp_path, features=wanted)
    # As Parquet, a file each, types not told.
    for i, rows in enumerate((unknown, known)):
        pq.write_table(make_parquet_table(rows, name, images), tmp_path / f"{i}.parquet")
    tables = [pq.read_table(tmp_path / f"{i}.parquet") for i in range(2)]
    assert pa.concat_tables(tables).num_rows == 2 * len(known)
    from_parquet = load("parquet", [str(tmp_path / f"{i}.parquet") for i in range(2)], tmp_path)
    assert from_json.features == from_parquet.features == wanted
    for one, other in zip(from_json, from_parquet, strict=True):
        assert one["provenance"] == other["provenance"]
        assert [i.size for i in one.get("images", [])] == [i.size for i in other.get("images", [])]
    assert from_json[0]["provenance"]["expected_score_chosen"] is None
    assert from_json[len(known)]["provenance"]["expected_score_chosen"] == 4.8
    if images:
        assert [len(r["images"]) for r in from_parquet] == [0] * len(known) + [1] * len(known)
    if name == "image_pairs":
        assert from_parquet[0]["chosen_image"].size == from_json[0]["chosen_image"].size == (60, 40)


@pytest.mark.slow
def test_trainers_of_trl_take_the_rows(tmp_path: Path) -> None:
    from tiny_models import tiny_llama
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer, is_conversational

    cases = [(row(f"What is {n} + 3?", id=f"q{n}"), n % 2 == 0) for n in range(4)]
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
        rows = [made for prompt, known in cases for made in FORMATS[name].make_rows([pair(prompt, known=known)])]
        data = load("json", lines(tmp_path / f"{name}.jsonl", rows), tmp_path)
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
def test_trl_trains_a_model_that_sees_on_a_mixed_set_whether_or_not_the_features_are_told(tmp_path: Path) -> None:
    from tiny_models import tiny_qwen_vl
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from trl import DPOConfig, DPOTrainer

    from flex_judge.alignment.preferences.schema import make_features

    model = tiny_qwen_vl(tmp_path / "qwen")
    prompts = [row(PNG, "What is it?", id="a"), row("What is 2 + 3?", id="b")]
    rows = [made for p in prompts for made in FORMATS["preference"].make_rows([pair(p)], images=True)]
    file = lines(tmp_path / "a.jsonl", rows)
    batches = []
    for told in ({}, {"features": make_features("preference", images=True)}):
        run = DPOTrainer(
            model=AutoModelForImageTextToText.from_pretrained(model),
            args=DPOConfig(per_device_train_batch_size=2, max_length=None, **two_steps(tmp_path / "dpo")),
            train_dataset=load("json", file, tmp_path, **told),
            processing_class=AutoProcessor.from_pretrained(model),
        )
        batches.append(next(iter(run.get_train_dataloader())))
    assert [len(batch["image_grid_thw"]) for batch in batches] == [2, 2]  # the image, for the chosen and the rejected
    assert batches[0]["pixel_values"].equal(batches[1]["pixel_values"])
    run.train()
