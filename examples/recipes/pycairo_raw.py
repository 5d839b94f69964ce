"""The memory of ImageSurface.get_data() is used after finish().

apt install python3-cairo
"""

import cairo

surface = cairo.ImageSurface(cairo.FORMAT_ARGB32, 1000, 1000)
pixels = surface.get_data()
surface.finish()
print(pixels[2_000_000])
