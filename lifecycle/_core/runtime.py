"""The one door to threads, time, fork, process exit and the collector.

Whatever waits, measures time, starts a thread, takes a lock, collects, or is called at fork and exit, takes
that from here: so a test can replace it in one place, and a reader can see what the library asks of the
process. Elsewhere `threading` and `gc` are only looked at (which threads there are, who refers to what);
`timed_queue` and `streams` lie below this module, which gives them on.

**Collector context.** Code that runs inside a garbage collection (`__del__` of a cycle, weakref callbacks)
must not wait for anything. `gc.callbacks` tells: `collecting` is true while a collection runs, and
`in_collector` is true on its thread.

The callbacks are made of C functions alone. CPython delivers signals when it enters a Python function, so a
pending Ctrl-C is raised in a callback written in Python, where it is printed and lost.
`functools.partial(setattr, x)` is called with the phase and the info of a collection: it sets the attribute
``start`` or ``stop`` of `x` to the info, a dictionary. CPython makes one dictionary for each phase and hands
the same one to every callback. Three objects are told, in this order:

* `_now`, so ``_now.start`` is the dictionary of the collection that began last;
* `_here`, a thread-local, so ``_here.start is _now.start`` on the thread of that collection only;
* `collecting`, a set whose ``start`` adds the keys of the dictionary and whose ``stop`` removes them, so it
  is empty at rest. It is told last: when it is true, the other two speak of this collection.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import functools
import gc
import importlib
import itertools
import operator
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterator
from queue import Empty, SimpleQueue
from types import CodeType, FrameType, FunctionType, SimpleNamespace
from typing import Any, TypeVar

from lifecycle._core.streams import complain, replace_spoilt, sparing
from lifecycle._core.timed_queue import TimedQueue

__all__ = ["Empty", "SimpleQueue", "TimedQueue", "complain", "sparing"]

if sys.implementation.name != "cpython":  # pragma: no cover - needs another interpreter
    raise ImportError(
        f"lifecycle needs CPython: it stands on reference counts, which {sys.implementation.name} does not "
        "have; use explicit `with` blocks there"
    )


def _refuse_subinterpreter() -> None:
    """CPython has no public question for this before 3.14, so the private modules behind
    `concurrent.interpreters` are asked."""
    for name in ("_interpreters", "_xxsubinterpreters"):
        try:
            interpreters = importlib.import_module(name)
        except ImportError:
            continue
        if interpreters.get_current() != interpreters.get_main():
            raise ImportError(
                "lifecycle cannot run in a subinterpreter: releases, fork and exit are matters of the whole "
                "process; import it in the main interpreter"
            )
        return


_refuse_subinterpreter()

T = TypeVar("T")

monotonic: Callable[[], float] = time.monotonic
wall_time: Callable[[], float] = time.time
get_ident = threading.get_ident
Lock = threading.Lock
RLock = threading.RLock
Event = threading.Event
ThreadLocal = threading.local
sleep = time.sleep
give_way: Callable[[], object] = getattr(os, "sched_yield", int)
"""Let another thread run that waits for the processor, or for the GIL; on systems without such a call nothing
is done."""

free_threaded: bool = not getattr(sys, "_is_gil_enabled", lambda: True)()

next_id: Callable[[], int] = itertools.count(1).__next__
"""Object ids: one sequence for the whole process, so an id names its object for ever and in every manager."""


class Tally:
    """A count that any thread may raise by one, in any context, and none is lost: the step is one call into
    C."""

    __slots__ = ("_count", "add")

    def __init__(self) -> None:
        self._count = itertools.count()
        self.add: Callable[[], int] = self._count.__next__

    def __int__(self) -> int:
        return int(repr(self._count)[6:-1])  # "count(7)": the only way to look at it that moves nothing

    def __repr__(self) -> str:
        return f"<Tally {int(self)}>"


class _Collecting(set[str]):
    """True while a collection runs. The setters are C functions: see the module."""

    __slots__ = ()
    start = property(None, set.update)
    stop = property(None, set.difference_update)


collecting = _Collecting()
"""True while a collection runs on any thread. Read only; one object for ever."""
_now = SimpleNamespace(start=None)
_here = threading.local()
waited_for: object = None
"""``_now.start`` of a collection that has lasted `COLLECTION_WAIT` seconds: nothing waits for it any more."""
_first_look: tuple[object, float] = (None, 0.0)
"""``_now.start`` of the collection that was waited for last, and since when (monotonic)."""
no_wait_threads: set[int] = set()

_callbacks = tuple(functools.partial(setattr, told) for told in (_now, _here, collecting))


def watch_collections() -> None:
    """See that the callbacks are in `gc.callbacks`. Called now and then, since a program may clear that list:
    the mark of a collection whose end was not told is taken away then."""
    if all(map(gc.callbacks.__contains__, _callbacks)):
        return
    for callback in _callbacks:
        with contextlib.suppress(ValueError):
            gc.callbacks.remove(callback)
    collecting.clear()
    gc.callbacks.extend(_callbacks)


watch_collections()


def in_collector() -> bool:
    """Return True if this thread is inside a garbage collection right now."""
    if not collecting or getattr(_here, "start", None) is not _now.start:
        return False
    _verify_mark()
    return bool(collecting) and _here.start is _now.start


def _verify_mark() -> None:
    """Take away the mark of a collection that is over: its end is not told where memory has run out or
    `gc.callbacks` was cleared. While a collection runs, `gc.collect` does nothing; otherwise it tells of one
    that begins and ends."""
    this = _now.start
    gc.collect(0)
    if _now.start is this:
        watch_collections()


def collect(generation: int = 2) -> None:
    """Run a collection of `generation` and the younger ones; by default a full one."""
    gc.collect(generation)


collector_enabled: Callable[[], bool] = gc.isenabled


def must_not_wait() -> bool:
    """Return True if this thread may not block: it is in collector context, or was marked (a streaming
    thread, an audio callback)."""
    return (bool(collecting) and in_collector()) or (bool(no_wait_threads) and get_ident() in no_wait_threads)


def on_main_thread() -> bool:
    """Return True if this is the thread that signal handlers run on."""
    return get_ident() == threading.main_thread().ident


def snapshot(container: Collection[T]) -> list[T]:
    """``list(container)`` of a container that others change meanwhile: without the GIL, or when the list's
    own allocation starts a collection whose callbacks change it, iterating may fail, and is tried again."""
    while True:
        try:
            return list(container)
        except RuntimeError:
            sleep(0)


_NOTHING = itertools.repeat(None)


def is_dead(reference: weakref.ref[Any]) -> bool:
    """Return True if the object of a weak reference is gone. Asked in C, so that the answer holds it for no
    bytecode: others count its references, and it must not die here."""
    return next(map(operator.is_, itertools.starmap(reference, ((),)), _NOTHING))


COLLECTION_WAIT = 10.0
"""Seconds for which a drain holds back while another thread collects (a second net for resurrected cycles,
I2). Bounded, since a ``__del__`` may wait for that very drain; long, since a collection on a loaded machine
takes many times what it takes alone, and a release that runs too early unmaps what is still read."""

BRIEF_WAIT = 0.003
"""Seconds for which `close` and `register` hold back at most, counted from the first look at a collection:
the release then follows when it is over, by the next of them, by a drain or by a worker."""

LONGEST_LOOK = 0.005
"""Seconds between two looks of a thread that holds back: many that look often keep the collecting thread from
running."""


def await_collection(patience: float = COLLECTION_WAIT) -> bool:
    """Hold back while a collection runs on another thread. False: it still runs, and no release may begin
    now.

    Waits `patience` seconds at most, and not at all on threads marked with `never_wait` unless they have
    patience. A collection that has lasted `COLLECTION_WAIT` seconds is waited for no longer: a ``__del__`` in
    it may wait for this thread.
    """
    global waited_for, _first_look
    this = _now.start
    if not collecting or this is waited_for or getattr(_here, "start", None) is this:
        return True
    _verify_mark()
    now = monotonic()
    seen, since = _first_look
    if seen is not this:
        _first_look = this, since = this, now
    until = now + patience
    if patience <= BRIEF_WAIT:
        until = 0.0 if get_ident() in no_wait_threads else since + patience
    look = 0.0002
    while collecting and _now.start is this:
        now = monotonic()
        if now > since + COLLECTION_WAIT:
            waited_for = this
            break
        if now > until:
            return False
        sleep(min(look, max(0.0, until - now)))
        look = min(2 * look, LONGEST_LOOK)
    return True


@contextlib.contextmanager
def never_wait() -> Iterator[None]:
    """Mark this thread, for a block, as one on which closing only posts and never waits. Callable on any
    thread."""
    ident = get_ident()
    marked = no_wait_threads  # not looked up at the end, which may be that of the interpreter
    already = ident in marked
    try:
        marked.add(ident)
        yield
    finally:
        if not already:
            marked.discard(ident)


START_PATIENCE = 10.0
"""Seconds that a thread may take to begin."""


class NotBegunError(RuntimeError):
    """A thread was started and has not begun within `START_PATIENCE` seconds."""


def new_thread(target: Callable[[], None], name: str) -> threading.Thread:
    """A daemon thread, not started yet: note it down first, then `begin` it, so that an interrupt in there
    leaves none unknown.

    It is not waited for without end. An exception that another thread raises in it
    (`PyThreadState_SetAsyncExc`, or one meant for a thread that has just ended and had its number) may end it
    before it says that it runs, and ``start()`` would wait for that for ever.
    """
    thread = threading.Thread(target=target, name=name, daemon=True)
    begun = thread._started  # type: ignore[attr-defined]  # what `Thread.start` waits for
    begun.wait = functools.partial(begun.wait, START_PATIENCE)
    return thread


def begin(thread: threading.Thread) -> None:
    """Start a `new_thread`. Raises `RuntimeError` where the interpreter no longer starts any, or
    `NotBegunError`."""
    thread.start()
    if thread.ident is None:
        raise NotBegunError(f"thread {thread.name!r} did not begin within {START_PATIENCE:g} s")


def running_threads() -> list[threading.Thread]:
    """``threading.enumerate()`` without the lock of `threading`.

    On CPython 3.14 a signal that strikes as a block takes that lock leaves it taken (cpython#148874). Each
    later `enumerate()` waits for ever then.
    """
    # In this order: a thread that begins goes from the first table to the second.
    starting = snapshot(threading._limbo.values())  # type: ignore[attr-defined]
    begun = snapshot(threading._active.values())  # type: ignore[attr-defined]
    return list(dict.fromkeys([*starting, *begun]))


def thread_of(ident: int) -> threading.Thread | None:
    """The running thread with this identity, None where Python did not start it (it then cannot say whether
    it has ended)."""
    for thread in running_threads():
        if thread.ident == ident and type(thread).__name__ != "_DummyThread":
            return thread
    return None


def thread_name(ident: int) -> str:
    """The name of the thread with this identity in quotes, or the identity when it is gone."""
    for thread in running_threads():
        if thread.ident == ident:
            return f'"{thread.name}"'
    return str(ident)


def has_ended(thread: threading.Thread) -> bool:
    """Return True if `thread` runs no Python any more. The main thread, which says so before exit hooks run,
    never has.

    Up to 3.12 a Ctrl-C in ``thread.join()`` makes ``is_alive()`` of a thread that runs say False for good;
    the list of threads is kept by the threads themselves.
    """
    return not thread.is_alive() and thread is not threading.main_thread() and thread not in running_threads()


def run_apart(target: Callable[[], object]) -> bool:
    """Call ``target()`` on a thread of its own; False where none can be started. Callable inside a
    collection, which may have begun in the middle of `threading`: no Python code and no lock of that module
    is on the way."""
    if sys.is_finalizing():
        return False
    try:
        _thread.start_new_thread(target, ())
    except RuntimeError:
        return False
    return True


Site = tuple[CodeType, int]
"""A place in a program, as cheap to take as can be: turned into ``file:line`` only when it is read."""


def site_of(frame: FrameType | None) -> Site | None:
    """Where `frame` stands now."""
    return None if frame is None else (frame.f_code, frame.f_lasti)


def _runners() -> tuple[str, ...]:
    """How the paths of pytest's own files and of its plugins' machinery begin, where it is installed beside
    this library: a fixture that closes an object is called by them."""
    found = []
    for folder in sys.path:
        for package in ("_pytest", "pluggy", "pytest"):
            path = os.path.join(folder, package)
            if folder and os.path.isdir(path):
                found.append(path + os.sep)
    return tuple(dict.fromkeys(found))


OURS = (
    os.path.dirname(os.path.dirname(in_collector.__code__.co_filename)) + os.sep,
    contextlib.contextmanager.__code__.co_filename,
    *_runners(),
    "<frozen ",
)
"""How the paths of files begin whose lines tell a user nothing: this library's, contextlib's, and those of
pytest, pluggy and the interpreter itself."""


def caller(depth: int = 2) -> FrameType | None:
    """The nearest frame, from `depth` up, whose code lies in none of `OURS`."""
    try:
        frame: FrameType | None = sys._getframe(depth)
    except ValueError:
        return None
    while frame is not None and frame.f_code.co_filename.startswith(OURS):
        frame = frame.f_back
    return frame


users_files: set[str] = set()
"""Files of which it is known that `OURS` does not have them: asked on the way of every close, as one look."""
our_files: set[str] = set()
"""Files of which it is known that it has them."""


def users_frame(frame: FrameType | None) -> FrameType | None:
    """The nearest frame from `frame` up whose code lies in none of `OURS`."""
    while frame is not None:
        file = frame.f_code.co_filename
        if file in users_files:  # mostly: quicker than to compare with each of `OURS` in vain
            break
        if file not in our_files:
            if not file.startswith(OURS):
                users_files.add(file)
                break
            our_files.add(file)
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


def copy_stays(frame: FrameType, above: FrameType | None) -> bool:
    """Return True if what ``frame.f_locals`` gives is to be left as it is. Up to CPython 3.12 it is a copy,
    which stays in the frame and keeps all of its variables alive: whoever asked empties it. To be called
    before it is asked for, so that nothing is called in between (an interrupt would leave it).

    `above` is the frame that `frame` has called. Where that is the call of a trace or profile function, the
    copy stays: CPython writes it back into the variables when that function returns, so an empty one would
    unbind them. At the frame's next event CPython makes the copy anew.
    """
    if sys.version_info >= (3, 13):
        return True
    if above is None:
        return False
    code = above.f_code
    for function in (
        frame.f_trace,
        sys.gettrace(),
        sys.getprofile(),
        threading.gettrace(),
        threading.getprofile(),
    ):
        if function is not None:
            if not isinstance(function, FunctionType):  # a method, or an object with one
                function = getattr(function, "__func__", vars(type(function)).get("__call__"))
            if getattr(function, "__code__", code) is code:
                return True
    return False


# -- the recursion limit -------------------------------------------------------------------------------------

ROOM = 24
"""Levels of recursion that must be left before a release is begun inside a call: what is needed here, and
some for the release itself."""


def _nested(levels: int) -> object:
    tower: object = ()
    for _ in range(levels):
        tower = (tower,)
    return tower


_TOWER = _nested(ROOM)
"""``isinstance`` of a tuple of tuples takes one level of C recursion for each, and calls nothing."""

STEPS: Any
"""What `cramped` is called with."""

if sys.version_info >= (3, 12):
    STEPS = 100
    cramped: Callable[[Any], object] = sys._getframemodulename
    """``cramped(STEPS)``: whether to ask `near_limit`. This is asked on the way of every close, so it is one
    call into C. From 3.12 on Python frames are counted apart from calls in C: it says whether there are a
    hundred of them."""

    def near_limit() -> bool:
        """Return True if fewer than `ROOM` levels of recursion are left here, so that what is begun may be
        cut short by that."""
        try:
            return sys._getframemodulename(max(1, sys.getrecursionlimit() - ROOM)) is not None or isinstance(
                None,
                _TOWER,  # type: ignore[arg-type]
            )
        except RecursionError:
            return True

else:
    STEPS = _TOWER
    cramped = functools.partial(isinstance, None)
    """``cramped(STEPS)`` raises `RecursionError` where fewer than `ROOM` levels are left, and is False
    elsewhere. This is asked on the way of every close, so it is one call into C. Up to 3.11 Python frames and
    calls in C are counted together."""

    def near_limit() -> bool:
        """Return True if fewer than `ROOM` levels of recursion are left here, so that what is begun may be
        cut short by that."""
        try:
            return isinstance(None, _TOWER)  # type: ignore[arg-type]
        except RecursionError:
            return True


def refuse_near_limit(what: str) -> None:
    """Raise `RecursionError` where `near_limit`: for calls that could be cut short in the middle, before they
    change anything."""
    try:
        if not cramped(STEPS) or not near_limit():
            return
    except RecursionError:
        pass
    raise RecursionError(
        f"{what}: fewer than {ROOM} levels of recursion are left here, so it could be cut short in the "
        "middle; nothing has changed. Call it where the stack is less deep, or raise "
        "sys.setrecursionlimit()"
    )


# -- fork ----------------------------------------------------------------------------------------------------

_Hook = weakref.WeakMethod[Callable[[], None]]
_before_fork: dict[int, tuple[_Hook, _Hook]] = {}
_next_hook: Callable[[], int] = itertools.count(
    1
).__next__  # not `next_id`: a program's first object is number 1
_fork_hooks: dict[int, _Hook] = {}
_process_locks: list[Any] = []
before_signal: list[Callable[[int], None]] = []
"""Called with a signal's number once managers are closed for it and it is about to end the process, which
runs no exit hook then. Raises nothing."""
first_in_child: list[Callable[[], None]] = []
"""Called in a forked child ahead of all other hooks: by what must not have the child write where the parent
does."""


_sweep_at = {"child": 64, "around": 64}
"""Hooks at which those of dead objects are looked for; twice as many as lived then. So a hook costs the same
with any number."""


def at_fork_in_child(method: Callable[[], None]) -> None:
    """Call the bound `method` in every forked child, as long as its object lives."""
    if len(_fork_hooks) >= _sweep_at["child"]:
        for key, hook in snapshot(_fork_hooks.items()):
            if hook() is None:
                _fork_hooks.pop(key, None)
        _sweep_at["child"] = 2 * len(_fork_hooks) + 64
    _fork_hooks[_next_hook()] = weakref.WeakMethod(method)


def around_fork(before: Callable[[], None], after: Callable[[], None]) -> None:
    """Call the bound method `before` ahead of each fork, and `after` behind it in the parent, as long as
    their object lives."""
    if len(_before_fork) >= _sweep_at["around"]:
        for key, (one, _) in snapshot(_before_fork.items()):
            if one() is None:
                _before_fork.pop(key, None)
        _sweep_at["around"] = 2 * len(_before_fork) + 64
    _before_fork[_next_hook()] = (weakref.WeakMethod(before), weakref.WeakMethod(after))


def process_lock() -> Any:
    """A reentrant lock for the whole process: free in a forked child, where the thread that held it in the
    parent is not."""
    lock = RLock()
    _process_locks.append(lock)
    return lock


def _call_all(hooks: list[_Hook]) -> None:
    """Call what still lives; what one raises stops none of the others. Ctrl-C in one of them is raised again
    where the program goes on: CPython would print it, and forget it."""
    interrupted = False
    for hook in hooks:
        try:
            method = hook()
            if method is not None:
                method()
        except KeyboardInterrupt:
            interrupted = True
        except BaseException:
            complain()
    if interrupted:
        _thread.interrupt_main()


_forked: set[int] = set()
"""Threads on which the first of the two entries before or behind a fork has come to its end."""


def _ahead_of_fork() -> None:
    _call_all([before for before, _ in snapshot(_before_fork.values())])
    _forked.add(get_ident())


def _behind_fork() -> None:
    _call_all([after for _, after in snapshot(_before_fork.values())])
    _forked.add(get_ident())


def _unless_done(work: Callable[[], None]) -> None:
    """A signal that is pending is raised before the first line of an entry, where CPython prints and forgets
    it: then this one, the second, does its work, and has the interrupt raised where the program goes on."""
    me = get_ident()
    if me not in _forked:
        work()
        if on_main_thread():
            _thread.interrupt_main()
    _forked.discard(me)


def _ahead_of_fork_again() -> None:
    _unless_done(_ahead_of_fork)


def _behind_fork_again() -> None:
    _unless_done(_behind_fork)


def _after_fork_in_child() -> None:
    global _armed
    for hook in first_in_child:
        hook()
    # The collecting thread may be one that the child does not have, and would never tell the end.
    collecting.clear()
    _forked.clear()
    _armed = False
    no_wait_threads.clear()
    for lock in _process_locks:
        if not lock._is_owned():
            lock._at_fork_reinit()
    _call_all(list(_fork_hooks.values()))


if hasattr(os, "register_at_fork"):
    # Those before a fork are called in the reverse order. In the child no signal is pending when they are
    # called.
    os.register_at_fork(before=_ahead_of_fork_again, after_in_parent=_behind_fork)
    os.register_at_fork(
        before=_ahead_of_fork, after_in_parent=_behind_fork_again, after_in_child=_after_fork_in_child
    )


# -- exit ----------------------------------------------------------------------------------------------------

_exit_hooks: list[Callable[[], None]] = []
_armed = False  # in this process
_over = False
exit_hook_runs = False
"""Set by an exit hook as its first act."""
_ATTEMPTS = 3
"""How often the exit pass goes on after an interrupt that fell between two of its hooks."""
_ENTRIES = 4
"""How often the exit pass is registered. A signal that is pending when it is entered raises before its first
line, and then the next entry runs it. CPython shows that interrupt as ignored in the exit hook; there is no
caller to raise it to."""
MULTIPROCESSING_PRIORITY = 100
"""Of our exit pass among the finalizers of a multiprocessing child: before the library's own, which are 15
and less."""


class _Anchor:
    """Lives as long as the process, for `weakref.finalize` to have something to watch."""


_anchor = _Anchor()


def at_exit(function: Callable[[], None]) -> None:
    """Run `function` at the end of this process, the latest registered first, and before `weakref.finalize`'s
    own exit pass. A forked child calls `arm_exit` to have it run there too.

    Its first statement sets `exit_hook_runs`: an interrupt before that does not count as a call of it.
    """
    arm_exit()
    _exit_hooks.append(function)
    if _over:  # made by an exit hook that came after ours: what is still to come is finalize's pass
        weakref.finalize(_anchor, _run_exit_hooks)


def not_at_exit(function: Callable[[], None]) -> None:
    """Take `function` back."""
    if function in _exit_hooks:
        _exit_hooks.remove(function)


def arm_exit() -> None:
    """See that the exit pass runs in this process, once.

    The children of `multiprocessing` end by `os._exit`. Some versions run `atexit` there but forget what was
    registered before the fork, others run none of it. Its own finalizers they all run, so that is where we
    are entered as well.
    """
    global _armed
    if _armed:
        return
    # Registers finalize's pass, so that ours, later, runs earlier.
    weakref.finalize(_anchor, int).detach()
    for _ in range(_ENTRIES):
        atexit.register(_run_exit_hooks)
    util, process = sys.modules.get("multiprocessing.util"), sys.modules.get("multiprocessing.process")
    if util is not None and process is not None:
        # Called when a child begins, of whatever start method.
        util.register_after_fork(_run_exit_hooks, _arm_child)
        if process.parent_process() is not None:
            _arm_child(_run_exit_hooks)
    _armed = True


def _arm_child(_: object) -> None:
    """The finalizers of a child end with the first interrupt among them. From 3.13 on `atexit` runs after
    them, up to 3.12 the exit functions of `threading` do."""
    sys.modules["multiprocessing.util"].Finalize(None, _end_of_child, exitpriority=MULTIPROCESSING_PRIORITY)
    register = getattr(threading, "_register_atexit", None)
    if register is not None and sys.version_info < (3, 13):
        register(_end_of_child)


def _end_of_child() -> None:
    """As the interpreter does at its exit: threads that are no daemons are waited for first."""
    for thread in running_threads():
        if not thread.daemon and thread is not threading.current_thread():
            thread.join()
    _run_exit_hooks()
    # `multiprocessing` flushes the streams next, and makes the child's status 1 where that fails.
    replace_spoilt()


def _run_exit_hooks() -> None:
    global _over
    for _ in range(_ATTEMPTS):
        try:
            _go_through_exit_hooks()
            break
        except BaseException:
            complain()
    _over = True
    # Now, so that what the program's own hooks cannot write behind this pass counts as it would without it.
    replace_spoilt()


def _go_through_exit_hooks() -> None:
    global exit_hook_runs
    interrupted = 0
    while _exit_hooks:
        function = _exit_hooks[-1]
        exit_hook_runs = False
        try:
            function()
        except BaseException as error:
            # An exit pass goes on whatever happens: the rest must be closed as well.
            interrupted += isinstance(error, KeyboardInterrupt)
            complain()
        finally:
            # One that a pending signal kept from its first line has its turn still.
            if exit_hook_runs or not 0 < interrupted < _ATTEMPTS:
                interrupted = 0
                not_at_exit(function)


# Runs behind every other exit hook, for what was left by a pass that an interrupt ended.
atexit.register(_run_exit_hooks)
# Registers finalize's exit pass now, so that ours, later, runs earlier, and hooks that the program registers
# later still may make managers: `at_exit` enters those there.
weakref.finalize(_anchor, int).detach()

last_at_exit: list[Callable[[], None]] = []
"""Called behind every other exit hook, whenever they were entered: for modules that are loaded late."""


def _run_last() -> None:
    for function in last_at_exit:
        try:
            function()
        except BaseException:
            complain()


atexit.register(_run_last)


def others_run() -> bool:
    """Return True if threads of the program, beside this one, run Python: at exit those are daemons."""
    me = threading.current_thread()
    return any(
        thread is not me
        and not thread.name.startswith("lifecycle-")
        and thread is not threading.main_thread()
        for thread in running_threads()
    )
