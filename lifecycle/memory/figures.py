"""The figures of a `MemoryManager`, and what the system says of the process."""

from __future__ import annotations

import os
from collections.abc import Mapping

import attrs


@attrs.frozen
class MemoryTypeStats:
    """The figures of one type, or of all together."""

    bytes: int
    objects: int
    peak_bytes: int
    peak_objects: int
    total_objects: int
    """Tracked since the beginning."""
    bytes_limit: int | None
    objects_limit: int | None


@attrs.frozen
class MemoryStats:
    """The figures of a `MemoryManager` at one moment, exact for what is tracked through it."""

    name: str
    all: MemoryTypeStats
    types: Mapping[str, MemoryTypeStats]
    waiting: int
    """Callers that wait for room now."""
    refused: int
    reported: int
    """Objects taken over budget, by ``over="report"``."""
    pressure_runs: int
    """How often the pressure callbacks were run."""
    resident: int | None
    """Bytes of the process in physical memory, tracked or not; None where that cannot be known."""


def resident_memory() -> int | None:
    """Bytes of this process in physical memory: as ``/proc`` says, else as psutil does (``pip install
    native-lifecycle[memory]``), else None.

    In this order, since an import may hang: in a child that was forked while another thread was importing the
    same module.
    """
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError, AttributeError):
        try:
            import psutil
        except ImportError:
            return None
        return int(psutil.Process().memory_info().rss)
