"""The errors of the GStreamer integration: one class for each kind of answer, all of them `LifecycleError`.

Each message names the object, its state and the remedy. What a refused call was given stays its caller's:
nothing is mapped, held or registered behind a refusal.
"""

from __future__ import annotations

from lifecycle import LifecycleError

__all__ = [
    "CaptureError",
    "DescriptionError",
    "FeederError",
    "FeederFull",
    "ForkedError",
    "FormatError",
    "FrameClosedError",
    "GStreamerError",
    "GuardError",
    "LinkError",
    "MapError",
    "MissingGStreamerError",
    "NoFrames",
    "PipelineError",
    "SampleError",
    "ShortMemoryError",
    "Starved",
    "StateTimeout",
]


class GStreamerError(LifecycleError):
    """Base of what this integration raises on purpose."""


class MissingGStreamerError(GStreamerError, ImportError):
    """PyGObject, GStreamer or one of its libraries is not installed; the message says which and what to
    install."""


class SampleError(GStreamerError, ValueError):
    """Not a sample, or one without a buffer or without caps."""


class FormatError(GStreamerError, ValueError):
    """The caps describe something that the asked-for form cannot express; the message offers the forms that
    can."""


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


class Starved(NoFrames):
    """No frame arrived because all buffers of the bounded pool are out. `held` says which frames are, and who
    holds them."""

    def __init__(self, message: str, *, held: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.held = held


class FeederError(GStreamerError, RuntimeError):
    """A feeder was given something that would be a wrong picture, or its appsrc takes nothing in this
    state."""


class FeederFull(FeederError, TimeoutError):
    """The appsrc had no room within the time that was given."""


class PipelineError(GStreamerError, RuntimeError):
    """An element reported an error on its bus.

    `element` is the name of the one that did, `text` what it said, `debug` what it added for its developers.
    """

    def __init__(self, message: str, *, element: str = "", text: str = "", debug: str = "") -> None:
        super().__init__(message)
        self.element = element
        self.text = text
        self.debug = debug

    def again(self) -> PipelineError:
        """The same error, to be raised once more: without a traceback, which would keep frames alive."""
        return PipelineError(str(self), element=self.element, text=self.text, debug=self.debug)


class StateTimeout(GStreamerError, TimeoutError):
    """A change of state was not done within its deadline. `elements` names those that are not there yet,
    `blocked` says where streaming threads stand in Python code, as ``thread (element) in file.py:31
    function``."""

    def __init__(
        self, message: str, *, elements: tuple[str, ...] = (), blocked: tuple[str, ...] = ()
    ) -> None:
        super().__init__(message)
        self.elements = elements
        self.blocked = blocked


class DescriptionError(GStreamerError, ValueError):
    """A pipeline or branch description does not parse, or names elements that are not installed. `position`
    is the character of it where the mistake begins, None where that cannot be told."""

    def __init__(self, message: str, *, position: int | None = None) -> None:
        super().__init__(message)
        self.position = position


class LinkError(GStreamerError, RuntimeError):
    """Two pads cannot be linked: a wrong direction, caps that do not meet, or a pad that is taken."""


class GuardError(GStreamerError, RuntimeError):
    """A guard was given something that it cannot guard, or asked for something that its state does not
    allow."""


class ForkedError(GStreamerError, RuntimeError):
    """GStreamer was in use when this process was forked: none of its threads is here, and the next call would
    hang."""
