"""Text files of users: compressed, with a byte-order mark, in other encodings, with other line ends, or damaged."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from file_forms import compress_zstd

from flex_judge.judges.errors import UsageError
from flex_judge.judges.validation.text_files import detect_form, get_format_suffix, iter_lines, read_text

TEXT = "Grüße 🙂\nand more\n"
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-32")
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "none": lambda data: data,
    "gzip": gzip.compress,
    "zstd": compress_zstd,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "text.txt"


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_text_is_read_in_every_form(compression: str, encoding: str, line_end: str, path: Path) -> None:
    data = TEXT.replace("\n", line_end).encode(encoding)
    path.write_bytes(COMPRESSIONS[compression](data))
    assert read_text(path) == TEXT
    lines = [line.rstrip() for line in iter_lines(path)]
    assert lines == [line.encode() for line in TEXT.splitlines()]
    is_plain = compression == "none" and encoding.startswith("utf-8") and line_end != "\r"
    assert detect_form(path).is_plain is is_plain


@pytest.mark.parametrize(
    "data", [b"", b"\xef\xbb\xbf", gzip.compress(b"", mtime=0), compress_zstd(b""), "".encode("utf-16")]
)
def test_file_without_text_is_empty(data: bytes, path: Path) -> None:
    path.write_bytes(data)
    assert read_text(path) == ""
    assert [line for line in iter_lines(path) if line] == []


@pytest.mark.parametrize("text", ["BZhang asked:", "P*M", "BZh9", "x"])
def test_text_that_starts_like_a_compressed_file_is_text(text: str, path: Path) -> None:
    path.write_text(text)
    assert read_text(path) == text


def test_carriage_return_inside_a_line_is_no_line_end(path: Path) -> None:
    path.write_bytes(b'{"a":\r 1}\n{"b": 2}\r\n')
    assert list(iter_lines(path)) == [b'{"a":\r 1}\n', b'{"b": 2}\r\n']


def test_line_end_at_the_border_of_the_recognised_part_is_not_a_carriage_return_alone(path: Path) -> None:
    path.write_bytes(b"x" * 65535 + b"\r\n" + b"y\r\n")
    assert not detect_form(path).has_cr_lines


@pytest.mark.parametrize("compression", ["gzip", "zstd", "bzip2", "xz"])
def test_lines_before_the_end_of_a_file_that_is_cut_off_are_read(compression: str, path: Path) -> None:
    data = b"".join(os.urandom(40).hex().encode() + b"\n" for _ in range(20_000))
    path.write_bytes(COMPRESSIONS[compression](data)[:-300_000])
    read: list[bytes] = []
    with pytest.raises(UsageError, match=r"text\.txt: cannot be decompressed: .*; get a complete copy of it"):
        read.extend(iter_lines(path))
    assert len(read) > 4000
    assert b"".join(read) == data[: len(b"".join(read))]


@pytest.mark.parametrize("data", [b"a\xffb", b"\xff\xfea", b"\xff\xfe\x00\xd8a\x00"])
def test_text_that_cannot_be_decoded_is_one_error(data: bytes, path: Path) -> None:
    path.write_bytes(data)
    with pytest.raises(UsageError, match=r"text\.txt: not UTF-8 text: byte \d+ is invalid; save it as UTF-8"):
        read_text(path)


def test_undecodable_bytes_cost_only_their_line(path: Path) -> None:
    path.write_bytes("a\n?\nb\n".encode("utf-16").replace(b"?\0", b"\0\xdc"))
    first, bad, last = iter_lines(path)
    assert (first, last) == (b"a\n", b"b\n")
    with pytest.raises(UnicodeDecodeError):
        bad.decode()


@pytest.mark.parametrize("name", ["gone.txt", "."])
def test_missing_file_and_folder_are_one_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot be read: (No such file|Is a directory)"):
        read_text(tmp_path / name)
    with pytest.raises(UsageError, match=r"cannot be read: (No such file|Is a directory)"):
        next(iter_lines(tmp_path / name))


def test_pipe_is_read_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(b"\xef\xbb\xbfHello\r\n",))
    writer.start()
    assert read_text(tmp_path / "pipe") == "Hello\n"
    writer.join()


def test_zstd_without_pyarrow_names_the_extra(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(compress_zstd(b"a"))
    monkeypatch.setattr("flex_judge.judges.extras.is_installed", lambda _: False)
    with pytest.raises(UsageError, match="a file compressed with zstd needs the extra 'judge': pip install"):
        read_text(path)


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("a.jsonl", ".jsonl"), ("a.b.JSONL.GZ", ".jsonl"), ("a.json.zst", ".json"), ("a.gz", ""), ("a", "")],
)
def test_format_is_the_ending_without_that_of_the_compression(name: str, suffix: str) -> None:
    assert get_format_suffix(Path(name)) == suffix
