"""One source, any number of consumers, no copy: `FrameDistributor` and what belongs to it.

`chain` decides without a lock, `bells` wake, `ring` keeps what was published, `receiver` and `distributor` are the public faces,
`policies` say what happens to those who fall behind, `consuming` gives back what consumers have been given.
"""

from __future__ import annotations

from lifecycle.distribution.consuming import Derived, Sink, derived_from, with_release
from lifecycle.distribution.distributor import FrameDistributor
from lifecycle.distribution.figures import DistributorStats, GroupStats, ReceiverStats
from lifecycle.distribution.policies import (
    BlockPublisher,
    DropOldest,
    EvictAfter,
    KeepKeyFrames,
    LatestOnly,
    Policy,
)
from lifecycle.distribution.receiver import FrameReceiver
from lifecycle.distribution.sharing import Shareable

__all__ = [
    "BlockPublisher",
    "Derived",
    "DistributorStats",
    "DropOldest",
    "EvictAfter",
    "FrameDistributor",
    "FrameReceiver",
    "GroupStats",
    "KeepKeyFrames",
    "LatestOnly",
    "Policy",
    "ReceiverStats",
    "Shareable",
    "Sink",
    "derived_from",
    "with_release",
]
