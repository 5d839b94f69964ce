"""wgpu-py: what aborts the process raises at the line that did it, and what the device uses is leased to it.

::

    device = guard(adapter.request_device_sync())     # first thing
    texture = own(device.create_texture(...))         # or go on as before: destroy() is right at any moment
    with timeline(device).submission() as work:
        ...
        device.queue.submit([encoder.finish()])
        work.use(frame)

- `guard`: a device whose misuse raises before it reaches native code
- `owning`: wgpu's objects as objects of a manager; mapped memory
- `frames`: pictures in textures, shared with whoever draws them
- `doors`: what the guard knows of each object, and what a recording uses
- `fences`: the device's timeline
"""

from __future__ import annotations

from lifecycle.integrations.gpu.wgpu.doors import GPUMisuseError
from lifecycle.integrations.gpu.wgpu.fences import timeline
from lifecycle.integrations.gpu.wgpu.frames import VideoFrame
from lifecycle.integrations.gpu.wgpu.guard import guard, guarded
from lifecycle.integrations.gpu.wgpu.owning import mapped, own

__all__ = ["GPUMisuseError", "VideoFrame", "guard", "guarded", "mapped", "own", "timeline"]
