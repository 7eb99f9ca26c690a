"""Open image files with Pillow. Side data such as colour profiles, texts and EXIF never make an image unusable.

Only listed formats are opened: Pillow supports formats that run other programs (EPS). Pillow's global settings stay as
they are, because trainers use Pillow in the same process; side data are removed before Pillow reads the file instead.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from flex_judge.judges.errors import MediaError
from flex_judge.judges.media.files import check_pixels

if TYPE_CHECKING:
    from PIL import Image

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_PALETTE = 3
"""Colour type of PNG files with a palette."""
_PNG_TRANSPARENCY_BYTES = {0: 2, 2: 6}
"""Colour type -> size of its transparency chunk, which holds one colour."""
_JPEG_SIDE_DATA = {0xFE, *range(0xE1, 0xF0)} - {0xEE}
"""Markers of comments and application data. The Adobe segment (0xEE) defines how colours are decoded."""
_JPEG_START_OF_SCAN, _JPEG_EXIF = 0xDA, 0xE1


def open_image(data: bytes, name: str) -> Image.Image:
    """Open an image file and check its size without decoding the pixels. Use inside `convert_decoder_errors`.

    Raises:
        MediaError: the image has too many pixels, or the image data of a PNG are damaged.
    """
    if data.startswith(_PNG_SIGNATURE):
        image = _open_with_pillow(_remove_png_side_data(data, name))
    elif data.startswith(b"\xff\xd8\xff"):
        image = _open_jpeg(data)
    else:
        image = _open_with_pillow(data)
    check_pixels(image.width, image.height, name)
    return image


def to_upright_rgb(source: Image.Image, name: str) -> Image.Image:
    """Copy an image as people see it: rotated as in its EXIF data, transparency over white, as 8-bit RGB."""
    import numpy as np
    from PIL import Image

    upright = _rotate_upright(source)
    if upright.mode in ("I", "F"):
        raise MediaError(f"{name}: 32-bit pixels have no standard value range; convert them to 8 bits")
    if upright.mode.startswith("I;16"):  # Pillow's own conversion would clip values to 255.
        upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
    rgb = upright.convert("RGB")
    rgb.info = {}  # Colour profiles and comments would give equal pixels different hashes.
    return rgb


def _open_with_pillow(data: bytes) -> Image.Image:
    from PIL import Image

    return Image.open(io.BytesIO(data), formats=_FORMATS)


def _rotate_upright(source: Image.Image) -> Image.Image:
    """Copy an image, rotated as in its EXIF data; unreadable EXIF data are ignored, as viewers do."""
    from PIL import ImageOps

    source.load()  # Damaged pixels must not be mistaken for damaged EXIF data.
    with suppress(Exception):  # Pillow's parser raises many error types.
        return ImageOps.exif_transpose(source)
    return source.copy()


def _open_jpeg(data: bytes) -> Image.Image:
    """Open a JPEG file, if necessary without its application data."""
    try:
        return _open_with_pillow(data)
    except Exception as error:
        for kept in ({_JPEG_EXIF}, set()):  # EXIF data hold the rotation, so they are given up last.
            with suppress(Exception):
                return _open_with_pillow(_remove_jpeg_segments(data, _JPEG_SIDE_DATA - kept))
        raise error


def _remove_jpeg_segments(data: bytes, markers: set[int]) -> bytes:
    """Remove the segments with these markers before the first scan of a JPEG file."""
    kept = [data[:2]]
    position = 2
    while data[position : position + 1] == b"\xff" and position + 4 <= len(data):
        marker = data[position + 1]
        if marker == _JPEG_START_OF_SCAN:
            break
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == 0xFF:  # a fill byte
            end = position + 1
        elif marker not in markers:
            kept.append(data[position:end])
        position = end
    return b"".join([*kept, data[position:]])


def _remove_png_side_data(data: bytes, name: str) -> bytes:
    """Return a PNG file with nothing but its first image, its transparency and its rotation.

    Pillow rejects files for side data that viewers ignore: wrong checksums, and profiles and texts above 1 MiB.

    Raises:
        MediaError: the file is truncated, or the checksum of image data is wrong.
    """
    kept = [_PNG_SIGNATURE]
    colour_type, palette_bytes = data[25] if len(data) > 25 else 0, 0
    for kind, body, chunk in _iterate_png_chunks(data, name):
        is_whole = kind == b"IEND" or zlib.crc32(kind + body) == int.from_bytes(chunk[-4:], "big")
        if kind == b"PLTE" and colour_type == _PNG_PALETTE:
            palette_bytes = len(body)
        elif kind == b"PLTE" or kind[0] & 0x20:  # Lower case marks side data; other PLTEs only suggest colours.
            has_right_size = len(body) == _PNG_TRANSPARENCY_BYTES.get(colour_type, -1) or (
                colour_type == _PNG_PALETTE and 3 * len(body) <= palette_bytes
            )
            if is_whole and (kind == b"eXIf" or (kind == b"tRNS" and has_right_size)):
                kept.append(chunk)
            continue
        if not is_whole:
            raise MediaError(f"{name}: is damaged: the checksum of its {kind.decode('latin-1')} data is wrong")
        kept.append(chunk)
    kept[-1] = b"\0\0\0\0IEND" + zlib.crc32(b"IEND").to_bytes(4, "big")
    return b"".join(kept)


def _iterate_png_chunks(data: bytes, name: str) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Iterate over the chunks of a PNG file through its end marker: kind, body, and the whole chunk."""
    position = len(_PNG_SIGNATURE)
    kind = b""
    while kind != b"IEND":
        kind = data[position + 4 : position + 8]
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        if len(kind) < 4 or end > len(data):
            raise MediaError(f"{name}: is truncated: its image data end after {len(data)} bytes")
        yield kind, data[position + 8 : end - 4], data[position:end]
        position = end
