"""Native objects made safe under garbage collection.

Register an object of another library and it is released exactly once, at the right place, never while
anything still uses it.

Where what is, from what stands on the others to what they stand on (each folder lists its modules):

- `integrations`: adapters for GStreamer, event loops, GPUs and Prometheus (a link to the folder at the top)
- `testing`: leak checks, the pytest plugin, and adversaries, for tests
- `distribution`: one source shared by many, without a copy
- `pools`: lending again instead of releasing
- `memory`: native bytes counted and limited
- `objects`: objects by their ids, with names, histories and families
- `profiling`: how long accesses take
- `facades`: what `memory` and `objects` have in common
- `lowlevel`: the public layer under pools, distribution, managers and every integration
- `manager`: what users call
- `guards`: actions instead of objects
- `fences`: how a device says that it has done
- `observe`: what is counted, watched and told, and the threads that do it
- `places`: the places with an owner where releases run
- `_core`: the object, its handle and its release; what must survive an interrupt at any bytecode
- `states`, `stats`, `events`, `config`, `errors`: the words in which all of them speak
"""

from lifecycle._core.exclusive import Exclusive
from lifecycle._core.handle import Handle, WeakHandle
from lifecycle._core.holders import Holder
from lifecycle._core.leases import Lease
from lifecycle._core.place import ANY_THREAD, BACKGROUND
from lifecycle._core.runtime import never_wait
from lifecycle._core.timelines import Timeline
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
    BudgetError,
    CallbackError,
    CircularCloseError,
    CleanupErrorGroup,
    CleanupPanicError,
    ClosedAccessError,
    ClosedError,
    ConfigError,
    DuplicateError,
    Empty,
    EvictedError,
    ExclusiveError,
    FenceError,
    ForeignHandleError,
    HeldError,
    Lagged,
    LeaseEndedError,
    LifecycleError,
    LimitError,
    NotLentError,
    NotReleased,
    OutOfMemoryError,
    OwnershipError,
    PoolError,
    PoolExhaustedError,
    PoolTimeoutError,
    QueueLostError,
    RegistrationError,
    ReturnedTwiceError,
    StaleUseError,
    UnknownObjectError,
    WrongThreadError,
)
from lifecycle.events import Event
from lifecycle.fences import EventFence, Fence, FutureFence, ProcessFence, fence_of_block
from lifecycle.guards import CleanupGuard, CleanupStack, SharedCleanupGuard
from lifecycle.manager.finalizers import SafeFinalizer
from lifecycle.manager.manager import SafetyManager
from lifecycle.manager.stopping import StopToken
from lifecycle.memory import MemoryConfig, MemoryManager, MemoryStats, MemoryTypeStats, Reservation
from lifecycle.objects import Family, ObjectLifecycleManager, ObjectStats, Transition
from lifecycle.places.queues import ReleaseQueue
from lifecycle.pools import Block, Buffer, BufferPool, Loan, ObjectPool, PoolReport, PoolStats
from lifecycle.profiling import Profiler, TypeProfile
from lifecycle.states import Cause, ObjectState
from lifecycle.stats import Health, Histogram, ObjectInfo, QueueStats, SafetyStats, ShutdownReport, TypeStats

__version__ = "0.1.0"

__all__ = [
    "ANY_THREAD",
    "BACKGROUND",
    "AccessError",
    "AccessPanicError",
    "AccessRefusedError",
    "Block",
    "BlockPublisher",
    "BudgetError",
    "Buffer",
    "BufferPool",
    "CallbackError",
    "Cause",
    "CircularCloseError",
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
    "EventFence",
    "EvictAfter",
    "EvictedError",
    "Exclusive",
    "ExclusiveError",
    "Family",
    "Fence",
    "FenceError",
    "ForeignHandleError",
    "FrameDistributor",
    "FrameReceiver",
    "FutureFence",
    "GroupStats",
    "Handle",
    "Health",
    "HeldError",
    "Histogram",
    "Holder",
    "KeepKeyFrames",
    "Lagged",
    "LatestOnly",
    "Lease",
    "LeaseEndedError",
    "LifecycleError",
    "LimitError",
    "Loan",
    "MemoryConfig",
    "MemoryManager",
    "MemoryStats",
    "MemoryTypeStats",
    "NotLentError",
    "NotReleased",
    "ObjectInfo",
    "ObjectLifecycleManager",
    "ObjectPool",
    "ObjectState",
    "ObjectStats",
    "OutOfMemoryError",
    "OwnershipError",
    "Policy",
    "PoolError",
    "PoolExhaustedError",
    "PoolReport",
    "PoolStats",
    "PoolTimeoutError",
    "ProcessFence",
    "Profiler",
    "QueueLostError",
    "QueueStats",
    "ReceiverStats",
    "RegistrationError",
    "ReleaseQueue",
    "Reservation",
    "ReturnedTwiceError",
    "SafeFinalizer",
    "SafetyConfig",
    "SafetyManager",
    "SafetyStats",
    "Shareable",
    "SharedCleanupGuard",
    "ShutdownReport",
    "Sink",
    "StaleUseError",
    "StopToken",
    "Timeline",
    "Transition",
    "TypeProfile",
    "TypeStats",
    "UnknownObjectError",
    "WeakHandle",
    "WrongThreadError",
    "derived_from",
    "fence_of_block",
    "never_wait",
    "with_release",
]
