"""Images and videos as a vision model takes them: sides in whole patches, within the limits, frames evenly chosen.

Uses the parts of qwen-vl-utils that hold the model's rules (how many frames, which size) and not its `fetch_video`,
whose least size of a frame (128 tokens) overrides smaller limits, and which makes the sides of single frames multiples
of 56.
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
"""Frames taken of a short video, whatever the rate, as the published protocol's reader does; fewer where a limit
says so."""


def scale_image(media: Media, patch: int, limits: MediaLimits) -> Image.Image:
    """An image in RGB, upright, sides multiples of `patch`."""
    image = _decode_image(media)
    return _resize_image(image, *_fit_size(image, patch, limits.image_max_pixels, media.name))


def sample_frames(media: Media, patch: int, limits: MediaLimits) -> tuple[NDArray[np.uint8], float]:
    """The frames of a video that are shown, uint8 array (frames, height, width, 3), and how many there are a second.

    Raises:
        MediaError: it is broken, too elongated, or its frames differ in size.
        UsageError: limits under which no video can be shown.
    """
    return _sample_frame_images(media, patch, limits) if media.frames else _sample_video_file(media, patch, limits)


def _sample_frame_images(media: Media, patch: int, limits: MediaLimits) -> tuple[NDArray[np.uint8], float]:
    import numpy as np

    assert media.fps is not None
    indices, fps = _choose_frame_indices(len(media.frames), media.fps, limits)
    images = [_decode_image(media.frames[i]) for i in indices]
    sizes = {image.size for image in images}
    if len(sizes) > 1:
        raise MediaError(f"{media.name}: frames differ in size: {sorted(sizes)} (width, height)")
    width, height = _fit_size(images[0], patch, _get_frame_limit(patch, limits), media.name)
    return np.stack([np.asarray(_resize_image(image, width, height)) for image in images]), fps


def _sample_video_file(media: Media, patch: int, limits: MediaLimits) -> tuple[NDArray[np.uint8], float]:
    """Choose frames evenly over the video, and keep only these while decoding."""
    packets = _count_packets(media)
    frames, fps, total = _decode_frames(media, packets, patch, limits)
    if total != packets:  # some packets held no frame, or several: now the number is known
        frames, fps, _ = _decode_frames(media, total, patch, limits)
    return frames, fps


def _decode_frames(media: Media, total: int, patch: int, limits: MediaLimits) -> tuple[NDArray[np.uint8], float, int]:
    """The frames shown if there are `total`, their rate, and how many there turned out to be."""
    with open_stream(media.data, media.name, media.modality) as (container, stream):
        stream.thread_type = "AUTO"  # several frames at a time
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        if not rate:
            raise MediaError(f"{media.name}: has no frame rate; convert it, or give its frames and their fps")
        indices, fps = _choose_frame_indices(total, rate, limits)
        frames, decoded = _pick_frames(container.decode(stream), indices, patch, limits, media.name)
        check_duration(media.name, container, stream, decoded / rate)
        return frames, fps, decoded


def _count_packets(media: Media) -> int:
    """How many packets the stream has: with nearly all codecs, its frames."""
    with open_stream(media.data, media.name, media.modality) as (container, stream):
        count = sum(1 for packet in container.demux(stream) if packet.size)
    if not count:
        raise MediaError(f"{media.name}: holds no frames")
    return count


def _pick_frames(
    stream: Any, indices: Sequence[int], patch: int, limits: MediaLimits, name: str
) -> tuple[NDArray[np.uint8], int]:
    """The frames at `indices` (ascending, repeats allowed), upright and scaled, and how many frames there are."""
    import numpy as np

    wanted = set(indices)
    picked: dict[int, NDArray[np.uint8]] = {}
    width = height = count = 0
    for count, frame in enumerate(stream, start=1):
        if count - 1 not in wanted:
            continue
        check_pixels(frame.width, frame.height, name)
        image = frame.to_image()
        if frame.rotation:  # as phones store portraits; counter-clockwise, in Pillow too
            image = image.rotate(frame.rotation, expand=True)
        if not picked:
            width, height = _fit_size(image, patch, _get_frame_limit(patch, limits), name)
        picked[count - 1] = np.asarray(_resize_image(image, width, height))
    if not picked:
        raise MediaError(f"{name}: holds no frames that can be decoded")
    last = picked[max(picked)]
    return np.stack([picked.get(i, last) for i in indices]), count


def _choose_frame_indices(total: int, rate: float, limits: MediaLimits) -> tuple[list[int], float]:
    """Which of `total` frames at `rate` per second are shown, an even number of them, and their rate."""
    import numpy as np
    from qwen_vl_utils.vision_process import FPS, FPS_MAX_FRAMES, smart_nframes  # type: ignore[import-untyped]

    most = FPS_MAX_FRAMES if limits.video_max_frames is None else limits.video_max_frames
    wanted = FPS if limits.video_fps is None else limits.video_fps
    if most < 2:  # what a model merges into one
        raise UsageError(f"video_max_frames: expected at least 2, got {most}")
    if not (math.isfinite(wanted) and wanted > 0):
        raise UsageError(f"video_fps: expected a number above 0, got {wanted}")
    if total == 1 or (wanted >= rate and total + total % 2 <= most):
        # All frames. Where the library would leave the last out for an even number, it is repeated.
        return [*range(total), *[total - 1] * (total % 2)], rate
    element = {"fps": min(wanted, rate), "min_frames": min(MIN_FRAMES, most), "max_frames": min(most, total)}
    count = smart_nframes(element, total_frames=total, video_fps=rate)
    return [int(i) for i in np.linspace(0, total - 1, count).round()], count / total * rate


def _decode_image(media: Media) -> Image.Image:
    with convert_decoder_errors(media.name, media.modality):
        return to_upright_rgb(open_image(media.data, media.name), media.name)


def _get_frame_limit(patch: int, limits: MediaLimits) -> int:
    from qwen_vl_utils.vision_process import VIDEO_MAX_TOKEN_NUM

    return VIDEO_MAX_TOKEN_NUM * patch * patch if limits.video_max_pixels is None else limits.video_max_pixels


def _fit_size(image: Image.Image, patch: int, max_pixels: int | None, name: str) -> tuple[int, int]:
    """Width and height for the model: multiples of the patch, in proportion, with at most `max_pixels`."""
    from qwen_vl_utils.vision_process import IMAGE_MAX_TOKEN_NUM, IMAGE_MIN_TOKEN_NUM, MAX_RATIO, smart_resize

    if max(image.size) > MAX_RATIO * min(image.size):
        raise MediaError(
            f"{name}: {image.width}x{image.height} is too elongated; the model takes up to {MAX_RATIO} to 1"
        )
    most = max(IMAGE_MAX_TOKEN_NUM * patch**2 if max_pixels is None else max_pixels, patch**2)
    least = min(IMAGE_MIN_TOKEN_NUM * patch**2, most)
    height, width = smart_resize(image.height, image.width, factor=patch, min_pixels=least, max_pixels=most)
    # It rounds the short side of a long image down to 0; with one patch there, the long side has what is left.
    longest = most // patch**2 * patch
    if min(width, height) <= patch:
        return max(min(width, longest), patch), max(min(height, longest), patch)
    return width, height


def _resize_image(image: Image.Image, width: int, height: int) -> Image.Image:
    from PIL import Image

    return image.resize((width, height), Image.Resampling.BICUBIC)
