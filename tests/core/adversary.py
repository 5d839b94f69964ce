"""Adversaries: what a process may do to a program at the worst moment, made to happen at every moment.

A storm finds a race by luck; these find it by going through the places one by one. All of them work on the code of `lifecycle`
and leave the code of tests and of the standard library alone.

- `every_line` runs an action (the collector, another call of the library) before every line of our own code.
- `each_interrupt` raises `Interrupt` at the first, the second, the third … point at which CPython may run a signal handler:
  after a call has returned and before its result is stored, on entering a function, on jumping back. Only there, so what it
  breaks a real Ctrl-C would break.
- `Signals` is that Ctrl-C: a real signal, thousands of times a second.
- `Standing` is a thread that stands still before a named line until it is let go: any interleaving, on demand.
- `switching` changes threads as often as the interpreter can.
- `NativeMemory` is memory that is really mapped and really unmapped, so that a use after release is a SIGSEGV and no opinion.
  What may crash runs `in_own_process`.
- `assert_nothing_left` says what has to be true of a manager when everything is over.
"""

from __future__ import annotations

import contextlib
import ctypes
import dis
import functools
import gc
import inspect
import itertools
import mmap
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType, FunctionType, MethodType, TracebackType
from typing import Any, Generic, TypeVar

import attrs

import lifecycle
from lifecycle import SafetyManager
from lifecycle.states import ENDED
from tests.support import eventually, run_python

T = TypeVar("T")

OURS = str(Path(lifecycle.__file__).parent) + os.sep
STORM = float(os.environ.get("LIFECYCLE_STORM", "1"))
"""By how much the storms are larger than they have to be."""


def ours(code: CodeType) -> bool:
    """Whether `code` belongs to the library."""
    return code.co_filename.startswith(OURS)


def place_of(frame: FrameType) -> str:
    """``handle.py:209 _give_back``, for messages."""
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno} {frame.f_code.co_name}"


# -- at every line ----------------------------------------------------------------------------------------------------------


class EveryLine:
    """What `every_line` gives: how often it struck, and where."""

    def __init__(self) -> None:
        self.strikes = 0
        self.places: set[str] = set()


@contextlib.contextmanager
def every_line(action: Callable[[], object], *, threads: bool = False) -> Iterator[EveryLine]:
    """Within the block, run ``action()`` before every line of our own code on this thread (with `threads`, also on every thread
    that starts in the block). What the action itself calls is not traced, so it may call the library. An exception of the action
    leaves the line it was run at."""
    struck = EveryLine()

    def local(frame: FrameType, event: str, arg: object) -> Any:
        if event == "line":
            struck.strikes += 1
            struck.places.add(place_of(frame))
            action()
        return local

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        return local if ours(frame.f_code) else None

    before = sys.gettrace()
    if threads:
        threading.settrace(trace)
    sys.settrace(trace)
    try:
        yield struck
    finally:
        sys.settrace(before)
        if threads:
            threading.settrace(before)  # type: ignore[arg-type]


# -- at every point where a signal handler may run -----------------------------------------------------------------------------


class Interrupt(KeyboardInterrupt):
    """What our signal handlers raise: a Ctrl-C that can be told from the user's."""


@functools.cache
def _opcodes(code: CodeType) -> dict[int, tuple[str, int]]:
    """By offset: the instruction's name, and the offset of the one that follows it in the code."""
    instructions = list(dis.get_instructions(code))
    following = [instruction.offset for instruction in instructions[1:]] + [-1]
    return {one.offset: (one.opname, after) for one, after in zip(instructions, following, strict=True)}


NOT_BEFORE = frozenset({"SETUP_FINALLY", "SETUP_WITH", "BEFORE_ASYNC_WITH", "YIELD_FROM"})
"""CPython 3.10 looks for signals before any instruction but these, once a call has asked it to look."""
JUMPS_LOOK = sys.version_info < (3, 11)
"""Up to 3.10 every jump that is taken looks for signals, from 3.11 on only those that go back."""


TRACING_KEEPS_LOCALS = JUMPS_LOOK
"""Up to 3.10 a frame that is traced keeps a copy of its locals, which outlives them in a kept traceback."""


def _may_interrupt(code: dict[int, tuple[str, int]], last: int, here: int) -> bool:
    """Whether CPython runs signal handlers between the instructions at `last` (-1: none yet) and `here`."""
    now, _ = code.get(here, ("", -1))
    before, following = code.get(last, ("", -1))
    if JUMPS_LOOK and now in NOT_BEFORE:
        return False
    if last < 0:
        return now != "RESUME"  # on entering a function; from 3.11 on it is that instruction which looks
    if "JUMP" in before and here != following:
        return JUMPS_LOOK or here < last
    if here != following:
        return False  # the instruction raised: it goes on at the handler, without a look
    if before == "PRECALL":  # 3.11: a call in two instructions, of which the second may be skipped
        return now != "CALL"
    if before == "RESUME":
        return True
    return before.startswith("CALL") and not before.startswith("CALL_INTRINSIC")


@attrs.frozen
class Struck(Generic[T]):
    """One run of `each_interrupt`."""

    place: str
    """Where the interrupt struck, empty in the last run, which went through."""
    result: T | None
    error: BaseException | None
    """The `Interrupt`, or whatever else came out."""
    on_entry: bool = False
    """It struck a function before its first statement: that frame keeps its arguments as long as the traceback is kept, and
    nothing that the function could do would change it."""


def run_interrupted(run: Callable[[], T], strike_at: int) -> Struck[T]:
    """Call ``run()`` and raise `Interrupt` at the point number `strike_at` of our own code on this thread."""
    passed = itertools.count(1)
    place = ""
    on_entry = False

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        if not ours(frame.f_code):
            return None
        code = _opcodes(frame.f_code)
        last = -1

        def local(frame: FrameType, event: str, arg: object) -> Any:
            nonlocal last, place, on_entry
            if event == "opcode":
                here = frame.f_lasti
                struck = _may_interrupt(code, last, here) and next(passed) == strike_at
                entering = last < 0 or code.get(last, ("", -1))[0] in (
                    "RESUME",
                    "COPY_FREE_VARS",
                    "MAKE_CELL",
                )
                last = here
                if struck:
                    on_entry = entering
                    place = f"{place_of(frame)} before {code[here][0]}"
                    raise Interrupt(place)
            return local

        frame.f_trace = local  # 3.13 gives opcode events only if this is set before they are asked for
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return local

    outer = sys.gettrace()
    sys._getframe().f_trace_opcodes = (
        True  # 3.12 gives no opcode events unless some frame had asked for them before
    )
    error: BaseException | None = None
    result = None
    collects = gc.isenabled()
    gc.disable()  # so that the points are the same in every run
    try:
        sys.settrace(trace)
        result = run()
    except BaseException as raised:
        error = raised
    finally:
        sys.settrace(outer)
        if collects:
            gc.enable()
    if error is not None and TRACING_KEEPS_LOCALS:
        error.__traceback__ = None
    return Struck(place, result, error, on_entry)


def each_interrupt(run: Callable[[], T], *, first: int = 1, step: int = 1) -> Iterator[Struck[T]]:
    """Call ``run()`` again and again, interrupted at the first point, the second, … until it goes through without; that last run
    is not among what this yields, unless nothing else is.

    The caller checks after each run, and resets what has to be reset. Points lie in our own code on this thread alone.
    """
    for strike_at in itertools.count(first, step):
        struck = run_interrupted(run, strike_at)
        if struck.place or strike_at == first:
            yield struck
        if not struck.place:
            if struck.error is not None:
                raise struck.error
            return


class Signals:
    """A real signal, `hertz` times a second, whose handler raises `Interrupt` on the main thread.

    It raises only in code that `run` was given: `run` returns False when its function was interrupted. With `only_ours` it
    raises only where the innermost Python frame is the library's own, so never inside a release or a callback of the test's.
    """

    def __init__(self, hertz: float = 10_000, *, only_ours: bool = False) -> None:
        self.hertz = hertz
        self.only_ours = only_ours
        self.raised = 0
        self._target: CodeType | None = None
        self._before: Any = None

    def __enter__(self) -> Signals:
        self._before = signal.signal(signal.SIGALRM, self._handle)
        signal.setitimer(signal.ITIMER_REAL, 1 / self.hertz, 1 / self.hertz)
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._before)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        target = self._target
        if target is None or frame is None or (self.only_ours and not ours(frame.f_code)):
            return
        outer: FrameType | None = frame
        while outer is not None:
            if outer.f_code is target:
                self.raised += 1
                raise Interrupt("by the timer")
            outer = outer.f_back

    def run(self, function: Callable[[], object]) -> bool:
        """Call `function`, a Python function; False when an interrupt ended it."""
        try:
            self._target = function.__code__  # type: ignore[attr-defined]
            function()
        except Interrupt:
            return False
        finally:
            self._target = None
        return True


# -- one interleaving, on demand -----------------------------------------------------------------------------------------------


def line_of(function: Any, text: str) -> tuple[CodeType, int]:
    """The code of `function` and the number of its only line that contains `text`."""
    while isinstance(function, (MethodType, functools.partial, property)):
        function = getattr(function, "__func__", None) or getattr(function, "func", None) or function.fget  # type: ignore[union-attr]
    assert isinstance(function, FunctionType), f"not a Python function: {function!r}"
    lines, start = inspect.getsourcelines(function)
    found = [start + number for number, line in enumerate(lines) if text in line]
    assert len(found) == 1, f"{len(found)} lines of {function.__qualname__} contain {text!r}"
    return function.__code__, found[0]


class Standing(Generic[T]):
    """A thread that calls ``target()`` and stands still before a line of `function` – the only one that contains `line` – until
    the block ends or `go` is called. Entering the block waits until it stands there.

    `result` joins the thread and gives what `target` returned, or raises what it raised.
    """

    def __init__(self, target: Callable[[], T], function: Any, line: str, *, patience: float = 30.0) -> None:
        self._target = target
        self._code, self._line = line_of(function, line)
        self._patience = patience
        self._arrived = threading.Event()
        self._go = threading.Event()
        self._result: T | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        def local(frame: FrameType, event: str, arg: object) -> Any:
            if event == "line" and frame.f_lineno == self._line and not self._arrived.is_set():
                self._arrived.set()
                self._go.wait(self._patience)
            return local

        def trace(frame: FrameType, event: str, arg: object) -> Any:
            return local if frame.f_code is self._code else None

        sys.settrace(trace)
        try:
            self._result = self._target()
        except BaseException as error:
            self._error = error
        finally:
            sys.settrace(None)

    def __enter__(self) -> Standing[T]:
        self._thread.start()
        until = time.monotonic() + self._patience
        while not self._arrived.wait(0.002):
            assert self._thread.is_alive(), f"it ended without coming to line {self._line}: {self._error!r}"
            assert time.monotonic() < until, f"it never came to line {self._line}"
        return self

    def go(self) -> None:
        """Let it run on."""
        self._go.set()

    def result(self) -> T:
        """Let it run on to its end; what it returned or raised."""
        self._go.set()
        self._thread.join(self._patience)
        assert not self._thread.is_alive(), "it did not come to its end"
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._go.set()
        self._thread.join(self._patience)


# -- storms ----------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def switching(interval: float = 1e-6) -> Iterator[None]:
    """Change threads every `interval` seconds, as far as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(interval)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def at_once(*actions: Callable[[], object], patience: float = 60.0) -> None:
    """Call all `actions`, each on a thread of its own, from one moment on; raises what one of them raised, and fails, with every
    thread's stack on stderr, when they do not end."""
    start = threading.Barrier(len(actions))
    errors: deque[BaseException] = deque()

    def act(action: Callable[[], object]) -> None:
        try:
            start.wait(patience)
            action()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=act, args=(action,), daemon=True) for action in actions]
    for thread in threads:
        thread.start()
    eventually(lambda: not any(thread.is_alive() for thread in threads), timeout=patience, every=0.02)
    for error in errors:
        raise error


def in_own_process(
    function: Callable[..., object], *args: object, timeout: float = 90, options: tuple[str, ...] = ()
) -> str:
    """Call a module's function in a process of its own, and fail with all it said unless it ends well; its standard output. The
    arguments are passed by their repr, `options` to the interpreter."""
    call = f"{function.__name__}({', '.join(map(repr, args))})"
    return run_python(
        f"from {function.__module__} import {function.__name__}\n{call}\n", timeout=timeout, args=options
    ).check()


# -- memory that crashes -----------------------------------------------------------------------------------------------------------

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
PROT_NONE = 0
MAP_FIXED = 0x10
MAP_NORESERVE = 0x4000
GRAVES = 2000

_graves: deque[tuple[int, int]] = deque()
_unmapped_twice: deque[int] = deque()


def _map(address: int | None, nbytes: int, protection: int, flags: int) -> int:
    mapped = _libc.mmap(address, nbytes, protection, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | flags, -1, 0)
    if mapped in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), f"mmap of {nbytes} bytes")
    return int(mapped)


class NativeMemory:
    """`nbytes` of memory, each byte `fill`. `unmap` gives it back to the system; from then on every access is a SIGSEGV, since
    nothing else is mapped at its address until some two thousand others were unmapped."""

    __slots__ = ("__weakref__", "address", "fill", "nbytes", "unmapped")

    def __init__(self, nbytes: int = mmap.PAGESIZE, fill: int = 0x5A) -> None:
        self.nbytes = nbytes
        self.fill = fill
        self.unmapped = 0
        self.address = _map(None, nbytes, mmap.PROT_READ | mmap.PROT_WRITE, 0)
        ctypes.memset(self.address, fill, nbytes)

    def unmap(self) -> None:
        """Unmap it, once."""
        self.unmapped += 1
        if self.unmapped > 1:
            _unmapped_twice.append(self.address)
            raise AssertionError(f"memory at {self.address:#x} unmapped {self.unmapped} times")
        _map(
            self.address, self.nbytes, PROT_NONE, MAP_FIXED | MAP_NORESERVE
        )  # unmaps it and keeps the place empty
        _graves.append((self.address, self.nbytes))
        if len(_graves) > GRAVES:
            try:
                address, nbytes = _graves.popleft()
            except IndexError:
                return
            _libc.munmap(address, nbytes)

    def read(self) -> int:
        """The first byte, from the memory itself."""
        return int(ctypes.c_ubyte.from_address(self.address).value)


def unmapped_twice() -> int:
    """How many pieces of `NativeMemory` were unmapped more than once, in this process."""
    return len(_unmapped_twice)


# -- when everything is over ---------------------------------------------------------------------------------------------------------


def assert_adds_up(manager: SafetyManager) -> lifecycle.SafetyStats:
    """I7: what was registered is live or has ended, by type and in all; the figures it was seen by."""
    stats = manager.stats()
    for name, kind in stats.types.items():
        assert kind.registered == kind.live + sum(kind.ended.values()), name
        assert sum(kind.states.values()) == kind.live, (name, kind.states)
        assert sum(kind.closed.values()) >= sum(kind.ended.values()), name
    ends = (stats.released, stats.failed, stats.stuck, stats.detached, stats.orphaned)
    assert stats.total_objects == stats.active_objects + sum(ends)
    assert stats.total_objects == sum(kind.registered for kind in stats.types.values())
    return stats


def assert_nothing_left(manager: SafetyManager, *, timeout: float = 20.0) -> lifecycle.SafetyStats:
    """Nothing is live in `manager` any more, nor is anything left in its tables, nor in any mailbox."""
    registry = manager._registry
    tables = ("claims", "roots", "shared", "delayed", "waiters")

    def left() -> dict[str, object]:
        gc.collect()
        found: dict[str, object] = {name: table for name in tables if (table := getattr(registry, name))}
        waiting = [
            ticket for ticket in list(registry.waiting) if ticket is not None and ticket.phase not in ENDED
        ]
        if waiting:  # one whose object has ended by other means is a leftover that means nothing
            found["waiting"] = waiting
        if manager.stats().active_objects:
            found["live"] = manager.objects()
        return found

    until = time.monotonic() + timeout
    while (found := left()) and time.monotonic() < until:
        time.sleep(0.01)
    assert not found, f"left behind by {manager!r}: {found}"
    stats = assert_adds_up(manager)
    for kind in registry.kinds.values():
        assert not kind.alive, f"left in the budget of {kind.type_name}: {kind.alive}"
        assert not kind.count.shut, f"left as shut in the counts of {kind.type_name}: {kind.count.shut}"
        assert kind.count.invalid == 0
        assert kind.count.bytes == 0
    return stats
