"""A real 1080p pipeline to sixteen receivers, three of them slow, one dead, one panicking: what it shows is
checked by the tests, and drawn by ``python -m benchmarks.lag``. Runs in a process of its own, since
GStreamer's leaks tracer must be there from the start."""

from __future__ import annotations

import gc
import threading
import time
from typing import Any

import attrs

RECEIVERS = 16
CAPACITY = 8
SLOW = {3: 0.05, 7: 0.1, 11: 0.2}
"""Receiver: seconds that it takes for a frame."""
DEAD = 5
PANICKING = 13


@attrs.define
class Seen:
    """What was seen of one run."""

    published: int = 0
    addresses: dict[int, int] = attrs.field(factory=dict)
    """By presentation time: where the picture lay when it was published."""
    differing: int = 0
    """How often a receiver saw it anywhere else."""
    most_held: int = 0
    most_live: int = 0
    received: list[int] = attrs.field(factory=list)
    missed: list[int] = attrs.field(factory=list)
    lags: list[list[tuple[float, int]]] = attrs.field(factory=list)
    """For each receiver: seconds since the start, and its lag then."""
    panics: int = 0
    left: int = -1
    leaks: int = -1
    tracer: dict[str, int] = attrs.field(factory=dict)


def run(frames: int, fps: int = 60, *, sampled: float = 0.01) -> Seen:
    """Run it."""
    import gi

    gi.require_version("Gst", "1.0")
    gi.require_version("GstApp", "1.0")
    from gi.repository import Gst, GstApp  # noqa: F401 - appsinks are known once GstApp is

    from lifecycle import FrameDistributor, FrameReceiver, SafetyManager
    from lifecycle.distribution import with_release
    from lifecycle.integrations.gstreamer import Capture, Frame, LeaksTracer

    if not Gst.is_initialized():
        LeaksTracer.enable()
        Gst.init(None)
    tracer = LeaksTracer()
    tracer.start()
    seen = Seen(lags=[[] for _ in range(RECEIVERS)])
    manager = SafetyManager(name="composition")
    pipeline = Gst.parse_launch(
        f"videotestsrc num-buffers={frames} is-live=true pattern=ball ! "
        f"video/x-raw,format=RGB,width=1920,height=1080,framerate={fps}/1 ! appsink name=sink max-buffers=4 sync=false"
    )
    distributor: FrameDistributor[Frame] = FrameDistributor(CAPACITY, name="camera", manager=manager)
    receivers = [distributor.subscribe(group="all", name=str(number)) for number in range(RECEIVERS)]

    over = threading.Event()

    def look(frame: Frame, pause: float) -> None:
        if frame.array().ctypes.data != seen.addresses[frame.pts or 0]:
            seen.differing += 1
        if pause:
            # However slow the machine, this one is slower than its stream.
            behind = distributor.published + CAPACITY + 2
            while distributor.published < behind and not over.wait(pause):
                pass

    def panic(frame: Frame, pause: float) -> None:
        if seen.panics % 2 == 0:
            seen.panics += 1
            raise RuntimeError("planted")
        seen.panics += 1

    def consume(number: int) -> None:
        receiver: FrameReceiver[Any] = receivers[number]
        sink = with_release(panic if number == PANICKING else look)
        while True:
            try:
                frame = receiver.recv()
            except Exception as error:
                if type(error).__name__ == "Lagged":
                    continue
                return  # closed
            try:
                sink(frame, SLOW.get(number, 0.0))
            except RuntimeError:
                pass  # planted
            finally:
                frame = None  # type: ignore[assignment]

    began = time.monotonic()
    watched = threading.Event()

    def watch() -> None:
        while not watched.wait(sampled):
            now = time.monotonic() - began
            for number, receiver in enumerate(receivers):
                seen.lags[number].append((now, receiver.lag))
            seen.most_held = max(seen.most_held, len(distributor))

    threads = [threading.Thread(target=consume, args=(n,)) for n in range(RECEIVERS) if n != DEAD]
    watcher = threading.Thread(target=watch)
    for thread in [*threads, watcher]:
        thread.start()

    # The composition itself.
    with Capture(manager, pipeline.get_by_name("sink")) as capture:

        @capture.on_frame
        def publish(frame: Frame) -> None:
            seen.addresses[frame.pts or 0] = frame.array().ctypes.data
            distributor.publish(frame)
            seen.most_live = max(seen.most_live, manager.stats().active_objects)

        pipeline.set_state(Gst.State.PLAYING)
        capture.wait(frames / fps * 5 + 30)
    over.set()
    distributor.close()
    for thread in threads:
        thread.join(60)
    watched.set()
    watcher.join()
    receivers[DEAD].close()
    seen.published = distributor.published
    for receiver in receivers:
        receiver.close()
        seen.received.append(receiver.received)
        seen.missed.append(receiver.missed)
    _shut(pipeline, Gst)
    del pipeline, capture, publish
    gc.collect()
    stats = manager.stats()
    seen.left, seen.leaks = stats.active_objects, stats.leaks
    manager.close()
    seen.tracer = tracer.alive()
    return seen


def _shut(pipeline: Any, gst: Any) -> None:
    pipeline.set_state(gst.State.NULL)
    pipeline.get_state(10 * gst.SECOND)


def check(frames: int) -> None:
    """What the issue asks of it."""
    seen = run(frames)
    assert seen.published == frames, seen.published
    for number in range(RECEIVERS):
        assert seen.received[number] + seen.missed[number] == seen.published, (
            number,
            seen.received,
            seen.missed,
        )
    assert seen.differing == 0
    assert len(set(seen.addresses.values())) <= len(seen.addresses)
    assert seen.received[DEAD] == 0
    assert seen.panics == seen.received[PANICKING] > 0
    for number in SLOW:
        assert seen.missed[number] > 0, number
    assert seen.most_held <= CAPACITY + 1, seen.most_held  # one while it is being overwritten
    assert seen.most_live <= CAPACITY + RECEIVERS + 2, seen.most_live
    assert (seen.left, seen.leaks) == (0, 0), (seen.left, seen.leaks)
    assert seen.tracer == {}, seen.tracer
    print("published", seen.published, "received", seen.received, "missed", seen.missed)
