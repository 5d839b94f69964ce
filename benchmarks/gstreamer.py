"""What a guarded frame costs beside the unsafe code of the same work, and a capture beside a raw new-sample
callback.

The frames' benchmarks run in a hot loop on one 1080p sample, the array alive when the block ends, as most
programs have it. The captures' run a pipeline of small frames as fast as it goes, so that Python's part of it
shows. What is fed is 1080p: into an appsrc that has room and gives nothing on, and through one into a running
sink.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import gi
import numpy as np
import pyperf

gi.require_version("Gst", "1.0")
gi.require_version("GstApp", "1.0")
from gi.repository import Gst, GstApp

from lifecycle import SafetyManager
from lifecycle.integrations.gstreamer import Capture, Feeder, SampleAdapter

TARGETS = {
    "frame + array + close, beside the same work unsafe": 1.0,
    "frame + array + close, beside a bare map + frombuffer": 1.6,
    "frame + close, never mapped, beside a bare map + frombuffer": 0.6,
    "frame.share() + close, beside a bare map + frombuffer": 1.0,
    "a frame through Capture, beside a raw new-sample callback": 1.0,
    "a frame through Capture, beside a callback that only pulls and 8 µs of sleepless waiting": 1.0,
    "wrap + push into an appsrc with room, beside Gst.Buffer.new_wrapped(bytes)": 0.1,
    "feeding a running sink end to end, beside new_wrapped(bytes) + push-buffer": 0.333,
    "views of 10 000 distinct sizes, beside one size": 2.0,
}
CAPS = "video/x-raw,format=RGB,width=1920,height=1080,framerate=30/1"
SIZES = 10_000

READ = Gst.MapFlags.READ


def one_sample() -> Any:
    pipeline = Gst.parse_launch(f"videotestsrc num-buffers=1 ! {CAPS} ! appsink name=sink sync=false")
    pipeline.set_state(Gst.State.PLAYING)
    sample = GstApp.AppSink.try_pull_sample(pipeline.get_by_name("sink"), 10 * Gst.SECOND)
    pipeline.set_state(Gst.State.NULL)
    return sample


def size_of(caps: Any) -> tuple[int, int]:
    """Height and width, in the way of this version of gst-python."""
    structure = caps.get_structure(0)
    if hasattr(structure, "__enter__"):  # from 1.26 on
        with structure as inside:
            return inside["height"], inside["width"]
    return structure["height"], structure["width"]


class Frames:
    def __init__(self) -> None:
        self.adapter = SampleAdapter(SafetyManager(name="bench"))
        self.sample = one_sample()
        self.buffer = self.sample.get_buffer()
        # Of another sample: a memory is mapped once, however many frames look into it.
        self.shared = self.adapter.frame(one_sample())
        self.shared.array()

    def guarded(self) -> None:
        with self.adapter.frame(self.sample) as frame:
            array = frame.array()  # noqa: F841  # alive when the block ends

    def never_mapped(self) -> None:
        with self.adapter.frame(self.sample):
            pass

    def share(self) -> None:
        self.shared.share().close()

    def same_work(self) -> None:
        buffer = self.sample.get_buffer()
        height, width = size_of(self.sample.get_caps())
        with buffer.map(READ) as info:
            array = np.ndarray((height, width, 3), np.uint8, info.data)  # noqa: F841

    def bare(self) -> None:
        with self.buffer.map(READ) as info:
            array = np.frombuffer(info.data, np.uint8)  # noqa: F841


def pipeline_of(frames: int) -> tuple[Any, Any]:
    pipeline = Gst.parse_launch(
        f"videotestsrc pattern=black num-buffers={frames} ! "
        "video/x-raw,format=RGB,width=160,height=120,framerate=30/1 ! appsink name=sink sync=false "
        "max-buffers=16"
    )
    return pipeline, pipeline.get_by_name("sink")


def capturing(look: Callable[[Any], object], loops: int) -> float:
    """Seconds in which so many frames go through a capture to `look`."""
    pipeline, sink = pipeline_of(loops)
    with SafetyManager(name="bench") as manager, Capture(manager, sink) as capture:
        capture.on_frame(look)
        start = time.perf_counter()
        pipeline.set_state(Gst.State.PLAYING)
        capture.wait()
        spent = time.perf_counter() - start
    pipeline.set_state(Gst.State.NULL)
    return spent


def signalled(look: Callable[[Any], Any], loops: int) -> float:
    """Seconds in which so many new-sample signals are answered by ``look(sink)``."""
    pipeline, sink = pipeline_of(loops)
    ended = threading.Event()
    sink.set_property("emit-signals", True)
    sink.connect("new-sample", look)
    sink.connect("eos", lambda _: ended.set())
    start = time.perf_counter()
    pipeline.set_state(Gst.State.PLAYING)
    ended.wait()
    spent = time.perf_counter() - start
    pipeline.set_state(Gst.State.NULL)
    return spent


def pull_and_map(sink: Any) -> Any:
    sample = sink.emit("pull-sample")
    buffer = sample.get_buffer()
    height, width = size_of(sample.get_caps())
    with buffer.map(READ) as info:
        np.ndarray((height, width, 3), np.uint8, info.data)
    return Gst.FlowReturn.OK


def pull_and_spin(sink: Any) -> Any:
    sink.emit("pull-sample")
    until = time.perf_counter_ns() + 8000
    while time.perf_counter_ns() < until:
        pass
    return Gst.FlowReturn.OK


def through_capture(loops: int) -> float:
    return capturing(lambda frame: frame.array(), loops)


def raw_callback(loops: int) -> float:
    return signalled(pull_and_map, loops)


def only_pulling_capture(loops: int) -> float:
    return capturing(lambda frame: None, loops)


def only_pulling_callback(loops: int) -> float:
    return signalled(pull_and_spin, loops)


def feeding(description: str, loops: int) -> tuple[Any, Any, Feeder, SafetyManager]:
    pipeline = Gst.parse_launch(description)
    source = pipeline.get_by_name("source")
    manager = SafetyManager(name="bench")
    return pipeline, source, Feeder(manager, source, caps=CAPS, max_buffers=max(8, loops)), manager


def push_with_room(loops: int) -> float:
    pipeline, _, feeder, manager = feeding("appsrc name=source ! fakesink", loops)
    array = np.zeros((1080, 1920, 3), np.uint8)
    start = time.perf_counter()
    for _ in range(loops):
        feeder.push(array, lend=True)
    spent = time.perf_counter() - start
    pipeline.set_state(Gst.State.PLAYING)
    pipeline.set_state(Gst.State.NULL)
    manager.close()
    return spent


def wrap_bytes(loops: int) -> float:
    data = bytes(1920 * 1080 * 3)
    start = time.perf_counter()
    for _ in range(loops):
        Gst.Buffer.new_wrapped(data)
    return time.perf_counter() - start


RUNNING = (
    "appsrc name=source format=time max-bytes=100000000 ! "
    "fakesink sync=false enable-last-sample=false name=sink"
)


def await_end(pipeline: Any) -> None:
    pipeline.get_bus().timed_pop_filtered(Gst.CLOCK_TIME_NONE, Gst.MessageType.EOS | Gst.MessageType.ERROR)


def feed_running(loops: int) -> float:
    pipeline, _, feeder, manager = feeding(RUNNING, 8)
    pipeline.set_state(Gst.State.PLAYING)
    array = np.zeros((1080, 1920, 3), np.uint8)
    start = time.perf_counter()
    for _ in range(loops):
        feeder.push(array, lend=True)
    feeder.end_of_stream()
    await_end(pipeline)
    spent = time.perf_counter() - start
    pipeline.set_state(Gst.State.NULL)
    manager.close()
    return spent


def wrap_running(loops: int) -> float:
    pipeline = Gst.parse_launch(RUNNING)
    source = pipeline.get_by_name("source")
    source.set_property("caps", Gst.Caps.from_string(CAPS))
    pipeline.set_state(Gst.State.PLAYING)
    array = np.zeros((1080, 1920, 3), np.uint8)
    data = array.tobytes()
    start = time.perf_counter()
    for _ in range(loops):
        source.emit("push-buffer", Gst.Buffer.new_wrapped(data))
    source.emit("end-of-stream")
    await_end(pipeline)
    spent = time.perf_counter() - start
    pipeline.set_state(Gst.State.NULL)
    return spent


def encoded(sizes: list[int]) -> list[Any]:
    caps = Gst.Caps.from_string("video/x-h264")
    return [Gst.Sample.new(Gst.Buffer.new_allocate(None, size, None), caps, None, None) for size in sizes]


def views_of(sizes: list[int]) -> Any:
    samples: list[Any] = []
    adapter = SampleAdapter(SafetyManager(name="bench"))

    def timed(loops: int) -> float:
        if not samples:
            samples.extend(encoded(sizes))
        start = time.perf_counter()
        for _ in range(loops):
            for sample in samples:
                with adapter.frame(sample) as frame:
                    view = frame.data()  # noqa: F841  # alive when the block ends
        return time.perf_counter() - start

    return timed


def main() -> None:
    runner = pyperf.Runner()
    Gst.init(None)
    frames = Frames()
    same, bare, unmapped, share, captured, pulled, wrapped, fed, views = TARGETS
    for case, ours, peer in (
        (same, frames.guarded, frames.same_work),
        (bare, frames.guarded, frames.bare),
        (unmapped, frames.never_mapped, frames.bare),
        (share, frames.share, frames.bare),
    ):
        runner.bench_func(f"{case} | ours", ours)
        runner.bench_func(f"{case} | peer", peer)
    frames.shared.close()
    runner.bench_time_func(f"{captured} | ours", through_capture)
    runner.bench_time_func(f"{captured} | peer", raw_callback)
    for case, timed, peer_timed in (
        (pulled, only_pulling_capture, only_pulling_callback),
        (wrapped, push_with_room, wrap_bytes),
        (fed, feed_running, wrap_running),
    ):
        runner.bench_time_func(f"{case} | ours", timed)
        runner.bench_time_func(f"{case} | peer", peer_timed)
    runner.bench_time_func(f"{views} | ours", views_of(list(range(1, SIZES + 1))), inner_loops=SIZES)
    runner.bench_time_func(f"{views} | peer", views_of([SIZES // 2] * SIZES), inner_loops=SIZES)


if __name__ == "__main__":
    main()
