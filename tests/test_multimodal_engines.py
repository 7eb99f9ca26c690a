"""Pictures, video and sound on the real engines, with tiny random models of the true architectures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tiny_models import random_adapter, tiny_llama, tiny_qwen_omni, tiny_qwen_vl

from judges import EngineConfig
from judges.engines import Engine, Generation, Sampling, load_engine
from judges.errors import MediaError, ModelNotFoundError, RenderError, UsageError
from judges.media import Modality
from judges.preparation import Prepared

GREEDY = Sampling(12)
Request = tuple[str, list[Prepared]]


def picture(seed: int, height: int = 56, width: int = 84) -> Prepared:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Prepared(Modality.IMAGE, Image.fromarray(pixels), f"picture {seed}", height, width)


def film(seed: int, frames: int = 5, side: int = 56, fps: float = 2.0) -> Prepared:
    pixels = np.random.default_rng(seed).integers(0, 256, (frames, side, side, 3), dtype=np.uint8)
    return Prepared(Modality.VIDEO, pixels, f"film {seed}", side, side, frames, fps)


def sound(seed: int, samples: int) -> Prepared:
    wave = 0.1 * np.random.default_rng(seed).standard_normal(samples)
    return Prepared(Modality.AUDIO, wave.astype(np.float32), f"sound {seed}", length=samples)


SEEN: list[Request] = [
    ("no media at all, and longer than some of the others here", []),
    ("a picture {image} and then?", [picture(1)]),
    ("{image}{image} compare these two", [picture(1), picture(2, 112, 56)]),
    ("watch {video} and {image} ok", [film(3, fps=1.0), picture(2, 28, 28)]),
    ("{video}", [film(4, frames=8)]),
]
HEARD: list[Request] = [
    ("hear {audio}", [sound(1, 16000)]),
    ("{image} hear {audio}, {audio} and see {video}", [picture(1), sound(2, 5001), sound(1, 16000), film(3)]),
]


def token_ids(engine: Engine, text: str) -> list[int]:
    marks = {str(modality): placeholder.text for modality, placeholder in engine.profile.placeholders.items()}
    ids: list[int] = engine.tokenizer.encode(text.format(**marks), add_special_tokens=False)
    return ids


def generate(engine: Engine, *requests: Request, sampling: Sampling = GREEDY) -> list[Generation]:
    """All requests at once, which an engine computes as one batch."""

    async def all_of_them() -> list[Generation]:
        calls = (engine.generate(token_ids(engine, text), sampling, media) for text, media in requests)
        return list(await asyncio.gather(*calls))

    return asyncio.run(all_of_them())


def texts(generations: Sequence[Generation]) -> list[str]:
    return [g.text for g in generations]


Folders = Callable[[str], Path]
MAKERS: dict[str, Callable[[Path], Path]] = {
    "vl": tiny_qwen_vl,
    "omni": tiny_qwen_omni,
    "thinker": lambda folder: tiny_qwen_omni(folder, whole=False),
    "llama": tiny_llama,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    base = tmp_path_factory.mktemp("models")

    def of(name: str) -> Path:
        if not (base / name).exists():
            MAKERS[name](base / name)
        return base / name

    return of


@pytest.fixture(scope="module")
def engine(folder: Folders) -> Iterator[Callable[..., Engine]]:
    """Loads engines, each once."""
    engines: dict[Any, Engine] = {}

    def of(model: str, name: str = "transformers", **config: Any) -> Engine:
        key = (model, name, *config.items())
        if key not in engines:
            settings = {"dtype": "float32", "max_model_len": 4096, "max_batch": 8, **config}
            engines[key] = load_engine(EngineConfig(str(folder(model)), name, **settings))
        return engines[key]

    yield of
    for loaded in engines.values():
        loaded.close()


@pytest.mark.parametrize("model", ["vl", "omni"])
def test_a_prompt_gets_the_same_reply_alone_and_in_a_batch_of_other_media(
    model: str, engine: Callable[..., Engine]
) -> None:
    judge = engine(model)
    requests = SEEN + (HEARD if model == "omni" else [])
    together = generate(judge, *requests)
    assert together == [generate(judge, request)[0] for request in requests]
    assert len(set(texts(together))) == len(requests)


REFERENCES = {
    "vl": ("Qwen2_5_VLForConditionalGeneration", SEEN[2]),
    "thinker": ("Qwen2_5OmniThinkerForConditionalGeneration", HEARD[1]),
}


@pytest.mark.parametrize("model", REFERENCES)
def test_a_model_says_what_it_says_behind_its_familys_own_processor(
    model: str, folder: Folders, engine: Callable[..., Engine]
) -> None:
    judge = engine(model)
    name, (text, media) = REFERENCES[model]
    by_kind = {kind: [m.value for m in media if m.modality == kind] or None for kind in Modality}
    marks = {str(modality): placeholder.text for modality, placeholder in judge.profile.placeholders.items()}
    processor = transformers.AutoProcessor.from_pretrained(folder(model))
    inputs = processor(
        text=[text.format(**marks)],
        images=by_kind[Modality.IMAGE],
        **({"videos": by_kind[Modality.VIDEO], "videos_kwargs": {"do_resize": False}} if model == "thinker" else {}),
        **({"audio": by_kind[Modality.AUDIO]} if model == "thinker" else {}),
        return_tensors="pt",
    )
    reference = getattr(transformers, name).from_pretrained(folder(model), dtype=torch.float32)
    pads = [judge.tokenizer.convert_tokens_to_ids(p.pad) for p in judge.profile.placeholders.values()]
    habits = {"do_sample": False, "repetition_penalty": 1.0, "temperature": 1.0, "top_k": 0, "suppress_tokens": pads}
    output = reference.generate(**inputs, max_new_tokens=GREEDY.max_tokens, **habits)
    ours = generate(judge, (text, media))[0]
    assert ours.prompt_tokens == inputs["input_ids"].shape[1]
    assert list(ours.token_ids) == output[0, ours.prompt_tokens :].tolist()


def test_the_thinker_by_itself_says_what_it_says_within_the_whole_model(engine: Callable[..., Engine]) -> None:
    whole, alone = engine("omni"), engine("thinker")
    assert texts(generate(whole, *SEEN, *HEARD)) == texts(generate(alone, *SEEN, *HEARD))
    assert whole.profile == alone.profile
    assert whole.model_id != alone.model_id


def test_the_order_of_pictures_and_the_pace_of_a_film_matter(engine: Callable[..., Engine]) -> None:
    pictures = [picture(1), picture(5)]
    replies = generate(
        engine("vl"),
        ("{image}{image}?", pictures),
        ("{image}{image}?", pictures[::-1]),
        ("{video}?", [film(3, fps=0.5)]),
        ("{video}?", [film(3, fps=4.0)]),
    )
    assert len(set(texts(replies))) == 4


def test_stop_strings_grammars_and_log_probabilities_work_beside_media(engine: Callable[..., Engine]) -> None:
    judge = engine("vl")
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
def test_no_placeholder_is_ever_generated(model: str, engine: Callable[..., Engine]) -> None:
    judge = engine(model)
    pads = {judge.tokenizer.convert_tokens_to_ids(p.pad) for p in judge.profile.placeholders.values()}
    wild = Sampling(150, temperature=8.0)
    replies = generate(judge, *[SEEN[1]] * 8, sampling=wild)
    assert len({t for reply in replies for t in reply.token_ids}) > 150
    assert pads.isdisjoint(t for reply in replies for t in reply.token_ids)


@pytest.mark.parametrize(
    ("text", "media", "error", "words"),
    [
        ("{image}", [], RenderError, "stand for image, but it comes with no media"),
        ("no", [picture(1)], RenderError, "stand for no media, but it comes with image"),
        ("{image}{image}", [picture(1)], RenderError, "stand for image, image"),
        ("{video}{image}", [picture(1), film(2)], RenderError, "stand for video, image, but"),
        ("{image}", [picture(1, 60, 84)], MediaError, "84 x 60 pixels; a flex-vl model takes multiples of 28"),
        ("{image}", [sound(1, 16000)], MediaError, "audio: a flex-vl model takes none"),
        ("{video}", [film(1, 256, 280)], UsageError, "12802 tokens, media included, leave no room .* within the 4096"),
    ],
)
def test_media_that_do_not_fit_the_prompt_are_refused_and_the_engine_lives_on(
    text: str, media: list[Prepared], error: type[Exception], words: str, engine: Callable[..., Engine]
) -> None:
    judge = engine("vl")
    with pytest.raises(error, match=words):
        generate(judge, (text, media))
    assert generate(judge, SEEN[1])[0].token_ids


def test_a_text_model_takes_no_media(engine: Callable[..., Engine]) -> None:
    with pytest.raises(MediaError, match="image: a flex-llama model takes none"):
        generate(engine("llama"), ("look", [picture(1)]))


def test_a_checkpoint_without_its_processors_is_refused_by_name(tmp_path: Path) -> None:
    bare = tiny_qwen_vl(tmp_path / "bare")
    (bare / "preprocessor_config.json").unlink()
    with pytest.raises(UsageError, match=r"bare: no preprocessor_config\.json for image") as error:
        load_engine(EngineConfig(str(bare), "transformers"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("model", ["llama", "vl", "omni"])
def test_an_adapter_changes_the_replies_and_the_id_of_the_model(
    model: str, folder: Folders, engine: Callable[..., Engine], tmp_path: Path
) -> None:
    adapter = str(random_adapter(folder(model), tmp_path / "adapter"))
    requests = SEEN[:1] if model == "llama" else SEEN
    plain, adapted = engine(model), engine(model, adapter=adapter)
    assert adapted.model_id.startswith(f"{plain.model_id}+{adapter}@")
    assert all(
        a != b for a, b in zip(texts(generate(plain, *requests)), texts(generate(adapted, *requests)), strict=True)
    )


def test_an_adapter_is_kept_apart_from_half_precision_weights(
    folder: Folders, engine: Callable[..., Engine], tmp_path: Path
) -> None:
    adapter = str(random_adapter(folder("llama"), tmp_path / "adapter"))
    merged = engine("llama", adapter=adapter)
    apart = engine("llama", adapter=adapter, dtype="bfloat16")
    assert not [name for name, _ in merged.model.named_modules() if "lora" in name]  # type: ignore[attr-defined]
    assert [name for name, _ in apart.model.named_modules() if "lora" in name]  # type: ignore[attr-defined]
    assert generate(apart, SEEN[0])[0].token_ids[:2] == generate(merged, SEEN[0])[0].token_ids[:2]


def test_an_adapter_of_another_model_is_refused(folder: Folders, tmp_path: Path) -> None:
    adapter = random_adapter(folder("vl"), tmp_path / "adapter")
    with pytest.raises(UsageError, match="does not fit the model") as error:
        load_engine(EngineConfig(str(folder("llama")), "transformers", adapter=str(adapter)))
    assert "\n" not in str(error.value)
    with pytest.raises(ModelNotFoundError, match=r"no adapter_config\.json"):
        load_engine(EngineConfig(str(folder("llama")), "transformers", adapter=str(tmp_path)))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["vl", "omni", "thinker"])
def test_vllm_sees_and_hears_what_transformers_does(
    model: str, engine: Callable[..., Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEX_JUDGE_CACHE", str(tmp_path))
    requests = SEEN + (HEARD if model != "vl" else [])
    large: list[Request] = [("{image} large", [picture(7, 560, 840)]), ("{video} long", [film(7, 64, 112)])]
    one, other = engine(model), engine(model, "vllm")
    assert one.model_id == other.model_id
    ours, theirs = generate(one, *requests, *large), generate(other, *requests, *large)
    assert [(g.text, g.token_ids, g.prompt_tokens) for g in ours] == [
        (g.text, g.token_ids, g.prompt_tokens) for g in theirs
    ]


@pytest.mark.slow
def test_vllm_reuses_what_it_made_of_the_same_picture_and_of_no_other(engine: Callable[..., Engine]) -> None:
    judge = engine("vl", "vllm")
    first = generate(judge, ("{image} think", [picture(11, 280, 280)]))[0]
    again = generate(judge, ("{image} think, then answer", [picture(11, 280, 280)]))[0]
    other = generate(judge, ("{image} think", [picture(12, 280, 280)]))[0]
    assert first.prompt_tokens > 100
    assert again.cached_tokens >= first.prompt_tokens - first.prompt_tokens % 32
    assert other.cached_tokens == 0


@pytest.mark.slow
def test_vllm_refuses_media_that_do_not_fit_and_lives_on(engine: Callable[..., Engine]) -> None:
    judge = engine("vl", "vllm")
    for text, media, error in [("{image}", [], RenderError), ("{image}", [sound(1, 16000)], MediaError)]:
        with pytest.raises(error):
            generate(judge, (text, list(media)))
    mixed = [film(1, fps=1.0), film(2, fps=2.0)]
    assert generate(judge, ("{video}{video}", mixed))[0].token_ids
    with pytest.raises(MediaError, match="1, 2 frames per second"):
        generate(engine("omni", "vllm"), ("{video}{video}", mixed))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["llama", "vl", "omni"])
def test_an_adapter_does_the_same_on_both_engines(
    model: str, folder: Folders, engine: Callable[..., Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEX_JUDGE_CACHE", str(tmp_path / "cache"))
    adapter = str(random_adapter(folder(model), tmp_path / "adapter", rank=12))
    requests = SEEN[:1] if model == "llama" else SEEN
    one, other = engine(model, adapter=adapter), engine(model, "vllm", adapter=adapter)
    assert one.model_id == other.model_id
    assert texts(generate(one, *requests)) == texts(generate(other, *requests))
    assert texts(generate(one, *requests)) != texts(generate(engine(model), *requests))


@pytest.mark.slow
def test_an_adapter_of_the_embedded_model_does_the_same_on_both_engines(tmp_path: Path) -> None:
    from judges.models import resolve_model

    adapter = random_adapter(resolve_model("smollm2-135m"), tmp_path / "adapter", alpha=1)
    replies = []
    for name in ("transformers", "vllm"):
        config = EngineConfig("smollm2-135m", name, "float32", str(adapter), max_model_len=512)
        judge = load_engine(config)
        replies.append(generate(judge, ("What is the capital of France?", []))[0])
        judge.close()
    assert replies[0].token_ids == replies[1].token_ids


@pytest.mark.slow
def test_vllm_in_a_process_of_its_own_sees_as_within_this_one(folder: Folders, engine: Callable[..., Engine]) -> None:
    async def run() -> list[str]:
        settings = {"dtype": "float32", "max_model_len": 4096, "max_batch": 8}
        judge = load_engine(EngineConfig(str(folder("vl")), "vllm", own_process=True, **settings))  # type: ignore[arg-type]
        try:
            calls = (judge.generate(token_ids(judge, text), GREEDY, media) for text, media in SEEN)
            replies = list(await asyncio.gather(*calls))
            with pytest.raises(RenderError):
                await judge.generate(token_ids(judge, "{image}"), GREEDY)
        finally:
            judge.close()
        return texts(replies)

    assert asyncio.run(run()) == texts(generate(engine("vl"), *SEEN))
