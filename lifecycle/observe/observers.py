"""The observer: hooks and the log, on a thread of their own, behind a bounded queue that drops and counts.

The keeper alone puts events in, so a log pipe that blocks for ever stops neither counts, nor sweeps, nor
deadlines.
"""

from __future__ import annotations

import itertools
import operator
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import structlog

from lifecycle._core import runtime
from lifecycle._core.idioms import taking
from lifecycle._core.waiting import Flag, await_thread, ending_with
from lifecycle.config import SafetyConfig
from lifecycle.errors import text_of, trace_of
from lifecycle.events import ALWAYS, CLASSES, Event, ObserverFailed
from lifecycle.observe.leaks import warn_of_leak

OBSERVER_LIMIT = 1000
OWN_HOOKS = 2
"""Hooks of `Observer._hooks_of` that come first and write to the program's streams: the log and the warning.
"""


def logger() -> Any:
    """The program's structlog logger ``lifecycle``; where structlog is not configured, one that writes to
    stderr: a library has no business on a program's standard output."""
    if structlog.is_configured():
        return structlog.get_logger("lifecycle")
    if sys.stderr is None:  # as under pythonw; structlog would take standard output
        return structlog.wrap_logger(structlog.ReturnLogger())
    return structlog.wrap_logger(structlog.PrintLogger(sys.stderr))


F = TypeVar("F", bound=Callable[..., object])
Hooks = dict[int, Callable[[Event], object]]
"""In the order in which they were added, each under a number of its own: one function may be added by
several."""


def subscribe(hooks: dict[int, F], fn: F) -> Callable[[], None]:
    """Add `fn` to hooks; returns a function that takes this very entry back, once."""
    key = _next_hook()
    hooks[key] = fn

    def remove() -> None:
        hooks.pop(key, None)

    return remove


_next_hook: Callable[[], int] = itertools.count(1).__next__


RESERVED = frozenset({"self", "event", "method_name"})
"""What structlog calls its own arguments: a field of that name has ``field_`` before it in the log."""


LOGGED_AS = {"traceback": "exception"}
"""What fields are called in the log where that is not their name: what structlog prints as lines."""


def _empty(value: object) -> bool:
    """Return True if there is nothing to log: asked without ``==``, which is the value's own and may do
    anything."""
    return value is None or (type(value) in (str, int, float, bool, tuple) and not value)


class Observer:
    """Runs hooks and the log on a thread of its own. The keeper alone puts events in."""

    def __init__(self, name: str, config: SafetyConfig) -> None:
        self.name = name
        self.config = config
        self.hooks: Hooks = {}
        self.leak_hooks: Hooks = {}
        self.dropped: int = 0
        self.queue: runtime.SimpleQueue[Event | None] = runtime.SimpleQueue()
        self._event: Event | None = None  # that the thread has in hand
        self._told = 0  # to so many hooks
        self.thread: threading.Thread | None = None
        # The one to wait for, also after another has told it to end.
        self.last: threading.Thread | None = None
        self.stopped: bool = False
        self._over = Flag()  # set by its last act

    def emit(self, event: Event) -> None:
        """Queue `event`, or drop and count it when the observers are too slow."""
        if self.queue.qsize() >= OBSERVER_LIMIT:
            self.dropped += 1
            return
        if self.thread is None or runtime.has_ended(self.thread):
            over = Flag()
            run = partial(self._run_after, self.last, self._over)
            thread = runtime.new_thread(ending_with(over, run), f"lifecycle-observer-{self.name}")
            try:
                runtime.begin(thread)
            except (
                RuntimeError
            ):  # 3.12 starts none in an exit pass, and what failed there must be told all the same
                self._deliver(event)
                return
            self._over = over
            self.last = self.thread = thread
        self.queue.put(event)
        if self.stopped:  # what is told after the end: nobody would stop the thread that tells it
            self.thread = None
            self.queue.put(None)

    def _run_after(self, last: threading.Thread | None, over: Flag) -> None:
        """`_run`, once the thread before this one has ended: the event in hand is still its own."""
        if last is not None:
            await_thread(last, over, float("inf"))
        self._run()

    def _run(self) -> None:
        """Go on whatever another thread raises in this one: the rest of the hooks are told of the event in
        hand."""
        # In C from end to end: ``iter(self.queue.get, None)`` would ask the event whether it equals None, in
        # Python, where an exception takes it along.
        events = itertools.takewhile(partial(operator.is_not, None), taking(self.queue.get))
        while True:
            try:
                self._tell_rest()
                for self._event in events:
                    self._tell_rest()
                return
            except BaseException as error:
                self._report(self._event, self._run, error)

    def _tell_rest(self) -> None:
        event = self._event
        if event is None:
            return
        hooks = self._hooks_of(event)
        while self._told < len(hooks):
            number = self._told
            # Not by `_call`: on its way in a hook that is counted as told could be passed over.
            try:
                if number < OWN_HOOKS:
                    with runtime.sparing():
                        self._told = number + 1
                        hooks[number](event)
                else:
                    self._told = number + 1
                    hooks[number](event)
            except BaseException as error:
                if self._told == number:
                    raise
                self._report(event, hooks[number], error)
        self._event = None
        self._told = 0

    def _hooks_of(self, event: Event) -> list[Callable[[Event], object]]:
        leaks = runtime.snapshot(self.leak_hooks.values()) if event.leak else ()
        return [self._log, warn_of_leak, *runtime.snapshot(self.hooks.values()), *leaks]

    def _deliver(self, event: Event) -> None:
        for number, hook in enumerate(self._hooks_of(event)):
            self._call(number, hook, event)

    def _call(self, number: int, hook: Callable[[Event], object], event: Event) -> None:
        """Call one hook of `_hooks_of`. One that fails costs no other hook the event (I6)."""
        try:
            if number < OWN_HOOKS:
                with runtime.sparing():
                    hook(event)
            else:
                hook(event)
        except BaseException as error:
            self._report(event, hook, error)

    def logs(self, kind: str) -> bool:
        """Return True if the configuration wants events of `kind` in the log."""
        logged = CLASSES[kind].logged
        return logged == ALWAYS or bool(getattr(self.config, logged))

    def _log(self, event: Event) -> None:
        if not self.logs(event.kind):
            return
        fields = {
            "manager": event.manager,
            "id": event.id,
            "type": event.type_name,
            "name": event.name,
        }
        for key, value in event.fields.items():
            taken = key in RESERVED or (key in fields and key in event.details)
            fields[LOGGED_AS.get(key) or (f"field_{key}" if taken else key)] = value
        log = getattr(logger(), event.level)
        log(f"lifecycle.{event.kind}", **{key: value for key, value in fields.items() if not _empty(value)})

    def _report(self, event: Event | None, hook: object, error: BaseException) -> None:
        try:
            with runtime.sparing():
                logger().error(
                    "lifecycle.observer_failed",
                    hook=repr(hook),
                    event_kind="" if event is None else event.kind,
                    error=repr(error),
                    exception=trace_of(error),
                )
        except Exception:
            self.dropped += 1  # the log itself is what fails

    def tell_failure(self, error: Exception) -> None:
        """The keeper itself failed."""
        self.emit(
            ObserverFailed(
                manager=self.name, time=runtime.wall_time(), error=text_of(error), traceback=trace_of(error)
            )
        )

    def stop(self, timeout: float) -> None:
        """Let it finish what is queued, for `timeout` seconds."""
        self.stopped = True
        thread, self.thread = self.thread, None
        if thread is not None:
            self.queue.put(None)
        last = self.last
        if last is not None and last.ident != runtime.get_ident():
            await_thread(last, self._over, timeout)
