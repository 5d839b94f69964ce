"""Feeders: what arrives is what was made, nothing dies or changes under GStreamer, and no push waits for
ever."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from lifecycle import ClosedError, HeldError, LifecycleError, SafetyManager
from tests.support import eventually, run_python

pytestmark = pytest.mark.needs("gstreamer", "numpy")

ODD = "video/x-raw,format=RGB,width=321,height=7,framerate=30/1"
EVEN = "video/x-raw,format=RGB,width=64,height=48,framerate=30/1"


class Line:
    """appsrc ! something ! appsink, PLAYING, with a feeder."""

    def __init__(
        self, gst: ModuleType, manager: SafetyManager, caps: Any, middle: str = "", **options: Any
    ) -> None:
        from lifecycle.integrations.gstreamer import Feeder

        self.gst = gst
        self.pipeline = gst.Gst.parse_launch(
            f"appsrc name=src ! {middle} appsink name=sink sync=false enable-last-sample=false"
        )
        self.sink = gst.appsink_of(self.pipeline)
        self.feeder = Feeder(manager, self.pipeline.get_by_name("src"), caps=caps, **options)

    def play(self) -> Line:
        self.pipeline.set_state(self.gst.Gst.State.PLAYING)
        return self

    def stop(self) -> None:
        self.feeder.close()
        if self.pipeline is not None:
            self.gst.shutdown(self.pipeline)


@pytest.fixture
def line(gst: ModuleType, manager: SafetyManager) -> Iterator[Callable[..., Line]]:
    made: list[Line] = []

    def make(caps: Any = EVEN, middle: str = "", *, play: bool = True, **options: Any) -> Line:
        one = Line(gst, manager, caps, middle, **options)
        made.append(one)
        return one.play() if play else one

    yield make
    while made:
        made.pop().stop()


def pulled(line: Line, adapter: Any) -> Any:
    """What comes out, as an array of its own, and its time."""
    with adapter.frame(line.gst.pull(line.sink)) as frame:
        return frame.copy(), frame.pts


@pytest.mark.parametrize("caps", [EVEN, ODD], ids=["even", "odd"])
def test_a_lent_picture_is_pushed_at_the_end_of_its_block(line: Any, adapter: Any, caps: str) -> None:
    import numpy as np

    one = line(caps)
    for number in range(8):
        with one.feeder.frame(pts=number * 1000, duration=1000, timeout=20) as array:
            assert array.flags.writeable
            assert array.strides[0] % 4 == 0, "GStreamer's own"
            array[:] = np.arange(array.size).reshape(array.shape) % 251
            array[0, 0] = number
        picture, pts = pulled(one, adapter)
        assert pts == number * 1000
        assert picture[0, 0].tolist() == [number] * 3
        assert (
            picture[1:].ravel().tolist()
            == (np.arange(picture.size) % 251).reshape(picture.shape)[1:].ravel().tolist()
        )
    stats = one.feeder.stats()
    assert (stats.pushed, stats.copied) == (8, 0)


def test_what_was_lent_is_read_only_after_the_block(line: Any, adapter: Any) -> None:
    one = line()
    with one.feeder.frame() as array:
        array[:] = 5
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 6
    with pytest.raises(ValueError, match="cannot set WRITEABLE"):
        array[3:].flags.writeable = True
    picture, _ = pulled(one, adapter)
    assert (picture == 5).all()
    assert (array == 5).all(), "and stays good"


def test_a_slice_that_could_still_be_written_changes_nothing_downstream(line: Any, adapter: Any) -> None:
    one = line()
    with one.feeder.frame() as array:
        array[:] = 5
        part = array[:, ::2]
    part[:] = 9
    picture, _ = pulled(one, adapter)
    assert (picture == 5).all()
    assert one.feeder.stats().copied == 1


def test_after_an_exception_nothing_is_pushed(line: Any, adapter: Any) -> None:
    one = line()
    with pytest.raises(ZeroDivisionError):
        with one.feeder.frame() as array:
            array[:] = 1
            1 / 0
    with one.feeder.frame(pts=3) as array:
        array[:] = 2
    assert pulled(one, adapter)[1] == 3
    assert one.feeder.stats().pushed == 1


def test_planes_are_lent_together(line: Any, adapter: Any) -> None:
    one = line("video/x-raw,format=NV12,width=321,height=7,framerate=30/1")
    with one.feeder.frame(pts=0) as (y, uv):
        y[:], uv[..., 0], uv[..., 1] = 10, 20, 30
    with adapter.frame(one.gst.pull(one.sink)) as frame:
        planes = frame.planes()
        assert [plane.tolist() for plane in planes] == [
            [[10] * 321] * 7,
            [[[20, 30]] * 161] * 4,
        ]
        del planes


def test_memory_is_used_again_when_it_is_back(line: Any, adapter: Any) -> None:
    one = line()
    addresses = set()
    for number in range(50):
        with one.feeder.frame() as array:
            addresses.add(array.ctypes.data)
            array[:] = number
        del array
        assert (pulled(one, adapter)[0] == number).all()
    assert len(addresses) <= 8
    with one.feeder.frame() as kept:
        kept[:] = 77
    pulled(one, adapter)
    for number in range(10):
        with one.feeder.frame() as array:
            array[:] = number
        pulled(one, adapter)
    assert (kept == 77).all(), "memory that somebody looks at is not used again"


# -- pushing what one has ------------------------------------------------------------------------------------


def test_an_array_is_lent_without_a_copy_and_kept_alive(line: Any, adapter: Any, gst: ModuleType) -> None:
    import numpy as np

    one = line()
    array = np.arange(48 * 64 * 3, dtype=np.uint8).reshape(48, 64, 3)
    expected = array.copy()
    address = array.ctypes.data
    gone = weakref.ref(array)
    one.feeder.push(array, pts=7, lend=True)
    del array
    gc.collect()
    assert gone() is not None, "GStreamer has it"
    assert one.feeder.stats().outstanding == 1
    sample = gst.pull(one.sink)
    with adapter.frame(sample) as frame:
        assert (frame.array() == expected).all()
        assert frame.array().ctypes.data == address, "the very same memory"
        kept = frame.array()
    del sample, frame
    one.stop()
    assert (kept == expected).all(), "an array made from it keeps it too"
    del kept
    one.pipeline = one.sink = None  # an appsink keeps its last sample as long as it lives
    eventually(lambda: gone() is None)
    assert one.feeder.stats().outstanding == 0


def test_a_liar_of_lend_is_found(line: Any, adapter: Any, manager: SafetyManager) -> None:
    """Who has an older view of the memory can write to it; nothing can keep him from it."""
    import numpy as np

    for lies in (False, True):
        one = line(check_lent=True)
        picture = np.zeros((48, 64, 3), np.uint8)
        older: Any = memoryview(picture)  # type: ignore[arg-type]
        one.feeder.push(picture, pts=0, lend=True, timeout=20)
        if lies:
            older[0, 0, 0] = older[47, 63, 2] = 7
        with adapter.frame(one.gst.pull(one.sink)) as frame:
            assert frame.array().any() == lies
        del frame, picture, older
        one.stop()
        one.pipeline = one.sink = None  # an appsink keeps its last sample as long as it lives
        feeder = one.feeder
        eventually(lambda feeder=feeder: feeder.stats().outstanding == 0, timeout=20)  # type: ignore[misc]
        expected = int(lies)
        eventually(lambda expected=expected: manager.stats().panics == expected)  # type: ignore[misc]


def test_a_lent_array_cannot_be_written_any_more(line: Any) -> None:
    import numpy as np

    one = line()
    picture = np.zeros((48, 64, 3), np.uint8)
    one.feeder.push(picture, lend=True)
    with pytest.raises(ValueError, match="read-only"):
        picture[:] = 1
    whole = np.zeros((96, 64, 3), np.uint8)
    one.feeder.push(whole[48:], lend=True)
    with pytest.raises(ValueError, match="read-only"):
        whole[50] = 1


@pytest.mark.parametrize(
    "kind", ["bytearray", "array", "mmap", "memoryview", "cast", "ndarray", "view", "sealed", "over"]
)
def test_what_is_filled_again_is_copied(line: Any, adapter: Any, gst: ModuleType, kind: str) -> None:
    """What came out is what was pushed, however its memory is written later; nobody is locked out."""
    import array
    import mmap

    import numpy as np

    size = 48 * 64 * 3
    held: Any = bytearray(size)
    if kind == "array":
        held = array.array("B", held)
    elif kind == "mmap":
        held = mmap.mmap(-1, size)
    memory: Any = memoryview(held)
    pushed: Any = held
    if kind == "memoryview":
        pushed = memoryview(held).toreadonly()
    elif kind == "cast":
        pushed = memoryview(held).cast("H").cast("B")
    elif kind == "over":
        pushed = np.frombuffer(memoryview(held).toreadonly(), np.uint8).reshape(48, 64, 3)
    elif kind in ("ndarray", "view", "sealed"):
        whole = np.zeros((96, 64, 3), np.uint8)
        memory = whole[48:].reshape(-1).data
        pushed = whole[48:]
        if kind == "view":
            pushed = pushed.view()
            pushed.flags.writeable = False
        elif kind == "sealed":
            pushed = whole[48:].copy()
            memory = pushed.reshape(-1).data
            pushed.flags.writeable = False
    one = line()
    for value in b"ABC":
        memory[:] = bytes([value]) * size
        one.feeder.push(pushed, timeout=20)
    for value in b"ABC":
        sample = gst.pull(one.sink)
        with adapter.frame(sample) as frame:
            assert bytes(frame.data()) == bytes([value]) * size
    assert one.feeder.stats().copied == 3
    one.stop()


def test_what_nobody_can_write_is_lent(line: Any, adapter: Any, gst: ModuleType) -> None:
    import numpy as np

    one = line()
    picture = bytes(range(256)) * 36
    with adapter.frame(_a_sample(one, gst)) as frame:
        shown = frame.array()
        for what in (
            picture,
            memoryview(picture),
            memoryview(picture)[:].cast("B"),
            np.frombuffer(picture, np.uint8),
        ):
            one.feeder.push(what, timeout=20)
            gst.pull(one.sink)
        assert one.feeder.stats().copied == 0
        one.feeder.push(shown, timeout=20)
        sample = gst.pull(one.sink)
        with adapter.frame(sample) as again:
            assert again.array().ctypes.data == shown.ctypes.data, "the very same memory"
    assert one.feeder.stats().copied == 0
    del sample, again
    one.stop()


def _a_sample(one: Any, gst: ModuleType) -> Any:
    with one.feeder.frame(timeout=20) as picture:
        picture[:] = 7
    return gst.pull(one.sink)


@pytest.mark.parametrize("kind", ["bytearray", "memoryview", "over"])
def test_what_cannot_be_sealed_is_not_lent(line: Any, kind: str) -> None:
    import numpy as np

    from lifecycle.integrations.gstreamer import FeederError

    memory = bytearray(48 * 64 * 3)
    what: Any = {
        "bytearray": memory,
        "memoryview": memoryview(memory),
        "over": np.frombuffer(memory, np.uint8).reshape(48, 64, 3),
    }[kind]
    one = line()
    with pytest.raises(FeederError, match="cannot be lent"):
        one.feeder.push(what, lend=True)
    one.feeder.push(what, timeout=20)
    assert one.feeder.stats().copied == 1
    memory[0] = 1
    one.stop()


def test_rows_that_lie_otherwise_are_put_right(line: Any, adapter: Any) -> None:
    """An unpadded odd width, a crop, a flip, a transposition, a broadcast: the same picture arrives."""
    import numpy as np

    random = np.random.default_rng(1)
    pictures = [
        random.integers(0, 255, (7, 321, 3), dtype=np.uint8),
        random.integers(0, 255, (20, 400, 3), dtype=np.uint8)[5:12, 30:351],
        random.integers(0, 255, (7, 321, 3), dtype=np.uint8)[::-1],
        random.integers(0, 255, (7, 321, 3), dtype=np.uint8)[..., ::-1],
        random.integers(0, 255, (321, 7, 3), dtype=np.uint8).transpose(1, 0, 2),
        np.broadcast_to(np.array([1, 2, 3], np.uint8), (7, 321, 3)),
    ]
    for options in ({}, {"video_meta": True}):
        one = line(ODD, "videoconvert ! video/x-raw,format=BGR !", **options)
        for picture in pictures:
            one.feeder.push(picture.copy("K") if picture.strides[0] else picture, timeout=20, lend=True)
            arrived, _ = pulled(one, adapter)
            assert (arrived[..., ::-1] == picture).all()
        copied = one.feeder.stats().copied
        assert copied == len(pictures) if not options else copied < len(pictures)


def test_gray_sound_and_bytes(line: Any, adapter: Any, gst: ModuleType) -> None:
    import numpy as np

    gray = line("video/x-raw,format=GRAY16_LE,width=5,height=3,framerate=30/1")
    picture = np.arange(15, dtype="<u2").reshape(3, 5) * 1000
    gray.feeder.push(picture)
    assert (pulled(gray, adapter)[0] == picture).all()
    sound = line(
        "audio/x-raw,format=F32LE,rate=48000,channels=2,layout=interleaved,channel-mask=(bitmask)0x3"
    )
    for length in (1, 480, 1000):
        wave = np.linspace(-1, 1, length * 2, dtype="<f4").reshape(length, 2)
        sound.feeder.push(wave, pts=0)
        assert (pulled(sound, adapter)[0] == wave).all()
    sound.feeder.push(np.ones((2, 480), "<f4").T)
    assert pulled(sound, adapter)[0].shape == (480, 2)
    encoded = line("video/x-h264,stream-format=byte-stream,alignment=au")
    for data in (
        b"\x00\x00\x01abc",
        bytearray(b"12"),
        memoryview(b"345")[1:],
        np.frombuffer(b"6789", np.uint8),
    ):
        encoded.feeder.push(data)
        with adapter.frame(gst.pull(encoded.sink)) as frame:
            assert bytes(frame.data()) == bytes(data)
    planar = line("video/x-raw,format=I420,width=8,height=4,framerate=30/1")
    stacked = np.arange(48, dtype=np.uint8).reshape(6, 8)
    planar.feeder.push(stacked)
    planar.feeder.push(stacked.tobytes())
    planar.feeder.push((stacked[:4], stacked[4].reshape(2, 4), stacked[5].reshape(2, 4)))
    for _ in range(3):
        with adapter.frame(gst.pull(planar.sink)) as frame:
            assert bytes(frame.data()) == stacked.tobytes()


@pytest.mark.parametrize(
    "wrong",
    [
        "np.zeros((64, 48, 3), np.uint8)",
        "np.zeros((48, 64, 4), np.uint8)",
        "np.zeros((48, 64), np.uint8)",
        "np.zeros((48, 64, 3), np.float32)",
        "np.zeros((48, 64, 3), np.int8)",
        "np.zeros((48, 64, 3), bool)",
        "np.zeros((48, 64, 3), object)",
        "np.ma.zeros((48, 64, 3), np.uint8)",
        "np.zeros(48 * 64 * 3 + 1, np.uint8)",
        "np.zeros(0, np.uint8)",
        "np.array('text')",
        "b'short'",
        "b''",
        "memoryview(bytes(2 * 48 * 64 * 3))[::2]",
        "(np.zeros((48, 64), np.uint8),)",
        "()",
        "[[1, 2], [3]]",
        "object()",
        "None",
        "'text'",
    ],
)
def test_what_would_be_another_picture_is_refused(line: Any, wrong: str) -> None:
    import numpy as np

    from lifecycle.integrations.gstreamer import FormatError

    one = line()
    given = eval(wrong, {"np": np})
    with pytest.raises(FormatError, match="feeder 'src'"):
        one.feeder.push(given)
    if isinstance(given, np.ndarray) and given.dtype != object:
        assert given.flags.writeable, "it is still its owner's"
    stats = one.feeder.stats()
    assert (stats.pushed, stats.outstanding) == (0, 0)


@pytest.mark.parametrize("time_of", ["pts", "duration"])
@pytest.mark.parametrize("wrong", [-1, 0.5, "1", True])
def test_times_are_nanoseconds(line: Any, time_of: str, wrong: Any) -> None:
    one = line()
    with pytest.raises(LifecycleError, match=rf"{time_of}= takes whole nanoseconds"):
        one.feeder.push(bytes(48 * 64 * 3), **{time_of: wrong})
    with pytest.raises(LifecycleError, match=rf"{time_of}= takes whole nanoseconds"):
        one.feeder.frame(**{time_of: wrong})


# -- frames --------------------------------------------------------------------------------------------------


def test_captured_frames_are_handed_on_without_a_copy(
    line: Any, adapter: Any, gst: ModuleType, manager: SafetyManager
) -> None:
    one = line(None, max_buffers=20)
    pipeline, sink = gst.launch(frames=3)
    try:
        for _ in range(3):
            with adapter.frame(gst.pull(sink)) as frame:
                address = frame.array().ctypes.data
                one.feeder.push(frame, pts=9)
                frame.array()  # still good
                with adapter.frame(gst.pull(one.sink)) as arrived:
                    assert arrived.pts == 9
                    assert arrived.array().ctypes.data == address
    finally:
        gst.shutdown(pipeline)
    assert one.feeder.caps.to_string().startswith("video/x-raw, format=(string)RGB, width=(int)64")


def test_a_writable_frame_is_handed_on_when_nothing_writes_it_any_more(
    line: Any, adapter: Any, gst: ModuleType, manager: SafetyManager
) -> None:
    one = line()
    with adapter.buffer(EVEN) as writable:
        array = writable.array()
        array[:] = 4
        address = array.ctypes.data
        with pytest.raises(HeldError, match="held by view made at"):
            one.feeder.push(writable)
        del array
        one.feeder.push(writable, pts=5)
        assert writable.closed
    sample = gst.pull(one.sink)
    with adapter.frame(sample) as frame:
        assert frame.array().ctypes.data == address
        assert frame.pts == 5
        assert (frame.array() == 4).all()


def test_caps_that_change_under_a_fixed_feeder_are_refused_and_followed_otherwise(
    line: Any, adapter: Any, gst: ModuleType
) -> None:
    from lifecycle.integrations.gstreamer import FormatError

    fixed, follows = line(EVEN), line(None)
    small = gst.sample_of(bytes(64 * 48 * 3))
    large = gst.sample_of(bytes(96 * 48 * 3), EVEN.replace("64", "96"))
    with adapter.frame(small) as frame:
        fixed.feeder.push(frame)
        follows.feeder.push(frame)
    with adapter.frame(large) as frame:
        with pytest.raises(FormatError, match=r"width=\(int\)96.*convert it"):
            fixed.feeder.push(frame)
        follows.feeder.push(frame)
    for width in (64, 96):
        with adapter.frame(gst.pull(follows.sink)) as frame:
            assert frame.width == width


def test_a_buffer_is_pushed_as_it_is(line: Any, adapter: Any, gst: ModuleType) -> None:
    one = line()
    buffer = gst.sample_of(bytes([3]) * (48 * 64 * 3)).get_buffer()
    buffer.pts = 4
    one.feeder.push(buffer)
    one.feeder.push(buffer, pts=6)
    assert [pulled(one, adapter)[1] for _ in range(2)] == [4, 6]
    assert buffer.pts == 4


# -- waiting and the end -------------------------------------------------------------------------------------


def test_a_push_waits_for_room_and_no_longer(line: Any, gst: ModuleType, adapter: Any) -> None:
    from lifecycle.integrations.gstreamer import FeederFull

    one = line(max_buffers=2)
    one.sink.set_property("max-buffers", 1)
    data = bytes(48 * 64 * 3)
    with pytest.raises(
        FeederFull, match=r"no room within 0\.5 s: 2 buffers wait .*max_buffers=2.*PLAYING"
    ) as caught:
        for _ in range(20):
            one.feeder.push(data, timeout=0.5)
    assert isinstance(caught.value, TimeoutError)
    pushed = one.feeder.stats().pushed
    assert 3 <= pushed <= 6
    with pytest.raises(FeederFull):
        with one.feeder.frame(timeout=0):
            raise AssertionError("lent without room")
    later = threading.Timer(0.1, lambda: [gst.pull(one.sink) for _ in range(3)])
    later.start()
    one.feeder.push(data, timeout=20)
    assert one.feeder.stats().pushed == pushed + 1
    later.join(20)  # before the pipeline ends, and with it what there is to be pulled


@pytest.mark.parametrize("how", ["manager", "feeder"])
def test_whoever_waits_is_told_of_the_end(gst: ModuleType, how: str) -> None:
    manager = SafetyManager(name="short")
    one = Line(gst, manager, EVEN, max_buffers=1).play()
    one.sink.set_property("max-buffers", 1)
    caught: list[BaseException] = []
    waiting = threading.Event()

    def feed() -> None:
        try:
            while True:
                if one.feeder.stats().waiting:
                    waiting.set()
                one.feeder.push(bytes(48 * 64 * 3))
        except ClosedError as error:
            caught.append(error)

    thread = threading.Thread(target=feed)
    thread.start()
    assert waiting.wait(20)
    time.sleep(0.05)
    manager.close() if how == "manager" else one.feeder.close()
    thread.join(20)
    assert not thread.is_alive()
    assert f"{how} '{'short' if how == 'manager' else 'src'}' is closed" in str(caught[0])
    for ask in (
        lambda: one.feeder.push(b""),
        lambda: one.feeder.frame().__enter__(),
        one.feeder.end_of_stream,
        one.feeder.__enter__,
    ):
        with pytest.raises(LifecycleError, match=r"closed|bytes"):
            ask()
    one.stop()
    manager.close()


def test_an_error_of_the_pipeline_ends_the_wait(line: Any, gst: ModuleType) -> None:
    from lifecycle.integrations.gstreamer import PipelineError

    one = line(EVEN, "identity error-after=3 name=breaks ! ", max_buffers=1)
    with pytest.raises(PipelineError, match="breaks") as caught:
        for _ in range(50):
            one.feeder.push(bytes(48 * 64 * 3), timeout=20)
    assert caught.value.element == "breaks"
    assert caught.value.debug


def test_a_pipeline_that_does_not_run(line: Any, gst: ModuleType, adapter: Any) -> None:
    from lifecycle.integrations.gstreamer import FeederError, FeederFull

    one = line(play=False, max_buffers=2)
    data = bytes(48 * 64 * 3)
    one.feeder.push(data, pts=1)
    one.feeder.push(data, pts=2)
    with pytest.raises(FeederFull, match="which is NULL"):
        one.feeder.push(data, timeout=0.02)
    one.play()
    assert [pulled(one, adapter)[1] for _ in range(2)] == [1, 2], "what came early is not lost"
    one.feeder.end_of_stream()
    with pytest.raises(FeederError, match="after the end of the stream"):
        one.feeder.push(data)
    gst.shutdown(one.pipeline)
    with pytest.raises(FeederError, match=r"takes nothing .* NULL; set the pipeline to PLAYING"):
        one.feeder.push(data)
    one.play()
    one.feeder.push(data, pts=3)
    assert pulled(one, adapter)[1] == 3


def test_what_a_feeder_cannot_be_made_of(gst: ModuleType, manager: SafetyManager) -> None:
    from lifecycle.integrations.gstreamer import Feeder, FeederError, GuardError, SampleError

    source = gst.Gst.ElementFactory.make("appsrc")
    for wrong in (None, 7, gst.Gst.ElementFactory.make("fakesrc")):
        with pytest.raises(FeederError, match="an appsrc"):
            Feeder(manager, wrong)
    with pytest.raises(GuardError, match="the first argument is the SafetyManager"):
        Feeder(None, source)  # type: ignore[arg-type]
    most: Any
    for most in (0, -1, True, 1.5):
        with pytest.raises(FeederError, match="max_buffers="):
            Feeder(manager, source, max_buffers=most)
    with pytest.raises(SampleError, match="caps"):
        Feeder(manager, source, caps="nonsense, caps")
    feeder = Feeder(manager, source)
    with pytest.raises(FeederError, match="has no caps"):
        feeder.push(b"1234")
    with pytest.raises(FeederError, match="has no caps"):
        feeder.frame().__enter__()
    timeout: Any
    for timeout in (-1, "1", float("nan"), True):
        with pytest.raises(FeederError, match="timeout="):
            feeder.push(gst.Gst.Buffer.new(), timeout=timeout)
    feeder.close()
    other = SafetyManager(name="gone")
    other.close()
    with pytest.raises(ClosedError, match="'gone' is closed"):
        Feeder(other, source)


def test_several_threads_feed_at_once(line: Any, gst: ModuleType, adapter: Any) -> None:
    one = line(max_buffers=3)
    failures: list[BaseException] = []

    def feed(value: int) -> None:
        try:
            for _ in range(50):
                with one.feeder.frame(timeout=20) as array:
                    array[:] = value
                del array
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=feed, args=(value,)) for value in (1, 2, 3)]
    for thread in threads:
        thread.start()
    seen = []
    for _ in range(150):
        with adapter.frame(gst.pull(one.sink)) as frame:
            low, high = int(frame.array().min()), int(frame.array().max())
            assert low == high, "two pictures in one"
            seen.append(low)
    for thread in threads:
        thread.join(20)
    assert not failures
    assert sorted(seen) == [1] * 50 + [2] * 50 + [3] * 50
    assert one.feeder.stats().pushed == 150


def test_a_program_may_end_while_gstreamer_still_reads_its_arrays() -> None:
    """At exit, PLAYING, with arrays in the queue: nothing frees them under the streaming thread."""
    run_python(
        """
        import numpy as np
        from tests.gstreamer.program import Gst
        from lifecycle import SafetyManager
        from lifecycle.integrations.gstreamer import Feeder
        pipeline = Gst.parse_launch("appsrc name=src ! videoconvert ! video/x-raw,format=BGR ! fakesink sync=true")
        feeder = Feeder(SafetyManager(), pipeline.get_by_name("src"), max_buffers=50,
                        caps="video/x-raw,format=RGB,width=1920,height=1080,framerate=30/1")
        pipeline.set_state(Gst.State.PLAYING)
        for number in range(40):
            feeder.push(np.full((1080, 1920, 3), number, np.uint8), pts=number)
        assert feeder.stats().outstanding > 0
        del feeder
        import atexit
        atexit.register(pipeline.set_state, Gst.State.NULL)
        """,
        env={"MALLOC_MMAP_THRESHOLD_": "65536"},
    ).check()
