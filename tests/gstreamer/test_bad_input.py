"""What others' pipelines bring, row by row: each is a typed error that names the element, the pad or the
place and the remedy, and nothing is lost."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import pytest

from lifecycle import LifecycleError, SafetyManager
from lifecycle.errors import DuplicateError, PoolError, RegistrationError
from tests.support import eventually

pytestmark = pytest.mark.needs("gstreamer", "numpy")


@pytest.fixture
def g(gst: Any) -> Any:
    """The integration, with GStreamer initialised."""
    import lifecycle.integrations.gstreamer as package

    return package


@pytest.mark.parametrize(
    ("description", "marked", "said"),
    [
        ("videotestsrc ! videoconvrt ! fakesink", "videoconvrt", "not installed: videoconvrt"),
        ("videotestsrc ! fakesink nosuch=1", "nosuch", "no property"),
        ("fakesrc name=nosuch ! fakesink nosuch=1", "nosuch=1", "no property"),
        ("videotestsrc pattern=nosuch ! fakesink", "pattern=nosuch", "could not set property"),
        ("videotestsrc ! ! fakesink", "! fakesink", "syntax error"),
        ("! fakesink", "!", "syntax error"),
        ("videotestsrc !", "!", "syntax error"),
        ("bin.( videotestsrc", "(", "syntax error"),
        ("audiotestsrc ! jpegenc ! fakesink", "jpegenc", "could not link"),
        ("videotestsrc ! video/x-raw,width=a(( ! fakesink", "video/x-raw,width=a((", "parse caps"),
        ("videotestsrc !\n  videoconvrt !\n  fakesink", "videoconvrt", "no element"),
    ],
)
def test_the_place_of_a_mistake_is_shown(
    g: Any, manager: SafetyManager, description: str, marked: str, said: str
) -> None:
    with pytest.raises(g.DescriptionError, match=said) as caught:
        g.PipelineGuard(manager, description)
    position = caught.value.position
    assert position is not None
    assert description[position:].startswith(marked)
    line, mark = str(caught.value).split("\n")[-2:]
    assert line[4:] in description.split("\n")
    assert line[mark.index("^") :].startswith(marked)
    for name in ("fakesink", "videotestsrc"):
        assert f"not installed: {name}" not in str(caught.value)


@pytest.mark.parametrize("name", [5, b"x", True, "a\0b", "caf\udcff"])
def test_what_no_element_is_called_is_refused_by_name(g: Any, manager: SafetyManager, name: Any) -> None:
    with g.PipelineGuard(manager, "videotestsrc is-live=true ! tee name=t") as pipeline:
        tee = g.Tee(manager, pipeline, "t")
        branch = tee.attach("fakesink")
        asks: list[Callable[[], Any]] = [
            lambda: pipeline[name],
            lambda: pipeline.set(name, pattern=1),
            lambda: branch[name],
            lambda: g.Tee(manager, pipeline, name),
            lambda: tee.attach("fakesink", name=name),
        ]
        for ask in asks:
            with pytest.raises(g.GuardError, match="takes a te") as told:
                ask()
            assert repr(name) in str(told.value)
        branch.close()


@pytest.mark.parametrize("name", [5, b"x", True])
def test_a_name_that_is_no_text_is_refused(g: Any, manager: SafetyManager, name: Any) -> None:
    with g.PipelineGuard(manager, "videotestsrc ! appsink name=s  appsrc name=f ! fakesink") as pipeline:
        makes: list[Callable[[], Any]] = [
            lambda: g.Capture(manager, pipeline["s"], name=name),
            lambda: g.Feeder(manager, pipeline["f"], name=name),
            lambda: g.PoolAdapter(manager, "video/x-raw,format=GRAY8,width=8,height=8", most=2, name=name),
        ]
        for make in makes:
            with pytest.raises(RegistrationError, match="name= is a text"):
                make()
        assert not manager.components()[1:], "nothing was begun"
        g.Capture(manager, pipeline["s"]).close()


@pytest.mark.parametrize("mask", [0, -1, 1 << 40, 16, "BUFFER", None, True])
def test_a_mask_that_is_none_is_refused(g: Any, manager: SafetyManager, mask: Any) -> None:
    with g.PipelineGuard(manager, "videotestsrc ! fakesink name=s") as pipeline:
        pad = pipeline["s"].get_static_pad("sink")
        with pytest.raises(g.GuardError, match=r"takes a Gst\.PadProbeType"):
            g.ProbeGuard(manager, pad, mask, lambda *_: None)


def test_a_description_does_not_end_at_a_null_character(g: Any, manager: SafetyManager) -> None:
    with pytest.raises(g.DescriptionError, match="null character") as told:
        g.PipelineGuard(manager, "fakesrc name=a\0b ! nosuch")
    assert told.value.position == len("fakesrc name=a")


def test_a_mistake_without_a_place_is_told_without_one(g: Any, manager: SafetyManager) -> None:
    from lifecycle.integrations.gstreamer.pipelines.descriptions import place_of

    assert place_of("videotestsrc ! fakesink", "something that nobody has said before") == (None, 0)
    with pytest.raises(g.DescriptionError, match="a text such as") as caught:
        g.PipelineGuard(manager, " ")
    assert caught.value.position is None


def test_properties_that_an_element_does_not_have(g: Any, manager: SafetyManager) -> None:
    with g.PipelineGuard(manager, "videotestsrc name=s ! fakesink name=f") as pipeline:
        pipeline.set("s", num_buffers=7, pattern="ball", is_live="true")
        source = pipeline["s"]
        assert source.get_property("num-buffers") == 7
        assert source.get_property("pattern").value_nick == "ball"
        assert source.get_property("is-live") is True
        pipeline.set("s", pattern=1, is_live=False, num_buffers="0x10", timestamp_offset=5)
        assert source.get_property("pattern").value_nick == "snow"
        assert source.get_property("num-buffers") == 16
        wrong: tuple[tuple[dict[str, Any], str], ...] = (
            (
                {"num_bufers": 1},
                r"'.*s' \(videotestsrc\) has no property 'num-bufers'; did you mean num-buffers",
            ),
            ({"pattern": "nosuch"}, "'pattern' takes one of smpte, snow"),
            ({"pattern": 999}, "one of smpte"),
            ({"num_buffers": "x"}, "'num-buffers' takes a gint from -1 to 2147483647, not 'x'"),
            ({"num_buffers": 2**70}, "gint from -1"),
            ({"num_buffers": 1.5}, "gint from -1"),
            ({"num_buffers": None}, "gint from -1"),
            ({"num_buffers": -2}, "gint from -1"),
            ({"is_live": "maybe"}, "gboolean"),
            ({"num_buffers": 3, "nosuch": 1}, "no property 'nosuch'"),
            ({"num_buffers": 3, "name": 5}, "'name' takes a gchararray, not 5"),
        )
        for properties, said in wrong:
            with pytest.raises(g.GuardError, match=said):
                pipeline.set("s", **properties)
        assert source.get_property("num-buffers") == 16, "all or none"
        with pytest.raises(g.GuardError, match="'stats' can only be read"):
            pipeline.set("f", stats=1)
        with pytest.raises(g.GuardError, match="no element named 'nosuch'; it has f, s"):
            pipeline.set("nosuch", a=1)
        with g.ElementGuard(manager, source, pipeline) as element:
            element.set(num_buffers=1)
            with pytest.raises(g.GuardError, match="did you mean"):
                element.set(num_bufer=1)
        with pytest.raises(LifecycleError):
            element.set(num_buffers=1)


def test_a_value_that_gstreamer_would_leave_out_without_a_word(
    gst: Any, g: Any, manager: SafetyManager
) -> None:
    with g.PipelineGuard(
        manager, "compositor name=c ! capsfilter name=f caps=video/x-raw,width=64 ! fakesink playbin name=p"
    ) as pipeline:
        pipeline.set("p", flags="video+audio", volume=0.5)
        pipeline.set("f", caps="video/x-raw,width=32")
        sink = gst.Gst.ElementFactory.make("fakesink")
        pipeline.set("p", video_sink=sink, audio_sink=None)
        wrong: tuple[tuple[str, dict[str, Any], str], ...] = (
            ("p", {"volume": 0.25, "flags": "bogus"}, "'flags' takes a GstPlayFlags, not 'bogus'"),
            ("p", {"volume": 0.25, "video_sink": "nosuch"}, "'video-sink' takes a GstElement"),
            ("p", {"volume": 0.25, "video_sink": pipeline["c"].get_static_pad("src")}, "a GstElement"),
            ("f", {"caps": "video/x-raw,width="}, "'caps' takes a GstCaps"),
            ("f", {"caps": "\udcff"}, "'caps' takes a GstCaps"),
            ("f", {"caps": 7}, "'caps' takes a GstCaps"),
            ("c", {"force_live": True}, "'force-live' can only be given as the element is made"),
        )
        for element, properties, said in wrong:
            with pytest.raises(g.GuardError, match=said):
                pipeline.set(element, **properties)
        player = pipeline["p"]
        assert player.get_property("volume") == 0.5, "all or none"
        assert int(player.get_property("flags")) == 3
        assert player.get_property("video-sink") is sink
        assert pipeline["f"].get_property("caps").to_string() == "video/x-raw, width=(int)32"


def test_a_number_that_is_none_for_a_property(g: Any, manager: SafetyManager) -> None:
    with g.PipelineGuard(manager, "audiotestsrc name=s ! fakesink") as pipeline:
        pipeline.set("s", freq=300)
        for wrong in (math.nan, -1.0, math.inf, "loud"):
            with pytest.raises(g.GuardError, match="'freq' takes a gdouble from"):
                pipeline.set("s", freq=wrong)
        assert pipeline["s"].get_property("freq") == 300


def test_an_appsink_that_belongs_to_no_pipeline(gst: Any, g: Any, manager: SafetyManager) -> None:
    sink = gst.Gst.ElementFactory.make("appsink", "alone")
    with g.Capture(manager, sink) as capture, pytest.raises(g.NoFrames, match=r"'alone'.*in no pipeline"):
        next(capture.frames(timeout=0.05))


@pytest.mark.parametrize("wrong", [math.nan, -1.0, "soon", True])
def test_times_that_are_none(gst: Any, g: Any, manager: SafetyManager, wrong: Any) -> None:
    pipeline, sink = gst.launch()
    with g.PipelineGuard(manager, pipeline) as guard, g.Capture(manager, sink) as capture:
        asks: dict[str, Callable[[], Any]] = {
            "guard.play": lambda: guard.play(wrong),
            "guard.wait": lambda: guard.wait(wrong),
            "guard.seek": lambda: guard.seek(wrong),
            "seek(stop=)": lambda: guard.seek(0, stop=wrong),
            "seek(timeout=)": lambda: guard.seek(0, timeout=wrong),
            "eos": lambda: g.PipelineGuard(manager, "fakesrc ! fakesink", eos=wrong),
            "capture.wait": lambda: capture.wait(wrong),
            "capture.stop": lambda: capture.stop(wrong),
            "capture.close": lambda: capture.close(wrong),
            "frames": lambda: capture.frames(timeout=wrong),
        }
        for name, ask in asks.items():
            with pytest.raises(LifecycleError):
                raise AssertionError(f"{name} took {wrong!r}: {ask()!r}")
        assert not capture.closed
        assert next(capture.frames(timeout=10)).width == 64, "nothing was lost"


def test_a_bus_is_watched_once(g: Any, manager: SafetyManager) -> None:
    with g.PipelineGuard(manager, "videotestsrc num-buffers=1 ! fakesink name=f") as pipeline:
        with g.BusWatch(manager, pipeline):
            for source in (pipeline, pipeline.pipeline, pipeline.pipeline.get_bus()):
                with pytest.raises(DuplicateError, match=r"owned by gst\.BusWatch"):
                    g.BusWatch(manager, source)
        with g.BusWatch(manager, pipeline) as again:
            seen: list[Any] = []
            again.on("eos")(seen.append)
            pipeline.play()
            eventually(lambda: seen)


@pytest.mark.parametrize("what", ["pipeline", "capture", "watch", "branch", "element"])
def test_closed_twice_on_two_threads(gst: Any, g: Any, manager: SafetyManager, what: str) -> None:
    for _ in range(5):
        pipeline, sink = gst.launch(source="videotestsrc is-live=true", caps="tee name=t ! queue")
        guard = g.PipelineGuard(manager, pipeline)
        made: dict[str, Callable[[], Any]] = {
            "pipeline": lambda: guard,
            "capture": lambda: g.Capture(manager, sink),
            "watch": lambda: g.BusWatch(manager, guard),
            "branch": lambda: g.Tee(manager, guard, "t").attach("fakesink sync=false", name="b"),
            "element": lambda: g.ElementGuard(manager, "identity", guard),
        }
        thing = made[what]()
        barrier = threading.Barrier(3)
        answers: list[Any] = []

        def close() -> None:
            barrier.wait()
            try:
                answers.append(thing.close())
            except BaseException as error:
                answers.append(error)

        threads = [threading.Thread(target=close) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [True] * 3, answers
        assert thing.close() is True
        guard.close()
    eventually(lambda: manager.stats().active_objects == 0)


def test_caps_that_change_in_mid_stream(gst: Any, g: Any, manager: SafetyManager) -> None:
    """Sizes, formats, and sound behind pictures: each frame by its own caps, and what cannot be an array is
    said by the name of its capture."""
    sink = gst.Gst.parse_launch("appsrc name=s format=time ! appsink name=sink sync=false")
    source = sink.get_by_name("s")
    with g.PipelineGuard(manager, sink) as pipeline, g.Capture(manager, pipeline["sink"]) as capture:
        pipeline.play(timeout=0)
        shapes: list[Any] = []
        for caps, size in (
            ("video/x-raw,format=RGB,width=5,height=3,framerate=30/1", 16 * 3),
            ("video/x-raw,format=GRAY8,width=7,height=1,framerate=30/1", 8),
            ("video/x-raw,format=I420,width=2,height=2,framerate=30/1", 8),
            ("video/x-raw,format=RGB,width=0,height=3,framerate=30/1", 4),
            ("audio/x-raw,format=F32LE,rate=8000,channels=1,layout=interleaved", 16),
        ):
            source.set_property("caps", gst.Gst.Caps.from_string(caps))
            source.emit("push-buffer", gst.sample_of(bytes(size), caps).get_buffer())
        source.emit("end-of-stream")
        for frame in capture.frames(timeout=20):
            try:
                shapes.append(frame.array().shape)
            except g.FormatError as error:
                shapes.append(str(error).partition(": ")[0])
    assert shapes == [(3, 5, 3), (1, 7), "frame of 'sink'", "frame of 'sink'", (4, 1)]


def test_frames_of_no_bytes_and_of_an_odd_size(gst: Any, g: Any, manager: SafetyManager) -> None:
    """Each is told by itself, with the capture that it came from, and the stream goes on."""
    caps = "video/x-raw,format=RGB,width=65,height=3,framerate=30/1"
    pipeline = gst.Gst.parse_launch(
        f"appsrc name=source format=time caps={caps} ! appsink name=odd sync=false"
    )
    source = pipeline.get_by_name("source")
    whole = 196 * 3
    with g.Capture(manager, pipeline.get_by_name("odd")) as capture:
        pipeline.set_state(gst.Gst.State.PLAYING)
        for size in (0, 5, whole - 2, whole):
            buffer = gst.Gst.Buffer.new_wrapped(bytes(size)) if size else gst.Gst.Buffer.new()
            source.emit("push-buffer", buffer)
        source.emit("end-of-stream")
        told = []
        for frame in capture.frames(timeout=20):
            try:
                told.append(str(frame.array().shape))
            except g.ShortMemoryError as error:
                told.append(str(error))
        del frame
    gst.shutdown(pipeline)
    for size, text in zip((0, 5, whole - 2), told, strict=False):
        assert f"<Frame of 'odd', video/x-raw RGB 65×3: valid> has {size} bytes" in text
    assert told[3] == "(3, 65, 3)"
    assert len(told) == 4


RGB = "video/x-raw,format=RGB,width=5,height=3,framerate=30/1"


def test_a_memory_without_bytes(gst: Any, g: Any, adapter: Any) -> None:
    """One that was cut to nothing is mapped, and lies somewhere all the same."""
    buffer = gst.Gst.Buffer.new_allocate(None, 48, None)
    buffer.set_size(0)
    sample = gst.Gst.Sample.new(buffer, gst.Gst.Caps.from_string(RGB), None, None)
    with adapter.frame(sample) as frame, adapter.frame(sample) as other:
        assert len(frame.data()) == len(other.data()) == 0
        with pytest.raises(g.ShortMemoryError, match="has 0 bytes"):
            frame.array()
        with frame.download() as copy:
            assert len(copy.data()) == 0
        with frame.writable() as writable:
            assert len(writable.data()) == 0


@pytest.mark.parametrize("size", [1 << 46, 1 << 62, 1 << 63, 1 << 65])
def test_more_memory_than_there_is_does_not_end_the_process(
    g: Any, adapter: Any, manager: SafetyManager, size: int
) -> None:
    """GLib ends it where an allocation fails."""
    with pytest.raises(g.MapError, match=f"RGB 5×3: there is no memory for a buffer of {size} bytes"):
        adapter.buffer(RGB, size)
    with pytest.raises(PoolError, match="there is no memory for"):
        g.PoolAdapter(manager, RGB, size=size)
    with pytest.raises(PoolError, match=f"100 × {size} bytes"):
        g.PoolAdapter(manager, RGB, size=size, least=100, most=100)
    adapter.buffer(RGB, 100 << 20).close()


def test_a_buffer_of_a_pool_is_counted_in_32_bits(g: Any, manager: SafetyManager) -> None:
    """What is more would be cut off without a word."""
    with pytest.raises(PoolError, match=f"there is no memory for 1 × {(1 << 32) + 48} bytes"):
        g.PoolAdapter(manager, RGB, size=(1 << 32) + 48)


@pytest.mark.parametrize("caps", ["ANY", "EMPTY", "video/x-raw,format={RGB,BGR}"])
def test_caps_of_no_one_format_are_told_with_their_capture(
    gst: Any, g: Any, manager: SafetyManager, caps: str
) -> None:
    sample = gst.Gst.Sample.new(gst.Gst.Buffer.new(), gst.Gst.Caps.from_string(caps), None, None)
    with pytest.raises(g.SampleError, match="frame of 'door': caps «"):
        g.SampleAdapter(manager, name="door").frame(sample)


@pytest.mark.parametrize("size", [0, 1, 47])
def test_a_buffer_that_is_too_short_is_not_fed(gst: Any, g: Any, manager: SafetyManager, size: int) -> None:
    pipeline = gst.Gst.parse_launch("appsrc name=feed ! fakesink")
    short = gst.Gst.Buffer.new_allocate(None, size, None)
    sample = gst.Gst.Sample.new(short, gst.Gst.Caps.from_string(RGB), None, None)
    with g.Feeder(manager, pipeline.get_by_name("feed"), caps=RGB) as feeder:
        with pytest.raises(
            g.FormatError, match=f"'feed' feeds .*RGB 5×3, of 48 bytes, and this Buffer has {size}"
        ):
            feeder.push(short)
        with g.SampleAdapter(manager).frame(sample) as frame:
            with pytest.raises(g.FormatError, match=f"this Frame has {size}"):
                feeder.push(frame)
        feeder.push(gst.Gst.Buffer.new_allocate(None, 48, None))
        assert feeder.stats().pushed == 1
    with g.Feeder(manager, pipeline.get_by_name("feed"), caps="video/x-h264") as feeder:
        feeder.push(short)  # what is encoded may have any length


def test_an_element_of_a_pipeline_has_no_messages_of_its_own(g: Any, manager: SafetyManager) -> None:
    with g.PipelineGuard(manager, "fakesrc ! fakesink name=f", name="whole") as pipeline:
        with pytest.raises(g.GuardError, match=r"element 'f' is part of .*watch the pipeline"):
            g.BusWatch(manager, pipeline["f"])


def test_an_appsink_in_a_bin_alone_is_in_no_pipeline(gst: Any, g: Any, manager: SafetyManager) -> None:
    alone = gst.Gst.Bin.new("alone")
    sink = gst.Gst.ElementFactory.make("appsink", "inside")
    alone.add(sink)
    with g.Capture(manager, sink) as capture, pytest.raises(g.NoFrames, match=r"'inside'.*in no pipeline"):
        next(capture.frames(timeout=0.05))
