"""Model families: how each marks media in its prompts, opens its thinking, ends its turn, and how large media may be.

All that differs between the families of judges is here and nowhere else. A family is recognised by the checkpoint's
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
    """What stands in the prompt for one medium: `opening`, then `pad` (which an engine repeats), then `closing`."""

    opening: str
    pad: str
    closing: str

    @property
    def text(self) -> str:
        return self.opening + self.pad + self.closing


@dataclass(frozen=True)
class Profile:
    """One model family."""

    name: str
    placeholders: Mapping[Modality, Placeholder] = field(default_factory=dict)
    """The modalities that the family sees or hears; molecules are shown as text to those that have no entry."""
    prefill: str = "<think>\n"
    """What a judge's reply is made to begin with."""
    stop_tokens: tuple[str, ...] = ()
    """Tokens that end a turn, beside those that the checkpoint names itself."""
    template_options: Mapping[str, Any] = field(default_factory=dict)
    """Variables for the chat template."""
    limits: MediaLimits = field(default_factory=MediaLimits)
    patch: int = 28
    """Side, in pixels, of the square of an image that becomes one token; sides are multiples of it."""
    frames_per_token: int = 2
    """Video frames that are merged into one."""
    molecule_tokens: int = 8
    """Tokens of a molecule, whatever its size."""

    def count_tokens(self, medium: PreparedMedia) -> int:
        """How many times the placeholder's pad is repeated for a medium."""
        if medium.modality == Modality.IMAGE:
            return (medium.height // self.patch) * (medium.width // self.patch)
        if medium.modality == Modality.MOLECULE:
            return self.molecule_tokens
        if medium.modality == Modality.VIDEO:
            frames = math.ceil(medium.length / self.frames_per_token)
            return frames * (medium.height // self.patch) * (medium.width // self.patch)
        # Whisper's features (one per 160 samples) pass a convolution and a pooling of stride 2 each.
        features = math.ceil(medium.length / 160)
        return ((features - 1) // 2 + 1 - 2) // 2 + 1

    def count_prompt_tokens(self, token_ids: Sequence[int], media: Iterable[PreparedMedia]) -> int:
        """Tokens that the model sees of a prompt which holds one pad for each of the media."""
        return len(token_ids) + sum(self.count_tokens(medium) - 1 for medium in media)


_QWEN_VL = MediaLimits(
    image_max_pixels=1280 * 28 * 28, video_fps=2.0, video_max_pixels=768 * 28 * 28, video_max_frames=768
)
CHAT = Profile("chat")
"""Any chat model: text only."""
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
        # Llama's template writes today's date unless it is given one; a judge that changes by the day is none.
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
    """The profile of a checkpoint.

    Args:
        config: the content of its config.json.
        vocabulary: its tokenizer's added tokens. A model built like Llama but with another chat format (the embedded
            one) is told by them.
    """
    profile = PROFILES[_FAMILIES.get(config.get("model_type", ""), "chat")]
    if Modality.MOLECULE in profile.placeholders:
        profile = replace(profile, molecule_tokens=config.get("num_query_tokens", profile.molecule_tokens))
    return CHAT if profile.name == "flex-llama" and "<|eot_id|>" not in vocabulary else profile
