"""Fault plans: which call of a function goes wrong, and how, decided beforehand."""

from __future__ import annotations

import functools
import itertools
import random
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import attrs

R = TypeVar("R")


@attrs.frozen
class Fault:
    """One way to go wrong. Made by `fails`, `takes` and `hangs`."""

    name: str
    """How a plan shows it."""
    before: BaseException | type[BaseException] | None = None
    """Raised instead of the call."""
    after: BaseException | type[BaseException] | None = None
    """Raised after the call has done its work."""
    seconds: float = 0.0
    """How long it takes before anything else; infinite: until `FaultPlan.let_go`."""


def fails(error: BaseException | type[BaseException], *, when: str = "before") -> Fault:
    """A call that raises `error`: `when` ``"before"`` it has done anything, or ``"after"`` it has done
    everything."""
    if when not in ("before", "after"):
        raise ValueError(f"fails(when=) takes 'before' or 'after', not {when!r}")
    kind = error if isinstance(error, type) else type(error)
    name = f"{kind.__name__} {when}"
    return Fault(name, before=error) if when == "before" else Fault(name, after=error)


def takes(seconds: float) -> Fault:
    """A call that takes so many seconds longer."""
    return Fault(f"takes {seconds:g} s", seconds=seconds)


def hangs() -> Fault:
    """A call that does not return before `FaultPlan.let_go`."""
    return Fault("hangs", seconds=float("inf"))


class FaultPlan:
    """Decides for each call of what it wraps whether and how it goes wrong.

    ``FaultPlan({3: fails(NotReleased), 7: hangs()})`` names calls by number, from 1; ``FaultPlan.random(seed,
    {hangs(): 0.001})`` draws, for each call the same in every run with that seed and that order of calls. One
    plan may wrap several functions: it counts their calls together. Everything may be called on any thread.
    """

    def __init__(self, faults: Mapping[int, Fault] | None = None) -> None:
        planned = dict(faults or {})
        for number, fault in planned.items():
            if not isinstance(number, int) or number < 1 or not isinstance(fault, Fault):
                raise ValueError(
                    f"a plan names calls from 1 on and what goes wrong, not {number!r}: {fault!r}"
                )
        self._choose: Callable[[int], Fault | None] = planned.get
        self._numbers = itertools.count(1)
        self._go_on = threading.Event()
        self.struck: deque[tuple[int, Fault]] = deque()
        """What went wrong so far: the call's number and how, in the order in which they began."""

    @classmethod
    def random(cls, seed: int, chances: Mapping[Fault, float]) -> FaultPlan:
        """A plan that draws: by fault, the chance with which a call meets it, together at most 1."""
        if not 0.0 <= sum(chances.values()) <= 1.0 or any(chance < 0 for chance in chances.values()):
            raise ValueError(f"chances lie between 0 and 1, together too: {list(chances.values())}")
        faults = list(chances.items())

        def choose(number: int) -> Fault | None:
            drawn = random.Random(f"{seed}/{number}").random()
            for fault, chance in faults:
                drawn -= chance
                if drawn < 0:
                    return fault
            return None

        plan = cls()
        plan._choose = choose
        return plan

    def wrap(self, function: Callable[..., R]) -> Callable[..., R]:
        """`function`, going wrong as planned: a release, a cleanup, a native function."""

        @functools.wraps(function)
        def faulty(*args: Any, **kwargs: Any) -> R:
            number = next(self._numbers)
            fault = self._choose(number)
            if fault is None:
                return function(*args, **kwargs)
            self.struck.append((number, fault))
            if fault.seconds:
                self._go_on.wait(None if fault.seconds == float("inf") else fault.seconds)
            if fault.before is not None:
                raise fault.before
            result = function(*args, **kwargs)
            if fault.after is not None:
                raise fault.after
            return result

        return faulty

    def let_go(self) -> None:
        """Let everything that hangs go on, now and from now on."""
        self._go_on.set()

    def count(self, fault: Fault) -> int:
        """How often `fault` struck so far."""
        return sum(one is fault or one == fault for _, one in list(self.struck))
