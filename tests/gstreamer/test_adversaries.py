"""The integration at its worst moments: an interrupt at every point, and the collector at every line, of its
own code."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from types import CodeType, ModuleType

import pytest

from lifecycle import SafetyConfig, SafetyManager
from lifecycle.testing import each_interrupt, every_line
from tests.core.adversary import TRACING_KEEPS_LOCALS
from tests.support import eventually

pytestmark = pytest.mark.needs("gstreamer", "numpy")

CAPS = "video/x-raw,format=I420,width=8,height=4,framerate=30/1"
SIZE = 48
POOL = 6  # what an interrupt has left in its traceback is out until the next


def ours(code: CodeType) -> bool:
    return "integrations/gstreamer" in code.co_filename


class Bench:
    """Everything there is, on a pipeline that takes what it is given and keeps none of it."""

    def __init__(self, gst: ModuleType, manager: SafetyManager) -> None:
        import numpy as np

        from lifecycle.integrations.gstreamer import Feeder, PoolAdapter, SampleAdapter

        self.gst = gst
        self.manager = manager
        self.adapter = SampleAdapter(manager)
        self.pool = PoolAdapter(manager, CAPS, most=POOL)
        self.pipeline = gst.Gst.parse_launch(
            "appsrc name=src ! fakesink name=sink sync=false enable-last-sample=false"
        )
        self.feeder = Feeder(manager, self.pipeline.get_by_name("src"), caps=CAPS, max_buffers=100)
        self.pipeline.set_state(gst.Gst.State.PLAYING)
        self.array = np.zeros((6, 8), np.uint8)
        parts = gst.Gst.Buffer.new()
        for size in (32, 8, 8):
            parts.append_memory(gst.sample_of(bytes(size)).get_buffer().get_all_memory())
        self.in_parts = gst.Gst.Sample.new(parts, gst.Gst.Caps.from_string(CAPS), None, None)
        self.sample = gst.sample_of(bytes(64 * 48 * 3))

    def frame(self) -> None:
        with self.adapter.frame(self.sample) as frame:
            frame.array()
            with frame.share() as share:
                share.data()

    def planes(self) -> None:
        with self.adapter.frame(self.in_parts) as frame:
            frame.planes()

    def native(self) -> None:
        with self.adapter.frame(self.sample) as frame:
            with frame.native.lease():
                pass

    def writable(self) -> None:
        with self.adapter.frame(self.gst.sample_of(bytes(64 * 48 * 3))) as frame:
            with frame.writable() as writable:
                writable.array()[0, 0] = 1
                writable.take()

    def push(self) -> None:
        self.feeder.push(self.array, pts=1)

    def lend(self) -> None:
        with self.feeder.frame(pts=2) as planes:
            planes[0][:] = 1
            del planes

    def pooled(self) -> None:
        with self.pool.acquire(timeout=5) as frame:
            frame.planes()[0][:] = 1
            self.feeder.push(frame)

    def check(self) -> None:
        """Everything is back, and every buffer of the pool can be lent again."""
        eventually(lambda: self.pool.outstanding == 0, timeout=20)
        eventually(lambda: self.feeder.stats().outstanding == 0, timeout=20)
        frames = [self.pool.acquire(timeout=20) for _ in range(POOL)]
        for frame in frames:
            frame.close()

    def maps(self) -> list[int]:
        from lifecycle.integrations.gstreamer._native import (
            MiniObject,
            memory_count,
            memory_of,
            sample_buffer,
        )

        found = []
        for sample in (self.sample, self.in_parts):
            buffer = sample_buffer(hash(sample))
            assert buffer is not None
            for index in range(memory_count(buffer)):
                found.append((int(MiniObject.from_address(memory_of(buffer, index)).lockstate) >> 8) & 0xFF)
        return found

    def stop(self) -> None:
        self.feeder.close()
        self.pool.close()
        self.gst.shutdown(self.pipeline)


@pytest.fixture
def bench(gst: ModuleType) -> Iterator[Bench]:
    """With a short memory: the record of a release that was interrupted keeps its traceback, and that the
    mapping."""
    config = SafetyConfig(state_retention=0.05, cleanup_interval=0.05)
    with SafetyManager(config, name="adversaries") as manager:
        made = Bench(gst, manager)
        yield made
        made.stop()


UNTRACED = pytest.mark.skipif(
    TRACING_KEEPS_LOCALS, reason="on 3.10 tracing itself holds a view beyond its end, in a copy of the locals"
)
DEEDS = [
    "frame",
    "planes",
    "native",
    pytest.param("writable", marks=UNTRACED),
    "push",
    "lend",
    pytest.param("pooled", marks=UNTRACED),
]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("deed", DEEDS)
def test_an_interrupt_at_any_point_loses_nothing(bench: Bench, deed: str) -> None:
    do: Callable[[], None] = getattr(bench, deed)
    do()
    points = 0
    for struck in each_interrupt(do, of=ours):
        points += bool(struck.place)
        del struck
        if points % 32 == 0:
            gc.collect()  # a traceback in a cycle holds a buffer
    assert points > 20
    gc.collect()
    bench.check()
    eventually(lambda: bench.manager.stats().active_objects == 0, timeout=20)
    eventually(lambda: not any(bench.maps()), timeout=20)
    do()


@pytest.mark.parametrize("deed", DEEDS)
def test_the_collector_at_any_line_changes_nothing(bench: Bench, deed: str) -> None:
    do: Callable[[], None] = getattr(bench, deed)
    do()
    gc.collect()
    with every_line(gc.collect, of=ours) as struck:
        do()
    assert struck.strikes > 10
    bench.check()
    assert not any(bench.maps())
    assert bench.manager.stats().leaks == 0


@pytest.mark.parametrize("deed", DEEDS)
def test_the_library_itself_called_at_any_line(bench: Bench, deed: str) -> None:
    """As a finalizer or a signal handler may: another frame, another push, another buffer, in the middle of
    one."""
    do: Callable[[], None] = getattr(bench, deed)
    do()

    def meddle() -> None:
        bench.frame()
        bench.planes()
        bench.push()

    with every_line(meddle, of=ours) as struck:
        do()
    assert struck.strikes > 10
    bench.check()
    eventually(lambda: bench.manager.stats().active_objects == 0, timeout=20)
    assert not any(bench.maps())
