"""What OpenGL does raw, in a process of its own, beside what becomes of it here: the rows of the table of mistakes
that have no test among their kin.

The others: wrong threads, shared contexts, late deletes, torn slots, fences, mappings, copies, state, messages in
`test_opengl`; dropped and collected objects in `test_moderngl`; Qt's contexts in `test_qt`; wgpu in `test_wgpu`;
tensors in tests/dlpack.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from lifecycle import SafetyManager, Timeline
from lifecycle.errors import QueueLostError, WrongContextError
from tests.support import run_python

if TYPE_CHECKING:
    from lifecycle.integrations.gpu.opengl import Domain
    from tests.gpu.contexts import Context

pytestmark = pytest.mark.needs("gl")

START = """
    import ctypes, faulthandler, gc, mmap, os, sys
    os.environ.setdefault("PYOPENGL_PLATFORM", "egl")
    from OpenGL import GL
    import numpy as np
    from lifecycle import SafetyManager
    from lifecycle.integrations.gpu import _native
    from lifecycle.integrations.gpu.opengl import adopt
    from tests.gpu import contexts, names
    faulthandler.disable()

    def beside_a_guard_page(length):
        "The address of so many bytes, behind which nothing may be read."
        libc = ctypes.CDLL(None)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_ssize_t)
        libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        room = -(-length // 4096) * 4096
        begin = libc.mmap(None, room + 4096, 3, 0x22, -1, 0)
        assert libc.mprotect(begin + room, 4096, 0) == 0
        return begin + room - length

    context = contexts.Context().make_current()
"""


def run(program: str) -> Any:
    return run_python(START + program)


def crashed(program: str) -> None:
    """The program died of reading, or writing, where nothing is."""
    done = run(program)
    assert done.rc in (-11, -7), f"{done.rc}\n{done.stdout}\n{done.stderr}"


# -- memory that the driver reads, or that it takes away -----------------------------------------------------------


def test_an_array_over_a_mapped_buffer_that_was_deleted() -> None:
    crashed(
        """
    name = names.buffer(1 << 26)
    GL.glBindBuffer(GL.GL_ARRAY_BUFFER, name)
    address = _native.function("glMapBufferRange")(GL.GL_ARRAY_BUFFER, 0, 1 << 26, 1)
    array = np.frombuffer((ctypes.c_ubyte * (1 << 26)).from_address(address), np.uint8)
    GL.glDeleteBuffers(1, [name])
    GL.glFinish()
    array.sum()
    """
    )
    said = run(
        """
    domain = adopt()
    buffer = domain.own("buffer", names.buffer(1 << 26))
    mapping = domain.map(buffer, 0, 1 << 26)
    array = np.frombuffer(mapping.view, np.uint8)
    print(buffer.close(), int(array.sum()), GL.glIsBuffer(buffer.native))
    del array
    gc.collect()
    mapping.close()
    print(buffer.state, GL.glIsBuffer(buffer.native))
    """
    ).check()
    assert said.split("\n")[:2] == ["False 0 1", "released 0"]


def test_a_picture_that_is_too_short() -> None:
    crashed(
        """
    GL.glBindTexture(GL.GL_TEXTURE_2D, names.texture(64, 64))
    address = beside_a_guard_page(64 * 63 * 4)                   # a row is missing
    _native.function("glTexSubImage2D")(GL.GL_TEXTURE_2D, 0, 0, 0, 64, 64, GL.GL_RGBA, GL.GL_UNSIGNED_BYTE, address)
    GL.glFinish()
    """
    )
    said = run(
        """
    domain = adopt()
    texture = domain.own("texture", names.texture(64, 64))
    address = beside_a_guard_page(64 * 63 * 4)
    array = np.frombuffer((ctypes.c_ubyte * (64 * 63 * 4)).from_address(address), np.uint8).reshape(63, 64, 4)
    domain.upload(texture, array)                                # exactly so much is read
    # The array says how long it is: what is missing cannot be asked for.
    print(domain.read_back(texture).shape)
    GL.glPixelStorei(GL.GL_UNPACK_ALIGNMENT, 8)
    tight = np.frombuffer((ctypes.c_ubyte * (61 * 63 * 3)).from_address(beside_a_guard_page(61 * 63 * 3)), np.uint8)
    domain.upload(texture, tight.reshape(63, 61, 3))             # a tight RGB picture, under any alignment
    print(GL.glGetIntegerv(GL.GL_UNPACK_ALIGNMENT))
    """
    ).check()
    assert said.split("\n")[:2] == ["(64, 64, 4)", "8"]


def test_a_read_back_into_too_little() -> None:
    crashed(
        """
    GL.glBindTexture(GL.GL_TEXTURE_2D, names.texture(64, 64))
    address = beside_a_guard_page(64 * 63 * 4)
    _native.function("glGetTexImage")(GL.GL_TEXTURE_2D, 0, GL.GL_RGBA, GL.GL_UNSIGNED_BYTE, address)
    """
    )


def test_a_client_array_that_is_gone_before_the_draw(domain: Domain, manager: SafetyManager) -> None:
    from lifecycle import ANY_THREAD

    freed: list[Any] = []
    vertices = manager.register(
        bytearray(64), "vertices", release=lambda _: freed.append(1), release_on=ANY_THREAD
    )
    with domain.submission() as work:
        work.use(vertices)  # glVertexAttribPointer with its address, and the draw
    vertices.close()
    domain.timeline.wait(20)
    domain.drain()
    assert freed == [1]


def test_a_debug_callback_that_was_collected() -> None:
    """Raw it is called though it is gone, which crashes, or runs what has its place by now."""
    said = run(
        """
    domain = adopt()
    heard = []
    domain.debug_callback(heard.append)                          # the handle is dropped at once
    gc.collect()
    for _ in range(100):
        ctypes.CFUNCTYPE(None)(lambda: None)
    _native.function("glEnable")(0x1234)                         # due, and installed until the drain
    print(len(heard))
    domain.drain()
    _native.function("glEnable")(0x1234)
    print(len(heard))
    """
    ).check()
    assert said.split("\n")[:2] == ["1", "1"]


# -- ends ----------------------------------------------------------------------------------------------------------


def test_at_exit_after_the_context(manager: SafetyManager) -> None:
    done = run(
        """
    manager = SafetyManager(name="end")
    domain = adopt(manager=manager)
    kept = [domain.own("texture", names.texture()) for _ in range(5)]
    with domain.submission() as work:
        work.use(kept[0])
    context.destroy()
    other = contexts.Context().make_current()
    stranger = names.texture()
    import atexit
    atexit.register(lambda: print("alive", GL.glIsTexture(stranger)))
    """
    )
    assert done.rc == 0, done.stderr
    assert "alive 1" in done.stdout
    assert "not released at exit" in done.stderr  # said, and not called in the stranger's context


def test_a_forked_child_calls_nothing_native(domain: Domain, manager: SafetyManager) -> None:
    from lifecycle.integrations.gpu import opengl
    from tests.gpu import names

    texture = domain.own("texture", names.texture())
    other = domain.own("texture", names.texture())
    with domain.submission() as work:
        work.use(texture)
    child = os.fork()
    if not child:
        code = 1
        try:
            assert not domain.here()
            assert domain.timeline.in_flight == 0
            for call in (domain.drain, domain.submission, domain.close):
                with pytest.raises((WrongContextError, QueueLostError)):
                    call()
            other.close()
            texture.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert domain.here()
    assert domain.timeline.in_flight == 1 or work.done
    assert opengl.adopt() is domain
    other.close()
    texture.close()


def test_a_context_that_is_lost_inside_a_block(
    domain: Domain, context: Context, manager: SafetyManager
) -> None:
    from tests.gpu import contexts, names

    texture, bystander = domain.own("texture", names.texture()), domain.own("texture", names.texture())
    with domain.submission() as work:
        work.use(texture)
        contexts.release_current()
        assert domain.lost("removed") == 2
        context.make_current()
    assert domain.timeline.poll() == 0
    assert work.done
    assert (texture.state, bystander.state) == ("orphaned", "orphaned")
    assert domain.timeline.in_flight == 0
    with pytest.raises(QueueLostError):
        domain.submission()


def test_a_worker_that_ends_with_its_context_current(manager: SafetyManager) -> None:
    """EGL keeps such a context on a thread that is gone. What waits for it is named."""
    from lifecycle.integrations.gpu.opengl import adopt
    from tests.gpu import contexts, names

    box: list[Any] = []

    def work() -> None:
        box.append(contexts.Context().make_current())
        domain = adopt(name="worker", manager=manager)
        box.extend((domain, domain.own("texture", names.texture())))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    context, domain, texture = box
    assert texture.close() is False
    assert texture.state == "due"
    assert "worker.shared" in str(manager.stats().queues)
    with pytest.raises(WrongContextError):
        domain.drain()
    assert domain.lost("its thread has ended with it") == 1
    assert texture.state == "orphaned"


# -- bad input -----------------------------------------------------------------------------------------------------


def test_without_a_driver_the_line_that_installs_it_is_named() -> None:
    run_python(
        """
        from lifecycle.integrations.gpu import _native, offscreen
        from lifecycle.integrations.gpu.errors import GLError
        _native._NAMES = ("libNoOpenGL.so.0",)
        try:
            _native.function("glFlush")
        except GLError as error:
            assert "apt-get" in str(error) and "libgl1-mesa-dri" in str(error), error
        else:
            raise AssertionError("found")

        import os
        os.environ["__EGL_VENDOR_LIBRARY_DIRS"] = "/absent"
        try:
            offscreen.offscreen().__enter__()
        except GLError as error:
            assert "a driver of Mesa is needed" in str(error) and "libgl1-mesa-dri" in str(error), error
        else:
            raise AssertionError("found a vendor")
        """
    ).check()


def test_messages_need_debug_output(domain: Domain, monkeypatch: pytest.MonkeyPatch) -> None:
    from lifecycle.integrations.gpu.opengl import GLError

    monkeypatch.setattr(domain.facts, "version", (3, 3))
    monkeypatch.setattr(domain.facts, "extensions", frozenset())
    for call in (lambda: domain.debug_callback(print), domain.debug_log):
        with pytest.raises(GLError, match=r"has no debug output \(OpenGL 4.3 or KHR_debug\)"):
            call()
    with pytest.raises(GLError, match="a ring needs persistent mappings"):
        domain.ring(64)


@pytest.mark.parametrize("bad", [None, 3, "texture", object()])
def test_what_is_no_handle_is_refused_in_a_submission(domain: Domain, bad: Any) -> None:
    from lifecycle import LifecycleError

    with domain.submission() as work:
        with pytest.raises(LifecycleError, match=r"use\(\) takes a Handle"):
            work.use(bad)
    assert domain.timeline.wait(20)


def test_a_timeline_is_no_context(domain: Domain, manager: SafetyManager) -> None:
    """An object of another device's library is held, and its name is that library's business."""
    other = Timeline("other")
    with pytest.raises(Exception, match="cannot make fences"):
        other.submission()
    handle = manager.register(object(), "wgpu.Buffer", release=lambda _: None)
    with domain.submission() as work:
        assert work.use(handle) is not None
    assert handle.close(timeout=20)
