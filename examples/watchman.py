"""A camera, an analysis, and two recorders that come and go: ``python -m examples.watchman``.

The analysis looks at every picture that it has time for. The first recorder runs while something moves, and
a while longer; the second when somebody asks for it (``kill -USR1``, once to start it and once to end it).
Both join and leave while the camera plays: each file is complete, and nobody else misses a picture.

``--source`` is what delivers pictures, in GStreamer's words (``v4l2src`` for a camera); by default a test
picture in which a ball comes and goes. ``--folder`` is where the files go, ``--pictures`` how many are looked
at.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gi
import numpy as np

gi.require_version("Gst", "1.0")
from gi.repository import Gst

from examples.analyser import moved
from lifecycle import SafetyManager
from lifecycle.integrations.gstreamer import Branch, PipelineGuard, Tee

TEST_PICTURE = "videotestsrc is-live=true name=camera pattern=black"
FORMAT = "video/x-raw,format=I420,width=320,height=240,framerate=30/1"
QUIET = 20
"""So many pictures without movement end a recording."""


class Recorder:
    """Records while `wanted`. Each time is a file of its own."""

    def __init__(self, tee: Tee, folder: Path, name: str) -> None:
        self.tee, self.folder, self.name = tee, folder, name
        self.files: list[Path] = []
        self.branch: Branch | None = None

    def wanted(self, wanted: bool) -> None:
        """Join the camera, leave it, or go on as it is."""
        if self.branch is not None and self.branch.end is not None:
            # A full disk, a file system that is gone: the branch has left by itself, and nobody else noticed.
            print(f"{self.name}: {self.branch.end.reason}: {self.branch.end.error}", file=sys.stderr)
            self._leave()
        if wanted and self.branch is None:
            self._join()
        elif not wanted and self.branch is not None:
            self._leave()

    def _join(self) -> None:
        path = self.folder / f"{self.name}-{len(self.files)}.mkv"
        # Every picture counts here, and the disk may stall: three seconds of them, then the oldest go.
        queue = Gst.ElementFactory.make("queue")
        for limit in ("max-size-bytes", "max-size-time"):
            queue.set_property(limit, 0)
        queue.set_property("max-size-buffers", 90)
        queue.set_property("leaky", 2)
        text = f'videoconvert ! jpegenc ! matroskamux ! filesink location="{path}"'
        self.branch = self.tee.attach(text, name=f"{self.name}-{len(self.files)}", queue=queue, eos=3)
        self.files.append(path)
        print(f"{self.name}: {path}")

    def _leave(self) -> None:
        if self.branch is not None:
            # The end of the stream goes through this branch alone, so that its file gets its index.
            self.branch.close()
            self.branch = None


def run(
    folder: Path,
    source: str = TEST_PICTURE,
    pictures: int = 300,
    asked_for: Callable[[int], bool] = lambda number: False,
    scene: Callable[[int, Any], None] = lambda number, pipeline: None,
    quiet: int = QUIET,
) -> dict[str, list[Path]]:
    """Look at so many pictures; the files of each recorder. `asked_for(number)` says whether the second
    recorder is wanted at that picture; `scene(number, pipeline)` may change what the camera sees."""
    Gst.init(None)
    with SafetyManager(name="watchman") as manager:
        pipeline = PipelineGuard(manager, f"{source} ! videoconvert ! {FORMAT} ! tee name=t", name="camera")
        tee = Tee(manager, pipeline, "t")
        with pipeline:
            recorders = [Recorder(tee, folder, "movement"), Recorder(tee, folder, "asked-for")]
            analysis = tee.attach(
                "videoconvert ! video/x-raw,format=GRAY8 ! appsink max-buffers=1 drop=true sync=false",
                name="analysis",
            )
            with analysis, analysis.capture() as capture:
                pipeline.play(0)
                before: np.ndarray[Any, Any] | None = None
                still = quiet
                for number, frame in enumerate(capture.frames(timeout=10)):
                    now = frame.array()
                    seen = before is not None and moved(before, now) is not None
                    still = 0 if seen else still + 1
                    before = now
                    recorders[0].wanted(still < quiet)
                    recorders[1].wanted(asked_for(number))
                    scene(number, pipeline)
                    if number + 1 >= pictures:
                        break
            for recorder in recorders:
                recorder.wanted(False)
    return {recorder.name: recorder.files for recorder in recorders}


def comes_and_goes(number: int, pipeline: Any) -> None:
    """The test picture: a ball for 20 pictures of every 60."""
    if number % 60 in (15, 35):
        pipeline["camera"].set_property("pattern", "ball" if number % 60 == 15 else "black")


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--source", default=TEST_PICTURE)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--pictures", type=int, default=300)
    asked = parser.parse_args()
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="watchman-"))
    folder.mkdir(parents=True, exist_ok=True)
    recording = [False]

    def toggle(*_: Any) -> None:
        recording[0] = not recording[0]

    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, toggle)
        print(f"kill -USR1 {os.getpid()} starts and ends the second recorder")
    scene = comes_and_goes if asked.source == TEST_PICTURE else (lambda number, pipeline: None)
    for name, files in run(folder, asked.source, asked.pictures, lambda number: recording[0], scene).items():
        for path in files:
            print(f"{name}: {path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
