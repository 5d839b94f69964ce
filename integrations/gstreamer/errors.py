"""The errors of the GStreamer integration: one class for each kind of answer, all of them `LifecycleError`.

Each message names the object, its state and the remedy. What a refused call was given stays its caller's: nothing is mapped,
held or registered behind a refusal.
"""

from __future__ import annotations

from lifecycle import LifecycleError

__all__ = [
    "CaptureError",
    "FormatError",
    "FrameClosedError",
    "GStreamerError",
    "MapError",
    "MissingGStreamerError",
    "NoFrames",
    "SampleError",
    "ShortMemoryError",
]


class GStreamerError(LifecycleError):
    """Base of what this integration raises on purpose."""


class MissingGStreamerError(GStreamerError, ImportError):
    """PyGObject, GStreamer or one of its libraries is not installed; the message says which and what to install."""


class SampleError(GStreamerError, ValueError):
    """Not a sample, or one without a buffer or without caps."""


class FormatError(GStreamerError, ValueError):
    """The caps describe something that the asked-for form cannot express; the message offers the forms that can."""


class MapError(GStreamerError, RuntimeError):
    """GStreamer refused to map the buffer's memory into this process."""


class ShortMemoryError(MapError):
    """The file behind the memory is shorter than the memory says: reading past its end would be a SIGBUS."""


class FrameClosedError(GStreamerError):
    """The frame was closed, so its memory can no longer be asked for (arrays made before stay good)."""


class CaptureError(GStreamerError, RuntimeError):
    """A capture was used in a way that its mode or state does not allow."""


class NoFrames(GStreamerError, TimeoutError):
    """No frame arrived within the time that was given."""
