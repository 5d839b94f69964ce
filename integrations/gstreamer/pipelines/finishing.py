"""Finishing: where a manager ends, everything that is to see the end of its stream does so before anything
goes to NULL, all of it on one deadline.

A part (a branch with ``eos=``, a pipeline with ``eos=``) is entered while it may have to be finished. The
first of them that the manager closes begins all, waits for all, and says what has not come to its end, with
the files it was writing to: in the report of the manager's end."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from typing import Any, Final, Protocol

from lifecycle import SafetyManager
from lifecycle.integrations.gstreamer._native import Gst
from lifecycle.integrations.gstreamer.errors import StateTimeout
from lifecycle.integrations.gstreamer.pipelines.figures import figures_of
from lifecycle.integrations.gstreamer.pipelines.guard import elements_of, pads_of
from lifecycle.lowlevel import monotonic, snapshot

__all__ = ["AtClose", "Part", "call_it", "enter_part", "files_of", "finish", "sinks_of", "tell_unfinished"]

SHARE: Final = 0.4
"""Of the manager's ``shutdown_timeout``, how much finishing may take."""


class Part(Protocol):
    """What is to be finished."""

    eos: float | None

    def begin_finish(self) -> Callable[[float], str]:
        """Send the end of the stream into it. Returns what waits for that, until a moment of `monotonic`, and
        says what has not come to its end, empty where all has."""


_parts: weakref.WeakKeyDictionary[SafetyManager, dict[int, weakref.ref[Any]]] = weakref.WeakKeyDictionary()
_next: Callable[[], int] = itertools.count(1).__next__


def enter_part(manager: SafetyManager, part: Part) -> Callable[[], object]:
    """From here on it may have to be finished, until what this returns is called."""
    parts = _parts.setdefault(manager, {})
    key = _next()
    parts[key] = weakref.ref(part)

    def leave() -> None:
        parts.pop(key, None)

    return leave


def finish(parts: list[Any], most: float = float("inf")) -> list[str]:
    """See that the stream ends in all of these, within the longest of their times; what has not come to its
    end."""
    began = monotonic()
    until = began + min(most, max((part.eos or 0.0 for part in parts), default=0.0))
    try:
        return [said for said in [wait(until) for wait in [part.begin_finish() for part in parts]] if said]
    finally:
        parts.clear()


def finish_all(manager: SafetyManager) -> None:
    """The manager ends: so do all its parts. Raises `StateTimeout` where one has not come to its end."""
    parts = _parts.get(manager, {})
    living = [part for ref in snapshot(parts.values()) if (part := ref()) is not None]
    parts.clear()
    unfinished = finish(living, SHARE * manager.config.shutdown_timeout)
    if unfinished:
        raise StateTimeout("; ".join(unfinished))


class AtClose:
    """What a manager calls at its end. Refers weakly to it."""

    def __init__(self, manager: SafetyManager) -> None:
        self._manager = weakref.ref(manager)

    def __call__(self) -> None:
        """Finish all of its parts."""
        manager = self._manager()
        if manager is not None:
            finish_all(manager)

    def __repr__(self) -> str:
        return "finishing what is recorded"


def call_it(function: Callable[[], object]) -> None:
    """``function()``, for `once_each`."""
    function()


def sinks_of(parent: Any) -> list[Any]:
    """The sinks in a bin, and in the bins in it."""
    return [element for element in elements_of(parent) if _is_sink(element)]


def _is_sink(element: Any) -> bool:
    return (
        not isinstance(element, Gst.Bin)
        and not pads_of(element, Gst.PadDirection.SRC)
        and bool(pads_of(element, Gst.PadDirection.SINK))
    )


def _file_sinks(parent: Any) -> list[Any]:
    return [element for element in sinks_of(parent) if element.find_property("location") is not None]


def files_of(parent: Any) -> str:
    """What its sinks write to, for messages."""
    return ", ".join(
        f"{element.get_name()} ({element.get_property('location')})" for element in _file_sinks(parent)
    )


def tell_unfinished(manager: SafetyManager, what: str, type_name: str, parent: Any, text: str) -> None:
    """Count and report what a part has not finished: the files of its sinks, or one thing where it has
    none."""
    figures_of(manager).not_finished(max(1, len(_file_sinks(parent))))
    manager.report_panic(what, StateTimeout(text), type_name=type_name)
