"""OpenGL's C interface through ctypes, and the question which context is current.

PyOpenGL, moderngl and the toolkits need not be asked: the functions are those of the system's own library,
which calls the driver of whatever context is current on the thread. No function of Python lies between a
release and the driver, so that no interrupt falls there either.

Calls that only look, or that do a few instructions of work, keep the GIL; what may wait for the device gives
it up.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import sys
from collections.abc import Callable
from functools import cache
from typing import Any, Final

from lifecycle.integrations.gpu.errors import GLError

P = ctypes.c_void_p
INT = ctypes.c_int
UINT = ctypes.c_uint
SIZE = ctypes.c_ssize_t
ENUM = ctypes.c_uint
U64 = ctypes.c_uint64

# name: (result, arguments). Those that may wait for the device stand in `SLOW`.
_SIGNATURES: Final[dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "glGetString": (ctypes.c_char_p, (ENUM,)),
    "glGetStringi": (ctypes.c_char_p, (ENUM, UINT)),
    "glGetError": (ENUM, ()),
    "glGetIntegerv": (None, (ENUM, P)),
    "glGetInteger64v": (None, (ENUM, P)),
    "glGetFloatv": (None, (ENUM, P)),
    "glGetDoublev": (None, (ENUM, P)),
    "glGetBooleanv": (None, (ENUM, P)),
    "glGetIntegeri_v": (None, (ENUM, UINT, P)),
    "glGetInteger64i_v": (None, (ENUM, UINT, P)),
    "glGetBooleani_v": (None, (ENUM, UINT, P)),
    "glGetPointerv": (None, (ENUM, P)),
    "glIsEnabled": (ctypes.c_ubyte, (ENUM,)),
    "glIsEnabledi": (ctypes.c_ubyte, (ENUM, UINT)),
    "glEnable": (None, (ENUM,)),
    "glDisable": (None, (ENUM,)),
    "glEnablei": (None, (ENUM, UINT)),
    "glDisablei": (None, (ENUM, UINT)),
    "glFlush": (None, ()),
    "glFinish": (None, ()),
    "glFenceSync": (P, (ENUM, UINT)),
    "glClientWaitSync": (ENUM, (P, UINT, U64)),
    "glDeleteSync": (None, (P,)),
    "glGetObjectLabel": (None, (ENUM, UINT, INT, P, P)),
    "glObjectLabel": (None, (ENUM, UINT, INT, ctypes.c_char_p)),
    "glDebugMessageCallback": (None, (P, P)),
    "glGetDebugMessageLog": (UINT, (UINT, INT, P, P, P, P, P, P)),
    "glBindBuffer": (None, (ENUM, UINT)),
    "glBindBufferBase": (None, (ENUM, UINT, UINT)),
    "glBindBufferRange": (None, (ENUM, UINT, UINT, SIZE, SIZE)),
    "glBufferData": (None, (ENUM, SIZE, P, ENUM)),
    "glBufferStorage": (None, (ENUM, SIZE, P, UINT)),
    "glBufferSubData": (None, (ENUM, SIZE, SIZE, P)),
    "glGetBufferSubData": (None, (ENUM, SIZE, SIZE, P)),
    "glGetBufferParameteri64v": (None, (ENUM, ENUM, P)),
    "glMapBufferRange": (P, (ENUM, SIZE, SIZE, UINT)),
    "glUnmapBuffer": (ctypes.c_ubyte, (ENUM,)),
    "glMapNamedBufferRange": (P, (UINT, SIZE, SIZE, UINT)),
    "glUnmapNamedBuffer": (ctypes.c_ubyte, (UINT,)),
    "glGetNamedBufferParameteri64v": (None, (UINT, ENUM, P)),
    "glActiveTexture": (None, (ENUM,)),
    "glBindTexture": (None, (ENUM, UINT)),
    "glBindSampler": (None, (UINT, UINT)),
    "glBindVertexArray": (None, (UINT,)),
    "glBindFramebuffer": (None, (ENUM, UINT)),
    "glBindRenderbuffer": (None, (ENUM, UINT)),
    "glUseProgram": (None, (UINT,)),
    "glBindProgramPipeline": (None, (UINT,)),
    "glDrawBuffer": (None, (ENUM,)),
    "glReadBuffer": (None, (ENUM,)),
    "glViewport": (None, (INT, INT, INT, INT)),
    "glScissor": (None, (INT, INT, INT, INT)),
    "glDepthRange": (None, (ctypes.c_double, ctypes.c_double)),
    "glBlendFuncSeparate": (None, (ENUM, ENUM, ENUM, ENUM)),
    "glBlendEquationSeparate": (None, (ENUM, ENUM)),
    "glBlendColor": (None, (ctypes.c_float,) * 4),
    "glDepthFunc": (None, (ENUM,)),
    "glDepthMask": (None, (ctypes.c_ubyte,)),
    "glClearDepth": (None, (ctypes.c_double,)),
    "glStencilFuncSeparate": (None, (ENUM, ENUM, INT, UINT)),
    "glStencilOpSeparate": (None, (ENUM, ENUM, ENUM, ENUM)),
    "glStencilMaskSeparate": (None, (ENUM, UINT)),
    "glClearStencil": (None, (INT,)),
    "glCullFace": (None, (ENUM,)),
    "glFrontFace": (None, (ENUM,)),
    "glPolygonMode": (None, (ENUM, ENUM)),
    "glPolygonOffset": (None, (ctypes.c_float, ctypes.c_float)),
    "glLineWidth": (None, (ctypes.c_float,)),
    "glPointSize": (None, (ctypes.c_float,)),
    "glColorMask": (None, (ctypes.c_ubyte,) * 4),
    "glColorMaski": (None, (UINT, *(ctypes.c_ubyte,) * 4)),
    "glClearColor": (None, (ctypes.c_float,) * 4),
    "glLogicOp": (None, (ENUM,)),
    "glPixelStorei": (None, (ENUM, INT)),
    "glTexSubImage2D": (None, (ENUM, INT, INT, INT, INT, INT, ENUM, ENUM, P)),
    "glGetTexImage": (None, (ENUM, INT, ENUM, ENUM, P)),
    "glGetTexLevelParameteriv": (None, (ENUM, INT, ENUM, P)),
    "glTextureSubImage2D": (None, (UINT, INT, INT, INT, INT, INT, ENUM, ENUM, P)),
    "glGetTextureImage": (None, (UINT, INT, ENUM, ENUM, INT, P)),
    "glGetTextureLevelParameteriv": (None, (UINT, INT, ENUM, P)),
    "glGetTextureParameteriv": (None, (UINT, ENUM, P)),
    "glDeleteProgram": (None, (UINT,)),
    "glDeleteShader": (None, (UINT,)),
    "glIsProgram": (ctypes.c_ubyte, (UINT,)),
    "glIsShader": (ctypes.c_ubyte, (UINT,)),
}
for _many in (
    "Buffers",
    "Framebuffers",
    "ProgramPipelines",
    "Queries",
    "Renderbuffers",
    "Samplers",
    "Textures",
    "TransformFeedbacks",
    "VertexArrays",
):
    _one = "Query" if _many == "Queries" else _many[:-1]
    _one = {"TransformFeedback": "TransformFeedback"}.get(_one, _one)
    _SIGNATURES[f"glGen{_many}"] = (None, (INT, P))
    _SIGNATURES[f"glDelete{_many}"] = (None, (INT, P))
    _SIGNATURES[f"glIs{_one}"] = (ctypes.c_ubyte, (UINT,))

SLOW: Final = frozenset(
    {
        "glClientWaitSync",
        "glFinish",
        "glFlush",
        "glGetBufferSubData",
        "glGetTexImage",
        "glGetTextureImage",
        "glMapBufferRange",
        "glMapNamedBufferRange",
        "glTexSubImage2D",
        "glTextureSubImage2D",
    }
)

_NAMES: Final[tuple[str, ...]] = (
    ("opengl32",)
    if sys.platform == "win32"
    else ("/System/Library/Frameworks/OpenGL.framework/OpenGL",)
    if sys.platform == "darwin"
    else ("libOpenGL.so.0", "libGL.so.1")
)


@cache
def _libraries() -> tuple[Any, Any]:
    """OpenGL's library twice: calls that keep the GIL, and calls that give it up."""
    tried = []
    for name in _NAMES:
        try:
            return ctypes.PyDLL(name), ctypes.CDLL(name)
        except OSError as error:
            tried.append(str(error))
    raise GLError(
        f"OpenGL cannot be loaded ({'; '.join(tried)}): install a driver, on Debian and Ubuntu "
        "`apt-get update && apt-get install libegl1 libgl1 libgl1-mesa-dri`"
    )


@cache
def function(name: str) -> Callable[..., Any]:
    """A function of OpenGL. Raises `GLError` for one that the library does not have."""
    quick, slow = _libraries()
    result, arguments = _SIGNATURES[name]
    library = slow if name in SLOW else quick
    try:
        found = library[name]
    except AttributeError:
        address = _address_of(name)
        if not address:
            raise GLError(f"{name} is not in this system's OpenGL: it needs a newer driver") from None
        kind = ctypes.CFUNCTYPE if name in SLOW else ctypes.PYFUNCTYPE
        return kind(result, *arguments)(address)
    found.restype = result
    found.argtypes = arguments
    return found  # type: ignore[no-any-return]


@cache
def untyped(name: str) -> Callable[..., Any]:
    """As `function`, without types of its arguments, whose conversion takes longer than the call. For small
    numbers, None and arrays of ctypes alone, which need none: an address would lose its upper half."""
    quick, _ = _libraries()
    result, _ = _SIGNATURES[name]
    try:
        found = quick[name]
    except AttributeError:
        return function(name)
    found.restype = result
    return found  # type: ignore[no-any-return]


def _address_of(name: str) -> int | None:
    """The address of a function that the library does not export, as the window system tells it."""
    for library, getter in (
        ("libEGL.so.1", "eglGetProcAddress"),
        ("libGLX.so.0", "glXGetProcAddressARB"),
        ("opengl32", "wglGetProcAddress"),
    ):
        loaded = already_loaded(library)
        if loaded is not None:
            ask = loaded[getter]
            ask.restype, ask.argtypes = P, (ctypes.c_char_p,)
            return ask(name.encode())  # type: ignore[no-any-return]
    return None


def already_loaded(library: str) -> Any:
    """A library that this process has loaded, None if it has not: then none of its contexts is current."""
    if sys.platform == "win32":
        return ctypes.PyDLL(library) if library == "opengl32" else None
    try:
        return ctypes.PyDLL(library, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    except (OSError, AttributeError):
        return None


_CURRENT: Final = (
    ("libEGL.so.1", "eglGetCurrentContext"),
    ("libGLX.so.0", "glXGetCurrentContext"),
    ("libGL.so.1", "glXGetCurrentContext"),
    ("opengl32", "wglGetCurrentContext"),
    ("/System/Library/Frameworks/OpenGL.framework/OpenGL", "CGLGetCurrentContext"),
)


def who_is_current() -> tuple[Callable[[], int | None], int] | None:
    """``(question, answer)`` of the window system whose context is current on this thread; None if none is.
    Without a current context OpenGL's functions are undefined, so this is asked first."""
    for library, name in _CURRENT:
        loaded = already_loaded(library)
        if loaded is not None:
            try:
                ask = loaded[name]
            except AttributeError:
                continue
            ask.restype, ask.argtypes = P, ()
            answer = ask()
            if answer:
                return ask, answer
    return None


def integer(name: int) -> int:
    """One integer of the state of the current context."""
    value = (INT * 4)()
    function("glGetIntegerv")(name, value)
    return value[0]


@cache
def egl() -> Any:
    """EGL's functions for sync objects, None where this process has no EGL."""
    loaded = already_loaded("libEGL.so.1")
    if loaded is None:
        return None
    loaded.eglGetCurrentDisplay.restype, loaded.eglGetCurrentDisplay.argtypes = P, ()
    loaded.eglGetProcAddress.restype, loaded.eglGetProcAddress.argtypes = P, (ctypes.c_char_p,)
    loaded.eglQueryString.restype, loaded.eglQueryString.argtypes = ctypes.c_char_p, (P, INT)
    return loaded


@cache
def egl_sync() -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """``(create, client_wait, destroy)`` of EGL sync objects. They may wait, so they give up the GIL; the
    creation keeps it."""
    loaded = egl()
    addresses = [
        loaded.eglGetProcAddress(name) if loaded is not None else None
        for name in (b"eglCreateSyncKHR", b"eglClientWaitSyncKHR", b"eglDestroySyncKHR")
    ]
    if not all(addresses):
        raise GLError(
            "this system's EGL has no sync objects (EGL_KHR_fence_sync): use the domain's own fences, "
            'adopt(fences="gl")'
        )
    create, wait, destroy = (address or 0 for address in addresses)
    return (
        ctypes.PYFUNCTYPE(P, P, ENUM, P)(create),
        ctypes.CFUNCTYPE(INT, P, P, INT, U64)(wait),
        ctypes.PYFUNCTYPE(UINT, P, P)(destroy),
    )
