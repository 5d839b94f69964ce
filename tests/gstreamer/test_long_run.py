"""Frames by the thousand: nothing leaks, nothing grows, nothing waits for the collector."""

from __future__ import annotations

import pytest

from tests.core.adversary import STORM
from tests.support import run_python

pytestmark = pytest.mark.needs("gstreamer", "numpy")

LONG = STORM >= 10
"""Thousands of frames. A leak of one in ten shows with hundreds."""


@pytest.mark.timeout(300)
def test_frames_with_every_tenth_kept_for_a_while() -> None:
    count = 2000 if LONG else 500
    done = run_python(
        f"""
        import collections, gc, psutil
        from lifecycle import SafetyManager
        from lifecycle.integrations.gstreamer import SampleAdapter
        from lifecycle.integrations.gstreamer.tracer import LeaksTracer
        LeaksTracer.enable()
        from tests.gstreamer.program import *
        from tests.support import eventually

        FRAME = 1920 * 1080 * 3
        process = psutil.Process()
        tracer = LeaksTracer()
        manager = SafetyManager()
        adapter = SampleAdapter(manager)

        def run(count):
            kept = collections.deque(maxlen=8)
            total = 0
            for number, sample in enumerate(samples(count, FULL_HD, source="videotestsrc pattern=black")):
                with adapter.frame(sample) as frame:
                    array = frame.array()
                    total += int(array[540, 960, 0])
                    if number % 10 == 0:
                        kept.append(array)
                del sample, array
            total += sum(int(array[0, 0, 0]) for array in kept)
            return total

        def base():
            gc.collect()
            eventually(lambda: manager.stats().active_objects == 0)
            return process.memory_info().rss

        run(100)  # what stays: allocators, caches, the first arena of everything
        before = base()
        tracer.start()
        run({count})
        after = base()
        alive = tracer.alive()
        assert alive == {{}}, alive
        grown = (after - before) / FRAME
        assert abs(grown) <= 2, f"{{grown:+.2f}} frames"
        stats = manager.stats()
        assert (stats.total_objects, stats.active_objects, stats.leaks) == ({count} + 100, 0, 0), stats
        assert stats.released == {count} + 100
        report = manager.close()
        assert report.ok, report
        print("frames grown", round(grown, 2))
        """,
        env={"MALLOC_MMAP_THRESHOLD_": "65536"},
        timeout=200,
    )
    assert "frames grown" in done.check()
    assert "CRITICAL" not in done.stderr, done.stderr


def test_the_tracer_would_see_a_leak() -> None:
    run_python(
        """
        from lifecycle import SafetyManager
        from lifecycle.integrations.gstreamer import SampleAdapter
        from lifecycle.integrations.gstreamer.tracer import LeaksTracer
        LeaksTracer.enable()
        from tests.gstreamer.program import *

        tracer = LeaksTracer()
        adapter = SampleAdapter(SafetyManager())
        tracer.start()
        kept = []
        for sample in samples(3):
            with adapter.frame(sample) as frame:
                kept.append(frame.array())
        del sample, frame
        alive = tracer.alive()
        assert alive == {"GstSample": 3, "GstBuffer": 3, "GstMemory": 3}, alive
        """,
    ).check()


def test_a_hot_loop_that_drops_arrays_one_turn_late_has_two_frames_unreleased_at_most() -> None:
    run_python(
        f"""
        from lifecycle import SafetyManager
        from lifecycle.integrations.gstreamer import SampleAdapter
        from tests.gstreamer.program import *

        manager = SafetyManager()
        adapter = SampleAdapter(manager)
        made = [sample_of(bytes(64 * 48 * 3)) for _ in range(64)]
        worst = 0
        array = None
        for turn in range({20_000 if LONG else 2_000}):
            with adapter.frame(made[turn % 64]) as frame:
                array = frame.array()
                worst = max(worst, len(adapter._live))
        assert worst == 2, worst
        array = None
        assert manager.close().ok
        """
    ).check()


def test_a_frames_whole_life_leaves_nothing_for_the_collector() -> None:
    run_python(
        """
        import gc
        import numpy as np
        from lifecycle import SafetyManager
        from lifecycle.integrations.gstreamer import Capture, SampleAdapter
        from tests.gstreamer.program import *

        manager = SafetyManager()
        adapter = SampleAdapter(manager)
        made = [sample_of(bytes(64 * 48 * 3), SMALL) for _ in range(8)]
        made += [sample_of(bytes(999 * size), f"video/x-raw,format=GRAY8,width={4 * size},height=5,framerate=30/1")
                 for size in range(20, 40)]

        def lives():
            for sample in made:
                with adapter.frame(sample) as frame:
                    array = frame.array()
                    np.asarray(frame)[::2].sum()
                with adapter.frame(sample) as frame:
                    share = frame.share()
                    frame.native
                share.data()
                share.close()
                adapter.frame(sample).close()
                adapter.convert(sample, len)
                try:
                    frame.array()
                except Exception:
                    pass

        lives()
        gc.collect()
        gc.disable()
        for _ in range(20):
            lives()
        assert gc.collect() == 0, gc.garbage
        """
    ).check()


@pytest.mark.timeout(200)
def test_views_of_many_sizes_cost_no_type_each() -> None:
    run_python(
        """
        import gc
        from lifecycle import SafetyManager
        from lifecycle.integrations.gstreamer import SampleAdapter
        from tests.gstreamer.program import *

        adapter = SampleAdapter(SafetyManager())
        caps = "application/x-thing"
        types = set()
        for size in range(1, 3000, 7):
            with adapter.frame(sample_of(bytes(size), caps)) as frame:
                types.add(type(frame.data().obj))
        assert len(types) <= 13, len(types)
        """
    ).check()


def test_pictures_that_go_round_leave_nothing_behind() -> None:
    """From a pool and from arrays, through a feeder, to a capture that keeps every tenth for a while, pushes
    on and writes."""
    done = run_python(
        """
        import collections, gc, os, psutil, threading
        import numpy as np
        from lifecycle import SafetyConfig, SafetyManager
        from lifecycle.integrations.gstreamer import Capture, Feeder, PoolAdapter
        from lifecycle.integrations.gstreamer.tracer import LeaksTracer
        LeaksTracer.enable()
        from tests.gstreamer.program import *
        from tests.support import eventually

        CAPS = "video/x-raw,format=RGB,width=321,height=241,framerate=30/1"
        FRAME = 321 * 241 * 3
        process = psutil.Process()
        tracer = LeaksTracer()
        manager = SafetyManager(SafetyConfig(state_retention=0.05, cleanup_interval=0.05))  # what ended is not told of for long

        def run(count):
            pipeline = Gst.parse_launch(
                "appsrc name=a ! appsink name=b sync=false async=false enable-last-sample=false "
                "appsrc name=c ! fakesink sync=false async=false enable-last-sample=false"
            )
            pool = PoolAdapter(manager, CAPS, most=20)
            first = Feeder(manager, pipeline.get_by_name("a"), caps=CAPS)
            second = Feeder(manager, pipeline.get_by_name("c"), caps=CAPS)
            pipeline.set_state(Gst.State.PLAYING)

            def film():
                for number in range(count):
                    if number % 3 == 0:
                        with pool.acquire(timeout=20) as frame:
                            frame.array()[:] = number % 251
                            first.push(frame, timeout=20)
                    elif number % 3 == 1:
                        with first.frame(timeout=20) as array:
                            array[:] = number % 251
                    else:
                        first.push(np.full((241, 321, 3), number % 251, np.uint8), timeout=20)
                first.end_of_stream()

            thread = threading.Thread(target=film)
            thread.start()
            kept = collections.deque(maxlen=5)
            with Capture(manager, pipeline.get_by_name("b")) as capture:
                for number, frame in enumerate(capture.frames(timeout=20)):
                    array = frame.array()
                    assert int(array[0, 0, 0]) == int(array[-1, -1, -1]) == number % 251
                    if number % 10 == 0:
                        kept.append((array, number % 251))
                    del array
                    if number % 7 == 0:
                        with frame.writable() as writable:
                            writable.array()[:] = 9
                            second.push(writable, timeout=20)
                    else:
                        second.push(frame, timeout=20)
                assert number == count - 1, number
                assert all((array == value).all() for array, value in kept)
            thread.join()
            del frame, writable
            kept.clear()
            first.close(), second.close()
            shutdown(pipeline)
            del pipeline
            eventually(lambda: pool.outstanding == 0)
            pool.close()

        def base():
            gc.collect()
            eventually(lambda: manager.stats().active_objects == 0)
            return process.memory_info().rss

        run(150)
        before = base()
        tracer.start()
        run(int(os.environ["PICTURES"]))
        after = base()
        alive = tracer.alive()
        assert alive == {}, alive
        grown = (after - before) / FRAME
        assert grown <= 8, f"{grown:+.2f} frames"
        stats = manager.stats()
        assert (stats.active_objects, stats.leaks) == (0, 0), stats
        assert manager.close().ok
        print("frames grown", round(grown, 2))
        """,
        env={"MALLOC_MMAP_THRESHOLD_": "65536", "PICTURES": "900" if LONG else "300"},
        timeout=100,
    )
    assert "frames grown" in done.check()
    assert "CRITICAL" not in done.stderr, done.stderr
