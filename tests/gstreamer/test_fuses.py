"""Branches that end, fail or cannot take what is sent: the tee and everybody else go on, and who ended is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lifecycle import SafetyConfig, SafetyManager
from tests.support import eventually, run_python

if TYPE_CHECKING:
    from lifecycle.integrations.gstreamer import Capture, PipelineGuard, Tee

pytestmark = pytest.mark.needs("gstreamer", "numpy")

SIZE = "video/x-raw,format=I420,width={},height={},framerate=100/1"
SOURCE = f"videotestsrc is-live=true pattern=black ! capsfilter name=c caps={SIZE.format(32, 24)} ! tee name=t allow-not-linked=true"


@pytest.fixture
def g(gst: Any) -> Any:
    """The integration, GStreamer initialised."""
    import lifecycle.integrations.gstreamer

    return lifecycle.integrations.gstreamer


@pytest.fixture
def playing(g: Any, manager: SafetyManager) -> Iterator[PipelineGuard]:
    """A live pipeline that ends in a tee, and never hears of an error."""
    with g.PipelineGuard(manager, SOURCE) as guard:
        guard.play()
        yield guard
        assert guard.errors == ()


@pytest.fixture
def tee(g: Any, manager: SafetyManager, playing: PipelineGuard) -> Tee:
    made: Tee = g.Tee(manager, playing, "t")
    return made


@pytest.fixture
def viewer(tee: Tee) -> Iterator[Capture]:
    """Somebody who watches meanwhile."""
    with tee.attach("appsink max-buffers=4 drop=true", name="viewer") as branch, branch.capture() as capture:
        yield capture


def flows(capture: Capture, count: int = 10) -> None:
    frames = capture.frames(timeout=20)
    for _ in range(count):
        next(frames)
    frames.close()


ENDS = {
    "snapshot": ("jpegenc snapshot=true ! fakesink", "eos"),
    "eos-after": ("identity eos-after=3 ! fakesink", "eos"),
    "num-buffers": ("fakesink num-buffers=3", "eos"),
    "behind a queue": ("queue ! identity eos-after=3 ! fakesink", "eos"),
    "error": ("identity error-after=3 name=broken ! fakesink", "error"),
    "error behind a queue": ("queue ! identity error-after=3 name=broken ! fakesink", "error"),
}


@pytest.mark.parametrize("how", sorted(ENDS))
@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "plain"])
def test_a_branch_ends_alone(
    g: Any, manager: SafetyManager, playing: PipelineGuard, viewer: Capture, how: str, guarded: bool
) -> None:
    description, reason = ENDS[how]
    tee = g.Tee(manager, playing if guarded else playing.pipeline, "t")
    ends: list[Any] = []
    errors: list[Any] = []
    branch = tee.attach(description, on_end=ends.append, on_error=errors.append)
    eventually(lambda: branch.end)
    assert branch.end.reason == reason
    flows(viewer)
    eventually(lambda: ends)
    assert ends == [branch.end]
    stats = branch.stats()
    assert stats.refused == 0
    if reason == "eos":
        assert branch.wait(20)
        assert (branch.error, branch.end.error, errors) == (None, None, [])
    else:
        assert branch.end.error is branch.error
        assert errors == [branch.error]
        if guarded:
            assert branch.error.element == "broken"
        for _ in range(2):
            with pytest.raises(g.PipelineError) as caught:
                branch.wait(20)
            assert caught.value is not branch.error, "a kept traceback is not the branch's"
    assert branch.close()
    flows(viewer)
    if not guarded:
        playing._journal.errors.clear()  # a plain bin has nobody who tells the branch's errors apart


@pytest.mark.parametrize(
    "where", ["branch", "branch's pad", "queue", "queue's pad", "element", "element's pad"]
)
def test_an_end_that_is_sent_into_a_branch_is_its_own(
    playing: PipelineGuard, tee: Tee, viewer: Capture, gst: Any, where: str
) -> None:
    ends: list[Any] = []
    branch = tee.attach("identity name=inside ! appsink sync=false", on_end=ends.append)
    capture = branch.capture()
    frames = capture.frames(timeout=20)
    next(frames)
    sink = branch.bin.get_static_pad("sink")
    element = {"b": branch.bin, "q": sink.get_target().get_parent(), "e": branch["inside"]}[where[0]]
    target = element.get_static_pad("sink") if where.endswith("pad") else element
    for _ in range(2):
        target.send_event(gst.Gst.Event.new_eos())
    assert sum(1 for _ in frames) < 1000, "its loop ends"
    assert branch.wait(20)
    eventually(lambda: ends)
    assert [end.reason for end in ends] == ["eos"]
    flows(viewer)
    assert not playing.ended
    assert branch.close()
    flows(viewer)


def test_an_end_that_is_sent_as_the_branch_comes_off_is_its_own(
    playing: PipelineGuard, tee: Tee, viewer: Capture, gst: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing holds that one any more."""
    from lifecycle.integrations.gstreamer.sharing.branch import BranchCore

    comes_off = BranchCore.detach

    def detach(core: Any, timeout: float) -> bool:
        done = comes_off(core, timeout)
        core.bin.get_static_pad("sink").send_event(gst.Gst.Event.new_eos())
        assert sum(1 for _ in frames) < 1000, "it has come to its end"
        return done

    branch = tee.attach("identity ! appsink sync=false")
    frames = branch.capture().frames(timeout=20)
    next(frames)
    monkeypatch.setattr(BranchCore, "detach", detach)
    branch.bin.get_static_pad("sink").send_event(gst.Gst.Event.new_eos())
    assert branch.wait(20)
    assert branch.end is not None
    assert branch.end.reason == "eos"
    monkeypatch.undo()
    assert branch.close()
    flows(viewer)


def test_what_waits_in_a_branch_comes_before_an_end_that_is_sent(
    playing: PipelineGuard, tee: Tee, viewer: Capture, gst: Any, tmp_path: Path
) -> None:
    """Also where the branch is closed at that moment: its file is whole."""
    for number in range(3):
        queue = gst.Gst.ElementFactory.make("queue")
        path = tmp_path / f"{number}.mkv"
        branch = tee.attach(
            f"jpegenc ! matroskamux ! identity name=inside ! filesink location={path}", queue=queue, eos=4
        )
        eventually(lambda: branch.stats().passed > 5)
        branch.bin.get_static_pad("sink").send_event(gst.Gst.Event.new_eos())
        if number:
            eventually(lambda: branch.end)
        assert branch.close()
        with_length = path.read_bytes().find(b"\x44\x89")  # the element Duration, which the end writes
        assert with_length > 0
    flows(viewer)


@pytest.mark.parametrize("what", ["branch", "pipeline", "manager"])
def test_a_recorder_whose_pipeline_stands_is_finished(g: Any, gst: Any, what: str, tmp_path: Path) -> None:
    path = tmp_path / "x.mov"
    with SafetyManager(name="recorder") as manager:
        guard = g.PipelineGuard(manager, SOURCE)
        guard.play()
        branch = g.Tee(manager, guard, "t").attach(
            f"jpegenc ! qtmux ! filesink location={path}", queue=gst.Gst.ElementFactory.make("queue"), eos=4
        )
        eventually(lambda: branch.stats().passed > 5)
        guard.pause()
        {"branch": branch, "pipeline": guard, "manager": manager}[what].close()
        assert b"moov" in path.read_bytes()
        if what == "branch":
            assert guard.state == "paused"
            guard.close()
        assert manager.stats().panics == 0


@pytest.mark.parametrize("ended", [True, False])
def test_a_recorder_that_was_stopped_before_its_end_is_told(
    g: Any, gst: Any, manager: SafetyManager, ended: bool, tmp_path: Path
) -> None:
    path = tmp_path / "x.mov"
    source = SOURCE.replace("videotestsrc", f"videotestsrc num-buffers={10 if ended else -1}")
    with g.PipelineGuard(manager, source) as guard:
        branch = g.Tee(manager, guard, "t").attach(
            f"jpegenc ! qtmux ! filesink name=file location={path}",
            queue=gst.Gst.ElementFactory.make("queue"),
            eos=4,
        )
        guard.play()
        if ended:
            assert guard.wait(20)
        else:
            eventually(lambda: branch.stats().passed > 5)
        guard.ready()
        assert branch.close()
        eventually(lambda: manager.stats().panics == (not ended))
        assert (b"moov" in path.read_bytes()) is ended


@pytest.mark.parametrize(
    "description", ["capsfilter caps=video/x-raw,width=32 ! fakesink", "appsink caps=video/x-raw,width=32"]
)
def test_who_cannot_take_a_new_size_fails_alone(
    playing: PipelineGuard, tee: Tee, viewer: Capture, gst: Any, description: str
) -> None:
    branch = tee.attach(description)
    flows(viewer)
    for size in ((64, 48), (48, 32)):
        playing["c"].set_property("caps", gst.Gst.Caps.from_string(SIZE.format(*size)))
        frames = viewer.frames(timeout=20)
        eventually(lambda frames=frames, size=size: next(frames).width == size[0])  # type: ignore[misc]
        frames.close()
        eventually(lambda: branch.end)
    assert branch.end is not None
    assert branch.end.reason == "not-negotiated"
    text = str(branch.error)
    assert "cannot take what the source sends" in text
    assert "width=(int)64" in text
    assert "width=(int)32" in text
    branch.close()
    flows(viewer)


@pytest.mark.parametrize("first", [True, False], ids=["before", "playing"])
def test_who_was_there_before_the_caps_fails_alone_later(
    g: Any, manager: SafetyManager, gst: Any, first: bool
) -> None:
    with g.PipelineGuard(manager, SOURCE) as guard:
        tee = g.Tee(manager, guard, "t")
        if not first:
            guard.play(0)
        watching = tee.attach("appsink max-buffers=4 drop=true")
        viewer = watching.capture()
        branch = tee.attach("capsfilter caps=video/x-raw,width=32 ! fakesink")
        guard.play()
        flows(viewer)
        eventually(lambda: branch.stats().passed)
        guard["c"].set_property("caps", gst.Gst.Caps.from_string(SIZE.format(64, 48)))
        eventually(lambda: branch.end)
        flows(viewer)
        assert branch.end.reason == "not-negotiated"
        assert guard.errors == ()
        branch.close()
        watching.close()


def test_a_branch_can_negotiate(g: Any, manager: SafetyManager) -> None:
    """One that is there before the caps has its say, and one that asks for it as well."""
    with g.PipelineGuard(manager, "videotestsrc is-live=true ! tee name=t") as guard:
        tee = g.Tee(manager, guard, "t")
        first = tee.attach("capsfilter caps=video/x-raw,format=RGB,width=48,height=16 ! appsink")
        guard.play()
        frames = first.capture().frames(timeout=20)
        frame = next(frames)
        assert (frame.format, frame.width) == ("RGB", 48)
        frames.close()
        with pytest.raises(g.LinkError, match="video/x-raw"):
            tee.attach("capsfilter caps=video/x-raw,format=GRAY8 ! fakesink")
        second = tee.attach("fakesink", negotiates=True)
        eventually(lambda: second.stats().passed > 3)
        second.close()
        first.close()


@pytest.mark.parametrize("where", ["the tee", "the source"])
def test_an_end_that_is_sent_before_the_branches_is_that_of_all(
    g: Any, gst: Any, manager: SafetyManager, where: str
) -> None:
    with g.PipelineGuard(manager, SOURCE) as guard:
        tee = g.Tee(manager, guard, "t")
        branches = [tee.attach("appsink sync=false max-buffers=8") for _ in range(3)]
        captures = [branch.capture() for branch in branches]
        loops = [capture.frames(timeout=20) for capture in captures]
        guard.play()
        for loop in loops:
            next(loop)
        if where == "the tee":
            guard["t"].get_static_pad("sink").send_event(gst.Gst.Event.new_eos())
        else:
            guard.pipeline.send_event(gst.Gst.Event.new_eos())
        for loop in loops:
            assert sum(1 for _ in loop) < 20
        assert guard.wait(20)
        assert guard.errors == ()
        assert [branch.end for branch in branches] == [None] * 3
        for part in (*captures, *branches):
            part.close()


def test_an_element_set_to_null_by_hand_comes_back(tee: Tee, viewer: Capture, gst: Any) -> None:
    branch = tee.attach("identity name=i ! fakesink name=s")
    eventually(lambda: branch.stats().passed > 3)
    branch["i"].set_state(gst.Gst.State.NULL)
    eventually(lambda: branch.stats().refused > 3)
    flows(viewer)
    assert branch.end is None
    branch["i"].set_state(gst.Gst.State.PLAYING)
    passed = branch.stats().passed
    eventually(lambda: branch.stats().passed > passed + 3)
    branch.close()
    flows(viewer)


def test_a_failed_branch_keeps_the_end_of_the_stream_from_nobody(g: Any, manager: SafetyManager) -> None:
    for description in (
        "identity error-after=3 ! fakesink",
        "fakesink num-buffers=3",
        "identity eos-after=2 ! fakesink",
    ):
        source = f"videotestsrc num-buffers=60 is-live=true ! {SIZE.format(16, 16)} ! tee name=t allow-not-linked=true"
        with g.PipelineGuard(manager, source) as guard:
            tee = g.Tee(manager, guard, "t")
            other = tee.attach("fakesink")
            branch = tee.attach(description)
            guard.play(0)
            eventually(lambda branch=branch: branch.end)  # type: ignore[misc]
            assert guard.wait(20), description
            assert guard.errors == ()
            branch.close()
            other.close()


def test_a_branch_with_a_full_queue_is_closed(g: Any, tee: Tee, viewer: Capture, gst: Any) -> None:
    queue = gst.Gst.ElementFactory.make("queue")
    queue.set_property("max-size-buffers", 2)
    branch = tee.attach("appsink max-buffers=1", queue=queue)
    eventually(lambda: queue.get_property("current-level-buffers") == 2)
    began = time.monotonic()
    assert branch.close()
    assert time.monotonic() - began < 3, "it did not wait for a push that never ends"
    flows(viewer)


def test_an_error_is_that_of_its_branch(g: Any, manager: SafetyManager, tee: Tee, viewer: Capture) -> None:
    """Its own captures raise it, also in a tee of its own; nobody else's do."""
    inner = tee.attach(
        "tee name=inner ! queue ! identity error-after=20 name=broken ! fakesink", name="outer"
    )
    own = inner.bin
    branch = g.Tee(manager, own, inner["inner"]).attach("appsink")
    capture = branch.capture()
    with pytest.raises(g.PipelineError, match="broken"):
        for _ in capture.frames(timeout=20):
            pass
    flows(viewer)
    assert inner.error is not None
    branch.close()
    inner.close()


def test_an_error_is_heard_before_its_branch_is_taken_out(
    g: Any, tee: Tee, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a capture of the branch could see the end alone, and its loop would be over without the error."""
    branch = tee.attach("identity error-after=5 name=broken ! appsink")
    capture = branch.capture()
    heard: list[Any] = []
    take_out = g.Branch._failed

    def failed(self: Any, error: Any) -> None:
        heard.append(capture._listener.error)
        take_out(self, error)

    monkeypatch.setattr(g.Branch, "_failed", failed)
    with pytest.raises(g.PipelineError, match="broken"):
        for _ in capture.frames(timeout=20):
            pass
    assert "broken" in str(heard)
    assert len(capture._listener._errors.now()) == 1
    branch.close()


# -- files ----------------------------------------------------------------------------------------------------

RECORDING = r"""
import gc, sys, time
import gi
gi.require_version("Gst", "1.0")
from gi.repository import Gst
from lifecycle.integrations.gstreamer import PipelineGuard, Tee
from lifecycle import SafetyConfig, SafetyManager
Gst.init(None)
how, folder = sys.argv[1:]
manager = SafetyManager()
pipeline = PipelineGuard(manager, "videotestsrc is-live=true ! video/x-raw,format=I420,width=32,height=24,framerate=50/1 ! tee name=t")
tee = Tee(manager, pipeline, "t")
pipeline.play()
recorders = [
    tee.attach(f"jpegenc ! {muxer} ! filesink location={folder}/{number}.mov", queue=Gst.ElementFactory.make("queue"), eos=4)
    for number, muxer in enumerate(("qtmux", "qtmux", "queue ! qtmux"))
]
while min(recorder.stats().passed for recorder in recorders) < 10:
    time.sleep(0.01)
if how == "branches":
    for recorder in recorders:
        assert recorder.close()
elif how == "pipeline":
    began = time.monotonic()
    assert pipeline.close()
    assert time.monotonic() - began < 4
    for recorder in recorders:
        assert recorder.close()
elif how == "manager":
    assert manager.close().ok
elif how == "dropped":
    del recorders, tee, pipeline
    gc.collect()
    manager.close()
elif how == "exception":
    raise SystemExit("as after an exception")
"""


@pytest.mark.parametrize("how", ["branches", "pipeline", "manager", "dropped", "end", "exception"])
def test_files_are_whole_whatever_is_closed(gst: Any, how: str, tmp_path: Path) -> None:
    done = run_python(RECORDING, argv=(how, str(tmp_path)))
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3, done.stderr
    assert [b"moov" in file.read_bytes() for file in files] == [True] * 3, done.stderr
    assert "CRITICAL" not in done.stderr
    assert "AssertionError" not in done.stderr


def test_a_file_that_is_not_finished_in_time_is_told(
    g: Any, gst: Any, tee: Tee, playing: PipelineGuard, tmp_path: Path
) -> None:
    manager = tee.manager
    branch = tee.attach(
        f"identity sleep-time=400000 ! filesink location={tmp_path}/late.raw",
        queue=gst.Gst.ElementFactory.make("queue"),
        eos=0.3,
    )
    eventually(lambda: branch.stats().passed)
    time.sleep(0.2)
    branch.close()
    eventually(lambda: manager.stats().types["gst.Branch"].panics)
    assert manager.stats().types["gst.Branch"].panics == 1


# -- what a branch has no say in, and what it is asked ---------------------------------------------------------


def test_no_branch_takes_the_video_meta_from_the_others(g: Any, gst: Any, manager: SafetyManager) -> None:
    """A source is told the video meta, though a branch (a fakesink) would refuse to say anything."""
    source = "videotestsrc is-live=true ! video/x-raw,format=I420,width=64,height=48 ! tee name=t"
    with g.PipelineGuard(manager, source) as pipeline:
        tee = g.Tee(manager, pipeline, "t")
        with tee.attach("fakesink"), tee.attach("appsink", negotiates=True):
            pipeline.play()
            pad = pipeline["t"].get_static_pad("sink")
            eventually(lambda: pad.get_current_caps() is not None)
            query = gst.Gst.Query.new_allocation(pad.get_current_caps(), True)
            assert pad.query(query)
            assert (query.get_n_allocation_metas(), query.get_n_allocation_pools()) == (1, 0)


def test_a_branch_that_ends_in_a_splitmuxsink(
    g: Any, gst: Any, manager: SafetyManager, tmp_path: Path
) -> None:
    """Its muxer links by a pad of its own, which is no pad of the branch."""
    source = (
        "videotestsrc is-live=true ! video/x-raw,format=I420,width=64,height=48,framerate=30/1 ! tee name=t"
    )
    with g.PipelineGuard(manager, source) as pipeline:
        tee = g.Tee(manager, pipeline, "t")
        pipeline.play()
        branch = tee.attach(
            f"jpegenc ! splitmuxsink muxer=qtmux location={tmp_path}/part%02d.mov max-size-time=300000000",
            eos=5.0,
            queue=gst.Gst.ElementFactory.make("queue"),
        )
        eventually(lambda: len(list(tmp_path.iterdir())) > 1)
        assert branch.close()
    parts = sorted(tmp_path.iterdir())
    assert len(parts) > 1
    assert all(b"moov" in part.read_bytes() for part in parts)


def test_a_branch_that_holds_up_its_tee_is_named_by_health(g: Any, gst: Any, manager: SafetyManager) -> None:
    queue = gst.Gst.ElementFactory.make("queue")
    queue.set_property("max-size-buffers", 2)
    source = (
        "videotestsrc is-live=true ! video/x-raw,format=I420,width=64,height=48,framerate=30/1 ! tee name=t"
    )
    with g.PipelineGuard(manager, source) as pipeline:
        tee = g.Tee(manager, pipeline, "t")
        branch = tee.attach("appsink max-buffers=1 sync=false", name="stands", queue=queue)
        other = tee.attach("fakesink sync=false")
        pipeline.play()
        eventually(lambda: any("stands" in said for said in manager.health().problems), timeout=20)
        assert branch.stats().blocked > 0.9
        before = other.stats().passed
        assert branch.close()
        assert manager.health().ok
        eventually(lambda: other.stats().passed > before + 5)


@pytest.mark.leaves_live
def test_all_that_is_recorded_is_finished_on_one_deadline_and_the_report_names_the_rest(
    g: Any, gst: Any, tmp_path: Path
) -> None:
    """Pipelines and branches, of which some never come to their end."""
    manager = SafetyManager(SafetyConfig(finalizer_timeout=30.0, shutdown_timeout=60.0))
    slow = "identity name=slow sleep-time=300000 ! "
    source = "videotestsrc is-live=true ! video/x-raw,format=I420,width=64,height=48,framerate=30/1"
    kept = []
    for number in range(3):
        pipeline = g.PipelineGuard(manager, f"{source} ! tee name=t")
        tee = g.Tee(manager, pipeline, "t")
        pipeline.play()
        branch = tee.attach(
            f"queue max-size-buffers=200 ! {slow} jpegenc ! filesink location={tmp_path}/{number}.jpg",
            eos=1.5,
            queue=gst.Gst.ElementFactory.make("queue"),
        )
        kept.append((pipeline, branch))
    whole = g.PipelineGuard(manager, f"{source} ! queue max-size-buffers=200 ! {slow} fakesink", eos=1.5)
    whole.play()
    eventually(lambda: all(branch.stats().passed > 10 for _, branch in kept), timeout=20)
    began = time.monotonic()
    report = manager.close()
    assert time.monotonic() - began < 4.5, "their times do not add up"
    assert not report
    assert not report.stuck
    told = "; ".join(report.errors)
    assert all(f"{tmp_path}/{number}.jpg" in told for number in range(3)), report.errors
    assert whole.name in told


def test_a_branch_that_fails_as_the_pipeline_starts_does_not_keep_it_from_playing(
    g: Any, manager: SafetyManager
) -> None:
    """Its error takes the bin that it stands in out of the change of state, about every other time."""
    clip = "videotestsrc num-buffers=5 ! video/x-raw,format=RGB,width=64,height=48,framerate=30/1"
    for number in range(8):
        with g.PipelineGuard(
            manager, f"{clip} ! tee name=t ! queue ! fakesink sync=false", name=f"starts-{number}"
        ) as guard:
            branch = g.Tee(manager, guard, "t").attach("identity error-after=1 ! fakesink sync=false")
            guard.play()
            assert guard.wait(20)
            eventually(branch.close)  # the thread that fails may still hold it


def test_a_branch_that_cannot_follow_to_ready_is_not_asked_again(
    g: Any, manager: SafetyManager, tmp_path: Path
) -> None:
    """A file that cannot be opened: the pipeline would be refused its state for ever, and its end."""
    clip = "videotestsrc num-buffers=5 ! video/x-raw,format=RGB,width=64,height=48,framerate=30/1"
    with g.PipelineGuard(manager, f"{clip} ! tee name=t ! queue ! fakesink sync=false") as guard:
        tee = g.Tee(manager, guard, "t")
        branch = tee.attach(f"filesink location={tmp_path}/no/such/folder/x")
        guard.play()
        assert guard.wait(20)
        assert guard.errors == ()
        assert guard._journal.delegated < 5
        with pytest.raises(g.PipelineError, match="such/folder/x"):
            branch.wait(20)
        assert branch.end.reason == "error"
        assert branch.close()
        assert branch.handle.state == "released"
        guard.ready()
        guard.play()
        assert guard.wait(20)


def test_a_forked_child_does_not_wait_for_a_branch(g: Any, gst: Any) -> None:
    done = run_python(
        """
        import os, signal
        from lifecycle import SafetyManager
        from lifecycle.integrations.gstreamer import PipelineGuard, Tee
        from lifecycle.integrations.gstreamer._native import Gst

        Gst.init(None)
        manager = SafetyManager()
        pipeline = PipelineGuard(manager, "videotestsrc ! tee name=t ! fakesink")
        branch = Tee(manager, pipeline, "t").attach("fakesink", name="inherited")
        child = os.fork()
        if not child:
            signal.alarm(20)
            try:
                branch.wait()
            except BaseException as error:
                os.write(1, f"{type(error).__name__}: {error}".encode())
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        """
    )
    assert "branch 'inherited'" in done.check()


def test_a_flush_while_the_caps_are_on_their_way_is_no_failure(g: Any, gst: Any, tee: Tee) -> None:
    """The branch did not take them since it was flushed: it is told them again, and flows."""
    Gst = gst.Gst
    flushes: list[threading.Thread] = []
    came = threading.Event()

    def at_the_caps(pad: Any, info: Any) -> Any:
        if info.get_event().type == Gst.EventType.CAPS and not flushes:
            came.wait(20)
            flushes.append(threading.Thread(target=lambda: branch.flush(20)))
            flushes[0].start()
            eventually(lambda: pad.flags & Gst.PadFlags.FLUSHING, timeout=20)
        return Gst.PadProbeReturn.OK

    inner = Gst.parse_bin_from_description("identity name=i ! appsink name=s sync=false", True)
    inner.get_by_name("s").get_static_pad("sink").add_probe(Gst.PadProbeType.EVENT_DOWNSTREAM, at_the_caps)
    with tee.attach(inner) as branch:
        capture = branch.capture()
        came.set()
        frames = capture.frames(timeout=20)
        next(frames).close()
        flushes[0].join(20)
        assert not flushes[0].is_alive()
        next(frames).close()
        assert branch.stats().dropped == 0


def test_what_fails_in_a_branch_that_is_being_closed_is_no_error_of_the_pipeline(
    g: Any, gst: Any, manager: SafetyManager
) -> None:
    """Its elements run until it is released."""
    from gi.repository import GLib

    Gst = gst.Gst
    with g.PipelineGuard(manager, "videotestsrc is-live=true ! tee name=t") as pipeline:
        branch = g.Tee(manager, pipeline, "t").attach("identity name=i ! fakesink")
        pipeline.play()
        element = branch["i"]
        with branch.handle.lease():
            assert not branch.handle.close(timeout=0)
            error = GLib.Error.new_literal(Gst.stream_error_quark(), "made up", 1)
            assert element.post_message(Gst.Message.new_error(element, error, ""))
            assert pipeline.errors == ()
            assert not pipeline.wait(0)
        assert [message.kind for message in pipeline.messages() if "made up" in message.text] == ["error"]
