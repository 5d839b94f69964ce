"""The CUDA driver's C interface through ctypes: ``libcuda.so.1``, which comes with the driver.

PyTorch, CuPy and Numba use the same driver and the same primary context of a device, so what is done here
holds for their streams and their memory, whichever of them is there.

Every call gives up the GIL: the driver has locks of its own, and another thread may hold one while a callback
of Python waits for the GIL.
"""

from __future__ import annotations

import ctypes
import itertools
import operator
import sys
from collections import deque
from collections.abc import Callable
from functools import cache, partial
from typing import Any, Final

from lifecycle.integrations.cuda.errors import CUDAError
from lifecycle.lowlevel import after_fork

P = ctypes.c_void_p
INT = ctypes.c_int
UINT = ctypes.c_uint
U64 = ctypes.c_uint64
SIZE = ctypes.c_size_t
BYREF = ctypes.c_void_p

SUCCESS, OUT_OF_MEMORY, DEINITIALIZED, NOT_READY = 0, 2, 4, 600
NO_TIMING = 2
"""A flag of events: they are asked whether they are done, and not when."""
NON_BLOCKING = 1
"""A flag of streams: they do not wait for the legacy default stream."""

_SIGNATURES: Final[dict[str, tuple[Any, ...]]] = {
    "cuInit": (UINT,),
    "cuDriverGetVersion": (BYREF,),
    "cuGetErrorName": (INT, BYREF),
    "cuDeviceGetCount": (BYREF,),
    "cuDeviceGet": (BYREF, INT),
    "cuDeviceGetName": (P, INT, INT),
    "cuDeviceGetAttribute": (BYREF, INT, INT),
    "cuDevicePrimaryCtxRetain": (BYREF, INT),
    "cuCtxGetCurrent": (BYREF,),
    "cuCtxGetDevice": (BYREF,),
    "cuCtxPushCurrent_v2": (P,),
    "cuCtxPopCurrent_v2": (BYREF,),
    "cuCtxSynchronize": (),
    "cuMemGetInfo_v2": (BYREF, BYREF),
    "cuMemAlloc_v2": (BYREF, SIZE),
    "cuMemFree_v2": (U64,),
    "cuMemAllocAsync": (BYREF, SIZE, P),
    "cuMemFreeAsync": (U64, P),
    "cuMemHostAlloc": (BYREF, SIZE, UINT),
    "cuMemFreeHost": (P,),
    "cuMemcpyAsync": (U64, U64, SIZE, P),
    "cuMemsetD8Async": (U64, ctypes.c_ubyte, SIZE, P),
    "cuStreamCreate": (BYREF, UINT),
    "cuStreamDestroy_v2": (P,),
    "cuStreamGetCtx": (P, BYREF),
    "cuStreamQuery": (P,),
    "cuStreamSynchronize": (P,),
    "cuStreamWaitEvent": (P, P, UINT),
    "cuEventCreate": (BYREF, UINT),
    "cuEventRecord": (P, P),
    "cuEventQuery": (P,),
    "cuEventDestroy_v2": (P,),
    "cuLaunchHostFunc": (P, P, P),
    "cuModuleLoadData": (BYREF, ctypes.c_char_p),
    "cuModuleGetFunction": (BYREF, P, ctypes.c_char_p),
    "cuLaunchKernel": (P, UINT, UINT, UINT, UINT, UINT, UINT, UINT, P, P, P),
}

NAMES: tuple[str, ...] = ("nvcuda.dll",) if sys.platform == "win32" else ("libcuda.so.1", "libcuda.so")

call: Callable[[Any], Any] = operator.methodcaller("__call__")
"""Calls with no bytecode in between, for steps that belong together."""


class _Process:
    """True if this is the process in which the driver was started: in a forked child it is broken."""

    forked = False

    def after_fork(self) -> None:
        self.forked = True


_process = _Process()


@cache
def library() -> Any:
    """The driver, started. Raises `CUDAError` where there is none, no device, or this is a forked child."""
    tried = []
    for name in NAMES:
        try:
            found = ctypes.CDLL(name)
        except OSError as error:
            tried.append(str(error))
            continue
        code = function_of(found, "cuInit")(0)
        if code:
            raise CUDAError(
                f"the CUDA driver does not start: {name_of(code, found)}. It needs a device, and a driver "
                "that fits it (`nvidia-smi` shows both)",
                code,
            )
        after_fork(_process.after_fork)
        return found
    raise CUDAError(
        f"there is no CUDA driver ({'; '.join(tried)}): it comes with NVIDIA's display driver, in a "
        "container by `--gpus all`"
    )


def function_of(loaded: Any, name: str) -> Callable[..., int]:
    """A function of the driver, by its name in the library."""
    try:
        found = loaded[name]
    except AttributeError:
        raise CUDAError(f"{name} is not in this driver: it needs a newer one") from None
    found.restype = INT
    found.argtypes = _SIGNATURES[name]
    return found  # type: ignore[no-any-return]


@cache
def _function(name: str) -> Callable[..., int]:
    return function_of(library(), name)


def function(name: str) -> Callable[..., int]:
    """A function of the driver, started. Raises `CUDAError` in a forked child, whatever the function."""
    refuse_in_child(name)
    return _function(name)


def in_a_child() -> bool:
    """Return True if this is a child of the process that started the driver: nothing may be called there."""
    return _process.forked


def name_of(code: int, loaded: Any = None) -> str:
    """What the driver calls an answer: ``CUDA_ERROR_ILLEGAL_ADDRESS (700)``."""
    text = ctypes.c_char_p()
    try:
        function_of(loaded or library(), "cuGetErrorName")(code, ctypes.byref(text))
    except CUDAError:
        text.value = None
    return f"{text.value.decode()} ({code})" if text.value else f"error {code}"


def checked(code: int, doing: str) -> None:
    """Raise `CUDAError` unless `code` is success."""
    if code != SUCCESS:
        raise CUDAError(f"{doing}: the driver said {name_of(code)}", code)


def refuse_in_child(doing: str) -> None:
    """Raise `CUDAError` in a forked child."""
    if in_a_child():
        raise CUDAError(
            f"{doing}: this is a forked child, where CUDA does not work; start processes with "
            'multiprocessing.get_context("spawn")'
        )


def run_in(context: int, step: Callable[[], int]) -> int:
    """Call `step`, a function of C, with `context` current, and put back what was current before; its answer.
    All of it is one step for signals. Where the context is gone `step` is not called, and the answer is what
    the driver said to that."""
    codes: list[int] = []
    push = partial(function("cuCtxPushCurrent_v2"), context)
    pop = partial(function("cuCtxPopCurrent_v2"), ctypes.byref(P()))
    first, rest = map(call, (push,)), map(call, (step, pop))
    # `codes` is looked at once the first has been called: what follows is called only where that said 0.
    rest_if_pushed = itertools.compress((rest,), map(operator.not_, codes))
    deque(map(codes.extend, itertools.chain((first,), rest_if_pushed)), maxlen=0)
    return codes[1] if len(codes) > 1 else codes[0]


def integer(name: str, *arguments: Any) -> int:
    """What a function writes into its first argument."""
    value = INT()
    checked(function(name)(ctypes.byref(value), *arguments), name)
    return value.value


def current_context() -> int:
    """The context that is current on this thread, 0 where none is."""
    found = P()
    function("cuCtxGetCurrent")(ctypes.byref(found))
    return found.value or 0
