"""Guarded: a surface draws into an array that nobody else keeps.

pip install skia-python numpy
"""

import numpy as np
import skia

from lifecycle import SafetyManager

manager = SafetyManager()


def canvas():
    pixels = np.zeros((1000, 1000, 4), np.uint8)
    memory = manager.register(pixels, release=None)
    return manager.proxy(skia.Surface(pixels), release=None, children={skia.Canvas: None}, parent=memory)


surface = canvas()
surface.getCanvas().clear(skia.ColorRED)
print(surface.makeImageSnapshot().tobytes()[:4])
