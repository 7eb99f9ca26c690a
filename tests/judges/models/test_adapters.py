"""LoRA adapters on the real engines, with tiny random models of the true architectures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_engines import SEEN, TinyEngines, generate, texts
from tiny_models import random_adapter

from flex_judge.judges import EngineConfig
from flex_judge.judges.engines import load_engine
from flex_judge.judges.errors import ModelNotFoundError, UsageError


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyEngines]:
    engines = TinyEngines(tmp_path_factory.mktemp("models"))
    yield engines
    engines.close()


@pytest.mark.parametrize("model", ["llama", "vl", "omni"])
def test_an_adapter_changes_the_replies_and_the_id_of_the_model(
    model: str, engines: TinyEngines, tmp_path: Path
) -> None:
    adapter = str(random_adapter(engines.folder(model), tmp_path / "adapter"))
    requests = SEEN[:1] if model == "llama" else SEEN
    plain, adapted = engines(model), engines(model, adapter=adapter)
    assert adapted.model_id.startswith(f"{plain.model_id}+{adapter}@")
    assert all(
        a != b for a, b in zip(texts(generate(plain, *requests)), texts(generate(adapted, *requests)), strict=True)
    )


def test_an_adapter_is_kept_apart_from_half_precision_weights(engines: TinyEngines, tmp_path: Path) -> None:
    adapter = str(random_adapter(engines.folder("llama"), tmp_path / "adapter"))
    merged = engines("llama", adapter=adapter)
    apart = engines("llama", adapter=adapter, dtype="bfloat16")
    assert not [name for name, _ in merged.model.named_modules() if "lora" in name]  # type: ignore[attr-defined]
    assert [name for name, _ in apart.model.named_modules() if "lora" in name]  # type: ignore[attr-defined]
    assert generate(apart, SEEN[0])[0].token_ids[:2] == generate(merged, SEEN[0])[0].token_ids[:2]


def test_an_adapter_of_another_model_is_refused(engines: TinyEngines, tmp_path: Path) -> None:
    adapter = random_adapter(engines.folder("vl"), tmp_path / "adapter")
    with pytest.raises(UsageError, match="does not fit the model") as error:
        load_engine(EngineConfig(str(engines.folder("llama")), "transformers", adapter=str(adapter)))
    assert "\n" not in str(error.value)
    with pytest.raises(ModelNotFoundError, match=r"no adapter_config\.json"):
        load_engine(EngineConfig(str(engines.folder("llama")), "transformers", adapter=str(tmp_path)))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["vl", "omni"])
def test_an_adapter_does_the_same_on_both_engines(
    model: str, engines: TinyEngines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEX_JUDGE_CACHE", str(tmp_path / "cache"))
    adapter = str(random_adapter(engines.folder(model), tmp_path / "adapter", rank=12))
    one, other = engines(model, adapter=adapter), engines(model, "vllm", adapter=adapter)
    assert one.model_id == other.model_id
    assert texts(generate(one, *SEEN)) == texts(generate(other, *SEEN))
    assert texts(generate(one, *SEEN)) != texts(generate(engines(model), *SEEN))


@pytest.mark.slow
def test_an_adapter_of_the_embedded_model_does_the_same_on_both_engines(tmp_path: Path) -> None:
    from flex_judge.judges.models import resolve_model

    adapter = random_adapter(resolve_model("smollm2-135m"), tmp_path / "adapter", alpha=1)
    replies = []
    for name in ("transformers", "vllm"):
        config = EngineConfig("smollm2-135m", name, "float32", str(adapter), max_model_len=512)
        judge = load_engine(config)
        replies.append(generate(judge, ("What is the capital of France?", []))[0])
        judge.close()
    assert replies[0].token_ids == replies[1].token_ids
