"""The GPU: what it uses is leased to it, and what it made is released where that is valid.

- `opengl`, `offscreen`: whatever OpenGL context is current; one without a window
- `moderngl`, `pyglet`, `qt`, `vispy`: contexts of theirs, adopted
- `wgpu`: wgpu-py, guarded
- `errors`, `defaults`, `log`: the errors; the manager of those who name none; what is logged where asked for
- `_native`: OpenGL's and EGL's C interface
"""
