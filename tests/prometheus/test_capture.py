"""What a scrape says of a real capture: a pipeline runs, its callback panics now and then, and frames are
kept beyond it."""

from __future__ import annotations

import pytest

from tests.support import run_python

pytestmark = pytest.mark.needs("prometheus_client", "gstreamer", "numpy", "promtool")

PIPELINE = """
import subprocess, sys, time
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstApp", "1.0")
from gi.repository import Gst, GstApp
Gst.init(None)
from prometheus_client import CollectorRegistry, generate_latest
from lifecycle.integrations.gstreamer import Capture
from lifecycle.integrations.prometheus import LifecycleCollector
from lifecycle import SafetyManager

def scrape():
    text = generate_latest(registry)
    subprocess.run([sys.argv[1], "check", "metrics"], input=text, check=True)
    return dict(line.rsplit(" ", 1) for line in text.decode().splitlines() if not line.startswith("#"))

registry = CollectorRegistry()
started = time.time()
with SafetyManager(name="app") as manager:
    LifecycleCollector(manager, registry=registry)
    pipeline = Gst.parse_launch(
        "videotestsrc num-buffers=40 ! video/x-raw,format=RGB,width=320,height=240 ! appsink name=sink"
    )
    with Capture(manager, pipeline.get_by_name("sink"), name="front", errors=(KeyError,)) as capture:
        kept, seen = [], 0

        @capture.on_frame
        def look(frame):
            global seen
            seen += 1
            if seen % 10 == 0:
                raise RuntimeError("planted")
            if seen % 10 == 5:
                raise KeyError("declared")
            if seen in (2, 3):
                kept.append(frame.array())

        pipeline.set_state(Gst.State.PLAYING)
        assert capture.wait(20)
        pipeline.set_state(Gst.State.NULL)
        figures = scrape()
        for result, count in {"ok": 32, "error": 4, "panic": 4, "dropped": 0}.items():
            assert figures[f'lifecycle_capture_frames_total{{capture="front",manager="app",result="{result}"}}'] == f"{count}.0", figures
        assert figures['lifecycle_capture_callback_duration_seconds_count{capture="front",manager="app"}'] == "40.0", figures
        assert figures['lifecycle_capture_frames_held{capture="front",manager="app"}'] == "2.0", figures
        assert started <= float(figures['lifecycle_capture_last_frame_timestamp_seconds{capture="front",manager="app"}']) <= time.time()
        # What is not mapped is not registered.
        assert figures['lifecycle_registered_total{manager="app",type="gst.Sample"}'] == "2.0", figures
        assert figures['lifecycle_panics_total{manager="app",type="gst.Sample"}'] == "4.0", figures
        kept.clear()
        until = time.monotonic() + 10
        while scrape()['lifecycle_capture_frames_held{capture="front",manager="app"}'] != "0.0":
            assert time.monotonic() < until, "frames that nobody has are held"
final = scrape()
assert final['lifecycle_ended_total{end="released",manager="app",type="gst.Sample"}'] == "2.0", final
print("done")
"""


def test_a_scrape_of_a_real_capture(promtool: str) -> None:
    assert run_python(PIPELINE, argv=(promtool,), timeout=60).check().endswith("done\n")
