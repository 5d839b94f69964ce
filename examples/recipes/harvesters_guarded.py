"""Guarded: an array over a camera's buffer is kept beyond its `with` block, which requeues the buffer.

pip install harvesters genicam (simulated cameras are in genicam's wheel: viky.cti)
"""

import pathlib

import genicam
from harvesters.core import Harvester

from lifecycle import SafetyManager
from lifecycle.proxies import VIEW, Child, handle_of

manager = SafetyManager()

harvester = Harvester()
harvester.add_file(str(pathlib.Path(genicam.__file__).with_name("viky.cti")))
harvester.update()
camera = harvester.create(0)
camera.start()
with manager.proxy(
    camera.fetch(timeout=5),
    release="__exit__",
    children={"payload": Child(None, children={"components": Child(None, children={"data": VIEW})})},
) as buffer:
    picture = buffer.payload.components[0].data  # no copy
    brightness = picture.mean()
for _ in range(3):
    with camera.fetch(timeout=5):
        pass
print("brightness when it came:", brightness, "now:", picture.mean())
del picture
handle_of(buffer).close(timeout=5)  # waits until nobody reads it: the buffer is queued again
camera.stop()
camera.destroy()
harvester.reset()
