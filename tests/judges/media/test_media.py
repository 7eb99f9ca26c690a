"""Media: supported sources, content digests, and errors that name the file."""

from __future__ import annotations

import io
import math
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import encode_uri, film, noise, picture, timed_film, tone, wav
from PIL import Image

from flex_judge.judges.errors import MediaError
from flex_judge.judges.media import files as media_files
from flex_judge.judges.media.opening import (
    make_audio,
    make_image,
    make_media,
    make_molecule,
    make_video,
    open_local_media,
)
from flex_judge.judges.media.types import Media, Modality

PIXELS = noise()
TONE = tone(0.5)


FILES: dict[Modality, Callable[[], bytes]] = {
    Modality.IMAGE: lambda: picture(PIXELS),
    Modality.VIDEO: lambda: film(range(0, 240, 20)),
    Modality.AUDIO: lambda: wav(TONE),
}
EVERY_MODALITY = pytest.mark.parametrize("modality", FILES)


@EVERY_MODALITY
def test_all_source_types_give_the_same_media(modality: Modality, tmp_path: Path) -> None:
    data = FILES[modality]()
    path = tmp_path / "a file.bin"
    path.write_bytes(data)
    forms: list[Any] = [
        path,
        str(path),
        path.as_uri(),
        data,
        bytearray(data),
        encode_uri(data, "application/octet-stream"),
    ]
    forms += [{"bytes": data, "path": None}, {"bytes": None, "path": str(path)}, {"bytes": data, "path": "gone.bin"}]
    media = [make_media(modality, form) for form in forms]
    assert {m.digest for m in media} == {media[0].digest}
    assert len(set(media)) == 1
    assert all(m.data == data and m.modality == modality for m in media)
    assert media[0].name == str(path)
    assert media[-1].name == "gone.bin"


@EVERY_MODALITY
def test_a_file_uri_of_a_row_is_decoded(modality: Modality, tmp_path: Path) -> None:
    data = FILES[modality]()
    path = tmp_path / "a file.bin"
    path.write_bytes(data)
    assert path.as_uri().endswith("a%20file.bin")
    assert open_local_media(modality, path.as_uri(), "media[0]").data == data


@EVERY_MODALITY
def test_media_can_be_pickled(modality: Modality) -> None:
    media = make_media(modality, FILES[modality]())
    digest = media.digest
    back = pickle.loads(pickle.dumps(media))
    assert back == media
    assert back.digest == digest


def test_digest_depends_on_modality_content_and_frame_rate() -> None:
    frames = [PIXELS, PIXELS[:, ::-1].copy()]
    different = [
        make_image(PIXELS),
        make_image(PIXELS[:, ::-1].copy()),
        make_video(frames, fps=1),
        make_video(frames, fps=2),
        make_video(frames[::-1], fps=1),
        make_video(frames[:1], fps=1),
        make_audio(TONE, 8000),
        make_audio(TONE, 16_000),
        make_audio(TONE[:-1], 16_000),
        make_molecule("CCO"),
        make_molecule("OCC"),
    ]
    assert len({m.digest for m in different}) == len(different)
    assert make_video(frames, fps=1).digest == make_video(np.stack(frames), fps=1.0).digest


def test_same_pixels_give_the_same_image() -> None:
    decoded = Image.open(io.BytesIO(picture(PIXELS, dpi=(72, 72), icc_profile=b"a profile")))
    forms = [PIXELS, Image.fromarray(PIXELS), decoded, Image.fromarray(PIXELS).convert("RGBA")]
    assert len({make_image(form).digest for form in forms}) == 1
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(make_image(PIXELS).data))), PIXELS)


def test_pil_image_is_named_after_its_file(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(picture(PIXELS))
    with Image.open(tmp_path / "cat.png") as opened:
        assert make_image(opened).name.endswith("cat.png")
    assert make_image(PIXELS).name == "60x40 image"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16"])
def test_pil_images_of_every_8_or_16_bit_mode_are_accepted(mode: str) -> None:
    grey = Image.fromarray((np.arange(256, dtype=np.uint16) * 256).reshape(16, 16))
    source = grey if mode == "I;16" else Image.fromarray(PIXELS).convert(mode)
    assert Image.open(io.BytesIO(make_image(source).data)).mode == "RGB"


@pytest.mark.parametrize(
    "array",
    [PIXELS / 255, PIXELS[..., 0], PIXELS.transpose(2, 0, 1), PIXELS[:0], np.zeros((4, 4, 4), np.uint8)],
    ids=["floats", "grey", "channels first", "empty", "four channels"],
)
def test_array_that_is_not_an_rgb_image_is_rejected(array: Any) -> None:
    with pytest.raises(MediaError, match=r"uint8 array \(height, width, 3\)"):
        make_image(array)


@pytest.mark.parametrize("shape", [(7,), (7, 1), (7, 2)])
def test_wav_encoding_matches_scipy(shape: tuple[int, ...]) -> None:
    from scipy.io import wavfile

    samples = np.linspace(-1, 1, math.prod(shape), dtype=np.float32).reshape(shape)
    expected = io.BytesIO()
    wavfile.write(expected, 16_000, samples)
    assert make_audio(samples, rate=16_000).data == expected.getvalue()


def test_image_with_32_bit_pixels_is_rejected() -> None:
    with pytest.raises(MediaError, match="32-bit pixels"):
        make_image(Image.fromarray(np.ones((4, 4), np.float32)))


@EVERY_MODALITY
def test_invalid_path_is_named_in_the_error(modality: Modality, tmp_path: Path) -> None:
    make = {Modality.IMAGE: make_image, Modality.VIDEO: make_video, Modality.AUDIO: make_audio}[modality]
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no picture at all\n" * 20)
    (tmp_path / "list.png").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/hosts\n")
    for name in ("missing.png", "empty.png", "text.png", "list.png"):
        with pytest.raises(MediaError, match=re.escape(str(tmp_path / name))) as caught:
            make(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(MediaError, match="folder"):
        make(tmp_path)
    with pytest.raises(MediaError, match=r"contains no|cannot be read"):
        make(FILES[Modality.AUDIO if modality != Modality.AUDIO else Modality.IMAGE]())


@EVERY_MODALITY
@pytest.mark.parametrize("source", [None, 7, "", {}, {"bytes": None}, b"", "a\0b", "x" * 5000, "data:x,y"])
def test_unsupported_source_types_are_rejected(modality: Modality, source: Any) -> None:
    with pytest.raises(MediaError):
        make_media(modality, source)


@EVERY_MODALITY
def test_nothing_is_fetched_from_the_network(modality: Modality) -> None:
    with pytest.raises(MediaError, match=r"https://example\.org/cat\.png: download it first"):
        make_media(modality, "https://example.org/cat.png")


@EVERY_MODALITY
def test_invalid_data_uri_is_rejected(modality: Modality) -> None:
    with pytest.raises(MediaError, match=r"data:image/png;base64,\.\.\."):
        make_media(modality, "data:image/png;base64,a*b")


@EVERY_MODALITY
def test_files_above_the_size_limit_are_not_read(
    modality: Modality, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(media_files.MAX_BYTES, modality, 100)
    (tmp_path / "big").write_bytes(FILES[modality]())
    monkeypatch.setattr(Path, "read_bytes", None)
    with pytest.raises(MediaError, match=r"big: .* MiB are more than the"):
        make_media(modality, tmp_path / "big")


@pytest.mark.parametrize("source", [picture(PIXELS), Image.fromarray(PIXELS), PIXELS], ids=["file", "pil", "array"])
def test_image_with_too_many_pixels_is_rejected_before_decoding(source: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media_files, "MAX_PIXELS", 1000)
    with pytest.raises(MediaError, match="60x40 pixels are more than the 1000 allowed"):
        make_image(source)


def test_decompression_bomb_is_rejected() -> None:
    with pytest.raises(MediaError, match="image in memory"):
        make_image(picture(Image.new("1", (20_000, 20_000))))


def test_formats_that_run_programs_are_not_opened() -> None:
    with pytest.raises(MediaError, match="unknown format"):
        make_image(picture(PIXELS, form="EPS"))


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_truncated_image_is_detected_on_opening(form: str) -> None:
    data = picture(PIXELS, form=form)
    with pytest.raises(MediaError, match="image in memory"):
        make_image(data[: len(data) // 2])


def test_fps_is_required_for_frames_and_rejected_for_files() -> None:
    for fps in (None, 0, -1.0, float("nan"), float("inf")):
        with pytest.raises(MediaError, match="fps"):
            make_video([PIXELS], fps=fps)
    with pytest.raises(MediaError, match="video_fps"):
        make_video(film(range(0, 240, 20)), fps=2)
    with pytest.raises(MediaError, match="no frames"):
        make_video([], fps=2)


def test_frames_accept_every_image_source(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(picture(PIXELS))
    media = make_video(
        [tmp_path / "0.png", picture(PIXELS), Image.fromarray(PIXELS), PIXELS, make_image(PIXELS)], fps=2
    )
    assert len(media.frames) == 5
    assert media.fps == 2.0
    assert media.frames[0].name == f"frame 0 ({tmp_path / '0.png'})"


def test_audio_with_cover_art_is_not_a_video() -> None:
    with pytest.raises(MediaError, match="contains no video"):
        make_video(wav(TONE))
    with pytest.raises(MediaError, match="contains no audio"):
        make_audio(film(range(0, 240, 20)))


def test_truncated_audio_is_detected_on_opening() -> None:
    data = wav(TONE)
    with pytest.raises(MediaError, match=r"is truncated: has \d+ of the \d+ bytes"):
        make_audio(data[: len(data) // 2])


def test_truncated_animation_is_rejected_and_a_missing_trailer_is_not() -> None:
    frames = [Image.fromarray(np.roll(PIXELS, k, axis=0)) for k in range(3)]
    data = picture(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=500)
    for size in (len(data) - 3, len(data) * 2 // 3):
        with pytest.raises(MediaError, match="is truncated"):
            make_video(data[:size])
        with pytest.raises(MediaError, match="is truncated"):
            make_image(data[:size])
    for whole in (data, data[:-1], data + b"appended"):
        make_video(whole)
        make_image(whole)


def test_audio_file_without_samples_is_rejected() -> None:
    with pytest.raises(MediaError, match="contains no audio that can be decoded"):
        make_audio(wav([]))


def test_rate_is_required_for_arrays_and_rejected_for_files() -> None:
    for rate in (None, 0, -1, 16_000.5, 10**7):
        with pytest.raises(MediaError, match="rate"):
            make_audio(TONE, rate)
    with pytest.raises(MediaError, match="rate is for arrays"):
        make_audio(wav(TONE), 16_000)


@pytest.mark.parametrize("kind", [np.float64, np.float16, np.int16, np.int32, np.uint8])
def test_all_sample_types_have_the_same_full_scale(kind: Any) -> None:
    halves = {np.int16: [-16384, 16384], np.int32: [-(2**30), 2**30], np.uint8: [64, 192]}.get(kind, [-0.5, 0.5])
    assert (
        make_audio(np.array(halves, kind), 16_000).digest
        == make_audio(np.array([-0.5, 0.5], np.float32), 16_000).digest
    )


def test_lists_and_dataset_dictionaries_are_accepted() -> None:
    assert make_audio(TONE.tolist(), 8000) == make_audio(TONE, 8000)
    assert make_audio({"array": TONE, "sampling_rate": 8000, "path": "a.wav"}) == make_audio(TONE, 8000)
    assert make_audio({"array": TONE, "sampling_rate": 8000, "path": "a.wav"}).name == "a.wav"


@pytest.mark.parametrize(
    ("samples", "why"),
    [
        (TONE * 32768, "integers"),
        (np.array([0.0, np.nan]), "infinite or NaN"),
        (np.array([0.0, np.inf]), "infinite"),
        (np.array([0.0, 1e300]), "infinite"),
        (np.array([], np.float32), "no samples"),
        (np.zeros((2, 16_000), np.float32), r"\(samples, channels\)"),
        (np.zeros((2, 2, 2), np.float32), r"\(samples, channels\)"),
        (np.zeros(9, np.int64), "int64"),
        (np.array(["a"]), "expected samples"),
        ([[1.0], [1.0, 2.0]], "audio array"),
    ],
)
def test_invalid_samples_are_rejected(samples: Any, why: str) -> None:
    with pytest.raises(MediaError, match=why):
        make_audio(samples, 16_000)


def test_small_overshoot_of_decoders_is_accepted() -> None:
    assert make_audio(TONE * 2.4, 16_000).data


def test_smiles_are_stripped() -> None:
    media = make_molecule("  CC(=O)Oc1ccccc1C(=O)O\n")
    assert media.data == b"CC(=O)Oc1ccccc1C(=O)O"
    assert media.modality == Modality.MOLECULE


@pytest.mark.parametrize("source", ["", "  ", "C C", "C\nC", "C\u2028C", "C\x00", "C" * 10_001, None, b"CCO"])
def test_invalid_smiles_are_rejected(source: Any) -> None:
    with pytest.raises(MediaError, match="molecule"):
        make_molecule(source)


def test_media_of_the_right_modality_pass_through() -> None:
    media = {Modality.MOLECULE: make_molecule("CCO")} | {m: make_media(m, data()) for m, data in FILES.items()}
    for modality, medium in media.items():
        assert make_media(modality, medium) is medium
        for other in set(Modality) - {modality}:
            with pytest.raises(MediaError, match=f"expected {other}, got {modality}"):
                make_media(other, medium)


def test_options_are_checked_per_modality() -> None:
    assert make_media(Modality.VIDEO, [PIXELS], fps=2) == make_video([PIXELS], fps=2)
    assert make_media(Modality.AUDIO, TONE, rate=8000) == make_audio(TONE, 8000)
    for modality, options in ((Modality.IMAGE, {"fps": 2}), (Modality.AUDIO, {"fps": 2}), (Modality.VIDEO, {"x": 2})):
        with pytest.raises(MediaError, match=r"option .* is not supported"):
            make_media(modality, b"x", **options)
    with pytest.raises(MediaError, match=r"option .* is not supported"):
        make_media(Modality.VIDEO, make_video([PIXELS], fps=2), fps=3)


def test_repr_of_media_omits_the_content() -> None:
    assert len(repr(make_image(PIXELS))) < 200
    assert isinstance(make_image(PIXELS), Media)


def test_importing_media_loads_no_heavy_library() -> None:
    heavy = "{'torch', 'numpy', 'PIL', 'av', 'scipy', 'qwen_vl_utils'}"
    code = "import sys, flex_judge.judges.media.types, flex_judge.judges.models.inputs.preparation; "
    code += f"print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


def test_texts_of_a_file_in_another_encoding_are_ignored() -> None:
    data = timed_film([0, 0.1, 0.2], "mp4", "mpeg4")
    at = data.index(b"Lavf")
    assert make_video(data[:at] + b"\xff\xfe" + data[at + 2 :]).modality == Modality.VIDEO


def test_unknown_codec_is_named_as_the_problem() -> None:
    data = timed_film([0, 0.1, 0.2], "matroska", "mpeg4").replace(b"V_MPEG4/ISO/ASP", b"V_UNKNOWN/CODEC")
    with pytest.raises(MediaError, match="video in memory: contains no video that can be decoded; convert it"):
        make_video(data)
