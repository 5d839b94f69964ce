"""``python -m benchmarks.rings [seconds]``: the pictures that rings of four lose, at 30 and 240 a second.

A camera fills a free buffer at each tick of its clock, and loses the picture where none is free. The user
makes an array of each, keeps four of them and lets go of all at once: nothing is left for the camera
until the buffers are back. Three rings: buffers that the user gives back by hand, with no library;
buffers registered at `ANY_THREAD`, which are back when the last array has gone; a `Gst.BufferPool` of
four, by way of frames.

On a loaded machine threads come late, the camera's among them. A tick that it missed is left out, since a
device would not have waited: the rest would come as a burst that no ring of four stands. A picture is
lost where the camera was there in time and no buffer was free. Told apart is what is lost while a buffer
of which the user had let go was not back yet: that is the library's, and the rest the user's, who came
late.
"""

from __future__ import annotations

import ctypes
import statistics
import sys
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

import attrs

from lifecycle import ANY_THREAD, SafetyManager

BUFFERS = 4
RATES = (30, 240)
SIZE = 320 * 240
CAPS = "video/x-raw,format=GRAY8,width=320,height=240,framerate=30/1"


@attrs.define
class Counts:
    """What became of one ring's pictures."""

    taken: int = 0
    lost: int = 0
    late: int = 0
    """Of those lost: while a buffer that had been let go of was not back."""
    missed: int = 0
    """Ticks that the camera's own thread came too late for, by half a period or more."""
    lags: list[float] = attrs.Factory(list)
    """Seconds from the moment the user let go of a buffer until it was back, where that is known."""


class Picture:
    """A buffer of the ring."""

    def __init__(self) -> None:
        self.memory = ctypes.create_string_buffer(SIZE)
        self.address = ctypes.addressof(self.memory)


def turn(
    fps: int,
    seconds: float,
    fill: Callable[[], Any],
    use: Callable[[Any], Any],
    let_go: Callable[[list[Any]], None],
    on_its_way: Callable[[], bool],
) -> Counts:
    """Run one ring: `fill` gives a filled buffer or None, `use` what the user keeps of it."""
    counts = Counts()
    ready: SimpleQueue[Any] = SimpleQueue()
    until = time.monotonic() + seconds

    def camera() -> None:
        due = time.monotonic()
        while due < until:
            due += 1 / fps
            time.sleep(max(0.0, due - time.monotonic()))
            if time.monotonic() > due + 0.5 / fps:
                counts.missed += 1
                continue
            late = on_its_way()
            picture = fill()
            if picture is None:
                counts.lost += 1
                counts.late += late
            else:
                ready.put(picture)
                picture = None
        ready.put(None)

    driver = threading.Thread(target=camera)
    driver.start()
    kept: list[Any] = []
    while (picture := ready.get()) is not None:
        kept.append(use(picture))
        picture = None
        counts.taken += 1
        if len(kept) == BUFFERS:
            let_go(kept)
    let_go(kept)
    driver.join()
    return counts


class Ring:
    """Four pictures, free or in use, and since when those are on their way back that were let go of."""

    def __init__(self) -> None:
        self.free: SimpleQueue[Picture] = SimpleQueue()
        self.let_go: dict[Picture, float] = {}
        self.lags: list[float] = []
        for _ in range(BUFFERS):
            self.free.put(Picture())

    def fill(self) -> Picture | None:
        """A free buffer, with a picture now; None where there is none."""
        try:
            return self.free.get_nowait()
        except Empty:
            return None

    def give_back(self, picture: Picture) -> None:
        """The release."""
        self.lags.append(time.perf_counter() - self.let_go.pop(picture))
        self.free.put(picture)

    def on_its_way(self) -> bool:
        """Whether a buffer is nobody's any more, and not back."""
        return bool(self.let_go)


def by_hand(fps: int, seconds: float) -> Counts:
    """Without the library."""
    ring = Ring()

    def let_go(kept: list[Picture]) -> None:
        ring.let_go.update(dict.fromkeys(kept, time.perf_counter()))
        while kept:
            ring.give_back(kept.pop())

    counts = turn(fps, seconds, ring.fill, lambda picture: picture, let_go, ring.on_its_way)
    counts.lags = ring.lags
    return counts


def guarded(fps: int, seconds: float) -> Counts:
    """Each picture registered and closed; what the user keeps is the array."""
    ring = Ring()
    with SafetyManager(name="ring") as manager:

        def use(picture: Picture) -> Any:
            with manager.register(picture, "buffer", release=ring.give_back, release_on=ANY_THREAD) as handle:
                return picture, handle.view(picture.address, SIZE)

        def let_go(kept: list[Any]) -> None:
            now = time.perf_counter()
            ring.let_go.update((picture, now) for picture, _ in kept)
            kept.clear()

        counts = turn(fps, seconds, ring.fill, use, let_go, ring.on_its_way)
        assert manager.close().ok
    counts.lags = ring.lags
    return counts


def gstreamer_pool(fps: int, seconds: float) -> Counts:
    """A pool of GStreamer's, which has a buffer back when nobody refers to it."""
    import gi

    gi.require_version("Gst", "1.0")
    from gi.repository import Gst

    from lifecycle.integrations.gstreamer import SampleAdapter

    Gst.init(None)
    caps = Gst.Caps.from_string(CAPS)
    pool = Gst.BufferPool.new()
    config = pool.get_config()
    Gst.BufferPool.config_set_params(config, caps, SIZE, BUFFERS, BUFFERS)
    assert pool.set_config(config)
    assert pool.set_active(True)
    at_once = Gst.BufferPoolAcquireParams()
    at_once.flags = Gst.BufferPoolAcquireFlags.DONTWAIT

    def fill() -> Any:
        flow, buffer = pool.acquire_buffer(at_once)
        return None if flow != Gst.FlowReturn.OK else Gst.Sample.new(buffer, caps, None, None)

    going: list[Any] = []
    with SafetyManager(name="pool") as manager:
        adapter = SampleAdapter(manager)

        def use(sample: Any) -> Any:
            with adapter.frame(sample) as frame:
                return frame.array(), frame.handle

        def let_go(kept: list[Any]) -> None:
            going[:] = [handle for _, handle in kept]
            kept.clear()

        def on_its_way() -> bool:
            return any(handle.state not in ("released", "failed") for handle in list(going))

        counts = turn(fps, seconds, fill, use, let_go, on_its_way)
        assert manager.close().ok
    pool.set_active(False)
    return counts


RINGS = {
    "by hand, no library": by_hand,
    "registered at ANY_THREAD": guarded,
    "Gst.BufferPool": gstreamer_pool,
}


def main() -> int:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    row = "{:<26} {:>4} {:>6} {:>5} {:>5} {:>6}  {}"
    print(
        row.format(
            "ring of four", "fps", "taken", "lost", "late", "missed", "back after, median / 99 % / most"
        )
    )
    for fps in RATES:
        for name, ring in RINGS.items():
            counts = ring(fps, seconds)
            back = "not measured"
            if counts.lags:
                lags = sorted(counts.lags)
                told = (statistics.median(lags), lags[len(lags) * 99 // 100], lags[-1])
                back = " / ".join(f"{lag * 1e6:.0f} µs" for lag in told)
            print(row.format(name, fps, counts.taken, counts.lost, counts.late, counts.missed, back))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
