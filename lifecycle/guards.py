"""Guards: clean-up as an object. What was begun is ended once, by the block, by a call, or as the last reference goes.

**The problem.** ``try/finally`` ends what one block began. What is begun here and ended elsewhere, or begun in a number that only
the program knows, needs an object, and the ones at hand forget: `contextlib.ExitStack` that is dropped drops its callbacks too,
and of several failures it raises the last and loses others (cpython#102201); an interrupt between ``__enter__`` and the note that
it has to be undone leaves it done.

**The idea.** An action lies in a list until it is run, and *taking it out is the claim*: pop, then run. So it runs once, on
whatever threads and however often it is asked for; what nobody ran, ``__del__`` runs, with a `ResourceWarning`.

**Guaranteed.** Each action runs at most once; and exactly once while the process lives, also when interrupts strike in here: one
that strikes in our own code while a stack unwinds is raised when the rest has run. An action that was begun and interrupted
counts as run. A forked child runs nothing of its parent's. Nothing runs inside the collector: a guard that dies there is run on
a thread of its own. No lock is taken, so every call may be made from anywhere.

**Relied on.** `list.pop` and `list.append` are indivisible. ``for x in iter(list.pop, …)`` takes and stores in one step, between
which CPython looks for no signal; a ``pop()`` whose result is stored by the next instruction would lose it there.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import FunctionType, TracebackType
from typing import Any, Literal, ParamSpec, TypeVar

from lifecycle import _world
from lifecycle.checks import DEFERRED_BODY, check_callback
from lifecycle.errors import CallbackError, CleanupErrorGroup, CleanupPanicError, LifecycleError, text_of
from lifecycle.places.releases import DEFERRED

T = TypeVar("T")
P = ParamSpec("P")
Exit = TypeVar("Exit", bound=Any)

WHEN = ("always", "error", "success")


_generation = 0
"""How many forks lie between this process and the one that imported us."""


class _Process:
    def forked(self) -> None:
        global _generation
        _generation += 1


_process = _Process()
_world.at_fork_in_child(_process.forked)

_getframe = sys._getframe


def _refuse_deferred(fn: object, result: Any) -> None:
    close = getattr(result, "close", None)
    if close is not None:
        close()
    raise CallbackError(
        f"the cleanup {fn!r} returned a {type(result).__name__}: nothing was cleaned up, since its body has not run; "
        "give a plain function"
    )


def _forgotten(
    source: object, run: Callable[[], object] | None, text: str, warn: Callable[..., None] = warnings.warn
) -> None:
    """A guard died with its action still in it: run that (apart, if this is the collector), and warn, whatever it raises.

    `warn` is bound here since at interpreter exit the modules may be empty already.
    """
    try:
        if run is not None and not (
            _world is not None and _world.collecting and _world.in_collector() and _world.run_apart(run)
        ):
            run()
    finally:
        run = None
        warn(text, ResourceWarning, stacklevel=3, source=source)


class CleanupGuard:
    """``fn()``, called once: at the end of ``with guard:``, by `close`, or, with a `ResourceWarning`, when the guard is dropped.

    Parameters
    ----------
    fn:
        A plain callable without arguments. It runs on the thread that ends the guard. What it raises comes out of the block or of
        `close`; where the guard was dropped it is printed, as for any ``__del__``.
    when:
        ``"always"``; ``"error"``: only if the block ends with an exception (undo what was half done); ``"success"``: only if it
        does not. A guard that was dropped has not been told how it went: the action for an error runs then, the one for success
        does not.

    Raises `RegistrationError` or `CallbackError` when `fn` cannot be called like that, `LifecycleError` for another `when`.
    All methods may be called on any thread and at any moment.
    """

    __slots__ = ("__weakref__", "_generation", "_site", "_slot", "_when")

    def __init__(
        self, fn: Callable[[], object], *, when: Literal["always", "error", "success"] = "always"
    ) -> None:
        if type(fn) is not FunctionType or fn.__code__.co_flags & DEFERRED_BODY:
            check_callback(fn, "cleanup")
        if when not in WHEN:
            raise LifecycleError(f"CleanupGuard(when=) takes one of {', '.join(WHEN)}, not {when!r}")
        self._when = when
        self._site = _world.site_of(_getframe(1))
        self._generation = _generation
        self._slot = [fn]

    @property
    def armed(self) -> bool:
        """Whether the action is still to come."""
        return bool(self._slot) and self._generation == _generation

    def close(self) -> bool:
        """Run the action now, whatever `when` says; False when it has been run or defused already."""
        return _run_slot(self._slot, self._generation)

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
            if not self.armed:
                return
        except AttributeError:  # it was refused when it was made
            return
        slot, generation = self._slot, self._generation
        runs = self._when != "success"
        _forgotten(
            self,
            (lambda: _run_slot(slot, generation)) if runs else None,
            f"a CleanupGuard{_made_at(self._site)} was dropped without `with` or close(): "
            + (
                "its cleanup ran only now"
                if runs
                else 'its action, meant for success, was not run (when="success")'
            ),
        )

    def __repr__(self) -> str:
        return (
            f"<CleanupGuard{_made_at(self._site)}: {'armed' if self.armed else 'done'}, when={self._when!r}>"
        )


def _run_slot(slot: list[Callable[[], object]], generation: int) -> bool:
    """Run the action in `slot`, if it is there still; True when it was this call that ran it."""
    if generation != _generation:
        slot.clear()  # it is the parent process's to run
    if not slot:
        return False
    fn = None
    try:
        for fn in iter(slot.pop, None):
            result = fn()
            if result is not None and type(result) in DEFERRED:
                _refuse_deferred(fn, result)
            return True
    except IndexError:
        if fn is not None:
            raise  # its own
    finally:
        fn = result = None
    return False


def _made_at(site: Any) -> str:
    try:
        return f" (made at {_world.describe_site(site)})"
    except Exception:  # the modules may be empty at interpreter exit
        return ""


class _Shared:
    """What the shares of one action have in common."""

    __slots__ = ("generation", "open", "site", "slot")

    def __init__(self, fn: Callable[[], object], site: Any) -> None:
        self.slot = [fn]
        self.open: dict[int, None] = {}
        self.generation = _generation
        self.site = site

    def leave(self, token: int) -> bool:
        """Take out a share; run the action if it was the last. True when it was this call that ran it."""
        self.open.pop(token, None)
        return not self.open and _run_slot(self.slot, self.generation)


class SharedCleanupGuard:
    """``fn()``, called once, when the last of several shares has gone: `share` gives another, ``with``, `close` or (with a
    `ResourceWarning`) dropping it gives one back.

    `fn` is a plain callable without arguments and runs on the thread that gives back the last share. All methods may be called on
    any thread and at any moment.
    """

    __slots__ = ("__weakref__", "_shared", "_token")

    def __init__(self, fn: Callable[[], object]) -> None:
        check_callback(fn, "cleanup")
        shared = _Shared(fn, _world.site_of(_getframe(1)))
        self._token = _world.next_id()
        shared.open[self._token] = None
        self._shared = shared

    @property
    def armed(self) -> bool:
        """Whether the action is still to come."""
        shared = self._shared
        return bool(shared.slot) and shared.generation == _generation

    @property
    def closed(self) -> bool:
        """Whether this share was given back."""
        return self._token not in self._shared.open

    def share(self) -> SharedCleanupGuard:
        """Another share. Raises `LifecycleError` when this one was given back, or the action was defused.

        The new share is announced before this one is looked at, so whoever gives back the last share has seen it, or this one
        sees that it came too late: the action cannot run with a share left open, nor be left to nobody.
        """
        shared = self._shared
        made = SharedCleanupGuard.__new__(SharedCleanupGuard)
        made._token = token = _world.next_id()
        made._shared = shared
        try:
            shared.open[token] = None
            if self._token in shared.open and self.armed:
                return made
            shared.leave(token)
            raise LifecycleError(
                f"{self!r} cannot be shared: this share was given back, or the action was run or defused; share it before that"
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
            if not self.armed or (self.closed and self._shared.open):
                return
        except AttributeError:  # it was refused when it was made
            return
        shared, token = self._shared, self._token  # which may be out already, if an interrupt came in between
        last = len(shared.open) <= 1
        _forgotten(
            self,
            lambda: shared.leave(token),
            f"a share of a SharedCleanupGuard{_made_at(shared.site)} was dropped without `with` or close()"
            + (": it was the last, and the cleanup ran only now" if last else ""),
        )

    def __repr__(self) -> str:
        shared = self._shared
        state = "done" if not self.armed else f"armed, {len(shared.open)} open"
        return f"<SharedCleanupGuard{_made_at(shared.site)}: {state}{', this one closed' if self.closed else ''}>"


class CleanupStack:
    """`contextlib.ExitStack` with its verbs, whose failures are all kept, which no interrupt makes forget, and which cannot be
    dropped in silence.

    What differs from `contextlib.ExitStack`:

    - If a cleanup fails, a `CleanupErrorGroup` is raised, also of one: all failures, behind the block's own exception. A Ctrl-C
      or `SystemExit`, of the block or of a cleanup, is raised itself when all have run, *from* the group of the others.
    - No interrupt falls between the entering of a context manager and the note that it has to be exited.
    - Dropped with cleanups left, it runs them and warns (`ResourceWarning`): to take them back, `defuse` it. (So ``pop_all()``
      whose result is dropped, with which an `ExitStack` is defused, runs them.)
    - In a forked child what the parent had put in is forgotten.

    Meant for one thread at a time, as that is. Still every call may be made on any thread and at any moment: unwound on two
    threads at once each cleanup runs once; one that is pushed too late for a `close` stays for the next, or for the stack's end.
    """

    __slots__ = ("__weakref__", "_entries", "_generation", "_site")

    def __init__(self) -> None:
        self._generation = _generation
        frame = _getframe(1)
        self._site = (frame.f_code, frame.f_lasti)
        self._entries: list[Any] = []

    # -- what is to be done ---------------------------------------------------------------------------------------------------

    def callback(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Callable[P, T]:
        """Have ``fn(*args, **kwargs)`` called; returns `fn`, so that it may decorate. It is not told of exceptions."""
        given: Any = fn
        if given.__code__.co_flags & DEFERRED_BODY if type(given) is FunctionType else not callable(given):
            check_callback(fn, "cleanup")
        if self._generation is not _generation:
            self._forget_inherited()
        self._entries.append((fn, args, kwargs))
        return fn

    def push(self, exit_: Exit) -> Exit:
        """Have ``exit_.__exit__`` called, or ``exit_(type, error, traceback)`` if it has none; returns `exit_`. If that returns
        something true, the exception so far is suppressed."""
        method = getattr(type(exit_), "__exit__", None)
        if self._generation is not _generation:
            self._forget_inherited()
        if method is not None:
            self._entries.append((method, exit_, None))
        else:
            check_callback(exit_, "push(exit)")
            self._entries.append((_call_exit, exit_, None))
        return exit_

    def enter_context(self, manager: AbstractContextManager[T]) -> T:
        """Enter `manager`, have it exited, and return what its ``__enter__`` gave. Raises `CallbackError` for what is not a
        context manager, and what ``__enter__`` raises, as if this had not been called."""
        cls: Any = type(manager)
        try:
            try:
                enter = cls.__enter__
                exit_ = cls.__exit__
            except AttributeError:
                raise _no_context(manager) from None
            if self._generation is not _generation:
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

    # -- what is not -----------------------------------------------------------------------------------------------------------

    def pop_all(self) -> CleanupStack:
        """Move everything to a new stack and return that."""
        made = type(self)()
        if self._generation is not _generation:
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
        self._generation = _generation

    def __len__(self) -> int:
        return len(self._entries) if self._generation == _generation else 0

    def __bool__(self) -> bool:
        return True

    # -- unwinding ---------------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Run everything now, the last first. Raises `CleanupErrorGroup` when something fails. The stack may be used again."""
        self.__exit__(None, None, None)

    def __enter__(self) -> CleanupStack:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, body: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Run everything; True when `body`, the block's exception, was suppressed by a context manager in here."""
        entries = self._entries
        story = entry = details = None
        try:
            while entries:
                try:
                    if self._generation is not _generation:
                        self._forget_inherited()
                    if body is not None and story is None:
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
                                        story = story or _Story(body)
                                        story.suppress()
                            else:
                                begun = True
                                result = fn(*args, **kwargs)
                                if result is not None and type(result) in DEFERRED:
                                    _refuse_deferred(fn, result)
                        except BaseException as error:
                            if not begun:
                                # An interrupt (3.10 looks for signals at every jump): it is still to be run.
                                entries.append(entry)
                            story = story or _Story(body)
                            details = story.add(error)
                        if not entries:
                            break
                except IndexError:  # another thread took the last
                    continue
                except BaseException as error:  # an interrupt in here: it is raised when the rest has run
                    story = story or _Story(body)
                    details = story.add(error)
            return story is not None and story.end()
        except BaseException:  # a kept traceback must keep nothing alive
            body = story = details = entry = entries = None  # type: ignore[assignment]
            fn = args = kwargs = result = suppressed = None
            raise

    def __del__(self) -> None:
        try:
            entries = self._entries
            if not entries or self._generation != _generation:
                return
        except AttributeError:
            return
        number = len(entries)
        if not number:
            return
        rest = CleanupStack()  # which may be unwound on another thread
        rest._site = self._site
        rest._entries[:] = entries
        del entries[:]
        _forgotten(
            self,
            rest.close,
            f"a CleanupStack{_made_at(self._site)} was dropped without `with` or close(): {number} cleanup(s) ran only now",
        )

    def __repr__(self) -> str:
        return f"<CleanupStack{_made_at(self._site)}: {len(self)} to run>"


def _no_context(manager: object) -> CallbackError:
    asynchronous = " but an asynchronous one" if hasattr(type(manager), "__aenter__") else ""
    return CallbackError(
        f"enter_context takes a context manager: {manager!r} is none{asynchronous}; callback(fn) takes a function"
    )


def _call_exit(fn: Callable[..., object], *details: object) -> object:
    return fn(*details)


Details = tuple[type[BaseException], BaseException, TracebackType | None]


class _Story:
    """What has gone wrong while a stack is unwound. Made when the first thing does."""

    __slots__ = ("_body", "_failed", "_group", "_suppressed")

    def __init__(self, body: BaseException | None) -> None:
        self._body = body
        self._failed: list[BaseException] = []
        self._suppressed = False
        self._group: CleanupErrorGroup | None = None

    def add(self, error: BaseException) -> Details | None:
        """A cleanup raised `error` (a context manager that raises what it was told has not failed): what to tell the next one."""
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


SHOWN = 3
"""How many failures the message of a group spells out."""
