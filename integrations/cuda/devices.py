"""A device and its primary context, which all libraries of a process share."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from lifecycle import ANY_THREAD, BACKGROUND, Handle, ReleaseQueue, SafetyManager
from lifecycle.integrations.cuda import _driver
from lifecycle.integrations.cuda.errors import CUDAError
from lifecycle.integrations.cuda.memory import DEVICE, PINNED, Memory, open_memory
from lifecycle.integrations.gpu.defaults import manager_or_default
from lifecycle.lowlevel import PlaceLike, Uncopied, forgets

if TYPE_CHECKING:
    from lifecycle.integrations.cuda.streams import Stream

__all__ = ["Device", "device"]

_MEMORY_POOLS = 115


class Device(Uncopied):
    """A device. Made by `device`, one for each number. All methods may be called on any thread; none needs a
    current context."""

    _remedy = "there is one object for each device: device(number)"

    __slots__ = ("_queues", "context", "name", "ordinal")
    _queues: dict[None, ReleaseQueue]
    context: int
    """The driver's address of its primary context, which is kept until the process ends."""
    name: str
    ordinal: int

    def here(self) -> bool:
        """Return True if its primary context is current on this thread."""
        return not _driver.in_a_child() and _driver.current_context() == self.context

    @contextlib.contextmanager
    def current(self) -> Iterator[Device]:
        """Have its context current on this thread for a block. Raises `CUDAError` where it is gone."""
        push, pop = _driver.function("cuCtxPushCurrent_v2"), _driver.function("cuCtxPopCurrent_v2")
        codes: list[int] = []
        try:
            codes.extend(map(push, (self.context,)))  # called and noted in one step
            _driver.checked(codes[0], f"the context of {self!r} was to be made current")
            yield self
        finally:
            if codes == [_driver.SUCCESS] and not _driver.in_a_child():
                pop(ctypes.byref(ctypes.c_void_p()))

    @property
    def queue(self) -> ReleaseQueue:
        """A release queue for natives that are freed only while this context is current (modules, textures,
        graphs of other libraries): closing them elsewhere posts, and ``queue.drain()`` under `current` runs
        it."""
        made = self._queues.get(None)
        if made is None:
            made = self._queues.setdefault(None, ReleaseQueue(f"cuda:{self.ordinal}", here=self.here))  # K1
        return made

    def memory(self) -> tuple[int, int]:
        """Bytes that are free, and all there are."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        ask = partial(_driver.function("cuMemGetInfo_v2"), ctypes.byref(free), ctypes.byref(total))
        _driver.checked(_driver.run_in(self.context, ask), "the device was asked for its memory")
        return free.value, total.value

    @forgets
    def allocate(
        self,
        nbytes: int,
        *,
        stream: Any = None,
        name: str | None = None,
        manager: SafetyManager | None = None,
        parent: Any = None,
        release_on: PlaceLike | None = None,
    ) -> Handle[Memory]:
        """Memory of the device, owned. It is freed when the last handle is closed and nothing uses it.

        With `stream` it is the stream's: what other streams do with it has to wait for that, and it is freed
        in the stream's order, by `ANY_THREAD`; the stream lives until then. Else freeing may wait for the
        device, so a timed worker does it. Raises `CUDAError`, and `TransferError` for a size that is none.
        """
        of: Stream | None = None
        if stream is None:
            made = Memory.empty((DEVICE, self.ordinal), self.context, nbytes)
            make = partial(_driver.function("cuMemAlloc_v2"), ctypes.byref(made._box), nbytes)
            free = _driver.function("cuMemFree_v2")
            place: PlaceLike = BACKGROUND if release_on is None else release_on
        else:
            if not _driver.integer("cuDeviceGetAttribute", _MEMORY_POOLS, self.ordinal):
                raise CUDAError(f"{self!r} has no memory in a stream's order: allocate it without stream=")
            from lifecycle.integrations.cuda.streams import stream_of

            of = stream_of(stream, context=self.context)
            made = Memory.empty((DEVICE, self.ordinal), self.context, nbytes)
            make = partial(_driver.function("cuMemAllocAsync"), ctypes.byref(made._box), nbytes, of.number)
            free = _driver.function("cuMemFreeAsync")
            place = ANY_THREAD if release_on is None else release_on
        return open_memory(made, make, free, manager, "cuda.Memory", name, place, parent, of)

    @forgets
    def pinned(
        self,
        nbytes: int,
        *,
        name: str | None = None,
        manager: SafetyManager | None = None,
        parent: Any = None,
        release_on: PlaceLike = BACKGROUND,
    ) -> Handle[Memory]:
        """Memory of the host that devices read and write by themselves, owned. ``memory.view(handle)`` is it
        as a memoryview. Freeing it may wait for the device. Raises as `allocate` does."""
        made = Memory.empty((PINNED, 0), self.context, nbytes)
        make = partial(_driver.function("cuMemHostAlloc"), ctypes.byref(made._box), nbytes, 1)
        free = _driver.function("cuMemFreeHost")
        return open_memory(made, make, free, manager, "cuda.PinnedMemory", name, release_on, parent)

    @forgets
    def stream(
        self, *, name: str | None = None, manager: SafetyManager | None = None, parent: Any = None
    ) -> Handle[Stream]:
        """A stream of its own, owned; it does not wait for the default stream. What it was given is done also
        after its end."""
        from lifecycle.integrations.cuda.streams import Stream

        _driver.refuse_in_child("a stream was to be made")
        made = Stream()
        made._box = ctypes.c_void_p()
        made._kept = None
        made.context = self.context
        handle = manager_or_default(manager, "cuda").register(
            made,
            "cuda.Stream",
            name=name,
            release=_destroy_stream,
            release_on=ANY_THREAD,
            parent=parent,
        )
        make = partial(_driver.function("cuStreamCreate"), ctypes.byref(made._box), _driver.NON_BLOCKING)
        code = _driver.run_in(self.context, make)
        if code:
            handle.close()
            _driver.checked(code, "a stream was to be made")
        return handle

    def __repr__(self) -> str:
        return f"<Device {self.ordinal}: {self.name}>"


def _destroy_stream(stream: Stream) -> None:
    if stream.number:
        code = _driver.run_in(stream.context, partial(_driver.function("cuStreamDestroy_v2"), stream.number))
        if code != _driver.DEINITIALIZED:
            _driver.checked(code, f"{stream!r} was to be destroyed")


_devices: dict[int, Device] = {}


def device(ordinal: int = 0) -> Device:
    """The device of this number, with its primary context. Raises `CUDAError` where there is none."""
    if isinstance(ordinal, bool) or not isinstance(ordinal, int) or ordinal < 0:
        raise CUDAError(f"a device's number is 0 or more, not {ordinal!r}")
    known = _devices.get(ordinal)
    if known is not None:
        return known
    _driver.refuse_in_child("a device was to be used")
    count = _driver.integer("cuDeviceGetCount")
    if ordinal >= count:
        raise CUDAError(f"there is no CUDA device {ordinal}: this process sees {count}")
    made = Device()
    made.ordinal = _driver.integer("cuDeviceGet", ordinal)
    text = ctypes.create_string_buffer(128)
    _driver.checked(_driver.function("cuDeviceGetName")(text, 128, made.ordinal), "a device's name")
    made.name = text.value.decode(errors="replace")
    context = ctypes.c_void_p()
    code = _driver.function("cuDevicePrimaryCtxRetain")(ctypes.byref(context), made.ordinal)
    _driver.checked(code, f"the context of {made.name} was to be made")
    made.context = context.value or 0
    made._queues = {}
    return _devices.setdefault(ordinal, made)
