"""A file is truncated by its owner while an array over its mapping is in use.

pip install numpy
"""

import mmap
import tempfile

import numpy as np

with tempfile.TemporaryFile() as file:
    file.truncate(1 << 20)
    array = np.frombuffer(mmap.mmap(file.fileno(), 1 << 20), np.uint8)
    print(array[500_000], flush=True)
    file.truncate(0)  # another program, rotating its log
    print(array[500_000])
