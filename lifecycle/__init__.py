"""Native objects made safe under garbage collection.

Register an object of another library and it is released exactly once, at the right place, never while anything still uses it.
"""

from lifecycle._world import never_wait
from lifecycle.config import SafetyConfig
from lifecycle.distribution import (
    BlockPublisher,
    Derived,
    DistributorStats,
    DropOldest,
    EvictAfter,
    FrameDistributor,
    FrameReceiver,
    GroupStats,
    KeepKeyFrames,
    LatestOnly,
    Policy,
    ReceiverStats,
    Shareable,
    Sink,
    derived_from,
    with_release,
)
from lifecycle.errors import (
    AccessError,
    AccessPanicError,
    AccessRefusedError,
    CallbackError,
    CleanupErrorGroup,
    CleanupPanicError,
    ClosedAccessError,
    ClosedError,
    ConfigError,
    DuplicateError,
    Empty,
    EvictedError,
    ExclusiveError,
    ForeignHandleError,
    HeldError,
    Lagged,
    LeaseEndedError,
    LifecycleError,
    LimitError,
    NotReleased,
    OwnershipError,
    RegistrationError,
    UnknownObjectError,
    WrongThreadError,
)
from lifecycle.events import Event
from lifecycle.exclusive import Exclusive
from lifecycle.finalizers import SafeFinalizer
from lifecycle.guards import CleanupGuard, CleanupStack, SharedCleanupGuard
from lifecycle.handle import Handle, WeakHandle
from lifecycle.leases import Lease
from lifecycle.manager import SafetyManager
from lifecycle.queues import ANY_THREAD, BACKGROUND, ReleaseQueue
from lifecycle.states import Cause, ObjectState
from lifecycle.stats import Health, Histogram, ObjectInfo, QueueStats, SafetyStats, ShutdownReport, TypeStats
from lifecycle.stopping import StopToken

__version__ = "0.1.0"

__all__ = [
    "ANY_THREAD",
    "BACKGROUND",
    "AccessError",
    "AccessPanicError",
    "AccessRefusedError",
    "BlockPublisher",
    "CallbackError",
    "Cause",
    "CleanupErrorGroup",
    "CleanupGuard",
    "CleanupPanicError",
    "CleanupStack",
    "ClosedAccessError",
    "ClosedError",
    "ConfigError",
    "Derived",
    "DistributorStats",
    "DropOldest",
    "DuplicateError",
    "Empty",
    "Event",
    "EvictAfter",
    "EvictedError",
    "Exclusive",
    "ExclusiveError",
    "ForeignHandleError",
    "FrameDistributor",
    "FrameReceiver",
    "GroupStats",
    "Handle",
    "Health",
    "HeldError",
    "Histogram",
    "KeepKeyFrames",
    "Lagged",
    "LatestOnly",
    "Lease",
    "LeaseEndedError",
    "LifecycleError",
    "LimitError",
    "NotReleased",
    "ObjectInfo",
    "ObjectState",
    "OwnershipError",
    "Policy",
    "QueueStats",
    "ReceiverStats",
    "RegistrationError",
    "ReleaseQueue",
    "SafeFinalizer",
    "SafetyConfig",
    "SafetyManager",
    "SafetyStats",
    "Shareable",
    "SharedCleanupGuard",
    "ShutdownReport",
    "Sink",
    "StopToken",
    "TypeStats",
    "UnknownObjectError",
    "WeakHandle",
    "WrongThreadError",
    "derived_from",
    "never_wait",
    "with_release",
]
