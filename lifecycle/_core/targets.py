"""Targets: what a call of the manager is about: a handle, an id, a proxy, or anything with a ``handle``."""

from __future__ import annotations

import weakref
from typing import Any, NoReturn

from lifecycle._core import runtime
from lifecycle._core.access import checked
from lifecycle._core.describe import about, describe
from lifecycle._core.doors import cell_of, stand_in
from lifecycle._core.exclusive import pin_or_refuse
from lifecycle._core.handle import Handle, set_parents_named
from lifecycle._core.keeping import ProxyType
from lifecycle._core.parents import together
from lifecycle._core.record import SHUT_CELL, Cell, Pin, Pins, Record
from lifecycle._core.tables import Registry
from lifecycle.errors import ForeignHandleError, LifecycleError, RegistrationError, UnknownObjectError, shown

registries: weakref.WeakSet[Registry] = weakref.WeakSet()
"""Those of every manager, so that an id which another one knows is told so."""


def record_of(registry: Registry, target: Any) -> Record:
    """The record that `target` names. Raises `UnknownObjectError`, or `ForeignHandleError` for another
    manager's."""
    if type(target) is int:
        record = registry.records.get(target)
        if record is None:
            _refuse_unknown(registry, target)
        return record
    handle = handle_of(target)
    if handle is None:
        raise UnknownObjectError(
            f"{shown(target)} is neither a handle, a proxy nor an id of manager {registry.name!r}"
        )
    record = handle._record
    target = handle = None  # a kept error keeps nothing alive
    check_mine(registry, record)
    return record


def pin_of(registry: Registry, target: Any) -> Pin:
    """The pin behind `target`; refused, counted and raised otherwise."""
    pin = cell = None
    try:
        record = record_of(registry, target)
        # Most are handles, which is seen without a call.
        handle = target if isinstance(target, Handle) else handle_of(target)
        cell = handle._cell if handle is not None else cell_of(record)
        pin = cell.pin if cell is not None else None
        if pin is None or record.cause is not None:
            pin = stand_in(record) if cell is None else None
            if pin is None:
                pin = pin_or_refuse(record, cell, handle)
        cell = None
        return checked(pin) if record.kind.validate is not None else pin
    finally:
        pin = cell = target = handle = None


def handle_of(target: Any) -> Handle[Any] | None:
    """The handle that `target` is or has, or that is behind it; None for an id, and for a light child, which
    has none of its own."""
    if isinstance(target, Handle):
        return target
    if type(type(target)) is ProxyType:
        return target._lifecycle_handle if target._lifecycle_raw is None else None
    try:
        handle = getattr(target, "handle", None)
    except LifecycleError:  # of something that is closed, say
        raise
    except Exception:  # it answers no questions, so it has none
        return None
    return handle if isinstance(handle, Handle) else None


def cell_behind(target: Any) -> Cell | None:
    """The cell of the handle that `target` is or has; None for an id, and for a handle that is closed."""
    handle = handle_of(target)
    return None if handle is None or handle._cell is SHUT_CELL else handle._cell


def parents_of(registry: Registry, parent: Any) -> tuple[tuple[int, ...], Pin | Pins | None]:
    """What ``parent=`` names, a handle or a tuple or list of them: the ids, and what a record holds."""
    pins: list[Pin] = []
    ids = []
    pin = None
    try:
        for one in parent if type(parent) in (tuple, list) else (parent,):
            id, pin = parent_of(registry, one)
            if id not in ids:
                ids.append(id)
                pins.append(pin)
        return tuple(ids), together(tuple(pins))
    finally:
        pin = parent = one = None  # K3: before the call, behind which an interrupt may strike
        pins.clear()


set_parents_named(parents_of)


def parent_of(registry: Registry, parent: Any) -> tuple[int, Pin]:
    """The id and the pin that one handle or proxy in ``parent=`` names: of a light child, its parent's."""
    handle = parent._lifecycle_handle if type(type(parent)) is ProxyType else handle_of(parent)
    if handle is None:
        raise RegistrationError(f"parent= takes a handle or proxy of this manager, not {shown(parent)}")
    pin = None
    try:
        check_mine(registry, handle._record)
        pin = handle._cell.pin
        if pin is None or handle._record.cause is not None:
            pin = pin_or_refuse(handle._record, handle._cell, handle)
        return handle._record.id, pin
    finally:
        pin = parent = handle = None  # a kept error keeps nothing alive


def check_mine(registry: Registry, record: Record) -> None:
    """Raise `ForeignHandleError` unless the object is one of `registry`."""
    other = record.kind.registry
    if other is not registry:
        raise about(
            record,
            ForeignHandleError(
                f"{describe(record)} belongs to manager {other.name!r}, not to {registry.name!r}: use that "
                "manager, or register the object here"
            ),
        )


def _refuse_unknown(registry: Registry, id: int) -> NoReturn:
    for other in runtime.snapshot(registries):
        record = other.records.get(id)
        if record is not None:
            check_mine(registry, record)
    raise UnknownObjectError(
        f"manager {registry.name!r} knows no object {id}: it was never registered here, or it ended and its "
        f"record has expired (state_retention is {registry.config.state_retention:g} s, max_retained "
        f"{registry.config.max_retained})"
    )
