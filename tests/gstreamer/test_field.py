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


# -- runs, ends and errors ------------------------------------------------------------------------------------

CLIP = "videotestsrc num-buffers=20 ! video/x-raw,format=RGB,width=16,height=16,framerate=50/1 ! "


ENDLESS = CLIP.replace(" num-buffers=20", "")


def rewind(gst: Any, pipeline: Any) -> None:
    """To the beginning of a clip of 20 frames. (A count of the source's own goes on over a seek.)"""
    Gst = gst.Gst
    assert pipeline.pipeline.seek(
        1.0, Gst.Format.TIME, Gst.SeekFlags.FLUSH, Gst.SeekType.SET, 0, Gst.SeekType.SET, 400 * Gst.MSECOND
    )


@pytest.mark.parametrize("streaming", [False, True], ids=["thread", "streaming"])
def test_an_end_is_undone_by_a_seek(g: Any, manager: SafetyManager, gst: Any, streaming: bool) -> None:
    with g.PipelineGuard(manager, ENDLESS + "appsink name=s sync=true max-buffers=2") as pipeline:
        pipeline.pause()
        rewind(gst, pipeline)
        pipeline.pause()
        seen: list[int] = []
        with g.Capture(manager, pipeline["s"], streaming=streaming) as capture:
            capture.on_frame(lambda frame: seen.append(frame.pts))
            pipeline.play()
            for _ in range(3):
                assert pipeline.wait(20)
                assert capture.wait(20)
                assert pipeline.ended
                assert seen[-1] == 380_000_000
                seen.clear()
                rewind(gst, pipeline)
                assert not pipeline.ended
                assert not pipeline.wait(0)
                assert not capture.wait(0)


def test_an_end_is_undone_where_one_of_several_sinks_is_late(
    g: Any, manager: SafetyManager, gst: Any
) -> None:
    """The sink that nobody pulls from says its old end while it is flushed."""
    text = (
        ENDLESS + "tee name=t ! queue ! appsink name=s sync=true  t. ! queue ! appsink name=late sync=false"
    )
    with g.PipelineGuard(manager, text) as pipeline, g.Capture(manager, pipeline["s"]) as capture:
        pipeline.pause()
        rewind(gst, pipeline)
        capture.on_frame(lambda frame: None)
        pipeline.play()
        assert capture.wait(20)
        assert not pipeline.wait(0.1), "one sink is not at its end"
        rewind(gst, pipeline)
        assert not pipeline.wait(0)
        assert not capture.wait(0)


@pytest.mark.parametrize("state", ["READY", "NULL"])
def test_a_run_begun_by_hand_has_neither_end_nor_errors(
    g: Any, manager: SafetyManager, gst: Any, state: str
) -> None:
    Gst = gst.Gst
    with g.PipelineGuard(manager, CLIP + "identity name=i ! fakesink sync=true") as pipeline:
        pipeline.play()
        assert pipeline.wait(20)
        pipeline["i"].set_property("error-after", 3)
        pipeline.pipeline.set_state(getattr(Gst.State, state))
        pipeline.pipeline.set_state(Gst.State.PLAYING)
        with pytest.raises(g.PipelineError):
            pipeline.wait(20)
        pipeline["i"].set_property("error-after", -1)
        pipeline.pipeline.set_state(getattr(Gst.State, state))
        pipeline.pipeline.set_state(Gst.State.PLAYING)
        eventually(lambda: not pipeline.errors)
        assert pipeline.wait(20)


def test_an_error_outlives_a_pause_and_late_streams(g: Any, manager: SafetyManager, gst: Any) -> None:
    """A second sink, whose stream begins after the error: its beginning says nothing of the error."""
    text = (
        "videotestsrc is-live=true ! video/x-raw,format=RGB,width=16,height=16,framerate=50/1 ! "
        "identity error-after=5 name=camera ! tee name=t allow-not-linked=true ! queue ! appsink name=s sync=false async=false"
    )
    with g.PipelineGuard(manager, text) as pipeline, g.Capture(manager, pipeline["s"]) as capture:
        pipeline.play(0)
        eventually(lambda: pipeline.errors)
        pipeline.pipeline.post_message(gst.Gst.Message.new_stream_start(pipeline.pipeline))
        assert pipeline.errors[0].element == "camera"
        with pytest.raises(g.PipelineError, match="camera"):
            for _ in capture.frames(timeout=20):
                pass
        with pytest.raises(g.PipelineError, match="camera"):
            pipeline.pause()
        assert pipeline.errors


def test_errors_of_runs() -> None:
    from lifecycle.integrations.gstreamer import PipelineError
    from lifecycle.integrations.gstreamer._native import Gst
    from lifecycle.integrations.gstreamer.pipelines.listening import KEPT_ERRORS, Errors

    state = Gst.State
    errors = Errors()
    errors.add(PipelineError("one"))
    assert not errors.changed(state.READY, state.PAUSED, False), "an element that joins begins no run"
    assert not errors.changed(state.PAUSED, state.READY, True)
    errors.add(PipelineError("two"))
    assert [str(error) for error in errors.now()] == ["one", "two"], "known until the next run"
    assert errors.changed(state.READY, state.PAUSED, False)
    assert [str(error) for error in errors.now()] == ["two"]
    errors.changed(state.READY, state.PAUSED, True)
    assert not errors.changed(state.PAUSED, state.PLAYING, True)
    assert errors
    for number in range(40):
        errors.add(PipelineError(str(number)))
    assert len(errors.now()) == KEPT_ERRORS
    assert not errors.changed(state.PLAYING, state.PAUSED, True)
    assert errors
    assert errors.changed(state.NULL, state.READY, True)
    assert not errors


# -- a bus that nobody reads ----------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["nothing", "eos", "error"])
def test_a_bus_that_nobody_reads_is_bounded(
    g: Any, manager: SafetyManager, gst: Any, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    from gi.repository import GLib

    from lifecycle.integrations.gstreamer.pipelines import drain

    monkeypatch.setattr(drain, "PATIENCE", 0.1)
    monkeypatch.setattr(drain, "LONG_PATIENCE", 0.3)
    monkeypatch.setattr(drain, "PERIOD", 0.05)
    Gst = gst.Gst
    with g.PipelineGuard(manager, LIVE + "fakesink name=sink") as pipeline:
        pipeline.play()
        bus = pipeline.pipeline.get_bus()
        if first == "eos":
            pipeline.pipeline.post_message(Gst.Message.new_eos(pipeline["sink"]))
        elif first == "error":
            error = GLib.Error.new_literal(Gst.stream_error_quark(), "made up", 1)
            pipeline.pipeline.post_message(Gst.Message.new_error(pipeline["sink"], error, ""))
        posted = 0
        until = time.monotonic() + 2
        while time.monotonic() < until or posted <= 1000:
            for _ in range(50):
                pipeline.pipeline.post_message(
                    Gst.Message.new_element(pipeline["sink"], Gst.Structure.new_empty("level"))
                )
            posted += 50
            time.sleep(0.02)
        eventually(lambda: bus.peek() is None)
        assert posted > 1000
        assert len(pipeline.errors) == (first == "error"), "the guard has heard of it"
