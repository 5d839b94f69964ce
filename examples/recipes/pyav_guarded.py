"""Guarded: the first frame is taken to look at it, the container is closed, and the generator goes on.

pip install av numpy
"""

import pathlib
import tempfile

import av
import numpy as np

from lifecycle import AccessRefusedError, SafetyManager

manager = SafetyManager()

path = str(pathlib.Path(tempfile.mkdtemp()) / "clip.mp4")
with av.open(path, "w") as out:
    stream = out.add_stream("mpeg4", rate=30)
    stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
    for shade in range(0, 240, 4):
        frame = av.VideoFrame.from_ndarray(np.full((240, 320, 3), shade, np.uint8), format="rgb24")
        out.mux(stream.encode(frame))
    out.mux(stream.encode())


def open_video(path):
    with manager.proxy(av.open(path), release="close") as container:
        frames = container.decode(video=0)
        return next(frames), frames


first, rest = open_video(path)
print(first.width, first.height, flush=True)
try:
    print(sum(1 for _ in rest), "more")
except AccessRefusedError as error:
    print(error)
