"""Guarded: a C library keeps a callback, Python does not."""

import ctypes

from lifecycle import SafetyManager

manager = SafetyManager()

libc = ctypes.CDLL(None)
HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int)
SIGUSR1 = 10


def install():
    handler = manager.callback(lambda number: print("called", flush=True), HANDLER, on_error=None)
    libc.signal(SIGUSR1, handler)
    manager.register(
        SIGUSR1, "handler", release=lambda number: libc.signal(number, None), keep_alive=handler, keep=True
    )


install()
libc.__getattr__("raise")(SIGUSR1)
