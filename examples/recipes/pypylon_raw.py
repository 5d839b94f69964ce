"""An array over a grab result is kept after Release(), and after the camera is closed.

pip install pypylon numpy (the vendor's camera emulator is in the wheel)
"""

import os

os.environ["PYLON_CAMEMU"] = "1"

import numpy as np
from pypylon import pylon

camera = pylon.InstantCamera(pylon.TlFactory.GetInstance().CreateFirstDevice())
camera.Open()
camera.GetNodeMap().GetNode("TestImageSelector").SetValue("Testimage2")  # moves from frame to frame
camera.StartGrabbing()
result = camera.RetrieveResult(5000)
picture = np.frombuffer(result.GetMemoryView(), np.uint8)
result.Release()
before = picture[:8].copy()
for _ in range(30):
    camera.RetrieveResult(5000).Release()
print("kept:", before, "now:", picture[:8], flush=True)
camera.StopGrabbing()
camera.Close()
print(picture.mean())
