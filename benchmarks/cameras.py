"""``python -m benchmarks.cameras``: cameras whose branches come and go, for as long as wanted.

Each camera has a viewer that stays, a recorder that begins a new file every few seconds, and guests: viewers,
snapshots that end by themselves, branches that fail, slow ones, and some that are refused since they cannot
take what is sent. What is
asked is whether anything piles up: resident memory, threads and living objects along the way, how old the
viewers' frames are, whether each file is whole, and what is left when all is closed.

``--seconds``, ``--cameras`` and ``--out`` say how long, how many and where the figures go (JSON, and an SVG
where matplotlib is installed). ``--plot FILE`` draws the figures of an earlier run again.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

SIZE = "video/x-raw,format=I420,width=320,height=240,framerate=15/1"
SOURCE = f"videotestsrc is-live=true pattern=ball ! {SIZE} ! tee name=t"
RECORDER = "videorate ! jpegenc ! matroskamux ! filesink location={}"
GUESTS = {
    "viewer": "appsink sync=false max-buffers=2 drop=true",
    "snapshot": "jpegenc snapshot=true ! fakesink",
    "failing": "identity error-after=5 ! fakesink",
    "misfit": "capsfilter caps=video/x-raw,format=I420,width=64,height=48 ! fakesink",
    "sleeping": "identity sleep-time=200000 ! fakesink sync=false",
}
"""What comes for a while, by kind."""
FILE_SECONDS = 10.0
"""Seconds of a recording, before the next one begins."""
GUEST_SECONDS = 2.0
"""Seconds for which a guest stays, between a fifth and the double."""


class Camera:
    """One pipeline, its viewer, its recorder and its guests."""

    def __init__(self, manager: Any, number: int, folder: Path, clock: Any) -> None:
        from lifecycle.integrations.gstreamer import PipelineGuard, Tee

        self.number, self.folder = number, folder
        self.pipeline = PipelineGuard(manager, SOURCE, name=f"camera{number}")
        self.pipeline.pipeline.use_clock(clock)
        self.tee = Tee(manager, self.pipeline, "t")
        self.ages: list[float] = []
        self.frames = 0
        self.whole = self.broken = self.late = 0
        self.came: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self._clock = clock
        self._files = itertools.count()
        self.guests: list[tuple[str, Any, float]] = []
        self.viewer = self.tee.attach("appsink sync=false max-buffers=4 drop=true", name=f"viewer{number}")
        self.viewer.capture().on_frame(self._look)
        self._record()
        self.pipeline.play()

    def _look(self, frame: Any) -> None:
        frame.planes()[0][::16, ::16].mean()
        self.frames += 1
        base = self.pipeline.pipeline.get_base_time()
        self.ages.append((self._clock.get_time() - base - frame.pts) / 1e6)

    def _record(self) -> None:
        self.file = self.folder / f"{self.number}-{next(self._files)}.mkv"
        self.until = time.monotonic() + FILE_SECONDS * random.uniform(0.7, 1.3)
        queue = self._queue()
        self.recorder = self.tee.attach(
            RECORDER.format(self.file), name=f"recorder-{self.file.stem}", queue=queue, eos=20.0
        )

    @staticmethod
    def _queue() -> Any:
        from lifecycle.integrations.gstreamer._native import Gst

        queue = Gst.ElementFactory.make("queue")
        queue.set_property("max-size-time", 3 * Gst.SECOND)
        return queue

    def _finish_file(self) -> None:
        if not self.recorder.close():
            self.late += 1
        data = self.file.read_bytes()
        # A matroska that was finished has its index: the element Cues.
        if b"\x1c\x53\xbb\x6b" in data:
            self.whole += 1
        else:
            self.broken += 1
        self.file.unlink()

    def step(self) -> None:
        """What is due now."""
        from lifecycle.integrations.gstreamer import LinkError

        now = time.monotonic()
        if now >= self.until:
            self._finish_file()
            self._record()
        for entry in list(self.guests):
            kind, branch, until = entry
            if now >= until:
                end = branch.end
                self.ended[f"{kind}: {'closed' if end is None else end.reason}"] += 1
                branch.close()
                self.guests.remove(entry)
        while len(self.guests) < 2:
            kind = random.choice(list(GUESTS))
            self.came[kind] += 1
            try:
                branch = self.tee.attach(GUESTS[kind])
            except LinkError:
                self.ended[f"{kind}: refused"] += 1
                break
            if kind == "viewer":
                branch.capture().on_frame(lambda frame: frame.planes()[0].mean())
            self.guests.append((kind, branch, now + GUEST_SECONDS * random.uniform(0.2, 2.0)))

    def close(self) -> None:
        """All of it."""
        self._finish_file()
        for _, branch, _ in self.guests:
            branch.close()
        self.guests.clear()
        self.viewer.close()
        self.pipeline.close()


def percentile(values: list[float], share: float) -> float:
    """Of a list; 0.0 where it is empty."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def run(cameras: int, seconds: float) -> dict[str, Any]:
    """One run, and what was seen of it."""
    import logging

    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    from lifecycle import SafetyConfig, SafetyManager
    from lifecycle.integrations.gstreamer._native import Gst
    from lifecycle.integrations.gstreamer.pipelines.figures import figures_of

    Gst.init(None)
    clock = Gst.SystemClock.obtain()
    # A file is finished within `eos`, which has to be less.
    config = SafetyConfig(finalizer_timeout=30.0, shutdown_timeout=60.0)
    process = psutil.Process()
    points: list[dict[str, float]] = []
    before = threading.active_count(), process.num_threads()
    with tempfile.TemporaryDirectory() as folder, SafetyManager(config, name="cameras") as manager:
        made = [Camera(manager, number, Path(folder), clock) for number in range(cameras)]
        began = due = time.monotonic()
        every = max(1.0, seconds / 600)
        while time.monotonic() - began < seconds:
            for camera in made:
                camera.step()
            if time.monotonic() >= due:
                due += every
                ages = []
                for camera in made:
                    ages += camera.ages
                    camera.ages = []
                stats = manager.stats()
                points.append(
                    {
                        "at": time.monotonic() - began,
                        "rss": process.memory_info().rss / 1e6,
                        "threads": process.num_threads(),
                        "live": stats.active_objects,
                        "frames": sum(camera.frames for camera in made),
                        "p50": percentile(ages, 0.5),
                        "p99": percentile(ages, 0.99),
                        "files": len(os.listdir(folder)),
                    }
                )
            time.sleep(0.05)
        elapsed = time.monotonic() - began
        cpu = sum(process.cpu_times()[:2])
        errors = [str(error) for camera in made for error in camera.pipeline.errors]
        for camera in made:
            camera.close()
        figures = figures_of(manager).stats()
        gc.collect()
        until = time.monotonic() + 10
        while manager.stats().active_objects and time.monotonic() < until:
            time.sleep(0.05)
        stats = manager.stats()
    time.sleep(1)
    return {
        "machine": f"{os.cpu_count()} cores, CPython {platform.python_version()}, {Gst.version_string()}",
        "cameras": cameras,
        "seconds": elapsed,
        "cpu": cpu,
        "load": os.getloadavg()[2],
        "points": points,
        "frames": sum(camera.frames for camera in made),
        "came": dict(sum((camera.came for camera in made), Counter())),
        "ended": dict(sum((camera.ended for camera in made), Counter())),
        "branches ended": dict(figures.ended),
        "unfinished": figures.unfinished,
        "files": {
            "whole": sum(camera.whole for camera in made),
            "broken": sum(camera.broken for camera in made),
            "closed late": sum(camera.late for camera in made),
        },
        "left": stats.active_objects,
        "panics": stats.panics,
        "leaks": stats.leaks,
        "errors of pipelines": errors,
        "threads before and after": [*before, threading.active_count(), process.num_threads()],
    }


def growth(points: list[dict[str, float]], what: str) -> float:
    """By how much `what` grows in an hour, by least squares over all but the first 15 % of the run."""
    import numpy as np

    late = [point for point in points if point["at"] >= 0.15 * points[-1]["at"]]
    return float(np.polyfit([point["at"] for point in late], [point[what] for point in late], 1)[0]) * 3600


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw memory, threads and ages. Needs matplotlib."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "cameras"
    from matplotlib import pyplot

    points = result["points"]
    minutes = [point["at"] / 60 for point in points]
    figure, axes = pyplot.subplots(3, 1, sharex=True, figsize=(9, 6.5))
    for axis, unit, lines in (
        (axes[0], "MB", {"rss": "resident memory"}),
        (axes[1], "", {"threads": "threads", "live": "registered objects that live"}),
        (axes[2], "ms", {"p50": "age of a viewer's frame, median", "p99": "p99"}),
    ):
        for what, label in lines.items():
            axis.plot(minutes, [point[what] for point in points], label=label, linewidth=1)
        axis.set_ylim(bottom=0)
        axis.set_ylabel(unit)
        axis.grid(alpha=0.3)
        axis.legend(loc="lower right", fontsize=8)
    axes[0].set_title(
        f"{result['cameras']} cameras, {sum(result['came'].values())} branches that came and went, "
        f"{result['files']['whole']} recordings, {result['seconds'] / 60:.0f} minutes",
        fontsize=10,
    )
    axes[2].set_xlabel("minutes")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--cameras", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("out/cameras"))
    parser.add_argument("--plot", type=Path, help="draw the figures of this file, and run nothing")
    arguments = parser.parse_args()
    if arguments.plot:
        plot(json.loads(arguments.plot.read_text()), arguments.out / "cameras.svg")
        return 0
    result = run(arguments.cameras, arguments.seconds)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "cameras.json").write_text(json.dumps(result))
    points = result.pop("points")
    for name, value in result.items():
        print(f"{name}: {value}")
    print(
        f"resident memory: {points[0]['rss']:.0f} MB, at the end {points[-1]['rss']:.0f} MB, "
        f"{growth(points, 'rss'):+.1f} MB an hour; threads {growth(points, 'threads'):+.1f} an hour"
    )
    # In a process of its own: what has loaded GStreamer cannot always load matplotlib as well.
    again = [sys.executable, "-m", "benchmarks.cameras", "--out", arguments.out, "--plot"]
    if subprocess.run([*again, arguments.out / "cameras.json"], check=False).returncode:
        print("no plot: it needs matplotlib")
    wrong = result["left"] or result["files"]["broken"] or result["unfinished"] or result["leaks"]
    return 1 if wrong or result["errors of pipelines"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
