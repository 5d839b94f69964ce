"""Captures: frames by callback and by iteration, what callbacks raise, and an end that leaves the pipeline as
it should be."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from lifecycle import ClosedError, LifecycleError, SafetyConfig, SafetyManager
from lifecycle.errors import CallbackError, ConfigError
from tests.support import SOON, eventually, run_python

pytestmark = pytest.mark.needs("gstreamer", "numpy")


@pytest.fixture
def ten(gst: ModuleType) -> Iterator[Any]:
    """The appsink of a pipeline of ten frames."""
    pipeline, sink = gst.launch(frames=10)
    yield sink
    del sink
    gst.shutdown(pipeline)


BOTH = pytest.mark.parametrize("streaming", [False, True], ids=["pull", "streaming"])


@BOTH
def test_every_frame_reaches_the_callback_and_the_end_is_told(
    ten: Any, manager: SafetyManager, streaming: bool
) -> None:
    from lifecycle.integrations.gstreamer import Capture

    with Capture(manager, ten, name="ten", streaming=streaming) as capture:
        seen: list[tuple[int | None, tuple[int, ...], str]] = []

        @capture.on_frame
        def look(frame: Any) -> None:
            seen.append((frame.pts, frame.array().shape, threading.current_thread().name))

        assert capture.wait(10)
        stats = capture.stats()
    assert [pts for pts, _, _ in seen] == sorted(pts for pts, _, _ in seen if pts is not None)
    assert {shape for _, shape, _ in seen} == {(48, 64, 3)}
    if not streaming:
        assert {thread for _, _, thread in seen} == {"capture-ten"}
    assert stats.name == "ten"
    assert stats.results == {"ok": len(seen), "error": 0, "panic": 0, "dropped": 10 - len(seen)}
    assert streaming or len(seen) == 10
    assert stats.frames_held == 0
    assert time.time() - stats.last_frame < 10
    assert sum(stats.callback_duration.counts) == len(seen)
    assert stats.callback_duration.sum > 0


def test_iteration_closes_the_frame_before(ten: Any, manager: SafetyManager) -> None:
    from lifecycle.integrations.gstreamer import Capture, FrameClosedError

    with Capture(manager, ten) as capture:
        before = None
        count = 0
        for frame in capture.frames(timeout=10):
            if before is not None:
                assert before.closed
                with pytest.raises(FrameClosedError):
                    before.share()
            frame.array()
            before = frame
            count += 1
        assert count == 10
        assert before is not None
        assert before.closed
        assert capture.stats().results["ok"] == 10


def test_leaving_the_loop_early_closes_the_frame(live: Any, manager: SafetyManager) -> None:
    from lifecycle.integrations.gstreamer import Capture

    seen: list[Any] = []

    def divide(capture: Any) -> None:
        for frame in capture.frames(timeout=10):
            frame.array()
            seen.append(frame)
            1 / 0

    with Capture(manager, live) as capture:
        for frame in capture.frames(timeout=10):
            frame.array()
            break
        assert frame.closed
        with pytest.raises(ZeroDivisionError):
            divide(capture)
        assert seen[-1].closed
    gc.collect()
    eventually(lambda: manager.stats().active_objects == 0)
    assert manager.stats().leaks == 0


def test_nothing_within_the_timeout_says_so(gst: ModuleType, manager: SafetyManager) -> None:
    from lifecycle.integrations.gstreamer import Capture, NoFrames

    pipeline = gst.Gst.parse_launch(f"videotestsrc ! {gst.SMALL} ! appsink name=sink")
    pipeline.set_state(gst.Gst.State.PAUSED)
    pipeline.get_state(gst.Gst.SECOND)
    with Capture(manager, gst.appsink_of(pipeline), name="still") as capture:
        began = time.monotonic()
        with pytest.raises(
            NoFrames, match=r"'still': no frame within 0.2 s; the appsink is PAUSED"
        ) as caught:
            next(capture.frames(timeout=0.2))
        assert 0.2 <= time.monotonic() - began < SOON
        assert isinstance(caught.value, LifecycleError)
        assert isinstance(caught.value, TimeoutError)
    gst.shutdown(pipeline)


def test_a_thread_that_rests_wakes_as_the_stream_begins(
    gst: ModuleType, manager: SafetyManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It rests where its appsink does not run. Here it would do so for longer than the test lasts."""
    from lifecycle.integrations.gstreamer import Capture
    from lifecycle.integrations.gstreamer.captures import runs

    monkeypatch.setattr(runs, "SLICE", 600.0)
    pipeline = gst.Gst.parse_launch(
        f"videotestsrc num-buffers=3 ! {gst.SMALL} ! appsink name=sink sync=false"
    )
    with Capture(manager, pipeline.get_by_name("sink"), bound=None) as capture:
        capture.on_frame(lambda frame: None)
        opened = capture._opened
        eventually(lambda: len(opened.waiters) == 1)  # it has looked, and rests
        pipeline.set_state(gst.Gst.State.PLAYING)
        assert capture.wait(10)
        assert capture.stats().results["ok"] == 3
        eventually(lambda: len(opened.waiters) == 1)  # at the end it rests again
        assert capture.stop(10)
    gst.shutdown(pipeline)


def test_a_thread_that_rests_sleeps_also_where_its_number_is_marked(
    gst: ModuleType, manager: SafetyManager
) -> None:
    """The number of a streaming thread whose end was missed stays marked as one that must not wait, and the
    system gives it again."""
    from lifecycle.integrations.gstreamer import Capture
    from lifecycle.lowlevel import no_wait_threads

    pipeline, sink = gst.launch(frames=3)
    with Capture(manager, sink) as capture:
        marked: list[int] = []

        @capture.on_frame
        def look(frame: Any) -> None:
            marked.append(threading.get_ident())
            no_wait_threads.add(marked[0])

        assert capture.wait(10)
        assert marked
        run = capture._run
        assert run is not None
        pulls: list[None] = []
        inner = run._try_pull
        run._try_pull = lambda *arguments: pulls.append(None) or inner(*arguments)
        time.sleep(0.5)
        no_wait_threads.discard(marked[0])
        assert len(pulls) < 60
    gst.shutdown(pipeline)


def test_a_pipeline_that_is_started_later_is_waited_for_and_its_stop_ends_the_loop(
    gst: ModuleType, manager: SafetyManager
) -> None:
    from lifecycle.integrations.gstreamer import Capture

    pipeline = gst.Gst.parse_launch(
        f"videotestsrc ! {gst.SMALL} ! appsink name=sink sync=false max-buffers=2"
    )
    threading.Timer(0.15, pipeline.set_state, (gst.Gst.State.PLAYING,)).start()
    with Capture(manager, pipeline.get_by_name("sink")) as capture:
        count = 0
        for _ in capture.frames(timeout=10):
            count += 1
            if count == 20:
                pipeline.set_state(gst.Gst.State.NULL)
        assert count >= 20
    gst.shutdown(pipeline)


def test_closing_the_capture_ends_a_loop_on_another_thread(gst: ModuleType, manager: SafetyManager) -> None:
    from lifecycle.integrations.gstreamer import Capture

    pipeline = gst.Gst.parse_launch("appsrc ! appsink name=sink")
    pipeline.set_state(gst.Gst.State.PLAYING)
    capture = Capture(manager, pipeline.get_by_name("sink"))
    ended = threading.Event()

    def loop() -> None:
        for _ in capture.frames():
            raise AssertionError
        ended.set()

    thread = threading.Thread(target=loop)
    thread.start()
    time.sleep(0.1)
    capture.close()
    assert ended.wait(20)
    thread.join()
    gst.shutdown(pipeline)


# -- what callbacks raise ------------------------------------------------------------------------------------


@BOTH
def test_declared_errors_are_errors_and_anything_else_a_panic(
    ten: Any, manager: SafetyManager, streaming: bool
) -> None:
    from lifecycle.integrations.gstreamer import Capture

    with Capture(manager, ten, streaming=streaming, errors=(ValueError,)) as capture:
        count = 0

        @capture.on_frame
        def look(frame: Any) -> None:
            nonlocal count
            count += 1
            if count == 2:
                raise ValueError("expected")
            if count == 3:
                raise KeyError("not expected")

        assert capture.wait(10)
        results = capture.stats().results
    assert (results["error"], results["panic"]) == (1, 1)
    assert results["ok"] == count - 2
    assert isinstance(capture.error, KeyError)
    assert manager.stats().panics == 1


def test_the_managers_declared_errors_hold_too(ten: Any) -> None:
    from lifecycle.integrations.gstreamer import Capture

    with SafetyManager(SafetyConfig(errors=(ValueError,))) as manager, Capture(manager, ten) as capture:

        @capture.on_frame
        def look(frame: Any) -> None:
            raise ValueError("expected")

        assert capture.wait(10)
        assert capture.stats().results == {"ok": 0, "error": 10, "panic": 0, "dropped": 0}
        assert manager.stats().panics == 0
        assert manager.stats().types["gst.Sample"].errors == 10


@pytest.mark.parametrize("where", ["capture", "policy"])
def test_declared_errors_are_counted_wherever_they_were_declared(ten: Any, where: str) -> None:
    """The nearest declaration wins: the capture's own, else the type's policy, else the configuration."""
    from lifecycle.integrations.gstreamer import Capture

    with SafetyManager(SafetyConfig(errors=(OSError,))) as manager:
        manager.policy("gst.Sample", errors=(KeyError,))
        declared = ValueError if where == "capture" else KeyError
        with Capture(manager, ten, errors=(ValueError,) if where == "capture" else ()) as capture:
            raised = iter([declared("declared"), OSError("farther away")])

            @capture.on_frame
            def look(frame: Any) -> None:
                for error in raised:
                    raise error

            assert capture.wait(10)
            assert capture.stats().results == {"ok": 8, "error": 1, "panic": 1, "dropped": 0}
        figures = manager.stats().types["gst.Sample"]
        assert (figures.errors, figures.panics) == (1, 1)


@BOTH
def test_stopping_on_error_is_a_choice(live: Any, manager: SafetyManager, streaming: bool) -> None:
    from lifecycle.integrations.gstreamer import Capture, CaptureError

    capture = Capture(manager, live, name="fragile", streaming=streaming, on_error="stop")
    count = 0

    @capture.on_frame
    def look(frame: Any) -> None:
        nonlocal count
        count += 1
        raise RuntimeError("once")

    with pytest.raises(
        CaptureError, match=r"'fragile' stopped because its callback raised RuntimeError: once"
    ):
        capture.wait(10)
    time.sleep(0.1)
    assert count == 1
    assert manager.stats().panics == 1
    assert live.get_property("drop")
    capture.start()
    eventually(lambda: count == 2)
    capture.close()


def test_an_error_keeps_no_frame_alive(ten: Any, manager: SafetyManager) -> None:
    from lifecycle.integrations.gstreamer import Capture

    with Capture(manager, ten) as capture:

        @capture.on_frame
        def look(frame: Any) -> None:
            array = frame.array()
            try:
                raise ValueError(int(array[0, 0, 0]))
            except ValueError as error:
                raise KeyError("in turn") from error

        assert capture.wait(10)
        assert isinstance(capture.error, KeyError)
        eventually(lambda: manager.stats().active_objects == 0)
        assert capture.stats().frames_held == 0


def test_arrays_and_shares_kept_beyond_the_callback_are_counted(ten: Any, manager: SafetyManager) -> None:
    from lifecycle.integrations.gstreamer import Capture

    kept: list[Any] = []
    with Capture(manager, ten) as capture:

        @capture.on_frame
        def look(frame: Any) -> None:
            number = len(kept)
            kept.append(frame.array() if number % 3 == 0 else frame.share() if number % 3 == 1 else frame.pts)

        assert capture.wait(10)
        assert capture.stats().frames_held == 7
    assert all(kept[n].shape == (48, 64, 3) for n in (0, 3, 6, 9))
    for n in (1, 4, 7):
        kept[n].array()
        kept[n].close()
    assert capture.stats().frames_held == 4
    kept.clear()
    gc.collect()
    eventually(lambda: capture.stats().frames_held == 0)


# -- the end -------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("sink", ["sync=false", "sync=false max-buffers=2"], ids=["unbounded", "bounded"])
def test_closing_on_a_live_pipeline_leaves_neither_growth_nor_a_freeze(
    gst: ModuleType, manager: SafetyManager, streaming: bool, sink: str
) -> None:
    from lifecycle.integrations.gstreamer import Capture

    pipeline = gst.Gst.parse_launch(
        f"videotestsrc is-live=true ! video/x-raw,format=RGB,width=64,height=48,framerate=100/1 ! tee name=tee "
        f"tee. ! queue ! appsink name=sink {sink} tee. ! queue ! fakesink name=other sync=false"
    )
    passed = 0

    def count(*_: Any) -> None:
        nonlocal passed
        passed += 1

    other = pipeline.get_by_name("other")
    other.set_property("signal-handoffs", True)
    other.connect("handoff", count)
    pipeline.set_state(gst.Gst.State.PLAYING)
    element = gst.appsink_of(pipeline)
    capture = Capture(manager, element, streaming=streaming)
    seen = 0

    @capture.on_frame
    def look(frame: Any) -> None:
        nonlocal seen
        seen += 1

    eventually(lambda: seen > 5)
    began = time.monotonic()
    assert capture.close() is True
    assert time.monotonic() - began < SOON
    after = (seen, passed)
    eventually(lambda: passed > after[1] + 10)  # else the pipeline froze
    assert seen == after[0], "called after close"
    waiting = 0
    while gst.GstApp.AppSink.try_pull_sample(element, 0) is not None:
        waiting += 1
    assert waiting <= 2, "frames pile up"
    assert capture.close() is True
    assert repr(capture).startswith("<Capture 'sink': closed")
    gst.shutdown(pipeline)


@BOTH
def test_stop_and_start_again(live: Any, manager: SafetyManager, streaming: bool) -> None:
    from lifecycle.integrations.gstreamer import Capture

    live.set_property("max-buffers", 7)
    with Capture(manager, live, streaming=streaming) as capture:
        seen = 0

        @capture.on_frame
        def look(frame: Any) -> None:
            nonlocal seen
            seen += 1

        capture.start()
        for _ in range(3):
            eventually(lambda before=seen: seen > before)  # type: ignore[misc]
            assert capture.stop() is True
            before = seen
            time.sleep(0.1)
            assert seen == before
            assert (live.get_property("max-buffers"), live.get_property("drop")) == (1, True)
            capture.start()
            assert (live.get_property("max-buffers"), live.get_property("drop")) == (7, False)


def test_an_end_that_comes_as_a_run_begins_stays_told(live: Any, manager: SafetyManager) -> None:
    """On another thread, after the last look at it."""
    from lifecycle.integrations.gstreamer import Capture

    capture = Capture(manager, live)

    class Ended(threading.Event):
        def clear(self) -> None:
            capture.close(0)
            super().clear()

    capture._ended = capture._opened.ended = Ended()
    capture.on_frame(lambda frame: None)
    assert capture.closed
    assert capture.wait(5)


@BOTH
def test_a_capture_can_be_closed_from_its_callback(
    live: Any, manager: SafetyManager, streaming: bool
) -> None:
    from lifecycle.integrations.gstreamer import Capture

    capture = Capture(manager, live, streaming=streaming)
    answers: list[bool] = []

    @capture.on_frame
    def look(frame: Any) -> None:
        frame.array()
        answers.append(capture.close())

    assert capture.wait(20)
    eventually(lambda: capture.close() is True)
    assert answers == [False]
    assert live.get_property("drop")


def test_the_pipeline_can_be_stopped_from_the_callback(gst: ModuleType, manager: SafetyManager) -> None:
    """From a new-sample callback this is a deadlock."""
    from lifecycle.integrations.gstreamer import Capture

    pipeline, sink = gst.launch(source="videotestsrc is-live=true")
    with Capture(manager, sink) as capture:
        done = threading.Event()

        @capture.on_frame
        def look(frame: Any) -> None:
            gst.shutdown(pipeline)
            done.set()

        assert done.wait(20)
    gst.shutdown(pipeline)


@BOTH
def test_closing_waits_for_a_running_callback_but_not_for_ever(
    live: Any, manager: SafetyManager, streaming: bool
) -> None:
    from lifecycle.integrations.gstreamer import Capture

    capture = Capture(manager, live, streaming=streaming)
    inside, leave = threading.Event(), threading.Event()

    @capture.on_frame
    def look(frame: Any) -> None:
        inside.set()
        leave.wait(10)

    assert inside.wait(20)
    began = time.monotonic()
    assert capture.close(timeout=0.1) is False
    assert 0.09 < time.monotonic() - began < SOON
    leave.set()
    eventually(lambda: capture.close() is True)


def test_closing_the_manager_closes_its_captures_first(live: Any) -> None:
    from lifecycle.integrations.gstreamer import Capture

    with SafetyManager() as manager:
        capture = Capture(manager, live)
        kept: list[Any] = []

        @capture.on_frame
        def look(frame: Any) -> None:
            kept.append(frame.array()[0, 0].copy())

        eventually(lambda: kept)
        assert [component.name for component in manager.components()] == ["sink"]
        report = manager.close()
    assert report.ok, report
    assert capture.closed
    assert capture.stats().results["panic"] == 0
    with pytest.raises(ClosedError, match="is closed"):
        capture.start()
    with pytest.raises(ClosedError, match="is closed"):
        capture.frames()


def test_a_program_may_end_without_closing_anything() -> None:
    done = run_python(
        """
        from lifecycle import SafetyManager
        from lifecycle.integrations.gstreamer import Capture
        from tests.gstreamer.program import *
        import threading
        pipeline, sink = launch(source="videotestsrc is-live=true")
        capture = Capture(SafetyManager(), sink)
        came = threading.Event()
        kept = []

        @capture.on_frame
        def look(frame):
            kept.append(frame.array())
            came.set()

        assert came.wait(10)
        shutdown(pipeline)  # PLAYING at exit is another matter: 3.14 does not survive it
        """
    )
    done.check()
    assert "CRITICAL" not in done.stderr, done.stderr
    assert "Traceback" not in done.stderr, done.stderr


# -- bad input -----------------------------------------------------------------------------------------------


def test_what_a_capture_cannot_take(gst: ModuleType, live: Any, manager: SafetyManager) -> None:
    from lifecycle.integrations.gstreamer import Capture, CaptureError, GuardError

    for wrong in (None, "sink", gst.Gst.ElementFactory.make("fakesink"), gst.Gst.Pipeline()):
        with pytest.raises(CaptureError, match="pulls from an appsink, not from"):
            Capture(manager, wrong)
    with pytest.raises(ConfigError, match=r"errors= takes exception classes, not 7"):
        Capture(manager, live, errors=(7,))  # type: ignore[arg-type]
    with pytest.raises(CaptureError, match=r"on_error= takes 'continue' or 'stop', not 'panic'"):
        Capture(manager, live, on_error="panic")  # type: ignore[arg-type]
    with pytest.raises(GuardError, match=r"the first argument is the SafetyManager, not None"):
        Capture(None, live)  # type: ignore[arg-type]
    with Capture(manager, live) as capture:
        wrong_time: Any
        for wrong_time in (-1, "1", float("nan"), True):
            for call in (capture.stop, capture.wait, capture.close):
                with pytest.raises(LifecycleError, match=r"timeout= takes seconds"):
                    call(wrong_time)
        assert not capture.closed
        with pytest.raises(CaptureError, match=r"nothing to call"):
            capture.start()
        with pytest.raises(CaptureError, match=r"timeout= takes seconds above 0"):
            capture.frames(timeout=0)
        with pytest.raises(CallbackError, match=r"takes a function"):
            capture.on_frame(7)  # type: ignore[type-var]

        @capture.on_frame
        def look(frame: Any) -> None:
            """Nothing."""

        with pytest.raises(CaptureError, match=r"has a callback already"):
            capture.on_frame(look)
        with pytest.raises(CaptureError, match=r"gives its frames to its callback already"):
            capture.frames()


def test_functions_whose_body_would_run_later_are_refused(live: Any, manager: SafetyManager) -> None:
    from lifecycle.integrations.gstreamer import Capture

    async def coroutine(frame: Any) -> None:
        """Never runs."""

    def generator(frame: Any) -> Any:
        yield frame

    async def both(frame: Any) -> Any:
        yield frame

    with Capture(manager, live) as capture:
        for function in (coroutine, generator, both):
            with pytest.raises(CallbackError, match=r"coroutine or generator function"):
                capture.on_frame(function)


def test_samples_that_are_no_frames_are_errors_and_the_flow_goes_on(
    gst: ModuleType, manager: SafetyManager
) -> None:
    """A sample may carry a list of buffers and no buffer."""
    from lifecycle.integrations.gstreamer import Capture

    pipeline = gst.Gst.parse_launch(
        "appsrc name=src format=time caps=video/x-raw,format=RGB,width=4,height=1,framerate=1/1 "
        "! appsink name=sink sync=false buffer-list=true"
    )
    pipeline.set_state(gst.Gst.State.PLAYING)
    source = pipeline.get_by_name("src")
    with Capture(manager, gst.appsink_of(pipeline)) as capture:
        seen: list[int] = []

        @capture.on_frame
        def look(frame: Any) -> None:
            seen.append(len(frame.data()))

        pad = source.get_static_pad("src")
        source.push_buffer(gst.Gst.Buffer.new_wrapped(bytes(12)))
        eventually(lambda: len(seen) == 1)
        buffers = gst.Gst.BufferList.new()
        buffers.insert(-1, gst.Gst.Buffer.new_wrapped(bytes(12)))
        pad.push_list(buffers)
        eventually(lambda: capture.stats().results["error"] == 1)
        assert "no buffer" in str(capture.error)
        source.push_buffer(gst.Gst.Buffer.new_wrapped(bytes(12)))
        eventually(lambda: len(seen) == 2)
    gst.shutdown(pipeline)
