"""``python -m benchmarks.cameras``: cameras whose branches come and go, for as long as wanted.

Each camera has a viewer that stays, a recorder that begins a new file every few seconds, and guests: viewers,
snapshots that end by themselves, branches that fail, slow ones, and some that are refused since they cannot
take what is sent. The recorders of the first three cameras are finished together. With ``--clients`` one
encoder more is shared out to that many clients at a time, each with a pipeline and an RTP payloader of its
own, which come and go; with ``--crowd`` so many branches join the first camera at once, every few minutes,
and leave when each has had a frame.

What is asked is whether anything piles up: resident memory and what of it is in use, threads and living
objects along the way, how old the viewers' frames are, whether each file is whole, and what is left when all
is closed.

``--seconds``, ``--cameras``, ``--size``, ``--rate`` and ``--out`` say how long, how many, of what, and where
the figures go (JSON, and an SVG where matplotlib is installed). ``--plot FILE`` draws the figures of an
earlier run again.
"""

from __future__ import annotations

import argparse
import ctypes
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

SOURCE = "videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,{} ! {}"
TEE = "tee name=t"
ENCODER = (
    "queue leaky=downstream max-size-buffers=1 ! vp8enc deadline=1 cpu-used=8 keyframe-max-dist=3000 "
    "target-bitrate=100000 ! appsink name=encoded"
)
CLIENT = "appsrc name=feed is-live=true ! rtpvp8pay ! fakesink sync=false async=false"
RECORDER = "videorate skip-to-first=true ! jpegenc ! matroskamux ! filesink location={}"
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
CLIENT_SECONDS = 60.0
"""The same of a client of the encoder."""
CROWD_SECONDS = 300.0
"""Seconds between two crowds."""
TOGETHER = 3
"""How many recorders are finished at the same time."""


class Camera:
    """One pipeline, its viewer, its recorder and its guests."""

    def __init__(self, manager: Any, number: int, folder: Path, clock: Any, size: str) -> None:
        from lifecycle.integrations.gstreamer import PipelineGuard, Tee

        self.number, self.folder = number, folder
        self.pipeline = PipelineGuard(manager, SOURCE.format(size, TEE), name=f"camera{number}")
        self.pipeline.pipeline.use_clock(clock)
        self.tee = Tee(manager, self.pipeline, "t")
        self.ages: list[float] = []
        self.frames = 0
        self.whole = self.broken = self.late = 0
        self.finishing: list[float] = []
        self.came: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self._clock = clock
        self._files = itertools.count()
        self.guests: list[tuple[str, Any, float]] = []
        self.viewer = self.tee.attach("appsink sync=false max-buffers=4 drop=true", name=f"viewer{number}")
        self.viewer.capture().on_frame(self._look)
        self.record()
        self.pipeline.play()

    def _look(self, frame: Any) -> None:
        frame.planes()[0][::16, ::16].mean()
        self.frames += 1
        base = self.pipeline.pipeline.get_base_time()
        self.ages.append((self._clock.get_time() - base - frame.pts) / 1e6)

    def record(self) -> None:
        """Begin a file."""
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

    def finish_file(self) -> None:
        """End it, and look whether it is whole."""
        began = time.perf_counter()
        if not self.recorder.close():
            self.late += 1
        self.finishing.append(1000 * (time.perf_counter() - began))
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
            self.finish_file()
            self.record()
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
        self.finish_file()
        for _, branch, _ in self.guests:
            branch.close()
        self.guests.clear()
        self.viewer.close()
        self.pipeline.close()


class Clients:
    """One encoder, and the clients that share its frames, on a thread of their own."""

    def __init__(self, manager: Any, number: int, size: str) -> None:
        from lifecycle.integrations.gstreamer import Fanout, PipelineGuard

        self.manager, self.number = manager, number
        self.source = PipelineGuard(manager, SOURCE.format(size, ENCODER), name="encoder")
        self.fanout = Fanout(manager, self.source, "encoded")
        self.source.play()
        self.came = self.served = self.sent = self.fell_behind = 0
        self.failed: list[str] = []
        self._here: list[tuple[Any, float]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._come_and_go, name="clients")
        self._thread.start()

    def _come_and_go(self) -> None:
        while not self._stop.wait(0.1):
            for entry in [entry for entry in self._here if entry[1] <= time.monotonic()]:
                self._here.remove(entry)
                self._leave(entry[0])
            while len(self._here) < self.number and not self._stop.is_set():
                self._join()

    def _join(self) -> None:
        from lifecycle.integrations.gstreamer import PipelineGuard
        from lifecycle.integrations.gstreamer.errors import GStreamerError

        self.came += 1
        pipeline = PipelineGuard(self.manager, CLIENT, name=f"client{self.came}")
        try:
            client = self.fanout.add(pipeline, "feed", on_end=self._failed)
        except GStreamerError as error:
            self.failed.append(str(error))
            return
        self._here.append((client, time.monotonic() + CLIENT_SECONDS * random.uniform(0.2, 2.0)))

    def _failed(self, client: Any) -> None:
        self.failed.append(str(client.error))

    def _leave(self, client: Any) -> None:
        stats = client.stats()
        self.sent += stats.sent
        self.served += bool(stats.sent)
        self.fell_behind += stats.fell_behind
        client.close()

    def close(self) -> None:
        """All of them, and the encoder."""
        self._stop.set()
        self._thread.join()
        for client, _ in self._here:
            self._leave(client)
        self._here.clear()
        self.fanout.close()
        self.source.close()


def crowd(camera: Camera, number: int) -> dict[str, float]:
    """So many branches at once, until each has had a frame."""
    frames, began = camera.frames, time.perf_counter()
    seen: set[int] = set()
    branches = []
    for each in range(number):
        branch = camera.tee.attach("appsink sync=false max-buffers=2 drop=true", name=f"crowd{each}")
        branch.capture().on_frame(lambda frame, each=each: seen.add(each))
        branches.append(branch)
    attached = time.perf_counter()
    while len(seen) < number and time.perf_counter() - attached < 60:
        time.sleep(0.01)
    all_seen = time.perf_counter()
    for branch in branches:
        branch.close()
    closed = time.perf_counter()
    return {
        "branches": number,
        "with a frame": len(seen),
        "seconds to attach": attached - began,
        "to the last one's first frame": all_seen - attached,
        "to close": closed - all_seen,
        "frames of the viewer meanwhile": camera.frames - frames,
    }


def finish_together(cameras: list[Camera]) -> float:
    """Their files end at the same time, on threads; in how many milliseconds."""
    threads = [threading.Thread(target=camera.finish_file) for camera in cameras]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 1000 * (time.perf_counter() - began)


class _Mallinfo(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")),
    ]


def heap() -> dict[str, float]:
    """What glibc's malloc has given out and what it keeps free, in MB; nothing with another one."""
    try:
        ask = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        return {}
    ask.restype = _Mallinfo
    info = ask()
    return {"used": (info.uordblks + info.hblkhd) / 1e6, "kept": info.fordblks / 1e6}


def trimmed() -> float | None:
    """Resident memory in MB after malloc has given back what it keeps free; None with another malloc."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError:
        return None
    return float(psutil.Process().memory_info().rss) / 1e6


def percentile(values: list[float], share: float) -> float:
    """Of a list; 0.0 where it is empty."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def run(
    cameras: int, seconds: float, *, clients: int = 0, crowds: int = 0, size: str = "320x240", rate: int = 15
) -> dict[str, Any]:
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
    caps = "width={},height={},framerate={}/1".format(*size.split("x"), rate)
    together: list[float] = []
    crowded: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder, SafetyManager(config, name="cameras") as manager:
        made = [Camera(manager, number, Path(folder), clock, caps) for number in range(cameras)]
        shared = Clients(manager, clients, caps) if clients else None
        first = made[:TOGETHER]
        for camera in first:
            camera.until = float("inf")
        began = due = time.monotonic()
        file_due, crowd_due = began + FILE_SECONDS, began + min(CROWD_SECONDS, seconds) / 3
        every = max(1.0, seconds / 600)
        while time.monotonic() - began < seconds:
            for camera in made:
                camera.step()
            if time.monotonic() >= file_due:
                together.append(finish_together(first))
                for camera in first:
                    camera.record()
                    camera.until = float("inf")
                file_due = time.monotonic() + FILE_SECONDS
            if crowds and time.monotonic() >= crowd_due:
                crowded.append(crowd(made[0], crowds))
                crowd_due = time.monotonic() + CROWD_SECONDS
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
                        "blocks": sys.getallocatedblocks(),
                        **heap(),
                    }
                )
            time.sleep(0.05)
        elapsed = time.monotonic() - began
        cpu = sum(process.cpu_times()[:2])
        errors = [str(error) for camera in made for error in camera.pipeline.errors]
        if shared is not None:
            shared.close()
        for camera in made:
            camera.close()
        figures = figures_of(manager).stats()
        gc.collect()
        until = time.monotonic() + 10
        while manager.stats().active_objects and time.monotonic() < until:
            time.sleep(0.05)
        stats = manager.stats()
    time.sleep(1)
    finishing = [ms for camera in made[TOGETHER:] for ms in camera.finishing]
    return {
        "machine": f"{os.cpu_count()} cores, CPython {platform.python_version()}, {Gst.version_string()}",
        "cameras": cameras,
        "of": f"{size} at {rate} a second",
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
        "ms to finish a file, median and p99": [percentile(finishing, share) for share in (0.5, 0.99)],
        f"ms to finish {TOGETHER} together, median and p99": [
            percentile(together, share) for share in (0.5, 0.99)
        ],
        "clients": {}
        if shared is None
        else {
            "at a time": clients,
            "came": shared.came,
            "had frames": shared.served,
            "frames": shared.sent,
            "fell behind": shared.fell_behind,
            "failed": shared.failed,
        },
        "crowds": crowded,
        "left": stats.active_objects,
        "panics": stats.panics,
        "leaks": stats.leaks,
        "errors of pipelines": errors,
        "threads before and after": [*before, threading.active_count(), process.num_threads()],
        "MB at the end, and what malloc has": [process.memory_info().rss / 1e6, heap()],
        "MB after malloc_trim": trimmed(),
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
        (
            axes[0],
            "MB",
            {"rss": "resident memory", "used": "given out by malloc", "kept": "kept free by malloc"},
        ),
        (axes[1], "", {"threads": "threads", "live": "registered objects that live"}),
        (axes[2], "ms", {"p50": "age of a viewer's frame, median", "p99": "p99"}),
    ):
        for what, label in lines.items():
            if what not in points[0]:
                continue
            axis.plot(minutes, [point[what] for point in points], label=label, linewidth=1)
        axis.set_ylim(bottom=0)
        axis.set_ylabel(unit)
        axis.grid(alpha=0.3)
        axis.legend(loc="lower right", fontsize=8)
    axes[0].set_title(
        f"{result['cameras']} cameras, {sum(result['came'].values())} branches and "
        f"{result['clients'].get('came', 0)} clients that came and went, {result['files']['whole']} "
        f"recordings, {result['seconds'] / 60:.0f} minutes",
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
    parser.add_argument("--size", default="320x240")
    parser.add_argument("--rate", type=int, default=15)
    parser.add_argument("--clients", type=int, default=0)
    parser.add_argument("--crowd", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/cameras"))
    parser.add_argument("--plot", type=Path, help="draw the figures of this file, and run nothing")
    arguments = parser.parse_args()
    if arguments.plot:
        plot(json.loads(arguments.plot.read_text()), arguments.out / "cameras.svg")
        return 0
    result = run(
        arguments.cameras,
        arguments.seconds,
        clients=arguments.clients,
        crowds=arguments.crowd,
        size=arguments.size,
        rate=arguments.rate,
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "cameras.json").write_text(json.dumps(result))
    points = result.pop("points")
    for name, value in result.items():
        print(f"{name}: {value}")
    print(
        f"resident memory: {points[0]['rss']:.0f} MB, at the end {points[-1]['rss']:.0f} MB, "
        f"{growth(points, 'rss'):+.1f} MB an hour; "
        + "".join(f"{name} {growth(points, name):+.1f} MB an hour; " for name in heap())
        + f"threads {growth(points, 'threads'):+.1f} an hour"
    )
    # In a process of its own: what has loaded GStreamer cannot always load matplotlib as well.
    again = [sys.executable, "-m", "benchmarks.cameras", "--out", arguments.out, "--plot"]
    if subprocess.run([*again, arguments.out / "cameras.json"], check=False).returncode:
        print("no plot: it needs matplotlib")
    wrong = result["left"] or result["files"]["broken"] or result["unfinished"] or result["leaks"]
    wrong = wrong or result["clients"].get("failed")
    return 1 if wrong or result["errors of pipelines"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
