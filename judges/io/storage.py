"""One-line errors for files that cannot be written: a full disk or quota, a folder that is gone or read-only."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flex_judge.judges.errors import StorageError

REMEDIES = {
    errno.ENOSPC: "free disk space",
    errno.EDQUOT: "free space within the quota",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
    errno.EIO: "check the disk",
    errno.EROFS: "make its file system writable",
    errno.EACCES: "make the file and its folder writable",
    errno.EPERM: "make the file and its folder writable",
    errno.ENOENT: "create its folder again",
    errno.ENOTDIR: "create its folder again",
    errno.ESTALE: "mount its file system again",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}
"""Errors of a write, and what to do about each."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""Errors that only storage has; the others have many causes."""
UNNAMED_FILE = "standard output or a file"
"""Name of a file in messages if the error does not name it."""
# Libraries in other languages report the problem in the text of an error of their own.
_RUST_CODE = re.compile(r"\bos error (\d+)\b")
_TEXTS = {
    "no space left on device": errno.ENOSPC,
    "disk quota exceeded": errno.EDQUOT,
    "file too large": errno.EFBIG,
    "read-only file system": errno.EROFS,
    "pytorchstreamwriter failed writing file": errno.ENOSPC,
    "file write failed": errno.ENOSPC,
}


@contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of the block, which writes a file, into a StorageError that names the file and what to do."""
    try:
        yield
    except StorageError:
        raise
    except OSError as e:
        raise _build_error(str(path), get_error_number(e), e.strerror or str(e)) from e


def find_storage_error(error: BaseException) -> StorageError | None:
    """Find a problem of storage behind an error of any library, for example one that a full disk caused.

    Returns:
        The error to report, or None if the cause is another one.
    """
    cause: BaseException | None = error
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, StorageError):
            return cause
        number = get_error_number(cause)
        if number in FULL:
            name = getattr(cause, "filename", None)
            return _build_error(UNNAMED_FILE if name is None else str(name), number, os.strerror(number))
        # Ray keeps the error of a worker in `cause`.
        cause = getattr(cause, "cause", None) or cause.__cause__ or cause.__context__
    return None


def get_error_number(error: BaseException) -> int | None:
    """Return the number of the system's error, also if it is only in the text of a library's error."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    text = str(error).lower()
    if match := _RUST_CODE.search(text):
        return int(match[1])
    return next((number for part, number in _TEXTS.items() if part in text), None)


def _build_error(path: str, number: int | None, problem: str) -> StorageError:
    remedy = REMEDIES.get(number, "make it writable") if number is not None else "make it writable"
    return StorageError(
        f"{path}: cannot be written ({problem}); {remedy} and run the same command again, which keeps finished work"
    )
