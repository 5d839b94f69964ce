"""Guarded: ffi.gc frees with the last reference to its pointer, and ffi.cast keeps none.

pip install cffi numpy
"""

import cffi
import numpy as np

from lifecycle import SafetyManager

manager = SafetyManager()

ffi = cffi.FFI()
ffi.cdef("void *malloc(size_t); void free(void *); void *memset(void *, int, size_t);")
libc = ffi.dlopen(None)


def picture():
    memory = ffi.gc(libc.malloc(1 << 20), libc.free)
    libc.memset(memory, 7, 1 << 20)
    handle = manager.register(memory, release=None)
    return np.frombuffer(handle.view(ffi.buffer(ffi.cast("char *", memory), 1 << 20)), np.uint8)


print(picture()[1000])
