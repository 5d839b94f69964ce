"""foreign_buffer(address, size) is made without base=, and the memory goes first.

pip install pyarrow numpy
"""

import numpy as np
import pyarrow


def column():
    samples = np.arange(1 << 20)
    buffer = pyarrow.foreign_buffer(samples.ctypes.data, samples.nbytes)  # base=samples would keep it
    return pyarrow.Array.from_buffers(pyarrow.int64(), len(samples), [None, buffer])


print(column()[1 << 19])
