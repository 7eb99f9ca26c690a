"""Images, videos and audio on the real engines, with tiny random models of the real architectures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from lazy import lazy
from tiny_engines import (
    AUDIO_REQUESTS,
    GREEDY,
    VISUAL_REQUESTS,
    Request,
    TinyEngines,
    generate,
    get_texts,
    random_audio,
    random_image,
    random_video,
)
from tiny_models import tiny_qwen_vl

from flex_judge.judges import EngineConfig
from flex_judge.judges.engines import Sampling, load_engine
from flex_judge.judges.errors import MediaError, RenderError, UsageError
from flex_judge.judges.media.prepared import PreparedMedia
from flex_judge.judges.media.types import Modality

torch = lazy("torch")
transformers = lazy("transformers")


@pytest.mark.parametrize("model", ["vl", "omni"])
def test_reply_is_the_same_alone_and_in_a_mixed_batch(model: str, engines: TinyEngines) -> None:
    judge = engines(model)
    requests = VISUAL_REQUESTS + (AUDIO_REQUESTS if model == "omni" else [])
    together = generate(judge, *requests)
    assert together == [generate(judge, request)[0] for request in requests]
    assert len(set(get_texts(together))) == len(requests)


REFERENCES = {
    "vl": ("Qwen2_5_VLForConditionalGeneration", VISUAL_REQUESTS[2]),
    "thinker": ("Qwen2_5OmniThinkerForConditionalGeneration", AUDIO_REQUESTS[1]),
}


@pytest.mark.parametrize("model", REFERENCES)
def test_reply_matches_the_familys_own_processor(model: str, engines: TinyEngines) -> None:
    judge = engines(model)
    name, (text, media) = REFERENCES[model]
    by_kind = {kind: [m.value for m in media if m.modality == kind] or None for kind in Modality}
    marks = {str(modality): placeholder.text for modality, placeholder in judge.profile.placeholders.items()}
    processor = transformers.AutoProcessor.from_pretrained(engines.folder(model))
    inputs = processor(
        text=[text.format(**marks)],
        images=by_kind[Modality.IMAGE],
        **({"videos": by_kind[Modality.VIDEO], "videos_kwargs": {"do_resize": False}} if model == "thinker" else {}),
        **({"audio": by_kind[Modality.AUDIO]} if model == "thinker" else {}),
        return_tensors="pt",
    )
    reference = getattr(transformers, name).from_pretrained(engines.folder(model), dtype=torch.float32)
    placeholders = [judge.tokenizer.convert_tokens_to_ids(p.pad) for p in judge.profile.placeholders.values()]
    neutral = {
        "do_sample": False,
        "repetition_penalty": 1.0,
        "temperature": 1.0,
        "top_k": 0,
        "suppress_tokens": placeholders,
    }
    output = reference.generate(**inputs, max_new_tokens=GREEDY.max_tokens, **neutral)
    reply = generate(judge, (text, media))[0]
    assert reply.prompt_tokens == inputs["input_ids"].shape[1]
    assert list(reply.token_ids) == output[0, reply.prompt_tokens :].tolist()


def test_thinker_alone_matches_the_complete_model(engines: TinyEngines) -> None:
    complete, alone = engines("omni"), engines("thinker")
    assert get_texts(generate(complete, *VISUAL_REQUESTS, *AUDIO_REQUESTS)) == get_texts(
        generate(alone, *VISUAL_REQUESTS, *AUDIO_REQUESTS)
    )
    assert complete.profile == alone.profile
    assert complete.model_id != alone.model_id


def test_image_order_and_video_rate_change_the_reply(engines: TinyEngines) -> None:
    pictures = [random_image(1), random_image(5)]
    replies = generate(
        engines("vl"),
        ("{image}{image}?", pictures),
        ("{image}{image}?", pictures[::-1]),
        ("{video}?", [random_video(3, fps=0.5)]),
        ("{video}?", [random_video(3, fps=4.0)]),
    )
    assert len(set(get_texts(replies))) == 4


def test_stop_strings_grammars_and_logprobs_work_with_media(engines: TinyEngines) -> None:
    judge = engines("vl")
    four = judge.tokenizer.encode("4")[0]
    grammar = Sampling(20, stop=("</answer>",), regex="<answer>[0-9]</answer>", logprob_token_ids=(four,))
    for reply in generate(judge, *VISUAL_REQUESTS, sampling=grammar):
        assert reply.text.startswith("<answer>")
        assert reply.text.endswith("</answer>")
        assert reply.finish_reason in ("stop", "eos")
        assert len(reply.logprobs) == len(reply.token_ids)
        digit = [i for i, token in enumerate(reply.token_ids) if reply.logprobs[i][four] > -20]
        assert len(digit) == 1  # the only position where the grammar allows a digit


@pytest.mark.parametrize("model", ["vl", "omni"])
def test_placeholder_tokens_are_never_generated(model: str, engines: TinyEngines) -> None:
    judge = engines(model)
    placeholders = {judge.tokenizer.convert_tokens_to_ids(p.pad) for p in judge.profile.placeholders.values()}
    hot = Sampling(150, temperature=8.0)
    replies = generate(judge, *[VISUAL_REQUESTS[1]] * 8, sampling=hot)
    assert len({t for reply in replies for t in reply.token_ids}) > 150
    assert placeholders.isdisjoint(t for reply in replies for t in reply.token_ids)


@pytest.mark.parametrize(
    ("text", "media", "error", "words"),
    [
        ("{image}", [], RenderError, "stand for image, but it comes with no media"),
        ("no", [random_image(1)], RenderError, "stand for no media, but it comes with image"),
        ("{image}{image}", [random_image(1)], RenderError, "stand for image, image"),
        ("{video}{image}", [random_image(1), random_video(2)], RenderError, "stand for video, image, but"),
        ("{image}", [random_image(1, 60, 84)], MediaError, "84 x 60 pixels; a flex-vl model takes multiples of 28"),
        ("{image}", [random_audio(1, 16000)], MediaError, "audio: a flex-vl model takes none"),
        (
            "{image}",
            [PreparedMedia(Modality.IMAGE, None, "", 56, 84)],
            MediaError,
            "differs from its declared type or size",
        ),
        ("{video}", [replace(random_video(1), length=4)], MediaError, "differs from its declared type or size"),
        (
            "{video}",
            [random_video(1, 256, 280)],
            UsageError,
            "12802 tokens, media included, leave no room .* limit of 4096",
        ),
    ],
)
def test_mismatched_media_are_rejected_without_ending_the_engine(
    text: str, media: list[PreparedMedia], error: type[Exception], words: str, engines: TinyEngines
) -> None:
    judge = engines("vl")
    with pytest.raises(error, match=words):
        generate(judge, (text, media))
    assert generate(judge, VISUAL_REQUESTS[1])[0].token_ids


def test_text_model_rejects_media(engines: TinyEngines) -> None:
    with pytest.raises(MediaError, match="image: a flex-llama model takes none"):
        generate(engines("llama"), ("look", [random_image(1)]))


def test_checkpoint_without_processors_is_rejected(tmp_path: Path) -> None:
    bare = tiny_qwen_vl(tmp_path / "bare")
    (bare / "preprocessor_config.json").unlink()
    with pytest.raises(UsageError, match=r"bare: cannot read preprocessor_config\.json for image") as error:
        load_engine(EngineConfig(str(bare), "transformers"))
    assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["vl", "omni", "thinker"])
def test_vllm_matches_transformers_on_media(
    model: str, engines: TinyEngines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEX_JUDGE_CACHE", str(tmp_path))
    requests = VISUAL_REQUESTS + (AUDIO_REQUESTS if model != "vl" else [])
    large: list[Request] = [
        ("{image} large", [random_image(7, 560, 840)]),
        ("{video} long", [random_video(7, 64, 112)]),
    ]
    hf_engine, vllm_engine = engines(model), engines(model, "vllm")
    assert hf_engine.model_id == vllm_engine.model_id
    hf_replies, vllm_replies = generate(hf_engine, *requests, *large), generate(vllm_engine, *requests, *large)
    assert [(g.text, g.token_ids, g.prompt_tokens) for g in hf_replies] == [
        (g.text, g.token_ids, g.prompt_tokens) for g in vllm_replies
    ]


@pytest.mark.slow
def test_vllm_prefix_cache_distinguishes_images(engines: TinyEngines) -> None:
    judge = engines("vl", "vllm")
    first = generate(judge, ("{image} think", [random_image(11, 280, 280)]))[0]
    again = generate(judge, ("{image} think, then answer", [random_image(11, 280, 280)]))[0]
    other = generate(judge, ("{image} think", [random_image(12, 280, 280)]))[0]
    assert first.prompt_tokens > 100
    assert again.cached_tokens >= first.prompt_tokens - first.prompt_tokens % 32
    assert other.cached_tokens == 0


@pytest.mark.slow
def test_vllm_rejects_mismatched_media_without_ending(engines: TinyEngines) -> None:
    judge = engines("vl", "vllm")
    for text, media, error in [("{image}", [], RenderError), ("{image}", [random_audio(1, 16000)], MediaError)]:
        with pytest.raises(error):
            generate(judge, (text, list(media)))
    mixed = [random_video(1, fps=1.0), random_video(2, fps=2.0)]
    assert generate(judge, ("{video}{video}", mixed))[0].token_ids
    with pytest.raises(MediaError, match="1, 2 frames per second"):
        generate(engines("omni", "vllm"), ("{video}{video}", mixed))
