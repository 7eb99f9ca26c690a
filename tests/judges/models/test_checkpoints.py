"""Checkpoint metadata: family, context length, stop tokens, model id and adapter checks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lazy import lazy
from tiny_models import CONTEXT, random_adapter, tiny_llama, tiny_qwen_omni, tiny_qwen_vl

from flex_judge.judges.engines.vllm.adapters import build_adapter_arguments
from flex_judge.judges.errors import ModelNotFoundError, UsageError
from flex_judge.judges.models import resolve_adapter
from flex_judge.judges.models.adapters import check_adapter, read_adapter_shapes
from flex_judge.judges.models.checkpoints import Checkpoint, open_checkpoint
from flex_judge.judges.models.omni import resolve_omni_adapter, resolve_omni_model

safe_open = lazy("safetensors", "safe_open")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("models")
    tiny_qwen_vl(base / "vl")
    tiny_qwen_omni(base / "omni")
    tiny_qwen_omni(base / "thinker", whole=False)
    tiny_llama(base / "llama")
    random_adapter(base / "vl", base / "adapter-vl", rank=12)
    random_adapter(base / "thinker", base / "adapter-thinker")
    return base


def open_in(folder: Path, model: str, adapter: str | None = None) -> Checkpoint:
    return open_checkpoint(str(folder / model), str(folder / adapter) if adapter else None)


def read_weight_names(file: Path) -> set[str]:
    with safe_open(file, "np") as weights:
        return set(weights.keys())


def get_stop_tokens(checkpoint: Checkpoint) -> set[str]:
    return set(checkpoint.tokenizer.convert_ids_to_tokens(sorted(checkpoint.stop_ids)))


@pytest.mark.parametrize(
    ("model", "profile", "stops"),
    [
        ("vl", "flex-vl", {"<|im_end|>", "<|endoftext|>"}),
        ("omni", "flex-omni", {"<|im_end|>", "<|endoftext|>"}),
        ("thinker", "flex-omni", {"<|im_end|>", "<|endoftext|>"}),
        ("llama", "flex-llama", {"<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"}),
    ],
)
def test_checkpoint_family_is_detected_from_its_files(folder: Path, model: str, profile: str, stops: set[str]) -> None:
    checkpoint = open_in(folder, model)
    assert checkpoint.profile.name == profile
    assert get_stop_tokens(checkpoint) == stops
    assert checkpoint.context == CONTEXT
    assert (checkpoint.limit_context(512), checkpoint.limit_context(10**6)) == (512, CONTEXT)
    assert checkpoint.adapter is None
    assert checkpoint.model_id.startswith(f"{folder / model}@")


def test_stop_tokens_include_the_checkpoints_own(folder: Path) -> None:
    llama = tiny_llama(folder / "own ends")
    extra = open_in(folder, "own ends").tokenizer.convert_tokens_to_ids("<|python_tag|>")
    (llama / "generation_config.json").write_text(json.dumps({"eos_token_id": [extra]}))
    assert "<|python_tag|>" in get_stop_tokens(open_in(folder, "own ends"))
    (llama / "generation_config.json").unlink()
    assert "<|eot_id|>" in get_stop_tokens(open_in(folder, "own ends"))


def test_model_id_includes_the_adapter(folder: Path) -> None:
    plain, adapted = open_in(folder, "vl"), open_in(folder, "vl", "adapter-vl")
    assert adapted.model_id.startswith(f"{plain.model_id}+{folder / 'adapter-vl'}@")
    random_adapter(folder / "vl", folder / "another", seed=1)
    other = open_in(folder, "vl", "another")
    assert other.model_id.rpartition("@")[2] != adapted.model_id.rpartition("@")[2]


def test_folder_without_an_adapter_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no adapter_config\.json; name the folder of a LoRA adapter"):
        resolve_adapter(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelNotFoundError, match=r"no adapter_model\.safetensors"):
        resolve_adapter(str(tmp_path))
    with pytest.raises(ModelNotFoundError, match="adapter 'no such adapter' is no folder") as error:
        resolve_adapter("no such adapter")
    assert "\n" not in str(error.value)


def test_adapter_fits_only_its_own_model(folder: Path) -> None:
    check_adapter(open_in(folder, "vl"))
    check_adapter(open_in(folder, "vl", "adapter-vl"))
    for model in ("omni", "thinker"):
        check_adapter(open_in(folder, model, "adapter-thinker"))
    with pytest.raises(UsageError, match=r"the model has no module 'model\.language_model\.layers\.0"):
        check_adapter(open_in(folder, "llama", "adapter-vl"))


def test_adapter_of_another_size_is_rejected(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tiny_models

    with monkeypatch.context() as wider:
        wider.setattr(tiny_models, "HIDDEN", 256)
        tiny_llama(folder / "wide")
    random_adapter(folder / "wide", folder / "adapter-wide")
    with pytest.raises(UsageError, match=r"has shape .*, expected size"):
        check_adapter(open_in(folder, "llama", "adapter-wide"))


def test_vllm_arguments_cover_the_adapter_rank(folder: Path) -> None:
    assert build_adapter_arguments(open_in(folder, "vl")) == {}
    assert build_adapter_arguments(open_in(folder, "vl", "adapter-vl"))["max_lora_rank"] == 16


def test_vllm_rejects_an_adapter_of_the_encoders(folder: Path) -> None:
    everywhere = r".*layers\..*\.(q_proj|v_proj)"
    random_adapter(folder / "thinker", folder / "deaf", layers=everywhere)
    assert any(name.startswith("audio_tower.") for name in read_adapter_shapes(folder / "deaf"))
    with pytest.raises(UsageError, match="use --engine transformers"):
        build_adapter_arguments(open_in(folder, "thinker", "deaf"))


def test_thinker_and_adapter_are_converted_once_for_vllm(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEX_JUDGE_CACHE", str(tmp_path))
    thinker, complete = open_in(folder, "thinker", "adapter-thinker"), open_in(folder, "omni", "adapter-thinker")
    written, adapter = resolve_omni_model(thinker), resolve_omni_adapter(thinker)
    assert resolve_omni_model(complete) == complete.path
    assert adapter is not None
    assert adapter == resolve_omni_adapter(complete)
    assert written.parent == adapter.parent == tmp_path
    times = [p.stat().st_mtime_ns for p in (written, adapter)]
    assert (resolve_omni_model(thinker), resolve_omni_adapter(thinker)) == (written, adapter)
    assert [p.stat().st_mtime_ns for p in (written, adapter)] == times
    assert open_checkpoint(str(written)).config == {k: v for k, v in thinker.config.items() if k != "architectures"}
    complete_names = read_weight_names(complete.path / "model.safetensors")
    assert read_weight_names(written / "model.safetensors") == {
        name for name in complete_names if name.startswith("thinker.")
    }
    adapted = read_weight_names(adapter / "adapter_model.safetensors")
    assert all(name.startswith("base_model.model.thinker.model.layers.") for name in adapted)


def test_other_models_and_adapters_are_not_converted(folder: Path) -> None:
    checkpoint = open_in(folder, "vl", "adapter-vl")
    assert resolve_omni_model(checkpoint) == checkpoint.path
    assert resolve_omni_adapter(checkpoint) == checkpoint.adapter
    assert resolve_omni_adapter(open_in(folder, "vl")) is None
