"""Buffers: page-aligned memory that comes back when its last holder goes."""

from __future__ import annotations

import ctypes
import gc
import mmap
import threading
from typing import Any

import pytest

from lifecycle import AccessRefusedError, BufferPool, ClosedError, Handle, LifecycleError, SafetyManager
from lifecycle.errors import PoolExhaustedError, PoolTimeoutError
from lifecycle.pools import Buffer
from tests.core.adversary import assert_nothing_left
from tests.support import eventually

PAGE = mmap.PAGESIZE
FRAME = 1920 * 1080 * 3


@pytest.fixture
def pool(manager: SafetyManager) -> BufferPool:
    return BufferPool(manager, FRAME, 3, name="frames")


def test_a_buffer_is_a_handle_on_writable_aligned_memory(manager: SafetyManager, pool: BufferPool) -> None:
    with pool.get() as buffer:
        assert isinstance(buffer, Buffer)
        assert isinstance(buffer, Handle)
        assert buffer.address % PAGE == 0
        assert buffer.nbytes == buffer.size == FRAME
        view = buffer.view()
        assert (len(view), view.readonly, view.format) == (FRAME, False, "B")
        view[0] = view[-1] = 7
        assert ctypes.c_ubyte.from_address(buffer.address).value == 7
        assert buffer.view(readonly=True).readonly
        part = buffer.view(buffer.address + 16, 4)
        view[16:20] = b"abcd"
        assert bytes(part) == b"abcd"
        assert len(buffer.view(buffer.address + FRAME - 5)) == 5
        assert manager.safe_access(buffer, lambda block: block.address) == buffer.address
        assert manager.safe_access(buffer.id, lambda block: block.nbytes) >= FRAME
        del view, part
    with pytest.raises(AccessRefusedError):
        buffer.view()


def test_memory_is_used_again(pool: BufferPool) -> None:
    addresses = set()
    for _ in range(10):
        with pool.get() as buffer:
            addresses.add(buffer.address)
    assert len(addresses) == 1
    assert pool.stats().results["reused"] == 9
    assert pool.stats().results["created"] == 1


@pytest.mark.needs("numpy")
def test_it_comes_back_when_the_last_array_goes(pool: BufferPool) -> None:
    np = pytest.importorskip("numpy")
    buffer = pool.get()
    address = buffer.address
    picture = np.frombuffer(buffer.view(), np.uint8).reshape(1080, 1920, 3)
    corner = picture[:10, :10].T
    assert buffer.close() is False
    del picture
    assert pool.stats().items == {"idle": 0, "in_use": 1}
    assert pool.loans()[0].state == "closing"
    with pool.get() as other:
        assert other.address != address
    corner[0, 0, 0] = 9
    del corner
    eventually(lambda: pool.stats().items == {"idle": 2, "in_use": 0}, timeout=20)
    again = [pool.get(), pool.get()]
    assert address in [one.address for one in again]
    for one in again:
        one.close()


def test_shares_views_and_leases_all_hold_it(pool: BufferPool) -> None:
    buffer = pool.get()
    share = buffer.share()
    assert isinstance(share, Buffer)
    assert share.address == buffer.address
    assert buffer.close() is False
    assert pool.stats().items["in_use"] == 1
    with share.lease() as block:
        assert block.address == share.address
        share.close()
        assert pool.stats().items["in_use"] == 1
    eventually(lambda: pool.stats().items == {"idle": 1, "in_use": 0}, timeout=20)


def test_one_that_is_dropped_comes_back_and_is_reported_with_its_site(
    manager: SafetyManager, pool: BufferPool
) -> None:
    told: list[Any] = []
    manager.add_observer(told.append)
    for _ in range(40):  # beyond those whose site every type samples
        pool.get()
        gc.collect()
    eventually(lambda: manager.stats().leaks == 40, timeout=20)
    eventually(lambda: pool.stats().dropped == 40, timeout=20)
    eventually(lambda: any(event.kind == "leak" for event in told), timeout=20)
    assert all("test_buffers.py:" in event.fields["site"] for event in told if event.kind == "leak")
    assert pool.stats().results["created"] <= 3


def test_a_smaller_request_takes_a_block_of_the_pool(pool: BufferPool) -> None:
    with pool.get(100) as buffer:
        assert buffer.nbytes == 100
        assert len(buffer.view()) == 100
        with pytest.raises(LifecycleError, match="not within"):
            buffer.view(buffer.address, 101)
        with pytest.raises(LifecycleError, match="not within"):
            buffer.view(buffer.address - 1, 1)
    with pool.get() as buffer:
        assert len(buffer.view()) == FRAME
    assert pool.stats().results["created"] == 1


def test_a_larger_request_is_served_plainly(pool: BufferPool) -> None:
    buffer = pool.get(FRAME + 1)
    assert type(buffer) is Buffer
    buffer.view()[FRAME] = 1
    stats = pool.stats()
    assert (stats.fallbacks, stats.items["in_use"], stats.item_bytes) == (1, 1, 0)
    assert len(pool.loans()) == 1
    buffer.close()
    assert pool.stats().items == {"idle": 0, "in_use": 0}
    assert sum(pool.stats().losses.values()) == 0


# -- exhaustion ----------------------------------------------------------------------------------------------


def test_exhausted_it_falls_back_and_counts(pool: BufferPool) -> None:
    buffers = [pool.get() for _ in range(5)]
    assert len({buffer.address for buffer in buffers}) == 5
    stats = pool.stats()
    assert stats.fallbacks == 2
    assert stats.items == {"idle": 0, "in_use": 5}
    for buffer in buffers:
        buffer.close()
    assert pool.stats().items == {"idle": 3, "in_use": 0}


def test_it_waits_for_one_that_comes_back(manager: SafetyManager) -> None:
    pool = BufferPool(manager, 10, 1, timeout=20)
    buffer = pool.get()
    threading.Timer(0.05, buffer.close).start()
    with pool.get() as again:
        assert again.address == buffer.address
    stats = pool.stats()
    assert stats.waits == 1
    assert stats.wait_seconds > 0.01
    assert stats.fallbacks == 0
    assert stats.get_wait.count == 2


def test_it_refuses_naming_the_longest_holders(manager: SafetyManager) -> None:
    pool = BufferPool(manager, 10, 4, timeout=0, exhausted="refuse", name="small")
    held = [pool.get() for _ in range(4)]
    view = held[0].view()
    held[0].close()
    with pytest.raises(PoolExhaustedError) as refused:
        pool.get()
    text = str(refused.value)
    assert not isinstance(refused.value, PoolTimeoutError)
    assert "'small' is exhausted: all 4 are in use" in text
    assert f'buffer "small" (object {held[0].id}, ' in text
    assert "test_buffers.py:" in text
    assert "a lease or view still holds it" in text
    assert "and 1 more" in text
    assert len(refused.value.holders) == 4
    with pytest.raises(PoolTimeoutError, match="nothing came back within"):
        pool.get(timeout=0.01)
    with pytest.raises(TimeoutError):
        pool.get(timeout=0.01)
    assert pool.stats().results["refused"] == 1
    assert pool.stats().results["timeout"] == 2
    del view
    for buffer in held[1:]:
        buffer.close()


def test_evicting_makes_room_for_another_size(manager: SafetyManager) -> None:
    pool = BufferPool(manager, 64 * PAGE, 2, exhausted="evict")
    small = [pool.get(PAGE), pool.get(PAGE)]
    for buffer in small:
        buffer.close()
    assert pool.stats().item_bytes == 2 * PAGE
    with pool.get(64 * PAGE) as large:
        assert len(large.view()) == 64 * PAGE
    stats = pool.stats()
    assert stats.losses["evicted"] == 1
    assert stats.item_bytes == 65 * PAGE
    with pool.get(PAGE) as one, pool.get(PAGE) as two:  # the large one serves a small request
        assert {len(one.view()), len(two.view())} == {PAGE}
        with pool.get(PAGE):
            assert pool.stats().fallbacks == 1
    assert pool.stats().losses["evicted"] == 1


# -- the end, and memory -------------------------------------------------------------------------------------


def test_a_closed_pool_still_serves(pool: BufferPool) -> None:
    before = pool.get()
    report = pool.close()
    assert not report.ok
    assert report.missing[0].id == before.id
    assert pool.closed
    buffer = pool.get()
    assert type(buffer) is Buffer
    buffer.view()[0] = 1
    buffer.close()
    before.close()
    stats = pool.stats()
    assert stats.results["closed"] == 1
    assert stats.items == {"idle": 0, "in_use": 0}
    assert stats.item_bytes == 0
    assert pool.close().ok


def test_a_closed_manager_closes_it(pool: BufferPool) -> None:
    buffer = pool.get()
    view = buffer.view()
    pool.manager.close()
    assert pool.closed
    with pytest.raises(ClosedError, match="is closed"):
        pool.get()
    view[0] = 1  # nothing is freed under a user
    assert view[0] == 1
    del view
    eventually(lambda: pool.stats().items["in_use"] == 0, timeout=20)


def test_trim_gives_the_least_recently_used_back(pool: BufferPool) -> None:
    buffers = [pool.get() for _ in range(3)]
    addresses = [buffer.address for buffer in buffers]
    for buffer in buffers:
        buffer.close()
    block = -(-FRAME // PAGE) * PAGE
    assert pool.trim(idle_for=100) == 0
    assert pool.trim(keep=1) == 2 * block
    assert pool.stats().items["idle"] == 1
    assert pool.stats().losses["trimmed"] == 2
    with pool.get() as buffer:
        assert buffer.address == addresses[2]
        assert pool.trim() == 0
    assert pool.trim() == block


def test_resize(pool: BufferPool) -> None:
    held = [pool.get() for _ in range(3)]
    pool.resize(count=1)
    assert pool.count == 1
    for buffer in held:
        buffer.close()
    assert pool.stats().items == {"idle": 1, "in_use": 0}
    pool.resize(count=4)
    held = [pool.get() for _ in range(5)]
    assert pool.stats().fallbacks == 1
    pool.resize(size=10 * PAGE)
    for buffer in held:
        buffer.close()
    stats = pool.stats()
    assert (stats.items["idle"], stats.item_bytes) == (0, 0)
    with pool.get() as buffer:
        assert buffer.nbytes == 10 * PAGE
    assert pool.stats().item_bytes == 10 * PAGE


def test_the_memory_is_really_given_back(manager: SafetyManager) -> None:
    psutil = pytest.importorskip("psutil", reason="needs psutil: run the tests with `make test`")
    pool = BufferPool(manager, 64 << 20, 2)
    for _ in range(2):
        with pool.get() as buffer:
            ctypes.memset(buffer.address, 1, buffer.nbytes)
    full = psutil.Process().memory_info().rss
    assert pool.trim() == 64 << 20
    assert psutil.Process().memory_info().rss < full - (50 << 20)


# -- poison --------------------------------------------------------------------------------------------------


def test_poison_shows_stale_readers_and_finds_stale_writers(manager: SafetyManager) -> None:
    told: list[Any] = []
    manager.add_observer(told.append)
    pool = BufferPool(manager, 3 * PAGE + 5, 1, poison=0xDD, name="watched")
    with pool.get() as buffer:
        address = buffer.address
        buffer.view()[:] = b"x" * buffer.nbytes
    assert ctypes.string_at(address, buffer.nbytes) == b"\xdd" * buffer.nbytes
    with pool.get() as buffer:
        assert buffer.address == address
    ctypes.c_ubyte.from_address(address + 2 * PAGE).value = 1  # by one who kept the raw address
    with pool.get() as buffer:
        assert buffer.address != address
    assert pool.stats().losses["stale"] == 1
    eventually(lambda: any(event.kind == "panic" for event in told), timeout=20)
    (event,) = [event for event in told if event.kind == "panic"]
    text = str(event.fields)
    assert "test_buffers.py:" in text
    assert f"byte {2 * PAGE}" in text
    with pool.get(), pool.get():
        pass


def test_nothing_is_left(manager: SafetyManager, pool: BufferPool) -> None:
    for _ in range(100):
        pool.get().close()
    pool.close()
    assert_nothing_left(manager)
