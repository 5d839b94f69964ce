"""``lifecycle run --gst``: what is told of each mistake of `tests.gstreamer.mistakes`, which a program makes that
knows nothing of this library; and that nothing is told of clean programs, whose results stay their own."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from lifecycle.cli.main import main
from lifecycle.recorder.postmortem import analyse
from lifecycle.recorder.reader import read
from tests.core.adversary import STORM
from tests.gstreamer.test_mistakes import BY_CHANCE, DIES, FATAL, LIVING, TRAPS
from tests.recorder.scenes import start
from tests.support import ROOT, Finished

pytestmark = pytest.mark.needs("gstreamer", "numpy", "gst-overrides")
SITE = ROOT / "lifecycle" / "watch" / "site"

HERE = r"tests/gstreamer/mistakes\.py:\d+"
KEPT = f"risk: a view outlives its mapping: mapped at {HERE}, unmapped at {HERE}"
MISSED = "missed"

TOLD = {
    "array-kept-after-unmap": KEPT,
    "fd-memory-kept-after-unmap": KEPT,
    "the-pool-recycles-the-buffer": KEPT,
    "another-thread-reads-while-the-first-unmaps": f"{KEPT}|{MISSED}",  # it dies in the unmapping, or behind it
    "map-info-memory-after-unmap": f"risk: info.memory behind the unmapping: mapped at {HERE}, unmapped at {HERE}: at {HERE}",
    "unmapped-twice": f"unmapped twice: mapping of Buffer made at {HERE}: at {HERE}; first at {HERE}",
    "never-unmapped": f"never unmapped: mapping of Buffer made at {HERE}",
    "write-through-a-read-mapping": MISSED,  # by C functions that are not GStreamer's Python
    "fd-truncated-under-a-mapping": MISSED,
    "wrapped-bytes-not-kept-alive": MISSED,  # the row wraps them by ctypes
    "a-write-view-kept-after-push": f"risk: pushed while it can be written to, mapped at {HERE}: Buffer at {HERE}",
    "unref-by-hand": f"unref by hand of what Python holds: fakesink 'sink' at {HERE}",
    "a-playing-pipeline-dropped": rf"dropped without set_state\(NULL\).*: Pipeline '.*', PLAYING since {HERE}",
    "a-playing-element-removed": rf"dropped without set_state\(NULL\).*: GstFakeSink 'sink', PLAYING since {HERE}",
    "null-before-unlink": rf"set_state\(NULL\) of what is still linked to tee 't': .*: fakesink 'x' at {HERE}",
    "the-last-branch-unlinked": f"the last branch unlinked while it plays, .*: tee 't' at {HERE}",
    "a-request-pad-released-twice": f"release_request_pad of a pad that it does not have .*: tee '.*' at {HERE}",
    "null-from-new-sample": rf"set_state\(NULL\) on a streaming thread, which waits for itself: pipeline .* at {HERE}",
    "null-under-a-lock-that-a-probe-wants": MISSED,
    "an-exception-in-new-sample": f"ValueError left a callback, which no code on its thread catches: fail at {HERE}",
    "an-exception-in-a-probe": f"ValueError left a callback, which counts as DROP: fail at {HERE}",
    "raising-before-the-pull": f"ValueError left a callback, which no code on its thread catches: fail at {HERE}",
    "samples-in-a-cycle": r"risk: 32 samples are alive at a time: pulled at tests/gstreamer/program\.py:\d+",
    "a-pooled-buffer-released-by-hand": f"release_buffer by hand: .*: Gst.BufferPool at {HERE}",
    "samples-of-a-bounded-pool-kept": rf"\d samples kept from a bounded pool, and none comes any more: .* {HERE}",
    "exit-while-playing": rf"never set to NULL before the end: Pipeline '.*', PLAYING since {HERE}",
    "fork-after-init": f"GStreamer used in a forked child, whose parent's threads are not there: pipeline .* at {HERE}",
    "live-objects-of-the-leaks-tracer": f"get-live-objects of the leaks tracer .*: GstLeaksTracer '.*' at {HERE}",
    "an-appsink-that-nobody-drains": r"risk: full \(max-buffers=2\), and nothing was ever pulled from it: appsink '.*' at ",
}
"""What is told of each: a mistake, a risk, or nothing, which is said on the page."""

NAMED = {
    "array-kept-after-unmap": r"mapping of Buffer \d+: byte \d+ of its 6,220,800; released on MainThread",
    "fd-memory-kept-after-unmap": r"mapping of Buffer \d+: byte \d+ of its 9,216; released on MainThread",
    "another-thread-reads-while-the-first-unmaps": r"mapping of Buffer \d+: byte .* released on MainThread",
    "fd-truncated-under-a-mapping": r"mapping of Buffer \d+: byte 0 of its 1,048,576; it was not released",
    "live-objects-of-the-leaks-tracer": r"GstLeaksTracer .*: get-live-objects",
    "unmapped-twice": r"mapping of Buffer \d+: unmapped twice",
    "unref-by-hand": r"fakesink 'sink' \d+: unref by hand",
    "a-playing-pipeline-dropped": r"Pipeline \d+: dropped without",
    "a-playing-element-removed": r"GstFakeSink \d+: dropped without",
}
"""What the post-mortem names first where the program dies of it; of the others nothing."""

QUICK = (
    "the-pool-recycles-the-buffer",
    "never-unmapped",
    "the-last-branch-unlinked",
    "a-request-pad-released-twice",
    "an-exception-in-new-sample",
    "samples-in-a-cycle",
    "a-pooled-buffer-released-by-hand",
)
"""The rows of every run, in one process; ``LIFECYCLE_STORM=10`` makes all of them, each in its own."""


def order(**more: object) -> dict[str, str]:
    """What `lifecycle run` puts into the environment."""
    said = {"watch": [], "gst": True, "make_safe": False, "verbose": True, "to": "", "pid": 0, **more}
    return {"LIFECYCLE_RUN": json.dumps(said), "PYTHONPATH": f"{SITE}{os.pathsep}{ROOT}"}


def rows(*names: str, **env: str) -> Finished:
    return start(
        ROOT,
        "-m",
        "tests.gstreamer.mistakes",
        "raw",
        *names,
        env={**TRAPS, "PYTHONFAULTHANDLER": "", "PYTHONWARNINGS": "ignore", **order(), **env},
    )


def told_of(done: Finished) -> list[str]:
    return [line.partition(": ")[2] for line in done.stderr.splitlines() if line.startswith("lifecycle")]


def is_told(row: str, lines: list[str]) -> None:
    *patterns, last = TOLD[row].split("|")
    found = [line for line in lines if any(re.match(one, line) for one in (*patterns, last))]
    if MISSED in TOLD[row].split("|"):
        return
    assert found, (row, lines)


def test_every_row_is_in_the_table() -> None:
    assert set(TOLD) == {*FATAL, *LIVING}


def test_quick_rows_are_told_and_come_to_the_same() -> None:
    done = rows(*QUICK)
    done.check()
    outcomes = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    for row in QUICK:
        assert re.search(LIVING[row], outcomes[row]), (row, outcomes)
        is_told(row, told_of(done))
    assert not [line for line in told_of(done) if "could not be looked at" in line]


@pytest.mark.skipif(STORM < 10, reason="LIFECYCLE_STORM=10 makes every row, in a process of its own")
@pytest.mark.timeout(120)
@pytest.mark.parametrize("row", TOLD)
def test_every_row(row: str, tmp_path: Path) -> None:
    path = tmp_path / "row.rec"
    done = rows(row, LIFECYCLE_RECORDER=str(path))
    lines = told_of(done)
    outcome = "".join(line for line in done.stdout.splitlines() if line.startswith(row))
    outcome = outcome or f"died of {done.rc}"
    if row not in BY_CHANCE:
        assert re.search(FATAL.get(row) or LIVING[row], outcome), (outcome, done)
    is_told(row, lines)
    certain = [
        line for line in lines if not line.startswith(("risk: ", "not watched: ")) and "watched: " not in line
    ]
    if TOLD[row].startswith(("risk: ", MISSED)):
        expected = ["never unmapped"] if row == "fd-truncated-under-a-mapping" and done.rc >= 0 else []
        assert [line.partition(":")[0] for line in certain] == expected
    if re.match(DIES, outcome):
        report = analyse(read(path))
        names = [f"{one.life}: {one.why}" for one in report.suspects]
        if row in NAMED:
            assert names, str(report)
            assert re.match(NAMED[row], names[0]), names
        else:
            assert not names


CLEAN = """
import gc, sys, threading, time, warnings
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstApp", "1.0")
from gi.repository import GLib, Gst, GstApp
import numpy as np
print(Gst.init(None), Gst.is_initialized(), [str(one).partition(" at ")[0] for one in sys.meta_path][:1])
CAPS = "video/x-raw,format=RGB,width=64,height=48,framerate=100/1"

def total(buffer):
    with buffer.map(Gst.MapFlags.READ) as info:
        array = np.frombuffer(info.data, np.uint8)
        return int(array.sum() > 0), info.size, info.data.readonly, info.data.format, info.data.shape

def loop():
    pipeline = Gst.parse_launch(f"videotestsrc num-buffers=6 ! {CAPS} ! appsink name=s sync=false")
    pipeline.set_state(Gst.State.PLAYING)
    sink = pipeline.get_by_name("s")
    found = []
    while (sample := sink.emit("try-pull-sample", 5 * Gst.SECOND)) is not None:
        buffer = sample.get_buffer()
        ok, info = buffer.map(Gst.MapFlags.READ)
        array = np.frombuffer(info.data, np.uint8)
        found.append(array.size)
        buffer.unmap(info)
        found.append(total(buffer))
    print(found, sink.props.eos, pipeline.set_state(Gst.State.NULL).value_nick)

def callbacks():
    pipeline = Gst.parse_launch(f"videotestsrc num-buffers=5 ! {CAPS} ! identity name=i ! "
                                "appsink name=s sync=false emit-signals=true")
    seen = []
    def sample(sink):
        seen.append(sink.pull_sample().get_buffer().get_size())
        return Gst.FlowReturn.OK
    def probe(pad, info, word):
        seen.append((word, info.get_buffer().pts, type(pad).__name__))
        return Gst.PadProbeReturn.OK
    pad = pipeline.get_by_name("i").get_static_pad("src")
    number = pad.add_probe(Gst.PadProbeType.BUFFER, probe, "word")
    sink = pipeline.get_by_name("s")
    sink.connect("new-sample", sample)
    loop = GLib.MainLoop()
    bus = pipeline.get_bus()
    bus.add_signal_watch()
    bus.connect("message::eos", lambda *_: loop.quit())
    pipeline.set_state(Gst.State.PLAYING)
    loop.run()
    pad.remove_probe(number)
    sink.disconnect_by_func(sample)
    bus.remove_signal_watch()
    pipeline.set_state(Gst.State.NULL)
    print(sorted(map(str, seen)))

def branch():
    pipeline = Gst.parse_launch(f"videotestsrc is-live=true ! {CAPS} ! tee name=t allow-not-linked=true ! "
                                "queue ! fakesink async=false")
    pipeline.set_state(Gst.State.PLAYING)
    tee = pipeline.get_by_name("t")
    sink = Gst.ElementFactory.make("fakesink", None)
    sink.set_property("async", False)
    pipeline.add(sink)
    sink.sync_state_with_parent()
    pad = tee.request_pad_simple("src_%u")
    print(pad.link(sink.get_static_pad("sink")).value_nick)
    done = threading.Event()
    def unlink(pad, info):
        pad.unlink(sink.get_static_pad("sink"))
        done.set()
        return Gst.PadProbeReturn.REMOVE
    time.sleep(0.05)
    pad.add_probe(Gst.PadProbeType.IDLE, unlink)
    done.wait(10)
    tee.release_request_pad(pad)
    sink.set_locked_state(True)
    sink.set_state(Gst.State.NULL)
    pipeline.remove(sink)
    del sink
    gc.collect()
    pipeline.set_state(Gst.State.NULL)

def pushing():
    pipeline = Gst.parse_launch(f"appsrc name=a format=time caps={CAPS} ! fakesink")
    pipeline.set_state(Gst.State.PLAYING)
    for number in range(3):
        buffer = Gst.Buffer.new_allocate(None, 64 * 48 * 3, None)
        with buffer.map(Gst.MapFlags.WRITE) as info:
            info.data[:] = bytes([number]) * len(info.data)
        buffer.pts = number * 10
        print(pipeline.get_by_name("a").emit("push-buffer", buffer).value_nick)
    pipeline.set_state(Gst.State.NULL)

loop()
callbacks()
branch()
pushing()
try:
    Gst.ElementFactory.make("fakesink", None).set_state(object())
except TypeError:
    import traceback
    traceback.print_exc()
try:
    with Gst.Buffer.new_wrapped(b"abc").map(Gst.MapFlags.READ) as info:
        print(bytes(info.data), info.data[0], info.flags)
        raise ValueError("mine")
finally:
    gc.collect()
"""


def test_a_clean_program_is_silent_and_its_results_are_its_own(tmp_path: Path) -> None:
    (tmp_path / "clean.py").write_text(CLEAN, encoding="utf-8")
    plain, watched = (
        start(tmp_path, "clean.py", env=env)
        for env in ({}, order(verbose=False) | {"LIFECYCLE_RECORDER": ""})
    )
    assert plain.rc == 1
    assert "ValueError: mine" in plain.stderr
    assert watched == plain


SLICES = """
import gi
gi.require_version("Gst", "1.0")
from gi.repository import Gst
Gst.init(None)

def frames(keep):
    for number in range(4):
        buffer = Gst.Buffer.new_wrapped(bytes([number]) * 100_000)
        with buffer.map(Gst.MapFlags.READ) as info:
            keep.append(info.data[10:20])
    return keep

kept = frames([])
print([bytes(one)[:1] for one in kept])
"""


def test_views_that_are_kept_over_more_mappings_are_a_mistake_and_hold_them_if_made_safe(
    tmp_path: Path,
) -> None:
    (tmp_path / "slices.py").write_text(SLICES, encoding="utf-8")
    told = start(tmp_path, "slices.py", env=order(verbose=False)).stderr
    assert told.startswith(
        "lifecycle: a view outlives its mapping: mapped at slices.py:10, unmapped at slices.py:10, and kept over 2 more\n"
    )
    env = order(verbose=False, make_safe=True) | {"MALLOC_PERTURB_": "165", "MALLOC_MMAP_THRESHOLD_": "4096"}
    done = start(tmp_path, "slices.py", env=env)
    assert done.stdout == r"[b'\x00', b'\x01', b'\x02', b'\x03']" + "\n", done
    assert done.rc == 0


LINKS = """
import gi
gi.require_version("Gst", "1.0")
from gi.repository import Gst
Gst.init(None)
pipeline = Gst.parse_launch("videotestsrc num-buffers=3 ! fakesink name=sink")

def probed(pad, info):
    pad.get_peer().link(pad)
    return Gst.PadProbeReturn.OK

pipeline.get_by_name("sink").get_static_pad("sink").add_probe(Gst.PadProbeType.BUFFER, probed)
pipeline.set_state(Gst.State.PLAYING)
pipeline.get_bus().timed_pop_filtered(20 * Gst.SECOND, Gst.MessageType.EOS)
pipeline.set_state(Gst.State.NULL)
"""


@pytest.mark.needs("gst-overrides")
def test_an_exception_that_pygobject_raises_in_a_callback_is_told_with_the_programs_line(
    tmp_path: Path,
) -> None:
    (tmp_path / "links.py").write_text(LINKS, encoding="utf-8")
    done = start(tmp_path, "links.py", env=order(verbose=False))
    (told,) = [line for line in told_of(done) if "watched" not in line]
    assert told == "LinkError left a callback, which counts as DROP: probed at links.py:9"


def test_make_safe_is_of_gst(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--make-safe", __file__]) == 2
    assert "--make-safe is of --gst" in capsys.readouterr().err
