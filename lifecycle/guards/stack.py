"""The stack: actions and context managers in a number that only the program knows."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import FunctionType, TracebackType
from typing import Any, ClassVar, ParamSpec, TypeVar

from lifecycle.errors import CallbackError
from lifecycle.guards.action import (
    DEFERRED,
    DEFERRED_BODY,
    forgotten,
    left,
    made_at,
    process,
    refuse_deferred,
    refuse_near_limit,
    run_apart,
    run_left,
)
from lifecycle.guards.errors import ErrorCollector
from lifecycle.lowlevel import Uncopied, check_callback

T = TypeVar("T")
P = ParamSpec("P")
Exit = TypeVar("Exit", bound=Any)

_getframe = sys._getframe


class CleanupStack(Uncopied):
    """`contextlib.ExitStack` with its verbs, whose failures are all kept, which no interrupt makes forget,
    and which cannot be dropped in silence.

    What differs from `contextlib.ExitStack`:

    - If a cleanup fails, a `CleanupErrorGroup` is raised, also of one: all failures, behind the block's own
      exception. A Ctrl-C or `SystemExit`, of the block or of a cleanup, is raised itself when all have run,
      *from* the group of the others.
    - No interrupt falls between the entering of a context manager and the note that it has to be exited.
    - Dropped with cleanups left, it runs them and warns (`ResourceWarning`): to take them back, `defuse` it.
      (So ``pop_all()`` whose result is dropped, with which an `ExitStack` is defused, runs them.)
    - In a forked child what the parent had put in is forgotten.

    Meant for one thread at a time, as that is. Still every call may be made on any thread and at any moment:
    unwound on two threads at once each cleanup runs once; one that is pushed too late for a `close` stays for
    the next, or for the stack's end.
    """

    _remedy = "use pop_all() to hand the cleanups over"

    __slots__ = ("__weakref__", "_entries", "_generation", "_site")
    _process: ClassVar[Any] = process

    def __init__(self) -> None:
        self._generation = process.generation
        try:
            frame = _getframe(1)
            self._site: Any = (frame.f_code, frame.f_lasti)
        except ValueError:
            # C called it, and no Python frame is below.
            self._site = None
        self._entries: list[Any] = []
        if left:
            run_left()

    # -- what is to be done ----------------------------------------------------------------------------------

    def callback(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Callable[P, T]:
        """Have ``fn(*args, **kwargs)`` called; returns `fn`, so that it may decorate. It is not told of
        exceptions."""
        given: Any = fn
        if given.__code__.co_flags & DEFERRED_BODY if type(given) is FunctionType else not callable(given):
            check_callback(fn, "cleanup")
        if self._generation is not process.generation:
            self._forget_inherited()
        self._entries.append((fn, args, kwargs))
        return fn

    def push(self, exit_: Exit) -> Exit:
        """Have ``exit_.__exit__`` called, or ``exit_(type, error, traceback)`` if it has none; returns
        `exit_`. If that returns something true, the exception so far is suppressed."""
        method = getattr(type(exit_), "__exit__", None)
        if self._generation is not process.generation:
            self._forget_inherited()
        if method is not None:
            self._entries.append((method, exit_, None))
        else:
            check_callback(exit_, "push(exit)")
            self._entries.append((_call_exit, exit_, None))
        return exit_

    def enter_context(self, manager: AbstractContextManager[T]) -> T:
        """Enter `manager`, have it exited, and return what its ``__enter__`` gave. Raises `CallbackError` for
        what is not a context manager, and what ``__enter__`` raises, as if this had not been called."""
        cls: Any = type(manager)
        try:
            try:
                enter = cls.__enter__
                exit_ = cls.__exit__
            except AttributeError:
                raise _no_context(manager) from None
            if self._generation is not process.generation:
                self._forget_inherited()
            result: T
            for result in map(
                enter, (manager,)
            ):  # entered and stored in one step, and no call until it is noted
                self._entries.append((exit_, manager, None))
                return result
            raise AssertionError
        except BaseException:
            manager = result = None  # type: ignore[assignment]  # a kept traceback must keep nothing alive
            raise

    # -- what is not -----------------------------------------------------------------------------------------

    def pop_all(self) -> CleanupStack:
        """Move everything to a new stack and return that."""
        made = type(self)()
        if self._generation is not process.generation:
            self._forget_inherited()
        entries = self._entries
        made._site = self._site
        made._entries[:] = entries  # no call from here to the next line, so no interrupt falls between
        del entries[:]
        return made

    def defuse(self) -> int:
        """Take everything back: nothing runs, no context manager is exited. Returns how many there were."""
        number = len(self)
        self._entries.clear()
        return number

    def _forget_inherited(self) -> None:
        """This is a forked child: what is in here belongs to the parent process."""
        self._entries.clear()
        self._generation = process.generation

    def __len__(self) -> int:
        return len(self._entries) if self._generation == process.generation else 0

    def __bool__(self) -> bool:
        return True

    # -- unwinding -------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Run everything now, the last first. Raises `CleanupErrorGroup` when something fails. The stack may
        be used again."""
        self.__exit__(None, None, None)

    def __enter__(self) -> CleanupStack:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, body: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Run everything; True when `body`, the block's exception, was suppressed by a context manager in
        here."""
        entries = self._entries
        collected = entry = details = None
        try:
            while entries:
                try:
                    if self._generation is not process.generation:
                        self._forget_inherited()
                    if body is not None and collected is None:
                        details = (type(body), body, body.__traceback__)
                    for entry in iter(entries.pop, None):
                        begun = False
                        fn, args, kwargs = entry
                        try:
                            if kwargs is None:
                                if details is None:
                                    begun = True
                                    fn(args, None, None, None)
                                else:
                                    begun = True
                                    suppressed = fn(args, *details)
                                    if suppressed:
                                        details = None
                                        collected = collected or ErrorCollector(body)
                                        collected.suppress()
                            else:
                                begun = True
                                result = fn(*args, **kwargs)
                                if result is not None and type(result) in DEFERRED:
                                    refuse_deferred(result, f"the cleanup {fn!r}")
                        except BaseException as error:
                            if not begun:
                                # An interrupt (3.10 looks for signals at every jump): it is still to be run.
                                entries.append(entry)
                            collected = collected or ErrorCollector(body)
                            details = collected.add(error)
                        if not entries:
                            break
                except IndexError:  # another thread took the last
                    continue
                except BaseException as error:  # an interrupt in here: it is raised when the rest has run
                    collected = collected or ErrorCollector(body)
                    details = collected.add(error)
            return collected is not None and collected.end()
        except BaseException:  # a kept traceback must keep nothing alive
            body = collected = details = entry = entries = None  # type: ignore[assignment]
            fn = args = kwargs = result = suppressed = None
            raise

    def __del__(self) -> None:
        entries: list[Any] = []
        try:
            entries = self._entries
            if process is None:
                # The interpreter is ending, and has emptied this module: its names cannot be used.
                self._unwind_bare()  # type: ignore[unreachable]
                return
            if not entries or self._generation != process.generation:
                return
            number = len(entries)
            refuse_near_limit()
            # It may be unwound on another thread.
            rest = CleanupStack()
            rest._site = self._site
            rest._entries[:] = entries
            del entries[:]
            entries = rest._entries
            forgotten(
                self,
                rest.close,
                f"a CleanupStack{made_at(self._site)} was dropped without `with` or close(): {number} "
                "cleanup(s) ran only now",
            )
        except AttributeError:
            return
        except RecursionError:
            # Not even a call may be possible here. What has begun is not in there any more.
            if entries:
                left[0:0] = [(_unwind, (entries, self._generation), "CleanupStack", self._site)]
                run_apart(run_left)
                return
            raise

    def _unwind_bare(self) -> None:
        """Run everything with builtins alone; the last failure is raised."""
        failed = None
        while self._entries and self._generation == self._process.generation:
            fn, args, kwargs = self._entries.pop()
            try:
                if kwargs is None:
                    fn(args, None, None, None)
                else:
                    fn(*args, **kwargs)
            except BaseException as error:
                failed = error
        if failed is not None:
            raise failed

    def __repr__(self) -> str:
        return f"<CleanupStack{made_at(self._site)}: {len(self)} to run>"


def _unwind(entries: list[Any], generation: int) -> None:
    """Run the cleanups of a stack that is gone."""
    rest = CleanupStack()
    rest._generation = generation
    rest._entries = entries
    rest.close()


def _no_context(manager: object) -> CallbackError:
    asynchronous = " but an asynchronous one" if hasattr(type(manager), "__aenter__") else ""
    return CallbackError(
        f"enter_context takes a context manager: {manager!r} is none{asynchronous}; callback(fn) takes a "
        "function"
    )


def _call_exit(fn: Callable[..., object], *details: object) -> object:
    return fn(*details)
