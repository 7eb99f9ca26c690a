"""Attacks on judges with a real engine: tiny random models of the true architectures, with real images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from attacks import (
    Shape,
    list_general_attacks,
    list_model_attacks,
    list_template_attacks,
    put_in_candidate,
    put_in_question,
    put_next_to_image,
)
from tiny_models import tiny_llama, tiny_qwen_omni, tiny_qwen_vl

from flex_judge.judges import EngineConfig, FlexJudge, JudgeSettings, Status
from flex_judge.judges.engines import Engine, Generation, Sampling, load_engine
from flex_judge.judges.media.prepared import PreparedMedia
from flex_judge.judges.media.types import Modality
from flex_judge.judges.models.checkpoints import open_checkpoint

SETTINGS = JudgeSettings(max_think_tokens=4, max_answer_tokens=32)
MODELS = {"Qwen2.5-VL": tiny_qwen_vl, "Qwen2.5-Omni": tiny_qwen_omni, "Llama 3.1": tiny_llama}


class WitnessEngine:
    """Engine that records the placeholders and media of each request."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        vocabulary = engine.tokenizer.get_added_vocab()
        self.placeholders = {vocabulary[p.pad]: modality for modality, p in engine.profile.placeholders.items()}
        self.seen: list[tuple[list[Modality], list[Modality]]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    async def generate(
        self, prompt_token_ids: Sequence[int], sampling: Sampling, media: Sequence[PreparedMedia] = ()
    ) -> Generation:
        self.seen.append(
            ([self.placeholders[i] for i in prompt_token_ids if i in self.placeholders], [m.modality for m in media])
        )
        return await self.engine.generate(prompt_token_ids, sampling, media)


class Model:
    """Judge with a tiny model on one engine."""

    def __init__(self, family: str, engine: str, folder: Path) -> None:
        path = str(MODELS[family](folder))
        self.checkpoint = open_checkpoint(path)
        self.witness = WitnessEngine(load_engine(EngineConfig(path, engine, dtype="float32", max_batch=16)))
        self.judge = FlexJudge(self.witness, SETTINGS)

    def check_withstands(self, attacks: Sequence[str], shape: Shape) -> None:
        """Check that every attack is judged by a forced answer, with as many placeholders as media in each prompt."""
        self.witness.seen.clear()
        judgments = self.judge.judge([shape(attack) for attack in attacks])
        unscored = [(a, j.status, j.votes) for a, j in zip(attacks, judgments, strict=True) if j.status != Status.OK]
        assert not unscored
        assert all(1 <= score <= 10 for j in judgments for score in j.scores or (0,))
        assert len(self.witness.seen) >= 2 * len(attacks)  # thinking and answer
        media = [Modality.IMAGE] * (2 if shape is put_next_to_image else 0)
        assert all(placeholders == modalities == media for placeholders, modalities in self.witness.seen)


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """Provide a tiny model of each family on the transformers engine."""
    model = Model(request.param, "transformers", tmp_path_factory.mktemp("model"))
    yield model
    model.judge.close()


@pytest.fixture
def placeholder_counts(model: Model) -> Iterator[list[int]]:
    """Count the placeholder tokens that enter the model with each prompt, with media at full length."""
    counts: list[int] = []

    def count(_: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        ids = named["input_ids"] if "input_ids" in named else arguments[0]
        if ids.shape[1] > 1:  # a prompt, not a step of a reply
            counts.extend(sum(int((row == pad).sum()) for pad in model.witness.placeholders) for row in ids)

    hook = model.witness.engine.model.register_forward_pre_hook(count, with_kwargs=True)  # type: ignore[attr-defined]
    yield counts
    hook.remove()


def test_model_withstands_control_tokens_turns_and_stray_placeholders(
    model: Model, placeholder_counts: list[int]
) -> None:
    model.check_withstands(list_template_attacks(model.checkpoint), put_in_question)
    assert set(placeholder_counts) == {0}


def test_model_gets_exactly_its_image_tokens(model: Model, placeholder_counts: list[int]) -> None:
    if not model.witness.placeholders:
        pytest.skip("a text model takes no image")
    model.check_withstands(list_template_attacks(model.checkpoint), put_next_to_image)
    assert set(placeholder_counts) == {2 * 3 * 2}  # two images of 84 x 56 pixels


@pytest.mark.slow
@pytest.mark.parametrize("shape", [put_in_question, put_in_candidate, put_next_to_image])
def test_model_withstands_every_attack(shape: Shape, model: Model) -> None:
    if shape is put_next_to_image and not model.witness.placeholders:
        pytest.skip("a text model takes no image")
    model.check_withstands([*list_model_attacks(model.checkpoint), *list_general_attacks()], shape)


@pytest.mark.slow
def test_vllm_withstands_every_attack(tmp_path: Path) -> None:
    model = Model("Qwen2.5-VL", "vllm", tmp_path)
    try:
        for shape in (put_in_question, put_in_candidate, put_next_to_image):
            model.check_withstands([*list_model_attacks(model.checkpoint), *list_general_attacks()], shape)
    finally:
        model.judge.close()
