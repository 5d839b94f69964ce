"""A process as its recorder's file shows it now: what is live, by type. The process itself is not asked, so
this works for one that hangs as well."""

from __future__ import annotations

import os
import re
from typing import Any

import attrs

from lifecycle.recorder import files, layout
from lifecycle.recorder.errors import RecordingError
from lifecycle.recorder.postmortem import Life, Report, analyse
from lifecycle.recorder.reader import Recording, plain, read
from lifecycle.recorder.report import seconds, short

MOST_MAPPINGS = 100_000
"""Lines of ``/proc/PID/maps`` that are looked at."""
LONG = 5.0
"""Seconds from which a running release is marked: the default of ``finalizer_timeout``."""
MOST_LINES = 40


@attrs.define
class TypeLine:
    """What is live of one type."""

    name: str
    live: int = 0
    bytes: int = 0
    oldest: float = 0.0
    """Seconds since the oldest of them was registered."""
    leases: int = 0
    releasing: int = 0
    slowest: Life | None = None
    """The one whose release has been running longest."""


@attrs.frozen(kw_only=True)
class Summary:
    """A process as its file shows it. ``str(summary)`` is for people, `as_dict` for programs."""

    report: Report
    now: float
    """Monotonic seconds of the machine."""
    types: tuple[TypeLine, ...]
    unknown: tuple[str, ...]

    def __str__(self) -> str:
        recording = self.report.recording
        live, size = sum(one.live for one in self.types), sum(one.bytes for one in self.types)
        state = "" if recording.live else " · ended well" if recording.clean else " · gone, no clean end"
        lines = [
            f"{recording.program or 'python'} {recording.pid} · up {seconds(self.now - recording.zero)} · "
            f"{live:,} live · {_bytes(size)} · file {plain(os.path.basename(recording.path))}{state}"
        ]
        if self.types:
            lines.append(
                f"{'type':24} {'live':>8} {'bytes':>10} {'oldest':>9} {'in use':>7} {'releasing':>10}"
            )
        for one in self.types[:MOST_LINES]:
            mark = ""
            if one.slowest is not None and one.slowest.begun is not None:
                begun = one.slowest.begun
                thread = recording.thread(begun.thread)
                mark = f"   {'!' if self.now - begun.time > LONG else ' '} {one.slowest} on {thread}"
                mark += f" for {seconds(self.now - begun.time)}"
                if begun.site:
                    mark += f", closed at {short(begun.site)}"
            lines.append(
                f"{one.name[:24]:24} {one.live:>8,} {_bytes(one.bytes):>10} {seconds(one.oldest):>9} "
                f"{one.leases:>7,} {one.releasing:>10,}{mark}"
            )
        if len(self.types) > MOST_LINES:
            lines.append(f"and {len(self.types) - MOST_LINES} more types")
        lines += [f"not in the file: {one}" for one in self.unknown]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """The summary as data that JSON can hold."""
        recording = self.report.recording
        return {
            "version": 1,
            "file": plain(recording.path),
            "process": {
                "pid": recording.pid,
                "program": recording.program,
                "running": recording.live,
                "clean": recording.clean,
                "up": max(0.0, self.now - recording.zero),
            },
            "types": [
                {
                    "type": one.name,
                    "live": one.live,
                    "bytes": one.bytes,
                    "oldest": one.oldest,
                    "in_use": one.leases,
                    "releasing": one.releasing,
                }
                for one in self.types
            ],
            "in_use": self.report.as_dict()["in_use"],
            "releasing": self.report.as_dict()["releasing"],
            "unknown": list(self.unknown),
        }


def summarise(recording: Recording) -> Summary:
    """Sum up what a recording shows now."""
    report = analyse(recording)
    now = recording.until
    types: dict[str, TypeLine] = {}
    nameless = 0
    for life in report.lives.values():
        if life.registered is None or life.ended is not None:
            nameless += life.registered is None and life.ended is None
            continue
        line = types.setdefault(life.type, TypeLine(life.type))
        line.live += 1
        line.bytes += life.registered.b
        line.oldest = max(line.oldest, now - life.registered.time)
    for use in report.in_use:
        types.setdefault(use.type, TypeLine(use.type)).leases += 1
    for life in report.releasing:
        line = types.setdefault(life.type, TypeLine(life.type))
        line.releasing += 1
        if line.slowest is None:  # they are in the order of their begins
            line.slowest = life
    unknown = list(recording.problems)
    if recording.overwritten:
        unknown.append(
            f"objects registered before record {recording.entries[0].number:,}, which are overwritten"
            if recording.entries
            else "everything"
        )
    if nameless:
        unknown.append(f"when {nameless:,} objects that are in use or closing were registered")
    if recording.missing:
        unknown.append(f"{len(recording.missing):,} records that were lost")
    return Summary(
        report=report,
        now=now,
        types=tuple(sorted(types.values(), key=lambda one: (-one.bytes, -one.live, one.name))),
        unknown=tuple(unknown),
    )


def _bytes(size: int) -> str:
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError  # pragma: no cover


_MAPPED = re.compile(rb"^[0-9a-f]+-[0-9a-f]+ rw-s [0-9a-f]+ \S+ \d+ +(/.*)$", re.MULTILINE)


def file_of(pid: int) -> str:
    """The path of the file that the recorder of a running process writes. Raises `RecordingError` where
    there is none, or the process is another user's."""
    try:
        with open(f"/proc/{pid}/maps", "rb") as maps:
            text = maps.read(MOST_MAPPINGS * 100)
    except FileNotFoundError:
        if not os.path.isdir("/proc/self"):
            raise RecordingError(
                "this system has no /proc, so a process's file is not found by its id: name the file"
            ) from None
        raise RecordingError(f"there is no process {pid}") from None
    except PermissionError:
        raise RecordingError(f"process {pid} is another user's: only its owner may look") from None
    except OSError as error:
        raise RecordingError(f"process {pid} cannot be looked at: {error.strerror}") from None
    gone = ended = ""
    for match in _MAPPED.finditer(text):
        path = os.fsdecode(match[1])
        if path.endswith(" (deleted)"):
            gone = gone or path.removesuffix(" (deleted)")
            continue
        state = _state(path, pid)
        if state == layout.RUNNING:
            return path
        if state:
            ended = path
    if ended and not gone:
        return ended
    if gone:
        raise RecordingError(
            f"process {pid} has no recorder's file that is still there: {plain(gone)} was removed"
        )
    raise RecordingError(
        f"process {pid} has no recorder: start it with LIFECYCLE_RECORDER=name-{{pid}}.rec, or have it call "
        "lifecycle.recorder.start()"
    )


def _state(path: str, pid: int) -> int:
    """The state that a recording of process `pid` has; 0 where the file is none."""
    try:
        descriptor = files.open_to_read(path)
    except RecordingError:
        return 0
    try:
        head = os.pread(descriptor, layout.HEADER_SIZE, 0)
    except OSError:
        return 0
    finally:
        os.close(descriptor)
    if not head.startswith(layout.MAGIC) or len(head) < layout.HEADER_SIZE:
        return 0
    ours = layout.FACTS.unpack_from(head, layout.FACTS_AT)[0] == pid
    return int(layout.STATE.unpack_from(head, layout.STATE_AT)[0]) if ours else 0


def look(target: str) -> Summary:
    """Sum up the process with the id `target`, or the file of that path. Raises `RecordingError`."""
    if target.isascii() and target.isdigit() and len(target) < 10 and not os.path.exists(target):
        return summarise(read(file_of(int(target))))
    return summarise(read(target))
