"""Forms in which users have the same rows, and files with faults."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Rows = Sequence[dict[str, Any]]
BAD_TEXT = "b\udcffd"
"""Text that `write_parquet` writes with the byte 0xff, which no UTF-8 text has."""


def compress_zstd(data: bytes) -> bytes:
    """Compress data with zstd."""
    compressed: bytes = pa.Codec("zstd").compress(data, asbytes=True)
    return compressed


def format_lines(rows: Rows, line_end: str = "\n") -> str:
    """Format rows as JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + line_end for row in rows)


def format_list(rows: Rows) -> str:
    """Format rows as a JSON list over several lines."""
    return json.dumps(list(rows), ensure_ascii=False, indent=2)


def format_csv(rows: Rows, delimiter: str = ",", as_json: bool = True) -> str:
    """Format rows as a table with quotes around cells that need them; lists in the notation of JSON or Python."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=delimiter)
    writer.writerow(names)
    for row in rows:
        cells = [row.get(name, "") for name in names]
        notate = json.dumps if as_json else repr
        writer.writerow([cell if isinstance(cell, str) else notate(cell) for cell in cells])
    return buffer.getvalue()


FORMS: dict[str, tuple[str, Callable[[Rows], bytes]]] = {
    "plain": (".jsonl", lambda rows: format_lines(rows).encode()),
    "no line end at the end": (".jsonl", lambda rows: format_lines(rows).encode().rstrip()),
    "byte-order mark": (".jsonl", lambda rows: format_lines(rows).encode("utf-8-sig")),
    "mark before every row": (".jsonl", lambda rows: b"".join(format_lines([r]).encode("utf-8-sig") for r in rows)),
    "CR LF": (".jsonl", lambda rows: format_lines(rows, "\r\n").encode()),
    "CR": (".jsonl", lambda rows: format_lines(rows, "\r").encode()),
    "empty lines": (".jsonl", lambda rows: ("\n \n" + format_lines(rows, "\n\n")).encode()),
    "UTF-16": (".jsonl", lambda rows: format_lines(rows).encode("utf-16")),
    "UTF-16 big endian": (".jsonl", lambda rows: ("\ufeff" + format_lines(rows, "\r\n")).encode("utf-16-be")),
    "UTF-16 without a mark": (".jsonl", lambda rows: format_lines(rows).encode("utf-16-le")),
    "UTF-32": (".jsonl", lambda rows: format_lines(rows).encode("utf-32")),
    "gzip": (".jsonl.gz", lambda rows: gzip.compress(format_lines(rows).encode())),
    "gzip of two files": (".jsonl.gz", lambda rows: b"".join(gzip.compress(format_lines([r]).encode()) for r in rows)),
    "gzip without its ending": (".jsonl", lambda rows: gzip.compress(format_lines(rows).encode())),
    "gzip ending alone": (".jsonl.gz", lambda rows: format_lines(rows).encode()),
    "zstd": (".jsonl.zst", lambda rows: compress_zstd(format_lines(rows).encode())),
    "zstd of two files": (".jsonl.zst", lambda rows: b"".join(compress_zstd(format_lines([r]).encode()) for r in rows)),
    "zstd of UTF-16": (".jsonl.zst", lambda rows: compress_zstd(format_lines(rows).encode("utf-16"))),
    "bzip2": (".jsonl.bz2", lambda rows: bz2.compress(format_lines(rows).encode())),
    "xz": (".jsonl.xz", lambda rows: lzma.compress(format_lines(rows).encode())),
    "JSON list": (".json", lambda rows: format_list(rows).encode()),
    "JSON list with a mark": (".json", lambda rows: format_list(rows).replace("\n", "\r\n").encode("utf-8-sig")),
    "JSON list, gzip": (".json.gz", lambda rows: gzip.compress(format_list(rows).encode())),
    "JSON list, zstd": (".json.zst", lambda rows: compress_zstd(format_list(rows).encode())),
    "lines in a .json file": (".json", lambda rows: format_lines(rows).encode()),
    "CSV": (".csv", lambda rows: format_csv(rows).encode()),
    "CSV of pandas": (".csv", lambda rows: format_csv(rows, as_json=False).encode()),
    "CSV of Excel": (".csv", lambda rows: format_csv(rows, ";").encode("utf-8-sig")),
    "CSV that states its delimiter": (".csv", lambda rows: ("sep=;\r\n" + format_csv(rows, ";")).encode()),
    "CSV, UTF-16": (".csv", lambda rows: format_csv(rows).encode("utf-16")),
    "CSV, gzip": (".csv.gz", lambda rows: gzip.compress(format_csv(rows).encode())),
    "TSV": (".tsv", lambda rows: format_csv(rows, "\t").encode()),
    "Parquet": (".parquet", lambda rows: format_parquet(rows)),
    "Parquet of row groups": (".parquet", lambda rows: format_parquet(rows, row_group_size=1)),
    "Parquet with an ending in capitals": (".PARQUET", lambda rows: format_parquet(rows)),
}
"""Name of a form -> ending of the file, and the function that formats rows."""


def format_parquet(rows: Rows, **options: Any) -> bytes:
    """Format rows as Parquet; BAD_TEXT becomes a text that is not UTF-8."""
    sink = pa.BufferOutputStream()
    mark = "b¿d"  # of the same length in UTF-8 as the bytes that replace it
    table = pa.Table.from_pylist([_replace_bad_texts(row, mark) for row in rows])
    # Uncompressed and without statistics, so that the text occurs only in the values.
    pq.write_table(table, sink, **{"compression": "none", "write_statistics": False, **options})
    data: bytes = sink.getvalue().to_pybytes()
    return data.replace(mark.encode(), b"b\xff\xffd")


def _replace_bad_texts(value: Any, mark: str) -> Any:
    if isinstance(value, dict):
        return {name: _replace_bad_texts(inner, mark) for name, inner in value.items()}
    if isinstance(value, list):
        return [_replace_bad_texts(inner, mark) for inner in value]
    return mark if value == BAD_TEXT else value


def write_form(folder: Path, form: str, rows: Rows, stem: str = "rows") -> Path:
    """Write rows to a file of a form, and return its path."""
    suffix, format_rows = FORMS[form]
    path = folder / f"{stem}{suffix}"
    path.write_bytes(format_rows(rows))
    return path
