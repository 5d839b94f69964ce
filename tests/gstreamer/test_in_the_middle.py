"""Calls in the middle of others, at each line: what is closed stays closed, and what was given is given back.

All operations, at places that are drawn: `tests/adversaries/test_gstreamer.py`. Here stand those that were at fault, at
all their lines.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any

import pytest

from lifecycle import LifecycleError, SafetyManager
from lifecycle.testing import code_of, each_interrupt, every_line
from tests.core.adversary import STORM
from tests.support import eventually

pytestmark = [
    pytest.mark.needs("gstreamer", "numpy"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


STEP = 1 if STORM >= 10 else 7
"""From one point that is interrupted to the next, in what has hundreds."""


def at_each_line(work: Callable[[], Any], deed: Callable[[], Any], of: Any) -> int:
    """Run `work` again and again, with ``deed()`` at its first, its second … line; how many lines there were."""
    for at in itertools.count(1):
        passed = itertools.count(1)

        def act(at: int = at, passed: Any = passed) -> None:
            if next(passed) == at:
                deed()

        with every_line(act, of=of) as lines:
            try:
                work()
            except LifecycleError:
                pass
        if lines.passed < at:
            return at - 1
    raise AssertionError


@pytest.mark.parametrize("timeout", [5.0, 0])
def test_a_pipeline_that_is_closed_as_it_is_asked_to_play_stays_at_null(
    gst: Any, manager: SafetyManager, timeout: float
) -> None:
    from lifecycle.integrations.gstreamer import PipelineGuard

    made: list[Any] = []

    def work() -> None:
        pipeline = gst.Gst.parse_launch("fakesrc is-live=true ! fakesink")
        made[:] = [PipelineGuard(manager, pipeline), pipeline]
        del pipeline
        try:
            made[0].play(timeout)
        finally:
            made[0].close()
            eventually(
                lambda: not [one for one in threading.enumerate() if one.name == f"gst-{made[0].name}"]
            )
            assert made[1].get_state(0)[1] == gst.Gst.State.NULL

    assert at_each_line(work, lambda: made and made[0].close(), code_of(PipelineGuard._change)) > 5


@pytest.mark.parametrize("streaming", [False, True])
def test_a_capture_that_is_closed_as_it_starts_does_not_run(
    gst: Any, manager: SafetyManager, streaming: bool
) -> None:
    from lifecycle.integrations.gstreamer import Capture
    from lifecycle.integrations.gstreamer.captures.runs import Run

    pipeline = gst.Gst.parse_launch("fakesrc ! appsink name=sink")
    sink = gst.appsink_of(pipeline)
    made: list[Any] = []

    def work() -> None:
        capture = Capture(manager, sink, streaming=streaming)
        made[:] = [capture]
        try:
            capture.on_frame(lambda frame: None)
        finally:
            capture.close()
            eventually(lambda: not [one for one in threading.enumerate() if one.name == "capture-sink"])
            assert not sink.get_property("emit-signals")

    assert (
        at_each_line(work, lambda: made and made[0].close(), code_of(Capture.start, Run.__init__, Run.begin))
        > 10
    )
    made.clear()


def test_a_guard_whose_making_is_interrupted_ends_though_the_traceback_is_kept(
    gst: Any, manager: SafetyManager
) -> None:
    import lifecycle.integrations.gstreamer
    from lifecycle.integrations.gstreamer import Feeder, PipelineGuard, PoolAdapter, SignalGuard

    caps = "video/x-raw,format=I420,width=8,height=4,framerate=30/1"
    pipeline = gst.Gst.parse_launch("appsrc name=feed ! identity name=i ! fakesink")
    ours = code_of(lifecycle.integrations.gstreamer)
    for make in (
        lambda: PipelineGuard(manager, pipeline),
        lambda: SignalGuard(manager, pipeline.get_by_name("i"), "notify::silent", print),
        lambda: Feeder(manager, pipeline.get_by_name("feed"), caps=caps),
        lambda: PoolAdapter(manager, caps),
    ):
        made: list[Any] = []
        errors = []
        for struck in each_interrupt(lambda make=make, made=made: made.append(make()), of=ours, step=STEP):  # type: ignore[misc]
            errors.append(struck.error)
            assert not made
            eventually(lambda: manager.stats().active_objects == 0)
        made.pop().close()
        eventually(lambda: manager.stats().active_objects == 0)
        assert len(errors) * STEP > 10


def test_a_writable_frame_whose_end_is_interrupted_goes_back_though_the_traceback_is_kept(
    gst: Any, manager: SafetyManager
) -> None:
    from lifecycle.integrations.gstreamer import PoolAdapter
    from lifecycle.integrations.gstreamer._buffers import end_own

    made: list[Any] = []
    kept: list[Any] = []
    with PoolAdapter(manager, "video/x-raw,format=I420,width=8,height=4", most=1) as pool:
        made.append(pool.acquire(timeout=5))
        for struck in each_interrupt(lambda: made[0].close(), of=code_of(end_own)):
            made.pop()
            assert struck.error is not None
            if struck.on_entry:  # there the frame of the release keeps what it was given
                struck.error.with_traceback(None)
            kept.append(struck.error)
            eventually(lambda: pool.outstanding == 0)
            made.append(pool.acquire(timeout=5))
        assert len(kept) >= 2
        made.pop()


def test_what_a_guard_has_connected_goes_though_its_release_is_interrupted(
    gst: Any, manager: SafetyManager
) -> None:
    """At any point but on entry to the release itself, which nobody calls again."""
    from lifecycle.integrations.gstreamer import SignalGuard
    from lifecycle.integrations.gstreamer.pipelines.callbacks import Callback, CallbackCore
    from lifecycle.integrations.gstreamer.pipelines.signals import _SignalCore

    source = gst.Gst.ElementFactory.make("identity", "i")
    made: list[Any] = []
    numbers: list[int] = []

    def connect() -> None:
        made[:] = [SignalGuard(manager, source, "notify::silent", lambda *_: None)]
        with made[0].handle.lease() as core:
            numbers.append(core.id[0])

    connect()
    passed = 0
    of = code_of(CallbackCore.release, _SignalCore.leave, Callback.end)
    for struck in each_interrupt(lambda: made[0].close(0), of=of):
        passed += 1
        assert struck.error is not None
        if not (struck.on_entry and " release " in struck.place):
            assert not source.handler_is_connected(numbers[-1]), struck.place
        connect()
    assert passed > 5
    assert not source.handler_is_connected(numbers[-1])


def test_who_waits_for_an_idle_pad_is_answered_though_what_it_does_is_interrupted(gst: Any) -> None:
    from lifecycle.integrations.gstreamer.pipelines.pads import when_idle

    Gst = gst.Gst
    pipeline = Gst.parse_launch("identity name=i ! fakesink async=false sync=false")
    pipeline.set_state(Gst.State.PLAYING)
    pad, entry = map(pipeline.get_by_name("i").get_static_pad, ("src", "sink"))
    segment = Gst.Segment.new()
    segment.init(Gst.Format.BYTES)
    for event in (Gst.Event.new_stream_start("s"), Gst.Event.new_segment(segment)):
        assert entry.send_event(event)
    done: list[int] = []
    passed = 0
    # Called on this thread, within `add_probe`.
    inside = [code for code in when_idle.__code__.co_consts if getattr(code, "co_name", "") == "idle"]
    for struck in each_interrupt(lambda: when_idle(pad, lambda: done.append(1), 0.2), of=inside.__contains__):
        passed += 1
        assert struck.error is not None, struck.place
        before = len(done)
        assert before <= 1
        assert entry.chain(Gst.Buffer.new()) == Gst.FlowReturn.OK
        assert len(done) == before, f"it is not done later: {struck.place}"
        done.clear()
    assert passed > 3
    done.clear()
    assert when_idle(pad, lambda: done.append(1), 5)
    assert done == [1]
    gst.shutdown(pipeline)


@pytest.mark.needs("webrtc")
def test_one_handler_of_a_peer_that_fails_to_close_keeps_no_other(gst: Any, manager: SafetyManager) -> None:
    from lifecycle.integrations.gstreamer import GuardError, PipelineGuard
    from lifecycle.integrations.gstreamer.pipelines.signals import _SignalCore
    from lifecycle.integrations.gstreamer.webrtc import WebRTCPeer

    def work() -> None:
        with PipelineGuard(manager, "webrtcbin name=w") as pipeline:
            peer = WebRTCPeer(manager, pipeline, "w")
            try:
                peer.close()
            finally:
                assert all(signal.closed for signal in peer._signals)

    for struck in each_interrupt(work, of=code_of(_SignalCore.leave), step=STEP):
        assert isinstance(struck.error, KeyboardInterrupt), struck
    with PipelineGuard(manager, "webrtcbin name=w") as pipeline:
        peer = WebRTCPeer(manager, pipeline, "w")
        with peer._signals[0].handle.lease() as core:
            core.id.append("no number")  # type: ignore[arg-type]  # its release fails
        with pytest.raises(GuardError, match="could not be closed"):
            peer.close()
        assert all(signal.closed for signal in peer._signals)
        with pytest.raises(GuardError, match="could not be closed"):
            peer.close()
