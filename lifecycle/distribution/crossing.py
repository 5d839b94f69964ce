"""Frames that leave this process, and frames of others: told to the flight recorder while one runs."""

from __future__ import annotations

from collections.abc import Callable

Note = Callable[[str, str, int, str, int, int], None]
"""What happened (``loan``, ``published``, ``received``), to which type and id, the topic, the frame's number
and its bytes."""

note: Note | None = None
"""The recorder's, while one runs."""
