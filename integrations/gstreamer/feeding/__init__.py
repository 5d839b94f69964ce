"""Feeding: pictures made in Python, given to GStreamer, and known to be out until it has let go of them.

- `feeder`: what is given to an appsrc
- `fitting`: whether an array is the picture that the caps describe
- `lent`: memory for pictures, used again
- `pool`: the buffers of a pool
- `loans`, `fence`: how GStreamer tells that it has let go
"""
