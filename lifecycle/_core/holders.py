"""Who holds an object: by count, which is exact, and by name, as far as names can be had."""

from __future__ import annotations

import ctypes
import gc
import sys
from typing import Any, Literal

import attrs

from lifecycle._core import runtime
from lifecycle._core.budget import Budget
from lifecycle._core.describe import about, describe
from lifecycle._core.doors import cell_of, stand_ins
from lifecycle._core.dropped import raw_object
from lifecycle._core.exports import Export
from lifecycle._core.idioms import OURS, clear_frames
from lifecycle._core.leases import Lease
from lifecycle._core.record import Cell, Core, Held, Pin, Pins, Record, raw_pin
from lifecycle._core.referrers import MOST, named_referrers, reaches
from lifecycle._core.timelines import busy, poll_busy
from lifecycle._core.uses import Uses
from lifecycle._core.waiting import poll
from lifecycle.errors import HeldError

getrefcount = sys.getrefcount


def lease_of_thread(pin: Pin, ident: int) -> bool:
    """Return True if a lease or an access block of thread `ident` holds `pin`. Looks through the whole
    heap."""
    try:
        # A list, since an interrupt in a generator that is just being closed is printed and lost.
        return ident in [getattr(referrer, "_thread", None) for referrer in gc.get_referrers(pin)]
    finally:
        pin = None  # type: ignore[assignment]


def holders_of(pin: Pin) -> tuple[str, ...]:
    """Who refers to `pin`, in words. Looks through the whole heap: for errors and reports."""
    found: list[str] = []
    referrers: list[Any] = []
    referrer = None
    try:
        referrers = gc.get_referrers(pin)
        while referrers:
            referrer = referrers.pop()
            kind = _kind_of(referrer, pin)
            if kind is not None and not isinstance(referrer, Core):
                found.append(_words(kind, referrer))
        return tuple(found)
    except BaseException as error:
        # No decorator: see `in_words`.
        clear_frames(error.__traceback__, OURS)  # K3
        raise
    finally:
        pin = referrer = None  # type: ignore[assignment]
        referrers.clear()


budget = Budget()
"""For looking through the heap on behalf of errors."""

walks = Budget()
"""For those that say in full who holds what, and walk the heap several times for each holder: they take no
names from the others."""


def in_words(pin: Pin, *, kept: bool = False) -> tuple[str, ...]:
    """As `holders_of`; empty where the budget is spent, and where a pause is out of place (inside a
    collection, on threads marked with `never_wait`). With `kept`, also who keeps each of them."""
    found: list[str] = []
    referrers: list[Any] = []
    referrer = None
    try:
        if runtime.collecting or runtime.must_not_wait() or not budget.allows():
            return ()
        began = runtime.monotonic()
        referrers = gc.get_referrers(pin)
        while referrers:
            referrer = referrers.pop()
            kind = _kind_of(referrer, pin)
            if kind is not None and not isinstance(referrer, Core):
                found.append(str(_holder(kind, referrer, kept)))
        budget.spend(began)
        return tuple(sorted(found))
    except BaseException as error:
        # No decorator: the tuple of its arguments would be found as one more who holds the pin.
        clear_frames(error.__traceback__, OURS)  # K3
        raise
    finally:
        pin = referrer = None  # type: ignore[assignment]
        referrers.clear()


def held_error(record: Record, holders: tuple[str, ...], remedy: str) -> HeldError:
    """What a refused close, transfer or exclusive access raises."""
    return about(
        record,
        HeldError(
            f"{describe(record)} is held by "
            f"{', '.join(holders) or 'a holder that cannot be named'}. {remedy}",
            holders,
        ),
        holders,
    )


def pin_references(cell: Cell) -> int:
    """How many references there are to the pin behind an open door, this question's own included.

    What is counted is never a local variable, in here or in whoever asks: up to 3.12 a trace or profile
    function leaves a copy of the locals in each frame, which counts too.
    """
    return getrefcount(cell.behind)


def _sole_references() -> int:
    cell = Cell()
    cell.pin = Pin()
    return pin_references(cell)


SOLE_REFERENCES = _sole_references()
"""What `pin_references` returns when only the cell holds the pin. Differs between Python versions."""


def held(record: Record, cell: Cell) -> bool:
    """Return True if the object has a holder beside the cell, while it is open."""
    return pin_references(cell) > SOLE_REFERENCES or stand_ins(record) > 0


# -- in full, for reports and tests --------------------------------------------------------------------------

HolderKind = Literal[
    "lease", "access", "view", "child", "fence", "submission", "export", "share", "reference", "unknown"
]


@attrs.frozen
class Holder:
    """One that keeps an object from being released."""

    kind: HolderKind
    """``lease``, ``access`` (a `safe_access` block or an exclusive access), ``view``, ``child``, ``fence``,
    ``submission`` (work in flight on a `Timeline`), ``export`` (foreign code was handed the memory, by DLPack
    for one), ``share`` (another open handle), ``reference`` (to an object that is released by its own
    deallocation, `DROPPED`), or ``unknown``: a reference that is none of these."""
    what: str
    """Who it is."""
    where: tuple[str, ...] = ()
    """Who keeps it: frames by line, closures, tracebacks, containers, attributes, globals, as far as they can
    be found."""

    def __str__(self) -> str:
        return f"{self.what}, kept by {'; '.join(self.where)}" if self.where else self.what


def all_holders(record: Record, asking: object, *, named: bool = True) -> tuple[Holder, ...]:
    """All holders of the object of `record`, except the handle `asking`. With `named`, also what keeps each
    of them."""
    found: list[Holder] = []
    if runtime.free_threaded:
        runtime.collect()  # what other threads have let go is merged, so what is found is what is there
    core = record()
    pin = None if core is None else core()
    cell = cell_of(record, getattr(asking, "_cell", None)) if core is not None and pin is None else None
    try:
        if cell is not None:  # the collector has had it, and cleared the core's reference
            pin = raw_pin(cell)
        core = cell = None
        if pin is not None:
            referrers = gc.get_referrers(pin)
            while referrers:  # so that nothing of ours but this frame refers to the one that is looked at
                referrer = referrers.pop()
                kind = _kind_of(referrer, pin)
                if kind is not None:
                    found.append(_holder(kind, referrer, named))
                referrer = None
    finally:
        core = cell = pin = referrer = None
        referrers = []
    if record.extra is not None and record.extra.dropped is not None:
        found.extend(raw_references(record, named))
    for fence in list(record.extra.fences) if record.extra is not None else ():
        found.append(Holder("fence", fence_in_words(fence)))
    found.extend(_shares(record, asking, named))
    return tuple(sorted(found, key=lambda holder: (KINDS.index(holder.kind), holder.what)))


def raw_references(record: Record, named: bool) -> list[Holder]:
    """Who refers to an object that is released by its own deallocation: each keeps it from that."""
    box = [raw_object(record)]
    found: list[Holder] = []
    try:
        if box[0] is None:
            return []
        others = getrefcount(box[0]) - SOLE_BOXED - (record.obj is box[0])
        if others <= 0:
            return []
        names = named_referrers(box[0], frozenset((id(record), id(box)))) if named else ()
        found += [Holder("reference", name) for name in names]
        unseen = others - len(names)
        if unseen > 0 and len(names) < MOST:
            what = f"{unseen} more that Python cannot see" if names else f"{unseen} that Python cannot see"
            found.append(Holder("reference", what if named else f"{unseen} references"))
        return found
    finally:
        box.clear()


SOLE_BOXED = getrefcount([Pin()][0]) + 1
"""What `getrefcount(box[0])` says of what only the box refers to."""

KINDS: tuple[HolderKind, ...] = (
    "lease",
    "access",
    "view",
    "child",
    "fence",
    "submission",
    "export",
    "share",
    "reference",
    "unknown",
)


OF_VIEWS = {"pin", "site", "owner"}
"""What the array behind a view has as attributes."""


def _kind_of(referrer: Any, pin: Pin) -> HolderKind | None:
    """What a referrer of the pin is; None for the door, for frames of ours and for what looks for holders
    just now."""
    if isinstance(referrer, Lease):
        return "lease"
    if isinstance(referrer, (Record, Pins)):
        return "child"
    if isinstance(referrer, Uses):
        return "submission"
    if isinstance(referrer, Export):
        return "export"
    if isinstance(referrer, (ctypes.Array, Held)):
        return "view"
    if isinstance(referrer, dict) and referrer.get("pin") is pin:
        # Or the copy of a frame's variables that a trace function leaves up to 3.12: of ours, as the frame.
        return "view" if referrer.keys() <= OF_VIEWS else None
    if isinstance(referrer, Cell) or hasattr(referrer, "f_code"):
        return None
    if getattr(referrer, "_pin", None) is pin:
        return "access"
    return "unknown"


def _words(kind: HolderKind, referrer: Any) -> str:
    """A holder in words: ``view made at app.py:28``, ``lease of thread "decoder"``."""
    if kind == "child":
        child = referrer if isinstance(referrer, Record) else _child_with(referrer)
        try:
            return f"its child {describe(child)}" if child is not None else "a child of it and of others"
        except AttributeError:
            # Another thread is filling the record in.
            return "a child that is being registered"
    if kind in ("submission", "export"):
        return str(referrer)
    if kind == "view":
        if type(referrer) is Held:
            return f"view made at {runtime.describe_site(referrer[1])}" if referrer[1] is not None else "view"
        site = referrer.get("site") if isinstance(referrer, dict) else getattr(referrer, "site", None)
        return f"view made at {runtime.describe_site(site)}" if site is not None else "view"
    if kind in ("lease", "access"):
        thread = getattr(referrer, "_thread", None)
        return f"{kind} of thread {runtime.thread_name(thread)}" if isinstance(thread, int) else kind
    return f"a {type(referrer).__name__}"


def _child_with(pins: Pins) -> Record | None:
    """The record that holds these."""
    try:
        return next((each for each in gc.get_referrers(pins) if isinstance(each, Record)), None)
    finally:
        pins = None  # type: ignore[assignment]


def _behind_view(held: Any) -> Any:
    """What holds the pin for a view: a ctypes array, or the like; `held` itself where none is found.

    A function of its own and a plain loop: a closure would be found as one more who refers to it.
    """
    referrers = gc.get_referrers(held)
    each = None
    try:
        for each in referrers:
            if isinstance(each, ctypes.Array) or getattr(each, "_lifecycle_held", None) is held:
                return each
        return held
    finally:
        referrers.clear()
        held = each = None


def _holder(kind: HolderKind, referrer: Any, named: bool) -> Holder:
    """The holder, described."""
    what = _words(kind, referrer)
    if kind in ("child", "submission", "export"):
        return Holder(kind, what)
    target = None
    try:
        target = referrer
        if isinstance(referrer, (dict, Held)):
            target = _behind_view(referrer)
        return Holder(kind, what, named_referrers(target) if named else ())
    finally:
        referrer = target = None


def _shares(record: Record, asking: object, named: bool) -> list[Holder]:
    """The other open handles, and whether the object holds one itself: that never ends."""
    tokens = record.kind.registry.shared.get(record.id)
    others = sum(token > 0 for token in list(tokens)) - 1 if tokens else 0
    if not named:
        return [Holder("share", "another handle")] * max(0, others)
    # A plain loop: a comprehension that an interrupt strikes would keep the pin in its own frame.
    referrers = gc.get_referrers(record)
    handles: list[Any] = []
    each = None
    try:
        for each in referrers:
            if (
                hasattr(type(each), "_cell")
                and hasattr(each, "_token")
                and getattr(each, "_record", None) is record
            ):
                handles.append(each)
    except BaseException:
        handles.clear()
        raise
    finally:
        referrers.clear()
        each = None
    found: list[Holder] = []
    try:
        inside = reaches(record.obj, handles) or (
            record.release is not None and reaches(record.release, handles)
        )
        for handle in handles:
            if handle is asking or handle._cell.pin is None:
                continue
            what = "another handle"
            if inside and (reaches(record.obj, [handle]) or reaches(record.release, [handle])):
                what = (
                    "a handle that the object, or its release, holds itself: it is never dropped, so close it"
                )
            found.append(Holder("share", what, named_referrers(handle, frozenset((id(handles),)))))
        if inside and not any("itself" in holder.what for holder in found):
            found.append(
                Holder(
                    "unknown",
                    "the object, or its release, holds this very handle: it is never dropped, so close it",
                )
            )
        return found
    finally:
        handle = asking = None  # K3
        handles.clear()


def fence_in_words(fence: object) -> str:
    """A fence by its `repr`, as that of a holder."""
    return f"fence {_shown(fence)}"


def _shown(fence: object) -> str:
    try:
        return repr(fence)[:80]
    except Exception:
        return f"a {type(fence).__name__}"


def expect(record: Record, asking: object, wanted: dict[HolderKind, int], timeout: float) -> None:
    """Raise `HeldError` with all holders' names unless there are as many of each kind as `wanted`, at the
    latest after `timeout` seconds."""
    there: dict[HolderKind, int] = {}

    def as_wanted() -> bool:
        nonlocal there
        if busy:
            poll_busy()
        found = all_holders(record, asking, named=False)
        there = {kind: sum(holder.kind == kind for holder in found) for kind in wanted}
        return there == wanted

    try:
        if poll(as_wanted, timeout, first=0.002):
            return
        names = tuple(str(holder) for holder in all_holders(record, asking))
    finally:
        asking = None  # a kept error keeps nothing alive
    for rare in ("submission", "export"):  # said only where there is one
        if not there.get(rare) and not wanted.get(rare):
            there.pop(rare, None)
            wanted = {kind: number for kind, number in wanted.items() if kind != rare}
    raise about(
        record,
        HeldError(
            f"{describe(record)} has {_counted(there)} where {_counted(wanted)} were expected; it is held by "
            f"{', '.join(names) or 'nothing'}",
            names,
        ),
        names,
    )


def _counted(numbers: dict[HolderKind, int]) -> str:
    return ", ".join(f"{number} {kind if number == 1 else PLURALS[kind]}" for kind, number in numbers.items())


PLURALS: dict[HolderKind, str] = {
    "lease": "leases",
    "access": "accesses",
    "view": "views",
    "child": "children",
    "fence": "fences",
    "submission": "submissions",
    "export": "exports",
    "share": "other handles",
    "reference": "references",
    "unknown": "unknown references",
}
