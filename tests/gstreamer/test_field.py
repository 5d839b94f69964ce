"""What programs do to pipelines: handlers that close their own watch, elements taken out by hand, viewers that
come too late, and structures that are kept beyond their time. Each part ends alone, and nothing hangs."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from lifecycle import ClosedError, LifecycleError, ObjectState, SafetyManager
from tests.support import eventually, run_python

pytestmark = pytest.mark.needs("gstreamer", "numpy")

LIVE = "videotestsrc is-live=true ! video/x-raw,format=RGB,width=16,height=16,framerate=100/1 ! "


@pytest.fixture
def g(gst: Any) -> Any:
    """The integration, GStreamer initialised."""
    import lifecycle.integrations.gstreamer

    return lifecycle.integrations.gstreamer


# -- handlers that close what calls them ---------------------------------------------------------------------


def test_a_bus_watch_is_closed_in_its_own_handler(g: Any, manager: SafetyManager) -> None:
    pipeline = g.PipelineGuard(manager, "videotestsrc num-buffers=3 ! fakesink")
    watch = g.BusWatch(manager, pipeline)
    answers: list[Any] = []

    def any_message(message: Any) -> None:
        began = time.monotonic()
        answers.append((watch.close(), watch.close(), time.monotonic() - began))

    watch.on()(any_message)

    pipeline.play()
    eventually(lambda: answers)
    (first, second, took), *more = answers
    assert (first, second, more) == (False, False, [])
    assert took < 3, "it waited for its own thread"
    eventually(lambda: watch.handle.state is ObjectState.RELEASED)
    assert watch.close()
    # The bus is free for the next.
    with g.BusWatch(manager, pipeline):
        pass
    pipeline.close()


def test_a_manager_is_closed_in_a_bus_handler(g: Any) -> None:
    manager = SafetyManager()
    pipeline = g.PipelineGuard(manager, "videotestsrc num-buffers=3 ! fakesink")
    watch = g.BusWatch(manager, pipeline)
    reports: list[Any] = []
    watch.on("eos")(lambda message: reports.append(manager.close()))
    pipeline.play(0)
    eventually(lambda: reports)
    assert (reports[0].stuck, reports[0].failed) == ((), ())
    assert watch.handle.state is ObjectState.RELEASED


def test_closing_a_watch_waits_for_a_handler_of_another_thread(g: Any, manager: SafetyManager) -> None:
    pipeline = g.PipelineGuard(manager, "videotestsrc num-buffers=3 ! fakesink")
    watch = g.BusWatch(manager, pipeline)
    began, over = threading.Event(), threading.Event()

    def slow(message: Any) -> None:
        began.set()
        time.sleep(0.2)
        over.set()

    watch.on("eos")(slow)

    pipeline.play()
    assert began.wait(20)
    assert watch.close()
    assert over.is_set()
    pipeline.close()


# -- what was taken out by hand ------------------------------------------------------------------------------

BY_HAND = r"""
import gc
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstApp", "1.0")
from gi.repository import Gst, GstApp
from lifecycle.integrations.gstreamer import ElementGuard, PadGuard, PipelineGuard, SignalGuard, Tee
from lifecycle import SafetyManager
Gst.init(None)
manager = SafetyManager()
pipeline = PipelineGuard(manager, "videotestsrc is-live=true ! tee name=t allow-not-linked=true ! fakesink async=false")
pipeline.play()
tee = pipeline["t"]

element = ElementGuard(manager, "queue", pipeline)
element.start()
pipeline.pipeline.remove(element.element)
assert element.close()

moved = ElementGuard(manager, "queue", pipeline)
inner, other = moved.element, Gst.Bin.new("other")
pipeline.pipeline.remove(inner)
other.add(inner)
assert moved.close()
assert inner.get_parent() == other, "it is another bin's"
other.remove(inner)

pad = PadGuard(manager, tee, "src_%u")
tee.release_request_pad(pad.pad)
assert pad.close()

signal = SignalGuard(manager, tee, "pad-added", lambda *_: None)
with signal.handle.lease() as core:
    tee.disconnect(core.id[0])
assert signal.close()

branch = Tee(manager, pipeline, "t").attach("fakesink")
pipeline.pipeline.remove(branch.bin)
assert branch.close()
branch = Tee(manager, pipeline, "t").attach("fakesink")
given = branch.bin.get_static_pad("sink").get_peer()
given.unlink(branch.bin.get_static_pad("sink"))
tee.release_request_pad(given)
assert branch.close()
del element, moved, inner, other, pad, signal, branch, given, core
gc.collect()
pipeline.close()
assert manager.close().ok
print("whole")
"""


def test_what_was_taken_out_by_hand_is_noticed(gst: Any) -> None:
    done = run_python(BY_HAND)
    assert done.stdout == "whole\n", done.stderr
    assert "CRITICAL" not in done.stderr
    assert "WARNING" not in done.stderr


# -- late -----------------------------------------------------------------------------------------------------


def test_a_closed_fanout_takes_no_client(g: Any, manager: SafetyManager) -> None:
    source = g.PipelineGuard(manager, LIVE + "appsink name=encoded")
    fanout = g.Fanout(manager, source, "encoded")
    source.play()
    viewer = g.PipelineGuard(manager, "appsrc name=feed is-live=true ! fakesink sync=false async=false")
    fanout.close()
    with pytest.raises(ClosedError, match="fanout 'encoded' is closed"):
        fanout.add(viewer, "feed")
    with pytest.raises(ClosedError), fanout:
        pass
    assert not viewer.closed, "nothing was taken"
    assert "closed" in repr(fanout)
    viewer.close()
    source.close()


def test_a_fanout_closed_while_a_client_joins_leaves_none(
    g: Any, manager: SafetyManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lifecycle.integrations.gstreamer.sharing import clients

    source = g.PipelineGuard(manager, LIVE + "appsink name=encoded")
    fanout = g.Fanout(manager, source, "encoded")
    source.play()
    viewer = g.PipelineGuard(manager, "appsrc name=feed is-live=true ! fakesink sync=false async=false")
    running = clients._await_running

    def closes(*arguments: Any) -> None:
        running(*arguments)
        fanout.close()

    monkeypatch.setattr(clients, "_await_running", closes)
    with pytest.raises(ClosedError):
        fanout.add(viewer, "feed")
    assert not fanout.clients
    assert viewer.closed
    source.close()


def test_a_closed_capture_takes_no_handler(g: Any, manager: SafetyManager, live: Any) -> None:
    capture = g.Capture(manager, live)
    capture.close()
    for method in (capture.on_frame, capture.on_stall):
        with pytest.raises(ClosedError):
            method(lambda _: None)


# -- what a probe is told -------------------------------------------------------------------------------------


def test_the_info_of_a_probe_is_good_during_the_call_only(g: Any, manager: SafetyManager) -> None:
    from lifecycle.integrations.gstreamer._native import Gst

    pipeline = g.PipelineGuard(manager, LIVE + "identity name=i ! fakesink sync=false async=false")
    kept: list[tuple[Any, Any, int, Any]] = []

    def probe(pad: Any, info: Any) -> None:
        if not kept:
            assert info.type & Gst.PadProbeType.BUFFER
            buffer = info.get_buffer()
            kept.append((info, buffer, buffer.pts, info.get_buffer))

    pad = pipeline["i"].get_static_pad("sink")
    with g.ProbeGuard(manager, pad, Gst.PadProbeType.BUFFER, probe) as guard:
        pipeline.play()
        eventually(lambda: guard.calls > 5)
        assert guard.error is None
    info, buffer, pts, bound = kept[0]
    for late in (lambda: info.get_buffer(), lambda: info.type, bound, lambda: setattr(info, "size", 0)):
        with pytest.raises(LifecycleError, match="after its callback has returned"):
            late()
    assert buffer.pts == pts, "what its methods gave is good"
    assert "over" in repr(info)
    pipeline.close()
