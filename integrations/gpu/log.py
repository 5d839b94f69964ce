"""What the adapters note in the log, where the environment asks for it: ``LIFECYCLE_GPU_LOG=1``. And where
things were made."""

from __future__ import annotations

import os
from types import FrameType
from typing import Any

import structlog

_VARIABLE = "LIFECYCLE_GPU_LOG"


def wanted() -> bool:
    """Return True if rebuilds and changes of state are logged."""
    return os.environ.get(_VARIABLE, "") not in ("", "0")


def note(event: str, **facts: Any) -> None:
    """Log one change, at level info, if that is wanted."""
    if wanted():
        structlog.get_logger("lifecycle.gpu").info(f"lifecycle.{event}", **facts)


def at(frame: FrameType | None) -> str:
    """Where a frame stands, as ``file.py:31``."""
    return "" if frame is None else f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
