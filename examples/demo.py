"""The whole library on a live pipeline, in some seconds: ``python -m examples.demo``, which is what ``make
demo`` runs.

A 1080p test picture runs at 30 frames a second through a guarded callback, which panics now and then on
purpose. The array of every 30th frame is kept beyond the callback and read again after the pipeline is gone.
Then everything is let go and counted: by the library, and by GStreamer's own leaks tracer, which knows
nothing of it.

Where GStreamer cannot be had, the frames come from memory that is mapped and unmapped for each of them
(`examples.embedded`).
"""

from __future__ import annotations

import argparse
import gc
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import attrs
import numpy as np
import structlog
from PIL import Image, ImageDraw
from prometheus_client import CollectorRegistry, generate_latest
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from lifecycle import Event, SafetyManager
from lifecycle.integrations.prometheus import LifecycleCollector

RATE = 30
KEEP_EVERY = 30
PANIC_EVERY = 41
GUARD_ROUNDS = 2000


class Panic(BaseException):
    """As extensions written in other languages raise it: not an `Exception`."""


def misbehave(turn: int) -> None:
    """Each of the ways in which a callback brings a plain program down, in turns."""
    if turn % 3 == 1:
        raise Panic("an extension has panicked")
    if turn % 3 == 2:
        sys.exit("a library has called sys.exit")
    raise ZeroDivisionError("an ordinary bug")


@attrs.define
class Kept:
    """An array that outlives its frame, and what was seen in it while the frame was open."""

    number: int
    pts: int
    array: np.ndarray[Any, Any]
    sum: int


def sum_of(array: np.ndarray[Any, Any]) -> int:
    """A checksum of every pixel."""
    return int(array.sum(dtype=np.uint64))


@attrs.define
class Look:
    """The callback, and what it has kept."""

    frames: int = 0
    kept: list[Kept] = attrs.field(factory=list)

    def __call__(self, frame: Any) -> None:
        array = frame.array()
        self.frames += 1
        if self.frames % KEEP_EVERY == 1:
            self.kept.append(Kept(self.frames, frame.pts, array, sum_of(array)))
        if self.frames % PANIC_EVERY == 0:
            misbehave(self.frames // PANIC_EVERY)


class Source(Protocol):
    """Where the frames come from."""

    title: str
    capture: Any

    def end(self) -> None:
        """Stop, and let go of everything but what the callback has kept."""

    def one_frame(self) -> None:
        """Make a frame, take its array and close it: what the guard costs."""

    def verdict(self) -> tuple[str, str, bool]:
        """Who judges, what was found, and whether that is clean; asked when the last array is gone."""


class GStreamerSource:
    """A live test picture."""

    def __init__(self, manager: SafetyManager, cost: SafetyManager, look: Look) -> None:
        # Before PyGObject: an ImportError for each part that is missing, GStreamer's own among them.
        from lifecycle.integrations.gstreamer import Capture, LeaksTracer, SampleAdapter  # isort: skip
        from gi.repository import Gst

        LeaksTracer.enable()
        Gst.init(None)
        if Gst.ElementFactory.find("videotestsrc") is None or Gst.ElementFactory.find("appsink") is None:
            raise ImportError(
                "GStreamer has no videotestsrc or no appsink; install gstreamer1.0-plugins-base"
            )
        self.title = Gst.version_string()
        caps = f"video/x-raw,format=RGB,width=1920,height=1080,framerate={RATE}/1"
        self.adapter = SampleAdapter(cost)
        memory = Gst.Buffer.new_allocate(None, 1920 * 1080 * 3, None)
        self.sample: Any = Gst.Sample.new(memory, Gst.Caps.from_string(caps), None, None)
        self.tracer = LeaksTracer()
        self.tracer.start()
        self.null = Gst.State.NULL
        self.pipeline: Any = Gst.parse_launch(
            f"videotestsrc is-live=true pattern=smpte horizontal-speed=24 ! {caps} "
            "! appsink name=camera max-buffers=4 drop=true"
        )
        self.capture = Capture(manager, self.pipeline.get_by_name("camera"))
        self.capture.on_frame(look)
        self.pipeline.set_state(Gst.State.PLAYING)

    def end(self) -> None:
        """Close the capture, stop the pipeline and drop it."""
        self.capture.close()
        self.pipeline.set_state(self.null)
        self.pipeline = None

    def one_frame(self) -> None:
        """A frame of a sample of the same size."""
        with self.adapter.frame(self.sample) as frame:
            frame.array()

    def verdict(self) -> tuple[str, str, bool]:
        """GStreamer's own."""
        alive = self.tracer.alive()
        text = ", ".join(f"{count} {kind}" for kind, count in alive.items())
        return "GStreamer's leaks tracer", text or "nothing is alive", not alive


class EmbeddedSource:
    """Memory that is mapped for each frame, and unmapped when it is released."""

    def __init__(self, manager: SafetyManager, cost: SafetyManager, look: Look) -> None:
        from examples import embedded

        self.title = "frames in mmap'ed memory, without GStreamer"
        self.embedded = embedded
        self.make = embedded.frame_factory(cost)
        self.capture = embedded.EmbeddedCapture(manager, "camera")
        self.capture.on_frame(look)

    def end(self) -> None:
        """Stop drawing."""
        self.capture.close()

    def one_frame(self) -> None:
        """Map, look and unmap."""
        with self.embedded.EmbeddedFrame(self.make(), 0) as frame:
            frame.array()

    def verdict(self) -> tuple[str, str, bool]:
        """The C library's calls."""
        maps, unmaps = self.embedded.calls["mmap"], self.embedded.calls["munmap"]
        return "the C library", f"{maps} times mmap, {unmaps} times munmap", maps == unmaps


def open_source(manager: SafetyManager, cost: SafetyManager, look: Look, embedded: bool) -> Source:
    """GStreamer where it can be had."""
    if not embedded:
        try:
            return GStreamerSource(manager, cost, look)
        except ImportError as error:
            print(f"GStreamer cannot be had here, so the embedded source runs: {error}", file=sys.stderr)
    return EmbeddedSource(manager, cost, look)


def run(source: Source, seconds: float, panics: Counter[str], console: Console) -> None:
    """Wait, with a progress bar."""
    columns = (
        TextColumn("[bold]frames"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console) as progress:
        total = int(seconds * RATE)
        task = progress.add_task("", total=total)
        until = (
            time.monotonic() + seconds + 5
        )  # a machine that cannot keep up shows fewer frames, and still ends
        done = 0
        while done < total and time.monotonic() < until:
            time.sleep(0.05)
            done = sum(source.capture.stats().results.values())
            text = (
                f"{sum(panics.values())} panics contained, {source.capture.stats().frames_held} frames kept"
            )
            progress.update(task, completed=min(done, total), description=text)


def contact_sheet(kept: list[Kept], path: Path) -> None:
    """The kept frames side by side, read from GStreamer's own memory."""
    width, height, columns = 320, 180, 3
    rows = -(-len(kept) // columns)
    sheet = Image.new("RGB", (columns * (width + 8) + 8, rows * (height + 28) + 8), (24, 24, 28))
    draw = ImageDraw.Draw(sheet)
    for index, frame in enumerate(kept):
        left = 8 + index % columns * (width + 8)
        top = 8 + index // columns * (height + 28)
        step = frame.array.shape[1] // width
        sheet.paste(Image.fromarray(np.ascontiguousarray(frame.array[::step, ::step])), (left, top))
        draw.text((left, top + height + 4), f"frame {frame.number}, {frame.pts / 1e9:.2f} s", (230, 230, 230))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def cost_of(one: Callable[[], None]) -> float:
    """Microseconds, the median of many."""
    spent = []
    for _ in range(GUARD_ROUNDS):
        began = time.perf_counter()
        one()
        spent.append(time.perf_counter() - began)
    return float(np.median(spent)) * 1e6


def await_releases(manager: SafetyManager, seconds: float = 5.0) -> None:
    """Until what was just dropped is released: by the next registration, or a moment later by the manager
    itself."""
    until = time.monotonic() + seconds
    while manager.stats().active_objects and time.monotonic() < until:
        time.sleep(0.01)


def show_scrape(manager: SafetyManager, console: Console) -> None:
    """What Prometheus gets, without the buckets of the histograms and what is 0."""
    registry = CollectorRegistry()
    registry.register(LifecycleCollector(manager))
    lines = generate_latest(registry).decode().splitlines()
    shown = [
        line
        for line in lines
        if not line.startswith("#") and "_bucket{" not in line and not line.endswith(" 0.0")
    ]
    console.rule(f"the scrape: {len(lines)} lines, of which {len(shown)} are no comment, bucket or 0")
    for line in shown:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def main() -> int:
    """Run the demo; 0 when everything is as it should be."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=6.0, help="how long the source runs")
    parser.add_argument(
        "--embedded", action="store_true", help="the embedded source, even where GStreamer is installed"
    )
    parser.add_argument(
        "--sheet", type=Path, default=Path("out/contact-sheet.png"), help="where the kept frames go"
    )
    options = parser.parse_args()
    console = Console()
    # The panics are meant: they are shown in the table, not in the log.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))

    panics: Counter[str] = Counter()

    def observe(event: Event) -> None:
        if event.kind == "panic":
            parts = event.fields["reason"].split(": ")
            panics[next(part for part in parts if part.isidentifier() and part != "camera")] += 1

    manager = SafetyManager(name="demo")
    no_more = manager.add_observer(observe)
    look = Look()
    aside = SafetyManager(name="cost")  # for the measurement: the table counts the pipeline's frames only
    source = open_source(manager, aside, look, options.embedded)
    console.rule(f"{source.title}, 1920×1080 RGB at {RATE} frames a second")
    run(source, options.seconds, panics, console)
    source.end()
    gc.collect()

    # The pipeline is gone. What was kept is not.
    same = sum(kept.sum == sum_of(kept.array) for kept in look.kept)
    kept = len(look.kept)
    no_more()
    contact_sheet(look.kept, options.sheet)
    look.kept.clear()
    gc.collect()
    cost = cost_of(source.one_frame)
    aside.close()
    await_releases(manager)
    by, found, clean = source.verdict()
    stats = manager.stats()
    capture = source.capture.stats()

    table = Table(show_header=False)
    table.add_row("frames", str(sum(capture.results.values()) - capture.results["dropped"]))
    table.add_row("panics contained", f"{capture.results['panic']}: {', '.join(sorted(panics))}")
    table.add_row(
        "arrays kept beyond the callback",
        f"{kept}, of which {same} read the same after the pipeline was gone",
    )
    table.add_row("objects registered", str(stats.total_objects))
    table.add_row("objects released", str(stats.released))
    table.add_row("leaks", f"leaks: {stats.leaks}")
    table.add_row(by, found)
    table.add_row("µs for a frame, its array and its close", f"{cost:.1f}")
    table.add_row("contact sheet", str(options.sheet))
    console.print(table)
    show_scrape(manager, console)
    report = manager.close()
    fine = (
        clean
        and report.ok
        and same == kept > 0
        and stats.leaks == stats.active_objects == 0
        and sum(panics.values()) == capture.results["panic"]
    )
    console.rule("everything is released" if fine else "[red]something is not as it should be")
    return 0 if fine else 1


if __name__ == "__main__":
    raise SystemExit(main())
