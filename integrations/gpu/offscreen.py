"""An OpenGL context without a window, by EGL: for servers, tests and examples."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

from lifecycle.integrations.gpu.errors import GLError
from lifecycle.integrations.gpu.log import at
from lifecycle.lowlevel import caller

_P = ctypes.c_void_p
_INT = ctypes.c_int
_SURFACELESS: Final = 0x31DD
_OPENGL_API: Final = 0x30A2
_INSTALL: Final = "on Debian and Ubuntu `apt-get update && apt-get install libegl1 libgl1-mesa-dri`"


def _egl() -> Any:
    try:
        library = ctypes.CDLL("libEGL.so.1")
    except OSError as error:
        raise GLError(f"EGL cannot be loaded ({error}): {_INSTALL}") from error
    for name, result, arguments in (
        ("eglGetPlatformDisplay", _P, (ctypes.c_uint, _P, _P)),
        ("eglInitialize", ctypes.c_uint, (_P, _P, _P)),
        ("eglBindAPI", ctypes.c_uint, (ctypes.c_uint,)),
        ("eglChooseConfig", ctypes.c_uint, (_P, _P, _P, _INT, _P)),
        ("eglCreateContext", _P, (_P, _P, _P, _P)),
        ("eglDestroyContext", ctypes.c_uint, (_P, _P)),
        ("eglMakeCurrent", ctypes.c_uint, (_P, _P, _P, _P)),
        ("eglGetError", _INT, ()),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


living: dict[int, str] = {}
"""By their pointers: the contexts that are not destroyed yet, and where each was made."""


def offscreen(*, version: tuple[int, int] = (4, 5)) -> AbstractContextManager[None]:
    """A new core context of that version of OpenGL, current on this thread for a block, and destroyed after
    it. Close the domain that adopted it before the block ends. Raises `GLError` where there is no driver, or
    none of that version."""
    if (
        not isinstance(version, tuple)
        or len(version) != 2
        or not all(isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in version)
    ):
        raise GLError(f"offscreen(version=) takes two whole numbers, such as (4, 5), not {version!r}")
    return _offscreen(version, at(caller()))


@contextmanager
def _offscreen(version: tuple[int, int], site: str) -> Iterator[None]:
    egl = _egl()
    display = egl.eglGetPlatformDisplay(_SURFACELESS, None, None)
    if not display or not egl.eglInitialize(display, None, None):
        raise GLError(
            f"EGL cannot be initialized without a window system: a driver of Mesa is needed, {_INSTALL}"
        )
    egl.eglBindAPI(_OPENGL_API)
    configs, count = (_P * 1)(), _INT()
    egl.eglChooseConfig(display, (_INT * 3)(0x3040, 0x8, 0x3038), configs, 1, ctypes.byref(count))
    attributes = (_INT * 7)(0x3098, version[0], 0x30FB, version[1], 0x30FD, 1, 0x3038)
    context = egl.eglCreateContext(display, configs[0], None, attributes)
    if not context:
        raise GLError(
            f"EGL made no context of OpenGL {version[0]}.{version[1]} (error 0x{egl.eglGetError():x})"
        )
    living[context] = site
    try:
        if not egl.eglMakeCurrent(display, None, None, context):
            raise GLError(f"the context cannot be made current (error 0x{egl.eglGetError():x})")
        yield
    finally:
        egl.eglMakeCurrent(display, None, None, None)
        egl.eglDestroyContext(display, context)
        living.pop(context, None)
