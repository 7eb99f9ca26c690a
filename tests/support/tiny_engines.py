"""Random test media, engines on tiny checkpoints, and helpers that send them requests."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tiny_models import tiny_llama, tiny_qwen_omni, tiny_qwen_vl

from flex_judge.judges import EngineConfig
from flex_judge.judges.engines import Engine, Generation, Sampling, load_engine
from flex_judge.judges.media.prepared import PreparedMedia
from flex_judge.judges.media.types import Modality

GREEDY = Sampling(12)
Request = tuple[str, list[PreparedMedia]]
"""Text with placeholders such as `{image}`, and its media."""


def random_image(seed: int, height: int = 56, width: int = 84) -> PreparedMedia:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return PreparedMedia(Modality.IMAGE, Image.fromarray(pixels), f"picture {seed}", height, width)


def random_video(seed: int, frames: int = 5, side: int = 56, fps: float = 2.0) -> PreparedMedia:
    pixels = np.random.default_rng(seed).integers(0, 256, (frames, side, side, 3), dtype=np.uint8)
    return PreparedMedia(Modality.VIDEO, pixels, f"film {seed}", side, side, frames, fps)


def random_audio(seed: int, samples: int) -> PreparedMedia:
    wave = 0.1 * np.random.default_rng(seed).standard_normal(samples)
    return PreparedMedia(Modality.AUDIO, wave.astype(np.float32), f"sound {seed}", length=samples)


VISUAL_REQUESTS: list[Request] = [
    ("no media at all, and longer than some of the others here", []),
    ("a picture {image} and then?", [random_image(1)]),
    ("{image}{image} compare these two", [random_image(1), random_image(2, 112, 56)]),
    ("watch {video} and {image} ok", [random_video(3, fps=1.0), random_image(2, 28, 28)]),
    ("{video}", [random_video(4, frames=8)]),
]
AUDIO_REQUESTS: list[Request] = [
    ("hear {audio}", [random_audio(1, 16000)]),
    (
        "{image} hear {audio}, {audio} and see {video}",
        [random_image(1), random_audio(2, 5001), random_audio(1, 16000), random_video(3)],
    ),
]


def encode_request(engine: Engine, text: str) -> list[int]:
    marks = {str(modality): placeholder.text for modality, placeholder in engine.profile.placeholders.items()}
    ids: list[int] = engine.tokenizer.encode(text.format(**marks), add_special_tokens=False)
    return ids


def generate(engine: Engine, *requests: Request, sampling: Sampling = GREEDY) -> list[Generation]:
    """Send all requests at the same time, so that the engine computes them as one batch."""

    async def generate_all() -> list[Generation]:
        calls = (engine.generate(encode_request(engine, text), sampling, media) for text, media in requests)
        return list(await asyncio.gather(*calls))

    return asyncio.run(generate_all())


def get_texts(generations: Sequence[Generation]) -> list[str]:
    return [g.text for g in generations]


class TinyEngines:
    """Cache of tiny checkpoints below a folder and of engines that run them."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._engines: dict[Any, Engine] = {}

    def folder(self, model: str) -> Path:
        """Return the checkpoint `vl`, `omni` (complete), `thinker` (alone) or `llama`; create it if needed."""
        folder = self._base / model
        if not folder.exists():
            if model == "thinker":
                tiny_qwen_omni(folder, whole=False)
            else:
                {"vl": tiny_qwen_vl, "omni": tiny_qwen_omni, "llama": tiny_llama}[model](folder)
        return folder

    def __call__(self, model: str, name: str = "transformers", **config: Any) -> Engine:
        key = (model, name, *config.items())
        if key not in self._engines:
            settings = {"dtype": "float32", "max_model_len": 4096, "max_batch": 8, **config}
            self._engines[key] = load_engine(EngineConfig(str(self.folder(model)), name, **settings))
        return self._engines[key]

    def close(self) -> None:
        for engine in self._engines.values():
            engine.close()
