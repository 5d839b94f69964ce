"""One action: the list it lies in until it is run, the process it belongs to, and what becomes of one that
was forgotten."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import FunctionType
from typing import Any

from lifecycle._core import runtime
from lifecycle._core.checks import DEFERRED, DEFERRED_BODY, refuse_deferred
from lifecycle.lowlevel import after_fork, complain, run_apart

__all__ = [
    "DEFERRED",
    "DEFERRED_BODY",
    "forgotten",
    "left",
    "made_at",
    "process",
    "refuse_deferred",
    "refuse_near_limit",
    "run_apart",
    "run_left",
    "run_slot",
]


class _Process:
    """This process, as guards see it."""

    __slots__ = ("__weakref__", "generation")

    def __init__(self) -> None:
        self.generation: int = 0
        """How many forks lie between this process and the one that imported us."""

    def forked(self) -> None:
        self.generation += 1


process: _Process = _Process()
after_fork(process.forked)

_ROOM: Any = ((((int,),),),)
"""``isinstance(None, _ROOM)`` raises `RecursionError` where taking the action out could be cut short behind
the taking."""


def run_slot(slot: list[Callable[[], object]], generation: int) -> bool:
    """Run the action in `slot`, if it is there still; True when it was this call that ran it."""
    if generation != process.generation:
        slot.clear()  # it is the parent process's to run
    if not slot:
        return False
    fn = None
    try:
        isinstance(None, _ROOM)
        for fn in iter(slot.pop, None):
            result = fn()
            if result is not None and type(result) in DEFERRED:
                refuse_deferred(result, f"the cleanup {fn!r}")
            return True
    except IndexError:
        if fn is not None:
            raise  # its own
    except RecursionError as error:
        if type(fn) is FunctionType and error.__traceback__.tb_next is None:  # type: ignore[union-attr]
            # The limit struck before its first line: it is still to come. Not even a call is sure here, so a
            # slice is assigned.
            slot[:] = [fn]
        raise
    finally:
        fn = result = None
    return False


def refuse_near_limit() -> None:
    """Raise `RecursionError` where so little recursion is left that the action of a dropped guard could be
    cut short."""
    # At interpreter exit the modules may be empty already.
    if runtime is not None:
        runtime.refuse_near_limit("the cleanup of a guard that was dropped")


def forgotten(
    source: object,
    run: Callable[[], object] | None,
    text: str,
    warn: Callable[..., None] = warnings.warn,
    sparing: Callable[[], Any] = runtime.sparing,
) -> None:
    """A guard died with its action still in it: run that (apart, if this is the collector), and warn,
    whatever it raises. Raises `RecursionError`, and has run nothing, where so little recursion is left that
    the action could be cut short.

    `warn` and `sparing` are bound here since at interpreter exit the modules may be empty already.
    """
    refuse_near_limit()
    try:
        if run is not None and not (
            runtime is not None and runtime.collecting and runtime.in_collector() and runtime.run_apart(run)
        ):
            run()
    finally:
        run = None
        with sparing():
            warn(text, ResourceWarning, stacklevel=3, source=source)


Left = tuple[Callable[..., object], tuple[Any, ...], str, Any]
"""What is called, with what, for a guard of which kind, and where that was made."""

left: list[Left] = []
"""Actions of guards that were dropped at the recursion limit. They are put in by a slice assignment, which is
no call."""


def run_left() -> None:
    """Run what is in `left`. Where no thread could be started for it, who makes the next guard calls this, or
    the end of the interpreter."""
    if runtime.near_limit():
        return
    while left:
        try:
            for run, args, kind, site in iter(left.pop, None):
                try:
                    run(*args)
                finally:
                    with runtime.sparing():
                        warnings.warn(
                            f"a {kind}{made_at(site)} was dropped at the recursion limit without `with` or "
                            "close(): its cleanup ran only now, on another thread",
                            ResourceWarning,
                            stacklevel=2,
                        )
        except IndexError:  # another thread took the last
            return
        except Exception:
            complain()


runtime.last_at_exit.append(run_left)


def made_at(site: Any) -> str:
    """Where a guard was made, for messages; nothing where that cannot be told any more."""
    try:
        return f" (made at {runtime.describe_site(site)})"
    except Exception:  # the modules may be empty at interpreter exit
        return ""
