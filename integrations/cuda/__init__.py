"""CUDA: streams as timelines, memory that the device uses as leases, and DLPack of device memory.

::

    line = timeline(torch.cuda.current_stream())        # or of CuPy, Numba, or an address
    frame = borrow(array)                               # memory of their array; or device().allocate(nbytes)
    with line.submission() as work:
        kernel(work.use(frame).address)
    frame.close()                                       # lives until the stream has come so far

It needs ``libcuda.so.1``, which comes with the driver, and none of those libraries. ``python -m
lifecycle.integrations.cuda.check`` tries all of it on a device and prints a table.

- `check`: that program
- `streams`: streams, fences and timelines
- `devices`: a device and its context
- `memory`: owned and borrowed memory
- `errors`: its error
- `_driver`: the driver's C interface
"""

from __future__ import annotations

from lifecycle.integrations.cuda.devices import Device, device
from lifecycle.integrations.cuda.errors import CUDAError
from lifecycle.integrations.cuda.memory import Memory, borrow
from lifecycle.integrations.cuda.streams import (
    CUDAFence,
    CUDASubmission,
    CUDATimeline,
    Stream,
    stream_of,
    timeline,
)
from lifecycle.integrations.gpu.errors import TransferError

__all__ = [
    "CUDAError",
    "CUDAFence",
    "CUDASubmission",
    "CUDATimeline",
    "Device",
    "Memory",
    "Stream",
    "TransferError",
    "borrow",
    "device",
    "stream_of",
    "timeline",
]
