"""``python -m benchmarks.soak``: a 720p pipeline under load for as long as wanted, its memory and its
latency, with plots.

Three measurements, each in a process of its own:

- ``memory``: unthrottled frames, four consumers of which one is slow and one panics, clients that join and
  leave every
second; the resident memory along the way, through this library (``guarded``) and as plain gst-python does it
(``plain``).
- ``age``: how old a fast consumer's frames are while a slow one stands beside it, behind low-latency queues.
- ``latency``: from a picture's making through the encoder and WebRTC over loopback to its arrival, decoded.

``--frames``, ``--seconds`` and ``--out`` say how much, how long and where the plots go; ``make
soak-gstreamer`` takes an hour.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

SIZE = (720, 1280, 3)
CAPS = f"video/x-raw,format=RGB,width={SIZE[1]},height={SIZE[0]},framerate=30/1"
SOURCE = f"videotestsrc pattern=black ! {CAPS} ! tee name=t allow-not-linked=true"
WARM_UP = 0.15
"""The share of the run that is warm-up."""
FIT = 10_000
"""Growth is given for so many frames."""


class Panic(BaseException):
    """As extensions written in other languages raise it."""


def rss() -> float:
    """Resident memory of this process, in MB."""
    return float(psutil.Process().memory_info().rss) / 1e6


# -- the workload, through the library -----------------------------------------------------------------------


def consumers() -> list[Callable[[Any], None]]:
    """What the four do with an array: look, be slow, panic now and then, keep the last few."""
    kept: deque[Any] = deque(maxlen=4)
    calls = [0]

    def look(array: Any) -> None:
        int(array[::90, ::90].sum())

    def slow(array: Any) -> None:
        time.sleep(0.05)
        look(array)

    def panics(array: Any) -> None:
        calls[0] += 1
        look(array)
        if calls[0] % 50 == 0:
            raise Panic("one in fifty")

    return [look, slow, panics, kept.append]


def guarded(frames: int, seconds: float, sample: Callable[[int], None]) -> dict[str, Any]:
    """The workload with guards, branches and captures."""
    import logging

    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    from lifecycle import SafetyManager
    from lifecycle.integrations.gstreamer import PipelineGuard, ProbeGuard, Tee
    from lifecycle.integrations.gstreamer._native import Gst

    Gst.init(None)
    with SafetyManager(name="soak") as manager, PipelineGuard(manager, SOURCE) as pipeline:
        tee = Tee(manager, pipeline, "t")
        passed = ProbeGuard(
            manager, pipeline["t"].get_static_pad("sink"), Gst.PadProbeType.BUFFER, lambda *_: None
        )

        def attach(use: Callable[[Any], None]) -> Any:
            branch = tee.attach("appsink sync=false max-buffers=1 drop=true")
            branch.capture().on_frame(lambda frame: use(frame.array()))
            return branch

        branches = [attach(use) for use in consumers()]
        pipeline.play()
        joined = 0
        began = changed = time.monotonic()
        guest = attach(consumers()[0])
        while passed.calls < frames or time.monotonic() - began < seconds:
            time.sleep(0.05)
            sample(passed.calls)
            if time.monotonic() - changed > 1:
                guest.close()
                guest, changed, joined = attach(consumers()[0]), time.monotonic(), joined + 1
        elapsed = time.monotonic() - began
        for branch in (*branches, guest):
            branch.close()
        branches.clear()
        guest = branch = attach = None  # type: ignore[assignment]
        count, errors = passed.calls, len(pipeline.errors)
        passed.close()
        pipeline.close()
        gc.collect()
        until = time.monotonic() + 5
        while manager.stats().active_objects and time.monotonic() < until:
            time.sleep(0.01)  # what fell due on this very thread a moment ago is released by the keeper
        stats = manager.stats()
    return {
        "frames": count,
        "seconds": elapsed,
        "joined": joined,
        "panics": stats.panics,
        "left": stats.active_objects,
        "errors": errors,
    }


# -- the same in plain gst-python ----------------------------------------------------------------------------


def plain(frames: int, seconds: float, sample: Callable[[int], None]) -> dict[str, Any]:
    """The same consumers as a careful program has them without the library: signals, map, a copy for who
    keeps, unmap."""
    import gi

    gi.require_version("Gst", "1.0")
    gi.require_version("GstApp", "1.0")
    from gi.repository import Gst, GstApp  # noqa: F401  # GstApp makes the appsink's methods known

    sys.excepthook = lambda *_: None
    Gst.init(None)
    pipeline = Gst.parse_launch(SOURCE)
    tee = pipeline.get_by_name("t")
    passed = [0]

    def count(pad: Any, info: Any) -> Any:
        passed[0] += 1
        return Gst.PadProbeReturn.OK

    tee.get_static_pad("sink").add_probe(Gst.PadProbeType.BUFFER, count)

    def attach(use: Callable[[Any], None]) -> tuple[Any, Any]:
        part = Gst.parse_bin_from_description(
            "queue leaky=downstream max-size-buffers=1 max-size-bytes=0 max-size-time=0 ! appsink name=s "
            "sync=false async=false max-buffers=1 drop=true emit-signals=true",
            True,
        )

        def on_sample(sink: Any) -> Any:
            buffer = sink.emit("pull-sample").get_buffer()
            _, info = buffer.map(Gst.MapFlags.READ)
            use(np.ndarray(SIZE, np.uint8, info.data).copy())
            buffer.unmap(info)
            return Gst.FlowReturn.OK

        part.get_by_name("s").connect("new-sample", on_sample)
        pipeline.add(part)
        part.sync_state_with_parent()
        pad = tee.request_pad_simple("src_%u")
        pad.link(part.get_static_pad("sink"))
        return part, pad

    def detach(part: Any, pad: Any) -> None:
        done = threading.Event()

        def idle(pad: Any, info: Any) -> Any:
            if not done.is_set():
                pad.unlink(part.get_static_pad("sink"))
                done.set()
            return Gst.PadProbeReturn.REMOVE

        pad.add_probe(Gst.PadProbeType.IDLE, idle)
        done.wait(10)
        tee.release_request_pad(pad)
        part.set_locked_state(True)
        part.set_state(Gst.State.NULL)
        pipeline.remove(part)

    branches = [attach(use) for use in consumers()]
    pipeline.set_state(Gst.State.PLAYING)
    joined = 0
    began = changed = time.monotonic()
    guest = attach(consumers()[0])
    while passed[0] < frames or time.monotonic() - began < seconds:
        time.sleep(0.05)
        sample(passed[0])
        if time.monotonic() - changed > 1:
            detach(*guest)
            guest, changed, joined = attach(consumers()[0]), time.monotonic(), joined + 1
    elapsed = time.monotonic() - began
    for part, pad in (*branches, guest):
        detach(part, pad)
    pipeline.set_state(Gst.State.NULL)
    return {"frames": passed[0], "seconds": elapsed, "joined": joined}


def memory(how: str, frames: int, seconds: float) -> dict[str, Any]:
    """One run; its resident memory by frame, and by how much it grew per 10 000 frames after the warm-up."""
    points: list[tuple[int, float]] = []
    last = [0.0]
    start: list[float] = []

    def sample(count: int) -> None:
        now = time.monotonic()
        if now - last[0] >= max(0.04, seconds / 2000):
            last[0] = now
            points.append((count, rss()))
            start.append(now)

    result = {"guarded": guarded, "plain": plain}[how](frames, seconds, sample)
    gc.collect()
    total = points[-1][0]
    warm = [point for point in points if point[0] >= WARM_UP * total]
    slope, _ = np.polyfit([count for count, _ in warm], [value for _, value in warm], 1)  # by least squares
    return {
        **result,
        "points": points[:: max(1, len(points) // 500)],
        "base": points[0][1],
        "end": rss(),
        "growth": float(slope) * FIT,
    }


# -- time ----------------------------------------------------------------------------------------------------


def age(seconds: float) -> dict[str, Any]:
    """How old a fast consumer's frames are when it has them, beside a slow one, in ms."""
    from lifecycle import SafetyManager
    from lifecycle.integrations.gstreamer import PipelineGuard, Tee
    from lifecycle.integrations.gstreamer._native import Gst

    Gst.init(None)
    ages: list[float] = []
    live = f"videotestsrc is-live=true pattern=black ! {CAPS} ! tee name=t"
    with SafetyManager(name="age") as manager, PipelineGuard(manager, live) as pipeline:
        tee = Tee(manager, pipeline, "t")
        branches = [
            tee.attach("appsink sync=false max-buffers=1 drop=true"),
            tee.attach("appsink sync=false max-buffers=1"),
        ]
        fast, slow = (branch.capture() for branch in branches)
        clock = Gst.SystemClock.obtain()
        pipeline.pipeline.use_clock(clock)
        base_time = pipeline.pipeline.get_base_time

        @slow.on_frame
        def stand(frame: Any) -> None:
            time.sleep(0.3)

        @fast.on_frame
        def look(frame: Any) -> None:
            ages.append((clock.get_time() - base_time() - frame.pts) / 1e6)

        pipeline.play()
        time.sleep(seconds)
        for branch in branches:
            branch.close()
    return figures(ages[5:], "age")


def latency(seconds: float, rate: int = 30) -> dict[str, Any]:
    """From the making of a picture to its arrival at a WebRTC client over loopback, decoded, in ms. The
    picture's number stands in it as sixteen black or white blocks."""
    from examples.webrtc_server import Server, Viewer
    from lifecycle import SafetyManager
    from lifecycle.integrations.gstreamer import Feeder, FeederFull
    from lifecycle.integrations.gstreamer._native import Gst

    Gst.init(None)
    made: dict[int, float] = {}
    delays: list[float] = []
    height, width = 240, 320

    def arrived(frame: Any) -> None:
        now = time.monotonic()
        picture = frame.planes()[0]
        bits = [int(picture[100:130, 4 + 20 * bit : 16 + 20 * bit].mean() > 127) for bit in range(16)]
        born = made.pop(sum(value << bit for bit, value in enumerate(bits)), None)
        if born is not None:
            delays.append(1000 * (now - born))

    with SafetyManager(name="latency") as manager:
        server = Server(
            manager,
            "appsrc name=camera is-live=true do-timestamp=true ! queue leaky=downstream max-size-buffers=1",
        )
        caps = f"video/x-raw,format=GRAY8,width={width},height={height},framerate={rate}/1"
        server.source["camera"].set_property("caps", Gst.Caps.from_string(caps.replace("GRAY8", "I420")))
        feeder = Feeder(manager, server.source["camera"])
        stop = threading.Event()

        def feed() -> None:
            number = 0
            due = time.monotonic()
            while not stop.is_set():
                number = (number + 1) % 65536
                picture = np.full((height * 3 // 2, width), 128, np.uint8)
                for bit in range(16):
                    picture[80:150, 20 * bit : 20 * (bit + 1)] = 235 if number >> bit & 1 else 16
                made[number] = time.monotonic()
                try:
                    feeder.push(picture.tobytes(), timeout=0)
                except FeederFull:
                    # Its frame is missing then, as with a camera; the pictures that arrive carry their
                    # numbers.
                    pass
                due += 1 / rate
                stop.wait(max(0.0, due - time.monotonic()))

        server.start()
        thread = threading.Thread(target=feed)
        thread.start()
        viewer = Viewer(manager, arrived)
        client = server.add(viewer, "viewer")
        time.sleep(seconds)
        stop.set()
        thread.join()
        client.close()
        viewer.close()
        feeder.close()
        server.close()
    return figures(delays[rate:], "latency")


def figures(values: list[float], what: str) -> dict[str, Any]:
    """Median, p99 and the rest of a list of milliseconds."""
    ordered = sorted(values)
    return {
        "what": what,
        "count": len(ordered),
        "p50": ordered[len(ordered) // 2],
        "p99": ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))],
        "max": ordered[-1],
        "values": values,
    }


# -- plots and the command line ------------------------------------------------------------------------------


def plot(path: Path, title: str, lines: dict[str, list[tuple[float, float]]], unit: str, along: str) -> None:
    """A line plot as PNG, with no more than Pillow."""
    from PIL import Image, ImageDraw

    width, height, left, top, bottom = 900, 420, 70, 40, 50
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    every = [point for line in lines.values() for point in line]
    right_end = max(x for x, _ in every) or 1.0
    high = 1.05 * max(y for _, y in every) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        return left + x / right_end * (width - left - 20), height - bottom - y / high * (
            height - top - bottom
        )

    for step in range(6):
        y = high * step / 5
        draw.line([place(0, y), place(right_end, y)], fill=(225, 225, 225))
        draw.text((8, place(0, y)[1] - 6), f"{y:.0f} {unit}", fill="black")
        x = right_end * step / 5
        draw.text((place(x, 0)[0] - 14, height - bottom + 6), f"{x:.0f}", fill="black")
    draw.text((left, 12), title, fill="black")
    draw.text((width // 2, height - 20), along, fill="black")
    for number, (name, line) in enumerate(lines.items()):
        colour = ((20, 90, 200), (210, 60, 40), (30, 140, 60))[number % 3]
        if len(line) > 1:
            draw.line([place(x, y) for x, y in line], fill=colour, width=2)
        draw.text((width - 190, 12 + 14 * number), f"— {name}", fill=colour)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def measure(*arguments: object) -> dict[str, Any]:
    """One measurement in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.soak", "--one", *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},  # what is freed is given back, and so seen
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def one(what: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Make the measurement of that name in this process."""
    if what in ("guarded", "plain"):
        return memory(what, arguments.frames, arguments.seconds)
    return {"age": age, "latency": latency}[what](max(2.0, arguments.seconds))


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=100_000, help="unthrottled frames at least")
    parser.add_argument("--seconds", type=float, default=0.0, help="seconds at least")
    parser.add_argument("--time", type=float, default=20.0, help="seconds of each measurement of time")
    parser.add_argument("--out", type=Path, default=Path("out/soak"))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(arguments.one, arguments)))
        return 0
    ours = measure("guarded", "--frames", arguments.frames, "--seconds", arguments.seconds)
    theirs = measure("plain", "--frames", min(arguments.frames, 20_000))
    lines = {"through the library": ours["points"], "plain gst-python": theirs["points"]}
    plot(arguments.out / "memory.png", "Resident memory, 720p, four consumers", lines, "MB", "frames")
    for name, run in (("library", ours), ("plain", theirs)):
        print(
            f"{name}: {run['frames']} frames in {run['seconds']:.0f} s, {run['joined']} clients came and "
            f"went; resident memory grew by {run['growth']:+.2f} MB per {FIT} frames, from {run['base']:.0f} "
            f"to {run['end']:.0f} MB when all had left"
        )
    for what in ("age", "latency"):
        result = measure(what, "--seconds", arguments.time)
        values = [(float(number), value) for number, value in enumerate(result["values"])]
        plot(arguments.out / f"{what}.png", f"{what}, ms", {what: values}, "ms", "frames")
        times = ", ".join(f"{name} {result[name]:.1f} ms" for name in ("p50", "p99", "max"))
        print(f"{what}: {result['count']} frames, {times}")
    print(f"plots in {arguments.out}")
    return 0 if ours["growth"] < 2 and not ours["left"] and not ours["errors"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
