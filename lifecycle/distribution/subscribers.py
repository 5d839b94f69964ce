"""Who receives: where each receiver stands, and all of them together.

A receiver's `Position` (position, received, missed) is one object that is replaced in one step, so its
figures always add up. `Subscribers` is replaced as a whole too: a receiver is counted either among the
open ones or in the totals of its group.
"""

from __future__ import annotations

import weakref
from typing import Any

import attrs

from lifecycle.distribution.chain import Link
from lifecycle.distribution.policies import BlockPublisher, EvictAfter, KeepKeyFrames, Policy


class Position(Link):
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


def position(
    cursor: int, received: int, missed: int, lags: int = 0, awaits_key: bool = False, ended: str = ""
) -> Position:
    """A `Position`."""
    new = Position()
    new.cursor = cursor
    new.received = received
    new.missed = missed
    new.lags = lags
    new.awaits_key = awaits_key
    new.ended = ended
    return new


class SubscriptionRef(weakref.ref[Any]):
    """How the ring knows that a receiver was dropped: its callback is the C method that posts it. No code of
    ours runs there."""

    __slots__ = ("subscription",)
    subscription: Subscription


class Subscription:
    """A receiver, as the ring sees it."""

    __slots__ = ("__weakref__", "group", "name", "policy", "position", "ref", "start")

    def __init__(self, name: str, group: str, policy: Policy, start: int, awaits_key: bool) -> None:
        self.name: str = name
        self.group: str = group
        self.policy: Policy = policy
        self.start: int = start
        self.position: Position = position(start, 0, 0, awaits_key=awaits_key)
        self.ref: SubscriptionRef | None = None

    def now(self) -> Position:
        """Where it stands."""
        now = self.position
        # `get` takes the dictionary's lock without the GIL, also to read; these do not.
        while None in now:
            now = now[None]
        return now

    def advance(self, seen: Position, new: Position) -> bool:
        """Replace `seen` by `new`; False when another was quicker."""
        if seen.setdefault(None, new) is new:
            self.position = new
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
class Subscribers:
    """The receivers of one distributor. Replaced as a whole, so a receiver is counted either among the open
    ones or in the totals."""

    subscriptions: tuple[Subscription, ...] = ()
    blocking: tuple[Subscription, ...] = ()
    evicting: tuple[Subscription, ...] = ()
    keep: int = 0
    totals: dict[str, Totals] = attrs.field(factory=dict)

    def with_subscription(self, subscription: Subscription) -> Subscribers:
        """With one more. As `without` it copies tuples and looks at no other receiver, of which there may be
        thousands."""
        policy = subscription.policy
        one = (subscription,)
        return Subscribers(
            self.subscriptions + one,
            self.blocking + one if isinstance(policy, BlockPublisher) else self.blocking,
            self.evicting + one if isinstance(policy, EvictAfter) else self.evicting,
            max(self.keep, policy.keep) if isinstance(policy, KeepKeyFrames) else self.keep,
            {subscription.group: Totals(), **self.totals},
        )

    def without(self, subscription: Subscription) -> Subscribers:
        """With one less; what it had received stays in the totals of its group."""
        if subscription not in self.subscriptions:
            return self
        last = subscription.now()
        old = self.totals.get(subscription.group, Totals())
        total = Totals(
            old.published + last.cursor - subscription.start,
            old.received + last.received,
            old.missed + last.missed,
            old.evictions + (last.ended == EVICTED),
        )
        policy = subscription.policy
        subscriptions = _without(self.subscriptions, subscription)
        return Subscribers(
            subscriptions,
            _without(self.blocking, subscription),
            _without(self.evicting, subscription),
            _most_kept(subscriptions) if isinstance(policy, KeepKeyFrames) else self.keep,
            {**self.totals, subscription.group: total},
        )


def _without(some: tuple[Subscription, ...], subscription: Subscription) -> tuple[Subscription, ...]:
    """`some` without `subscription`, which is compared by identity."""
    if subscription not in some:
        return some
    at = some.index(subscription)
    return some[:at] + some[at + 1 :]


def _most_kept(subscriptions: tuple[Subscription, ...]) -> int:
    """How many key frames the receivers need at most."""
    return max((one.policy.keep for one in subscriptions if isinstance(one.policy, KeepKeyFrames)), default=0)
