"""The methods after which an object is gone: its release, and what ``ends=`` names.

The release's own name is the handle's `close`: the native goes when the last call inside has. Every other end
means now: the children are closed, the method runs while no other call is inside, and then the object has
ended, without its release. One that raises has not ended the object.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from typing import Any

from lifecycle._core.calls import (
    NO_ARGUMENTS,
    Held,
    forget,
    general,
    given,
    insist_thrice,
    leave_all,
    leave_proxy,
    refuse_inside,
    unwrapped,
)
from lifecycle._core.proxied import is_light, is_shut, put_out, without_release
from lifecycle.errors import AccessError, HeldError
from lifecycle.lowlevel import about, describe, facts, forgets


def closes(name: str) -> Any:
    """A method that is the release.

    Where that is ``__exit__`` and its block has raised, the exception decides what it does: it may roll back
    where it would commit. So it is called as an end, with the exception. Where it cannot be called now, since
    there are views, the object is closed as ever.
    """

    def close(self: Any, /, *args: Any, **_: Any) -> Any:
        try:
            if name == "__exit__" and args and args[0] is not None and not is_shut(self):
                with contextlib.suppress(AccessError, HeldError):
                    return _end(self, name, args, {})
            released = self._lifecycle_handle.close()
            return None if name == "__exit__" else released
        finally:
            args = ()  # K3

    close.__name__ = name
    return close


def ends(name: str) -> Any:
    """A method that is another end."""

    def end(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        if name == "__exit__" and is_shut(self):
            return None  # the block has ended its object itself
        return (_end_light if is_light(self) else _end)(self, name, args, kwargs)

    end.__name__ = name
    return end


def leaves(self: Any, /, *args: Any, **kwargs: Any) -> Any:
    """``__exit__`` if it cannot be known whether that is an end. An object that calls itself `closed` then is
    over, and its release is not called."""
    try:
        result = general(self, "__exit__", args, kwargs)
        if not is_light(self) and _says_closed(self):
            _is_over(self._lifecycle_handle)
        return result
    finally:
        result = args = kwargs = None  # type: ignore[assignment]  # K3


leaves.__name__ = "__exit__"


def ends_later(name: str) -> Any:
    """A coroutine function that is another end. It waits for no other call, since it would stop its loop."""

    async def end(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        if name == "__aexit__" and is_shut(self):
            return None  # the block has ended its object itself
        if not is_light(self):
            return await _end_later(self, name, args, kwargs)
        try:
            result = await general(self, name, args, kwargs)
            put_out(self)
            return result
        finally:
            result = args = kwargs = None  # type: ignore[assignment]  # K3

    end.__name__ = name
    return end


async def leaves_later(self: Any, /, *args: Any, **kwargs: Any) -> Any:
    """``__aexit__`` if it cannot be known whether that is an end, as `leaves`."""
    try:
        result = await general(self, "__aexit__", args, kwargs)
        if not is_light(self) and _says_closed(self):
            _is_over(self._lifecycle_handle)
        return result
    finally:
        result = args = kwargs = None  # type: ignore[assignment]  # K3


leaves_later.__name__ = "__aexit__"


def _says_closed(self: Any) -> bool:
    lease: Any = None
    raw: Any = None
    try:
        if is_shut(self) or not hasattr(type(self), "closed"):
            return False
        lease = self._lifecycle_handle.lease()
        raw = lease.__enter__()
        return getattr(raw, "closed", False) is True
    except Exception:
        return False  # what does not answer is not over
    finally:
        raw = None  # K3
        if lease is not None:
            lease.close()
        lease = self = None


def _end_light(self: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        result = general(self, name, args, kwargs)
        put_out(self)
        return result
    finally:
        result = args = kwargs = None  # type: ignore[assignment]  # K3


@forgets
def _end(self: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    handle = self._lifecycle_handle
    dependents = handle._dependents
    lock = dependents.lock
    mine: list[Any] = []
    held: Held = []
    others: list[Any] = []
    turn: Any = None
    raw: Any = None
    light: Any = None
    try:
        if lock is not None:
            handle.lease().close()  # who is refused waits for nobody
            mine.extend(itertools.starmap(lock.acquire, NO_ARGUMENTS))
        refuse_inside(self)
        turn, raw = _alone(handle)
        for light in dependents.living():
            if is_light(light):
                put_out(light)
        dependents.drop()
        args, kwargs = unwrapped(args, kwargs, held, others)
        raw = functools.partial(getattr(raw, name), **kwargs)
        dependents.over.extend(itertools.starmap(raw, (args,)))  # called and stored in one step
        return given(self, turn._pin, dependents.over[0], name, None, held)
    finally:
        raw = args = kwargs = light = None  # type: ignore[assignment]  # K3
        if dependents.over:
            try:
                _is_over(handle)
            except BaseException:
                # K6: an interrupt on the way in there would leave a native that has ended to its release.
                _is_over(handle)
                raise
        held = None  # type: ignore[assignment]
        if turn is not None:
            turn.close()
            turn = None
        if mine:
            lock.release()
        leave_all(others)
        if dependents.over:
            handle.close()
        else:
            leave_proxy(self)


async def _end_later(self: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    handle = self._lifecycle_handle
    dependents = handle._dependents
    held: Held = []
    others: list[Any] = []
    turn = raw = light = None
    over = False
    try:
        refuse_inside(self)
        _refuse_if_seen(handle)
        dependents.close_children(0)
        turn = handle.exclusive(timeout=0)
        raw = turn.__enter__()
        for light in dependents.living():
            if is_light(light):
                put_out(light)
        dependents.drop()
        args, kwargs = unwrapped(args, kwargs, held, others)
        result = await getattr(raw, name)(*args, **kwargs)
        over = True  # nothing is called in between: no interrupt finds it gone, and not noted
        return given(self, turn._pin, result, name, None, held)
    except BaseException as error:
        forget(error)
        raise
    finally:
        raw = args = kwargs = light = result = None  # type: ignore[assignment]  # K3
        held = None  # type: ignore[assignment]
        if over:
            try:
                _is_over(handle)
            except BaseException:
                _is_over(handle)  # K6, as in `_end`
                raise
        if turn is not None:
            turn.close()
            turn = None
        leave_all(others)
        if over:
            handle.close(timeout=0)
        else:
            leave_proxy(self)


def _is_over(handle: Any) -> None:
    """The native is gone: close the object for all shares, whatever interrupts come."""

    def attempt() -> bool:
        without_release(handle)
        handle._dependents.over[:] = (True,)
        handle.close(timeout=0)
        if facts(handle).cause is None:  # it has other shares
            handle._manager.unregister(handle.id, timeout=0)
        return True

    insist_thrice(attempt)


def _alone(handle: Any) -> tuple[Any, Any]:
    """Exclusive access, entered, and the object. Who cannot have it soon is told so before anything is
    changed: views do not end by themselves. The children are closed, and calls that are inside are waited
    for."""
    turn: Any = None
    try:
        turn = handle.exclusive(timeout=0)
        return turn, turn.__enter__()
    except HeldError:
        turn.close()
    finally:
        turn = None  # K3
    _refuse_if_seen(handle)
    handle._dependents.close_children(0)
    try:
        turn = handle.exclusive()
        return turn, turn.__enter__()
    finally:
        turn = None  # K3


def _refuse_if_seen(handle: Any) -> None:
    """Raise `HeldError` while there are views of the object or of its children."""
    seen = [one for one in handle.holders() if one.kind in ("view", "fence", "unknown")]
    if seen:
        names = tuple(map(str, seen))
        raise about(
            handle,
            HeldError(
                f"{describe(handle)} is still held by {', '.join(names)}; nothing was changed: end those "
                "first",
                names,
            ),
            names,
        )
    for proxy in handle._dependents.living():
        if not is_light(proxy):
            _refuse_if_seen(proxy._lifecycle_handle)
