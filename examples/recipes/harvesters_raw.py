"""An array over a camera's buffer is kept beyond its `with` block, which requeues the buffer.

pip install harvesters genicam (simulated cameras are in genicam's wheel: viky.cti)
"""

import pathlib

import genicam
from harvesters.core import Harvester

harvester = Harvester()
harvester.add_file(str(pathlib.Path(genicam.__file__).with_name("viky.cti")))
harvester.update()
camera = harvester.create(0)
camera.start()
with camera.fetch(timeout=5) as buffer:
    picture = buffer.payload.components[0].data  # no copy
    brightness = picture.mean()
for _ in range(3):
    with camera.fetch(timeout=5):
        pass
print("brightness when it came:", brightness, "now:", picture.mean())
camera.stop()
camera.destroy()
harvester.reset()
