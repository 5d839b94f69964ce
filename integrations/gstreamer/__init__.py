"""Frames of a GStreamer pipeline, used zero-copy and kept as long as wanted, and captures whose callbacks
cannot bring it down.

Importing this package imports PyGObject and NumPy and loads GStreamer's libraries; it does not initialise
GStreamer, which stays the program's own ``Gst.init(None)``. Without them the import raises
`MissingGStreamerError`.

Where what is, from what stands on the others to what they stand on (each room lists its modules):

- `webrtc`: negotiation, with libraries of its own; imported by itself
- `sharing`: one source for consumers that come and go
- `captures`: frames out of an appsink
- `feeding`: pictures into an appsrc, the buffers of a pool, and until when GStreamer has them
- `pipelines`: guards, and what is heard of a pipeline
- `frames`: what is in a buffer
- `tracer`: GStreamer's own count of what leaks
- `_native`, `_buffers`: the C interface, for reading and for buffers that are ours
- `errors`: the errors
"""

from __future__ import annotations

from lifecycle.integrations.gstreamer.captures.capture import Capture, CaptureStats
from lifecycle.integrations.gstreamer.captures.starving import Stall
from lifecycle.integrations.gstreamer.errors import (
    CaptureError,
    DescriptionError,
    FeederError,
    FeederFull,
    ForkedError,
    FormatError,
    FrameClosedError,
    GStreamerError,
    GuardError,
    LinkError,
    MapError,
    MissingGStreamerError,
    NoFrames,
    PipelineError,
    SampleError,
    ShortMemoryError,
    Starved,
    StateTimeout,
)
from lifecycle.integrations.gstreamer.feeding.feeder import Feeder, FeederStats
from lifecycle.integrations.gstreamer.feeding.fence import BufferFence
from lifecycle.integrations.gstreamer.feeding.pool import PoolAdapter
from lifecycle.integrations.gstreamer.frames.adapter import SampleAdapter
from lifecycle.integrations.gstreamer.frames.frame import Frame
from lifecycle.integrations.gstreamer.frames.gl import FrameTexture
from lifecycle.integrations.gstreamer.frames.metas import Area, MemoryFacts, Region, VideoPlanes
from lifecycle.integrations.gstreamer.frames.writable import WritableFrame
from lifecycle.integrations.gstreamer.pipelines.bus import BusWatch
from lifecycle.integrations.gstreamer.pipelines.elements import ElementGuard
from lifecycle.integrations.gstreamer.pipelines.journal import BusMessage
from lifecycle.integrations.gstreamer.pipelines.pads import PadGuard, ProbeGuard, ProbeInfo
from lifecycle.integrations.gstreamer.pipelines.pipeline import PipelineGuard
from lifecycle.integrations.gstreamer.pipelines.signals import SignalGuard
from lifecycle.integrations.gstreamer.sharing.branch import Branch, BranchEnd, BranchStats, low_latency_queue
from lifecycle.integrations.gstreamer.sharing.client import Client, ClientStats
from lifecycle.integrations.gstreamer.sharing.clients import Fanout, request_key_frame
from lifecycle.integrations.gstreamer.sharing.tee import Tee
from lifecycle.integrations.gstreamer.tracer import LeaksTracer

__all__ = [
    "Area",
    "Branch",
    "BranchEnd",
    "BranchStats",
    "BufferFence",
    "BusMessage",
    "BusWatch",
    "Capture",
    "CaptureError",
    "CaptureStats",
    "Client",
    "ClientStats",
    "DescriptionError",
    "ElementGuard",
    "Fanout",
    "Feeder",
    "FeederError",
    "FeederFull",
    "FeederStats",
    "ForkedError",
    "FormatError",
    "Frame",
    "FrameClosedError",
    "FrameTexture",
    "GStreamerError",
    "GuardError",
    "LeaksTracer",
    "LinkError",
    "MapError",
    "MemoryFacts",
    "MissingGStreamerError",
    "NoFrames",
    "PadGuard",
    "PipelineError",
    "PipelineGuard",
    "PoolAdapter",
    "ProbeGuard",
    "ProbeInfo",
    "Region",
    "SampleAdapter",
    "SampleError",
    "ShortMemoryError",
    "SignalGuard",
    "Stall",
    "Starved",
    "StateTimeout",
    "Tee",
    "VideoPlanes",
    "WritableFrame",
    "low_latency_queue",
    "request_key_frame",
]
