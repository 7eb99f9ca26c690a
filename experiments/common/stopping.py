"""Stopping of commands: a signal is acknowledged at once, finished work is saved, and a second signal ends at once.

Every command runs inside `run_stoppable`. By default the first signal raises KeyboardInterrupt in the main thread, like
Ctrl-C in any Python program. Code that has to stop in another way says so for a block: `run_async` cancels its
coroutine, and `call_on_stop` calls a function, which for example sets a flag that training checks after each step.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from flex_judge.experiments.common.streams import find_lost_output, protect_standard_streams
from flex_judge.judges.errors import JudgeError, UsageError, to_one_line

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")
SAME_STOP_S = 0.5
"""Signals this soon after the first belong to it: a terminal that closes and timeout(1) send two or three."""
STATUS = 130
"""Exit status of a stopped command, whatever the signal was."""
STARTED_BY = "FLEX_JUDGE_STARTED_BY"
COMMAND, LAUNCHER = "command", "launcher"
"""Variable in the environment of a process that another process of ours stops, and its values: the other process is a
command, or the process that launched the ranks of a training. It has acknowledged the signal already."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
RESUME = "finished work is saved, run the same command again to resume"
PRINT_LIMIT_S = 0.5
"""How long the last message of a process waits for a terminal or pipe that does not take it."""
OWN_WATCHERS = ("flex_judge.reward.serving.cleanup", "flex_judge.judges.engines.vllm.process_guard")
"""Modules of processes that clean up after this one, and end by themselves."""


def _raise_interrupt() -> None:
    raise KeyboardInterrupt


class _StopState:
    """Handling of the stop signals of this process."""

    def __init__(self, program: str) -> None:
        self.program = program
        self.is_requested = threading.Event()
        self.is_acknowledged = threading.Event()
        self.plan = RESUME
        """What the first signal makes the command do, as the acknowledgement says it."""
        self.act: Callable[[], None] = _raise_interrupt
        """Called in the main thread at the first signal."""
        self.console: Console | None = None
        # Kept, because commands redirect standard error to a log.
        self._terminal = os.dup(2)
        self._has_acted = False
        self._first_s = math.inf

    def handle_signal(self, _number: int, _frame: object) -> None:
        """Act at the first signal, in the main thread, which may handle it late."""
        self.is_requested.set()
        if not self._has_acted:
            self._has_acted = True
            self.act()

    def watch_signals(self, pipe: int) -> None:
        """Acknowledge signals as they arrive, whatever the main thread does; runs in a thread of its own."""
        while (number := os.read(pipe, 1)) not in (b"", b"\0"):
            if signal.Signals(number[0]) not in SIGNALS:
                continue
            if not self.is_requested.is_set() or self._first_s == math.inf:
                self._first_s = time.monotonic()
                self.is_requested.set()
                # In yet another thread: a terminal that takes no output must not delay the second signal.
                threading.Thread(target=self._acknowledge_stop, args=(number[0],), daemon=True).start()
            elif time.monotonic() - self._first_s > SAME_STOP_S:
                self._end_process()

    def _acknowledge_stop(self, number: int) -> None:
        if STARTED_BY not in os.environ:
            self.print_line(f"stopping ({signal.Signals(number).name}): {self.plan}; a second signal ends at once")
        self.is_acknowledged.set()

    def print_line(self, text: str) -> None:
        """Print a line on the terminal, above a progress display if there is one."""
        line = f"{self.program}: {to_one_line(text)}"
        if self.console is not None and self.console.is_terminal:
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            self.write_line(line)

    def write_line(self, line: str) -> None:
        """Write a line to standard error; give up if it fails or nobody takes it."""
        with contextlib.suppress(OSError, ValueError):
            if select.select([], [self._terminal], [], PRINT_LIMIT_S)[1]:
                os.write(self._terminal, f"{line}\n".encode(errors="backslashreplace"))

    def _end_process(self) -> None:
        """End this process and its child processes at once."""
        show_cursor = "\r\033[K\033[?25h" if os.isatty(self._terminal) else ""  # a progress display has hidden it
        if STARTED_BY not in os.environ:
            self.write_line(f"{show_cursor}{self.program}: ended at once")
        kill_children()
        os._exit(STATUS)

    def close(self) -> None:
        """Close the copy of standard error."""
        os.close(self._terminal)


_state: _StopState | None = None


@contextmanager
def handle_stop_signals(program: str) -> Iterator[None]:
    """Handle SIGINT, SIGTERM and SIGHUP within the block, see the module. Has no effect outside the main thread.

    Args:
        program: name of the program at the start of its messages.
    """
    global _state
    if threading.current_thread() is not threading.main_thread() or _state is not None:
        yield
        return
    _state = state = _StopState(program)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    # The pipe gets a byte for each signal, even while the main thread is inside a library that handles none.
    previous_pipe = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    handlers = {number: signal.getsignal(number) for number in _list_handled_signals()}
    watcher = threading.Thread(target=state.watch_signals, args=(reading,), name="stop-signals", daemon=True)
    watcher.start()
    try:
        for number in handlers:
            signal.signal(number, state.handle_signal)
        yield
    finally:
        for number, handler in handlers.items():
            # A handler that ends the process stays, see `run_process`.
            if signal.getsignal(number) == state.handle_signal:
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        signal.set_wakeup_fd(previous_pipe)
        os.write(writing, b"\0")
        watcher.join(PRINT_LIMIT_S)
        if state.is_requested.is_set():
            state.is_acknowledged.wait(PRINT_LIMIT_S)
        for descriptor in (reading, writing):
            os.close(descriptor)
        _state = None
        state.close()


def is_stop_requested() -> bool:
    """Return whether a signal has asked this process to stop."""
    return _state is not None and _state.is_requested.is_set()


@contextmanager
def describe_stop(plan: str) -> Iterator[None]:
    """Set what the acknowledgement of a signal promises within the block, such as `finished judgments are in FILE`."""
    if _state is None:
        yield
        return
    previous, _state.plan = _state.plan, plan
    try:
        yield
    finally:
        if _state is not None:
            _state.plan = previous


@contextmanager
def call_on_stop(act: Callable[[], None], *, must_stop: bool = True) -> Iterator[None]:
    """Call a function at the first signal within the block, instead of raising KeyboardInterrupt.

    Args:
        act: called in the main thread, between any two instructions of it; it must only set a flag or the like.
        must_stop: whether the end of the block raises KeyboardInterrupt if a signal came.
    """
    if _state is None:
        yield
        return
    previous, _state.act = _state.act, act
    try:
        yield
    finally:
        if _state is not None:
            _state.act = previous
    if must_stop and is_stop_requested():
        raise KeyboardInterrupt


def interrupt_on_stop() -> contextlib.AbstractContextManager[None]:
    """Raise KeyboardInterrupt at the first signal within the block: for long blocking calls inside of `run_async`."""
    return call_on_stop(_raise_interrupt)


@contextmanager
def print_above(console: Console) -> Iterator[None]:
    """Print acknowledgements on a console within the block, so that they do not disturb its progress display."""
    if _state is None:
        yield
        return
    previous, _state.console = _state.console, console
    try:
        yield
    finally:
        if _state is not None:
            _state.console = previous


def run_async(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine like `asyncio.run`; the first signal cancels it.

    Ray replaces the handlers of signals when it starts, so the handler calls no code of the event loop itself.

    Raises:
        KeyboardInterrupt: a signal came; the coroutine has cleaned up.
    """

    async def run_until_stopped() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def cancel_task() -> None:
            # By the event loop, so that no step of a task is torn apart, such as the writing of a row.
            loop.call_soon_threadsafe(task.cancel)

        with call_on_stop(cancel_task, must_stop=False):
            if is_stop_requested():
                raise asyncio.CancelledError
            return await coroutine

    try:
        result = asyncio.run(run_until_stopped())
    except asyncio.CancelledError:
        if is_stop_requested():
            raise KeyboardInterrupt from None
        raise
    if is_stop_requested():
        raise KeyboardInterrupt
    return result


def run_stoppable(program: str, work: Callable[[], int]) -> int:
    """Run a command with stop signals handled, and print its error, if any, on one line.

    Args:
        program: name of the program at the start of its messages.
        work: the command; returns the exit status.

    Returns:
        The exit status: that of `work`, 1 for a failure, 2 for bad input, 130 after a signal.
    """
    with handle_stop_signals(program):
        try:
            try:
                return work()
            except UsageError as e:
                return print_error(program, f"error: {e}", STATUS if is_stop_requested() else 2)
            except JudgeError as e:
                return print_error(program, f"{type(e).__name__}: {e}", STATUS if is_stop_requested() else 1)
        except KeyboardInterrupt:
            return STATUS
        except BaseException as e:
            if not is_stop_requested():
                raise
            # A library may turn the interrupt into an error of its own. It must not hide the stop, nor be hidden.
            if not isinstance(e, SystemExit) and STARTED_BY not in os.environ:
                print_error(program, f"while stopping: {type(e).__name__}: {e}", STATUS)
            return STATUS


def print_error(program: str, message: str, status: int) -> int:
    """Print an error on one line and return the exit status."""
    print(f"{program}:", to_one_line(message), file=sys.stderr)
    return status


def run_process(program: str, work: Callable[[], int]) -> int:
    """Run a command as the only work of this process, see `run_stoppable`; its output cannot fail.

    Does not return after a signal, or while a thread of an engine still computes: at the end of Python such threads
    abort the process, or wait for each other, and change its exit status.

    Returns:
        The exit status.
    """
    protect_standard_streams()
    with handle_stop_signals(program):
        status = run_stoppable(program, work)
        if (error := find_lost_output()) is not None:
            status = print_error(program, f"the output was not written: {error.strerror}", status or 1)
        if not is_stop_requested() and not _is_engine_running():
            # Nothing is left to be saved, so a signal from now on just ends the process.
            for number in _list_handled_signals():
                signal.signal(number, lambda *_: os._exit(STATUS))
            return status
        if is_stop_requested():
            assert _state is not None
            _state.is_acknowledged.wait(PRINT_LIMIT_S)
            kill_children()
            # A launcher takes any other status of a rank for a failure, and reports it at length.
            status = 0 if os.environ.get(STARTED_BY) == LAUNCHER else status
        sys.stderr.flush()
        os._exit(status)


def _is_engine_running() -> bool:
    return any(thread.name.endswith("-engine") for thread in threading.enumerate())


def _list_handled_signals() -> list[signal.Signals]:
    """List the stop signals that are not ignored: nohup and shells want those that are to stay so."""
    return [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]


def kill_children() -> None:
    """Kill all descendants of this process at once, except those that clean up after it."""
    try:
        import psutil
    except ModuleNotFoundError:  # without the extra `serve`, no command starts processes
        return
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error, OSError):
            if not set(OWN_WATCHERS) & set(child.cmdline()):
                child.kill()
