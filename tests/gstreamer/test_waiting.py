"""Captures to which nothing comes: each reason has its own error, coroutines wait without blocking, and a
format may change."""

from __future__ import annotations

import asyncio
import gc
import re
import threading
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from lifecycle import ClosedError, SafetyManager
from lifecycle.errors import CallbackError
from tests.support import Circle, eventually

pytestmark = pytest.mark.needs("gstreamer", "numpy")

CAPS = "video/x-raw,format=RGB,width=64,height=48,framerate=30/1"


@pytest.fixture
def fed(gst: ModuleType, manager: SafetyManager) -> Iterator[Any]:
    """An appsink, and a source of pictures whose pool has five buffers."""
    from lifecycle.integrations.gstreamer import Feeder, PoolAdapter

    pipeline = gst.Gst.parse_launch("appsrc name=src ! appsink name=sink sync=false enable-last-sample=false")
    pool = PoolAdapter(manager, CAPS, most=5, name="camera")
    feeder = Feeder(manager, pipeline.get_by_name("src"), caps=CAPS, max_buffers=1)
    pipeline.set_state(gst.Gst.State.PLAYING)

    def film() -> None:
        try:
            for number in range(10**6):
                with pool.acquire() as frame:
                    frame.array()[:] = number % 256
                    feeder.push(frame, pts=number)
        except ClosedError:
            pass

    thread = threading.Thread(target=film)
    thread.start()
    yield gst.appsink_of(pipeline)
    pool.close()
    feeder.close()
    thread.join(20)
    assert not thread.is_alive()
    gst.shutdown(pipeline)


def starved(capture: Any, keep: Callable[[Any], object]) -> Any:
    """What the loop says once ``keep(frame)`` has starved the source. A machine that is slower than the wait
    says `NoFrames`."""
    from lifecycle.integrations.gstreamer import NoFrames, Starved

    for _ in range(60):
        try:
            for frame in capture.frames(timeout=0.3):
                keep(frame)
        except Starved as error:
            error.__traceback__ = None
            return error
        except NoFrames:
            continue
    raise AssertionError("never starved")


# -- why nothing comes ---------------------------------------------------------------------------------------


def test_frames_that_are_held_from_a_bounded_pool_are_named(fed: Any, manager: SafetyManager) -> None:
    from lifecycle.integrations.gstreamer import Capture, NoFrames

    kept: list[Any] = []
    with Capture(manager, fed, name="greedy") as capture:
        error = starved(capture, lambda frame: kept.append(frame.array()))
        assert re.search(
            r"'greedy': no frame within 0\.3 s: \d of the 5 buffers .*frame\.copy\(\)", str(error)
        )
        assert isinstance(error, NoFrames)
        assert len(error.held) >= 3
        assert all("held by a view made at test_waiting.py:" in one for one in error.held)
        kept.clear()
        assert capture.stats().frames_held == 0
        turns = iter(range(20))
        for _ in capture.frames(timeout=20):
            if next(turns, None) is None:
                break


def test_shares_are_named_too(fed: Any, manager: SafetyManager) -> None:
    from lifecycle.integrations.gstreamer import Capture

    kept: list[Any] = []
    with Capture(manager, fed) as capture:
        error = starved(capture, lambda frame: kept.append(frame.share()))
        assert all("held by 1 other share(s)" in one for one in error.held)
        for share in kept:
            share.close()


def test_max_held_lets_the_pipeline_flow(fed: Any, manager: SafetyManager) -> None:
    """What comes while too many are held is dropped; the source is never starved."""
    from lifecycle.integrations.gstreamer import Capture, Starved

    kept: list[Any] = []
    with Capture(manager, fed, max_held=2) as capture:

        @capture.on_frame
        def keep(frame: Any) -> None:
            kept.append(frame.array())

        eventually(lambda: capture.stats().results["dropped"] > 20, timeout=20)
        assert capture.stats().frames_held == 2
        assert len(kept) == 2
        capture.stop()
        kept.clear()
    with Capture(manager, fed, max_held=1, name="again") as capture:
        capture._sink.set_property("drop", False)
        error = starved(capture, lambda frame: kept.append(frame.array()))
        assert "1 frames are held and max_held=1, so what comes is dropped" in str(error)
        assert len(kept) == 1
        kept.clear()

        async def look() -> None:
            async for frame in capture.frames(timeout=1):
                kept.append(frame.array())

        with pytest.raises(Starved, match="max_held=1"):
            asyncio.run(look())
        kept.clear()


@pytest.mark.usefixtures("no_collection_by_itself")
def test_a_pool_that_only_garbage_holds_starves_nobody(fed: Any, manager: SafetyManager) -> None:
    """Its frames stay in circles that nobody uses, until all its buffers are there."""
    from lifecycle.integrations.gstreamer import Capture

    with Capture(manager, fed) as capture:
        seen = 0
        for frame in capture.frames(timeout=20):
            Circle(frame.array())
            seen += 1
            if seen == 40:
                break
        assert seen == 40


@pytest.mark.usefixtures("no_collection_by_itself")
def test_max_held_counts_no_garbage_for_long(fed: Any, manager: SafetyManager) -> None:
    from lifecycle.integrations.gstreamer import Capture

    with Capture(manager, fed, max_held=2) as capture:

        @capture.on_frame
        def waste(frame: Any) -> None:
            Circle(frame.array())

        eventually(lambda: capture.stats().results["ok"] >= 8, timeout=30)


def test_a_stall_is_told_once_with_its_reason(fed: Any, manager: SafetyManager) -> None:
    from lifecycle.integrations.gstreamer import Capture, Stall

    kept: list[Any] = []
    stalls: list[Stall] = []
    with Capture(manager, fed, name="watched") as capture:

        @capture.on_stall
        def stalled(stall: Stall) -> None:
            stalls.append(stall)
            raise ValueError("contained")

        @capture.on_frame
        def keep(frame: Any) -> None:
            if not stalls:
                kept.append(frame.array())

        eventually(lambda: stalls, timeout=20)
        time.sleep(0.3)
        assert len(stalls) == 1
        assert stalls[0].starved
        assert stalls[0].seconds >= 1
        assert "'watched'" in stalls[0].text
        seen = capture.stats().results["ok"]
        kept.clear()
        eventually(lambda: capture.stats().results["ok"] > seen + 10, timeout=20)
    assert manager.stats().types["gst.Sample"].panics == 1


def test_a_source_that_is_silent_is_no_starvation(gst: ModuleType, manager: SafetyManager) -> None:
    from lifecycle.integrations.gstreamer import Capture, NoFrames, Stall, Starved

    pipeline = gst.Gst.parse_launch("appsrc ! appsink name=sink")
    pipeline.set_state(gst.Gst.State.PLAYING)
    stalls: list[Stall] = []
    with Capture(manager, gst.appsink_of(pipeline)) as capture:
        capture.on_stall(stalls.append)
        with pytest.raises(NoFrames, match="has seen no frame yet") as caught:
            next(capture.frames(timeout=1.3))
        assert not isinstance(caught.value, Starved)
        assert [stall.starved for stall in stalls] == [False]
    gst.shutdown(pipeline)


def test_what_cannot_watch_for_stalls(live: Any, manager: SafetyManager) -> None:
    from lifecycle.integrations.gstreamer import Capture, CaptureError

    async def later(stall: Any) -> None:
        """Never runs."""

    with Capture(manager, live, streaming=True) as capture:
        with pytest.raises(CaptureError, match="streaming="):
            capture.on_stall(print)
        with pytest.raises(CallbackError, match="coroutine"):
            capture.on_stall(later)
        with pytest.raises(CallbackError, match="takes a function"):
            capture.on_stall(7)  # type: ignore[type-var]
    wrong: Any
    for wrong in (0, True, 1.5):
        with pytest.raises(CaptureError, match="max_held="):
            Capture(manager, live, max_held=wrong)


@pytest.mark.parametrize("how", ["iterate", "callback", "streaming", "async"])
def test_an_error_on_the_bus_ends_the_wait(gst: ModuleType, manager: SafetyManager, how: str) -> None:
    from lifecycle.integrations.gstreamer import Capture, PipelineError

    pipeline = gst.Gst.parse_launch(
        f"videotestsrc ! {CAPS} ! identity name=breaks error-after=5 ! appsink name=sink sync=false"
    )
    bus = pipeline.get_bus()
    sink = gst.appsink_of(pipeline)
    with Capture(manager, sink, streaming=how == "streaming") as capture:
        if how in ("callback", "streaming"):
            capture.on_frame(lambda frame: None)
        pipeline.set_state(gst.Gst.State.PLAYING)

        async def look() -> None:
            async for _ in capture.frames(timeout=20):
                pass

        with pytest.raises(PipelineError, match="'breaks'") as caught:
            if how == "iterate":
                for _ in capture.frames(timeout=20):
                    pass
            elif how == "async":
                asyncio.run(look())
            else:
                capture.wait(20)
        assert caught.value.element == "breaks"
        assert "identity" in caught.value.debug
        assert bus.timed_pop_filtered(gst.Gst.SECOND, gst.Gst.MessageType.ERROR) is not None, (
            "still the program's own"
        )
        if how == "iterate":  # started anew it is forgotten
            pipeline.set_state(gst.Gst.State.NULL)
            pipeline.get_by_name("breaks").set_property("error-after", -1)
            pipeline.set_state(gst.Gst.State.PLAYING)
            frames = capture.frames(timeout=20)
            for _ in range(10):
                next(frames)
            frames.close()
    gst.shutdown(pipeline)


@pytest.mark.parametrize("how", ["iterate", "wait", "async"])
def test_the_managers_end_ends_the_wait(gst: ModuleType, how: str) -> None:
    from lifecycle.integrations.gstreamer import Capture

    pipeline = gst.Gst.parse_launch("appsrc ! appsink name=sink")
    pipeline.set_state(gst.Gst.State.PLAYING)
    manager = SafetyManager(name="short")
    capture = Capture(manager, gst.appsink_of(pipeline), name="cam")
    caught: list[BaseException] = []
    if how == "wait":
        capture.on_frame(lambda frame: None)

    async def look() -> None:
        async for _ in capture.frames():
            pass

    def wait() -> None:
        try:
            if how == "iterate":
                next(capture.frames())
            elif how == "async":
                asyncio.run(look())
            else:
                capture.wait()
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.15)
    manager.close()
    thread.join(20)
    assert not thread.is_alive()
    assert isinstance(caught[0], ClosedError)
    assert "manager 'short' was closed, and with it capture 'cam'" in str(caught[0])
    gst.shutdown(pipeline)


# -- coroutines ----------------------------------------------------------------------------------------------


def test_an_asynchronous_loop_does_not_block_its_event_loop(gst: ModuleType, manager: SafetyManager) -> None:
    from lifecycle.integrations.gstreamer import Capture, NoFrames

    pipeline = gst.Gst.parse_launch("appsrc ! appsink name=sink")
    pipeline.set_state(gst.Gst.State.PLAYING)

    async def main() -> int:
        ticks = 0
        with Capture(manager, gst.appsink_of(pipeline)) as capture:
            waiting = asyncio.ensure_future(capture.frames(timeout=1).__anext__())
            while not waiting.done():
                ticks += 1
                await asyncio.sleep(0.01)
            with pytest.raises(NoFrames):
                await waiting
        return ticks

    assert asyncio.run(main()) > 10
    gst.shutdown(pipeline)


def test_leaving_an_asynchronous_loop_closes_its_frame(live: Any, manager: SafetyManager) -> None:
    from lifecycle.integrations.gstreamer import Capture

    async def main() -> list[int | None]:
        times: list[int | None] = []
        with Capture(manager, live) as capture:
            async for frame in capture.frames(timeout=20):
                assert frame.array().shape == (48, 64, 3)
                times.append(frame.pts)
                if len(times) == 5:
                    break
            assert frame.closed
            assert capture.stats().results["ok"] == 5
        return times

    times = asyncio.run(main())
    assert times == sorted(time for time in times if time is not None)
    gc.collect()
    assert manager.stats().leaks == 0


def test_an_asynchronous_loop_ends_with_the_stream(gst: ModuleType, manager: SafetyManager) -> None:
    from lifecycle.integrations.gstreamer import Capture

    pipeline, sink = gst.launch(frames=10)

    async def main() -> int:
        with Capture(manager, sink) as capture:
            return len([frame.width async for frame in capture.frames(timeout=20)])

    assert asyncio.run(main()) == 10
    gst.shutdown(pipeline)


def test_a_cancelled_wait_loses_no_frame(gst: ModuleType, manager: SafetyManager) -> None:
    """What the wait brings after its task was cancelled is the next one's."""
    from lifecycle.integrations.gstreamer import Capture, Feeder

    pipeline = gst.Gst.parse_launch("appsrc name=src ! appsink name=sink sync=false")
    feeder = Feeder(manager, pipeline.get_by_name("src"), caps=CAPS)
    pipeline.set_state(gst.Gst.State.PLAYING)

    async def main() -> list[int | None]:
        got = []
        with Capture(manager, gst.appsink_of(pipeline)) as capture:
            frames = capture.frames(timeout=20)
            for number in range(15):
                task = asyncio.ensure_future(frames.__anext__())
                await asyncio.sleep(0.005)
                task.cancel()
                feeder.push(bytes(48 * 64 * 3), pts=number)
                with pytest.raises(asyncio.CancelledError):
                    await task
                got.append((await frames.__anext__()).pts)
            await frames.aclose()
        return got

    assert asyncio.run(main()) == list(range(15))
    feeder.close()
    gst.shutdown(pipeline)


def test_one_loop_at_a_time(live: Any, manager: SafetyManager) -> None:
    from lifecycle.integrations.gstreamer import Capture, CaptureError

    with Capture(manager, live) as capture:
        first = capture.frames(timeout=20)
        second = capture.frames(timeout=20)
        next(first)
        with pytest.raises(CaptureError, match="another loop"):
            next(second)
        with pytest.raises(CaptureError, match="another loop"):
            capture.frames()
        del first
        gc.collect()
        next(second)
        second.close()
        with pytest.raises(StopIteration):
            next(second)


# -- the format changes --------------------------------------------------------------------------------------


def test_each_frame_is_laid_out_by_its_own_caps(gst: ModuleType, manager: SafetyManager) -> None:
    """A stream that changes size and format in the middle, as a camera or a decoder may."""
    from lifecycle.integrations.gstreamer import Capture, Feeder, SampleAdapter

    pipeline = gst.Gst.parse_launch("appsrc name=src ! appsink name=sink sync=false")
    feeder = Feeder(manager, pipeline.get_by_name("src"), max_buffers=20)
    pipeline.set_state(gst.Gst.State.PLAYING)
    adapter = SampleAdapter(manager)
    shapes = [("RGB", 64, 48), ("RGB", 321, 7), ("GRAY8", 16, 16), ("NV12", 33, 5), ("RGB", 64, 48)]
    for number, (name, width, height) in enumerate(shapes):
        for _ in range(3):
            writable = adapter.buffer(
                f"video/x-raw,format={name},width={width},height={height},framerate=30/1"
            )
            for plane in writable.planes():
                plane[:] = number
            del plane
            feeder.push(writable)
    feeder.end_of_stream()
    seen: list[tuple[str, int, int]] = []
    with Capture(manager, gst.appsink_of(pipeline)) as capture:
        for frame in capture.frames(timeout=20):
            planes = frame.planes()
            assert {int(value) for plane in planes for value in (plane.min(), plane.max())} == {
                len(seen) // 3
            }
            seen.append((frame.format, frame.width, frame.height))
            assert planes[0].shape[:2] == (frame.height, frame.width)
            del planes
    assert seen == [shape for shape in shapes for _ in range(3)]
    feeder.close()
    gst.shutdown(pipeline)
