"""Whose an appsink is, what its queue is before, while and after somebody pulls from it, and whose turn it is:
one capture, one loop, and nothing that an interrupt, a cancelled task or a fork could leave locked."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from lifecycle import SafetyManager
from lifecycle.testing import code_of, each_interrupt
from tests.support import eventually

pytestmark = pytest.mark.needs("gstreamer", "numpy")

SOURCE = (
    "videotestsrc{} ! video/x-raw,format=RGB,width=16,height=16,framerate=100/1 ! appsink name=s sync=false"
)


@pytest.fixture
def package(gst: Any) -> Any:
    """The integration, GStreamer initialised."""
    import lifecycle.integrations.gstreamer

    return lifecycle.integrations.gstreamer


def guarded(package: Any, manager: SafetyManager, options: str = "", source: str = " is-live=true") -> Any:
    return package.PipelineGuard(manager, f"{SOURCE.format(source)} {options}")


def queue_of(sink: Any) -> tuple[int, bool]:
    return sink.get_property("max-buffers"), sink.get_property("drop")


# -- one capture ----------------------------------------------------------------------------------------------


def test_a_second_capture_of_an_appsink_is_refused(package: Any, manager: SafetyManager) -> None:
    pipeline = guarded(package, manager, "max-buffers=4")
    other = SafetyManager()
    first = package.Capture(manager, pipeline["s"])
    for whose in (manager, other):
        with pytest.raises(package.CaptureError, match="another capture pulls from its appsink already"):
            package.Capture(whose, pipeline["s"])
    assert queue_of(pipeline["s"]) == (4, False), "a refused one touches nothing"
    assert len([one for one in manager.components() if one.kind == "capture"]) == 1
    pipeline.play(0)
    assert next(first.frames(timeout=20)) is not None
    first.close()
    with package.Capture(other, pipeline["s"]) as second:
        assert next(second.frames(timeout=20)) is not None
    third = package.Capture(manager, pipeline["s"])
    del third
    gc.collect()
    eventually(lambda: _takes(package, manager, pipeline["s"]))  # one that was dropped holds nothing
    assert other.close().ok
    pipeline.close()


def _takes(package: Any, manager: SafetyManager, sink: Any) -> bool:
    try:
        package.Capture(manager, sink).close()
    except package.CaptureError:
        return False
    return True


def test_a_branch_has_one_capture(package: Any, manager: SafetyManager) -> None:
    pipeline = package.PipelineGuard(manager, "videotestsrc is-live=true ! tee name=t")
    branch = package.Tee(manager, pipeline, "t").attach("appsink")
    branch.capture()
    with pytest.raises(package.CaptureError, match="already"):
        branch.capture()
    pipeline.close()


# -- its queue ------------------------------------------------------------------------------------------------


def test_the_queue_is_put_back_for_the_next(package: Any, manager: SafetyManager) -> None:
    pipeline = guarded(package, manager, "max-buffers=3")
    sink = pipeline["s"]
    pipeline.play(0)
    for how in ("loop", "callback", "stopped", "streaming"):
        with package.Capture(manager, sink, streaming=how == "streaming") as capture:
            assert queue_of(sink) == (3, False)
            if how == "loop":
                next(capture.frames(timeout=20))
            else:
                capture.on_frame(lambda frame: None)
                eventually(lambda: capture.stats().results["ok"])
            if how == "stopped":
                capture.stop()
                assert queue_of(sink) == (1, True)
                capture.start()
                assert queue_of(sink) == (3, False)
                capture.stop()
        assert queue_of(sink) == (1, True), "nobody pulls: it flows"
    sink.set_property("max-buffers", 7)
    sink.set_property("drop", False)
    with package.Capture(manager, sink):
        assert queue_of(sink) == (7, False), "what was set meanwhile stays"
    pipeline.close()


def test_an_unbounded_queue_is_bounded_and_put_back(
    package: Any, manager: SafetyManager, caplog: Any
) -> None:
    pipeline = guarded(package, manager)
    sink = pipeline["s"]
    with package.Capture(manager, sink, bound=None):
        assert queue_of(sink) == (0, False)
    assert not caplog.records
    with package.Capture(manager, sink, name="mine") as capture:
        assert queue_of(sink) == (8, False)
        pipeline.play(0)
        next(capture.frames(timeout=20))
        assert queue_of(sink) == (8, True), "a live source cannot wait"
        (told,) = [record for record in caplog.records if record.name == "lifecycle.gstreamer"]
        assert "'mine': its appsink has no bound" in told.getMessage()
    with package.Capture(manager, sink, bound=None):
        assert queue_of(sink) == (0, False), "what the user had set"
    with pytest.raises(package.CaptureError, match="bound= takes"):
        package.Capture(manager, sink, bound="none")  # type: ignore[arg-type]
    pipeline.close()


def test_an_unbounded_queue_of_a_file_loses_nothing(package: Any, manager: SafetyManager) -> None:
    pipeline = guarded(package, manager, source=" num-buffers=60")
    with package.Capture(manager, pipeline["s"]) as capture:
        pipeline.play(0)
        time.sleep(0.2)
        assert sum(1 for _ in capture.frames(timeout=20)) == 60
        assert queue_of(pipeline["s"]) == (8, False)
    pipeline.close()


# -- one loop -------------------------------------------------------------------------------------------------


def test_interrupted_anywhere_a_loop_leaves_the_capture_to_the_next(
    package: Any, manager: SafetyManager
) -> None:
    from lifecycle.integrations.gstreamer.captures import capture as capture_module
    from lifecycle.integrations.gstreamer.captures import iteration, runs

    pipeline = guarded(package, manager, "max-buffers=3", source="")
    pipeline.play(0)
    struck = 0
    chosen = code_of(capture_module, iteration, runs)
    with package.Capture(manager, pipeline["s"]) as capture:

        def loop() -> None:
            frames = capture.frames(timeout=20)
            for count, _ in enumerate(frames):
                if count == 1:
                    break
            frames.close()

        for one in each_interrupt(loop, of=lambda code: chosen(code) and code.co_name != "__del__"):
            struck += 1
            if one.on_entry:
                # Its frame keeps the iterator, whatever the function does.
                one.error.__traceback__ = None  # type: ignore[union-attr]
            again = capture.frames(timeout=20)
            next(again)
            again.close()
    assert struck > 20
    pipeline.close()


def test_two_threads_get_one_loop(package: Any, manager: SafetyManager) -> None:
    pipeline = guarded(package, manager, "max-buffers=3", source="")
    pipeline.play(0)
    with package.Capture(manager, pipeline["s"]) as capture:
        for _ in range(30):
            loops = [capture.frames(timeout=20) for _ in range(4)]
            won: list[Any] = []
            start = threading.Barrier(4)

            def begin(loop: Any, start: threading.Barrier = start, won: list[Any] = won) -> None:
                start.wait(20)
                try:
                    next(loop)
                    won.append(loop)
                except package.CaptureError:
                    pass

            threads = [threading.Thread(target=begin, args=(loop,)) for loop in loops]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(20)
            assert len(won) == 1
            won.pop().close()
    pipeline.close()


def test_a_loop_follows_a_cancelled_one_at_once(package: Any, manager: SafetyManager) -> None:
    pipeline = guarded(package, manager)
    numbers: list[int] = []

    async def consume(capture: Any) -> None:
        async for frame in capture.frames(timeout=20):
            numbers.append(frame.pts)
            await asyncio.sleep(0)

    async def main(capture: Any) -> None:
        for _ in range(5):
            task = asyncio.create_task(consume(capture))
            await asyncio.sleep(0.05)
            task.cancel()
            try:
                await task
            except asyncio.CancelledError as error:
                kept = error
            async for frame in capture.frames(timeout=20):
                numbers.append(frame.pts)
                break
            del kept
        frames = capture.frames(timeout=20)
        await frames.__anext__()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(_never(frames), 0.001)
        await frames.__anext__()  # one wait was cancelled, the loop goes on

    async def _never(frames: Any) -> None:
        while True:
            await frames.__anext__()
            await asyncio.sleep(0)

    with package.Capture(manager, pipeline["s"]) as capture:
        pipeline.play(0)
        asyncio.run(main(capture))
    assert numbers == sorted(numbers)
    pipeline.close()


# -- a fork ---------------------------------------------------------------------------------------------------


def in_child(work: Callable[[], object]) -> str:
    """How `work` ends in a forked child: the name of what it raised, or that it hangs."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(15)
        try:
            work()
            os.write(write, b"nothing")
        except BaseException as error:
            os.write(write, type(error).__name__.encode())
        os._exit(0)
    os.close(write)
    status = os.waitpid(child, 0)[1]
    said = os.read(read, 100).decode()
    os.close(read)
    return said if status == 0 else f"ended by {status}"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_is_told_at_once(package: Any, manager: SafetyManager) -> None:
    called, looped = guarded(package, manager, "max-buffers=2"), guarded(package, manager, "max-buffers=2")
    by_callback = package.Capture(manager, called["s"])
    by_loop = package.Capture(manager, looped["s"])
    by_callback.on_frame(lambda frame: None)
    fed = package.PipelineGuard(manager, "appsrc name=a ! fakesink async=false")
    feeder = package.Feeder(
        manager, fed["a"], caps="video/x-raw,format=GRAY8,width=4,height=4", max_buffers=1
    )
    pool = package.PoolAdapter(manager, "video/x-raw,format=GRAY8,width=4,height=4", most=1)
    watch = package.BusWatch(manager, fed)
    for pipeline in (called, looped, fed):
        pipeline.play(0)
    out = pool.acquire(timeout=20)
    running = by_loop.frames(timeout=20)
    next(running)

    def push() -> None:
        for number in range(5):
            feeder.push(bytes(16), pts=number)

    forked: dict[str, Callable[[], object]] = {
        "Capture.wait": by_callback.wait,
        "Capture.frames": lambda: next(by_loop.frames()),
        "a loop that runs": lambda: next(running),
        "Capture.start": by_callback.start,
        "Feeder.push": push,
        "Feeder.frame": lambda: feeder.frame().__enter__(),
        "Feeder.end_of_stream": feeder.end_of_stream,
        "PoolAdapter.acquire": pool.acquire,
        "Capture": lambda: package.Capture(manager, looped["s"]),
    }
    refused = {name: in_child(work) for name, work in forked.items()}
    assert set(refused.values()) <= {"ForkedError", "ClosedAccessError"}, refused
    others: dict[str, Callable[[], object]] = {
        "PipelineGuard.wait": called.wait,
        "PipelineGuard.play": called.play,
        "BusWatch.wait": lambda: watch.wait("eos", timeout=10),
    }
    ends = {name: in_child(work) for name, work in others.items()}
    assert "nothing" not in ends.values(), ends
    assert not any("ended" in end for end in ends.values()), ends
    closing: dict[str, Callable[[], object]] = {
        "Capture.close": by_callback.close,
        "Capture.stop": by_callback.stop,
        "a loop": running.close,
        "Feeder.close": feeder.close,
        "Feeder.stats": feeder.stats,
        "PoolAdapter.close": pool.close,
        "PoolAdapter.stats": pool.stats,
        "reprs": lambda: [repr(one) for one in (by_callback, by_loop, feeder, pool, called, watch)],
    }
    assert set(map(in_child, closing.values())) == {"nothing"}, {k: in_child(v) for k, v in closing.items()}
    # Nothing of it has touched the parent's.
    assert next(running) is not None
    running.close()
    out.close()
    for one in (by_callback, by_loop, feeder, pool, watch, called, looped, fed):
        one.close()
