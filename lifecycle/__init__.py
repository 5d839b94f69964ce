"""Native objects made safe under garbage collection.

Register an object of another library and it is released exactly once, at the right place, never while
anything still uses it.

Where what is, from what stands on the others to what they stand on (each folder lists its modules):

- `integrations`: adapters for GStreamer, event loops, GPUs and Prometheus (a link to the folder at the top)
- `__main__`, `cli`: ``python -m lifecycle``; the command line
- `watch`: classes of other libraries, in any program
- `testing`: leak checks, the pytest plugin, and adversaries, for tests
- `distribution`: one source shared by many, without a copy
- `pools`: lending again instead of releasing
- `proxies`: existing code, each call a lease
- `memory`: native bytes counted and limited
- `objects`: objects by their ids, with names, histories and families
- `inspection`: questions to a running process
- `recorder`: what is done, in a file that outlives the process
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

import functools as _functools
import os as _os
from importlib import import_module as _import_module
from os import environ as _environ
from typing import TYPE_CHECKING

from lifecycle._core.dropped import DROPPED
from lifecycle._core.exclusive import ExclusiveLease
from lifecycle._core.fence import Fence
from lifecycle._core.handle import Handle, WeakHandle
from lifecycle._core.holders import Holder
from lifecycle._core.leases import Lease
from lifecycle._core.place import ANY_THREAD, BACKGROUND
from lifecycle._core.runtime import never_wait
from lifecycle.config import SafetyConfig
from lifecycle.errors import (
    AccessError,
    AccessPanicError,
    AccessRefusedError,
    ClosedError,
    HeldError,
    Lagged,
    LifecycleError,
    NotReleased,
    RegistrationError,
)
from lifecycle.events import Event
from lifecycle.manager.finalizers import SafeFinalizer
from lifecycle.manager.manager import SafetyManager
from lifecycle.manager.manager import set_proxies as _set_proxies
from lifecycle.manager.stopping import StopToken
from lifecycle.places.queues import ReleaseQueue
from lifecycle.states import Cause, ObjectState
from lifecycle.stats import Health, ObjectInfo, SafetyStats, ShutdownReport, TypeStats

if TYPE_CHECKING:
    from lifecycle._core.submissions import Submission, Timeline
    from lifecycle.distribution.distributor import FrameDistributor
    from lifecycle.distribution.receiver import FrameReceiver
    from lifecycle.fences import EventFence, FutureFence
    from lifecycle.guards import CleanupGuard, CleanupStack, SharedCleanupGuard
    from lifecycle.memory.config import MemoryConfig
    from lifecycle.memory.manager import MemoryManager
    from lifecycle.objects import ObjectLifecycleManager
    from lifecycle.pools.buffers import BufferPool
    from lifecycle.pools.objects import ObjectPool
    from lifecycle.profiling import Profiler

if _os.path.exists(_os.path.join(_os.path.dirname(__file__), "lifecycle.py")):
    # Of the distribution `lifecycle` (0.6, of 2015), which installs into this very folder. Where it was
    # installed last instead, its `__init__` stands here, and cannot be imported on Python 3.
    raise ImportError(
        "the distributions lifecycle and native-lifecycle are both installed, and each has overwritten files "
        "of the other. Remove both and install this one: pip uninstall --yes lifecycle native-lifecycle && "
        "pip install native-lifecycle",
        name=__name__,
    )

# Loaded when first asked for: half of the import would be theirs, and few programs use all of them.
_LATER = {
    "BufferPool": "pools.buffers",
    "CleanupGuard": "guards",
    "CleanupStack": "guards",
    "EventFence": "fences",
    "FrameDistributor": "distribution.distributor",
    "FrameReceiver": "distribution.receiver",
    "FutureFence": "fences",
    "MemoryConfig": "memory.config",
    "MemoryManager": "memory.manager",
    "ObjectLifecycleManager": "objects",
    "ObjectPool": "pools.objects",
    "Profiler": "profiling",
    "SharedCleanupGuard": "guards",
    "Submission": "_core.submissions",
    "Timeline": "_core.submissions",
}
_MODULES = frozenset(
    {
        "distribution",
        "fences",
        "guards",
        "inspection",
        "lowlevel",
        "memory",
        "objects",
        "pools",
        "profiling",
        "proxies",
        "recorder",
        "watch",
    }
)
_set_proxies(_functools.cache(_functools.partial(_import_module, "lifecycle.proxies.making")))

if not TYPE_CHECKING:  # a checker would take every name for one of these

    def __getattr__(name: str) -> object:
        if name in _MODULES:
            return _import_module(f"lifecycle.{name}")
        if name not in _LATER:
            raise AttributeError(f"module 'lifecycle' has no attribute {name!r}")
        loaded = _import_module(f"lifecycle.{_LATER[name]}")
        return globals().setdefault(name, getattr(loaded, name))

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


del TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "ANY_THREAD",
    "BACKGROUND",
    "DROPPED",
    "AccessError",
    "AccessPanicError",
    "AccessRefusedError",
    "BufferPool",
    "Cause",
    "CleanupGuard",
    "CleanupStack",
    "ClosedError",
    "Event",
    "EventFence",
    "ExclusiveLease",
    "Fence",
    "FrameDistributor",
    "FrameReceiver",
    "FutureFence",
    "Handle",
    "Health",
    "HeldError",
    "Holder",
    "Lagged",
    "Lease",
    "LifecycleError",
    "MemoryConfig",
    "MemoryManager",
    "NotReleased",
    "ObjectInfo",
    "ObjectLifecycleManager",
    "ObjectPool",
    "ObjectState",
    "Profiler",
    "RegistrationError",
    "ReleaseQueue",
    "SafeFinalizer",
    "SafetyConfig",
    "SafetyManager",
    "SafetyStats",
    "SharedCleanupGuard",
    "ShutdownReport",
    "StopToken",
    "Submission",
    "Timeline",
    "TypeStats",
    "WeakHandle",
    "__version__",
    "never_wait",
]

if _environ.get("LIFECYCLE_RECORDER"):
    _import_module("lifecycle.recorder.recorder").start_from_environment()
if _environ.get("LIFECYCLE_INSPECT"):
    _import_module("lifecycle.inspection.server").serve_from_environment()
