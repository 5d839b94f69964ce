"""asyncio, also on uvloop: a release queue of the loop, leases that survive cancellation, closing without
blocking.

**Leases across awaits** need nothing special: ``with handle.lease() as obj`` in a coroutine holds the object
until the block ends, also when the task is cancelled in it, or is dropped for good.

**Work on threads** does. Cancelling a task does not stop the thread that it waits for: a lease held by the
coroutine would end under that thread's feet. In `run_leased` the thread owns the lease, from before it starts
until its function is back.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, Generic, TypeVar

from lifecycle import (
    Handle,
    Lease,
    LifecycleError,
    ReleaseQueue,
)
from lifecycle._core import runtime
from lifecycle._core.ends import LET_DIE, LONGEST_LOOK
from lifecycle._core.record import Record
from lifecycle.lowlevel import DEFAULT, Default, check_callback, check_timeout
from lifecycle.places.workers import SLACK
from lifecycle.states import ENDED, RELEASED

__all__ = ["aclose", "release_queue", "run_leased"]

T = TypeVar("T")
R = TypeVar("R")


def release_queue(name: str = "asyncio") -> ReleaseQueue:
    """A `ReleaseQueue` of the running loop: what is registered with ``release_on=`` it is released on the
    loop's thread, in a turn of the loop, wherever it was closed or dropped. Raises `LifecycleError` where no
    loop runs."""
    loop = _running_loop(f"release_queue({name!r})")
    return ReleaseQueue(name, thread="current", post=loop.call_soon_threadsafe)


async def run_leased(
    handle: Handle[T], fn: Callable[..., R], /, *args: Any, executor: Executor | None = None
) -> R:
    """Call ``fn(obj, *args)`` on a thread, which owns a lease of the object meanwhile, and return the result.

    The lease is taken at once, so that a closed object is refused here (`AccessRefusedError`) and not later.
    It ends when `fn` has returned, before this call returns. If the task is cancelled before a thread has
    begun, the lease ends then. If it is cancelled later, `fn` goes on with its lease; an exception of `fn`
    then goes to the loop's exception handler.

    Parameters
    ----------
    handle:
        A handle, or anything that has one as its ``handle``.
    fn:
        A plain function; a coroutine function is refused (`CallbackError`). Context variables are those of
        the caller. What it raises passes unchanged and poisons nothing: for the panic boundary use
        ``asyncio.to_thread(manager.safe_access, handle, fn)``.
    executor:
        The executor whose threads are used; None takes the loop's default, as `asyncio.to_thread` does.
    """
    loop = _running_loop("run_leased")
    check_callback(fn, "run_leased(fn)")
    call: _Call[T] = _Call(loop)
    try:
        call.lease.append(_handle_of(handle).lease())
        context = contextvars.copy_context()
        return await loop.run_in_executor(executor, context.run, call.run, fn, *args)  # type: ignore[arg-type]
    finally:
        handle = None  # type: ignore[assignment]  # a kept traceback must keep nothing alive
        call.leave()


class _Call(Generic[T]):
    """One `run_leased`. Whoever pops the lease, the thread that begins or the task that gives up, ends it."""

    __slots__ = ("abandoned", "lease", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.lease: list[Lease[T]] = []
        self.abandoned = False

    def run(self, fn: Callable[..., R], *args: Any) -> R | None:
        """On the thread."""
        try:
            lease = self.lease.pop()
        except IndexError:
            return None  # given up before it began, and nobody asks for a result
        obj = None
        try:
            with lease as obj:
                return fn(obj, *args)
        except BaseException as error:
            if self.abandoned:
                self._tell(error)
            raise
        finally:
            lease = obj = None  # type: ignore[assignment]  # a kept traceback must keep nothing alive

    def leave(self) -> None:
        """In the task: it is done, or cancelled."""
        self.abandoned = True
        try:
            self.lease.pop().close()
        except IndexError:  # the thread has it, or had
            return

    def _tell(self, error: BaseException) -> None:
        facts = {"message": "run_leased failed after its task had been cancelled", "exception": error}
        try:
            self.loop.call_soon_threadsafe(self.loop.call_exception_handler, facts)
        except RuntimeError:  # the loop is closed
            self.loop.call_exception_handler(facts)


async def aclose(handle: Handle[Any], *, timeout: float | Default | None = DEFAULT) -> bool:
    """`Handle.close`, with the same results, but it does not block the loop while it waits: for the release,
    on whatever thread it runs, and with `timeout` (seconds; None: for ever) for other holders of the object.

    If the task is cancelled the handle is closed all the same, and only the waiting ends.
    """
    if timeout is not DEFAULT:
        check_timeout(timeout)
    handle = _handle_of(handle)
    try:
        record = handle._record
        if handle.close(timeout=0) or record.phase in ENDED:
            return record.phase is RELEASED
    finally:
        handle = None  # type: ignore[assignment]  # a kept traceback must keep nothing alive
    if timeout is DEFAULT:
        if record() is not None:
            return False
        timeout = record.kind.registry.config.finalizer_timeout + SLACK
    return await _end_of(record, timeout)


async def _end_of(record: Record, timeout: float | None) -> bool:
    look: Callable[[], float] | None = None
    if runtime.free_threaded:
        # An object made on this thread may die only when that runs Python again.
        pause = LET_DIE

        def look() -> float:
            nonlocal pause
            pause = min(2 * pause, LONGEST_LOOK)
            return pause

    await record.kind.registry.waiters.wait_async(
        record.id, lambda: record.phase in ENDED, timeout, look=look, every=LET_DIE
    )
    return record.phase is RELEASED


def _running_loop(what: str) -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise LifecycleError(
            f"{what} belongs to a running event loop, and none runs on this thread: call it in a coroutine"
        ) from None


def _handle_of(target: Any) -> Handle[Any]:
    handle = target if isinstance(target, Handle) else getattr(target, "handle", None)
    if not isinstance(handle, Handle):
        raise LifecycleError(f"expected a handle or something that has one as its handle, not {target!r}")
    return handle
