"""Looking at a live source: ``python -m examples.analyser``. What moves is found as in any OpenCV program, on
arrays without a copy.

The frame before is kept as an array, which keeps its buffer; so nothing is copied, and nothing is read after
it was given back.
"""

from __future__ import annotations

import sys
from typing import Any

import gi
import numpy as np

gi.require_version("Gst", "1.0")
from gi.repository import Gst

from lifecycle import SafetyManager
from lifecycle.integrations.gstreamer import Capture, PipelineGuard

SOURCE = (
    "videotestsrc is-live=true pattern=ball motion=sweep ! "
    "video/x-raw,format=GRAY8,width=320,height=240,framerate=30/1"
)


def moved(before: np.ndarray[Any, Any], now: np.ndarray[Any, Any]) -> tuple[int, int] | None:
    """The middle of what has changed between two pictures, as (x, y)."""
    changed = np.abs(now.astype(np.int16) - before) > 40
    if changed.sum() < 20:
        return None
    rows, columns = np.nonzero(changed)
    return int(columns.mean()), int(rows.mean())


def run(frames: int = 90, source: str = SOURCE) -> int:
    """Look at so many frames; in how many something moved."""
    Gst.init(None)
    seen = 0
    before: np.ndarray[Any, Any] | None = None
    with SafetyManager(name="analyser") as manager:
        # appsink's own queue: one frame, the newest. What we are too slow for is not kept.
        text = (
            f"{source} ! videoconvert ! video/x-raw,format=GRAY8 ! "
            "appsink name=frames max-buffers=1 drop=true sync=false"
        )
        with PipelineGuard(manager, text) as pipeline, Capture(manager, pipeline["frames"]) as capture:
            pipeline.play(0)
            for number, frame in enumerate(capture.frames(timeout=10)):
                now = frame.array()
                place = moved(before, now) if before is not None else None
                if place is not None:
                    seen += 1
                    if seen % 15 == 1:
                        print(f"frame {number}: something moves at {place}")
                before = now
                if number + 1 == frames:
                    break
        del frame, now, before
    return seen


if __name__ == "__main__":
    sys.exit(0 if run() else 1)
