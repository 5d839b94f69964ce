"""Recording on demand from a pipeline that plays on: ``python -m examples.recorder``.

A recording is a branch of the tee. It joins when somebody says so and leaves when they say so; its file is
complete, since closing it sends the end of the stream through the branch alone. The preview never notices.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import gi

gi.require_version("Gst", "1.0")
from gi.repository import Gst

from lifecycle import SafetyManager
from lifecycle.integrations.gstreamer import Branch, PipelineGuard, Tee

# The format is fixed: otherwise the source may choose another when a branch joins, and a muxer takes one
# format only.
SOURCE = "videotestsrc is-live=true ! video/x-raw,format=I420,width=320,height=240,framerate=30/1"


class Recorder:
    """Starts and ends recordings while the source plays."""

    def __init__(self, manager: SafetyManager, source: str = SOURCE) -> None:
        self.pipeline = PipelineGuard(manager, f"{source} ! tee name=t", name="camera")
        self.tee = Tee(manager, self.pipeline, "t")
        self.preview = self.tee.attach(
            "fakesink name=screen sync=false"
        )  # an autovideosink in a program with a screen

    def record(self, path: Path) -> Branch:
        """Record into `path` until the branch is closed. Every frame counts, so the queue is roomy; the disk
        may stall for a while."""
        queue = Gst.ElementFactory.make("queue")
        queue.set_property("max-size-buffers", 120)
        queue.set_property("max-size-bytes", 0)
        queue.set_property("max-size-time", 0)
        return self.tee.attach(
            f"videoconvert ! jpegenc ! matroskamux ! filesink location={path}",
            queue=queue,
            eos=3,
            on_error=lambda error: print(f"recording to {path} failed: {error}", file=sys.stderr),
        )

    def close(self) -> None:
        """The preview, then the pipeline."""
        self.preview.close()
        self.pipeline.close()


def run(folder: Path | None = None, clips: int = 2, seconds: float = 1.0) -> list[Path]:
    """Record some clips, two of them at a time; the files."""
    Gst.init(None)
    folder = folder or Path(tempfile.mkdtemp(prefix="recorder-"))
    files = [folder / f"clip{number}.mkv" for number in range(clips)]
    with SafetyManager(name="recorder") as manager:
        recorder = Recorder(manager)
        recorder.pipeline.play()
        running: list[Branch] = []
        for path in files:
            running.append(recorder.record(path))
            time.sleep(seconds / 2)
        time.sleep(seconds / 2)
        for clip in running:
            clip.close()
        recorder.close()
    for path in files:
        print(f"{path}: {path.stat().st_size} bytes")
    return files


if __name__ == "__main__":
    run()
