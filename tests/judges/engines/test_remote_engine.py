"""The remote engine and a server that works: requests, replies, identity and what it refuses at the start."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_service import hang
from model_server import ModelServer, reply, write_checkpoint
from scripts import SETTINGS

from flex_judge.judges import Comparison, EngineConfig, FlexJudge, Status
from flex_judge.judges.engines import Engine, Sampling, check_engine, load_engine, resolve_engine
from flex_judge.judges.engines.scripted import ScriptedEngine, build_byte_tokenizer
from flex_judge.judges.errors import (
    AccessError,
    EngineLostError,
    EngineUnavailableError,
    MediaError,
    ModelNotFoundError,
    ServiceUnavailableError,
    UsageError,
)
from flex_judge.judges.media.prepared import PreparedMedia
from flex_judge.judges.media.types import Modality

PAIRS = [Comparison.of(f"What is {i} + 3?", f"It is {i + 3}.", "It is 6.", id=str(i)) for i in range(6)]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ModelServer]:
    with ModelServer(write_checkpoint(tmp_path / "judge")) as server:
        yield server


def load(server: ModelServer, **settings: Any) -> Engine:
    return load_engine(EngineConfig(server.model, **settings))


def continue_text(engine: Engine, text: str, sampling: Sampling) -> Any:
    return asyncio.run(engine.generate(engine.tokenizer.encode(text), sampling))


def test_judgments_equal_those_of_an_engine_in_this_process(server: ModelServer) -> None:
    remote, local = FlexJudge(load(server), SETTINGS), FlexJudge(ScriptedEngine(reply), SETTINGS)
    judgments = remote.judge(PAIRS)
    expected = local.judge(PAIRS)
    remote.close()
    assert [j.status for j in judgments] == [Status.OK] * len(PAIRS)
    for name in ("scores", "expected_scores", "reasoning"):
        assert [getattr(j, name) for j in judgments] == [getattr(j, name) for j in expected]
    assert [body["prompt"] for body in server.bodies[3:]] == [list(prompt) for prompt, _ in server.engine.given[3:]]
    assert judgments[0].usage.cached_tokens % 5 == 0 < judgments[0].usage.cached_tokens


def test_a_request_states_every_sampling_parameter(server: ModelServer) -> None:
    engine = load(server)
    sampling = Sampling(9, 0.7, 0.9, stop=("b",), regex="a+b", logprob_token_ids=(3, 4), seed=7)
    server.engine.script = lambda prompt, sampling: "aab"
    generation = continue_text(engine, "a", sampling)
    body = server.bodies[-1]
    assert (generation.text, generation.finish_reason, len(generation.logprobs)) == ("aab", "stop", 3)
    assert set(generation.logprobs[0]) == {3, 4}
    assert body == {
        "model": "judge",
        "prompt": engine.tokenizer.encode("a"),
        "max_tokens": 9,
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "stop": ["b"],
        "stop_token_ids": [257],
        "include_stop_str_in_output": True,
        "skip_special_tokens": False,
        "return_token_ids": True,
        "seed": 7,
        "structured_outputs": {"regex": "a+b"},
        "logprobs": 0,
        "logprob_token_ids": [3, 4],
        "return_tokens_as_token_ids": True,
    }


def test_placeholder_tokens_are_never_generated(tmp_path: Path) -> None:
    folder = tmp_path / "vl"
    marks = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    build_byte_tokenizer(marks).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2_5_vl"}))
    with ModelServer(folder) as server:
        server.engine.tokenizer = build_byte_tokenizer(marks)
        engine = load(server)
        continue_text(engine, "a", Sampling(3))
        engine.close()
    pads = engine.tokenizer.convert_tokens_to_ids(["<|image_pad|>", "<|video_pad|>"])
    assert server.bodies[-1]["logit_bias"] == {str(token): -100.0 for token in pads}


def test_finish_reasons(server: ModelServer) -> None:
    engine = load(server)
    server.engine.script = lambda prompt, sampling: "abcdef"
    assert continue_text(engine, "a", Sampling(7)).finish_reason == "eos"
    assert continue_text(engine, "a", Sampling(7)).text == "abcdef"
    assert continue_text(engine, "a", Sampling(3)).finish_reason == "length"
    assert continue_text(engine, "a", Sampling(3)).text == "abc"


def test_provenance_says_what_is_known_of_the_server(server: ModelServer, tmp_path: Path) -> None:
    judge = FlexJudge(load(server, ledger=str(tmp_path / "ledger.sqlite")), SETTINGS)
    judgment = judge.judge(PAIRS[:1])[0]
    judge.close()
    weights = f"not verified: the server names {server.root}"
    assert judgment.provenance["server"] == {
        "url": server.url,
        "level": "tokens",
        "software": "vllm 0.32.0",
        "weights": weights,
    }
    assert judgment.provenance["engine"] == "remote"
    assert judgment.model.startswith("judge@")
    replayed = FlexJudge(load_engine(EngineConfig(str(tmp_path / "ledger.sqlite"), "replay")), SETTINGS)
    assert replayed.judge(PAIRS[:1])[0].scores == judgment.scores


def test_the_model_id_changes_with_the_weights(server: ModelServer) -> None:
    ids = [load(server).model_id]
    for content in (b"one", b"two"):
        (Path(server.root) / "model.safetensors").write_bytes(content)
        ids.append(load(server).model_id)
    assert len(set(ids)) == 3


def test_the_context_is_that_of_the_server(server: ModelServer) -> None:
    assert load(server).max_model_len == 4096
    assert load(server, max_model_len=512).max_model_len == 512


def test_auto_selects_remote_for_an_address() -> None:
    assert resolve_engine("auto", "https://judge.example/v1#judge") == "remote"
    with pytest.raises(EngineUnavailableError, match="engine vllm cannot run a model at an address"):
        resolve_engine("vllm", "http://127.0.0.1:1")


def test_the_only_model_needs_no_name(server: ModelServer) -> None:
    assert load_engine(EngineConfig(server.url)).model_id == load(server).model_id
    lora = {"id": "tuned", "root": server.root, "parent": "judge", "owned_by": "vllm"}
    server.extra_models = [lora]
    assert load_engine(EngineConfig(server.url)).model_id.startswith("judge@")
    assert load_engine(EngineConfig(f"{server.url}#tuned")).max_model_len == 4096
    server.extra_models = [{**lora, "parent": None}]
    with pytest.raises(AccessError, match=rf"has several models; choose one of judge, tuned, as {server.url}#NAME$"):
        load_engine(EngineConfig(server.url))
    with pytest.raises(AccessError, match="has no model 'jugde'; choose one of judge, tuned"):
        check_engine(EngineConfig(f"{server.url}#jugde"))


def test_the_key_is_sent_and_never_shown(server: ModelServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server.key = "open-sesame-1234567890"
    monkeypatch.setenv("GOOD", server.key)
    monkeypatch.setenv("BAD", "wrong-key-1234567890")
    (tmp_path / "key").write_text(f"{server.key}\n")
    check_engine(EngineConfig(server.model, model_key=str(tmp_path / "key")))
    judge = FlexJudge(load(server, model_key="env:GOOD", ledger=str(tmp_path / "ledger.sqlite")), SETTINGS)
    judgment = judge.judge(PAIRS[:1])[0]
    judge.close()
    assert judgment.status == Status.OK
    assert server.key not in json.dumps(judgment.to_json())
    assert server.key.encode() not in (tmp_path / "ledger.sqlite").read_bytes()
    for key in (None, "env:BAD"):
        with pytest.raises(AccessError, match=r"401: Unauthorized.*--model-key env:NAME") as caught:
            check_engine(EngineConfig(server.model, model_key=key))
        assert "wrong-key" not in str(caught.value)
    with pytest.raises(UsageError, match="NOWHERE is not set"):
        check_engine(EngineConfig(server.model, model_key="env:NOWHERE"))


@pytest.mark.parametrize("model", ["http://u:secret@127.0.0.1/v1#judge", "http://127.0.0.1/v1?key=secret", "http://"])
def test_a_bad_address_is_not_repeated(model: str) -> None:
    with pytest.raises(UsageError, match="expected the address of a served model") as caught:
        check_engine(EngineConfig(model))
    assert "secret" not in str(caught.value)


def test_settings_of_local_models_are_refused(server: ModelServer) -> None:
    with pytest.raises(UsageError, match="adapter 'lora': a remote model gets its adapter from its server"):
        check_engine(EngineConfig(server.model, adapter="lora"))
    with pytest.raises(UsageError, match="max_adapter_rank: a remote model gets its adapter"):
        load(server, max_adapter_rank=8)
    with pytest.raises(UsageError, match="model_key is for a model at an address"):
        check_engine(EngineConfig("smollm2-135m", model_key="env:KEY"))


def test_a_wrong_tokenizer_is_refused(server: ModelServer, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "other")
    build_byte_tokenizer(("Plain",)).save_pretrained(other)
    with pytest.raises(UsageError, match=r"encodes text differently from 'judge' .*--model-tokenizer$"):
        load(server, model_tokenizer=str(other))
    server.root = str(tmp_path / "elsewhere")
    with pytest.raises(ModelNotFoundError, match=r"the server names .*elsewhere.*name the tokenizer's folder"):
        load(server)
    assert load(server, model_tokenizer=str(tmp_path / "judge")).tokenizer.get_vocab()
    server.root = ""
    with pytest.raises(UsageError, match="the server does not name its model; name a tokenizer with --model-tokenizer"):
        load(server)


@pytest.mark.parametrize(
    ("ignored", "changes", "missing"),
    [
        ({"return_token_ids"}, {}, "token ids of prompt and reply"),
        ({"structured_outputs"}, {}, "a grammar for the reply"),
        ({"logprob_token_ids"}, {}, "completions with token ids and log-probabilities"),
        (set(), {"logprobs": {"top_logprobs": [{f"token_id:{t}": -3.0 for t in range(256)}]}}, "after the grammar"),
    ],
)
def test_a_server_that_lacks_something_is_refused(
    server: ModelServer, ignored: set[str], changes: dict[str, Any], missing: str
) -> None:
    server.ignored, server.changes = ignored, changes
    with pytest.raises(EngineUnavailableError, match=f"cannot judge with token ids, it lacks .*{missing}"):
        load(server)


def test_log_probabilities_that_depend_on_temperature_are_refused(server: ModelServer) -> None:
    async def flatten(request: Any) -> Any:
        body = await request.json()
        share = {0.0: {"7": -0.1, "8": -2.35}, 2.0: {"7": -0.5, "8": -0.94}}[body["temperature"]]
        digits = {token: server.engine.tokenizer.decode([token]) for token in body["logprob_token_ids"]}
        row = {f"token_id:{token}": share.get(digit, -9999.0) for token, digit in digits.items()}
        server.changes = {"logprobs": {"top_logprobs": [row]}}
        return await server.answer(body)

    async def pass_on(request: Any) -> Any:
        return await server.answer(await request.json())

    server.script.extend([pass_on, flatten, flatten])
    with pytest.raises(EngineUnavailableError, match="log-probabilities before temperature"):
        load(server)


def test_no_server_at_the_address(server: ModelServer) -> None:
    server.stop()
    with pytest.raises(ServiceUnavailableError, match=r"no answer .*check that the server is running"):
        check_engine(EngineConfig(server.model))


def test_media_are_refused(server: ModelServer) -> None:
    engine = load(server)
    medium = PreparedMedia(Modality.IMAGE, None, "digest")
    with pytest.raises(MediaError, match="image: a remote model with token ids takes text only"):
        asyncio.run(engine.generate([1], Sampling(1), [medium]))


async def test_cancelling_a_request_ends_it_at_the_server(server: ModelServer) -> None:
    engine = load(server)
    before = server.ended
    server.script.append(hang)
    task = asyncio.create_task(engine.generate([1, 2], Sampling(1)))
    while not server.running:
        await asyncio.sleep(0.01)
    task.cancel()
    async with asyncio.timeout(10):
        while server.ended == before:
            await asyncio.sleep(0.01)


async def test_a_closed_engine_is_lost(server: ModelServer) -> None:
    engine = load(server)
    await engine.check_health()
    server.script.append(hang)
    task = asyncio.create_task(engine.generate([1, 2], Sampling(1)))
    while not server.running:
        await asyncio.sleep(0.01)
    engine.close()
    engine.close()
    for work in (task, engine.generate([1], Sampling(1)), engine.check_health()):
        with pytest.raises(EngineLostError, match="closed"):
            await work


def test_an_engine_serves_one_event_loop_after_the_other(server: ModelServer) -> None:
    judge = FlexJudge(load(server), SETTINGS)
    assert [judge.judge(PAIRS[:2])[0].status for _ in range(2)] == [Status.OK] * 2


def test_a_remote_judge_imports_no_model_library(server: ModelServer) -> None:
    server.key = "open-sesame-1234567890"
    code = (
        "import sys\nsys.modules |= dict.fromkeys(('torch', 'vllm', 'xgrammar', 'PIL', 'av', 'ray', 'pyarrow'))\n"
        "from flex_judge.judges import Comparison, FlexJudge\n"
        f"judge = FlexJudge.from_pretrained({server.model!r}, max_think_tokens=64, model_key='env:MODEL_KEY')\n"
        "print(judge.judge([Comparison.of('What is 2 + 3?', 'It is 5.')])[0].status)\n"
    )
    environment = {**os.environ, "MODEL_KEY": server.key}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert done.stdout == "ok\n", done.stderr
