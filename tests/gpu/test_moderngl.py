"""moderngl, adopted by one line."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
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
