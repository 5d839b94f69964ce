"""`Fanout`: one encoder, and clients that come and go, each with a pipeline of its own.

**The problem.** Encoding once per client is what a machine cannot afford; a tee behind the encoder ties every
client's fate to the pipeline's, and one that joins late sees nothing until the next key frame, which a live
encoder sends when it likes.

**The idea.** The encoder ends in an appsink. Each frame is shared out to the clients' appsrcs: the same
memory, a head of its own. A client that joins asks the encoder for a key frame (force-key-unit) and is given
nothing before it. One that cannot keep up loses frames, and then everything up to the next key frame, so that
it never shows a broken picture; nobody waits for it.

**Times.** The clients' pipelines use the source's clock and base time (`Fanout.follow`), so a frame's time
means the same everywhere, and a client's latency is that of its own way.

**Failing.** What a client's pipeline reports, or refuses, ends that client alone: it is taken off and closed
on a thread of its own.

**The source's end** is every client's: the end of the stream follows the last frame into its pipeline, and an
error of the source ends it as one of its own would. Who comes after that is refused.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final

from lifecycle import ClosedError, LifecycleError, SafetyManager
from lifecycle.integrations.gstreamer._native import BufferHead, Gst, GstVideo
from lifecycle.integrations.gstreamer.captures.appsink import an_appsink, flow_of
from lifecycle.integrations.gstreamer.captures.capture import Capture
from lifecycle.integrations.gstreamer.errors import GuardError, StateTimeout
from lifecycle.integrations.gstreamer.feeding.feeder import Feeder
from lifecycle.integrations.gstreamer.frames.frame import Frame
from lifecycle.integrations.gstreamer.pipelines.callbacks import close_each
from lifecycle.integrations.gstreamer.pipelines.guard import check_manager, or_nothing
from lifecycle.integrations.gstreamer.pipelines.pads import ProbeGuard
from lifecycle.integrations.gstreamer.pipelines.pipeline import START_TIMEOUT, PipelineGuard
from lifecycle.integrations.gstreamer.sharing.client import Client, Closeable, asked_by
from lifecycle.lowlevel import Uncopied

__all__ = ["Fanout", "request_key_frame"]

DELTA_UNIT: Final = 1 << 13
"""`GST_BUFFER_FLAG_DELTA_UNIT`: cannot be decoded without what came before."""
KEY_INTERVAL: Final = 0.2
"""Seconds between two requests for a key frame at least: a crowd that joins asks once."""


class Fanout(Uncopied):
    """Shares the frames of an encoder out to clients.

    ::

        source = PipelineGuard(manager, "v4l2src ! videoconvert ! vp8enc ! appsink name=encoded sync=false")
        fanout = Fanout(manager, source, "encoded")
        source.play()
        ...
        pipeline = PipelineGuard(manager, "appsrc name=feed is-live=true ! rtpvp8pay ! udpsink host=…")
        client = fanout.add(pipeline, "feed")
        ...
        client.close()  # the pipeline with it

    Parameters
    ----------
    manager:
        Owns the clients.
    source:
        The `PipelineGuard` with the encoder.
    appsink:
        The appsink behind the encoder, or its name. Its ``sync`` is set to false: what is encoded goes out at
        once.

    A context manager. All methods may be called on any thread.
    """

    _remedy = "pass the fanout itself"

    @or_nothing
    def __init__(self, manager: SafetyManager, source: PipelineGuard, appsink: Any) -> None:
        check_manager(manager, "Fanout(manager, source, appsink)")
        if not isinstance(source, PipelineGuard):
            raise GuardError(f"Fanout(source=) takes the PipelineGuard of the encoder, not {source!r}")
        if isinstance(appsink, str):
            appsink = source[appsink]
        appsink = an_appsink(appsink)
        self.manager = manager
        self.name: str = str(appsink.get_name())
        self._source = source
        self._pad = appsink.get_static_pad("sink")
        self._clients: dict[int, Client] = {}
        self._closed = False
        self._asked = 0.0
        self._asking = threading.Lock()
        appsink.set_property("sync", False)
        self._capture = Capture(manager, appsink, name=f"{self.name} to clients")
        self._capture._when_quiet = self._look_for_end
        self._capture.on_frame(self._share)

    def _abandon(self) -> None:
        """Its making has failed: nothing is shared out."""
        if "_capture" in vars(self):
            self._capture.close(0)

    def _share(self, frame: Frame) -> None:
        clients = list(self._clients.values())
        if clients:
            key = is_key_frame(frame)
            for client in clients:
                client._give(frame, key)

    def _look_for_end(self, flow: str) -> None:
        """Nothing has come to the capture: tell the clients if nothing will. On its thread, and again as long
        as that is so."""
        clients = list(self._clients.values())
        if clients:
            error = self._why_no_frame(flow)
            if error is not None or flow == "eos":
                for client in clients:
                    client._source_ended(error)

    def _why_no_frame(self, flow: str) -> LifecycleError | None:
        """What has ended the source, where that was no end of the stream. A new one each time."""
        if self._source.closed:
            return ClosedError(
                f"pipeline {self._source.name!r}, the source of fanout {self.name!r}, is closed: no frame "
                "follows; make a new one, and a Fanout for it"
            )
        return None if flow == "idle" else self._capture._listener.error

    def add(
        self,
        pipeline: PipelineGuard,
        appsrc: Any,
        *owned: Closeable,
        name: str | None = None,
        max_buffers: int = 4,
        on_end: Callable[[Client], object] | None = None,
    ) -> Client:
        """Give frames to an appsrc from the next key frame on, which is asked for.

        Parameters
        ----------
        pipeline:
            The client's pipeline, which the client owns from here on. It is set to the source's clock and
            times, and played.
        appsrc:
            Its appsrc, or its name.
        owned:
            What is closed with the client, ahead of its pipeline, the last first.
        max_buffers:
            Frames that may wait in the appsrc; one that would be too many makes the client fall behind, to
            the next key frame.
        on_end:
            ``on_end(client)`` on a thread of its own when the client ends by an error, of its own pipeline or
            of the source (`Client.error`), which also closes it; and when the source has come to its end
            (`Client.end` is ``"eos"``): its pipeline is sent the end of the stream, and stays until the
            client is closed.

        Raises what `PipelineGuard.play` raises, and `ClosedError` when the fanout is closed meanwhile;
        everything given is then closed. `GuardError` for what is no `PipelineGuard` and for a source that has
        come to its end, its `PipelineError` where it has failed, and `ClosedError` for a fanout or a source
        that is closed already: nothing is taken then.
        """
        if not isinstance(pipeline, PipelineGuard):
            raise GuardError(f"Fanout.add takes the PipelineGuard of the client, not {pipeline!r}")
        self._refuse_closed()
        self._refuse_ended()
        client = None
        try:
            if isinstance(appsrc, str):
                appsrc = pipeline[appsrc]
            self.follow(pipeline)
            feeder = Feeder(self.manager, appsrc, max_buffers=max_buffers)
            parts: list[Closeable] = [pipeline, *owned]
            client = Client(self, name or pipeline.name, feeder, parts, on_end)
            door = appsrc.get_static_pad("src")
            parts.append(ProbeGuard(self.manager, door, Gst.PadProbeType.EVENT_UPSTREAM, asked_by(client)))
            pipeline.play(0)
            _await_running(pipeline, appsrc)
            self._clients[client.key] = client
            # Whoever closes meanwhile has set this first, and then looked for clients.
            self._refuse_closed()
        except BaseException:
            if client is not None:
                client.close()
            else:
                for closeable in reversed((pipeline, *owned)):
                    closeable.close()
            raise
        self.request_key_frame()
        return client

    def _refuse_closed(self) -> None:
        if self._closed or self._capture.closed:
            raise ClosedError(
                f"fanout {self.name!r} is closed, so no client would get a frame of it; make a new Fanout "
                "for its source"
            )

    def _refuse_ended(self) -> None:
        sink = self._capture._sink
        flow = "idle" if sink is None else flow_of(sink)
        error = self._why_no_frame(flow)
        if error is not None:
            raise error
        if flow == "eos":
            raise GuardError(
                f"fanout {self.name!r}: its source {self._source.name!r} has come to its end, so no client "
                "would get a frame of it; seek back or start it again first"
            )

    def follow(self, pipeline: PipelineGuard) -> None:
        """Have another pipeline, before it plays, use the source's clock and count time from the same
        moment."""
        source, follower = self._source.pipeline, pipeline.pipeline
        clock = source.get_clock()
        if clock is not None:
            follower.use_clock(clock)
            follower.set_base_time(source.get_base_time())
            follower.set_start_time(Gst.CLOCK_TIME_NONE)  # or going to PLAYING would count anew

    def request_key_frame(self) -> bool:
        """Ask the encoder for a key frame, at most every 0.2 s; whether it was asked now. Clients that wait
        for one ask by themselves."""
        with self._asking:
            now = time.monotonic()
            if now - self._asked < KEY_INTERVAL:
                return False
            self._asked = now
        return request_key_frame(self._pad)

    @property
    def clients(self) -> tuple[Client, ...]:
        """Those that are there."""
        return tuple(self._clients.values())

    @property
    def closed(self) -> bool:
        """True if it was closed, or its capture was."""
        return self._closed or self._capture.closed

    @property
    def capture(self) -> Capture:
        """The capture behind it, for its figures."""
        return self._capture

    def close(self) -> bool:
        """Close every client, take no further frame and no further client; True when all are closed. The
        source flows on."""
        self._closed = True
        return close_each((self._capture.close, *(client.close for client in self.clients)))

    def __enter__(self) -> Fanout:
        self._refuse_closed()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed, " if self.closed else ""
        return f"<Fanout {self.name!r}: {state}{len(self._clients)} clients>"


def _await_running(pipeline: PipelineGuard, appsrc: Any) -> None:
    """Wait until the appsrc takes buffers; the pipeline is PLAYING only once it has had some."""
    until = time.monotonic() + START_TIMEOUT
    while appsrc.get_state(0)[1] < Gst.State.PAUSED:
        pipeline.check()
        if time.monotonic() >= until:
            raise StateTimeout(
                f"pipeline {pipeline.name!r} of a client: its appsrc is not running after {START_TIMEOUT:g} "
                "s; an element of it blocks as it starts",
                elements=(appsrc.get_name(),),
            )
        time.sleep(0.001)


def is_key_frame(frame: Frame) -> bool:
    """Return True if an encoded frame can be decoded without what came before."""
    sample = frame._sample_now()
    try:
        return not BufferHead.from_address(frame._buffer_of(sample)).mini_object.flags & DELTA_UNIT
    finally:
        sample = None


def request_key_frame(sink_pad: Any) -> bool:
    """Ask the encoder upstream of a sink pad for a key frame (force-key-unit); whether an element upstream
    took it."""
    event = GstVideo.video_event_new_upstream_force_key_unit(Gst.CLOCK_TIME_NONE, True, 0)
    return bool(sink_pad.push_event(event))
