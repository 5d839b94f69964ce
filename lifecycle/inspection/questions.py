"""What may be asked of a process: each is a function that reads, is bounded, and says what it costs.

With a million objects ``managers`` stops no other thread for more than some milliseconds, ``old`` for some
30, and ``holders`` looks through the whole heap in C for about a second: above `MANY` objects it asks back
first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from lifecycle._core import runtime
from lifecycle.inspection.protocol import InspectionError
from lifecycle.manager.manager import SafetyManager, _managers
from lifecycle.states import ENDED

MANY = 100_000
"""Objects above which a walk through the heap is announced."""
SLICE = 5_000
"""Objects between two moments at which other threads may run."""
MOST_GROUPS = 50
MOST_HOLDERS = 100


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """Answer one request; raises `InspectionError` for what is none."""
    question = QUESTIONS.get(str(request.get("question")))
    if question is None:
        raise InspectionError(f"no such question; there are {', '.join(sorted(QUESTIONS))}")
    return question(request)


def _open_managers() -> list[SafetyManager]:
    return sorted((one for one in list(_managers) if not one.closed), key=lambda one: one.name)


def managers(request: Mapping[str, Any]) -> dict[str, Any]:
    """Each manager's figures, and the health of its threads."""
    found = []
    for manager in _open_managers():
        stats, health = manager.stats(), manager.health()
        found.append(
            {
                "manager": manager.name,
                "live": stats.active_objects,
                "registered": stats.total_objects,
                "released": stats.released,
                "healthy": health.ok,
                "problems": list(health.problems),
                "backlog": dict(health.backlog),
                "types": {
                    name: {"live": one.live, "bytes": one.bytes}
                    for name, one in list(stats.types.items())[:MOST_GROUPS]
                },
            }
        )
    return {"managers": found}


def old(request: Mapping[str, Any]) -> dict[str, Any]:
    """What has not ended, by type and by the line that registered it, the oldest first."""
    groups: dict[tuple[str, str, str], list[Any]] = {}
    now = runtime.monotonic()
    seen = 0
    for manager in _open_managers():
        records = manager._registry.records
        for id in runtime.snapshot(records):
            record = records.get(id)
            seen += 1
            if not seen % SLICE:
                time.sleep(0)
            if record is None or record.phase in ENDED or record.kind.component:
                continue
            key = (manager.name, record.kind.type_name, runtime.describe_site(record.site))
            group = groups.setdefault(key, [0, 0, 0.0, id])
            group[0] += 1
            group[1] += record.size
            group[2] = max(group[2], now - record.born)
    ordered = sorted(groups.items(), key=lambda item: -item[1][2])
    return {
        "groups": [
            {
                "manager": name,
                "type": kind,
                "site": site or None,
                "live": number,
                "bytes": size,
                "oldest": age,
                "first": id,
            }
            for (name, kind, site), (number, size, age, id) in ordered[:MOST_GROUPS]
        ],
        "more": max(0, len(ordered) - MOST_GROUPS),
    }


def holders(request: Mapping[str, Any]) -> dict[str, Any]:
    """Who keeps one object from its release. Walks the heap, for which the process stops."""
    id = request.get("id")
    if not isinstance(id, int) or isinstance(id, bool):
        raise InspectionError("holders is asked with the id of an object, a whole number")
    for manager in _open_managers():
        record = manager._registry.records.get(id)
        if record is None:
            continue
        many = len(manager._registry.records)
        if many > MANY and request.get("yes") is not True:
            raise InspectionError(
                f"the process has {many:,} objects, and this looks through its whole heap: it may stop for "
                f"{1.5 * many / 1e6 + 0.1:.1f} s. Ask with --yes if it may"
            )
        found = manager.holders(id)
        record = None
        return {
            "id": id,
            "manager": manager.name,
            "holders": [str(one) for one in found[:MOST_HOLDERS]],
            "more": max(0, len(found) - MOST_HOLDERS),
        }
    raise InspectionError(f"no open manager of this process knows an object {id}")


def topics(request: Mapping[str, Any]) -> dict[str, Any]:
    """The ends of topics between processes that are here: their figures, and who is at the other end."""
    found: list[dict[str, Any]] = []
    for manager in _open_managers():
        for component in manager.components():
            describe = getattr(component, "describe", None)
            # One that was closed may be somebody's still.
            if describe is not None and not component.closed:
                found.append({"manager": manager.name, **describe()})
    found.sort(key=lambda one: (one["topic"], one["end"]))
    return {"topics": found[:MOST_GROUPS], "more": max(0, len(found) - MOST_GROUPS)}


QUESTIONS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "managers": managers,
    "old": old,
    "holders": holders,
    "topics": topics,
}
