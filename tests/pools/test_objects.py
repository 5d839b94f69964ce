"""Objects that are lent again, and what makes one unfit for it."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from lifecycle import (
    ANY_THREAD,
    AccessPanicError,
    ClosedError,
    Handle,
    ObjectPool,
    ReleaseQueue,
    SafetyManager,
    never_wait,
)
from lifecycle._core import runtime
from lifecycle.errors import CallbackError, DuplicateError, PoolExhaustedError, PoolTimeoutError
from tests.core.adversary import assert_nothing_left
from tests.core.natives import Native
from tests.support import eventually


class Maker:
    """Makes natives, and knows them all."""

    def __init__(self) -> None:
        self.made: list[Native] = []
        self.threads: list[int] = []

    def __call__(self) -> Native:
        native = Native(f"native {len(self.made)}")
        self.made.append(native)
        self.threads.append(threading.get_ident())
        return native

    def all_destroyed(self) -> bool:
        """Each once, and none used after."""
        assert not [native.errors for native in self.made if native.errors]
        return [native.released for native in self.made] == [1] * len(self.made)


@pytest.fixture
def make() -> Maker:
    return Maker()


def free(native: Native) -> None:
    native.free()


class No:
    """False, but not ``False``: as NumPy's."""

    def __bool__(self) -> bool:
        return False


@pytest.mark.parametrize("hook", ["check", "reset"])
@pytest.mark.parametrize("answer", [False, No(), 0, "", None, True, 1])
def test_an_item_is_refused_by_what_is_false_of_whatever_type(
    manager: SafetyManager, make: Maker, hook: str, answer: object
) -> None:
    hooks: dict[str, Any] = {hook: lambda item: answer}
    with ObjectPool(manager, make, size=1, destroy=free, **hooks) as pool:
        for _ in range(2):
            pool.get().close()
        fit = answer is None or bool(answer)
        assert len(make.made) == (1 if fit else 2)
        assert pool.stats().losses[hook] == (0 if fit else 1 if hook == "check" else 2)


def start(*functions: Callable[[], object]) -> list[threading.Thread]:
    threads = [threading.Thread(target=function, daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    return threads


def join(threads: list[threading.Thread]) -> None:
    eventually(lambda: not any(thread.is_alive() for thread in threads), timeout=20)


def test_an_item_is_lent_again(manager: SafetyManager, make: Maker) -> None:
    pool = ObjectPool(manager, make, size=2, destroy=free)
    for _ in range(5):
        with pool.get() as handle:
            assert type(handle) is Handle
            with handle.lease() as item:
                assert item.use() == "native 0"
    assert len(make.made) == 1
    with pool.item() as one, pool.item() as two:
        assert one is not two
    results = pool.stats().results
    assert (results.pop("reused"), results.pop("created"), set(results.values())) == (5, 2, {0})  # type: ignore[attr-defined]
    assert pool.close().ok
    eventually(make.all_destroyed, timeout=20)
    assert_nothing_left(manager)


def test_it_comes_back_when_its_last_holder_goes(manager: SafetyManager, make: Maker) -> None:
    pool = ObjectPool(manager, make, size=1, destroy=free)
    handle = pool.get()
    lease = handle.lease()
    assert handle.close() is False
    with pytest.raises(PoolExhaustedError, match="a lease or view still holds it"):
        pool.get(timeout=0)
    lease.close()
    pool.get(timeout=20).close()
    pool.close()


def test_reset_runs_when_it_comes_back_and_may_refuse(manager: SafetyManager, make: Maker) -> None:
    refused: list[Native] = []

    def reset(native: Native) -> object:
        native.label += "!"
        return native not in refused

    pool = ObjectPool(manager, make, size=1, destroy=free, reset=reset)
    with pool.item() as item:
        pass
    assert item.label == "native 0!"
    refused.append(item)
    with pool.item() as again:
        assert again is item
    assert pool.stats().losses["reset"] == 1
    assert pool.stats().items == {"idle": 0, "in_use": 0}
    with pool.item() as other:
        assert other is not item
    pool.close()
    eventually(make.all_destroyed, timeout=20)


def test_what_a_reset_raises_is_reported_and_costs_the_item_alone(
    manager: SafetyManager, make: Maker
) -> None:
    def reset(native: Native) -> None:
        raise ValueError("no way back")

    told: list[Any] = []
    manager.add_observer(told.append)
    pool = ObjectPool(manager, make, size=1, destroy=free, reset=reset, name="weary")
    for _ in range(3):
        pool.get().close()
    assert len(make.made) == 3
    assert manager.stats().panics == 3
    eventually(lambda: [event for event in told if event.kind == "panic"], timeout=20)
    assert "pool weary: reset: ValueError: no way back" in str([event.fields for event in told])
    pool.close()
    eventually(make.all_destroyed, timeout=20)


@pytest.mark.parametrize("answer", [False, ValueError("gone")], ids=["false", "raises"])
def test_check_runs_before_it_is_lent_again(manager: SafetyManager, make: Maker, answer: Any) -> None:
    broken: list[Native] = []

    def check(native: Native) -> object:
        if native in broken:
            if isinstance(answer, Exception):
                raise answer
            return answer
        return None

    pool = ObjectPool(manager, make, size=1, destroy=free, check=check)
    with pool.item() as item:
        pass
    with pool.item() as again:
        assert again is item
    broken.append(item)
    with pool.item() as other:
        assert other is not item
    eventually(lambda: item.released == 1, timeout=20)
    assert pool.stats().losses["check"] == 1
    pool.close()
    eventually(make.all_destroyed, timeout=20)


def test_max_age(manager: SafetyManager, make: Maker) -> None:
    pool = ObjectPool(manager, make, size=1, destroy=free, max_age=0.2)
    with pool.item() as item:
        pass
    time.sleep(0.3)
    with pool.item() as other:
        assert other is not item
        time.sleep(0.3)
    assert pool.stats().losses["aged"] == 2  # the second was too old when it came back
    assert pool.stats().items["idle"] == 0
    pool.close()
    eventually(make.all_destroyed, timeout=20)


def test_an_item_that_panicked_is_not_lent_again(manager: SafetyManager, make: Maker) -> None:
    pool = ObjectPool(manager, make, size=1, destroy=free)
    handle = pool.get()

    def fail(native: Native) -> None:
        raise ValueError("what now?")

    with pytest.raises(AccessPanicError):
        manager.safe_access(handle, fail)
    handle.close()
    with pool.item() as item:
        assert item.label == "native 1"
    assert pool.stats().losses["panic"] == 1
    pool.close()
    eventually(make.all_destroyed, timeout=20)


def test_what_create_raises_comes_out_and_costs_no_slot(manager: SafetyManager, make: Maker) -> None:
    fails = [True, True]

    def create() -> Native:
        if fails:
            fails.pop()
            raise ConnectionError("nobody there")
        return make()

    pool = ObjectPool(manager, create, size=1, destroy=free)
    for _ in range(2):
        with pytest.raises(ConnectionError):
            pool.get()
    pool.get(timeout=0).close()
    pool.close()
    eventually(make.all_destroyed, timeout=20)


def test_create_must_make_a_new_one(manager: SafetyManager) -> None:
    only = Native("only")
    pool = ObjectPool(manager, lambda: only, size=2, destroy=free)
    with pool.get():
        with pytest.raises(DuplicateError):
            pool.get()
    pool.get(timeout=0).close()
    pool.close()
    assert only.released == 1


# -- waiting -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("owned", [True, False], ids=["destroy", "nothing to destroy"])
def test_two_borrowers_never_have_the_same_item(manager: SafetyManager, make: Maker, owned: bool) -> None:
    """Whether the pool destroys its items or not; what the pool has no more may be made again."""
    native = make()
    pool = ObjectPool(
        manager,
        lambda: native,
        size=2,
        timeout=0,
        exhausted="fallback",
        destroy=free if owned else None,
        release_on=ANY_THREAD,
        name="natives",
    )
    for _ in range(2):
        with pool.get(), pytest.raises(DuplicateError):
            pool.get()
        assert native.released == 0, "what was refused is another slot's item"
        assert pool.stats().items == {"idle": 1, "in_use": 0}
    assert pool.trim() == 1
    native.threads.clear()
    with pool.item() as again:
        assert again is native


@pytest.mark.parametrize("min_idle", [0, 1])
def test_none_is_no_item(manager: SafetyManager, min_idle: int) -> None:
    """As of a function whose return was forgotten; once it is there the pool lends what it gives."""
    given: list[Any] = [None]
    destroyed: list[Any] = []
    pool = ObjectPool(
        manager,
        lambda: given[0],
        size=1,
        timeout=0,
        min_idle=min_idle,
        destroy=destroyed.append,
        release_on=ANY_THREAD,
        name="natives",
    )
    for _ in range(2):
        with pytest.raises(CallbackError, match="'natives': create returned None"):
            pool.get(timeout=5)
    assert destroyed == []
    assert pool.stats().items == {"idle": 0, "in_use": 0}
    given[0] = Native("native")
    with pool.item(timeout=5) as item:
        assert item is given[0]
    assert pool.close()
    assert destroyed == given


def test_the_first_to_come_is_the_first_served(manager: SafetyManager, make: Maker) -> None:
    pool = ObjectPool(manager, make, size=1, destroy=free, timeout=20)
    served: list[int] = []
    handle = pool.get()

    def borrow(number: int) -> None:
        with pool.get():
            served.append(number)

    threads = []
    for number in range(5):
        threads += start(lambda: borrow(number))
        eventually(lambda: pool.stats().waiters == number + 1, timeout=20)
    handle.close()
    join(threads)
    assert served == [0, 1, 2, 3, 4]
    stats = pool.stats()
    assert (stats.waits, stats.waiters, stats.longest) == (5, 0, None)
    pool.close()


def test_an_item_discarded_on_return_wakes_a_waiter(manager: SafetyManager, make: Maker) -> None:
    pool = ObjectPool(manager, make, size=1, destroy=free, reset=lambda native: False, timeout=20)
    handle = pool.get()
    got: list[str] = []

    def borrow() -> None:
        with pool.item() as item:
            got.append(item.label)

    threads = start(borrow)
    eventually(lambda: pool.stats().waiters == 1, timeout=20)
    handle.close()
    join(threads)
    assert got == ["native 1"]
    pool.close()
    eventually(make.all_destroyed, timeout=20)


def test_a_failing_create_wakes_the_next_waiter(manager: SafetyManager, make: Maker) -> None:
    """Two wait; the first is handed an empty slot and cannot fill it."""
    turns = [make, None, make]
    errors: list[BaseException] = []

    def create() -> Native:
        turn = turns.pop(0)
        if turn is None:
            raise ConnectionError("nobody there")
        return turn()

    pool = ObjectPool(manager, create, size=1, destroy=free, reset=lambda native: False, timeout=20)
    handle = pool.get()

    def borrow() -> None:
        try:
            pool.get().close()
        except ConnectionError as error:
            errors.append(error)

    threads = []
    for number in range(2):
        threads += start(borrow)
        eventually(lambda: pool.stats().waiters == number + 1, timeout=20)
    handle.close()
    join(threads)
    assert len(errors) == 1
    pool.close()


def test_a_timeout_names_the_holders(manager: SafetyManager, make: Maker) -> None:
    pool = ObjectPool(manager, make, size=1, destroy=free, timeout=0.02, name="db")
    with pool.get() as handle:
        with pytest.raises(PoolTimeoutError) as refused:
            pool.get()
        assert f"(object {handle.id}" in str(refused.value)
        assert "test_objects.py:" in str(refused.value)
    assert pool.stats().results["timeout"] == 1
    pool.close()


def test_falling_back_makes_one_more_that_goes_when_it_comes_back(
    manager: SafetyManager, make: Maker
) -> None:
    pool = ObjectPool(manager, make, size=1, destroy=free, timeout=0, exhausted="fallback")
    with pool.get(), pool.item() as extra:
        assert pool.stats().items == {"idle": 0, "in_use": 2}
    eventually(lambda: extra.released == 1, timeout=20)
    assert pool.stats().items == {"idle": 1, "in_use": 0}
    assert pool.stats().fallbacks == 1
    pool.close()
    eventually(make.all_destroyed, timeout=20)


def test_where_waiting_is_forbidden_it_does_not(manager: SafetyManager, make: Maker) -> None:
    pool = ObjectPool(manager, make, size=1, destroy=free, timeout=None)
    with pool.get(), never_wait():
        with pytest.raises(PoolExhaustedError, match=r'get\(\) was not to wait.* on thread "MainThread"'):
            pool.get()
    pool.close()


@pytest.mark.parametrize("end", ["pool", "manager"])
def test_closing_ends_the_wait(make: Maker, end: str) -> None:
    manager = SafetyManager(name="closing")
    pool = ObjectPool(manager, make, size=1, destroy=free, timeout=None)
    handle = pool.get()
    ended: list[BaseException] = []

    def borrow() -> None:
        try:
            pool.get()
        except ClosedError as error:
            ended.append(error)

    threads = start(borrow, borrow, borrow)
    eventually(lambda: pool.stats().waiters == 3, timeout=20)
    (pool if end == "pool" else manager).close()
    join(threads)
    assert len(ended) == 3
    assert f"{end} " in str(ended[0])
    with pytest.raises(ClosedError):
        pool.get()
    handle.close()
    manager.close()
    eventually(make.all_destroyed, timeout=20)


def test_a_dropped_loan_reaches_one_who_waits(manager: SafetyManager, make: Maker) -> None:
    pool = ObjectPool(manager, make, size=1, destroy=free, timeout=20)
    kept: list[Any] = [pool.get()]
    kept.append(kept)  # a cycle: only a collection ends it, and that only posts
    got: list[str] = []

    def borrow() -> None:
        with pool.item() as item:
            got.append(item.label)

    threads = start(borrow)
    eventually(lambda: pool.stats().waiters == 1, timeout=20)
    del kept
    gc.collect()
    join(threads)
    assert got == ["native 0"]
    assert pool.stats().dropped == 1
    eventually(lambda: manager.stats().leaks == 1, timeout=20)
    pool.close()


# -- the end -------------------------------------------------------------------------------------------------


def test_closing_destroys_what_is_idle_and_what_comes_back(manager: SafetyManager, make: Maker) -> None:
    pool = ObjectPool(manager, make, size=2, destroy=free)
    with pool.get() as held:
        pool.get().close()
        report = pool.close()
        assert [loan.id for loan in report.missing] == [held.id]
        assert "test_objects.py:" in str(report.missing[0])
        assert [native.released for native in make.made] == [0, 1]
        with held.lease() as item:
            item.use()
    eventually(make.all_destroyed, timeout=20)


def test_closing_waits_for_what_is_lent(manager: SafetyManager, make: Maker) -> None:
    pool = ObjectPool(manager, make, size=1, destroy=free)
    handle = pool.get()
    threading.Timer(0.05, handle.close).start()
    assert pool.close(timeout=20).ok
    eventually(make.all_destroyed, timeout=20)


def test_the_manager_never_destroys_an_item_in_use(make: Maker) -> None:
    manager = SafetyManager(name="ends")
    pool = ObjectPool(manager, make, size=2, destroy=free)
    pool.get().close()
    handle = pool.get()
    lease = handle.lease()
    report = manager.close()
    assert not report.ok
    with lease as item:
        assert item.use() == "native 0"
    del lease
    eventually(make.all_destroyed, timeout=20)


def test_an_interpreter_that_ends_destroys_every_item(run_python: Callable[..., Any]) -> None:
    out = run_python(
        """
        from lifecycle import ObjectPool, SafetyManager
        class Item: pass
        manager = SafetyManager()
        pool = ObjectPool(manager, Item, size=3, destroy=lambda item: print("destroyed", flush=True))
        handles = [pool.get() for _ in range(3)]
        for handle in handles:
            handle.close()
        """
    ).check()
    assert out.count("destroyed") == 3


def test_resize_and_trim(manager: SafetyManager, make: Maker) -> None:
    pool = ObjectPool(manager, make, size=4, destroy=free)
    for handle in [pool.get() for _ in range(4)]:
        handle.close()
    pool.resize(2)
    assert pool.size == 2
    eventually(lambda: sum(native.released for native in make.made) == 2, timeout=20)
    assert pool.stats().losses["retired"] == 2
    assert pool.trim(keep=1) == 1
    assert pool.trim() == 1
    assert pool.trim() == 0
    eventually(lambda: sum(native.released for native in make.made) == 4, timeout=20)
    pool.resize(3)
    with pool.get(timeout=0), pool.get(timeout=0), pool.get(timeout=0):
        with pytest.raises(PoolExhaustedError):
            pool.get(timeout=0)
    pool.close()
    eventually(make.all_destroyed, timeout=20)


def test_growing_wakes_who_waits(manager: SafetyManager, make: Maker) -> None:
    pool = ObjectPool(manager, make, size=1, destroy=free, timeout=20)
    got: list[str] = []

    def borrow() -> None:
        with pool.item() as item:
            got.append(item.label)

    with pool.get():
        threads = start(borrow)
        eventually(lambda: pool.stats().waiters == 1, timeout=20)
        pool.resize(2)
        join(threads)
    assert got == ["native 1"]
    pool.close()


def test_destroy_runs_at_its_place(manager: SafetyManager, make: Maker) -> None:
    queue = ReleaseQueue("gl", thread="current")
    pool = ObjectPool(manager, make, size=1, destroy=free, release_on=queue)
    join(start(lambda: pool.get().close()))
    join(start(pool.close))
    assert make.made[0].released == 0
    queue.drain()
    assert make.made[0].threads == [threading.get_ident()]


def test_any_thread_destroys_inline(manager: SafetyManager, make: Maker) -> None:
    pool = ObjectPool(manager, make, size=1, destroy=free, release_on=ANY_THREAD)
    pool.get().close()
    pool.trim()
    eventually(make.all_destroyed, timeout=20)
    pool.close()


# -- affinity ------------------------------------------------------------------------------------------------


class Worker(threading.Thread):
    """A thread that does what it is told, one thing after the other."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.told = threading.Event()
        self.done = threading.Event()
        self.work: Callable[[], Any] | None = None
        self.result: Any = None
        self.start()

    def run(self) -> None:
        while True:
            self.told.wait()
            self.told.clear()
            if self.work is None:
                return
            try:
                self.result = self.work()
            except BaseException as error:
                self.result = error
            self.work = None
            self.done.set()

    def __call__(self, work: Callable[[], Any]) -> Any:
        self.work = work
        self.done.clear()
        self.told.set()
        assert self.done.wait(20)
        result, self.result = self.result, None
        return result

    def end(self) -> None:
        self.told.set()
        self.join(20)


def test_with_affinity_an_item_is_lent_reset_and_destroyed_on_its_thread(
    manager: SafetyManager, make: Maker
) -> None:
    resets: list[tuple[str, int | None]] = []

    def reset(native: Native) -> None:
        resets.append((native.label, threading.get_ident()))

    pool = ObjectPool(manager, make, size=2, destroy=free, reset=reset, affinity=True, timeout=0)
    one, two = Worker(), Worker()
    handles = {worker: worker(pool.get) for worker in (one, two)}
    handles[one].close()  # given back here, and so not reset here
    del handles[one]
    eventually(lambda: one(lambda: pool.stats().items["idle"]) == 1, timeout=20)
    assert resets == [] or runtime.free_threaded  # where it may have come back on its own thread after all
    one(lambda: pool.get().close())
    assert make.threads == [one.ident, two.ident]
    assert set(resets) == {("native 0", one.ident)}
    handles[two].close()
    eventually(lambda: two(lambda: pool.stats().items["idle"]) == 2, timeout=20)
    pool.close()
    for worker in (one, two):
        eventually(lambda: worker(pool.drain) or all(native.released for native in make.made), timeout=20)
    eventually(make.all_destroyed, timeout=20)
    for native, made_on in zip(make.made, make.threads, strict=True):
        assert native.threads == [made_on]
    one.end()
    two.end()


def test_another_threads_idle_item_makes_room(manager: SafetyManager, make: Maker) -> None:
    pool = ObjectPool(manager, make, size=1, destroy=free, affinity=True, timeout=0)
    one, two = Worker(), Worker()
    one(lambda: pool.get().close())
    two(lambda: pool.get().close())
    assert pool.stats().losses["evicted"] == 1
    assert make.made[0].released == 0  # it waits for its own thread
    one(pool.drain)
    assert make.made[0].threads == [one.ident]
    two(pool.close)
    assert make.made[1].threads == [two.ident]
    one.end()
    two.end()


def test_the_items_of_a_thread_that_has_ended_are_given_up(manager: SafetyManager, make: Maker) -> None:
    pool = ObjectPool(manager, make, size=1, destroy=free, affinity=True, timeout=0)
    for _ in range(4):  # threads with a used identity among them
        worker = Worker()
        worker(lambda: pool.get().close())
        worker.end()
    pool.get().close()
    assert len(make.made) == 5
    assert [native.released for native in make.made[:4]] == [0] * 4
    eventually(lambda: manager.stats().orphaned == 4, timeout=20)
    pool.close()
    assert make.made[4].released == 1
