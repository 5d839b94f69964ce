"""What a frame tells beside its picture: times in its stream, metas, memories, sound in time, a picture for
Pillow; and what is told of sizes and formats that are none."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from lifecycle import LifecycleError

pytestmark = pytest.mark.needs("gstreamer", "numpy")


def buffer_of(gst: Any, size: int = 64 * 48 * 3) -> Any:
    return gst.Gst.Buffer.new_allocate(None, size, None)


def sample(gst: Any, buffer: Any, caps: str | None = None, segment: Any = None) -> Any:
    return gst.Gst.Sample.new(buffer, gst.Gst.Caps.from_string(caps or gst.SMALL), segment, None)


def test_times_in_the_stream(gst: Any, adapter: Any) -> None:
    Gst = gst.Gst
    segment = Gst.Segment.new()
    segment.init(Gst.Format.TIME)
    segment.start, segment.stop, segment.time, segment.base = 2_000, 9_000, 70_000, 10_000
    buffer = buffer_of(gst)
    for pts, running, stream in ((2_500, 10_500, 70_500), (1_999, None, None), (9_001, None, None)):
        buffer.pts = pts
        with adapter.frame(sample(gst, buffer, segment=segment)) as frame:
            assert (frame.running_time, frame.stream_time) == (running, stream)
    with adapter.frame(sample(gst, buffer_of(gst), segment=segment)) as frame:
        assert frame.stream_time is None, "without a pts"
        kept = frame.segment
    del segment, frame
    gc.collect()
    assert kept.start == 2_000, "it is the asker's own"


def test_flags_of_video(gst: Any, adapter: Any) -> None:
    from gi.repository import GstVideo

    buffer = buffer_of(gst)
    flags = int(GstVideo.VideoBufferFlags.INTERLACED) | int(GstVideo.VideoBufferFlags.TFF)
    buffer.set_flags(gst.Gst.BufferFlags(flags))
    with adapter.frame(sample(gst, buffer)) as frame:
        assert frame.flags == {"interlaced", "top-field-first"}
    with adapter.frame(sample(gst, buffer, "video/x-h264,stream-format=byte-stream")) as frame:
        assert frame.flags == frozenset(), "what is not raw video has none"


def test_regions_of_interest(gst: Any, adapter: Any) -> None:
    from gi.repository import GstVideo

    from lifecycle.integrations.gstreamer import Area

    buffer = buffer_of(gst)
    with adapter.frame(sample(gst, buffer)) as frame:
        assert frame.regions == ()
        assert frame.metas == ()
    face = GstVideo.buffer_add_video_region_of_interest_meta(buffer, "face", 1, 2, 3, 4)
    face.id = 7
    face.add_param(gst.Gst.Structure.new_from_string("detection,confidence=(double)0.5,label=(string)cat"))
    GstVideo.buffer_add_video_region_of_interest_meta(buffer, "eye", 2, 3, 1, 1).parent_id = 7
    with adapter.frame(sample(gst, buffer)) as frame:
        first, second = frame.regions
        assert frame.metas == ("GstVideoRegionOfInterestMeta",) * 2
    del buffer, face, frame
    gc.collect()
    assert (first.kind, first.area, first.id) == ("face", Area(1, 2, 3, 4), 7)
    assert first.details == {"detection": {"confidence": 0.5, "label": "cat"}}
    assert (second.kind, second.parent, second.details) == ("eye", 7, {})


def test_a_custom_meta(gst: Any, adapter: Any) -> None:
    from lifecycle.integrations.gstreamer import FormatError

    Gst = gst.Gst
    if Gst.Meta.get_info("lifecycle-lens") is None:
        Gst.Meta.register_custom("lifecycle-lens", [], None, None)
    buffer = buffer_of(gst)
    meta = buffer.add_custom_meta("lifecycle-lens")
    # PyGObject gives a copy of the structure that is in it.
    into = ctypes.c_void_p.from_address(hash(meta) + 16)
    name, integer = ctypes.c_char_p(b"zoom"), ctypes.c_size_t(6 << 2)
    ctypes.CDLL("libgstreamer-1.0.so.0").gst_structure_set(into, name, integer, ctypes.c_int(3), None)
    with adapter.frame(sample(gst, buffer)) as frame:
        assert frame.custom("lifecycle-lens") == {"zoom": 3}
        assert frame.custom("GstVideoMeta") is None
        assert frame.custom("nobody's") is None
        with pytest.raises(FormatError, match="a text, not 3"):
            frame.custom(3)


def test_the_part_that_is_to_be_shown(gst: Any, adapter: Any) -> None:
    from gi.repository import GstVideo

    from lifecycle.integrations.gstreamer import Area, FormatError

    data = bytes(range(48)) * (64 * 3)
    with adapter.frame(gst.sample_of(data)) as frame:
        assert frame.crop is None
        assert frame.cropped().shape == (48, 64, 3)
    buffer = buffer_of(gst)
    buffer.fill(0, data)
    crop = buffer.add_meta(GstVideo.video_crop_meta_get_info(), None)
    _write_area(crop, 5, 6, 20, 10)
    with adapter.frame(sample(gst, buffer)) as frame:
        assert frame.crop == Area(5, 6, 20, 10)
        assert (frame.cropped() == frame.array()[6:16, 5:25]).all()
    for wrong in ((60, 0, 5, 5), (0, 44, 5, 5), (0, 0, 0, 5), (2**32 - 1, 0, 2, 2)):
        _write_area(crop, *wrong)
        with adapter.frame(sample(gst, buffer)) as frame, pytest.raises(FormatError, match="no part of"):
            frame.cropped()


def _write_area(meta: Any, *values: int) -> None:
    """Set a crop meta, whose fields PyGObject's wrapper of its base does not have."""
    (ctypes.c_uint * 4).from_address(hash(meta) + 16)[:] = list(values)


def test_a_buffers_video_meta(gst: Any, adapter: Any) -> None:
    from gi.repository import GstVideo

    from lifecycle.integrations.gstreamer import VideoPlanes

    buffer = buffer_of(gst, 300 * 48)
    rgb = GstVideo.VideoFormat.RGB
    GstVideo.buffer_add_video_meta_full(
        buffer, GstVideo.VideoFrameFlags.NONE, rgb, 64, 48, 1, [32, 0, 0, 0], [256, 0, 0, 0]
    )
    with adapter.frame(sample(gst, buffer)) as frame:
        assert frame.video_planes == VideoPlanes(64, 48, (32,), (256,))
        assert frame.array().strides == (256, 3, 1)
    with adapter.frame(gst.sample_of(bytes(64 * 48 * 3))) as frame:
        assert frame.video_planes is None


def test_memories(gst: Any, adapter: Any) -> None:
    """A DMABuf is a memfd here: mapped, told, and shared by its descriptor."""
    from gi.repository import GstAllocators

    fd = os.memfd_create("picture")
    os.write(fd, bytes(range(48)) * 192)
    allocator = GstAllocators.DmaBufAllocator.new()
    memory = GstAllocators.DmaBufAllocator.alloc(allocator, fd, 64 * 48 * 3)
    buffer = gst.Gst.Buffer.new()
    buffer.append_memory(memory)
    caps = gst.SMALL.replace("video/x-raw", "video/x-raw(memory:DMABuf)")
    with adapter.frame(sample(gst, buffer, caps)) as frame:
        (told,) = frame.memories
        assert (frame.memory, told.kind, told.size, told.offset) == ("DMABuf", "dmabuf", 64 * 48 * 3, 0)
        assert os.pread(told.fd, 3, 45) == bytes((45, 46, 47))
        assert frame.array()[0, 1].tolist() == [3, 4, 5]
        with frame.download() as mine:
            assert mine.memory == "system"
            assert (mine.array() == frame.array()).all()
    with adapter.frame(gst.sample_of(bytes(64 * 48 * 3))) as frame:
        (told,) = frame.memories
        assert (told.kind, told.fd) == ("SystemMemory", None)


SOUND = "audio/x-raw,format=S16LE,rate=44100,channels=2,layout=interleaved"


def test_sound_in_time(gst: Any, adapter: Any) -> None:
    from lifecycle.integrations.gstreamer import FormatError

    buffer = buffer_of(gst, 441 * 4)
    with adapter.frame(sample(gst, buffer, SOUND)) as frame:
        assert frame.samples == 441
        with pytest.raises(FormatError, match="no pts"):
            frame.times()
    buffer.pts = 3_000_000_000
    with adapter.frame(sample(gst, buffer, SOUND)) as frame:
        times = frame.times()
        assert (len(times), str(times.dtype)) == (len(frame.array()), "int64")
        assert times[:3].tolist() == [3_000_000_000, 3_000_022_675, 3_000_045_351]
        assert times[-1] == 3_000_000_000 + 440 * 1_000_000_000 // 44100
    with (
        adapter.frame(sample(gst, buffer_of(gst, 7), SOUND)) as frame,
        pytest.raises(FormatError, match="7 b"),
    ):
        frame.samples
    with adapter.frame(gst.sample_of(bytes(64 * 48 * 3))) as frame:
        for ask in (lambda: frame.samples, frame.times):
            with pytest.raises(FormatError, match="has no rate"):
                ask()


def test_sound_of_a_pipeline_is_in_time(gst: Any, adapter: Any) -> None:
    pipeline, sink = gst.launch(SOUND, frames=4, source="audiotestsrc samplesperbuffer=1000")
    last = None
    for _ in range(4):
        with adapter.frame(gst.pull(sink)) as frame:
            times = frame.times()
            if last is not None:
                assert abs(int(times[0]) - last - 1_000_000_000 // 44100) <= 2
            last = int(times[-1])
    gst.shutdown(pipeline)


@pytest.mark.needs("pillow")
def test_a_picture_for_pillow(gst: Any, adapter: Any) -> None:
    from gi.repository import GstVideo

    from lifecycle.integrations.gstreamer import FormatError

    for name, mode, colour in (
        ("RGB", "RGB", (10, 20, 30)),
        ("BGR", "RGB", (10, 20, 30)),
        ("xRGB", "RGB", (10, 20, 30)),
        ("BGRx", "RGB", (10, 20, 30)),
        ("RGBA", "RGBA", (10, 20, 30, 255)),
        ("ABGR", "RGBA", (10, 20, 30, 255)),
        ("GRAY8", "L", None),
        ("GRAY16_LE", "I;16", None),
        ("GRAY16_BE", "I;16", None),
    ):
        caps = f"video/x-raw,format={name},width=5,height=3"
        source = "videotestsrc pattern=solid-color foreground-color=0xff0a141e"
        for pulled in gst.samples(1, caps, source=source):
            with adapter.frame(pulled) as frame:
                image = frame.to_pil()
                value = frame.array()[2, 4] if colour is None else colour
            assert (image.mode, image.size) == (mode, (5, 3))
            assert image.getpixel((4, 2)) == value
    with adapter.frame(gst.sample_of(bytes(24), "video/x-raw,format=I420,width=4,height=4")) as frame:
        with pytest.raises(FormatError, match="videoconvert"):
            frame.to_pil()
    packed = "video/x-raw,format=GBR,width=4,height=4"
    with adapter.frame(gst.sample_of(bytes(48), packed)) as frame, pytest.raises(FormatError):
        frame.to_pil()
    buffer = buffer_of(gst)
    _write_area(buffer.add_meta(GstVideo.video_crop_meta_get_info(), None), 0, 0, 7, 9)
    with adapter.frame(sample(gst, buffer)) as frame:
        assert frame.to_pil().size == (7, 9), "what is to be shown"


@pytest.mark.parametrize("size", ["width=0,height=4", "width=5,height=0", "width=-3,height=4"])
def test_pictures_of_no_size(gst: ModuleType, adapter: Any, size: str) -> None:
    from lifecycle.integrations.gstreamer import FormatError

    with adapter.frame(gst.sample_of(bytes(16), f"video/x-raw,format=RGB,{size},framerate=30/1")) as frame:
        asks: tuple[Callable[[], Any], ...] = (
            frame.array, frame.planes, frame.copy, frame.cropped, lambda: frame.width,
        )  # fmt: skip
        for ask in asks:
            with pytest.raises(FormatError, match="no picture"):
                ask()
        assert bytes(frame.data()) == bytes(16)


def test_a_closed_frame_tells_none_of_it(gst: Any, adapter: Any) -> None:
    with adapter.frame(gst.sample_of(bytes(64 * 48 * 3))) as frame:
        pass
    names = ("stream_time", "metas", "crop", "regions", "video_planes", "memories", "cropped", "to_pil")
    for name in names:
        with pytest.raises(LifecycleError, match="was closed"):
            found = getattr(frame, name)
            found()
    with pytest.raises(LifecycleError, match="was closed"):
        frame.custom("a")


READS: tuple[tuple[str, Callable[[Any], object]], ...] = (
    ("names_of_metas", lambda frame: frame.metas),
    ("crop_of", lambda frame: frame.crop),
    ("regions_of", lambda frame: frame.regions),
    ("video_planes_of", lambda frame: frame.video_planes),
    ("memories_of", lambda frame: frame.memories),
    ("custom_of", lambda frame: frame.custom("lifecycle-lens")),
)


@pytest.mark.parametrize(("reader", "ask"), READS, ids=[reader for reader, _ in READS])
def test_the_buffer_is_held_while_it_is_read(
    gst: Any, adapter: Any, monkeypatch: pytest.MonkeyPatch, reader: str, ask: Callable[[Any], object]
) -> None:
    """Another thread closes the frame in the middle: its buffer must not be back in its pool by then."""
    from lifecycle.integrations.gstreamer.frames import facts

    Gst = gst.Gst
    pool = Gst.BufferPool.new()
    config = pool.get_config()
    Gst.BufferPool.config_set_params(config, Gst.Caps.from_string(gst.SMALL), 64 * 48 * 3, 0, 1)
    assert pool.set_config(config)
    assert pool.set_active(True)
    at_once = Gst.BufferPoolAcquireParams()
    at_once.flags = Gst.BufferPoolAcquireFlags.DONTWAIT
    frame = adapter.frame(sample(gst, pool.acquire_buffer(None)[1]))
    plain = getattr(facts, reader)
    flows = []

    def read(buffer: int, *arguments: Any) -> object:
        frame.close()
        gc.collect()
        flows.append(pool.acquire_buffer(at_once)[0])
        return plain(buffer, *arguments)

    monkeypatch.setattr(facts, reader, read)
    ask(frame)
    assert flows == [Gst.FlowReturn.EOS], "the pool has none"
    assert pool.acquire_buffer(at_once)[0] == Gst.FlowReturn.OK
    pool.set_active(False)
