"""What makes no sense is refused by an error of the library's own, before anything native is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from lifecycle import LifecycleError, SafetyManager
from lifecycle.errors import WrongContextError

if TYPE_CHECKING:
    from lifecycle.integrations.gpu.opengl import Domain
    from tests.gpu.contexts import Context

pytestmark = pytest.mark.needs("gl")


class Given:
    """What the calls are made on."""

    def __init__(self, domain: Domain) -> None:
        import numpy as np

        from tests.gpu import names

        self.domain = domain
        self.name = names.texture()
        self.texture = domain.own("texture", names.texture())
        self.buffer = domain.own("buffer", names.buffer(64))
        self.ring = domain.ring(16, 1)
        self.array = np.zeros((2, 2, 4), "u1")
        self.cache = domain.cache(lambda key: key)
        # Registered by another, and its object is no name.
        self.other = domain.manager.register(object(), "other", release=lambda one: None)

    def close(self) -> None:
        from OpenGL import GL

        for handle in (self.texture, self.buffer, self.ring, self.other):
            handle.close()
        GL.glDeleteTextures([self.name])


class Unclear:
    """As an array of several: it is nothing's equal, has no truth, and is no number."""

    def __index__(self) -> int:
        raise TypeError("only arrays of one can be an index")

    def __eq__(self, other: object) -> bool:
        raise ValueError("the truth of several is ambiguous")

    __hash__ = object.__hash__


class Slot:
    """Has what a handle has, and another's native name."""

    def __init__(self, native: Any) -> None:
        self.native = native


NO_SLOTS = (Slot(()), Slot((1,)), Slot((1, 2, 3)))

BAD: dict[str, tuple[Callable[[Given, Any], Any], tuple[Any, ...]]] = {
    "own-size": (lambda on, bad: on.domain.own("texture", on.name, size=bad), (-1, "x", 1.5, None, True)),
    "own-name": (
        lambda on, bad: on.domain.own("texture", bad),
        (5.0, "5", None, -1, 0, 1 << 40, [1], True, 399, Unclear()),
    ),
    "own-kind": (lambda on, bad: on.domain.own(bad, on.name), ("textures", None, 3, "")),
    "own-parent": (lambda on, bad: on.domain.own("texture", on.name, parent=bad), (3, "x")),
    "upload-array": (
        lambda on, bad: on.domain.upload(on.texture, bad),
        (None, "x", 3, [[1, 2], [3]], object()),
    ),
    "upload-offset": (
        lambda on, bad: on.domain.upload(on.texture, on.array, offset=bad),
        (3, None, (1,), (1, 2, 3), "ab", (0.5, 0), (-1, 0), (1 << 40, 0)),
    ),
    "upload-level": (
        lambda on, bad: on.domain.upload(on.texture, on.array, level=bad),
        (None, "x", 0.0, True, -1, 1, 40, 1 << 31, 1 << 32, 1 << 64),
    ),
    "upload-texture": (lambda on, bad: on.domain.upload(bad, on.array), (3, None, "x", "buffer", "other")),
    "read-texture": (lambda on, bad: on.domain.read_back(bad), (3, None, "x", "buffer", "other")),
    "read-dtype": (lambda on, bad: on.domain.read_back(on.texture, bad), (None, "x", object(), 3, "f8")),
    "read-channels": (
        lambda on, bad: on.domain.read_back(on.texture, "u1", bad),
        (None, "x", 2.0, [1], True, 5),
    ),
    "read-level": (
        lambda on, bad: on.domain.read_back(on.texture, level=bad),
        (None, "x", 0.0, True, -1, 1, 40, 1 << 31, 1 << 32, 1 << 64),
    ),
    "map-buffer": (lambda on, bad: on.domain.map(bad, 0, 4), (3, None, "x", "texture", "other")),
    "map-range": (
        lambda on, bad: on.domain.map(on.buffer, *bad),
        ((-1, 4), (0, 65), (64, 1), (0, -1), (0, 0)),
    ),
    "map-access": (lambda on, bad: on.domain.map(on.buffer, 0, 4, bad), (None, 3, "R", [], Unclear())),
    "ring-bytes": (lambda on, bad: on.domain.ring(bad), (None, "x", -1, 0, 1.5, True, 1 << 60)),
    "ring-name": (lambda on, bad: on.domain.ring(16, 1, name=bad), (None, 3, b"x", "")),
    "ring-acquire": (lambda on, bad: on.ring.acquire(bad), ("x", -1, float("nan"), True)),
    "ring-view": (lambda on, bad: on.ring.view(bad), (3, None, "texture", *NO_SLOTS)),
    "ring-offset": (lambda on, bad: on.ring.offset(bad), (None, "texture", -1, 7, "x", True)),
    "state-group": (lambda on, bad: on.domain.state_guard(bad), ("nothing", 3, None, [], Unclear())),
    "state-units": (
        lambda on, bad: on.domain.state_guard("textures", units=bad).__enter__(),
        (3.5, None, [-1], ["x"], [100000]),
    ),
    "callback": (lambda on, bad: on.domain.debug_callback(bad), (None, 3)),
    "cache-make": (lambda on, bad: on.domain.cache(bad), (None, 3)),
    "cache-made": (lambda on, bad: on.domain.cache(lambda key: bad).get(1), (None, 3.5, "x", "buffer")),
    "cache-name": (lambda on, bad: on.domain.cache(lambda key: key, name=bad), (None, 3, b"x", "")),
    "cache-key": (lambda on, bad: on.cache.get(bad), ([1], "no name", None)),
    "cache-domain": (lambda on, bad: on.cache.move_to(bad), (3, None)),
    "close-timeout": (lambda on, bad: on.domain.close(bad), ("x", -1, float("nan"))),
    "adopt-name": (lambda on, bad: _adopt(name=bad), (3, b"x", "", None)),
    "adopt-manager": (lambda on, bad: _adopt(manager=bad), (3, "x")),
    "adopt-fences": (lambda on, bad: _adopt(fences=bad), (3, "x", None, [], Unclear())),
}


def _adopt(**options: Any) -> Any:
    from lifecycle.integrations.gpu.opengl import adopt

    return adopt(**options)


@pytest.mark.parametrize("what", BAD)
def test_it_is_refused_by_an_error_of_ours(domain: Domain, what: str, manager: SafetyManager) -> None:
    from lifecycle.integrations.gpu._native import function

    call, values = BAD[what]
    on = Given(domain)
    function("glGetError")()
    for bad in values:
        bad = getattr(on, bad) if type(bad) is str and bad in ("texture", "buffer", "other") else bad
        with pytest.raises(LifecycleError) as caught:
            call(on, bad)
        assert str(caught.value)
        assert function("glGetError")() == 0
    assert {handle.state for handle in (on.texture, on.buffer)} == {"valid"}
    on.close()


def test_a_handle_of_another_context_is_refused_everywhere(
    domain: Domain, context: Context, manager: SafetyManager
) -> None:
    import numpy as np

    from lifecycle.integrations.gpu.opengl import adopt
    from tests.gpu import contexts, names

    with contexts.current():
        other = adopt(name="other", manager=manager)
        texture, buffer = other.own("texture", names.texture()), other.own("buffer", names.buffer(64))
        context.make_current()
        calls: tuple[Callable[[], Any], ...] = (
            lambda: domain.upload(texture, np.zeros((2, 2, 4), "u1")),
            lambda: domain.read_back(texture),
            lambda: domain.map(buffer, 0, 4),
        )
        for call in calls:
            with pytest.raises(WrongContextError, match="another share group or context"):
                call()
        other.lost("over")
    context.make_current()


@pytest.mark.parametrize("version", [(4,), "45", None, (9, 9), (4.5, 0), (-1, 0), [4, 5], (True, 0)])
def test_no_context_of_such_a_version(version: Any) -> None:
    from lifecycle.integrations.gpu.errors import GLError
    from lifecycle.integrations.gpu.offscreen import offscreen

    with pytest.raises(GLError), offscreen(version=version):
        raise AssertionError("made")
