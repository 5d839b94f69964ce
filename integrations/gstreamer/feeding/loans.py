"""Loans: memory that is lent to GStreamer, and the moment at which GStreamer drops it.

**The problem.** An array that is pushed without a copy must live until the last element has dropped its
buffer, which happens on any thread, at any time, perhaps while the interpreter ends. GStreamer tells by
calling a C function. A Python function in its place dies with the interpreter, and takes the process with it.

**The idea.** The C function adds one to a number, the loan's *slot*. Python looks at the slots now and then:
at each new loan (at a few), when somebody asks (at all), and every `PERIOD` seconds while anything is out, on
a thread that exists only then.

**What is relied on.** A loan's number is never used again, so whoever takes it out of the table has it alone,
without a lock. Slots are never freed. The table is never freed either, not even as the interpreter ends: what
is still out then is out for good.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from lifecycle.integrations.gstreamer._buffers import Owned, wrap_memory

__all__ = ["Loans", "give_back", "new_slot", "sweep"]

CHUNK: Final = 1024
"""Slots that are made at a time."""
LOOKED_AT: Final = 2
"""How many of the oldest loans a new one looks at."""
PERIOD: Final = 0.02
"""Seconds between two looks at all of them."""
IDLE_ROUNDS: Final = 100
"""After so many looks with nothing out the thread ends."""

_chunks: list[Any] = []
_free: deque[Any] = deque()
_next_number: Callable[[], int] = itertools.count(1).__next__


class _Loan(NamedTuple):
    slot: Any
    kept: Any
    owner: dict[int, Any]
    back: Callable[[Any], object] | None


_out: dict[int, _Loan] = {}
ctypes.pythonapi.Py_IncRef(ctypes.py_object(_out))


def new_slot() -> Any:
    """A number, 0 now, at an address that stays good for ever."""
    while True:
        try:
            return _free.popleft()
        except IndexError:
            chunk = (ctypes.c_int * CHUNK)()
            _chunks.append(chunk)
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(chunk))
            start = ctypes.addressof(chunk)
            _free.extend(
                ctypes.c_int.from_address(start + index * ctypes.sizeof(ctypes.c_int))
                for index in range(CHUNK)
            )


def give_back(slot: Any) -> None:
    """A slot to which GStreamer adds nothing any more, for the next loan that needs one."""
    slot.value = 0
    _free.append(slot)


class Loans:
    """What one party has lent to GStreamer. `info` by number of what is out now; look with `sweep` first."""

    __slots__ = ("info",)

    def __init__(self) -> None:
        self.info: dict[int, Any] = {}

    def lend(
        self,
        kept: Any,
        owned: Owned,
        flags: int,
        address: int,
        size: int,
        info: Any,
        back: Callable[[Any], object] | None = None,
    ) -> None:
        """Have `owned` hold a buffer over the `size` bytes at `address`, which `kept` keeps alive.

        ``back(kept)`` is called once the buffer is gone, on any thread; it must be quick and not fail.
        """
        sweep(LOOKED_AT)
        slot = new_slot()
        number = _next_number()
        try:
            self.info[number] = info
            _out[number] = _Loan(slot, kept, self.info, back)
            wrap_memory(owned, flags, address, size, ctypes.addressof(slot))
            _start()
        except BaseException:
            if owned.value is not None:
                owned.drop()  # its going tells the slot, and the next sweep finds it
            elif not slot.value and _out.pop(number, None) is not None:  # it never was
                give_back(slot)
            if number not in _out:
                self.info.pop(number, None)
            raise
        finally:
            kept = None

    def __len__(self) -> int:
        """How many are out now, exactly."""
        sweep()
        return len(self.info)


def sweep(most: int | None = None) -> None:
    """Take back what GStreamer has let go of: all of it, or what is among the `most` oldest loans."""
    while True:
        try:
            entries = list(_out.items() if most is None else itertools.islice(_out.items(), most))
            break
        except RuntimeError:  # another thread has changed it meanwhile
            continue
    loan = None
    try:
        for number, loan in entries:
            if not loan.slot.value:
                continue
            loan.owner.pop(number, None)  # first: interrupted after this, the next sweep finds the rest
            if _out.pop(number, None) is not None:
                give_back(loan.slot)
                if loan.back is not None:
                    loan.back(loan.kept)
    finally:
        loan = None
        entries.clear()


# -- the thread that looks while anything is out -------------------------------------------------------------

_watcher: threading.Thread | None = None


def _start() -> None:
    global _watcher
    watcher = _watcher
    if watcher is not None and watcher.is_alive():
        return
    thread = threading.Thread(target=_watch, name="gst-loans", daemon=True)
    _watcher = thread
    try:
        thread.start()
    except RuntimeError:
        _watcher = None  # the interpreter is ending: what is out stays out


def _watch() -> None:
    global _watcher
    idle = 0
    while True:
        time.sleep(PERIOD)
        if _watcher is not threading.current_thread():
            return  # another one has been started
        sweep()
        idle = 0 if _out else idle + 1
        if idle > IDLE_ROUNDS:
            _watcher = None
            if not _out:
                return
            _watcher = threading.current_thread()
