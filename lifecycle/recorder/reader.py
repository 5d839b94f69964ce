"""A recorder's file as data. A file may be cut short, being written, spoilt or hostile.

Nothing in it is trusted (R8): sizes and offsets are checked against the file, chains of texts have an end, a
text's control characters become ``?``, and nothing is imported, executed or unpickled. What is readable is
returned, with what is not in `Recording.problems`; `RecordingError` is for what is no recording at all.
"""

from __future__ import annotations

import math
import os
import re
import signal
import time
import unicodedata
from collections.abc import Iterator

import attrs

from lifecycle.recorder import files, layout
from lifecycle.recorder.errors import RecordingError
from lifecycle.recorder.frames import Fault, find

LARGEST = 1 << 30
"""Bytes of a file that is read."""
LONGEST_FAULT_TEXT = 1 << 20
"""Bytes of faulthandler's text that are read."""
LATEST = 1e12
"""Seconds: a monotonic time above it was not written by a recorder."""


@attrs.frozen
class Entry:
    """One record of the ring."""

    number: int
    time: float
    """Monotonic, in seconds."""
    object: int
    thread: int
    """Native id."""
    type: str
    operation: int
    flag: int
    a: int
    b: int
    name: str
    """The object's name; of an end the reason, of a note its text."""
    site: str
    c: int


@attrs.frozen
class Use:
    """One lease or other access."""

    since: float
    object: int
    thread: int
    type: str
    kind: str
    ended: bool


@attrs.frozen
class Thread:
    """Who was a thread."""

    native: int
    ident: int
    name: str
    first: float
    stack: int


@attrs.frozen
class Frame:
    """One line of Python of the crash."""

    file: str
    line: int
    function: str


@attrs.frozen(kw_only=True)
class Recording:
    """What a file says. Times are monotonic seconds of the recorded process."""

    path: str
    """The file."""
    pid: int
    """The process's id."""
    parent: int
    """The id of its parent process."""
    child: bool
    """True if it was forked from a process with a recorder."""
    program: str
    """The command line."""
    python: str
    """The version of Python."""
    library: str
    """The version of native-lifecycle."""
    platform: str
    """The system."""
    machine: str
    """The processor's kind."""
    uid: int
    """The user's number."""
    started: float
    """Unix time in seconds."""
    zero: float
    """The monotonic time of the start."""
    clean: bool
    """True if the process ended in order."""
    ended_by: str
    """The signal that ended it once its managers were closed (`SafetyManager.close_on`), empty for none."""
    boot: str
    """What names the start of the machine on which it ran, empty where that was not told."""
    live: bool
    """The process still runs."""
    entries: tuple[Entry, ...]
    """What happened, by the numbers of the records. A record that tells of two things is two of them."""
    uses: tuple[Use, ...]
    """Leases and other accesses that were written down last."""
    threads: tuple[Thread, ...]
    """The threads that wrote, in the order in which they began."""
    written: int
    """The highest number."""
    torn: int
    """Records that are not whole, and are left out."""
    missing: tuple[int, ...]
    """Numbers that the ring should have and has not."""
    overwritten: int
    """Records that the ring no longer has."""
    left_out_uses: int
    """Uses that were not written down, since there were too many at a time."""
    left_out_texts: int
    """Names and sites that were not written down, since there was no room."""
    fault: Fault | None
    """The signal and its address, None where the kernel left none."""
    fault_text: str
    """What faulthandler wrote, empty where it wrote nothing."""
    text_elsewhere: bool
    """The program had enabled faulthandler itself."""
    no_stacks: bool
    """True if the platform has no alternate signal stacks, so that the fault's address is unknown."""
    problems: tuple[str, ...]
    """What of the file could not be read, in sentences."""

    @property
    def kept(self) -> int:
        """How many records there are."""
        return len({entry.number for entry in self.entries})

    @property
    def end(self) -> float:
        """The time of the last thing that is known."""
        times = [entry.time for entry in self.entries[-64:]] + [use.since for use in self.uses]
        return max(times, default=self.zero)

    @property
    def until(self) -> float:
        """Up to when what has not ended is known to have gone on: now while the process runs, else `end`."""
        # The monotonic clock is that of the machine. A file of another one, or of a process that is gone, has
        # only its own last time.
        return max(self.end, time.monotonic()) if self.live else self.end

    def thread(self, native: int) -> str:
        """How a thread is called in texts."""
        for thread in reversed(self.threads):
            if thread.native == native:
                return f"{thread.name} ({native})" if thread.name else f"thread {native}"
        return f"thread {native}" if native else "an unknown thread"


def plain(text: str, most: int = 500) -> str:
    """`text` on one line, without what a terminal could take for a command."""
    cut = text[: most + 1]
    shown = "".join("?" if unicodedata.category(letter)[0] == "C" else letter for letter in cut)
    return shown if len(shown) <= most else f"{shown[:most]}…"


def read(path: str | os.PathLike[str]) -> Recording:
    """Read the file of a recorder, of a process that is gone or that runs still. Raises `RecordingError`
    where it is none."""
    name = files.text_of(path)
    if name is None:
        raise RecordingError(f"read() takes the path of a recorder's file, not {path!r}")
    descriptor = files.open_to_read(name)
    try:
        size = os.fstat(descriptor).st_size
        if size > LARGEST:
            raise RecordingError(f"{plain(name)} is no recording: it has {size:,} bytes")
        pieces = []
        while size > 0 and (piece := os.read(descriptor, min(size, 1 << 24))):
            pieces.append(piece)
            size -= len(piece)
    except OSError as error:
        raise RecordingError(f"{plain(name)} cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)
    return parse(name, b"".join(pieces))


def parse(path: str, data: bytes) -> Recording:
    """`read`, of a file's bytes."""
    name = plain(path)
    if len(data) < layout.REGIONS.size or not data.startswith(layout.MAGIC):
        if data[: layout.REGIONS.size].strip(b"\0"):
            raise RecordingError(f"{name} is no recording of lifecycle's recorder")
        raise RecordingError(f"{name} is empty: its process got no further, or ended, before the first word")
    _, version, flags, *facts = layout.REGIONS.unpack_from(data)
    if version != layout.VERSION:
        raise RecordingError(
            f"{name} has version {version} of the format, and this is lifecycle of version {layout.VERSION}: "
            "read it with the version of the library that wrote it"
        )
    if len(data) < layout.HEADER_SIZE:
        raise RecordingError(f"{name} is cut short: {len(data):,} bytes, not even its header")
    problems: list[str] = []
    regions = [tuple(facts[at : at + 3]) for at in range(0, 15, 3)]
    names = ("ring", "uses", "threads", "texts", "stacks")
    most = (layout.MOST_RECORDS, layout.MOST_USES, layout.THREADS, layout.TEXTS, layout.STACKS)
    expected = layout.HEADER_SIZE
    for what, (offset, item, count), right, limit in zip(names, regions, layout.ITEMS, most, strict=True):
        expected += -expected % 4096
        if item != right or offset != expected or not 0 < count <= limit:
            raise RecordingError(
                f"{name} is spoilt: its header describes no table «{what}» as version 1 has it"
            )
        expected += item * count
        if expected > len(data):
            there = max(0, len(data) - offset) // item
            problems.append(f"the file is cut short: {there:,} of {count:,} items of the table «{what}»")
    if regions[0][2] & (regions[0][2] - 1):
        raise RecordingError(f"{name} is spoilt: its ring has {regions[0][2]:,} items, no power of two")
    pid, parent, ticks, wall, zero, base, uid, _, *texts = layout.FACTS.unpack_from(data, layout.FACTS_AT)
    boot, python, library, platform, machine, program = (
        plain(text.rstrip(b"\0").decode("utf-8", "replace")) for text in texts
    )
    (state,) = layout.STATE.unpack_from(data, layout.STATE_AT)
    (ended_by,) = layout.ENDED_BY.unpack_from(data, layout.ENDED_BY_AT)
    left_uses, left_texts = layout.LEFT_OUT.unpack_from(data, layout.LEFT_OUT_AT)
    if not _time(zero) or not _time(wall):
        problems.append("the header's clocks are spoilt")
        zero, wall = 0.0, 0.0
    table = _Texts(data, *regions[3])
    entries, torn, missing = _entries(data, regions[0], table)
    written = entries[-1].number if entries else 0
    threads = _threads(data, regions[2])
    fault_text = data[expected : expected + LONGEST_FAULT_TEXT].decode("utf-8", "replace")
    fault_text = "\n".join(plain(line) for line in fault_text.split("\n"))
    fault = None
    if not flags & layout.NO_STACKS:
        fault = _fault(data, regions[4], base, machine, threads, fault_text)
    return Recording(
        path=path,
        pid=pid,
        parent=parent,
        child=bool(flags & layout.CHILD),
        program=program,
        python=python,
        library=library,
        platform=platform,
        machine=machine,
        uid=uid,
        started=wall,
        zero=zero,
        clean=state == layout.CLEAN and not fault_text.startswith("Fatal"),
        ended_by=_signal(ended_by),
        boot=boot,
        live=files.lives(pid, ticks, boot),
        entries=entries,
        uses=_uses(data, regions[1], table),
        threads=threads,
        written=written,
        torn=torn,
        missing=missing,
        overwritten=max(0, written - regions[0][2]),
        left_out_uses=left_uses,
        left_out_texts=left_texts,
        fault=fault,
        fault_text=fault_text,
        text_elsewhere=bool(flags & layout.TEXT_IS_THE_PROGRAMS),
        no_stacks=bool(flags & layout.NO_STACKS),
        problems=tuple(problems),
    )


def _time(value: float) -> bool:
    return math.isfinite(value) and 0 <= value < LATEST


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name if number else ""
    except ValueError:
        return f"signal {number}"


def _items(data: bytes, region: tuple[int, int, int]) -> tuple[memoryview, int]:
    """The bytes of a table that are there, and how many items that are."""
    offset, item, count = region
    there = min(count, max(0, len(data) - offset) // item)
    return memoryview(data)[offset : offset + there * item], there


class _Texts:
    """The table of texts, each decoded once."""

    def __init__(self, data: bytes, offset: int, item: int, count: int) -> None:
        self._bytes, self._count = _items(data, (offset, item, count))
        self._known: dict[int, str] = {0: ""}

    def __getitem__(self, number: int) -> str:
        known = self._known.get(number)
        if known is None:
            known = self._known[number] = self._decode(number)
        return known

    def _decode(self, number: int) -> str:
        pieces = []
        for _ in range(layout.LONGEST_TEXT // layout.TEXT_BYTES):
            if not 0 < number < self._count:
                break
            piece, length, number = layout.TEXT.unpack_from(self._bytes, number * layout.TEXT.size)
            pieces.append(piece[: min(length, layout.TEXT_BYTES)])
        return plain(b"".join(pieces).decode("utf-8", "replace"))


def _entries(
    data: bytes, region: tuple[int, int, int], texts: _Texts
) -> tuple[tuple[Entry, ...], int, tuple[int, ...]]:
    """The records by their numbers, how many are torn, and which numbers are missing."""
    view, there = _items(data, region)
    count = region[2]
    found = []
    torn = 0
    for slot, fields in enumerate(layout.RECORD.iter_unpack(view)):
        number, time, id, thread, kind, operation, flag, a, b, name, site, c, low = fields
        if not number:
            torn += bool(low or time)
            continue
        if (
            number & 0xFFFF_FFFF != low
            or (number - 1) % count != slot
            or operation not in layout.OPERATIONS
            or not _time(time)
        ):
            torn += 1
            continue
        told = texts[c if operation == layout.ENDS else name]
        if operation == layout.BEGINS and a:
            (shut,) = layout.SHUT_TIME.unpack(a.to_bytes(layout.SHUT_TIME.size, "little"))
            if not _time(shut):
                torn += 1
                continue
            # Two things that happened, in one record.
            found.append(Entry(number, shut, id, thread, texts[kind], layout.SHUT, flag, 0, 0, "", "", 0))
            a = 0
        found.append(
            Entry(number, time, id, thread, texts[kind], operation, flag, a, b, told, texts[site], c)
        )
    found.sort(key=lambda entry: entry.number)  # which leaves the two of one record in their order
    if not found:
        return (), torn, ()
    last = found[-1].number
    # Numbers of another turn, or of a spoilt word, stand out of the last turn.
    kept = [entry for entry in found if entry.number > last - count]
    if there < count:
        return tuple(kept), torn + len({entry.number for entry in found[: -len(kept)]}), ()
    numbers = {entry.number for entry in kept}
    missing = [number for number in range(max(1, last - count + 1), last + 1) if number not in numbers]
    return tuple(kept), torn, tuple(missing)


def _uses(data: bytes, region: tuple[int, int, int], texts: _Texts) -> tuple[Use, ...]:
    view, _ = _items(data, region)
    found = []
    for since, id, thread, name, kind, ended, again in layout.USE.iter_unpack(view):
        if since and since == again and _time(since) and kind < len(layout.KINDS):
            found.append(Use(since, id, thread, texts[name], layout.KINDS[kind], bool(ended)))
    found.sort(key=lambda use: use.since)
    return tuple(found)


def _threads(data: bytes, region: tuple[int, int, int]) -> tuple[Thread, ...]:
    view, _ = _items(data, region)
    found = []
    for native, stack, ident, first, name in layout.THREAD.iter_unpack(view):
        if native and _time(first):
            text = plain(name.rstrip(b"\0").decode("utf-8", "replace"))
            found.append(Thread(native, ident, text, first, stack))
    found.sort(key=lambda thread: thread.first)
    return tuple(found)


def _fault(
    data: bytes,
    region: tuple[int, int, int],
    base: int,
    machine: str,
    threads: tuple[Thread, ...],
    text: str,
) -> Fault | None:
    """The frame of the crash: of several that of the thread that faulthandler names."""
    offset, item, _ = region
    _, there = _items(data, region)
    faults = []
    for number in range(there):
        at = offset + number * item
        stack = data[at : at + item]
        if stack.count(0) != len(stack):
            address = base + at
            fault = find(machine, stack, address, number) if address + item < 1 << 64 else None
            if fault is not None:
                faults.append(fault)
    current = re.search(r"^(?:Current t|T)hread 0x([0-9a-f]{1,16})", text, re.MULTILINE)
    if current is not None:
        ident = int(current[1], 16)
        stacks = {thread.stack - 1 for thread in threads if thread.ident == ident and thread.stack}
        for fault in faults:
            if fault.stack in stacks:
                return fault
    return faults[-1] if faults else None


_FRAME = re.compile(r'  File "(.{1,400}?)", line (\d{1,9}|\?\?\?) in (.{1,300})$')


def frames_of(text: str) -> tuple[str, int, tuple[Frame, ...]]:
    """What ended the process, the identity of its thread, and that thread's lines, as faulthandler's text has
    them."""
    lines = text.split("\n")
    start = next((at for at, line in enumerate(lines) if line.startswith("Fatal Python error")), None)
    if start is None:
        return "", 0, ()
    what = lines[start].partition(": ")[2]
    found: list[Frame] = []
    ident = 0
    for line in _block(lines[start + 1 :]):
        head = re.match(r"Current thread 0x([0-9a-f]{1,16})", line)
        if head:
            ident = int(head[1], 16)
        frame = _FRAME.match(line)
        if frame:
            number = int(frame[2]) if frame[2].isdigit() else 0
            found.append(Frame(frame[1], number, frame[3]))
    return what, ident, tuple(found)


def _block(lines: list[str]) -> Iterator[str]:
    """The lines of the thread that crashed: from «Current thread», or from «Stack» where no other thread is
    written, to the next empty one."""
    inside = False
    for line in lines:
        if line.startswith(("Current thread", "Stack (")):
            inside = True
        elif inside and not line.strip():
            return
        if inside:
            yield line
