"""Every error of this library, one class for each kind of answer.

All derive from `LifecycleError`, and each message names the object, its state and what to do about it. The
same facts are attributes of the error, as plain data. An error never loses anything: what a refused call was
given still belongs to whoever gave it, unless the message says otherwise.
"""

from __future__ import annotations

import builtins
import os
import queue
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lifecycle.states import ObjectState

__all__ = [
    "AccessError",
    "AccessPanicError",
    "AccessRefusedError",
    "BudgetError",
    "CallbackError",
    "CircularCloseError",
    "CleanupErrorGroup",
    "CleanupPanicError",
    "ClosedAccessError",
    "ClosedError",
    "ConfigError",
    "DuplicateError",
    "Empty",
    "EvictedError",
    "ExclusiveError",
    "FenceError",
    "ForeignHandleError",
    "HeldError",
    "Lagged",
    "LeaseEndedError",
    "LifecycleError",
    "LimitError",
    "NotLentError",
    "NotReleased",
    "OutOfMemoryError",
    "OwnershipError",
    "PoolError",
    "PoolExhaustedError",
    "PoolTimeoutError",
    "QueueLostError",
    "RegistrationError",
    "ReturnedTwiceError",
    "StaleUseError",
    "SubmittedError",
    "UnknownObjectError",
    "WrongContextError",
    "WrongThreadError",
]


def text_of(error: BaseException) -> str:
    """``Type: message`` of any exception, also of one whose ``__str__`` raises."""
    try:
        message = str(error)
    except BaseException as second:
        message = f"(its text cannot be had: {type(second).__name__})"
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def shown(value: object) -> str:
    """``repr(value)`` in one line, and not all of a long one. Also of what cannot say it: a message about bad
    input must not fail because of that input."""
    try:
        text = " ".join(repr(value).split("\n"))
        return text if len(text) < 160 else f"{text[:158]} …"
    except BaseException:
        return f"<{type(value).__name__}>"


def is_of(error: BaseException, types: tuple[type[BaseException], ...]) -> bool:
    """Return True if `error` is of one of `types`, as ``except`` decides it: by the classes alone.
    ``isinstance`` runs the ``__instancecheck__`` of a user's metaclass, which may raise."""
    return any(base is one for base in type(error).__mro__ for one in types)


def trace_of(error: BaseException) -> str:
    """The traceback of `error` as text."""
    try:
        return "".join(traceback.format_exception(type(error), error, error.__traceback__))
    except BaseException:
        return text_of(error)


def raised_at(error: BaseException) -> str:
    """Where `error` was raised, as `` in average(), app.py:44``; empty where that is not known."""
    trace = error.__traceback__
    if trace is None:
        return ""
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    name = getattr(code, "co_qualname", code.co_name)
    return f" in {name}(), {os.path.basename(code.co_filename)}:{trace.tb_lineno}"


class LifecycleError(Exception):
    """Base of everything this library raises on purpose.

    An error about an object has its facts as they were when it was raised. They are plain data: an error that
    is kept keeps nothing alive. Of an error that is about no object they are 0, None or empty.
    """

    id: int = 0
    """The object's id."""
    type_name: str = ""
    """The type's name, as registered."""
    name: str | None = None
    """The object's own name, if it was given one."""
    native: Any = None
    """The native name given at registration: numbers, texts, bytes and tuples of these as they are, of
    anything else its ``repr``."""
    state: ObjectState | None = None
    """Where in its life the object was."""
    cause: str = ""
    """What had shut it (a `Cause` as text), empty while it was valid."""
    at: float = 0.0
    """Unix time in seconds at which it came into that state."""
    closed_site: str = ""
    """Where it was closed, as ``file.py:31``, where that is known."""
    holders: tuple[Any, ...] = ()
    """Who held it, in words, where the error is about that."""


class ConfigError(LifecycleError, ValueError):
    """A configuration value is impossible; the message names the field and the values it takes."""


class RegistrationError(LifecycleError, ValueError):
    """`register`, `policy`, `factory` or `set_safe_finalizer` was given something it cannot take. The object
    was not taken."""


class DuplicateError(RegistrationError):
    """The native object already has an owner here: two releases of one native object is the bug this library
    is for. The facts are those of the owner."""


class LimitError(LifecycleError):
    """A limit of the type or factory (`max_live`, `max_bytes`, `limit`) is reached. The object was not
    taken."""


class BudgetError(LimitError):
    """A `MemoryManager` has no room for the object, which was not taken. `holders` tells of the largest that
    are in the way (of type `ObjectInfo`)."""

    def __init__(self, message: str, holders: tuple[Any, ...] = ()) -> None:
        super().__init__(message)
        self.holders = holders


class ClosedError(LifecycleError):
    """The manager (or another component) is closed."""


class AccessError(LifecycleError):
    """Base of the errors that an access can end in."""


class AccessRefusedError(AccessError):
    """The object is not valid for access: its door is shut. The message says since when, why and where it
    ended."""


class ClosedAccessError(AccessRefusedError, ClosedError):
    """The object is not valid for access because its manager is closed, or this is a forked child of its
    process."""


class UnknownObjectError(AccessError, LookupError):
    """No object of this manager has that id, or the handle belongs to another manager, or the record has
    expired."""


class ForeignHandleError(UnknownObjectError):
    """The handle or id belongs to another manager, which the message names."""


class AccessPanicError(AccessError):
    """Panic during object access: an exception that was not declared left `safe_access`; the object is now
    `INVALID`.

    The exception itself is ``__cause__``.
    """


class LeaseEndedError(AccessError):
    """A lease was used after its block ended."""


class CallbackError(LifecycleError, TypeError):
    """A callback is of a kind that cannot work here, such as a coroutine function, whose body would run after
    the lease."""


class HeldError(LifecycleError):
    """``close(held="refuse")``, `detach` or `exclusive` found other holders, which `holders` names. Nothing
    was changed, unless the message says otherwise."""

    def __init__(self, message: str, holders: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.holders = holders


class ExclusiveError(AccessError):
    """The object is in exclusive use, or would be, beside another access of this very thread. Nothing was
    changed."""


class OwnershipError(LifecycleError):
    """What was asked for takes an object that is not the handle's to give: it is borrowed or observed."""


class CircularCloseError(LifecycleError):
    """A release or cleanup would wait for its own end, in one step or in a circle of several. Nothing has
    changed."""


class WrongThreadError(LifecycleError):
    """A queue that belongs to one thread was drained on another."""


class WrongContextError(WrongThreadError):
    """A queue was drained, or a native named, where its names mean nothing or something else: another context
    is current, or none."""


class SubmittedError(LifecycleError):
    """A submission was used after its block, or its block was entered a second time."""


class Empty(LifecycleError, queue.Empty):
    """No frame came within the time that was given to `FrameReceiver.recv`."""


class Lagged(LifecycleError):
    """A receiver fell behind: `missed` frames were overwritten (or shut by their owner) before it came to
    them. The next call goes on with what is still there."""

    def __init__(self, message: str, missed: int = 0) -> None:
        super().__init__(message)
        self.missed = missed


class EvictedError(ClosedError):
    """A receiver was thrown out by its own policy (`EvictAfter`), because it fell behind too often."""


class FenceError(LifecycleError):
    """Not a fence, or one of another timeline, or one that cannot be made. Nothing was changed; the fence is
    still yours."""


class QueueLostError(LifecycleError):
    """The queue was lost, so its objects are orphaned, and what was asked for makes no sense for them any
    more."""


class NotReleased(LifecycleError):
    """Raised *by a release function* to say: nothing was released, call me again.

    The library retries with back-off, from 10 ms to a second, for as long as ``register(retry_for=)`` says,
    and at most ``max_finalizer_retries`` times where that is configured. It never does after any other
    exception (unless its type was given in ``retry_on=``) nor after a timeout: the first call may have
    released, or be releasing still.
    """


class CleanupPanicError(LifecycleError):
    """A cleanup raised something that is no `Exception` (as extensions written in Rust do), which is
    ``__cause__``: it stands in its place in a `CleanupErrorGroup`, which takes exceptions only."""


if sys.version_info >= (3, 11):
    _Group = builtins.ExceptionGroup
else:  # pragma: no cover - covered on 3.10

    class _Group(Exception):
        """What of the language's own `ExceptionGroup` (3.11) is needed to read one, sort one out and raise
        the rest."""

        _message: str
        _members: tuple[Exception, ...]

        def __new__(cls, message: str, exceptions: Sequence[Exception]) -> Any:
            """As there."""
            members = tuple(exceptions)
            if not members or not all(isinstance(member, Exception) for member in members):
                raise ValueError(f"{cls.__name__} takes one exception or more, not {exceptions!r}")
            self = super().__new__(cls, message, exceptions)
            self._message, self._members = message, members
            return self

        @property
        def message(self) -> str:
            """What happened, as given."""
            return self._message

        @property
        def exceptions(self) -> tuple[Exception, ...]:
            """The members, in their order."""
            return self._members

        def __str__(self) -> str:
            number = len(self._members)
            head = f"{self._message} ({number} sub-exception{'' if number == 1 else 's'})"
            traces = [trace_of(member).rstrip().replace("\n", "\n  | ") for member in self._members]
            rule = "\n  +---------------- "
            return "".join([head, *(f"{rule}{i}\n  | {trace}" for i, trace in enumerate(traces, 1))])

        def __repr__(self) -> str:
            return f"{type(self).__name__}({self._message!r}, {list(self._members)!r})"

        def derive(self, exceptions: Sequence[Exception]) -> Any:
            """A group of the same kind with other members."""
            return type(self)(self._message, exceptions)

        def split(self, condition: Any) -> tuple[Any, Any]:
            """The members that `condition` (exception types, or a function) holds for, and the others; None
            for none."""
            matches = condition if not isinstance(condition, (type, tuple)) else None
            sides: tuple[list[Exception], list[Exception]] = ([], [])
            for member in self._members:
                if isinstance(member, _Group):
                    for side, part in zip(sides, member.split(condition), strict=True):
                        side += [] if part is None else [part]
                    continue
                held = matches(member) if matches is not None else isinstance(member, condition)
                sides[0 if held else 1].append(member)
            return tuple(self._like(side) if side else None for side in sides)  # type: ignore[return-value]

        def subgroup(self, condition: Any) -> Any:
            """The first half of `split`."""
            return self.split(condition)[0]

        def _like(self, members: list[Exception]) -> Any:
            made = self.derive(members)
            made.__traceback__, made.__context__, made.__cause__ = (
                self.__traceback__,
                self.__context__,
                self.__cause__,
            )
            return made


class CleanupErrorGroup(LifecycleError, _Group):
    """What went wrong while a `CleanupStack` was unwound: every failure, in the order in which they happened,
    behind the exception that the block itself had raised, if it had.

    An `ExceptionGroup`, so that ``except*``, `split` and tracebacks work as for any. On Python 3.10, which
    has none, it has the same attributes and methods, and its text shows every member's traceback.
    """

    def derive(self, exceptions: Sequence[Exception]) -> Any:
        """A group of the same kind with other members; what `split` and `subgroup` make their halves with."""
        return CleanupErrorGroup(self.message, exceptions)


class PoolError(LifecycleError):
    """Base of the errors of pools. They change nothing: loans stay lent, and an object that was given back
    stays the caller's."""


class PoolExhaustedError(PoolError):
    """Everything that the pool may lend is lent. `holders` names the loans, longest first."""

    def __init__(self, message: str, holders: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.holders = holders


class PoolTimeoutError(PoolExhaustedError, TimeoutError):
    """Nothing came back to the pool within the timeout."""


class NotLentError(PoolError):
    """Something was given to a pool that never lent it; the message names the pool that did."""


class ReturnedTwiceError(PoolError):
    """A loan was given back that had been given back before."""


class OutOfMemoryError(LifecycleError, MemoryError):
    """The memory asked for is more than there is."""


class StaleUseError(PoolError):
    """A buffer was written to after it had come back. Reported, never raised: the code that did it has gone
    on."""
