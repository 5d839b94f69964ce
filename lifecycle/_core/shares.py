"""Shares: which handles may still use an object, and which one closes it as the last.

An object that was never shared has no entry in `Registry.shared`, and its only handle closes it by entering
`SHUT` there: one indivisible step. Otherwise the entry lists one positive token for each open share. A new
share is first announced by its negative token and becomes positive only if a share that it came from is still
open *after* the announcement; the thread that takes the last token out closes the object. So no share is made
while the object closes, and none is closed with it, without a lock.

A handle that is dropped leaves its token behind, since nothing runs for it. Only the handle and the list
refer to that number, so `_sweep` can tell, also of a handle in a garbage cycle, which may be saved yet. The
oldest such token stays: an object of which a share was dropped is not shut by the last `close`, but goes with
its cell, as a leak.

A share may be set apart, for a consumer of what others consume too: a panic in `safe_access` through it
closes it, and does not invalidate the object. That is its token's value, which the shares made of it inherit.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from sys import getrefcount
from typing import Any

from lifecycle._core import runtime
from lifecycle._core.record import Cell, Record, shut
from lifecycle.states import BY_CLOSE, ENDED

FIRST_SHARE = 1
next_share: Callable[[], int] = itertools.count(FIRST_SHARE + 1).__next__

SHARED_NUMBERS = 256
"""Up to this the interpreter has one object for each number, to which others refer as well."""
SWEEP_FROM = 64
"""Tokens of one object, from which on those of dropped handles are looked for."""


APART = True
"""What the token of a share that is set apart says."""


class Tokens(dict[int, Any]):
    """The tokens of one object."""

    __slots__ = ("sweep_at",)
    sweep_at: int


def _first() -> Tokens:
    tokens = Tokens()
    tokens.sweep_at = SWEEP_FROM
    tokens[FIRST_SHARE] = None
    return tokens


SHUT = Tokens()
"""The shares of an object whose only share was closed. Never changed."""


def _dropped(tokens: Tokens, alone: int) -> list[int]:
    """The tokens that no handle has, the oldest first: at most `alone` references to them are counted.
    (Twice, since without the GIL a count may be torn while a reference goes from one thread to another.)"""
    return [
        token
        for token in runtime.snapshot(tokens)
        if token > SHARED_NUMBERS and getrefcount(token) <= alone and getrefcount(token) <= alone
    ]


def _count_alone() -> int:
    tokens = Tokens()
    tokens[int("1000")] = None
    return next(alone for alone in range(16) if _dropped(tokens, alone))


_ALONE = _count_alone()
"""How many references `_dropped` counts to a token that no handle has."""


def _sweep(tokens: Tokens) -> None:
    """Take out the tokens of handles that were dropped, but for the oldest."""
    for token in _dropped(tokens, _ALONE)[1:]:
        tokens.pop(token, None)
    tokens.sweep_at = 2 * len(tokens) + SWEEP_FROM


def _any_open(tokens: Tokens) -> bool:
    """Return True if a share is open. The oldest comes first, so this looks at the first token, as a rule."""
    try:
        return any(token > 0 for token in tokens)
    except RuntimeError:  # others change it meanwhile
        return max(runtime.snapshot(tokens)) > 0


def give_back(tokens: Tokens, token: int) -> bool:
    """Take one share out of an object's open ones; True when none is left, and the door is the caller's to
    shut. Giving back twice is giving back once."""
    tokens.pop(token, None)
    return not tokens


def add_share(record: Record, cell: Cell, parent: int | None, token: int) -> bool:
    """Enter one more share, `token`, made from the share `parent` (None: from any that is open); False if
    none was open."""
    shared = record.kind.registry.shared
    tokens = shared.get(record.id)
    if tokens is None:
        tokens = shared.setdefault(record.id, _first())
    if tokens is SHUT or cell.behind is None or record.cause is not None:
        if record.phase in ENDED:
            shared.pop(record.id, None)  # it had been forgotten, with all its shares
        return False
    try:
        announced = -token
        tokens[announced] = None
        if parent in tokens if parent is not None else _any_open(tokens):
            tokens[token] = tokens.get(parent)
            tokens.pop(announced, None)
            if len(tokens) > tokens.sweep_at:
                _sweep(tokens)
            return True
        drop_share(record, cell, token)
        return False
    except BaseException:
        cell = None  # type: ignore[assignment]  # a kept traceback must keep nothing alive
        raise


def drop_share(record: Record, cell: Cell, token: int) -> None:
    """Take back a share that came to nothing, however far it had come. The thread that takes the last one out
    closes the object."""
    tokens = record.kind.registry.shared.get(record.id)
    if tokens is None or tokens is SHUT:
        return
    try:
        ours = tokens.pop(-token, 0) is None
        ours = tokens.pop(token, 0) != 0 or ours
        if ours and not tokens:
            shut(record, cell, BY_CLOSE, None)  # the closer saw our announcement and left the door to us
    finally:
        cell = None  # type: ignore[assignment]


def set_apart(record: Record, token: int) -> None:
    """Set a share apart. For a share that was not handed out yet."""
    tokens = record.kind.registry.shared.get(record.id)
    if tokens is not None and token in tokens:
        tokens[token] = APART


def is_apart(record: Record, token: int) -> bool:
    """Return True if a share is set apart, and is not the last that is open."""
    tokens = record.kind.registry.shared.get(record.id)
    return tokens is not None and tokens.get(token) is APART and len(tokens) > 1
