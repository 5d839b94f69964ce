"""Proxies among threads, forks, exits and interrupts. Where a native could crash it is a real one, in a process
of its own. (`tests/adversaries` has every public operation of proxies in its table as well.)"""

from __future__ import annotations

import contextlib
import gc
import os
import sqlite3
import threading
import time
from functools import partial
from types import CodeType
from typing import Any

import pytest

from lifecycle import ANY_THREAD, BACKGROUND, AccessRefusedError, LifecycleError, SafetyConfig, SafetyManager
from lifecycle.errors import ExclusiveError
from lifecycle.proxies import Child, ending, handle_of
from lifecycle.testing import at_once, each_interrupt, interleavings, switching
from lifecycle.testing.where import library
from tests.core.adversary import STORM, assert_adds_up, in_own_process
from tests.proxies.natives import Closed, Part, Store
from tests.support import eventually, run_python

ROUNDS = int(60 * STORM)


@pytest.mark.parametrize("place", [ANY_THREAD, BACKGROUND], ids=repr)
def test_two_threads_call_while_a_third_closes(manager: SafetyManager, place: Any) -> None:
    """Nothing touches the native after its release, and it is released once."""
    refusals: list[BaseException] = []  # without the GIL `+= 1` on two threads may count one
    for _ in range(ROUNDS):
        raw = Store()
        store = manager.proxy(raw, release="close", release_on=place, children={Part: "free", "named": None})
        ready = threading.Barrier(3)

        def use(store: Any = store, ready: Any = ready) -> None:
            ready.wait()
            try:
                while True:
                    store.read()
                    store.part("a").read()
                    next(store.steps(2))
                    len(store)
            except AccessRefusedError as error:
                refusals.append(error)

        def close(store: Any = store, ready: Any = ready) -> None:
            ready.wait()
            time.sleep(0.0005)
            store.close()

        with switching():
            at_once(use, use, close)
        handle = handle_of(store)
        eventually(lambda: handle.state == "released")
        assert raw.released == 1
        assert "touched after release" not in raw.log
        assert sum(line == "free a" for line in raw.log) == sum(line == "part a" for line in raw.log)
    assert len(refusals) == 2 * ROUNDS
    assert_adds_up(manager)


def test_a_call_and_a_close_in_every_order(manager: SafetyManager) -> None:
    raws: list[Store] = []
    seen: set[str] = set()

    def scene(first: str) -> list[Any]:
        raws.append(Store())
        store = manager.proxy(raws[-1], release="close", children={Part: None})

        def call() -> None:
            try:
                assert store.part("a").read() == "a"
                seen.add("called")
            except AccessRefusedError:
                seen.add("refused")

        return [call, store.close] if first == "call" else [store.close, call]

    for first in ("call", "close"):
        for run in interleavings(partial(scene, first), switches=2, limit=int(150 * STORM)):
            raw = raws.pop()
            eventually(lambda: raw.released == 1)
            assert "touched after release" not in raw.log, run
    assert seen == {"called", "refused"}


def test_an_end_and_a_call_on_another_thread(manager: SafetyManager) -> None:
    for _ in range(ROUNDS):
        raw = Store()
        store = manager.proxy(raw, release="close", ends=("save",))
        answers: list[object] = []

        def use(store: Any = store, answers: Any = answers) -> None:
            try:
                while True:
                    store.read()
            except (AccessRefusedError, ExclusiveError) as error:
                answers.append(error)

        def end(store: Any = store, answers: Any = answers) -> None:
            answers.append(store.save())

        with switching():
            at_once(use, end)
        assert "saved" in answers
        assert raw.log == ["save"]
        assert raw.released == 1


def test_exclusive_calls_run_one_at_a_time(manager: SafetyManager) -> None:
    class Counting:
        def __init__(self) -> None:
            self.inside = 0
            self.most = 0

        def work(self) -> None:
            self.inside += 1
            self.most = max(self.most, self.inside)
            time.sleep(0.0005)
            self.inside -= 1

        def nest(self, function: Any) -> Any:
            return function()

        def child(self) -> Any:
            return Working(self)

    class Working:
        def __init__(self, of: Counting) -> None:
            self.of = of

        def work(self) -> None:
            self.of.work()

    for exclusive in (True, ("work",)):
        raw = Counting()
        proxy = manager.proxy(raw, release=lambda one: None, exclusive=exclusive, children={Working: None})
        workers = [proxy.work] * 2 if exclusive is not True else [proxy.work, proxy.child().work]
        at_once(*[lambda worker=worker: [worker() for _ in range(20)] for worker in workers])
        assert raw.most == 1
        proxy.nest(proxy.work)
        assert proxy.nest(lambda: proxy.nest(lambda: 3)) == 3
        handle_of(proxy).close()
        with pytest.raises(AccessRefusedError):
            proxy.work()
    free = Counting()
    proxy = manager.proxy(free, release=lambda one: None)
    at_once(*[lambda: [proxy.work() for _ in range(50)]] * 2)
    assert free.most == 2, "the test would not notice"
    handle_of(proxy).close()


def in_the_last_step(code: CodeType) -> bool:
    return code.co_filename == ending.__file__ and code.co_name in ("_is_over", "attempt")


@pytest.mark.parametrize(
    ("of", "step", "least"),
    [(library, 5 if STORM >= 10 else 25, 10), (in_the_last_step, 1, 5)],
    ids=["all", "its last step"],
)
def test_an_interrupt_at_each_point_of_a_child_with_an_end(
    manager: SafetyManager, of: Any, step: int, least: int
) -> None:
    raws: list[Store] = []

    def run() -> None:
        raws.append(Store())
        store = manager.proxy(raws[-1], release="close", children={Part: Child("free", ends=("commit",))})
        store.part("a").commit()
        store.close()

    struck_in = 0
    for struck in each_interrupt(run, of=of, step=step):
        struck.error and struck.error.with_traceback(None)
        struck_in += 1
        raw = raws.pop()
        made = raw.log.count("part a")
        eventually(lambda: manager.stats().active_objects == 0)
        assert raw.released <= 1
        assert raw.log.count("free a") + raw.log.count("commit a") <= made, struck.place
        assert "touched after release" not in raw.log, struck.place
    assert struck_in > least


@pytest.mark.parametrize(
    ("of", "step", "least"),
    [(library, 5 if STORM >= 10 else 150, 5), (in_the_last_step, 1, 5)],
    ids=["all", "its last step"],
)
def test_an_interrupt_at_each_point_of_an_end_that_is_awaited(
    manager: SafetyManager, of: Any, step: int, least: int
) -> None:
    class Client(Store):
        async def __aenter__(self) -> Client:
            return self

        async def __aexit__(self, *error: object) -> None:
            self.close()

        async def aclose(self) -> None:
            self.close()

    raws: list[Client] = []

    async def leave() -> None:
        raws.append(Client())
        async with manager.proxy(raws[-1], release="close"):
            pass
        raws.append(Client())
        await manager.proxy(raws[-1], release="close", ends=("aclose",)).aclose()

    def run() -> None:
        coroutine = leave()
        with contextlib.suppress(StopIteration):
            coroutine.send(None)

    struck_in = 0
    for struck in each_interrupt(run, of=of, step=step):
        struck.error and struck.error.with_traceback(None)
        struck_in += 1
        eventually(lambda: manager.stats().active_objects == 0)
        for raw in raws:
            assert raw.released <= 1, struck.place
            assert "touched after release" not in raw.log, struck.place
        raws.clear()
    assert struck_in > least


def test_the_collector_in_the_middle(manager: SafetyManager) -> None:
    """Garbage with a proxy in it is collected at any time, and whoever asks in ``__del__`` is told one thing."""
    wrong: list[str] = []

    class Node:
        def __init__(self) -> None:
            self.raw = Store()
            self.store = manager.proxy(self.raw, release="close", children={Part: None})
            self.part = self.store.part("a")
            self.steps = self.store.steps(2)
            next(self.steps)
            self.me = self

        def __del__(self) -> None:
            try:
                self.part.read()
                self.store.read()
            except (AccessRefusedError, Closed) as error:
                if self.raw.released and not isinstance(error, AccessRefusedError):
                    wrong.append(repr(error))

    raws = []
    for _ in range(20):
        node = Node()
        raws.append(node.raw)
        del node
        gc.collect(0)
    gc.collect()
    eventually(lambda: all(raw.released == 1 for raw in raws))
    assert not wrong
    assert not any("touched after release" in raw.log for raw in raws)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_finds_its_proxies_shut() -> None:
    """And nothing of the parent's dies there, even once its record has expired."""
    manager = SafetyManager(SafetyConfig(max_retained=1), name="forking")
    raw = Store()
    store = manager.proxy(raw, release="close", children={Part: None})
    part, steps = store.part("a"), store.steps(2)
    next(steps)
    pid = os.fork()
    if not pid:
        status = 1
        try:
            for use in (store.read, part.read, lambda: next(steps)):
                try:
                    use()
                except LifecycleError:
                    continue
                os._exit(2)
            before = list(raw.log)
            del part, steps, store, use
            gc.collect()
            ok = True
            for _ in range(5):
                fresh = manager.proxy(Store(), release="close")
                ok = ok and fresh.read() == 1 and fresh.close()
                manager.stats()
            gc.collect()
            ok = ok and raw.log == before and not raw.released
            status = 0 if ok else 3
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert part.read() == "a"
    assert next(steps) == 1
    store.close()
    assert manager.close().ok


def exit_inside() -> None:
    """The interpreter ends while another thread is inside a query."""
    manager = SafetyManager(name="exit")
    connection = manager.proxy(
        sqlite3.connect(":memory:", check_same_thread=False), release="close", children={sqlite3.Cursor: None}
    )
    connection.execute("create table t(x)")
    connection.executemany("insert into t values(?)", [(number,) for number in range(3000)])

    def query() -> None:
        # An exception that left a daemon thread would be printed while the interpreter goes, which CPython may not
        # survive: `_enter_buffered_busy`.
        with contextlib.suppress(LifecycleError):
            while True:
                connection.execute("select a.x, b.x from t a, t b limit 3000").fetchall()

    threading.Thread(target=query, daemon=True).start()
    time.sleep(0.05)
    print("ends")


def test_exit_while_inside_a_call() -> None:
    assert in_own_process(exit_inside).strip() == "ends"


def test_ctrl_c_inside_a_call_leaves_the_program_its_error() -> None:
    done = run_python(
        """
        import os, signal, threading, time
        from lifecycle import SafetyManager

        class Slow:
            def work(self):
                threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
                time.sleep(30)
            def close(self):
                print("closed")

        with SafetyManager() as manager:
            slow = manager.proxy(Slow(), release="close")
            try:
                slow.work()
            except KeyboardInterrupt:
                print("interrupted")
        """
    )
    assert done.check().split() == ["interrupted", "closed"]
