"""`start`: a recorder for this process, from its file to what the core does.

One runs at a time. A forked child writes nothing into its parent's file: ahead of everything else that
happens in the child, what was exchanged is put back and private memory comes in the place of the mapping
(R6). It has a file of its own only where ``{pid}`` is in the path.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import attrs

from lifecycle._core import runtime
from lifecycle._core.streams import sparing
from lifecycle.config import is_command_line
from lifecycle.observe.observers import logger
from lifecycle.recorder import files, hooks, layout
from lifecycle.recorder.errors import RecorderError
from lifecycle.recorder.writer import Writer

VARIABLE = "LIFECYCLE_RECORDER"
SLOTS, USES, KEEP = 65_536, 4_096, 5


@attrs.frozen
class RecorderStats:
    """What a recorder has written."""

    records: int
    """Records since the start, those that the ring has overwritten included."""
    left_out_uses: int
    """Leases and accesses that found no room in the table of uses."""
    left_out_texts: int
    """Names, types and sites that found no room in the table of texts."""
    dropped: int
    """Records that could not be written, as near the recursion limit."""
    previous_crashes: int
    """Earlier runs without a clean end that this start has found and announced."""
    size: int
    """Bytes of the file, what faulthandler writes not included."""


class Recorder:
    """The recorder of this process, made by `start`. All methods may be called on any thread."""

    def __init__(self, pattern: str, slots: int, uses: int, leases: bool, fault: bool, keep: int) -> None:
        self._pattern, self._leases, self._fault, self._keep = pattern, leases, fault, keep
        self._pid = os.getpid()
        self._previous = 0
        self._before: list[hooks.Exchange] = []
        self._let_go: Callable[[], object] = list
        self._writer: Writer = Writer(pattern, slots, uses)
        self._text_to: Any = None

    @property
    def path(self) -> str:
        """The file's path."""
        return self._writer.path

    @property
    def running(self) -> bool:
        """Return True while it writes."""
        return _active is self

    def note(self, text: str) -> None:
        """Write `text`, of which some 230 bytes are kept, as a record of this thread: what the program was
        about to do. It takes room among the texts, each different one once. Raises nothing."""
        if _active is not self:
            return
        writer = self._writer
        frame = runtime.caller()
        try:
            site = 0 if frame is None else writer.site(frame.f_code, frame.f_lasti)
            writer.write(
                runtime.monotonic(), 0, 0, layout.NOTE, 0, 0, 0, writer.text(str(text), True), site, 0
            )
        except Exception:
            writer.dropped += 1

    def enter_thread(self) -> None:
        """Write the calling thread into the file and give it a signal stack there before its first record, so
        that the address of a crash on it is known. Raises nothing."""
        if _active is self:
            try:
                self._writer.enter_thread()
            except Exception:
                self._writer.dropped += 1

    def write(
        self,
        operation: int,
        id: int,
        kind: str,
        *,
        flag: int = 0,
        text: str = "",
        frame: FrameType | None = None,
        address: int = 0,
        size: int = 0,
    ) -> None:
        """Write a record of an object that no manager has: one that is under `lifecycle.watch`. Raises
        nothing."""
        if _active is not self:
            return
        writer = self._writer
        try:
            site = 0 if frame is None else writer.site(frame.f_code, frame.f_lasti)
            name = writer.text(text, True) if text else 0
            kind_at = writer.text(kind)
            writer.write(runtime.monotonic(), id, kind_at, operation, flag, address, size, name, site, 0)
        except Exception:
            writer.dropped += 1

    def stats(self) -> RecorderStats:
        """Return what was written so far."""
        writer = self._writer
        return RecorderStats(
            writer.written,
            writer.left_uses,
            writer.left_names,
            writer.dropped,
            self._previous,
            writer.size,
        )

    def stop(self) -> None:
        """End the recording: the file says that it ended well. Stopping twice is stopping once."""
        global _active
        with _one:
            if _active is not self:
                return
            hooks.install(self._before)
            self._let_go()
            _active = None
            if self._text_to is not None:
                faulthandler.disable()
                self._text_to.close()
                self._text_to = None
            self._writer.end()
            runtime.not_at_exit(self._at_exit)

    def __repr__(self) -> str:
        return f"<Recorder {self.path}: {'running' if self.running else 'stopped'}>"

    # -- from start to end -----------------------------------------------------------------------------------

    def _begin(self, child: bool = False) -> None:
        global _active
        if self._fault:
            self._watch_faults()
        found, (carry, self._let_go) = hooks.exchanges(self._writer, leases=self._leases)
        self._before = hooks.install(found)
        # What a child inherits is its parent's to release.
        if not child:
            carry()
        _active = self
        runtime.at_exit(self._at_exit)

    def _watch_faults(self) -> None:
        """Have faulthandler write behind the tables, and its stack for this thread be one of the file's."""
        writer = self._writer
        if faulthandler.is_enabled():
            writer.flag(layout.TEXT_IS_THE_PROGRAMS)
            return
        flags = os.O_WRONLY | os.O_APPEND | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
        # Kept open: faulthandler knows the descriptor's number only.
        self._text_to = os.fdopen(os.open(writer.path, flags), "ab", buffering=0)
        # Without the GIL one dump in twelve of all threads died in the middle.
        everybody = not runtime.free_threaded
        faulthandler.enable(self._text_to, all_threads=everybody)
        if hasattr(signal, "SIGTRAP") and hasattr(faulthandler, "register"):
            # How GLib ends a program at a CRITICAL (G_DEBUG=fatal-criticals).
            faulthandler.register(signal.SIGTRAP, self._text_to, all_threads=everybody, chain=True)
        native = threading.get_native_id()
        stack = writer.stacks.give(native, replace=True)
        if stack:
            writer.note_thread(native, stack)

    def _at_exit(self) -> None:
        runtime.exit_hook_runs = True
        if _active is self and os.getpid() == self._pid:
            self._writer.end()

    def _in_child(self) -> None:
        """Ahead of everything else in a forked child."""
        hooks.install(self._before)
        runtime.not_at_exit(self._at_exit)
        if self._text_to is not None:
            faulthandler.disable()
            if hasattr(faulthandler, "unregister") and hasattr(signal, "SIGTRAP"):
                faulthandler.unregister(signal.SIGTRAP)
            self._text_to.close()
            self._text_to = None
        self._writer.leave_to_parent()


_active: Recorder | None = None
_one = runtime.process_lock()


def _after_fork() -> None:
    global _active
    before, _active = _active, None
    if before is None:
        return
    before._in_child()
    if "{pid}" not in before._pattern:
        return
    parent = before._writer
    try:
        child = Recorder.__new__(Recorder)
        child._pattern, child._leases, child._fault = before._pattern, before._leases, before._fault
        child._keep, child._pid, child._before, child._text_to = before._keep, os.getpid(), [], None
        child._previous = 0
        child._writer = Writer(before._pattern, parent.slots, parent.uses, child=True)
        child._begin(child=True)
    except (RecorderError, OSError):
        # A child without a file is a child all the same (R1).
        _active = None


runtime.first_in_child.append(_after_fork)


def _before_signal(number: int) -> None:
    """The process ends now by a signal for which its managers were closed: in order, without exit hooks."""
    recorder = _active
    if recorder is not None and recorder._pid == os.getpid():
        recorder._writer.end(number)


runtime.before_signal.append(_before_signal)


def start(
    path: str | os.PathLike[str] | None = None,
    *,
    slots: int = SLOTS,
    uses: int = USES,
    leases: bool = True,
    fault: bool = True,
    keep: int = KEEP,
) -> Recorder:
    """Begin to record what this process does with its objects, and return the recorder.

    Parameters
    ----------
    path:
        Of the file, which is made; ``{pid}`` in it is the process's id. A taken path gets ``-1``, ``-2``, …
        before its suffix. None takes the environment's `LIFECYCLE_RECORDER`.
    slots:
        Records kept, a power of two from 1 024 on; 64 bytes each. An object writes three or four.
    uses:
        Leases and other accesses at a time that are written down; 32 bytes each.
    leases:
        False: registrations, closings, releases and views alone. Leases then cost what they do without.
    fault:
        Have faulthandler write into the file, unless it is enabled already, and the fault's address be kept.
    keep:
        How many files of earlier runs without a clean end are kept: the newest with the same path, whatever
        the process's id. Older ones, and those of runs that ended well, are removed now. Of this user's files
        alone.

    Raises `RecorderError` where no such file can be made, or another recorder runs. An unclean end of an
    earlier run is logged, once, as ``lifecycle.previous_run``.
    """
    pattern = files.text_of(path) if path is not None else os.environ.get(VARIABLE, "")
    if pattern is None:
        raise RecorderError(f"start() takes the path of a file, such as 'camera-{{pid}}.rec', not {path!r}")
    if not pattern:
        raise RecorderError(f"no recorder without a path: give one, or set {VARIABLE}=camera-{{pid}}.rec")
    _check("slots", slots, 1024, layout.MOST_RECORDS)
    if slots & (slots - 1):
        raise RecorderError(f"slots={slots} is no power of two: {1 << slots.bit_length()} is the next")
    _check("uses", uses, 1, layout.MOST_USES)
    _check("keep", keep, 0, 10_000)
    with _one:
        if _active is not None:
            raise RecorderError(f"a recorder runs already, at {_active.path}: stop() it first")
        pattern = os.path.abspath(pattern)
        fresh = files.tidy(pattern, keep)
        recorder = Recorder(pattern, slots, uses, leases, fault, keep)
        recorder._previous = len(fresh)
        recorder._begin()
    for run in fresh:
        _announce(run)
    return recorder


def _check(name: str, value: object, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise RecorderError(f"{name}= is a whole number from {least:,} to {most:,}, not {value!r}")


def _announce(run: files.PreviousRun) -> None:
    with sparing():
        logger().error(
            "lifecycle.previous_run",
            pid=run.pid,
            path=run.path,
            ended=run.ended,
            remedy=f"lifecycle postmortem {run.path}"
            + (
                ""
                if run.crash
                else "; if it was SIGTERM, manager.close_on(signal.SIGTERM) has it end in order"
            ),
        )


def start_from_environment() -> None:
    """`start` as `LIFECYCLE_RECORDER` asks for. It is set by whoever runs the program, perhaps for all
    programs, so what is wrong with it is logged and not raised."""
    if _active is not None or is_command_line():
        return
    try:
        start()
    except RecorderError as error:
        with sparing():
            logger().error("lifecycle.recorder", error=str(error))


def active() -> Recorder | None:
    """Return the recorder that runs, None if there is none."""
    return _active
