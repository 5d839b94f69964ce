"""A buffer is released by a cache that needs room, and asked for its size by its other user.

pip install pyopencl pocl-binary-distribution numpy
"""

import pyopencl as cl

context = cl.Context(cl.get_platforms()[0].get_devices())
buffer = cl.Buffer(context, cl.mem_flags.READ_WRITE, 1 << 22)
cache = [buffer]
cache.pop().release()
print(buffer.size)
