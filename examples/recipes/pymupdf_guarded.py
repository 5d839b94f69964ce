"""Guarded: an array over Pixmap.samples_mv is kept, the pixmap is not.

pip install pymupdf numpy
"""

import numpy as np
import pymupdf

from lifecycle import SafetyManager

manager = SafetyManager()


def render():
    with pymupdf.open() as document:
        pixmap = manager.proxy(document.new_page(width=1000, height=1000).get_pixmap(), release=None)
        return np.frombuffer(pixmap.samples_mv, np.uint8)


pages = [render() for _ in range(4)]
print([int((page == 255).sum()) for page in pages], "white bytes of", pages[0].size, "each")
del pages  # the last that held it: it is released now
