"""The C layer: its structures are GStreamer's, importing it does no more than it says, and what is missing is
said."""

from __future__ import annotations

import ctypes
import gc
import sys
from functools import partial
from types import ModuleType

import pytest

from tests.support import run_python

pytestmark = pytest.mark.needs("gstreamer", "numpy")


@pytest.mark.skipif(sys.maxsize < 2**32, reason="the sizes are those of 64-bit machines")
def test_structures_have_gstreamers_sizes_and_offsets(gst: ModuleType) -> None:
    from lifecycle.integrations.gstreamer._native import BufferHead, MapInfo, MiniObject, VideoMeta

    assert ctypes.sizeof(MapInfo) == 104
    assert ctypes.sizeof(MiniObject) == 64
    offsets = {
        name: getattr(BufferHead, name).offset for name in ("pool", "pts", "dts", "duration", "offset")
    }
    assert offsets == {"pool": 64, "pts": 72, "dts": 80, "duration": 88, "offset": 96}
    assert VideoMeta.offset.offset == 48
    assert VideoMeta.stride.offset == 80


def test_structures_read_what_the_bindings_wrote(gst: ModuleType) -> None:
    from lifecycle.integrations.gstreamer._native import BufferHead

    buffer = gst.Gst.Buffer.new_allocate(None, 10, None)
    buffer.pts, buffer.duration, buffer.offset = 77, 33, 5
    head = BufferHead.from_address(hash(buffer))
    assert (head.pts, head.duration, head.offset, head.pool) == (77, 33, 5, None)


def test_a_mapping_is_ended_once(gst: ModuleType) -> None:
    from lifecycle.integrations.gstreamer import _native

    sample = gst.sample_of(b"x" * 100)
    mapping = _native.Mapping()
    mapping.sample = sample
    buffer = _native.sample_buffer(hash(sample))
    assert buffer is not None
    mapping.buffer = buffer
    _native.ready()
    mapping.__del__ = partial(next, map(_native.unmap_plain, _native.ANY, (ctypes.addressof(mapping),)), None)
    memory = _native.memory_of(buffer, 0)
    before = _native.MiniObject.from_address(memory).refcount
    assert _native.map_plain(buffer, mapping, _native.MAP_READ)
    assert mapping.size == 100
    assert _native.MiniObject.from_address(memory).refcount == before + 1
    _native.unmap(mapping)
    _native.unmap(mapping)
    assert _native.MiniObject.from_address(memory).refcount == before


def test_importing_does_not_initialise_gstreamer() -> None:
    run_python(
        """
        import lifecycle.integrations.gstreamer, threading
        from gi.repository import Gst
        assert not Gst.is_initialized()
        assert threading.enumerate() == [threading.main_thread()]
        """
    ).check()


@pytest.mark.parametrize("missing", ["gi", "numpy"])
def test_what_is_missing_is_named(missing: str) -> None:
    run_python(
        f"""
        import sys
        sys.modules[{missing!r}] = None
        from lifecycle import LifecycleError
        try:
            import lifecycle.integrations.gstreamer
        except ImportError as error:
            assert isinstance(error, LifecycleError), type(error)
            assert type(error).__name__ == "MissingGStreamerError"
            assert "apt-get update && apt-get install python3-gi " in str(error), error
            assert "--system-site-packages" in str(error), error
        else:
            raise AssertionError("imported")
        """
    ).check()


@pytest.mark.needs("gst-overrides")
def test_frames_work_without_gst_pythons_overrides() -> None:
    """PyGObject from PyPI has none of them: mapping must not depend on what they add."""
    run_python(
        """
        import pathlib, shutil, tempfile
        import gi.overrides
        folder = pathlib.Path(tempfile.mkdtemp())
        for path in gi.overrides.__path__:
            shutil.copytree(path, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("Gst*", "_gi_gst*", "__pycache__"))
        gi.overrides.__path__ = [str(folder)]
        from gi.repository import Gst
        assert not hasattr(Gst, "MapError"), "the overrides are still there"
        from lifecycle import SafetyManager
        from lifecycle.integrations.gstreamer import Capture, SampleAdapter
        Gst.init(None)
        pipeline = Gst.parse_launch(
            "videotestsrc num-buffers=3 ! video/x-raw,format=RGB,width=321,height=4,framerate=30/1 ! appsink name=sink sync=false"
        )
        pipeline.set_state(Gst.State.PLAYING)
        with SafetyManager() as manager, Capture(manager, pipeline.get_by_name("sink")) as capture:
            arrays = [frame.array() for frame in capture.frames(timeout=10)]
            assert [array.shape for array in arrays] == [(4, 321, 3)] * 3
            assert arrays[0].strides == (964, 3, 1)
            assert arrays[0].any()
            del arrays
        pipeline.set_state(Gst.State.NULL)
        """
    ).check()


@pytest.mark.parametrize("how", ["count", "cycle", "never mapped"])
def test_a_mapping_ends_with_the_object_that_has_it(gst: ModuleType, how: str) -> None:
    """Also one that was interrupted in its release, is kept by a traceback, and goes with that as garbage."""
    from ctypes import addressof

    from lifecycle.integrations.gstreamer._native import (
        ANY,
        MAP_READ,
        MiniObject,
        map_plain,
        memory_of,
        ready,
        sample_buffer,
        unmap_plain,
    )
    from lifecycle.integrations.gstreamer.frames.held import Held

    ready()
    sample = gst.sample_of(bytes(64 * 48 * 3))
    buffer = sample_buffer(hash(sample)) or 0
    memory = MiniObject.from_address(memory_of(buffer, 0))
    before = memory.lockstate
    held = Held()
    once = map(unmap_plain, ANY, (addressof(held),))
    held.__del__ = partial(next, once, None)
    if how != "never mapped":
        assert map_plain(buffer, held, MAP_READ)
        assert memory.lockstate != before
    if how == "cycle":
        cycle: list[object] = [held]
        cycle.append(cycle)
        del cycle
    del held
    gc.collect()
    assert memory.lockstate == before
    assert next(once, "over") == "over"
