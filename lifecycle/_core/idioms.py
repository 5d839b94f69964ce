"""The idioms that survive an interrupt at any bytecode, named. Elsewhere in the core a comment names one by
its letter (`K3`) and says nothing more.

CPython looks for signals after a call returns, on entering a Python function and on a backward jump. 3.10
does so at most other jumps that are taken as well, and on entering a block that handles an exception. None
does so between a load, a `FOR_ITER` or a store and the store that follows. K1, K2, K4 and K6 stand on that.

- **K1, claim.** ``claims.setdefault(key, me) is me`` decides who does it. After an interrupt the handler asks
  whether the entry is its own. ``claims.pop(key)`` would lose the answer between its return and the store.
- **K2, taking.** ``for x in taking(queue.popleft): break`` takes and stores in one step. On an exception the
  element goes back by one call of C.
- **K3, forgets.** A frame that leaves by an exception keeps no pin: a traceback that is kept (by a logger, a
  test runner, ``sys.last_traceback``) keeps the frame, the frame would keep the pin, and the object would
  never be released. ``pin = None`` in a ``finally``, or the decorator `forgets`.
- **K4, no call between two stores.** A record is filled first and entered by one store, so there is never a
  ticket without facts.
- **K5, the record is the ticket.** A subclass of `weakref.ref` whose callback is a method of C puts it into
  the mailbox: no Python code runs between the death of an object and its ticket.
- **K6, insist.** What may be repeated is repeated through interrupts, called from nested handlers, where
  nothing looks for signals in between. What cannot even be called is left to the maintenance thread by one
  store into `Registry.later`.
- **K7, resumable steps.** What has happened is written on the record before the next call, and every step may
  be done twice.
"""

from __future__ import annotations

import dis
import functools
import itertools
import operator
import os
from collections.abc import Callable, Iterator
from types import FunctionType, MethodType, TracebackType
from typing import Any, Generic, TypeVar, cast

__all__ = ["Claim", "forgets", "taking"]

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class Claim(Generic[T]):
    """The right to do something once (K1). It belongs to whoever takes it first and is never given back.

    Callable on any thread and at any moment. ``me`` is any object that is the claimant's own: ``me =
    object()``, or what is to be done.
    """

    __slots__ = ("_by", "_entries")

    def __init__(self) -> None:
        self._entries: dict[None, T] = {}
        self._by = self._entries.setdefault

    def take(self, me: T) -> bool:
        """Return True if the claim is `me`'s from now on, or has been before. After an interrupt in here ask
        `held_by`."""
        return self._by(None, me) is me

    @property
    def holder(self) -> T | None:
        """Who has taken it; None while nobody has."""
        return self._entries.get(None)

    def held_by(self, me: T) -> bool:
        """Return True if `me` has taken it."""
        return self._entries.get(None) is me

    def __repr__(self) -> str:
        return f"<Claim: {'taken' if self._entries else 'free'}>"


def taking(pop: Callable[[], T]) -> Iterator[T]:
    """Iterate over what ``pop()`` returns, so that taking and storing are one step (K2).

    ``for x in taking(queue.popleft): …`` raises what `pop` raises when nothing is left (`IndexError`); a
    break ends it. `pop` must be a method written in C, and the loop the only user of the iterator.
    """
    # Not ``iter(pop, …)``, which compares each element with what it is to end at.
    return itertools.starmap(pop, itertools.repeat(()))


_LIBRARY = os.path.dirname(os.path.dirname(__file__)) + os.sep
OURS = (_LIBRARY,)
"""What the file names of the library begin with."""


def forgets(method: F) -> F:
    """Decorate a public function that handles pins: an exception that leaves it keeps none of them alive
    (K3).

    Of the exception's traceback the finished frames of this library and of the module of `method` are
    cleared; those of callbacks stay, so a debugger still shows the user's variables. Costs 0.1 µs a call.
    Generators and coroutines write ``pin = None`` in their own ``finally``. An interrupt in here leaves the
    pin to the traceback: its object is then released later, and not lost.
    """
    ours = (_LIBRARY, method.__code__.co_filename)

    @functools.wraps(method)
    def forgetting(*args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        except BaseException as error:
            args = kwargs = None  # type: ignore[assignment]
            clear_frames(error.__traceback__, ours)
            raise

    return cast("F", forgetting)


RESUME = dis.opmap.get("RESUME")
"""The instruction at which functions look for signals before anything of theirs runs. Up to 3.10 they do so
before their first."""


def struck_on_entry(error: BaseException, called: Any, obj: Any) -> bool:
    """Return True if the interrupt `error`, caught where ``called(obj)`` stands, struck before anything of
    that ran: CPython looks for signals on entering a function in Python."""
    while isinstance(called, functools.partial):
        called = called.func
    if isinstance(called, operator.methodcaller):
        called = getattr(type(obj), method_called_by(called), None)
    elif not isinstance(called, (FunctionType, MethodType)):
        called = getattr(type(called), "__call__", None)  # noqa: B004 - not whether there is one
    if isinstance(called, MethodType):
        called = called.__func__
    here = error.__traceback__
    step = here.tb_next if here is not None else None
    if step is None or not isinstance(called, FunctionType) or step.tb_frame.f_code is not called.__code__:
        return False
    if RESUME is None:
        return step.tb_lasti < 0
    code = called.__code__.co_code
    return step.tb_lasti <= next((at for at in range(0, len(code), 2) if code[at] == RESUME), -1)


def method_called_by(caller: operator.methodcaller) -> str:
    """The name that `caller` was made of."""
    reduced: Any = caller.__reduce__()
    made, given = reduced[:2]
    # Beside keywords it is reduced to a partial.
    return str(given[0] if made is operator.methodcaller else made.args[0])


def clear_frames(traceback: TracebackType | None, ours: tuple[str, ...]) -> None:
    """Clear the locals of the finished frames in `traceback` whose files begin with one of `ours`."""
    while traceback is not None:
        frame = traceback.tb_frame
        if frame.f_code.co_filename.startswith(ours):
            try:
                frame.clear()
            except RuntimeError:
                # It still runs: this wrapper, or one around it.
                pass
        traceback = traceback.tb_next
