"""What observers are told: one small frozen value per event.

Events are made by the keeper only, after it has counted them, and reach observers on the observer thread
(`observe/observers.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs


@attrs.frozen
class Event:
    """Something that happened to an object (or, with `id` 0, to the manager itself)."""

    kind: str
    """One of `LEVELS`."""
    manager: str
    id: int
    type_name: str
    name: str | None
    time: float
    """Unix time in seconds at which the keeper counted it."""
    fields: Mapping[str, Any] = attrs.field(factory=dict)
    """What else is known: ``cause``, ``reason``, ``error``, ``site``, ``duration`` (seconds), …"""
    source: object = attrs.field(default=None, repr=False, eq=False)
    """Of a leak: something that was allocated at the object's registration, for
    `tracemalloc.get_object_traceback`."""


LEVELS: Mapping[str, str] = {
    "registered": "debug",
    "closed": "debug",
    "released": "debug",
    "detached": "debug",
    "error": "info",
    "retry": "info",
    "orphaned": "warning",
    "late": "warning",
    "leak": "warning",
    "held_too_long": "warning",
    "returned": "info",
    "over_budget": "warning",
    "pressure": "info",
    "shutdown": "warning",
    "types_capped": "warning",
    "observer_failed": "error",
    "thread_interrupted": "error",
    "panic": "error",
    "failed": "error",
    "stuck": "error",
}
"""The log level of each kind; ``warning`` and above are always logged, the rest as the configuration says."""

FIELDS: Mapping[str, tuple[str, ...]] = {
    "registered": (),
    "closed": ("cause",),
    "released": ("cause", "duration", "reason"),
    "detached": ("cause", "duration", "reason", "count", "types"),
    "error": ("reason",),
    "retry": ("reason",),
    "orphaned": ("cause", "duration", "reason", "count", "types"),
    "late": ("reason",),
    "leak": ("site", "count", "accesses", "reason"),
    "held_too_long": ("site", "count", "accesses", "age"),
    "returned": ("held",),
    "over_budget": ("memory", "type", "size", "limit"),
    "pressure": ("memory", "bytes", "objects"),
    "shutdown": ("released", "failed", "stuck", "leaked", "errors", "running", "duration"),
    "types_capped": ("limit",),
    "observer_failed": ("hook", "event_kind", "error"),
    "thread_interrupted": ("thread", "error"),
    "panic": ("reason", "traceback"),
    "failed": ("cause", "duration", "reason", "count", "types"),
    "stuck": ("cause", "duration", "reason", "count", "types"),
}
"""What each kind may have beside ``manager``, ``id``, ``type`` and ``name``. Nothing empty is logged."""

LEAK_KINDS = frozenset({"leak", "held_too_long", "returned"})
"""What leak hooks are told of."""

FINALIZER_KINDS = frozenset({"released", "retry", "late"})
"""What `SafetyConfig.log_finalizers` switches on; `log_state_changes` switches on every other kind below
``warning``."""
