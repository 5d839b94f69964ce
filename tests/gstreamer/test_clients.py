"""One encoder, clients that come and go: each begins at a key frame, and ends alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from lifecycle import LifecycleError, ObjectState, SafetyManager
from lifecycle.testing import each_interrupt
from tests.support import eventually, run_python

if TYPE_CHECKING:
    from lifecycle.integrations.gstreamer import Fanout, PipelineGuard

pytestmark = pytest.mark.needs("gstreamer", "numpy")

SOURCE = (
    "videotestsrc is-live=true ! video/x-raw,format=I420,width=64,height=48,framerate=50/1 "
    "! vp8enc deadline=1 cpu-used=8 keyframe-max-dist=9999 ! appsink name=encoded"
)
"""One key frame, the first; every other one must be asked for."""
DELTA = 1 << 13


@pytest.fixture
def g(gst: Any) -> Any:
    """The integration, GStreamer initialised."""
    import lifecycle.integrations.gstreamer

    return lifecycle.integrations.gstreamer


@pytest.fixture
def fanout(g: Any, manager: SafetyManager) -> Iterator[Fanout]:
    """An encoder that plays, and has sent its only key frame."""
    with g.PipelineGuard(manager, SOURCE, name="encoder") as source:
        with g.Fanout(manager, source, "encoded") as fanout:
            source.play()
            eventually(lambda: fanout.capture.stats().results["ok"] > 3, timeout=20)
            yield fanout
        assert not source.errors


def client_pipeline(
    g: Any, manager: SafetyManager, rest: str = "vp8dec ! fakesink sync=false"
) -> PipelineGuard:
    made: PipelineGuard = g.PipelineGuard(
        manager, f"appsrc name=feed is-live=true ! identity name=door ! {rest}"
    )
    return made


def noted(g: Any, gst: Any, manager: SafetyManager, pipeline: PipelineGuard) -> list[tuple[bool, int]]:
    """A list that gets (key frame, pts) of every buffer that enters the pipeline."""
    seen: list[tuple[bool, int]] = []

    def note(pad: Any, info: Any) -> Any:
        buffer = info.get_buffer()
        seen.append((not buffer.has_flags(gst.Gst.BufferFlags.DELTA_UNIT), buffer.pts))
        return gst.Gst.PadProbeReturn.OK

    pipeline["door"].get_static_pad("sink").add_probe(gst.Gst.PadProbeType.BUFFER, note)
    return seen


def test_each_client_begins_at_a_key_frame(g: Any, gst: Any, manager: SafetyManager, fanout: Fanout) -> None:
    for _ in range(3):
        pipeline = client_pipeline(g, manager)
        seen = noted(g, gst, manager, pipeline)
        with fanout.add(pipeline, "feed", name="guest", max_buffers=1000) as client:
            assert fanout.clients == (client,)
            eventually(lambda: len(seen) > 5, timeout=20)
            eventually(lambda: client.stats().sent > 5, timeout=20)
            assert not client.stats().waiting_for_key
        assert seen[0][0], seen
        assert not any(key for key, _ in seen[1:]), seen
        times = [pts for _, pts in seen]
        assert times == sorted(times)
        assert pipeline.closed
        assert not fanout.clients


def test_times_mean_the_same_everywhere(g: Any, gst: Any, manager: SafetyManager, fanout: Fanout) -> None:
    pipeline = client_pipeline(g, manager)
    with fanout.add(pipeline, "feed"):
        eventually(lambda: pipeline.pipeline.get_base_time() > 0, timeout=20)
        assert pipeline.pipeline.get_base_time() == fanout._source.pipeline.get_base_time()
        eventually(lambda: pipeline.state == "playing", timeout=20)
        assert pipeline.pipeline.get_base_time() == fanout._source.pipeline.get_base_time()


def test_a_client_that_falls_behind_goes_on_at_a_key_frame(
    g: Any, gst: Any, manager: SafetyManager, fanout: Fanout
) -> None:
    hold = threading.Event()
    slow, fast = client_pipeline(g, manager), client_pipeline(g, manager)
    seen, fine = noted(g, gst, manager, slow), noted(g, gst, manager, fast)
    slow["door"].set_property("signal-handoffs", True)
    slow["door"].connect("handoff", lambda *_: hold.wait(60))
    with fanout.add(slow, "feed", max_buffers=2) as client, fanout.add(fast, "feed"):
        eventually(lambda: client.stats().fell_behind > 0, timeout=20)
        before = len(fine)
        eventually(lambda: len(fine) > before + 5, timeout=20)  # nobody waits for it
        hold.set()
        reached = len(seen)
        eventually(lambda: len(seen) > reached + 5, timeout=20)
    gaps = [number for number in range(1, len(seen)) if seen[number][1] - seen[number - 1][1] > 90_000_000]
    assert gaps, seen
    assert all(seen[number][0] for number in gaps), seen  # after every gap a key frame


def test_a_client_may_ask_for_a_key_frame(g: Any, gst: Any, manager: SafetyManager, fanout: Fanout) -> None:
    """By itself, and as its own pipeline does upstream when packets were lost."""
    pipeline = client_pipeline(g, manager)
    seen = noted(g, gst, manager, pipeline)
    with fanout.add(pipeline, "feed", max_buffers=1000) as client:
        for ask in (client.restart, lambda: g.request_key_frame(pipeline["door"].get_static_pad("sink"))):
            eventually(lambda: len(seen) > 3, timeout=20)
            keys = sum(key for key, _ in seen)
            ask()
            eventually(lambda: sum(key for key, _ in seen) > keys, timeout=20)


def test_a_restart_while_a_frame_is_given_is_not_forgotten(
    g: Any, gst: Any, manager: SafetyManager, fanout: Fanout, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = client_pipeline(g, manager)
    seen = noted(g, gst, manager, pipeline)
    with fanout.add(pipeline, "feed", max_buffers=1000) as client:
        eventually(lambda: len(seen) > 3, timeout=20)
        feeder = client._feeder
        before: list[int] = []

        def push(frame: Any, timeout: float) -> None:
            feeder.push(frame, timeout=timeout)
            if not before:
                before.append(sum(key for key, _ in seen))
                client.restart()

        monkeypatch.setattr(client, "_feeder", SimpleNamespace(push=push))
        eventually(lambda: before and sum(key for key, _ in seen) > before[0], timeout=20)


def test_a_client_that_fails_ends_alone(g: Any, gst: Any, manager: SafetyManager, fanout: Fanout) -> None:
    told: list[Any] = []
    good, bad = (
        client_pipeline(g, manager),
        client_pipeline(g, manager, "identity error-after=3 name=broken ! fakesink"),
    )
    seen = noted(g, gst, manager, good)
    with fanout.add(good, "feed"):
        client = fanout.add(bad, "feed", on_end=told.append)
        eventually(lambda: client.handle.state is ObjectState.RELEASED, timeout=20)
        assert told == [client]
        assert "broken" in str(client.error)
        assert client.error is not None
        assert client.error.__traceback__ is None
        assert bad.closed
        before = len(seen)
        eventually(lambda: len(seen) > before + 5, timeout=20)


FINITE = SOURCE.replace("is-live=true", "num-buffers=20")


def finite(g: Any, manager: SafetyManager, text: str = FINITE) -> tuple[PipelineGuard, Fanout]:
    """An encoder that has not begun, whose source ends by itself."""
    source = g.PipelineGuard(manager, text, name="encoder")
    return source, g.Fanout(manager, source, "encoded")


def test_the_end_of_the_source_is_that_of_every_client(g: Any, manager: SafetyManager) -> None:
    source, fanout = finite(g, manager)
    ends: list[tuple[Any, Any]] = []
    pipelines = [client_pipeline(g, manager) for _ in range(2)]
    with source, fanout:
        clients = [
            fanout.add(one, "feed", max_buffers=1000, on_end=lambda client: ends.append((client, client.end)))
            for one in pipelines
        ]
        source.play()
        for one in pipelines:
            assert one.wait(20)  # the end of the stream has come through
        eventually(lambda: len(ends) == 2, timeout=20)
        assert sorted(ends, key=lambda end: end[0].key) == [(one, "eos") for one in clients]
        assert [client.error for client in clients] == [None, None]
        assert not any(client.closed for client in clients)
        late = client_pipeline(g, manager)
        with pytest.raises(g.GuardError, match=r"'encoded': its source 'encoder' has come to its end"):
            fanout.add(late, "feed")
        assert not late.closed
        late.close()
    assert all(client.closed for client in clients)


def test_a_source_that_is_started_again_takes_clients_again(g: Any, manager: SafetyManager) -> None:
    source, fanout = finite(g, manager)
    with source, fanout:
        source.play()
        assert source.wait(20)
        pipeline = client_pipeline(g, manager)
        with pytest.raises(g.GuardError, match="has come to its end"):
            fanout.add(pipeline, "feed")
        source.ready()
        with fanout.add(pipeline, "feed", max_buffers=1000) as client:
            source.play()
            eventually(lambda: client.end == "eos", timeout=20)
            assert client.stats().sent > 0


def test_an_error_of_the_source_is_one_of_every_client(g: Any, gst: Any, manager: SafetyManager) -> None:
    source, fanout = finite(
        g, manager, SOURCE.replace("! vp8enc", "! identity name=broken error-after=60 ! vp8enc")
    )
    told: list[Any] = []
    with source, fanout:
        source.play()
        client = fanout.add(client_pipeline(g, manager), "feed", on_end=told.append)
        eventually(lambda: client.stats().sent > 3, timeout=20)
        eventually(lambda: client.handle.state is ObjectState.RELEASED, timeout=20)
        assert told == [client]
        assert client.end == "error"
        assert isinstance(client.error, g.PipelineError)
        assert client.error.element == "broken"
        late = client_pipeline(g, manager)
        with pytest.raises(g.PipelineError, match="'broken'"):
            fanout.add(late, "feed")
        late.close()


def test_a_source_that_is_closed_ends_its_clients(g: Any, manager: SafetyManager) -> None:
    source, fanout = finite(g, manager, SOURCE)
    with fanout:
        source.play()
        client = fanout.add(client_pipeline(g, manager), "feed")
        source.close()
        eventually(lambda: client.handle.state is ObjectState.RELEASED, timeout=20)
        assert client.end == "error"
        assert "'encoder'" in str(client.error)
        late = client_pipeline(g, manager)
        with pytest.raises(LifecycleError, match="pipeline 'encoder', the source of fanout"):
            fanout.add(late, "feed")
        late.close()


def test_a_dropped_client_ends_too(g: Any, gst: Any, manager: SafetyManager, fanout: Fanout) -> None:
    client = fanout.add(client_pipeline(g, manager), "feed")
    fanout._clients.clear()  # nobody refers to it now
    handle = client.handle
    del client
    eventually(lambda: handle.state is ObjectState.VALID, timeout=20)
    assert handle.close(timeout=20)
    eventually(lambda: manager.stats().types["gst.Pipeline"].live == 1, timeout=20)


def test_what_cannot_be_added_is_closed(g: Any, gst: Any, manager: SafetyManager, fanout: Fanout) -> None:
    for text, appsrc in (
        ("fakesrc ! fakesink", "feed"),
        ("appsrc name=feed ! filesink location=/no/such/folder/x", "feed"),
    ):
        pipeline = g.PipelineGuard(manager, text)
        with pytest.raises(LifecycleError) as caught:
            fanout.add(pipeline, appsrc)
        assert "feed" in str(caught.value) or "/no/such" in str(caught.value)
        caught.value.__traceback__ = None
        assert pipeline.closed
    with pytest.raises(LifecycleError, match="PipelineGuard of the client"):
        fanout.add(gst.Gst.Pipeline(), "feed")
    with pytest.raises(LifecycleError, match="PipelineGuard of the encoder"):
        g.Fanout(manager, 3, "encoded")
    with g.PipelineGuard(manager, "fakesrc ! fakesink name=sink") as other:
        for what in ("sink", 3):
            with pytest.raises(LifecycleError, match="pulls from an appsink"):
                g.Fanout(manager, other, what)


def test_clients_in_and_out_leave_nothing(g: Any) -> None:
    done = run_python(
        f"""
        import gc, random, threading
        from lifecycle.integrations.gstreamer import *
        LeaksTracer.enable()
        from lifecycle import SafetyManager
        from tests.gstreamer.program import *
        from tests.support import eventually

        manager = SafetyManager(name="crowd")
        source = PipelineGuard(manager, {SOURCE!r})
        fanout = Fanout(manager, source, "encoded")
        source.play()

        def guest(times):
            for _ in range(times):
                client = fanout.add(PipelineGuard(manager, "appsrc name=feed is-live=true ! vp8dec ! fakesink sync=false"), "feed")
                eventually(lambda: client.stats().sent > 1, timeout=30)
                client.close()

        guest(1)
        tracer = LeaksTracer()
        tracer.start()
        threads = [threading.Thread(target=guest, args=(5,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert fanout.close() and source.close()
        del fanout
        gc.collect()
        eventually(lambda: manager.stats().active_objects == 0, timeout=20)
        alive = tracer.alive()
        assert alive == {{}}, alive
        stats = manager.stats().types["gst.Client"]
        assert stats.ended["released"] == 16 and stats.leaks == 0, stats
        assert manager.close().ok
        print("clean")
        """,
        env={"G_DEBUG": "fatal-criticals"},
        timeout=100,
    )
    assert done.check() == "clean\n"


@pytest.mark.needs("webrtc")
def test_the_server_and_two_peers_over_loopback() -> None:
    done = run_python(
        """
        from examples.webrtc_server import run
        assert run(1, 2)
        """,
        timeout=100,
    )
    said = done.check()
    assert "0 objects left" in said, said
    assert said.count("the first after") >= 2, said


@pytest.mark.needs("webrtc")
def test_negotiations_that_cannot_be(g: Any, manager: SafetyManager) -> None:
    from lifecycle.integrations.gstreamer.webrtc import NegotiationError, WebRTCPeer

    with (
        g.PipelineGuard(manager, "webrtcbin name=rtc") as pipeline,
        WebRTCPeer(manager, pipeline, "rtc") as peer,
    ):
        assert peer.state == "new"
        began = time.monotonic()
        for attempt, words in (
            (lambda: peer.offer(0.1), "nothing to offer"),
            (lambda: peer.answer("nonsense"), "v="),
            (lambda: peer.accept(""), "v="),
            (lambda: peer.accept("v=0\r\n", timeout=5), "set-remote-description"),
            (lambda: peer.wait(0.1), "candidates"),
            (lambda: peer.wait("1"), "takes seconds"),  # type: ignore[arg-type]
            (lambda: peer.offer(-1), "takes seconds"),
            (lambda: peer.answer("v=0\r\n", float("nan")), "takes seconds"),
            (lambda: peer.add_ice("0", "candidate"), "number of a media line"),  # type: ignore[arg-type]
            (lambda: peer.add_ice(-1, "candidate"), "number of a media line"),
            (lambda: peer.add_ice(1 << 32, "candidate"), "number of a media line"),
            (lambda: peer.add_ice(0, 5), "takes a text"),  # type: ignore[arg-type]
            (lambda: peer.add_ice(0, "one\0two"), "takes a text"),
        ):
            with pytest.raises(NegotiationError, match=words) as caught:
                attempt()
            caught.value.__traceback__ = None
        assert time.monotonic() - began < 60
        peer.add_ice(0, "candidate:1 1 UDP 1 127.0.0.1 9 typ host")  # kept until the other side is described
    assert peer.state == "closed"
    with pytest.raises(NegotiationError, match="closed"):
        peer.answer("v=0\r\n", timeout=5)
    with pytest.raises(LifecycleError, match="takes the PipelineGuard"):
        WebRTCPeer(manager, None, "rtc")  # type: ignore[arg-type]
    with g.PipelineGuard(manager, "fakesrc name=x ! fakesink") as pipeline:
        with pytest.raises(LifecycleError, match="webrtcbin"):
            WebRTCPeer(manager, pipeline, "x")


@pytest.mark.needs("webrtc")
def test_a_candidate_that_is_refused_stands_in_the_way_of_no_other(g: Any, manager: SafetyManager) -> None:
    from lifecycle.integrations.gstreamer.webrtc import WebRTCPeer

    told: list[int] = []

    class Element:
        def emit(self, signal: str, mline: int, candidate: str) -> None:
            if candidate == "refused":
                raise ValueError("refused")
            told.append(mline)

    with (
        g.PipelineGuard(manager, "webrtcbin name=rtc", name="rtc") as pipeline,
        WebRTCPeer(manager, pipeline, "rtc") as peer,
    ):
        peer._now = Element  # type: ignore[method-assign]
        peer.add_ice(0, "refused")
        peer.add_ice(1, "good")
        peer._described = True
        with pytest.raises(ValueError, match="refused"):
            peer.add_ice(2, "good")
        peer.add_ice(3, "good")
        assert told == [1, 2, 3]
        del peer._now


@pytest.mark.needs("webrtc")
def test_an_interrupt_loses_no_candidate_that_came_early(g: Any, manager: SafetyManager) -> None:
    from lifecycle.integrations.gstreamer.webrtc import WebRTCPeer

    told: list[int] = []
    with (
        g.PipelineGuard(manager, "webrtcbin name=rtc") as pipeline,
        WebRTCPeer(manager, pipeline, "rtc") as peer,
    ):
        element = peer._element
        peer._element = SimpleNamespace(emit=lambda signal, mline, candidate: told.append(mline))
        peer._ask = lambda *_: None  # type: ignore[method-assign]

        def accept() -> None:
            told.clear()
            peer._described = False
            peer._candidates.extend((number, "early") for number in range(3))
            peer.accept("v=0\r\n", timeout=5)

        struck = 0
        for each in each_interrupt(accept):
            struck += 1
            # The other side tells one more, and whoever was interrupted does it again.
            for again in (partial(peer.add_ice, 3, "late"), partial(peer.accept, "v=0\r\n", timeout=5)):
                again()
                assert not peer._described or {0, 1, 2} <= set(told), (each.place, told)
            assert peer._described
            assert not peer._candidates
        assert struck > 10
        accept()
        assert told == [0, 1, 2]
        peer._element = element
