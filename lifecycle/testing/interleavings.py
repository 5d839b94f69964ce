"""Every order in which the steps of a few operations may follow each other.

Each operation has a thread, but only the one with the baton runs. Before every line of the code that is
looked at a thread may have to hand it on; which ones do is the schedule. Schedules are gone through
systematically: all with no switch but at the end of an operation, all with one switch more, with two.
(Bounding the switches, instead of sampling among all orders, follows Musuvathi and Qadeer, "Iterative context
bounding for systematic testing of multithreaded programs", PLDI 2007: nearly every fault that was ever found
so needs two at most.) With ``switches=None`` there is no bound, which is for operations of a few steps.

A run is the same each time, so a schedule that fails can be run again. Two things are not decided by the
baton: the library's own threads run when they like, and a thread that waits for another (in a lock, in a
queue) gives the baton up after a while, or it would wait for ever.
"""

from __future__ import annotations

import faulthandler
import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import attrs

from lifecycle.testing.interrupts import OpcodeTracing
from lifecycle.testing.where import Chooses, library, place_of

BLOCKED_AFTER = 0.05
"""Seconds without a step after which the thread with the baton is taken to wait for another."""
SPINS = 30
"""So often a thread may come by the same line with the baton in hand before another gets it: it waits in a
loop."""


@attrs.frozen
class Outcome:
    """How one operation ended."""

    result: object = None
    """What it returned, None if it raised."""
    error: BaseException | None = None
    """What it raised, None if it returned."""


@attrs.frozen
class Interleaving:
    """One run: what was done in which order, and how each operation ended."""

    number: int
    """From 1."""
    first: tuple[int, ...]
    """The operations in the order in which they get the baton when another ends."""
    switches: tuple[tuple[int, int, str], ...]
    """The step before which the baton was handed on, to which operation, and where that was in the code."""
    steps: int
    """How many lines, or bytecodes, the run had."""
    outcomes: tuple[Outcome, ...]
    """How each operation ended, in the order in which they were given."""

    def __str__(self) -> str:
        switches = ", ".join(f"{to} at step {step} ({place})" for step, to, place in self.switches)
        return f"interleaving {self.number}: {'-'.join(map(str, self.first))}" + (
            f", then {switches}" if switches else ""
        )


class _Run:
    """The threads of one run, and who may run."""

    def __init__(
        self,
        operations: Sequence[Callable[[], object]],
        first: tuple[int, ...],
        switches: dict[int, int],
        of: Chooses,
        opcodes: bool,
    ) -> None:
        self.first = first
        self.switches = switches
        self.of = of
        self.opcodes = opcodes
        self.outcomes = [Outcome() for _ in operations]
        self.trail: list[tuple[int, tuple[int, ...], str]] = []  # by step: whose, who else could run, where
        self.running = list(first)
        self.current = first[0]
        self.lock = threading.Lock()
        self.baton = [threading.Lock() for _ in operations]
        for lock in self.baton:
            lock.acquire()
        self.spins: dict[str, int] = {}
        self.over = threading.Event()
        self.threads = [
            threading.Thread(target=self._act, args=(number, operation), daemon=True)
            for number, operation in enumerate(operations)
        ]

    def run(self, patience: float) -> None:
        for thread in self.threads:
            thread.start()
        self.baton[self.current].release()
        until = time.monotonic() + patience
        seen = -1
        while not self.over.wait(BLOCKED_AFTER):
            with self.lock:
                steps = len(self.trail)
                if steps == seen and len(self.running) > 1:
                    self._hand_on()
                seen = steps
            if time.monotonic() > until:
                faulthandler.dump_traceback(all_threads=True)
                raise AssertionError(
                    f"not at its end within {patience:g} s: {self.switches}, {self.trail[-3:]}"
                )
        for thread in self.threads:
            thread.join(patience)

    def _act(self, number: int, operation: Callable[[], object]) -> None:
        self.baton[number].acquire()
        try:
            opcodes = OpcodeTracing() if self.opcodes else None
            sys.settrace(self._tracer(number, opcodes))
            try:
                outcome = Outcome(operation())
            finally:
                sys.settrace(None)
                if opcodes is not None:
                    opcodes.end()
        except BaseException as error:
            outcome = Outcome(None, error)
        self.outcomes[number] = outcome
        with self.lock:
            was = self.current
            self.running.remove(number)
            if not self.running:
                self.over.set()
            elif was == number:
                self._give(self.running[0])

    def _tracer(self, number: int, opcodes: OpcodeTracing | None) -> Any:
        event_wanted = "opcode" if self.opcodes else "line"

        def local(frame: FrameType, event: str, arg: object) -> Any:
            if event == event_wanted:
                self._step(number, place_of(frame))
            return local

        def trace(frame: FrameType, event: str, arg: object) -> Any:
            if not self.of(frame.f_code):
                return None
            if opcodes is not None:
                opcodes.of(frame, local)
            return local

        return trace

    def _step(self, number: int, place: str) -> None:
        with self.lock:
            mine = self.current == number
            if mine:
                step = len(self.trail)
                others = tuple(other for other in self.running if other != number)
                self.trail.append((number, others, place))
                to = self.switches.get(step)
                self.spins[place] = self.spins.get(place, 0) + 1
                if to in others:
                    self._give(to)
                    mine = False
                elif self.spins[place] > SPINS and others:
                    self._hand_on()
                    mine = False
        if not mine:
            self.baton[number].acquire()

    def _hand_on(self) -> None:
        at = self.running.index(self.current) if self.current in self.running else 0
        self._give(self.running[(at + 1) % len(self.running)])

    def _give(self, to: int) -> None:
        self.current = to
        self.spins.clear()
        if self.baton[to].locked():
            self.baton[to].release()


def interleavings(
    scene: Callable[[], Sequence[Callable[[], object]]],
    *,
    switches: int | None = 2,
    of: Chooses = library,
    opcodes: bool = False,
    limit: int | None = None,
    patience: float = 60.0,
) -> Iterator[Interleaving]:
    """Call the operations that ``scene()`` gives, each on a thread of its own, in every order that differs by
    at most `switches` changes of thread in the middle of an operation (None: every order there is). `scene`
    is called before each run and sets up everything anew; the body of the loop checks. ::

        for run in interleavings(scene, switches=2):
            assert len(released) == 1, run

    Parameters
    ----------
    of:
        The code before whose lines a thread may have to stop.
    opcodes:
        Stop before every instruction instead of every line.
    limit:
        Give up after so many runs.
    patience:
        Seconds after which a run that has not ended fails with `AssertionError`, all stacks on stderr.

    Not for two loops at a time. Uses `sys.settrace` in the threads it makes.
    """
    numbers = itertools.count(1)
    orders: Iterator[tuple[int, ...]] = itertools.permutations(range(len(scene())))
    if switches is None:
        orders = itertools.islice(orders, 1)  # the others are among its own
    for first in orders:
        waiting: list[tuple[tuple[int, int], ...]] = [()]
        while waiting:
            chosen = waiting.pop()
            number = next(numbers)
            if limit is not None and number > limit:
                return
            run = _Run(scene(), first, dict(chosen), of, opcodes)
            run.run(patience)
            trail = run.trail
            made = tuple((step, to, trail[step][2]) for step, to in chosen if step < len(trail))
            yield Interleaving(number, first, made, len(trail), tuple(run.outcomes))
            if switches is None or len(chosen) < switches:
                after = chosen[-1][0] + 1 if chosen else int(switches is not None)
                waiting.extend(
                    (*chosen, (step, to)) for step in range(after, len(trail)) for to in trail[step][1]
                )
