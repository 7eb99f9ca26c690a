"""Video sampling: frames evenly spaced in time, each as a player would show it at that time.

Uses the function of qwen-vl-utils that holds the model's rule for the number of frames but not its `fetch_video`: that
one computes times from the frame rate of the header, enforces at least 128 tokens per frame even under smaller limits,
and rounds the sides of single frames to multiples of 56.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flex_judge.judges.errors import MediaError, UsageError
from flex_judge.judges.media.files import check_pixels, convert_decoder_errors
from flex_judge.judges.media.memory import measure_video, reserve_video_decoder
from flex_judge.judges.media.prepared import MediaLimits
from flex_judge.judges.media.streams import DURATION_TOLERANCE, MediaStream, open_stream
from flex_judge.judges.media.types import Media
from flex_judge.judges.models.inputs.vision import decode_image, fit_size, resize_image

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MIN_FRAMES = 4
"""Minimum number of frames sampled from a short video at any rate, as in the published protocol; a lower
`video_max_frames` wins."""
_MAX_JITTER = 0.25
"""Maximum distance of a frame from an even spacing, as a share of the spacing, in a video of constant frame rate."""
_SHORT_FRAME_PERCENTILE = 10
"""The source rate of a video of variable frame rate is that of its short frames, by this percentile of durations."""
_MAX_PASSES = 4
"""Decoding passes: with expected times, without threads after an error, with the true times, and one to spare."""
_ASSUMED_RATE = 25.0
"""Frames per second of a video whose header and frames state no duration at all."""


@dataclass(frozen=True)
class SampledVideo:
    """Frames of a video at even distances in time."""

    frames: NDArray[np.uint8]
    """Array of shape (frames, height, width, 3)."""
    fps: float
    """Sampled frames per second of the video's time."""
    notes: tuple[str, ...] = ()
    """Frames that a limit left out, and packets that were skipped."""


@dataclass(frozen=True)
class FrameChoice:
    """Frames to sample from a video of constant frame rate."""

    indices: list[int]
    """Indices of the frames, ascending; the last one may be repeated."""
    fps: float
    """Sampled frames per second."""
    notes: tuple[str, ...]
    """Effects of a limit, or none."""


@dataclass(frozen=True)
class Timeline:
    """Times at which a video changes its frame, in seconds."""

    times: list[float]
    """Start of each frame, ascending."""
    end: float
    """End of the last frame; its start if it is unknown."""
    header_rate: float
    """Frames per second declared in the header, for a video of a single frame."""

    def resample(self, target_fps: float) -> tuple[int, float]:
        """Return a number of frames and a constant rate that show the video at its own speed.

        These are the frames themselves if their rate is constant. Otherwise the rate is that of the shorter frames, or
        `target_fps` if that is higher: a slide show is sampled like a recording of it.
        """
        import numpy as np

        times = np.unique(self.times)
        if len(times) == 1:
            duration = self.end - times[0]
            return 1, 1 / duration if duration > 0 else self.header_rate or _ASSUMED_RATE
        step = (times[-1] - times[0]) / (len(times) - 1)
        last = max(self.end - times[-1], 0.0)
        is_even = np.abs(times - np.linspace(times[0], times[-1], len(times))).max() <= _MAX_JITTER * step
        if is_even and last <= (1 + _MAX_JITTER) * step:
            return len(times), float(1 / step)
        durations = np.diff(times)
        # The stated duration of a last frame can be arbitrarily short, because nothing follows it.
        durations = np.append(durations, max(last, float(np.median(durations))))
        rate = max(1 / float(np.percentile(durations, _SHORT_FRAME_PERCENTILE)), target_fps)
        return max(1, round(float(durations.sum()) * rate)), rate


def sample_video(media: Media, patch: int, limits: MediaLimits) -> SampledVideo:
    """Sample frames from a video and scale them.

    Args:
        media: video, as a file or as frames.
        patch: patch size of the model in pixels.
        limits: limits of sampling rate, number of frames, and pixels.

    Raises:
        MediaError: the video is broken or too elongated, or its frames differ in size.
        UsageError: the limits allow no video.
    """
    return _sample_frame_images(media, patch, limits) if media.frames else _sample_video_file(media, patch, limits)


def _sample_frame_images(media: Media, patch: int, limits: MediaLimits) -> SampledVideo:
    """Sample a video that was passed as a list of images."""
    import numpy as np

    assert media.fps is not None
    choice = choose_frames(len(media.frames), media.fps, limits)
    sizes, scaled = set[tuple[int, int]](), None
    for place, i in enumerate(choice.indices):  # only the scaled frames are kept in memory
        image = decode_image(media.frames[i])
        sizes.add(image.size)
        if len(sizes) == 1:
            if scaled is None:
                width, height = fit_size(image.size, patch, _get_frame_limit(patch, limits), media.name)
                measure_video(len(choice.indices), width, height, media.name)
                scaled = np.empty((len(choice.indices), height, width, 3), np.uint8)
            scaled[place] = np.asarray(resize_image(image, width, height))
    if len(sizes) > 1 or scaled is None:
        raise MediaError(f"{media.name}: frames differ in size: {sorted(sizes)} (width, height); use one size")
    return SampledVideo(scaled, choice.fps, choice.notes)


def _sample_video_file(media: Media, patch: int, limits: MediaLimits) -> SampledVideo:
    """Sample a video file; only the sampled frames are held in memory."""
    import numpy as np

    packet_timeline = timeline = _read_packet_times(media)
    threads = "AUTO"  # Decode several frames in parallel.
    for _ in range(_MAX_PASSES):
        selected = set(_choose_times(timeline, limits)[0])
        with (
            convert_decoder_errors(media.name, media.modality),
            open_stream(media.data, media.name, media.modality) as opened,
            reserve_video_decoder(*_measure_memory(opened, len(selected), patch, limits)),
        ):
            opened.stream.thread_type = threads
            picked, decoded_timeline = _pick_frames(opened, selected, patch, limits)
            has_lost_end = decoded_timeline.times[-1] < packet_timeline.times[-1]
            if threads == "AUTO" and (opened.skipped or has_lost_end):
                # At an error, parallel decoders lose good frames too.
                timeline, threads = decoded_timeline, "NONE"
                continue
            opened.check_skipped_packets(decoded_timeline.end - decoded_timeline.times[0])
            # Packets may hold no frame or several, or have no time stamp. The true times are known only now.
            true_times, choice = _choose_times(decoded_timeline, limits)
            if picked.keys() >= set(true_times):
                notes = opened.describe_skipped_packets() + _describe_lost_start(packet_timeline, decoded_timeline)
                return SampledVideo(np.stack([picked[time] for time in true_times]), choice.fps, notes + choice.notes)
        timeline = decoded_timeline
    raise MediaError(f"{media.name}: its time stamps change from one reading to the next; convert it")


def _measure_memory(opened: MediaStream, count: int, patch: int, limits: MediaLimits) -> tuple[int, int, int]:
    """Return width and height of a video's frames, and the size of a number of sampled frames in bytes."""
    width, height = opened.stream.width, opened.stream.height
    if not (width and height):
        return 0, 0, 0  # the header does not say; each frame is checked on its own
    scaled = fit_size((width, height), patch, _get_frame_limit(patch, limits), opened.name)
    return width, height, measure_video(count, *scaled, opened.name)


def _describe_lost_start(packets: Timeline, frames: Timeline) -> tuple[str, ...]:
    """Describe packets before the first complete frame, as in a recording of a running broadcast."""
    seconds = frames.times[0] - packets.times[0]
    if seconds <= DURATION_TOLERANCE or len(frames.times) >= len(packets.times):
        return ()
    return (f"its first {seconds:.1f} s hold no complete frame and were skipped",)


def _read_packet_times(media: Media) -> Timeline:
    """Read the expected times of all frames without decoding; nearly all codecs store one frame per packet."""
    times: list[float] = []
    end = 0.0
    with (
        convert_decoder_errors(media.name, media.modality),
        open_stream(media.data, media.name, media.modality) as opened,
    ):
        for packet in opened.read_packets():
            stamp = opened.get_time_stamp(packet)
            if packet.size and not packet.is_discard and stamp is not None:
                times.append(float(stamp * opened.stream.time_base))
                end = max(end, times[-1] + float((packet.duration or 0) * opened.stream.time_base))
        return Timeline(sorted(times) or [0.0], end, _get_header_rate(opened))


def _pick_frames(
    opened: MediaStream, selected: set[float], patch: int, limits: MediaLimits
) -> tuple[dict[float, NDArray[np.uint8]], Timeline]:
    """Decode a video and keep the frames that start at the selected times.

    Returns:
        Start of each frame -> the frame, upright and scaled; and the times of all frames.
    """
    import numpy as np

    clock = opened.make_clock()
    times: list[float] = []
    picked: dict[float, NDArray[np.uint8]] = {}
    size: tuple[int, int] | None = None
    for frame in opened.decode_frames():
        times.append(clock.place_frame(frame, float((frame.duration or 0) * opened.stream.time_base)))
        if times[-1] not in selected:
            continue
        check_pixels(frame.width, frame.height, opened.name)
        image = frame.to_image()
        if frame.rotation:  # phones store portrait videos rotated; the angle is counter-clockwise, as in Pillow
            image = image.rotate(frame.rotation, expand=True)
        size = size or fit_size(image.size, patch, _get_frame_limit(patch, limits), opened.name)
        picked[times[-1]] = np.asarray(resize_image(image, *size))
        measure_video(len(picked), *size, opened.name)
    if not times:
        raise MediaError(f"{opened.name}: holds no frames that can be decoded; check the file")
    return picked, Timeline(times, opened.check_end(clock), _get_header_rate(opened))


def _get_header_rate(opened: MediaStream) -> float:
    return float(opened.stream.average_rate or opened.stream.guessed_rate or 0)


def _choose_times(timeline: Timeline, limits: MediaLimits) -> tuple[list[float], FrameChoice]:
    """Choose the frames to sample from a video file.

    Returns:
        Start of the frame shown at each sampled time, and the choice that led to it.
    """
    total, rate = timeline.resample(_get_target_fps(limits))
    choice = choose_frames(total, rate, limits)
    # The middle of each interval, so that a time stamp that is rounded up is not taken for the previous frame.
    sampled_times = [timeline.times[0] + (index + 0.5) / rate for index in choice.indices]
    return [timeline.times[max(0, bisect_right(timeline.times, time) - 1)] for time in sampled_times], choice


def choose_frames(total: int, rate: float, limits: MediaLimits) -> FrameChoice:
    """Choose which frames of a video to sample; their number is even, because the model merges frames in pairs.

    Args:
        total: number of frames in the video.
        rate: frames per second of the video.
        limits: sampling rate and maximum number of frames.

    Raises:
        UsageError: the limits allow no video.
    """
    import numpy as np
    from qwen_vl_utils.vision_process import FPS_MAX_FRAMES, smart_nframes  # type: ignore[import-untyped]

    max_frames = FPS_MAX_FRAMES if limits.video_max_frames is None else limits.video_max_frames
    target_fps = _get_target_fps(limits)
    if max_frames < 2:
        raise UsageError(f"video_max_frames: expected at least 2, got {max_frames}")
    is_above_source = target_fps > 1.001 * rate
    note = f"{target_fps:g} fps is above the {rate:.3g} fps of the source"
    if total == 1 or (target_fps >= rate and total + total % 2 <= max_frames):
        # Use all frames. The library would drop the last of an odd number; repeating it loses nothing.
        used_all = (f"{note}; all {total} frames were used",) if is_above_source and total > 1 else ()
        return FrameChoice([*range(total), *[total - 1] * (total % 2)], rate, used_all)
    element = {
        "fps": min(target_fps * (1 + 1e-6), rate),  # A rate computed from time stamps is off by rounding.
        "min_frames": min(MIN_FRAMES, max_frames),
        "max_frames": min(max_frames, total),
    }
    count = smart_nframes(element, total_frames=total, video_fps=rate)
    fps = count / total * rate
    wanted = int(total / rate * element["fps"])
    notes: tuple[str, ...] = (note,) if is_above_source else ()
    if count < wanted - wanted % 2:
        notes = (
            *notes,
            f"{count} of {wanted} frames that {element['fps']:.3g} fps would give; sampled at {fps:.2g} fps",
        )
    return FrameChoice([int(i) for i in np.linspace(0, total - 1, count).round()], fps, notes)


def _get_target_fps(limits: MediaLimits) -> float:
    """Return the number of frames per second to sample."""
    from qwen_vl_utils.vision_process import FPS

    target_fps = float(FPS if limits.video_fps is None else limits.video_fps)
    if not (math.isfinite(target_fps) and target_fps > 0):
        raise UsageError(f"video_fps: expected a number above 0, got {target_fps}")
    return target_fps


def _get_frame_limit(patch: int, limits: MediaLimits) -> int:
    """Return the maximum number of pixels of a video frame."""
    from qwen_vl_utils.vision_process import VIDEO_MAX_TOKEN_NUM

    return VIDEO_MAX_TOKEN_NUM * patch * patch if limits.video_max_pixels is None else limits.video_max_pixels
