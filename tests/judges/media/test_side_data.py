"""Side data of images: no metadata make a picture unusable, and damaged image data are still rejected."""

from __future__ import annotations

import os
import random
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from clips import noise, picture, png_chunk
from PIL import Image, ImageFile, PngImagePlugin

from flex_judge.judges.errors import MediaError
from flex_judge.judges.media.files import convert_decoder_errors, open_image, to_upright_rgb
from flex_judge.judges.media.opening import make_image

PIXELS = noise(56, 84)
PNG = picture(PIXELS)
HEADER_END = 33
"""Position after the signature and the IHDR chunk of a PNG file."""
PROFILE = random.Random(0).randbytes(1_300_000)


def decode(data: bytes) -> Any:
    """Open an image as the judge does and return its pixels."""
    image = make_image(data)
    with convert_decoder_errors(image.name, "image"):
        return np.asarray(to_upright_rgb(open_image(image.data, image.name), image.name))


def insert(*chunks: bytes, position: int = HEADER_END, data: bytes = PNG) -> bytes:
    return data[:position] + b"".join(chunks) + data[position:]


def make_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: rotate by 90 degrees clockwise
    exif[0x010E] = "a description " * 20
    return exif.tobytes()


ANCILLARY = {
    "pHYs checksum": png_chunk(b"pHYs", b"\0\0\x0b\x13\0\0\x0b\x13\1", is_damaged=True),
    "pHYs short": png_chunk(b"pHYs", b"\0"),
    "gAMA checksum": png_chunk(b"gAMA", b"\0\0\xb1\x8f", is_damaged=True),
    "cHRM short": png_chunk(b"cHRM", b"\0"),
    "sRGB empty": png_chunk(b"sRGB", b""),
    "tIME checksum": png_chunk(b"tIME", b"1234567", is_damaged=True),
    "tEXt checksum": png_chunk(b"tEXt", b"Comment\0hello", is_damaged=True),
    "tEXt long": png_chunk(b"tEXt", b"Comment\0" + b"x" * 3_000_000),
    "zTXt bomb": png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(80 << 20))),
    "iTXt bomb": png_chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(bytes(80 << 20))),
    "iCCP long": png_chunk(b"iCCP", b"profile\0\0" + zlib.compress(PROFILE)),
    "iCCP damaged": png_chunk(b"iCCP", b"profile\0\0not compressed"),
    "iCCP checksum": png_chunk(b"iCCP", b"profile\0\0" + zlib.compress(b"x"), is_damaged=True),
    "eXIf damaged": png_chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff"),
    "eXIf checksum": png_chunk(b"eXIf", make_exif()[6:], is_damaged=True),
    "tRNS checksum": png_chunk(b"tRNS", b"\0\1\0\1\0\1", is_damaged=True),
    "tRNS short": png_chunk(b"tRNS", b"\0"),
    "acTL damaged": png_chunk(b"acTL", bytes(8)),
    "fcTL damaged": png_chunk(b"fcTL", bytes(5)),
    "PLTE of a true-colour image": png_chunk(b"PLTE", b"\1\2\3\4", is_damaged=True),
    "unknown": png_chunk(b"abCd", b"private", is_damaged=True),
}


@pytest.mark.parametrize("position", [HEADER_END, len(PNG) - 12], ids=["before the image", "after the image"])
@pytest.mark.parametrize("name", ANCILLARY)
def test_side_data_of_png_files_are_ignored(name: str, position: int) -> None:
    data = insert(ANCILLARY[name], position=position)
    assert make_image(data).data == data
    assert np.array_equal(decode(data), PIXELS)


def test_all_side_data_at_once_are_ignored() -> None:
    assert np.array_equal(decode(insert(*ANCILLARY.values()) + b"trailing bytes"), PIXELS)


def test_damaged_end_marker_is_ignored() -> None:
    assert np.array_equal(decode(PNG[:-1] + b"x"), PIXELS)


def test_rotation_and_transparency_of_png_files_are_kept() -> None:
    rotated = insert(png_chunk(b"eXIf", make_exif()[6:]), ANCILLARY["pHYs checksum"])
    assert np.array_equal(decode(rotated), np.rot90(PIXELS, -1))
    black = Image.new("RGB", (56, 56))
    for form in (black, black.convert("L"), black.convert("P")):
        transparency: Any = 0 if form.mode != "RGB" else (0, 0, 0)
        clear = insert(ANCILLARY["pHYs checksum"], data=picture(form, transparency=transparency))
        assert (decode(clear) == 255).all()


def test_damaged_image_data_of_png_files_are_rejected() -> None:
    palette = picture(Image.fromarray(PIXELS).quantize(16))
    entry = palette.index(b"PLTE") + 6
    damaged = {
        "IDAT": [PNG[:500] + bytes([PNG[500] ^ 1]) + PNG[501:], PNG[:-13] + b"x" + PNG[-12:]],
        "IHDR": [PNG[:30] + b"xx" + PNG[32:]],
        "PLTE": [palette[:entry] + b"x" + palette[entry + 1 :]],
        "truncated": [PNG[:-40], PNG[: len(PNG) // 2], PNG[:-12], PNG[:20]],
    }
    for reason, files in damaged.items():
        for data in files:
            with pytest.raises(MediaError, match=rf"image in memory: cannot be read as image: .*{reason}"):
                make_image(data)


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


JPEG_SEGMENTS = {
    "short JFIF": segment(0xE0, b"JFIF\0"),
    "empty EXIF": segment(0xE1, b"Exif\0\0"),
    "damaged EXIF": segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff"),
    "damaged XMP": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta \xff"),
    "damaged profile": segment(0xE2, b"ICC_PROFILE\0\5\3x"),
    "damaged MPF": segment(0xE2, b"MPF\0II*\0\x08\0\0\0\x03\0" + bytes(20)),
    "damaged Photoshop": segment(0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0\xff\xff"),
    "short Adobe": segment(0xEE, b"Adobe"),
    "long comment": segment(0xFE, b"\xff" * 65_000),
    "bytes between segments": b"\0\1\2\3",
    "fill bytes": b"\xff" * 9,
}


@pytest.mark.parametrize("name", JPEG_SEGMENTS)
def test_side_data_of_jpeg_files_are_ignored(name: str) -> None:
    plain = picture(PIXELS, "JPEG", quality=95)
    for data in (plain[:2] + JPEG_SEGMENTS[name] + plain[2:], plain[:20] + JPEG_SEGMENTS[name] + plain[20:]):
        assert np.array_equal(decode(data + b"trailing bytes"), decode(plain))


def test_rotation_and_colours_of_jpeg_files_are_kept_without_damaged_segments() -> None:
    damaged = JPEG_SEGMENTS["short JFIF"] + JPEG_SEGMENTS["damaged profile"]
    rotated = picture(PIXELS, "JPEG", quality=95, exif=make_exif())
    assert decode(rotated[:2] + damaged + rotated[2:]).shape == (84, 56, 3)
    inverted = picture(Image.fromarray(PIXELS).convert("CMYK"), "JPEG", quality=95)  # has an Adobe segment
    assert np.array_equal(decode(inverted[:2] + damaged + inverted[2:]), decode(inverted))


@pytest.mark.parametrize("cut", [100, 300, 2000])
def test_truncated_jpeg_is_rejected(cut: int) -> None:
    plain = picture(PIXELS, "JPEG", quality=95, exif=make_exif())
    with pytest.raises(MediaError, match="truncated"):
        decode(plain[:-cut])


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_random_damage_to_metadata_is_ignored(form: str) -> None:
    """Damage bytes of a profile and of EXIF data at random positions."""
    profile, exif = PROFILE[:3000], make_exif()
    options: dict[str, Any] = {"lossless": True} if form == "WEBP" else {"quality": 95}
    data = picture(PIXELS, form, exif=exif, icc_profile=profile, **options)
    spans = [(data.find(blob[:40]), len(blob)) for blob in (profile, exif[6:])]
    generator = random.Random(form)
    for _ in range(60):
        damaged = bytearray(data)
        for start, length in spans:
            if start > 0:
                for _ in range(generator.choice([0, 1, 5, 50])):
                    damaged[start + generator.randrange(length)] = generator.randrange(256)
        assert decode(bytes(damaged)).shape in {(56, 84, 3), (84, 56, 3)}


def test_tiff_description_outside_of_the_file_is_ignored() -> None:
    data = bytearray(picture(PIXELS, "TIFF", description="a long description"))
    (directory,) = struct.unpack_from("<I", data, 4)
    position = next(p for p in range(directory + 2, len(data), 12) if data[p : p + 2] == struct.pack("<H", 270))
    struct.pack_into("<I", data, position + 8, 1 << 30)
    assert np.array_equal(decode(bytes(data)), PIXELS)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM"])
def test_trailing_bytes_are_ignored(form: str) -> None:
    data = picture(PIXELS, form)
    assert np.array_equal(decode(data + os.urandom(2000)), decode(data))


def test_animated_png_shows_its_first_frame() -> None:
    second = Image.fromarray(PIXELS[::-1].copy())
    assert np.array_equal(decode(picture(PIXELS, save_all=True, append_images=[second])), PIXELS)


def test_global_settings_of_pillow_are_unchanged() -> None:
    """Trainers use Pillow in the same process."""
    before = get_pillow_settings()
    decode(insert(*ANCILLARY.values()))
    assert get_pillow_settings() == before
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def get_pillow_settings() -> tuple[Any, ...]:
    return ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK
