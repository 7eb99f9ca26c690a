"""The scripted engine applies stop strings, limits, token counts and health checks like a real engine."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from flex_judge.judges import EngineConfig, UsageError
from flex_judge.judges.engines import Engine, Generation, Sampling, load_engine, resolve_engine
from flex_judge.judges.engines.scripted import Script, ScriptedEngine, build_byte_tokenizer
from flex_judge.judges.errors import EngineLostError, EngineUnavailableError, MediaError, RenderError
from flex_judge.judges.media.prepared import PreparedMedia
from flex_judge.judges.media.types import Modality
from flex_judge.judges.models.profiles import CHAT, PROFILES


def encode(text: str) -> list[int]:
    return list(build_byte_tokenizer().encode(text, add_special_tokens=False))


def generate(script: Script | str, sampling: Sampling, prompt: str = "Hi") -> Generation:
    engine = ScriptedEngine(script if callable(script) else lambda *_: script)
    return asyncio.run(engine.generate(encode(prompt), sampling))


def greet(prompt: str, sampling: Sampling) -> str:
    return f"Hello, {prompt}!"


def test_script_receives_the_prompt_as_text() -> None:
    prompt = "<|im_start|>user\n naïve 🙂 .\n\n"
    assert generate(greet, Sampling(100), prompt).text == f"Hello, {prompt}!"


def test_asynchronous_script_is_awaited() -> None:
    async def script(prompt: str, sampling: Sampling) -> str:
        await asyncio.sleep(0)
        return "done"

    assert generate(script, Sampling(100)).text == "done"


def test_complete_reply_is_returned_with_token_counts() -> None:
    reply = generate("Grüße", Sampling(100), "Hi")
    assert (reply.text, reply.finish_reason, reply.token_ids) == ("Grüße", "eos", tuple(encode("Grüße")))
    assert (reply.usage.prompt_tokens, reply.usage.generated_tokens, reply.usage.cached_tokens) == (2, 7, 0)


def test_reply_ends_at_the_first_stop_string() -> None:
    reply = generate("one.\ntwo</answer>", Sampling(100, stop=("</answer>", "\n")))
    assert (reply.text, reply.finish_reason) == ("one.\n", "stop")


def test_reply_above_max_tokens_is_cut() -> None:
    assert generate("abcdef", Sampling(4)).text == "abcd"
    assert generate("abcdef", Sampling(4)).finish_reason == "length"
    assert generate("abcdef", Sampling(6)).finish_reason == "eos"
    assert generate("abc.ef", Sampling(4, stop=(".",))).finish_reason == "stop"


def test_logprobs_put_all_mass_on_the_scripted_token() -> None:
    four, five = encode("45")
    reply = generate("4.", Sampling(9, logprob_token_ids=(four, five)))
    assert reply.logprobs == ({four: 0.0, five: -math.inf}, {four: -math.inf, five: -math.inf})
    assert generate("4.", Sampling(9)).logprobs == ()


@pytest.mark.parametrize("text", ["x", "", "4", "4</answer> and more"])
def test_script_reply_outside_the_grammar_raises(text: str) -> None:
    with pytest.raises(UsageError, match="return only text that matches"):
        generate(text, Sampling(100, regex="(4|5)</answer>"))


def test_script_reply_within_the_grammar_is_accepted() -> None:
    assert generate("4</answer>", Sampling(100, regex="(4|5)</answer>")).text == "4</answer>"


def test_requests_are_recorded() -> None:
    engine = ScriptedEngine(greet)
    asyncio.run(engine.generate(encode("Ana"), Sampling(3)))
    assert engine.requests == [("Ana", Sampling(3))]


PICTURE = PreparedMedia(Modality.IMAGE, None, "digest", height=56, width=84)


def generate_with_media(text: str, *media: PreparedMedia, **config: Any) -> tuple[ScriptedEngine, Generation]:
    engine = ScriptedEngine(greet, profile=PROFILES["flex-vl"], **config)
    ids = engine.tokenizer.encode(text, add_special_tokens=False)
    return engine, asyncio.run(engine.generate(ids, Sampling(100), media))


def test_media_are_recorded_and_counted() -> None:
    engine, reply = generate_with_media("<|vision_start|><|image_pad|><|vision_end|>?", PICTURE)
    assert engine.media == [(PICTURE,)]
    assert reply.text == "Hello, <|vision_start|><|image_pad|><|vision_end|>?!"
    assert reply.prompt_tokens == 1 + 2 * 3 + 1 + 1


def test_mismatched_media_are_rejected() -> None:
    with pytest.raises(RenderError, match="stand for no media, but it comes with image"):
        generate_with_media("?", PICTURE)
    with pytest.raises(RenderError, match="stand for image, but it comes with no media"):
        generate_with_media("<|image_pad|>")
    with pytest.raises(
        UsageError, match="9 tokens, media included, leave no room for a reply within the engine's limit of 9"
    ):
        generate_with_media("<|vision_start|><|image_pad|><|vision_end|>?", PICTURE, max_model_len=9)


def test_default_profile_is_chat() -> None:
    engine = ScriptedEngine(greet)
    assert engine.profile == CHAT
    with pytest.raises(MediaError, match="a chat model takes none"):
        asyncio.run(engine.generate(encode("?"), Sampling(3), [PICTURE]))


def test_closed_engine_is_lost() -> None:
    engine = ScriptedEngine(greet)
    asyncio.run(engine.check_health())
    engine.close()
    engine.close()
    with pytest.raises(EngineLostError):
        asyncio.run(engine.check_health())
    with pytest.raises(EngineLostError):
        asyncio.run(engine.generate(encode("Ana"), Sampling(3)))


def test_script_is_loaded_by_module_and_function() -> None:
    engine = load_engine(EngineConfig(f"{__name__}:greet", engine="scripted"))
    assert isinstance(engine, Engine)
    assert asyncio.run(engine.generate(encode("Ana"), Sampling(100))).text == "Hello, Ana!"


@pytest.mark.parametrize("model", ["", "greet", "no_such_module:greet", f"{__name__}:no_such_function", ":greet"])
def test_unknown_script_is_a_usage_error(model: str) -> None:
    with pytest.raises(UsageError, match="module:function"):
        load_engine(EngineConfig(model, engine="scripted"))


def test_unknown_engine_error_lists_the_engines() -> None:
    with pytest.raises(EngineUnavailableError, match="transformers, vllm, remote, scripted"):
        resolve_engine("llama.cpp")


@pytest.mark.parametrize(("installed", "engine"), [(True, "vllm"), (False, "transformers")])
def test_auto_selects_vllm_if_installed(monkeypatch: pytest.MonkeyPatch, installed: bool, engine: str) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if installed else None)
    assert resolve_engine("auto") == engine


def test_missing_vllm_error_names_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EngineUnavailableError, match="--extra vllm"):
        resolve_engine("vllm")


def test_byte_tokenizer_round_trips_every_byte() -> None:
    text = "".join(map(chr, range(0x250))) + "🙂  .\r\n"
    assert len(encode(text)) == len(text.encode())
    assert build_byte_tokenizer().decode(encode(text)) == text
