"""The life of a registered object, as one table of data.

Everything else asks this file: the code stores only what it decided (`Record.phase`, the door, the core), `state_of` in
`cell.py` derives the state from it, the tests walk `TRANSITIONS` and the documentation draws its diagram from it.

`VALID` objects may be used. A *shut* object may not, whatever happens to it next; it is `CLOSING` while somebody still holds
it (`INVALID` when it was poisoned), `DUE` once nobody does, and then its place releases it.
"""

from __future__ import annotations

import enum
from types import MappingProxyType


class ObjectState(str, enum.Enum):
    """Where an object is in its life. Compares equal to its name in lower case (``ObjectState.VALID == "valid"``)."""

    VALID = "valid"
    CLOSING = "closing"
    INVALID = "invalid"
    DUE = "due"
    RELEASING = "releasing"
    RELEASED = "released"
    FAILED = "failed"
    STUCK = "stuck"
    DETACHED = "detached"
    ORPHANED = "orphaned"

    def __str__(self) -> str:
        return self.value


class Cause(str, enum.Enum):
    """What shut the door of an object: the reason behind `CLOSING` and everything after it."""

    CLOSE = "close"
    UNREGISTER = "unregister"
    INVALIDATE = "invalidate"
    PANIC = "panic"
    DROP = "drop"
    EXIT = "exit"
    FORK = "fork"

    def __str__(self) -> str:
        return self.value


_S = ObjectState

TRANSITIONS: MappingProxyType[ObjectState, frozenset[ObjectState]] = MappingProxyType(
    {
        _S.VALID: frozenset({_S.CLOSING, _S.INVALID, _S.DUE, _S.DETACHED, _S.ORPHANED}),
        _S.CLOSING: frozenset({_S.VALID, _S.DUE, _S.ORPHANED}),  # back to VALID: close(held="refuse") that found a holder
        _S.INVALID: frozenset({_S.DUE, _S.ORPHANED}),
        _S.DUE: frozenset({_S.RELEASING, _S.ORPHANED}),
        _S.RELEASING: frozenset({_S.DUE, _S.RELEASED, _S.FAILED, _S.STUCK, _S.ORPHANED}),  # back to DUE: a retry
        _S.STUCK: frozenset({_S.RELEASED}),  # a release that came back after its deadline
        _S.RELEASED: frozenset(),
        _S.FAILED: frozenset(),
        _S.DETACHED: frozenset(),
        _S.ORPHANED: frozenset(),
    }
)
"""Which state may follow which."""

ENDED: frozenset[ObjectState] = frozenset({_S.RELEASED, _S.FAILED, _S.STUCK, _S.DETACHED, _S.ORPHANED})
"""The states in which the library will not touch the native object again (a late return from `STUCK` aside)."""

POISONED: frozenset[Cause] = frozenset({Cause.INVALIDATE, Cause.PANIC})
"""The causes that make a shut object report `INVALID` instead of `CLOSING`."""
