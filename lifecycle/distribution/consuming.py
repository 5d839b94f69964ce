"""Consumers that give back: whatever becomes of a frame's consumer, the frame's share goes back.

`with_release` is for functions that are given a frame, `derived_from` for what is made from one.
"""

from __future__ import annotations

import functools
import inspect
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, TypeVar

from lifecycle.distribution.sharing import give_back, is_shareable
from lifecycle.errors import CallbackError, ClosedError, LifecycleError
from lifecycle.lowlevel import Uncopied
from lifecycle.manager import Handle, SafetyManager

T = TypeVar("T")


class _Owned:
    """A share whose owner may change: the thread that takes it out owns it, and only one can. Goes back when
    it is dropped."""

    __slots__ = ("_box",)

    def __init__(self, frame: Any) -> None:
        self._box = deque((frame,))

    def look(self) -> Any:
        """The frame, without taking it."""
        return self._box[0]

    def take(self) -> Any:
        """The frame, which is the caller's from now on. Raises `IndexError` when it was taken already."""
        return self._box.pop()

    def close(self) -> None:
        """Give the share back, if it was not taken."""
        try:
            frame = self._box.pop()
        except IndexError:
            return
        if is_shareable(frame):
            give_back(frame)

    def __del__(self) -> None:
        self.close()


class Sink(Generic[T]):
    """A function that closes its frame at its end; made by `with_release`. It takes over the share that it is
    called with."""

    def __init__(self, fn: Callable[..., Any], fallback: Callable[..., Any] | None) -> None:
        self._fn = fn
        self._fallback = fallback
        self._is_async = inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(
            getattr(type(fn), "__call__", None)  # noqa: B004 - whether calling it makes a coroutine
        )
        functools.update_wrapper(self, fn, updated=())

    def __call__(self, frame: T, *args: Any) -> Any:
        """``fn(frame, *args)``; then, whatever happened, the share goes back. With a coroutine function this
        is a coroutine, and the share goes back when that ends, is cancelled, or is dropped without having
        been awaited."""
        owned = _Owned(frame)
        frame = None  # type: ignore[assignment]
        if self._is_async:
            return self._run_async(owned, args)
        return self._run(owned, args)

    def _run(self, owned: _Owned, args: tuple[Any, ...]) -> Any:
        try:
            return self._fn(owned.look(), *args)
        except Exception as error:
            if self._fallback is None:
                raise
            return self._fallback(owned.take(), error)
        finally:
            owned.close()

    async def _run_async(self, owned: _Owned, args: tuple[Any, ...]) -> Any:
        try:
            return await self._fn(owned.look(), *args)
        except Exception as error:
            if self._fallback is None:
                raise
            result = self._fallback(owned.take(), error)
            return await result if inspect.isawaitable(result) else result
        finally:
            owned.close()

    async def in_thread(self, frame: T, *args: Any) -> Any:
        """Call the function on the running event loop's executor. Cancelling this does not end a function
        that has begun, so the share stays with it until it is done; if it had not begun, the share goes back
        at once.

        Raises `CallbackError` for a coroutine function; the share goes back then, too.
        """
        import asyncio

        owned = _Owned(frame)
        frame = None  # type: ignore[assignment]
        try:
            if self._is_async:
                raise CallbackError(
                    f"{self!r} is a coroutine function, whose body would not run on a thread: await "
                    "sink(frame) instead"
                )
            return await asyncio.get_running_loop().run_in_executor(None, self._work, owned, args)
        finally:
            owned.close()

    def _work(self, owned: _Owned, args: tuple[Any, ...]) -> Any:
        try:
            mine = _Owned(owned.take())
        except IndexError:
            return None  # cancelled at the last moment: the share has gone back
        return self._run(mine, args)

    def __repr__(self) -> str:
        return f"<Sink of {getattr(self._fn, '__qualname__', self._fn)!s}>"


def with_release(
    fn: Callable[..., Any], *, fallback: Callable[[Any, Exception], Any] | None = None
) -> Sink[Any]:
    """Make a sink of `fn`, a plain or a coroutine function: ``sink(frame, …)`` calls ``fn(frame, …)``, and
    the frame's share goes back afterwards, also when it raises or is cancelled. What ``fn`` returns or raises
    is passed on.

    With `fallback`, an exception of `fn` leads to ``fallback(frame, error)``, whose result is passed on
    instead. It is given the only share and keeps it: to close it is its own affair from then on.

    What `fn` wants to keep it must share: ``frame.share()``, or an array made from the frame.
    """
    if not callable(fn):
        raise LifecycleError(f"with_release takes a function, not {fn!r}")
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise CallbackError(
            f"with_release({fn!r}): the body of a generator function runs after the share has gone back; "
            "give a plain or a coroutine function"
        )
    if fallback is not None and not callable(fallback):
        raise LifecycleError(f"with_release(fallback=) takes a function, not {fallback!r}")
    return Sink(fn, fallback)


class Derived(Uncopied):
    """What was made from a frame, so far; made by `derived_from`."""

    _remedy = "derive another from a share of the frame"

    def __init__(self, manager: SafetyManager, frame: Any) -> None:
        self._manager = manager
        self._frame = frame
        self._made: deque[Handle[Any]] = deque()
        self._open = True

    def register(self, obj: T, type_name: str | None = None, **how: Any) -> Handle[T]:
        """``manager.register(obj, type_name, parent=frame, …)``; raises what that raises, and `ClosedError`
        after the block. The object is then still yours."""
        if not self._open:
            raise ClosedError(
                "this derived_from() block is over: register with parent=frame, or in a block of its own"
            )
        how.setdefault("parent", self._frame)
        handle = self._manager.register(obj, type_name, **how)
        self._made.append(handle)
        return handle

    def add(self, handle: Handle[T]) -> Handle[T]:
        """Let a handle that was made otherwise go back with the rest."""
        self._made.append(handle)
        return handle

    def keep(self) -> tuple[Handle[Any], ...]:
        """All is well: the handles, oldest first, are the caller's from now on."""
        kept = []
        while self._made:
            kept.append(self._made.popleft())
        return tuple(kept)

    def close(self) -> None:
        """Close what was made and not kept, the last first. A close that raises stops no other; the first
        error is raised."""
        self._open = False
        first: BaseException | None = None
        try:
            while self._made:
                handle = self._made[-1]
                try:
                    handle.close(timeout=0)
                except BaseException as error:  # an interrupt too: it has given its share back
                    first = first or error
                self._made.pop()
        except BaseException:  # between two of them: a kept traceback must keep nothing alive
            self._made.clear()
            raise
        finally:
            handle = None  # type: ignore[assignment]
        if first is not None:
            raise first

    def __enter__(self) -> Derived:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Derived from {self._frame!r}: {len(self._made)} not kept>"


def derived_from(manager: SafetyManager, frame: Any) -> Derived:
    """A block in which several objects are made from one frame (tensors, cropped views, textures), all or
    nothing.

    ::

        with derived_from(manager, frame) as derived:
            tensor = derived.register(upload(frame), release=free_tensor)
            texture = derived.register(make_texture(tensor), release=delete_texture, parent=tensor)
            handles = derived.keep()

    What the block has made and not kept when it ends, by an error or not, goes back in reverse order.
    Everything made holds the frame (``parent=frame``) until it is released.
    """
    if not isinstance(frame, Handle) and not isinstance(getattr(frame, "handle", None), Handle):
        raise LifecycleError(f"derived_from takes a handle or a frame, not {frame!r}")
    return Derived(manager, frame)
