"""The mistakes that end plain GStreamer programs, each beside the same thing done through a guard.

``python -m tests.gstreamer.mistakes raw array-kept`` makes one in this process, and ``guarded all`` makes the
attempts of every row, one after the other. Each prints a line ``row: outcome``; a guarded one says ``safe``,
and `test_mistakes` says what a raw one must have come to. What CRITICALs GStreamer logs meanwhile is counted
per row.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
from gi.repository import GLib

from lifecycle.integrations.gstreamer import LeaksTracer

LeaksTracer.enable()

from lifecycle import ClosedError, HeldError, ObjectState, SafetyConfig, SafetyManager
from lifecycle.integrations.gstreamer import (
    Capture,
    ElementGuard,
    Feeder,
    ForkedError,
    GuardError,
    PadGuard,
    PipelineGuard,
    PoolAdapter,
    ProbeGuard,
    SampleAdapter,
    ShortMemoryError,
    SignalGuard,
    Starved,
    StateTimeout,
    Tee,
)
from tests.gstreamer.program import (
    FULL_HD,
    SMALL,
    Gst,
    fd_sample,
    launch,
    pull,
    sample_of,
    samples,
    shutdown,
)
from tests.support import eventually

LIVE = "videotestsrc is-live=true ! video/x-raw,format=RGB,width=32,height=24,framerate=100/1"
PLENTY = "videotestsrc ! video/x-raw,format=RGB,width=32,height=24"

RAW: dict[str, Callable[[], object]] = {}
GUARDED: dict[str, Callable[[], object]] = {}
criticals: list[str] = []
manager: SafetyManager
adapter: SampleAdapter


def raw(name: str) -> Callable[[Callable[[], object]], Callable[[], object]]:
    """Enter a mistake under its row's name. What it returns is its outcome, if it lives."""
    return lambda function: RAW.setdefault(name, function)


def guarded(name: str) -> Callable[[Callable[[], object]], Callable[[], object]]:
    """Enter the guarded counterpart. It fails where anything goes wrong."""
    return lambda function: GUARDED.setdefault(name, function)


def playing(text: str) -> Any:
    """A plain pipeline that plays."""
    pipeline = Gst.parse_launch(text)
    pipeline.set_state(Gst.State.PLAYING)
    return pipeline


def refused(kind: type[BaseException], attempt: Callable[[], object]) -> str:
    """The message of the error of that kind that `attempt` must end in."""
    try:
        attempt()
    except kind as error:
        error.__traceback__ = None
        return str(error)
    raise AssertionError(f"not refused with {kind.__name__}")


def within(seconds: float, function: Callable[[], object]) -> bool:
    """Whether ``function()``, on a thread of its own, returns in time."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


def counting(pad: Any) -> list[int]:
    """A list that grows with each buffer that passes the pad (a plain probe)."""
    seen: list[int] = []

    def note(pad: Any, info: Any) -> Any:
        seen.append(1)
        return Gst.PadProbeReturn.OK

    pad.add_probe(Gst.PadProbeType.BUFFER, note)
    return seen


def released_and_reported(leaks: int) -> None:
    """What nobody closed is released all the same, and so many leaks are known by then."""
    eventually(lambda: manager.stats().active_objects == 0, timeout=20)
    eventually(lambda: manager.stats().leaks == leaks, timeout=20)


def grows(seen: list[Any], by: int = 3, seconds: float = 20.0) -> bool:
    """Whether the list grows within some seconds."""
    before, until = len(seen), time.monotonic() + seconds
    while len(seen) < before + by:
        if time.monotonic() > until:
            return False
        time.sleep(0.005)
    return True


FREEZE = 1.0
"""Seconds without a frame, at 100 a second, that count as frozen."""


# -- mapped memory -------------------------------------------------------------------------------------------


@raw("array-kept-after-unmap")
def _() -> object:
    pipeline, sink = launch(FULL_HD, frames=2)
    buffer = pull(sink).get_buffer()
    with buffer.map(Gst.MapFlags.READ) as info:
        array = np.frombuffer(info.data, np.uint8)
    del info, buffer
    shutdown(pipeline)
    del pipeline, sink
    gc.collect()
    return int(array.sum())


@guarded("array-kept-after-unmap")
def _() -> None:
    pipeline, sink = launch(FULL_HD, frames=2)
    with adapter.frame(pull(sink)) as frame:
        array = frame.array()
        expected = int(array.sum())
    del frame
    shutdown(pipeline)
    del pipeline, sink
    gc.collect()
    assert int(array.sum()) == expected


@raw("fd-memory-kept-after-unmap")
def _() -> object:
    with fd_sample(bytes(64 * 48 * 3)).get_buffer().map(Gst.MapFlags.READ) as info:
        array = np.frombuffer(info.data, np.uint8)
    del info
    return int(array.sum())


@guarded("fd-memory-kept-after-unmap")
def _() -> None:
    with adapter.frame(fd_sample(bytes([5]) * (64 * 48 * 3))) as frame:
        array = frame.array()
    del frame
    gc.collect()
    assert (array == 5).all()


def _changing() -> Any:
    """A pipeline whose frames all differ, from a pool that uses a buffer again at once."""
    return launch(
        SMALL,
        source="videotestsrc pattern=ball motion=sweep",
        sink="sync=false max-buffers=1 enable-last-sample=false",
    )


@raw("the-pool-recycles-the-buffer")
def _() -> object:
    pipeline, sink = _changing()
    try:
        sample = pull(sink)
        buffer = sample.get_buffer()
        with buffer.map(Gst.MapFlags.READ) as info:
            view = np.frombuffer(info.data, np.uint8)
            before = view.copy()
        del info, buffer, sample
        for number in range(20):
            pull(sink)
            if not (view == before).all():
                return f"changed after {number + 1} frames"
        return "unchanged"
    finally:
        shutdown(pipeline)


@guarded("the-pool-recycles-the-buffer")
def _() -> None:
    pipeline, sink = _changing()
    with adapter.frame(pull(sink)) as frame:
        array = frame.array()
        before = array.copy()
    del frame
    for _ in range(20):
        pull(sink)
        assert (array == before).all()
    shutdown(pipeline)


@raw("another-thread-reads-while-the-first-unmaps")
def _() -> object:
    for _ in range(20):
        sample = fd_sample(bytes(1920 * 1080 * 3), FULL_HD)
        buffer = sample.get_buffer()
        ok, info = buffer.map(Gst.MapFlags.READ)
        array = np.frombuffer(info.data, np.uint8)
        reader = threading.Thread(target=lambda array=array: [int(array.sum()) for _ in range(5)])
        reader.start()
        time.sleep(0.002)
        buffer.unmap(info)
        reader.join()
    return "survived"


@guarded("another-thread-reads-while-the-first-unmaps")
def _() -> None:
    for _ in range(5):
        with adapter.frame(fd_sample(bytes(1920 * 1080 * 3), FULL_HD)) as frame:
            array = frame.array()
            reader = threading.Thread(target=lambda array=array: [int(array.sum()) for _ in range(3)])
            reader.start()
        del frame, array
        reader.join()
        del reader


@raw("map-info-memory-after-unmap")
def _() -> object:
    sample = sample_of(bytes(64 * 48 * 3))
    buffer = sample.get_buffer()
    ok, info = buffer.map(Gst.MapFlags.READ)
    buffer.unmap(info)
    del buffer, sample
    gc.collect()
    return info.memory.get_sizes()


@guarded("map-info-memory-after-unmap")
def _() -> None:
    with adapter.frame(sample_of(bytes(64 * 48 * 3))) as frame:
        data = frame.data()
    assert not [name for name in dir(frame) if "info" in name.lower()]  # a frame hands out no GstMapInfo
    assert bytes(data) == bytes(64 * 48 * 3)


@raw("unmapped-twice")
def _() -> object:
    sample = fd_sample(bytes(64 * 48 * 3))
    buffer = sample.get_buffer()
    ok, info = buffer.map(Gst.MapFlags.READ)
    buffer.unmap(info)
    buffer.unmap(info)
    del info, buffer, sample
    gc.collect()
    for _ in range(50):
        fd_sample(bytes(64 * 48 * 3)).get_buffer().extract_dup(0, 100)
    return "survived"


@guarded("unmapped-twice")
def _() -> None:
    for _ in range(20):
        frame = adapter.frame(fd_sample(bytes(64 * 48 * 3)))
        frame.array()
        threads = [threading.Thread(target=frame.close) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert frame.close()


@raw("never-unmapped")
def _() -> object:
    tracer = LeaksTracer()
    tracer.start()
    for sample in samples(3, FULL_HD):
        sample.get_buffer().map(Gst.MapFlags.READ)
    del sample
    gc.collect()
    return f"{tracer.alive().get('GstMemory', 0)} memories leak"


@guarded("never-unmapped")
def _() -> None:
    before = manager.stats().leaks
    tracer = LeaksTracer()
    tracer.start()
    for sample in samples(3, FULL_HD):
        adapter.frame(sample).array()  # neither closed nor kept
    del sample
    gc.collect()
    released_and_reported(before + 3)
    assert tracer.alive() == {}


@raw("write-through-a-read-mapping")
def _() -> object:
    from lifecycle.integrations.gstreamer._native import MAP_READ, Mapping, map_plain

    sample = fd_sample(bytes(64 * 48 * 3))
    mapping: Any = Mapping()
    assert map_plain(hash(sample.get_buffer()), mapping, MAP_READ)
    ctypes.memset(mapping.data, 1, 10)
    return "survived"


@guarded("write-through-a-read-mapping")
def _() -> None:
    with adapter.frame(fd_sample(bytes(64 * 48 * 3))) as frame:
        array = frame.array()
        assert "read-only" in refused(ValueError, lambda: array.fill(1))
        assert (
            "read-only" in refused(ValueError, lambda: array.setflags(write=True))
            or not array.flags.writeable
        )
        refused(TypeError, lambda: frame.data().__setitem__(0, 1))


@raw("fd-truncated-under-a-mapping")
def _() -> object:
    fd = os.memfd_create("frame")
    os.ftruncate(fd, 1 << 20)
    sample = fd_sample(bytes(1 << 20), "application/x-bytes")
    buffer = sample.get_buffer()
    ok, info = buffer.map(Gst.MapFlags.READ)
    memory = buffer.peek_memory(0)
    from lifecycle.integrations.gstreamer._native import fd_of

    os.ftruncate(fd_of(hash(memory)), 0)
    return int(np.frombuffer(info.data, np.uint8).sum())


@guarded("fd-truncated-under-a-mapping")
def _() -> None:
    # Not preventable once it is mapped, which is said; what is too short when it is mapped is refused.
    with adapter.frame(fd_sample(bytes(100), says=64 * 48 * 3)) as frame:
        assert "100" in refused(ShortMemoryError, frame.array)


@raw("wrapped-bytes-not-kept-alive")
def _() -> object:
    from lifecycle.integrations.gstreamer._native import _actions

    wrap = _actions.gst_buffer_new_wrapped_full
    wrap.restype = ctypes.c_void_p
    wrap.argtypes = (ctypes.c_int, ctypes.c_void_p, *[ctypes.c_size_t] * 3, ctypes.c_void_p, ctypes.c_void_p)
    picture = np.full(1920 * 1080 * 3, 7, np.uint8)
    pointer = wrap(0, picture.ctypes.data, picture.nbytes, 0, picture.nbytes, None, None)
    out = (ctypes.c_ubyte * (1920 * 1080 * 3))()
    del picture
    gc.collect()
    _actions.gst_buffer_extract.argtypes = (
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_void_p,
        ctypes.c_size_t,
    )
    _actions.gst_buffer_extract(pointer, 0, out, len(out))
    return "survived"


@guarded("wrapped-bytes-not-kept-alive")
def _() -> None:
    sums: list[int] = []
    with PipelineGuard(
        manager, "appsrc name=feed ! queue ! appsink name=sink sync=false async=false"
    ) as pipeline:
        with (
            Feeder(manager, pipeline["feed"], caps=FULL_HD) as feeder,
            Capture(manager, pipeline["sink"]) as capture,
        ):
            pipeline.play(0)
            frames = capture.frames(timeout=20)
            for number in range(5):
                feeder.push(
                    np.full((1080, 1920, 3), number, np.uint8), pts=number, timeout=20
                )  # kept by nobody but GStreamer
                gc.collect()
                sums.append(int(next(frames).array()[::7, ::7].max()))
            frames.close()  # type: ignore[attr-defined]
    assert sums == [0, 1, 2, 3, 4]


@raw("a-write-view-kept-after-push")
def _() -> object:
    pipeline = Gst.parse_launch(
        f"appsrc name=feed format=time caps={SMALL} ! appsink name=sink sync=false async=false"
    )
    pipeline.set_state(Gst.State.PLAYING)
    buffer = Gst.Buffer.new_allocate(None, 64 * 48 * 3, None)
    with buffer.map(Gst.MapFlags.WRITE) as info:
        view = np.frombuffer(info.data, np.uint8)
        view[:] = 1
    pipeline.get_by_name("feed").emit("push-buffer", buffer)
    sample = pull(pipeline.get_by_name("sink"))
    view[:] = 2
    shown = sample.get_buffer().extract_dup(0, 1)[0]
    shutdown(pipeline)
    return "edits what is downstream" if shown == 2 else "edits nothing"


@guarded("a-write-view-kept-after-push")
def _() -> None:
    with PipelineGuard(manager, "appsrc name=feed ! appsink name=sink sync=false async=false") as pipeline:
        with (
            Feeder(manager, pipeline["feed"], caps=SMALL) as feeder,
            Capture(manager, pipeline["sink"]) as capture,
        ):
            pipeline.play(0)
            writable = adapter.buffer(SMALL)
            view = writable.array()
            view[:] = 1
            refused(HeldError, lambda: feeder.push(writable, timeout=20))
            del view
            feeder.push(writable, timeout=20)
            frames = capture.frames(timeout=20)
            assert int(next(frames).array().max()) == 1
            frames.close()  # type: ignore[attr-defined]
            with feeder.frame(timeout=20) as array:
                array[:] = 3
            assert "read-only" in refused(ValueError, lambda: array.fill(4))
            del writable


# -- elements and pipelines ----------------------------------------------------------------------------------


@raw("unref-by-hand")
def _() -> object:
    pipeline = Gst.parse_launch("fakesrc ! fakesink name=sink")
    element = pipeline.get_by_name("sink")
    element.unref()
    element.unref()
    del element, pipeline
    gc.collect()
    return "survived"


@guarded("unref-by-hand")
def _() -> None:
    with PipelineGuard(manager, f"{LIVE} ! tee name=t allow-not-linked=true") as pipeline:
        pipeline.play()
        with ElementGuard(
            manager, "fakesink", pipeline
        ) as sink:  # its end gives the reference back: there is nothing to unref
            element = sink.element
        assert element.get_parent() is None
        del element, sink
        gc.collect()


@raw("a-playing-pipeline-dropped")
def _() -> object:
    for _ in range(5):
        pipeline = playing(f"{PLENTY} ! identity name=i ! queue ! fakesink")
        time.sleep(0.05)
        del pipeline
        gc.collect()
    return f"{len(os.listdir('/proc/self/task'))} threads"


@guarded("a-playing-pipeline-dropped")
def _() -> None:
    before = manager.stats().leaks
    for _ in range(5):
        pipeline = PipelineGuard(manager, f"{PLENTY} ! identity name=i ! queue ! fakesink")
        pipeline.play()
        del pipeline
        gc.collect()
    released_and_reported(before + 5)


@raw("a-playing-element-removed")
def _() -> object:
    pipeline = playing(f"{LIVE} ! tee name=t allow-not-linked=true ! queue ! fakesink name=sink async=false")
    pipeline.get_state(5 * Gst.SECOND)
    sink = pipeline.get_by_name("sink")
    pipeline.remove(sink)
    del sink
    gc.collect()
    time.sleep(0.05)
    shutdown(pipeline)
    return "removed"


@guarded("a-playing-element-removed")
def _() -> None:
    with PipelineGuard(manager, f"{LIVE} ! tee name=t allow-not-linked=true ! queue name=q") as pipeline:
        sink = ElementGuard(manager, "fakesink", pipeline)
        sink.element.set_property("async", False)
        pipeline["q"].link(sink.element)
        pipeline.play()
        assert sink.close()
        del sink
        gc.collect()


def _two_branches() -> tuple[Any, list[int]]:
    pipeline = playing(
        f"{LIVE} ! tee name=t  t. ! queue name=a max-size-buffers=2 ! fakesink name=x async=false  "
        "t. ! queue ! fakesink name=out async=false"
    )
    seen = counting(pipeline.get_by_name("out").get_static_pad("sink"))
    assert grows(seen)
    return pipeline, seen


@raw("null-before-unlink")
def _() -> object:
    pipeline, seen = _two_branches()
    pipeline.get_by_name("x").set_state(Gst.State.NULL)
    time.sleep(0.2)
    errors = pipeline.get_bus().pop_filtered(Gst.MessageType.ERROR)
    frozen = not grows(seen, seconds=FREEZE)
    outcome = f"{'frozen' if frozen else 'flows'}, {'an error' if errors else 'no error'}"
    print("null-before-unlink:", outcome, flush=True)
    os._exit(0)  # what is frozen may not go to NULL


@guarded("null-before-unlink")
def _() -> None:
    with PipelineGuard(manager, f"{LIVE} ! tee name=t allow-not-linked=true") as pipeline:
        tee = Tee(manager, pipeline, "t")
        other = tee.attach("fakesink name=out")
        seen = counting(other["out"].get_static_pad("sink"))
        pipeline.play()
        for _ in range(5):
            tee.attach("fakesink").close()
            assert grows(seen)
        assert not pipeline.errors
        other.close()


@raw("the-last-branch-unlinked")
def _() -> object:
    pipeline = playing(f"{LIVE} ! tee name=t ! queue name=q ! fakesink async=false")
    pipeline.get_state(5 * Gst.SECOND)
    pad = pipeline.get_by_name("q").get_static_pad("sink")
    pad.get_peer().unlink(pad)
    message = pipeline.get_bus().timed_pop_filtered(5 * Gst.SECOND, Gst.MessageType.ERROR)
    shutdown(pipeline)
    return "no error" if message is None else message.parse_error()[1].rpartition("reason ")[2]


@guarded("the-last-branch-unlinked")
def _() -> None:
    with PipelineGuard(manager, f"{LIVE} ! tee name=t") as pipeline:
        tee = Tee(manager, pipeline, "t")
        with tee.attach("fakesink"):
            pipeline.play()
        time.sleep(0.05)
        with tee.attach("fakesink name=out") as branch:
            assert grows(counting(branch["out"].get_static_pad("sink")))
        assert not pipeline.errors


@raw("a-request-pad-released-twice")
def _() -> object:
    tee = Gst.ElementFactory.find("tee").create(None)
    pad = tee.get_request_pad("src_%u")
    tee.release_request_pad(pad)
    tee.release_request_pad(pad)
    return "released"


@guarded("a-request-pad-released-twice")
def _() -> None:
    tee = Gst.ElementFactory.find("tee").create(None)
    pad = PadGuard(manager, tee, "src_%u")
    threads = [threading.Thread(target=pad.close) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pad.close()
    assert tee.numsrcpads == 0


@raw("null-from-new-sample")
def _() -> object:
    pipeline = Gst.parse_launch(f"{PLENTY} ! appsink name=sink emit-signals=true sync=false")
    stopped = threading.Event()

    def stop(sink: Any) -> Any:
        sink.emit("pull-sample")
        pipeline.set_state(Gst.State.NULL)
        stopped.set()
        return Gst.FlowReturn.OK

    pipeline.get_by_name("sink").connect("new-sample", stop)
    pipeline.set_state(Gst.State.PLAYING)
    print("null-from-new-sample:", "returns" if stopped.wait(FREEZE) else "deadlock", flush=True)
    os._exit(0)


@guarded("null-from-new-sample")
def _() -> None:
    for streaming in (False, True):
        pipeline = PipelineGuard(manager, f"{PLENTY} ! appsink name=sink sync=false")
        answers: list[bool] = []
        with Capture(manager, pipeline["sink"], streaming=streaming) as capture:
            capture.on_frame(lambda frame: answers.append(pipeline.close()))
            pipeline.play(0)
            eventually(lambda: pipeline.handle.state is ObjectState.RELEASED, timeout=20)
        assert answers[0] is not streaming  # handed over where this thread would wait for itself


@guarded("null-under-a-lock-that-a-probe-wants")
def _() -> None:
    hasty = SafetyManager(SafetyConfig(finalizer_timeout=0.3), name="hasty")
    lock = threading.Lock()

    def wants_it(pad: Any, info: Any) -> None:
        with lock:
            pass

    pipeline = PipelineGuard(hasty, f"{LIVE} ! fakesink name=sink async=false")
    probe = ProbeGuard(hasty, pipeline["sink"].get_static_pad("sink"), Gst.PadProbeType.BUFFER, wants_it)
    pipeline.play()
    with lock:
        eventually(lambda: probe._callback.where, timeout=20)
        text = refused(StateTimeout, pipeline.close)  # an error that says where, instead of silence
    assert "wants_it" in text
    assert "mistakes.py" in text
    eventually(lambda: pipeline.handle.state is ObjectState.RELEASED, timeout=20)
    assert probe.close()
    hasty.close()


@raw("null-under-a-lock-that-a-probe-wants")
def _() -> object:
    lock = threading.Lock()
    pipeline = Gst.parse_launch(f"{LIVE} ! fakesink name=sink async=false")
    waits = threading.Event()

    def wants_it(pad: Any, info: Any) -> Any:
        waits.set()
        with lock:
            return Gst.PadProbeReturn.OK

    pipeline.get_by_name("sink").get_static_pad("sink").add_probe(Gst.PadProbeType.BUFFER, wants_it)

    def stop() -> None:
        with lock:
            waits.clear()
            waits.wait()
            pipeline.set_state(Gst.State.NULL)

    pipeline.set_state(Gst.State.PLAYING)
    print(
        "null-under-a-lock-that-a-probe-wants:", "returns" if within(FREEZE, stop) else "deadlock", flush=True
    )
    os._exit(0)


# -- callbacks -----------------------------------------------------------------------------------------------


@raw("an-exception-in-new-sample")
def _() -> object:
    heard: list[object] = []
    sys.excepthook = lambda *what: heard.append(what)
    pipeline = Gst.parse_launch(f"{PLENTY} ! appsink name=sink emit-signals=true sync=false")
    calls: list[int] = []

    def fail(sink: Any) -> Any:
        calls.append(1)
        sink.emit("pull-sample")
        raise ValueError("nobody hears")

    pipeline.get_by_name("sink").connect("new-sample", fail)
    pipeline.set_state(Gst.State.PLAYING)
    flows = grows(calls)
    shutdown(pipeline)
    sys.excepthook = sys.__excepthook__
    return f"{'flows on' if flows else 'stops'}, {'only sys.excepthook hears' if heard else 'nobody hears'}"


@guarded("an-exception-in-new-sample")
def _() -> None:
    before = manager.stats().panics
    with PipelineGuard(manager, f"{PLENTY} ! appsink name=sink sync=false") as pipeline:
        with Capture(manager, pipeline["sink"], streaming=True) as capture:

            @capture.on_frame
            def fail(frame: Any) -> None:
                raise ValueError("counted and reported")

            pipeline.play()
            eventually(lambda: capture.stats().results["panic"] > 3, timeout=20)
    assert manager.stats().panics > before


@raw("an-exception-in-a-probe")
def _() -> object:
    sys.excepthook = lambda *what: None
    pipeline = Gst.parse_launch(f"{LIVE} ! identity name=i ! fakesink name=sink async=false")

    def fail(pad: Any, info: Any) -> Any:
        raise ValueError("zero, which is DROP")

    pipeline.get_by_name("i").get_static_pad("sink").add_probe(Gst.PadProbeType.BUFFER, fail)
    seen = counting(pipeline.get_by_name("sink").get_static_pad("sink"))
    pipeline.set_state(Gst.State.PLAYING)
    arrives = grows(seen, seconds=FREEZE)
    error = pipeline.get_bus().pop_filtered(Gst.MessageType.ERROR)
    shutdown(pipeline)
    sys.excepthook = sys.__excepthook__
    return f"{'arrives' if arrives else 'nothing arrives'}, {'an error' if error else 'no error'}"


@guarded("an-exception-in-a-probe")
def _() -> None:
    def fail(pad: Any, info: Any) -> Any:
        raise ValueError("reported")

    with PipelineGuard(manager, f"{LIVE} ! identity name=i ! fakesink name=sink async=false") as pipeline:
        seen = counting(pipeline["sink"].get_static_pad("sink"))
        pad = pipeline["i"].get_static_pad("sink")
        with ProbeGuard(manager, pad, Gst.PadProbeType.BUFFER, fail) as probe:
            pipeline.play()
            assert grows(seen)
        assert isinstance(probe.error, ValueError)


@raw("raising-before-the-pull")
def _() -> object:
    sys.excepthook = lambda *what: None
    pipeline = Gst.parse_launch(f"{PLENTY} ! appsink name=sink emit-signals=true sync=false max-buffers=2")
    calls: list[int] = []

    def fail(sink: Any) -> Any:
        calls.append(1)
        raise ValueError("before the pull")

    pipeline.get_by_name("sink").connect("new-sample", fail)
    pipeline.set_state(Gst.State.PLAYING)
    stalls = not grows(calls, 5, FREEZE)
    shutdown(pipeline)
    sys.excepthook = sys.__excepthook__
    return "stalls" if stalls else "flows"


@guarded("raising-before-the-pull")
def _() -> None:
    with PipelineGuard(manager, f"{PLENTY} ! appsink name=sink sync=false max-buffers=2") as pipeline:
        text = refused(GuardError, lambda: SignalGuard(manager, pipeline["sink"], "new-sample", print))
        assert "Capture" in text
        with Capture(manager, pipeline["sink"], streaming=True, errors=(ValueError,)) as capture:

            @capture.on_frame
            def fail(frame: Any) -> None:
                raise ValueError("it has been pulled already")

            pipeline.play()
            eventually(lambda: capture.stats().results["error"] > 20, timeout=20)


@raw("samples-in-a-cycle")
def _() -> object:
    gc.disable()
    pipeline, sink = launch(SMALL, sink="sync=false max-buffers=1 enable-last-sample=false")
    tracer = LeaksTracer()
    tracer.start()
    for _ in range(50):
        cycle: list[Any] = [pull(sink)]
        cycle.append(cycle)
    del cycle
    before = len(gc.get_objects()) and _alive_without_collecting(tracer)
    gc.enable()
    shutdown(pipeline)
    return f"{before} samples wait for the collector"


def _alive_without_collecting(tracer: LeaksTracer) -> int:
    collect, gc.collect = gc.collect, lambda *_: 0
    try:
        return tracer.alive().get("GstSample", 0)
    finally:
        gc.collect = collect


@guarded("samples-in-a-cycle")
def _() -> None:
    gc.disable()
    try:
        pipeline, sink = launch(SMALL, sink="sync=false max-buffers=1 enable-last-sample=false")
        for _ in range(50):
            with adapter.frame(pull(sink)) as frame:
                cycle: list[Any] = [frame]
                cycle.append(cycle)  # the frame waits for the collector, its memory does not: it was closed
        assert manager.stats().active_objects == 0
        shutdown(pipeline)
    finally:
        gc.enable()


# -- pools ---------------------------------------------------------------------------------------------------


def _active_pool(most: int) -> Any:
    pool = Gst.BufferPool.new()
    config = pool.get_config()
    Gst.BufferPool.config_set_params(config, Gst.Caps.from_string(SMALL), 64 * 48 * 3, 0, most)
    pool.set_config(config)
    pool.set_active(True)
    return pool


@raw("a-pooled-buffer-released-by-hand")
def _() -> object:
    pool = _active_pool(2)
    buffer = pool.acquire_buffer(None)[1]
    pool.release_buffer(buffer)
    return None


@guarded("a-pooled-buffer-released-by-hand")
def _() -> None:
    with PoolAdapter(manager, SMALL, most=1) as pool:
        for _ in range(20):  # back by being closed, dropped, or handed on
            with pool.acquire(timeout=20) as frame:
                frame.array()[:] = 1
            buffer = pool.acquire(timeout=20).take()
            assert pool.outstanding == 1
            del buffer
        assert pool.outstanding == 0


@raw("samples-of-a-bounded-pool-kept")
def _() -> object:
    pool = _active_pool(6)
    pipeline = Gst.parse_launch("appsrc name=src ! appsink name=sink sync=false enable-last-sample=false")
    pipeline.set_state(Gst.State.PLAYING)
    source, sink = pipeline.get_by_name("src"), pipeline.get_by_name("sink")

    def film() -> None:
        while True:
            flow, buffer = pool.acquire_buffer(None)
            if flow != Gst.FlowReturn.OK:
                return
            source.emit("push-buffer", buffer)

    threading.Thread(target=film, daemon=True).start()
    kept = []
    while (sample := sink.emit("try-pull-sample", Gst.SECOND)) is not None:
        kept.append(sample)
    said = pipeline.get_bus().pop_filtered(Gst.MessageType.ERROR | Gst.MessageType.WARNING)
    pool.set_flushing(True)
    shutdown(pipeline)
    return f"frozen after {len(kept)} frames, {'no error' if said is None else said}"


@guarded("samples-of-a-bounded-pool-kept")
def _() -> None:
    pipeline = Gst.parse_launch("appsrc name=src ! appsink name=sink sync=false enable-last-sample=false")
    pipeline.set_state(Gst.State.PLAYING)
    kept = []
    with (
        PoolAdapter(manager, SMALL, most=6) as pool,
        Feeder(manager, pipeline.get_by_name("src"), caps=SMALL, max_buffers=1) as feeder,
        Capture(manager, pipeline.get_by_name("sink")) as capture,
    ):

        def film() -> None:
            try:
                while True:
                    with pool.acquire(timeout=20) as frame:
                        feeder.push(frame)
            except ClosedError:
                pass

        thread = threading.Thread(target=film)
        thread.start()

        def keep() -> None:
            for frame in capture.frames(timeout=1):
                kept.append(frame.array())

        assert "buffers of the source's pool are in frames that are held" in refused(Starved, keep)
        kept.clear()
        frames = capture.frames(timeout=20)
        for _ in range(20):
            next(frames)
        frames.close()
        feeder.close()
        pool.close()
        thread.join(20)
        assert not thread.is_alive()
    shutdown(pipeline)


# -- the process ---------------------------------------------------------------------------------------------


@raw("exit-while-playing")
def _() -> object:
    global kept
    kept = playing(f"{PLENTY} ! identity name=i signal-handoffs=true ! fakesink")
    kept.get_by_name("i").connect("handoff", lambda *_: None)
    time.sleep(0.2)
    return "leaves"


@guarded("exit-while-playing")
def _() -> None:
    global kept
    kept = PipelineGuard(
        SafetyManager(name="at exit"), f"{PLENTY} ! identity name=i signal-handoffs=true ! fakesink"
    )
    kept["i"].connect("handoff", lambda *_: None)
    kept.play()  # and left so: the exit pass sets it to NULL, which the exit code of this process shows


kept: Any = None


def _in_a_child(work: Callable[[], object], seconds: float) -> int:
    """The wait status of a forked child that does `work`; an alarm ends it."""
    child = os.fork()
    if child == 0:
        signal.alarm(int(seconds))
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


@raw("fork-after-init")
def _() -> object:
    pipeline = playing(f"{LIVE} ! fakesink")
    pipeline.get_state(5 * Gst.SECOND)

    def child() -> None:
        pipeline.set_state(Gst.State.NULL)

    status = _in_a_child(child, 2)
    shutdown(pipeline)
    return (
        "the child hangs"
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM
        else f"status {status}"
    )


@guarded("fork-after-init")
def _() -> None:
    with PipelineGuard(manager, f"{LIVE} ! fakesink") as pipeline:
        pipeline.play()

        def child() -> None:
            assert "spawn" in refused(
                ForkedError, lambda: PipelineGuard(SafetyManager(), "fakesrc ! fakesink")
            )
            assert pipeline.close() is False  # the parent's, and left to it

        assert _in_a_child(child, 20) == 0


@raw("live-objects-of-the-leaks-tracer")
def _() -> object:
    pipeline, sink = launch(SMALL)
    kept_samples = [pull(sink) for _ in range(3)]
    for tracer in Gst.tracing_get_active_tracers():
        if tracer.__gtype__.name == "GstLeaksTracer":
            for _ in range(4):
                tracer.emit("get-live-objects")
                gc.collect()
    del kept_samples
    shutdown(pipeline)
    return "survived"


@guarded("live-objects-of-the-leaks-tracer")
def _() -> None:
    pipeline, sink = launch(SMALL)
    tracer = LeaksTracer()
    for _ in range(4):
        tracer.start()
        kept_samples = [pull(sink) for _ in range(3)]
        assert tracer.alive()
        assert kept_samples[0].get_buffer().get_size() == 64 * 48 * 3
    shutdown(pipeline)


@raw("an-appsink-that-nobody-drains")
def _() -> object:
    pipeline, sink = launch(SMALL, sink="sync=false max-buffers=2")
    seen = counting(sink.get_static_pad("sink"))
    frozen = not grows(seen, 20, FREEZE)
    shutdown(pipeline)
    return "frozen" if frozen else "flows"


@guarded("an-appsink-that-nobody-drains")
def _() -> None:
    with PipelineGuard(manager, f"{PLENTY} ! appsink name=sink sync=false max-buffers=2") as pipeline:
        seen = counting(pipeline["sink"].get_static_pad("sink"))
        pipeline.play()
        with Capture(manager, pipeline["sink"]) as capture:
            next(iter(capture.frames(timeout=20)))
        assert grows(seen, 20)


# -- running them --------------------------------------------------------------------------------------------


def _note(domain: str, level: Any, message: str, *_: object) -> None:
    criticals.append(message)


def run(rows: dict[str, Callable[[], object]], names: list[str], kind: str) -> None:
    """Run the rows of these names, in their order."""
    for domain in ("GStreamer", "GLib-GObject", "GLib"):
        GLib.log_set_handler(
            domain, GLib.LogLevelFlags.LEVEL_CRITICAL | GLib.LogLevelFlags.LEVEL_WARNING, _note, None
        )
    for name in names:
        criticals.clear()
        try:
            outcome = rows[name]()
            if kind == "guarded":
                gc.collect()
                eventually(lambda: manager.stats().active_objects == 0, timeout=20)
                outcome = "safe"
        except BaseException:
            outcome = traceback.format_exc().strip().replace("\n", " | ")
        print(f"{name}: {outcome}{f', CRITICAL {criticals[0]}' if criticals else ''}", flush=True)


if __name__ == "__main__":
    kind, *names = sys.argv[1:]
    rows = RAW if kind == "raw" else GUARDED
    if kind == "guarded":
        manager = SafetyManager(name="mistakes")
        adapter = SampleAdapter(manager)
    run(rows, list(rows) if names == ["all"] else names, kind)
    if kind == "guarded":
        manager.close()
