"""The errors of topics between processes: all of them `LifecycleError`. Each message names the topic, its
state and the remedy; what a refused call was given stays its caller's."""

from __future__ import annotations

from lifecycle.errors import ClosedError, LifecycleError

__all__ = [
    "BusyError",
    "FrameFormatError",
    "FrameTooLargeError",
    "MissingTransportError",
    "NoPublisherError",
    "SecondPublisherError",
    "SharedMemoryError",
    "SourceDiedError",
    "TopicError",
    "TransportError",
]


class TopicError(LifecycleError, ValueError):
    """A name that is no topic, or figures that are none or do not match those the topic has."""


class MissingTransportError(LifecycleError, ImportError):
    """The library that carries the frames, or NumPy, is not installed; the message says what to install, and
    where there is no wheel."""


class NoPublisherError(TopicError, TimeoutError):
    """The topic had no publisher within the timeout."""


class SecondPublisherError(TopicError):
    """The topic has a publisher that lives; there is one at a time."""


class FrameFormatError(TopicError):
    """A shape or type of elements that another process could not read: Python objects, structures, more than
    eight dimensions."""


class FrameTooLargeError(TopicError):
    """The frame has more bytes than the topic's ``nbytes``."""


class SharedMemoryError(LifecycleError, OSError):
    """There is no room for the topic's frames in shared memory, or it cannot be written."""


class BusyError(LifecycleError):
    """The call came in the middle of another one of the same end on the same thread, from a signal handler or
    a ``__del__``. Nothing was sent or received: do it on another thread, or afterwards."""


class TransportError(LifecycleError, RuntimeError):
    """The library that carries the frames has refused a call; the message has its reason."""


class SourceDiedError(ClosedError):
    """The publisher's process ended without closing its topic, and all that it had sent is read. The next
    call waits for its successor."""
