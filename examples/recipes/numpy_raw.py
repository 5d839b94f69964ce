"""An address is taken from an array and outlives it, as in every SDK that wants pointers.

pip install numpy
"""

import ctypes

import numpy as np


def address_of_a_picture():
    picture = np.full((4000, 4000), 7, np.uint8)
    return picture.ctypes.data  # a number; the array goes at the end of this line


address = address_of_a_picture()
pointer = ctypes.cast(address, ctypes.POINTER(ctypes.c_ubyte))
print(np.ctypeslib.as_array(pointer, (4000, 4000))[2000, 2000])
