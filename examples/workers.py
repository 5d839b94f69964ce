"""Frames handed to worker threads: ``python -m examples.workers``.

The capture's callback gives each frame on as a share and returns at once. A share is one owner more: the
buffer goes back to GStreamer when the last of them is closed, on whatever thread. The queue between them is
bounded, and what finds it full is dropped: frames that are held are buffers that the source does not have.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections import Counter

import gi

gi.require_version("Gst", "1.0")
from gi.repository import Gst

from lifecycle import SafetyManager
from lifecycle.integrations.gstreamer import Capture, Frame, PipelineGuard

SOURCE = "videotestsrc is-live=true ! video/x-raw,format=RGB,width=640,height=480,framerate=60/1"


class Pool:
    """Some workers, and what waits for them."""

    def __init__(self, workers: int, waiting: int) -> None:
        self.frames: queue.Queue[Frame | None] = queue.Queue(waiting)
        self.done: Counter[str] = Counter()
        self.dropped = 0
        self.threads = [
            threading.Thread(target=self._work, name=f"worker{number}") for number in range(workers)
        ]
        for thread in self.threads:
            thread.start()

    def give(self, frame: Frame) -> None:
        """Called by the capture, whose frame ends with the call."""
        share = frame.share()
        try:
            self.frames.put_nowait(share)
        except queue.Full:
            share.close()
            self.dropped += 1

    def _work(self) -> None:
        while (frame := self.frames.get()) is not None:
            with frame:  # given back here, whatever happens
                frame.array()[::8, ::8].mean()
                time.sleep(0.02)
            self.done[threading.current_thread().name] += 1

    def close(self) -> None:
        """Let them finish what waits."""
        for _ in self.threads:
            self.frames.put(None)
        for thread in self.threads:
            thread.join()


def run(seconds: float = 2.0) -> Counter[str]:
    """Work for some seconds; how many frames each worker did."""
    Gst.init(None)
    with SafetyManager(name="workers") as manager:
        pool = Pool(workers=3, waiting=4)
        with PipelineGuard(
            manager, f"{SOURCE} ! appsink name=frames max-buffers=2 drop=true sync=false"
        ) as pipeline:
            with Capture(manager, pipeline["frames"]) as capture:
                capture.on_frame(pool.give)
                pipeline.play(0)
                time.sleep(seconds)
        pool.close()
        print(
            ", ".join(f"{name}: {count}" for name, count in sorted(pool.done.items())),
            f"- dropped: {pool.dropped}",
        )
        return pool.done


if __name__ == "__main__":
    sys.exit(0 if run() else 1)
