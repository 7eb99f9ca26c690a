"""Stopping of commands: a signal is acknowledged at once, finished work is saved, and a second signal ends at once.

Every command runs inside `run_stoppable`. By default the first signal raises KeyboardInterrupt in the main thread, like
Ctrl-C in any Python program. Code that has to stop in another way says so for a block: `run_async` cancels its
coroutine, and `call_on_stop` calls a function, which for example sets a flag that training checks after each step.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from flex_judge.experiments.common.stop_state import (
    LAUNCHER,
    PRINT_LIMIT_S,
    SIGNALS,
    STARTED_BY,
    STATUS,
    StopState,
    kill_children,
    raise_interrupt,
)
from flex_judge.experiments.common.streams import find_lost_output, protect_standard_streams
from flex_judge.judges.errors import JudgeError, UsageError, to_one_line

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")
_state: StopState | None = None


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
    _state = state = StopState(program)
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
def _set_in_block(name: str, value: object) -> Iterator[None]:
    """Set an attribute of the state within the block."""
    if (state := _state) is None:
        yield
        return
    previous = getattr(state, name)
    setattr(state, name, value)
    try:
        yield
    finally:
        setattr(state, name, previous)


def describe_stop(plan: str) -> AbstractContextManager[None]:
    """Set what the acknowledgement of a signal promises within the block, such as `finished judgments are in FILE`."""
    return _set_in_block("plan", plan)


def print_above(console: Console) -> AbstractContextManager[None]:
    """Print acknowledgements on a console within the block, so that they do not disturb its progress display."""
    return _set_in_block("console", console)


@contextmanager
def call_on_stop(act: Callable[[], None], *, must_stop: bool = True) -> Iterator[None]:
    """Call a function at the first signal within the block, instead of raising KeyboardInterrupt.

    Args:
        act: called in the main thread, between any two instructions of it; it must only set a flag or the like.
        must_stop: whether the end of the block raises KeyboardInterrupt if a signal came.
    """
    with _set_in_block("act", act):
        yield
    if must_stop and is_stop_requested():
        raise KeyboardInterrupt


def interrupt_on_stop() -> AbstractContextManager[None]:
    """Raise KeyboardInterrupt at the first signal within the block: for long blocking calls inside of `run_async`."""
    return call_on_stop(raise_interrupt)


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
        The exit status: the result of `work`, 1 for a failure, 2 for bad input, 130 after a signal.
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

    Does not return after a signal, while a thread of an engine still computes, or in a rank of a training: at the end
    of Python such threads abort the process, or wait for each other, and change its exit status. A rank can wait
    forever for a thread of gloo that waits for Python (torch 2.13).

    Returns:
        The exit status.
    """
    protect_standard_streams()
    with handle_stop_signals(program):
        status = run_stoppable(program, work)
        if (error := find_lost_output()) is not None:
            status = print_error(program, f"the output was not written: {error.strerror}", status or 1)
        # Another rank may have had the signal first, and have passed it on.
        is_stopped = is_stop_requested() or status == STATUS
        computes = any(thread.name.endswith("-engine") for thread in threading.enumerate())
        if not is_stopped and _is_training_rank():
            atexit._run_exitfuncs()  # of loggers such as wandb
        elif not is_stopped and not computes:
            # Nothing is left to be saved, so a signal from now on just ends the process.
            for number in _list_handled_signals():
                signal.signal(number, lambda *_: os._exit(status if STARTED_BY in os.environ else STATUS))
            return status
        if is_stopped:
            if is_stop_requested() and _state is not None:
                _state.is_acknowledged.wait(PRINT_LIMIT_S)
            kill_children()
            # A launcher takes any other status of a rank for a failure, and reports it at length.
            status = 0 if os.environ.get(STARTED_BY) == LAUNCHER else status
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)


def _is_training_rank() -> bool:
    """Return whether this process is one of several ranks of a training, started by a launcher."""
    return os.environ.get("WORLD_SIZE", "1") not in ("", "0", "1") and "torch" in sys.modules


def _list_handled_signals() -> list[signal.Signals]:
    """List the stop signals that are not ignored: nohup and shells want those that are to stay so."""
    return [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
