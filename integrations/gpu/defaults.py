"""The default manager."""

from __future__ import annotations

from lifecycle import LifecycleError, SafetyManager

_made: dict[str, SafetyManager] = {}


def manager_or_default(manager: SafetyManager | None, name: str = "gpu") -> SafetyManager:
    """`manager`, or the one of this process that has this name: ``gpu`` for GPU objects. Raises
    `LifecycleError` for what is no manager."""
    if manager is not None:
        if not isinstance(manager, SafetyManager):
            raise LifecycleError(f"manager= takes a SafetyManager, not {manager!r}")
        return manager
    made = _made.get(name)
    if made is None or made.closed:
        if made is not None:
            _made.pop(name, None)
        made = _made.setdefault(name, SafetyManager(name=name))
    return made
