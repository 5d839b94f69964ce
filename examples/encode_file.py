"""Pictures made in NumPy, encoded into a file: ``python -m examples.encode_file [PATH]``.

`Feeder.frame` lends an array in GStreamer's own layout and pushes it at the end of its block, so nothing is
copied. The feeder waits for room, so the encoder's pace is the program's. With ``eos=`` the file is complete
before the pipeline is stopped.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import gi
import numpy as np

gi.require_version("Gst", "1.0")
from gi.repository import Gst

from lifecycle import SafetyManager
from lifecycle.integrations.gstreamer import Feeder, PipelineGuard

WIDTH, HEIGHT, RATE = 320, 240, 30
CAPS = f"video/x-raw,format=RGB,width={WIDTH},height={HEIGHT},framerate={RATE}/1"


def draw(picture: np.ndarray[Any, Any], number: int) -> None:
    """A moving gradient, in place."""
    picture[..., 0] = (np.arange(WIDTH) + 4 * number) % 256
    picture[..., 1] = ((np.arange(HEIGHT) + 2 * number) % 256)[:, None]
    picture[..., 2] = 128


def run(path: Path | None = None, frames: int = 60) -> Path:
    """Encode so many pictures; the file."""
    Gst.init(None)
    path = path or Path(tempfile.mkdtemp(prefix="encode-")) / "pictures.webm"
    with SafetyManager(name="encode") as manager:
        text = f"appsrc name=feed ! videoconvert ! vp8enc deadline=1 ! webmmux ! filesink location={path}"
        with PipelineGuard(manager, text) as pipeline, Feeder(manager, pipeline["feed"], caps=CAPS) as feeder:
            pipeline.play(0)
            step = 10**9 // RATE
            for number in range(frames):
                with feeder.frame(pts=number * step, duration=step, timeout=20) as picture:
                    draw(picture, number)
            feeder.end_of_stream()
            pipeline.wait(20)  # the end has reached the file; raises what an element reports
    print(f"{path}: {path.stat().st_size} bytes")
    return path


if __name__ == "__main__":
    run(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
