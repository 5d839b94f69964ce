"""What is known of each object that is watched, and what is told of it.

A *mistake* is certain: a call behind the close that raised, or an object that is gone, or there at the end,
and was never closed. A *risk* may be harmless: closing twice, closing on another thread, an object whose
close cannot have been seen. Mistakes are written at once, risks with `verbose` alone, each line with one
`os.write`: what is told when the program ends may come too late.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any

import attrs

from lifecycle.watch import sites

MOST = 1000
"""Reports that are written. Beyond that they are counted: a loop that does one thing wrong fills no disk."""
LOWEST_DESCRIPTOR = 700
"""Where the file, or the copy of standard error, lies, so that the program's own descriptors keep their
numbers."""


@attrs.frozen
class Told:
    """How much was told so far."""

    mistakes: int
    """What is certain."""
    risks: int
    """What may be harmless."""
    watched: int
    """Objects that were seen."""


class Seen:
    """One object."""

    __slots__ = (
        "by_del",
        "certain",
        "closed",
        "closing",
        "first",
        "name",
        "number",
        "ref",
        "said",
        "site",
        "thread",
        "told",
    )

    ref: Any
    """A weak reference to it, whose callback tells of it when it goes."""

    def __init__(self, name: str, site: sites.Site, first: bool, number: int) -> None:
        self.name: str = name
        self.site: sites.Site = site
        self.first: bool = first
        self.closed: sites.Site | None = None
        """Where it was closed."""
        self.closing: bool = False
        """Its first close was begun."""
        self.by_del: bool = False
        """Closed by its own `__del__`, not by the program."""
        self.certain: bool = True
        """Return True if each close of it would have been seen."""
        self.thread: int = threading.get_ident()
        self.number: int = number
        self.said: tuple[sites.Site, ...] = ()
        """Where it was used behind its close, as far as that was told."""
        self.told: bool = False

    @property
    def made(self) -> str:
        """Where it comes from."""
        return f"{'first seen' if self.first else 'made'} at {sites.text(self.site)}"


class Journal:
    """Everything that is watched in this process. All methods may be called on any thread, in the collector
    and in signal handlers; none raises an `Exception`, but for a full disk."""

    def __init__(self) -> None:
        self.seen: dict[int, Seen] = {}
        self.verbose: bool = False
        self.mistakes: int = 0
        self.risks: int = 0
        self.count: int = 0
        self.unseen: int = 0
        """Calls that could not be looked at."""
        self.at_end: list[Callable[[], object]] = []
        """What tells of more at the end."""
        self._to = -1
        self._path = ""
        """The file that is written to, empty for standard error."""
        self._file: tuple[int, int] | None = None
        """Device and inode of what is written to: a program that closes all descriptors, as a daemon does,
        may open a file of its own under the same number."""
        self._errors: tuple[int, int] | None = None
        """The same of standard error at the start."""
        self._lost = False
        """It was said that the file cannot be written to."""
        self._prefix = "lifecycle: "
        self.watched: dict[str, Callable[[], str]] = {}
        """What is watched, and how that stands."""
        self._not_watched: set[str] = set()
        """Of these that is said."""
        self._started = self._ended = False
        self._pid = os.getpid()
        self.recorded: Any = None
        """The journal's way into the flight recorder, None without one."""

    def start(self, verbose: bool, to: str) -> None:
        """Begin to write: to the file `to`, standard error where it is empty. Once."""
        self.verbose = self.verbose or verbose
        if self._started:
            return
        self._started = True
        self._errors = None if sys.__stderr__ is None else _file(2)
        if to:
            self._path = os.path.abspath(to)
            self._open()
        atexit.register(self._end)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._in_child)

    @property
    def ended(self) -> bool:
        """Return True when the end is told: what goes from then on goes with the interpreter."""
        return self._ended

    def _in_child(self) -> None:
        # What is there is the parent's to close, and was counted there.
        self.seen = {}
        self.mistakes = self.risks = self.count = 0
        self._prefix = f"lifecycle ({os.getpid()}): "

    # -- objects ---------------------------------------------------------------------------------------------

    def enter(self, made: Any, name: str, frame: FrameType | None, first: bool) -> Seen | None:
        """Note an object down, None where it takes no weak reference."""
        number = 0
        site = sites.site(frame)
        if self.recorded is not None:
            number = self.recorded.registered(name, frame)
        seen = Seen(name, site, first, number)
        key = id(made)
        table = self.seen

        def gone(_: object) -> None:
            table.pop(key, None)
            if table is self.seen:
                self.never_closed(seen, "")

        try:
            seen.ref = weakref.ref(made, gone)
        except TypeError:
            return None
        before = table.get(key)
        if before is not None and before.ref() is made:
            # Initialised again, or by a watched superclass: what is known from now on is what is told.
            before.told = True
        else:
            self.count += 1
        table[key] = seen
        return seen

    def closing(self, seen: Seen, method: str, frame: FrameType | None, user: FrameType | None) -> None:
        """The first close begins: nobody knows whether it comes back. So what is known is told before it."""
        seen.closing = True
        if in_del(frame):
            return
        if self.recorded is not None:
            self.recorded.closing(seen, user)
        if threading.get_ident() != seen.thread:
            if self.recorded is not None:
                self.recorded.risk(seen, f"{method} on another thread than the one that made it", user)
            text = f"closed on another thread: {seen.name} {seen.made}"
            self.risk(seen, f"{text}: at {sites.text(sites.site(user))}")

    def close(self, seen: Seen, site: sites.Site, frame: FrameType | None) -> None:
        """Note a close that is over."""
        if in_del(frame):
            seen.by_del = seen.closed is None
            seen.closing = False
            return
        if seen.closed:
            where = f"at {sites.text(site)}; closed at {sites.text(seen.closed)}"
            self.risk(seen, f"closed twice: {seen.name} {seen.made}: {where}")
            return
        seen.closed = site
        seen.by_del = False
        if self.recorded is not None:
            self.recorded.closed(seen, frame)

    def about_to(self, seen: Seen, method: str, frame: FrameType | None) -> None:
        """A method is called behind the close: nobody knows whether it comes back."""
        if self.recorded is not None:
            self.recorded.risk(seen, f"{method} behind its close", frame)

    def came_back(self, seen: Seen) -> None:
        """It came back, so the end of the process is not in it."""
        if self.recorded is not None:
            self.recorded.came_back(seen)

    def used_after(self, seen: Seen, method: str, site: sites.Site, what: str) -> None:
        """A call behind the close has raised."""
        if site in seen.said:
            return
        seen.said += (site,)
        self.mistake(
            seen,
            f"used after close: {seen.name} {seen.made}: {method} at {sites.text(site)} raised {what}; "
            f"closed at {sites.text(seen.closed or ('', 0))}",
        )

    def never_closed(self, seen: Seen, when: str) -> None:
        """An object is gone, or there at the end."""
        if seen.closed or seen.told or self._ended:
            return
        seen.told = True
        text = f"never closed{when}: {seen.name} {seen.made}"
        if seen.certain:
            self.mistake(seen, text)
        else:
            self.risk(seen, f"{text}, as far as was seen (a block that ended in an exception closes unseen)")

    # -- reports ---------------------------------------------------------------------------------------------

    def mistake(self, seen: Seen, text: str) -> None:
        """Tell what is certain."""
        self.mistakes += 1
        if self.recorded is not None:
            self.recorded.misuse(seen, text.partition(":")[0])
        if self.mistakes <= MOST:
            self.say(text)
        elif self.mistakes == MOST + 1:
            self.say(f"more than {MOST} mistakes: the others are counted alone")

    def risk(self, seen: Seen, text: str) -> None:
        """Tell what may be harmless."""
        self.risks += 1
        if self.verbose and self.risks <= MOST:
            self.say(f"risk: {text}")

    def not_watched(self, name: str, why: str) -> None:
        """Tell at once what cannot be watched: the end may not come."""
        if name not in self._not_watched and os.getpid() == self._pid:
            self._not_watched.add(name)
            self.say(f"not watched: {name}: {why}")

    def say(self, text: str) -> None:
        """Write one line."""
        if not self._path and sys.__stderr__ is None:
            # Closed before the start: under its number there may be a file of the program's.
            return
        line = "".join(one if one.isprintable() else "?" for one in f"{self._prefix}{text}") + "\n"
        try:
            there = self._to >= 0 and _file(self._to) == self._file
            if self._to < 0 or (self._path and not there):
                self._open()
                there = True
            if there:
                os.write(self._to, line.encode("utf-8", "backslashreplace"))
        except OSError as error:
            # The copy of standard error is closed: the program's own affair.
            if self._path and not self._lost:
                self._lost = True
                self._say_lost(error)

    def _say_lost(self, error: OSError) -> None:
        """Say once that the file takes nothing, as on a full disk: on standard error, if that is still what
        it was."""
        if self._errors is None or _file(2) != self._errors:
            return
        text = f"{self._prefix}what is found cannot be written to {self._path}: {error.strerror or error}"
        try:
            os.write(2, "".join(one if one.isprintable() else "?" for one in text).encode() + b"\n")
        except OSError:
            # Neither takes it: there is nobody left to tell.
            return

    def _open(self) -> None:
        """Write to the file, or to a copy of standard error, from now on."""
        low = 2
        if self._path:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)
            low = os.open(self._path, flags, 0o600)
        try:
            import fcntl

            copy = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, LOWEST_DESCRIPTOR)
        except (ImportError, AttributeError, OSError, ValueError):
            # No such call here, or no room up there.
            copy = low
        else:
            if self._path:
                os.close(low)
        self._file = _file(copy)
        self._to = copy

    def _end(self) -> None:
        """Tell of what is there still. Registered before the program's own exit functions, so it runs behind
        them; what goes after it goes with the interpreter."""
        for seen in list(self.seen.values()):
            if seen.ref() is not None:
                self.never_closed(seen, " before the end")
        for tell in self.at_end:
            tell()
        main = os.getpid() == self._pid
        for name, how in self.watched.items():
            unsaid = name not in self._not_watched and (main or self.verbose)
            if unsaid and how().startswith("not "):
                self.say(f"not watched: {name}: {how().removeprefix('not ')}")
        if self.unseen and (self.mistakes or self.verbose):
            self.say(f"not watched: {some(self.unseen, 'call')} that could not be looked at")
        if self.mistakes or self.verbose:
            told = [f"{name} ({how()})" for name, how in self.watched.items() if how()[:4] != "not "]
            counts = f"{some(self.mistakes, 'mistake')}, {some(self.risks, 'risk')}"
            self.say(f"{counts}; watched: {', '.join(told) or 'nothing'}")
        self._ended = True


def _file(descriptor: int) -> tuple[int, int] | None:
    """Device and inode, None for a descriptor that is closed."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def some(count: int, what: str) -> str:
    """``1 mistake``, ``2 mistakes``."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def in_del(frame: FrameType | None) -> bool:
    """Return True in an object's own `__del__`."""
    for _ in range(8):
        if frame is None:
            return False
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


journal: Journal = Journal()


def frame_here(depth: int) -> FrameType | None:
    """The frame `depth` above the caller's, None above the outermost."""
    try:
        return sys._getframe(depth + 1)
    except ValueError:
        return None
