"""Guarded: OrtValue.numpy() shares memory with the array that the value was made from, and keeps neither.

pip install onnxruntime numpy
"""

import numpy as np
import onnxruntime

from lifecycle import SafetyManager

manager = SafetyManager()


def tensor():
    picture = np.full(1 << 20, 7, np.uint8)
    value = onnxruntime.OrtValue.ortvalue_from_numpy(picture)
    return manager.register(value, release=None, keep_alive=picture).array(value.numpy())


print(tensor()[1000])
