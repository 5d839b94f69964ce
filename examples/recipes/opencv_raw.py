"""The Stop button calls release() while another thread is inside VideoCapture.read().

pip install opencv-python-headless
"""

import pathlib
import tempfile
import threading
import time

import cv2
import numpy as np

path = str(pathlib.Path(tempfile.mkdtemp()) / "clip.avi")
writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), 30, (640, 480))
for shade in range(0, 240, 2):
    writer.write(np.full((480, 640, 3), shade, np.uint8))
writer.release()


def play(capture):
    while capture.read()[0]:
        pass


for _ in range(300):
    capture = cv2.VideoCapture(path)
    thread = threading.Thread(target=play, args=(capture,))
    thread.start()
    time.sleep(0.003)
    capture.release()  # «stop»
    thread.join()
print("survived")
