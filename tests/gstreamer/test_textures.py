"""Frames in OpenGL's memory: what they are told by name, their download, and textures that are closed
anywhere."""

from __future__ import annotations

import textwrap
from typing import Any

import pytest

from tests.support import drawing_environment, run_python

pytestmark = pytest.mark.needs("gstreamer", "numpy")

PRELUDE = """
import gc, threading
import gi
gi.require_version("GstGL", "1.0")
from gi.repository import GstGL
from lifecycle import *
from lifecycle.integrations.gstreamer import *
from lifecycle.integrations.gstreamer.frames.gl import FrameTexture
from tests.gstreamer.program import *
from tests.support import *
manager = SafetyManager(name="textures")
adapter = SampleAdapter(manager)

# One for all: as a display goes, GStreamer ends EGL for whoever else has it.
display = GstGL.GLDisplay.new()
shared = Gst.Context.new("gst.gl.GLDisplay", True)
GstGL.context_set_gl_display(shared, display)

def on_gpu(format="RGBA", frames=-1):
    launched = Gst.parse_launch(
        f"videotestsrc pattern=red num-buffers={frames} ! video/x-raw,format={format},width=320,height=240"
        " ! glupload name=upload"
        f" ! video/x-raw(memory:GLMemory),format={format} ! appsink name=sink sync=false max-buffers=2"
    )
    launched.set_context(shared)
    launched.set_state(Gst.State.PLAYING)
    return launched, appsink_of(launched)
"""


def on_gl(code: str) -> None:
    """Run `code` where GStreamer has OpenGL: it must get to its end, with nothing on stderr."""
    code = PRELUDE + textwrap.dedent(code) + "\nassert manager.close().ok\nprint('done')\n"
    done = run_python(code, env=drawing_environment(), timeout=60)
    assert done.check().endswith("done\n")
    assert not done.stderr, done.stderr


@pytest.mark.needs("gst-gl")
def test_a_picture_on_the_gpu_is_downloaded_by_name_alone() -> None:
    on_gl(
        """
        for format in ("RGBA", "NV12"):
            pipeline, sink = on_gpu(format)
            with adapter.frame(pull(sink)) as frame:
                assert frame.memory == "GLMemory" and frame.memories[0].kind.startswith("GLMemory")
                try:
                    frame.array()
                except FormatError as error:
                    assert "frame.download()" in str(error)
                else:
                    raise AssertionError("an array of a texture")
                with frame.download() as mine:
                    assert (mine.memory, mine.format, mine.pts) == ("system", format, frame.pts)
                    if format == "RGBA":
                        assert mine.array()[7, 9].tolist() == [255, 0, 0, 255]
                        kept = mine.array()
                    else:
                        luma, chroma = mine.planes()
                        assert (luma[0, 0], chroma[0, 0].tolist()) == (81, [90, 240])
                        del luma, chroma
            assert frame.close() is True, "nothing of it is mapped any more"
            shutdown(pipeline)
        assert kept[7, 9].tolist() == [255, 0, 0, 255]
        del kept
        """
    )


@pytest.mark.needs("gst-gl")
def test_a_texture_is_closed_anywhere() -> None:
    on_gl(
        """
        pipeline, sink = on_gpu()
        frame = adapter.frame(pull(sink))
        with frame.texture() as texture:
            assert texture.name > 0 and texture.target == "2D"
            assert (texture.width, texture.height, texture.internal_format) == (320, 240, 0x1908)
            assert frame.close() is False, "the texture keeps it"
            with texture.handle.lease() as name:
                assert name == texture.name
        assert texture.closed and frame.close() is True

        kept = adapter.frame(pull(sink))
        texture, other = kept.texture(), kept.texture()
        kept.close()
        shutdown(pipeline)
        del pipeline, sink
        gc.collect()
        thread = threading.Thread(target=texture.close)
        thread.start()
        thread.join()
        assert kept.close() is False
        other.close()
        assert kept.close() is True

        # Behind a fence, and in nobody's hands: it stays until the GPU has read it.
        pipeline, sink = on_gpu()
        class Fence:
            done = False
            def signalled(self):
                return self.done
        fence = Fence()
        frame = adapter.frame(pull(sink))
        texture = frame.texture()
        assert texture.close(after=fence) is False and texture.closed
        assert frame.close() is False
        fence.done = True
        eventually(frame.close)
        shutdown(pipeline)
        """
    )


@pytest.mark.needs("gst-gl")
def test_a_texture_is_used_in_a_context_that_shares() -> None:
    on_gl(
        """
        import ctypes
        pipeline, sink = on_gpu()
        sample = pull(sink)
        theirs = pipeline.get_by_name("upload").get_property("context")
        mine = GstGL.GLContext.new(theirs.get_display())
        assert mine.create(theirs)
        stranger = GstGL.GLContext.new(theirs.get_display())
        assert stranger.create(None)
        seen = []
        with adapter.frame(sample) as frame:
            del sample
            with frame.texture(mine) as texture:
                def read(context, *_):
                    call = ctypes.CFUNCTYPE(None, ctypes.c_uint, ctypes.c_uint)
                    raw = lambda name: GstGL.GLContext.get_proc_address(context, name)
                    pixels = (ctypes.c_ubyte * (320 * 240 * 4))()
                    frames = (ctypes.c_uint * 1)()
                    ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p)(raw("glGenFramebuffers"))(1, frames)
                    call(raw("glBindFramebuffer"))(0x8D40, frames[0])
                    ctypes.CFUNCTYPE(None, *[ctypes.c_uint] * 4, ctypes.c_int)(raw("glFramebufferTexture2D"))(
                        0x8D40, 0x8CE0, 0x0DE1, texture.name, 0)
                    ctypes.CFUNCTYPE(None, *[ctypes.c_int] * 4, *[ctypes.c_uint] * 2, ctypes.c_void_p)(
                        raw("glReadPixels"))(0, 0, 320, 240, 0x1908, 0x1401, pixels)
                    seen.append(bytes(pixels[:4]))
                mine.thread_add(read)
            for wrong, kind in ((stranger, MapError), ("no context", FormatError), (sink, FormatError)):
                try:
                    frame.texture(wrong)
                except kind as error:
                    assert "context" in str(error).lower()
                else:
                    raise AssertionError(wrong)
            for plane in (1, -1, True, None):
                try:
                    frame.texture(plane=plane)
                except FormatError as error:
                    assert "1 texture" in str(error)
                else:
                    raise AssertionError(plane)
        assert seen == [bytes((255, 0, 0, 255))], seen
        shutdown(pipeline)
        """
    )


def test_a_picture_in_system_memory_has_no_texture(gst: Any, adapter: Any) -> None:
    from lifecycle.integrations.gstreamer import FormatError, FrameClosedError

    with adapter.frame(gst.sample_of(bytes(64 * 48 * 3))) as frame:
        with pytest.raises(FormatError, match="glupload"):
            frame.texture()
        with frame.download() as mine:
            assert mine.array().shape == (48, 64, 3)
            assert mine.array().ctypes.data != frame.array().ctypes.data
    for ask in (frame.texture, frame.download):
        with pytest.raises(FrameClosedError):
            ask()


def test_a_download_says_what_the_frame_said(gst: Any, adapter: Any) -> None:
    """Odd widths with their padding, a truncated buffer, a buffer of no bytes, and every time."""
    Gst = gst.Gst
    caps = "video/x-raw,format=RGB,width=3,height=2,framerate=30/1"
    buffer = Gst.Buffer.new_allocate(None, 24, None)
    buffer.fill(0, bytes(range(24)))
    buffer.pts, buffer.dts, buffer.duration, buffer.offset = 1, 2, 3, 4
    buffer.set_flags(Gst.BufferFlags.DISCONT | Gst.BufferFlags.TAG_MEMORY)
    segment = Gst.Segment.new()
    segment.init(Gst.Format.TIME)
    segment.base = 100
    with adapter.frame(Gst.Sample.new(buffer, Gst.Caps.from_string(caps), segment, None)) as frame:
        mine = frame.download()
        assert (mine.array() == frame.array()).all()
    with mine:
        assert (mine.pts, mine.dts, mine.duration, mine.offset, mine.running_time) == (1, 2, 3, 4, 101)
        assert mine.flags == {"discont"}
    for size in (0, 7):
        with adapter.frame(gst.sample_of(bytes(size), caps)) as frame, frame.download() as mine:
            assert bytes(mine.data())[:size] == bytes(size)
