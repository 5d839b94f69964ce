"""The guard of one action."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FunctionType, TracebackType
from typing import Any, ClassVar, Literal

from lifecycle.errors import LifecycleError
from lifecycle.guards.action import (
    DEFERRED_BODY,
    forgotten,
    left,
    made_at,
    process,
    run_apart,
    run_left,
    run_slot,
)
from lifecycle.lowlevel import Uncopied, check_callback

WHEN = ("always", "error", "success")

_getframe = sys._getframe


class CleanupGuard(Uncopied):
    """``fn()``, called once: at the end of ``with guard:``, by `close`, or, with a `ResourceWarning`, when
    the guard is dropped.

    Parameters
    ----------
    fn:
        A plain callable without arguments. It runs on the thread that ends the guard. What it raises comes
        out of the block or of `close`; where the guard was dropped it is printed, as for any ``__del__``.
    when:
        ``"always"``; ``"error"``: only if the block ends with an exception (undo what was half done);
        ``"success"``: only if it does not. A guard that was dropped has not been told how it went: the action
        for an error runs then, the one for success does not.

    Raises `RegistrationError` or `CallbackError` when `fn` cannot be called like that, `LifecycleError` for
    another `when`. All methods may be called on any thread and at any moment.
    """

    _remedy = "make a guard for each action, or share one action with SharedCleanupGuard"

    __slots__ = ("__weakref__", "_generation", "_site", "_slot", "_when")
    _process: ClassVar[Any] = process

    def __init__(
        self, fn: Callable[[], object], *, when: Literal["always", "error", "success"] = "always"
    ) -> None:
        if type(fn) is not FunctionType or fn.__code__.co_flags & DEFERRED_BODY:
            check_callback(fn, "cleanup")
        if when not in WHEN:
            raise LifecycleError(f"CleanupGuard(when=) takes one of {', '.join(WHEN)}, not {when!r}")
        self._when = when
        try:
            frame = _getframe(1)
            self._site: Any = (frame.f_code, frame.f_lasti)
        except ValueError:
            # C called it, and no Python frame is below.
            self._site = None
        self._generation = process.generation
        self._slot = [fn]
        if left:
            run_left()

    @property
    def armed(self) -> bool:
        """True if the action is still to come."""
        return bool(self._slot) and self._generation == process.generation

    def close(self) -> bool:
        """Run the action now, whatever `when` says; False when it has been run or defused already."""
        return run_slot(self._slot, self._generation)

    def defuse(self) -> bool:
        """Take the action back: it will not run. False when it has been run or defused already."""
        armed = self.armed
        self._slot.clear()
        return armed

    def __enter__(self) -> CleanupGuard:
        if not self.armed:
            raise LifecycleError("this guard has been run or defused: make a new one for each block")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._when == "always" or (self._when == "error") is (kind is not None):
            self.close()
        else:
            self.defuse()

    def __del__(self) -> None:
        try:
            slot, generation = self._slot, self._generation
            if process is None:
                # The interpreter is ending, and has emptied this module: its names cannot be used.
                if generation == self._process.generation and self._when != "success":  # type: ignore[unreachable]
                    while slot:
                        slot.pop()()
                return
            if not slot or generation != process.generation:
                return
            runs = self._when != "success"
            forgotten(
                self,
                (lambda: run_slot(slot, generation)) if runs else None,
                f"a CleanupGuard{made_at(self._site)} was dropped without `with` or close(): "
                + (
                    "its cleanup ran only now"
                    if runs
                    else 'its action, meant for success, was not run (when="success")'
                ),
            )
        except AttributeError:  # it was refused when it was made
            return
        except RecursionError:
            # Not even a call may be possible here. An action that has begun is not in there any more.
            if self._slot and self._when != "success":
                left[0:0] = [(run_slot, (self._slot, self._generation), "CleanupGuard", self._site)]
                run_apart(run_left)
                return
            raise

    def __repr__(self) -> str:
        return (
            f"<CleanupGuard{made_at(self._site)}: {'armed' if self.armed else 'done'}, when={self._when!r}>"
        )
