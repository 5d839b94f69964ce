"""`MemoryManager`: native bytes that the collector cannot see, counted, limited, and given back under pressure.

`manager` is the manager and who waits for room, `books` counts, `pressure` asks for memory to be given back; `config` and
`figures` are what goes in and what comes out.
"""

from lifecycle.memory.config import MemoryConfig
from lifecycle.memory.figures import MemoryStats, MemoryTypeStats
from lifecycle.memory.manager import MemoryManager

__all__ = ["MemoryConfig", "MemoryManager", "MemoryStats", "MemoryTypeStats"]
