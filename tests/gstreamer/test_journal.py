"""The journal of a pipeline: what was heard of it, and ends that a seek undoes."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from lifecycle import AccessRefusedError, SafetyManager
from tests.support import eventually

pytestmark = pytest.mark.needs("gstreamer", "numpy")

CLIP = "videotestsrc num-buffers=30 ! video/x-raw,format=RGB,width=64,height=48,framerate=30/1"
ENDLESS = CLIP.replace(" num-buffers=30", "")
"""A count of the source's own goes on over a seek: seeks have a stop."""
SECOND = 1_000_000_000
TENTH = 100_000_000


@pytest.fixture
def g(gst: Any) -> Any:
    import lifecycle.integrations.gstreamer

    return lifecycle.integrations.gstreamer


@pytest.mark.parametrize("sink", ["fakesink sync=false", "appsink name=sink sync=false max-buffers=4"])
def test_wait_right_behind_a_seek_is_for_the_second_end(g: Any, manager: SafetyManager, sink: str) -> None:
    with g.PipelineGuard(manager, f"{ENDLESS} ! {sink}") as guard:
        guard.pause()
        guard.seek(0, stop=SECOND)
        guard.play(0)
        capture = g.Capture(manager, guard["sink"]) if "appsink" in sink else None
        for _ in range(3):
            if capture is not None:
                assert sum(1 for _ in capture.frames(timeout=20)) > 0
            assert guard.wait(20)
            assert guard.ended
            guard.seek(5 * TENTH, stop=SECOND)
            if capture is not None:
                # What waits keeps the second end back.
                assert not guard.ended
                assert not guard.wait(0)
        if capture is not None:
            assert sum(1 for _ in capture.frames(timeout=20)) > 0
            capture.close()
        assert guard.wait(20)


def test_an_end_that_is_told_after_a_seek_is_of_before(g: Any, gst: Any, manager: SafetyManager) -> None:
    """What waits in an appsink keeps the message back until the flush: it is told behind the seek."""
    with g.PipelineGuard(manager, f"{ENDLESS} ! appsink name=sink sync=false") as guard:
        seen: list[Any] = []
        pad = guard["sink"].get_static_pad("sink")
        pad.add_probe(gst.Gst.PadProbeType.EVENT_DOWNSTREAM, lambda _, info: note(info.get_event()))

        def note(event: Any) -> Any:
            if event.type == gst.Gst.EventType.EOS:
                seen.append(event.get_seqnum())
            return gst.Gst.PadProbeReturn.OK

        guard.pause()
        guard.seek(0, stop=SECOND)
        guard.play()
        eventually(lambda: seen)
        assert not guard.ended
        for _ in range(5):
            guard.seek(0, stop=SECOND)
            assert not guard.ended
        ends = [message for message in guard.messages() if message.kind == "eos"]
        assert not guard.wait(0), ends


@pytest.mark.parametrize("first", [0, 1])
def test_an_end_counts_where_two_seeks_at_once_fail(
    g: Any, gst: Any, manager: SafetyManager, first: int
) -> None:
    """Whichever fails first, and where one of them was taken it does not count."""
    Gst = gst.Gst

    def number() -> int:
        event = Gst.Event.new_seek(
            1.0, Gst.Format.TIME, Gst.SeekFlags.FLUSH, Gst.SeekType.SET, 0, Gst.SeekType.NONE, -1
        )
        return int(event.get_seqnum())

    with g.PipelineGuard(manager, "fakesrc num-buffers=3 ! fakesink async=false") as guard:
        guard.play()
        assert guard.wait(20)
        for _ in range(3):
            seeks = [guard._journal.seek_begins(number()) for _ in range(2)]
            assert not guard.ended
            seeks[first](False)
            assert not guard.ended
            seeks[1 - first](False)
            assert guard.ended
            assert guard.wait(0)
        seeks = [guard._journal.seek_begins(number()) for _ in range(2)]
        seeks[first](True)
        seeks[1 - first](False)
        assert not guard.ended
        for _ in range(100):
            guard._journal.seek_begins(number())(True)
        assert len(guard._journal._seeks) == 1


def test_an_end_that_comes_while_a_seek_fails_counts(
    g: Any, gst: Any, manager: SafetyManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number is of before the seek, which takes nothing back."""
    from lifecycle.integrations.gstreamer.pipelines import pipeline as module

    with g.PipelineGuard(manager, f"{CLIP} ! identity sleep-time=1000 ! fakesink sync=false") as guard:

        def not_taken(seek: Any, timeout: float, name: str, lane: Any) -> tuple[Any, bool]:
            monkeypatch.undo()
            guard.play()
            eventually(lambda: [message for message in guard.messages() if message.kind == "eos"], timeout=20)
            assert not guard.ended
            return guard.pipeline.target_state, False

        guard.pause()
        monkeypatch.setattr(module, "with_deadline", not_taken)
        with pytest.raises(g.PipelineError, match="cannot seek"):
            guard.seek(0)
        assert guard.ended
        assert guard.wait(0)


@pytest.mark.parametrize("then", ["pause", "ready", "seek"])
def test_what_is_asked_of_a_pipeline_is_done_in_its_order(
    g: Any, gst: Any, manager: SafetyManager, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    """Though the thread that changes its state is late."""
    from lifecycle.integrations.gstreamer.pipelines import pipeline as pipelines
    from lifecycle.integrations.gstreamer.pipelines import threads as module

    with g.PipelineGuard(manager, f"{ENDLESS} ! fakesink sync=true") as guard:
        guard.pause()
        late = threading.Event()
        plain = module.in_the_background

        def held_up(function: Any, name: str) -> None:
            monkeypatch.undo()
            plain(lambda: (late.wait(20), function()), name)

        monkeypatch.setattr(module, "in_the_background", held_up)
        monkeypatch.setattr(pipelines, "in_the_background", held_up)
        guard.play(0)
        {"pause": guard.pause, "ready": guard.ready, "seek": lambda: guard.seek(0)}[then]()
        state = {"pause": "paused", "ready": "ready", "seek": "playing"}[then]
        assert guard.state == state
        before = threading.active_count()
        late.set()
        eventually(lambda: threading.active_count() < before)
        assert guard.state == state


def test_a_segment_ends_without_an_end_of_the_stream(g: Any, manager: SafetyManager) -> None:
    with g.PipelineGuard(manager, f"{ENDLESS} ! fakesink sync=false") as guard:
        guard.pause()
        guard.seek(0, stop=5 * TENTH, segment=True)
        guard.play()
        assert guard.wait(20)
        assert [message.kind for message in guard.messages()][-1] == "segment-done"
        guard.seek(0, stop=5 * TENTH, segment=True)
        assert guard.wait(20)


@pytest.mark.parametrize(
    ("position", "options"),
    [
        (-1, {}),
        (float("nan"), {}),
        (0.5, {}),
        (True, {}),
        (None, {}),
        (1 << 64, {}),
        (0, {"stop": -1}),
        (5, {"stop": 5}),
        (0, {"rate": 0}),
        (0, {"rate": float("nan")}),
        (0, {"rate": float("inf")}),
        (0, {"timeout": -1}),
        (0, {"timeout": float("nan")}),
    ],
)
def test_times_that_are_none_are_refused(
    g: Any, manager: SafetyManager, position: Any, options: dict[str, Any]
) -> None:
    with g.PipelineGuard(manager, f"{CLIP} ! fakesink") as guard:
        guard.pause()
        with pytest.raises(g.GuardError, match=r"seek|timeout="):
            guard.seek(position, **options)
        assert guard.state == "paused"


def test_what_cannot_seek_says_so(g: Any, manager: SafetyManager) -> None:
    with g.PipelineGuard(manager, f"{CLIP} ! fakesink sync=false") as guard:
        with pytest.raises(g.PipelineError, match="NULL, cannot seek"):
            guard.seek(0)
        guard.play()
        assert guard.wait(20)
    with pytest.raises(AccessRefusedError):
        guard.seek(0)


def test_what_was_heard_is_kept_though_nobody_reads_the_bus(g: Any, gst: Any, manager: SafetyManager) -> None:
    # Live, at its own speed: a branch drops what it is too slow for, and must get three.
    live = CLIP.replace("videotestsrc", "videotestsrc is-live=true")
    with g.PipelineGuard(manager, f"{live} ! tee name=t ! queue ! fakesink sync=false") as guard:
        branch = g.Tee(manager, guard, "t").attach(
            "identity error-after=3 ! fakesink sync=false", name="broken"
        )
        guard.play()
        assert guard.wait(20)
        bus = guard.pipeline.get_bus()
        source = guard.pipeline
        source.post_message(gst.Gst.Message.new_application(source, gst.Gst.Structure.new_empty("mark")))
        del source
        heard = guard.messages()
        assert [message.scope for message in heard if message.kind == "error"][:1] == ["broken"]
        assert "eos" in [message.kind for message in heard if message.scope == ""]
        assert {message.run for message in heard if message.kind in ("error", "eos")} == {1}
        eventually(
            lambda: any(m.kind == "application" and "mark" in m.text for m in guard.messages()), timeout=20
        )
        assert bus.peek() is None or bus.peek().type
        assert list(guard.messages()) == sorted(guard.messages(), key=lambda message: message.time)
        branch.close()


def test_states_are_awaited_in_a_coroutine(g: Any, manager: SafetyManager) -> None:
    async def main() -> list[float]:
        beats: list[float] = []

        async def beat() -> None:
            while True:
                beats.append(time.monotonic())
                await asyncio.sleep(0.005)

        task = asyncio.create_task(beat())
        guard = g.PipelineGuard(manager, f"{ENDLESS} ! fakesink sync=true", eos=5.0)
        await guard.play_async()
        assert guard.state == "playing"
        assert not await guard.wait_async(0.05)
        await guard.seek_async(9 * TENTH, stop=SECOND)
        assert await guard.wait_async(20)
        await guard.pause_async()
        await guard.ready_async()
        assert guard.state == "ready"
        assert await guard.close_async()
        with pytest.raises(AccessRefusedError):
            await guard.play_async()
        task.cancel()
        return beats

    assert len(asyncio.run(main())) > 5


def test_waits_in_a_coroutine_raise_what_failed(g: Any, manager: SafetyManager) -> None:
    async def main() -> None:
        with g.PipelineGuard(manager, f"{CLIP} ! identity error-after=3 ! fakesink") as guard:
            guard.play(0)
            with pytest.raises(g.PipelineError, match="identity"):
                await guard.wait_async(20)

    asyncio.run(main())
