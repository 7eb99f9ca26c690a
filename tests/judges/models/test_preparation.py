"""Media preparation: sizes, limits, sampling, orientation and loudness."""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pytest
from clips import film, noise, picture, sound, tone, wav
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flex_judge.judges.errors import MediaError, UsageError
from flex_judge.judges.media.opening import make_audio, make_image, make_molecule, make_video
from flex_judge.judges.media.prepared import MediaLimits, PreparedMedia
from flex_judge.judges.models.inputs import preparation
from flex_judge.judges.models.inputs.preparation import prepare_media
from flex_judge.judges.models.profiles import PROFILES

OMNI = PROFILES["flex-omni"]


def prepare(medium: Any, **limits: Any) -> PreparedMedia:
    return prepare_media(medium, OMNI, MediaLimits(**limits))


def get_pixels(prepared: PreparedMedia) -> Any:
    return np.asarray(prepared.value)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 900), st.integers(1, 900), st.sampled_from([None, 1, 784, 224 * 224, 448 * 448]))
def test_image_is_scaled_to_whole_patches_within_the_limit(width: int, height: int, limit: int | None) -> None:
    source = make_image(Image.new("RGB", (width, height)))
    if max(width, height) > 200 * min(width, height):
        with pytest.raises(MediaError, match="200 to 1"):
            prepare(source, image_max_pixels=limit)
        return
    prepared = prepare(source, image_max_pixels=limit)
    assert prepared.value.size == (prepared.width, prepared.height)
    assert prepared.width % 28 == prepared.height % 28 == 0
    assert OMNI.count_tokens(prepared) == prepared.width * prepared.height // 28**2 >= 1
    assert prepared.width * prepared.height <= max(limit or 16384 * 28**2, 28**2)


def test_proportions_are_kept() -> None:
    prepared = prepare(make_image(noise(800, 1600)), image_max_pixels=448 * 448)
    assert (prepared.height, prepared.width) == (308, 616)


def test_long_image_respects_a_small_limit() -> None:
    prepared = prepare(make_image(Image.new("RGB", (5600, 28))), image_max_pixels=224 * 224)
    assert (prepared.height, prepared.width) == (28, 1792)


def test_exif_rotation_is_applied() -> None:
    pixels = np.zeros((56, 112, 3), np.uint8)
    pixels[:, :56] = [255, 0, 0]  # the left half, which is on top after rotating clockwise
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: rotate by 90 degrees clockwise
    data = picture(pixels, exif=exif)
    opened = Image.open(io.BytesIO(data))
    for source in (data, opened):
        prepared = prepare(make_image(source))
        assert (prepared.height, prepared.width) == (112, 56)
        assert get_pixels(prepared)[5, 28].tolist() == [255, 0, 0]
        assert get_pixels(prepared)[105, 28].tolist() == [0, 0, 0]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1-bit"])
def test_transparent_parts_become_white(mode: str) -> None:
    clear = Image.new("RGBA", (56, 56), (0, 0, 0, 0))
    data = {
        "RGBA": lambda: picture(clear),
        "LA": lambda: picture(clear.convert("LA")),
        "P": lambda: picture(Image.new("RGB", (56, 56)).convert("P"), transparency=0),
        "1-bit": lambda: picture(Image.new("L", (56, 56), 0), transparency=0),
    }[mode]()
    assert (get_pixels(prepare(make_image(data))) == 255).all()
    assert (get_pixels(prepare(make_image(Image.open(io.BytesIO(data))))) == 255).all()


def test_16_bit_grey_images_keep_their_brightness() -> None:
    data = picture(Image.fromarray(np.full((56, 56), 0x8000, np.uint16)))
    assert (get_pixels(prepare(make_image(data))) == 0x80).all()


def test_fitting_image_is_unchanged() -> None:
    pixels = noise(56, 84)
    for source in (picture(pixels), pixels, Image.fromarray(pixels)):
        assert np.array_equal(get_pixels(prepare(make_image(source))), pixels)


@pytest.mark.parametrize("form", ["JPEG", "BMP", "TIFF", "GIF"])
def test_truncated_image_is_named_in_the_error(form: str, tmp_path: Any) -> None:
    data = picture(noise(), form)
    (tmp_path / "cat.jpg").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(MediaError, match=r"cat\.jpg: .*truncated"):
        prepare(make_image(tmp_path / "cat.jpg"))


def test_video_is_sampled_evenly_at_the_requested_rate() -> None:
    source = make_video(film(range(0, 240, 6), rate=10))  # 40 frames, 4 s
    prepared = prepare(source, video_fps=1.0)
    assert (prepared.length, prepared.fps) == (4, 1.0)
    assert get_pixels(prepared).mean((1, 2, 3)) == pytest.approx([0, 78, 156, 234], abs=6)
    assert prepared.value.dtype == np.uint8
    assert prepared.value.shape == (4, prepared.height, prepared.width, 3)
    assert prepare(source, video_fps=2.0).length == 8
    assert prepare(source, video_fps=1000.0).length == 40
    assert prepare(source).length == 8  # two per second by default
    assert (prepare(source, video_fps=5.0, video_max_frames=7).length, prepare(source, video_max_frames=2).length) == (
        6,
        2,
    )


@pytest.mark.parametrize(
    ("form", "codec"),
    [("mp4", "mpeg4"), ("avi", "mpeg4"), ("mpegts", "mpeg2video"), ("webm", "libvpx"), ("matroska", "mpeg4")],
)
def test_common_video_formats_are_decoded(form: str, codec: str) -> None:
    prepared = prepare(make_video(film(range(0, 240, 12), 10, form, codec)), video_fps=1.0, video_max_frames=2)
    assert prepared.fps == pytest.approx(1.0)
    assert get_pixels(prepared).mean((1, 2, 3)) == pytest.approx([0, 228], abs=8)


def test_short_video_gives_at_least_four_frames() -> None:
    prepared = prepare(make_video(film(range(0, 240, 12), 10)), video_fps=1.0)
    assert (prepared.length, prepared.fps) == (4, 2.0)


def test_animated_gif_is_a_video() -> None:
    pages = [Image.new("L", (56, 56), 20 * i) for i in range(10)]
    data = picture(pages[0], "GIF", save_all=True, append_images=pages[1:], duration=100)
    prepared = prepare(make_video(data), video_fps=2.0)
    means = get_pixels(prepared).mean((1, 2, 3))
    assert [means[0], means[-1]] == pytest.approx([0, 180], abs=2)


@pytest.mark.parametrize("frames", [1, 2, 3, 5, 40])
@pytest.mark.parametrize("fps", [1.0, 30.0])
@pytest.mark.parametrize("is_file", [True, False])
def test_number_of_sampled_frames_is_even(frames: int, fps: float, is_file: bool) -> None:
    greys = [6 * i for i in range(frames)]
    frame_list = [np.full((56, 56, 3), grey, np.uint8) for grey in greys]
    prepared = prepare(make_video(film(greys)) if is_file else make_video(frame_list, fps=10), video_fps=fps)
    assert prepared.length == len(prepared.value) >= 2
    assert prepared.length % 2 == 0
    means = get_pixels(prepared).mean((1, 2, 3))
    assert [means[0], means[-1]] == pytest.approx([greys[0], greys[-1]], abs=6)
    if fps > 10:
        assert means == pytest.approx([*greys, *greys[-1:] * (frames % 2)], abs=6)
        assert prepared.fps == 10


def test_frame_list_and_video_file_are_sampled_alike() -> None:
    greys = list(range(0, 240, 6))
    frames = prepare(make_video([np.full((56, 56, 3), g, np.uint8) for g in greys], fps=10), video_fps=1.5)
    of_file = prepare(make_video(film(greys, 10, size=(56, 56))), video_fps=1.5)
    assert (frames.length, frames.fps, frames.height, frames.width) == (6, 1.5, 56, 56)
    assert (of_file.length, of_file.fps, of_file.height, of_file.width) == (6, 1.5, 56, 56)
    assert get_pixels(frames).mean((1, 2, 3)) == pytest.approx(get_pixels(of_file).mean((1, 2, 3)), abs=6)


@pytest.mark.parametrize("limit", [56 * 56, 224 * 224])
def test_frames_respect_small_pixel_limits(limit: int) -> None:
    for source in (make_video(film([0, 9], size=(640, 360))), make_video([noise(360, 640)] * 2, fps=1)):
        prepared = prepare(source, video_max_pixels=limit)
        assert limit // 4 <= prepared.height * prepared.width <= limit
        assert OMNI.count_tokens(prepared) == prepared.height * prepared.width // 28**2


def test_video_rotation_is_applied() -> None:
    data = film([0] * 4, form="mp4", size=(112, 56), corner=(255, 255, 255), rotation=90)
    prepared = prepare(make_video(data))
    assert (prepared.height, prepared.width) == (112, 56)
    assert (
        get_pixels(prepared)[0, 100, 5].mean() > 200
    )  # upper left becomes lower left after rotating counter-clockwise
    assert get_pixels(prepared)[0, 5, 5].mean() < 50


def test_video_without_its_beginning_is_sampled_over_decodable_frames() -> None:
    data = film(range(0, 240, 4), 25, "mpegts", "mpeg2video")
    cut = data[len(data) // 10 // 188 * 188 :]  # packets before the first complete frame cannot be decoded
    means = get_pixels(prepare(make_video(cut), video_fps=5.0)).mean((1, 2, 3))
    assert np.diff(means) == pytest.approx(np.full(len(means) - 1, (means[-1] - means[0]) / (len(means) - 1)), abs=8)
    assert means[-1] > 225


@pytest.mark.parametrize("form", ["matroska", "avi", "webm"])
def test_truncated_video_is_rejected(form: str) -> None:
    data = film([i * 37 % 256 for i in range(40)], form=form, codec="libvpx" if form == "webm" else "mpeg4")
    with pytest.raises(MediaError, match=r"video in memory: (is truncated|cannot be read)"):
        prepare(make_video(data[: len(data) // 2]))


def test_frames_of_different_sizes_are_rejected() -> None:
    with pytest.raises(MediaError, match="video of 2 frames: frames differ in size"):
        prepare(make_video([noise(56, 56), noise(56, 84)], fps=1))


def test_broken_frame_is_named_in_the_error(tmp_path: Any) -> None:
    complete = picture(noise(), "JPEG")
    with pytest.raises(MediaError, match=r"frame 1 \(image in memory\): cannot be read"):
        prepare(make_video([complete, complete[:-200]], fps=1))


@pytest.mark.parametrize("limits", [{"video_max_frames": 1}, {"video_fps": 0.0}, {"video_fps": float("nan")}])
def test_limits_that_allow_no_video_are_usage_errors(limits: Any) -> None:
    for source in (make_video(film([0, 9])), make_video([noise()], fps=1)):
        with pytest.raises(UsageError, match=next(iter(limits))):
            prepare(source, **limits)


def measure_loudness(prepared: PreparedMedia) -> float:
    """Compute the root mean square without the ends, where resampling rings."""
    middle = prepared.value[2000:-2000]
    return float(np.sqrt((middle.astype(np.float64) ** 2).mean()))


@pytest.mark.parametrize("rate", [8000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("kind", ["file", "int16", "int32", "uint8", "float32", "float64"])
def test_loudness_and_duration_are_kept_for_all_sample_formats(rate: int, channels: int, kind: str) -> None:
    samples = tone(1.0, rate)
    many = samples if channels == 1 else np.repeat(samples[:, None], channels, axis=1)
    if kind == "file":
        source = make_audio(wav(many, rate))
    elif kind == "uint8":
        source = make_audio((many * 127 + 128).round().astype(np.uint8), rate)
    elif kind.startswith("int"):
        source = make_audio((many * np.iinfo(kind).max).astype(kind), rate)
    else:
        source = make_audio(many.astype(kind), rate)
    prepared = prepare(source)
    expected = tone(1.0)
    assert prepared.value.dtype == np.float32
    assert prepared.length == len(prepared.value) == pytest.approx(len(expected), abs=2)
    assert measure_loudness(prepared) == pytest.approx(0.5 / 2**0.5, rel=0.01)
    assert np.abs(prepared.value[2000:14_000] - expected[2000:14_000]).max() < 0.01


@pytest.mark.parametrize(
    ("codec", "form", "rate"),
    [
        ("pcm_s24le", "wav", 44_100),
        ("pcm_f32le", "wav", 44_100),
        ("pcm_mulaw", "wav", 8000),
        ("pcm_s16be", "aiff", 44_100),
        ("flac", "flac", 44_100),
        ("libmp3lame", "mp3", 44_100),
        ("aac", "mp4", 44_100),
        ("libopus", "ogg", 48_000),
    ],
)
def test_loudness_is_kept_for_common_audio_formats(codec: str, form: str, rate: int) -> None:
    prepared = prepare(make_audio(sound(tone(1.0, rate), codec, form, rate)))
    assert measure_loudness(prepared) == pytest.approx(0.5 / 2**0.5, rel=0.05)
    assert prepared.length == pytest.approx(16_000, rel=0.1)


def test_channels_are_averaged() -> None:
    left, right = tone(), tone(hertz=1000, amplitude=0.2)
    prepared = prepare(make_audio(np.stack([left, right], axis=1), 16_000))
    assert prepared.value == pytest.approx((left + right) / 2, abs=1e-6)


def test_16_khz_samples_are_unchanged_and_the_end_is_complete() -> None:
    samples = tone(0.7301)
    assert np.array_equal(prepare(make_audio(samples, 16_000)).value, samples)
    end = np.zeros(44_100, np.float32)
    end[-2000:] = 0.5
    assert np.abs(prepare(make_audio(end, 44_100)).value[-400:-50] - 0.5).max() < 0.05


def test_audio_above_the_limit_is_rejected() -> None:
    source = make_audio(wav(tone(1.0)))
    assert prepare(source, audio_max_seconds=1.0).length == 16_000
    with pytest.raises(MediaError, match=r"audio in memory: is longer than 0\.5 s"):
        prepare(source, audio_max_seconds=0.5)


def test_audio_below_one_token_is_rejected() -> None:
    with pytest.raises(MediaError, match="too short"):
        prepare(make_audio(tone(0.01), 16_000))


def test_float_audio_with_integer_scale_is_rejected() -> None:
    with pytest.raises(MediaError, match="integers"):
        prepare(make_audio(sound(tone(amplitude=30_000), "pcm_f32le", "wav")))


@pytest.mark.parametrize(("codec", "form"), [("flac", "flac"), ("pcm_s16be", "aiff")])
def test_truncated_audio_is_rejected(codec: str, form: str) -> None:
    data = sound(tone(2.0), codec, form)
    with pytest.raises(MediaError, match="audio in memory"):
        prepare(make_audio(data[: len(data) // 2]))


def test_molecule_conformer_is_cached() -> None:
    pytest.importorskip("rdkit")
    profile = PROFILES["flex-mol-llama"]
    first, second = (prepare_media(make_molecule("CCO"), profile, profile.limits) for _ in range(2))
    assert first is second
    assert (first.length, first.value.tokens.tolist(), profile.count_tokens(first)) == (3, [1, 4, 4, 6, 2], 8)
    with pytest.raises(MediaError, match="molecule C1CC: RDKit cannot parse it"):
        prepare_media(make_molecule("C1CC"), profile, profile.limits)


def test_prepared_media_are_shared() -> None:
    pixels = noise(56, 112)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: prepare(make_image(pixels)), range(32)))
    assert len({p.digest for p in results}) == 1
    assert prepare(make_image(pixels)) is prepare(make_image(picture(pixels, compress_level=1)))


def test_cache_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "_CACHE", preparation._MediaCache(2 * 56 * 56 * 3))
    first, second, third = (make_image(Image.new("L", (56, 56), i)) for i in range(3))
    large = make_image(noise(560, 560))
    cached = prepare(first)
    prepare(second)
    assert prepare(first) is cached  # now the most recently used
    prepare(third)
    assert prepare(first) is cached
    assert prepare(large) is not prepare(large)  # too large to cache
    assert prepare(first) is cached
    prepare(second)
    prepare(third)
    assert prepare(first) is not cached


def test_digest_depends_on_relevant_limits_only() -> None:
    picture_, clip, voice = make_image(noise()), make_video([noise()] * 4, fps=1), make_audio(tone(), 16_000)
    assert prepare(picture_).digest == prepare(picture_, video_fps=1.0, audio_max_seconds=9.0).digest
    assert prepare(picture_).digest != prepare(picture_, image_max_pixels=784).digest
    assert prepare(clip).digest == prepare(clip, image_max_pixels=784).digest
    assert prepare(clip, video_fps=1).digest == prepare(clip, video_fps=1.0).digest
    limits = [{"video_fps": 0.5}, {"video_max_pixels": 784}, {"video_max_frames": 2}, {}]
    assert len({prepare(clip, **limit).digest for limit in limits}) == 4
    assert prepare(voice).digest == prepare(voice, audio_max_seconds=9.0).digest
    assert len({prepare(medium).digest for medium in (picture_, clip, voice)}) == 3


DAMAGED = {
    make_image: [picture(noise(), form) for form in ("PNG", "JPEG", "WEBP", "GIF", "BMP")],
    make_video: [film(range(0, 240, 24), 10, *form) for form in (("mp4", "mpeg4"), ("webm", "libvpx"))],
    make_audio: [wav(tone(0.2)), sound(tone(0.2), "flac", "flac"), sound(tone(0.2), "libmp3lame", "mp3")],
}


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([(make, data) for make, files in DAMAGED.items() for data in files]), st.data())
def test_damaged_file_decodes_or_raises_a_one_line_media_error(file: Any, draw: Any) -> None:
    make, data = file
    damaged = bytearray(data[: draw.draw(st.integers(1, len(data)))])
    for _ in range(draw.draw(st.integers(0, 4))):
        damaged[draw.draw(st.integers(0, len(damaged) - 1))] = draw.draw(st.integers(0, 255))
    with suppress(MediaError), _check_one_line_error(f"{make.__name__.removeprefix('make_')} in memory: "):
        prepare(make(bytes(damaged)))


@contextmanager
def _check_one_line_error(beginning: str) -> Iterator[None]:
    """Check that an error in the block is a MediaError of one line with this beginning."""
    try:
        yield
    except MediaError as error:
        if not str(error).startswith(beginning) or "\n" in str(error):
            raise AssertionError(str(error)) from error
        raise
