"""The mistakes that end plain GStreamer programs, made through a frame or a capture: each in a process that
must not die.

Freed memory is made to fault at once (big blocks are mmap'ed) and small blocks to change visibly, so a use
after release cannot pass for a success. Three of the raw mistakes run beside their counterparts, to show that
the trap is set.
"""

from __future__ import annotations

import textwrap

import pytest

from tests.support import run_python

pytestmark = pytest.mark.needs("gstreamer", "numpy")

TRAPS = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_PERTURB_": "165"}

PRELUDE = """
import gc, sys, threading, time
import numpy as np
from lifecycle import *
from lifecycle.distribution import *
from lifecycle.errors import *
from lifecycle.fences import *
from lifecycle.integrations.gstreamer import *
from tests.gstreamer.program import *
manager = SafetyManager(name="guarded")
adapter = SampleAdapter(manager)
"""


def guarded(code: str, *, logged: int = 0) -> None:
    """Run `code`, which ends by printing ``safe``: it must get there, with nothing on stderr but `logged`
    reports of panics."""
    done = run_python(
        PRELUDE + textwrap.dedent(code) + "\nmanager.close()\nprint('safe')\n", env=TRAPS, timeout=60
    )
    assert done.check().endswith("safe\n")
    for word in ("CRITICAL", "Fatal Python error", "Exception ignored", "ResourceWarning"):
        assert word not in done.stderr, done.stderr
    assert done.stderr.count("lifecycle.panic") == logged, done.stderr
    if not logged:
        assert "Traceback" not in done.stderr, done.stderr


def raw(code: str) -> None:
    """Run `code`, which must die of a signal."""
    done = run_python(PRELUDE + textwrap.dedent(code) + "\nprint('survived')\n", env=TRAPS, timeout=60)
    assert done.rc in (-11, -7), (done.rc, done.stdout, done.stderr)


# -- arrays that outlive what they show ----------------------------------------------------------------------


@pytest.mark.needs("gst-overrides")
def test_raw_array_kept_after_everything_is_gone() -> None:
    raw(
        """
        pipeline, sink = launch(FULL_HD, frames=2)
        sample = pull(sink)
        buffer = sample.get_buffer()
        with buffer.map(Gst.MapFlags.READ) as info:
            array = np.frombuffer(info.data, np.uint8)
        del info, buffer, sample
        shutdown(pipeline)
        del pipeline, sink
        gc.collect()
        array.sum()
        """
    )


def test_array_kept_after_frame_sample_and_pipeline_are_gone() -> None:
    guarded(
        """
        pipeline, sink = launch(FULL_HD, frames=4)
        kept = []
        for _ in range(4):
            with adapter.frame(pull(sink)) as frame:
                array = frame.array()
                kept.append((array, array.copy(), array[500:600:7, ::-3, 1], frame.data()[100:200]))
        del array, frame
        shutdown(pipeline)
        del pipeline, sink
        gc.collect()
        for array, copy, part, data in kept:
            assert (array == copy).all()
            assert (part == copy[500:600:7, ::-3, 1]).all()
            assert bytes(data) == copy.tobytes()[100:200]
        del array, copy, part, data
        kept.clear()
        assert manager.close().ok
        """
    )


@pytest.mark.needs("gst-overrides")
def test_raw_array_over_fd_memory() -> None:
    raw(
        """
        sample = fd_sample(bytes(64 * 48 * 3))
        with sample.get_buffer().map(Gst.MapFlags.READ) as info:
            array = np.frombuffer(info.data, np.uint8)
        del info, sample
        array.sum()
        """
    )


def test_array_over_fd_memory() -> None:
    guarded(
        """
        with adapter.frame(fd_sample(bytes([5]) * (64 * 48 * 3))) as frame:
            array = frame.array()
        del frame
        gc.collect()
        assert int(array.sum()) == 5 * 64 * 48 * 3
        del array
        """
    )


def test_array_while_the_pool_recycles() -> None:
    guarded(
        """
        caps = Gst.Caps.from_string(SMALL)
        pool = Gst.BufferPool()
        config = pool.get_config()
        Gst.BufferPool.config_set_params(config, caps, 64 * 48 * 3, 3, 3)
        pool.set_config(config)
        pool.set_active(True)

        def produce(number):
            flow, buffer = pool.acquire_buffer(None)
            assert flow == Gst.FlowReturn.OK
            buffer.fill(0, bytes([number]) * (64 * 48 * 3))
            return Gst.Sample.new(buffer, caps, None, None)

        with adapter.frame(produce(1)) as frame:
            array = frame.array()
        del frame
        for number in range(2, 20):  # the two other buffers go round and round
            with adapter.frame(produce(number)) as frame:
                assert int(frame.array()[3, 3, 0]) == number
            del frame
        assert int(array.min()) == int(array.max()) == 1
        del array
        taken = [pool.acquire_buffer(None)[1] for _ in range(3)]  # all three came back
        del taken
        pool.set_active(False)
        """
    )


# -- threads and the collector -------------------------------------------------------------------------------


@pytest.mark.needs("gst-overrides")
def test_raw_another_thread_reads_while_the_first_unmaps() -> None:
    raw(
        """
        for _ in range(200):
            sample = sample_of(bytes(1920 * 1080 * 3), FULL_HD)
            buffer = sample.get_buffer()
            with buffer.map(Gst.MapFlags.READ) as info:
                array = np.frombuffer(info.data, np.uint8)
                reader = threading.Thread(target=lambda: [array.sum() for _ in range(3)])
                reader.start()
            del info, buffer, sample
            reader.join()
        """
    )


def test_another_thread_reads_while_the_frame_closes() -> None:
    guarded(
        """
        sums = []
        readers = []
        for sample in samples(30, FULL_HD):
            with adapter.frame(sample) as frame:
                array = frame.array()
                expected = int(array[::50].sum())
                def read(array=array, expected=expected):
                    for _ in range(20):
                        assert int(array[::50].sum()) == expected
                    sums.append(expected)
                def open_and_read(frame=frame, expected=expected):
                    try:
                        array = frame.array()
                    except (FrameClosedError, AccessRefusedError):
                        return
                    assert int(array[::50].sum()) == expected
                readers += [threading.Thread(target=read), threading.Thread(target=open_and_read)]
                for reader in readers[-2:]:
                    reader.start()
            del sample, frame, array, read, open_and_read
            for reader in readers:
                reader.join()
            readers.clear()
        assert len(sums) == 30
        """
    )


def test_del_in_a_garbage_cycle_reads_a_view() -> None:
    guarded(
        """
        import warnings
        warnings.simplefilter("ignore")  # the frames were never closed, which is reported, as it should be
        seen = []

        class Node:
            def __init__(self, frame):
                self.frame = frame
                self.data = frame.data()
                self.array = frame.array()
                self.me = self

            def __del__(self):
                seen.append((int(self.array.sum()), self.data[7], int(self.frame.array()[0, 0, 0])))

        gc.disable()
        for sample in samples(10, FULL_HD):
            node = Node(adapter.frame(sample))
        del node, sample
        assert not seen
        assert gc.collect() > 0
        assert len(seen) == 10, seen
        gc.collect()
        deadline = time.monotonic() + 20
        while manager.stats().active_objects and time.monotonic() < deadline:
            time.sleep(0.01)
        assert manager.stats().active_objects == 0
        """
    )


# -- lifetimes -----------------------------------------------------------------------------------------------


def test_closing_twice() -> None:
    guarded(
        """
        for sample in samples(3, FULL_HD):
            frame = adapter.frame(sample)
            array = frame.array()
            assert frame.close() is False and frame.close() is False
            del array
            assert frame.close() is True and frame.close() is True
            with adapter.frame(sample) as again:
                again.array()
                again.close()
        """
    )


def test_access_after_close() -> None:
    guarded(
        """
        for sample in samples(2, FULL_HD):
            with adapter.frame(sample) as frame:
                handle = frame.handle
            for ask in (frame.array, frame.data, frame.share, lambda: np.asarray(frame)):
                try:
                    ask()
                except LifecycleError as error:
                    assert "closed" in str(error) or "close()" in str(error), error
                else:
                    raise AssertionError(ask)
            try:
                handle.lease()
            except AccessRefusedError as error:
                assert "gst.Sample" in str(error) and "released" in str(error), error
            else:
                raise AssertionError("a lease")
        """
    )


def test_registering_one_native_twice() -> None:
    guarded(
        """
        for sample in samples(3, FULL_HD):
            frames = [adapter.frame(sample) for _ in range(300)]
            arrays = [frame.array() for frame in frames]
            assert len({array.ctypes.data for array in arrays}) == 1
            for frame in frames:
                frame.close()
            assert int(arrays[150].max()) >= 0
            arrays.clear()
        frames.clear()
        """
    )


# -- callbacks -----------------------------------------------------------------------------------------------

CALLBACKS = """
class Panic(BaseException):
    "As of an extension written in another language."

def divide():
    1 / 0

def panic():
    raise Panic("boom")

def leave():
    sys.exit(3)

for misbehave, kind in ((divide, ZeroDivisionError), (panic, Panic), (leave, SystemExit)):
    before = manager.stats().panics
    # Not playing yet: a streaming capture drops what came before it.
    pipeline, sink = launch(FULL_HD, frames=40, playing=False)
    with Capture(manager, sink, streaming={streaming}) as capture:
        numbers = []

        @capture.on_frame
        def look(frame):
            numbers.append(int(frame.array()[0, 0, 0]))
            if len(numbers) % 20 == 7:
                misbehave()

        pipeline.set_state(Gst.State.PLAYING)
        assert capture.wait(30)
        stats = capture.stats()
        assert stats.results == {{"ok": 38, "error": 0, "panic": 2, "dropped": 0}}, stats
        assert stats.frames_held == 0
        assert type(capture.error) is kind
        assert capture.error.__traceback__ is None
    assert manager.stats().panics == before + 2
    assert manager.stats().active_objects == 0
    shutdown(pipeline)
"""


@pytest.mark.parametrize("streaming", [False, True], ids=["pull", "streaming"])
def test_a_callback_that_raises(streaming: bool) -> None:
    guarded(CALLBACKS.format(streaming=streaming), logged=6)
