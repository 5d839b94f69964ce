"""A WebRTC streamer with clients that come and go: ``python -m examples.webrtc_server``.

One source and one encoder. Each client has a pipeline of its own (appsrc → payloader → webrtcbin), begins at
a key frame that is asked for when it joins, and ends alone. The clients here are in the same process, on the
loopback interface, so that the example runs anywhere; what the two sides tell each other are texts, which a
websocket would carry as well.
"""

from __future__ import annotations

import argparse
import random
import threading
import time
from typing import Any

import gi

gi.require_version("Gst", "1.0")
from gi.repository import Gst

from lifecycle import SafetyManager
from lifecycle.integrations.gstreamer import Capture, Fanout, PipelineGuard
from lifecycle.integrations.gstreamer.sharing.client import Client
from lifecycle.integrations.gstreamer.webrtc import WebRTCPeer, connect

CAPS = "video/x-raw,format=I420,width=320,height=240,framerate=30/1"
ENCODER = "vp8enc deadline=1 cpu-used=8 threads=2 keyframe-max-dist=3000 target-bitrate=1000000"
RTP = "application/x-rtp,media=video,encoding-name=VP8,payload=96,clock-rate=90000"
JITTER_MS = 20
"""How long a client waits for what comes in the wrong order."""


class Server:
    """The source, the encoder, and who is connected. `source` is a description that ends in raw video."""

    def __init__(
        self, manager: SafetyManager, source: str = f"videotestsrc is-live=true pattern=ball ! {CAPS}"
    ) -> None:
        self.manager = manager
        self.source = PipelineGuard(
            manager,
            f"{source} ! queue leaky=downstream max-size-buffers=1 ! {ENCODER} ! appsink name=encoded",
            name="source",
        )
        self.fanout = Fanout(manager, self.source, "encoded")

    def start(self) -> None:
        """Play."""
        self.source.play(0)

    def add(self, viewer: Viewer, name: str) -> Client:
        """Connect a viewer. What it tells and is told is all that a signalling server would carry."""
        pipeline = PipelineGuard(
            self.manager,
            f"appsrc name=feed is-live=true ! rtpvp8pay ! {RTP} ! webrtcbin name=rtc "
            "bundle-policy=max-bundle",
            name=name,
        )
        peer = WebRTCPeer(self.manager, pipeline, "rtc", on_ice=viewer.peer.add_ice)
        viewer.tell_ice = peer.add_ice
        client = self.fanout.add(pipeline, "feed", peer, name=name)
        try:
            connect(peer, viewer.peer)
        except BaseException:
            client.close()
            raise
        client.restart()  # what was sent before the two were connected has gone nowhere
        return client

    def close(self) -> None:
        """Every client, then the source."""
        self.fanout.close()
        self.source.close()


class Viewer:
    """The other end: decodes what comes, and counts it."""

    def __init__(self, manager: SafetyManager, on_frame: Any = None) -> None:
        self.tell_ice: Any = None
        self.frames = 0
        self.began = time.monotonic()
        self.first: float | None = None
        self._on_frame = on_frame
        self._manager = manager
        self._captures: list[Capture] = []
        self.pipeline = PipelineGuard(
            manager, f"webrtcbin name=rtc bundle-policy=max-bundle latency={JITTER_MS}"
        )
        self.peer = WebRTCPeer(
            manager,
            self.pipeline,
            "rtc",
            on_ice=lambda *candidate: self.tell_ice(*candidate),
            on_pad=self._show,
        )
        self.pipeline.play(0)

    def _show(self, pad: Any) -> None:
        """A stream has come: decode it. Runs on a streaming thread."""
        part = Gst.parse_bin_from_description(
            "rtpvp8depay ! queue ! vp8dec ! appsink name=pictures sync=false max-buffers=2", True
        )
        self.pipeline.pipeline.add(part)
        capture = Capture(self._manager, part.get_by_name("pictures"), name="viewer")
        self._captures.append(capture)
        capture.on_frame(self._frame)
        part.sync_state_with_parent()
        pad.link(part.get_static_pad("sink"))

    def _frame(self, frame: Any) -> None:
        self.frames += 1
        if self.first is None:
            self.first = time.monotonic() - self.began
        if self._on_frame is not None:
            self._on_frame(frame)

    def close(self) -> None:
        """Leave."""
        self.peer.close()
        self.pipeline.close()
        for capture in self._captures:
            capture.close()


def run(seconds: float, crowd: int) -> bool:
    """Serve for some seconds, clients joining and leaving; whether each saw pictures."""
    Gst.init(None)
    seen = []
    with SafetyManager(name="webrtc") as manager:
        server = Server(manager)
        server.start()
        until = time.monotonic() + seconds
        watching: list[tuple[Client, Viewer, float]] = []
        number = 0
        while time.monotonic() < until or number < crowd:
            if len(watching) < crowd:
                viewer = Viewer(manager)
                client = server.add(viewer, f"client{number}")
                watching.append((client, viewer, time.monotonic() + random.uniform(0.5, 2.0)))
                number += 1
            for item in [item for item in watching if item[2] < time.monotonic() and item[1].frames]:
                watching.remove(item)
                seen.append(_leave(*item[:2]))
            time.sleep(0.05)
        for client, viewer, _ in watching:
            for _ in range(400):
                if viewer.frames:
                    break
                time.sleep(0.05)
            seen.append(_leave(client, viewer))
        server.close()
        print(f"{number} clients, {sum(seen)} pictures; {manager.stats().active_objects} objects left")
    return all(seen) and threading.active_count() < 20


def _leave(client: Client, viewer: Viewer) -> int:
    first = f"{1000 * viewer.first:.0f} ms" if viewer.first is not None else "never"
    stats = client.stats()
    print(
        f"{client.name}: {viewer.frames} pictures, the first after {first}; {stats.sent} sent, "
        f"{stats.dropped} not"
    )
    client.close()
    viewer.close()
    return viewer.frames


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--clients", type=int, default=3)
    arguments = parser.parse_args()
    return 0 if run(arguments.seconds, arguments.clients) else 1


__all__ = ["CAPS", "Server", "Viewer", "run"]

if __name__ == "__main__":
    raise SystemExit(main())
