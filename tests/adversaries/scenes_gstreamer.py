"""Scenes of `lifecycle.integrations.gstreamer`, each with real pipelines. Nothing here imports GStreamer before a scene is played."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import pickle
import threading
import time
from typing import Any

from lifecycle import AccessPanicError, LifecycleError
from tests.adversaries.stage_gstreamer import Stage, Table

TABLE = Table()
scene = TABLE.scene

MODULES = ("lifecycle.integrations.gstreamer", "lifecycle.integrations.gstreamer.webrtc")

RGB = "video/x-raw,format=RGB,width=32,height=24,framerate=100/1"
I420 = "video/x-raw,format=I420,width=8,height=4,framerate=30/1"
SOUND = "audio/x-raw,format=S16LE,rate=48000,channels=2,layout=interleaved"
SOURCE = f"videotestsrc is-live=true pattern=black ! {RGB} ! tee name=t allow-not-linked=true"
STREAMS = "waits for streaming threads"
ASYNCIO = "an interrupt here is asyncio's to deal with"


# -- frames ------------------------------------------------------------------------------------------------------------------------


def frames(stage: Stage) -> None:
    """An adapter, and samples of a picture, of one in several memories, and of sound."""
    world, Gst = stage.world, stage.Gst
    world.adapter = stage.gst.SampleAdapter(stage.manager, name="frames")
    world.picture = stage.sample(32 * 24 * 3, RGB)
    world.sound = stage.sample(480 * 4, SOUND)
    parts = Gst.Buffer.new()
    for size in (32, 8, 8):
        parts.append_memory(stage.program.sample_of(bytes(size)).get_buffer().get_all_memory())
    world.in_parts = Gst.Sample.new(parts, Gst.Caps.from_string(I420), None, None)
    stage.samples.append(world.in_parts)


@scene(
    "SampleAdapter.__init__",
    "SampleAdapter.frame",
    "SampleAdapter.layout",
    "SampleAdapter.__repr__",
    "Uncopied.__reduce_ex__",
    "Frame.__init__",
    world=frames,
)
def adapter(stage: Stage) -> None:
    made = stage.gst.SampleAdapter(stage.manager)
    repr(made)
    with contextlib.suppress(TypeError):
        pickle.dumps(made)
    assert made.layout(RGB).width == 32
    made.frame(stage.world.picture)
    for refused, what in ((made.frame, None), (made.layout, "no caps at all")):
        with contextlib.suppress(LifecycleError):
            refused(what)


@scene(
    "Frame.__enter__",
    "Frame.__exit__",
    "Frame.__repr__",
    "Frame.closed",
    "Frame.data",
    "Frame.array",
    "Frame.copy",
    "Frame.__array__",
    "FrameFacts.caps",
    "FrameFacts.width",
    "FrameFacts.height",
    "FrameFacts.format",
    "FrameFacts.pts",
    "FrameFacts.duration",
    "FrameFacts.dts",
    "FrameFacts.offset",
    "FrameFacts.flags",
    "FrameFacts.segment",
    "FrameFacts.running_time",
    "FrameFacts.memory",
    world=frames,
)
def read(stage: Stage) -> None:
    with stage.keep(stage.world.adapter.frame(stage.world.picture)) as frame:
        repr(frame)
        assert (frame.width, frame.height, frame.format) == (32, 24, "RGB")
        assert frame.caps.is_fixed()
        assert frame.pts is None
        assert frame.duration is None
        assert (frame.dts, frame.offset, frame.running_time, frame.memory) == (None, None, None, "system")
        assert frame.flags is not None
        assert frame.segment is not frame.caps
        assert frame.closed in (True, False)
        assert frame.array().shape == frame.copy().shape == stage.np.asarray(frame).shape
        frame.copy(frame.copy())
        assert len(frame.data()) == 32 * 24 * 3
    assert frame.closed


@scene(
    "Frame.cropped",
    "Frame.to_pil",
    "FrameFacts.stream_time",
    "FrameFacts.metas",
    "FrameFacts.crop",
    "FrameFacts.regions",
    "FrameFacts.video_planes",
    "FrameFacts.custom",
    "FrameFacts.memories",
    world=frames,
    needs=("pillow",),
)
def read_what_is_beside_it(stage: Stage) -> None:
    with stage.keep(stage.world.adapter.frame(stage.world.picture)) as frame:
        assert frame.cropped().shape == (24, 32, 3)
        assert frame.to_pil().size == (32, 24)
        assert (frame.stream_time, frame.crop, frame.custom("nobody's")) == (None, None, None)
        assert frame.metas == frame.regions == ()
        assert frame.video_planes is None
        assert frame.memories[0].size == 32 * 24 * 3


@scene("Frame.download", "Frame.texture", world=frames, walks=True, views=True)
def download(stage: Stage) -> None:
    with stage.keep(stage.world.adapter.frame(stage.world.picture)) as frame:
        with stage.keep(frame.download()) as mine:
            assert mine.array().shape == (24, 32, 3)
        with contextlib.suppress(LifecycleError):
            frame.texture()


@scene(
    "FrameTexture.__init__",
    "FrameTexture.__enter__",
    "FrameTexture.__exit__",
    "FrameTexture.__repr__",
    "FrameTexture.close",
    "FrameTexture.closed",
    world=frames,
)
def hold_a_texture(stage: Stage) -> None:
    """What holds it: the drawing itself is tried where there is OpenGL."""
    with stage.keep(stage.world.adapter.frame(stage.world.picture)) as frame:
        with stage.gst.FrameTexture(
            stage.keep(frame._register_texture(7)), 7, "2D", 32, 24, 0x8058
        ) as texture:
            repr(texture)
            frame.close()
        texture.close()
        assert texture.closed


@scene("Frame.planes", "Frame.close", world=frames)
def read_in_parts(stage: Stage) -> None:
    frame = stage.keep(stage.world.adapter.frame(stage.world.in_parts))
    assert [plane.shape for plane in frame.planes()] == [(4, 8), (2, 4), (2, 4)]
    frame.close()
    with contextlib.suppress(LifecycleError):
        frame.planes()


@scene("FrameFacts.rate", "FrameFacts.channels", "FrameFacts.samples", "FrameFacts.times", world=frames)
def read_sound(stage: Stage) -> None:
    with stage.keep(stage.world.adapter.frame(stage.world.sound)) as frame:
        assert (frame.rate, frame.channels) == (48000, 2)
        assert frame.samples == len(frame.array())
        with contextlib.suppress(LifecycleError):
            frame.times()


@scene("Frame.handle", "Frame.native", "Frame.share", "Frame.close", world=frames)
def own(stage: Stage) -> None:
    frame = stage.keep(stage.world.adapter.frame(stage.world.picture))
    assert frame.handle.type_name == "gst.Sample"
    with frame.native.lease() as sample:
        assert sample is stage.world.picture
    sample = None
    share = stage.keep(frame.share())
    frame.close()
    share.array()
    share.close()


@scene("Frame.array", "Frame.close", world=frames)
def keep_an_array(stage: Stage) -> None:
    """The mapping goes with the last array, whatever was closed before."""
    with stage.keep(stage.world.adapter.frame(stage.world.picture)) as frame:
        array = frame.array()[2:4]
    assert not frame.close()
    del array


@scene("SampleAdapter.convert", world=frames, panics=True)
def convert(stage: Stage) -> None:
    def fails(array: Any) -> None:
        raise ZeroDivisionError

    assert stage.world.adapter.convert(stage.world.picture, lambda array: array.shape) == (24, 32, 3)
    with contextlib.suppress(AccessPanicError):
        stage.world.adapter.convert(stage.world.picture, fails)


WRITABLE = (
    "WritableFrame.__init__",
    "WritableFrame.array",
    "WritableFrame.planes",
    "WritableFrame.data",
    "WritableFrame.caps",
    "WritableFrame.format",
    "WritableFrame.width",
    "WritableFrame.height",
    "WritableFrame.pts",
    "WritableFrame.pts=",
    "WritableFrame.duration",
    "WritableFrame.duration=",
    "WritableFrame.handle",
    "WritableFrame.closed",
    "WritableFrame.__enter__",
    "WritableFrame.__exit__",
    "WritableFrame.__repr__",
)


@scene("SampleAdapter.buffer", *WRITABLE, world=frames)
def write(stage: Stage) -> None:
    with stage.keep(stage.world.adapter.buffer(RGB)) as frame:
        frame.array()[:] = 1
        frame.planes()[0][0, 0] = 2
        frame.data()[0] = 3
        frame.pts, frame.duration = 1, 2
        assert (frame.pts, frame.duration, frame.format) == (1, 2, "RGB")
        assert (frame.width, frame.height, frame.caps.is_fixed()) == (32, 24, True)
        assert frame.handle.valid in (True, False)
        repr(frame)
    assert frame.closed


@scene(
    "Frame.writable",
    "WritableFrame.over",
    "WritableFrame.take",
    "WritableFrame.close",
    world=frames,
    walks=True,
    views=True,
)
def write_what_was_read(stage: Stage) -> None:
    """A copy, since the world has the sample; and the buffer itself."""
    with stage.keep(stage.world.adapter.frame(stage.world.picture).writable()) as copy:
        assert copy.copied
    alone = stage.program.sample_of(bytes(32 * 24 * 3), RGB)
    frame = stage.keep(stage.world.adapter.frame(alone))
    del alone
    own = stage.keep(frame.writable())
    view = own.data()
    with contextlib.suppress(LifecycleError):
        own.take()
    del view
    assert own.take().get_size() == 32 * 24 * 3
    own.close()


# -- buffers -----------------------------------------------------------------------------------------------------------------------


def pool(stage: Stage) -> None:
    made = stage.world.pool = stage.furnish(stage.gst.PoolAdapter(stage.manager, I420, most=4))
    stage.counts["out of the pool"] = lambda: made.outstanding


@scene(
    "PoolAdapter.acquire",
    "PoolAdapter.outstanding",
    "PoolAdapter.caps",
    "PoolAdapter.stats",
    "PoolAdapter.closed",
    "PoolAdapter.__repr__",
    world=pool,
    views=True,
)
def lend(stage: Stage) -> None:
    pool = stage.world.pool
    with stage.keep(pool.acquire(timeout=5)) as frame:
        frame.planes()[0][:] = 1
        assert pool.outstanding >= 0
        assert pool.caps.is_fixed()
    assert pool.closed in (True, False)
    pool.stats()
    repr(pool)


def pool_of_one(stage: Stage) -> None:
    made = stage.world.pool = stage.furnish(stage.gst.PoolAdapter(stage.manager, I420, most=1))
    stage.counts["out of the pool"] = lambda: made.outstanding


@scene("PoolAdapter.acquire", "PoolAdapter.holders", world=pool_of_one, walks=True)
def lend_the_last(stage: Stage) -> None:
    for _ in range(2):
        with contextlib.suppress(LifecycleError):
            stage.keep(stage.world.pool.acquire(timeout=0))
    stage.world.pool.holders()


@scene("PoolAdapter.__init__", "PoolAdapter.__enter__", "PoolAdapter.__exit__", "PoolAdapter.close")
def pool_whole(stage: Stage) -> None:
    with stage.keep(stage.gst.PoolAdapter(stage.manager, I420, most=2)) as pool:
        stage.keep(pool.acquire(timeout=0))
    pool.close()


@scene("BufferFence.__init__", "BufferFence.signalled", "BufferFence.delete", "BufferFence.__repr__")
def fence(stage: Stage) -> None:
    buffer = stage.Gst.Buffer.new_allocate(None, 16, None)
    made = stage.gst.BufferFence(buffer)
    assert not made.signalled()
    repr(made)
    del buffer
    # A frame that is traced keeps what it was given on some versions, until it is collected.
    assert made.signalled() in (True, False)
    made.delete()


# -- feeding -----------------------------------------------------------------------------------------------------------------------


def feeding(stage: Stage) -> None:
    """A feeder of a pipeline that plays and keeps nothing."""
    frames(stage)
    pipeline = stage.launch(
        "appsrc name=feed is-live=true ! fakesink name=sink sync=false async=false enable-last-sample=false"
    )
    guard = stage.world.guard = stage.furnish(stage.gst.PipelineGuard(stage.manager, pipeline, name="fed"))
    feeder = stage.world.feeder = stage.furnish(
        stage.gst.Feeder(stage.manager, guard["feed"], caps=I420, max_buffers=100)
    )
    guard.play()
    stage.count_pipeline(guard, "feed", "sink")
    stage.counts["held of the feeder's"] = lambda: feeder.stats().outstanding


@scene(
    "Feeder.push",
    "Feeder.stats",
    "Feeder.caps",
    "Feeder.closed",
    "Feeder.__repr__",
    world=feeding,
    views=True,
)
def feed(stage: Stage) -> None:
    feeder, np = stage.world.feeder, stage.np
    feeder.push(np.zeros((6, 8), np.uint8), pts=1, duration=1, timeout=5)
    feeder.push(bytes(48))
    feeder.push((np.zeros((4, 8), np.uint8), np.zeros((2, 4), np.uint8), np.zeros((2, 4), np.uint8)))
    with contextlib.suppress(LifecycleError):
        feeder.push(bytes(7))
    assert feeder.caps.is_fixed()
    assert feeder.closed in (True, False)
    feeder.stats()
    repr(feeder)


@scene("Feeder.push", world=feeding)
def feed_what_is_gstreamers(stage: Stage) -> None:
    feeder, world = stage.world.feeder, stage.world
    with stage.keep(world.adapter.frame(world.in_parts)) as frame:
        feeder.push(frame)
    with stage.keep(world.adapter.buffer(I420)) as writable:
        feeder.push(writable, pts=3)
    feeder.push(stage.program.sample_of(bytes(48), I420).get_buffer())


@scene(
    "Feeder.frame",
    "FeederFrame.__init__",
    "FeederFrame.__enter__",
    "FeederFrame.__exit__",
    world=feeding,
)
def feed_what_is_lent(stage: Stage) -> None:
    with stage.world.feeder.frame(pts=2, timeout=5) as planes:
        planes[0][:] = 1
        del planes
    with stage.world.feeder.frame(pts=3) as planes:
        kept = planes[0][1:]
    del kept, planes
    with contextlib.suppress(ZeroDivisionError), stage.world.feeder.frame(pts=4):
        raise ZeroDivisionError


@scene(
    "Feeder.__init__",
    "Feeder.__enter__",
    "Feeder.__exit__",
    "Feeder.end_of_stream",
    "Feeder.close",
)
def feeder_whole(stage: Stage) -> None:
    pipeline = stage.launch("appsrc name=feed ! fakesink sync=false")
    with stage.keep(stage.gst.Feeder(stage.manager, pipeline.get_by_name("feed"), caps=I420)) as feeder:
        for refused in (feeder.end_of_stream, functools.partial(feeder.push, bytes(48))):
            with contextlib.suppress(LifecycleError):
                refused()
    feeder.close()


# -- captures ----------------------------------------------------------------------------------------------------------------------


def live(stage: Stage) -> None:
    """A tee that flows, and an appsink behind it."""
    pipeline = stage.launch(
        f"{SOURCE} ! queue leaky=downstream max-size-buffers=1 ! appsink name=sink sync=false max-buffers=2 drop=true"
    )
    guard = stage.world.guard = stage.furnish(stage.gst.PipelineGuard(stage.manager, pipeline, name="live"))
    guard.play()
    sink = stage.world.sink = guard["sink"]
    stage.count_pipeline(guard, "t", "sink")
    stage.count_handlers("appsink", sink, "new-sample", "eos")
    stage.counts["signals of appsink"] = lambda: sink.get_property("emit-signals")


@scene(
    "Capture.__init__",
    "Capture.on_frame",
    "Capture.on_stall",
    "Capture.wait",
    "Capture.stats",
    "Capture.error",
    "Capture.stop",
    "Capture.start",
    "Capture.close",
    "Capture.closed",
    "Capture.__enter__",
    "Capture.__exit__",
    "Capture.__repr__",
    world=live,
    few=STREAMS,
)
def capture(stage: Stage) -> None:
    seen = threading.Event()
    with stage.keep(stage.gst.Capture(stage.manager, stage.world.sink)) as made:

        def look(frame: Any) -> None:
            frame.array()
            seen.set()

        made.on_frame(look)
        made.on_stall(lambda stall: None)
        seen.wait(5)
        made.wait(0)
        made.stats()
        assert made.error is None
        repr(made)
        made.stop()
        made.start()
        made.close()
    assert made.closed


@scene("Capture.on_frame", "Capture.close", world=live, few=STREAMS)
def capture_streaming(stage: Stage) -> None:
    seen = threading.Event()
    with stage.keep(stage.gst.Capture(stage.manager, stage.world.sink, streaming=True)) as made:
        made.on_frame(lambda frame: seen.set())
        seen.wait(5)


@scene("Capture.on_frame", "Capture.wait", "Capture.error", world=live, few=STREAMS, panics=True)
def capture_fails(stage: Stage) -> None:
    def fails(frame: Any) -> None:
        raise ZeroDivisionError

    with stage.keep(stage.gst.Capture(stage.manager, stage.world.sink, on_error="stop")) as made:
        made.on_frame(fails)
        with contextlib.suppress(LifecycleError):
            made.wait(5)
        assert made.error is None or isinstance(made.error, (ZeroDivisionError, KeyboardInterrupt))


@scene(
    "Capture.frames",
    "Frames.__init__",
    "Frames.__iter__",
    "Frames.__next__",
    "Frames.close",
    "Frames.__del__",
    world=live,
    few=STREAMS,
)
def capture_in_a_loop(stage: Stage) -> None:
    with stage.keep(stage.gst.Capture(stage.manager, stage.world.sink)) as made:
        loop = stage.keep(made.frames(timeout=5))
        for number, frame in enumerate(loop):
            frame.array()
            if number:
                break
        loop.close()
        for frame in made.frames(timeout=5):
            frame.close()
            break


@scene("Frames.__aiter__", "Frames.__anext__", "Frames.aclose", world=live, no_interrupts=ASYNCIO)
def capture_async(stage: Stage) -> None:
    async def main() -> None:
        with stage.keep(stage.gst.Capture(stage.manager, stage.world.sink)) as made:
            loop = made.frames(timeout=5)
            async for frame in loop:
                frame.array()
                break
            await loop.aclose()

    asyncio.run(main())


# -- pipelines ---------------------------------------------------------------------------------------------------------------------


GUARD = ("Guard.handle", "Guard.closed", "Guard.__enter__", "Guard.__exit__", "Guard.__repr__")


@scene(
    "PipelineGuard.__init__",
    "PipelineGuard.pipeline",
    "PipelineGuard.__getitem__",
    "PipelineGuard.set",
    "PipelineGuard.state",
    "PipelineGuard.errors",
    "PipelineGuard.streaming_threads",
    "PipelineGuard.play",
    "PipelineGuard.pause",
    "PipelineGuard.ready",
    "PipelineGuard.wait",
    "PipelineGuard.check",
    "PipelineGuard.ended",
    "PipelineGuard.messages",
    "PipelineGuard.close",
    *GUARD,
    few=STREAMS,
)
def pipeline(stage: Stage) -> None:
    made = stage.launch("videotestsrc num-buffers=2 ! fakesink name=sink sync=false")
    with stage.keep(stage.gst.PipelineGuard(stage.manager, made)) as guard:
        assert guard["sink"] is not None
        guard.set("sink", silent=True)
        assert guard.pipeline is made
        guard.pause()
        guard.play()
        guard.wait(5)
        guard.check()
        assert guard.ended in (True, False)
        assert not guard.errors
        guard.messages()
        assert guard.streaming_threads >= 0
        # "null": it may have been closed a moment ago.
        assert guard.state in ("playing", "paused", "null")
        guard.ready()
        repr(guard)
        assert guard.handle.valid in (True, False)
    assert guard.closed


@scene("PipelineGuard.seek", few=STREAMS)
def pipeline_that_seeks(stage: Stage) -> None:
    made = stage.launch("videotestsrc num-buffers=4 ! fakesink sync=false")
    with stage.keep(stage.gst.PipelineGuard(stage.manager, made)) as guard:
        guard.pause()
        guard.seek(20_000_000)
        guard.seek(0, stop=80_000_000, rate=2.0, accurate=True, segment=True)
        with contextlib.suppress(LifecycleError):
            guard.seek(-1)


@scene(
    "PipelineGuard.play_async",
    "PipelineGuard.pause_async",
    "PipelineGuard.ready_async",
    "PipelineGuard.seek_async",
    "PipelineGuard.wait_async",
    "PipelineGuard.close_async",
    no_interrupts=ASYNCIO,
    few=STREAMS,
)
def pipeline_in_a_coroutine(stage: Stage) -> None:
    made = stage.launch("videotestsrc num-buffers=2 ! fakesink sync=false")

    async def main() -> None:
        guard = stage.keep(stage.gst.PipelineGuard(stage.manager, made))
        await guard.pause_async()
        await guard.seek_async(0)
        await guard.play_async()
        await guard.wait_async(5)
        await guard.ready_async()
        await guard.close_async()

    asyncio.run(main())


@scene("PipelineGuard.play", "PipelineGuard.close", few=STREAMS)
def pipeline_whose_stream_is_ended(stage: Stage) -> None:
    made = stage.launch(f"videotestsrc is-live=true ! {RGB} ! fakesink sync=false")
    with stage.keep(stage.gst.PipelineGuard(stage.manager, made, eos=5.0)) as guard:
        guard.play()


@scene("PipelineGuard.play", "PipelineGuard.wait", "PipelineGuard.errors", few=STREAMS)
def pipeline_that_fails(stage: Stage) -> None:
    made = stage.launch(f"videotestsrc is-live=true ! {RGB} ! identity error-after=2 ! fakesink sync=false")
    with stage.keep(stage.gst.PipelineGuard(stage.manager, made)) as guard:
        with contextlib.suppress(stage.gst.PipelineError):
            guard.play()
            guard.wait(5)
        for error in guard.errors:
            error.with_traceback(None)  # kept by the guard, with this very frame


@scene("PipelineGuard.__init__")
def pipeline_refused(stage: Stage) -> None:
    with contextlib.suppress(LifecycleError):
        stage.keep(stage.gst.PipelineGuard(stage.manager, "fakesrc ! nosuchelement"))
    made = stage.launch("fakesrc ! fakesink")
    first = stage.keep(stage.gst.PipelineGuard(stage.manager, made))
    with contextlib.suppress(LifecycleError):
        stage.keep(stage.gst.PipelineGuard(stage.manager, made))
    first.close()


@scene(
    "BusWatch.__init__",
    "BusWatch.on",
    "BusWatch.wait",
    "BusWatch.errors",
    "BusWatch.messages",
    "BusWatch.close",
    "Guard.close",
    world=live,
    few=STREAMS,
)
def bus_watch(stage: Stage) -> None:
    with stage.keep(stage.gst.BusWatch(stage.manager, stage.world.guard)) as watch:
        watch.on("application")(id)
        source = stage.world.guard.pipeline
        waiting = threading.Thread(target=post, args=(stage.Gst, source))
        waiting.start()
        watch.wait("application", timeout=0.05)
        waiting.join()
        source = None
        assert watch.messages >= 0
        assert not watch.errors
        watch.close()


def post(Gst: Any, source: Any) -> None:
    """A message of the program's own."""
    time.sleep(0.005)
    source.post_message(Gst.Message.new_application(source, Gst.Structure.new_empty("done")))


@scene(
    "ElementGuard.__init__",
    "ElementGuard.element",
    "ElementGuard.set",
    "ElementGuard.start",
    "ElementGuard.link",
    world=live,
)
def element(stage: Stage) -> None:
    with stage.keep(stage.gst.ElementGuard(stage.manager, "identity", stage.world.guard)) as first:
        with stage.keep(stage.gst.ElementGuard(stage.manager, "fakesink", stage.world.guard)) as second:
            second.element.set_property("async", False)
            second.set(sync=False, state_error="none")
            with contextlib.suppress(LifecycleError):
                second.set(nosuch=1)
            first.link(second)
            second.start()
            first.start()


@scene("PadGuard.__init__", "PadGuard.pad", "PadGuard.link", world=live, few=STREAMS)
def pad(stage: Stage) -> None:
    gst, manager, guard = stage.gst, stage.manager, stage.world.guard
    with stage.keep(gst.ElementGuard(manager, stage.gst.low_latency_queue(), guard)) as queue:
        with stage.keep(gst.ElementGuard(manager, "fakesink", guard)) as sink:
            sink.element.set_property("async", False)
            queue.link(sink)
            sink.start()
            queue.start()
            with stage.keep(gst.PadGuard(manager, guard["t"], "src_%u")) as made:
                assert made.pad is not None
                made.link(queue.element.get_static_pad("sink"))
    with contextlib.suppress(LifecycleError):
        gst.PadGuard(manager, guard["t"], "nosuchpad_%u")


@scene(
    "ProbeGuard.__init__",
    "ProbeGuard.on",
    "ProbeInfo.__init__",
    "ProbeInfo.__getattr__",
    "ProbeInfo.__setattr__",
    "ProbeInfo.__repr__",
    "CallbackGuard.calls",
    "CallbackGuard.error",
    "CallbackGuard.close",
    world=live,
    few=STREAMS,
)
def probe(stage: Stage) -> None:
    seen = threading.Event()
    where, mask = stage.world.guard["t"].get_static_pad("sink"), stage.Gst.PadProbeType
    made = stage.keep(stage.gst.ProbeGuard(stage.manager, where, mask.BUFFER, lambda *_: seen.set()))
    seen.wait(5)
    assert made.calls >= 0
    assert made.error is None
    made.close()

    def once(pad: Any, info: Any) -> Any:
        return stage.Gst.PadProbeReturn.REMOVE

    stage.keep(stage.gst.ProbeGuard.on(stage.manager, where, mask.IDLE)(once)).close()
    info = stage.gst.ProbeInfo(stage.Gst.PadProbeInfo())
    info.size = info.size
    repr(info)


def quiet(stage: Stage) -> None:
    """A pipeline that stands still."""
    guard = stage.world.guard = stage.furnish(
        stage.gst.PipelineGuard(
            stage.manager, stage.launch("fakesrc ! identity name=i ! fakesink name=sink"), name="quiet"
        )
    )
    stage.count_pipeline(guard, "i")
    stage.count_handlers("identity", guard["i"], "notify")


@scene("SignalGuard.__init__", "CallbackGuard.close", world=quiet)
def signal(stage: Stage) -> None:
    source = stage.world.guard["i"]
    seen: list[Any] = []
    with stage.keep(
        stage.gst.SignalGuard(stage.manager, source, "notify::silent", lambda *_: seen.append(1))
    ):
        source.set_property("silent", True)
        source.set_property("silent", False)
    number = len(seen)
    source.set_property("silent", True)
    assert len(seen) == number, "called after its end"
    with contextlib.suppress(LifecycleError):
        stage.gst.SignalGuard(stage.manager, source, "nosuchsignal", id)


@scene("SignalGuard.__init__", "CallbackGuard.error", world=quiet, panics=True)
def signal_that_fails(stage: Stage) -> None:
    def fails(*_: Any) -> None:
        raise ZeroDivisionError

    source = stage.world.guard["i"]
    with stage.keep(stage.gst.SignalGuard(stage.manager, source, "notify::silent", fails)) as made:
        source.set_property("silent", True)
        assert made.error is None or isinstance(made.error, (ZeroDivisionError, KeyboardInterrupt))


# -- sharing -----------------------------------------------------------------------------------------------------------------------


@scene(
    "Tee.__init__",
    "Tee.attach",
    "Tee.flush",
    "Tee.branches",
    "Tee.__repr__",
    "Branch.__init__",
    "Branch.bin",
    "Branch.__getitem__",
    "Branch.appsink",
    "Branch.capture",
    "Branch.flush",
    "Branch.stats",
    "Branch.end",
    "Branch.wait",
    "Branch.close",
    "gstreamer.low_latency_queue",
    world=live,
    few=STREAMS,
)
def tee(stage: Stage) -> None:
    made = stage.gst.Tee(stage.manager, stage.world.guard, "t")
    repr(made)
    with stage.keep(made.attach("appsink name=end sync=false max-buffers=1 drop=true")) as branch:
        assert branch["end"] is branch.appsink
        assert branch.bin is not None
        seen = threading.Event()
        stage.keep(branch.capture()).on_frame(lambda frame: seen.set())
        seen.wait(5)
        branch.flush()
        made.flush()
        branch.stats()
        assert branch.end is None
        branch.wait(0)
        assert branch in made.branches or branch.closed
        branch.close()


@scene("Tee.attach", world=live, few=STREAMS)
def tee_refuses(stage: Stage) -> None:
    made = stage.gst.Tee(stage.manager, stage.world.guard, "t")
    for refused in ("nosuchelement", "fakesrc"):
        with contextlib.suppress(LifecycleError):
            stage.keep(made.attach(refused))


@scene(
    "Tee.attach",
    "Branch.close",
    world=live,
    few=STREAMS,
)
def branch_that_fails(stage: Stage) -> None:
    told = threading.Event()
    made = stage.gst.Tee(stage.manager, stage.world.guard, "t")
    branch = stage.keep(
        made.attach("identity error-after=1 ! fakesink async=false", on_error=lambda error: told.set())
    )
    told.wait(5)
    branch.close()


@scene("Tee.attach", "Branch.close", world=live, few=STREAMS)
def branch_whose_stream_is_ended(stage: Stage) -> None:
    made = stage.gst.Tee(stage.manager, stage.world.guard, "t")
    with stage.keep(made.attach("fakesink sync=false", eos=5.0)):
        pass


def client_of(stage: Stage) -> Any:
    """The guarded pipeline of a client."""
    return stage.keep(
        stage.gst.PipelineGuard(
            stage.manager, stage.launch("appsrc name=feed is-live=true ! fakesink sync=false async=false")
        )
    )


@scene(
    "Fanout.__init__",
    "Fanout.add",
    "Fanout.follow",
    "Fanout.request_key_frame",
    "Fanout.clients",
    "Fanout.capture",
    "Fanout.close",
    "Fanout.closed",
    "Fanout.__enter__",
    "Fanout.__exit__",
    "Fanout.__repr__",
    "Client.__init__",
    "Client.restart",
    "Client.stats",
    "Client.close",
    "gstreamer.request_key_frame",
    world=live,
    few=STREAMS,
)
def fanout(stage: Stage) -> None:
    with stage.keep(stage.gst.Fanout(stage.manager, stage.world.guard, stage.world.sink)) as made:
        repr(made)
        client = stage.keep(made.add(client_of(stage), "feed"))
        assert len(made.clients) >= 0
        made.capture.stats()
        assert made.closed in (True, False)
        made.request_key_frame()
        client.restart()
        client.stats()
        client.close()


@scene("Fanout.add", world=live, few=STREAMS)
def fanout_refuses(stage: Stage) -> None:
    with stage.keep(stage.gst.Fanout(stage.manager, stage.world.guard, stage.world.sink)) as made:
        with contextlib.suppress(LifecycleError):
            made.add(client_of(stage), "nosuchelement")
        with contextlib.suppress(LifecycleError):
            made.add(None, "feed")


# -- WebRTC ------------------------------------------------------------------------------------------------------------------------


def peer_of(stage: Stage, description: str, **options: Any) -> Any:
    """A peer, and the guarded pipeline around it."""
    from lifecycle.integrations.gstreamer.webrtc import WebRTCPeer

    guard = stage.keep(stage.gst.PipelineGuard(stage.manager, stage.launch(description)))
    return stage.keep(WebRTCPeer(stage.manager, guard, "w", **options)), guard


@scene(
    "WebRTCPeer.__init__",
    "WebRTCPeer.add_ice",
    "WebRTCPeer.state",
    "WebRTCPeer.close",
    "WebRTCPeer.__enter__",
    "WebRTCPeer.__exit__",
    "WebRTCPeer.__repr__",
    "WebRTCPeer.accept",
    few="webrtcbin starts and ends a thread each time",
    needs=("webrtc",),
)
def peer(stage: Stage) -> None:
    made, guard = peer_of(stage, "webrtcbin name=w")
    with made:
        repr(made)
        assert made.state in ("new", "closed")
        made.add_ice(0, "candidate:1 1 UDP 1 127.0.0.1 9 typ host")
        with contextlib.suppress(LifecycleError):
            made.accept("no description")
    made.close()
    guard.close()


SENDS = (
    f"videotestsrc is-live=true ! {RGB} ! videoconvert ! vp8enc deadline=1 cpu-used=8 ! rtpvp8pay "
    "! application/x-rtp,media=video,encoding-name=VP8,payload=96 ! webrtcbin name=w"
)


@scene(
    "WebRTCPeer.offer",
    "WebRTCPeer.answer",
    "WebRTCPeer.accept",
    "WebRTCPeer.wait",
    "webrtc.connect",
    few="a negotiation of two peers takes a second",
    needs=("webrtc",),
)
def negotiate(stage: Stage) -> None:
    from lifecycle.integrations.gstreamer.webrtc import connect

    peers: dict[str, Any] = {}
    peers["a"], sender = peer_of(stage, SENDS, on_ice=lambda *ice: told(peers, "b", *ice))
    peers["b"], receiver = peer_of(stage, "webrtcbin name=w", on_ice=lambda *ice: told(peers, "a", *ice))
    sender.play(0)
    receiver.play(0)
    connect(peers["a"], peers["b"], timeout=10.0)


def told(peers: dict[str, Any], which: str, mline: int, candidate: str) -> None:
    """A candidate goes to the other side, if it is still there."""
    with contextlib.suppress(LifecycleError, KeyError):
        peers[which].add_ice(mline, candidate)
