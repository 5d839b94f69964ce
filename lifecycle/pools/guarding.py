"""Guard pages: memory that has come back is made inaccessible for a while.

**The problem.** An address that was kept behind the pool's back reads what the next user has written, and
nobody notices, or it crashes elsewhere and later.

**The idea.** Of the blocks that come back one in N leaves the pool and loses all access rights (`mprotect`).
No lease, no view and no array holds it any more, so a thread that faults there kept a raw address: at that
very line. The newest `MOST_BLOCKS` are kept so, and `MOST_BYTES` of memory; the oldest is given back to the
system.

What does not fault: system calls on such memory fail with EFAULT, and devices do not notice. Each block is a
mapping of its own, of which a process has some 65 000 (``vm.max_map_count``). In forked children the blocks
stay inaccessible.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import random
import warnings
from collections import deque
from collections.abc import Callable
from typing import Any

from lifecycle.errors import ConfigError
from lifecycle.lowlevel import Facts, snapshot

MOST_BLOCKS = 64
"""Blocks that are inaccessible at a time: more would cost too many mappings."""
MOST_BYTES = 64 << 20
"""And their bytes."""
VARIABLE = "LIFECYCLE_GUARD"
PARANOID = "paranoid"

Note = Callable[[str, Any, int, int, int], None]
"""What happened (``guarded``, ``accessible``), to which type and id, and the memory."""

note: Note | None = None
"""The flight recorder's, while one runs."""

_guarded: deque[tuple[Any, Any, str, int]] = deque()
"""Pool's key, block, type and id of its last loan, the oldest first."""


def interval_of(guard: object, pool: str) -> int:
    """One release in how many is guarded, 0 for none. Raises `ConfigError` for what is no number."""
    if guard is None:
        return _of_environment()
    if guard == PARANOID:
        return 1
    if isinstance(guard, bool) or not isinstance(guard, int) or guard < 1:
        raise ConfigError(
            f"pool {pool!r}: guard= takes a number of releases of which one is guarded, 1 or more, "
            f"{PARANOID!r} or None, not {guard!r}"
        )
    return guard


def _of_environment() -> int:
    text = os.environ.get(VARIABLE, "").strip().lower()
    if not text:
        return 0
    if text == PARANOID:
        return 1
    if text.isdecimal() and int(text) > 0:
        return int(text)
    # It is set by whoever runs the program, perhaps for all programs.
    warnings.warn(
        f"{VARIABLE}={text!r} is no number of releases and not {PARANOID!r}, so nothing is guarded",
        RuntimeWarning,
        stacklevel=4,
    )
    return 0


class Sampler:
    """Says of which release the block is guarded: one in `interval`, from a random one on."""

    def __init__(self, interval: int) -> None:
        self._interval = interval
        self._count = itertools.count(random.randrange(interval))

    def chosen(self) -> bool:
        """Return True once in `interval` calls."""
        return next(self._count) % self._interval == 0


def guard(owner: object, block: Any, known: Facts) -> bool:
    """Make the memory of `block` inaccessible, and keep it so for a while. The block is no longer the pool's.
    Returns False where that cannot be done here; the block then goes."""
    if _protect is None:
        return False
    told = note
    type_name, id = known.type_name, known.id
    entry = (owner, block, type_name, id)
    _guarded.append(entry)
    if told is not None:
        # Before the act (R2).
        told("guarded", type_name, id, block.address, block.nbytes)
    if _protect(block.address, block.nbytes, 0):
        _withdraw(entry)
        return False
    _give_back()
    return True


def _withdraw(entry: tuple[Any, Any, str, int]) -> None:
    """The system refused (`vm.max_map_count` is reached, for one): the block can be accessed as before."""
    try:
        _guarded.remove(entry)
    except ValueError:
        # Another thread made room, and told so.
        return
    told = note
    if told is not None:
        told("accessible", entry[2], entry[3], entry[1].address, entry[1].nbytes)


def _give_back() -> None:
    """Let go the oldest blocks beyond what may be kept."""
    while len(_guarded) > MOST_BLOCKS or sum(one[1].nbytes for one in snapshot(_guarded)) > MOST_BYTES:
        try:
            _, block, type_name, id = _guarded.popleft()
        except IndexError:
            # Another thread was faster.
            return
        told = note
        if told is not None:
            told("accessible", type_name, id, block.address, block.nbytes)


def bytes_of(owner: object) -> int:
    """Bytes that are inaccessible now, of what was a pool's with that key."""
    return sum(one[1].nbytes for one in snapshot(_guarded) if one[0] is owner)


def _make_protect() -> Callable[[int, int, int], int] | None:
    if os.name != "posix":  # pragma: no cover
        return None
    function: Any = ctypes.CDLL(None).mprotect
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    function.restype = ctypes.c_int
    return function  # type: ignore[no-any-return]


_protect = _make_protect()
