"""Planes: every format that an ndarray can express comes as GStreamer laid it out, odd sizes, own strides and
memories included."""

from __future__ import annotations

import gc
from types import ModuleType
from typing import Any

import pytest

from lifecycle import AccessRefusedError, SafetyManager
from tests.support import eventually

pytestmark = pytest.mark.needs("gstreamer", "numpy")

W, H = 321, 7
PLANES: dict[str, list[tuple[int, ...]]] = {
    "RGB": [(7, 321, 3)],
    "BGR": [(7, 321, 3)],
    "RGBA": [(7, 321, 4)],
    "BGRA": [(7, 321, 4)],
    "ARGB": [(7, 321, 4)],
    "ABGR": [(7, 321, 4)],
    "RGBx": [(7, 321, 4)],
    "xBGR": [(7, 321, 4)],
    "ARGB64": [(7, 321, 4)],
    "GRAY8": [(7, 321)],
    "GRAY16_LE": [(7, 321)],
    "GRAY16_BE": [(7, 321)],
    "v308": [(7, 321, 3)],
    "AYUV": [(7, 321, 4)],
    "I420": [(7, 321), (4, 161), (4, 161)],
    "YV12": [(7, 321), (4, 161), (4, 161)],
    "Y42B": [(7, 321), (7, 161), (7, 161)],
    "Y444": [(7, 321), (7, 321), (7, 321)],
    "A420": [(7, 321), (4, 161), (4, 161), (7, 321)],
    "GBR": [(7, 321), (7, 321), (7, 321)],
    "Y41B": [(7, 321), (7, 81), (7, 81)],
    "YUV9": [(7, 321), (2, 81), (2, 81)],
    "NV12": [(7, 321), (4, 161, 2)],
    "NV21": [(7, 321), (4, 161, 2)],
    "NV16": [(7, 321), (7, 161, 2)],
    "NV24": [(7, 321), (7, 321, 2)],
    "YUY2": [(7, 322, 2)],
    "UYVY": [(7, 322, 2)],
    "YVYU": [(7, 322, 2)],
    "v216": [(7, 322, 2)],
    "P010_10LE": [(7, 321), (4, 161, 2)],
    "P010_10BE": [(7, 321), (4, 161, 2)],
    "I420_10LE": [(7, 321), (4, 161), (4, 161)],
    "I420_10BE": [(7, 321), (4, 161), (4, 161)],
    "I422_10LE": [(7, 321), (7, 161), (7, 161)],
    "Y210": [(7, 322, 2)],
}
WIDE = {"GRAY16_LE", "v216", "P010_10LE", "I420_10LE", "I422_10LE", "Y210"}


def dtype_of(name: str) -> str:
    if name == "ARGB64":
        return "=u2"
    return ">u2" if name.endswith("BE") else "<u2" if name in WIDE else "u1"


def video_caps(name: str, width: int = W, height: int = H) -> str:
    return f"video/x-raw,format={name},width={width},height={height},framerate=30/1"


def info_of(gst: ModuleType, caps: str) -> Any:
    from gi.repository import GstVideo

    return GstVideo.VideoInfo.new_from_caps(gst.Gst.Caps.from_string(caps))


@pytest.mark.parametrize("name", PLANES)
def test_planes_lie_as_gstreamer_says(gst: ModuleType, adapter: Any, name: str) -> None:
    """Shapes by hand, offsets and strides by GStreamer, the bytes by a copy that PyGObject makes."""
    import numpy as np

    caps = video_caps(name)
    sample = next(gst.samples(1, caps))
    buffer = sample.get_buffer()
    whole = np.frombuffer(buffer.extract_dup(0, buffer.get_size()), np.uint8)
    info = info_of(gst, caps)
    with adapter.frame(sample) as frame:
        planes = frame.planes()
        base = np.frombuffer(frame.data(), np.uint8).ctypes.data
        assert [plane.shape for plane in planes] == PLANES[name]
        for number, plane in enumerate(planes):
            assert plane.dtype == np.dtype(dtype_of(name))
            assert not plane.flags.writeable
            assert plane.strides[0] == info.stride[number]
            assert plane.ctypes.data - base == info.offset[number], "not where it lies"
            row = plane.dtype.itemsize * int(np.prod(plane.shape[1:]))
            for line in range(plane.shape[0]):
                start = info.offset[number] + line * info.stride[number]
                assert plane[line].tobytes() == whole[start : start + row].tobytes()
        del plane, planes


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 5), (5, 3), (1, 7), (6, 1), (64, 48)])
@pytest.mark.parametrize("name", ["I420", "YV12", "NV12", "YUY2", "UYVY", "P010_10LE", "Y42B", "RGB"])
def test_odd_sizes_fit_their_buffers(gst: ModuleType, adapter: Any, name: str, size: tuple[int, int]) -> None:
    width, height = size
    caps = video_caps(name, width, height)
    sample = gst.sample_of(bytes(info_of(gst, caps).size), caps)
    with adapter.frame(sample) as frame:
        planes = frame.planes()
        first = planes[0].shape
        assert first[0] == height
        assert first[1] == (width + width % 2 if name in ("YUY2", "UYVY") else width)
        if len(planes) > 1:
            rows = height if name == "Y42B" else (height + 1) // 2
            assert {plane.shape[:2] for plane in planes[1:]} == {(rows, (width + 1) // 2)}
        del planes


COLOURS = {"red": (0xFFFF0000, (81, 90, 240)), "blue": (0xFF0000FF, (41, 240, 110))}


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize(
    ("name", "y", "u", "v"),
    [
        ("I420", (0, ...), (1, ...), (2, ...)),
        ("YV12", (0, ...), (2, ...), (1, ...)),
        ("NV12", (0, ...), (1, ..., 0), (1, ..., 1)),
        ("NV21", (0, ...), (1, ..., 1), (1, ..., 0)),
        ("YUY2", (0, ..., 0), (0, slice(None), slice(0, None, 2), 1), (0, slice(None), slice(1, None, 2), 1)),
        ("UYVY", (0, ..., 1), (0, slice(None), slice(0, None, 2), 0), (0, slice(None), slice(1, None, 2), 0)),
        ("P010_10LE", (0, ...), (1, ..., 0), (1, ..., 1)),
        ("I420_10LE", (0, ...), (1, ...), (2, ...)),
    ],
)
def test_the_components_are_where_the_documentation_says(
    gst: ModuleType, adapter: Any, colour: str, name: str, y: Any, u: Any, v: Any
) -> None:
    """A picture of one known colour: BT.601 gives Y, U and V."""
    number, expected = COLOURS[colour]
    source = f"videotestsrc pattern=solid-color foreground-color={number}"
    sample = next(gst.samples(1, f"{video_caps(name, 64, 48)},colorimetry=bt601", source=source))
    shift = {"P010_10LE": 8, "I420_10LE": 2}.get(name, 0)
    with adapter.frame(sample) as frame:
        planes = frame.planes()
        for (plane, *index), value in zip((y, u, v), expected, strict=True):
            assert abs((planes[plane][tuple(index)] >> shift).astype(int) - value).max() <= 2
        del planes


@pytest.mark.parametrize("name", ["I420", "NV12", "RGB", "YUY2", "P010_10LE"])
def test_a_buffers_own_strides_and_offsets_win(gst: ModuleType, adapter: Any, name: str) -> None:
    """As cameras and decoders pad: the caps alone would give another picture."""
    import numpy as np
    from gi.repository import GstVideo

    width, height = 5, 3
    caps = video_caps(name, width, height)
    info = info_of(gst, caps)
    count = info.finfo.n_planes
    strides = [info.stride[n] + 24 for n in range(count)]
    offsets = [40 + 1000 * n for n in range(count)]
    data = np.arange(4000, dtype=np.uint8)
    buffer = gst.Gst.Buffer.new_allocate(None, len(data), None)
    buffer.fill(0, data.tobytes())
    GstVideo.buffer_add_video_meta_full(
        buffer,
        GstVideo.VideoFrameFlags.NONE,
        GstVideo.VideoFormat.from_string(name),
        width,
        height,
        count,
        offsets + [0] * (4 - count),
        strides + [0] * (4 - count),
    )
    sample = gst.Gst.Sample.new(buffer, gst.Gst.Caps.from_string(caps), None, None)
    for _ in range(3):  # once parsed, then known
        with adapter.frame(sample) as frame:
            for number, plane in enumerate(frame.planes()):
                assert plane.strides[0] == strides[number]
                row = plane.dtype.itemsize * int(np.prod(plane.shape[1:]))
                for line in range(plane.shape[0]):
                    start = offsets[number] + line * strides[number]
                    assert plane[line].tobytes() == data[start : start + row].tobytes()
            del plane
    plain = gst.Gst.Sample.new(
        gst.sample_of(bytes(info.size), caps).get_buffer(), sample.get_caps(), None, None
    )
    with adapter.frame(plain) as frame:
        assert frame.planes()[0].strides[0] == info.stride[0], "one buffer's meta is not another's"


def meta_buffer(gst: ModuleType, name: str, size: int, offsets: list[int], strides: list[int]) -> Any:
    from gi.repository import GstVideo

    buffer = gst.Gst.Buffer.new_allocate(None, size, None)
    buffer.fill(0, bytes(range(256)) * (size // 256 + 1))
    GstVideo.buffer_add_video_meta_full(
        buffer,
        GstVideo.VideoFrameFlags.NONE,
        GstVideo.VideoFormat.from_string(name),
        4,
        4,
        len(offsets),
        offsets + [0] * (4 - len(offsets)),
        strides + [0] * (4 - len(strides)),
    )
    return buffer


def test_rows_that_go_backwards_are_expressed(gst: ModuleType, adapter: Any) -> None:
    """A picture that is stored bottom-up has negative strides."""
    buffer = meta_buffer(gst, "GRAY8", 64, [48], [-16])
    sample = gst.Gst.Sample.new(buffer, gst.Gst.Caps.from_string(video_caps("GRAY8", 4, 4)), None, None)
    with adapter.frame(sample) as frame:
        array = frame.array()
        assert array.tolist() == [[48, 49, 50, 51], [32, 33, 34, 35], [16, 17, 18, 19], [0, 1, 2, 3]]
        del array


@pytest.mark.parametrize(
    ("offsets", "strides", "error"),
    [
        ([0], [2], "overlap"),
        ([0], [0], "overlap"),
        ([60], [16], "truncated"),
        ([0], [-16], "truncated"),
        ([2**40], [16], "truncated"),
    ],
)
def test_a_meta_that_lies_is_an_error_and_no_other_memory(
    gst: ModuleType, adapter: Any, manager: SafetyManager, offsets: list[int], strides: list[int], error: str
) -> None:
    from lifecycle.integrations.gstreamer import FormatError, ShortMemoryError

    buffer = meta_buffer(gst, "GRAY8", 64, offsets, strides)
    sample = gst.Gst.Sample.new(buffer, gst.Gst.Caps.from_string(video_caps("GRAY8", 4, 4)), None, None)
    with adapter.frame(sample) as frame:
        for ask in (frame.array, frame.planes):
            with pytest.raises((FormatError, ShortMemoryError), match=error):
                ask()
        assert len(frame.data()) == 64


def test_a_meta_with_too_few_planes_is_said(gst: ModuleType, adapter: Any) -> None:
    from lifecycle.integrations.gstreamer import FormatError

    buffer = meta_buffer(gst, "I420", 64, [0], [4])
    sample = gst.Gst.Sample.new(buffer, gst.Gst.Caps.from_string(video_caps("I420", 4, 4)), None, None)
    with adapter.frame(sample) as frame, pytest.raises(FormatError, match="1 planes, its format 3"):
        frame.planes()


# -- several memories ----------------------------------------------------------------------------------------


def of_memories(gst: ModuleType, caps: str, parts: list[bytes]) -> tuple[Any, list[int]]:
    """A sample whose buffer has a memory for each part, and the memories' addresses."""
    from lifecycle.integrations.gstreamer._native import memory_of

    buffer = gst.Gst.Buffer.new()
    for part in parts:
        buffer.append_memory(gst.sample_of(part).get_buffer().get_all_memory())
    sample = gst.Gst.Sample.new(buffer, gst.Gst.Caps.from_string(caps), None, None)
    return sample, [memory_of(hash(buffer), index) for index in range(len(parts))]


def locks_of(memory: int) -> int:
    from lifecycle.integrations.gstreamer._native import MiniObject

    return (int(MiniObject.from_address(memory).lockstate) >> 8) & 0xFF


def test_planes_in_memories_of_their_own_are_mapped_where_they_are(
    gst: ModuleType, adapter: Any, manager: SafetyManager
) -> None:
    """As cameras give them. GStreamer's own map of such a buffer copies everything into one memory."""
    caps = video_caps("I420", 8, 4)
    sample, memories = of_memories(gst, caps, [bytes([1]) * 32, bytes([2]) * 8, bytes([3]) * 8])
    with adapter.frame(sample) as frame:
        y, u, v = frame.planes()
        assert (y.shape, u.shape, v.shape) == ((4, 8), (2, 4), (2, 4))
        assert [int(plane.max()) for plane in (y, u, v)] == [1, 2, 3]
        assert [int(plane.min()) for plane in (y, u, v)] == [1, 2, 3]
        assert [locks_of(memory) for memory in memories] == [1, 1, 1], "each is mapped once, where it lies"
        again = frame.planes()
        assert [locks_of(memory) for memory in memories] == [1, 1, 1]
        with adapter.frame(sample) as other:
            assert other.planes()[1].ctypes.data == u.ctypes.data, "shared with other frames"
        with frame.share() as share:
            del again
            assert share.planes()[0].shape == (4, 8)
    assert frame.close() is False
    del u, v
    assert int(y[3, 7]) == 1, "an array outlives its frame"
    del y
    eventually(lambda: [locks_of(memory) for memory in memories] == [0, 0, 0])
    eventually(lambda: manager.stats().active_objects == 0)
    assert manager.stats().leaks == 0


def test_two_planes_in_one_of_several_memories(gst: ModuleType, adapter: Any) -> None:
    caps = video_caps("I420", 8, 4)
    sample, memories = of_memories(gst, caps, [bytes([1]) * 32, bytes([2]) * 8 + bytes([3]) * 8])
    with adapter.frame(sample) as frame:
        planes = frame.planes()
        assert [(int(plane.min()), int(plane.max())) for plane in planes] == [(1, 1), (2, 2), (3, 3)]
        assert [locks_of(memory) for memory in memories] == [1, 1]
        del planes


def test_a_plane_across_two_memories_is_put_together(gst: ModuleType, adapter: Any) -> None:
    caps = video_caps("I420", 8, 4)
    sample, _ = of_memories(gst, caps, [bytes([1]) * 20, bytes([1]) * 12 + bytes([2]) * 8 + bytes([3]) * 8])
    with adapter.frame(sample) as frame:
        planes = frame.planes()
        assert [(int(plane.min()), int(plane.max())) for plane in planes] == [(1, 1), (2, 2), (3, 3)]
        assert bytes(frame.data()) == bytes([1]) * 32 + bytes([2]) * 8 + bytes([3]) * 8
        del planes


def test_planes_of_an_invalidated_or_closed_frame_are_refused(
    gst: ModuleType, adapter: Any, manager: SafetyManager
) -> None:
    from lifecycle.integrations.gstreamer import FrameClosedError

    sample, _ = of_memories(gst, video_caps("I420", 8, 4), [bytes(32), bytes(8), bytes(8)])
    with adapter.frame(sample) as frame:
        kept = frame.planes()
        manager.invalidate(frame.handle, "unplugged")
        with pytest.raises(AccessRefusedError, match="unplugged"):
            frame.planes()
        assert kept[0].shape == (4, 8)
        del kept
    frame = adapter.frame(sample)
    frame.close()
    with pytest.raises(FrameClosedError):
        frame.planes()


def test_a_short_file_among_the_memories_is_found(gst: ModuleType, adapter: Any) -> None:
    from lifecycle.integrations.gstreamer import ShortMemoryError

    buffer = gst.Gst.Buffer.new()
    buffer.append_memory(gst.sample_of(bytes(32)).get_buffer().get_all_memory())
    buffer.append_memory(gst.fd_sample(bytes(4), says=16).get_buffer().get_all_memory())
    sample = gst.Gst.Sample.new(buffer, gst.Gst.Caps.from_string(video_caps("I420", 8, 4)), None, None)
    with adapter.frame(sample) as frame, pytest.raises(ShortMemoryError, match="the file has 4"):
        frame.planes()


# -- copies --------------------------------------------------------------------------------------------------


def test_a_copy_is_ones_own(gst: ModuleType, adapter: Any, manager: SafetyManager) -> None:
    import numpy as np

    sample = next(gst.samples(1, video_caps("RGB")))
    with adapter.frame(sample) as frame:
        copy = frame.copy()
        assert copy.flags.writeable
        assert copy.flags.c_contiguous
        assert copy.flags.owndata
        assert (copy == frame.array()).all()
        out = np.zeros_like(copy)
        assert frame.copy(out=out) is out
        assert (out == copy).all()
    assert frame.close() is True, "a copy holds nothing"
    copy[:] = 1


@pytest.mark.parametrize("out", ["shape", "dtype", "list"])
def test_a_copy_into_what_does_not_fit(gst: ModuleType, adapter: Any, out: str) -> None:
    import numpy as np

    from lifecycle.integrations.gstreamer import FormatError

    target: Any = {"shape": np.zeros((2, 2)), "dtype": np.zeros((7, 321, 3), "u2"), "list": [1]}[out]
    with adapter.frame(next(gst.samples(1, video_caps("RGB")))) as frame:
        with pytest.raises(FormatError, match=r"copy\(out=\) takes an array of shape \(7, 321, 3\)"):
            frame.copy(out=target)
    gc.collect()
    assert frame.close() is True
