"""What has gone wrong while a stack is unwound, and what comes out of that: no failure is lost, and Ctrl-C
stays what it is."""

from __future__ import annotations

import sys
from types import TracebackType

from lifecycle.errors import CleanupErrorGroup, CleanupPanicError, text_of

Details = tuple[type[BaseException], BaseException, TracebackType | None]

SHOWN = 3
"""How many failures the message of a group spells out."""


class ErrorCollector:
    """What has gone wrong while a stack is unwound. Made when the first thing does."""

    __slots__ = ("_body", "_failed", "_group", "_suppressed")

    def __init__(self, body: BaseException | None) -> None:
        self._body = body
        self._failed: list[BaseException] = []
        self._suppressed = False
        self._group: CleanupErrorGroup | None = None

    def add(self, error: BaseException) -> Details | None:
        """A cleanup raised `error` (a context manager that raises what it was told has not failed): what to
        tell the next one."""
        if all(error is not known for known in (self._body, self._group, *self._failed)):
            self._failed.append(error)
        now = self.now()
        return None if now is None else (type(now), now, now.__traceback__)

    def suppress(self) -> None:
        """A context manager has dealt with it all."""
        self._suppressed = True
        self._body = self._group = None
        self._failed.clear()

    def now(self) -> BaseException | None:
        """What would come out if the stack ended here: what the next context manager is told."""
        body, failed = self._body, self._failed
        if not failed:
            return body
        winner = next(filter(_wins, failed if body is None else [body, *failed]), None)
        if winner is None:
            winner = next(filter(_cancels, failed), None)
        others = [error for error in failed if error is not winner]
        if isinstance(body, Exception):
            others.insert(0, body)  # a cancellation or a generator's end is no failure
        if not others:
            return winner
        before = self._group
        self._group = _group(others)
        if winner is None:
            return self._group
        cause = winner.__cause__  # nothing is to be lost
        self._group.__cause__ = before.__cause__ if before is not None and before is cause else cause
        winner.__cause__ = self._group
        return winner

    def end(self) -> bool:
        """Raise what has to be raised. Otherwise True when the block's exception was suppressed."""
        last = None
        try:
            last = self.now()
            if last is not None and last is not self._body:
                raise last
            return self._suppressed and last is None
        finally:
            last = None


def _wins(error: BaseException) -> bool:
    """The rule of `asyncio.TaskGroup`: these are raised themselves, whatever else there is."""
    return isinstance(error, (KeyboardInterrupt, SystemExit))


def _cancels(error: BaseException) -> bool:
    cancelled = getattr(sys.modules.get("asyncio"), "CancelledError", None)
    return cancelled is not None and isinstance(error, cancelled)


def _group(errors: list[BaseException]) -> CleanupErrorGroup:
    members = []
    for error in errors:
        if isinstance(error, Exception):
            members.append(error)
        else:
            panic = CleanupPanicError(f"panic in a cleanup: {text_of(error)}")
            panic.__cause__ = error
            members.append(panic)
    shown = "; ".join(text_of(error) for error in errors[:SHOWN])
    more = f"; and {len(errors) - SHOWN} more" if len(errors) > SHOWN else ""
    made: CleanupErrorGroup = CleanupErrorGroup(f"{shown}{more}", members)
    return made
