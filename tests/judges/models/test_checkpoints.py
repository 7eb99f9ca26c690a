"""A checkpoint as engines open it: family, context, where a turn ends, and what identifies it with its adapter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lazy import lazy
from tiny_models import CONTEXT, random_adapter, tiny_llama, tiny_qwen_omni, tiny_qwen_vl

from flex_judge.judges.engines.vllm.inputs import build_adapter_arguments
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


def opened(folder: Path, model: str, adapter: str | None = None) -> Checkpoint:
    return open_checkpoint(str(folder / model), str(folder / adapter) if adapter else None)


def names(file: Path) -> set[str]:
    with safe_open(file, "np") as weights:
        return set(weights.keys())


def ends(checkpoint: Checkpoint) -> set[str]:
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
def test_a_checkpoint_is_known_by_its_files(folder: Path, model: str, profile: str, stops: set[str]) -> None:
    checkpoint = opened(folder, model)
    assert checkpoint.profile.name == profile
    assert ends(checkpoint) == stops
    assert checkpoint.context == CONTEXT
    assert (checkpoint.limit_context(512), checkpoint.limit_context(10**6)) == (512, CONTEXT)
    assert checkpoint.adapter is None
    assert checkpoint.model_id.startswith(f"{folder / model}@")


def test_a_turn_ends_where_the_checkpoint_says_too(folder: Path) -> None:
    own = tiny_llama(folder / "own ends")
    extra = opened(folder, "own ends").tokenizer.convert_tokens_to_ids("<|python_tag|>")
    (own / "generation_config.json").write_text(json.dumps({"eos_token_id": [extra]}))
    assert "<|python_tag|>" in ends(opened(folder, "own ends"))
    (own / "generation_config.json").unlink()
    assert "<|eot_id|>" in ends(opened(folder, "own ends"))


def test_an_adapter_is_part_of_a_models_identity(folder: Path) -> None:
    plain, adapted = opened(folder, "vl"), opened(folder, "vl", "adapter-vl")
    assert adapted.model_id.startswith(f"{plain.model_id}+{folder / 'adapter-vl'}@")
    random_adapter(folder / "vl", folder / "another", seed=1)
    other = opened(folder, "vl", "another")
    assert other.model_id.rpartition("@")[2] != adapted.model_id.rpartition("@")[2]


def test_a_folder_without_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no adapter_config\.json, so it is not a LoRA adapter"):
        resolve_adapter(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelNotFoundError, match=r"no adapter_model\.safetensors"):
        resolve_adapter(str(tmp_path))
    with pytest.raises(ModelNotFoundError, match="adapter 'no such adapter' is no folder") as error:
        resolve_adapter("no such adapter")
    assert "\n" not in str(error.value)


def test_an_adapter_fits_the_model_it_was_made_for_and_no_other(folder: Path) -> None:
    check_adapter(opened(folder, "vl"))
    check_adapter(opened(folder, "vl", "adapter-vl"))
    for model in ("omni", "thinker"):
        check_adapter(opened(folder, model, "adapter-thinker"))
    with pytest.raises(UsageError, match=r"the model has no module 'model\.language_model\.layers\.0"):
        check_adapter(opened(folder, "llama", "adapter-vl"))


def test_an_adapter_of_another_size_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tiny_models

    with monkeypatch.context() as wider:
        wider.setattr(tiny_models, "HIDDEN", 256)
        tiny_llama(folder / "wide")
    random_adapter(folder / "wide", folder / "adapter-wide")
    with pytest.raises(UsageError, match="is of another size than the module"):
        check_adapter(opened(folder, "llama", "adapter-wide"))


def test_vllm_makes_room_for_the_rank_of_an_adapter(folder: Path) -> None:
    assert build_adapter_arguments(opened(folder, "vl")) == {}
    assert build_adapter_arguments(opened(folder, "vl", "adapter-vl"))["max_lora_rank"] == 16


def test_vllm_is_not_given_an_adapter_of_the_encoders(folder: Path) -> None:
    everywhere = r".*layers\..*\.(q_proj|v_proj)"
    random_adapter(folder / "thinker", folder / "deaf", layers=everywhere)
    assert any(name.startswith("audio_tower.") for name in read_adapter_shapes(folder / "deaf"))
    with pytest.raises(UsageError, match="use --engine transformers"):
        build_adapter_arguments(opened(folder, "thinker", "deaf"))


def test_a_thinker_and_its_adapter_are_written_once_in_the_form_that_vllm_takes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEX_JUDGE_CACHE", str(tmp_path))
    thinker, whole = opened(folder, "thinker", "adapter-thinker"), opened(folder, "omni", "adapter-thinker")
    written, adapter = resolve_omni_model(thinker), resolve_omni_adapter(thinker)
    assert resolve_omni_model(whole) == whole.path
    assert adapter is not None
    assert adapter == resolve_omni_adapter(whole)
    assert written.parent == adapter.parent == tmp_path
    times = [p.stat().st_mtime_ns for p in (written, adapter)]
    assert (resolve_omni_model(thinker), resolve_omni_adapter(thinker)) == (written, adapter)
    assert [p.stat().st_mtime_ns for p in (written, adapter)] == times
    assert open_checkpoint(str(written)).config == {k: v for k, v in thinker.config.items() if k != "architectures"}
    whole_names = names(whole.path / "model.safetensors")
    assert names(written / "model.safetensors") == {name for name in whole_names if name.startswith("thinker.")}
    adapted = names(adapter / "adapter_model.safetensors")
    assert all(name.startswith("base_model.model.thinker.model.layers.") for name in adapted)


def test_other_models_and_their_adapters_are_used_as_they_are(folder: Path) -> None:
    checkpoint = opened(folder, "vl", "adapter-vl")
    assert resolve_omni_model(checkpoint) == checkpoint.path
    assert resolve_omni_adapter(checkpoint) == checkpoint.adapter
    assert resolve_omni_adapter(opened(folder, "vl")) is None
