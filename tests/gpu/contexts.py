"""Real OpenGL contexts for tests: EGL without a surface, on Mesa's software renderer, made through ctypes."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

ENVIRONMENT = {
    "PYOPENGL_PLATFORM": "egl",
    "EGL_PLATFORM": "surfaceless",
    "LIBGL_ALWAYS_SOFTWARE": "1",
    "EGL_LOG_LEVEL": "fatal",
}
for _name, _value in ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)

_P = ctypes.c_void_p
_INT = ctypes.c_int
CORE, COMPATIBILITY = 1, 2


@cache
def egl() -> Any:
    """EGL, initialized. Raises `OSError` where there is none."""
    library = ctypes.CDLL("libEGL.so.1")
    for name, result, arguments in (
        ("eglGetPlatformDisplay", _P, (ctypes.c_uint, _P, _P)),
        ("eglInitialize", ctypes.c_uint, (_P, _P, _P)),
        ("eglBindAPI", ctypes.c_uint, (ctypes.c_uint,)),
        ("eglChooseConfig", ctypes.c_uint, (_P, _P, _P, _INT, _P)),
        ("eglCreateContext", _P, (_P, _P, _P, _P)),
        ("eglDestroyContext", ctypes.c_uint, (_P, _P)),
        ("eglMakeCurrent", ctypes.c_uint, (_P, _P, _P, _P)),
        ("eglGetCurrentContext", _P, ()),
        ("eglReleaseThread", ctypes.c_uint, ()),
        ("eglGetError", _INT, ()),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


@cache
def display() -> int:
    """The display without a surface."""
    found = egl().eglGetPlatformDisplay(0x31DD, None, None)
    if not found or not egl().eglInitialize(found, None, None):
        raise OSError("EGL cannot be initialized without a window system")
    return int(found)


class Context:
    """One OpenGL context. Not current until it is told to be."""

    def __init__(
        self,
        share: Context | None = None,
        *,
        version: tuple[int, int] = (4, 5),
        profile: int = CORE,
        es: bool = False,
    ) -> None:
        library = egl()
        library.eglBindAPI(0x30A0 if es else 0x30A2)
        attributes = [0x3098, version[0], 0x30FB, version[1]]
        if not es and version >= (3, 2):
            attributes += [0x30FD, profile]
        configs, count = (_P * 1)(), _INT()
        library.eglChooseConfig(
            display(), (_INT * 3)(0x3040, 0x8 if not es else 0x4, 0x3038), configs, 1, ctypes.byref(count)
        )
        self.pointer: int | None = library.eglCreateContext(
            display(),
            configs[0],
            share.pointer if share is not None else None,
            (_INT * (len(attributes) + 1))(*attributes, 0x3038),
        )
        if not self.pointer:
            raise OSError(f"EGL made no context: error 0x{library.eglGetError():x}")
        self.es = es

    def make_current(self) -> Context:
        """Current on this thread."""
        egl().eglBindAPI(0x30A0 if self.es else 0x30A2)
        if not egl().eglMakeCurrent(display(), None, None, self.pointer):
            raise OSError(f"the context cannot be made current: error 0x{egl().eglGetError():x}")
        return self

    def destroy(self) -> None:
        """End it, and leave nothing current on this thread. Twice is once."""
        pointer, self.pointer = self.pointer, None
        if pointer:
            if egl().eglGetCurrentContext() == pointer:
                release_current()
            egl().eglDestroyContext(display(), pointer)


def release_current() -> None:
    """Nothing is current on this thread any more."""
    egl().eglBindAPI(0x30A2)
    egl().eglMakeCurrent(display(), None, None, None)
    egl().eglBindAPI(0x30A0)
    egl().eglMakeCurrent(display(), None, None, None)
    egl().eglBindAPI(0x30A2)


@contextmanager
def current(share: Context | None = None, **options: Any) -> Iterator[Context]:
    """A new context, current for a block, and destroyed after it."""
    context = Context(share, **options).make_current()
    try:
        yield context
    finally:
        context.destroy()
