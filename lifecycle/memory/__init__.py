"""`MemoryManager`: native bytes that the collector cannot see, counted, limited, and given back under
pressure.

- `manager`: objects, budgets, and who waits for room
- `books`: the counting
- `reservation`: what is counted and is no object
- `pressure`: asking for memory to be given back
- `config`, `figures`: what goes in and what comes out
"""

from lifecycle.memory.reservation import Reservation

__all__ = [
    "Reservation",
]
