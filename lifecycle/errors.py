"""Every error of this library, one class for each kind of answer.

All derive from `LifecycleError`, and each message names the object, its state and what to do about it. An error never loses
anything: what a refused call was given still belongs to whoever gave it, unless the message says otherwise.
"""

from __future__ import annotations

import queue
import traceback


def text_of(error: BaseException) -> str:
    """``Type: message`` of any exception, also of one whose ``__str__`` raises."""
    try:
        message = str(error)
    except BaseException as second:
        message = f"(its text cannot be had: {type(second).__name__})"
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def trace_of(error: BaseException) -> str:
    """The traceback of `error` as text."""
    try:
        return "".join(traceback.format_exception(type(error), error, error.__traceback__))
    except BaseException:
        return text_of(error)


class LifecycleError(Exception):
    """Base of everything this library raises on purpose."""


class ConfigError(LifecycleError, ValueError):
    """A configuration value is impossible; the message names the field and the values it takes."""


class RegistrationError(LifecycleError, ValueError):
    """`register`, `policy`, `factory` or `set_safe_finalizer` was given something it cannot take. The object was not taken."""


class DuplicateError(RegistrationError):
    """The native object already has an owner here: two releases of one native object is the bug this library is for."""


class LimitError(LifecycleError):
    """A limit of the type or factory (`max_live`, `max_bytes`, `limit`) is reached. The object was not taken."""


class ClosedError(LifecycleError):
    """The manager (or another component) is closed."""


class AccessError(LifecycleError):
    """Base of the errors that an access can end in."""


class AccessRefusedError(AccessError):
    """The object is not valid for access: its door is shut. The message says since when, why and where it ended."""


class ClosedAccessError(AccessRefusedError, ClosedError):
    """The object is not valid for access because its manager is closed, or this is a forked child of its process."""


class UnknownObjectError(AccessError, LookupError):
    """No object of this manager has that id, or the handle belongs to another manager, or the record has expired."""


class ForeignHandleError(UnknownObjectError):
    """The handle or id belongs to another manager, which the message names."""


class AccessPanicError(AccessError):
    """Panic during object access: an exception nobody declared left `safe_access`; the object is now `INVALID`.

    The exception itself is ``__cause__``.
    """


class LeaseEndedError(AccessError):
    """A lease was used after its block ended."""


class CallbackError(LifecycleError, TypeError):
    """A callback is of a kind that cannot work here, such as a coroutine function, whose body would run after the lease."""


class HeldError(LifecycleError):
    """``close(held="refuse")`` or a transfer found other holders; the door is still open. `holders` names them."""

    def __init__(self, message: str, holders: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.holders = holders


class ExclusiveError(AccessError):
    """The object is in exclusive use, or would be, beside another access of this very thread. Nothing was changed."""


class WrongThreadError(LifecycleError):
    """A queue that belongs to one thread was drained on another."""


class Empty(LifecycleError, queue.Empty):
    """No frame came within the time that was given to `FrameReceiver.recv`."""


class Lagged(LifecycleError):
    """A receiver fell behind: `missed` frames were overwritten (or shut by their owner) before it came to them. The next call
    goes on with what is still there."""

    def __init__(self, message: str, missed: int = 0) -> None:
        super().__init__(message)
        self.missed = missed


class EvictedError(ClosedError):
    """A receiver was thrown out by its own policy (`EvictAfter`), because it fell behind too often."""


class NotReleased(LifecycleError):
    """Raised *by a release function* to say: nothing was released, call me again.

    The library retries up to ``max_finalizer_retries`` times, with back-off, and never after any other exception (unless its
    type was given in ``retry_on=``) nor after a timeout: the first call may have released, or be releasing still.
    """
