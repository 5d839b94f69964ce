"""Branches of a tee that come and go while the pipeline plays, whatever they do meanwhile."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from lifecycle import AccessRefusedError, LifecycleError, ObjectState, SafetyManager
from tests.support import eventually, run_python

if TYPE_CHECKING:
    from lifecycle.integrations.gstreamer import Capture, PipelineGuard, Tee

pytestmark = pytest.mark.needs("gstreamer", "numpy")

SOURCE = "videotestsrc is-live=true pattern=black ! video/x-raw,format=RGB,width=32,height=24,framerate=100/1 ! tee name=t allow-not-linked=true"
CYCLES = int(os.environ.get("GSTREAMER_CYCLES", "50"))
"""How often a branch comes and goes in the storm; ``make soak`` asks for 500."""


@pytest.fixture
def g(gst: Any) -> Any:
    """The integration, GStreamer initialised."""
    import lifecycle.integrations.gstreamer

    return lifecycle.integrations.gstreamer


@pytest.fixture
def playing(g: Any, manager: SafetyManager) -> Iterator[PipelineGuard]:
    """A live pipeline that ends in a tee."""
    with g.PipelineGuard(manager, SOURCE) as guard:
        guard.play()
        yield guard
        assert not guard.errors


@pytest.fixture
def tee(g: Any, manager: SafetyManager, playing: PipelineGuard) -> Tee:
    made: Tee = g.Tee(manager, playing, "t")
    return made


def flows(capture: Capture, count: int = 3) -> None:
    """`count` frames arrive from now on."""
    frames = capture.frames(timeout=20)
    for _ in range(count):
        next(frames)
    frames.close()  # type: ignore[attr-defined]


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(LifecycleError) as caught:
        call()
    text = f"{type(caught.value).__name__}: {caught.value}"
    caught.value.__traceback__ = None
    return text


def test_branches_come_and_go(tee: Tee, playing: PipelineGuard) -> None:
    for _ in range(3):  # the last one too: no not-linked error
        with tee.attach("videoconvert ! video/x-raw,format=GRAY8 ! appsink sync=false") as first:
            with tee.attach("appsink name=out sync=false", name="second") as second:
                flows(first.capture())
                flows(second.capture())
                assert {branch.name for branch in tee.branches} == {first.name, "second"}
                assert second["out"].get_property("async") is False
                assert playing["t"].numsrcpads == 2
        assert first.handle.state is ObjectState.RELEASED
        assert playing["t"].numsrcpads == 0
    assert playing.state == "playing"
    assert playing.pipeline.get_by_name("second") is None


def test_before_play_and_paused(g: Any, manager: SafetyManager) -> None:
    with g.PipelineGuard(manager, SOURCE) as guard:
        tee = g.Tee(manager, guard, guard["t"])
        early = tee.attach("appsink sync=false")
        guard.pause()
        gone = tee.attach("appsink sync=false")
        assert gone.close()
        guard.play()
        flows(early.capture())
        guard.pause()
        assert early.close()


@pytest.mark.parametrize(
    ("branch", "words"),
    [
        ("videoconvert ! ! appsink", "DescriptionError syntax"),
        ("nosuchelement ! appsink", "DescriptionError nosuchelement installed"),
        ("videotestsrc ! fakesink", "LinkError 0 free sink pads"),
        ("audioconvert ! fakesink", "LinkError videoconvert"),
        ("capsfilter caps=video/x-raw,width=33 ! fakesink", "LinkError width=(int)33"),
        ("filesink location=/no/such/folder/x name=writer", "GuardError state writer /no/such/folder"),
        (5, "GuardError description"),
    ],
)
def test_what_cannot_be_attached_leaves_nothing_behind(
    tee: Tee, playing: PipelineGuard, manager: SafetyManager, branch: Any, words: str
) -> None:
    text = refusal(lambda: tee.attach(branch))
    assert all(word in text for word in words.split()), text
    assert playing["t"].numsrcpads == 0
    eventually(lambda: playing.pipeline.numchildren == 3)
    eventually(lambda: manager.stats().types["gst.Pipeline"].live == 1)
    assert manager.stats().active_objects == 1


def test_elements_and_names_that_are_taken(
    g: Any, gst: Any, tee: Tee, playing: PipelineGuard, manager: SafetyManager
) -> None:
    assert "already" in refusal(lambda: tee.attach(playing["t"]))
    with tee.attach("fakesink", name="mine"):
        assert "name=" in refusal(lambda: tee.attach("fakesink", name="mine"))
        assert playing["t"].numsrcpads == 1
    queue = g.low_latency_queue()
    with tee.attach("fakesink", queue=queue):
        assert "queue=" in refusal(lambda: tee.attach("fakesink", queue=queue))
    sink = gst.Gst.ElementFactory.find("appsink").create(None)
    sink.set_property("sync", False)
    with tee.attach(sink) as branch:
        flows(branch.capture())
        assert "no element named 'x'" in refusal(lambda: branch["x"])
    assert "branch needs" not in refusal(lambda: g.Tee(manager, playing, "videotestsrc0"))
    assert "'nope'" in refusal(lambda: g.Tee(manager, playing, "nope"))
    assert "a tee or its name" in refusal(lambda: g.Tee(manager, playing, 3))
    assert "PipelineGuard" in refusal(lambda: g.Tee(manager, 3, "t"))
    loose = gst.Gst.ElementFactory.find("tee").create(None)
    assert "no pipeline" in refusal(lambda: g.Tee(manager, playing, loose))


def test_a_branch_that_fails_takes_nobody_along(tee: Tee, playing: PipelineGuard) -> None:
    told: list[str] = []
    with tee.attach("appsink sync=false") as good:
        capture = good.capture()
        for _ in range(3):
            bad = tee.attach(
                "identity name=broken error-after=3 ! fakesink",
                on_error=lambda error: told.append(f"{error.element} {bad.close()}"),
            )
            eventually(lambda: bad.handle.state is ObjectState.RELEASED, timeout=20)
            assert bad.error is not None
            assert bad.error.element == "broken"
            flows(capture)
    assert told == ["broken False"] * 3
    assert playing.errors == ()
    assert playing.state == "playing"


def test_a_slow_branch_holds_nobody_up(tee: Tee) -> None:
    hold = threading.Event()
    with (
        tee.attach("appsink sync=false max-buffers=1") as fast,
        tee.attach("identity name=i signal-handoffs=true ! fakesink") as slow,
    ):
        slow["i"].connect("handoff", lambda *_: hold.wait(60))
        capture = fast.capture()
        flows(capture, 20)
        with tee.attach(
            "appsink sync=false"
        ) as third:  # allocation is negotiated anew, with the slow one too
            flows(third.capture())
            flows(capture, 20)
        hold.set()


def test_a_file_of_a_branch_is_complete(tee: Tee, tmp_path: Any) -> None:
    path = tmp_path / "branch.mkv"
    with tee.attach(f"videoconvert ! jpegenc ! matroskamux ! filesink location={path}", eos=3):
        eventually(lambda: path.exists() and path.stat().st_size > 5000, timeout=20)
    assert b"\x1c\x53\xbb\x6b" in path.read_bytes()[-4096:]  # its index


def test_a_close_from_a_streaming_thread_is_handed_over(tee: Tee, playing: PipelineGuard) -> None:
    answers: list[bool] = []
    branch = tee.attach("identity name=i signal-handoffs=true ! fakesink")
    branch["i"].connect("handoff", lambda *_: answers.append(branch.close()))
    eventually(lambda: branch.handle.state is ObjectState.RELEASED, timeout=20)
    assert answers[0] is False
    assert playing.state == "playing"


def test_a_callback_may_close_its_branch(tee: Tee) -> None:
    branch = tee.attach("appsink sync=false")
    answers: list[bool] = []
    capture = branch.capture()

    @capture.on_frame
    def once(frame: Any) -> None:
        answers.append(branch.close())

    eventually(lambda: branch.handle.state is ObjectState.RELEASED, timeout=20)
    eventually(lambda: answers, timeout=20)


def test_a_dropped_branch_is_reported_and_leaves(
    tee: Tee, playing: PipelineGuard, manager: SafetyManager
) -> None:
    tee.attach("fakesink")
    eventually(lambda: playing["t"].numsrcpads == 0, timeout=20)
    eventually(lambda: manager.stats().leaks == 1, timeout=20)


def test_the_pipeline_goes_first(g: Any, manager: SafetyManager) -> None:
    with g.PipelineGuard(manager, SOURCE) as guard:
        tee = g.Tee(manager, guard, "t")
        branch = tee.attach("appsink sync=false")
        guard.play()
        flows(branch.capture())
    with pytest.raises(AccessRefusedError, match=r"gst\.Pipeline"):
        tee.attach("fakesink")
    assert branch.close()


def test_plain_pipelines_have_branches_too(g: Any, gst: Any, manager: SafetyManager) -> None:
    pipeline = gst.Gst.parse_launch(SOURCE)
    tee = g.Tee(manager, pipeline, "t")
    pipeline.set_state(gst.Gst.State.PLAYING)
    with tee.attach("appsink sync=false") as branch:
        flows(branch.capture())
    gst.shutdown(pipeline)


def test_flush_drops_what_waits(g: Any, gst: Any, tee: Tee, playing: PipelineGuard) -> None:
    roomy = gst.Gst.ElementFactory.find("queue").create(None)
    hold = threading.Event()
    with tee.attach("identity name=i signal-handoffs=true ! appsink sync=false", queue=roomy) as branch:
        branch["i"].connect("handoff", lambda *_: hold.wait(60))
        eventually(lambda: roomy.get_property("current-level-buffers") > 5, timeout=20)
        threading.Timer(0.1, hold.set).start()  # what it is doing it finishes, what waits is dropped
        branch.flush(20)
        assert roomy.get_property("current-level-buffers") < 5
        flows(branch.capture())
    assert playing.state == "playing"


def test_flushing_from_many_threads(g: Any, tee: Tee, playing: PipelineGuard) -> None:
    with tee.attach("videoconvert ! appsink sync=false max-buffers=1 drop=true") as branch:
        capture = branch.capture()
        threads = [threading.Thread(target=lambda: [branch.flush(20) for _ in range(10)]) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        flows(capture)


@pytest.mark.timeout(600)
def test_storm(g: Any) -> None:
    """Branches come and go while frames are held at random, closes come from random threads and callbacks
    panic."""
    began = time.monotonic()
    done = run_python(
        f"""
        import collections, gc, logging, random, structlog, sys, threading, time
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
        from lifecycle import *
        from lifecycle.distribution import *
        from lifecycle.errors import *
        from lifecycle.fences import *
        from lifecycle.integrations.gstreamer import *
        LeaksTracer.enable()
        from tests.gstreamer.program import *
        from tests.support import eventually

        class Panic(BaseException):
            "As of an extension written in another language."

        manager = SafetyManager(name="storm")
        guard = PipelineGuard(manager, {SOURCE!r})
        tee = Tee(manager, guard, "t")
        guard.play()
        random = random.Random(4)
        held = collections.deque(maxlen=6)
        closing, later = [], []

        def cycle(number):
            text = ("appsink sync=false", "videoconvert ! video/x-raw,format=GRAY8 ! appsink sync=false max-buffers=2")
            branch = tee.attach(text[number % 2])
            capture = branch.capture(streaming=number % 5 == 0)

            @capture.on_frame
            def look(frame):
                chance = random.random()
                if chance < 0.3:
                    held.append(frame.array())
                elif chance < 0.4:
                    raise Panic("boom")
                elif chance < 0.45:
                    sys.exit(1)
                elif chance < 0.5:
                    branch.close()

            time.sleep(random.random() * 0.03)
            for _ in range(random.randint(0, 2)):
                closing.append(threading.Thread(target=branch.close))
                closing[-1].start()
            if random.random() < 0.5:
                branch.close()
            else:
                later.append(branch.close)
            if number % 7 == 0:
                held.append(tee.attach("fakesink"))  # dropped without being closed, some time

        with tee.attach("appsink sync=false", name="steady") as steady:
            capture = steady.capture()
            frames = capture.frames(timeout=20)
            for _ in range(20):
                next(frames)
            tracer = LeaksTracer()
            tracer.start()
            for number in range({CYCLES}):
                cycle(number)
                next(frames)
            for thread in closing:
                thread.join()
            closing.clear()
            held.clear()
            for close in later:
                close()
            later.clear()
            del close
            held.clear()  # callbacks of those had gone on holding frames
            eventually(lambda: gc.collect() is not None and len(tee.branches) == 1, timeout=20)
            eventually(lambda: guard["t"].numsrcpads == 1, timeout=20)
            for _ in range(20):
                next(frames)
            frames.close()
        assert guard.state == "playing" and not guard.errors, guard.errors
        guard.close()
        del frames, capture, steady
        until = time.monotonic() + 20
        while manager.stats().active_objects and time.monotonic() < until:
            gc.collect()
            time.sleep(0.01)
        assert not manager.objects(), [str(left) for left in manager.objects()]
        alive = tracer.alive()
        assert alive == {{}}, alive
        stats = manager.stats().types["gst.Branch"]
        dropped = len(range(0, {CYCLES}, 7))
        assert stats.ended["released"] == {CYCLES} + 1 + dropped, stats
        assert stats.leaks == dropped, stats
        assert manager.stats().panics > 0
        assert manager.close().ok
        print("panics", manager.stats().panics)
        """,
        env={"G_DEBUG": "fatal-criticals", "GST_DEBUG": "1"},
        timeout=500,
    )
    assert "panics" in done.check()
    assert "CRITICAL" not in done.stderr, done.stderr
    assert " ERROR " not in done.stderr, done.stderr
    print(f"{CYCLES} cycles in {time.monotonic() - began:.1f} s, {done.stdout}")
