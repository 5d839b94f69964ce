"""GStreamer's streaming threads: which they are, where they stand, and calls that may hang made elsewhere
with a deadline.

**The problem.** A state change joins the pipeline's streaming threads. Made from one of them, or while the
caller holds a lock that one of them wants, it waits for ever, and it cannot be cancelled.

**The idea.** A pipeline's bus tells of every streaming thread as it enters and leaves, on that very thread.
The threads are noted down, and marked for `lifecycle.never_wait`: closing anything on them only posts. A call
that may hang runs on a thread of its own, and the caller waits for its answer until the deadline. Past it
`sys._current_frames` says in which line a streaming thread stands.

**A thread that is kept.** Each Python callback on a thread that Python has not started makes a thread state
and destroys it, which is most of what a callback costs there. So a streaming thread's state is kept from its
beginning to its end: callbacks cost a third, and `threading.local` lives on between them.
"""

from __future__ import annotations

import _thread
import ctypes
import functools
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, Generic, TypeVar

import lifecycle
from lifecycle.integrations.gstreamer._native import Gst
from lifecycle.integrations.gstreamer.errors import ForkedError, GuardError
from lifecycle.lowlevel import Flag, complain, must_not_wait, no_wait_threads

__all__ = [
    "Lane",
    "StreamingThreads",
    "TookTooLong",
    "awaited",
    "contained",
    "has_forked",
    "in_the_background",
    "may_wait",
    "on_streaming_thread",
    "refuse_forked",
    "stands_at",
    "with_deadline",
]

T = TypeVar("T")

_keep_state = ctypes.pythonapi.PyGILState_Ensure
_keep_state.restype = ctypes.c_int
_let_state = ctypes.pythonapi.PyGILState_Release
_let_state.argtypes = (ctypes.c_int,)
_let_state.restype = None
LOCKED: Final = 0
"""`PyGILState_LOCKED`: the interpreter's lock was held before, and is held after. (To say the other thing
would give it up under a callback that runs.)"""

_streaming: dict[int, str] = {}
_forked = False


def _after_fork() -> None:
    global _forked
    _forked = _forked or Gst.is_initialized()
    _streaming.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def has_forked() -> bool:
    """Return True if this is a child of a process that used GStreamer: none of its threads is here, and its
    locks may be held for ever."""
    return _forked


def refuse_forked(what: str) -> None:
    """Raise `ForkedError` in a child of a process that used GStreamer, `GuardError` where GStreamer is not
    initialised."""
    if _forked:
        raise ForkedError(
            f"{what} cannot be used here: GStreamer was initialised before this process was forked from "
            "another, none of its threads is here and the next call would hang; start children with "
            "subprocess, or with multiprocessing's 'spawn' or 'forkserver', and call Gst.init(None) there"
        )
    if not Gst.is_initialized():
        raise GuardError(f"{what} needs GStreamer, which is not initialised: call Gst.init(None) first")


def contained(
    fallback: Callable[[], Any] = lambda: None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator of a function of the library that GStreamer calls. An interrupt that strikes it on the main
    thread is raised again there once C has returned, anything else is printed, and C is given ``fallback()``:
    PyGObject would print it, keep its frames, and give C zero, which drops a buffer."""

    def of(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*arguments: Any) -> Any:
            try:
                return function(*arguments)
            except BaseException as error:
                main = threading.current_thread() is threading.main_thread()
                answer = fallback()
                if main and isinstance(error, KeyboardInterrupt):
                    # Called from C, and nothing behind it looks for signals: called here it would be raised
                    # here, on its way to C.
                    for _ in map(_thread.interrupt_main, (signal.SIGINT,)):
                        break
                else:
                    complain()
                return answer
            finally:
                arguments = ()

        return call

    return of


def on_streaming_thread() -> bool:
    """Return True if this is a streaming thread of a guarded pipeline."""
    return threading.get_ident() in _streaming


def may_wait() -> bool:
    """Return True if this thread may block: not a streaming thread, not one marked with
    `lifecycle.never_wait`, not inside a garbage collection."""
    return not must_not_wait()


class StreamingThreads:
    """The streaming threads of one pipeline, by identity. Written on those threads themselves, read on
    any."""

    def __init__(self) -> None:
        self._threads: dict[int, str] = {}

    def enter(self, element: str) -> None:
        """This thread streams from here on, for `element`."""
        ident = threading.get_ident()
        label = f"streaming thread {threading.get_native_id()} of {element!r}"
        if ident not in self._threads:
            _keep_state()
        self._threads[ident] = _streaming[ident] = label
        no_wait_threads.add(ident)

    def leave(self) -> None:
        """This thread streams no more."""
        if self._forget(threading.get_ident()):
            _let_state(LOCKED)

    def clear(self) -> None:
        """The pipeline is at NULL: it has no threads, whatever was missed of their end."""
        for ident in list(self._threads):
            self._forget(ident)

    def _forget(self, ident: int) -> bool:
        if self._threads.pop(ident, None) is None:
            return False
        _streaming.pop(ident, None)
        no_wait_threads.discard(ident)
        return True

    def blocked(self) -> tuple[str, ...]:
        """Where those that are in Python code stand, as ``thread in file.py:31 function``."""
        where = []
        for ident, label in list(self._threads.items()):
            line = stands_at(ident)
            if line:
                where.append(f"{label} in {line}")
        return tuple(where)

    def __len__(self) -> int:
        return len(self._threads)


_STANDARD: Final = os.path.dirname(os.__file__) + os.sep
_OURS: Final = tuple(
    os.path.dirname(os.path.abspath(file)) + os.sep
    for file in (os.path.dirname(__file__), str(lifecycle.__file__))
)


def stands_at(ident: int) -> str:
    """``file.py:31 function`` where the thread stands in the program's own code, empty where it is in no
    Python code."""
    frame: FrameType | None = sys._current_frames().get(ident)
    innermost = ""
    try:
        while frame is not None:
            file = frame.f_code.co_filename
            where = f"{os.path.basename(file)}:{frame.f_lineno} {frame.f_code.co_name}"
            if not file.startswith((_STANDARD, *_OURS, "<frozen")):
                return where
            innermost = innermost or where
            frame = frame.f_back
        return innermost
    finally:
        frame = None  # another thread's frame keeps its leases


class TookTooLong(Exception):
    """What was run with a deadline has not come back."""


def with_deadline(function: Callable[[], T], timeout: float, name: str, lane: Lane | None = None) -> T:
    """The result of ``function()``, run on a thread of its own, in a `lane` in its turn. Raises what it
    raises, and `TookTooLong` after `timeout` seconds; it then goes on, and what comes of it is dropped."""
    call = _Call(function)
    (in_the_background if lane is None else lane.begin)(call.run, name)
    try:
        if not call.over.wait(min(max(0.001, timeout), threading.TIMEOUT_MAX)):
            raise TookTooLong
        return call.result()
    finally:
        call = None  # type: ignore[assignment]


async def awaited(function: Callable[[], T], name: str) -> T:
    """The result of ``function()``, run on a thread of its own, in a coroutine of asyncio or trio. Raises
    what it raises. Cancelled, it goes on, and what comes of it is dropped."""
    call = _Call(function)
    in_the_background(call.run, name)
    try:
        await call.over.wait_async()
        return call.result()
    finally:
        call = None  # type: ignore[assignment]


class _Call(Generic[T]):
    """A call on another thread, and what came of it."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._answer: list[T] = []
        self._error: BaseException | None = None
        self.over: Flag = Flag()

    def run(self) -> None:
        try:
            self._answer.append(self._function())
        except BaseException as error:
            self._error = error
        finally:
            self.over.set()

    def result(self) -> T:
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
            return self._answer[0]
        finally:
            error = None


class Lane:
    """Calls on threads of their own, one at a time and in the order in which they were begun: two threads may
    come to run in any order. No thread waits for another: a thread that finds another one at work leaves its
    call to that one."""

    def __init__(self) -> None:
        self._calls: deque[Callable[[], object]] = deque()
        self._runner: dict[None, object] = {}

    def begin(self, function: Callable[[], object], name: str) -> None:
        """Have ``function()`` called, after those that were begun before."""
        self._calls.append(function)
        in_the_background(self._run, name)

    def _run(self) -> None:
        me = object()
        call: Callable[[], object] | None = None
        # K1. Asked again behind the end of a turn: one may have come, and left, before that.
        while self._calls and self._runner.setdefault(None, me) is me:
            try:
                while self._calls:
                    call = self._calls.popleft()
                    try:
                        call()
                    except BaseException:
                        complain()
            finally:
                call = None
                self._runner.pop(None, None)


def in_the_background(function: Callable[[], object], name: str) -> None:
    """Run ``function()`` on a new thread; here where the interpreter starts none any more."""
    try:
        threading.Thread(target=function, name=name, daemon=True).start()
    except RuntimeError:
        function()
