"""Pictures in wgpu's textures: shared, in flight, cloned, and out of GStreamer's memory."""

from __future__ import annotations

from typing import Any

import pytest

from lifecycle import AccessRefusedError, SafetyManager
from lifecycle.errors import DuplicateError

pytestmark = pytest.mark.needs("wgpu")


@pytest.fixture
def device() -> Any:
    from lifecycle.integrations.gpu.wgpu import guard
    from tests.gpu.adapters import device as new_device

    return guard(new_device())


def pixels(device: Any, texture: Any) -> Any:
    import numpy as np

    width, height, _ = texture.size
    each = 4 if "8unorm" in texture.format and texture.format != "r8unorm" else 1
    got = device.queue.read_texture(
        {"texture": texture}, {"bytes_per_row": width * each, "rows_per_image": height}, (width, height, 1)
    )
    return np.frombuffer(got, np.uint8).reshape(height, width, *([4] if each == 4 else []))


def test_the_texture_lives_as_long_as_a_share_or_the_device_needs_it(
    device: Any, manager: SafetyManager
) -> None:
    import numpy as np

    from lifecycle.integrations.gpu.wgpu import VideoFrame, timeline

    picture = np.arange(5 * 7 * 4, dtype=np.uint8).reshape(5, 7, 4)
    frame = VideoFrame.upload(device, picture[::-1], manager=manager)
    assert (frame.width, frame.height, frame.format, frame.pts) == (7, 5, "rgba8unorm", None)
    share = frame.data()
    share.expect_holders(shares=2)
    assert frame.close() is False
    with pytest.raises(AccessRefusedError):
        frame.data()
    with share.lease() as texture:
        assert (pixels(device, texture) == picture[::-1]).all()
    with timeline(device, manager=manager).submission() as work:
        work.use(share)
    share.close()
    assert share.close(timeout=20)
    assert share.state == "released"
    assert frame.close() is True


def test_a_clone_keeps_what_it_was_made_of(device: Any, manager: SafetyManager) -> None:
    import wgpu

    from lifecycle.integrations.gpu.wgpu import VideoFrame, own

    frame = VideoFrame.create_texture(device, 4, 4, pts=40, manager=manager)
    drawn = device.create_texture(size=(4, 4, 1), format="r8unorm", usage=wgpu.TextureUsage.COPY_DST)
    clone = frame.clone_with_texture(drawn, manager=manager)
    assert (clone.pts, clone.format) == (40, "r8unorm")
    with pytest.raises(DuplicateError):
        own(drawn, manager=manager)
    assert frame.close() is False  # its texture waits for the clone's
    assert clone.close() is True
    assert frame.handle.close(timeout=20)
    shared = VideoFrame.create_texture(device, 4, 4, pts=80, manager=manager)
    with shared.clone_with_texture(shared.handle) as other:
        assert other.pts == 80
        assert shared.close() is False
    assert shared.handle.state == "released"


def test_what_is_no_picture_is_refused(device: Any, manager: SafetyManager) -> None:
    import numpy as np

    from lifecycle.integrations.gpu.errors import DeviceError, TransferError
    from lifecycle.integrations.gpu.wgpu import GPUMisuseError, VideoFrame
    from tests.gpu.adapters import device as new_device

    class Planar:
        format = "I420"

        def array(self) -> Any:
            raise AssertionError("asked")

    bad: tuple[Any, ...] = (
        None,
        3,
        "x",
        np.zeros((4, 4, 3), "u1"),
        np.zeros((4, 4, 4), "f4"),
        np.zeros((0, 4, 4), "u1"),
        [[1], [2, 3]],
        Planar(),
    )
    for one in bad:
        with pytest.raises(TransferError):
            VideoFrame.upload(device, one, manager=manager)
    for size in ((0, 4), (-1, 4), (4, 1.5), (True, 4)):
        with pytest.raises(TransferError, match="whole number above 0"):
            VideoFrame.create_texture(device, *size, manager=manager)  # type: ignore[arg-type]
    for large in (device.limits["max-texture-dimension-2d"] + 1, 1 << 40):
        with pytest.raises(TransferError, match="this device makes at most"):
            VideoFrame.create_texture(device, 4, large, manager=manager)
    with pytest.raises(DeviceError, match="is not guarded"):
        VideoFrame.create_texture(new_device(), 4, 4, manager=manager)
    with VideoFrame.create_texture(device, 4, 4, manager=manager) as frame:
        with pytest.raises(TransferError, match="does not fit"):
            frame.write(np.zeros((4, 5, 4), "u1"))
        with pytest.raises(TransferError, match="does not fit"):
            frame.write(np.zeros((4, 4), "u1"))
        with pytest.raises(DeviceError):
            frame.clone_with_texture(3, manager=manager)
        buffer = device.create_buffer(size=4, usage=8)
        with pytest.raises(DeviceError, match="takes the handle of a texture"):
            frame.clone_with_texture(buffer, manager=manager)
        buffer.destroy()
        elsewhere = new_device().create_texture(size=(4, 4, 1), format="r8unorm", usage=2)
        with pytest.raises(DeviceError, match="belongs to another device"):
            frame.clone_with_texture(elsewhere, manager=manager)
    device.destroy()
    with pytest.raises(GPUMisuseError):
        VideoFrame.create_texture(device, 4, 4, manager=manager)


@pytest.mark.needs("gstreamer")
@pytest.mark.parametrize(
    ("name", "wanted"), [("RGBA", "rgba8unorm"), ("BGRA", "bgra8unorm"), ("GRAY8", "r8unorm")]
)
def test_a_frame_of_gstreamer_by_one_upload(
    device: Any, manager: SafetyManager, name: str, wanted: str
) -> None:
    import gi

    gi.require_version("Gst", "1.0")
    from gi.repository import Gst

    from lifecycle.integrations.gpu.wgpu import VideoFrame
    from lifecycle.integrations.gstreamer import Capture, PipelineGuard

    Gst.init(None)
    text = (
        f"videotestsrc num-buffers=2 ! video/x-raw,format={name},width=62,height=46 "
        "! appsink name=frames sync=false"
    )
    with PipelineGuard(manager, text) as pipeline, Capture(manager, pipeline["frames"]) as capture:
        pipeline.play(0)
        for frame in capture.frames(timeout=10):
            with VideoFrame.upload(device, frame, manager=manager) as picture, picture.data() as share:
                assert (picture.format, picture.pts) == (wanted, frame.pts)
                with share.lease() as texture:
                    assert (pixels(device, texture) == frame.array()).all()
        del frame
