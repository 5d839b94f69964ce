"""Finding the door of an object from its record: what every answer about an object starts from.

**The problem.** A record refers to its cell weakly, so that a dropped handle is a dropped object. In a
garbage cycle the collector clears weak references *before* the cycle's ``__del__`` methods, which may use the
handle and close it. While they run, and for good where one of them saves the handle, the record cannot find a
door that is open all the same. «Gone» and «cleared by the collector» look alike.

**The idea.** Record and cell share one object to which nothing else refers, the float of `Record.born`
(`Cell.life`). While two refer to it the cell lives, also when its weak references are cleared. So the record
always knows *whether* its door can be used (`is_open`). A door is shut by `Record.cause`, which every access
looks at, whether the cell was found or not. No other code may hold that float where another thread may run,
not even as the argument of a Python function: others take ``record.born + 0.0``, which is a new one.

The cell itself is found again (`cell_of`) by way of a handle where the call has one. Otherwise `gc` is asked
for the referrers of the core, once the collection is over. From then on the record has a weak reference that
works. An access by id in the midst of the collection gets a pin of its own on the core (`stand_in`): the
core, which is never garbage, is what the release waits for.
"""

from __future__ import annotations

import gc
import sys
import weakref
from typing import Any

from lifecycle._core import runtime
from lifecycle._core.record import Cell, Core, DoorRef, Pin, Record, raw_pin

getrefcount = sys.getrefcount


def _references_to_life(record: Any) -> int:
    return getrefcount(record.born)


def _sole_references_to_life() -> int:
    class Gone:
        __slots__ = ("born",)

    gone = Gone()
    gone.born = runtime.monotonic()  # type: ignore[attr-defined]
    return _references_to_life(gone)


SOLE_LIFE = _sole_references_to_life()
"""What `_references_to_life` says of a record whose cell is gone."""


def lives(record: Record) -> bool:
    """Return True if the cell of `record` lives: somebody has a handle, a garbage cycle perhaps."""
    return _references_to_life(record) > SOLE_LIFE


def is_open(record: Record) -> bool:
    """Return True if the door of `record` is open. Callable on any thread, inside a collection too."""
    if record.cause is not None:
        return False
    door = record.door
    return door is None or door() is not None or lives(record)  # no door yet: it is just being registered


class Root(weakref.ref[Pin]):
    """Keeps a core out of garbage once more, after its first root has let go of it: its callback takes it out
    of the roots."""

    __slots__ = ("__weakref__", "core")
    core: Core | None


def cell_of(record: Record, cell: Cell | None = None) -> Cell | None:
    """The cell behind `record`. None once it is gone, and where it cannot be found while a collection runs.
    `cell` is that of a handle, where one is at hand: the record knows it from now on."""
    door = record.door
    found = None if door is None else door()
    try:
        if found is not None or door is None:
            return found
        if cell is None or raw_pin(cell) is None:
            cell = None
            if runtime.collecting or not lives(record):
                return None
            cell = _search(record)
        if cell is not None:
            _know_again(record, cell)
        return cell
    finally:
        cell = found = None  # a kept traceback must keep nothing alive


def _search(record: Record) -> Cell | None:
    """Ask the collector, which looks through the whole heap."""
    core = record()
    pins = [] if core is None else gc.get_referrers(core)
    core = cell = pin = None
    try:
        while pins:
            pin = pins.pop()
            if type(pin) is Pin:
                cells = gc.get_referrers(pin)
                try:
                    for cell in cells:
                        if isinstance(cell, Cell) and raw_pin(cell) is pin:
                            return cell
                finally:
                    cells.clear()
        return None
    finally:
        pin = cell = None  # K3: before the call, behind which an interrupt may strike
        pins.clear()


def _know_again(record: Record, cell: Cell) -> None:
    """The collector has cleared the weak references on a cell, and on a pin, that live on: make new ones."""
    pin = core = None
    try:
        registry = record.kind.registry
        door = DoorRef(cell, registry.tell_drop)
        door.id = record.id
        record.door = door
        pin = raw_pin(cell)
        core = record()
        if pin is not None and core is not None and core() is None:
            root = Root(pin, registry.unroot)
            root.core = core
            registry.roots.add(root)
            record.more().root = weakref.ref(root)
    finally:
        cell = pin = core = None  # type: ignore[assignment]


def stand_in(record: Record) -> Pin | None:
    """A pin on the core of an object whose door is open but cannot be found; None once it is shut."""
    pin = None
    core = record()
    try:
        if core is None or not is_open(record):
            return None
        pin = Pin()
        pin.core = core
        pin.record = record
        record.made("stand_ins", list).append(weakref.ref(pin))
        return pin if record.cause is None else None  # who shuts it from here on finds the core held
    finally:
        core = pin = None


def stand_ins(record: Record) -> int:
    """How many pins beside that of the cell hold the core."""
    extra = record.extra
    return 0 if extra is None else sum(one() is not None for one in extra.stand_ins)
