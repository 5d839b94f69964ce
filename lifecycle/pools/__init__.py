"""Pools: one way of not freeing something yet is to lend it again."""

from lifecycle.pools.buffers import Block, Buffer, BufferPool
from lifecycle.pools.figures import Loan, PoolReport, PoolStats
from lifecycle.pools.objects import ObjectPool

__all__ = ["Block", "Buffer", "BufferPool", "Loan", "ObjectPool", "PoolReport", "PoolStats"]
