"""One source, any number of consumers, no copy: `FrameDistributor` and what belongs to it.

- `distributor`, `receiver`: what users call: who publishes, and who receives
- `consuming`: consumers that are given frames, and give them back
- `ring`, `slots`: what was published, in order; the place of one frame in it
- `subscribers`: who receives, and where each stands
- `sharing`: what can be published
- `policies`: what happens to those who fall behind
- `chain`: deciding without a lock
- `crossing`: what the flight recorder is told of frames between processes
"""

from lifecycle.distribution.consuming import Derived, Sink, derived_from, with_release
from lifecycle.distribution.policies import (
    BlockPublisher,
    DropOldest,
    EvictAfter,
    KeepKeyFrames,
    LatestOnly,
    Policy,
)
from lifecycle.distribution.sharing import Shareable

__all__ = [
    "BlockPublisher",
    "Derived",
    "DropOldest",
    "EvictAfter",
    "KeepKeyFrames",
    "LatestOnly",
    "Policy",
    "Shareable",
    "Sink",
    "derived_from",
    "with_release",
]
