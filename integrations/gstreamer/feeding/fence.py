"""The native end of a buffer, as a fence: nobody in the pipeline holds it any more.

**The problem.** Memory that was wrapped into a buffer and pushed is read by elements on other threads for as
long as they like; Python's own wrapper of the buffer says nothing about that. The moment to write into the
memory again is when the last of *them* has let go: the buffer is freed, or goes back to its pool.

**How it is seen.** A buffer that may still be written gets a *parent*: an empty buffer that goes when it is
freed or goes back to its pool, whichever comes first. Of one that is shared already, and belongs to no pool,
the end is watched directly (a weak reference). In both cases what tells is a C function, which adds one to a
number; Python looks at the number. No Python runs as the pipeline lets go, on whichever of its threads, nor
while the interpreter ends.
"""

from __future__ import annotations

import ctypes
from typing import Any

from lifecycle.errors import FenceError
from lifecycle.integrations.gstreamer._buffers import (
    add_parent,
    is_writable,
    nothing_owned,
    tell_end,
    wrap_memory,
)
from lifecycle.integrations.gstreamer._native import BufferHead, Gst
from lifecycle.integrations.gstreamer.feeding.loans import give_back, new_slot
from lifecycle.lowlevel import Uncopied

__all__ = ["BufferFence"]

_READ_ONLY = 1 << 1  # GST_MEMORY_FLAG_READONLY
_byte = ctypes.create_string_buffer(1)
ctypes.pythonapi.Py_IncRef(ctypes.py_object(_byte))  # buffers may outlive the interpreter


class BufferFence(Uncopied):
    """Signals when GStreamer has let go of a buffer for good: it was freed, or went back to its pool.

    Make it before the buffer is pushed, and drop your own wrapper of the buffer, which holds it as well::

        fence = BufferFence(buffer)
        appsrc.push_buffer(buffer)
        del buffer
        slot.close(after=fence)

    May be asked on any thread. Raises `FenceError` for what is no buffer, and for a pooled buffer that has
    another holder already: its return to the pool could not be seen.
    """

    _remedy = "pass the fence itself; it is the only one to see its buffer go"

    __slots__ = ("_slot",)

    def __init__(self, buffer: Any) -> None:
        if not isinstance(buffer, Gst.Buffer):
            raise FenceError(f"BufferFence takes a Gst.Buffer, not {buffer!r}; of a sample, its get_buffer()")
        pointer = hash(buffer)
        writable = is_writable(pointer)
        if not writable and BufferHead.from_address(pointer).pool:
            raise FenceError(
                f"the buffer at {pointer:#x} is of a pool and held by others as well, so its return cannot "
                "be seen: make the fence right after acquire_buffer(), before anybody else has it"
            )
        self._slot = slot = new_slot()
        if not writable:
            tell_end(pointer, ctypes.addressof(slot))
            return
        parent = nothing_owned()
        wrap_memory(parent, _READ_ONLY, ctypes.addressof(_byte), 1, ctypes.addressof(slot))
        add_parent(pointer, parent)
        parent.drop()  # the buffer alone holds it now

    def signalled(self) -> bool:
        """Return True if the buffer is gone. Callable on any thread. Raises `FenceError` once the fence was
        deleted."""
        slot = self._slot
        if slot is None:
            raise FenceError("this BufferFence was deleted: whether its buffer is gone is not known any more")
        return bool(slot.value)

    def delete(self) -> None:
        """Give the number back for the next fence, if the buffer is gone; one that is still out keeps it for
        good."""
        slot, self._slot = self._slot, None
        if slot is not None and slot.value:
            give_back(slot)

    def __repr__(self) -> str:
        slot = self._slot
        return f"<BufferFence: {'deleted' if slot is None else 'signalled' if slot.value else 'pending'}>"
