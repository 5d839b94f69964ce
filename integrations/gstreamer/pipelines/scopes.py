"""Scopes: which part of a pipeline an element lies in, so that what fails in a branch is told to that branch.

A branch of a tee ends alone (`sharing`). Its bin is entered here as long as it is attached; a listener that
gets an error can find the branch in which it happened, and whether the listener is inside that branch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lifecycle.integrations.gstreamer._native import pointer_of

__all__ = ["concerns", "enter_scope", "scope_name", "scope_of"]

_scopes: dict[int, None] = {}
"""The addresses of the bins. A branch keeps its bin alive while it is entered."""


def enter_scope(part: Any) -> Callable[[], object]:
    """Have the bin `part` be a scope of its own, until what this returns is called."""
    key = pointer_of(part)
    _scopes[key] = None
    return lambda: _scopes.pop(key, None)


def scope_of(element: Any) -> int:
    """The address of the innermost branch that `element` is, or lies in; 0 where it lies in none."""
    if not _scopes:
        return 0
    while element is not None:
        key = pointer_of(element)
        if key in _scopes:
            return key
        element = element.get_parent()
    return 0


def scope_name(element: Any) -> str:
    """The name of the innermost branch that `element` is, or lies in; empty where it lies in none."""
    while element is not None:
        if pointer_of(element) in _scopes:
            return str(element.get_name())
        element = element.get_parent()
    return ""


def concerns(source: Any, element: Any) -> bool:
    """Return True if what `source` reports is the business of `element`: it is, unless it happened in a
    branch in which `element` does not lie."""
    scope = scope_of(source)
    if not scope:
        return True
    while element is not None:
        if pointer_of(element) == scope:
            return True
        element = element.get_parent()
    return False
