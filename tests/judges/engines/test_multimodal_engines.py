"""Pictures, video and sound on the real engines, with tiny random models of the true architectures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from lazy import lazy
from tiny_engines import GREEDY, HEARD, SEEN, Request, TinyEngines, film, generate, picture, sound, texts
from tiny_models import tiny_qwen_vl

from flex_judge.judges import EngineConfig
from flex_judge.judges.engines import Sampling, load_engine
from flex_judge.judges.errors import MediaError, RenderError, UsageError
from flex_judge.judges.media.prepared import PreparedMedia
from flex_judge.judges.media.types import Modality

torch = lazy("torch")
transformers = lazy("transformers")


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyEngines]:
    engines = TinyEngines(tmp_path_factory.mktemp("models"))
    yield engines
    engines.close()


@pytest.mark.parametrize("model", ["vl", "omni"])
def test_a_prompt_gets_the_same_reply_alone_and_in_a_batch_of_other_media(model: str, engines: TinyEngines) -> None:
    judge = engines(model)
    requests = SEEN + (HEARD if model == "omni" else [])
    together = generate(judge, *requests)
    assert together == [generate(judge, request)[0] for request in requests]
    assert len(set(texts(together))) == len(requests)


REFERENCES = {
    "vl": ("Qwen2_5_VLForConditionalGeneration", SEEN[2]),
    "thinker": ("Qwen2_5OmniThinkerForConditionalGeneration", HEARD[1]),
}


@pytest.mark.parametrize("model", REFERENCES)
def test_a_model_says_what_it_says_behind_its_familys_own_processor(model: str, engines: TinyEngines) -> None:
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
    habits = {
        "do_sample": False,
        "repetition_penalty": 1.0,
        "temperature": 1.0,
        "top_k": 0,
        "suppress_tokens": placeholders,
    }
    output = reference.generate(**inputs, max_new_tokens=GREEDY.max_tokens, **habits)
    ours = generate(judge, (text, media))[0]
    assert ours.prompt_tokens == inputs["input_ids"].shape[1]
    assert list(ours.token_ids) == output[0, ours.prompt_tokens :].tolist()


def test_the_thinker_by_itself_says_what_it_says_within_the_whole_model(engines: TinyEngines) -> None:
    whole, alone = engines("omni"), engines("thinker")
    assert texts(generate(whole, *SEEN, *HEARD)) == texts(generate(alone, *SEEN, *HEARD))
    assert whole.profile == alone.profile
    assert whole.model_id != alone.model_id


def test_the_order_of_pictures_and_the_pace_of_a_film_matter(engines: TinyEngines) -> None:
    pictures = [picture(1), picture(5)]
    replies = generate(
        engines("vl"),
        ("{image}{image}?", pictures),
        ("{image}{image}?", pictures[::-1]),
        ("{video}?", [film(3, fps=0.5)]),
        ("{video}?", [film(3, fps=4.0)]),
    )
    assert len(set(texts(replies))) == 4


def test_stop_strings_grammars_and_log_probabilities_work_beside_media(engines: TinyEngines) -> None:
    judge = engines("vl")
    four = judge.tokenizer.encode("4")[0]
    bound = Sampling(20, stop=("</answer>",), regex="<answer>[0-9]</answer>", logprob_token_ids=(four,))
    for reply in generate(judge, *SEEN, sampling=bound):
        assert reply.text.startswith("<answer>")
        assert reply.text.endswith("</answer>")
        assert reply.finish_reason in ("stop", "eos")
        assert len(reply.logprobs) == len(reply.token_ids)
        digit = [i for i, token in enumerate(reply.token_ids) if reply.logprobs[i][four] > -20]
        assert len(digit) == 1  # the one place where the grammar lets a digit stand


@pytest.mark.parametrize("model", ["vl", "omni"])
def test_no_placeholder_is_ever_generated(model: str, engines: TinyEngines) -> None:
    judge = engines(model)
    placeholders = {judge.tokenizer.convert_tokens_to_ids(p.pad) for p in judge.profile.placeholders.values()}
    wild = Sampling(150, temperature=8.0)
    replies = generate(judge, *[SEEN[1]] * 8, sampling=wild)
    assert len({t for reply in replies for t in reply.token_ids}) > 150
    assert placeholders.isdisjoint(t for reply in replies for t in reply.token_ids)


@pytest.mark.parametrize(
    ("text", "media", "error", "words"),
    [
        ("{image}", [], RenderError, "stand for image, but it comes with no media"),
        ("no", [picture(1)], RenderError, "stand for no media, but it comes with image"),
        ("{image}{image}", [picture(1)], RenderError, "stand for image, image"),
        ("{video}{image}", [picture(1), film(2)], RenderError, "stand for video, image, but"),
        ("{image}", [picture(1, 60, 84)], MediaError, "84 x 60 pixels; a flex-vl model takes multiples of 28"),
        ("{image}", [sound(1, 16000)], MediaError, "audio: a flex-vl model takes none"),
        ("{image}", [PreparedMedia(Modality.IMAGE, None, "", 56, 84)], MediaError, "not of the type and size"),
        ("{video}", [replace(film(1), length=4)], MediaError, "not of the type and size"),
        ("{video}", [film(1, 256, 280)], UsageError, "12802 tokens, media included, leave no room .* within the 4096"),
    ],
)
def test_media_that_do_not_fit_the_prompt_are_refused_and_the_engine_lives_on(
    text: str, media: list[PreparedMedia], error: type[Exception], words: str, engines: TinyEngines
) -> None:
    judge = engines("vl")
    with pytest.raises(error, match=words):
        generate(judge, (text, media))
    assert generate(judge, SEEN[1])[0].token_ids


def test_a_text_model_takes_no_media(engines: TinyEngines) -> None:
    with pytest.raises(MediaError, match="image: a flex-llama model takes none"):
        generate(engines("llama"), ("look", [picture(1)]))


def test_a_checkpoint_without_its_processors_is_refused_by_name(tmp_path: Path) -> None:
    bare = tiny_qwen_vl(tmp_path / "bare")
    (bare / "preprocessor_config.json").unlink()
    with pytest.raises(UsageError, match=r"bare: no preprocessor_config\.json for image") as error:
        load_engine(EngineConfig(str(bare), "transformers"))
    assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["vl", "omni", "thinker"])
def test_vllm_sees_and_hears_what_transformers_does(
    model: str, engines: TinyEngines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEX_JUDGE_CACHE", str(tmp_path))
    requests = SEEN + (HEARD if model != "vl" else [])
    large: list[Request] = [("{image} large", [picture(7, 560, 840)]), ("{video} long", [film(7, 64, 112)])]
    one, other = engines(model), engines(model, "vllm")
    assert one.model_id == other.model_id
    ours, theirs = generate(one, *requests, *large), generate(other, *requests, *large)
    assert [(g.text, g.token_ids, g.prompt_tokens) for g in ours] == [
        (g.text, g.token_ids, g.prompt_tokens) for g in theirs
    ]


@pytest.mark.slow
def test_vllm_reuses_what_it_made_of_the_same_picture_and_of_no_other(engines: TinyEngines) -> None:
    judge = engines("vl", "vllm")
    first = generate(judge, ("{image} think", [picture(11, 280, 280)]))[0]
    again = generate(judge, ("{image} think, then answer", [picture(11, 280, 280)]))[0]
    other = generate(judge, ("{image} think", [picture(12, 280, 280)]))[0]
    assert first.prompt_tokens > 100
    assert again.cached_tokens >= first.prompt_tokens - first.prompt_tokens % 32
    assert other.cached_tokens == 0


@pytest.mark.slow
def test_vllm_refuses_media_that_do_not_fit_and_lives_on(engines: TinyEngines) -> None:
    judge = engines("vl", "vllm")
    for text, media, error in [("{image}", [], RenderError), ("{image}", [sound(1, 16000)], MediaError)]:
        with pytest.raises(error):
            generate(judge, (text, list(media)))
    mixed = [film(1, fps=1.0), film(2, fps=2.0)]
    assert generate(judge, ("{video}{video}", mixed))[0].token_ids
    with pytest.raises(MediaError, match="1, 2 frames per second"):
        generate(engines("omni", "vllm"), ("{video}{video}", mixed))
