"""What server and client have in common: one line of JSON each way, and who is at the other end."""

from __future__ import annotations

import os
import socket
import struct
from typing import Final

from lifecycle.errors import LifecycleError

VARIABLE: Final = "LIFECYCLE_INSPECT"
LONGEST_REQUEST: Final = 4096
LONGEST_ANSWER: Final = 1 << 22
LONGEST_PATH: Final = 107
"""Bytes of a socket's path: what ``sockaddr_un`` has, less its end."""
PATIENCE: Final = 5.0
"""Seconds that either end waits for the other to go on."""
_CREDENTIALS = struct.Struct("3i")


class InspectionError(LifecycleError):
    """A process cannot be inspected, or cannot be asked this: the message says why and what to do."""


def peer_of(connection: socket.socket) -> int | None:
    """The user at the other end; None where the system does not say."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:  # pragma: no cover - Linux has it
        return None
    data = connection.getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(data)[1])


def receive(connection: socket.socket, most: int) -> bytes:
    """One line of at most `most` bytes, or what came until the other end closed."""
    found = bytearray()
    while len(found) <= most and not found.endswith(b"\n"):
        piece = connection.recv(min(65_536, most + 1 - len(found)))
        if not piece:
            break
        found += piece
    return bytes(found)


def check_path(path: str) -> None:
    """Refuse a path that no socket can have."""
    if "\0" in path:
        raise InspectionError(f"{path[:200]!r} cannot be a socket: it has a NUL in it")
    if len(os.fsencode(path)) > LONGEST_PATH:
        raise InspectionError(
            f"{path[:200]!r} cannot be a socket: {len(os.fsencode(path))} bytes, and the system takes "
            f"{LONGEST_PATH}; choose a shorter folder, such as $XDG_RUNTIME_DIR"
        )
