"""Model families: detection, placeholders, and token counts of media."""

from __future__ import annotations

from typing import Any

import pytest

from flex_judge.judges.media.prepared import SAMPLE_RATE, MediaLimits, PreparedMedia
from flex_judge.judges.media.types import Modality
from flex_judge.judges.models.profiles import CHAT, PROFILES, detect_profile

VL, OMNI = PROFILES["flex-vl"], PROFILES["flex-omni"]


@pytest.mark.parametrize(
    ("config", "vocabulary", "name"),
    [
        ({"model_type": "qwen2_5_vl"}, {}, "flex-vl"),
        ({"model_type": "qwen2_5_omni", "thinker_config": {}}, {}, "flex-omni"),
        ({"model_type": "qwen2_5_omni_thinker"}, {}, "flex-omni"),
        ({"model_type": "llama"}, {"<|eot_id|>": 128009}, "flex-llama"),
        ({"model_type": "llama"}, {"<|im_end|>": 2}, "chat"),
        ({"model_type": "qwen3"}, {"<|im_end|>": 151645}, "chat"),
        ({}, {}, "chat"),
    ],
)
def test_family_is_detected_from_the_configuration(
    config: dict[str, Any], vocabulary: dict[str, int], name: str
) -> None:
    assert detect_profile(config, vocabulary) is PROFILES[name]


def test_placeholders_match_the_families_training() -> None:
    assert VL.placeholders[Modality.IMAGE].text == "<|vision_start|><|image_pad|><|vision_end|>"
    assert VL.placeholders[Modality.VIDEO].text == "<|vision_start|><|video_pad|><|vision_end|>"
    assert OMNI.placeholders[Modality.IMAGE].text == "<|vision_bos|><|IMAGE|><|vision_eos|>"
    assert OMNI.placeholders[Modality.VIDEO].text == "<|vision_bos|><|VIDEO|><|vision_eos|>"
    assert OMNI.placeholders[Modality.AUDIO].text == "<|audio_bos|><|AUDIO|><|audio_eos|>"
    assert not CHAT.placeholders


def test_llama_template_uses_a_fixed_date() -> None:
    assert PROFILES["flex-llama"].template_options["date_string"]


@pytest.mark.parametrize(("height", "width", "tokens"), [(28, 28, 1), (448, 448, 256), (56, 84, 6)])
def test_image_has_one_token_per_patch(height: int, width: int, tokens: int) -> None:
    assert VL.count_tokens(PreparedMedia(Modality.IMAGE, None, "", height, width)) == tokens


@pytest.mark.parametrize(("frames", "tokens"), [(1, 64), (2, 64), (5, 192), (8, 256)])
def test_two_video_frames_share_their_tokens(frames: int, tokens: int) -> None:
    assert VL.count_tokens(PreparedMedia(Modality.VIDEO, None, "", 224, 224, frames, 1.0)) == tokens


@pytest.mark.parametrize(
    ("samples", "tokens"), [(1, 0), (SAMPLE_RATE, 25), (SAMPLE_RATE + 1, 25), (30 * SAMPLE_RATE, 750)]
)
def test_audio_has_25_tokens_per_second(samples: int, tokens: int) -> None:
    assert OMNI.count_tokens(PreparedMedia(Modality.AUDIO, None, "", length=samples)) == tokens


def test_unset_limits_default_to_the_familys() -> None:
    mine = MediaLimits(image_max_pixels=448 * 448, video_fps=1.0)
    merged = mine.fill_defaults(OMNI.limits)
    assert (merged.image_max_pixels, merged.video_fps) == (448 * 448, 1.0)
    assert merged.video_max_frames == OMNI.limits.video_max_frames
    assert merged.audio_max_seconds == 300.0
    assert MediaLimits().fill_defaults(OMNI.limits) == OMNI.limits
