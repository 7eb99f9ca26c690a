"""Structure of media files in bytes: declared sizes, complete elements, joined files, and tags between packets.

Decoders neither report a file that ends too early nor skip every tag, so these functions read the bytes themselves.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Literal

MIN_COMPLETE_SHARE = 0.95
"""Minimum share of the size or duration declared in a file's header that the file must contain.

A truncated file must not be judged by its beginning, but headers of complete files are sometimes slightly off."""
_UNKNOWN_SIZE = 0x7FFF_0000
"""Sizes from this value on, or of 0, mean an unknown length, as in files written to a pipe."""
_SEGMENT, _CLUSTER = 0x8538067, 0xF43B675
"""Ids, without their length markers, of the Matroska elements that a live recording writes without a size."""
_JOINED_HEADERS = {
    b"RIFF": re.compile(rb"RIFF[\x00-\xff]{4}WAVEfmt "),
    b"fLaC": re.compile(rb"fLaC[\x00\x80]\x00\x00\x22"),
}
"""First bytes of a file -> a longer beginning, which sound cannot resemble by chance."""
_NO_HEADER = re.compile(rb"(?!)")
_GIF_EXTENSION, _GIF_FRAME = b"!", b","
"""First bytes of the blocks of a GIF file."""
_OGG_FIRST_PAGE = 0x02
"""Flag of the page that starts a stream."""
_ID3 = re.compile(rb"ID3[\x02-\x04][\x00-\xfe]([\x00-\xff])([\x00-\x7f]{4})")
"""Header of an ID3v2 tag: version, revision, flags and size."""
_ID3_FOOTER_FLAG = 0x10
_ID3V1_BYTES = 128


def read_declared_size(data: bytes) -> int:
    """Read the size declared in the header of a WAV, AVI, WebP or AIFF file; 0 without a reliable one.

    FFmpeg decodes a truncated file of these formats without an error.
    """
    order: Literal["little", "big"] = "big" if data[:4] == b"FORM" else "little"
    if data[:4] not in (b"RIFF", b"FORM"):
        return 0
    start, size = 8, int.from_bytes(data[4:8], order)
    if data[8:12] == b"WAVE":  # Players use the size of the samples; the size of the file is often wrong.
        start, size = _find_wave_samples(data)
    return start + size if 0 < size < _UNKNOWN_SIZE else 0


def _find_wave_samples(data: bytes) -> tuple[int, int]:
    """Return where the samples of a WAV file start and their declared size; a size of 0 if there are none."""
    position = 12
    while position + 8 <= len(data):
        size = int.from_bytes(data[position + 4 : position + 8], "little")
        if data[position : position + 4] == b"data":
            return position + 8, size
        position += 8 + size + size % 2  # Chunks start at even positions.
    return position, 0


def has_complete_elements(data: bytes) -> bool:
    """Return whether a Matroska or WebM file ends with a complete element, as it does unless it was cut off."""
    position = 0
    while position < len(data):
        element, position, _ = _read_ebml_number(data, position)
        size, position, is_unknown = _read_ebml_number(data, position)
        if element == _SEGMENT and not is_unknown:
            return position + size <= len(data)
        if is_unknown and element not in (_SEGMENT, _CLUSTER):
            return False
        if not is_unknown:
            position += size
    return position == len(data)


def _read_ebml_number(data: bytes, position: int) -> tuple[int, int, bool]:
    """Read an id or a size.

    Returns:
        The number without its length marker, the position after it, and whether all its bits are set, which stands
        for an unknown size.
    """
    first = data[position] if position < len(data) else 0
    length = 9 - first.bit_length()
    all_bits = (1 << 7 * length) - 1
    number = int.from_bytes(data[position : position + length], "big") & all_bits
    return number, position + length, number == all_bits


def is_truncated_gif(data: bytes) -> bool:
    """Return whether a GIF file ends inside of a block; a missing mark of the end alone does no harm.

    FFmpeg shows the complete frames of a truncated file without an error.
    """
    if data[:6] not in (b"GIF87a", b"GIF89a"):
        return False
    position = 13 + _get_gif_palette_size(data[10:11])
    while (block := data[position : position + 1]) in (_GIF_EXTENSION, _GIF_FRAME):
        if block == _GIF_EXTENSION:
            position += 2
        else:
            position += 11 + _get_gif_palette_size(data[position + 9 : position + 10])
        while size := (data[position] if position < len(data) else 0):
            position += 1 + size
        position += 1
    return position > len(data)


def _get_gif_palette_size(flags: bytes) -> int:
    """Return the size in bytes of the palette that the flags of a GIF file or of one of its frames announce."""
    return 3 << (flags[0] & 7) + 1 if flags and flags[0] & 0x80 else 0


def split_joined_files(data: bytes) -> list[bytes]:
    """Split audio files that were joined byte by byte, as text-to-speech services stream them.

    FFmpeg reads only the first of several WAV files, and decodes joined FLAC and Ogg files with the settings of the
    first. Other formats need no splitting.
    """
    if data.startswith(b"OggS"):
        starts = _find_ogg_links(data)
    else:
        starts = [match.start() for match in _JOINED_HEADERS.get(data[:4], _NO_HEADER).finditer(data)]
    bounds = [0, *[start for start in starts if start], len(data)]
    return [data[begin:end] for begin, end in pairwise(bounds)]


def _find_ogg_links(data: bytes) -> list[int]:
    """Return where the links of a chained Ogg file start: each at the first header page after pages of content."""
    starts, position, is_content = [], 0, True
    while data[position : position + 4] == b"OggS" and position + 27 <= len(data):
        begins_stream = bool(data[position + 5] & _OGG_FIRST_PAGE)
        if begins_stream and is_content:
            starts.append(position)
        is_content = not begins_stream
        segments = data[position + 27 : position + 27 + data[position + 26]]
        position += 27 + len(segments) + sum(segments)
    return starts


def remove_id3_tags(data: bytes) -> tuple[bytes, int]:
    """Remove the ID3 tags inside an MP3 file, which joined files have between their packets.

    A tag with a cover picture would otherwise be read as many damaged packets.

    Returns:
        The bytes without these tags, and their number. The tag at the beginning of the file is kept.
    """
    pieces, start = [], 0
    for match in _ID3.finditer(data, 1):
        if match.start() < start:
            continue
        size = 10 if match.group(1)[0] & _ID3_FOOTER_FLAG else 0
        for place, byte in enumerate(reversed(match.group(2))):  # Each byte of the size holds 7 bits.
            size += byte << 7 * place
        end = match.end() + size
        if end > len(data) or (end < len(data) and not _starts_packet(data, end)):
            continue  # These bytes are sound that looks like a tag.
        begin = match.start()
        if data[begin - _ID3V1_BYTES : begin - _ID3V1_BYTES + 3] == b"TAG":  # the old tag at the end of the last file
            begin = max(start, begin - _ID3V1_BYTES)
        pieces.append(data[start:begin])
        start = end
    return b"".join([*pieces, data[start:]]), len(pieces)


def _starts_packet(data: bytes, position: int) -> bool:
    """Return whether an MP3 packet, padding or another tag starts at a position."""
    head = data[position : position + 3]
    return head in (b"ID3", b"\0\0\0") or (head[0] == 0xFF and len(head) > 1 and head[1] >= 0xE0)
