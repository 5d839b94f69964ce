"""An array over QImage.constBits() is kept, the image is not.

pip install PySide6-Essentials numpy
"""

import numpy as np
from PySide6.QtGui import QImage


def pixels():
    image = QImage(1000, 1000, QImage.Format.Format_RGBA8888)
    image.fill(0x07070707)
    return np.frombuffer(image.constBits(), np.uint8).reshape(1000, 1000, 4)


picture = pixels()
print(picture[500, 500])
