"""Frames of a GStreamer pipeline, used zero-copy and kept as long as wanted, and captures whose callbacks cannot bring it down.

Importing this package imports PyGObject and NumPy and loads GStreamer's libraries; it does not initialise GStreamer, which stays
the program's own ``Gst.init(None)``. Without them the import raises `MissingGStreamerError`.
"""

from __future__ import annotations

from integrations.gstreamer.adapter import SampleAdapter
from integrations.gstreamer.branches import Branch, Tee, low_latency_queue
from integrations.gstreamer.bus import BusWatch
from integrations.gstreamer.capture import Capture, CaptureStats
from integrations.gstreamer.clients import Client, ClientStats, Fanout, request_key_frame
from integrations.gstreamer.elements import ElementGuard
from integrations.gstreamer.errors import (
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
from integrations.gstreamer.feeder import Feeder, FeederStats
from integrations.gstreamer.fence import BufferFence
from integrations.gstreamer.frame import Frame
from integrations.gstreamer.pads import PadGuard, ProbeGuard
from integrations.gstreamer.pipeline import PipelineGuard
from integrations.gstreamer.pool import PoolAdapter
from integrations.gstreamer.signals import SignalGuard
from integrations.gstreamer.starving import Stall
from integrations.gstreamer.tracer import LeaksTracer
from integrations.gstreamer.writable import WritableFrame

__all__ = [
    "Branch",
    "BufferFence",
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
    "GStreamerError",
    "GuardError",
    "LeaksTracer",
    "LinkError",
    "MapError",
    "MissingGStreamerError",
    "NoFrames",
    "PadGuard",
    "PipelineError",
    "PipelineGuard",
    "PoolAdapter",
    "ProbeGuard",
    "SampleAdapter",
    "SampleError",
    "ShortMemoryError",
    "SignalGuard",
    "Stall",
    "Starved",
    "StateTimeout",
    "Tee",
    "WritableFrame",
    "low_latency_queue",
    "request_key_frame",
]
