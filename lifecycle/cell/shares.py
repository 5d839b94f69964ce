"""Shares: who may still use the door of one object, and who shuts it as the last.

An object that was never shared has no entry in `Registry.shared`, and its only handle closes it by entering `SHUT`
there: one indivisible step. Otherwise the entry lists one positive token for each open share. A new share is first announced
by its negative token and becomes positive only if a share that it came from is still open *after* the announcement; whoever
takes the last token out shuts the door. So no share can be born into a shutting door, and none is shut with it, without a lock.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from lifecycle import _world
from lifecycle.cell.cell import Cell, Record, raw_pin, shut
from lifecycle.states import BY_CLOSE, ENDED

SHUT: dict[int, None] = {}
"""The shares of an object whose only share was closed. Never changed."""

FIRST_SHARE = 1
next_share: Callable[[], int] = itertools.count(FIRST_SHARE + 1).__next__


def give_back(tokens: dict[int, None], token: int) -> bool:
    """Take one share out of an object's open ones; True when none is left, and the door is the caller's to shut. Giving back
    twice is giving back once."""
    tokens.pop(token, None)
    return not tokens


def add_share(record: Record, cell: Cell, parent: int | None, token: int) -> bool:
    """Enter one more share, `token`, made from the share `parent` (None: from any that is open); False if none was open."""
    shared = record.kind.registry.shared
    tokens = shared.get(record.id)
    if tokens is None:
        tokens = shared.setdefault(record.id, {FIRST_SHARE: None})
    if tokens is SHUT or raw_pin(cell) is None or record.cause is not None:
        if record.phase in ENDED:
            shared.pop(record.id, None)  # it had been forgotten, with all its shares
        return False
    try:
        tokens[-token] = None
        if parent in tokens if parent is not None else max(_world.snapshot(tokens)) > 0:
            tokens[token] = None
            tokens.pop(-token, None)
            return True
        drop_share(record, cell, token)
        return False
    except BaseException:
        cell = None  # type: ignore[assignment]  # a kept traceback must keep nothing alive
        raise


def drop_share(record: Record, cell: Cell, token: int) -> None:
    """Take back a share that came to nothing, however far it had come. Whoever takes the last out shuts the door."""
    tokens = record.kind.registry.shared.get(record.id)
    if tokens is None or tokens is SHUT:
        return
    try:
        ours = tokens.pop(-token, 0) is None
        ours = tokens.pop(token, 0) is None or ours
        if ours and not tokens:
            shut(record, cell, BY_CLOSE, None)  # the closer saw our announcement and left the door to us
    finally:
        cell = None  # type: ignore[assignment]
