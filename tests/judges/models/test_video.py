"""Video sampling by time stamps: which frames are shown when, the rate given to the model, and what is noted."""

from __future__ import annotations

import random
import struct
from typing import Any

import numpy as np
import pytest
from clips import damage_packets, film, noise, picture, read_number, timed_film
from PIL import Image

from flex_judge.judges.errors import MediaError
from flex_judge.judges.media.opening import make_image, make_video
from flex_judge.judges.media.prepared import MediaLimits, PreparedMedia
from flex_judge.judges.models.inputs import video
from flex_judge.judges.models.inputs.preparation import prepare_media
from flex_judge.judges.models.profiles import PROFILES

OMNI = PROFILES["flex-omni"]


def make_jittery_times(count: int, start: float = 0.0) -> list[float]:
    """Return the times of a live recording: about 25 frames per second, at uneven distances."""
    generator = random.Random(count)
    steps = [generator.choice([0.02, 0.03, 0.04, 0.055]) for _ in range(count)]
    return [start + round(sum(steps[:k]), 3) for k in range(count)]


def move_mp4_header(data: bytes) -> bytes:
    """Move the `moov` box of an MP4 file in front of the `mdat` box and correct its offsets."""
    content, header = data.index(b"mdat") - 4, data.index(b"moov") - 4
    size = int.from_bytes(data[header : header + 4], "big")
    moov = bytearray(data[header : header + size])
    position = moov.index(b"stco") + 8
    for k in range(int.from_bytes(moov[position : position + 4], "big")):
        (offset,) = struct.unpack_from(">I", moov, position + 4 + 4 * k)
        struct.pack_into(">I", moov, position + 4 + 4 * k, offset + size)
    return data[:content] + bytes(moov) + data[content:header]


EVEN = [k / 10 for k in range(60)]
PAUSED = [k / 30 for k in range(60)] + [16 + k / 30 for k in range(60)]
DROPPED = sorted(random.Random(1).sample([k / 30 for k in range(300)], 120))
TIMES = {
    "even": EVEN,
    "pause": PAUSED,
    "dropped": DROPPED,
    "late": [5 + time for time in EVEN],
    "jitter": make_jittery_times(240),
    "slides": [0, 1.5, 8, 9, 20, 31],
    "two": [0, 3],
}
FORMS = [("matroska", "libx264"), ("matroska", "mpeg4"), ("webm", "libvpx"), ("mp4", "libx264"), ("mov", "libx264")]
FORMS += [("flv", "libx264"), ("mpegts", "libx264")]


def prepare(data: bytes, name: str | None = None, **limits: Any) -> PreparedMedia:
    source = {"bytes": data, "path": name} if name else data
    return prepare_media(make_video(source), OMNI, MediaLimits(**limits).fill_defaults(OMNI.limits))


def read_numbers(prepared: PreparedMedia) -> list[int]:
    return [read_number(frame) for frame in prepared.value]


def check_evenly_sampled(prepared: PreparedMedia, times: list[float], end: float) -> None:
    """Check against the times of all frames that each sampled frame is shown in its share of the duration."""
    start, slot = times[0], (end - times[0]) / prepared.length
    tolerance = 0.5 * min([b - a for a, b in zip(times, [*times[1:], end], strict=True) if b > a])
    for k, number in enumerate(read_numbers(prepared)):
        shown_from, shown_until = times[number], [*times[1:], end][number]
        assert shown_from <= start + (k + 1) * slot + tolerance, (k, number)
        assert shown_until >= start + k * slot - tolerance, (k, number)


@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize(("form", "codec"), FORMS)
def test_frames_are_sampled_evenly_in_time(form: str, codec: str, name: str) -> None:
    times = TIMES[name]
    prepared = prepare(timed_film(times, form, codec))
    # Frame rates of time stamps in whole milliseconds are slightly off, and the last frame's duration is not stored.
    duration = times[-1] - times[0] + np.median(np.diff(times))
    assert prepared.length / prepared.fps == pytest.approx(duration, rel=0.03, abs=0.5)
    assert prepared.fps <= 2.001
    check_evenly_sampled(prepared, times, times[0] + prepared.length / prepared.fps)


@pytest.mark.parametrize("name", ["even", "pause"])
@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
def test_avi_files_with_dropped_frames_keep_their_time(codec: str, name: str) -> None:
    times = TIMES[name]
    prepared = prepare(timed_film(times, "avi", codec))
    assert prepared.length / prepared.fps == pytest.approx(times[-1] + 1 / 30, rel=0.05)
    check_evenly_sampled(prepared, times, times[-1] + 1 / 30)


def test_even_videos_are_sampled_by_the_published_rule() -> None:
    for rate, count in ((30, 100), (25, 77), (10, 40), (24, 241), (60, 60)):
        times = [k / rate for k in range(count)]
        for form, codec in (("matroska", "libx264"), ("mp4", "libx264")):
            prepared = prepare(timed_film(times, form, codec, last=1 / rate))
            expected = max(4, int(count / rate * 2 + 1e-9) // 2 * 2)
            assert read_numbers(prepared) == np.linspace(0, count - 1, expected).round().astype(int).tolist()
            assert prepared.fps == pytest.approx(expected / count * rate, rel=1e-3)


def test_live_recording_without_duration_and_rate_is_sampled_over_its_whole_length() -> None:
    times = make_jittery_times(300, start=0.054)
    data = timed_film(times, "webm", "libvpx", is_live=True)
    prepared = prepare(data)
    assert prepared.length / prepared.fps == pytest.approx(times[-1] - times[0], abs=0.1)
    assert prepared.fps == pytest.approx(2.0, rel=0.1)
    assert read_numbers(prepared)[-1] > 290
    assert not prepared.notes
    # The recorder may be stopped in the middle of an element; there is no header that promises more.
    assert prepare(data[: len(data) // 2]).length < prepared.length


@pytest.mark.parametrize("options", [{"movflags": "frag_keyframe+empty_moov"}, {}])
def test_fragmented_mp4_is_sampled_over_its_whole_length(options: Any) -> None:
    prepared = prepare(timed_film(PAUSED, "mp4", **options))
    assert prepared.length / prepared.fps == pytest.approx(18.0, abs=0.1)
    check_evenly_sampled(prepared, PAUSED, 18.0)


@pytest.mark.parametrize("name", ["even", "pause", "late", "jitter"])
@pytest.mark.parametrize(("form", "codec"), [("matroska", "libx264"), ("webm", "libvpx"), ("mp4", "mpeg4")])
def test_truncated_videos_of_any_timing_are_rejected(form: str, codec: str, name: str) -> None:
    data = timed_film(TIMES[name], form, codec)
    if form == "mp4":  # The header at the end is moved to the front, as for streaming.
        data = move_mp4_header(data)
    with pytest.raises(MediaError, match=r"video in memory: is truncated: ends at"):
        prepare(data[: len(data) * 6 // 10])


def test_last_frame_is_held_as_long_as_the_header_says() -> None:
    prepared = prepare(timed_film(EVEN, "mp4", last=14.0))
    assert prepared.length / prepared.fps == pytest.approx(20, abs=0.5)
    data = timed_film(EVEN, "matroska")
    position = data.index(b"\x44\x89\x88") + 3  # duration in milliseconds, as a double
    data = data[:position] + struct.pack(">d", 20_000.0) + data[position + 8 :]
    prepared = prepare(data)
    assert (prepared.length, prepared.fps) == (40, pytest.approx(2.0))
    assert read_numbers(prepared)[12:] == [59] * 28
    with pytest.raises(MediaError, match=r"is truncated: ends at \d\.\d of the 20\.0 s"):
        prepare(data[:-100])


@pytest.mark.parametrize("form", ["matroska", "mp4", "webm"])
def test_sound_longer_than_the_video_is_no_truncation(form: str) -> None:
    codec = "libvpx" if form == "webm" else "libx264"
    prepared = prepare(timed_film(EVEN, form, codec, sound_seconds=12.0))
    assert (prepared.length, prepared.fps) == (12, 2.0)


@pytest.mark.parametrize(("begin", "duration", "first"), [(0.0, 3.0, 0), (2.0, 3.0, 20), (3.0, 2.95, 30)])
def test_edit_list_of_mp4_selects_the_frames(begin: float, duration: float, first: int) -> None:
    data = bytearray(timed_film(EVEN, "mp4"))
    position = data.index(b"elst") + 12
    media_start = struct.unpack_from(">i", data, position + 4)[0]
    with_time_base = media_start + round(begin * 16_000)  # units of the track, 16 per millisecond
    struct.pack_into(">Ii", data, position, round(duration * 1000), with_time_base)
    prepared = prepare(bytes(data))
    assert prepared.length / prepared.fps == pytest.approx(duration, abs=0.1)
    assert read_numbers(prepared)[0] == first


def test_gif_delays_are_kept() -> None:
    pages = [Image.new("L", (56, 56), 20 * i) for i in range(10)]
    held = picture(pages[0], "GIF", save_all=True, append_images=pages[1:], duration=[100] * 9 + [3000])
    prepared = prepare(held)
    assert prepared.length / prepared.fps == pytest.approx(3.9)
    assert prepared.value.mean((1, 2, 3))[2:] == pytest.approx(180, abs=2)


def test_joined_transport_streams_are_sampled_through_both() -> None:
    first, second = timed_film(EVEN, "mpegts"), timed_film([9000 + time for time in EVEN], "mpegts")
    for joined in (first + first, first + second, second + first):
        numbers = read_numbers(prepare(joined))
        assert len(numbers) == pytest.approx(24, abs=2)
        assert sorted(numbers[:11]) == numbers[:11]
        assert sorted(numbers[13:]) == numbers[13:]
        assert numbers[-1] == 59


def test_start_without_key_frame_is_noted() -> None:
    data = timed_film(EVEN, "mpegts", gop=20)
    prepared = prepare(data[188 * 5 :])
    assert read_numbers(prepared)[0] >= 5
    assert prepared.notes[0].startswith("video in memory: its first ")
    assert "s hold no complete frame and were skipped" in prepared.notes[0]


@pytest.mark.parametrize(("form", "codec"), [("matroska", "mpeg4"), ("matroska", "libx264"), ("mp4", "libx264")])
def test_few_undecodable_packets_are_skipped_and_counted(form: str, codec: str) -> None:
    data = timed_film([k / 10 for k in range(200)], form, codec)
    whole = read_numbers(prepare(data))
    for bad in ([55], [120, 121, 122], [199]):
        prepared = prepare(damage_packets(data, bad))
        verb = "was" if len(bad) == 1 else "were"
        assert prepared.notes == (
            f"video in memory: {len(bad)} of 200 packets could not be decoded and {verb} skipped",
        )
        numbers = read_numbers(prepared)
        assert numbers == pytest.approx(whole[: len(numbers)], abs=12)


def test_many_undecodable_packets_are_an_error() -> None:
    data = timed_film([k / 10 for k in range(200)], "matroska", "mpeg4")
    with pytest.raises(MediaError, match=r"is damaged: \d+ of 200 packets cannot be decoded; at most 5% of packets"):
        prepare(damage_packets(data, range(50, 80)))


def test_frames_left_out_by_the_limit_are_noted() -> None:
    data = timed_film([k / 10 for k in range(600)], "matroska", "mpeg4", gop=100)
    prepared = prepare(data, "clip.mp4", video_max_frames=16)
    assert prepared.notes == ("clip.mp4: 16 of 120 frames that 2 fps would give; sampled at 0.27 fps",)
    assert prepared.fps == pytest.approx(16 / 60)
    assert not prepare(data).notes
    frames = [noise(56, 56)] * 20
    clip = prepare_media(make_video(frames, fps=4), OMNI, MediaLimits(video_fps=2.0, video_max_frames=4))
    assert clip.notes == ("video of 20 frames: 4 of 10 frames that 2 fps would give; sampled at 0.8 fps",)


def test_rate_above_the_source_is_noted() -> None:
    prepared = prepare(film(range(0, 240, 6), rate=10), video_fps=30.0)
    assert prepared.notes == ("video in memory: 30 fps is above the 10 fps of the source; all 40 frames were used",)
    assert not prepare(film(range(0, 240, 6), rate=10), video_fps=10.0).notes


def test_notes_of_cached_media_name_each_file() -> None:
    data = timed_film(EVEN, "matroska", "mpeg4")
    names = ["a.mkv", "b.mkv"]
    notes = [prepare(data, name, video_max_frames=4).notes for name in names]
    assert [note[0].partition(":")[0] for note in notes] == names


def test_slide_show_is_sampled_like_a_recording_of_it() -> None:
    slides = [0.0, 2.0, 12.0, 16.0, 36.0]
    prepared = prepare(timed_film(slides))
    assert prepared.fps == 2.0
    counts = np.bincount(read_numbers(prepared), minlength=5)
    assert counts[:4] == pytest.approx([4, 20, 8, 40], abs=1)


def test_frames_of_a_long_video_are_not_all_held_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    scaled: list[Any] = []
    resize = video.resize_image
    monkeypatch.setattr(video, "resize_image", lambda *arguments: scaled.append(1) or resize(*arguments))
    prepare(timed_film([k / 10 for k in range(400)], "matroska", "mpeg4"), video_max_frames=6)
    assert len(scaled) == 6


@pytest.mark.parametrize("size", [(5000, 1), (1, 5000), (1000, 4)])
def test_too_elongated_image_is_a_media_error(size: tuple[int, int]) -> None:
    image = make_image({"bytes": picture(Image.new("RGB", size)), "path": "line.png"})
    expected = rf"line\.png: {size[0]}x{size[1]} is too elongated; the model takes up to 200 to 1"
    with pytest.raises(MediaError, match=expected):
        prepare_media(image, OMNI, OMNI.limits)
