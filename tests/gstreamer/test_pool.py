"""Pools: no wait without end, nobody else failed by it, buffers back by being dropped, and an exact count of
what is out."""

from __future__ import annotations

import gc
import threading
import time
from types import ModuleType
from typing import Any

import pytest

from lifecycle import ClosedError, HeldError, LifecycleError, SafetyManager
from lifecycle.errors import PoolError, PoolTimeoutError
from tests.support import Circle, eventually

pytestmark = pytest.mark.needs("gstreamer", "numpy")

CAPS = "video/x-raw,format=NV12,width=64,height=48,framerate=30/1"


@pytest.fixture
def pool(gst: ModuleType, manager: SafetyManager) -> Any:
    from lifecycle.integrations.gstreamer import PoolAdapter

    with PoolAdapter(manager, CAPS, most=3, name="pictures") as made:
        yield made


def test_buffers_come_back_by_being_closed_dropped_or_pushed(
    gst: ModuleType, manager: SafetyManager, pool: Any
) -> None:
    addresses = set()
    for _ in range(10):
        with pool.acquire(timeout=20) as frame:
            y, uv = frame.planes()
            assert (y.shape, uv.shape) == ((48, 64), (24, 32, 2))
            addresses.add(y.ctypes.data)
            y[:] = 1
            assert pool.outstanding == 1
            del y, uv
        assert pool.outstanding == 0
    assert len(addresses) <= 3
    buffer = pool.acquire().take()
    assert pool.outstanding == 1
    second = buffer.copy()
    del buffer
    assert pool.outstanding == 1, "a copy that shares its memory holds it"
    del second
    assert pool.outstanding == 0
    stats = pool.stats()
    assert stats.results["created"] + stats.results["reused"] == 11
    assert stats.results["reused"] >= 8
    assert stats.items["in_use"] == 0
    assert stats.items_limit == 3
    assert sum(stats.get_wait.counts) == 11


def test_an_empty_pool_says_who_holds_what(gst: ModuleType, manager: SafetyManager, pool: Any) -> None:
    first = pool.acquire()
    second = pool.acquire()
    array = second.planes()[0]
    second.close()
    third = pool.acquire().take()
    began = time.monotonic()
    with pytest.raises(
        PoolTimeoutError, match=r"'pictures': no buffer came back within 0\.1 s, all 3 are out"
    ) as caught:
        pool.acquire(timeout=0.1)
    assert time.monotonic() - began >= 0.1
    with pytest.raises(PoolTimeoutError):
        pool.acquire(timeout=0)
    holders = caught.value.holders
    assert len(holders) == 3
    assert f"object {first.handle.id}, for" in holders[0]
    assert "held by its WritableFrame" in holders[0]
    assert "held by a view made at test_pool.py:" in holders[1]
    assert "taken as a Gst.Buffer" in holders[2]
    assert pool.stats().results["timeout"] == 2
    del array
    assert pool.outstanding == 2
    fourth = pool.acquire(timeout=20)
    for frame in (first, fourth):
        frame.close()
    del third, frame
    assert pool.outstanding == 0


def test_what_was_pushed_is_out_until_the_last_element_has_dropped_it(
    gst: ModuleType, manager: SafetyManager, pool: Any
) -> None:
    from lifecycle.integrations.gstreamer import Feeder, SampleAdapter

    pipeline = gst.Gst.parse_launch(
        "appsrc name=src ! queue ! identity ! appsink name=sink sync=false enable-last-sample=false"
    )
    sink = gst.appsink_of(pipeline)
    feeder = Feeder(manager, pipeline.get_by_name("src"), caps=CAPS, name="camera")
    pipeline.set_state(gst.Gst.State.PLAYING)
    for number in range(3):
        with pool.acquire() as frame:
            frame.planes()[0][:] = number
            feeder.push(frame, pts=number)
    assert pool.outstanding == 3
    with pytest.raises(PoolTimeoutError, match="pushed by feeder 'camera'"):
        pool.acquire(timeout=0.05)
    adapter = SampleAdapter(manager)
    for number in range(3):
        with adapter.frame(gst.pull(sink)) as frame:
            kept = frame.planes()[0]
            assert int(kept.max()) == number
    with pool.acquire(timeout=20):
        assert int(kept.max()) == 2, "lent again was another"
    feeder.close()
    gst.shutdown(pipeline)
    del kept, sink, pipeline, feeder
    eventually(lambda: pool.outstanding == 0)


@pytest.mark.usefixtures("no_collection_by_itself")
def test_what_only_garbage_holds_comes_back(pool: Any) -> None:
    """Who waits makes nothing, so no collection comes by itself."""
    for _ in range(3):
        Circle(pool.acquire(timeout=20))
    pool.acquire(timeout=20).close()


def test_a_frame_of_a_pool_is_handed_on_only_when_nothing_writes_it(pool: Any) -> None:
    with pool.acquire() as frame:
        array = frame.planes()[1]
        with pytest.raises(HeldError, match="held by view made at"):
            frame.take()
        array[:] = 3
        del array
        frame.take()
    eventually(lambda: pool.outstanding == 0)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_dropped_frame_goes_back_and_is_reported(manager: SafetyManager, pool: Any) -> None:
    pool.acquire()
    gc.collect()
    eventually(lambda: pool.outstanding == 0)
    assert manager.stats().leaks == 1


def test_a_waiter_gets_what_comes_back_and_no_timeout_fails_another(pool: Any) -> None:
    frames = [pool.acquire() for _ in range(3)]
    got: list[Any] = []
    failed: list[BaseException] = []

    def wait(timeout: float) -> None:
        try:
            got.append(pool.acquire(timeout))
        except PoolTimeoutError as error:
            failed.append(error)

    patient = threading.Thread(target=wait, args=(20,))
    hasty = threading.Thread(target=wait, args=(0.05,))
    patient.start()
    hasty.start()
    hasty.join(20)
    assert failed
    assert not got
    assert pool.stats().waiters == 1
    frames.pop().close()
    patient.join(20)
    assert len(got) == 1
    for frame in (*frames, *got):
        frame.close()
    assert pool.stats().waiters == 0


@pytest.mark.parametrize("how", ["manager", "pool"])
def test_whoever_waits_is_told_of_the_end(gst: ModuleType, how: str) -> None:
    from lifecycle.integrations.gstreamer import PoolAdapter

    manager = SafetyManager(name="short")
    pool = PoolAdapter(manager, CAPS, most=1, name="one")
    frame = pool.acquire()
    buffer = frame.take()
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            pool.acquire()
        except ClosedError as error:
            caught.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    eventually(lambda: pool.stats().waiters == 1)
    manager.close() if how == "manager" else pool.close()
    thread.join(20)
    assert f"{how} '{'short' if how == 'manager' else 'one'}' is closed" in str(caught[0])
    assert pool.close() is False
    assert pool.outstanding == 1
    assert buffer.get_size() == 64 * 48 * 3 // 2
    del buffer
    assert pool.close() is True
    for ask in (pool.acquire, pool.__enter__):
        with pytest.raises(ClosedError):
            ask()
    manager.close()


def test_a_storm_of_users_loses_no_buffer(manager: SafetyManager, gst: ModuleType) -> None:
    from lifecycle.integrations.gstreamer import PoolAdapter

    with PoolAdapter(manager, "application/x-data", size=100, most=3) as pool:
        wrong: list[Any] = []

        def use(number: int) -> None:
            try:
                for turn in range(60):
                    with pool.acquire(timeout=20) as frame:
                        data = frame.data()
                        data[:] = bytes([number]) * 100
                        if turn % 3 == 0:
                            del data
                            buffer = frame.take()
                            if buffer.extract_dup(0, 100) != bytes([number]) * 100:
                                wrong.append(number)
                            del buffer
                        else:
                            if bytes(data) != bytes([number]) * 100:
                                wrong.append(number)
                            del data
            except BaseException as error:
                wrong.append(error)

        threads = [threading.Thread(target=use, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not wrong
        assert pool.outstanding == 0
        assert pool.stats().items["idle"] <= 3


def test_a_pool_of_ones_own_is_used_as_it_is(gst: ModuleType, manager: SafetyManager) -> None:
    from lifecycle.integrations.gstreamer import PoolAdapter

    Gst = gst.Gst
    mine = Gst.BufferPool.new()
    config = mine.get_config()
    Gst.BufferPool.config_set_params(config, Gst.Caps.from_string("application/x-data"), 50, 1, 2)
    assert mine.set_config(config)
    mine.set_active(True)
    pool = PoolAdapter(manager, "application/x-data", pool=mine)
    assert pool.stats().items_limit == 2
    frames = [pool.acquire(), pool.acquire()]
    with pytest.raises(PoolTimeoutError):
        pool.acquire(timeout=0)
    assert len(frames[0].data()) == 50
    for frame in frames:
        frame.close()
    pool.close()
    assert mine.is_active(), "it was not ours to stop"
    mine.set_active(False)
    other = PoolAdapter(manager, "application/x-data", size=20, pool=Gst.BufferPool.new(), most=None)
    with other.acquire() as frame:
        assert len(frame.data()) == 20
    inner = other._pool
    other.close()
    assert not inner.is_active()


def test_a_pool_that_somebody_stopped(gst: ModuleType, manager: SafetyManager, pool: Any) -> None:
    pool._pool.set_active(False)
    with pytest.raises(PoolError, match="it was deactivated or flushed from outside"):
        pool.acquire(timeout=20)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"most": 0}, "most="),
        ({"most": True}, "most="),
        ({"most": 1.5}, "most="),
        ({"least": -1}, "least="),
        ({"least": 5, "most": 2}, "least=5 buffers are more than most=2"),
        ({"pool": 7}, r"Gst\.BufferPool"),
        ({"size": 3}, "a buffer needs 4608 bytes"),
        ({"caps": "video/x-h264"}, "size="),
        ({"caps": "no, caps"}, "caps"),
    ],
)
def test_what_no_pool_can_be_made_of(
    gst: ModuleType, manager: SafetyManager, options: dict[str, Any], message: str
) -> None:
    from lifecycle.integrations.gstreamer import PoolAdapter

    with pytest.raises(LifecycleError, match=message):
        PoolAdapter(manager, options.pop("caps", CAPS), **options)


def test_a_pool_needs_a_manager(gst: ModuleType) -> None:
    from lifecycle.integrations.gstreamer import GuardError, PoolAdapter

    with pytest.raises(GuardError, match="the first argument is the SafetyManager"):
        PoolAdapter(None, CAPS)  # type: ignore[arg-type]


@pytest.mark.parametrize("timeout", [-1, "1", True, float("nan")])
def test_timeouts_are_seconds(pool: Any, timeout: Any) -> None:
    with pytest.raises(PoolError, match="timeout="):
        pool.acquire(timeout)


def test_a_pool_shows_in_the_metrics(manager: SafetyManager, pool: Any) -> None:
    pytest.importorskip("prometheus_client")
    from prometheus_client import CollectorRegistry

    from lifecycle.integrations.prometheus import LifecycleCollector

    registry = CollectorRegistry()
    registry.register(LifecycleCollector(manager))
    with pool.acquire():
        value = registry.get_sample_value(
            "lifecycle_pool_items", {"manager": manager.name, "pool": "pictures", "state": "in_use"}
        )
    assert value == 1
