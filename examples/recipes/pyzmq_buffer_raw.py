"""A buffer is filled again after send(copy=False), before the message is gone.

pip install pyzmq numpy
"""

import numpy as np
import zmq

context = zmq.Context()
camera, screen = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
camera.bind("inproc://pictures")
screen.connect("inproc://pictures")

picture = np.zeros(1 << 20, np.uint8)  # one buffer, used for each frame
for number in (1, 2, 3):
    picture[:] = number
    camera.send(picture, copy=False)
print([screen.recv()[0] for _ in range(3)], "instead of [1, 2, 3]")
context.destroy()
