"""Pools: one way of not freeing something yet is to lend it again.

- `objects`, `buffers`: what users make: pools of any objects, and of plain memory by size
- `pool`: lending and taking back, for both
- `filling`: keeping items ready
- `waiting`: slots, and who waits for one
- `guarding`: memory that has come back, inaccessible for a while
- `figures`: who has what, and how it went
"""

from lifecycle.pools.buffers import Block, Buffer
from lifecycle.stats import Loan

__all__ = [
    "Block",
    "Buffer",
    "Loan",
]
