"""Exports: memory that was given to foreign code without a Python reference, and that it gives back by a mark
in memory.

**The problem.** A tensor that was handed to another library holds its memory, and the other library says
that it is done by calling a function: on any thread, under its locks, after the interpreter has ended. A
function of Python there dies or deadlocks.

**The idea.** That function is written in C and leaves a mark in memory, and an `Export` holds the pin until
Python code has seen the mark. The mark wakes no thread. So a thread that waits for an object checks (the
exports stand among the timelines that are busy), `close` checks its own object, and so do pools, a
registration at a limit, the next export and the keeper.

**One table for each object** that has ever been exported, by the object's id. It stays, also when empty,
until the object has no holder. A thread that enters an export holds the pin meanwhile, so its table stays. An
export is taken out by a pop, and only the thread that got it ends it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from lifecycle._core import runtime
from lifecycle._core.keeping import Uncopied
from lifecycle._core.record import Pin, Record
from lifecycle._core.release import nesting
from lifecycle._core.runtime import BRIEF_WAIT, Site, near_limit
from lifecycle._core.timelines import Order, busy

RUN_AT_MOST = 32
"""Releases that a sweep runs, of those that fell due."""

FEWEST = 64
"""So many exports after the last sweep the next one sweeps, or as many as were left then."""


class Export(Uncopied):
    """A pin that is held until foreign code has said that it is done. A subclass says how it is asked.

    ``over()`` is called at any time and on any thread, also by several at once, and answers at once: True
    when the memory is not used any more, for ever. ``ended()`` is called once after that, by one thread.
    Neither may raise or wait.
    """

    _remedy = "each export is of one use"

    __slots__ = ("__weakref__", "number", "pin", "site", "what")

    def __init__(self, pin: Pin, what: str) -> None:
        self.number: int = runtime.next_id()
        self.pin: Pin = pin
        self.what: str = what
        self.site: Site | None = runtime.site_of(runtime.caller(2))

    def over(self) -> bool:
        """Return True if the foreign code is done."""
        raise NotImplementedError

    def ended(self) -> None:
        """It was done, and the export has been taken out of the table."""

    def hand_out(self) -> None:
        """Hold the pin from now on, until `over`. May be repeated."""
        pin = self.pin
        try:
            record = pin.record
            of = exported.get(record.id)
            if of is None:
                of = exported.setdefault(record.id, ExportsOf(record))
            of[self.number] = self
            busy[id(EXPORTS)] = EXPORTS
        finally:
            pin = None  # type: ignore[assignment]  # K3
        EXPORTS.since += 1
        if EXPORTS.since >= EXPORTS.limit:
            sweep()

    def __str__(self) -> str:
        at = runtime.describe_site(self.site)
        return f"{self.what}{at and f' made at {at}'}"


class ExportsOf(dict[int, Export]):
    """The exports of one object that are out."""

    __slots__ = ("record",)

    def __init__(self, record: Record) -> None:
        super().__init__()
        self.record: Record = record


exported: dict[int, ExportsOf] = {}
"""By id: the objects that were exported and may still be held."""


class _Exports(Order):
    """All of them: stands among the timelines that waiting threads poll, and is never waited for itself."""

    _remedy = "there is one for the process"

    __slots__ = ("limit", "since")

    def __init__(self) -> None:
        self.name = "exports"
        self.generation = None
        self.since: int = 0
        self.limit: int = FEWEST

    def poll_from(self, generation: Any) -> int:
        """As `Order.poll_from`."""
        return sweep()

    def used(self) -> list[Record]:
        """Nothing: an export ends when its user lets go, as a view does, and not by itself."""
        return []

    def stalled(self, after: float, registry: Any) -> list[str]:
        """Nothing: an export may be as old as it likes."""
        return []


EXPORTS = _Exports()


def sweep(*, run: bool = True) -> int:
    """End every export that is over, and with `run` run a bounded number of the releases that fell due and
    may run on any thread. How many ended. Never blocks; nothing inside a garbage collection. Callable on any
    thread."""
    if runtime.collecting and runtime.in_collector():
        return 0
    places: set[Any] = set()
    try:
        EXPORTS.since = 0
        ended = left = 0
        for number in runtime.snapshot(exported):
            of = exported.get(number)
            if of is None:
                continue
            ended += _sweep(of, places)
            if of:
                left += len(of)
            elif runtime.is_dead(of.record):
                exported.pop(number, None)
        EXPORTS.limit = max(FEWEST, left)
        if not left:
            busy.pop(id(EXPORTS), None)
            if any(runtime.snapshot(exported.values())):  # meanwhile
                busy[id(EXPORTS)] = EXPORTS
        return ended
    finally:
        for place in places:
            if run and place.anywhere and place.mailbox and not near_limit() and not nesting():
                place.run_some(RUN_AT_MOST, BRIEF_WAIT)


def sweep_of(record: Record) -> int:
    """As `sweep`, of one object's, and nothing is run."""
    of = exported.get(record.id)
    if not of or (runtime.collecting and runtime.in_collector()):
        return 0
    return _sweep(of, set())


def _sweep(of: ExportsOf, places: set[Any]) -> int:
    ended = 0
    export: Export | None = None
    try:
        for number in runtime.snapshot(of):
            export = of.get(number)
            if export is None or not export.over():
                continue
            # K2; a number is never given again, so this is the one that was asked, or nothing.
            for export in iter(partial(of.pop, number, None), None):
                places.add(export.pin.record.place)
                export.ended()
                ended += 1
                break
        return ended
    finally:
        export = None  # K3
