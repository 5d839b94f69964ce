"""Worlds: what a native name is valid in, and whether that is what is current on this thread now.

**The problem.** An OpenGL name is a small number. In another context it means nothing, or something else, and
deleting it deletes a stranger's object without an error. Addresses of contexts are given again as well: of
twenty made in turn some have the same.

**The idea.** The world is asked itself. Each share group gets one tiny buffer, and each context one vertex
array, labelled with a random token: a world is here where its name exists and carries its token. First it is
asked whether anything is current at all, since without a context the calls are undefined; then whether the
name exists, since the label of a name that is none sets the error flag.

Where there are no labels (before OpenGL 4.3, without KHR_debug) the token lies in the buffer, and a context
is known by its share group, its address and its vertex array.
"""

from __future__ import annotations

import ctypes
import secrets
import sys
from collections.abc import Callable
from typing import Any, Final

from lifecycle.integrations.gpu._native import INT, UINT, function, integer, untyped, who_is_current
from lifecycle.integrations.gpu.errors import GLError
from lifecycle.lowlevel import after_fork

_BUFFER, _VERTEX_ARRAY = 0x82E0, 0x8074
_COPY_READ, _COPY_READ_BINDING = 0x8F36, 0x8F36
_STATIC_DRAW = 0x88E4
TOKEN: Final = 16
_Text = ctypes.c_char * (TOKEN + 1)


class World:
    """A share group, or one context. `here` is the condition of its queue."""

    __slots__ = (
        "__weakref__",
        "_is",
        "_label",
        "current",
        "inherited",
        "kind",
        "labelled",
        "lost",
        "name",
        "pointer",
        "token",
    )

    def __init__(self, kind: int, current: Callable[[], int | None], pointer: int, labelled: bool) -> None:
        self.kind: int = kind
        self.labelled: bool = labelled
        self.pointer: int = pointer
        self.inherited: bool = False
        self.lost: bool = False
        """True once its domain was told that it is gone."""
        after_fork(self._after_fork)
        self.token: bytes = secrets.token_hex(TOKEN // 2).encode()
        self.current: Callable[[], int | None] = current
        self._is: Any = untyped("glIsBuffer" if kind == _BUFFER else "glIsVertexArray")
        self._label = untyped("glGetObjectLabel") if labelled else None
        name = UINT()
        function("glGenBuffers" if kind == _BUFFER else "glGenVertexArrays")(1, ctypes.byref(name))
        self.name: int = name.value
        if kind == _BUFFER:
            bound = integer(_COPY_READ_BINDING)
            function("glBindBuffer")(_COPY_READ, self.name)
            function("glBufferData")(_COPY_READ, TOKEN, self.token, _STATIC_DRAW)
            function("glBindBuffer")(_COPY_READ, bound)
        else:
            bound = integer(0x85B5)
            function("glBindVertexArray")(self.name)  # a name is an object only once it was bound
            function("glBindVertexArray")(bound)
        if labelled:
            function("glObjectLabel")(kind, self.name, TOKEN, self.token)
        if not self.here():
            raise GLError("the current context does not know the object that was just made in it")

    def here(self) -> bool:
        """Return True if this world is current on this thread now. In a forked child it never is, and nothing
        native is called there: with a driver's threads gone the next call would hang."""
        if self.inherited:
            return False
        current, name = self.current(), self.name
        if not current or not self._is(name):
            return False
        label = self._label
        if label is not None:
            text = _Text()
            label(self.kind, name, TOKEN + 1, None, text)
            return text.value == self.token
        if self.kind != _BUFFER:
            return current == self.pointer
        return self._token_in_buffer() == self.token

    def same_context(self) -> bool:
        """Return True if the context that is current has the address of the one in which this was made:
        enough where `here` was true on this thread a moment ago, and a tenth of its cost."""
        return not self.inherited and self.current() == self.pointer

    def _after_fork(self) -> None:
        """In the child: the context is the parent's."""
        self.inherited = True

    def _token_in_buffer(self) -> bytes:
        bound = integer(_COPY_READ_BINDING)
        bind = function("glBindBuffer")
        size = ctypes.c_int64()
        text = ctypes.create_string_buffer(TOKEN)
        bind(_COPY_READ, self.name)
        try:
            function("glGetBufferParameteri64v")(_COPY_READ, 0x8764, ctypes.byref(size))
            if size.value == TOKEN:
                function("glGetBufferSubData")(_COPY_READ, 0, TOKEN, text)
        finally:
            bind(_COPY_READ, bound)
        return text.raw

    def __repr__(self) -> str:
        what = "share group" if self.kind == _BUFFER else "context"
        return f"<{what} known by {self.name}>"


def share_world(current: Callable[[], int | None], pointer: int, labelled: bool) -> World:
    """The world of the textures, buffers and programs of what is current."""
    return World(_BUFFER, current, pointer, labelled)


def context_world(current: Callable[[], int | None], pointer: int, labelled: bool) -> World:
    """The world of the vertex arrays and framebuffers of what is current."""
    return World(_VERTEX_ARRAY, current, pointer, labelled)


class Facts:
    """What the current context says of itself."""

    __slots__ = ("compatibility", "current", "extensions", "pointer", "renderer", "text", "version")

    def __init__(self) -> None:
        who = who_is_current()
        if who is None:
            raise GLError(
                "no OpenGL context is current on this thread: make one current first (makeCurrent(), "
                "switch_to(), eglMakeCurrent) and adopt it there"
            )
        self.current: Callable[[], int | None] = who[0]
        self.pointer: int = who[1]
        said = function("glGetString")(0x1F02)
        self.text: str = (said or b"").decode(errors="replace")
        if self.text.startswith("OpenGL ES"):
            raise GLError(
                f"the current context is {self.text!r}: OpenGL ES is not supported, only OpenGL 3.0 and newer"
            )
        words = self.text.split(".")
        try:
            self.version: tuple[int, int] = (int(words[0]), int(words[1].split()[0]))
        except (ValueError, IndexError):
            raise GLError(f"the current context says {self.text!r} of its version, which is none") from None
        if self.version < (3, 0):
            raise GLError(f"the current context is OpenGL {self.text!r}: 3.0 or newer is needed")
        count = (INT * 1)()
        function("glGetIntegerv")(0x821D, count)
        get = function("glGetStringi")
        self.extensions: frozenset[str | Any] = frozenset(
            (get(0x1F03, at) or b"").decode() for at in range(count[0])
        )
        self.renderer: str = (function("glGetString")(0x1F01) or b"").decode(errors="replace")
        self.compatibility: bool = self.version >= (3, 2) and bool(integer(0x9126) & 2)

    @property
    def labels(self) -> bool:
        """True if objects can be labelled."""
        return self.version >= (4, 3) or "GL_KHR_debug" in self.extensions

    @property
    def direct(self) -> bool:
        """True if objects can be changed without binding them (4.5)."""
        return self.version >= (4, 5) or "GL_ARB_direct_state_access" in self.extensions

    @property
    def syncs(self) -> bool:
        """True if there are sync objects (3.2)."""
        return self.version >= (3, 2) or "GL_ARB_sync" in self.extensions


def check_pyopengl(facts: Facts) -> None:
    """Raise `GLError` where PyOpenGL is loaded for a window system that is not the current context's: its
    calls would fail later and elsewhere, for want of a context."""
    platform: Any = getattr(sys.modules.get("OpenGL.platform"), "PLATFORM", None)
    if platform is not None and not platform.GetCurrentContext():
        system = facts.current.__name__.removesuffix("GetCurrentContext")
        raise GLError(
            f"PyOpenGL was loaded with its {type(platform).__name__}, and finds no context there, while one "
            f"of {system.upper()} is current: set PYOPENGL_PLATFORM={system} in the environment before "
            "OpenGL is imported"
        )
