"""moderngl, adopted by one line."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lifecycle import AccessRefusedError, SafetyManager
from lifecycle.errors import DuplicateError

pytestmark = pytest.mark.needs("moderngl")


@pytest.fixture
def context() -> Iterator[Any]:
    import moderngl

    from tests.gpu import contexts

    settings: Any = {"backend": "egl", "libgl": "libGL.so.1", "libegl": "libEGL.so.1"}
    made = moderngl.create_context(standalone=True, require=330, **settings)
    yield made
    made.release()
    contexts.release_current()


def textures() -> int:
    from tests.gpu import names

    return names.living()["texture"]


def test_what_is_dropped_on_a_thread_is_deleted_by_the_next_drain(
    context: Any, manager: SafetyManager
) -> None:
    from lifecycle.integrations.gpu.moderngl import adopt

    def drop() -> None:
        for _ in range(10):
            made.pop()
        gc.collect()

    domain = adopt(context, manager=manager)
    before = textures()
    made = [context.texture((4, 4), 4) for _ in range(10)]
    assert textures() == before + 10
    thread = threading.Thread(target=drop)
    thread.start()
    thread.join()
    assert textures() == before + 10  # on that thread nothing was called
    domain.drain()
    assert textures() == before
    assert domain.close() == 0


def test_what_was_released_before_it_died_stops_no_collection(context: Any, manager: SafetyManager) -> None:
    import moderngl

    from lifecycle.integrations.gpu.moderngl import adopt

    before = textures()
    context.gc_mode = "context_gc"
    for _ in range(2):
        context.texture((4, 4), 4).release()
    context.texture((4, 4), 4)
    gc.collect()
    with pytest.raises(AttributeError):  # raw: the first dead one stops it, and what is behind leaks
        context.gc()
    assert textures() == before + 1
    kind = type(context)
    domain = adopt(context, manager=manager)
    assert adopt(context) is domain
    assert isinstance(context, kind)
    assert isinstance(context, moderngl.Context)
    assert type(context).__name__ == "Context"
    assert context.gc() == 1
    assert textures() == before
    assert context.gc() == 0
    assert domain.close() == 0


def test_a_context_that_is_current_elsewhere_is_not_collected_in(
    context: Any, manager: SafetyManager
) -> None:
    from lifecycle.errors import WrongContextError
    from lifecycle.integrations.gpu.moderngl import adopt

    domain = adopt(context, manager=manager)
    before = textures()
    context.texture((4, 4), 4)
    gc.collect()
    said: list[Any] = []

    def elsewhere() -> None:
        said.append(context.gc())
        # Current on the other thread, so here it cannot be made so, and nothing says that: every call is a no-op.
        with context:
            said.append(domain.here())
            for call in (domain.submission, domain.drain, lambda: domain.domain.own("texture", 1)):
                with pytest.raises(WrongContextError):
                    call()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert said == [0, False]
    assert textures() == before + 1
    assert domain.drain() == 1
    assert textures() == before
    assert domain.close() == 0


def test_what_is_no_context_of_moderngl_is_refused(context: Any) -> None:
    from lifecycle.integrations.gpu.moderngl import adopt
    from lifecycle.integrations.gpu.opengl import GLError

    with pytest.raises(GLError, match="takes a context of moderngl, not 3"):
        adopt(3)


def test_an_owned_texture_is_in_flight_like_any_other(context: Any, manager: SafetyManager) -> None:
    from lifecycle.integrations.gpu.moderngl import adopt
    from lifecycle.integrations.gpu.opengl import GLError

    domain = adopt(context, manager=manager)
    before = textures()
    made = context.texture((4, 4), 4)
    handle = domain.own(made)
    with pytest.raises(DuplicateError):
        domain.own(made)
    with domain.submission() as work:
        work.use(handle).use(0)
    assert handle.close() is False
    assert handle.close(timeout=20) is True
    assert textures() == before
    with pytest.raises(AccessRefusedError, match="released"):
        handle.lease()
    with pytest.raises(GLError, match="was released already"):
        domain.own(made)
    with pytest.raises(GLError, match="takes an object of moderngl, not 3"):
        domain.own(3)
    assert domain.close() == 0


@pytest.mark.parametrize("kind", ["texture", "buffer", "framebuffer", "vertex_array", "sampler"])
def test_what_is_used_after_its_close_says_so(kind: str, context: Any, manager: SafetyManager) -> None:
    from lifecycle.integrations.gpu.moderngl import adopt
    from lifecycle.integrations.gpu.opengl import GLError

    domain = adopt(context, manager=manager)
    program = context.program(vertex_shader="#version 330\nvoid main() { gl_Position = vec4(0.0); }")
    calls: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
        "texture": (lambda: context.texture((4, 4), 4), lambda it: it.use(0)),
        "buffer": (lambda: context.buffer(b"abcd"), lambda it: it.read()),
        "framebuffer": (lambda: context.simple_framebuffer((4, 4)), lambda it: it.clear()),
        "vertex_array": (lambda: context.vertex_array(program, []), lambda it: it.render(vertices=1)),
        "sampler": (lambda: context.sampler(), lambda it: it.use(0)),
    }
    make, use = calls[kind]
    made = make()
    assert domain.own(made).close() is True
    with pytest.raises(AccessRefusedError, match="was released, since its handle was closed"):
        use(made)
    made.release()  # moderngl takes it for what it is: released
    with pytest.raises(GLError, match="was released already"):
        domain.own(made)
    del made
    program.release()
    domain.drain()
    assert domain.close() == 0
