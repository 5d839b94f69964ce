"""An array made with ndarray(buffer=memory.buf) is returned, the SharedMemory is not.

pip install numpy
"""

from multiprocessing.shared_memory import SharedMemory

import numpy as np


def picture():
    memory = SharedMemory(create=True, size=1 << 20)
    memory.unlink()
    array = np.ndarray((1024, 1024), np.uint8, buffer=memory.buf)
    array[:] = 7
    return array


print(picture()[5, 5])
