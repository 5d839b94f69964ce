"""The life of a registered object, as one table of data.

Everything else asks this file: the code stores only what it decided (`Record.phase`, the door, the core),
`state_of` in `_core/describe.py` derives the state from it, the tests walk `TRANSITIONS` and the
documentation draws its diagram from it.

`VALID` objects may be used. A *shut* object may not, whatever happens to it next; it is `CLOSING` while it is
still held (`INVALID` when it was poisoned), `DUE` once it is not, and then its place releases it. What is
released by its own deallocation (`DROPPED`) is `KEPT` as long as it has other referrers.
"""

from __future__ import annotations

import enum
from types import MappingProxyType


class ObjectState(str, enum.Enum):
    """Where an object is in its life. Compares equal to its name in lower case (``ObjectState.VALID ==
    "valid"``)."""

    VALID = "valid"
    CLOSING = "closing"
    INVALID = "invalid"
    DUE = "due"
    KEPT = "kept"
    RELEASING = "releasing"
    RELEASED = "released"
    FAILED = "failed"
    STUCK = "stuck"
    DETACHED = "detached"
    ORPHANED = "orphaned"

    __hash__ = str.__hash__  # Enum's own is Python code, and states are looked up on every path

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
    DETACH = "detach"
    OWNER = "owner"

    __hash__ = str.__hash__  # Enum's own is Python code, and states are looked up on every path

    def __str__(self) -> str:
        return self.value


# The members once more as plain globals: looking one up in its Enum costs a fifth of a lease.
VALID = ObjectState.VALID
CLOSING = ObjectState.CLOSING
INVALID = ObjectState.INVALID
DUE = ObjectState.DUE
KEPT = ObjectState.KEPT
RELEASING = ObjectState.RELEASING
RELEASED = ObjectState.RELEASED
FAILED = ObjectState.FAILED
STUCK = ObjectState.STUCK
DETACHED = ObjectState.DETACHED
ORPHANED = ObjectState.ORPHANED
BY_CLOSE = Cause.CLOSE
BY_DROP = Cause.DROP

TRANSITIONS: MappingProxyType[ObjectState, frozenset[ObjectState]] = MappingProxyType(
    {
        VALID: frozenset({CLOSING, INVALID, DUE}),
        CLOSING: frozenset({DUE, DETACHED, ORPHANED}),
        INVALID: frozenset({DUE, ORPHANED}),
        # Stuck in a cleanup, before the release.
        DUE: frozenset({KEPT, RELEASING, STUCK, DETACHED, ORPHANED}),
        KEPT: frozenset({RELEASING, RELEASED, STUCK, ORPHANED}),
        RELEASING: frozenset({DUE, RELEASED, FAILED, STUCK}),  # back to DUE: a retry
        STUCK: frozenset({RELEASED}),  # a release that came back after its deadline
        RELEASED: frozenset(),
        FAILED: frozenset(),
        DETACHED: frozenset(),
        ORPHANED: frozenset(),
    }
)
"""Which state may follow which: every change that can be seen, by whoever looks often enough, and no other.
`lifecycle.testing.check_transitions` holds the code to it."""

ENDED: frozenset[ObjectState] = frozenset({RELEASED, FAILED, STUCK, DETACHED, ORPHANED})
"""The states in which the library will not touch the native object again (a late return from `STUCK` aside).
"""

POISONED: frozenset[Cause] = frozenset({Cause.INVALIDATE, Cause.PANIC})
"""The causes that make a shut object report `INVALID` instead of `CLOSING`."""
