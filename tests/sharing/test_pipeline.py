"""A real 1080p pipeline to sixteen receivers."""

from __future__ import annotations

import threading

import pytest

from lifecycle import FrameDistributor, FrameReceiver, SafetyManager
from tests.core.adversary import STORM, in_own_process
from tests.sharing import pipeline


@pytest.mark.needs("gstreamer", "numpy")
def test_sixteen_receivers_three_slow_one_dead_one_panicking() -> None:
    said = in_own_process(pipeline.check, int(120 * STORM), timeout=100)
    assert said.startswith("published")


@pytest.mark.needs("gstreamer", "numpy")
def test_capture_to_distributor_to_feeder(manager: SafetyManager) -> None:
    """From one pipeline into another, through a receiver of its own: nothing is copied on the way, and every
    frame arrives."""
    from lifecycle.integrations.gstreamer import Capture, Feeder, Frame
    from tests.gstreamer import program
    from tests.gstreamer.program import Gst

    caps = "video/x-raw,format=RGB,width=64,height=48,framerate=30/1"
    source = Gst.parse_launch(f"videotestsrc num-buffers=20 ! {caps} ! appsink name=sink sync=false")
    target = Gst.parse_launch("appsrc name=feed ! appsink name=sink sync=false")
    distributor: FrameDistributor[Frame] = FrameDistributor(32, name="camera", manager=manager)
    feeder = Feeder(manager, target.get_by_name("feed"))
    target.set_state(Gst.State.PLAYING)

    def forward(receiver: FrameReceiver[Frame]) -> None:
        for frame in receiver:
            feeder.push(frame)
        feeder.end_of_stream()

    thread = threading.Thread(target=forward, args=(distributor.subscribe(group="forward"),))
    thread.start()
    with Capture(manager, source.get_by_name("sink")) as capture:

        @capture.on_frame
        def publish(frame: Frame) -> None:
            distributor.publish(frame)

        source.set_state(Gst.State.PLAYING)
        capture.wait(20)
        distributor.close()
    with Capture(manager, target.get_by_name("sink"), name="arrived") as arrived:
        stamps = [frame.pts for frame in arrived.frames(timeout=20)]
    thread.join(20)
    assert len(stamps) == 20 == len(set(stamps))
    assert feeder.stats().copied == 0
    feeder.close()
    for each in (source, target):
        program.shutdown(each)
