"""The recipe for pipelines in several processes: GStreamer's own elements, which 1.24 has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numpy")
pytestmark = pytest.mark.needs("gstreamer")

from lifecycle import SafetyManager
from tests.support import ROOT, eventually

SOURCE = """
import sys
import gi
gi.require_version("Gst", "1.0")
from gi.repository import Gst
Gst.init(None)
pipeline = Gst.parse_launch(
    "videotestsrc is-live=true ! video/x-raw,format=RGB,width=64,height=48,framerate=30/1 "
    f"! unixfdsink socket-path={sys.argv[1]}"
)
pipeline.set_state(Gst.State.PLAYING)
sys.stdin.read()
pipeline.set_state(Gst.State.NULL)
"""


def test_a_pipeline_of_another_process_is_captured_by_unixfd(manager: SafetyManager, tmp_path: Path) -> None:
    from gi.repository import Gst

    from lifecycle.integrations.gstreamer import Capture

    Gst.init(None)
    if Gst.ElementFactory.find("unixfdsrc") is None:
        pytest.skip(f"{Gst.version_string()} has no unixfdsrc, which came with 1.24")
    path = tmp_path / "camera.sock"
    other = subprocess.Popen([sys.executable, "-c", SOURCE, str(path)], stdin=subprocess.PIPE, cwd=ROOT)
    try:
        eventually(path.exists)
        pipeline = Gst.parse_launch(f"unixfdsrc socket-path={path} ! appsink name=sink sync=false")
        with Capture(manager, pipeline.get_by_name("sink")) as capture:
            pipeline.set_state(Gst.State.PLAYING)
            for frame in capture.frames(timeout=30):
                assert frame.array().shape == (48, 64, 3)
                break
        pipeline.set_state(Gst.State.NULL)
    finally:
        other.kill()
        other.communicate()
