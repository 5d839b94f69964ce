"""Caps to ndarrays: shapes, dtypes and strides are GStreamer's own, and what an array cannot express is
refused by name."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from lifecycle import SafetyManager

pytestmark = pytest.mark.needs("gstreamer", "numpy")


def one_sample(gst: ModuleType, name: str, width: int = 321, height: int = 7, extra: str = "") -> Any:
    caps = f"video/x-raw,format={name},width={width},height={height},framerate=30/1{extra}"
    return next(gst.samples(1, caps))


@pytest.mark.parametrize(
    ("name", "shape", "strides", "dtype"),
    [
        ("RGB", (7, 321, 3), (964, 3, 1), "uint8"),
        ("BGR", (7, 321, 3), (964, 3, 1), "uint8"),
        ("RGBA", (7, 321, 4), (1284, 4, 1), "uint8"),
        ("BGRA", (7, 321, 4), (1284, 4, 1), "uint8"),
        ("ARGB", (7, 321, 4), (1284, 4, 1), "uint8"),
        ("ABGR", (7, 321, 4), (1284, 4, 1), "uint8"),
        ("RGBx", (7, 321, 4), (1284, 4, 1), "uint8"),
        ("BGRx", (7, 321, 4), (1284, 4, 1), "uint8"),
        ("xRGB", (7, 321, 4), (1284, 4, 1), "uint8"),
        ("xBGR", (7, 321, 4), (1284, 4, 1), "uint8"),
        ("GRAY8", (7, 321), (324, 1), "uint8"),
        ("GRAY16_LE", (7, 321), (644, 2), "<u2"),
        ("GRAY16_BE", (7, 321), (644, 2), ">u2"),
        ("ARGB64", (7, 321, 4), (2568, 8, 2), "=u2"),
    ],
)
def test_packed_formats_are_arrays(
    gst: ModuleType, adapter: Any, name: str, shape: tuple[int, ...], strides: tuple[int, ...], dtype: str
) -> None:
    import numpy as np

    sample = one_sample(gst, name)
    with adapter.frame(sample) as frame:
        array = frame.array()
        assert (array.shape, array.strides, array.dtype) == (shape, strides, np.dtype(dtype))
        assert not array.flags.writeable
        with pytest.raises(ValueError, match="cannot set WRITEABLE"):
            array.flags.writeable = True
        assert (frame.format, frame.width, frame.height) == (name, 321, 7)
        # Against a copy that PyGObject makes: the same picture, row by row.
        buffer = sample.get_buffer()
        whole = bytes(buffer.extract_dup(0, buffer.get_size()))
        row = shape[1] * strides[1]
        for line in range(shape[0]):
            expected = whole[line * strides[0] : line * strides[0] + row]
            assert array[line].tobytes() == expected
        assert bytes(frame.data()) == whole


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("RGB16", "not whole bytes"),
        ("RGB8P", "palette"),
        ("v210", "packs its pixels"),
        ("NV12_64Z32", "tiled"),
        ("I420", "subsampled"),
        ("NV12", "subsampled"),
        ("YUY2", "subsampled"),
        ("P010_10LE", "subsampled"),
        ("Y444", "3 planes"),
        ("r210", "not whole bytes"),
    ],
)
def test_what_an_array_cannot_express_is_refused_by_name(
    gst: ModuleType, adapter: Any, manager: SafetyManager, name: str, why: str
) -> None:
    from lifecycle.integrations.gstreamer import FormatError

    caps = f"video/x-raw,format={name},width=64,height=48,framerate=30/1"
    sample = gst.sample_of(bytes(64 * 48 * 4), caps)
    with adapter.frame(sample) as frame:
        with pytest.raises(FormatError, match=why) as caught:
            frame.array()
        assert name in str(caught.value)
        assert "frame.data()" in str(caught.value)
        assert "videoconvert" in str(caught.value)
        assert manager.stats().total_objects == 0, "mapped for nothing"
        assert len(frame.data()) == 64 * 48 * 4


def test_memory_that_is_not_this_processs_is_refused_as_an_array(gst: ModuleType, adapter: Any) -> None:
    from lifecycle.integrations.gstreamer import FormatError

    sample = gst.sample_of(bytes(64), "video/x-raw(memory:GLMemory),format=RGBA,width=4,height=4")
    with adapter.frame(sample) as frame, pytest.raises(FormatError, match=r"memory:GLMemory.*gldownload"):
        frame.array()


@pytest.mark.parametrize(
    "caps", ["video/x-raw,format=NOPE,width=8,height=8", "video/x-raw(memory:DMABuf),format=DMA_DRM"]
)
def test_what_gstreamer_does_not_know_either_is_said(gst: ModuleType, adapter: Any, caps: str) -> None:
    from lifecycle.integrations.gstreamer import FormatError

    with (
        adapter.frame(gst.sample_of(bytes(64), caps)) as frame,
        pytest.raises(FormatError, match="cannot tell"),
    ):
        frame.array()


def test_what_is_no_picture_has_bytes_and_no_width(gst: ModuleType, adapter: Any) -> None:
    from lifecycle.integrations.gstreamer import FormatError

    sample = gst.sample_of(b"abcd", "video/x-h264,stream-format=byte-stream,alignment=au")
    with adapter.frame(sample) as frame:
        assert bytes(frame.data()) == b"abcd"
        assert frame.format == "video/x-h264"
        for ask in (frame.array, frame.planes, frame.copy, lambda: frame.width, lambda: frame.height):
            with pytest.raises(FormatError, match=r"video/x-h264.*frame\.data\(\)"):
                ask()


def test_a_buffers_own_video_meta_wins(gst: ModuleType, adapter: Any) -> None:
    from gi.repository import GstVideo

    width, height, stride, offset = 4, 3, 32, 16
    data = bytearray(offset + stride * height)
    for line in range(height):
        for byte in range(width * 3):
            data[offset + line * stride + byte] = 10 * line + byte
    buffer = gst.Gst.Buffer.new_allocate(None, len(data), None)
    buffer.fill(0, bytes(data))
    caps = gst.Gst.Caps.from_string(f"video/x-raw,format=RGB,width={width},height={height},framerate=30/1")
    GstVideo.buffer_add_video_meta_full(
        buffer,
        GstVideo.VideoFrameFlags.NONE,
        GstVideo.VideoFormat.RGB,
        width,
        height,
        1,
        [offset, 0, 0, 0],
        [stride, 0, 0, 0],
    )
    sample = gst.Gst.Sample.new(buffer, caps, None, None)
    with adapter.frame(sample) as frame:
        array = frame.array()
        assert (array.shape, array.strides) == ((height, width, 3), (stride, 3, 1))
        assert array[2].ravel().tolist() == [20 + byte for byte in range(width * 3)]


def test_interlaced_fields_in_buffers_of_their_own_have_half_the_rows(gst: ModuleType, adapter: Any) -> None:
    caps = (
        "video/x-raw(format:Interlaced),format=RGB,width=4,height=6,framerate=30/1,interlace-mode=alternate"
    )
    with adapter.frame(gst.sample_of(bytes(12 * 3), caps)) as frame:
        assert frame.array().shape == (3, 4, 3)


def test_the_cache_finds_by_pointer_and_is_bounded(gst: ModuleType) -> None:
    from lifecycle.integrations.gstreamer.frames.formats import LayoutCache

    cache = LayoutCache(limit=8)
    kept = [
        gst.Gst.Caps.from_string(f"video/x-raw,format=RGB,width={n},height=8,framerate=30/1")
        for n in range(1, 40)
    ]
    for caps in kept:
        layout = cache.add(caps)
        assert cache.known[hash(caps)] is layout
        assert len(cache.known) <= 8
    assert hash(kept[0]) not in cache.known


def test_cached_caps_are_held_so_no_pointer_changes_its_meaning(gst: ModuleType) -> None:
    from lifecycle.integrations.gstreamer._native import MiniObject
    from lifecycle.integrations.gstreamer.frames.formats import LayoutCache

    cache = LayoutCache()
    caps = gst.Gst.Caps.from_string(gst.SMALL)
    pointer = hash(caps)
    cache.add(caps)
    before = MiniObject.from_address(pointer).refcount
    del caps
    assert MiniObject.from_address(pointer).refcount == before >= 1
