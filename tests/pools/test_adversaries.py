"""Pools at the worst moment: Ctrl-C and the collector at every point, forks, and a million loans with faults
planned in."""

from __future__ import annotations

import gc
import itertools
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import lifecycle.pools.pool
from lifecycle import (
    AccessPanicError,
    BufferPool,
    Handle,
    LifecycleError,
    NotReleased,
    ObjectPool,
    SafetyManager,
)
from lifecycle.errors import PoolExhaustedError
from lifecycle.testing import library
from tests.core.adversary import (
    STORM,
    Interrupt,
    Signals,
    Struck,
    assert_adds_up,
    assert_nothing_left,
    at_once,
    each_interrupt,
    every_line,
    in_own_process,
    switching,
)
from tests.core.natives import Native
from tests.support import eventually

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

STEP = 1 if STORM >= 10 else 29
"""Each so manieth point is interrupted: every one with LIFECYCLE_STORM=10."""

AnyPool = ObjectPool[Native] | BufferPool


class Natives:
    """Makes natives, and knows them all."""

    def __init__(self) -> None:
        self.made: list[Native] = []

    def __call__(self) -> Native:
        native = Native()
        self.made.append(native)
        return native

    def destroyed(self) -> bool:
        assert all(native.released <= 1 for native in self.made)
        return all(native.released == 1 for native in self.made)


def true(native: Native) -> bool:
    return True


def objects(manager: SafetyManager) -> ObjectPool[Native]:
    return ObjectPool(
        manager, Native, size=2, reset=true, check=true, destroy=Native.free, timeout=0, max_age=1000
    )


def plain_objects(manager: SafetyManager) -> ObjectPool[Native]:
    return ObjectPool(manager, Native, size=2, destroy=Native.free, timeout=0)


def thread_bound(manager: SafetyManager) -> ObjectPool[Native]:
    return ObjectPool(manager, Native, size=2, reset=true, destroy=Native.free, timeout=0, affinity=True)


def buffers(manager: SafetyManager) -> BufferPool:
    return BufferPool(manager, 5000, 2, exhausted="refuse")


def poisoned(manager: SafetyManager) -> BufferPool:
    return BufferPool(manager, 5000, 2, exhausted="refuse", poison=7)


def evicting(manager: SafetyManager) -> BufferPool:
    return BufferPool(manager, 5000, 2, exhausted="evict", poison=7)


STRICT = [objects, plain_objects, thread_bound, buffers, poisoned]
"""Pools that never serve anything from outside."""
POOLS = [*STRICT, evicting]
if STORM < 10:
    STRICT, POOLS = [objects], [objects, thread_bound, evicting]


def assert_whole(pool: AnyPool) -> None:
    """It lends as many as it has, no more, and none of them twice."""
    gc.collect()
    eventually(lambda: pool.stats().items["in_use"] == 0, timeout=20)
    limit = pool.stats().items_limit
    before = pool.stats().fallbacks
    handles: list[Handle[Any]] = [pool.get() for _ in range(limit)]
    assert pool.stats().fallbacks == before
    assert len({id(handle._record.obj) for handle in handles}) == limit
    if isinstance(pool, ObjectPool) or pool._exhausted == "refuse":
        with pytest.raises(PoolExhaustedError):
            pool.get()
    for handle in handles:
        handle.close()
    stats = pool.stats()
    assert stats.items["in_use"] == 0
    assert len(pool.free_list.slots) == limit
    assert not pool.free_list.waiters
    assert not pool.free_list.extras


# -- Ctrl-C at every point -----------------------------------------------------------------------------------


def lend(pool: AnyPool) -> None:
    pool.get().close()


def lend_two(pool: AnyPool) -> None:
    with pool.get(), pool.get():
        pass


def lend_one_too_many(pool: AnyPool) -> None:
    with pool.get(), pool.get():
        try:
            pool.get(timeout=0.001).close()
        except PoolExhaustedError:
            pass


def put(pool: AnyPool) -> None:
    pool.put(pool.get())


def trim(pool: AnyPool) -> None:
    pool.get().close()
    pool.trim()


def grow_and_shrink(pool: AnyPool) -> None:
    size = {"size": 4} if isinstance(pool, ObjectPool) else {"count": 4}
    pool.resize(**size)
    size = {"size": 2} if isinstance(pool, ObjectPool) else {"count": 2}
    pool.resize(**size)


def look(pool: AnyPool) -> None:
    with pool.get():
        pool.stats()
        pool.loans()


OURS = {"pool.py", "buffers.py", "objects.py", "waiting.py", "figures.py"}


def forget_what_others_keep(struck: Struck[Any]) -> None:
    """A kept traceback keeps nothing of a pool's, but for the arguments of functions that had not begun."""
    if struck.error is not None and (struck.on_entry or struck.place.split(":")[0] not in OURS):
        struck.error.with_traceback(None)


RUNS = [lend, lend_two, lend_one_too_many, put, trim, look]


@pytest.mark.parametrize("make", POOLS)
@pytest.mark.parametrize("run", RUNS if STORM >= 10 else [lend, lend_one_too_many, trim])
def test_interrupted_anywhere_no_slot_is_lost_or_doubled(
    manager: SafetyManager,
    make: Callable[[SafetyManager], AnyPool],
    run: Callable[[AnyPool], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The walk through the heap that a time-out makes has thousands of places, and is tried in tests/sharing.
    monkeypatch.setattr(lifecycle.pools.pool, "holders_of", lambda loan, **_: ())
    pool = make(manager)
    struck = 0
    for run_ in each_interrupt(lambda: run(pool), step=STEP):
        assert run_.error is None or isinstance(run_.error, Interrupt), run_.place
        forget_what_others_keep(run_)
        del run_
        struck += 1
        assert_whole(pool)
    assert struck > 1
    pool.close()


@pytest.mark.parametrize("make", [objects, buffers])
def test_interrupted_while_it_is_resized(
    manager: SafetyManager, make: Callable[[SafetyManager], AnyPool]
) -> None:
    pool = make(manager)
    for run_ in each_interrupt(lambda: grow_and_shrink(pool), step=STEP):
        forget_what_others_keep(run_)
        del run_
        grow_and_shrink(pool)
        assert_whole(pool)
    pool.close()


@pytest.mark.parametrize("make", POOLS)
def test_interrupted_while_it_closes_it_is_closed_by_closing_again(
    manager: SafetyManager, make: Callable[[SafetyManager], AnyPool]
) -> None:
    pools: list[AnyPool] = []

    def run() -> None:
        pools.append(make(manager))
        pools[-1].get().close()
        pools[-1].close()

    for run_ in each_interrupt(run, step=STEP):
        forget_what_others_keep(run_)
        del run_
        for pool in pools:
            pool.close()
            gc.collect()
            eventually(lambda: pool.stats().items == {"idle": 0, "in_use": 0}, timeout=20)
            # What had yet to come back waits for its thread.
            eventually(lambda: pool.close() is not None and not manager.stats().active_objects, timeout=20)
        pools.clear()
    assert_nothing_left(manager)


def interrupted_by_a_real_ctrl_c() -> None:
    """Whoever waits for ever gets out, and what is handed to him at that moment is not lost."""
    manager = SafetyManager()
    natives = Natives()
    pool = ObjectPool(manager, natives, size=1, destroy=Native.free, timeout=None)
    kept: list[Handle[Native]] = []
    interrupts = got = 0

    def close_soon(pause: float) -> None:
        time.sleep(pause)
        kept.pop().close()

    for turn in range(int(40 * STORM)):
        kept.append(pool.get())
        closer = threading.Thread(target=close_soon, args=(0.002 * (turn % 3),))
        closer.start()
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.0005 + 0.001 * (turn % 5))
            pool.get().close()
            got += 1
            time.sleep(0.02)
        except Interrupt:
            interrupts += 1
        closer.join()
        eventually(lambda: pool.stats().items == {"idle": 1, "in_use": 0}, timeout=10)
    assert len(natives.made) == 1
    pool.close()
    eventually(natives.destroyed, timeout=10)
    assert interrupts
    assert got
    print(interrupts, "interrupts")


def raise_interrupt(*_: object) -> None:
    raise Interrupt


def in_a_process_with_an_alarm() -> None:
    signal.signal(signal.SIGALRM, raise_interrupt)
    interrupted_by_a_real_ctrl_c()


def test_ctrl_c_ends_a_wait_and_loses_nothing() -> None:
    assert "interrupts" in in_own_process(in_a_process_with_an_alarm)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("make", [objects, buffers, poisoned])
def test_a_storm_of_signals(manager: SafetyManager, make: Callable[[SafetyManager], AnyPool]) -> None:
    pool = make(manager)
    kept: list[Any] = []

    def work() -> None:
        for _ in range(50):
            with pool.get(timeout=10) as handle, handle.lease():
                kept.append(handle)
            kept.clear()

    until = time.monotonic() + 0.7 * STORM
    gc.disable()  # an interrupt inside a collection is printed, and kept, by CPython
    try:
        with Signals(hertz=5000, of=library) as signals:
            while time.monotonic() < until:
                signals.run(work)
                kept.clear()
    finally:
        gc.enable()
    assert signals.raised > 10
    assert_whole(pool)
    pool.close()
    assert_nothing_left(manager)


# -- the collector at every line -----------------------------------------------------------------------------


class Holder:
    """Holds a loan, in a cycle."""

    def __init__(self, handle: object) -> None:
        self.handle = handle
        self.me = self


@pytest.mark.parametrize("make", STRICT)
def test_the_collector_at_every_line(
    manager: SafetyManager, make: Callable[[SafetyManager], AnyPool]
) -> None:
    pool = make(manager)

    turns = itertools.count()

    def collect() -> None:
        """A loan dies in the collector."""
        if next(turns) % 7:  # a line that ends a loan must not begin more than one
            return
        try:
            Holder(pool.get(timeout=0))
        except PoolExhaustedError:
            pass
        gc.collect()

    def collect_and_borrow() -> None:
        """`__del__` borrows, and gives back, inside the collector."""

        class Borrower(Holder):
            def __del__(self) -> None:
                try:
                    pool.get().close()
                except PoolExhaustedError:
                    pass

        if next(turns) % 7 == 0:
            Borrower(None)
            gc.collect()

    gc.collect()
    gc.freeze()  # what is there already is not looked through each time
    try:
        for action in (collect, collect_and_borrow):
            with every_line(action) as struck:
                for run in (lend, lend_two, put, trim):
                    try:
                        run(pool)
                    except PoolExhaustedError:
                        pass
            assert struck.strikes > 100
            assert_whole(pool)
    finally:
        gc.unfreeze()
    pool.close()


@pytest.mark.parametrize("make", STRICT)
def test_a_signal_handler_that_borrows_at_every_line(
    manager: SafetyManager, make: Callable[[SafetyManager], AnyPool]
) -> None:
    pool = make(manager)

    def handler() -> None:
        for _ in range(2):
            try:
                with pool.get(timeout=0.001):
                    pool.stats()
            except PoolExhaustedError:
                pass

    with every_line(handler) as struck:
        for run in (lend, lend_two, put, trim, grow_and_shrink, look):
            try:
                run(pool)
            except PoolExhaustedError:
                pass
    assert struck.strikes > 100
    assert_whole(pool)
    pool.close()


# -- exceptions of the user's functions ----------------------------------------------------------------------


@pytest.mark.parametrize("where", ["create", "reset", "check", "destroy"])
@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(3)], ids=repr)
def test_whatever_a_function_raises_costs_no_slot(
    manager: SafetyManager, where: str, error: BaseException
) -> None:
    natives = Natives()
    armed = [False]

    def fails_in(name: str) -> Callable[..., Any]:
        def function(*args: Native) -> Any:
            if where == name and armed[0]:
                armed[0] = False
                raise error
            if name == "create":
                return natives()
            if name == "destroy":
                args[0].free()
            return None

        return function

    pool = ObjectPool(
        manager,
        fails_in("create"),
        size=1,
        reset=fails_in("reset"),
        check=fails_in("check"),
        destroy=fails_in("destroy"),
        timeout=0,
    )
    for _ in range(3):
        pool.trim()
        armed[0] = True
        for _ in range(3):
            try:
                pool.get().close()
            except type(error):
                pass
        armed[0] = False
        assert_whole(pool)
    pool.close()


# -- forks ---------------------------------------------------------------------------------------------------


def forks() -> None:
    """The child begins with nothing of its parent's, and touches none of it."""
    manager = SafetyManager()
    made: list[str] = []

    class Item:
        def __init__(self) -> None:
            self.home = os.getpid()

    def destroy(item: Item) -> None:
        assert item.home == os.getpid(), "destroyed in a forked child"
        made.append("destroyed")

    pool = ObjectPool(manager, Item, size=2, destroy=destroy, timeout=0, name="items")
    frames = BufferPool(manager, 5000, 2, exhausted="refuse")
    pool.get().close()
    frames.get().close()
    held, frame = pool.get(), frames.get()
    view = frame.view()
    view[0] = 1
    pid = os.fork()
    if not pid:
        try:
            for _ in range(2):
                with pool.item() as one, pool.item() as two:
                    assert one.home == two.home == os.getpid()
                with frames.get() as mine, frames.get():
                    mine.view()[0] = 9
            assert view[0] == 1
            view[0] = 2
            assert pool.stats().items == {"idle": 2, "in_use": 0}
            for pool_ in (pool, frames):
                try:
                    pool_.put(held if pool_ is pool else frame)
                except LifecycleError:
                    pass
            assert pool.stats().items == {"idle": 2, "in_use": 0}
            pool.close()
            assert made == ["destroyed"] * 2, made
            manager.close()
            os._exit(0)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert view[0] == 1
    del view
    held.close()
    frame.close()
    assert pool.stats().items == {"idle": 1, "in_use": 0}
    assert frames.stats().items == {"idle": 1, "in_use": 0}
    pool.close()
    assert made == ["destroyed"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_forked_child_begins_with_nothing() -> None:
    in_own_process(forks)


# -- storms --------------------------------------------------------------------------------------------------

LOANS = int(6_000 * STORM)
"""1 000 000 with LIFECYCLE_STORM=170."""


def wild(pool: ObjectPool[Native], seed: int, loans: int, outcomes: Counter[str]) -> None:
    """Borrow and give back in every way there is."""
    chance = random.Random(seed)
    kept: list[Any] = []
    while loans > 0:
        loans -= 1
        if kept and chance.random() < 0.3:
            kept.pop(chance.randrange(len(kept)))
        try:
            handle = pool.get(timeout=chance.choice([0, 0.0005, 0.01]))
        except PoolExhaustedError:
            outcomes["exhausted"] += 1
            kept.clear()
            if chance.random() < 0.2:
                gc.collect(
                    1
                )  # what circles hold; left to itself the pool asks for it ten times a second at most
            continue
        except ConnectionError:
            outcomes["not made"] += 1
            continue
        outcomes["lent"] += 1
        way = chance.random()
        if way < 0.5:
            with handle.lease() as native:
                native.use()
            handle.close()
        elif way < 0.6:
            kept.append(handle.lease())
            handle.close()
        elif way < 0.7:
            kept.append(handle)  # and dropped later
        elif way < 0.8:
            pool.put(handle)
        elif way < 0.9:
            share = handle.share()
            handle.close()
            share.close()
            del share
        elif way < 0.95:
            try:
                pool.manager.safe_access(handle, panic)
            except AccessPanicError:
                pass
            handle.close()
        else:
            Holder(handle)
        del handle
        if chance.random() < 0.002:
            gc.collect()
    kept.clear()


def panic(native: Native) -> None:
    raise ValueError("planted")


def test_a_storm_with_faults_planned_in_balances(manager: SafetyManager) -> None:
    chance = random.Random(5)
    natives = Natives()

    def create() -> Native:
        if chance.random() < 0.02:
            raise ConnectionError("planted")
        return natives()

    def reset(native: Native) -> object:
        lot = chance.random()
        if lot < 0.02:
            raise ValueError("planted")
        return lot > 0.04

    def check(native: Native) -> object:
        assert not native.released
        return chance.random() > 0.02

    tried: Counter[int] = Counter()

    def destroy(native: Native) -> None:
        tried[id(native)] += 1
        if tried[id(native)] == 1 and chance.random() < 0.02:
            raise NotReleased("planted")
        native.free()

    pool = ObjectPool(manager, create, size=6, reset=reset, check=check, destroy=destroy)
    outcomes: Counter[str] = Counter()
    counts = [Counter[str]() for _ in range(4)]
    with switching(1e-4):
        at_once(
            *(
                lambda seed=seed, count=count: wild(pool, seed, LOANS // 4, count)  # type: ignore[misc]
                for seed, count in enumerate(counts)
            ),
            patience=600,
        )
    for count in counts:
        outcomes += count
    gc.collect()
    eventually(lambda: pool.stats().items["in_use"] == 0, timeout=30)
    stats = pool.stats()
    assert stats.results["reused"] + stats.results["created"] == outcomes["lent"]
    assert stats.results["timeout"] + stats.results["refused"] == outcomes["exhausted"]
    assert stats.get_wait.count == outcomes["lent"] + outcomes["exhausted"]
    assert outcomes.total() == LOANS // 4 * 4
    lost = sum(stats.losses.values())
    assert len(natives.made) == stats.results["created"] == lost + stats.items["idle"]
    assert manager.stats().types["objects"].registered == outcomes["lent"]
    pool.close()
    eventually(natives.destroyed, timeout=60)
    assert not [native.errors for native in natives.made if native.errors]
    assert_adds_up(manager)
    assert_nothing_left(manager, timeout=30)


def test_a_storm_on_memory_never_lends_a_block_twice(manager: SafetyManager) -> None:
    pool = BufferPool(manager, 4096, 3, timeout=0.005)
    wrong: list[str] = []

    def borrow(mark: int) -> Iterator[None]:
        for _ in range(LOANS // 20):
            buffer = pool.get()
            view = buffer.view()
            buffer.close()
            view[:16] = bytes([mark]) * 16
            yield
            if bytes(view[:16]) != bytes([mark]) * 16:
                wrong.append(f"{mark} reads {bytes(view[:16])!r}")
            del view

    with switching():
        at_once(*(lambda mark=mark: list(borrow(mark)) for mark in range(1, 5)), patience=600)  # type: ignore[misc]
    assert not wrong
    eventually(lambda: pool.stats().items == {"idle": 3, "in_use": 0}, timeout=20)
    pool.close()


def test_pools_that_are_resized_and_trimmed_under_load(manager: SafetyManager) -> None:
    natives = Natives()
    pool = ObjectPool(manager, natives, size=4, destroy=Native.free, timeout=5)
    until = time.monotonic() + 0.7 * STORM

    def work() -> None:
        while time.monotonic() < until:
            with pool.item() as native:
                native.use()

    def shake() -> None:
        chance = random.Random(1)
        while time.monotonic() < until:
            pool.resize(chance.randint(1, 6))
            pool.trim(chance.randint(0, 2))
            assert pool.stats().items["idle"] <= 7

    with switching(1e-4):
        at_once(work, work, work, shake, shake, patience=120)
    pool.resize(3)
    assert_whole_of(pool, 3)
    pool.close()
    eventually(natives.destroyed, timeout=20)
    assert not [native.errors for native in natives.made if native.errors]


def assert_whole_of(pool: ObjectPool[Native], size: int) -> None:
    handles = [pool.get(timeout=0) for _ in range(size)]
    with pytest.raises(PoolExhaustedError):
        pool.get(timeout=0)
    for handle in handles:
        handle.close()
