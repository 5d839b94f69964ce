"""Guarded: a buffer is filled again after send(copy=False), before the message is gone.

pip install pyzmq numpy
"""

import numpy as np
import zmq

from lifecycle import BufferPool, SafetyManager

manager = SafetyManager()

context = zmq.Context()
camera, screen = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
camera.bind("inproc://pictures")
screen.connect("inproc://pictures")

pool = BufferPool(manager, 1 << 20, 4)
for number in (1, 2, 3):
    with pool.get(timeout=1) as buffer:
        picture = np.frombuffer(buffer.view(), np.uint8)
        picture[:] = number
        camera.send(picture, copy=False)
print([screen.recv()[0] for _ in range(3)], "instead of [1, 2, 3]")
del picture
context.destroy()
