"""OpenGL, on a real driver: each mistake of the table is made, and what became of it is asked of OpenGL."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from lifecycle import ANY_THREAD, AccessRefusedError, HeldError, SafetyManager
from lifecycle.errors import DuplicateError, FenceError, PoolTimeoutError, QueueLostError, WrongContextError
from lifecycle.testing import each_interrupt, every_line
from lifecycle.testing.where import code_of
from tests.core.adversary import STORM
from tests.support import eventually, run_python

if TYPE_CHECKING:
    from lifecycle.integrations.gpu.opengl import Domain
    from tests.gpu.contexts import Context

SLOW = pytest.mark.skipif(STORM < 10, reason="minutes on a software renderer: LIFECYCLE_STORM=10 runs it")

pytestmark = pytest.mark.needs("gl")

MAKERS = (
    "texture",
    "buffer",
    "vertex_array",
    "framebuffer",
    "renderbuffer",
    "sampler",
    "program",
    "shader",
    "query",
)


def make(kind: str) -> int:
    from OpenGL import GL

    from tests.gpu import names

    if kind in ("texture", "vertex_array", "framebuffer"):
        return int(getattr(names, kind)())
    if kind == "buffer":
        return names.buffer(64)
    if kind == "program":
        return int(GL.glCreateProgram())
    if kind == "shader":
        return int(GL.glCreateShader(GL.GL_VERTEX_SHADER))
    if kind == "renderbuffer":
        name = int(GL.glGenRenderbuffers(1))
        GL.glBindRenderbuffer(GL.GL_RENDERBUFFER, name)
        GL.glBindRenderbuffer(GL.GL_RENDERBUFFER, 0)
        return name
    if kind == "sampler":
        return int(GL.glGenSamplers(1))
    name = int(GL.glGenQueries(1)[0]) if hasattr(GL.glGenQueries(1), "__len__") else int(GL.glGenQueries(1))
    GL.glBeginQuery(GL.GL_SAMPLES_PASSED, name)
    GL.glEndQuery(GL.GL_SAMPLES_PASSED)
    return name


def on_a_thread(action: Callable[[], Any]) -> Any:
    """What `action` returned or raised on a thread of its own, where no context is current."""
    box: list[Any] = []

    def run() -> None:
        try:
            box.append(action())
        except Exception as error:
            box.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return box[0]


# -- owning, and the right place -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MAKERS)
def test_every_kind_is_deleted_once_and_where_it_is_valid(domain: Domain, kind: str) -> None:
    from lifecycle.integrations.gpu._native import function
    from lifecycle.integrations.gpu.opengl.names import KINDS

    asks = function(KINDS[kind].asks)
    name = make(kind)
    handle = domain.own(kind, name, size=64)
    assert (asks(name), handle.native, handle.type_name) == (1, name, f"gl.{kind}")
    assert on_a_thread(handle.close) is False  # no context is current there: nothing is called
    assert (asks(name), handle.state) == (1, "due")
    assert domain.drain() == 1
    assert (asks(name), handle.state) == (0, "released")
    here = domain.own(kind, make(kind))
    assert here.close() is True


def test_dropped_by_the_collector_on_any_thread_it_is_deleted_by_the_next_drain(domain: Domain) -> None:
    from tests.gpu import names

    before = names.living()["texture"]
    made = [domain.own("texture", names.texture()) for _ in range(50)]
    assert names.living()["texture"] == before + 50

    def drop() -> None:
        while made:
            circle: list[Any] = [made.pop()]
            circle.append(circle)
        gc.collect()

    on_a_thread(drop)
    assert names.living()["texture"] == before + 50
    gc.collect()
    eventually(lambda: domain.shared_queue.backlog == 50)
    assert domain.drain() == 50
    assert names.living()["texture"] == before


def test_a_name_has_one_owner_and_must_name_something(domain: Domain) -> None:
    from lifecycle.integrations.gpu import opengl
    from tests.gpu import names

    name = names.texture()
    handle = domain.own("texture", name)
    with pytest.raises(DuplicateError):
        domain.own("texture", name)
    buffer = names.buffer(16)
    # Kinds are numbered apart: the same number may name a texture and a buffer.
    other = domain.own("buffer", buffer)
    for wrong in (0, -1, 1 << 32, 399, True, "3", 2.5, None):
        with pytest.raises(opengl.GLError, match=r"names no texture|named by a whole number"):
            domain.own("texture", wrong)  # type: ignore[arg-type]
    with pytest.raises(opengl.GLError, match="is no kind of OpenGL object; the kinds are texture, buffer"):
        domain.own("textures", name)
    assert handle.close()
    assert other.close()


def test_owned_and_borrowed_are_told_apart_by_shares(domain: Domain) -> None:
    from OpenGL import GL

    from tests.gpu import names

    name = names.texture()
    owner = domain.own("texture", name)
    frame = owner.share()
    owner.expect_holders(shares=2)  # exactly two outstanding references while the frame is live
    assert owner.close() is False
    assert GL.glIsTexture(name)
    with frame.lease() as same:
        assert same == name
    with pytest.raises(HeldError, match=r"0 other handles where .* 1 share were expected"):
        frame.expect_holders(shares=2)
    assert frame.close() is True
    assert not GL.glIsTexture(name)
    assert owner.close() is True
    with pytest.raises(AccessRefusedError, match=r"closed|released"):
        owner.lease()


def test_in_a_shared_context_the_texture_goes_and_the_vertex_array_waits(
    domain: Domain, context: Context, manager: SafetyManager
) -> None:
    from OpenGL import GL

    from lifecycle.integrations.gpu.opengl import adopt
    from tests.gpu import contexts, names

    other = contexts.Context(context)
    other.make_current()
    second = adopt(name="second", manager=manager)
    assert second is not domain
    assert second.shared_queue is domain.shared_queue
    context.make_current()
    texture, array = domain.own("texture", names.texture()), domain.own("vertex_array", names.vertex_array())
    other.make_current()
    strangers = [names.vertex_array() for _ in range(5)]
    assert array.native in strangers  # the same number, another object
    assert texture.close() is True
    assert array.close() is False
    second.drain()
    assert all(GL.glIsVertexArray(name) for name in strangers)
    with pytest.raises(WrongContextError, match="is not current on this thread"):
        domain.drain()
    GL.glDeleteVertexArrays(len(strangers), strangers)
    second.close()
    context.make_current()
    assert domain.drain() == 1
    assert not GL.glIsVertexArray(array.native)
    other.destroy()
    context.make_current()


def test_late_releases_of_old_names_never_hit_new_objects(manager: SafetyManager) -> None:
    from OpenGL import GL

    from lifecycle.integrations.gpu.opengl import adopt
    from tests.gpu import contexts, names

    with contexts.current():
        old = adopt(name="old", manager=manager)
        handles = [old.own("texture", names.texture()) for _ in range(5)]
        kept = handles[0].share()
    # Nobody has told that the context is gone: the world itself says so.
    with contexts.current():
        new = adopt(name="new", manager=manager)
        assert new is not old
        fresh = [names.texture() for _ in range(5)]
        assert set(fresh) & {handle.native for handle in handles}
        for handle in handles:
            handle.close()
        kept.close()
        new.drain()
        with pytest.raises(WrongContextError):
            old.drain()
        assert all(GL.glIsTexture(name) for name in fresh)
        assert old.lost("its context was destroyed") == 5
        assert {handle.state for handle in handles} == {"orphaned"}
        assert all(GL.glIsTexture(name) for name in fresh)
        with pytest.raises(QueueLostError, match="adopt the context that took its place"):
            old.own("texture", fresh[0])
        for name in fresh:
            new.own("texture", name).close()
        new.close()


def test_contexts_made_in_turn_are_told_apart(manager: SafetyManager) -> None:
    from lifecycle.integrations.gpu.opengl import adopt
    from tests.gpu import contexts

    pointers, domains = set(), []
    for number in range(20):
        with contexts.current() as context:
            pointers.add(context.pointer)
            domains.append(adopt(name=f"world {number}", manager=manager))
            assert [domain.here() for domain in domains] == [False] * number + [True]
            assert adopt() is domains[-1]
    assert len(set(map(id, domains))) == 20
    for domain in domains:
        domain.lost("destroyed")


@pytest.mark.parametrize(
    ("options", "what"),
    [({"version": (3, 3)}, "3.3"), ({"profile": 2}, "compatibility"), ({"version": (3, 2)}, "3.2")],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_versions_and_profiles(manager: SafetyManager, options: dict[str, Any], what: str) -> None:
    import numpy as np

    from lifecycle.integrations.gpu.opengl import adopt
    from tests.gpu import contexts, names

    with contexts.current(**options):
        domain = adopt(manager=manager)
        assert domain.here()
        texture = domain.own("texture", make_plain_texture(6, 5))
        picture = np.arange(6 * 5 * 4, dtype="u1").reshape(5, 6, 4)
        with domain.state_guard() as guard:
            domain.upload(texture, picture)
            assert (domain.read_back(texture) == picture).all()
        assert (guard.errors_inside, guard.not_restored) == ((), "")
        buffer = domain.own("buffer", names.buffer(64))
        with domain.map(buffer, 0, 64, "write") as mapping:
            mapping.view[:3] = b"abc"
        with domain.map(buffer, 0, 3) as mapping:
            assert bytes(mapping.view) == b"abc"
        with domain.submission() as work:
            work.use(texture)
        texture.close()
        buffer.close()
        domain.timeline.wait(20)
        domain.drain()
        assert domain.close() == 0


def make_plain_texture(width: int, height: int) -> int:
    """Without the storage of 4.2."""
    from OpenGL import GL

    name = int(GL.glGenTextures(1))
    GL.glBindTexture(GL.GL_TEXTURE_2D, name)
    GL.glTexImage2D(GL.GL_TEXTURE_2D, 0, GL.GL_RGBA8, width, height, 0, GL.GL_RGBA, GL.GL_UNSIGNED_BYTE, None)
    GL.glTexParameteri(GL.GL_TEXTURE_2D, GL.GL_TEXTURE_MAX_LEVEL, 0)
    GL.glBindTexture(GL.GL_TEXTURE_2D, 0)
    return name


@pytest.mark.parametrize("kind", ["share", "context"])
def test_without_labels_worlds_are_told_apart_as_well(context: Context, kind: str) -> None:
    from lifecycle.integrations.gpu.opengl import worlds
    from tests.gpu import contexts

    facts = worlds.Facts()
    make_world = worlds.share_world if kind == "share" else worlds.context_world
    world = make_world(facts.current, facts.pointer, False)
    assert world.here()
    other = contexts.Context().make_current()
    make_world(facts.current, other.pointer or 0, False)
    assert not world.here()
    contexts.release_current()
    assert not world.here()
    assert on_a_thread(world.here) is False
    context.make_current()
    assert world.here()
    other.destroy()
    context.make_current()


def test_no_context_and_unsuited_ones_are_refused(manager: SafetyManager) -> None:
    from lifecycle.integrations.gpu import opengl
    from tests.gpu import contexts

    contexts.release_current()
    with pytest.raises(opengl.GLError, match="no OpenGL context is current on this thread"):
        opengl.adopt(manager=manager)
    with contexts.current(es=True, version=(3, 0)):
        with pytest.raises(opengl.GLError, match="OpenGL ES is not supported"):
            opengl.adopt(manager=manager)
    contexts.release_current()
    with contexts.current():
        with pytest.raises(FenceError, match="takes 'gl' or 'egl', not 'none'"):
            opengl.adopt(manager=manager, fences="none")
        with pytest.raises(opengl.GLError, match="does not tell of its end"):
            opengl.adopt(object(), manager=manager)
        opengl.adopt(manager=manager).lost("the test is over")


def test_a_pyopengl_for_another_window_system_is_told_at_once() -> None:
    said = run_python(
        """
        import OpenGL.GL
        from lifecycle.integrations.gpu.offscreen import offscreen
        from lifecycle.integrations.gpu.opengl import GLError, adopt
        with offscreen():
            try:
                adopt()
            except GLError as error:
                print(error)
        """,
        env={"PYOPENGL_PLATFORM": "glx"},
    ).check()
    assert "GLXPlatform" in said
    assert "set PYOPENGL_PLATFORM=egl" in said


# -- what the device has -------------------------------------------------------------------------------------


def test_a_texture_in_flight_is_deleted_after_its_fence(domain: Domain) -> None:
    from OpenGL import GL

    from tests.gpu import names

    texture = domain.own("texture", names.texture())
    with domain.submission() as work:
        name = work.use(texture)
        GL.glBindTexture(GL.GL_TEXTURE_2D, name)
        GL.glBindTexture(GL.GL_TEXTURE_2D, 0)
    assert texture.close() is False
    assert [holder.kind for holder in texture.holders()] == ["submission"]
    assert GL.glIsTexture(name)
    # The waiting itself asks the fence, on the thread whose fence it is.
    assert texture.close(timeout=20) is True
    assert not GL.glIsTexture(name)
    assert domain.stats.signalled == 1


def test_a_frame_asks_twice_which_world_is_current_whatever_it_draws_and_deletes(domain: Domain) -> None:
    """At the begin of its submission and by its drain, which polls and empties both queues."""
    asked: list[str] = []
    for world in (domain._world, domain._share.world):
        known, what = world._is, repr(world)

        def ask(name: int, known: Any = known, what: str = what) -> Any:
            asked.append(what)
            return known(name)

        world._is = ask
    textures = [domain.own("texture", make("texture")) for _ in range(3)]
    array = domain.own("vertex_array", make("vertex_array"))
    for handle in (*textures, array):
        on_a_thread(handle.close)
    left = domain.own("texture", make("texture"))
    asked.clear()
    with domain.submission() as work:
        work.use(left)
    assert domain.drain() == 4
    assert asked == [repr(domain._world)] * 2
    eventually(lambda: domain.drain() == 0 and domain.timeline.in_flight == 0)
    asked.clear()
    assert domain.timeline.poll() == 0
    assert not asked, "nothing is in flight, so nothing is to be asked"
    left.close()


def test_a_frame_of_another_library_is_held_too(domain: Domain, manager: SafetyManager) -> None:
    given_back: list[str] = []
    frame = manager.register("frame", "camera.frame", release=given_back.append, release_on=ANY_THREAD)
    with domain.submission() as work:
        work.use(frame)
    frame.close()
    assert given_back == []
    assert domain.timeline.wait(20)
    assert given_back == ["frame"]


def test_a_fence_is_made_in_its_own_context_alone(
    domain: Domain, context: Context, manager: SafetyManager
) -> None:
    from tests.gpu import contexts, names

    texture = domain.own("texture", names.texture())
    other = contexts.Context()
    with domain.submission() as work:
        work.use(texture)
        other.make_current()
    texture.close()
    assert domain.timeline.poll() == 0
    assert "without a fence yet: WrongContextError" in texture.holders()[0].what
    with pytest.raises(WrongContextError):
        domain.submission()
    context.make_current()
    eventually(lambda: domain.drain() or texture.state == "released")
    other.destroy()
    context.make_current()


def test_objects_of_another_world_are_refused(
    domain: Domain, context: Context, manager: SafetyManager
) -> None:
    from lifecycle.integrations.gpu.opengl import adopt
    from tests.gpu import contexts, names

    with contexts.current():
        other = adopt(name="other", manager=manager)
        foreign = other.own("texture", names.texture())
        context.make_current()
        with domain.submission() as work:
            with pytest.raises(WrongContextError, match=r"belongs to 'other.shared' and cannot be used here"):
                work.use(foreign)
        other.lost("destroyed")
    context.make_current()
    domain.timeline.wait(20)


def test_a_lost_context_orphans_what_is_in_flight(manager: SafetyManager) -> None:
    from lifecycle.integrations.gpu.opengl import adopt
    from tests.gpu import contexts, names

    given_back: list[int] = []
    frame = manager.register(1, "camera.frame", release=given_back.append, release_on=ANY_THREAD)
    with contexts.current():
        domain = adopt(manager=manager)
        texture = domain.own("texture", names.texture())
        with domain.submission() as work:
            work.use(texture)
            work.use(frame)
    assert domain.timeline.poll() == 0  # no context: nothing is asked
    assert domain.lost("the device was reset") == 3 - 1
    assert (texture.state, frame.state, given_back) == ("orphaned", "orphaned", [])
    assert domain.lost("again") == 0
    assert repr(domain) == "<Domain 'gl': lost (the device was reset)>"


def test_egl_fences_give_back_what_was_used_though_nothing_is_drawn(
    context: Context, manager: SafetyManager
) -> None:
    from OpenGL import GL

    from lifecycle.integrations.gpu.opengl import adopt
    from tests.gpu import contexts, names

    domain = adopt(manager=manager, fences="egl")
    texture = domain.own("texture", names.texture())
    with domain.submission() as work:
        name = work.use(texture)
    contexts.release_current()
    texture.close()
    # The pin is dropped by a thread without a context; the deletion waits for the owner.
    eventually(lambda: domain.timeline.in_flight == 0)
    assert texture.state == "due"
    context.make_current()
    assert GL.glIsTexture(name)
    assert domain.drain() == 1
    assert not GL.glIsTexture(name)
    domain.close()


@pytest.mark.parametrize("kind", ["gl", "egl"])
def test_fences_by_themselves(context: Context, manager: SafetyManager, kind: str) -> None:
    from lifecycle.integrations.gpu.opengl import EGLFence, GLError, adopt
    from tests.gpu import contexts

    domain = adopt(manager=manager, fences=kind)
    fence = domain.fence()
    eventually(lambda: fence.signalled() is True)
    assert fence.wait(1.0) is True
    said = on_a_thread(fence.signalled)
    assert said is (True if kind == "egl" else 0)  # a GL sync on a wrong thread: none of its four answers
    if not isinstance(fence, EGLFence):
        assert on_a_thread(fence.may_poll) is False
    fence.delete()
    fence.delete()
    with pytest.raises(GLError, match="this fence was deleted"):
        fence.signalled()
    contexts.release_current()
    with pytest.raises(WrongContextError):
        domain.fence()
    if kind == "egl":
        with pytest.raises(GLError, match="no EGL context is current"):
            EGLFence()
    context.make_current()
    domain.close()


def test_close_waits_for_the_device_and_refuses_while_memory_is_mapped(domain: Domain) -> None:
    from tests.gpu import names

    texture = domain.own("texture", names.texture())
    kept = domain.own("texture", names.texture())
    with domain.submission() as work:
        work.use(texture)
    texture.close()
    buffer = domain.own("buffer", names.buffer(64))
    mapping = domain.map(buffer, 0, 64)
    view = mapping.view
    with pytest.raises(HeldError, match=r"memory of it is still mapped \(object \d+ \(gl.mapping\)"):
        domain.close()
    assert texture.state == "released"
    del view
    mapping.close()
    assert domain.close() == 2  # the buffer and `kept`, which go with the context
    assert (kept.state, domain.close()) == ("orphaned", 0)


# -- mappings and rings --------------------------------------------------------------------------------------


def test_an_array_over_a_mapping_keeps_it(domain: Domain) -> None:
    import numpy as np

    from tests.gpu import names

    buffer = domain.own("buffer", names.buffer(4096))
    with domain.map(buffer, 0, 4096, "write") as mapping:
        mapping.view[:4] = b"abcd"
    mapping = domain.map(buffer, 0, 4096)
    array = np.frombuffer(mapping.view, np.uint8)
    assert mapping.view.readonly
    with pytest.raises(HeldError, match="held by view made at"):
        mapping.close()
    assert buffer.close() is False
    assert bytes(array[:4]) == b"abcd"  # buffer and mapping wait for it
    del array
    gc.collect()
    assert mapping.close() is True
    assert buffer.state == "released"


def test_an_exception_in_the_block_defers_the_unmapping(domain: Domain) -> None:
    from tests.gpu import names

    buffer = domain.own("buffer", names.buffer(64))
    with pytest.raises(ZeroDivisionError) as raised:
        with domain.map(buffer, 0, 64) as mapping:
            part = mapping.view[:4]
            raise ZeroDivisionError
    assert mapping.handle.state == "closing"
    del part
    del raised
    gc.collect()
    domain.drain()
    assert mapping.handle.state == "released"
    assert buffer.close()


def test_bad_ranges_and_places_are_refused_before_the_call(domain: Domain) -> None:
    from lifecycle.integrations.gpu.opengl import GLError, TransferError
    from tests.gpu import names

    buffer = domain.own("buffer", names.buffer(64))
    for offset, nbytes in (
        (0, 65),
        (64, 1),
        (-1, 4),
        (0, 0),
        (0, -4),
        (60, 5),
        (1.5, 4),
        (True, 4),
        (0, None),
    ):
        with pytest.raises(TransferError, match=r"not within the 64 bytes|takes a whole number"):
            domain.map(buffer, offset, nbytes)  # type: ignore[arg-type]
    with pytest.raises(TransferError, match="takes one of 'read', 'write', 'read_write', not 'r'"):
        domain.map(buffer, 0, 64, "r")
    assert isinstance(on_a_thread(lambda: domain.map(buffer, 0, 64)), WrongContextError)
    mapping = domain.map(buffer, 0, 64)
    with pytest.raises(GLError, match="is mapped already"):
        domain.map(buffer, 0, 8)
    assert on_a_thread(mapping.close) is False  # posted
    assert domain.drain() == 1
    with pytest.raises(AccessRefusedError):
        mapping.view
    for slot_bytes, slots in ((0, 3), (16, 0), (1.5, 2), (16, True)):
        with pytest.raises(TransferError, match="takes a whole number above 0"):
            domain.ring(slot_bytes, slots)  # type: ignore[arg-type]
    buffer.close()


SIDE = 512


def torn(domain: Domain, guarded: bool) -> bool:
    """Whether the device read a slot that the host overwrote while a draw still read it."""
    import numpy as np
    from OpenGL import GL

    from tests.gpu import names

    texture = domain.own("texture", names.texture(SIDE, SIDE))
    framebuffer = domain.own("framebuffer", names.framebuffer())
    array = domain.own("vertex_array", names.vertex_array())
    ring = domain.ring(SIDE * SIDE * 4, 1)
    program = late_reader()
    GL.glBindFramebuffer(GL.GL_FRAMEBUFFER, framebuffer.native)
    GL.glFramebufferTexture2D(GL.GL_FRAMEBUFFER, GL.GL_COLOR_ATTACHMENT0, GL.GL_TEXTURE_2D, texture.native, 0)
    GL.glViewport(0, 0, SIDE, SIDE)
    GL.glBindVertexArray(array.native)
    try:
        slot = ring.acquire()
        np.frombuffer(ring.view(slot), np.uint8)[:] = 1
        with domain.submission() as work:
            GL.glBindBufferRange(
                GL.GL_SHADER_STORAGE_BUFFER, 0, ring.name, ring.offset(slot), SIDE * SIDE * 4
            )
            GL.glDrawArrays(GL.GL_TRIANGLES, 0, 3)
            if guarded:
                work.use(slot)
        slot.close()
        GL.glFlush()
        again = ring.acquire(timeout=60)
        np.frombuffer(ring.view(again), np.uint8)[:] = 2
        again.close()
        GL.glFinish()
        return bool((domain.read_back(texture) != 1).any())
    finally:
        GL.glBindBufferBase(GL.GL_SHADER_STORAGE_BUFFER, 0, 0)
        GL.glBindVertexArray(0)
        GL.glUseProgram(0)
        GL.glDeleteProgram(program)
        GL.glBindFramebuffer(GL.GL_FRAMEBUFFER, 0)
        domain.timeline.wait(60)
        for handle in (array, framebuffer, texture):
            handle.close()
        gc.collect()
        ring.close()
        domain.drain()


def late_reader() -> int:
    """A program that works for a while before it reads the buffer; it is in use."""
    from OpenGL import GL

    from examples.gl_camera.opengl import UPLOAD, VERTEX

    program = linked((GL.GL_VERTEX_SHADER, VERTEX), (GL.GL_FRAGMENT_SHADER, UPLOAD))
    GL.glUseProgram(program)
    GL.glUniform1i(GL.glGetUniformLocation(program, "width"), SIDE)
    GL.glUniform1i(GL.glGetUniformLocation(program, "effort"), 300)
    return program


def linked(*sources: tuple[Any, str]) -> int:
    from OpenGL import GL

    program = int(GL.glCreateProgram())
    for kind, source in sources:
        shader = GL.glCreateShader(kind)
        GL.glShaderSource(shader, source)
        GL.glCompileShader(shader)
        assert GL.glGetShaderiv(shader, GL.GL_COMPILE_STATUS), GL.glGetShaderInfoLog(shader)
        GL.glAttachShader(program, shader)
        GL.glDeleteShader(shader)
    GL.glLinkProgram(program)
    assert GL.glGetProgramiv(program, GL.GL_LINK_STATUS), GL.glGetProgramInfoLog(program)
    return program


def test_a_slot_that_is_used_is_never_torn_and_one_that_is_not_is(domain: Domain) -> None:
    assert [torn(domain, True) for _ in range(10)] == [False] * 10
    assert [torn(domain, False) for _ in range(10)] == [True] * 10


def test_a_ring_waits_for_the_device_and_says_so(domain: Domain, manager: SafetyManager) -> None:
    from lifecycle.integrations.gpu.opengl import GLError

    ring = domain.ring(1000, 2)
    assert ring.stride == 1024
    slots = [ring.acquire(), ring.acquire()]
    assert [ring.offset(slot) for slot in slots] == [0, 1024]
    began = time.monotonic()
    with pytest.raises(PoolTimeoutError, match="all 2 slots of <Ring of 2 slots of 1000 bytes: 2 in use>"):
        ring.acquire(timeout=0.05)
    assert time.monotonic() - began >= 0.05
    view = ring.view(slots[0])
    slots[0].close()
    assert ring.in_use == 2  # the view is written to
    del view
    third = ring.acquire()
    assert (ring.offset(third), ring.waits) == (0, 2)
    with domain.submission() as work:
        assert ring.offset(work.use(third)) == 0
    third.close()
    fourth = ring.acquire(timeout=20)
    with pytest.raises(GLError, match="is no slot of"):
        domain.ring(1000, 2).offset(fourth)
    assert ring.close() is False
    with pytest.raises(GLError, match="closed> is closed"):
        ring.acquire()
    for slot in (fourth, slots[1]):
        slot.close()
    gc.collect()
    domain.drain()
    assert ring.buffer.state == "released"
    eventually(lambda: domain.drain() or manager.stats().active_objects == 0)


# -- copies --------------------------------------------------------------------------------------------------


def shapes() -> Iterator[tuple[int, int, int, str]]:
    yield from ((321, 200, 3, "u1"), (4, 4, 4, "u1"), (7, 5, 1, "u1"), (13, 3, 2, "u1"), (9, 9, 4, "f4"))


@pytest.mark.parametrize(("width", "height", "channels", "dtype"), list(shapes()))
def test_what_is_uploaded_is_read_back(
    domain: Domain, width: int, height: int, channels: int, dtype: str
) -> None:
    import numpy as np
    from OpenGL import GL

    from tests.gpu import names

    form = GL.GL_RGBA32F if dtype == "f4" else GL.GL_RGBA8
    texture = domain.own("texture", names.texture(width, height, form))
    rng = np.random.default_rng(width)
    picture = rng.integers(0, 256, (height, width, channels)).astype(dtype)
    whole = rng.integers(0, 256, (height + 3, width + 5, channels)).astype(dtype)
    for array in (
        picture,
        whole[1 : height + 1, 2 : width + 2],
        picture[::-1],
        picture[:, ::-1],
        np.asfortranarray(picture),
        whole[:height, :width],
    ):
        # A stranger's pixel state and buffer are in the way, and are there afterwards.
        GL.glPixelStorei(GL.GL_UNPACK_ALIGNMENT, 8)
        GL.glPixelStorei(GL.GL_UNPACK_SKIP_ROWS, 3)
        GL.glPixelStorei(GL.GL_PACK_ROW_LENGTH, 2000)
        stranger = names.buffer(16)
        GL.glBindBuffer(GL.GL_PIXEL_UNPACK_BUFFER, stranger)
        GL.glBindBuffer(GL.GL_PIXEL_PACK_BUFFER, stranger)
        domain.upload(texture, array)
        back = domain.read_back(texture, dtype, channels)
        assert (back == array).all()
        assert GL.glGetIntegerv(GL.GL_UNPACK_ALIGNMENT) == 8
        assert GL.glGetIntegerv(GL.GL_UNPACK_SKIP_ROWS) == 3
        assert GL.glGetIntegerv(GL.GL_PACK_ROW_LENGTH) == 2000
        assert GL.glGetIntegerv(GL.GL_PIXEL_UNPACK_BUFFER_BINDING) == stranger
        assert GL.glGetIntegerv(GL.GL_PIXEL_PACK_BUFFER_BINDING) == stranger
        GL.glDeleteBuffers(1, [stranger])
        GL.glPixelStorei(GL.GL_PACK_ROW_LENGTH, 0)
    texture.close()


def test_what_does_not_fit_is_refused_and_nothing_is_copied(domain: Domain) -> None:
    import numpy as np
    from OpenGL import GL

    from lifecycle.integrations.gpu.opengl import TransferError
    from tests.gpu import names

    texture = domain.own("texture", names.texture(8, 8))
    whole_numbers = domain.own("texture", names.texture(8, 8, GL.GL_RGBA8UI))
    before = np.full((8, 8, 4), 9, "u1")
    domain.upload(texture, before)
    one = np.zeros((8, 8, 4), "u1")
    for array, more, message in (
        (np.zeros((9, 8, 4), "u1"), {}, "does not fit into level 0"),
        (one, {"offset": (1, 0)}, "does not fit into level 0"),
        (one, {"offset": (-1, 0)}, "takes 2 whole numbers, 0 or more"),
        (one, {"level": 1}, "has no level 1"),
        (one, {"level": -1}, "takes a whole number, 0 or more"),
        (np.zeros((8, 8, 5), "u1"), {}, "1 to 4 channels"),
        (np.zeros((0, 8, 4), "u1"), {}, "1 to 4 channels"),
        (np.zeros((8,), "u1"), {}, "1 to 4 channels"),
        (np.zeros((8, 8, 4), "f8"), {}, "takes no elements of float64"),
        (np.zeros((8, 8, 4), ">u2"), {}, "native byte order"),
        (np.zeros((8, 8, 4), "c8"), {}, "takes no elements of complex64"),
    ):
        with pytest.raises(TransferError, match=message):
            domain.upload(texture, array, **more)  # type: ignore[arg-type]
    with pytest.raises(TransferError, match="holds whole numbers"):
        domain.upload(whole_numbers, np.zeros((8, 8, 4), "f4"))
    for dtype, channels in (("f8", 4), ("u1", 5), ("u1", 0), ("no", 4), ("u1", True)):
        with pytest.raises(TransferError):
            domain.read_back(texture, dtype, channels)
    assert isinstance(on_a_thread(lambda: domain.upload(texture, one)), WrongContextError)
    assert (domain.read_back(texture) == before).all()
    domain.upload(whole_numbers, before)
    assert (domain.read_back(whole_numbers) == before).all()
    assert whole_numbers.close()
    texture.close()
    with pytest.raises(AccessRefusedError):
        domain.upload(texture, one)


@pytest.mark.parametrize("direct", [True, False])
def test_what_opengl_would_not_copy_is_refused_and_says_so(
    domain: Domain, monkeypatch: pytest.MonkeyPatch, direct: bool
) -> None:
    """OpenGL only sets its error flag: what was uploaded would not be there, and what was read back would be
    whatever lay in memory."""
    import numpy as np
    from OpenGL import GL

    from lifecycle.integrations.gpu._native import function
    from lifecycle.integrations.gpu.opengl import GLError, TransferError
    from lifecycle.integrations.gpu.opengl.worlds import Facts
    from tests.gpu import names

    monkeypatch.setattr(Facts, "direct", direct)
    picture = np.full((8, 8, 4), 9, "u1")
    stranger = domain.own("texture", names.texture(8, 8))
    domain.upload(stranger, np.ones((8, 8, 4), "u1"))

    def made(target: int, store: Callable[..., Any], *size: int, form: int = GL.GL_RGBA8) -> Any:
        name = int(GL.glGenTextures(1))
        GL.glBindTexture(target, name)
        store(target, 1, form, *size)
        return domain.own("texture", name)

    flat, deep = GL.glTexStorage2D, GL.glTexStorage3D
    refused = [
        (made(GL.GL_TEXTURE_3D, deep, 8, 8, 4), "not two-dimensional"),
        (made(GL.GL_TEXTURE_2D_ARRAY, deep, 8, 8, 4), "not two-dimensional"),
        (made(GL.GL_TEXTURE_CUBE_MAP, flat, 8, 8), "not two-dimensional"),
        (made(GL.GL_TEXTURE_2D, flat, 8, 8, form=GL.GL_DEPTH_COMPONENT24), "holds depth or stencil"),
        (made(GL.GL_TEXTURE_2D, flat, 8, 8, form=GL.GL_DEPTH24_STENCIL8), "holds depth or stencil"),
        (deleted := domain.own("texture", names.texture(8, 8)), "deleted by its name"),
    ]
    GL.glDeleteTextures([deleted.native])
    GL.glBindTexture(GL.GL_TEXTURE_2D, stranger.native)
    for texture, message in refused:
        with pytest.raises(TransferError, match=message):
            domain.upload(texture, picture)
        with pytest.raises(TransferError, match=message):
            domain.read_back(texture)
        assert function("glGetError")() == 0
        assert texture.close()
    squeezed = made(GL.GL_TEXTURE_2D, flat, 8, 8, form=GL.GL_COMPRESSED_RED_RGTC1)
    domain.upload(squeezed, picture)
    with pytest.raises(TransferError, match="is compressed"):
        domain.upload(squeezed, picture[:2, :2], offset=(1, 1))
    buffer = domain.own("buffer", names.buffer(16))
    GL.glDeleteBuffers(1, [buffer.native])
    with pytest.raises(GLError, match="deleted by its name"):
        domain.map(buffer, 0, 4)
    assert function("glGetError")() == 0
    assert (domain.read_back(stranger) == 1).all()
    assert all(handle.close() for handle in (stranger, squeezed, buffer))


def test_the_bytes_that_are_needed() -> None:
    from lifecycle.integrations.gpu.opengl.transfers import bytes_needed

    # A tight RGB picture of 321 × 200 is read 199 bytes too far under the alignment that OpenGL begins with.
    assert bytes_needed(321, 200, 1, 3, 1) == 321 * 200 * 3 + 199
    assert bytes_needed(321, 200, 1, 3, 1, alignment=1) == 321 * 200 * 3
    assert bytes_needed(4, 2, 1, 4, 1, row_length=10, skip=(1, 1, 0)) == 4 + 40 + 40 + 16
    assert bytes_needed(0, 5, 1, 4, 1) == 0
    assert bytes_needed(2, 2, 3, 4, 4, image_height=5, skip=(0, 0, 2)) == 2 * 40 + 2 * 40 + 8 + 8


# -- state ---------------------------------------------------------------------------------------------------


def test_state_is_restored_exactly_after_an_exception(domain: Domain) -> None:
    import random

    from OpenGL import GL

    from lifecycle.integrations.gpu.opengl.state import Saved, StateGuard
    from tests.gpu import names

    textures = [names.texture() for _ in range(3)]
    buffers = [names.buffer(1024) for _ in range(3)]
    arrays = [names.vertex_array() for _ in range(2)]
    framebuffers = [names.framebuffer() for _ in range(2)]
    program = late_reader()
    rng = random.Random(5)

    def scramble() -> None:
        GL.glUseProgram(rng.choice([0, program]))
        GL.glBindVertexArray(rng.choice([0, *arrays]))
        GL.glBindFramebuffer(GL.GL_DRAW_FRAMEBUFFER, rng.choice(framebuffers))
        GL.glBindFramebuffer(GL.GL_READ_FRAMEBUFFER, rng.choice(framebuffers))
        GL.glViewport(*(rng.randrange(1, 99) for _ in range(4)))
        GL.glScissor(*(rng.randrange(1, 99) for _ in range(4)))
        for capability in (
            GL.GL_BLEND,
            GL.GL_DEPTH_TEST,
            GL.GL_CULL_FACE,
            GL.GL_STENCIL_TEST,
            GL.GL_SCISSOR_TEST,
        ):
            (GL.glEnable if rng.random() < 0.5 else GL.glDisable)(capability)
        GL.glBlendFuncSeparate(
            *(rng.choice([GL.GL_ONE, GL.GL_ZERO, GL.GL_SRC_ALPHA, GL.GL_DST_COLOR]) for _ in range(4))
        )
        GL.glBlendColor(rng.random(), rng.random(), 0.5, 1.0)
        GL.glDepthFunc(rng.choice([GL.GL_LESS, GL.GL_GREATER, GL.GL_ALWAYS]))
        GL.glDepthMask(rng.random() < 0.5)
        GL.glStencilMaskSeparate(GL.GL_FRONT, rng.getrandbits(32))
        GL.glStencilFuncSeparate(GL.GL_BACK, GL.GL_LEQUAL, rng.randrange(200), rng.getrandbits(32))
        GL.glPolygonMode(GL.GL_FRONT_AND_BACK, rng.choice([GL.GL_FILL, GL.GL_LINE]))
        GL.glColorMaski(rng.randrange(3), True, False, rng.random() < 0.5, True)
        GL.glClearColor(rng.random(), 0.25, 0.5, 1.0)
        GL.glPixelStorei(GL.GL_UNPACK_ALIGNMENT, rng.choice([1, 2, 4, 8]))
        GL.glPixelStorei(GL.GL_PACK_SKIP_ROWS, rng.randrange(5))
        GL.glBindBufferRange(GL.GL_UNIFORM_BUFFER, rng.randrange(8), rng.choice(buffers), 256, 512)
        GL.glBindBufferBase(GL.GL_UNIFORM_BUFFER, rng.randrange(8), rng.choice([0, *buffers]))
        GL.glBindBufferBase(GL.GL_SHADER_STORAGE_BUFFER, rng.randrange(8), rng.choice([0, *buffers]))
        for target in (
            GL.GL_ARRAY_BUFFER,
            GL.GL_UNIFORM_BUFFER,
            GL.GL_PIXEL_UNPACK_BUFFER,
            GL.GL_COPY_READ_BUFFER,
        ):
            GL.glBindBuffer(target, rng.choice([0, *buffers]))
        for _ in range(4):
            GL.glActiveTexture(GL.GL_TEXTURE0 + rng.randrange(16))
            GL.glBindTexture(GL.GL_TEXTURE_2D, rng.choice([0, *textures]))

    def look() -> list[str]:
        guard = StateGuard(domain, (), range(16))
        guard.__enter__()
        saved: Saved | None = guard._saved
        assert saved is not None
        return [repr((step.func.__name__, step.args)) for step in saved.steps]  # type: ignore[attr-defined]

    for _ in range(50):
        scramble()
        before = look()
        with pytest.raises(ZeroDivisionError):
            with domain.state_guard() as guard:
                scramble()
                raise ZeroDivisionError
        assert look() == before
        assert (guard.errors_inside, guard.not_restored) == ((), "")
    with domain.state_guard("textures", "buffers", "framebuffer", "program", "vertex_array"):
        pass
    GL.glUseProgram(0)
    GL.glBindVertexArray(0)
    GL.glBindFramebuffer(GL.GL_FRAMEBUFFER, 0)
    GL.glDeleteProgram(program)
    GL.glDeleteTextures(len(textures), textures)
    GL.glDeleteBuffers(len(buffers), buffers)
    GL.glDeleteVertexArrays(len(arrays), arrays)
    GL.glDeleteFramebuffers(len(framebuffers), framebuffers)


def test_a_deleted_binding_does_not_stop_the_rest_and_is_not_made_again(manager: SafetyManager) -> None:
    from OpenGL import GL

    from lifecycle.integrations.gpu.opengl import adopt
    from tests.gpu import contexts, names

    with contexts.current(profile=contexts.COMPATIBILITY):
        domain = adopt(manager=manager)
        texture = names.texture()
        GL.glBindTexture(GL.GL_TEXTURE_2D, texture)
        GL.glEnable(GL.GL_BLEND)
        with domain.state_guard():
            GL.glDeleteTextures(1, [texture])
            GL.glDisable(GL.GL_BLEND)
            GL.glBindTexture(GL.GL_TEXTURE_2D, 0)
        assert GL.glIsEnabled(GL.GL_BLEND)
        assert not GL.glIsTexture(texture)  # in this profile binding it would have made it again
        domain.close()


def test_errors_are_told_apart_and_another_context_is_not_touched(domain: Domain, context: Context) -> None:
    from lifecycle.integrations.gpu._native import function
    from lifecycle.integrations.gpu.opengl import GLError
    from tests.gpu import contexts

    function("glEnable")(0x1234)
    with domain.state_guard("blend") as guard:
        function("glBindTexture")(0x1234, 1)
        function("glViewport")(0, 0, -1, -1)
    assert (guard.errors_before, guard.errors_inside) == ((0x0500,), (0x0500,))
    with pytest.raises(GLError, match="is no group of state; the groups are program, framebuffer"):
        domain.state_guard("blending")
    other = contexts.Context()
    function("glEnable")(0x0BE2)
    with domain.state_guard("blend") as guard:
        function("glDisable")(0x0BE2)
        other.make_current()
        function("glEnable")(0x0BE2)
    assert guard.not_restored == "another context is current, or none"
    assert function("glIsEnabled")(0x0BE2) == 1
    other.destroy()
    context.make_current()
    assert function("glIsEnabled")(0x0BE2) == 0


# -- messages ------------------------------------------------------------------------------------------------


def test_messages_reach_a_callback_until_its_handle_is_closed(domain: Domain) -> None:
    from lifecycle.integrations.gpu._native import function

    said: list[Any] = []
    domain.debug_log()

    def listen(message: Any) -> None:
        said.append(message)

    handle = domain.debug_callback(listen)
    function("glEnable")(0x1234)
    assert [(message.type, message.severity, "glEnable" in message.text) for message in said] == [
        ("error", "high", True)
    ]
    assert function("glGetError")() == 0x0500
    assert on_a_thread(handle.close) is False
    function("glEnable")(0x1234)  # it is still installed, and still valid
    assert len(said) == 2
    domain.drain()
    function("glEnable")(0x1234)
    assert len(said) == 2
    assert [message.type for message in domain.debug_log()] == ["error"]
    assert domain.debug_log() == []
    first, second = domain.debug_callback(said.append), domain.debug_callback(said.append)
    first.close()  # not ours any more: the second stays installed
    function("glEnable")(0x1234)
    assert len(said) == 3
    second.close()
    while function("glGetError")():
        pass


# -- the cache -----------------------------------------------------------------------------------------------


def test_a_cache_is_rebuilt_on_a_change_of_context(manager: SafetyManager) -> None:
    from OpenGL import GL

    from lifecycle.integrations.gpu.opengl import GLError, adopt
    from tests.gpu import contexts, names

    made: list[int] = []

    def make_texture(side: int) -> int:
        made.append(side)
        return names.texture(side, side)

    with contexts.current():
        old = adopt(name="old", manager=manager)
        cache = old.cache(make_texture)
        first, again = cache.get(8), cache.get(8)
        first.expect_holders(shares=3)
        assert (first.native, made) == (again.native, [8])
        again.close()
        old.lost("undocked")
    assert first.state == "orphaned"
    with pytest.raises(QueueLostError):
        cache.get(8)
    with contexts.current():
        new = adopt(name="new", manager=manager)
        assert cache.move_to(new) == 1
        assert cache.move_to(new) == 0
        second = cache.get(8)
        assert made == [8, 8]
        assert (cache.stats.entries, cache.stats.hits, cache.stats.misses, cache.stats.rebuilds) == (
            1,
            1,
            2,
            1,
        )
        first.close()
        assert GL.glIsTexture(second.native)
        assert cache.discard(8)
        assert not cache.discard(8)
        assert GL.glIsTexture(second.native)
        second.close()
        assert not GL.glIsTexture(second.native)
        assert len(cache) == 0
        with pytest.raises(GLError, match="takes a function of the key"):
            new.cache(None)  # type: ignore[arg-type]
        assert new.close() == 0


# -- the adversaries -----------------------------------------------------------------------------------------


def gpu_code(code: Any) -> bool:
    return "integrations/gpu" in code.co_filename.replace("\\", "/") or code_of(test_opengl_nothing)(code)


def test_opengl_nothing() -> None:
    """What `gpu_code` chooses beside the adapters' own code: nothing runs in here."""
    assert callable(gpu_code)


def operations(domain: Domain) -> dict[str, Callable[[], None]]:
    import numpy as np

    from tests.gpu import names

    picture = np.zeros((8, 8, 4), "u1")

    def submit() -> None:
        with domain.own("texture", names.texture()) as texture, domain.submission() as work:
            work.use(texture)
            texture.close()
        domain.timeline.poll()

    def map_it() -> None:
        with domain.own("buffer", names.buffer(64)) as buffer, domain.map(buffer, 0, 64, "write") as mapping:
            mapping.view[0] = 1

    def ring() -> None:
        with domain.ring(64, 2) as made:
            slot = made.acquire()
            made.view(slot)[0] = 1
            with domain.submission() as work:
                work.use(slot)
            slot.close()

    def copy() -> None:
        with domain.own("texture", names.texture()) as texture:
            domain.upload(texture, picture)
            domain.read_back(texture)

    def guard() -> None:
        with domain.state_guard("blend", "buffers", "pixel_store"):
            pass

    def callback() -> None:
        domain.debug_callback(print).close()

    def cache() -> None:
        made = domain.cache(lambda key: names.texture(key, key))
        made.get(4).close()
        made.close()

    return {
        "submit": submit,
        "map": map_it,
        "ring": ring,
        "copy": copy,
        "guard": guard,
        "callback": callback,
        "cache": cache,
    }


OPERATIONS = ("submit", "map", "ring", "copy", "guard", "callback", "cache")


def settled(domain: Domain, manager: SafetyManager) -> bool:
    gc.collect()
    domain.timeline.wait(20)
    domain.drain()
    return manager.stats().active_objects == 0


@SLOW
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_interrupt_at_each_point(domain: Domain, manager: SafetyManager, name: str) -> None:
    from OpenGL import GL

    from lifecycle.integrations.gpu._native import function

    operation = operations(domain)[name]
    count = 0
    for struck in each_interrupt(operation, of=gpu_code):
        del struck
        count += 1
        domain.drain()
    eventually(lambda: settled(domain, manager))
    assert count > 5
    # A name that was made and not yet owned when the interrupt struck is the caller's: it goes with the context.
    witness = domain._share.world.name
    for number in range(1, 400):
        if function("glIsTexture")(number):
            GL.glDeleteTextures(1, [number])
        if function("glIsBuffer")(number) and number != witness:
            GL.glDeleteBuffers(1, [number])
    function("glDebugMessageCallback")(None, None)
    GL.glBindBuffer(GL.GL_PIXEL_UNPACK_BUFFER, 0)


@SLOW
@pytest.mark.parametrize("name", OPERATIONS)
def test_the_collector_at_each_line(domain: Domain, manager: SafetyManager, name: str) -> None:
    operation = operations(domain)[name]
    with every_line(gc.collect, of=gpu_code) as struck:
        operation()
    assert struck.strikes > 5
    eventually(lambda: settled(domain, manager))


def test_threads_close_what_the_owner_draws(domain: Domain, manager: SafetyManager) -> None:
    from tests.gpu import names

    waiting: list[Any] = []
    stop = threading.Event()

    def close_all() -> None:
        while not stop.is_set() or waiting:
            try:
                waiting.pop().close()
            except IndexError:
                time.sleep(0.0005)

    closers = [threading.Thread(target=close_all) for _ in range(2)]
    for closer in closers:
        closer.start()
    before = names.living()["texture"]
    for _ in range(300):
        texture = domain.own("texture", names.texture())
        with domain.submission() as work:
            work.use(texture)
            waiting.append(texture)
        domain.drain()
    stop.set()
    for closer in closers:
        closer.join()
    del texture, work
    eventually(lambda: settled(domain, manager))
    assert names.living()["texture"] == before
    assert domain.stats.signalled == 300
