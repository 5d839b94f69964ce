"""A surface draws into an array that nobody else keeps.

pip install skia-python numpy
"""

import numpy as np
import skia


def canvas():
    return skia.Surface(np.zeros((1000, 1000, 4), np.uint8))


surface = canvas()
surface.getCanvas().clear(skia.ColorRED)
print(surface.makeImageSnapshot().tobytes()[:4])
