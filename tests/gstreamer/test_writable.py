"""Writable frames: whose bytes they are, that nobody else sees a write, and that nothing is handed on while
it can still be written."""

from __future__ import annotations

import gc
from types import ModuleType
from typing import Any

import pytest

from lifecycle import ClosedError, HeldError, LifecycleError, SafetyManager
from tests.support import eventually

pytestmark = pytest.mark.needs("gstreamer", "numpy")

SIZE = 64 * 48 * 3


def refcount(mini_object: Any) -> int:
    from lifecycle.integrations.gstreamer._native import MiniObject

    return int(MiniObject.from_address(hash(mini_object)).refcount)


def sole_frame(gst: ModuleType, adapter: Any, value: int = 1) -> Any:
    """A frame that nobody else holds."""
    return adapter.frame(gst.sample_of(bytes([value]) * SIZE))


def test_a_sole_owner_writes_in_place(gst: ModuleType, adapter: Any, manager: SafetyManager) -> None:
    with adapter.frame(gst.sample_of(bytes([7]) * SIZE)) as frame:
        address = frame.array().ctypes.data
        with frame.writable() as writable:
            assert writable.copied is False
            assert frame.closed
            array = writable.array()
            assert array.ctypes.data == address
            assert (array.shape, int(array[0, 0, 0])) == ((48, 64, 3), 7)
            array[:] = 9
            assert bytes(writable.data()[:3]) == b"\t\t\t"
            del array
            buffer = writable.take()
            assert writable.closed
    assert buffer.extract_dup(0, 3) == b"\t\t\t"
    assert refcount(buffer) == 1
    assert manager.stats().active_objects == 0


@pytest.mark.parametrize("who", ["sample", "buffer", "array", "shared memory", "tee"])
def test_whoever_else_holds_it_keeps_the_picture_as_it_was(
    gst: ModuleType, adapter: Any, manager: SafetyManager, who: str
) -> None:
    kept: Any = None
    buffer = gst.Gst.Buffer.new_allocate(None, SIZE, None)
    buffer.fill(0, bytes([7]) * SIZE)
    buffer.pts = 11
    sample = gst.Gst.Sample.new(buffer, gst.Gst.Caps.from_string(gst.SMALL), None, None)
    del buffer
    buffer = sample.get_buffer()
    if who == "sample":
        kept = sample
    elif who == "buffer":
        kept = buffer
    elif who == "shared memory":
        kept = gst.Gst.Buffer.new()
        kept.append_memory(buffer.get_all_memory())
    elif who == "tee":
        kept = gst.Gst.Sample.new(buffer, sample.get_caps(), None, None)
    frame = adapter.frame(sample)
    if who == "array":
        kept = frame.array()
    del sample, buffer
    with frame.writable() as writable:
        assert writable.copied is True
        writable.array()[:] = 9
        assert writable.pts == 11
        assert writable.caps.to_string().startswith("video/x-raw")
    if who == "array":
        assert int(kept[0, 0, 0]) == 7
    else:
        original = kept.get_buffer() if isinstance(kept, gst.Gst.Sample) else kept
        assert original.extract_dup(0, 2) == b"\x07\x07"
        del original
    del kept
    gc.collect()
    eventually(lambda: manager.stats().active_objects == 0)


def test_memory_that_may_only_be_read_is_copied(gst: ModuleType, adapter: Any) -> None:
    import numpy as np

    from lifecycle.integrations.gstreamer._buffers import nothing_owned, wrap_memory, wrapper_of

    data = np.full(SIZE, 5, np.uint8)
    read_only = int(gst.Gst.MemoryFlags.READONLY)
    owned = nothing_owned()
    wrap_memory(owned, read_only, data.ctypes.data, SIZE, None)
    buffer = wrapper_of(owned)
    sample = gst.Gst.Sample.new(buffer, gst.Gst.Caps.from_string(gst.SMALL), None, None)
    del buffer
    frame = adapter.frame(sample)
    del sample
    with frame.writable() as writable:
        assert writable.copied is True
        writable.array()[:] = 6
    assert data[0] == 5


@pytest.mark.parametrize("what", ["array", "slice", "data", "planes", "lease"])
def test_nothing_is_handed_on_while_it_can_be_written(
    gst: ModuleType, adapter: Any, manager: SafetyManager, what: str
) -> None:
    with sole_frame(gst, adapter).writable() as writable:
        held: Any = {
            "array": writable.array,
            "slice": lambda: writable.array()[3:5, ::2],
            "data": writable.data,
            "planes": writable.planes,
            "lease": lambda: writable.handle.lease(),
        }[what]()
        with pytest.raises(HeldError, match=r"is held by (view|lease)") as caught:
            writable.take()
        assert caught.value.holders
        assert not writable.closed, "nothing has changed"
        writable.array()[0, 0, 0] = 200
        del held, caught
        buffer = writable.take()
    assert buffer.extract_dup(0, 1) == b"\xc8"
    assert refcount(buffer) == 1


def test_an_array_kept_beyond_the_block_stays_good(
    gst: ModuleType, adapter: Any, manager: SafetyManager
) -> None:
    with sole_frame(gst, adapter).writable() as writable:
        kept = writable.array()
    assert writable.close() is False
    kept[:] = 3
    assert int(kept.sum()) == 3 * SIZE
    del kept
    assert writable.close() is True
    assert manager.stats().active_objects == 0


def test_a_new_buffer_has_gstreamers_own_layout(gst: ModuleType, adapter: Any) -> None:
    caps = "video/x-raw,format=NV12,width=321,height=7,framerate=30/1"
    with adapter.buffer(caps) as writable:
        y, uv = writable.planes()
        assert (y.strides, uv.strides) == ((324, 1), (324, 2, 1))
        assert (writable.width, writable.height, writable.format) == (321, 7, "NV12")
        y[:], uv[:] = 16, 128
        writable.pts, writable.duration = 40, 2
        assert (writable.pts, writable.duration) == (40, 2)
        del y, uv
        buffer = writable.take()
    assert (buffer.pts, buffer.duration, buffer.get_size()) == (40, 2, 324 * 8 + 324 * 4)
    with adapter.buffer("application/x-whatever", 5) as bytes_only:
        bytes_only.data()[:] = b"12345"
        assert bytes_only.take().extract_dup(0, 5) == b"12345"


def test_after_the_end_it_says_what_to_do(gst: ModuleType, adapter: Any) -> None:
    from lifecycle.integrations.gstreamer import FrameClosedError

    writable = adapter.buffer(gst.SMALL)
    assert writable.close() is True
    for ask in (
        writable.array,
        writable.planes,
        writable.data,
        writable.take,
        writable.__enter__,
        lambda: writable.pts,
        lambda: setattr(writable, "pts", 3),
    ):
        with pytest.raises(FrameClosedError, match="handed on or closed: make a new one"):
            ask()


@pytest.mark.parametrize("wrong", [-1, 1.5, "1", True, 2**63])
def test_times_are_nanoseconds(gst: ModuleType, adapter: Any, wrong: Any) -> None:
    with adapter.buffer(gst.SMALL) as writable:
        with pytest.raises(LifecycleError, match="whole nanoseconds"):
            writable.pts = wrong
        writable.pts = None
        assert writable.pts is None


def test_what_no_buffer_can_be_made_for(gst: ModuleType, adapter: Any) -> None:
    from lifecycle.integrations.gstreamer import FormatError, SampleError

    for caps, size in ((gst.SMALL, 5), (gst.SMALL, -1), ("video/x-h264", None), ("video/x-h264", 0)):
        with pytest.raises(FormatError, match="size="):
            adapter.buffer(caps, size)
    for wrong in ("no caps, at all!", 7, None, "video/x-raw,width=[1,2]"):
        with pytest.raises(SampleError, match="caps"):
            adapter.buffer(wrong)
    with adapter.buffer("video/x-raw,format=v210,width=48,height=8") as writable:
        with pytest.raises(FormatError, match="packs"):
            writable.array()
        assert len(writable.data()) == 128 * 8


def test_a_closed_manager_makes_none(gst: ModuleType) -> None:
    from lifecycle.integrations.gstreamer import SampleAdapter

    manager = SafetyManager(name="gone")
    adapter = SampleAdapter(manager)
    frame = sole_frame(gst, adapter)
    writable = sole_frame(gst, adapter).writable()
    manager.close()
    with pytest.raises(ClosedError):
        frame.writable()
    with pytest.raises(LifecycleError):
        writable.array()
    assert writable.close() is True


def test_references_are_given_up_by_dying(gst: ModuleType) -> None:
    from lifecycle.integrations.gstreamer import _buffers

    buffer = gst.sample_of(bytes(8)).get_buffer()
    before = refcount(buffer)
    kept = [_buffers.own_reference(hash(buffer)) for _ in range(30)]
    assert refcount(buffer) == before + len(kept)
    for owned in kept[::3]:
        owned.drop()
        owned.drop()
    cycle: list[Any] = [kept[1]]
    cycle.append(cycle)
    del kept, owned, cycle
    gc.collect()
    assert refcount(buffer) == before
