"""A camera, else the screen, else a test picture: ``python -m examples.camera``.

Which source works is known only when it delivers: each is tried with a deadline, and what it says when it
fails is printed. A pipeline that never starts, or a device that hangs, ends in an error here, not in a
program that stands still.
"""

from __future__ import annotations

import sys

import gi

gi.require_version("Gst", "1.0")
from gi.repository import Gst

from lifecycle import SafetyManager
from lifecycle.integrations.gstreamer import Capture, GStreamerError, PipelineGuard

SOURCES = {
    "camera": "v4l2src",
    "screen": "ximagesrc use-damage=false",
    "test picture": "videotestsrc is-live=true pattern=smpte",
}
"""In the order in which they are tried."""
FIRST_FRAME = 5.0
"""Seconds within which a source must have delivered."""


def open_source(manager: SafetyManager, sources: dict[str, str]) -> tuple[str, PipelineGuard, Capture]:
    """The first source that delivers, its pipeline and a capture. Raises what the last one failed with."""
    failed: Exception | None = None
    for name, source in sources.items():
        pipeline = capture = None
        try:
            text = (
                f"{source} ! videoconvert ! video/x-raw,format=RGB ! "
                "appsink name=frames max-buffers=1 drop=true sync=false"
            )
            pipeline = PipelineGuard(manager, text, name=name)
            capture = Capture(manager, pipeline["frames"], name=name)
            pipeline.play(FIRST_FRAME)
            frames = capture.frames(timeout=FIRST_FRAME)
            for _ in frames:
                break
            frames.close()
            return name, pipeline, capture
        except GStreamerError as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed = error
            for part in (capture, pipeline):
                if part is not None:
                    part.close()
    raise failed or ValueError("no sources were given")


def run(frames: int = 30, sources: dict[str, str] | None = None) -> str:
    """Show so many frames; the source's name."""
    Gst.init(None)
    with SafetyManager(name="camera") as manager:
        name, pipeline, capture = open_source(manager, sources or SOURCES)
        with pipeline, capture:
            for number, frame in enumerate(capture.frames(timeout=FIRST_FRAME)):
                if number == 0:
                    print(f"{name}: {frame.width} × {frame.height} {frame.format}")
                if number + 1 >= frames:
                    break
        return name


if __name__ == "__main__":
    run()
