"""The scripted engine behaves as a real one would: stop strings, limits, token counts, health."""

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


def generated(script: Script | str, sampling: Sampling, prompt: str = "Hi") -> Generation:
    engine = ScriptedEngine(script if callable(script) else lambda *_: script)
    return asyncio.run(engine.generate(encode(prompt), sampling))


def greet(prompt: str, sampling: Sampling) -> str:
    return f"Hello, {prompt}!"


def test_the_script_sees_the_prompt_as_text() -> None:
    prompt = "<|im_start|>user\n naïve 🙂 .\n\n"
    assert generated(greet, Sampling(100), prompt).text == f"Hello, {prompt}!"


def test_an_asynchronous_script_is_awaited() -> None:
    async def script(prompt: str, sampling: Sampling) -> str:
        await asyncio.sleep(0)
        return "done"

    assert generated(script, Sampling(100)).text == "done"


def test_a_reply_that_ends_by_itself_is_whole_and_counted() -> None:
    reply = generated("Grüße", Sampling(100), "Hi")
    assert (reply.text, reply.finish_reason, reply.token_ids) == ("Grüße", "eos", tuple(encode("Grüße")))
    assert (reply.usage.prompt_tokens, reply.usage.generated_tokens, reply.usage.cached_tokens) == (2, 7, 0)


def test_a_reply_ends_with_the_stop_string_that_ends_first() -> None:
    reply = generated("one.\ntwo</answer>", Sampling(100, stop=("</answer>", "\n")))
    assert (reply.text, reply.finish_reason) == ("one.\n", "stop")


def test_a_reply_over_the_limit_is_cut_and_a_reply_at_the_limit_is_not() -> None:
    assert generated("abcdef", Sampling(4)).text == "abcd"
    assert generated("abcdef", Sampling(4)).finish_reason == "length"
    assert generated("abcdef", Sampling(6)).finish_reason == "eos"
    assert generated("abc.ef", Sampling(4, stop=(".",))).finish_reason == "stop"


def test_log_probabilities_put_everything_on_what_was_written() -> None:
    four, five = encode("45")
    reply = generated("4.", Sampling(9, logprob_token_ids=(four, five)))
    assert reply.logprobs == ({four: 0.0, five: -math.inf}, {four: -math.inf, five: -math.inf})
    assert generated("4.", Sampling(9)).logprobs == ()


@pytest.mark.parametrize("text", ["x", "", "4", "4</answer> and more"])
def test_a_script_that_answers_outside_its_grammar_is_a_mistake_in_the_test(text: str) -> None:
    with pytest.raises(AssertionError, match="grammar"):
        generated(text, Sampling(100, regex="(4|5)</answer>"))


def test_a_script_that_answers_within_its_grammar_is_fine() -> None:
    assert generated("4</answer>", Sampling(100, regex="(4|5)</answer>")).text == "4</answer>"


def test_requests_are_kept_for_tests_to_look_at() -> None:
    engine = ScriptedEngine(greet)
    asyncio.run(engine.generate(encode("Ana"), Sampling(3)))
    assert engine.requests == [("Ana", Sampling(3))]


PICTURE = PreparedMedia(Modality.IMAGE, None, "digest", height=56, width=84)


def seeing(text: str, *media: PreparedMedia, **config: Any) -> tuple[ScriptedEngine, Generation]:
    engine = ScriptedEngine(greet, profile=PROFILES["flex-vl"], **config)
    ids = engine.tokenizer.encode(text, add_special_tokens=False)
    return engine, asyncio.run(engine.generate(ids, Sampling(100), media))


def test_media_are_kept_and_counted_and_the_script_sees_their_placeholder() -> None:
    engine, reply = seeing("<|vision_start|><|image_pad|><|vision_end|>?", PICTURE)
    assert engine.media == [(PICTURE,)]
    assert reply.text == "Hello, <|vision_start|><|image_pad|><|vision_end|>?!"
    assert reply.prompt_tokens == 1 + 2 * 3 + 1 + 1


def test_media_that_do_not_fit_the_prompt_are_refused_as_by_a_real_engine() -> None:
    with pytest.raises(RenderError, match="stand for no media, but it comes with image"):
        seeing("?", PICTURE)
    with pytest.raises(RenderError, match="stand for image, but it comes with no media"):
        seeing("<|image_pad|>")
    with pytest.raises(UsageError, match="9 tokens, media included, leave no room for a reply within the 9"):
        seeing("<|vision_start|><|image_pad|><|vision_end|>?", PICTURE, max_model_len=9)


def test_an_engine_is_of_no_family_unless_it_is_told() -> None:
    engine = ScriptedEngine(greet)
    assert engine.profile == CHAT
    with pytest.raises(MediaError, match="a chat model takes none"):
        asyncio.run(engine.generate(encode("?"), Sampling(3), [PICTURE]))


def test_a_closed_engine_is_lost() -> None:
    engine = ScriptedEngine(greet)
    asyncio.run(engine.check_health())
    engine.close()
    engine.close()
    with pytest.raises(EngineLostError):
        asyncio.run(engine.check_health())
    with pytest.raises(EngineLostError):
        asyncio.run(engine.generate(encode("Ana"), Sampling(3)))


def test_a_script_is_loaded_by_module_and_function() -> None:
    engine = load_engine(EngineConfig(f"{__name__}:greet", engine="scripted"))
    assert isinstance(engine, Engine)
    assert asyncio.run(engine.generate(encode("Ana"), Sampling(100))).text == "Hello, Ana!"


@pytest.mark.parametrize("model", ["", "greet", "no_such_module:greet", f"{__name__}:no_such_function", ":greet"])
def test_a_script_that_cannot_be_found_is_the_users_error(model: str) -> None:
    with pytest.raises(UsageError, match="module:function"):
        load_engine(EngineConfig(model, engine="scripted"))


def test_an_unknown_engine_is_refused_with_what_there_is() -> None:
    with pytest.raises(EngineUnavailableError, match="transformers, vllm, scripted"):
        resolve_engine("llama.cpp")


@pytest.mark.parametrize(("installed", "engine"), [(True, "vllm"), (False, "transformers")])
def test_auto_is_vllm_where_it_is_installed(monkeypatch: pytest.MonkeyPatch, installed: bool, engine: str) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if installed else None)
    assert resolve_engine("auto") == engine


def test_a_missing_vllm_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EngineUnavailableError, match="--extra vllm"):
        resolve_engine("vllm")


def test_every_byte_is_a_token_of_its_own_and_comes_back() -> None:
    text = "".join(map(chr, range(0x250))) + "🙂  .\r\n"
    assert len(encode(text)) == len(text.encode())
    assert build_byte_tokenizer().decode(encode(text)) == text
