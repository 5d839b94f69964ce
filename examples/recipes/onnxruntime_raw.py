"""OrtValue.numpy() shares memory with the array that the value was made from, and keeps neither.

pip install onnxruntime numpy
"""

import numpy as np
import onnxruntime


def tensor():
    picture = np.full(1 << 20, 7, np.uint8)
    value = onnxruntime.OrtValue.ortvalue_from_numpy(picture)
    return value.numpy()


print(tensor()[1000])
