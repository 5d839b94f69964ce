"""A C library keeps a callback, Python does not."""

import ctypes

libc = ctypes.CDLL(None)
HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int)
SIGUSR1 = 10


def install():
    handler = HANDLER(lambda number: print("called", flush=True))
    libc.signal(SIGUSR1, handler)  # C keeps the address, nothing keeps `handler`


install()
libc.__getattr__("raise")(SIGUSR1)
