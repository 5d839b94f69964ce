"""Guarded: the memory of ImageSurface.get_data() is used after finish().

apt install python3-cairo
"""

import cairo

from lifecycle import SafetyManager

manager = SafetyManager()

surface = manager.proxy(cairo.ImageSurface(cairo.FORMAT_ARGB32, 1000, 1000), release="finish")
pixels = surface.get_data()
surface.finish()
print(pixels[2_000_000])
del pixels  # the last that held it: it is released now
