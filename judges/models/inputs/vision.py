"""Image and video scaling for vision models: sides in whole patches, within pixel limits, frames evenly sampled.

Uses the functions of qwen-vl-utils that hold the model's rules (number of frames, image size) but not its
`fetch_video`: that one enforces at least 128 tokens per frame even under smaller limits, and rounds the sides of single
frames to multiples of 56.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flex_judge.judges.errors import MediaError, UsageError
from flex_judge.judges.media.files import (
    check_duration,
    check_pixels,
    convert_decoder_errors,
    open_image,
    open_stream,
    to_upright_rgb,
)
from flex_judge.judges.media.prepared import MediaLimits
from flex_judge.judges.media.types import Media

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

MIN_FRAMES = 4
"""Minimum number of frames sampled from a short video at any rate, as in the published protocol; a lower
`video_max_frames` wins."""


def scale_image(media: Media, patch: int, limits: MediaLimits) -> Image.Image:
    """Decode an image into upright RGB and scale its sides to multiples of `patch`."""
    image = _decode_image(media)
    return _resize_image(image, *_fit_size(image, patch, limits.image_max_pixels, media.name))


def sample_frames(media: Media, patch: int, limits: MediaLimits) -> tuple[NDArray[np.uint8], float]:
    """Sample frames evenly from a video and scale them.

    Returns:
        Frames as a uint8 array (frames, height, width, 3), and their rate per second.

    Raises:
        MediaError: the video is broken or too elongated, or its frames differ in size.
        UsageError: the limits allow no video.
    """
    return _sample_frame_images(media, patch, limits) if media.frames else _sample_video_file(media, patch, limits)


def _sample_frame_images(media: Media, patch: int, limits: MediaLimits) -> tuple[NDArray[np.uint8], float]:
    """Sample a video that was passed as a list of images."""
    import numpy as np

    assert media.fps is not None
    indices, fps = _choose_frame_indices(len(media.frames), media.fps, limits)
    images = [_decode_image(media.frames[i]) for i in indices]
    sizes = {image.size for image in images}
    if len(sizes) > 1:
        raise MediaError(
            f"{media.name}: frames differ in size: {sorted(sizes)} (width, height); scale them to one size"
        )
    width, height = _fit_size(images[0], patch, _get_frame_limit(patch, limits), media.name)
    return np.stack([np.asarray(_resize_image(image, width, height)) for image in images]), fps


def _sample_video_file(media: Media, patch: int, limits: MediaLimits) -> tuple[NDArray[np.uint8], float]:
    """Sample a video file; only the sampled frames are held in memory."""
    packets = _count_packets(media)
    frames, fps, total = _decode_frames(media, packets, patch, limits)
    if total != packets:
        # Some packets held no frame or several. The true number is known now, so the indices are chosen again.
        frames, fps, _ = _decode_frames(media, total, patch, limits)
    return frames, fps


def _decode_frames(media: Media, total: int, patch: int, limits: MediaLimits) -> tuple[NDArray[np.uint8], float, int]:
    """Decode the frames to sample from a video of `total` frames.

    Returns:
        The frames, their rate per second, and the true number of frames in the video.
    """
    with open_stream(media.data, media.name, media.modality) as (container, stream):
        stream.thread_type = "AUTO"  # decode several frames in parallel
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        if not rate:
            raise MediaError(f"{media.name}: has no frame rate; convert it, or pass its frames and their fps")
        indices, fps = _choose_frame_indices(total, rate, limits)
        frames, decoded = _pick_frames(container.decode(stream), indices, patch, limits, name=media.name)
        check_duration(media.name, container, stream, decoded / rate)
        return frames, fps, decoded


def _count_packets(media: Media) -> int:
    """Count the packets of a video without decoding them; nearly all codecs store one frame per packet."""
    with open_stream(media.data, media.name, media.modality) as (container, stream):
        count = sum(1 for packet in container.demux(stream) if packet.size)
    if not count:
        raise MediaError(f"{media.name}: holds no frames; check the file")
    return count


def _pick_frames(
    stream: Any, indices: Sequence[int], patch: int, limits: MediaLimits, *, name: str
) -> tuple[NDArray[np.uint8], int]:
    """Select and scale frames of a decoded stream.

    Args:
        stream: iterator over all decoded frames.
        indices: indices of the frames to keep, ascending; repeats are allowed.
        patch: patch size of the model in pixels.
        limits: pixel limits.
        name: name of the medium in error messages.

    Returns:
        The selected frames, upright and scaled, and the number of frames in the stream.
    """
    import numpy as np

    selected_indices = set(indices)
    picked: dict[int, NDArray[np.uint8]] = {}
    width = height = count = 0
    for count, frame in enumerate(stream, start=1):
        if count - 1 not in selected_indices:
            continue
        check_pixels(frame.width, frame.height, name)
        image = frame.to_image()
        if frame.rotation:  # phones store portrait videos rotated; the angle is counter-clockwise, as in Pillow
            image = image.rotate(frame.rotation, expand=True)
        if not picked:
            width, height = _fit_size(image, patch, _get_frame_limit(patch, limits), name)
        picked[count - 1] = np.asarray(_resize_image(image, width, height))
    if not picked:
        raise MediaError(f"{name}: holds no frames that can be decoded; check the file")
    # Fewer frames than expected: repeat the last one. `_sample_video_file` then decodes again with the true number.
    last = picked[max(picked)]
    return np.stack([picked.get(i, last) for i in indices]), count


def _choose_frame_indices(total: int, rate: float, limits: MediaLimits) -> tuple[list[int], float]:
    """Choose which frames of a video to sample; their number is even, because the model merges frames in pairs.

    Args:
        total: number of frames in the video.
        rate: frames per second of the video.
        limits: sampling rate and maximum number of frames.

    Returns:
        Indices of the frames, ascending, and their rate per second.
    """
    import numpy as np
    from qwen_vl_utils.vision_process import FPS, FPS_MAX_FRAMES, smart_nframes  # type: ignore[import-untyped]

    max_frames = FPS_MAX_FRAMES if limits.video_max_frames is None else limits.video_max_frames
    target_fps = FPS if limits.video_fps is None else limits.video_fps
    if max_frames < 2:
        raise UsageError(f"video_max_frames: expected at least 2, got {max_frames}")
    if not (math.isfinite(target_fps) and target_fps > 0):
        raise UsageError(f"video_fps: expected a number above 0, got {target_fps}")
    if total == 1 or (target_fps >= rate and total + total % 2 <= max_frames):
        # Use all frames. The library would drop the last of an odd number; repeating it loses nothing.
        return [*range(total), *[total - 1] * (total % 2)], rate
    element = {
        "fps": min(target_fps, rate),
        "min_frames": min(MIN_FRAMES, max_frames),
        "max_frames": min(max_frames, total),
    }
    count = smart_nframes(element, total_frames=total, video_fps=rate)
    return [int(i) for i in np.linspace(0, total - 1, count).round()], count / total * rate


def _decode_image(media: Media) -> Image.Image:
    with convert_decoder_errors(media.name, media.modality):
        return to_upright_rgb(open_image(media.data, media.name), media.name)


def _get_frame_limit(patch: int, limits: MediaLimits) -> int:
    """Return the maximum number of pixels of a video frame."""
    from qwen_vl_utils.vision_process import VIDEO_MAX_TOKEN_NUM

    return VIDEO_MAX_TOKEN_NUM * patch * patch if limits.video_max_pixels is None else limits.video_max_pixels


def _fit_size(image: Image.Image, patch: int, max_pixels: int | None, name: str) -> tuple[int, int]:
    """Compute the size to scale an image to, in proportion.

    Returns:
        Width and height: multiples of `patch` with a product of at most `max_pixels`.
    """
    from qwen_vl_utils.vision_process import IMAGE_MAX_TOKEN_NUM, IMAGE_MIN_TOKEN_NUM, MAX_RATIO, smart_resize

    if max(image.size) > MAX_RATIO * min(image.size):
        raise MediaError(
            f"{name}: {image.width}x{image.height} is too elongated; the model takes up to {MAX_RATIO} to 1, so crop it"
        )
    ceiling = max(IMAGE_MAX_TOKEN_NUM * patch**2 if max_pixels is None else max_pixels, patch**2)
    floor = min(IMAGE_MIN_TOKEN_NUM * patch**2, ceiling)
    height, width = smart_resize(image.height, image.width, factor=patch, min_pixels=floor, max_pixels=ceiling)
    # smart_resize can round the short side of a long image down to 0. The short side then gets one patch, and the long
    # side is limited to the patches that are left.
    longest = ceiling // patch**2 * patch
    if min(width, height) <= patch:
        return max(min(width, longest), patch), max(min(height, longest), patch)
    return width, height


def _resize_image(image: Image.Image, width: int, height: int) -> Image.Image:
    from PIL import Image

    return image.resize((width, height), Image.Resampling.BICUBIC)
