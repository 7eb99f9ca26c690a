"""Attacks on judges that run a model: tiny random ones of the true architectures, with real images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from attacks import Shape, beside_an_image, candidate, on_any, on_model, question
from tiny_models import tiny_llama, tiny_qwen_omni, tiny_qwen_vl

from judges import EngineConfig, FlexJudge, JudgeSettings, Status
from judges.checkpoints import open_checkpoint
from judges.engines import Engine, Generation, Sampling, load_engine
from judges.media import Modality
from judges.preparation import Prepared

SETTINGS = JudgeSettings(max_think_tokens=4, max_answer_tokens=32)
MODELS = {"Qwen2.5-VL": tiny_qwen_vl, "Qwen2.5-Omni": tiny_qwen_omni, "Llama 3.1": tiny_llama}


class Witness:
    """An engine that notes what it is asked: in each prompt, the pads and the media that came with them."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        vocabulary = engine.tokenizer.get_added_vocab()
        self.pads = {vocabulary[p.pad]: modality for modality, p in engine.profile.placeholders.items()}
        self.seen: list[tuple[list[Modality], list[Modality]]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    async def generate(
        self, prompt_token_ids: Sequence[int], sampling: Sampling, media: Sequence[Prepared] = ()
    ) -> Generation:
        self.seen.append(([self.pads[i] for i in prompt_token_ids if i in self.pads], [m.modality for m in media]))
        return await self.engine.generate(prompt_token_ids, sampling, media)


class Model:
    """A tiny model on one engine, with the attacks on it."""

    def __init__(self, family: str, engine: str, folder: Path) -> None:
        path = str(MODELS[family](folder))
        self.attacks = [*on_model(open_checkpoint(path)), *on_any()]
        self.witness = Witness(load_engine(EngineConfig(path, engine, dtype="float32", max_batch=8)))
        self.judge = FlexJudge(self.witness, SETTINGS)

    def withstands(self, shape: Shape, media: int) -> None:
        """Every attack is judged; each prompt has as many placeholders as media, and the forced answer is a score."""
        self.witness.seen.clear()
        comparisons = [shape(attack) for attack in self.attacks]
        judgments = self.judge.judge(comparisons)
        assert [j.status for j in judgments] == [Status.OK] * len(comparisons), [j.votes for j in judgments]
        assert all(1 <= score <= 10 for j in judgments for score in j.scores or (0,))
        assert len(self.witness.seen) >= 2 * len(comparisons)  # thinking and answer
        assert all(pads == given == [Modality.IMAGE] * media for pads, given in self.witness.seen)


@pytest.fixture(scope="module", params=MODELS)
def on_transformers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    model = Model(request.param, "transformers", tmp_path_factory.mktemp("model"))
    yield model
    model.judge.close()


@pytest.fixture(scope="module")
def on_vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    model = Model("Qwen2.5-VL", "vllm", tmp_path_factory.mktemp("model"))
    yield model
    model.judge.close()


@pytest.mark.parametrize("shape", [question, candidate])
def test_a_model_withstands_every_attack_without_an_image(shape: Shape, on_transformers: Model) -> None:
    on_transformers.withstands(shape, media=0)


def test_a_model_withstands_every_attack_beside_images(on_transformers: Model) -> None:
    if not on_transformers.witness.pads:
        pytest.skip("a text model takes no image")
    on_transformers.withstands(beside_an_image, media=2)


def test_a_model_sees_the_tokens_of_its_media_and_not_one_more(on_transformers: Model) -> None:
    """Counted where they enter the model, each medium at its full length."""
    engine, judge = on_transformers.witness.engine, on_transformers.judge
    entered: list[int] = []

    def count(_: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        ids = named["input_ids"] if "input_ids" in named else arguments[0]
        if ids.shape[1] > 1:  # a prompt, not a step of its reply
            entered.extend(sum(int((row == pad).sum()) for pad in on_transformers.witness.pads) for row in ids)

    hook = engine.model.register_forward_pre_hook(count, with_kwargs=True)  # type: ignore[attr-defined]
    try:
        shapes = [(candidate, 0), (beside_an_image, 2 * 6)] if on_transformers.witness.pads else [(candidate, 0)]
        for shape, tokens in shapes:  # an image of 84 x 56 pixels has 3 x 2 tokens
            entered.clear()
            judge.judge([shape(attack) for attack in on_transformers.attacks[:40]])
            assert set(entered) == {tokens}
    finally:
        hook.remove()


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "media"), [(candidate, 0), (beside_an_image, 2)])
def test_vllm_withstands_every_attack(shape: Shape, media: int, on_vllm: Model) -> None:
    on_vllm.withstands(shape, media)
