"""Frames between machines: zenoh. The same words as `lifecycle.integrations.iceoryx2`, with copies.

Importing this package imports zenoh and NumPy; without them the import raises `MissingTransportError`.

- `publisher`: the publisher of a topic
- `receiver`: its receivers
- `_session`: sessions, and what is sent beside the frames
"""

from __future__ import annotations

from lifecycle.integrations.across.bridges import Bridge, BridgeStats
from lifecycle.integrations.across.errors import (
    BusyError,
    FrameFormatError,
    MissingTransportError,
    NoPublisherError,
    SourceDiedError,
    TopicError,
    TransportError,
)
from lifecycle.integrations.across.frames import Frame
from lifecycle.integrations.zenoh.publisher import Publisher
from lifecycle.integrations.zenoh.receiver import Receiver

__all__ = [
    "Bridge",
    "BridgeStats",
    "BusyError",
    "Frame",
    "FrameFormatError",
    "MissingTransportError",
    "NoPublisherError",
    "Publisher",
    "Receiver",
    "SourceDiedError",
    "TopicError",
    "TransportError",
]
