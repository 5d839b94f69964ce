"""A ring: memory that the host writes while the device still reads other parts of it.

A slot is lent as an object. A submission that uses it holds it until its fence has signalled, and only then
is it lent again: so what the device reads is never overwritten, and the caller need not pass a fence.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any

from lifecycle import ANY_THREAD, Handle
from lifecycle.errors import PoolTimeoutError
from lifecycle.integrations.gpu._native import UINT, function
from lifecycle.integrations.gpu.errors import GLError, TransferError
from lifecycle.integrations.gpu.opengl.mapping import Bound, buffer_parameter, map_with, persistent
from lifecycle.integrations.gpu.opengl.names import check_text
from lifecycle.lowlevel import check_timeout, monotonic, must_not_wait, snapshot

if TYPE_CHECKING:
    from lifecycle.integrations.gpu.opengl.domain import Domain

_ALIGNMENT = 256
"""Bytes that each slot begins at a multiple of: enough for uniform buffers on every driver."""
_PAUSE = 0.0002
_SIZE = 0x8764


class Ring:
    """Slots of one buffer that stays mapped. Made by `Domain.ring`.

    ::

        slot = ring.acquire()
        ring.view(slot)[:] = frame
        with domain.submission() as work:
            glTexSubImage2D(..., ctypes.c_void_p(ring.offset(work.use(slot))))   # with ring.name bound
        slot.close()
    """

    def __init__(self, domain: Domain, slot_bytes: int, slots: int, name: str) -> None:
        for what, value in (("slot_bytes", slot_bytes), ("slots", slots)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise TransferError(f"ring({what}=) takes a whole number above 0, not {value!r}")
        check_text(name, "ring(name=)")
        domain.check_here("ring()")
        if not (domain.facts.version >= (4, 4) or "GL_ARB_buffer_storage" in domain.facts.extensions):
            raise GLError(
                f"a ring needs persistent mappings (OpenGL 4.4 or ARB_buffer_storage), and this is "
                f"{domain.facts.text!r}: map a buffer for each upload instead"
            )
        self.domain = domain
        self.slot_bytes = slot_bytes
        self.slots = slots
        self.stride: int = -(-slot_bytes // _ALIGNMENT) * _ALIGNMENT
        self.waits: int = 0
        """How often all slots were in use when one was asked for."""
        self._type = f"gl.{name}.slot"
        size = self.stride * slots
        flags = persistent("write")
        names = (UINT * 1)()
        function("glGenBuffers")(1, names)
        with Bound(names[0]) as target:
            function("glBufferStorage")(target, size, None, flags)
        self.buffer: Handle[int] = domain.own("buffer", names[0], size=size)
        if buffer_parameter(domain, names[0], _SIZE) != size:
            self.buffer.close()
            error = function("glGetError")()
            raise GLError(f"the driver gave no memory of {size} bytes for a ring (error 0x{error:04x})")
        try:
            self._mapping = map_with(domain, self.buffer, 0, size, flags, "gl.ring")
        except BaseException:
            self.buffer.close()
            raise
        self._free: deque[int] = deque(range(slots))
        self._closed = False

    @property
    def name(self) -> int:
        """The name of the buffer."""
        with self.buffer.lease() as name:
            return name

    def acquire(self, timeout: float | None = 10.0) -> Handle[int]:
        """A slot that nobody uses, neither on the host nor on the device; waits for one up to `timeout`
        seconds (None: for ever). Close it when it was written and given to a submission.

        Raises `PoolTimeoutError` when the time is over, and `GLError` once the ring is closed.
        """
        check_timeout(timeout)
        until = None if timeout is None else monotonic() + timeout
        waited = False
        index: int | None = None
        while True:
            if self._closed:
                raise GLError(f"{self!r} is closed: make another with ring() of its domain")
            try:
                for index in iter(self._free.popleft, None):  # taken and stored in one step
                    return self.domain.manager.register(
                        index,
                        self._type,
                        release=self._free.append,
                        release_on=ANY_THREAD,
                        native=(id(self), index),
                        size=0,
                        parent=self._mapping.handle,
                    )
            except IndexError:
                if index is not None:
                    raise
            except BaseException:
                self._put_back(index)
                raise
            if not waited:
                waited = True
                self.waits += 1
            self.domain.timeline.poll()
            if self._free:
                continue
            if (until is not None and monotonic() >= until) or must_not_wait():
                raise PoolTimeoutError(
                    f"all {self.slots} slots of {self!r} are in use: "
                    f"{self.domain.timeline.in_flight} submission(s) are in flight; close slots once they "
                    "were "
                    "given to a submission, drain() the domain, or make the ring larger"
                )
            time.sleep(_PAUSE)

    def _put_back(self, index: int | None) -> None:
        """A slot that an interrupt kept from being lent."""
        if index is None or index in snapshot(self._free):
            return
        mine = (id(self), index)
        if not any(
            info.type_name == self._type and info.native == mine for info in self.domain.manager.objects()
        ):
            self._free.append(index)

    def view(self, slot: Handle[int]) -> memoryview:
        """The memory of a slot, to be written. What is made from it keeps the slot from being lent again."""
        index = self._index(slot)
        return slot.view(self._mapping.address + index * self.stride, self.slot_bytes, readonly=False)

    def offset(self, slot: Handle[int] | int) -> int:
        """Where a slot begins in the buffer, in bytes. Takes what `acquire` gave, or what `use` of it did.
        Raises `GLError` for what is none of its slots."""
        index = slot if isinstance(slot, int) and not isinstance(slot, bool) else self._index(slot)
        if not 0 <= index < self.slots:
            raise GLError(f"{slot!r} is no slot of {self!r}")
        return index * self.stride

    def _index(self, slot: Any) -> int:
        native = getattr(slot, "native", None)
        if native not in [(id(self), index) for index in range(self.slots)]:
            raise GLError(f"{slot!r} is no slot of {self!r}")
        return int(native[1])

    @property
    def in_use(self) -> int:
        """How many slots are lent or in flight."""
        return self.slots - len(self._free)

    def close(self) -> bool:
        """Give the memory back once no slot is in use, on the host or the device; True when that is now."""
        self._closed = True
        self._mapping.handle.close()
        return self.buffer.close()

    def __enter__(self) -> Ring:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        closed = ", closed" if self._closed else ""
        return f"<Ring of {self.slots} slots of {self.slot_bytes} bytes: {self.in_use} in use{closed}>"
