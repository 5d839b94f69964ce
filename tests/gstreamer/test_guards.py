"""Guards: pipelines, elements, pads, probes, signals and buses that end once, in time, and say what holds
them up."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from lifecycle import (
    AccessRefusedError,
    ClosedError,
    LifecycleError,
    ObjectState,
    SafetyConfig,
    SafetyManager,
)
from lifecycle.errors import CallbackError, DuplicateError
from tests.support import eventually, run_python

if TYPE_CHECKING:
    from lifecycle.integrations.gstreamer import BusWatch, PipelineGuard

pytestmark = pytest.mark.needs("gstreamer", "numpy")

LIVE = "videotestsrc is-live=true ! video/x-raw,width=32,height=24,framerate=100/1"
SHORT = "videotestsrc num-buffers=30 ! video/x-raw,width=32,height=24"
FREE = "videotestsrc ! video/x-raw,width=32,height=24"


@pytest.fixture
def g(gst: Any) -> Any:
    """The integration, GStreamer initialised."""
    import lifecycle.integrations.gstreamer

    return lifecycle.integrations.gstreamer


@pytest.fixture
def hasty() -> Iterator[SafetyManager]:
    """A manager that calls a release stuck after 0.4 s."""
    with SafetyManager(SafetyConfig(finalizer_timeout=0.4), name="hasty") as manager:
        yield manager


def refusal(call: Callable[[], object]) -> str:
    """What `call` is answered with, which is an error of ours."""
    with pytest.raises(LifecycleError) as caught:
        call()
    text = str(caught.value)
    caught.value.__traceback__ = None
    return f"{type(caught.value).__name__}: {text}"


def ended(guard: Any) -> bool:
    return bool(guard.handle.state is ObjectState.RELEASED)


# -- pipelines -----------------------------------------------------------------------------------------------


def test_a_pipeline_plays_ends_and_is_at_null(g: Any, manager: SafetyManager) -> None:
    with g.PipelineGuard(manager, f"{SHORT} ! fakesink", name="short") as guard:
        guard.play()
        assert guard.wait(20)
        assert guard.ended
        pipeline = guard.pipeline
    assert guard.closed
    assert ended(guard)
    assert guard.close() is True
    assert pipeline.get_state(0)[1].value_nick == "null"
    assert guard.state == "null"
    assert "object" in refusal(lambda: guard.pipeline)
    assert manager.stats().types["gst.Pipeline"].ended["released"] == 1


def test_states_go_up_and_down(g: Any, manager: SafetyManager) -> None:
    with g.PipelineGuard(manager, f"{LIVE} ! fakesink") as guard:
        seen = []
        for change in (guard.ready, guard.pause, guard.play, guard.pause, guard.ready, guard.play):
            change()
            seen.append(guard.state)
        assert seen == ["ready", "paused", "playing", "paused", "ready", "playing"]
        assert guard.streaming_threads == 1
    assert guard.streaming_threads == 0


@pytest.mark.parametrize(
    ("description", "words"),
    [
        ("videotestsrc ! ! fakesink", "DescriptionError syntax gst-launch"),
        ("videotestsrc ! nosuchelement", "DescriptionError nosuchelement not installed"),
        ("", "DescriptionError text"),
        (7, "GuardError Gst.Pipeline"),
    ],
)
def test_what_is_no_pipeline(g: Any, manager: SafetyManager, description: Any, words: str) -> None:
    text = refusal(lambda: g.PipelineGuard(manager, description))
    assert all(word in text for word in words.split()), text
    assert manager.stats().total_objects == 0


def test_an_element_that_fails_is_named_with_its_message(g: Any, manager: SafetyManager) -> None:
    with g.PipelineGuard(manager, "filesrc name=reader location=/nowhere/at/all ! fakesink") as guard:
        with pytest.raises(g.PipelineError) as caught:
            guard.play(20)
        assert caught.value.element == "reader"
        assert "/nowhere/at/all" in str(caught.value)
        assert caught.value.debug
        assert guard.errors[0] is caught.value


def test_an_element_that_fails_while_playing_ends_the_wait(g: Any, manager: SafetyManager) -> None:
    with g.PipelineGuard(manager, f"{LIVE} ! identity error-after=5 name=bad ! fakesink") as guard:
        guard.play(0)  # on a slow machine it has failed before it is seen to play
        with pytest.raises(g.PipelineError, match="'bad'"):
            guard.wait(20)


def test_a_pipeline_that_never_plays(g: Any, manager: SafetyManager) -> None:
    with g.PipelineGuard(manager, "appsrc name=silent ! fakesink name=hungry") as guard:
        with pytest.raises(g.StateTimeout) as caught:
            guard.play(0.2)
        assert any("hungry" in element for element in caught.value.elements), caught.value
        assert "0.2 s" in str(caught.value)
    assert ended(guard)


def test_one_pipeline_has_one_guard(g: Any, gst: Any, manager: SafetyManager) -> None:
    pipeline = gst.Gst.parse_launch(f"{FREE} ! fakesink")
    with g.PipelineGuard(manager, pipeline) as first:
        with pytest.raises(DuplicateError, match="is owned by"):
            g.PipelineGuard(manager, pipeline)
        first.play()
        assert first.state == "playing"
    with g.PipelineGuard(manager, pipeline) as second:  # free again
        second.play()
    closed = SafetyManager(name="closed")
    closed.close()
    with pytest.raises(ClosedError):
        g.PipelineGuard(closed, pipeline)


def test_a_dropped_guard_is_reported_and_its_pipeline_stopped(g: Any, manager: SafetyManager) -> None:
    guard = g.PipelineGuard(manager, f"{LIVE} ! fakesink name=sink")
    guard.play()
    sink, handle = guard["sink"], guard.handle.weak()
    del guard
    eventually(lambda: handle() is None and sink.get_state(0)[1].value_nick == "null", timeout=20)
    eventually(lambda: manager.stats().leaks == 1, timeout=20)


def test_the_stream_ends_at_the_sinks_before_null(
    g: Any, gst: Any, manager: SafetyManager, tmp_path: Any
) -> None:
    for eos in (None, 20.0):
        path = tmp_path / f"{eos}.mkv"
        text = f"{LIVE} ! jpegenc ! matroskamux name=mux ! filesink location={path} async=false"
        with g.PipelineGuard(manager, text, eos=eos) as guard:
            guard.play()
            eventually(lambda: path.exists() and path.stat().st_size > 20_000, timeout=20)
        assert guard.ended is (eos is not None)
        # The index at the end of a matroska file is written when the stream ends.
        assert (b"\x1c\x53\xbb\x6b" in path.read_bytes()[-4096:]) is (eos is not None)


@pytest.mark.parametrize("source", ["is-live=true", ""], ids=["live", "as fast as it goes"])
@pytest.mark.parametrize("how", ["close", "manager"])
def test_a_paused_recording_ends_whole(
    g: Any, gst: Any, manager: SafetyManager, tmp_path: Any, source: str, how: str
) -> None:
    """Its sinks take nothing until they play, the end of the stream neither: it plays on for that."""
    path = tmp_path / "paused.mov"
    guard = g.PipelineGuard(
        manager,
        f"videotestsrc {source} ! video/x-raw,width=64,height=48,framerate=30/1 ! jpegenc ! qtmux "
        f"! filesink location={path}",
        eos=20,
    )
    guard.play()
    eventually(lambda: path.exists() and path.stat().st_size > 5000, timeout=20)
    guard.pause()
    assert guard.close() if how == "close" else manager.close().ok
    assert guard.ended
    assert b"moov" in path.read_bytes()
    assert manager.stats().panics == 0


def test_a_recording_that_was_stopped_is_named(g: Any, manager: SafetyManager, tmp_path: Any) -> None:
    """From READY there is no way to a whole file."""
    path = tmp_path / "stopped.mov"
    told: list[str] = []
    manager.add_observer(lambda event: told.append(str(getattr(event, "reason", ""))))
    guard = g.PipelineGuard(
        manager, f"{LIVE} ! jpegenc ! qtmux ! filesink name=file location={path}", name="recorder", eos=20
    )
    guard.play()
    eventually(lambda: path.exists() and path.stat().st_size > 5000, timeout=20)
    guard.ready()
    assert guard.close()
    assert manager.stats().panics == 1
    eventually(lambda: any("'recorder' was stopped" in text and f"file ({path})" in text for text in told))


def test_what_never_played_has_nothing_to_finish(g: Any, manager: SafetyManager, tmp_path: Any) -> None:
    for ready in (False, True):
        guard = g.PipelineGuard(
            manager, f"videotestsrc ! jpegenc ! qtmux ! filesink location={tmp_path / 'never.mov'}", eos=20
        )
        guard.pause()
        if ready:
            guard.ready()
        assert guard.close()
        assert not guard.ended
    assert manager.stats().panics == 0


def test_an_end_of_stream_that_never_arrives_is_given_up(g: Any, gst: Any, manager: SafetyManager) -> None:
    guard = g.PipelineGuard(manager, f"{LIVE} ! fakesink name=sink", eos=0.2)
    pad = guard["sink"].get_static_pad("sink")
    drop = g.ProbeGuard(
        manager, pad, gst.Gst.PadProbeType.EVENT_DOWNSTREAM, lambda *_: gst.Gst.PadProbeReturn.DROP
    )
    guard.play()
    assert guard.close()
    assert not guard.ended
    drop.close()


def hold_up(guard: PipelineGuard, name: str, hold: threading.Event) -> None:
    def stand_here(*_: object) -> None:
        hold.wait(60)

    guard[name].connect("handoff", stand_here)


def test_a_null_that_hangs_names_element_thread_and_line(g: Any, hasty: SafetyManager) -> None:
    hold = threading.Event()
    guard = g.PipelineGuard(hasty, f"{LIVE} ! identity name=door signal-handoffs=true ! fakesink async=false")
    hold_up(guard, "door", hold)
    guard.play()
    eventually(lambda: guard._journal.threads.blocked(), timeout=20)
    with pytest.raises(g.StateTimeout) as caught:
        guard.close()
    text = str(caught.value)
    assert all(word in text for word in ("door", "stand_here", "test_guards.py", "streaming thread")), text
    assert caught.value.blocked
    assert any("door" in element for element in caught.value.elements)
    assert guard.handle.state is ObjectState.STUCK
    hold.set()
    eventually(lambda: ended(guard), timeout=20)
    assert guard.close() is True


def test_where_a_thread_stands_is_a_line_of_the_program(g: Any) -> None:
    """Not one of the library or of the standard library, which it has called."""
    from lifecycle._core.runtime import TimedQueue
    from lifecycle.integrations.gstreamer.pipelines.threads import stands_at

    queue: TimedQueue[None] = TimedQueue()

    def wait_here() -> None:
        queue.get(timeout=60)

    thread = threading.Thread(target=wait_here)
    thread.start()
    try:
        eventually(lambda: "wait_here" in stands_at(thread.ident or 0))
        assert "test_guards.py" in stands_at(thread.ident or 0)
    finally:
        queue.put(None)
        thread.join(20)
    assert stands_at(thread.ident or 0) == ""


def test_closing_under_a_lock_that_a_probe_wants(g: Any, gst: Any, hasty: SafetyManager) -> None:
    lock = threading.Lock()

    def wants_the_lock(pad: Any, info: Any) -> None:
        with lock:
            pass

    guard = g.PipelineGuard(hasty, f"{LIVE} ! fakesink name=sink")
    pad = guard["sink"].get_static_pad("sink")
    with g.ProbeGuard(hasty, pad, gst.Gst.PadProbeType.BUFFER, wants_the_lock) as probe:
        guard.play()
        eventually(lambda: probe.calls > 2, timeout=20)
        with lock:
            eventually(lambda: guard._journal.threads.blocked(), timeout=20)
            with pytest.raises(g.StateTimeout, match="wants_the_lock"):
                guard.close()
    eventually(lambda: ended(guard), timeout=20)


@pytest.mark.parametrize("eos", [None, 5.0])
def test_a_close_from_a_streaming_thread_is_handed_over(
    g: Any, manager: SafetyManager, eos: float | None
) -> None:
    guard = g.PipelineGuard(
        manager, f"{LIVE} ! identity name=door signal-handoffs=true ! fakesink async=false", eos=eos
    )
    answers: list[object] = []

    def close(*_: object) -> None:
        if guard.state != "playing" and not answers:
            return  # a stream that has not begun is not ended first
        answers.append(guard.close())
        answers.append(refusal(guard.play) if guard.handle.valid else "shut")

    guard["door"].connect("handoff", close)
    guard.play(0)
    eventually(lambda: ended(guard), timeout=20)
    assert answers[0] is False
    if eos is not None:
        assert "streaming threads" in str(answers[1])
        assert guard.ended


def test_one_who_closes_does_not_cut_another_short(g: Any, manager: SafetyManager, tmp_path: Any) -> None:
    path = tmp_path / "together.mkv"
    text = f"{LIVE} ! jpegenc ! matroskamux ! filesink location={path} async=false"
    guard = g.PipelineGuard(manager, text, eos=20)
    guard.play()
    eventually(lambda: path.exists() and path.stat().st_size > 5000, timeout=20)
    answers: list[bool] = []
    threads = [threading.Thread(target=lambda: answers.append(guard.close())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [True] * 4
    assert guard.ended
    assert b"\x1c\x53\xbb\x6b" in path.read_bytes()[-4096:]


def test_an_exit_while_playing_goes_by_null(g: Any) -> None:
    for how in ("", "sys.exit(0)", "1 / 0"):
        done = run_python(
            f"""
            import atexit, sys
            atexit.register(lambda: print("at the end", pipeline.get_state(0)[1].value_nick))
            from lifecycle.integrations.gstreamer import *
            from lifecycle import SafetyManager
            from tests.gstreamer.program import *
            manager = SafetyManager()
            guard = PipelineGuard(manager, "{LIVE} ! identity name=door signal-handoffs=true ! fakesink", eos=5)
            guard["door"].connect("handoff", lambda *_: print(end=""))
            pipeline = guard.pipeline
            guard.play()
            manager.on_close(lambda: print("closing", guard.state))
            {how}
            """,
            env={"G_DEBUG": "fatal-criticals"},
        )
        assert done.rc == (1 if "/" in how else 0), done
        assert "closing playing" in done.stdout
        assert "at the end null" in done.stdout, done


def test_a_forked_child_is_told(g: Any) -> None:
    done = run_python(
        f"""
        import os, sys, warnings
        warnings.simplefilter("ignore")
        from lifecycle.integrations.gstreamer import *
        from lifecycle import SafetyManager
        from tests.gstreamer.program import *
        manager = SafetyManager()
        guard = PipelineGuard(manager, "{LIVE} ! fakesink")
        guard.play()
        source, sink = (Gst.ElementFactory.make(name) for name in ("appsrc", "appsink"))
        child = os.fork()
        if child == 0:
            for attempt in (
                lambda: PipelineGuard(SafetyManager(), "fakesrc ! fakesink"),
                lambda: Capture(SafetyManager(), sink),
                lambda: Feeder(SafetyManager(), source),
                lambda: PoolAdapter(SafetyManager(), "application/x-bytes", size=1),
                guard.play,
            ):
                try:
                    attempt()
                except Exception as error:
                    print(type(error).__name__, "fork" in str(error), flush=True)
            os._exit(int(guard.close()))
        assert os.waitpid(child, 0)[1] == 0
        assert guard.state == "playing" and guard.close()
        """
    )
    assert done.check().split() == [*["ForkedError", "True"] * 4, "ClosedAccessError", "True"]


def test_before_init(g: Any) -> None:
    done = run_python(
        """
        from lifecycle.integrations.gstreamer import *
        from lifecycle import SafetyManager
        try:
            PipelineGuard(SafetyManager(), "fakesrc ! fakesink")
        except GuardError as error:
            print(error)
        """
    )
    assert "Gst.init" in done.check()


# -- elements ------------------------------------------------------------------------------------------------


def test_an_element_joins_and_leaves_while_playing(g: Any, gst: Any, manager: SafetyManager) -> None:
    with g.PipelineGuard(manager, f"{LIVE} ! tee name=t allow-not-linked=true ! queue ! fakesink") as guard:
        guard.play()
        for _ in range(5):
            slot = g.PadGuard(manager, guard["t"], "src_%u")
            sink = g.ElementGuard(manager, "fakesink", guard)
            sink.element.set_property("async", False)
            sink.element.set_property("signal-handoffs", True)
            seen: list[object] = []
            with g.SignalGuard(manager, sink.element, "handoff", lambda *what: seen.append(what)):
                sink.start()
                slot.link(sink.element.get_static_pad("sink"))
                eventually(lambda: len(seen) > 2, timeout=20)
            element = sink.element
            assert sink.close()
            assert slot.close()
            assert element.get_parent() is None
            assert element.get_state(0)[1].value_nick == "null"
            del element, sink, slot
        assert guard["t"].numsrcpads == 1
        assert not guard.errors


def test_a_source_leaves_while_it_pushes(g: Any, gst: Any, manager: SafetyManager) -> None:
    with g.PipelineGuard(manager, "fakesink name=sink async=false") as guard:
        source = g.ElementGuard(manager, "videotestsrc", guard)
        source.link(guard["sink"])
        guard.play(0)
        eventually(lambda: guard["sink"].get_property("last-sample") is not None, timeout=20)
        assert source.close()
        assert not guard["sink"].get_static_pad("sink").is_linked()


def test_elements_that_cannot_join(g: Any, gst: Any, manager: SafetyManager) -> None:
    with g.PipelineGuard(manager, "fakesrc ! fakesink name=sink", name="first") as first:
        with g.PipelineGuard(manager, "fakesrc ! fakesink name=sink", name="second") as second:
            text = refusal(lambda: g.ElementGuard(manager, first["sink"], second))
            assert "GuardError" in text
            assert first.pipeline.get_name() in text
            assert "sink" in text
            text = refusal(
                lambda: g.ElementGuard(manager, gst.Gst.ElementFactory.find("queue").create("sink"), second)
            )
            assert "one of that name" in text
            assert "nosuch" in refusal(lambda: g.ElementGuard(manager, "nosuch", second))
            assert "takes an element" in refusal(lambda: g.ElementGuard(manager, 3, second))
            assert "PipelineGuard or a Gst.Bin" in refusal(lambda: g.ElementGuard(manager, "queue", 3))
            assert "itself" in refusal(lambda: g.ElementGuard(manager, first.pipeline, first.pipeline))
            with (
                g.ElementGuard(manager, "queue", second) as queue,
                g.ElementGuard(manager, "fakesink", second),
            ):
                assert "no free src pad" in refusal(
                    lambda: g.ElementGuard(manager, "fakesink", second).link(queue)
                )
                gc.collect()


# -- pads ----------------------------------------------------------------------------------------------------


def test_links_that_cannot_be(g: Any, gst: Any, manager: SafetyManager) -> None:
    with g.PipelineGuard(
        manager, "tee name=t  queue name=q  audioconvert name=a ! fakesink  videoconvert name=v ! fakesink"
    ) as guard:
        with g.PadGuard(manager, guard["t"], "src_%u") as slot:
            assert "src pad, where a sink pad" in refusal(lambda: slot.link(guard["q"].get_static_pad("src")))
            assert "not to 3" in refusal(lambda: slot.link(3))
            slot.link(guard["v"].get_static_pad("sink"))
            assert "already" in refusal(lambda: slot.link(guard["q"].get_static_pad("sink")))
            assert "gst_pad" not in refusal(lambda: g.PadGuard(manager, guard["q"], "src_%u"))
        with g.PadGuard(manager, guard["t"], "src_%u") as slot:
            slot.link(guard["q"].get_static_pad("sink"))
        assert "src_%u" in refusal(lambda: g.PadGuard(manager, guard["t"], "sink_%u"))


def test_a_mixer_goes_on_when_an_input_leaves(g: Any, gst: Any, manager: SafetyManager) -> None:
    with g.PipelineGuard(
        manager,
        f"compositor name=mix ! fakesink name=out async=false sync=false  {FREE} ! queue ! mix.sink_0",
    ) as guard:
        sink = guard["out"].get_static_pad("sink")
        with g.ProbeGuard(manager, sink, gst.Gst.PadProbeType.BUFFER, lambda *_: None) as probe:
            slot = g.PadGuard(manager, guard["mix"], "sink_1")
            source = g.ElementGuard(manager, "videotestsrc", guard)
            slot.link(source.element.get_static_pad("src"))
            guard.play()
            eventually(lambda: probe.calls > 3, timeout=20)
            pad = slot.pad
            assert source.close()
            assert slot.close()
            assert slot.close()
            assert pad.get_parent() is None
            before = probe.calls
            eventually(lambda: probe.calls > before + 3, timeout=20)
        assert not guard.errors


# -- probes --------------------------------------------------------------------------------------------------


def test_a_probe_that_raises_lets_the_data_pass(g: Any, gst: Any, manager: SafetyManager) -> None:
    Gst = gst.Gst
    with g.PipelineGuard(manager, f"{SHORT} ! queue name=q ! fakesink name=sink async=false") as guard:
        arrived = []
        turns = iter(range(10**9))

        def misbehave(pad: Any, info: Any) -> object:
            turn = next(turns)
            if turn == 1:
                raise ValueError("declared")
            if turn == 2:
                raise SystemExit("not declared")
            if turn == 3:
                return "nonsense"
            return None

        counting = lambda pad, info: arrived.append(1)  # noqa: E731
        q = guard["q"].get_static_pad("sink")
        with g.ProbeGuard(manager, q, Gst.PadProbeType.BUFFER, misbehave, errors=(ValueError,)) as bad:
            with g.ProbeGuard(
                manager, guard["sink"].get_static_pad("sink"), Gst.PadProbeType.BUFFER, counting
            ):
                guard.play()
                assert guard.wait(20)
        assert len(arrived) == 30
        assert isinstance(bad.error, SystemExit)
        assert bad.error.__traceback__ is None
        assert manager.stats().panics == 1


def test_a_blocking_probe_that_raises_blocks_nothing(g: Any, gst: Any, manager: SafetyManager) -> None:
    Gst = gst.Gst

    def fail(pad: Any, info: Any) -> None:
        raise KeyError("declared")

    with g.PipelineGuard(manager, f"{SHORT} ! queue name=q ! fakesink name=sink async=false") as guard:
        for mask in (Gst.PadProbeType.BLOCK_DOWNSTREAM, Gst.PadProbeType.IDLE):
            g.ProbeGuard(manager, guard["q"].get_static_pad("src"), mask, fail, errors=(KeyError,)).close()
        with g.ProbeGuard(
            manager,
            guard["q"].get_static_pad("src"),
            Gst.PadProbeType.BLOCK_DOWNSTREAM,
            fail,
            errors=(KeyError,),
        ) as probe:
            guard.play()
            assert guard.wait(20)
            assert probe.calls >= 10


def test_a_probe_is_removed_once_whoever_removes_it(g: Any, gst: Any, manager: SafetyManager) -> None:
    Gst = gst.Gst
    with g.PipelineGuard(manager, f"{LIVE} ! fakesink name=sink") as guard:
        pad = guard["sink"].get_static_pad("sink")
        guard.play()
        for _ in range(30):
            probe = g.ProbeGuard(manager, pad, Gst.PadProbeType.BUFFER, lambda *_: Gst.PadProbeReturn.REMOVE)
            threads = [threading.Thread(target=probe.close) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert probe.close()
        once = g.ProbeGuard(manager, pad, Gst.PadProbeType.BUFFER, lambda *_: Gst.PadProbeReturn.REMOVE)
        eventually(lambda: once.calls == 1, timeout=20)
        time.sleep(0.05)
        assert once.calls == 1
        assert once.close()
        idle = g.ProbeGuard(
            manager,
            guard["sink"].get_static_pad("sink"),
            Gst.PadProbeType.IDLE,
            lambda *_: Gst.PadProbeReturn.REMOVE,
        )
        idle.close()


def test_closing_a_probe_waits_for_its_callback(g: Any, gst: Any, manager: SafetyManager) -> None:
    hold, inside, left = threading.Event(), threading.Event(), threading.Event()

    def slow_one(pad: Any, info: Any) -> None:
        inside.set()
        hold.wait(60)
        left.set()

    with g.PipelineGuard(manager, f"{LIVE} ! fakesink name=sink async=false") as guard:
        probe = g.ProbeGuard(
            manager, guard["sink"].get_static_pad("sink"), gst.Gst.PadProbeType.BUFFER, slow_one
        )
        guard.play(0)
        assert inside.wait(20)
        assert probe.close(timeout=0) is False
        with pytest.raises(g.StateTimeout, match="slow_one"):
            probe.close(timeout=0.1)
        assert "timeout=" in refusal(lambda: probe.close(timeout="1"))  # type: ignore[arg-type]
        threading.Timer(0.1, hold.set).start()
        assert probe.close()
        assert left.is_set()


def test_callbacks_that_would_never_run(g: Any, gst: Any, manager: SafetyManager) -> None:
    async def later(pad: Any, info: Any) -> None: ...

    with g.PipelineGuard(manager, "fakesrc ! fakesink name=sink") as guard:
        pad = guard["sink"].get_static_pad("sink")
        for bad in (later, None, 3):
            with pytest.raises(CallbackError):
                g.ProbeGuard(manager, pad, gst.Gst.PadProbeType.BUFFER, bad)
        assert "takes a pad" in refusal(lambda: g.ProbeGuard(manager, guard["sink"], 1, print))
        for mask in (0, None, "buffer"):
            assert "PadProbeType" in refusal(lambda mask=mask: g.ProbeGuard(manager, pad, mask, print))  # type: ignore[misc]
        for errors in ((3,), ("KeyError",), 3):
            assert "exception classes" in refusal(
                lambda errors=errors: g.SignalGuard(manager, pad, "linked", print, errors=errors)  # type: ignore[misc]
            )


# -- signals -------------------------------------------------------------------------------------------------


def test_a_signal_is_disconnected_once(g: Any, manager: SafetyManager) -> None:
    with g.PipelineGuard(manager, f"{LIVE} ! identity name=door signal-handoffs=true ! fakesink") as guard:
        seen: list[object] = []

        def note(*what: object) -> None:
            seen.append(what)
            raise KeyError("declared")

        signal = g.SignalGuard(manager, guard["door"], "handoff", note, errors=(KeyError,))
        guard.play()
        eventually(lambda: len(seen) > 2, timeout=20)
        assert signal.close()
        assert signal.close()
        count = len(seen)
        time.sleep(0.05)
        assert len(seen) == count == signal.calls
        assert manager.stats().panics == 0


def test_signals_that_cannot_be_guarded(g: Any, manager: SafetyManager) -> None:
    with g.PipelineGuard(manager, "fakesrc ! appsink name=sink") as guard:
        text = refusal(lambda: g.SignalGuard(manager, guard["sink"], "new-sample", print))
        assert "Capture" in text
        assert "streaming=True" in text
        text = refusal(lambda: g.SignalGuard(manager, guard["sink"], "no-such-signal", print))
        assert "no-more-pads" in text
        assert "new-preroll" in text
        assert "GObject" in refusal(lambda: g.SignalGuard(manager, 3, "x", print))


def test_a_handler_may_close_its_own_guard(g: Any, manager: SafetyManager) -> None:
    with g.PipelineGuard(manager, "fakesrc ! fakesink name=sink") as guard:
        answers: list[bool] = []
        signal: Any = g.SignalGuard(
            manager, guard["sink"], "notify::sync", lambda *_: answers.append(signal.close())
        )
        guard["sink"].set_property("sync", True)
        guard["sink"].set_property("sync", False)
        assert answers == [False]
        assert signal.close()


# -- the bus -------------------------------------------------------------------------------------------------


def test_a_bus_is_read_until_it_is_closed(g: Any, manager: SafetyManager) -> None:
    watch: BusWatch
    with g.PipelineGuard(manager, f"{FREE} ! identity name=bad error-after=3 ! fakesink") as guard:
        with g.BusWatch(manager, guard) as watch:
            kinds: list[str] = []
            stopped: list[object] = []

            @watch.on("error")
            def stop(message: Any) -> None:
                stopped.append(guard.close())

            @watch.on("state-changed", errors=(RuntimeError,))
            def note(message: Any) -> None:
                kinds.append(message.src.get_name())
                raise RuntimeError("contained")

            with pytest.raises(DuplicateError):
                g.BusWatch(manager, guard)
            try:
                guard.play()
            except (g.PipelineError, AccessRefusedError) as error:
                error.__traceback__ = None
            eventually(lambda: stopped, timeout=20)
            assert stopped == [True]
            assert "bad" in kinds
            assert watch.errors[0].element == "bad"
        assert watch.close()


def test_a_bus_that_nobody_reads_keeps_nobody(
    g: Any, gst: Any, manager: SafetyManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lifecycle.integrations.gstreamer.pipelines import drain

    monkeypatch.setattr(drain, "PATIENCE", 0.1)
    monkeypatch.setattr(drain, "PERIOD", 0.05)
    with g.PipelineGuard(manager, f"{LIVE} ! fakesink name=sink") as guard:
        guard.play()
        bus = guard.pipeline.get_bus()
        guard.pipeline.post_message(gst.Gst.Message.new_eos(guard["sink"]))
        guard.pause()
        guard.play()
        eventually(lambda: bus.peek() is not None and bus.peek().type == gst.Gst.MessageType.EOS, timeout=20)
        time.sleep(0.3)
        assert bus.peek().type == gst.Gst.MessageType.EOS  # what a program may come to ask for waits longer
        monkeypatch.setattr(drain, "LONG_PATIENCE", 0.2)
        eventually(lambda: bus.peek() is None, timeout=20)


def test_waiting_for_a_message(g: Any, manager: SafetyManager) -> None:
    watch: BusWatch
    with g.PipelineGuard(manager, f"{SHORT} ! fakesink") as guard:
        with g.BusWatch(manager, guard) as watch:
            with watch.handle.lease() as core:
                waiting = core.waiting

            def play() -> None:
                eventually(lambda: waiting)  # what came before it asked is not for it
                guard.play(0)

            thread = threading.Thread(target=play)
            thread.start()
            assert watch.wait("eos", timeout=20) is not None
            thread.join()
            assert watch.wait("error", timeout=0.05) is None
            assert "state-changed" in refusal(lambda: watch.wait("no-such-kind", timeout=1))
            assert watch.messages > 3
            refused: list[str] = []

            @watch.on("application")
            def wait_here(message: Any) -> None:
                refused.append(refusal(lambda: watch.wait(timeout=1)))

            from tests.gstreamer.program import Gst

            guard.pipeline.post_message(Gst.Message.new_application(None, Gst.Structure.new_empty("hello")))
            eventually(lambda: refused, timeout=20)
    assert "handlers" in refused[0]
    with pytest.raises(LifecycleError, match="BusWatch takes"):
        g.BusWatch(manager, 3)


@pytest.mark.parametrize("fails", [False, True], ids=["returns", "raises"])
@pytest.mark.parametrize(
    ("tail", "element"),
    [("identity name=i signal-handoffs=true ! fakesink", "i"), ("fakesink name=f signal-handoffs=true", "f")],
)
def test_buffers_of_a_signal_may_be_kept(
    g: Any, gst: Any, manager: SafetyManager, tail: str, element: str, fails: bool
) -> None:
    """PyGObject gives them without a reference; while the handler runs nobody else has one, either."""
    from lifecycle.integrations.gstreamer._native import MiniObject

    kept: list[tuple[Any, int, bytes]] = []
    during: list[int] = []

    def references(buffer: Any) -> int:
        return int(MiniObject.from_address(hash(buffer)).refcount)

    def handoff(element: Any, buffer: Any, *pad: Any) -> None:
        during.append(references(buffer))  # a second one would make it read-only
        kept.append((buffer, buffer.pts, buffer.extract_dup(0, 64)))
        if fails:
            raise KeyError

    with g.PipelineGuard(manager, f"videotestsrc num-buffers=8 pattern=snow ! {tail}") as guard:
        with g.SignalGuard(manager, guard[element], "handoff", handoff, errors=(KeyError,)):
            guard.play()
            assert guard.wait(20)
    assert len(kept) == 8
    assert [(buffer.pts, buffer.extract_dup(0, 64)) for buffer, _, _ in kept] == [
        (pts, data) for _, pts, data in kept
    ]
    assert set(during) == {1 if element == "i" else 2}, "those of the emitter alone"
    del guard
    assert [references(buffer) for buffer, _, _ in kept] == [1] * 8
