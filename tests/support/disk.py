"""Limited storage for tests: files cannot grow beyond a size, as on a full disk."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from processes import PROGRAM


@contextmanager
def limit_file_size(size: int) -> Iterator[None]:
    """Let writes of this process fail at this position of any file until the block ends; Python ignores the signal."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def run_on_full_disk(size: int, *command: str) -> subprocess.CompletedProcess[str]:
    """Run `flex-judge` in a process of its own whose files cannot grow beyond a size."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return subprocess.run(
        [*PROGRAM, *command],
        preexec_fn=limit,
        capture_output=True,
        text=True,
        timeout=300,
    )
