"""Buffers: page-aligned memory that is lent again and again.

**The problem.** Fresh memory costs a page fault for each 4 KiB when it is first written, more than most of
what is done with a frame; and memory that is given back while an array still reads it is somebody else's
picture.

**The idea.** A `Buffer` is a handle. Its memory goes back to the pool when the handle is closed *and* the
last view, slice or array of it is gone, whichever comes later, so no user ever sees it change hands.

Blocks are private anonymous mappings: aligned to pages, zero when new, and what the last user left when
reused. A forked child sees its own copy. A pool holds blocks of one size, the largest that it serves; with
``exhausted="evict"`` it holds what is asked for, in size classes a quarter apart (the steps of jemalloc), and
makes room by letting go idle ones of another.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import weakref
from types import FrameType
from typing import TYPE_CHECKING, Any

import attrs

from lifecycle.errors import ConfigError, LifecycleError, OutOfMemoryError, StaleUseError, shown
from lifecycle.lowlevel import DEFAULT, Default, Facts, Uncopied, snapshot, whole
from lifecycle.manager import Handle, SafetyManager
from lifecycle.pools.figures import loan_of
from lifecycle.pools.guarding import Sampler, bytes_of, interval_of
from lifecycle.pools.guarding import guard as guard_block
from lifecycle.pools.pool import Borrowing, Pool
from lifecycle.pools.waiting import CLOSED, EMPTY, EXTRA, Sign, Slot, Waiter
from lifecycle.stats import Loan, PoolStats

if TYPE_CHECKING:
    from lifecycle.memory.manager import MemoryManager
    from lifecycle.memory.reservation import Reservation

PAGE = mmap.PAGESIZE

CLASSES = 4
"""Size classes for each doubling: a block is at most a quarter larger than what was asked for."""

LOOK = 1 << 16
"""Bytes compared at a time when poisoned memory is checked."""

_getframe = sys._getframe


class Block(Uncopied):
    """Memory of a pool: `nbytes` bytes from `address` on. Use it by the handle that lends it, never
    longer."""

    _remedy = "lend another block with BufferPool.get()"

    __slots__ = ("__weakref__", "address", "memory", "nbytes", "poisoned_by", "reservation")

    def __init__(self, nbytes: int, reservation: Reservation | None = None) -> None:
        try:
            self.memory: mmap.mmap = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (OSError, OverflowError, ValueError, MemoryError) as error:
            raise OutOfMemoryError(
                f"there are no {nbytes} bytes of memory to be had ({error}); ask for less, or trim() what is "
                "idle"
            ) from error
        self.address: int = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self.nbytes: int = nbytes
        self.reservation: Reservation | None = reservation  # its part in a budget, which goes when it goes
        self.poisoned_by: Loan | None = None  # who had it before it was filled with poison

    def __repr__(self) -> str:
        return f"<Block of {self.nbytes} bytes at {self.address:#x}>"


class Buffer(Handle[Block]):
    """One share of a lent buffer: a handle (`close`, `share`, `lease`, ``with``) with views. Made by
    `BufferPool.get`."""

    __slots__ = ()

    @property
    def address(self) -> int:
        """Where its memory begins: a multiple of the page size. For native code, within ``with
        buffer.lease():``."""
        return int(self.native)

    @property
    def nbytes(self) -> int:
        """How many bytes were asked for."""
        return self.size

    def view(
        self, address: Any = None, nbytes: int | None = None, readonly: bool | None = False
    ) -> memoryview:
        """The memory, without a copy: a one-dimensional memoryview of unsigned bytes, writable unless
        `readonly`; all of it, or `nbytes` bytes from `address` on. Every slice, cast and NumPy array
        (``np.frombuffer(buffer.view(), dtype)``) keeps the memory from going back to the pool, beyond this
        handle's `close`.

        Raises `AccessRefusedError` once the handle is closed, `LifecycleError` for a part that is not within
        the buffer.
        """
        start: int = self.native
        size = self.size
        if address is None and nbytes is None:
            return Handle.view(self, start, size, readonly)
        if address is not None and type(address) is not int:
            return Handle.view(self, address, nbytes, readonly)
        address = start if address is None else address
        nbytes = size - (address - start) if nbytes is None else nbytes
        if not start <= address <= address + nbytes <= start + size:
            raise LifecycleError(
                f"a view of {nbytes} bytes from {address:#x} on is not within the {size} bytes at "
                f"{start:#x} of object {self.id}"
            )
        return Handle.view(self, address, nbytes, readonly)

    if TYPE_CHECKING:  # as it is, but for the type

        def __enter__(self) -> Buffer: ...

    def share(self) -> Buffer:
        """Another share of the same buffer, to be closed on its own. Raises `AccessRefusedError` when this
        one is closed."""
        share: Any = Handle.share(self)
        try:
            share.__class__ = Buffer
            return share  # type: ignore[no-any-return]
        finally:
            share = None  # K3


class BufferPool(Pool):
    """Lends page-aligned memory.

    Parameters
    ----------
    manager:
        Owns the loans. When it closes, so does the pool.
    size:
        Bytes of one buffer: the default of `get`, and the largest that comes from the pool.
    count:
        How many buffers the pool has at most. They are made when first needed.
    min_idle:
        The number of buffers that are kept ready, as far as `count` allows. A thread of the pool allocates
        them, from the beginning on and whenever fewer are idle; `trim` leaves them. `get` waits for a buffer
        that is being allocated there, even without a `timeout`.
    timeout:
        Seconds that `get` waits when all are in use; None: for ever. 0 (the default) does not wait.
    exhausted:
        What `get` does then. ``"fallback"``: it returns a plain buffer from outside the pool, which is
        counted. ``"refuse"``: it raises `PoolTimeoutError` or `PoolExhaustedError`, which names the longest
        loans. ``"evict"``: the pool keeps blocks of the sizes that are asked for, and frees idle blocks of
        another size to make room; when all are in use it does as ``"fallback"``.
    name:
        Shown in messages and metrics.
    type_name:
        The type of its loans in the manager's figures and policies.
    poison:
        A byte (0–255). A returned buffer is filled with it, and compared with it before it is lent again.
        Code that reads the memory without holding it sees the poison. Code that writes it is reported, with
        the place of the last loan, and the block is never used again. To find faults: it costs two passes
        over the memory.
    collect:
        Where nothing comes back, run the garbage collector now and then: perhaps only garbage holds what is
        lent (see `CollectorNudge` of `lifecycle.lowlevel`). A program that has disabled the collector is left
        alone.
    guard:
        A number N: one of N returned buffers leaves the pool and is made inaccessible for a while. Code that
        kept a raw address then crashes at the line that uses it, and the post-mortem of the flight recorder
        names the buffer. ``"paranoid"``: every buffer, for tests. None: the value of `LIFECYCLE_GUARD` in the
        environment, or no buffer. Needs `mprotect`; elsewhere the buffer is freed.
    memory:
        A `MemoryManager`. The pool's memory, idle or lent, counts there as bytes of `type_name`, and under
        pressure the pool frees idle buffers. `get` may then also raise `BudgetError`, or wait, as the memory
        manager is configured.

    A closed pool still serves, with plain buffers. Raises `ConfigError` for sizes and counts that are not
    possible, and `OutOfMemoryError` for a size beyond the machine's memory.
    """

    _handle = Buffer

    def __init__(
        self,
        manager: SafetyManager,
        size: int,
        count: int,
        *,
        min_idle: int = 0,
        timeout: float | None = 0.0,
        exhausted: str = "fallback",
        name: str = "buffers",
        type_name: str = "buffer",
        collect: bool = True,
        poison: int | None = None,
        memory: MemoryManager | None = None,
        guard: int | str | None = None,
    ) -> None:
        if poison is not None and (
            isinstance(poison, bool) or not isinstance(poison, int) or not 0 <= poison < 256
        ):
            raise ConfigError(f"pool {name!r}: poison= takes a byte, 0 to 255, or None, not {poison!r}")
        if memory is not None and not callable(getattr(memory, "reserve", None)):
            raise ConfigError(f"pool {name!r}: memory= takes a MemoryManager or None, not {memory!r}")
        self.name = name
        self._check_limit(count, "count")
        self._size = self._check_size(size)
        self._poison = poison
        self._evicts = exhausted == "evict"
        self._class = _round_up(self._size)
        super().__init__(
            manager,
            name=name,
            limit=count,
            timeout=timeout,
            exhausted=exhausted,
            choices=("fallback", "refuse", "evict"),
            type_name=type_name,
            collect=collect,
            min_idle=min_idle,
        )
        interval = interval_of(guard, name)
        self._guard = Sampler(interval) if interval else None
        self._guard_key = object()
        self._careful = poison is not None
        self.looks_after = poison is not None or self._guard is not None
        self._memory = memory
        if memory is not None:
            me = weakref.ref(self)

            def spare() -> None:
                pool = me()
                if pool is not None:
                    pool.trim()

            weakref.finalize(self, memory.add_pressure_callback(spare)).atexit = False
        self._begin_to_fill()

    def _check_size(self, size: Any) -> int:
        number = whole(size)
        if number is None or number < 1:
            raise ConfigError(
                f"pool {self.name!r}: size= takes a number of bytes, 1 or more, not {shown(size)}"
            )
        if number > _memory():
            raise OutOfMemoryError(
                f"pool {self.name!r}: {number} bytes are more than the {_memory()} bytes of memory that this "
                "machine has"
            )
        return number

    @property
    def size(self) -> int:
        """Bytes of one buffer."""
        return self._size

    @property
    def count(self) -> int:
        """How many buffers the pool has at most."""
        return self.free_list.limit

    def get(self, size: int | None = None, *, timeout: float | Default | None = DEFAULT) -> Buffer:
        """Return a buffer of `size` bytes (None: the pool's size), whose memory comes back when its last
        holder lets go. A buffer that is larger than the pool's size is a plain one, counted as a fallback.
        The content is what the last user left.

        Raises `ConfigError` for a size that is none, `OutOfMemoryError`, `PoolTimeoutError` or
        `PoolExhaustedError` (with ``exhausted="refuse"``), `BudgetError` (with `memory`: at once where the
        budget is smaller than the block, else after `timeout`, where one is given here, or the memory
        manager's own), and `ClosedError` when the manager is closed.
        """
        want = self._class
        plain = ""
        if size is None:
            size = self._size
        else:
            want, plain = self._what_serves(size)
        try:
            frame: FrameType | None = _getframe(1)
        except ValueError:
            # C called it, and no Python frame is below.
            frame = None
        return self._get(want, size, timeout, frame, plain)  # type: ignore[return-value]

    def get_async(
        self, size: int | None = None, *, timeout: float | Default | None = DEFAULT
    ) -> Borrowing[Buffer]:
        """`get` for coroutines of asyncio or trio: ``async with pool.get_async() as buffer``, or ``buffer =
        await pool.get_async()``. The event loop goes on while it waits for one that comes back; room in a
        budget (`memory`) is not waited for. Cancelling it loses no buffer. Raises as `get`, when it is
        awaited."""
        want, plain = (self._class, "") if size is None else self._what_serves(size)
        return self._borrow(want, self._size if size is None else size, timeout, plain)

    def _what_serves(self, size: int) -> tuple[int, str]:
        """The size class for `size` bytes, and how it is counted where no block of the pool serves."""
        self._check_size(size)
        if size > self._size:
            return _round_up(size), "fallback"
        return _class_of(size, self._class) if self._evicts else self._class, ""

    # -- size and memory -------------------------------------------------------------------------------------

    def trim(self, keep: int = 0, *, idle_for: float = 0.0) -> int:
        """Free the memory of idle buffers, the least recently used first, until `keep` are left; only buffers
        that have been idle for `idle_for` seconds. Return the number of bytes freed. Lent buffers are not
        touched, and `min_idle` buffers stay in any case."""
        return self._trim(keep, idle_for, _bytes_of)

    def resize(self, size: int | None = None, count: int | None = None) -> None:
        """Change the size of a buffer, or how many there are; what is not given stays. Idle buffers that no
        longer serve are freed at once, lent ones when they come back. Raises as making a pool does, and
        `PoolError` on a closed pool."""
        size = self._size if size is None else self._check_size(size)
        self._resize(self.count if count is None else count, "count")
        if size != self._size:
            self._size = size
            self._class = _round_up(size)
            self.looks_after: bool = True  # what is lent has the old size
            kept, self._min_idle = self._min_idle, 0
            try:
                self.trim()
            finally:
                self._min_idle = kept

    # -- how a pool of memory works --------------------------------------------------------------------------

    def _want(self) -> int:
        return self._class

    def _find(self, waiter: Waiter) -> bool:
        free_list = self.free_list
        if free_list.take(waiter.want, waiter) or free_list.take(EMPTY, waiter):
            return True
        keys = sorted(key for key in snapshot(free_list.takes) if key != EMPTY)
        larger = [key for key in keys if key > waiter.want]
        return any(free_list.take(key, waiter) for key in (*larger, *keys))

    def _fit(self, slot: Slot, want: int, patience: float | Default | None) -> str:
        block: Block | None = slot.item
        if block is not None and (block.nbytes < want or (block.nbytes != want and not self._evicts)):
            self._empty(slot, "evicted")
            block = None
        if block is not None and block.poisoned_by is not None:
            block = self._look_for_poison(slot, block)
        slot.dirty = False
        if block is not None:
            return "reused"
        slot.item = block = self._allocate(want, patience)
        slot.native = block.address
        slot.key = want
        return "created"

    def _allocate(self, nbytes: int, patience: float | Default | None) -> Block:
        reservation = None
        try:
            if self._memory is not None:
                reservation = self._memory.reserve(nbytes, self._type_name, timeout=patience)
            try:
                return Block(nbytes, reservation)
            except OutOfMemoryError:
                if not self.trim():
                    raise
                return Block(nbytes, reservation)
        finally:
            reservation = None  # K3

    def _look_for_poison(self, slot: Slot, block: Block) -> Block | None:
        """The block of `slot`, unless it was written after it had come back: then the block is kept and never
        lent again, and the write is reported."""
        assert self._poison is not None
        first = _first_other(block.memory, self._poison)
        last, block.poisoned_by = block.poisoned_by, None
        if first < 0:
            return block
        self._empty(slot, "stale")
        _quarantine.append(block)
        self._contained(
            "stale use",
            StaleUseError(
                f"the buffer at {block.address:#x} was written to at byte {first} after it had come back to "
                f"pool {self.name!r}; the last to have it was {last}. It is never used again. Look for a raw "
                "address that outlives its handle: only views of the handle keep the memory"
            ),
        )
        return None

    def _clean(self, slot: Slot, known: Facts) -> None:
        block: Block = slot.item
        if block.nbytes > self._class or (block.nbytes != self._class and not self._evicts):
            self._empty(slot, "retired")
        elif self._guard is not None and self._guard.chosen():
            # First out of the pool: an interrupt may leave nothing inaccessible in it.
            self._empty(slot, "guarded")
            guard_block(self._guard_key, block, known)
        elif self._poison is not None:
            ctypes.memset(block.address, self._poison, block.nbytes)
            block.poisoned_by = loan_of(known, slot.borrower)
        slot.dirty = False

    def _empty(self, slot: Slot, why: str) -> None:
        slot.item = None
        slot.key = EMPTY
        if why == EXTRA:
            self.free_list.extras.pop(slot, None)
        else:
            self._counts.lost(why)

    def _instead(self, answer: Sign) -> str:
        if answer is CLOSED:
            return "" if self.manager.closed else "closed"
        return "" if self._exhausted == "refuse" else "fallback"

    def stats(self) -> PoolStats:
        """The figures of this moment. Costs what the pool's size is."""
        return attrs.evolve(super().stats(), guarded_bytes=bytes_of(self._guard_key))

    def _bytes_of(self, slots: list[Slot]) -> int:
        return sum(slot.key for slot in slots)


def _bytes_of(slot: Slot) -> int:
    return slot.key


_quarantine: list[Block] = []
"""Blocks that are written without being held. Kept for ever: whatever came to lie there would be written
to."""


def _memory() -> int:
    """Bytes of memory that the machine has."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * PAGE
    except (AttributeError, ValueError, OSError):  # not told here
        return sys.maxsize


def _round_up(size: int) -> int:
    return -(-size // PAGE) * PAGE


def _class_of(size: int, most: int) -> int:
    """The size class of `size`: whole pages, `CLASSES` classes for each doubling, none above `most`."""
    size = _round_up(size)
    step = max(PAGE, (1 << (size - 1).bit_length()) // (2 * CLASSES))
    return min(-(-size // step) * step, most)


def _first_other(memory: mmap.mmap, byte: int) -> int:
    """Where in `memory` the first other byte than `byte` is, -1 if there is none."""
    pattern = bytes([byte]) * LOOK
    for start in range(0, len(memory), LOOK):
        part = memory[start : start + LOOK]
        if part != pattern[: len(part)]:
            return start + next(number for number, value in enumerate(part) if value != byte)
    return -1
