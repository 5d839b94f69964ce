"""Alternate signal stacks that lie in the file, so that the kernel itself writes the last entry.

**The problem.** faulthandler writes which line crashed, and no address. It raises the signal again, so not
even a core dump has it: that says «sent by raise».

**The idea.** Before any handler runs the kernel pushes the fault address and the registers onto the thread's
alternate signal stack. That may be any memory, also a shared mapping of a file. `Stacks.give` puts one of the
file's there for the calling thread. It needs a handler that runs on it, which faulthandler's does.

**Guaranteed.** Another party's alternate stack is left in its place, but for faulthandler's own, which the
recorder has just had made. A stack is given to another thread only when its thread is gone: that a thread
ends is told by an object of its own that dies then (K5), and the system is asked for that thread alone.

Linux on x86-64 and aarch64; elsewhere `available` is False.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys
import time
import weakref
from collections import deque
from typing import Any

from lifecycle.recorder.layout import STACK_SIZE, STACKS

MACHINES = frozenset({"x86_64", "aarch64"})
"""The machines whose frames the reader knows (`recorder/frames.py`)."""

_DISABLED = 2
"""``SS_DISABLE``."""
LOOK_AGAIN = 1.0
"""Seconds between two searches among all threads for those that have ended."""
ASKED = 2
"""For how many threads that seem to have ended a new one asks whether they have."""


class _Stack(ctypes.Structure):
    """``stack_t``."""

    _fields_ = (("ss_sp", ctypes.c_void_p), ("ss_flags", ctypes.c_int), ("ss_size", ctypes.c_size_t))


def _library() -> Any:
    """The C library, None where it has no alternate stacks that the reader knows."""
    if not sys.platform.startswith("linux") or platform.machine() not in MACHINES or sys.maxsize < 2**32:
        return None
    try:
        library = ctypes.CDLL(None, use_errno=True)
        library.sigaltstack.argtypes = (ctypes.POINTER(_Stack), ctypes.POINTER(_Stack))
        library.sigaltstack.restype = ctypes.c_int
    except (OSError, AttributeError):
        return None
    return library


_c = _library()
_tgkill = getattr(_c, "tgkill", None)
available: bool = _c is not None
"""True if this platform's frames are known."""


def has_ended(native: int) -> bool:
    """Return True if this process has no thread of that number any more."""
    # Signal 0 is sent to nobody. To look into /proc takes three to five times as long.
    if _tgkill is not None:
        if _tgkill(os.getpid(), native, 0) == 0:
            return False
        if ctypes.get_errno() == errno.ESRCH:
            return True
    return not os.path.exists(f"/proc/self/task/{native}")


class Life:
    """What a thread holds as long as it runs Python."""

    __slots__ = ("__weakref__",)


class Ended(weakref.ref[Life]):
    """What tells that a thread has ended, or only a callback of one that Python has not started."""

    __slots__ = ("native",)
    native: int


class Stacks:
    """The stacks of one file. `base` is the address of the first."""

    def __init__(self, base: int) -> None:
        self._base = base
        self._free: deque[int] = deque(range(STACKS))
        self._taken: dict[int, int] = {}  # stack by native thread
        self._told: dict[int, Ended] = {}
        self._ended: deque[Ended] = deque()
        self._looked = 0.0

    def life(self, native: int) -> Life | None:
        """What the calling thread, which is `native`, is to hold as long as it runs Python. None where it has
        no stack, or its end is watched for already."""
        if native not in self._taken or native in self._told:
            return None
        life = Life()
        ended = Ended(life, self._ended.append)
        ended.native = native
        self._told[native] = ended
        return life

    def give(self, native: int, replace: bool = False) -> int:
        """Give the calling thread, which is `native`, a stack of the file. Returns its number + 1, and 0
        where there is none or the thread has one from elsewhere. `replace`: take the place of that one."""
        if _c is None:
            return 0
        before = _Stack()
        if _c.sigaltstack(None, ctypes.byref(before)) != 0:
            return 0
        if not before.ss_flags & _DISABLED:
            number, rest = divmod((before.ss_sp or 0) - self._base, STACK_SIZE)
            if not rest and 0 <= number < STACKS:
                return number + 1
            if not replace:
                return 0
        number = self._taken.pop(native, -1)  # of a thread that had the number of this one
        if number < 0:
            if not self._free:
                self._take_back()
            try:
                number = self._free.popleft()
            except IndexError:
                return 0
        ours = _Stack(self._base + number * STACK_SIZE, 0, STACK_SIZE)
        if _c.sigaltstack(ctypes.byref(ours), None) != 0:
            self._free.append(number)
            return 0
        self._taken[native] = number
        return number + 1

    def _take_back(self) -> None:
        """Take the stacks of threads that the system no longer has."""
        for _ in range(min(ASKED, len(self._ended))):
            try:
                ended = self._ended.popleft()
            except IndexError:  # another thread was quicker
                break
            if not self._take_from(ended.native):
                self._ended.append(ended)  # it is about to end, or will be back
        if self._free:
            return
        now = time.monotonic()
        if now - self._looked < LOOK_AGAIN:
            return
        self._looked = now
        for native in list(self._taken):
            self._take_from(native)

    def _take_from(self, native: int) -> bool:
        """Take the stack of a thread, if the system no longer has that."""
        if not has_ended(native):
            return False
        self._told.pop(native, None)
        number = self._taken.pop(native, None)
        if number is not None:
            self._free.append(number)
        return True
