"""Remove side data from image files: colour profiles, texts, EXIF data and other things that no pixel depends on.

Pillow rejects some files for damaged side data that viewers ignore. Its global settings stay as they are, because
trainers use Pillow in the same process; instead, the side data are removed before Pillow reads the file.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import Literal

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_PALETTE = 3
"""Colour type of PNG files with a palette."""
_PNG_TRANSPARENCY_BYTES = {0: 2, 2: 6}
"""Colour type -> size of its transparency chunk, which holds one colour."""
_JPEG_SIDE_DATA = {0xFE, *range(0xE0, 0xF0)}
"""Markers of comments and application data."""
_JPEG_START_OF_SCAN, _JPEG_EXIF, _JPEG_ADOBE = 0xDA, 0xE1, 0xEE
_JPEG_ADOBE_BYTES = 14
"""Size of the Adobe segment, which defines how colours are decoded."""
_TIFF_TYPE_BYTES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
"""TIFF type -> size of a value; 1 for others."""
_AVIF_METADATA = re.compile(rb"(infe\x02[\x00-\xff]{7})(Exif|mime)")
"""Entries of an AVIF file for EXIF data and for texts."""


def iterate_readable_forms(data: bytes) -> Iterator[bytes]:
    """Iterate over forms of an image file with the same pixels: itself, then with less and less side data.

    Raises:
        ValueError: a PNG file is truncated, or the checksum of its image data is wrong.
    """
    if data.startswith(_PNG_SIGNATURE):
        yield _remove_png_side_data(data)
        return
    yield data
    if data.startswith(b"\xff\xd8"):  # JPEG
        yield _remove_jpeg_segments(data, _JPEG_SIDE_DATA - {_JPEG_EXIF})  # EXIF data hold the rotation.
        yield _remove_jpeg_segments(data, _JPEG_SIDE_DATA)
    elif data[4:12] in (b"ftypavif", b"ftypavis"):
        yield _AVIF_METADATA.sub(rb"\1free", data)
    elif data[:4] in (b"II*\0", b"MM\0*"):
        yield _empty_tiff_entries(data)


def _remove_jpeg_segments(data: bytes, markers: set[int]) -> bytes:
    """Remove segments with these markers, and bytes between segments, before the first scan of a JPEG file."""
    kept = [data[:2]]
    position = data.find(b"\xff", 2)
    while 0 <= position <= len(data) - 4 and data[position + 1] != _JPEG_START_OF_SCAN:
        marker = data[position + 1]
        size = int.from_bytes(data[position + 2 : position + 4], "big")
        if marker in (0x00, 0xFF):  # a stray byte or a fill byte
            size = -1
        elif marker not in markers or (marker == _JPEG_ADOBE and size >= _JPEG_ADOBE_BYTES):
            kept.append(data[position : position + 2 + size])
        position = data.find(b"\xff", position + 2 + size)
    return b"".join([*kept, data[position:] if position > 0 else b""])


def _empty_tiff_entries(data: bytes) -> bytes:
    """Empty the entries of a TIFF file's first directory whose values lie outside of the file."""
    order: Literal["little", "big"] = "little" if data.startswith(b"II") else "big"
    directory = int.from_bytes(data[4:8], order)
    emptied = bytearray(data)
    for index in range(int.from_bytes(data[directory : directory + 2], order)):
        position = directory + 2 + 12 * index
        kind, count, offset = (
            int.from_bytes(data[position + begin : position + end], order) for begin, end in ((2, 4), (4, 8), (8, 12))
        )
        size = count * _TIFF_TYPE_BYTES.get(kind, 1)
        if size > 4 and offset + size > len(data) and position + 12 <= len(data):
            emptied[position + 4 : position + 8] = bytes(4)
    return bytes(emptied)


def _remove_png_side_data(data: bytes) -> bytes:
    """Return a PNG file with nothing but its first image, its transparency and its rotation.

    Pillow rejects wrong checksums of side data, and profiles and texts above 1 MiB.
    """
    kept = [_PNG_SIGNATURE]
    colour_type, palette_bytes = data[25] if len(data) > 25 else 0, 0
    for kind, body, chunk in _iterate_png_chunks(data):
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
            raise ValueError(f"the checksum of its {kind.decode('latin-1')} data is wrong")
        kept.append(chunk)
    kept[-1] = b"\0\0\0\0IEND" + zlib.crc32(b"IEND").to_bytes(4, "big")
    return b"".join(kept)


def _iterate_png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Iterate over the chunks of a PNG file through its end marker: kind, body, and the whole chunk."""
    position = len(_PNG_SIGNATURE)
    kind = b""
    while kind != b"IEND":
        kind = data[position + 4 : position + 8]
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        if len(kind) < 4 or end > len(data):
            raise ValueError(f"it is truncated: its image data end after {len(data)} bytes")
        yield kind, data[position + 8 : end - 4], data[position:end]
        position = end
