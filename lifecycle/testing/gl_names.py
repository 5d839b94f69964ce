"""Where names of OpenGL were made, noted while somebody wants to know: `lifecycle.testing.gpu`.

PyOpenGL has one object for each of its functions, of a class of its own, and moderngl one class of contexts:
what is put around their calls is there for a program that had imported them long before, too. What pyglet,
vispy and ctypes make has no such place, and no line.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final

from lifecycle._core import runtime

_PYOPENGL: Final = {
    **{
        f"gl{verb}{many}": kind
        for verb in ("Gen", "Create")
        for many, kind in (
            ("Textures", "texture"),
            ("Buffers", "buffer"),
            ("Renderbuffers", "renderbuffer"),
            ("Framebuffers", "framebuffer"),
            ("VertexArrays", "vertex_array"),
            ("Samplers", "sampler"),
            ("Queries", "query"),
        )
    },
    "glCreateProgram": "program",
    "glCreateShader": "shader",
    "glCreateShaderProgramv": "program",
}
_MODERNGL: Final = {
    "buffer": "buffer",
    "texture": "texture",
    "texture_array": "texture",
    "texture3d": "texture",
    "texture_cube": "texture",
    "depth_texture": "texture",
    "depth_texture_cube": "texture",
    "renderbuffer": "renderbuffer",
    "depth_renderbuffer": "renderbuffer",
    "framebuffer": "framebuffer",
    "empty_framebuffer": "framebuffer",
    "simple_framebuffer": "framebuffer",
    "vertex_array": "vertex_array",
    "simple_vertex_array": "vertex_array",
    "sampler": "sampler",
    "program": "program",
    "compute_shader": "program",
}
_ABSENT = object()


class Made:
    """Sites as ``file.py:31``, by kind and name. A name that is given again has its last one."""

    def __init__(self) -> None:
        self._lock = runtime.RLock()
        self._users = 0
        self._undo: list[Callable[[], object]] = []
        self._sites: dict[tuple[str, int], str] = {}

    def begin(self) -> None:
        """Note from here on; once more for each that asks."""
        with self._lock:
            self._users += 1
            if self._users > 1:
                return
            pyopengl = sys.modules.get("OpenGL.GL")
            for name, kind in _PYOPENGL.items():
                function = getattr(pyopengl, name, None)
                if function is not None:
                    self._around_calls(type(function), kind)
            context = getattr(sys.modules.get("moderngl"), "Context", None)
            for name, kind in _MODERNGL.items():
                if callable(getattr(context, name, None)):
                    self._around(context, name, kind)

    def end(self) -> None:
        """The opposite of one `begin`."""
        with self._lock:
            self._users -= 1
            if not self._users:
                while self._undo:
                    self._undo.pop()()
                self._sites.clear()

    def site(self, kind: str, name: int) -> str:
        """Where it was made; empty where that is not known."""
        return self._sites.get((kind, name), "")

    def _around_calls(self, function: Any, kind: str) -> None:
        """Note what a function of PyOpenGL, which is of this class, answers."""
        if not _of_theirs(function.__module__):  # a plain function, whose class is everybody's
            return
        before = function.__dict__.get("__call__", _ABSENT)

        def noting(one: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal before
            above: Any = super(function, one)
            own = above.__call__ if before is _ABSENT else before.__get__(one, function)
            found = own(*args, **kwargs)
            self._note(kind, found)
            put = function.__dict__.get("__call__")
            if put is not noting and self._users:
                # The first call of a function looks its address up, and puts that in the place of ours.
                before = put
                function.__call__ = noting
            return found

        def undo() -> None:
            if function.__dict__.get("__call__") is noting:
                if before is _ABSENT:
                    del function.__call__
                else:
                    function.__call__ = before

        self._undo.append(undo)
        function.__call__ = noting

    def _around(self, context: Any, name: str, kind: str) -> None:
        """Note what a method of moderngl's contexts answers."""
        before = context.__dict__.get(name)
        if before is None:
            return

        def noting(*args: Any, **kwargs: Any) -> Any:
            found = before(*args, **kwargs)
            self._note(kind, getattr(found, "glo", None))
            return found

        self._undo.append(lambda: setattr(context, name, before))
        setattr(context, name, noting)

    def _note(self, kind: str, found: Any) -> None:
        frame = runtime.caller(3)
        while frame is not None and _of_theirs(frame.f_globals.get("__name__", "")):
            frame = runtime.users_frame(frame.f_back)
        site = runtime.describe_site(runtime.site_of(frame))
        names = found if hasattr(found, "__len__") else [found]
        for name in names:
            if hasattr(name, "__index__"):
                self._sites[kind, int(name)] = site


def _of_theirs(module: str) -> bool:
    return module.partition(".")[0] in ("OpenGL", "moderngl")


made = Made()
