"""A guard for the state of OpenGL: what was there before a block is there after it, on every exit.

- What is restored is looked up first, and then restored in *one call of C*: an interrupt comes before or
  behind all of it, and `finally` does it once more.
- A name that is no longer known is restored as 0: in a compatibility profile binding a deleted name makes it
  again. So a deleted object's binding does not stop the rest.
- Bindings by index come before the generic ones, which they change.
- The error flag is state too: it is read at both ends, and told apart.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from operator import methodcaller
from typing import TYPE_CHECKING, Any, Final

from lifecycle.integrations.gpu._native import INT, function, integer
from lifecycle.integrations.gpu.errors import GLError
from lifecycle.lowlevel import Uncopied

if TYPE_CHECKING:
    from lifecycle.integrations.gpu.opengl.domain import Domain

Step = Callable[[], object]
_call: Final = methodcaller("__call__")


class Saved:
    """The steps that restore what is there now. A name is restored through `named`, so that it can be asked
    for once more at the end."""

    __slots__ = ("domain", "names", "steps")

    def __init__(self, domain: Domain) -> None:
        self.domain: Domain = domain
        self.steps: list[Step] = []
        self.names: list[tuple[int, str, Callable[[int], Step], int]] = []

    def step(self, name: str, *arguments: Any) -> None:
        """One call of OpenGL."""
        self.steps.append(partial(function(name), *arguments))

    def named(self, asks: str, name: int, make: Callable[[int], Step]) -> None:
        """One call that binds an object; at the end with 0 if that is gone."""
        if name:
            self.names.append((len(self.steps), asks, make, name))
        self.steps.append(make(name))

    def bind(self, call: str, target: int, binding: int, asks: str) -> None:
        """``call(target, name)`` with the name that is bound now."""
        self.named(asks, integer(binding), lambda name: partial(function(call), target, name))

    def ready(self) -> list[Step]:
        """The steps, with the objects looked up that are gone by now."""
        for at, asks, make, name in self.names:
            if not function(asks)(name):
                self.steps[at] = make(0)
        return self.steps

    def enable(self, *capabilities: int) -> None:
        """Capabilities that are on or off."""
        asked = function("glIsEnabled")
        for capability in capabilities:
            self.step("glEnable" if asked(capability) else "glDisable", capability)

    def floats(self, name: int, count: int) -> list[float]:
        """So many numbers of the state."""
        values = (ctypes.c_float * max(count, 4))()
        function("glGetFloatv")(name, values)
        return list(values[:count])

    def integers(self, name: int, count: int) -> list[int]:
        """So many whole numbers of the state."""
        values = (INT * max(count, 4))()
        function("glGetIntegerv")(name, values)
        return list(values[:count])


def _program(saved: Saved) -> None:
    saved.named("glIsProgram", integer(0x8B8D), lambda name: partial(function("glUseProgram"), name))
    if saved.domain.facts.version >= (4, 1):
        saved.named(
            "glIsProgramPipeline",
            integer(0x825A),
            lambda name: partial(function("glBindProgramPipeline"), name),
        )


def _framebuffer(saved: Saved) -> None:
    draw, read = integer(0x8CA6), integer(0x8CAA)
    for target, name in ((0x8CA9, draw), (0x8CA8, read)):
        saved.named("glIsFramebuffer", name, partial(partial, function("glBindFramebuffer"), target))
    saved.bind("glBindRenderbuffer", 0x8D41, 0x8CA7, "glIsRenderbuffer")


def _vertex_array(saved: Saved) -> None:
    saved.named("glIsVertexArray", integer(0x85B5), lambda name: partial(function("glBindVertexArray"), name))
    saved.bind("glBindBuffer", 0x8892, 0x8894, "glIsBuffer")
    saved.enable(0x8F9D)  # primitive restart


def _viewport(saved: Saved) -> None:
    saved.step("glViewport", *saved.integers(0x0BA2, 4))
    saved.step("glScissor", *saved.integers(0x0C10, 4))
    saved.step("glDepthRange", *saved.floats(0x0B70, 2))
    saved.enable(0x0C11)


def _blend(saved: Saved) -> None:
    saved.step("glBlendFuncSeparate", *(integer(name) for name in (0x80C9, 0x80C8, 0x80CB, 0x80CA)))
    saved.step("glBlendEquationSeparate", integer(0x8009), integer(0x883D))
    saved.step("glBlendColor", *saved.floats(0x8005, 4))
    saved.enable(0x0BE2)


def _depth(saved: Saved) -> None:
    saved.step("glDepthFunc", integer(0x0B74))
    saved.step("glDepthMask", integer(0x0B72))
    saved.step("glClearDepth", saved.floats(0x0B73, 1)[0])
    saved.enable(0x0B71)


def _stencil(saved: Saved) -> None:
    for face, (func, ref, mask, fail, depth_fail, depth_pass, write) in (
        (0x0404, (0x0B92, 0x0B97, 0x0B93, 0x0B94, 0x0B95, 0x0B96, 0x0B98)),
        (0x0405, (0x8800, 0x8CA3, 0x8CA4, 0x8801, 0x8802, 0x8803, 0x8CA5)),
    ):
        saved.step("glStencilFuncSeparate", face, integer(func), integer(ref), integer(mask) & 0xFFFFFFFF)
        saved.step("glStencilOpSeparate", face, integer(fail), integer(depth_fail), integer(depth_pass))
        saved.step("glStencilMaskSeparate", face, integer(write) & 0xFFFFFFFF)
    saved.step("glClearStencil", integer(0x0B91))
    saved.enable(0x0B90)


def _raster(saved: Saved) -> None:
    saved.step("glCullFace", integer(0x0B45))
    saved.step("glFrontFace", integer(0x0B46))
    modes = saved.integers(0x0B40, 2)
    if saved.domain.facts.compatibility:
        saved.step("glPolygonMode", 0x0404, modes[0])
        saved.step("glPolygonMode", 0x0405, modes[1])
    else:
        saved.step("glPolygonMode", 0x0408, modes[0])
    saved.step("glPolygonOffset", *saved.floats(0x8038, 1), *saved.floats(0x2A00, 1))
    saved.step("glLineWidth", saved.floats(0x0B21, 1)[0])
    saved.step("glPointSize", saved.floats(0x0B11, 1)[0])
    saved.enable(0x0B44, 0x8037, 0x2A02, 0x2A01, 0x809D, 0x8642, 0x0B20)


def _colour(saved: Saved) -> None:
    masks = (ctypes.c_ubyte * 4)()
    for at in range(min(8, integer(0x8824))):
        function("glGetBooleani_v")(0x0C23, at, masks)
        saved.step("glColorMaski", at, *masks)
    saved.step("glClearColor", *saved.floats(0x0C22, 4))
    saved.step("glLogicOp", integer(0x0BF0))
    saved.enable(0x0BF2, 0x0BD0, 0x8DB9)


_PIXEL_STORE: Final = (
    *(0x0CF5, 0x0CF2, 0x0CF3, 0x0CF4, 0x806E, 0x806D, 0x0CF0, 0x0CF1),
    *(0x0D05, 0x0D02, 0x0D03, 0x0D04, 0x806C, 0x806B, 0x0D00, 0x0D01),
)


def _pixel_store(saved: Saved) -> None:
    for name in _PIXEL_STORE:
        saved.step("glPixelStorei", name, integer(name))


# (target, binding, the version that has it)
_BUFFERS: Final = (
    (0x8892, 0x8894, (3, 0)),
    (0x8F36, 0x8F36, (3, 1)),
    (0x8F37, 0x8F37, (3, 1)),
    (0x88EB, 0x88ED, (3, 0)),
    (0x88EC, 0x88EF, (3, 0)),
    (0x8C2A, 0x8C2A, (3, 1)),
    (0x8A11, 0x8A28, (3, 1)),
    (0x8C8E, 0x8C8F, (3, 0)),
    (0x8F3F, 0x8F43, (4, 0)),
    (0x90D2, 0x90D3, (4, 3)),
    (0x90EE, 0x90EF, (4, 3)),
    (0x92C0, 0x92C1, (4, 2)),
    (0x9192, 0x9193, (4, 4)),
)
# (target, binding, start, size, the version that has it): the first eight of each
_INDEXED: Final = (
    (0x8A11, 0x8A28, 0x8A29, 0x8A2A, (3, 1)),
    (0x90D2, 0x90D3, 0x90D4, 0x90D5, (4, 3)),
)
INDEXED: Final = 8
"""How many bindings by index are saved of uniform and of storage buffers."""


def _buffers(saved: Saved) -> None:
    version = saved.domain.facts.version
    numbers = (ctypes.c_int64 * 1)()
    asked = function("glGetInteger64i_v")
    for target, binding, start, size, since in _INDEXED:
        if version < since:
            continue
        for at in range(INDEXED):
            found = []
            for parameter in (binding, start, size):
                asked(parameter, at, numbers)
                found.append(numbers[0])
            saved.named("glIsBuffer", found[0], partial(_indexed, target, at, found[1], found[2]))
    for target, binding, since in _BUFFERS:
        if version >= since:
            saved.bind("glBindBuffer", target, binding, "glIsBuffer")


def _indexed(target: int, at: int, start: int, size: int, name: int) -> Step:
    if name and size:
        return partial(function("glBindBufferRange"), target, at, name, start, size)
    return partial(function("glBindBufferBase"), target, at, name)


# (target, binding, the version that has it)
_TEXTURES: Final = (
    (0x0DE1, 0x8069, (3, 0)),
    (0x0DE0, 0x8068, (3, 0)),
    (0x806F, 0x806A, (3, 0)),
    (0x8513, 0x8514, (3, 0)),
    (0x8C18, 0x8C1C, (3, 0)),
    (0x8C1A, 0x8C1D, (3, 0)),
    (0x8C2A, 0x8C2C, (3, 1)),
    (0x9100, 0x9104, (3, 2)),
    (0x9009, 0x900A, (4, 0)),
)


def _textures(saved: Saved, units: Iterable[int]) -> None:
    active = integer(0x84E0)
    activate = function("glActiveTexture")
    version = saved.domain.facts.version
    try:
        for unit in units:
            activate(0x84C0 + unit)
            saved.step("glActiveTexture", 0x84C0 + unit)
            for target, binding, since in _TEXTURES:
                if version >= since:
                    saved.bind("glBindTexture", target, binding, "glIsTexture")
            if version >= (3, 3):
                saved.named(
                    "glIsSampler",
                    integer(0x8919),
                    lambda name, unit=unit: partial(function("glBindSampler"), unit, name),  # type: ignore[misc]
                )
    finally:
        activate(active)
    saved.step("glActiveTexture", active)


_GROUPS: Final[dict[str, Callable[[Saved], None]]] = {
    "program": _program,
    "framebuffer": _framebuffer,
    "vertex_array": _vertex_array,
    "viewport": _viewport,
    "blend": _blend,
    "depth": _depth,
    "stencil": _stencil,
    "raster": _raster,
    "colour": _colour,
    "pixel_store": _pixel_store,
    "buffers": _buffers,
}
GROUPS: Final = (*_GROUPS, "textures")
"""The groups of state that can be named; all unless some are."""
_MOST_ERRORS: Final = 16


_UNITS = 0x8B4D
"""How many texture units all stages have together; 16 at least."""


class StateGuard(Uncopied):
    """What was bound, enabled and set before a ``with`` block is so after it, however the block ends. Made by
    `Domain.state_guard`; one block each.

    The errors that OpenGL had to report before the block and inside it are in `errors_before` and
    `errors_inside`. Where another context is current at the end nothing is touched, and `not_restored` says
    why.
    """

    __slots__ = ("_domain", "_groups", "_saved", "_units", "errors_before", "errors_inside", "not_restored")

    def __init__(self, domain: Domain, groups: tuple[str, ...], units: Iterable[int]) -> None:
        for group in groups:
            if not isinstance(group, str) or group not in GROUPS:
                raise GLError(f"{group!r} is no group of state; the groups are {', '.join(GROUPS)}")
        self._domain = domain
        self._groups = groups or GROUPS
        try:
            self._units = tuple(units)
        except TypeError:
            self._units = (units,)  # type: ignore[assignment]
        if not all(
            isinstance(unit, int) and not isinstance(unit, bool) and unit >= 0 for unit in self._units
        ):
            raise GLError(f"state_guard(units=) takes numbers of texture units, 0 or more, not {units!r}")
        self._saved: Saved | None = None
        self.errors_before: tuple[int, ...] = ()
        self.errors_inside: tuple[int, ...] = ()
        self.not_restored: str = ""

    def __enter__(self) -> StateGuard:
        self._domain.check_here("state_guard()")
        if self._saved is not None:
            raise GLError("this guard was used already: make another with state_guard()")
        if max(self._units, default=0) > 15 and max(self._units) >= integer(_UNITS):
            raise GLError(
                f"state_guard(units=): there is no texture unit {max(self._units)}, the driver has "
                f"{integer(_UNITS)}"
            )
        self.errors_before = _errors()
        saved = Saved(self._domain)
        for group in self._groups:
            if group == "textures":
                _textures(saved, self._units)
            else:
                _GROUPS[group](saved)
        _errors()  # what a driver does not know of the state it does not change either
        self._saved = saved
        return self

    def __exit__(self, *_: object) -> None:
        saved = self._saved
        if saved is None:
            return
        try:
            self._restore(saved)
        finally:
            if not self.not_restored:
                deque(map(_call, saved.steps), maxlen=0)
        if not self.not_restored:
            _errors()

    def _restore(self, saved: Saved) -> None:
        if not self._domain.here():
            self.not_restored = "another context is current, or none"
            return
        self.errors_inside = _errors()
        deque(map(_call, saved.ready()), maxlen=0)


def _errors() -> tuple[int, ...]:
    """The errors that are waiting, taken out."""
    get = function("glGetError")
    found: list[int] = []
    while len(found) < _MOST_ERRORS and (error := get()):
        found.append(error)
    return tuple(found)
