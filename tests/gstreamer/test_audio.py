"""Sound: frames × channels whichever way the samples lie, and bytes of encoded buffers."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import pytest

from lifecycle import SafetyManager

pytestmark = pytest.mark.needs("gstreamer", "numpy")

DTYPES = {
    "S16LE": "<i2",
    "S16BE": ">i2",
    "S32LE": "<i4",
    "F32LE": "<f4",
    "F64BE": ">f8",
    "U8": "u1",
    "S8": "i1",
    "S24_32LE": "<i4",
    "U16LE": "<u2",
}


def audio_caps(name: str, channels: int = 2, layout: str = "interleaved") -> str:
    mask = ",channel-mask=(bitmask)0x3" if channels == 2 else ""
    return f"audio/x-raw,format={name},rate=48000,channels={channels},layout={layout}{mask}"


@pytest.mark.parametrize("layout", ["interleaved", "non-interleaved"])
@pytest.mark.parametrize("name", DTYPES)
def test_samples_are_frames_times_channels(
    gst: ModuleType, adapter: Any, manager: SafetyManager, name: str, layout: str
) -> None:
    """A sine on the left and half of it on the right, converted by GStreamer's own elements."""
    import numpy as np

    sine = 0.5 * np.sin(2 * math.pi * 480 * np.arange(1000) / 48000)
    pipeline = gst.Gst.parse_launch(
        f'appsrc name=src format=time caps="{audio_caps("F64LE")}" ! audioconvert dithering=none ! '
        f"{audio_caps(name, 2, layout)} ! appsink name=sink sync=false"
    )
    pipeline.set_state(gst.Gst.State.PLAYING)
    data = np.stack([sine, sine / 2], axis=1).astype("<f8").tobytes()
    pipeline.get_by_name("src").emit("push-buffer", gst.Gst.Buffer.new_wrapped(data))
    sample = gst.pull(gst.appsink_of(pipeline))
    gst.shutdown(pipeline)
    with adapter.frame(sample) as frame:
        array = frame.array()
        assert (array.shape, array.dtype) == ((1000, 2), np.dtype(DTYPES[name]))
        assert (frame.format, frame.rate, frame.channels) == (name, 48000, 2)
        assert not array.flags.writeable
        full = {"S24_32LE": 2**23}.get(
            name, 1.0 if array.dtype.kind == "f" else 2.0 ** (array.itemsize * 8 - 1)
        )
        shown = array.astype("f8") - (full if array.dtype.kind == "u" else 0)
        tolerance = 1.01 / full + 1e-6
        assert abs(shown[:, 0] / full - sine).max() < tolerance
        assert abs(shown[:, 1] / full - sine / 2).max() < tolerance
        planes = frame.planes()
        if layout == "interleaved":
            assert [plane.shape for plane in planes] == [(1000, 2)]
        else:
            assert [plane.shape for plane in planes] == [(1000,), (1000,)]
            assert (planes[1] == array[:, 1]).all()
            assert planes[1].ctypes.data == array[:, 1].ctypes.data, "zero-copy"
        copy = frame.copy()
        assert copy.shape == (1000, 2)
        assert copy.flags.c_contiguous
        del array, planes
    assert frame.close() is True


def with_audio_meta(gst: ModuleType, data: bytes, caps: str, samples: int, offsets: list[int] | None) -> Any:
    """PyGObject cannot pass the offsets."""
    import ctypes

    import gi

    gi.require_version("GstAudio", "1.0")
    from gi.repository import GstAudio

    from lifecycle.integrations.gstreamer._native import _audio

    buffer = gst.sample_of(data).get_buffer()
    fixed = gst.Gst.Caps.from_string(caps)
    info = GstAudio.AudioInfo.new_from_caps(fixed)
    add = _audio.gst_buffer_add_audio_meta
    add.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
    add.restype = ctypes.c_void_p
    assert add(
        hash(buffer), hash(info), samples, (ctypes.c_size_t * len(offsets))(*offsets) if offsets else None
    )
    return gst.Gst.Sample.new(buffer, fixed, None, None)


def test_channels_at_unequal_steps_are_planes_only(gst: ModuleType, adapter: Any) -> None:
    import numpy as np

    from lifecycle.integrations.gstreamer import FormatError

    caps = audio_caps("S16LE", 3, "non-interleaved") + ",channel-mask=(bitmask)0x7"
    data = np.arange(40, dtype="<i2")
    sample = with_audio_meta(gst, data.tobytes(), caps, 4, [0, 16, 64])
    with adapter.frame(sample) as frame:
        with pytest.raises(FormatError, match=r"equal steps.*\[0, 16, 64\].*frame\.planes\(\).*audioconvert"):
            frame.array()
        assert [plane.tolist() for plane in frame.planes()] == [
            [0, 1, 2, 3],
            [8, 9, 10, 11],
            [32, 33, 34, 35],
        ]


def test_planar_sound_without_a_meta_is_refused(gst: ModuleType, adapter: Any) -> None:
    from lifecycle.integrations.gstreamer import FormatError

    sample = gst.sample_of(bytes(64), audio_caps("F32LE", 2, "non-interleaved"))
    with adapter.frame(sample) as frame:
        for ask in (frame.array, frame.planes):
            with pytest.raises(FormatError, match=r"no audio meta.*layout=interleaved"):
                ask()
        assert len(frame.data()) == 64


def test_a_meta_that_promises_more_than_there_is(gst: ModuleType, adapter: Any) -> None:
    from lifecycle.integrations.gstreamer import ShortMemoryError
    from lifecycle.integrations.gstreamer._native import audio_meta

    sample = with_audio_meta(gst, bytes(64), audio_caps("S16LE", 2), 16, None)
    meta = audio_meta(hash(sample.get_buffer()))
    assert meta is not None
    meta.samples = 17
    with adapter.frame(sample) as frame, pytest.raises(ShortMemoryError, match=r"64 bytes .* need 68"):
        frame.array()


@pytest.mark.parametrize(
    ("caps", "why"),
    [
        (audio_caps("S24LE"), "24 bits"),
        (audio_caps("S20BE"), "20 bits"),
        (audio_caps("X9"), "does not know"),
        ("audio/x-raw,rate=8000", "does not know"),
    ],
)
def test_samples_that_no_dtype_has(gst: ModuleType, adapter: Any, caps: str, why: str) -> None:
    from lifecycle.integrations.gstreamer import FormatError

    with adapter.frame(gst.sample_of(bytes(64), caps)) as frame:
        for ask in (frame.array, frame.planes):
            with pytest.raises(FormatError, match=rf"{why}.*frame\.data\(\).*audioconvert"):
                ask()
        for ask in (lambda: frame.width, lambda: frame.height):
            with pytest.raises(FormatError, match="audio/x-raw"):
                ask()


def test_a_truncated_and_an_empty_buffer(gst: ModuleType, adapter: Any) -> None:
    from lifecycle.integrations.gstreamer import FormatError

    with adapter.frame(gst.sample_of(bytes(63), audio_caps("S16LE"))) as frame:
        with pytest.raises(FormatError, match="63 bytes are no whole number of frames of 4 bytes"):
            frame.array()
    empty = gst.Gst.Sample.new(
        gst.Gst.Buffer.new(), gst.Gst.Caps.from_string(audio_caps("S16LE")), None, None
    )
    with adapter.frame(empty) as frame:
        assert frame.array().shape == (0, 2)


def test_a_picture_has_no_rate(gst: ModuleType, adapter: Any) -> None:
    from lifecycle.integrations.gstreamer import FormatError

    with adapter.frame(gst.sample_of(bytes(64 * 48 * 3))) as frame:
        for fact in ("rate", "channels"):
            with pytest.raises(FormatError, match="video/x-raw RGB"):
                getattr(frame, fact)
