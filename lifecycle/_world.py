"""The one door to threads, time, fork, process exit and the collector.

Whatever waits, measures time, starts a thread, takes a lock, collects, or is called at fork and exit, takes that from here: so a
test can replace it in one place, and a reader can see what the library asks of the process. Elsewhere `threading` and `gc` are
only looked at (which threads there are, who refers to what); `_timed_queue` lies below this module, which gives it on.

**Collector context.** Code that runs inside a garbage collection (`__del__` of a cycle, weakref callbacks) must not wait for
anything. `gc.callbacks` tells: `collecting` holds the identity of the thread in which a collection runs, 0 when none does. An
interrupt inside that callback is printed and lost by CPython, and would leave the mark standing; `in_collector` therefore asks
for a young collection when it sees the mark of its own thread: inside a collection that does nothing, outside it sets the mark
right.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import gc
import importlib
import itertools
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterator
from queue import Empty, SimpleQueue
from types import CodeType, FrameType
from typing import Any, TypeVar

from lifecycle._timed_queue import TimedQueue

__all__ = ["Empty", "SimpleQueue", "TimedQueue"]

if sys.implementation.name != "cpython":  # pragma: no cover - needs another interpreter
    raise ImportError(
        f"lifecycle needs CPython: it stands on reference counts, which {sys.implementation.name} does not have; "
        "use explicit `with` blocks there"
    )


def _refuse_subinterpreter() -> None:
    """CPython has no public question for this before 3.14, so the private modules behind `concurrent.interpreters` are asked."""
    for name in ("_interpreters", "_xxsubinterpreters"):
        try:
            interpreters = importlib.import_module(name)
        except ImportError:
            continue
        if interpreters.get_current() != interpreters.get_main():
            raise ImportError(
                "lifecycle cannot run in a subinterpreter: releases, fork and exit are matters of the whole process; "
                "import it in the main interpreter"
            )
        return


_refuse_subinterpreter()

T = TypeVar("T")

monotonic = time.monotonic
wall_time = time.time
get_ident = threading.get_ident
Lock = threading.Lock
RLock = threading.RLock
Event = threading.Event
ThreadLocal = threading.local
sleep = time.sleep

free_threaded: bool = not getattr(sys, "_is_gil_enabled", lambda: True)()

next_id: Callable[[], int] = itertools.count(1).__next__
"""Object ids: one sequence for the whole process, so an id names its object for ever and in every manager."""


class Tally:
    """A count that any thread may raise by one, in any context, and none is lost: the step is one call into C."""

    __slots__ = ("_count", "add")

    def __init__(self) -> None:
        self._count = itertools.count()
        self.add = self._count.__next__

    def __int__(self) -> int:
        return int(repr(self._count)[6:-1])  # "count(7)": the only way to look at it that moves nothing

    def __repr__(self) -> str:
        return f"<Tally {int(self)}>"


collecting: int = 0
"""The thread on which a collection runs, 0 when none does."""
collections: int = 0
"""How many have begun: while threads wait for the interpreter one may end and the next begin between two of their looks."""
waited_for: int = 0
no_wait_threads: set[int] = set()


def _on_collection(phase: str, info: dict[str, Any]) -> None:
    global collecting, collections
    if phase == "start":
        collections += 1
        collecting = get_ident()
    else:
        collecting = 0


gc.callbacks.append(_on_collection)


def in_collector() -> bool:
    """Whether this thread is inside a garbage collection right now."""
    if collecting != get_ident():
        return False
    gc.collect(0)
    return collecting == get_ident()


def collect(generation: int = 2) -> None:
    """Run a collection of `generation` and the younger ones; by default a full one."""
    gc.collect(generation)


collector_enabled: Callable[[], bool] = gc.isenabled


def must_not_wait() -> bool:
    """Whether this thread may not block: it is in collector context, or was marked (a streaming thread, an audio callback)."""
    return (collecting != 0 and in_collector()) or (bool(no_wait_threads) and get_ident() in no_wait_threads)


def on_main_thread() -> bool:
    """Whether this is the thread that signal handlers run on."""
    return get_ident() == threading.main_thread().ident


def snapshot(container: Collection[T]) -> list[T]:
    """``list(container)`` of a container that others change meanwhile: without the GIL, or when the list's own allocation
    starts a collection whose callbacks change it, iterating may fail, and is tried again."""
    while True:
        try:
            return list(container)
        except RuntimeError:
            sleep(0)


COLLECTION_WAIT = 10.0
"""Seconds for which a drain holds back while another thread collects (a second net for resurrected cycles). Bounded, since a
``__del__`` may wait for that very drain; long, since a collection on a loaded machine takes many times what it takes alone, and
who goes on too early unmaps what it still reads."""

LONGEST_LOOK = 0.005
"""Seconds between two looks of who holds back, after the first: many who look often keep the collecting thread from running."""


def await_collection() -> None:
    """Hold back until the collection that runs on another thread is over, at most `COLLECTION_WAIT` seconds, and once for each
    collection: one of its ``__del__`` may take its time, or wait for us."""
    global waited_for
    number = collections
    if collecting in (0, get_ident()) or number == waited_for:
        return
    gc.collect(
        0
    )  # while that collection runs it does nothing; a mark whose end an interrupt swallowed is gone after it
    until = monotonic() + COLLECTION_WAIT
    look = 0.0002
    while collecting and collections == number:
        if monotonic() > until:
            waited_for = number
            break
        sleep(look)
        look = min(2 * look, LONGEST_LOOK)


@contextlib.contextmanager
def never_wait() -> Iterator[None]:
    """Mark this thread, for a block, as one on which closing only posts and never waits. Callable on any thread."""
    ident = get_ident()
    marked = no_wait_threads  # not looked up at the end, which may be that of the interpreter
    already = ident in marked
    marked.add(ident)
    try:
        yield
    finally:
        if not already:
            marked.discard(ident)


def new_thread(target: Callable[[], None], name: str) -> threading.Thread:
    """A daemon thread, not started yet: note it down first, then ``start()``, so that an interrupt in there leaves none unknown.
    ``start()`` raises `RuntimeError` where the interpreter no longer starts any."""
    return threading.Thread(target=target, name=name, daemon=True)


def thread_of(ident: int) -> threading.Thread | None:
    """The running thread with this identity, None where Python did not start it (it then cannot say whether it has ended)."""
    for thread in threading.enumerate():
        if thread.ident == ident and type(thread).__name__ != "_DummyThread":
            return thread
    return None


def has_ended(thread: threading.Thread) -> bool:
    """Whether `thread` runs no Python any more. The main thread, which says so before exit hooks run, never has.

    Up to 3.12 a Ctrl-C in ``thread.join()`` makes ``is_alive()`` of a thread that runs say False for good; the list of threads is
    kept by the threads themselves.
    """
    return (
        not thread.is_alive()
        and thread is not threading.main_thread()
        and thread not in threading.enumerate()
    )


def run_apart(target: Callable[[], object]) -> bool:
    """Call ``target()`` on a thread of its own; False where none can be started. Callable inside a collection, which may have
    begun in the middle of `threading`: no Python code and no lock of that module is on the way."""
    if sys.is_finalizing():
        return False
    try:
        _thread.start_new_thread(target, ())
    except RuntimeError:
        return False
    return True


Site = tuple[CodeType, int]
"""A place in a program, as cheap to take as can be: turned into ``file:line`` only when somebody reads it."""


def site_of(frame: FrameType | None) -> Site | None:
    """Where `frame` stands now."""
    return None if frame is None else (frame.f_code, frame.f_lasti)


_OURS = ("lifecycle.", "integrations.", "contextlib")


def caller(depth: int = 2) -> FrameType | None:
    """The nearest frame, from `depth` up, that is neither this library's own nor contextlib's."""
    try:
        frame: FrameType | None = sys._getframe(depth)
    except ValueError:
        return None
    while frame is not None and str(frame.f_globals.get("__name__", "")).startswith(_OURS):
        frame = frame.f_back
    return frame


def describe_site(site: Site | None) -> str:
    """``file.py:31``, or an empty string where nothing is known."""
    return "" if site is None else f"{os.path.basename(site[0].co_filename)}:{line_of(site)}"


def line_of(site: Site) -> int:
    """The number of its line."""
    code, lasti = site
    for start, end, number in code.co_lines():
        if start <= lasti < end and number is not None:
            return number
    return code.co_firstlineno


# -- fork -------------------------------------------------------------------------------------------------------------------

_Hook = weakref.WeakMethod[Callable[[], None]]
_before_fork: dict[int, tuple[_Hook, _Hook]] = {}
_next_hook: Callable[[], int] = itertools.count(
    1
).__next__  # not `next_id`: a program's first object is number 1
_fork_hooks: dict[int, _Hook] = {}
_process_locks: list[Any] = []


def at_fork_in_child(method: Callable[[], None]) -> None:
    """Call the bound `method` in every forked child, as long as its object lives."""
    for key, hook in snapshot(_fork_hooks.items()):
        if hook() is None:
            _fork_hooks.pop(key, None)
    _fork_hooks[_next_hook()] = weakref.WeakMethod(method)


def around_fork(before: Callable[[], None], after: Callable[[], None]) -> None:
    """Call the bound method `before` ahead of each fork, and `after` behind it in the parent, as long as their object lives."""
    for key, (one, _) in snapshot(_before_fork.items()):
        if one() is None:
            _before_fork.pop(key, None)
    _before_fork[_next_hook()] = (weakref.WeakMethod(before), weakref.WeakMethod(after))


def process_lock() -> Any:
    """A reentrant lock for the whole process: free in a forked child, where the thread that held it in the parent is not."""
    lock = RLock()
    _process_locks.append(lock)
    return lock


def _call_all(hooks: list[_Hook]) -> None:
    """Call what still lives; what one raises stops none of the others."""
    for hook in hooks:
        try:
            method = hook()
            if method is not None:
                method()
        except BaseException:
            sys.excepthook(*sys.exc_info())


def _ahead_of_fork() -> None:
    _call_all([before for before, _ in snapshot(_before_fork.values())])


def _behind_fork() -> None:
    _call_all([after for _, after in snapshot(_before_fork.values())])


def _after_fork_in_child() -> None:
    global collecting, _armed
    collecting = 0
    _armed = False
    no_wait_threads.clear()
    for lock in _process_locks:
        if not lock._is_owned():
            lock._at_fork_reinit()
    _call_all(list(_fork_hooks.values()))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_ahead_of_fork, after_in_parent=_behind_fork, after_in_child=_after_fork_in_child
    )


# -- exit -------------------------------------------------------------------------------------------------------------------

_exit_hooks: list[Callable[[], None]] = []
_armed = False  # in this process
_over = False
_ATTEMPTS = 3
"""How often the exit pass goes on after an interrupt that fell between two of its hooks."""
MULTIPROCESSING_PRIORITY = 100
"""Of our exit pass among the finalizers of a multiprocessing child: before the library's own, which are 15 and less."""


# Registers finalize's exit pass now, so that ours, later, runs earlier, and hooks that the program registers later still may make
# managers: `at_exit` enters those there.
weakref.finalize(_on_collection, int).detach()


def at_exit(function: Callable[[], None]) -> None:
    """Run `function` at the end of this process, the latest registered first, and before `weakref.finalize`'s own exit pass. A
    forked child calls `arm_exit` to have it run there too."""
    arm_exit()
    _exit_hooks.append(function)
    if _over:  # made by an exit hook that came after ours: what is still to come is finalize's pass
        weakref.finalize(_on_collection, _run_exit_hooks)


def not_at_exit(function: Callable[[], None]) -> None:
    """Take `function` back."""
    if function in _exit_hooks:
        _exit_hooks.remove(function)


def arm_exit() -> None:
    """See that the exit pass runs in this process, once.

    The children of `multiprocessing` end by `os._exit`. Some versions run `atexit` there but forget what was registered before
    the fork, others run none of it. Its own finalizers they all run, so that is where we are entered as well.
    """
    global _armed
    if _armed:
        return
    weakref.finalize(
        _on_collection, int
    ).detach()  # registers finalize's pass, so that ours, later, runs earlier
    atexit.register(_run_exit_hooks)
    util, process = sys.modules.get("multiprocessing.util"), sys.modules.get("multiprocessing.process")
    if util is not None and process is not None:
        util.register_after_fork(
            _run_exit_hooks, _arm_child
        )  # called when a child begins, of whatever start method
        if process.parent_process() is not None:
            _arm_child(_run_exit_hooks)
    _armed = True


def _arm_child(_: object) -> None:
    sys.modules["multiprocessing.util"].Finalize(None, _end_of_child, exitpriority=MULTIPROCESSING_PRIORITY)


def _end_of_child() -> None:
    """As the interpreter does at its exit: threads that are no daemons are waited for first."""
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.current_thread():
            thread.join()
    _run_exit_hooks()


def _run_exit_hooks() -> None:
    global _over
    for _ in range(_ATTEMPTS):
        try:
            _go_through_exit_hooks()
            break
        except BaseException:
            sys.excepthook(*sys.exc_info())
    _over = True


def _go_through_exit_hooks() -> None:
    while _exit_hooks:
        function = _exit_hooks[-1]
        try:
            function()
        except BaseException:  # an exit pass goes on whatever happens: the rest must be closed as well
            sys.excepthook(*sys.exc_info())
        finally:
            not_at_exit(function)


def others_run() -> bool:
    """Whether threads of the program, beside this one, run Python: at exit those are daemons."""
    me = threading.current_thread()
    return any(
        thread is not me
        and not thread.name.startswith("lifecycle-")
        and thread is not threading.main_thread()
        for thread in threading.enumerate()
    )
