"""LoRA adapters on the real engines, with tiny random models of the real architectures."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_engines import VISUAL_REQUESTS, TinyEngines, generate, get_texts
from tiny_models import random_adapter

from flex_judge.judges import EngineConfig
from flex_judge.judges.engines import load_engine
from flex_judge.judges.errors import ModelNotFoundError, UsageError


@pytest.mark.parametrize("model", ["llama", "vl", "omni"])
def test_adapter_changes_replies_and_model_id(model: str, engines: TinyEngines, tmp_path: Path) -> None:
    adapter = str(random_adapter(engines.folder(model), tmp_path / "adapter"))
    requests = VISUAL_REQUESTS[:1] if model == "llama" else VISUAL_REQUESTS
    plain, adapted = engines(model), engines(model, adapter=adapter)
    assert adapted.model_id.startswith(f"{plain.model_id}+{adapter}@")
    assert all(
        a != b
        for a, b in zip(get_texts(generate(plain, *requests)), get_texts(generate(adapted, *requests)), strict=True)
    )


def test_adapter_is_not_merged_into_half_precision_weights(engines: TinyEngines, tmp_path: Path) -> None:
    adapter = str(random_adapter(engines.folder("llama"), tmp_path / "adapter"))
    merged = engines("llama", adapter=adapter)
    apart = engines("llama", adapter=adapter, dtype="bfloat16")
    assert not [name for name, _ in merged.model.named_modules() if "lora" in name]  # type: ignore[attr-defined]
    assert [name for name, _ in apart.model.named_modules() if "lora" in name]  # type: ignore[attr-defined]
    assert generate(apart, VISUAL_REQUESTS[0])[0].token_ids[:2] == generate(merged, VISUAL_REQUESTS[0])[0].token_ids[:2]


def test_adapter_of_another_model_is_rejected(engines: TinyEngines, tmp_path: Path) -> None:
    adapter = random_adapter(engines.folder("vl"), tmp_path / "adapter")
    with pytest.raises(UsageError, match="does not fit the model") as error:
        load_engine(EngineConfig(str(engines.folder("llama")), "transformers", adapter=str(adapter)))
    assert "\n" not in str(error.value)
    with pytest.raises(ModelNotFoundError, match=r"no adapter_config\.json"):
        load_engine(EngineConfig(str(engines.folder("llama")), "transformers", adapter=str(tmp_path)))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["vl", "omni"])
def test_adapter_gives_equal_replies_on_both_engines(
    model: str, engines: TinyEngines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEX_JUDGE_CACHE", str(tmp_path / "cache"))
    adapter = str(random_adapter(engines.folder(model), tmp_path / "adapter", rank=12))
    hf_engine, vllm_engine = engines(model, adapter=adapter), engines(model, "vllm", adapter=adapter)
    assert hf_engine.model_id == vllm_engine.model_id
    assert get_texts(generate(hf_engine, *VISUAL_REQUESTS)) == get_texts(generate(vllm_engine, *VISUAL_REQUESTS))
    assert get_texts(generate(hf_engine, *VISUAL_REQUESTS)) != get_texts(generate(engines(model), *VISUAL_REQUESTS))


@pytest.mark.slow
def test_adapter_of_the_embedded_model_gives_equal_replies_on_both_engines(tmp_path: Path) -> None:
    from flex_judge.judges.models import resolve_model

    adapter = random_adapter(resolve_model("smollm2-135m"), tmp_path / "adapter", alpha=1)
    replies = []
    for name in ("transformers", "vllm"):
        config = EngineConfig("smollm2-135m", name, "float32", str(adapter), max_model_len=512)
        judge = load_engine(config)
        replies.append(generate(judge, ("What is the capital of France?", []))[0])
        judge.close()
    assert replies[0].token_ids == replies[1].token_ids
