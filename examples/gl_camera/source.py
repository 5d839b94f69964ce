"""Where the frames come from: GStreamer, or NumPy where that cannot be had."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from lifecycle import SafetyManager

Picture = np.ndarray[Any, Any]
RATE = 30


def frames(manager: SafetyManager, width: int, height: int, device: str | None) -> Iterator[Picture]:
    """Pictures of ``(height, width, 4)`` bytes, without an end. Each is GStreamer's own memory, and valid
    until the next one is asked for."""
    try:
        import gi

        gi.require_version("Gst", "1.0")
        from gi.repository import Gst

        from lifecycle.integrations.gstreamer import Capture, PipelineGuard
    except (ImportError, ValueError) as error:
        print(f"GStreamer cannot be had here, so NumPy draws the pictures: {error}", file=sys.stderr)
        yield from drawn(width, height)
        return
    Gst.init(None)
    source = f"v4l2src device={device}" if device else "videotestsrc is-live=true pattern=ball motion=sweep"
    text = (
        f"{source} ! videoconvert ! videoscale ! videorate ! video/x-raw,format=RGBA,width={width},"
        f"height={height},framerate={RATE}/1 ! appsink name=frames max-buffers=2 drop=true sync=false"
    )
    with PipelineGuard(manager, text) as pipeline, Capture(manager, pipeline["frames"]) as capture:
        pipeline.play(0)
        for frame in capture.frames(timeout=10):
            yield frame.array()


def drawn(width: int, height: int) -> Iterator[Picture]:
    """A bar that moves over a gradient."""
    ground = np.empty((height, width, 4), np.uint8)
    ground[:] = np.linspace(0, 255, width, dtype=np.uint8)[None, :, None]
    number = 0
    while True:
        picture = ground.copy()
        picture[:, number * 7 % width :][:, :24] = (255, number % 256, 0, 255)
        number += 1
        yield picture
