"""Guarded: foreign_buffer(address, size) is made without base=, and the memory goes first.

pip install pyarrow numpy
"""

import numpy as np
import pyarrow

from lifecycle import SafetyManager

manager = SafetyManager()


def column():
    samples = np.arange(1 << 20)
    buffer = pyarrow.py_buffer(manager.register(samples, release=None).view(samples))
    return pyarrow.Array.from_buffers(pyarrow.int64(), len(samples), [None, buffer])


print(column()[1 << 19])
