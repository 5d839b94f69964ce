"""What is dropped unclosed is freed, ended and reported: captures, feeders, pools, and guards whose functions
lead back to them."""

from __future__ import annotations

import functools
import gc
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lifecycle import SafetyManager
from tests.support import eventually

pytestmark = pytest.mark.needs("gstreamer", "numpy")

CAPS = "video/x-raw,format=RGB,width=64,height=48"


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What is dropped here is told, and not as an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield


@pytest.fixture
def g(gst: Any) -> Any:
    """The integration, GStreamer initialised."""
    import lifecycle.integrations.gstreamer

    return lifecycle.integrations.gstreamer


def element(gst: Any, factory: str) -> Any:
    return gst.Gst.ElementFactory.make(factory)


def threads(prefix: str) -> int:
    """How many threads of that name run."""
    return sum(thread.name.startswith(prefix) for thread in threading.enumerate())


# -- components ----------------------------------------------------------------------------------------------

MAKERS: dict[str, Callable[[Any, Any, SafetyManager], Any]] = {
    "gst.Capture": lambda g, gst, manager: g.Capture(manager, element(gst, "appsink")),
    "gst.Feeder": lambda g, gst, manager: g.Feeder(manager, element(gst, "appsrc"), caps=CAPS),
    "gst.Pool": lambda g, gst, manager: g.PoolAdapter(manager, CAPS, most=2, least=2),
    "gst.Pipeline": lambda g, gst, manager: g.PipelineGuard(manager, "fakesrc ! fakesink"),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_dropped_it_is_freed_and_reported(g: Any, gst: Any, manager: SafetyManager, kind: str) -> None:
    callbacks = len(manager.stopping._callbacks)
    gone = [weakref.ref(MAKERS[kind](g, gst, manager)) for _ in range(5)]
    gc.collect()
    assert [ref() for ref in gone] == [None] * 5
    eventually(lambda: manager.stats().types[kind].leaks == 5)
    eventually(lambda: manager.stats().types[kind].ended["released"] == 5)
    assert len(manager.stopping._callbacks) == callbacks


@pytest.mark.parametrize("kind", MAKERS)
def test_closed_it_is_no_leak(g: Any, gst: Any, manager: SafetyManager, kind: str) -> None:
    gone = []
    for _ in range(3):
        with MAKERS[kind](g, gst, manager) as made:
            gone.append(weakref.ref(made))
        del made
    gc.collect()
    assert [ref() for ref in gone] == [None] * 3
    assert manager.stats().leaks == 0


def test_the_elements_go_with_it(g: Any, gst: Any, manager: SafetyManager) -> None:
    sink, source = element(gst, "appsink"), element(gst, "appsrc")
    died: list[str] = []
    sink.weak_ref(died.append, "sink")
    source.weak_ref(died.append, "source")
    g.Capture(manager, sink)
    g.Feeder(manager, source, caps=CAPS)
    del sink, source
    gc.collect()
    eventually(lambda: manager.stats().active_objects == 0)
    assert sorted(died) == ["sink", "source"]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_running_capture_that_nobody_refers_to_ends(
    g: Any, manager: SafetyManager, live: Any, streaming: bool
) -> None:
    """Its thread does not keep it: it is reported, its callback called no more, and the pipeline flows on."""
    frames: list[int] = []
    capture = g.Capture(manager, live, name="forgotten", streaming=streaming)
    capture.on_frame(lambda frame: frames.append(1))
    eventually(lambda: len(frames) > 3)
    gone = weakref.ref(capture)
    del capture
    eventually(lambda: gone() is None)
    assert manager.stats().types["gst.Capture"].leaks == 1
    eventually(lambda: threads("capture-forgotten") == 0)
    eventually(lambda: live.get_property("max-buffers") == 1 and live.get_property("drop"))
    eventually(lambda: manager.stats().active_objects == 0)
    before = len(frames)
    with g.Capture(manager, live) as again:
        assert next(iter(again.frames(timeout=20))).array().shape == (48, 64, 3)
    assert len(frames) == before
    assert live.get_parent().get_state(0)[1].value_nick == "playing"


def test_a_capture_whose_callback_is_a_method_of_its_owner(g: Any, manager: SafetyManager, live: Any) -> None:
    class Viewer:
        def __init__(self) -> None:
            self.seen = 0
            self.capture = g.Capture(manager, live, name="viewer")
            self.capture.on_frame(self.look)
            self.capture.on_stall(self.stalled)

        def look(self, frame: Any) -> None:
            self.seen += 1

        def stalled(self, stall: Any) -> None:
            raise AssertionError(stall)

    viewer = Viewer()
    eventually(lambda: viewer.seen > 3)
    gone = weakref.ref(viewer)
    del viewer

    def collected() -> bool:
        gc.collect()
        return gone() is None

    eventually(collected)
    assert manager.stats().types["gst.Capture"].leaks == 1
    eventually(lambda: threads("capture-viewer") == 0)


def test_a_loop_keeps_its_capture(g: Any, manager: SafetyManager, live: Any) -> None:
    frames = g.Capture(manager, live).frames(timeout=20)
    for number, frame in enumerate(frames):
        assert frame.array().shape == (48, 64, 3)
        gc.collect()
        if number == 3:
            break
    assert manager.stats().leaks == 0
    del frames, frame
    gc.collect()
    eventually(lambda: manager.stats().types["gst.Capture"].leaks == 1)


def test_the_manager_closes_a_capture_that_it_knows_weakly(g: Any, live: Any) -> None:
    manager = SafetyManager()
    capture = g.Capture(manager, live)
    capture.on_frame(lambda frame: None)
    report = manager.close()
    assert (capture.closed, report.ok, report.errors) == (True, True, ())
    assert manager.stats().leaks == 0


def test_a_fanout_that_is_dropped(g: Any, manager: SafetyManager) -> None:
    with g.PipelineGuard(manager, f"videotestsrc is-live=true ! {CAPS} ! appsink name=encoded") as source:
        fanout = g.Fanout(manager, source, "encoded")
        source.play()
        eventually(lambda: fanout.capture.stats().results["ok"] > 2)
        gone = weakref.ref(fanout)
        del fanout

        def collected() -> bool:
            gc.collect()
            return gone() is None

        eventually(collected)
        assert manager.stats().types["gst.Capture"].leaks == 1


# -- guards and their functions ------------------------------------------------------------------------------


def probe_of(g: Any, gst: Any, manager: SafetyManager, source: Any, fn: Callable[..., Any]) -> Any:
    pad = source.get_static_pad("src")
    return g.ProbeGuard(manager, pad, gst.Gst.PadProbeType.BUFFER, fn)


def signal_of(g: Any, gst: Any, manager: SafetyManager, source: Any, fn: Callable[..., Any]) -> Any:
    return g.SignalGuard(manager, source, "handoff", fn)


def answering_signal_of(g: Any, gst: Any, manager: SafetyManager, source: Any, fn: Callable[..., Any]) -> Any:
    """One whose signal wants an answer."""
    return g.SignalGuard(manager, element(gst, "appsink"), "eos", fn)


def watch_of(g: Any, gst: Any, manager: SafetyManager, source: Any, fn: Callable[..., Any]) -> Any:
    watch = g.BusWatch(manager, gst.Gst.Pipeline())
    watch.on("error")(fn)
    return watch


GUARDS = [probe_of, signal_of, answering_signal_of, watch_of]

HOWS: dict[str, Callable[[Any], Callable[..., Any]]] = {
    "method": lambda owner: owner.look,
    "closure": lambda owner: lambda *args: owner.look(*args),
    "partial": lambda owner: functools.partial(owner.look),
    "itself": lambda owner: owner,
}


class Owner:
    """An object that has a guard whose function leads back to it."""

    def __init__(
        self, make: Callable[..., Any], how: Callable[[Any], Callable[..., Any]], *args: Any
    ) -> None:
        self.seen = 0
        self.element = args[1].Gst.ElementFactory.make("identity")
        self.guard = make(*args, self.element, how(self))

    def look(self, *_: Any) -> None:
        self.seen += 1

    __call__ = look


@pytest.mark.parametrize("how", HOWS.values(), ids=HOWS.keys())
@pytest.mark.parametrize("make", GUARDS)
def test_an_owner_is_freed_and_its_guard_reported(
    g: Any, gst: Any, manager: SafetyManager, make: Any, how: Any
) -> None:
    gone = [weakref.ref(Owner(make, how, g, gst, manager)) for _ in range(3)]
    gc.collect()
    assert [ref() for ref in gone] == [None] * 3
    assert manager.stats().leaks == 3
    eventually(lambda: manager.stats().active_objects == 0)


@pytest.mark.parametrize("how", HOWS.values(), ids=HOWS.keys())
def test_as_long_as_the_guard_lives_its_function_is_called(
    g: Any, gst: Any, manager: SafetyManager, how: Any
) -> None:
    """Nobody else keeps the owner here: the guard does."""
    pipeline = gst.Gst.parse_launch("videotestsrc num-buffers=3 ! identity name=door ! fakesink sync=false")
    door = pipeline.get_by_name("door")
    owners = [Owner(make, how, g, gst, manager) for make in (probe_of, signal_of)]
    guards = [
        probe_of(g, gst, manager, door, how(owners[0])),
        signal_of(g, gst, manager, door, how(owners[1])),
    ]
    refs = [weakref.ref(owner) for owner in owners]
    for owner in owners:
        owner.guard.close()
    del owners, owner
    gc.collect()
    pipeline.set_state(gst.Gst.State.PLAYING)
    eventually(lambda: [ref().seen for ref in refs] == [3, 3])  # type: ignore[union-attr]
    gst.shutdown(pipeline)
    for guard in guards:
        assert guard.close()
    gc.collect()
    assert [ref() for ref in refs] == [None, None]
    assert manager.stats().leaks == 0


def test_a_branch_and_a_capture_of_its_owner(g: Any, manager: SafetyManager) -> None:
    """The branch ends its captures, and keeps no callback of theirs where the collector does not look."""

    class Client:
        def __init__(self, tee: Any) -> None:
            self.seen = 0
            self.branch = tee.attach("appsink sync=false")
            self.branch.capture(name="client").on_frame(self.look)

        def look(self, frame: Any) -> None:
            self.seen += 1

    with g.PipelineGuard(manager, f"videotestsrc is-live=true ! {CAPS} ! tee name=t") as guard:
        tee = g.Tee(manager, guard, "t")
        guard.play()
        client = Client(tee)
        eventually(lambda: client.seen > 2)
        gone = weakref.ref(client)
        del client

        def collected() -> bool:
            gc.collect()
            return gone() is None

        eventually(collected)
        eventually(lambda: guard["t"].numsrcpads == 0, timeout=20)
        eventually(lambda: threads("capture-client") == 0)
        stats = manager.stats()
        assert (stats.leaks, stats.types["gst.Branch"].leaks) == (1, 1)  # the capture ends with its branch
        assert not guard.errors


@pytest.mark.needs("webrtc")
def test_a_peer_that_calls_methods_of_its_owner(g: Any, manager: SafetyManager) -> None:
    from lifecycle.integrations.gstreamer.webrtc import WebRTCPeer

    class Session:
        def __init__(self, pipeline: Any) -> None:
            self.peer = WebRTCPeer(manager, pipeline, "rtc", on_ice=self.ice, on_pad=self.pad)

        def ice(self, mline: int, candidate: str) -> None:
            raise AssertionError(candidate)

        def pad(self, pad: Any) -> None:
            raise AssertionError(pad)

    with g.PipelineGuard(manager, "webrtcbin name=rtc") as pipeline:
        gone = weakref.ref(Session(pipeline))
        gc.collect()
        assert gone() is None
        assert manager.stats().types["gst.Signal"].leaks == 3
