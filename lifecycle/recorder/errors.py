"""What goes wrong with a recorder's file."""

from __future__ import annotations

from lifecycle.errors import LifecycleError


class RecorderError(LifecycleError):
    """A recorder cannot be started: the message says where, why and what to do."""


class RecordingError(LifecycleError):
    """A file cannot be read as a recording: the message says what is wrong with it."""
