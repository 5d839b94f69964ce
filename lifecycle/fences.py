"""Fences: another user is not done with it yet.

A fence is the lease of a user that holds no Python reference: a GPU, another process, a thread that was
handed an address. It is asked, at the object's place, whether that user is done, and the release waits for
it: ``handle.close(after=fence)``, ``handle.release_after(fence)``.

**Only True is True.** What a fence says is taken by whitelist: True is signalled, False is pending, and
anything else – another value, an exception, a code that nobody knows – means that the fence is *lost*. A lost
fence never counts as signalled: its object is orphaned, which leaks it, since releasing what may still be in
use corrupts memory.

The fences here need no GPU. Those of frameworks stand in `integrations`.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Iterator
from typing import Any

from lifecycle.errors import FenceError
from lifecycle.lowlevel import Flag, Uncopied

# -- fences that need no GPU ---------------------------------------------------------------------------------

__all__ = ["ProcessFence", "fence_of_block"]


class EventFence(Uncopied):
    """Signals with a `threading.Event` (or anything with ``is_set()`` and ``wait(timeout)``)."""

    _remedy = "pass the fence itself, or make another of the same event"

    __slots__ = ("_event",)

    def __init__(self, event: Any) -> None:
        if not callable(getattr(event, "is_set", None)):
            raise FenceError(f"EventFence takes an event with an is_set() method, not {event!r}")
        self._event = event

    def signalled(self) -> bool:
        """Return True if the event is set. Callable on any thread."""
        return self._event.is_set()  # type: ignore[no-any-return]

    def wait(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for it."""
        return self._event.wait(timeout)  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"<EventFence of {self._event!r}>"


class FutureFence(Uncopied):
    """Signals when the work behind a `concurrent.futures.Future` is over, with a result or an exception: then
    it uses nothing.

    One that was cancelled before it began signals as well. A future of asyncio that was cancelled is *lost*:
    cancelling the task says nothing about a thread that it had started.
    """

    _remedy = "pass the fence itself, or make another of the same future"

    __slots__ = ("_asyncio", "_future")

    def __init__(self, future: Any) -> None:
        if not all(callable(getattr(future, name, None)) for name in ("done", "cancelled")):
            raise FenceError(
                f"FutureFence takes a future of concurrent.futures or asyncio, not {future!r}: hand over "
                "what submit(), run_in_executor() or create_task() returned"
            )
        self._future = future
        self._asyncio = callable(getattr(future, "get_loop", None))

    def signalled(self) -> bool:
        """Return True if the work is over. Callable on any thread. Raises `FenceError` where cancelling has
        left that unknown."""
        done = self._future.done()
        if done and self._asyncio and self._future.cancelled():
            raise FenceError(
                f"{self._future!r} was cancelled, which does not end what it had started on other threads"
            )
        return done  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"<FutureFence of {self._future!r}>"


class _Watched:
    """A descriptor of a process. It is closed when its last user lets go of it: on another thread a call may
    use it while the fence is deleted, and its number may be given out again."""

    __slots__ = ("_number",)

    def __init__(self, pid: int) -> None:
        self._number = -1
        self._number = os.pidfd_open(pid)

    def fileno(self) -> int:
        return self._number

    def __del__(self) -> None:
        if self._number >= 0:
            with contextlib.suppress(OSError):
                os.close(self._number)


class ProcessFence(Uncopied):
    """Signals when a process has ended: it maps no memory of ours any more.

    Takes a process id, or what has one (`subprocess.Popen`, `multiprocessing.Process`). On Linux the process
    is held by a pidfd, so a number that is given to another process later means nothing here; elsewhere only
    what can tell by itself is taken.

    Raises `FenceError` for a process that cannot be found: it may never have been what was meant.
    """

    _remedy = "pass the fence itself, or make another of the same process"

    __slots__ = ("_pid", "_process", "_watched")

    def __init__(self, process: Any) -> None:
        pid = process if isinstance(process, int) else getattr(process, "pid", None)
        self._watched: _Watched | None = None
        self._process = None if isinstance(process, int) else process
        if isinstance(pid, bool) or not isinstance(pid, int) or pid <= 0:
            raise FenceError(
                f"ProcessFence takes a process id, or a process that was started, not {process!r}"
            )
        self._pid = pid
        if _has_ended(self._process) is True:
            return
        if hasattr(os, "pidfd_open"):
            try:
                self._watched = _Watched(pid)
            except OSError as error:
                if _has_ended(self._process) is not True:
                    raise FenceError(
                        f"process {pid} cannot be watched ({error}): make the fence while it is known to "
                        "run, from its Popen or Process object"
                    ) from error
        elif _has_ended(self._process) is None:
            raise FenceError(
                f"process {pid} cannot be watched here by its number: give its Popen or Process object"
            )

    def signalled(self) -> bool:
        """Return True if it has ended. Callable on any thread."""
        watched = self._watched
        if watched is not None:
            return bool(select.select([watched], [], [], 0)[0])
        ended = _has_ended(self._process)
        if ended is None:
            raise FenceError(
                f"whether process {self._pid} has ended is not known any more: the fence was deleted"
            )
        return ended

    def wait(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for it."""
        watched = self._watched
        if watched is not None:
            return bool(select.select([watched], [], [], timeout)[0])
        return self.signalled()

    def delete(self) -> None:
        """Let go of the process. Again: nothing."""
        self._watched = None

    def __repr__(self) -> str:
        return f"<ProcessFence of {self._pid}>"


def _has_ended(process: Any) -> bool | None:
    """Return True if a Popen or Process says that it has ended; None where it cannot say."""
    poll = getattr(process, "poll", None)
    if callable(poll):
        return poll() is not None
    exitcode = getattr(process, "exitcode", process)
    return None if exitcode is process else exitcode is not None


class _End:
    """An event that is set in one step: an interrupt at the end of a block leaves its fence signalled."""

    __slots__ = ("_flag", "set")

    def __init__(self) -> None:
        self._flag = Flag()
        self.set = self._flag.set

    def is_set(self) -> bool:
        return self._flag.is_set

    def wait(self, timeout: float) -> bool:
        return self._flag.wait(timeout)


@contextlib.contextmanager
def fence_of_block() -> Iterator[EventFence]:
    """A fence that signals when the block ends, however it ends: for code that uses an object without a
    Python reference.

    ::

        with fence_of_block() as fence:
            handle.close(after=fence)
            library.read_from(address)
    """
    event = _End()
    try:
        yield EventFence(event)
    finally:
        event.set()
