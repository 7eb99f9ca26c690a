"""Preparation: what a model is shown of a medium, under which limits, and that loudness and orientation are kept."""

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


def shown(medium: Any, **limits: Any) -> PreparedMedia:
    return prepare_media(medium, OMNI, MediaLimits(**limits))


def colours(prepared: PreparedMedia) -> Any:
    return np.asarray(prepared.value)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 900), st.integers(1, 900), st.sampled_from([None, 1, 784, 224 * 224, 448 * 448]))
def test_every_image_becomes_whole_patches_within_the_limit(width: int, height: int, limit: int | None) -> None:
    source = make_image(Image.new("RGB", (width, height)))
    if max(width, height) > 200 * min(width, height):
        with pytest.raises(MediaError, match="200 to 1"):
            shown(source, image_max_pixels=limit)
        return
    prepared = shown(source, image_max_pixels=limit)
    assert prepared.value.size == (prepared.width, prepared.height)
    assert prepared.width % 28 == prepared.height % 28 == 0
    assert OMNI.count_tokens(prepared) == prepared.width * prepared.height // 28**2 >= 1
    assert prepared.width * prepared.height <= max(limit or 16384 * 28**2, 28**2)


def test_proportions_are_kept() -> None:
    prepared = shown(make_image(noise(800, 1600)), image_max_pixels=448 * 448)
    assert (prepared.height, prepared.width) == (308, 616)


def test_a_long_image_under_a_small_limit_keeps_to_it() -> None:
    prepared = shown(make_image(Image.new("RGB", (5600, 28))), image_max_pixels=224 * 224)
    assert (prepared.height, prepared.width) == (28, 1792)


def test_an_image_is_shown_as_its_exif_data_turn_it() -> None:
    pixels = np.zeros((56, 112, 3), np.uint8)
    pixels[:, :56] = [255, 0, 0]  # the left half, which is above once turned clockwise
    turned = Image.Exif()
    turned[0x0112] = 6
    data = picture(pixels, exif=turned)
    opened = Image.open(io.BytesIO(data))
    for source in (data, opened):
        prepared = shown(make_image(source))
        assert (prepared.height, prepared.width) == (112, 56)
        assert colours(prepared)[5, 28].tolist() == [255, 0, 0]
        assert colours(prepared)[105, 28].tolist() == [0, 0, 0]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1-bit"])
def test_transparent_parts_are_white(mode: str) -> None:
    clear = Image.new("RGBA", (56, 56), (0, 0, 0, 0))
    data = {
        "RGBA": lambda: picture(clear),
        "LA": lambda: picture(clear.convert("LA")),
        "P": lambda: picture(Image.new("RGB", (56, 56)).convert("P"), transparency=0),
        "1-bit": lambda: picture(Image.new("L", (56, 56), 0), transparency=0),
    }[mode]()
    assert (colours(shown(make_image(data))) == 255).all()
    assert (colours(shown(make_image(Image.open(io.BytesIO(data))))) == 255).all()


def test_grey_images_of_16_bits_keep_their_greys() -> None:
    data = picture(Image.fromarray(np.full((56, 56), 0x8000, np.uint16)))
    assert (colours(shown(make_image(data))) == 0x80).all()


def test_an_image_that_fits_is_shown_pixel_by_pixel() -> None:
    pixels = noise(56, 84)
    for source in (picture(pixels), pixels, Image.fromarray(pixels)):
        assert np.array_equal(colours(shown(make_image(source))), pixels)


@pytest.mark.parametrize("form", ["JPEG", "BMP", "TIFF", "GIF"])
def test_an_image_cut_short_is_named_in_the_error(form: str, tmp_path: Any) -> None:
    data = picture(noise(), form)
    (tmp_path / "cat.jpg").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(MediaError, match=r"cat\.jpg: cannot be read as image: .*truncated"):
        shown(make_image(tmp_path / "cat.jpg"))


def test_a_film_is_sampled_evenly_at_the_rate_that_is_asked_for() -> None:
    made = make_video(film(range(0, 240, 6), rate=10))  # 40 frames, 4 s
    prepared = shown(made, video_fps=1.0)
    assert (prepared.length, prepared.fps) == (4, 1.0)
    assert colours(prepared).mean((1, 2, 3)) == pytest.approx([0, 78, 156, 234], abs=6)
    assert prepared.value.dtype == np.uint8
    assert prepared.value.shape == (4, prepared.height, prepared.width, 3)
    assert shown(made, video_fps=2.0).length == 8
    assert shown(made, video_fps=1000.0).length == 40
    assert shown(made).length == 8  # two a second unless asked otherwise
    assert (shown(made, video_fps=5.0, video_max_frames=7).length, shown(made, video_max_frames=2).length) == (6, 2)


@pytest.mark.parametrize(
    ("form", "codec"),
    [("mp4", "mpeg4"), ("avi", "mpeg4"), ("mpegts", "mpeg2video"), ("webm", "libvpx"), ("matroska", "mpeg4")],
)
def test_films_of_the_usual_forms_are_read(form: str, codec: str) -> None:
    prepared = shown(make_video(film(range(0, 240, 12), 10, form, codec)), video_fps=1.0, video_max_frames=2)
    assert prepared.fps == pytest.approx(1.0)
    assert colours(prepared).mean((1, 2, 3)) == pytest.approx([0, 228], abs=8)


def test_of_a_short_film_four_frames_are_shown_at_least() -> None:
    prepared = shown(make_video(film(range(0, 240, 12), 10)), video_fps=1.0)
    assert (prepared.length, prepared.fps) == (4, 2.0)


def test_an_animated_gif_is_a_film() -> None:
    pages = [Image.new("L", (56, 56), 20 * i) for i in range(10)]
    data = picture(pages[0], "GIF", save_all=True, append_images=pages[1:], duration=100)
    prepared = shown(make_video(data), video_fps=2.0)
    means = colours(prepared).mean((1, 2, 3))
    assert [means[0], means[-1]] == pytest.approx([0, 180], abs=2)


@pytest.mark.parametrize("frames", [1, 2, 3, 5, 40])
@pytest.mark.parametrize("fps", [1.0, 30.0])
@pytest.mark.parametrize("is_file", [True, False])
def test_every_film_has_an_even_number_of_frames(frames: int, fps: float, is_file: bool) -> None:
    greys = [6 * i for i in range(frames)]
    given = [np.full((56, 56, 3), grey, np.uint8) for grey in greys]
    prepared = shown(make_video(film(greys)) if is_file else make_video(given, fps=10), video_fps=fps)
    assert prepared.length == len(prepared.value) >= 2
    assert prepared.length % 2 == 0
    means = colours(prepared).mean((1, 2, 3))
    assert [means[0], means[-1]] == pytest.approx([greys[0], greys[-1]], abs=6)
    if fps > 10:
        assert means == pytest.approx([*greys, *greys[-1:] * (frames % 2)], abs=6)
        assert prepared.fps == 10


def test_frames_and_a_film_of_them_are_sampled_alike() -> None:
    greys = list(range(0, 240, 6))
    frames = shown(make_video([np.full((56, 56, 3), g, np.uint8) for g in greys], fps=10), video_fps=1.5)
    of_file = shown(make_video(film(greys, 10, size=(56, 56))), video_fps=1.5)
    assert (frames.length, frames.fps, frames.height, frames.width) == (6, 1.5, 56, 56)
    assert (of_file.length, of_file.fps, of_file.height, of_file.width) == (6, 1.5, 56, 56)
    assert colours(frames).mean((1, 2, 3)) == pytest.approx(colours(of_file).mean((1, 2, 3)), abs=6)


@pytest.mark.parametrize("limit", [56 * 56, 224 * 224])
def test_frames_are_scaled_under_small_limits_too(limit: int) -> None:
    for made in (make_video(film([0, 9], size=(640, 360))), make_video([noise(360, 640)] * 2, fps=1)):
        prepared = shown(made, video_max_pixels=limit)
        assert limit // 4 <= prepared.height * prepared.width <= limit
        assert OMNI.count_tokens(prepared) == prepared.height * prepared.width // 28**2


def test_a_film_is_turned_as_players_turn_it() -> None:
    data = film([0] * 4, form="mp4", size=(112, 56), corner=(255, 255, 255), rotation=90)
    prepared = shown(make_video(data))
    assert (prepared.height, prepared.width) == (112, 56)
    assert colours(prepared)[0, 100, 5].mean() > 200  # what was upper left is lower left, counter-clockwise
    assert colours(prepared)[0, 5, 5].mean() < 50


def test_a_recording_that_begins_in_the_middle_is_sampled_over_what_can_be_seen() -> None:
    data = film(range(0, 240, 4), 25, "mpegts", "mpeg2video")
    cut = data[len(data) // 10 // 188 * 188 :]  # packets before the first whole picture show nothing
    means = colours(shown(make_video(cut), video_fps=5.0)).mean((1, 2, 3))
    assert np.diff(means) == pytest.approx(np.full(len(means) - 1, (means[-1] - means[0]) / (len(means) - 1)), abs=8)
    assert means[-1] > 225


@pytest.mark.parametrize("form", ["matroska", "avi", "webm"])
def test_a_film_cut_short_is_refused(form: str) -> None:
    data = film([i * 37 % 256 for i in range(40)], form=form, codec="libvpx" if form == "webm" else "mpeg4")
    with pytest.raises(MediaError, match=r"video in memory: (is truncated|cannot be read)"):
        shown(make_video(data[: len(data) // 2]))


def test_frames_of_different_sizes_are_refused() -> None:
    with pytest.raises(MediaError, match="video of 2 frames: frames differ in size"):
        shown(make_video([noise(56, 56), noise(56, 84)], fps=1))


def test_a_broken_frame_is_named(tmp_path: Any) -> None:
    whole = picture(noise(), "JPEG")
    with pytest.raises(MediaError, match=r"frame 1 \(image in memory\): cannot be read"):
        shown(make_video([whole, whole[:-200]], fps=1))


@pytest.mark.parametrize("limits", [{"video_max_frames": 1}, {"video_fps": 0.0}, {"video_fps": float("nan")}])
def test_limits_under_which_no_film_can_be_shown_are_the_users_error(limits: Any) -> None:
    for made in (make_video(film([0, 9])), make_video([noise()], fps=1)):
        with pytest.raises(UsageError, match=next(iter(limits))):
            shown(made, **limits)


def loudness(prepared: PreparedMedia) -> float:
    """Root mean square away from the ends, where resampling rings."""
    middle = prepared.value[2000:-2000]
    return float(np.sqrt((middle.astype(np.float64) ** 2).mean()))


@pytest.mark.parametrize("rate", [8000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("kind", ["file", "int16", "int32", "uint8", "float32", "float64"])
def test_loudness_and_time_are_kept_whatever_the_form(rate: int, channels: int, kind: str) -> None:
    samples = tone(1.0, rate)
    many = samples if channels == 1 else np.repeat(samples[:, None], channels, axis=1)
    if kind == "file":
        made = make_audio(wav(many, rate))
    elif kind == "uint8":
        made = make_audio((many * 127 + 128).round().astype(np.uint8), rate)
    elif kind.startswith("int"):
        made = make_audio((many * np.iinfo(kind).max).astype(kind), rate)
    else:
        made = make_audio(many.astype(kind), rate)
    prepared = shown(made)
    expected = tone(1.0)
    assert prepared.value.dtype == np.float32
    assert prepared.length == len(prepared.value) == pytest.approx(len(expected), abs=2)
    assert loudness(prepared) == pytest.approx(0.5 / 2**0.5, rel=0.01)
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
def test_sound_files_of_the_usual_forms_are_equally_loud(codec: str, form: str, rate: int) -> None:
    prepared = shown(make_audio(sound(tone(1.0, rate), codec, form, rate)))
    assert loudness(prepared) == pytest.approx(0.5 / 2**0.5, rel=0.05)
    assert prepared.length == pytest.approx(16_000, rel=0.1)


def test_channels_are_averaged() -> None:
    left, right = tone(), tone(hertz=1000, amplitude=0.2)
    prepared = shown(make_audio(np.stack([left, right], axis=1), 16_000))
    assert prepared.value == pytest.approx((left + right) / 2, abs=1e-6)


def test_samples_at_16_khz_are_untouched_and_nothing_is_lost_at_the_end() -> None:
    samples = tone(0.7301)
    assert np.array_equal(shown(make_audio(samples, 16_000)).value, samples)
    end = np.zeros(44_100, np.float32)
    end[-2000:] = 0.5
    assert np.abs(shown(make_audio(end, 44_100)).value[-400:-50] - 0.5).max() < 0.05


def test_sound_longer_than_the_limit_is_refused_and_not_cut() -> None:
    made = make_audio(wav(tone(1.0)))
    assert shown(made, audio_max_seconds=1.0).length == 16_000
    with pytest.raises(MediaError, match=r"audio in memory: is longer than 0\.5 s"):
        shown(made, audio_max_seconds=0.5)


def test_sound_too_short_for_a_single_token_is_refused() -> None:
    with pytest.raises(MediaError, match="too short"):
        shown(make_audio(tone(0.01), 16_000))


def test_a_file_of_floats_that_are_integers_is_refused() -> None:
    with pytest.raises(MediaError, match="integers"):
        shown(make_audio(sound(tone(amplitude=30_000), "pcm_f32le", "wav")))


@pytest.mark.parametrize(("codec", "form"), [("flac", "flac"), ("pcm_s16be", "aiff")])
def test_a_sound_file_cut_short_is_refused(codec: str, form: str) -> None:
    data = sound(tone(2.0), codec, form)
    with pytest.raises(MediaError, match="audio in memory"):
        shown(make_audio(data[: len(data) // 2]))


def test_a_molecule_is_laid_out_once_and_shared() -> None:
    pytest.importorskip("rdkit")
    profile = PROFILES["flex-mol-llama"]
    one, other = (prepare_media(make_molecule("CCO"), profile, profile.limits) for _ in range(2))
    assert one is other
    assert (one.length, one.value.tokens.tolist(), profile.count_tokens(one)) == (3, [1, 4, 4, 6, 2], 8)
    with pytest.raises(MediaError, match="molecule C1CC: is no molecule that RDKit can read"):
        prepare_media(make_molecule("C1CC"), profile, profile.limits)


def test_what_was_prepared_is_shared_by_all_who_show_it() -> None:
    pixels = noise(56, 112)
    with ThreadPoolExecutor(8) as pool:
        every = list(pool.map(lambda _: shown(make_image(pixels)), range(32)))
    assert len({p.digest for p in every}) == 1
    assert shown(make_image(pixels)) is shown(make_image(picture(pixels, compress_level=1)))


def test_the_cache_stays_within_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "_CACHE", preparation._MediaCache(2 * 56 * 56 * 3))
    first, second, third = (make_image(Image.new("L", (56, 56), i)) for i in range(3))
    large = make_image(noise(560, 560))
    kept = shown(first)
    shown(second)
    assert shown(first) is kept  # now the one used last
    shown(third)
    assert shown(first) is kept
    assert shown(large) is not shown(large)  # would push all others out
    assert shown(first) is kept
    shown(second)
    shown(third)
    assert shown(first) is not kept


def test_the_digest_depends_on_the_limits_that_matter_and_no_others() -> None:
    picture_, clip, voice = make_image(noise()), make_video([noise()] * 4, fps=1), make_audio(tone(), 16_000)
    assert shown(picture_).digest == shown(picture_, video_fps=1.0, audio_max_seconds=9.0).digest
    assert shown(picture_).digest != shown(picture_, image_max_pixels=784).digest
    assert shown(clip).digest == shown(clip, image_max_pixels=784).digest
    assert shown(clip, video_fps=1).digest == shown(clip, video_fps=1.0).digest
    limits = [{"video_fps": 0.5}, {"video_max_pixels": 784}, {"video_max_frames": 2}, {}]
    assert len({shown(clip, **one).digest for one in limits}) == 4
    assert shown(voice).digest == shown(voice, audio_max_seconds=9.0).digest
    assert len({shown(one).digest for one in (picture_, clip, voice)}) == 3


DAMAGED = {
    make_image: [picture(noise(), form) for form in ("PNG", "JPEG", "WEBP", "GIF", "BMP")],
    make_video: [film(range(0, 240, 24), 10, *form) for form in (("mp4", "mpeg4"), ("webm", "libvpx"))],
    make_audio: [wav(tone(0.2)), sound(tone(0.2), "flac", "flac"), sound(tone(0.2), "libmp3lame", "mp3")],
}


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([(make, data) for make, files in DAMAGED.items() for data in files]), st.data())
def test_a_damaged_file_is_read_or_refused_in_one_line_and_nothing_else(file: Any, draw: Any) -> None:
    make, data = file
    damaged = bytearray(data[: draw.draw(st.integers(1, len(data)))])
    for _ in range(draw.draw(st.integers(0, 4))):
        damaged[draw.draw(st.integers(0, len(damaged) - 1))] = draw.draw(st.integers(0, 255))
    with suppress(MediaError), _one_line(f"{make.__name__.removeprefix('make_')} in memory: "):
        shown(make(bytes(damaged)))


@contextmanager
def _one_line(beginning: str) -> Iterator[None]:
    """What is raised within has to be a MediaError of one line that begins so."""
    try:
        yield
    except MediaError as error:
        if not str(error).startswith(beginning) or "\n" in str(error):
            raise AssertionError(str(error)) from error
        raise
