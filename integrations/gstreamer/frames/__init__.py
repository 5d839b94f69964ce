"""Frames: what is in a buffer, read or written where it lies.

- `adapter`: from samples and caps to frames
- `frame`, `facts`: a frame for reading; what it can tell without looking into its memory
- `held`: what a frame registers, and the table by which a memory is mapped once
- `writable`: a frame for writing
- `metas`: what elements have written beside a buffer, and in which memories its bytes lie
- `gl`: a picture in OpenGL's memory, as a texture
- `pictures`: pictures for Pillow
- `formats`, `planes`, `audio`: what caps say, and the arrays that pictures and sound are
"""
