"""A camera through the GPU: ``python -m examples.gl_camera``.

A live source of GStreamer (a camera with ``--device``, a test picture without) is written into a ring of
three slots that the device reads in place. It goes through processors that come and go while it runs, and
every picture is compared with the frame that it was made of. The context is lost in the middle (key ``c``, or
``--lose-at``) and made again. At the end it says what was in flight, what was torn, and what is left.

``--unsafe`` takes the safety off: one slot, that is written again while the device still reads it. The
picture is torn, and saved. ``--wgpu`` does the same with wgpu, ``--window`` shows it in a window of Qt.

- `source`: where the frames come from
- `opengl`: upload and processors in OpenGL
- `webgpu`: the same in wgpu
- `window`: in a window of Qt
- `report`: what is in flight, and the sums
"""
