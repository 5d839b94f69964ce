"""The collector, and an interrupt, at the lines of the guards: ``python -m tests.gstreamer.adversary
collector|interrupt STRIDE``.

Each guard is made and closed on a live pipeline while every line of its own code is visited: with a full
collection before each, or with an exception raised at every STRIDE-th one. Afterwards the pipeline must be as
it was: the same pads, the same elements, no object left, and nothing critical said by GStreamer.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable
from types import FrameType
from typing import Any

import structlog

import lifecycle.integrations.gstreamer as ours
from lifecycle import SafetyManager
from lifecycle.integrations.gstreamer import (
    BusWatch,
    ElementGuard,
    GuardError,
    PadGuard,
    PipelineGuard,
    ProbeGuard,
    SignalGuard,
    Tee,
)
from tests.gstreamer.program import Gst

HERE = os.path.dirname(ours.__file__)
FOLDERS = (os.path.join(HERE, "pipelines", ""), os.path.join(HERE, "sharing", ""))
SOURCE = (
    "videotestsrc is-live=true pattern=black ! video/x-raw,width=32,height=24,framerate=100/1 "
    "! tee name=t allow-not-linked=true"
)


class Interrupt(BaseException):
    """As a signal handler raises it."""


manager = SafetyManager(name="adversary")
pipeline = PipelineGuard(manager, SOURCE)


def branch() -> None:
    with Tee(manager, pipeline, "t").attach("fakesink") as made:
        made.flush()


def probe() -> None:
    pad = pipeline["t"].get_static_pad("sink")
    with ProbeGuard(manager, pad, Gst.PadProbeType.BUFFER, lambda *_: None):
        pass


def pad() -> None:
    with PadGuard(manager, pipeline["t"], "src_%u"):
        pass


def signal() -> None:
    with SignalGuard(manager, pipeline["t"], "notify::name", lambda *_: None):
        pass


def element() -> None:
    with ElementGuard(manager, "fakesink", pipeline) as made:
        made.start()


def another_pipeline() -> None:
    with PipelineGuard(manager, "fakesrc ! fakesink") as made, BusWatch(manager, made) as watch:
        watch.on("eos")(print)
        made.play(0)


def visit(work: Callable[[], None], at: int | None, action: Callable[[], object]) -> int:
    """Run `work` with ``action()`` at line number `at` of our code (None: at every line); how many lines
    there were."""
    lines = 0

    def in_frame(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal lines
        if event == "line":
            lines += 1
            if at is None:
                action()
            elif lines == at:
                sys.settrace(None)
                action()
        return in_frame

    sys.settrace(
        lambda frame, event, argument: in_frame if frame.f_code.co_filename.startswith(FOLDERS) else None
    )
    try:
        work()
    finally:
        sys.settrace(None)
    return lines


def interrupt() -> None:
    raise Interrupt


def as_it_was(seconds: float = 20.0) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        gc.collect()
        if (
            manager.stats().active_objects == 1
            and pipeline["t"].numsrcpads == 0
            and pipeline.pipeline.numchildren == 3
        ):
            return True
        time.sleep(0.002)
    return False


def main(kind: str, stride: int) -> None:
    """One line for each guard."""
    warnings.simplefilter("ignore")  # what an interrupt left unclosed is reported, as it should be
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    pipeline.play()
    for work in (branch, probe, pad, signal, element, another_pipeline):
        if kind == "collector":
            visited = visit(work, None, lambda: gc.collect(1))
            assert as_it_was(), work.__name__
        else:
            visited = 0
            for at in range(1, visit(work, -1, interrupt) + 1, stride):
                try:
                    visit(work, at, interrupt)
                except (Interrupt, GuardError) as error:  # a release that was interrupted says so
                    error.__traceback__ = None
                visited += 1
                assert as_it_was(), f"{work.__name__}, line {at}: {manager.objects()}"
        print(work.__name__, visited, flush=True)
    assert pipeline.close()
    assert manager.close().leaked == ()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
