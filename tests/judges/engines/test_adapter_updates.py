"""Other LoRA adapters on a running engine: their replies, model ids and prefix caches are never mixed."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from scripts import adapted_judge
from tiny_engines import GREEDY, TinyEngines, encode_request, generate, get_texts
from tiny_models import random_adapter

from flex_judge.judges import Comparison, EngineConfig, FlexJudge, JudgeSettings
from flex_judge.judges.engines import Engine, Generation, load_engine
from flex_judge.judges.engines.adapters import load_adapter
from flex_judge.judges.engines.recording.ledger import Ledger
from flex_judge.judges.engines.recording.recording import RecordingEngine
from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.judges.errors import AdapterError, EngineLostError, ModelNotFoundError, UsageError

TEXT = "the same long prompt for every adapter, which fills several blocks of a prefix cache " * 3
ENGINES = ["transformers", pytest.param("vllm", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def adapters(engines: TinyEngines, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    base = tmp_path_factory.mktemp("adapters")
    return [str(random_adapter(engines.folder("llama"), base / f"step-{i}", seed=i)) for i in range(3)]


def load(engine: Engine, adapter: str, name: str | None = None) -> Engine:
    return asyncio.run(load_adapter(engine, adapter, name))


def write_folder(folder: Path, content: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(content)
    (folder / "adapter_model.safetensors").write_text("")
    return str(folder)


@pytest.mark.parametrize(
    ("name", "first"),
    [("transformers", True), ("transformers", False), pytest.param("vllm", True, marks=pytest.mark.slow)],
)
def test_each_adapter_gives_its_own_replies_side_by_side(
    name: str, first: bool, engines: TinyEngines, adapters: list[str]
) -> None:
    alone = [get_texts(generate(engines("llama", adapter=a), (TEXT, [])))[0] for a in adapters]
    start = alone[0] if first else get_texts(generate(engines("llama"), (TEXT, [])))[0]
    assert len({start, *alone[1:]}) == 3
    engine = engines("llama", name, adapter=adapters[0] if first else None, max_adapter_rank=8)
    second, third = load(engine, adapters[1]), load(engine, adapters[2], "third")

    async def generate_all() -> list[Generation]:
        ids = encode_request(engine, TEXT)
        return await asyncio.gather(*(e.generate(ids, GREEDY) for e in (engine, second, engine, second)))

    for _ in range(2):
        assert get_texts(asyncio.run(generate_all())) == [start, alone[1], start, alone[1]]
    assert get_texts(generate(third, (TEXT, []))) == [alone[2]]
    ids = {engine.model_id, second.model_id, third.model_id}
    assert len(ids) == 3
    assert "+step-1@" in second.model_id
    assert "+third@" in third.model_id
    assert second.model_id.partition("+")[0] == engine.model_id.partition("+")[0]
    second.close()
    with pytest.raises(EngineLostError, match=r"step-1.* was closed"):
        generate(second, (TEXT, []))
    third.close()
    assert get_texts(generate(engine, (TEXT, []))) == [start]
    again = load(engine, adapters[1])
    assert get_texts(generate(again, (TEXT, []))) == [alone[1]]
    again.close()


@pytest.mark.slow
def test_vllm_on_a_cpu_needs_an_adapter_from_the_start(engines: TinyEngines) -> None:
    with pytest.raises(UsageError, match="applies one to requests without an adapter too; start with an adapter"):
        engines("llama", "vllm", max_adapter_rank=8)


@pytest.mark.slow
def test_prefix_caches_of_adapters_are_separate_even_of_one_folder(
    engines: TinyEngines, adapters: list[str], tmp_path: Path
) -> None:
    engine = engines("llama", "vllm", adapter=adapters[0], max_adapter_rank=8)
    folder = tmp_path / "latest"
    shutil.copytree(adapters[1], folder)
    earlier = load(engine, str(folder), "latest")
    assert generate(earlier, (TEXT, []))[0].cached_tokens == 0
    assert generate(earlier, (TEXT, []))[0].cached_tokens > 0
    shutil.rmtree(folder)
    shutil.copytree(adapters[2], folder)
    later = load(engine, str(folder), "latest")
    reply = generate(later, (TEXT, []))[0]
    assert reply.cached_tokens == 0
    assert reply.text == get_texts(generate(engines("llama", adapter=adapters[2]), (TEXT, [])))[0]
    assert earlier.model_id != later.model_id


@pytest.mark.parametrize("name", ENGINES)
def test_an_adapter_that_does_not_fit_leaves_the_engine_as_it_is(
    name: str, engines: TinyEngines, adapters: list[str], tmp_path: Path
) -> None:
    engine = engines("llama", name, adapter=adapters[0], max_adapter_rank=8)
    before = get_texts(generate(engine, (TEXT, [])))
    other = random_adapter(engines.folder("vl"), tmp_path / "other")
    damaged = shutil.copytree(adapters[1], tmp_path / "damaged")
    (damaged / "adapter_model.safetensors").write_bytes(b"no tensors")
    for folder, reason in ((other, "does not fit the model"), (damaged, "'damaged'")):
        with pytest.raises(AdapterError, match=reason):
            load(engine, str(folder))
    if name == "vllm":
        wide = random_adapter(engines.folder("llama"), tmp_path / "wide", rank=12)
        with pytest.raises(AdapterError, match=r"rank 12 is above the 8 that .* raise max_adapter_rank"):
            load(engine, str(wide))
    with pytest.raises(ModelNotFoundError, match=r"no adapter_config\.json"):
        load(engine, str(tmp_path))
    assert get_texts(generate(engine, (TEXT, []))) == before


def test_engines_that_cannot_load_adapters_say_so(engines: TinyEngines, adapters: list[str], tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"started without max_adapter_rank; set it"):
        load(engines("llama"), adapters[0])
    with pytest.raises(AdapterError, match="script of the scripted engine takes no adapters"):
        load(ScriptedEngine(lambda *_: ""), adapters[0])
    path = str(tmp_path / "ledger.sqlite")
    RecordingEngine(ScriptedEngine(lambda *_: ""), Ledger(path)).close()
    replay = load_engine(EngineConfig(path, "replay"))
    with pytest.raises(AdapterError, match="engine cannot load an adapter while it runs; use vllm or"):
        load(replay, adapters[0])


def test_a_folder_that_changed_is_not_loaded(tmp_path: Path) -> None:
    engine = ScriptedEngine(adapted_judge)
    folder = write_folder(tmp_path / "step", '{"score": 2}')
    fingerprint = load(engine, folder).model_id.rpartition("@")[2]
    asyncio.run(load_adapter(engine, folder, None, fingerprint))
    write_folder(tmp_path / "step", '{"score": 3}')
    with pytest.raises(AdapterError, match=f"expected {fingerprint}; give each version of an adapter a folder"):
        asyncio.run(load_adapter(engine, folder, None, fingerprint))


def test_a_ledger_keeps_the_generations_of_adapters_apart(tmp_path: Path) -> None:
    engine = RecordingEngine(ScriptedEngine(adapted_judge), Ledger(str(tmp_path / "ledger.sqlite")))
    first = FlexJudge(engine, JudgeSettings(max_think_tokens=400, max_answer_tokens=64))
    second = first.load_adapter(write_folder(tmp_path / "step-2", '{"score": 2}'), "tuned")
    comparison = Comparison.of("Question?", "answer", rubric="correctness")
    for _ in range(2):
        judgments = [judge.judge([comparison])[0] for judge in (first, second)]
        assert [j.scores for j in judgments] == [(1.0,), (2.0,)]
        assert judgments[0].model == "scripted"
        assert judgments[1].model.startswith("scripted+tuned@")
        assert judgments[0].provenance["key"] != judgments[1].provenance["key"]
    assert len(engine.ledger.list_models()) == 2
    second.close()
    assert first.judge([comparison])[0].scores == (1.0,)
    first.close()
