"""The figures of a `MemoryManager`, and what the system says of the process."""

from __future__ import annotations

import os


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
