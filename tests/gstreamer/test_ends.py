"""No loop over a capture ends in silence: it gives frames, or says why none came, or has seen the end of the
stream itself."""

from __future__ import annotations

import asyncio
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from lifecycle import SafetyManager
from tests.support import eventually

pytestmark = pytest.mark.needs("gstreamer", "numpy")

TINY = "video/x-raw,format=RGB,width=16,height=16"


@pytest.fixture
def g(gst: Any) -> Any:
    """The integration, GStreamer initialised."""
    import lifecycle.integrations.gstreamer

    return lifecycle.integrations.gstreamer


def pipeline_of(gst: Any, text: str) -> tuple[Any, Any]:
    pipeline = gst.Gst.parse_launch(f"{text} ! appsink name=sink sync=false")
    return pipeline, pipeline.get_by_name("sink")


async def frames_of(loop: Any) -> int:
    """How many a coroutine gets."""
    number = 0
    async for _ in loop:
        number += 1
    return number


def looped(capture: Any, how: str, timeout: float | None = 20.0) -> int:
    """How many frames a loop gives."""
    if how == "async":
        return asyncio.run(frames_of(capture.frames(timeout=timeout)))
    if how == "trio":
        trio: Any = pytest.importorskip("trio", reason="needs trio: `make test` installs it")
        number: int = trio.run(frames_of, capture.frames(timeout=timeout))
        return number
    return sum(1 for _ in capture.frames(timeout=timeout))


HOWS = pytest.mark.parametrize("how", ["for", "async", "trio"])


class Scripted:
    """An appsink whose answers are what they were as another thread started it between the questions."""

    def __init__(self, gst: Any, *eos: bool, state: str) -> None:
        self._eos = list(eos)
        self._state = getattr(gst.Gst.State, state)

    def get_property(self, name: str) -> bool:
        assert name == "eos"
        return self._eos.pop(0)

    def get_state(self, timeout: int) -> tuple[None, Any, None]:
        return None, self._state, None

    def get_static_pad(self, name: str) -> Any:
        """A pad that has seen the end."""
        return SimpleNamespace(get_sticky_event=lambda kind, index: kind, get_peer=lambda: None)


def test_an_appsink_that_is_started_between_two_questions(gst: Any) -> None:
    from lifecycle.integrations.gstreamer.captures.appsink import flow_of

    assert flow_of(Scripted(gst, True, False, state="PAUSED")) == "flowing"
    assert flow_of(Scripted(gst, True, True, state="PLAYING")) == "eos"
    assert flow_of(Scripted(gst, True, state="READY")) == "idle"
    assert flow_of(Scripted(gst, False, state="NULL")) == "flowing"


@HOWS
def test_a_pipeline_that_another_thread_starts(g: Any, gst: Any, manager: SafetyManager, how: str) -> None:
    for _ in range(20):
        pipeline, sink = pipeline_of(gst, f"videotestsrc num-buffers=3 ! {TINY}")
        starter = threading.Thread(target=pipeline.set_state, args=(gst.Gst.State.PLAYING,))
        with g.Capture(manager, sink) as capture:
            starter.start()
            assert looped(capture, how) == 3
        starter.join()
        gst.shutdown(pipeline)


@HOWS
def test_a_capture_of_a_pipeline_that_plays_or_has_ended(
    g: Any, gst: Any, manager: SafetyManager, how: str
) -> None:
    """What is still in the appsink is given."""
    pipeline, sink = pipeline_of(gst, f"videotestsrc num-buffers=3 ! {TINY}")
    pipeline.set_state(gst.Gst.State.PLAYING)
    pipeline.get_state(20 * gst.Gst.SECOND)
    eventually(lambda: level(sink) == 3)
    with g.Capture(manager, sink) as capture:
        assert looped(capture, how) == 3
        assert looped(capture, how) == 0  # and the second loop of it ends where the first did
    gst.shutdown(pipeline)


def level(sink: Any) -> int:
    """How many buffers it has been given."""
    return int(sink.get_property("stats").get_value("rendered"))


@HOWS
def test_an_end_that_came_before_the_capture(g: Any, gst: Any, manager: SafetyManager, how: str) -> None:
    pipeline, sink = pipeline_of(gst, f"videotestsrc num-buffers=2 ! {TINY}")
    pipeline.set_state(gst.Gst.State.PLAYING)
    for _ in range(2):
        gst.pull(sink)
    eventually(lambda: sink.get_property("eos"))
    with g.Capture(manager, sink, name="late") as capture:
        with pytest.raises(g.NoFrames, match="capture 'late': the stream had ended before"):
            looped(capture, how)
        gst.shutdown(pipeline)
        pipeline.set_state(gst.Gst.State.PLAYING)  # it streams again
        assert looped(capture, how) == 2
    gst.shutdown(pipeline)


@HOWS
def test_an_empty_stream_whose_end_the_loop_has_seen(
    g: Any, gst: Any, manager: SafetyManager, how: str
) -> None:
    """That is an end as of an empty list: nothing else was to come."""
    pipeline, sink = pipeline_of(gst, f"appsrc name=feed ! {TINY}")
    feed = pipeline.get_by_name("feed")
    with g.Capture(manager, sink) as capture:
        starting = threading.Timer(
            0.2, lambda: (pipeline.set_state(gst.Gst.State.PLAYING), feed.emit("end-of-stream"))
        )
        starting.start()
        assert looped(capture, how) == 0
        starting.join()
    gst.shutdown(pipeline)


@HOWS
def test_a_second_loop_waits_for_a_pipeline_that_is_started_again(
    g: Any, gst: Any, manager: SafetyManager, how: str
) -> None:
    pipeline, sink = pipeline_of(gst, f"videotestsrc num-buffers=3 ! {TINY}")
    with g.Capture(manager, sink) as capture:
        pipeline.set_state(gst.Gst.State.PLAYING)
        assert looped(capture, how) == 3
        gst.shutdown(pipeline)
        starter = threading.Timer(0.3, pipeline.set_state, (gst.Gst.State.PLAYING,))
        starter.start()
        assert looped(capture, how) == 3
        starter.join()
        gst.shutdown(pipeline)
        with pytest.raises(g.NoFrames, match="the appsink is NULL"):
            looped(capture, how, timeout=0.3)


@HOWS
def test_a_pipeline_that_is_stopped_ends_the_loop_over_it(
    g: Any, gst: Any, manager: SafetyManager, how: str
) -> None:
    pipeline, sink = pipeline_of(gst, f"videotestsrc is-live=true ! {TINY}")
    pipeline.set_state(gst.Gst.State.PLAYING)
    with g.Capture(manager, sink) as capture:
        stopper = threading.Timer(0.5, gst.shutdown, (pipeline,))
        stopper.start()
        assert looped(capture, how, timeout=None) > 0
        stopper.join()


@HOWS
def test_a_pipeline_that_failed(g: Any, gst: Any, manager: SafetyManager, how: str) -> None:
    """A source that fails sends the end of the stream behind its error."""
    failing = "fakesrc num-buffers=1 ! identity error-after=1"
    pipeline, sink = pipeline_of(gst, failing)
    with g.Capture(manager, sink) as capture:
        pipeline.set_state(gst.Gst.State.PLAYING)
        with pytest.raises(g.PipelineError):
            looped(capture, how)
    gst.shutdown(pipeline)

    pipeline, sink = pipeline_of(gst, failing)
    pipeline.set_state(gst.Gst.State.PLAYING)
    eventually(lambda: pipeline.get_bus().have_pending())
    time.sleep(0.1)
    with g.Capture(manager, sink) as capture, pytest.raises((g.NoFrames, g.PipelineError)):
        looped(capture, how, timeout=0.5)
    gst.shutdown(pipeline)


def test_a_stream_that_starts_behind_an_error_does_not_hide_it(
    g: Any, gst: Any, manager: SafetyManager
) -> None:
    """With two sinks the start is told when both have it, and one may have failed by then."""
    from gi.repository import GLib

    pipeline, sink = pipeline_of(gst, f"videotestsrc is-live=true ! {TINY}")
    bus = pipeline.get_bus()

    def fail() -> None:
        error = GLib.Error.new_literal(gst.Gst.StreamError.quark(), "gone", 1)
        bus.post(gst.Gst.Message.new_error(sink, error, ""))
        bus.post(gst.Gst.Message.new_stream_start(pipeline))

    with g.Capture(manager, sink) as capture:
        pipeline.set_state(gst.Gst.State.PLAYING)
        assert next(iter(capture.frames(timeout=20))) is not None
        fail()
        with pytest.raises(g.PipelineError, match="gone"):
            capture.wait(0)
        gst.shutdown(pipeline)
        with pytest.raises(g.PipelineError, match="gone"):
            capture.wait(0)
        pipeline.set_state(gst.Gst.State.PLAYING)  # another run
        pipeline.get_state(20 * gst.Gst.SECOND)
        eventually(lambda: capture._listener.error is None)
        assert next(iter(capture.frames(timeout=20))) is not None
    gst.shutdown(pipeline)


def test_the_last_frame_of_a_cancelled_turn_is_the_next_ones(
    g: Any, gst: Any, manager: SafetyManager
) -> None:
    """The thread of the cancelled turn has it in its hands while the appsink is at its end already."""
    pipeline, sink = pipeline_of(gst, f"appsrc name=feed caps={TINY},framerate=0/1 format=time")
    feed = pipeline.get_by_name("feed")
    pipeline.set_state(gst.Gst.State.PLAYING)
    pulled, go_on = threading.Event(), threading.Event()

    async def program(capture: Any) -> list[Any]:
        frames = capture.frames(timeout=20)
        plain = capture._try_pull

        def slow(sink: Any, nanoseconds: int) -> Any:
            on_loop = threading.current_thread() is threading.main_thread()
            if on_loop and not pulled.is_set():
                # Between two waits the loop looks for itself: it must not be quicker than they are.
                return None
            sample = plain(sink, nanoseconds)
            if sample is not None and not on_loop:
                pulled.set()
                go_on.wait(20)
            return sample

        capture._try_pull = slow
        turn = asyncio.ensure_future(frames.__anext__())
        await asyncio.sleep(0.1)
        buffer = gst.Gst.Buffer.new_allocate(None, 16 * 16 * 3, None)
        buffer.pts = 0
        feed.emit("push-buffer", buffer)
        feed.emit("end-of-stream")
        while not pulled.is_set():
            await asyncio.sleep(0.01)
        while not sink.get_property("eos"):
            await asyncio.sleep(0.01)
        turn.cancel()
        await asyncio.gather(turn, return_exceptions=True)
        asyncio.get_running_loop().call_later(0.2, go_on.set)
        return [frame.array().shape async for frame in frames]

    with g.Capture(manager, sink) as capture:
        assert asyncio.run(program(capture)) == [(16, 16, 3)]
    gst.shutdown(pipeline)


def test_a_callback_gets_every_frame_before_the_end(g: Any, gst: Any, manager: SafetyManager) -> None:
    """`wait` does not take the appsink's answer from before it was started for the end."""
    pipeline, sink = pipeline_of(gst, f"videotestsrc num-buffers=3 ! {TINY}")
    seen = SimpleNamespace(number=0)
    with g.Capture(manager, sink) as capture:

        def count(frame: Any) -> None:
            seen.number += 1

        capture.on_frame(count)
        pipeline.set_state(gst.Gst.State.PLAYING)
        assert capture.wait(20)
        assert seen.number == 3
    gst.shutdown(pipeline)


@pytest.mark.needs("trio")
def test_a_cancelled_task_of_trio_leaves_the_frames_to_the_next_loop(
    g: Any, gst: Any, manager: SafetyManager
) -> None:
    import importlib

    trio: Any = importlib.import_module("trio")
    pipeline, sink = pipeline_of(gst, f"videotestsrc is-live=true num-buffers=60 ! {TINY},framerate=100/1")
    seen: list[int] = []

    async def look(capture: Any) -> None:
        async for frame in capture.frames(timeout=20):
            seen.append(frame.pts)

    async def main(capture: Any) -> None:
        for _ in range(5):
            with trio.move_on_after(0.05):
                await look(capture)
        await look(capture)

    with g.Capture(manager, sink, bound=None) as capture:
        pipeline.set_state(gst.Gst.State.PLAYING)
        trio.run(main, capture)
    assert len(seen) == 60
    assert seen == sorted(set(seen)), "a frame was lost, or came twice"
    gst.shutdown(pipeline)


@HOWS
def test_each_run_of_a_pipeline_has_an_end_of_its_own(
    g: Any, gst: Any, manager: SafetyManager, how: str
) -> None:
    """An appsink keeps the end of a run that a change to READY has ended; whoever asks is told of this run."""
    pipeline, sink = pipeline_of(gst, f"videotestsrc num-buffers=5 ! {TINY} ! identity sleep-time=5000")
    with g.Capture(manager, sink) as capture:
        for state in ("READY", "READY", "NULL", "READY"):
            pipeline.set_state(gst.Gst.State.PLAYING)
            assert looped(capture, how) == 5
            pipeline.set_state(getattr(gst.Gst.State, state))
    gst.shutdown(pipeline)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("asks", [True, False], ids=["asked", "there"])
def test_who_waits_waits_for_the_end_of_this_run(
    g: Any, gst: Any, manager: SafetyManager, streaming: bool, asks: bool
) -> None:
    with g.PipelineGuard(
        manager,
        f"videotestsrc num-buffers=5 ! {TINY} ! identity sleep-time=20000 ! appsink name=sink sync=false",
    ) as guard:
        seen: list[int] = []
        capture = g.Capture(manager, guard["sink"], streaming=streaming)
        capture.on_frame(lambda frame: seen.append(frame.pts))
        for number in range(1, 4):
            guard.play(timeout=0 if asks else 20)
            assert capture.wait(20)
            assert len(seen) == 5 * number
            guard.ready()
            assert capture.wait(0)
        capture.close()


@pytest.mark.parametrize("state", ["READY", "NULL"])
@HOWS
def test_a_loop_ends_where_its_pipeline_is_stopped(
    g: Any, gst: Any, manager: SafetyManager, how: str, state: str
) -> None:
    pipeline, sink = pipeline_of(gst, f"videotestsrc is-live=true ! {TINY},framerate=100/1")
    with g.Capture(manager, sink) as capture:
        pipeline.set_state(gst.Gst.State.PLAYING)
        stopper = threading.Timer(0.1, pipeline.set_state, (getattr(gst.Gst.State, state),))
        stopper.start()
        assert looped(capture, how) > 0
        stopper.join()
    gst.shutdown(pipeline)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("state", ["READY", "NULL"])
def test_who_waits_is_told_that_the_pipeline_was_stopped(
    g: Any, gst: Any, manager: SafetyManager, streaming: bool, state: str
) -> None:
    pipeline, sink = pipeline_of(gst, f"videotestsrc is-live=true ! {TINY},framerate=100/1")
    with g.Capture(manager, sink, streaming=streaming) as capture:
        seen: list[int] = []
        capture.on_frame(lambda frame: seen.append(frame.pts))
        assert not capture.wait(0.05), "it has not begun"
        for _ in range(2):
            count = len(seen)
            pipeline.set_state(gst.Gst.State.PLAYING)
            eventually(lambda count=count: len(seen) > count)  # type: ignore[misc]
            assert not capture.wait(0.02)
            pipeline.set_state(getattr(gst.Gst.State, state))
            assert capture.wait(20)
    gst.shutdown(pipeline)


@pytest.mark.parametrize("how", ["for", "async", "callback", "streaming"])
def test_a_segment_ends_who_loops_and_who_waits(g: Any, gst: Any, manager: SafetyManager, how: str) -> None:
    """With no end of the stream, and behind the last of its frames; the next segment begins anew."""
    with g.PipelineGuard(
        manager, f"videotestsrc ! {TINY},framerate=10/1 ! appsink name=sink sync=false max-buffers=3"
    ) as guard:
        seen: list[int] = []
        capture = g.Capture(manager, guard["sink"], streaming=how == "streaming")
        if how in ("callback", "streaming"):
            capture.on_frame(lambda frame: seen.append(frame.pts))
        guard.pause()
        for _ in range(3):
            seen.clear()
            guard.seek(0, stop=gst.Gst.SECOND, segment=True)
            if guard.state != "playing":
                guard.play(0)
            if how in ("for", "async"):
                assert looped(capture, how) == 10
            else:
                assert capture.wait(20)
                assert len(set(seen)) == 10
        capture.close()
