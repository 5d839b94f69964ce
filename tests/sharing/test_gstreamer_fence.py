"""The native end of a buffer as a fence."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("gi")

from lifecycle import ReleaseQueue, SafetyManager
from lifecycle.errors import FenceError
from tests.core.natives import Native
from tests.support import eventually

pytestmark = [pytest.mark.needs("gstreamer", "numpy")]
PATIENCE = 20.0


@pytest.fixture
def gst() -> ModuleType:
    from tests.gstreamer import program

    return program


def test_a_buffer_that_is_pushed(gst: ModuleType, manager: SafetyManager) -> None:
    """The release waits until the pipeline has let go of the buffer, and not for the wrapper's end."""
    from lifecycle.integrations.gstreamer import BufferFence

    pipeline = gst.Gst.parse_launch(
        "appsrc name=source format=time is-live=true caps=video/x-raw,format=GRAY8,width=64,height=48,framerate=30/1 ! "
        "identity name=gate ! fakesink sync=false async=false enable-last-sample=false"
    )
    gate = pipeline.get_by_name("gate").get_static_pad("src")
    stop = gst.Gst.PadProbeType.BLOCK | gst.Gst.PadProbeType.BUFFER
    closed = gate.add_probe(stop, lambda pad, info: gst.Gst.PadProbeReturn.OK)
    pipeline.set_state(gst.Gst.State.PLAYING)
    source = pipeline.get_by_name("source")
    queue = ReleaseQueue("slots")
    native = Native()
    buffer = gst.Gst.Buffer.new_allocate(None, 64 * 48, None)
    fence = BufferFence(buffer)
    assert source.emit("push-buffer", buffer) == gst.Gst.FlowReturn.OK
    del buffer
    assert repr(fence) == "<BufferFence: pending>"
    manager.register(native, "slot", release=Native.free, release_on=queue).close(after=fence)
    eventually(gate.is_blocking, timeout=PATIENCE)
    assert queue.drain() == 0
    gate.remove_probe(closed)
    eventually(lambda: queue.drain() >= 0 and native.released == 1, timeout=PATIENCE)
    assert repr(fence) == "<BufferFence: deleted>"
    gst.shutdown(pipeline)


def pool_of(gst: ModuleType) -> Any:
    pool = gst.Gst.BufferPool.new()
    config = pool.get_config()
    gst.Gst.BufferPool.config_set_params(config, None, 1024, 2, 2)
    pool.set_config(config)
    pool.set_active(True)
    return pool


def test_a_pooled_buffer_signals_as_it_goes_back(gst: ModuleType) -> None:
    from lifecycle.integrations.gstreamer import BufferFence

    pool = pool_of(gst)
    for _ in range(3):
        result, buffer = pool.acquire_buffer(None)
        assert result == gst.Gst.FlowReturn.OK
        fence = BufferFence(buffer)
        assert fence.signalled() is False
        del buffer
        assert fence.signalled() is True
        fence.delete()
        fence.delete()
        with pytest.raises(FenceError, match="was deleted"):
            fence.signalled()
    pool.set_active(False)


def test_a_buffer_that_is_shared_already(gst: ModuleType) -> None:
    from lifecycle.integrations.gstreamer import BufferFence

    sample = gst.sample_of(b"x" * (64 * 48 * 3))
    buffer = sample.get_buffer()
    fence = BufferFence(buffer)
    del buffer
    assert fence.signalled() is False
    del sample
    assert fence.signalled() is True


def test_a_pooled_buffer_that_others_hold_is_refused(gst: ModuleType) -> None:
    from lifecycle.integrations.gstreamer import BufferFence

    pool = pool_of(gst)
    _, buffer = pool.acquire_buffer(None)
    sample = gst.Gst.Sample.new(buffer, None, None, None)
    with pytest.raises(FenceError, match="is of a pool and held by others as well"):
        BufferFence(buffer)
    for wrong in (None, 7, sample):
        with pytest.raises(FenceError, match=r"takes a Gst\.Buffer"):
            BufferFence(wrong)
    del buffer, sample
    pool.set_active(False)
