"""Prompts with media, and LoRA adapters, as vllm takes them. Imports vllm only where it makes its objects."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from flex_judge.judges.errors import MediaError, UsageError
from flex_judge.judges.media.prepared import SAMPLE_RATE, PreparedMedia
from flex_judge.judges.media.types import Modality
from flex_judge.judges.models.adapters import check_adapter, read_adapter_shapes
from flex_judge.judges.models.checkpoints import Checkpoint
from flex_judge.judges.models.inputs.placeholders import PlaceholderTokens, check_media_content
from flex_judge.judges.models.omni import resolve_omni_adapter
from flex_judge.judges.models.profiles import Profile

MEDIA_PER_PROMPT = 64  # of each modality; vllm takes but one unless it is told
ENCODERS = ("model.visual.", "visual.", "audio_tower.")
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vllm makes room for


def build_prompt(
    token_ids: Sequence[int], media: Sequence[PreparedMedia], placeholders: PlaceholderTokens, limit: int
) -> dict[str, Any]:
    """A prompt for vllm, which repeats the pads by itself.

    Args:
        token_ids: with one pad per medium.
        media: what the pads stand for.
        placeholders: of the model's family.
        limit: longest sequence that the engine takes, in tokens.

    Raises:
        UsageError: the prompt is too long.
        MediaError: a medium that the model does not take.
        RenderError: pads and media do not agree.
    """
    placeholders.locate_media(token_ids, media, limit)
    prompt: dict[str, Any] = {"prompt_token_ids": list(token_ids)}
    if not media:
        return prompt
    data: dict[str, list[Any]] = {}
    uuids: dict[str, list[str]] = {}
    for medium in media:
        check_media_content(medium)
        data.setdefault(medium.modality.value, []).append(_build_content(medium))
        shape = f"{medium.length}x{medium.height}x{medium.width}@{medium.fps:g}"
        uuids.setdefault(medium.modality.value, []).append(f"{medium.digest}:{shape}")
    # Our media are scaled already. vllm's hash of a medium is made of its uuid and of these options.
    options = {
        "images_kwargs": {"do_resize": False},
        "videos_kwargs": _build_video_options(media, placeholders.profile),
    }
    used = {f"{modality}s_kwargs" for modality in data}
    return {
        **prompt,
        "multi_modal_data": data,
        "multi_modal_uuids": uuids,
        "mm_processor_kwargs": {name: value for name, value in options.items() if name in used},
    }


def _build_content(medium: PreparedMedia) -> Any:
    if medium.modality == Modality.VIDEO:
        return medium.value, {
            "fps": medium.fps,
            "duration": medium.length / medium.fps,
            "total_num_frames": medium.length,
            "frames_indices": list(range(medium.length)),
            "do_sample_frames": False,
        }
    return (medium.value, SAMPLE_RATE) if medium.modality == Modality.AUDIO else medium.value


def _build_video_options(media: Sequence[PreparedMedia], profile: Profile) -> dict[str, Any]:
    options: dict[str, Any] = {"do_resize": False, "do_sample_frames": False}
    if profile.name == "flex-omni":  # whose processor takes one rate for all videos of a prompt, and no metadata
        rates = sorted({medium.fps for medium in media if medium.modality == Modality.VIDEO})
        if len(rates) > 1:
            raise MediaError(
                f"video: one prompt holds videos of {', '.join(f'{r:g}' for r in rates)} frames per second, which a "
                "flex-omni model on the vllm engine cannot tell apart; sample them alike or use --engine transformers"
            )
        if rates:
            options["fps"] = rates[0]
    return options


def build_media_arguments(profile: Profile) -> dict[str, Any]:
    """Engine arguments for a family that takes media."""
    if not profile.placeholders:
        return {}
    return {"limit_mm_per_prompt": {modality.value: MEDIA_PER_PROMPT for modality in profile.placeholders}}


def build_adapter_arguments(checkpoint: Checkpoint) -> dict[str, Any]:
    """Engine arguments for a checkpoint's adapter."""
    if checkpoint.adapter is None:
        return {}
    check_adapter(checkpoint)
    if any(name.startswith(ENCODERS) for name in read_adapter_shapes(checkpoint.adapter)):
        raise UsageError(
            f"adapter {checkpoint.adapter}: changes the model's encoders, which vllm would leave out; "
            "use --engine transformers"
        )
    config = json.loads((checkpoint.adapter / "adapter_config.json").read_text())
    rank = max([config.get("r", 8), *config.get("rank_pattern", {}).values()])
    if rank > LORA_RANKS[-1]:
        raise UsageError(f"adapter {checkpoint.adapter}: rank {rank} is more than vllm's {LORA_RANKS[-1]}")
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": next(r for r in LORA_RANKS if r >= rank)}


def build_adapter_request(checkpoint: Checkpoint) -> Any:
    """What tells vllm to use the adapter for a request; None where there is none."""
    folder = resolve_omni_adapter(checkpoint)
    if folder is None:
        return None
    from vllm.lora.request import LoRARequest

    return LoRARequest("adapter", 1, str(folder))
