"""Whether an object is kept by nothing but itself: by counting references, as the collector does.

The collector cannot see it, since the library's own record refers to the object for as long as there is a
handle. What it would find without that is found here: of all that the object reaches, those are counted that
lead back. If nothing else refers to any of them, the object will never be dropped.

References that cannot be seen, from C and from running frames, count as from outside. So the answer may be a
wrong «no», and is no wrong «yes» but for what another thread changes meanwhile: ask twice.
"""

from __future__ import annotations

import gc
import itertools
import sys
from collections import deque
from types import FrameType, FunctionType, MethodType, ModuleType
from typing import Any

from lifecycle._core.leases import Lease
from lifecycle._core.record import Cell, Core, Held, Pin, Record, raw_pin
from lifecycle._core.tables import ObjectType, Registry

REACH = 5_000
"""How many objects are looked through."""

getrefcount = sys.getrefcount


class Reach:
    """What can be reached from some objects, and by which way."""

    __slots__ = ("behind", "edges", "nodes", "number")

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.number: dict[int, int] = {}  # by identity: where it is in `nodes`
        self.edges: list[int] = []  # how many references to each come from others of them
        self.behind: list[list[int]] = []  # who refers to each

    def add(self, thing: Any, by: int) -> None:
        """Note a reference to `thing` from node `by`, -1 for one that is not looked at."""
        number = self.number.get(id(thing))
        if number is None:
            number = self.number[id(thing)] = len(self.nodes)
            self.nodes.append(thing)
            self.edges.append(0)
            self.behind.append([])
        self.edges[number] += 1
        if by >= 0:
            self.behind[number].append(by)
        thing = None

    def walk(self) -> bool:
        """Follow every reference; False where there are too many."""
        at = 0
        found: list[Any] = []
        try:
            while at < len(self.nodes):
                if len(self.nodes) > REACH:
                    return False
                if not isinstance(self.nodes[at], Record):
                    found = gc.get_referents(self.nodes[at])
                    while found:
                        if _leads_on(found[-1]):
                            self.add(found.pop(), at)
                        else:
                            found.pop()
                at += 1
            return True
        finally:
            found.clear()

    def outside(self, number: int) -> int:
        """How many references to a node come from elsewhere."""
        return getrefcount(self.nodes[number]) - SOLE_LISTED - self.edges[number]

    def leading_to(self, number: int) -> set[int]:
        """The nodes from which a way leads to this one."""
        found: set[int] = set()
        todo = [number]
        while todo:
            for one in self.behind[todo.pop()]:
                if one not in found:
                    found.add(one)
                    todo.append(one)
        return found

    def way(self, start: int, end: int) -> list[int]:
        """A shortest way between two nodes, both included."""
        before: dict[int, int] = {end: end}
        todo = deque((end,))
        while todo and start not in before:
            at = todo.popleft()
            for one in self.behind[at]:
                if one not in before:
                    before[one] = at
                    todo.append(one)
        way = [start]
        while way[-1] != end and way[-1] in before:
            way.append(before[way[-1]])
        return way


def _count_listed() -> int:
    reach = Reach()
    reach.nodes.append(Reach())
    reach.edges.append(0)
    return getrefcount(reach.nodes[0])


SOLE_LISTED = _count_listed()
"""What `getrefcount` says of an object that only a list holds."""


def _leads_on(thing: Any) -> bool:
    """Return True if a reference is followed. Modules, classes and managers lead everywhere, and plain data
    nowhere. What holds an object is not even touched: others count who does."""
    if not gc.is_tracked(thing) or type(thing) in leads_everywhere:
        return False
    return not isinstance(thing, _NOT_FOLLOWED) and not (type(thing) is dict and "__builtins__" in thing)


_NOT_FOLLOWED = (type, ModuleType, FrameType, Cell, Core, Held, ObjectType, Lease, Pin, Registry)
leads_everywhere: set[type] = set()
"""Types in layers above whose objects refer to every record: managers."""


def only_from_within(record: Record, others: int) -> bool:
    """Return True if the `others` references to the object of `record`, those beside the record's own, all
    come from what nobody but the object keeps."""
    reach = Reach()
    try:
        reach.add(record.obj, -1)
        if not reach.walk() or reach.edges[0] - 1 < others:
            return False
        return not any(reach.outside(number) for number in reach.leading_to(0) - {0})
    finally:
        reach.nodes.clear()


def keeps_itself(record: Record) -> str:
    """How an open object refers to its own handle, in words, if nothing else keeps a handle of it: such a
    handle is never dropped. Empty otherwise."""
    extra = record.extra
    reach = Reach()
    try:
        reach.add(record, -1)
        reach.add(record.obj, 0)
        if record.release is not None:
            reach.add(record.release, 0)
        if extra is not None:
            if extra.keep_alive:
                reach.add(extra.keep_alive, 0)
            if extra.cleanups:
                reach.add(extra.cleanups, 0)
        if not reach.walk():
            return ""
        handles = [
            number
            for number in reach.behind[0]
            if hasattr(type(reach.nodes[number]), "_token") and _is_open(reach.nodes[number])
        ]
        tokens = record.kind.registry.shared.get(record.id)
        shares = sum(token > 0 for token in list(tokens)) if tokens else 1
        if not handles:
            return ""
        leading = reach.leading_to(0) - {0}
        if any(reach.outside(number) for number in leading):
            return ""
        # A share that was dropped unclosed is still among them. Who asks the whole heap does it last.
        if len(handles) < shares and len(handles) < _open_handles(record):
            return ""
        return _words(reach, handles[0])
    finally:
        reach.nodes.clear()


def _is_open(handle: Any) -> bool:
    return raw_pin(handle._cell) is not None


def _open_handles(record: Record) -> int:
    """How many open handles of the object live."""
    referrers = gc.get_referrers(record)
    try:
        return sum(hasattr(type(one), "_token") and _is_open(one) for one in referrers)
    finally:
        referrers.clear()


def _words(reach: Reach, handle: int) -> str:
    """The way from an object, or its release, to its handle."""
    way = reach.way(0, handle)
    steps: list[str] = []
    for before, at in itertools.pairwise(way[1:]):
        step = _step(reach.nodes[before], reach.nodes[at])
        if step:
            steps.append(step)
    first = reach.nodes[way[1]] if len(way) > 1 else None
    try:
        if isinstance(first, MethodType):
            steps.insert(0, f"{type(first.__self__).__qualname__}.{first.__name__}")
        elif isinstance(first, FunctionType):
            steps.insert(0, f"{first.__qualname__}()")
        return " and ".join(dict.fromkeys(steps)) or type(first).__qualname__
    finally:
        first = None


def _step(one: Any, two: Any) -> str:
    """By which attribute `one` refers to `two`; empty for containers and the like."""
    try:
        if isinstance(two, dict) and getattr(one, "__dict__", None) is two:
            return ""  # the attribute itself comes next
        if isinstance(one, MethodType):
            return f"{type(two).__qualname__}.{one.__name__}"
        if isinstance(one, dict):
            for owner in gc.get_referrers(one):
                if getattr(owner, "__dict__", None) is one:
                    key = next((key for key, value in list(items(one)) if value is two), "")
                    return f"{type(owner).__qualname__}.{key}"
            return ""
        for name in _names(one):
            if getattr(one, name, None) is two:
                return f"{type(one).__qualname__}.{name}"
        return ""
    finally:
        one = two = None


def items(values: Any) -> Any:
    """The entries of a dict."""
    return values.items()


def _names(one: Any) -> list[str]:
    slots = [cls.__dict__.get("__slots__", ()) for cls in type(one).__mro__]
    names = [name for some in slots for name in ((some,) if isinstance(some, str) else tuple(some))]
    values = getattr(one, "__dict__", None)
    return [*names, *(list(values) if isinstance(values, dict) else ())]
