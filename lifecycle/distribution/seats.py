"""Who receives: where each receiver stands, and the roster of them all.

A receiver's `Standing` (position, received, missed) is one object that is replaced in one step, so its
figures always add up. The `Roster` is replaced as a whole too: a receiver is counted either among the open
ones or in the totals of its group.
"""

from __future__ import annotations

import weakref
from typing import Any

import attrs

from lifecycle.distribution.chain import Link
from lifecycle.distribution.policies import BlockPublisher, EvictAfter, KeepKeyFrames, Policy


class Standing(Link):
    """Where a receiver stands. Never changed: the next one is hung on it."""

    __slots__ = ("awaits_key", "cursor", "ended", "lags", "missed", "received")
    cursor: int
    """The number of the next frame. Always ``start + received + missed``."""
    received: int
    missed: int
    lags: int
    awaits_key: bool
    ended: str
    """Why it receives nothing any more, empty while it does."""


def standing(
    cursor: int, received: int, missed: int, lags: int = 0, awaits_key: bool = False, ended: str = ""
) -> Standing:
    """A `Standing`."""
    new = Standing()
    new.cursor = cursor
    new.received = received
    new.missed = missed
    new.lags = lags
    new.awaits_key = awaits_key
    new.ended = ended
    return new


class SeatRef(weakref.ref[Any]):
    """How the ring knows that a receiver was dropped: its callback is the C method that posts it. No code of
    ours runs there."""

    __slots__ = ("seat",)
    seat: Seat


class Seat:
    """A receiver, as the ring sees it."""

    __slots__ = ("__weakref__", "group", "name", "policy", "ref", "standing", "start")

    def __init__(self, name: str, group: str, policy: Policy, start: int, awaits_key: bool) -> None:
        self.name: str = name
        self.group: str = group
        self.policy: Policy = policy
        self.start: int = start
        self.standing: Standing = standing(start, 0, 0, awaits_key=awaits_key)
        self.ref: SeatRef | None = None

    def now(self) -> Standing:
        """Where it stands."""
        now = self.standing
        # `get` takes the dictionary's lock without the GIL, also to read; these do not.
        while None in now:
            now = now[None]
        return now

    def advance(self, seen: Standing, new: Standing) -> bool:
        """Replace `seen` by `new`; False when another was quicker."""
        if seen.setdefault(None, new) is new:
            self.standing = new
            return True
        return False


@attrs.frozen
class Totals:
    """What the receivers of a group that are gone have left behind."""

    published: int = 0
    received: int = 0
    missed: int = 0
    evictions: int = 0


EVICTED = "evicted"


@attrs.frozen
class Roster:
    """Who receives. Replaced as a whole, so a receiver is counted either among the open ones or in the
    totals."""

    seats: tuple[Seat, ...] = ()
    blocking: tuple[Seat, ...] = ()
    evicting: tuple[Seat, ...] = ()
    keep: int = 0
    totals: dict[str, Totals] = attrs.field(factory=dict)

    def of(self, seats: tuple[Seat, ...], totals: dict[str, Totals]) -> Roster:
        """A roster of these."""
        return Roster(
            seats,
            tuple(seat for seat in seats if isinstance(seat.policy, BlockPublisher)),
            tuple(seat for seat in seats if isinstance(seat.policy, EvictAfter)),
            max((seat.policy.keep for seat in seats if isinstance(seat.policy, KeepKeyFrames)), default=0),
            totals,
        )

    def with_seat(self, seat: Seat) -> Roster:
        """With one more."""
        return self.of((*self.seats, seat), {seat.group: Totals(), **self.totals})

    def without(self, seat: Seat) -> Roster:
        """With one less; what it had received stays in the totals of its group."""
        if not any(other is seat for other in self.seats):
            return self
        last = seat.now()
        old = self.totals.get(seat.group, Totals())
        total = Totals(
            old.published + last.cursor - seat.start,
            old.received + last.received,
            old.missed + last.missed,
            old.evictions + (last.ended == EVICTED),
        )
        seats = tuple(other for other in self.seats if other is not seat)
        return self.of(seats, {**self.totals, seat.group: total})
