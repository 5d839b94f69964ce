"""Guarded: a buffer is released by a cache that needs room, and asked for its size by its other user.

pip install pyopencl pocl-binary-distribution numpy
"""

import pyopencl as cl

from lifecycle import AccessRefusedError, SafetyManager

manager = SafetyManager()

context = cl.Context(cl.get_platforms()[0].get_devices())
buffer = manager.proxy(cl.Buffer(context, cl.mem_flags.READ_WRITE, 1 << 22), release="release")
cache = [buffer]
cache.pop().release()
try:
    print(buffer.size)
except AccessRefusedError as error:
    print(error)
