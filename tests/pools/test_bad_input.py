"""What pools refuse: a typed error that says what to do, and nothing is lost by it (I9)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lifecycle import BufferPool, ClosedError, LifecycleError, ObjectPool, RegistrationError, SafetyManager
from lifecycle.errors import (
    CallbackError,
    ConfigError,
    NotLentError,
    OutOfMemoryError,
    PoolError,
    ReturnedTwiceError,
)
from tests.core.natives import Native


async def coroutine(*_: object) -> None:
    return None


def nothing(_: object = None) -> None:
    return None


BUFFERS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "size-0": ({"size": 0}, ConfigError, "size= takes a number of bytes"),
    "size-negative": ({"size": -1}, ConfigError, "not -1"),
    "size-text": ({"size": "4096"}, ConfigError, "not '4096'"),
    "size-true": ({"size": True}, ConfigError, "not True"),
    "size-beyond-memory": ({"size": 1 << 60}, OutOfMemoryError, "more than the"),
    "size-beyond-everything": ({"size": 1 << 200}, OutOfMemoryError, "more than the"),
    "count-0": ({"count": 0}, ConfigError, "count= takes a whole number from 1"),
    "count-negative": ({"count": -3}, ConfigError, "not -3"),
    "count-huge": ({"count": 10**12}, ConfigError, "to 1000000"),
    "count-float": ({"count": 2.0}, ConfigError, "not 2.0"),
    "timeout-negative": ({"timeout": -1}, LifecycleError, "timeout="),
    "timeout-text": ({"timeout": "soon"}, LifecycleError, "timeout="),
    "exhausted": ({"exhausted": "panic"}, ConfigError, "'fallback', 'refuse', 'evict'"),
    "poison": ({"poison": 256}, ConfigError, "poison= takes a byte"),
    "name": ({"name": ""}, ConfigError, "name="),
    "manager": ({"manager": None}, ConfigError, "SafetyManager"),
    "type-name": ({"type_name": 7}, RegistrationError, "type name"),
}


@pytest.mark.parametrize("what", BUFFERS)
def test_what_a_buffer_pool_is_not_made_of(manager: SafetyManager, what: str) -> None:
    changed, error, text = BUFFERS[what]
    with pytest.raises(error, match=text):
        BufferPool(**{"manager": manager, "size": 4096, "count": 2, **changed})
    assert manager.components() == ()


OBJECTS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "size-0": ({"size": 0}, ConfigError, "size= takes a whole number from 1"),
    "size-negative": ({"size": -1}, ConfigError, "not -1"),
    "create": ({"create": 7}, RegistrationError, "create must be callable"),
    "create-coroutine": ({"create": coroutine}, CallbackError, "coroutine"),
    "reset": ({"reset": "x"}, RegistrationError, "reset must be callable"),
    "check-coroutine": ({"check": coroutine}, CallbackError, "coroutine"),
    "destroy": ({"destroy": 1}, RegistrationError, "destroy must be callable"),
    "reset-of-nothing": ({"reset": lambda: None}, RegistrationError, r"takes no argument.*reset=lambda obj"),
    "check-of-two": ({"check": lambda one, two: None}, RegistrationError, "takes 2 arguments"),
    "destroy-error": ({"destroy": OSError}, RegistrationError, "class of exceptions"),
    "max-age": ({"max_age": 0}, ConfigError, "max_age= takes seconds above 0"),
    "evict": ({"exhausted": "evict"}, ConfigError, "'refuse', 'fallback'"),
    "release-on": ({"release_on": 5}, RegistrationError, "release_on="),
}


@pytest.mark.parametrize("what", OBJECTS)
def test_what_an_object_pool_is_not_made_of(manager: SafetyManager, what: str) -> None:
    changed, error, text = OBJECTS[what]
    with pytest.raises(error, match=text):
        ObjectPool(**{"manager": manager, "create": Native, "size": 2, **changed})


def test_affinity_has_its_own_places(manager: SafetyManager) -> None:
    from lifecycle import ANY_THREAD

    with pytest.raises(ConfigError, match="on their own threads"):
        ObjectPool(manager, Native, size=1, affinity=True, release_on=ANY_THREAD)


@pytest.mark.parametrize("size", [0, -1, "9", 1.5, True])
def test_sizes_that_are_none(manager: SafetyManager, size: Any) -> None:
    pool = BufferPool(manager, 4096, 1)
    with pytest.raises(ConfigError):
        pool.get(size)
    with pytest.raises(OutOfMemoryError):
        pool.get(1 << 61)
    pool.get().close()
    assert pool.stats().results["created"] == 1


@pytest.mark.parametrize("timeout", [-1, "x", float("nan"), float("inf")])
def test_timeouts_that_are_none(manager: SafetyManager, timeout: Any) -> None:
    with ObjectPool(manager, Native, size=1) as pool:
        with pool.get():
            with pytest.raises(LifecycleError, match="timeout="):
                pool.get(timeout=timeout)
        pool.get(timeout=0).close()


@pytest.mark.parametrize("limit", [0, -1, 1.5, None, True, 10**9])
def test_resizes_and_trims_that_are_none(manager: SafetyManager, limit: Any) -> None:
    with ObjectPool(manager, Native, size=2) as pool:
        with pytest.raises(ConfigError):
            pool.resize(limit)
        assert pool.size == 2
        if limit != 0 and limit != 10**9:
            with pytest.raises(PoolError):
                pool.trim(limit)
    with pytest.raises(PoolError, match="is closed"):
        pool.resize(1)
    buffers = BufferPool(manager, 4096, 2)
    with pytest.raises(OutOfMemoryError):
        buffers.resize(size=1 << 61)
    assert (buffers.size, buffers.count) == (4096, 2)


# -- giving back ---------------------------------------------------------------------------------------------


@pytest.fixture
def pools(manager: SafetyManager) -> tuple[ObjectPool[Native], ObjectPool[Native]]:
    return tuple(ObjectPool(manager, Native, size=1, timeout=0, name=name) for name in ("left", "right"))  # type: ignore[return-value]


def still_whole(*pools: ObjectPool[Any]) -> None:
    for pool in pools:
        pool.get().close()
        pool.close()


def test_giving_back_to_another_pool_names_the_one_that_lent_it(
    pools: tuple[ObjectPool[Native], ObjectPool[Native]],
) -> None:
    left, right = pools
    handle = left.get()
    with pytest.raises(NotLentError, match=r"was lent by another pool, 'left', not by 'right'"):
        right.put(handle)
    assert handle.valid
    assert left.put(handle) is True
    with pytest.raises(NotLentError, match="'left'"):
        right.put(handle)
    still_whole(left, right)


def test_giving_back_twice(pools: tuple[ObjectPool[Native], ObjectPool[Native]]) -> None:
    left, right = pools
    handle = left.get()
    assert left.put(handle)
    with pytest.raises(
        ReturnedTwiceError, match=r"given back to pool 'left' already: released .* by close\(\)"
    ):
        left.put(handle)
    with left.get() as again:  # somebody else has it by now: nothing is taken from him
        with pytest.raises(ReturnedTwiceError):
            left.put(handle)
        assert again.valid
        share = again.share()
        assert left.put(share) is False
        with pytest.raises(ReturnedTwiceError):
            left.put(share)
        assert again.valid
    still_whole(left, right)


@pytest.mark.parametrize("what", [None, 5, Native(), object], ids=repr)
def test_giving_back_what_is_no_handle(
    pools: tuple[ObjectPool[Native], ObjectPool[Native]], what: Any
) -> None:
    with pytest.raises(NotLentError, match=r"the handle that get\(\) gave"):
        pools[0].put(what)
    still_whole(*pools)


def test_giving_back_what_nobody_lent(
    manager: SafetyManager, pools: tuple[ObjectPool[Native], ObjectPool[Native]]
) -> None:
    with manager.register(Native(), "native", release=nothing) as handle:
        with pytest.raises(NotLentError, match="never lent by a pool"):
            pools[0].put(handle)
        assert handle.valid
    still_whole(*pools)


# -- too late ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [lambda m: BufferPool(m, 4096, 1), lambda m: ObjectPool(m, Native, size=1)],
    ids=["buffer", "object"],
)
def test_a_closed_manager_takes_no_pool(make: Callable[[SafetyManager], Any]) -> None:
    manager = SafetyManager(name="over")
    manager.close()
    with pytest.raises(ClosedError, match="'over' is closed"):
        make(manager)


def test_a_closed_pool_is_not_entered(manager: SafetyManager) -> None:
    pool = ObjectPool(manager, Native, size=1)
    pool.close()
    with pytest.raises(ClosedError):
        with pool:
            pass
    with pytest.raises(ClosedError, match="pool 'objects' is closed"):
        pool.get()
    assert pool.stats().results["closed"] == 1


def test_a_limit_of_the_type_costs_no_slot(manager: SafetyManager) -> None:
    with ObjectPool(manager, Native, size=2, type_name="rare") as pool:
        manager.policy("rare", max_live=1)
        with pool.get():
            with pytest.raises(LifecycleError, match="max_live"):
                pool.get()
            manager.policy("rare", max_live=None)
            pool.get(timeout=0).close()


def test_memory_that_cannot_be_had(manager: SafetyManager, monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle memory goes first; then it is said, and the slot is not lost."""
    from lifecycle.pools import buffers

    pool = BufferPool(manager, 1 << 16, 3, exhausted="evict")
    tried: list[int] = []

    def scarce(self: Any, nbytes: int, reservation: None) -> None:
        tried.append(nbytes)
        raise OutOfMemoryError("there is none")

    with pool.get(), pool.get(4096) as small:
        pool.get(8192).close()
        small.close()
        monkeypatch.setattr(buffers.Block, "__init__", scarce)
        with pytest.raises(OutOfMemoryError, match="there is none"):
            pool.get()
        monkeypatch.undo()
        assert tried == [1 << 16] * 2  # again, once what was idle had gone
        assert pool.stats().item_bytes == 1 << 16
        with pool.get(), pool.get():
            assert pool.stats().fallbacks == 0
