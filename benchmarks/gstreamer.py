"""What a guarded frame costs beside the unsafe code of the same work, and a capture beside a raw new-sample callback.

The frames' benchmarks run in a hot loop on one 1080p sample, the array alive when the block ends, as most programs have it. The
captures' run a pipeline of small frames as fast as it goes, so that Python's part of it shows.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import gi
import numpy as np
import pyperf

gi.require_version("Gst", "1.0")
gi.require_version("GstApp", "1.0")
from gi.repository import Gst, GstApp

from integrations.gstreamer import Capture, SampleAdapter
from lifecycle import SafetyManager

TARGETS = {
    "frame + array + close, beside the same work unsafe": 1.0,
    "frame + array + close, beside a bare map + frombuffer": 1.6,
    "frame + close, never mapped, beside a bare map + frombuffer": 0.6,
    "frame.share() + close, beside a bare map + frombuffer": 1.0,
    "a frame through Capture, beside a raw new-sample callback": 1.0,
}

READ = Gst.MapFlags.READ


def one_sample() -> Any:
    pipeline = Gst.parse_launch(
        "videotestsrc num-buffers=1 ! video/x-raw,format=RGB,width=1920,height=1080,framerate=30/1 "
        "! appsink name=sink sync=false"
    )
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
        self.shared = self.adapter.frame(self.sample)
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
        f"videotestsrc pattern=black num-buffers={frames} ! video/x-raw,format=RGB,width=160,height=120,framerate=30/1 "
        "! appsink name=sink sync=false max-buffers=16"
    )
    return pipeline, pipeline.get_by_name("sink")


def through_capture(loops: int) -> float:
    pipeline, sink = pipeline_of(loops)
    with SafetyManager(name="bench") as manager, Capture(manager, sink) as capture:

        @capture.on_frame
        def look(frame: Any) -> None:
            frame.array()

        start = time.perf_counter()
        pipeline.set_state(Gst.State.PLAYING)
        capture.wait()
        spent = time.perf_counter() - start
    pipeline.set_state(Gst.State.NULL)
    return spent


def raw_callback(loops: int) -> float:
    pipeline, sink = pipeline_of(loops)
    ended = threading.Event()

    def look(sink: Any) -> Any:
        sample = sink.emit("pull-sample")
        buffer = sample.get_buffer()
        height, width = size_of(sample.get_caps())
        with buffer.map(READ) as info:
            np.ndarray((height, width, 3), np.uint8, info.data)
        return Gst.FlowReturn.OK

    sink.set_property("emit-signals", True)
    sink.connect("new-sample", look)
    sink.connect("eos", lambda _: ended.set())
    start = time.perf_counter()
    pipeline.set_state(Gst.State.PLAYING)
    ended.wait()
    spent = time.perf_counter() - start
    pipeline.set_state(Gst.State.NULL)
    return spent


def main() -> None:
    runner = pyperf.Runner()
    Gst.init(None)
    frames = Frames()
    same, bare, unmapped, share, captured = TARGETS
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


if __name__ == "__main__":
    main()
