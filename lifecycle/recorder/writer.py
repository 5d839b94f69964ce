"""The file being written: in place, by the thread that acts.

**The problem.** A crash takes the heap with it, and the code that would have written it down.

**The idea.** The file is mapped. A record is one `Struct.pack_into` into it: the kernel has the bytes from
that moment on, whatever becomes of the process. A slot of the ring is claimed by ``next(count)``, which is
indivisible with and without the GIL.

**Guaranteed.** No lock, no waiting, and nothing raised (R1). The objects in use are kept in a table of their
own, from begin to end in one item, so it does not depend on how long the ring is (R5). The file is allocated
before it is mapped, and stays mapped while the process lives (R7).

**Relied on.** `pack_into` zeroes its target and then writes field by field, so the first and the last word
tell a record that was cut short (R3).
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
import os
import platform
import sys
import threading
from collections import deque
from collections.abc import Callable
from types import CodeType
from typing import Any

from lifecycle._core import runtime
from lifecycle.recorder import files, layout
from lifecycle.recorder.stacks import Stacks, available

WORD = 0xFFFF_FFFF_FFFF_FFFF
HALF = 0xFFFF_FFFF

Write = Callable[[float, int, int, int, int, int, int, int, int, int], None]
"""Time, object, type, operation, flag, a, b, name, site, c."""

NAMES_SHARE = 3, 4
"""Of the texts' items names of objects may fill so much: a program that names each object leaves room for
types and sites."""

MOST_NATIVES = 4096
"""How many threads are remembered as entered. Beyond that each is entered once more."""


class Local(threading.local):
    """What is known of the calling thread: made at its first record."""

    native: int

    def __init__(self, writer: Writer) -> None:
        self.native = native = writer.enter_thread()
        self.life = writer.stacks.life(native)


class Writer:
    """One file. All methods may be called on any thread; none raises an `Exception` once it is made."""

    slots: int
    uses: int
    size: int
    path: str
    pattern: str
    map: mmap.mmap
    base: int
    ring: int
    left_names: int
    left_uses: int

    def __init__(self, pattern: str, slots: int, uses: int, *, child: bool = False) -> None:
        counts = (slots, uses, layout.THREADS, layout.TEXTS, layout.STACKS)
        offsets: list[int] = []
        size = layout.HEADER_SIZE
        for item, count in zip(layout.ITEMS, counts, strict=True):
            size += -size % 4096
            offsets.append(size)
            size += item * count
        self.slots, self.uses, self.size = slots, uses, size
        self.path, descriptor = files.make(pattern, size)
        self.pattern = os.path.abspath(pattern)
        try:
            self.map = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
        # An exported buffer, kept: the mapping cannot be closed while it lives (R7).
        self._anchor = ctypes.c_char.from_buffer(self.map)
        self.base = ctypes.addressof(self._anchor)
        self.ring, self._uses, self._threads, self._texts_at, self._stacks_at = offsets
        self.left_names = 0
        self.left_uses = 0
        self.dropped = 0
        self._count = itertools.count(1)
        self.claim: Callable[[], int] = self._count.__next__
        self._seats = itertools.count()
        self._cells = itertools.count(1)
        self.texts: dict[str, int] = {"": 0}
        self.sites: dict[tuple[int, int], tuple[int, CodeType]] = {}
        self._natives: dict[int, int] = {}
        self.free: deque[int] = deque(self._uses + n * layout.USE.size for n in range(uses))
        self.stacks: Stacks = Stacks(self.base + self._stacks_at)
        self._head(counts, offsets, child)
        self.local: Local = Local(self)
        self.write: Write = self._make_write()

    def _head(self, counts: tuple[int, ...], offsets: list[int], child: bool) -> None:
        import lifecycle

        pid = os.getpid()
        flags = (layout.CHILD if child else 0) | (0 if available else layout.NO_STACKS)
        regions = [fact for region in zip(offsets, layout.ITEMS, counts, strict=True) for fact in region]
        program = sys.argv[0] if getattr(sys, "argv", None) else ""
        layout.FACTS.pack_into(
            self.map,
            layout.FACTS_AT,
            pid,
            os.getppid(),
            files.start_ticks(pid),
            runtime.wall_time(),
            runtime.monotonic(),
            self.base,
            os.getuid() if hasattr(os, "getuid") else 0,
            0,
            _bytes(files.boot_id(), 48),
            _bytes(sys.version.split("(")[0], 64),
            _bytes(lifecycle.__version__, 32),
            _bytes(platform.platform(), 96),
            _bytes(platform.machine(), 16),
            _bytes(os.path.basename(program), 256),
        )
        layout.STATE.pack_into(self.map, layout.STATE_AT, layout.RUNNING)
        # Last: a file without it is none.
        layout.REGIONS.pack_into(self.map, 0, layout.MAGIC, layout.VERSION, flags, *regions)

    def flag(self, flag: int) -> None:
        """Set a flag of the header."""
        at = len(layout.MAGIC) + 4
        (flags,) = layout.STATE.unpack_from(self.map, at)
        layout.STATE.pack_into(self.map, at, flags | flag)

    def end(self, signal: int = 0) -> None:
        """Note that the process ended well; by that signal, where it closes its managers for it."""
        layout.ENDED_BY.pack_into(self.map, layout.ENDED_BY_AT, signal)
        layout.ENDED.pack_into(self.map, layout.ENDED_AT, runtime.wall_time())
        layout.STATE.pack_into(self.map, layout.STATE_AT, layout.CLEAN)

    # -- records ---------------------------------------------------------------------------------------------

    def _make_write(self) -> Write:
        """A function, not a method: what it needs are its own variables."""
        claim = self.claim
        pack = layout.RECORD.pack_into
        target, ring, mask, local = self.map, self.ring, self.slots - 1, self.local

        def write(
            time: float, id: int, kind: int, op: int, flag: int, a: int, b: int, name: int, site: int, c: int
        ) -> None:
            native = local.native
            n = claim()
            at = ring + ((n - 1 & mask) << 6)
            pack(target, at, n, time, id, native, kind, op, flag, a, b, name, site, c, n & HALF)

        return write

    @property
    def written(self) -> int:
        """How many records were claimed."""
        return int(repr(self._count)[6:-1]) - 1

    def lost_use(self) -> None:
        """An access found no free item."""
        self.left_uses += 1
        layout.LEFT_OUT.pack_into(self.map, layout.LEFT_OUT_AT, self.left_uses, self.left_names)

    # -- texts -----------------------------------------------------------------------------------------------

    def text(self, text: str, name: bool = False) -> int:
        """The number of `text` in the table, 0 where there is no room. `name`: of an object."""
        number = self.texts.get(text)
        return self._enter_text(text, name) if number is None else number

    def _enter_text(self, text: str, name: bool) -> int:
        data = text.encode("utf-8", "replace")
        if len(data) > layout.LONGEST_TEXT:
            # The end of a path says more than its beginning.
            head = "" if not name else data[: layout.LONGEST_TEXT - 3].decode("utf-8", "ignore") + "…"
            data = head.encode() or ("…".encode() + data[-(layout.LONGEST_TEXT - 3) :])
        pieces = [data[at : at + layout.TEXT_BYTES] for at in range(0, len(data), layout.TEXT_BYTES)]
        most = layout.TEXTS
        if name:
            most = most * NAMES_SHARE[0] // NAMES_SHARE[1]
        if not data or int(repr(self._cells)[6:-1]) + len(pieces) > most:
            if data:
                self.left_names += 1
                layout.LEFT_OUT.pack_into(self.map, layout.LEFT_OUT_AT, self.left_uses, self.left_names)
            return 0
        following = 0
        for piece in reversed(pieces):
            number = next(self._cells)
            if number >= layout.TEXTS:
                return 0
            at = self._texts_at + number * layout.TEXT.size
            layout.TEXT.pack_into(self.map, at, piece, len(piece), following)
            following = number
        return self.texts.setdefault(text, following)

    def site(self, code: CodeType | None, at: int) -> int:
        """The number of a place in the program."""
        if code is None:
            return 0
        key = (id(code), at)
        known = self.sites.get(key)
        if known is not None:
            return known[0]
        number = self.text(f"{code.co_filename}:{runtime.line_of((code, at))}")
        if len(self.sites) < layout.TEXTS * 4:
            # With the code, whose identity stays its own while it lives.
            self.sites[key] = (number, code)
        return number

    # -- threads ---------------------------------------------------------------------------------------------

    def enter_thread(self) -> int:
        """Note the calling thread down, once, and give it a stack of the file. Returns its native id."""
        native = threading.get_native_id()
        ident = runtime.get_ident()
        # From 3.13 on the thread-local of a foreign thread is empty at each of its callbacks.
        if self._natives.get(native) != ident:
            if len(self._natives) >= MOST_NATIVES:
                self._natives.clear()
            self._natives[native] = ident
            self.note_thread(native, self.stacks.give(native))
        return native

    def note_thread(self, native: int, stack: int) -> None:
        """Write the calling thread into the table."""
        ident = runtime.get_ident()
        thread = threading._active.get(ident)  # type: ignore[attr-defined]  # no dummy is made of a foreign one
        name = thread.name if thread is not None else ""
        at = self._threads + next(self._seats) % layout.THREADS * layout.THREAD.size
        layout.THREAD.pack_into(
            self.map, at, native, stack, ident & WORD, runtime.monotonic(), _bytes(name, 40)
        )

    # -- fork ------------------------------------------------------------------------------------------------

    def leave_to_parent(self) -> bool:
        """In a forked child: put private memory in the place of the mapping, so that whoever writes, writes
        where nobody reads (R6). False where that cannot be done."""
        return _cover(self.base, self.size)


def _bytes(text: str, most: int) -> bytes:
    """`text` in at most so many bytes, cut at a character."""
    return text.encode("utf-8", "replace")[:most].decode("utf-8", "ignore").encode()


def _cover(base: int, size: int) -> bool:
    if os.name != "posix":  # pragma: no cover
        return False
    library: Any = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = (
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_long,
    )
    fixed = 0x10  # MAP_FIXED, on Linux, macOS and the BSDs
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | fixed
    at = library.mmap(base, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
    return bool(at == base)
