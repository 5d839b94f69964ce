"""Frames: what they give, how long it lives, that a buffer is mapped once, and what bad input is told."""

from __future__ import annotations

import gc
import threading
from types import ModuleType
from typing import Any

import pytest

from lifecycle import (
    AccessPanicError,
    AccessRefusedError,
    ClosedError,
    LifecycleError,
    ObjectState,
    SafetyManager,
)
from lifecycle.errors import CallbackError
from tests.support import eventually

pytestmark = pytest.mark.needs("gstreamer", "numpy")

SIZE = 64 * 48 * 3


def maps_of(sample: Any) -> int:
    """How often the sample's memory is mapped right now, as its own lock count tells."""
    from lifecycle.integrations.gstreamer._native import MiniObject, memory_of, sample_buffer

    buffer = sample_buffer(hash(sample))
    assert buffer is not None
    return (int(MiniObject.from_address(memory_of(buffer, 0)).lockstate) >> 8) & 0xFF


def test_a_frame_nobody_looks_into_registers_and_maps_nothing(
    gst: ModuleType, adapter: Any, manager: SafetyManager
) -> None:
    sample = gst.sample_of(bytes(SIZE))
    with adapter.frame(sample) as frame:
        assert frame.width == 64
        assert frame.caps.is_equal(sample.get_caps())
        assert maps_of(sample) == 0
    assert manager.stats().total_objects == 0
    assert frame.close() is True


def test_times(gst: ModuleType, adapter: Any) -> None:
    sample = gst.sample_of(bytes(SIZE))
    with adapter.frame(sample) as frame:
        assert (frame.pts, frame.duration) == (None, None)
    buffer = gst.Gst.Buffer.new_allocate(None, SIZE, None)
    buffer.pts, buffer.duration = 5, 7
    with adapter.frame(gst.Gst.Sample.new(buffer, sample.get_caps(), None, None)) as frame:
        assert (frame.pts, frame.duration) == (5, 7)


def test_closing_unmaps_when_nothing_is_kept(gst: ModuleType, adapter: Any) -> None:
    sample = gst.sample_of(bytes(SIZE))
    with adapter.frame(sample) as frame:
        frame.array()
        assert maps_of(sample) == 1
        handle = frame.handle
        assert handle.native == hash(sample.get_buffer())
        assert handle.size >= SIZE
    assert maps_of(sample) == 0
    assert handle.state is ObjectState.RELEASED
    assert frame.close() is True


def test_the_unmap_follows_the_death_of_the_last_array(
    gst: ModuleType, adapter: Any, manager: SafetyManager
) -> None:
    sample = gst.sample_of(bytes(range(256)) * (SIZE // 256))
    with adapter.frame(sample) as frame:
        array = frame.array()
        data = frame.data()
    assert frame.close() is False
    assert frame.handle.state is ObjectState.CLOSING
    corner = array[-2:, -2:]
    row = data[5:9]
    del array, data
    assert maps_of(sample) == 1
    assert corner[1, 1].tolist() == [253, 254, 255]
    del corner
    assert maps_of(sample) == 1
    assert bytes(row) == bytes([5, 6, 7, 8])
    del row
    assert frame.close() is True
    assert maps_of(sample) == 0


def test_one_native_registered_many_times_is_mapped_once(
    gst: ModuleType, adapter: Any, manager: SafetyManager
) -> None:
    from lifecycle.integrations.gstreamer import SampleAdapter

    sample = gst.sample_of(bytes(range(256)) * (SIZE // 256))
    other = SampleAdapter(manager, name="other")
    frames = [(adapter if n % 2 else other).frame(sample) for n in range(300)]
    arrays = [frame.array() for frame in frames]
    assert maps_of(sample) == 1
    assert len({array.ctypes.data for array in arrays}) == 1
    for frame in frames[:-1]:
        frame.close()
    del arrays[:-1]
    assert maps_of(sample) == 1
    assert arrays[0][0, 1].tolist() == [3, 4, 5]
    frames[-1].close()
    arrays.clear()
    gc.collect()
    eventually(lambda: maps_of(sample) == 0)


def test_a_frame_made_while_only_an_array_of_an_older_one_lives_shares_its_mapping(
    gst: ModuleType, adapter: Any
) -> None:
    sample = gst.sample_of(bytes(SIZE))
    with adapter.frame(sample) as first:
        kept = first.array()
    with adapter.frame(sample) as second:
        assert second.array().ctypes.data == kept.ctypes.data
        assert maps_of(sample) == 1
        later = second.array()
    del kept
    assert maps_of(sample) == 1
    assert later.shape == (48, 64, 3)


def test_buffers_that_share_one_memory_share_one_mapping(gst: ModuleType, adapter: Any) -> None:
    """As imagefreeze makes them: GStreamer's memory breaks at the 257th mapping."""
    first = gst.sample_of(bytes(SIZE))
    buffers = [first.get_buffer().copy_region(gst.Gst.BufferCopyFlags.MEMORY, 0, SIZE) for _ in range(300)]
    assert len(set(map(hash, buffers))) == 300
    samples = [gst.Gst.Sample.new(buffer, first.get_caps(), None, None) for buffer in buffers]
    arrays = []
    for sample in samples:
        with adapter.frame(sample) as frame:
            arrays.append(frame.array())
    assert maps_of(first) == 1
    assert len({array.ctypes.data for array in arrays}) == 1


def test_several_memories_are_one_array(gst: ModuleType, adapter: Any) -> None:
    buffer = gst.Gst.Buffer.new()
    for part in (bytes([1]) * (SIZE // 2), bytes([2]) * (SIZE // 2)):
        buffer.append_memory(gst.sample_of(part).get_buffer().get_all_memory())
    assert buffer.n_memory() == 2
    sample = gst.Gst.Sample.new(buffer, gst.Gst.Caps.from_string(gst.SMALL), None, None)
    with adapter.frame(sample) as frame:
        array = frame.array()
        assert (int(array[0, 0, 0]), int(array[-1, -1, -1])) == (1, 2)
        with adapter.frame(sample) as again:
            assert again.array().ctypes.data == array.ctypes.data


def test_many_threads_open_one_frame_at_once(gst: ModuleType, adapter: Any, manager: SafetyManager) -> None:
    for _ in range(20):
        sample = gst.sample_of(bytes(range(256)) * (SIZE // 256))
        frame = adapter.frame(sample)
        gate = threading.Barrier(6)
        results: list[Any] = []

        def look(frame: Any = frame, gate: threading.Barrier = gate, results: list[Any] = results) -> None:
            gate.wait()
            results.append(frame.array())

        threads = [threading.Thread(target=look) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(results) == 6
        assert all(array[0, 1].tolist() == [3, 4, 5] for array in results)
        frame.close()
        results.clear()
    gc.collect()
    stats = manager.stats()
    assert stats.leaks == 0


def test_numpy_reads_a_frame_directly(gst: ModuleType, adapter: Any) -> None:
    import numpy as np

    with adapter.frame(gst.sample_of(bytes([7]) * SIZE)) as frame:
        assert np.asarray(frame).ctypes.data == frame.array().ctypes.data
        assert np.asarray(frame, dtype=np.float32).dtype == np.float32
        assert np.array(frame).ctypes.data != frame.array().ctypes.data
        assert frame.__array__(copy=True).flags.writeable
        with pytest.raises(ValueError, match="copy=False"):
            frame.__array__(np.dtype("f4"), copy=False)


def test_a_share_lives_on_its_own(gst: ModuleType, adapter: Any) -> None:
    sample = gst.sample_of(bytes([9]) * SIZE)
    with adapter.frame(sample) as frame:
        share = frame.share()
        assert share.handle.id == frame.handle.id
    assert share.array()[0, 0, 0] == 9
    assert share.close() is True
    assert maps_of(sample) == 0


def test_native_is_a_child_that_holds_the_buffer(gst: ModuleType, adapter: Any) -> None:
    sample = gst.sample_of(bytes(SIZE))
    with adapter.frame(sample) as frame:
        with frame.native.lease() as inside:
            assert hash(inside) == hash(sample)
            frame.close()
            assert frame.handle.state is ObjectState.CLOSING
        del inside
    assert frame.close() is True


def test_convert_returns_what_the_function_returns(
    gst: ModuleType, adapter: Any, manager: SafetyManager
) -> None:
    sample = gst.sample_of(bytes([3]) * SIZE)
    assert adapter.convert(sample, lambda array: int(array.sum())) == 3 * SIZE
    assert maps_of(sample) == 0
    kept = adapter.convert(sample, lambda array: array[:2])
    assert maps_of(sample) == 1
    assert kept.tolist()[0][0] == [3, 3, 3]
    del kept


def test_convert_is_a_panic_boundary(gst: ModuleType, adapter: Any, manager: SafetyManager) -> None:
    class Panic(BaseException):
        pass

    def fall(array: Any) -> None:
        raise Panic("from an extension")

    sample = gst.sample_of(bytes(SIZE))
    with pytest.raises(AccessPanicError, match="from an extension") as caught:
        adapter.convert(sample, fall)
    assert isinstance(caught.value.__cause__, Panic)
    caught.value.__cause__.__traceback__ = caught.value.__traceback__ = None
    del caught
    assert manager.stats().types["gst.Sample"].panics == 1

    async def later(array: Any) -> None:
        """Never runs."""

    with pytest.raises(CallbackError, match="coroutine"):
        adapter.convert(sample, later)
    gc.collect()
    eventually(lambda: maps_of(sample) == 0)


def test_an_invalidated_frame_refuses_and_its_arrays_stay(
    gst: ModuleType, adapter: Any, manager: SafetyManager
) -> None:
    with adapter.frame(gst.sample_of(bytes([4]) * SIZE)) as frame:
        array = frame.array()
        manager.invalidate(frame.handle, "the camera was unplugged")
        with pytest.raises(AccessRefusedError, match="unplugged"):
            frame.array()
        with pytest.raises(AccessRefusedError, match="unplugged"):
            frame.data()
        assert array[0, 0, 0] == 4


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_frame_that_is_dropped_is_released_and_reported(
    gst: ModuleType, adapter: Any, manager: SafetyManager
) -> None:
    sample = gst.sample_of(bytes(SIZE))
    frame = adapter.frame(sample)
    frame.array()
    del frame
    gc.collect()
    eventually(lambda: maps_of(sample) == 0)
    assert manager.stats().leaks == 1


# -- bad input -----------------------------------------------------------------------------------------------


@pytest.fixture
def nothing_left(manager: SafetyManager) -> Any:
    """After the test: nothing registered is alive, nothing is mapped."""
    yield
    gc.collect()
    assert manager.stats().active_objects == 0
    assert manager.stats().leaks == 0


@pytest.mark.parametrize("wrong", [None, 7, b"bytes", object()])
def test_not_a_sample(adapter: Any, nothing_left: None, wrong: Any) -> None:
    from lifecycle.integrations.gstreamer import SampleError

    with pytest.raises(SampleError, match=r"Gst\.Sample, not of"):
        adapter.frame(wrong)


def test_a_sample_without_buffer_or_caps(gst: ModuleType, adapter: Any, nothing_left: None) -> None:
    from lifecycle.integrations.gstreamer import SampleError

    Gst = gst.Gst
    caps = Gst.Caps.from_string(gst.SMALL)
    with pytest.raises(SampleError, match="has no buffer"):
        adapter.frame(Gst.Sample.new(None, caps, None, None))
    with pytest.raises(SampleError, match="has no caps"):
        adapter.frame(Gst.Sample.new(Gst.Buffer.new(), None, None, None))
    for unfixed in ("ANY", "EMPTY", "video/x-raw,format=RGB,width=[1,100],height=8"):
        with pytest.raises(SampleError, match="fixed caps"):
            adapter.frame(Gst.Sample.new(Gst.Buffer.new(), Gst.Caps.from_string(unfixed), None, None))


def test_fd_memory_shorter_than_it_says(gst: ModuleType, adapter: Any, nothing_left: None) -> None:
    from lifecycle.integrations.gstreamer import ShortMemoryError

    sample = gst.fd_sample(bytes(4096), says=SIZE)
    with adapter.frame(sample) as frame:
        for ask in (frame.array, frame.data):
            with pytest.raises(ShortMemoryError, match=rf"{SIZE} bytes, but the file has 4096.*ftruncate"):
                ask()
    assert maps_of(sample) == 0


def test_one_of_several_memories_is_a_short_file(gst: ModuleType, adapter: Any, nothing_left: None) -> None:
    """GStreamer would copy the parts together while mapping, and die of it."""
    from lifecycle.integrations.gstreamer import ShortMemoryError

    buffer = gst.Gst.Buffer.new()
    buffer.append_memory(gst.sample_of(bytes(SIZE // 2)).get_buffer().get_all_memory())
    buffer.append_memory(gst.fd_sample(bytes(100), says=SIZE // 2).get_buffer().get_all_memory())
    sample = gst.Gst.Sample.new(buffer, gst.Gst.Caps.from_string(gst.SMALL), None, None)
    with adapter.frame(sample) as frame, pytest.raises(ShortMemoryError, match="the file has 100"):
        frame.array()


def test_fd_memory_long_enough_is_read(gst: ModuleType, adapter: Any, nothing_left: None) -> None:
    with adapter.frame(gst.fd_sample(bytes([6]) * SIZE)) as frame:
        assert int(frame.array().sum()) == 6 * SIZE


def test_memory_that_cannot_be_mapped(gst: ModuleType, adapter: Any, nothing_left: None) -> None:
    """Its file descriptor is not open."""
    from gi.repository import GstAllocators

    from lifecycle.integrations.gstreamer import MapError

    memory = GstAllocators.FdAllocator.alloc(
        GstAllocators.FdAllocator.new(), gst.closed_fd(), SIZE, GstAllocators.FdMemoryFlags.DONT_CLOSE
    )
    buffer = gst.Gst.Buffer.new()
    buffer.append_memory(memory)
    sample = gst.Gst.Sample.new(buffer, gst.Gst.Caps.from_string(gst.SMALL), None, None)
    with adapter.frame(sample) as frame:
        for ask in (frame.array, frame.data, frame.array):
            with pytest.raises(MapError, match="cannot map"):
                ask()
        assert frame.handle.valid, "what cannot be mapped can still be held"
        with frame.native.lease() as inside:
            assert hash(inside) == hash(sample)
        with pytest.raises(MapError, match="cannot map"):
            frame.data()


def test_a_truncated_and_an_empty_buffer(gst: ModuleType, adapter: Any, nothing_left: None) -> None:
    from lifecycle.integrations.gstreamer import ShortMemoryError

    with adapter.frame(gst.sample_of(bytes(SIZE - 1))) as frame:
        assert len(frame.data()) == SIZE - 1
        with pytest.raises(ShortMemoryError, match=rf"has {SIZE - 1} bytes .* need {SIZE}"):
            frame.array()
    empty = gst.Gst.Sample.new(gst.Gst.Buffer.new(), gst.Gst.Caps.from_string(gst.SMALL), None, None)
    with adapter.frame(empty) as frame:
        assert bytes(frame.data()) == b""
        with pytest.raises(ShortMemoryError, match="has 0 bytes"):
            frame.array()


def test_access_after_close(gst: ModuleType, adapter: Any, nothing_left: None) -> None:
    from lifecycle.integrations.gstreamer import FrameClosedError

    for look in (lambda frame: frame.array(), lambda frame: None):
        frame = adapter.frame(gst.sample_of(bytes(SIZE)))
        look(frame)
        assert frame.close() is True
        assert frame.close() is True
        assert frame.closed
        assert (frame.width, frame.format) == (64, "RGB")
        for ask in (frame.array, frame.data, frame.share, lambda f=frame: f.pts, lambda f=frame: f.native):
            with pytest.raises((FrameClosedError, AccessRefusedError), match=r"closed|close\(\)"):
                ask()


def test_a_closed_manager_takes_no_frame(gst: ModuleType) -> None:
    from lifecycle.integrations.gstreamer import Capture, SampleAdapter

    manager = SafetyManager(name="gone")
    adapter = SampleAdapter(manager)
    sample = gst.sample_of(bytes(SIZE))
    frame = adapter.frame(sample)
    manager.close()
    with pytest.raises(ClosedError, match="'gone' is closed"):
        frame.array()
    assert maps_of(sample) == 0
    pipeline, sink = gst.launch()
    try:
        with pytest.raises(ClosedError, match="'gone' is closed"):
            Capture(manager, sink)
    finally:
        gst.shutdown(pipeline)


def test_a_buffer_exchanged_behind_the_frames_back(gst: ModuleType, adapter: Any, nothing_left: None) -> None:
    from lifecycle.integrations.gstreamer._native import MiniObject

    sample = gst.sample_of(bytes([1]) * SIZE)
    memory = sample.get_buffer().get_all_memory()
    address = hash(memory)
    before = MiniObject.from_address(address).refcount
    with adapter.frame(sample) as frame:
        array = frame.array()
        sample.set_buffer(gst.sample_of(bytes([2]) * SIZE).get_buffer())
        assert int(array[0, 0, 0]) == 1
        del array
    assert MiniObject.from_address(address).refcount == before - 1, "the buffer's own reference went with it"
    assert (MiniObject.from_address(address).lockstate >> 8) & 0xFF == 0
    with adapter.frame(sample) as frame:
        assert int(frame.array()[0, 0, 0]) == 2


# -- what a buffer says of itself ------------------------------------------------------------------------------


def test_times_flags_and_memory(gst: Any, adapter: Any) -> None:
    Gst = gst.Gst
    buffer = Gst.Buffer.new_allocate(None, 64 * 48 * 3, None)
    caps = Gst.Caps.from_string(gst.SMALL)
    segment = Gst.Segment.new()
    segment.init(Gst.Format.TIME)
    segment.start, segment.base = 2_000, 10_000
    with adapter.frame(Gst.Sample.new(buffer, caps, segment, None)) as frame:
        assert (frame.pts, frame.dts, frame.offset, frame.running_time) == (None, None, None, None)
        assert frame.flags == frozenset()
        assert frame.memory == "system"
    buffer.pts, buffer.dts, buffer.offset = 5_000, 4_000, 7
    buffer.set_flags(Gst.BufferFlags.DISCONT | Gst.BufferFlags.DELTA_UNIT | Gst.BufferFlags.NON_DROPPABLE)
    with adapter.frame(Gst.Sample.new(buffer, caps, segment, None)) as frame:
        assert (frame.pts, frame.dts, frame.offset) == (5_000, 4_000, 7)
        assert frame.running_time == 13_000
        assert frame.segment.start == 2_000
        assert frame.flags == {"discont", "delta-unit", "non-droppable"}
    buffer.pts = 1_000
    with adapter.frame(Gst.Sample.new(buffer, caps, segment, None)) as frame:
        assert frame.running_time is None, "outside its segment"
    on_gpu = Gst.Caps.from_string("video/x-raw(memory:GLMemory),format=RGBA,width=4,height=4,framerate=30/1")
    with adapter.frame(Gst.Sample.new(buffer, on_gpu, None, None)) as frame:
        assert frame.memory == "GLMemory"
        assert frame.running_time == 1_000
    for name in ("dts", "offset", "flags", "segment", "running_time"):
        with pytest.raises(LifecycleError):
            getattr(frame, name)


@pytest.mark.parametrize("how", ["block", "close", "capture"])
def test_a_frame_that_nothing_holds_ends_on_the_short_way(
    gst: ModuleType, adapter: Any, manager: SafetyManager, how: str
) -> None:
    """`Handle.close` called by the library's own wrappers, as by the program: the end is counted as a plain
    one, and the line that is named is the program's."""
    from lifecycle._core.record import PLAIN
    from lifecycle.integrations.gstreamer import Capture

    frames: list[Any] = []
    if how == "capture":
        pipeline, sink = gst.launch(frames=1)
        with Capture(manager, sink) as capture:

            @capture.on_frame
            def look(frame: Any) -> None:
                frame.array()
                frames.append(frame)

            assert capture.wait(10)
        gst.shutdown(pipeline)
    else:
        frames.append(adapter.frame(gst.sample_of(bytes(64 * 48 * 3), gst.SMALL)))
        frames[0].array()
        if how == "close":
            assert frames[0].close()
        else:
            with frames[0]:
                pass
    (handle,) = frames[0]._handles
    record = handle._record
    assert record.outcome is PLAIN
    if how != "capture":
        assert record.shut_site[0].co_filename == __file__
