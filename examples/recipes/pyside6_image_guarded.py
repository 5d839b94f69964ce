"""Guarded: an array over QImage.constBits() is kept, the image is not.

pip install PySide6-Essentials numpy
"""

import numpy as np
from PySide6.QtGui import QImage

from lifecycle import SafetyManager

manager = SafetyManager()


def pixels():
    image = manager.proxy(QImage(1000, 1000, QImage.Format.Format_RGBA8888), release=None)
    image.fill(0x07070707)
    return np.frombuffer(image.constBits(), np.uint8).reshape(1000, 1000, 4)


picture = pixels()
print(picture[500, 500])
del picture  # the last that held it: it is released now
