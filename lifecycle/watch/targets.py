"""`watch`: what is to be watched, by name, at once or when its module is imported."""

from __future__ import annotations

import functools
import re
import sys
from types import ModuleType
from typing import Any

import attrs

from lifecycle.watch import sites
from lifecycle.watch.errors import WatchError
from lifecycle.watch.factories import served
from lifecycle.watch.imports import when_imported
from lifecycle.watch.journal import Told, journal
from lifecycle.watch.methods import Watching, exchange
from lifecycle.watch.monitoring import watch_calls

_FORM = re.compile(r"([^\W\d]\w*(?:\.[^\W\d]\w*)*):([^\W\d]\w*(?:\.[^\W\d]\w*)*)\.([^\W\d]\w*)")

NOT_YET = "its module was never imported"


@attrs.define
class Watched:
    """One class that is watched, or not."""

    module: str
    """The module's name."""
    cls: str
    """The class's name in it."""
    closer: str
    """Its closing method."""
    how: str = "not"
    """``methods``, ``factory``, ``calls``, or ``not``."""
    why: str = NOT_YET
    """Why not."""

    @property
    def name(self) -> str:
        """``module.Class``."""
        return f"{self.module}.{self.cls}"

    def _state(self) -> str:
        return self.how if self.how != "not" else f"not {self.why}"


def parse(target: str) -> Watched:
    """``module:Class.close`` taken apart. Raises `WatchError` for anything else."""
    match = _FORM.fullmatch(target) if isinstance(target, str) else None
    if match is None:
        raise WatchError(
            f"{target!r} names no class and closing method: write module:Class.close, as in h5py:File.close"
        )
    return Watched(match[1], match[2], match[3])


def watch(*targets: str, verbose: bool = False, to: str = "") -> tuple[Watched, ...]:
    """Watch classes from now on: objects that are used after their close, and objects that are never closed.

    Parameters
    ----------
    targets:
        Each ``module:Class.close``; the last name is the method that closes. A module that is not imported
        yet is watched when it is.
    verbose:
        Write what may be harmless as well, and a summary at the end.
    to:
        A file for what is told; standard error where it is empty.

    Returns what was asked for, each with how it is watched (``how``), or why not (``why``). Raises
    `WatchError` for what has another form. A watch lasts as long as the process. Give all closing methods of
    one class at the same time. May be called on any thread.
    """
    asked = [parse(target) for target in targets]
    journal.start(verbose, to)
    for one in asked:
        known = _classes.setdefault((one.module, one.cls), [])
        known.append(one)
        journal.watched[f"{one.name}"] = one._state
    for name in dict.fromkeys(one.module for one in asked):
        when_imported(name, functools.partial(_now, name=name))
    return tuple(asked)


def told() -> Told:
    """Return how much was told so far."""
    return Told(journal.mistakes, journal.risks, journal.count)


_classes: dict[tuple[str, str], list[Watched]] = {}


def _now(module: ModuleType, name: str) -> None:
    for (of, path), asked in list(_classes.items()):
        waiting = [one for one in asked if one.how == "not" and one.why == NOT_YET]
        if of != name or not waiting:
            continue
        how, why = _watch_class(module, path, [one.closer for one in waiting], waiting[0].name)
        for one in waiting:
            one.how, one.why = how, why
            if how == "not":
                journal.not_watched(one.name, why)


def _watch_class(module: ModuleType, path: str, closers: list[str], name: str) -> tuple[str, str]:
    found: Any = module
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            return "not", f"{module.__name__} has no {path}"
    if not isinstance(found, type):
        return "not", f"{name} is no class"
    for closer in closers:
        if not callable(getattr(found, closer, None)):
            return "not", f"{name} has no method {closer}"
    own = sys.modules.get(found.__module__, module)
    watching = Watching(found, name, set(closers), sites.package_of(own))
    if served(module, watching):
        return "factory", ""
    why = exchange(watching)
    if not why:
        return "methods", ""
    if why == "it is immutable":
        why = watch_calls(watching)
        if not why:
            return "calls", ""
    return "not", why
