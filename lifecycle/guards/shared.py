"""The guard of one action whose end is the last of several shares."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, ClassVar

from lifecycle.errors import LifecycleError
from lifecycle.guards.action import forgotten, left, made_at, process, run_apart, run_left, run_slot
from lifecycle.lowlevel import Uncopied, check_callback, next_id

_getframe = sys._getframe


class _Shared:
    """What the shares of one action have in common."""

    __slots__ = ("generation", "open", "site", "slot")

    def __init__(self, fn: Callable[[], object], site: Any) -> None:
        self.slot = [fn]
        self.open: dict[int, None] = {}
        self.generation = process.generation
        self.site = site

    def leave(self, token: int) -> bool:
        """Take out a share; run the action if it was the last. True when it was this call that ran it."""
        self.open.pop(token, None)
        return not self.open and run_slot(self.slot, self.generation)


class SharedCleanupGuard(Uncopied):
    """``fn()``, called once, when the last of several shares has gone: `share` gives another, ``with``,
    `close` or (with a `ResourceWarning`) dropping it gives one back.

    `fn` is a plain callable without arguments and runs on the thread that gives back the last share. All
    methods may be called on any thread and at any moment.
    """

    _remedy = "use share() for another share"

    __slots__ = ("__weakref__", "_shared", "_token")
    _process: ClassVar[Any] = process

    def __init__(self, fn: Callable[[], object]) -> None:
        check_callback(fn, "cleanup")
        frame = _getframe().f_back
        shared = _Shared(fn, None if frame is None else (frame.f_code, frame.f_lasti))
        self._token = next_id()
        shared.open[self._token] = None
        self._shared = shared
        if left:
            run_left()

    @property
    def armed(self) -> bool:
        """True if the action is still to come."""
        shared = self._shared
        return bool(shared.slot) and shared.generation == process.generation

    @property
    def closed(self) -> bool:
        """True if this share was given back."""
        return self._token not in self._shared.open

    def share(self) -> SharedCleanupGuard:
        """Return another share. Raises `LifecycleError` when this one was closed, or the action was defused.

        The new share is entered before this one is checked. So either the close of the last share has seen
        it, or this call sees that it came too late: the action never runs with a share open, and is never
        forgotten.
        """
        shared = self._shared
        made = SharedCleanupGuard.__new__(SharedCleanupGuard)
        made._token = token = next_id()
        made._shared = shared
        try:
            shared.open[token] = None
            if self._token in shared.open and self.armed:
                return made
            shared.leave(token)
            raise LifecycleError(
                f"{self!r} cannot be shared: this share was given back, or the action was run or defused; "
                "share it before that"
            )
        except BaseException:
            shared.leave(token)
            raise

    def close(self) -> bool:
        """Give this share back; True when that ran the action. Giving back twice is giving back once."""
        shared = self._shared
        if self._token not in shared.open and shared.open:
            return False
        return shared.leave(self._token)

    def defuse(self) -> bool:
        """Take the action back, for all shares; False when it was run or defused already."""
        armed = self.armed
        self._shared.slot.clear()
        return armed

    def __enter__(self) -> SharedCleanupGuard:
        if self.closed:
            raise LifecycleError(f"{self!r} was given back: share() an open one")
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        try:
            shared, token = self._shared, self._token
            if process is None:
                # The interpreter is ending, and has emptied this module: its names cannot be used.
                shared.open.pop(token, None)  # type: ignore[unreachable]
                if shared.generation == self._process.generation and not shared.open:
                    while shared.slot:
                        shared.slot.pop()()
                return
            if (
                not shared.slot
                or shared.generation != process.generation
                # The share may be out already, if an interrupt came in between.
                or (token not in shared.open and shared.open)
            ):
                return
            last = len(shared.open) <= 1
            forgotten(
                self,
                lambda: shared.leave(token),
                f"a share of a SharedCleanupGuard{made_at(shared.site)} was dropped without `with` or close()"
                + (": it was the last, and the cleanup ran only now" if last else ""),
            )
        except AttributeError:  # it was refused when it was made
            return
        except RecursionError:
            # Not even a call may be possible here. To leave twice is to leave once.
            shared = self._shared
            if shared.slot:
                left[0:0] = [
                    (_Shared.leave, (shared, self._token), "share of a SharedCleanupGuard", shared.site)
                ]
                run_apart(run_left)
                return
            raise

    def __repr__(self) -> str:
        shared = self._shared
        state = "done" if not self.armed else f"armed, {len(shared.open)} open"
        return (
            f"<SharedCleanupGuard{made_at(shared.site)}: {state}{', this one closed' if self.closed else ''}>"
        )
