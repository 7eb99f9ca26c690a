"""Run the blocks of a documentation page in order, as a reader would. `doc_pages.py` has the conventions."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import psutil
from doc_pages import Block, output_matches, parse_page
from repository import ROOT, SUPPORT

BLOCK_TIMEOUT_S = 240.0
STOP_TIMEOUT_S = 40.0
DEFAULT_PORT = "8000"
SHOWN_LINES = 60
_URL = re.compile(r"https?://[\w.:\[\]-]+")
# A block is one process, but exported variables and the working directory carry over to the next block.
_SHELL = 'set -euo pipefail; source "$1"; source "$2"; { export -p; printf "cd %q\\n" "$PWD"; } > "$1"'
_PYTHON = 'source "$1"; exec "$2" "$3" "$4"'


class BlockError(Exception):
    """A block of a page failed. The message names the page and the line and shows the output."""


@dataclass
class PageReport:
    """Counts of one page."""

    page: str
    blocks_run: int = 0
    files_written: int = 0
    skipped: list[str] = field(default_factory=list)
    """Line and reason of every block that was not run."""
    seconds: float = 0.0

    def __str__(self) -> str:
        counts = f"{self.page}: {self.blocks_run} blocks run, {self.files_written} files written"
        lines = [f"{counts}, {len(self.skipped)} skipped, {self.seconds:.0f} s"]
        return "\n    skipped ".join([*lines, *self.skipped])


@dataclass(frozen=True)
class _Result:
    stdout: str
    stderr: str
    status: int | None
    """Exit status; None after a timeout."""


class PageRunner:
    """Runs one page in one folder. Servers and the Python process live until the `with` block ends."""

    def __init__(self, page: Path, folder: Path) -> None:
        """Prepare a folder.

        Args:
            page: Markdown file inside or outside the repository.
            folder: Empty folder for the files of the page.
        """
        self.name = str(page.relative_to(ROOT)) if page.is_relative_to(ROOT) else page.name
        self._page = page
        self._work = folder / "page"
        self._private = folder / "private"  # scripts and outputs, which the page must not see
        for path in (self._work, self._private):
            path.mkdir(parents=True)
        self._state = self._private / "state.sh"
        self._state.write_text(f"cd {self._work}\n")
        self._environment = _make_environment(self._private)
        self._servers: list[subprocess.Popen[bytes]] = []
        self._addresses: dict[str, str] = {}
        """Port that the page names -> host and port where the server listens."""
        self._groups: list[int] = []
        """Process groups that may have members left."""
        self._python: _PythonProcess | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def run(self) -> PageReport:
        """Run all blocks of the page.

        Raises:
            PageError: The page breaks a convention.
            BlockError: A block failed or printed something else than the page says.
        """
        start = time.monotonic()
        report = PageReport(self.name)
        for block in parse_page(self._page.read_text(encoding="utf-8"), self.name):
            if block.skip_reason:
                report.skipped.append(f"line {block.line}: {block.skip_reason}")
            elif block.is_file:
                self._write_file(block)
                report.files_written += 1
            elif block.is_setup or block.is_runnable:
                self._run_block(block)
                report.blocks_run += block.is_runnable
        report.seconds = time.monotonic() - start
        return report

    def close(self) -> None:
        """End the servers and the Python process."""
        if self._python is not None:
            self._python.close()
        for server in self._servers:
            _stop_server(server)
        for group in self._groups:
            _kill_group(group)

    def _write_file(self, block: Block) -> None:
        path = (self._work / block.title).resolve()
        if not path.is_relative_to(self._work.resolve()):
            raise BlockError(f"{self.name}:{block.line}: the file {block.title} lies outside the page's folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self._use_servers(block.code), encoding="utf-8")

    def _run_block(self, block: Block) -> None:
        if block.background:
            self._start_server(block)
            return
        code = self._use_servers(block.code)
        result = self._run_python(block, code) if block.language == "python" else self._run_bash(block, code)
        if result.status != block.exit_status:
            ending = "timed out" if result.status is None else f"exit status {result.status}"
            raise self._error(block, f"{ending}, expected {block.exit_status}", result)
        expected = block.expected_output
        if expected is not None and not any(output_matches(expected, text) for text in (result.stdout, result.stderr)):
            raise self._error(block, f"the output is not the expected one:\n{expected}", result)

    def _error(self, block: Block, problem: str, result: _Result) -> BlockError:
        parts = [f"{self.name}:{block.line}: {problem}", "--- code", block.code.rstrip()]
        for name, text in (("stdout", result.stdout), ("stderr", result.stderr)):
            parts += [f"--- {name}", *text.rstrip().splitlines()[-SHOWN_LINES:]]
        return BlockError("\n".join(parts))

    def _use_servers(self, code: str) -> str:
        """Replace the addresses that the page names by those of its servers."""
        for port, address in self._addresses.items():
            code = re.sub(rf"\b(?:localhost|127\.0\.0\.1):{port}\b", address, code)
        return code

    def _start_bash(self, block: Block, code: str) -> tuple[subprocess.Popen[bytes], Path, Path]:
        script = self._private / f"line{block.line}.sh"
        script.write_text(code, encoding="utf-8")
        stdout, stderr = script.with_suffix(".stdout"), script.with_suffix(".stderr")
        with stdout.open("wb") as out, stderr.open("wb") as err:  # files: what a block leaves running holds no pipe
            process = subprocess.Popen(
                ["bash", "-c", _SHELL, "bash", self._state, script],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=self._work,
                env=self._environment,
                start_new_session=True,
            )
        return process, stdout, stderr

    def _run_bash(self, block: Block, code: str) -> _Result:
        process, stdout, stderr = self._start_bash(block, code)
        try:
            status: int | None = process.wait(BLOCK_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            status = None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 0)
            self._groups.append(process.pid)
        return _Result(_read(stdout), _read(stderr), status)

    def _run_python(self, block: Block, code: str) -> _Result:
        if self._python is None:
            command = ["bash", "-c", _PYTHON, "bash", str(self._state), sys.executable, str(SUPPORT / "doc_session.py")]
            self._python = _PythonProcess(command, self._work, self._environment, self._private)
        return self._python.run({"code": code, "page": str(self._page), "line": block.line})

    def _start_server(self, block: Block) -> None:
        named = re.search(r"--port[ =](\d+)", block.code)
        code = self._use_servers(block.code)
        if named:
            code = code.replace(named[0], "--port 0")
        else:
            code = code.replace("flex-judge serve", "flex-judge serve --port 0")
        process, stdout, stderr = self._start_bash(block, code)
        self._servers.append(process)
        end = time.monotonic() + BLOCK_TIMEOUT_S
        while not (url := _URL.search(_read(stdout))):
            if process.poll() is not None or time.monotonic() > end:
                result = _Result(_read(stdout), _read(stderr), process.poll())
                ending = "timed out" if result.status is None else f"exit status {result.status}"
                raise self._error(block, f"the server printed no URL; {ending}", result)
            time.sleep(0.05)
        self._addresses[named[1] if named else DEFAULT_PORT] = url[0].partition("//")[2]


class _PythonProcess:
    """The process that holds the namespace of a page's Python blocks."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str], private: Path) -> None:
        self._logs = [(private / f"python.{name}").open("w+b") for name in ("stdout", "stderr")]
        self._results, child_end = os.pipe()
        self._process = subprocess.Popen(
            [*command, str(child_end)],
            stdin=subprocess.PIPE,
            stdout=self._logs[0],
            stderr=self._logs[1],
            pass_fds=[child_end],
            cwd=folder,
            env=environment,
            start_new_session=True,
        )
        os.close(child_end)

    def run(self, request: dict[str, str | int]) -> _Result:
        """Run one block. A traceback is in the result's stderr."""
        starts = [os.fstat(log.fileno()).st_size for log in self._logs]
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        answer, ended = b"", False
        end = time.monotonic() + BLOCK_TIMEOUT_S
        while not answer.endswith(b"\n") and select.select([self._results], [], [], max(0, end - time.monotonic()))[0]:
            chunk = os.read(self._results, 65536)
            if not chunk:  # the process has ended, in the middle of the block
                ended = True
                break
            answer += chunk
        stdout, stderr = (_read_from(log, start) for log, start in zip(self._logs, starts, strict=True))
        if not answer.endswith(b"\n"):
            # A block that ends the process has failed, even with status 0: the next one would have no process.
            return _Result(stdout, stderr, (self._process.wait() or 1) if ended else None)
        error = json.loads(answer)["error"]
        return _Result(stdout, stderr + error, 1 if error else 0)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        _wait_or_kill(self._process)
        os.close(self._results)
        for log in self._logs:
            log.close()


def _make_environment(private: Path) -> dict[str, str]:
    """Return the environment of a reader, with `flex-judge` and `python` of this interpreter and this checkout."""
    programs = private / "bin"
    programs.mkdir()
    for name, arguments in (("python", ""), ("python3", ""), ("flex-judge", " -m flex_judge.experiments.cli")):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}"{arguments} "$@"\n')
        program.chmod(0o755)
    scripts = Path(sys.executable).parent
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]  # tests/conftest.py puts tests/support there
    return os.environ | {
        "PATH": os.pathsep.join([str(programs), str(scripts), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": "120",
        "NO_COLOR": "1",
        "TERM": "dumb",
        "OMP_WAIT_POLICY": "passive",  # threads that wait do not take the CPUs from other processes
    }


def _stop_server(process: subprocess.Popen[bytes]) -> None:
    """End a server in the orderly way: the signal goes to the command, which ends its own children."""
    with contextlib.suppress(psutil.NoSuchProcess):
        bash = psutil.Process(process.pid)
        for command in bash.children() or [bash]:
            command.terminate()
    _wait_or_kill(process)


def _wait_or_kill(process: subprocess.Popen[bytes]) -> None:
    """Wait for a process to end, then kill what is left of its group."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT_S)
    _kill_group(process.pid)
    process.wait()


def _kill_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _read_from(file: IO[bytes], start: int) -> str:
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size - start, start).decode(errors="replace")
