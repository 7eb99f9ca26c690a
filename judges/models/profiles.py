"""Model families: media placeholders, reply prefill, stop tokens and media limits.

All differences between the families of judges are defined here. A checkpoint's family is detected from its
`config.json`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from flex_judge.judges.media.prepared import MediaLimits, PreparedMedia
from flex_judge.judges.media.types import Modality


@dataclass(frozen=True)
class Placeholder:
    """Prompt text that stands for one medium: `opening`, `pad`, `closing`."""

    opening: str
    pad: str
    """Placeholder token. The engine repeats it once for each token of the medium."""
    closing: str

    @property
    def text(self) -> str:
        """The complete text, with one placeholder token."""
        return self.opening + self.pad + self.closing


@dataclass(frozen=True)
class Profile:
    """Prompt format and input rules of one model family."""

    name: str
    placeholders: Mapping[Modality, Placeholder] = field(default_factory=dict)
    """Supported modality -> its placeholder. A family without an entry for molecules gets them as SMILES text."""
    prefill: str = "<think>\n"
    """Text that every judge reply starts with."""
    stop_tokens: tuple[str, ...] = ()
    """Tokens that end a turn, in addition to the checkpoint's own."""
    template_options: Mapping[str, Any] = field(default_factory=dict)
    """Variables passed to the chat template."""
    limits: MediaLimits = field(default_factory=MediaLimits)
    """Default media limits."""
    patch: int = 28
    """Side in pixels of the image square that becomes one token. Image sides are multiples of it."""
    frames_per_token: int = 2
    """Number of consecutive video frames merged into one."""
    molecule_tokens: int = 8
    """Number of tokens of a molecule, independent of its size."""

    def count_tokens(self, medium: PreparedMedia) -> int:
        """Return the number of tokens of a medium, which is how often its placeholder token is repeated."""
        if medium.modality == Modality.IMAGE:
            return (medium.height // self.patch) * (medium.width // self.patch)
        if medium.modality == Modality.MOLECULE:
            return self.molecule_tokens
        if medium.modality == Modality.VIDEO:
            frames = math.ceil(medium.length / self.frames_per_token)
            return frames * (medium.height // self.patch) * (medium.width // self.patch)
        # Audio: Whisper computes one feature per 160 samples; a convolution and a pooling of stride 2 follow.
        features = math.ceil(medium.length / 160)
        return ((features - 1) // 2 + 1 - 2) // 2 + 1

    def count_prompt_tokens(self, token_ids: Sequence[int], media: Iterable[PreparedMedia]) -> int:
        """Return the length of a prompt after each placeholder token is repeated for its medium."""
        return len(token_ids) + sum(self.count_tokens(medium) - 1 for medium in media)


_QWEN_VL = MediaLimits(
    image_max_pixels=1280 * 28 * 28, video_fps=2.0, video_max_pixels=768 * 28 * 28, video_max_frames=768
)
CHAT = Profile("chat")
"""Fallback for any other chat model: text only."""
PROFILES = {
    "flex-vl": Profile(
        "flex-vl",
        placeholders={
            Modality.IMAGE: Placeholder("<|vision_start|>", "<|image_pad|>", "<|vision_end|>"),
            Modality.VIDEO: Placeholder("<|vision_start|>", "<|video_pad|>", "<|vision_end|>"),
        },
        stop_tokens=("<|im_end|>", "<|endoftext|>"),
        limits=_QWEN_VL,
    ),
    "flex-omni": Profile(
        "flex-omni",
        placeholders={
            Modality.IMAGE: Placeholder("<|vision_bos|>", "<|IMAGE|>", "<|vision_eos|>"),
            Modality.VIDEO: Placeholder("<|vision_bos|>", "<|VIDEO|>", "<|vision_eos|>"),
            Modality.AUDIO: Placeholder("<|audio_bos|>", "<|AUDIO|>", "<|audio_eos|>"),
        },
        stop_tokens=("<|im_end|>", "<|endoftext|>"),
        limits=MediaLimits(audio_max_seconds=300.0).fill_defaults(_QWEN_VL),
    ),
    "flex-llama": Profile(
        "flex-llama",
        stop_tokens=("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"),
        # Llama's template inserts today's date by default, so judgments would change from day to day.
        template_options={"date_string": "26 Jul 2024"},
    ),
    "flex-mol-llama": Profile(
        "flex-mol-llama",
        placeholders={Modality.MOLECULE: Placeholder("", "<mol>", "")},
        prefill="<think>",
        stop_tokens=("<|eot_id|>", "<|end_of_text|>"),
    ),
    "chat": CHAT,
}
_FAMILIES = {
    "qwen2_5_vl": "flex-vl",
    "qwen2_5_omni": "flex-omni",
    "qwen2_5_omni_thinker": "flex-omni",
    "llama": "flex-llama",
    "mol_llama": "flex-mol-llama",
}
"""`model_type` of a checkpoint's config.json -> profile."""


def detect_profile(config: Mapping[str, Any], vocabulary: Mapping[str, int]) -> Profile:
    """Detect the family of a checkpoint.

    Args:
        config: content of its config.json.
        vocabulary: added tokens of its tokenizer. A Llama architecture without `<|eot_id|>` uses another chat format
            (the embedded model, for example) and gets the `chat` profile.
    """
    profile = PROFILES[_FAMILIES.get(config.get("model_type", ""), "chat")]
    if Modality.MOLECULE in profile.placeholders:
        profile = replace(profile, molecule_tokens=config.get("num_query_tokens", profile.molecule_tokens))
    return CHAT if profile.name == "flex-llama" and "<|eot_id|>" not in vocabulary else profile
