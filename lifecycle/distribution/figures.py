"""What a distributor knows of itself: frozen snapshots. For every receiver, group and distributor ``published
== received + missed + lag``, whatever races and interrupts there were, since a receiver's three figures and
its position change in one step."""

from __future__ import annotations

from collections.abc import Mapping

import attrs


@attrs.frozen
class ReceiverStats:
    """One receiver's figures at one moment."""

    name: str
    group: str
    published: int
    """Frames published since it subscribed (until it closed)."""
    received: int
    missed: int
    """Frames it will never get: overwritten, skipped, shut by their owner before it came to them, or unread
    when it closed."""
    lags: int
    """How often it was found to have fallen behind."""
    lag: int
    """Frames published and neither received nor missed yet."""
    ended: str
    """Why it ended, empty while it is open."""


@attrs.frozen
class GroupStats:
    """The figures of all receivers of one group, those that are gone included."""

    group: str
    receivers: int
    """Open receivers now."""
    published: int
    received: int
    missed: int
    lag: int
    """The largest lag in the group now."""
    evictions: int


@attrs.frozen
class DistributorStats:
    """A distributor's figures at one moment."""

    name: str
    capacity: int
    published: int
    """Frames published."""
    held: int
    """Frames that it keeps now: at most `capacity`, and the overwritten key frames that `KeepKeyFrames` asks
    for."""
    receivers: int
    closed: bool
    close_failures: int
    """Shares whose ``close()`` raised."""
    groups: Mapping[str, GroupStats]
