"""An interrupt at every point at which CPython may run a signal handler, and signals that really come.

After a call has returned and before its result is stored, on entering a function, on jumping back: only there
CPython looks for signals, so what an interrupt of `each_interrupt` breaks a real Ctrl-C would break.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import gc
import inspect
import itertools
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any, Generic, TypeVar

import attrs

from lifecycle.testing import transitions
from lifecycle.testing.lines import EveryLine
from lifecycle.testing.where import Chooses, library, place_of

T = TypeVar("T")


class Interrupt(KeyboardInterrupt):
    """What our signal handlers raise: a Ctrl-C that can be told from the user's."""


@functools.cache
def _opcodes(code: CodeType) -> dict[int, tuple[str, int]]:
    """By offset: the instruction's name, and the offset of the one that follows it in the code. Where an
    argument begins that is too large for one instruction, those of the instruction that has it: up to 3.10
    only that offset is traced."""
    instructions = list(dis.get_instructions(code))
    following = [instruction.offset for instruction in instructions[1:]] + [-1]
    found = {one.offset: (one.opname, after) for one, after in zip(instructions, following, strict=True)}
    for one in reversed(instructions):
        if one.opcode == dis.EXTENDED_ARG:
            found[one.offset] = found[found[one.offset][1]]
    return found


NOT_BEFORE = frozenset({"SETUP_FINALLY", "SETUP_WITH", "BEFORE_ASYNC_WITH", "YIELD_FROM"})
"""CPython 3.10 looks for signals before any instruction but these, once a call has asked it to look."""
JUMPS_LOOK = sys.version_info < (3, 11)
"""Up to 3.10 nearly every jump that is taken looks for signals, from 3.11 on only those that go back."""
HANDLERS_LOOK = JUMPS_LOOK
"""Up to 3.10 an exception lets signals in on entering the block that handles it. Not counted: that of an
interrupt, since nothing guards against a second on its way there, and the end of an iterator, which mostly is
handled by no block."""
WITHOUT_A_LOOK = frozenset({"JUMP_FORWARD", "JUMP_IF_NOT_EXC_MATCH"})
"""The jumps of 3.10 that do not."""
TRACING_COPIES_LOCALS = sys.version_info < (3, 11)
"""Up to 3.10 a frame that is traced keeps a copy of its locals, as of the last moment at which it was traced.
"""


@functools.cache
def _handlers(code: CodeType) -> dict[int, int]:
    """By offset: where an exception that this instruction raises is handled; not there: in no place of this
    code."""
    # 3.11 and later; before, handlers are known by the blocks alone.
    parse = getattr(dis, "_parse_exception_table", None)
    found: dict[int, int] = {}
    if parse is not None:
        for entry in parse(code):
            for offset in _opcodes(code):
                if entry.start <= offset < entry.end:
                    found.setdefault(offset, entry.target)
    return found


def _same_handler(code: CodeType, last: int, here: int) -> bool:
    """Return True if an interrupt that a call at `last` lets in goes to the handler to which one goes that is
    raised at `here`, which is all that can be done from outside. Where it does not, as behind the last call
    of a ``try`` block, nothing strikes: what the handler there does is tried at the points before."""
    if not _opcodes(code).get(last, ("", -1))[0].startswith("CALL"):
        return True
    handlers = _handlers(code)
    return handlers.get(last) == handlers.get(here)


def _may_interrupt(code: dict[int, tuple[str, int]], last: int, here: int) -> bool:
    """Return True if CPython runs signal handlers between the instructions at `last` (-1: none yet) and
    `here`."""
    now, _ = code.get(here, ("", -1))
    before, following = code.get(last, ("", -1))
    if JUMPS_LOOK and now in NOT_BEFORE:
        return False
    if last < 0:  # on entering a function or going on in a generator; from 3.11 on it is RESUME that looks
        # So not where something is thrown into a generator.
        return JUMPS_LOOK or ("RESUME", here) in code.values()
    if "JUMP" in before and here != following:
        return here < last or (JUMPS_LOOK and before not in WITHOUT_A_LOOK)
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
    """What the call returned, None if it raised."""
    error: BaseException | None
    """The `Interrupt`, or whatever else came out."""
    on_entry: bool = False
    """It struck a function before its first statement: that frame keeps its arguments as long as the
    traceback is kept, and nothing that the function could do would change it."""


BREATH = 2.0 if JUMPS_LOOK else 0.5
"""Of the time between two `Signals`, how much the thread must have worked since the last."""


def _enters_handler(frame: FrameType) -> bool:
    """Return True if `frame` is about to enter the ``except`` or ``finally`` block of an `Interrupt`.

    Up to 3.10 signals are looked for there. A second one that comes while the first is on its way to the
    block (a collection or a page fault in between is enough) takes the block away: nothing that could be
    written into it guards against that.
    """
    error = sys.exc_info()[1]
    if not JUMPS_LOOK or not isinstance(error, Interrupt):
        return False
    trace = error.__traceback__
    while trace is not None and trace.tb_frame is not frame:
        trace = trace.tb_next
    return trace is not None and trace.tb_lasti == frame.f_lasti


def _forget_copies(error: BaseException | None) -> None:
    """Looking at ``f_locals`` makes a frame's copy of its locals anew, so that a kept traceback keeps what
    its frames keep, no more."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        trace = error.__traceback__
        while trace is not None:
            frame = trace.tb_frame
            if frame.f_code.co_flags & inspect.CO_OPTIMIZED:
                _ = frame.f_locals
            trace = trace.tb_next
        error = error.__cause__ or error.__context__


SUSPENDED = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


class OpcodeTracing:
    """Asks for opcode events on one thread, before its trace function is set; ``end()`` takes that back.

    CPython 3.12 gives no opcode events unless some frame had asked for them before the trace function was
    set. And it calls a null pointer (`sys_trace_instruction_func`, seen in 3.12.1) where a frame that asks
    for them runs on a thread without a trace function, while another thread has one. So the first to ask is a
    frame that never runs, and nothing that goes on without the trace function still asks.
    """

    __slots__ = ("_suspended",)

    def __init__(self) -> None:
        self._suspended: list[FrameType] = []
        never_run: Any = (_ for _ in ())
        never_run.gi_frame.f_trace_opcodes = True

    def of(self, frame: FrameType, local: Callable[[FrameType, str, object], Any]) -> None:
        """Have `local` called before each instruction of `frame` instead of each line."""
        # 3.13 gives opcode events only if this is set before they are asked for.
        frame.f_trace = local
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if frame.f_code.co_flags & SUSPENDED:
            self._suspended.append(frame)

    def end(self, frame: FrameType | None = None) -> None:
        """Leave no frame that may go on with a request for events: no generator, and not `frame` and its
        callers."""
        while frame is not None:
            if frame.f_trace_opcodes:
                frame.f_trace_opcodes = False
            frame = frame.f_back
        for frame in self._suspended:
            frame.f_trace_opcodes = False
        self._suspended.clear()


def run_interrupted(
    run: Callable[[], T],
    strike_at: int,
    *,
    of: Chooses = library,
    error: Callable[[str], BaseException] = Interrupt,
) -> Struck[T]:
    """Call ``run()`` and raise ``error(place)`` at the point number `strike_at` of the code that `of`
    chooses, on this thread."""
    passed = itertools.count(1)
    place = ""
    on_entry = False

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        if not of(frame.f_code):
            return None
        code = _opcodes(frame.f_code)
        last = -1
        raised = False

        def local(frame: FrameType, event: str, arg: Any) -> Any:
            nonlocal last, raised, place, on_entry
            if event == "exception":
                raised = HANDLERS_LOOK and not issubclass(arg[0], (KeyboardInterrupt, StopIteration))
            elif event == "opcode":
                here = frame.f_lasti
                struck = (
                    (raised or _may_interrupt(code, last, here))
                    and _same_handler(frame.f_code, last, here)
                    and next(passed) == strike_at
                )
                entering = last < 0 or code.get(last, ("", -1))[0] in (
                    "RESUME",
                    "COPY_FREE_VARS",
                    "MAKE_CELL",
                )
                last = here
                raised = False
                if struck:
                    on_entry = entering
                    place = f"{place_of(frame)} before {code[here][0]}"
                    # What a trace function raises removes it, and the handlers of these frames still run.
                    opcodes.end(frame)
                    raise error(place)
            return local

        opcodes.of(frame, local)
        return local

    outer = sys.gettrace()
    opcodes = OpcodeTracing()
    raised: BaseException | None = None
    result = None
    collects = gc.isenabled()
    gc.disable()  # so that the points are the same in every run
    try:
        sys.settrace(trace)
        result = run()
    except BaseException as out:
        raised = out
    finally:
        sys.settrace(outer)
        opcodes.end()
        if collects:
            gc.enable()
    if TRACING_COPIES_LOCALS:
        _forget_copies(raised)
    return Struck(place, result, raised, on_entry)


def each_interrupt(
    run: Callable[[], T],
    *,
    first: int = 1,
    step: int = 1,
    of: Chooses = library,
    error: Callable[[str], BaseException] = Interrupt,
) -> Iterator[Struck[T]]:
    """Call ``run()`` again and again, interrupted at the first point, the second, … until it goes through
    without; that last run is not among what this yields, unless nothing else is.

    The caller checks after each run, and resets what has to be reset. Points lie in the code that `of`
    chooses, on this thread alone; what is raised there is ``error(place)``, such as `MemoryError`. The
    collector is off while `run` runs.
    """
    for strike_at in itertools.count(first, step):
        struck = run_interrupted(run, strike_at, of=of, error=error)
        if struck.place or strike_at == first:
            yield struck
        if not struck.place:
            if struck.error is not None:
                raise struck.error
            return


@contextlib.contextmanager
def every_point(action: Callable[[], object], *, of: Chooses = library) -> Iterator[EveryLine]:
    """Within the block, run ``action()`` at every point at which CPython may run a signal handler, and change
    threads, in the code that `of` chooses, on this thread. What the action itself calls is not traced, so it
    may call the library. An exception of the action leaves the point it was run at.

    As `every_line`, but true to the interpreter: between two stores with no call in between nothing can come,
    and nothing does.
    """
    struck = EveryLine()

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        if not of(frame.f_code):
            return None
        code = _opcodes(frame.f_code)
        last = -1

        def local(frame: FrameType, event: str, arg: object) -> Any:
            nonlocal last
            if event == "opcode":
                here = frame.f_lasti
                may = _may_interrupt(code, last, here) and _same_handler(frame.f_code, last, here)
                last = here
                if may:
                    struck.passed += 1
                    struck.strikes += 1
                    struck.places.add(place_of(frame))
                    action()
            return local

        frame.f_trace = local
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return local

    before = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # as `run_interrupted`
    sys.settrace(trace)
    try:
        yield struck
    finally:
        sys.settrace(before)


class Signals:
    """A real signal, `hertz` times a second, whose handler raises `Interrupt` on the main thread. Where that
    thread is kept from running, the signals wait for it: half the time between two of them it has worked, on
    a loaded machine too.

    It raises only in code that `run` was given: `run` returns False when its function was interrupted. It
    does not raise at the very entry of a block that handles the interrupt before, as 3.10 would let it. With
    `of` it raises only where that chooses the innermost Python frame's code: with `library` never inside a
    release or a callback of the test's.
    """

    def __init__(self, hertz: float = 10_000, *, of: Chooses | None = None) -> None:
        self.hertz = hertz
        self._of = of
        self.raised: int = 0
        self._last = 0.0
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
        if target is None or frame is None or (self._of is not None and not self._of(frame.f_code)):
            return
        outer: FrameType | None = frame
        while outer is not None:
            if outer.f_code in transitions.codes:
                return  # what is checked in there is a store, and nothing strikes in the middle of one
            if outer.f_code is target:
                now = time.thread_time()
                if now - self._last < BREATH / self.hertz or _enters_handler(frame):
                    return
                self._last = now
                self.raised += 1
                raise Interrupt("by the timer")
            outer = outer.f_back

    def run(self, function: Callable[[], object]) -> bool:
        """Call `function`, a Python function; False when an interrupt ended it."""
        try:
            self._target = function.__code__
            function()
        except Interrupt:
            return False
        finally:
            self._target = None
        return True
