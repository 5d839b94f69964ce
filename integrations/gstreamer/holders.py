"""Who holds a native object, for messages: also after its handle is closed, when nobody can be asked by it
any more."""

from __future__ import annotations

import gc

from lifecycle._core.holders import holders_of
from lifecycle._core.record import Pin, Record

__all__ = ["holders_of_record"]


def holders_of_record(record: Record) -> tuple[str, ...]:
    """Who holds an object, also after its handle is closed. Looks through the whole heap."""
    shares = record.kind.registry.shared.get(record.id)
    names = [f"{len(shares)} other share(s)"] if shares else []
    core = record()
    pin = None
    try:
        referrers = gc.get_referrers(core) if core is not None else []
        pin = next((one for one in referrers if type(one) is Pin), None)
        referrers.clear()
        if pin is not None:
            names.extend(holders_of(pin))
    finally:
        core = pin = None
    return tuple(names)
