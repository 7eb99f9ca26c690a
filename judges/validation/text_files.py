"""Opening of text files that users give: compression, byte-order marks, encodings and line ends.

Every reader of rows, rubrics, settings and prompts opens its file here, so that a file which one command reads can be
read by all of them.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from flex_judge.judges.errors import UsageError

COMPRESSION_SUFFIXES = (".gz", ".zst", ".bz2", ".xz")
"""Endings of compressed files. The content decides how a file is read, so a wrong ending does no harm."""
BOM = codecs.BOM_UTF8
HEAD_BYTES = 65536
"""Number of decompressed bytes that the form of a file is recognised from."""
STREAM_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError)
"""Errors of files that cannot be read, or whose compressed content is damaged or cut off."""
BAD_BYTE = "\udcff"
"""Replacement of undecodable bytes. Written back as UTF-8 it is a byte that no UTF-8 text has, so it stays an error."""


def _open_zstd(file: Any) -> Any:
    from flex_judge.judges.extras import import_optional  # rarely needed

    return import_optional("pyarrow", "a file compressed with zstd").CompressedInputStream(file, "zstd")


_OPENERS: dict[bytes, Callable[[Any], Any]] = {
    rb"\x1f\x8b\x08": lambda file: gzip.GzipFile(fileobj=file),
    # The second form is a frame to be skipped; tools that compress in parallel start their files with one.
    rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18": _open_zstd,
    # The mark of the first block, or of the end of an empty file, because a text may also start with "BZh".
    rb"BZh[1-9](1AY&SY|\x17rE8P\x90)": bz2.BZ2File,
    rb"\xfd7zXZ\x00": lzma.LZMAFile,
}
"""Pattern of the first bytes of a compressed file -> function that opens it for reading."""
_BOMS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF8: "utf-8-sig"} | {
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Byte-order marks and their encodings. UTF-32 comes first, because its mark starts like that of UTF-16."""
_ZERO_PATTERNS = {"0111": "utf-32-le", "1110": "utf-32-be", "0101": "utf-16-le", "1010": "utf-16-be"}
"""Position of null bytes (1) in the first four bytes -> encoding of a text without a byte-order mark."""


def _replace_bad_bytes(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return BAD_BYTE * (error.end - error.start), error.end


codecs.register_error("flex_judge.bad_bytes", _replace_bad_bytes)


def get_format_suffix(path: Path) -> str:
    """Return the ending that states the format of a file, in lower case and without the ending of its compression.

    Example:
        >>> get_format_suffix(Path("data.jsonl.gz"))
        '.jsonl'
    """
    name = path.with_suffix("") if path.suffix.lower() in COMPRESSION_SUFFIXES else path
    return name.suffix.lower()


@dataclass(frozen=True)
class TextForm:
    """Form of a text file."""

    is_compressed: bool
    encoding: str
    has_cr_lines: bool
    """Whether lines end with a carriage return alone, as old Mac programs write them."""

    @property
    def is_plain(self) -> bool:
        """Whether the lines of the file can be read without conversion: UTF-8 that is not compressed."""
        return not self.is_compressed and self.encoding in ("utf-8", "utf-8-sig") and not self.has_cr_lines


def detect_form(path: Path) -> TextForm:
    """Detect the form of a file from its first bytes.

    Raises:
        UsageError: the file cannot be read, or is damaged in its first bytes.
    """
    with _open_stream(path) as (_, form):
        return form


def iter_lines(path: Path) -> Iterator[bytes]:
    r"""Yield the lines of a file as UTF-8, with their line ends and without a byte-order mark.

    Lines end at `\n` only, because other line ends may occur inside a JSON row; in a file without any `\n`, they end
    at `\r`. Undecodable bytes stay undecodable, so that only their line is invalid.

    Raises:
        UsageError: the file cannot be read, or is damaged from here on.
    """
    with _open_stream(path) as (file, form):
        if form.encoding.startswith("utf-8") and not form.has_cr_lines:
            for number, line in enumerate(file):
                yield line if number else line.removeprefix(BOM)
            return
        newline = None if form.has_cr_lines else "\n"
        with io.TextIOWrapper(file, form.encoding, errors="flex_judge.bad_bytes", newline=newline) as text:
            for content in text:
                yield content.encode("utf-8", "surrogateescape")


def read_text(path: Path) -> str:
    r"""Read a text file as a whole; all line ends become `\n`.

    Raises:
        UsageError: the file cannot be read, or is not text in UTF-8, or in UTF-16 or UTF-32 with a byte-order mark.
    """
    with open_text(path, newline=None) as file:
        return file.read()


@contextmanager
def open_text(path: Path, newline: str | None = "", errors: str = "strict") -> Iterator[IO[str]]:
    """Open a text file; see `open` for `newline` and `errors`.

    Raises:
        UsageError: the file cannot be read, or is not text in UTF-8, or in UTF-16 or UTF-32 with a byte-order mark.
    """
    with _open_stream(path) as (file, form):
        try:
            with io.TextIOWrapper(file, form.encoding, errors=errors, newline=newline) as text:
                yield text
        except UnicodeDecodeError as e:
            raise UsageError(f"{path}: not UTF-8 text: byte {e.start + 1} is invalid; save it as UTF-8") from e


class _Decompressor(io.RawIOBase):
    """Stream that returns decompressed bytes as soon as there are some, so that a cut-off file is read up to its cut.

    Args:
        file: open compressed file of `gzip`, `bz2`, `lzma` or pyarrow.
    """

    def __init__(self, file: Any) -> None:
        super().__init__()
        self._read = file.read1 if hasattr(file, "read1") else file.read

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read at most as many bytes as the buffer holds."""
        data = self._read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def _open_stream(path: Path) -> Iterator[tuple[io.BufferedReader[Any], TextForm]]:
    """Open a file for reading of its decompressed bytes. It is opened only once, because it may be a pipe."""
    try:
        with io.BufferedReader(path.open("rb", buffering=0), HEAD_BYTES) as file:
            head = file.peek(1)
            opener = next((opener for pattern, opener in _OPENERS.items() if re.match(pattern, head)), None)
            stream: io.BufferedReader[Any] = (
                file if opener is None else io.BufferedReader(_Decompressor(opener(file)), HEAD_BYTES)
            )
            with stream:
                yield stream, _detect_form(stream.peek(1), is_compressed=opener is not None)
    except STREAM_ERRORS as e:
        if isinstance(e, OSError) and e.strerror:
            raise UsageError(f"{path}: cannot be read: {e.strerror}") from e
        raise UsageError(f"{path}: cannot be decompressed: {e}; get a complete copy of it") from e


def _detect_form(head: bytes, is_compressed: bool) -> TextForm:
    encoding = next((encoding for mark, encoding in _BOMS.items() if head.startswith(mark)), None)
    if encoding is None:
        zeros = "".join(str(int(byte == 0)) for byte in head[:4])
        encoding = _ZERO_PATTERNS.get(zeros, "utf-8")
    # The last character is left out: it may be the first half of a line end of two characters.
    text = head.decode(encoding, "replace")[:-1]
    return TextForm(is_compressed, encoding, "\r" in text and "\n" not in text)
