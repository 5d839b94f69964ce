"""The manager of those who name none."""

from __future__ import annotations

from lifecycle import SafetyManager

_made: dict[None, SafetyManager] = {}


def manager_or_default(manager: SafetyManager | None) -> SafetyManager:
    """`manager`, or the one of this process for GPU objects, named ``gpu``."""
    if manager is not None:
        return manager
    made = _made.get(None)
    if made is None or made.closed:
        if made is not None:
            _made.pop(None, None)
        made = _made.setdefault(None, SafetyManager(name="gpu"))
    return made
