"""What the library says on the program's standard streams does not change the program's exit status.

**The problem.** CPython flushes `sys.stdout` and `sys.stderr` when it ends, and makes the status 120 where
that fails. A text that cannot be written (nobody reads the pipe, the descriptor is closed, the disk is full)
stays in the stream's buffer. So a log line, a warning or a traceback of the library would turn the status of
a program that wrote nothing there itself into 120.

**The idea.** Whatever the library says stands in a `sparing` block. The block flushes the streams before and
after: a stream that could be flushed before and cannot be after it is spoilt by the library. At the end of
the library's exit pass a spoilt stream is replaced by an equal one on the same descriptor whose buffer is
empty; what is spoilt later is replaced behind all exit hooks, or at once.

**Guaranteed.** A stream that the program itself had left unwritten is not touched: its status 120 stays. A
block never waits for a reader, raises nothing of its own, and takes no lock of the library. Callable on any
thread and at any moment.

**Relied on.** CPython looks at `sys.stdout` and `sys.stderr` twice at its end, the second time after it has
set them to `sys.__stdout__` and `sys.__stderr__`.
"""

from __future__ import annotations

import atexit
import io
import os
import select
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any

NAMES = ("stdout", "stderr", "__stdout__", "__stderr__")
_poll: Callable[[], Any] | None = getattr(select, "poll", None)
_READY: int = getattr(select, "POLLOUT", 0)

_spoilt: list[Any] = []
"""Kept alive: the end of such a stream would be one more failing write."""
_over = False
"""The exit hooks have run: what is spoilt from here on is replaced at once."""


def _events(stream: Any) -> int:
    """What `poll` says of the stream's descriptor; 0 where a write would wait for a reader."""
    if _poll is None:
        return _READY
    poll = _poll()
    try:
        number = stream.fileno()
        poll.register(number, _READY)
        events = sum(event for _, event in poll.poll(0))
        return events if events or os.get_blocking(number) else _READY
    except (AttributeError, OSError, TypeError, ValueError, OverflowError):
        # No descriptor: an object of the program's.
        return _READY


def _flushed(name: str) -> bool | None:
    """Flush `sys.<name>`: True if that went well, False if it failed, None where it was not tried."""
    stream = getattr(sys, name, None)
    if stream is None or getattr(stream, "closed", False):
        return None
    events = _events(stream)
    # Standard output has a buffer that the program fills for a reason, so it is flushed only where that must
    # fail.
    if not events or (name == "stdout" and events == _READY):
        return None
    try:
        stream.flush()
    except (OSError, ValueError, RuntimeError):
        return False
    return True


class sparing:
    """A block in which the library writes to the program's streams, itself or by the program's log, warnings
    or hooks."""

    __slots__ = ("_before",)

    def __enter__(self) -> None:
        self._before = {name: _flushed(name) for name in ("stdout", "stderr")}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, before in self._before.items():
            stream = getattr(sys, name, None)
            if before and _flushed(name) is False and not any(stream is one for one in _spoilt):
                _spoilt.append(stream)
        if _over and _spoilt:
            replace_spoilt()


class _Descriptor(io.RawIOBase):
    """Writes to a descriptor, which may be closed (`io.FileIO` would refuse it); leaves it open."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._write = os.write

    def fileno(self) -> int:
        return self._number

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return os.isatty(self._number)

    def write(self, data: Any) -> int:
        return self._write(self._number, data)


class _Unflushed:
    """A stream of the program's own making whose flushing fails by the library's fault: everything but that
    passes through."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def flush(self) -> None:
        """Do nothing: what is in there cannot be written."""


def _like(stream: Any) -> Any:
    """An equal stream with an empty buffer."""
    if not isinstance(stream, io.TextIOWrapper):
        return _Unflushed(stream)
    try:
        raw = _Descriptor(stream.fileno())
    except (OSError, ValueError):
        return _Unflushed(stream)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
    )


def replace_spoilt() -> None:
    """Put an equal stream in the place of each that the library has spoilt and that still cannot be
    flushed."""
    for stream in _spoilt:
        new = None
        for name in NAMES:
            there: Any = getattr(sys, name, None)
            if there is not stream:
                continue
            try:
                there.flush()
            except (OSError, ValueError, RuntimeError):
                new = new or _like(stream)
                setattr(sys, name, new)


def _at_the_end() -> None:
    global _over
    _over = True
    replace_spoilt()


# Exit hooks run the latest first, and this module is imported ahead of all that register others here: so it
# runs behind them.
atexit.register(_at_the_end)


def complain() -> None:
    """Give the exception that is handled to `sys.excepthook`, as CPython does with one that is not caught.
    What the hook itself raises is shown as well."""
    with sparing():
        try:
            sys.excepthook(*sys.exc_info())
        except BaseException:
            # The hook's own failure, with what it was called for as its context.
            sys.__excepthook__(*sys.exc_info())
