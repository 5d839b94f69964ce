"""The end of a manager: by `close`, with the interpreter, or in a forked child, where it is the end of what
was inherited.

One thread closes, the others wait for its report, as far as they may wait. What the steps do stands in
`shutdown.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from lifecycle._core import runtime
from lifecycle._core.default import DEFAULT, Default
from lifecycle._core.dropped import is_kept
from lifecycle._core.holders import all_holders
from lifecycle._core.release import nesting
from lifecycle._core.tables import Registry, open_records
from lifecycle._core.timelines import busy
from lifecycle._core.waiting import WaitList
from lifecycle.errors import LifecycleError
from lifecycle.manager.finalizers import Finalizers
from lifecycle.manager.machinery import Machinery
from lifecycle.manager.shutdown import (
    await_devices,
    await_holders,
    await_others,
    orphan_inherited,
    release_all,
    report_on,
    shut_doors,
)
from lifecycle.manager.stopping import StopToken
from lifecycle.stats import ShutdownReport

TOLD_AT_EXIT = 20
"""Objects, and then types, that are reported one by one when the interpreter exits with objects unreleased.
"""

EXPLAINED_AT_EXIT = 3
"""Of how many objects that are left at exit the holders are looked for, at the cost of a walk through the
heap each."""


class Ending:
    """Ends one manager, once. A later call of `shut_down` returns the same report.

    `keeps` lives until the manager has been closed, at the latest by the exit pass, which runs for one that
    was dropped as well.
    """

    def __init__(
        self,
        registry: Registry,
        machinery: Machinery,
        finalizers: Finalizers,
        stopping: StopToken,
        keeps: object,
    ) -> None:
        self._registry = registry
        self._machinery = machinery
        self._finalizers = finalizers
        self._stopping = stopping
        self._keeps = keeps
        self._closers: dict[None, int] = {}  # the thread that closes
        self._report: ShutdownReport | None = None
        self._waiters = WaitList()  # of those who did not close it
        runtime.at_fork_in_child(self.after_fork)
        runtime.at_exit(self.at_exit)

    def shut_down(self, timeout: float | Default | None, budget: float, exiting: bool) -> ShutdownReport:
        """Close the manager within `budget` seconds, or wait for the thread that does. `timeout` is that of
        `SafetyManager.close`."""
        if self._report is None:
            runtime.refuse_near_limit("close() of a manager")
        began = runtime.monotonic()
        me = runtime.get_ident()

        def has_turn() -> bool:
            # Taken where `finally` finds it.
            return self._report is not None or self._closers.setdefault(None, me) == me

        try:
            # In a release not at all: the one that closes may be waiting for it.
            self._waiters.wait(has_turn, 0 if nesting() else budget)
            if self._report is not None:
                return self._report
            report, interrupt, left = self._close(timeout, began, began + budget, exiting)
            self._report = report
        finally:
            try:
                if self._closers.get(None) == me:
                    self._closers.pop(None, None)
            finally:
                self._waiters.wake()
        self._machinery.wind_down(left)
        runtime.not_at_exit(self.at_exit)
        if interrupt is not None:
            raise interrupt
        return report

    def _close(
        self, timeout: float | Default | None, began: float, until: float, exiting: bool
    ) -> tuple[ShutdownReport, KeyboardInterrupt | None, bool]:
        self._machinery.maintenance.lost.make_up()
        self._registry.closed = True
        try:
            self._stopping.set()
        except BaseException:
            # Without the GIL it is a Python function, in which an interrupt may strike.
            self._stopping.set()
            raise
        errors, interrupt = self._stopping.call_back(self._call_at_exit if exiting else None)
        running = () if nesting() else self._stopping.join(until)
        before = self._machinery.maintenance.ledger.unreleased()
        seen = {info.id for info in before}
        records = [record for record in open_records(self._registry) if record.id not in seen]
        may_wait = not runtime.must_not_wait()
        workers = self._machinery.workers
        try:
            workers.hold_back = True  # the tickets that come of it wait for their turn in the batch
            shut_doors(records)
            self._machinery.maintenance.lost.look_at_all()
            self._registry.kept.clear()
            self._finalizers.forget()
            if may_wait:
                if runtime.free_threaded:  # what other threads made dies now, not when they next run Python
                    for _ in ("pin", "hold", "core"):  # one after the other, and a collection sees to one
                        runtime.collect()
                if busy and not nesting():
                    await_devices(records, until)
                interrupt = release_all(records, workers, until) or interrupt
        finally:
            workers.let_go()
        if may_wait and timeout is not DEFAULT:
            await_holders(records, until if timeout is not None else float("inf"))
        elif may_wait and exiting:
            await_others(records, until)
        report = report_on(records, errors, began, running, before)
        left = bool(report.leaked) or any(info.id not in seen for info in report.stuck)
        return report, interrupt, left

    def _call_at_exit(self, fn: Callable[[], object]) -> None:
        """Call an `on_close` callback where one that hangs does not keep the process. It may close this
        manager itself."""
        me = runtime.get_ident()
        config = self._registry.config

        def call() -> None:
            self._closers[None] = runtime.get_ident()
            try:
                fn()
            finally:
                self._closers[None] = me

        try:
            self._machinery.workers.call(call, min(config.finalizer_timeout, config.shutdown_timeout / 2))
        except LifecycleError as error:
            raise LifecycleError(str(error).replace(repr(call), repr(fn))) from None

    def at_exit(self) -> None:
        """The end of the process. Ctrl-C ends the waiting it strikes in and is raised when all is done; a
        second one ends all."""
        runtime.exit_hook_runs = True
        budget = self._registry.config.shutdown_timeout
        until = runtime.monotonic() + budget
        runtime.no_wait_threads.discard(runtime.get_ident())  # nothing else will run on this thread
        interrupt = None
        try:
            report = self.shut_down(DEFAULT, budget, True)
        except KeyboardInterrupt as error:
            interrupt = error
            report = self.shut_down(DEFAULT, max(0.0, until - runtime.monotonic()), True)
        if not report.ok:
            self.tell_of(report)
        if interrupt is not None:
            raise interrupt

    def tell_of(self, report: ShutdownReport) -> None:
        """Report what the exit pass could not release, and say how it went, before the process is gone."""
        events = self._registry.events
        for number, info in enumerate(report.leaked[:TOLD_AT_EXIT]):
            keepers = self._keepers(info.id) if number < EXPLAINED_AT_EXIT else ""
            events.append(("told", "leak", {"reason": f"not released at exit: {info}{keepers}"}))
        if len(report.leaked) > TOLD_AT_EXIT:
            types = Counter(info.type_name for info in report.leaked[TOLD_AT_EXIT:])
            rest = ", ".join(f"{number} of type {name}" for name, number in types.most_common(TOLD_AT_EXIT))
            events.append(("told", "leak", {"reason": f"not released at exit, further: {rest}"}))
        facts: dict[str, Any] = {
            "released": report.released,
            "failed": len(report.failed),
            "stuck": len(report.stuck),
            "leaked": len(report.leaked),
            "errors": report.errors,
            "running": report.running,
            "duration": round(report.duration, 3),
        }
        events.append(("told", "shutdown", facts))
        keeper = self._machinery.maintenance
        keeper.tell_all()  # the threads would go on, but the process does not
        keeper.observer.stop(1.0)

    def _keepers(self, id: int) -> str:
        """The holders of an object that is left, in words: the variables and attributes that keep its handles
        and views. Walks the heap."""
        record = self._registry.records.get(id)
        if record is None or runtime.must_not_wait() or is_kept(record):  # that says itself who keeps it
            return ""
        return "".join(f"; held by {holder}" for holder in all_holders(record, None))

    def after_fork(self) -> None:
        """In the child: what was inherited is the parent's; what is registered from here on is the child's
        own."""
        self._stopping.after_fork()
        self._closers.clear()
        self._machinery.after_fork()
        self._registry.kept.clear()
        self._finalizers.forget()
        orphan_inherited(self._registry)
