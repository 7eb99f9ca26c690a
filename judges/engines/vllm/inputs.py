"""Conversion of prompts, media and sampling parameters for vllm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flex_judge.judges.engines.base import NEVER, Sampling
from flex_judge.judges.errors import MediaError
from flex_judge.judges.media.prepared import SAMPLE_RATE, PreparedMedia
from flex_judge.judges.media.types import Modality
from flex_judge.judges.models.inputs.placeholders import PlaceholderTokens, check_media_content
from flex_judge.judges.models.profiles import Profile

MEDIA_PER_PROMPT = 64  # for each modality; vllm allows one by default


def build_prompt(
    token_ids: Sequence[int], media: Sequence[PreparedMedia], placeholders: PlaceholderTokens, limit: int
) -> dict[str, Any]:
    """Build a vllm prompt; vllm repeats the placeholder tokens itself.

    Args:
        token_ids: the prompt, with one placeholder token per medium.
        media: media of the prompt, in order.
        placeholders: placeholder tokens of the model.
        limit: longest sequence that the engine accepts, in tokens.

    Raises:
        UsageError: the prompt is too long.
        MediaError: the model does not support a medium.
        RenderError: placeholders and media do not match.
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
    # Media are scaled already, so the processor must not scale them again. vllm hashes a medium by its uuid and these
    # options, so they must be equal for equal media.
    options = {
        "images_kwargs": {"do_resize": False},
        "videos_kwargs": _build_video_options(media, placeholders.profile),
    }
    present = {f"{modality}s_kwargs" for modality in data}
    return {
        **prompt,
        "multi_modal_data": data,
        "multi_modal_uuids": uuids,
        "mm_processor_kwargs": {name: value for name, value in options.items() if name in present},
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
    if profile.name == "flex-omni":  # its processor accepts one rate for all videos of a prompt, and no metadata
        rates = sorted({medium.fps for medium in media if medium.modality == Modality.VIDEO})
        if len(rates) > 1:
            raise MediaError(
                f"video: one prompt has videos at {', '.join(f'{r:g}' for r in rates)} frames per second, but "
                "flex-omni on vllm supports one rate per prompt; sample them at one rate or use --engine transformers"
            )
        if rates:
            options["fps"] = rates[0]
    return options


def build_media_arguments(profile: Profile) -> dict[str, Any]:
    """Build the engine arguments for the media of a model family."""
    if not profile.placeholders:
        return {}
    return {"limit_mm_per_prompt": {modality.value: MEDIA_PER_PROMPT for modality in profile.placeholders}}


def build_params(sampling: Sampling, stop_ids: Sequence[int], placeholders: PlaceholderTokens) -> Any:
    """Build vllm's SamplingParams.

    Args:
        sampling: sampling parameters of a request.
        stop_ids: tokens that end a turn.
        placeholders: placeholder tokens of the model, which it must not generate.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    return SamplingParams(
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        seed=sampling.seed,
        stop=list(sampling.stop) or None,
        stop_token_ids=list(stop_ids),
        # A generated placeholder token would stand for a medium once the reply is part of the next prompt.
        logit_bias=dict.fromkeys(placeholders.ids.values(), NEVER) or None,
        include_stop_str_in_output=True,
        skip_special_tokens=False,
        structured_outputs=StructuredOutputsParams(regex=sampling.regex) if sampling.regex else None,
        logprob_token_ids=list(sampling.logprob_token_ids) or None,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
