"""Mappings of GStreamer's buffers under watch: what is not unmapped, unmapped twice, or outlives it.

That ``a`` is bound still behind the block in which ``a = np.frombuffer(info.data)`` was said is true of most
clean programs, and harmless until it is read: a risk. It is a mistake when it lives two mappings of the same
line later, which no loop does by accident.
"""

from __future__ import annotations

import ctypes
import weakref
from types import FrameType
from typing import Any

from lifecycle._core.views import _address_of
from lifecycle.watch import sites
from lifecycle.watch.journal import Seen, frame_here, journal
from lifecycle.watch.patches import quiet

WRITE = 2
"""Of ``Gst.MapFlags``."""
LATER = 2
"""Mappings of the same line."""

package = ""
"""What the paths of PyGObject begin with."""
make_safe = False
"""True if an unmapping waits for the last view."""


class Mapping:
    """One mapping."""

    __slots__ = ("buffer", "info", "number", "open", "seen", "view", "writes")
    seen: Seen
    number: int
    writes: bool
    buffer: int

    def __init__(self, seen: Seen, number: int, writes: bool, buffer: int) -> None:
        self.seen, self.number, self.writes, self.buffer = seen, number, writes, buffer
        self.open: bool = True
        self.info: Any = None
        self.view: Any = None
        """A weak reference to what every view and array of it keeps."""

    @property
    def where(self) -> str:
        """Where it was made and ended."""
        return (
            f"mapped at {sites.text(self.seen.site)}, unmapped at {sites.text(self.seen.closed or ('', 0))}"
        )

    def outlived(self) -> bool:
        """Return True if something of it is alive."""
        return self.view is not None and self.view() is not None


class Line:
    """The mappings of one line."""

    __slots__ = ("count", "kept", "risk_told", "told")
    told: bool
    risk_told: bool

    def __init__(self) -> None:
        self.count: int = 0
        self.kept: list[Mapping] = []
        self.told = self.risk_told = False


_mappings: dict[int, Mapping] = {}
_lines: dict[sites.Site, Line] = {}
_late: dict[int, tuple[Any, Any]] = {}
"""Unmappings that wait for a view."""
_types: dict[int, Any] = {}


def seen_at(name: str, frame: FrameType | None, address: int = 0, size: int = 0) -> Seen:
    """Something that is to be told of, in the flight recorder as well."""
    number = 0
    if journal.recorded is not None:
        number = journal.recorded.registered(name, frame, address, size)
    return Seen(name, sites.site(frame), False, number)


def map_(original: Any, args: Any, more: Any) -> Any:
    """Around ``map``."""
    result = original(*args, **more)
    _mapped(result, args, more)
    return result


@quiet
def _mapped(result: Any, args: Any, more: Any) -> None:
    ok, info = result
    if not ok:
        return
    flags = more["flags"] if "flags" in more else args[-1]
    writes = bool(int(flags) & WRITE)
    frame = sites.user(frame_here(2), package)
    data: Any = getattr(info, "data", None)
    array, address, size = None, 0, 0
    # Without gst-python's overrides it is a copy.
    owner: Any = data.obj if type(data) is memoryview else data
    if owner is None and data.nbytes:
        address, size = _address_of(data), data.nbytes
        bits = (size - 1).bit_length()
        kind = _types.get(bits) or _types.setdefault(bits, ctypes.c_ubyte * (1 << bits))
        array = kind.from_address(address)
        view = memoryview(array)[:size].cast("B")
        info.data = view.toreadonly() if data.readonly else view
        data.release()
    seen = seen_at(f"mapping of {type(args[0]).__name__}", frame, address, size)
    line = _lines.get(seen.site)
    if line is None:
        line = _lines.setdefault(seen.site, Line())
    line.count += 1
    mapping = Mapping(seen, line.count, writes, hash(args[0]))
    mapping.view = None if array is None else weakref.ref(array)
    key = id(info)

    def gone(_: object) -> None:
        if _mappings.get(key) is mapping:
            del _mappings[key]
            _forgotten(mapping, "")

    mapping.info = weakref.ref(info, gone)
    _mappings[key] = mapping
    journal.count += 1
    if line.kept:
        line.kept = [one for one in line.kept if one.outlived()]
        _outlives(line)


def _outlives(line: Line) -> None:
    old = next((one for one in line.kept if line.count - one.number >= LATER), None)
    if old is None or line.told:
        return
    line.told = True
    later = f"and kept over {line.count - old.number} more"
    journal.mistake(old.seen, f"a view outlives its mapping: {old.where}, {later}")


def _forgotten(mapping: Mapping, when: str) -> None:
    if mapping.open and not journal.ended:
        mapping.open = False
        journal.mistake(mapping.seen, f"never unmapped{when}: {mapping.seen.name} {mapping.seen.made}")


def unmap(original: Any, args: Any, more: Any) -> Any:
    """Around ``unmap``."""
    mapping = _about_to_unmap(*args)
    if mapping is not None and make_safe and _postponed(original, args, mapping):
        return True
    result = original(*args, **more)
    if mapping is not None:
        _unmapped(mapping)
    return result


@quiet
def _about_to_unmap(_: Any, info: Any) -> Mapping | None:
    mapping = _mappings.get(id(info))
    if mapping is None:
        return None
    where = sites.site(sites.user(frame_here(0), package))
    seen = mapping.seen
    if not mapping.open:
        first = sites.text(seen.closed or ("", 0))
        journal.mistake(
            seen, f"unmapped twice: {seen.name} {seen.made}: at {sites.text(where)}; first at {first}"
        )
        return None
    mapping.open = False
    seen.closed = where
    return mapping


@quiet
def _unmapped(mapping: Mapping) -> None:
    seen = mapping.seen
    if journal.recorded is not None:
        journal.recorded.closed(seen, sites.user(frame_here(0), package))
    if not mapping.outlived():
        return
    line = _lines[seen.site]
    line.kept.append(mapping)
    if not line.risk_told:
        line.risk_told = True
        journal.risk(seen, f"a view outlives its mapping: {mapping.where}")


@quiet
def _postponed(original: Any, args: Any, mapping: Mapping) -> bool:
    """Unmap when the last view goes. Returns False where there is none."""
    if type(args[1].data) is not memoryview or mapping.view is None:
        return False
    # The program's own, which unmapping would release.
    args[1].data.release()
    array = mapping.view()
    if array is None:
        return False
    key = id(mapping)

    def gone(_: object) -> None:
        late = _late.pop(key, None)
        # What the interpreter takes away at its end finds GStreamer half gone.
        if late is not None and not journal.ended:
            original(*late[0])

    _late[key] = (args, weakref.ref(array, gone))
    return True


class Memory:
    """``MapInfo.memory``, an attribute of the instance: what reads it behind the unmapping has the address of
    memory that the mapping does not hold any more."""

    def __get__(self, info: Any, owner: Any = None) -> Any:
        if info is None:
            raise AttributeError("type object 'MapInfo' has no attribute 'memory'")
        _asked(info)
        try:
            return vars(info)["memory"]
        except KeyError:
            raise AttributeError("'MapInfo' object has no attribute 'memory'") from None

    def __set__(self, info: Any, value: object) -> None:
        vars(info)["memory"] = value


@quiet
def _asked(info: Any) -> None:
    mapping = _mappings.get(id(info))
    if mapping is None or mapping.open:
        return
    where = sites.site(sites.user(frame_here(1), package))
    seen = mapping.seen
    if where in seen.said:
        return
    seen.said += (where,)
    journal.risk(seen, f"info.memory behind the unmapping: {mapping.where}: at {sites.text(where)}")


def writable(buffer: Any) -> tuple[bool, sites.Site] | None:
    """How a buffer that is pushed can still be written to: True through an open mapping, False through a view
    that outlives one; and where that was mapped. None where it cannot."""
    pointer = hash(buffer)
    found = None
    for mapping in list(_mappings.values()):
        if mapping.writes and mapping.buffer == pointer:
            if mapping.open:
                return True, mapping.seen.site
            if mapping.outlived():
                found = False, mapping.seen.site
    return found


def forget() -> None:
    """In a forked child."""
    _mappings.clear()
    _lines.clear()


def end() -> None:
    """Tell of what is mapped at the end."""
    for mapping in list(_mappings.values()):
        _forgotten(mapping, " before the end")
