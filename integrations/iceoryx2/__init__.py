"""Frames between processes of one machine, by shared memory: iceoryx2.

A publisher's frames are written once; every other process receives them as handles, whose arrays cannot
dangle and whose counts are exact. What a process that dies has held is free again.

Importing this package imports iceoryx2 and NumPy; without them the import raises `MissingTransportError`.

- `publisher`: the publisher of a topic
- `receiver`: its receivers
- `loans`: frames that are being written
- `peers`: who is at the other end
- `_engine`: the engine, opened and translated
- `_files`: files that a process was making when it was killed
"""

from __future__ import annotations

from lifecycle.integrations.across.bridges import Bridge, BridgeStats
from lifecycle.integrations.across.errors import (
    BusyError,
    FrameFormatError,
    FrameTooLargeError,
    MissingTransportError,
    NoPublisherError,
    SecondPublisherError,
    SharedMemoryError,
    SourceDiedError,
    TopicError,
    TransportError,
)
from lifecycle.integrations.across.frames import Frame
from lifecycle.integrations.iceoryx2.loans import Loan
from lifecycle.integrations.iceoryx2.peers import Peer, Reaped
from lifecycle.integrations.iceoryx2.publisher import Publisher, PublisherStats
from lifecycle.integrations.iceoryx2.receiver import Receiver

__all__ = [
    "Bridge",
    "BridgeStats",
    "BusyError",
    "Frame",
    "FrameFormatError",
    "FrameTooLargeError",
    "Loan",
    "MissingTransportError",
    "NoPublisherError",
    "Peer",
    "Publisher",
    "PublisherStats",
    "Reaped",
    "Receiver",
    "SecondPublisherError",
    "SharedMemoryError",
    "SourceDiedError",
    "TopicError",
    "TransportError",
]
