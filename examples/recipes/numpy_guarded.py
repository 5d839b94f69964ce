"""Guarded: an address is taken from an array and outlives it, as in every SDK that wants pointers.

pip install numpy
"""

import ctypes

import numpy as np

from lifecycle import SafetyManager

manager = SafetyManager()


def address_of_a_picture():
    picture = np.full((1000, 1000), 7, np.uint8)
    return manager.register(picture.ctypes.data, "picture", release=None, keep_alive=picture)


with address_of_a_picture() as handle, handle.lease() as address:
    pointer = ctypes.cast(address, ctypes.POINTER(ctypes.c_ubyte))
    print(np.ctypeslib.as_array(pointer, (1000, 1000))[500, 500])
