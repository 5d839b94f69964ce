"""Memory of devices and pinned memory of the host: owned, or borrowed from another library."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial
from operator import index
from typing import TYPE_CHECKING, Any

from lifecycle import ANY_THREAD, Handle, SafetyManager
from lifecycle.errors import shown
from lifecycle.integrations.cuda import _driver
from lifecycle.integrations.dlpack.dtypes import itemsize_of, normal
from lifecycle.integrations.dlpack.tensors import Tensor, tensor
from lifecycle.integrations.gpu.defaults import manager_or_default
from lifecycle.integrations.gpu.errors import TransferError
from lifecycle.lowlevel import PlaceLike, Uncopied, forgets, pin, view

if TYPE_CHECKING:
    from lifecycle.integrations.cuda.streams import Stream

__all__ = ["Memory", "borrow"]

DEVICE, PINNED = 2, 3


class Memory(Uncopied):
    """Memory that CUDA knows: valid under a lease, and while a submission uses it."""

    _remedy = "make another share of its handle"

    __slots__ = ("_box", "_free", "_stream", "context", "device", "nbytes", "readonly")
    _box: ctypes.c_uint64
    _free: Callable[..., int] | None
    _stream: Stream | None
    """In whose order it is freed. It is kept for that."""
    context: int
    device: tuple[int, int]
    """Kind and number, as DLPack has them: ``(2, n)`` a device, ``(3, 0)`` pinned memory of the host."""
    nbytes: int
    readonly: bool

    @classmethod
    def empty(cls, device: tuple[int, int], context: int, nbytes: int) -> Memory:
        """Not allocated yet. Raises `TransferError` for a size that is none."""
        _driver.refuse_in_child("memory was to be allocated")
        if isinstance(nbytes, bool) or not isinstance(nbytes, int) or not 0 < nbytes < 1 << 47:
            raise TransferError(f"memory has 1 byte or more, not {nbytes!r}")
        made = cls()
        made._box = ctypes.c_uint64()
        made._free = None
        made._stream = None
        made.device = device
        made.context = context
        made.nbytes = nbytes
        made.readonly = False
        return made

    @property
    def address(self) -> int:
        """Where it begins; 0 before it was allocated."""
        return self._box.value

    def view(self, handle: Handle[Any]) -> memoryview:
        """Pinned memory as a memoryview that holds the object; `handle` is the object's own. Raises
        `TransferError` for memory of a device, which the host cannot touch."""
        if self.device[0] != PINNED:
            raise TransferError(f"{self!r} cannot be read by the host: copy it into pinned memory")
        held = None
        try:
            held = pin(handle)
            return view(held, self.address, self.nbytes, self.readonly)
        finally:
            held = handle = None  # type: ignore[assignment]  # K3

    @forgets
    def tensor(
        self,
        handle: Handle[Any],
        *,
        shape: tuple[int, ...] | None = None,
        dtype: Any = "u1",
        stream: Any = None,
    ) -> Tensor:
        """It as a tensor for other libraries, which holds the object, as `dlpack.tensor` does. Without
        `shape` it has one dimension. Raises `TransferError` for more than there is."""
        known = normal(dtype)
        if shape is None:
            shape = (self.nbytes // itemsize_of(known),)
        made = tensor(
            handle,
            self.address,
            shape=shape,
            dtype=known,
            readonly=self.readonly,
            device=self.device,
            stream=stream,
        )
        if made.nbytes > self.nbytes:
            raise TransferError(
                f"{self!r} does not have the {made.nbytes} bytes of a tensor of shape {shape}"
            )
        return made

    def __repr__(self) -> str:
        what = "pinned memory" if self.device[0] == PINNED else f"memory of device {self.device[1]}"
        return f"<{self.nbytes} bytes of {what} at {self.address:#x}>"


def open_memory(
    made: Memory,
    make: Callable[[], int],
    free: Callable[..., int],
    manager: SafetyManager | None,
    type_name: str,
    name: str | None,
    place: PlaceLike,
    parent: Any,
    stream: Stream | None = None,
) -> Handle[Memory]:
    """Register, then allocate into what is registered: no moment at which an address could be lost."""
    made._free = free
    made._stream = stream
    handle: Handle[Memory] | None = None
    try:
        handle = manager_or_default(manager, "cuda").register(
            made, type_name, name=name, release=_give_back, release_on=place, size=made.nbytes, parent=parent
        )
        code = _driver.run_in(made.context, make)
        if code or not made.address:
            handle.close()
            _driver.checked(code or _driver.OUT_OF_MEMORY, f"{made.nbytes} bytes were to be allocated")
        return handle
    finally:
        made = handle = parent = stream = None  # type: ignore[assignment]  # K3


def _give_back(memory: Memory) -> None:
    if memory.address and memory._free is not None:
        order = () if memory._stream is None else (memory._stream.number,)
        code = _driver.run_in(memory.context, partial(memory._free, memory.address, *order))
        if code != _driver.DEINITIALIZED:  # the driver has ended, and the memory with it
            _driver.checked(code, f"{memory!r} was to be freed")


def borrow(
    source: Any,
    *,
    stream: Any = None,
    name: str | None = None,
    manager: SafetyManager | None = None,
    parent: Any = None,
) -> Handle[Memory]:
    """Memory of another library's array, borrowed: nothing is freed here. `source` lives until nobody uses it
    any more, a device included, so that its library does not give the memory to somebody else meanwhile.

    Parameters
    ----------
    source:
        An array with ``__cuda_array_interface__`` (PyTorch, CuPy, Numba), contiguous.
    stream:
        The stream that will use it, which is made to wait for what writes `source`, where that tells. None:
        that is waited for here.

    Raises `TransferError` for what has no such memory, and `DLPackError` for elements of a type that DLPack
    does not have. Callable on any thread.
    """
    _driver.refuse_in_child("memory was to be borrowed")
    try:
        known = source.__cuda_array_interface__
    except AttributeError:
        raise TransferError(
            f"borrow() takes an array with __cuda_array_interface__, not {shown(source)}"
        ) from None
    try:
        shape, strides = tuple(map(index, known["shape"])), known.get("strides")
        address, readonly = known["data"]
        address = index(address)
        strides = None if strides is None else tuple(map(index, strides))
        item = itemsize_of(normal(known["typestr"]))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise TransferError(
            f"__cuda_array_interface__ of {shown(source)} does not say what it must "
            f"({type(error).__name__}: {error})"
        ) from error
    nbytes = item
    for extent in shape:
        nbytes *= extent
    if known.get("mask") is not None:
        raise TransferError("borrow() takes an array without a mask")
    if strides is not None and not _is_contiguous(shape, strides, item):
        raise TransferError(f"borrow() takes contiguous memory, not strides {strides}: make a copy of it")
    if not nbytes or not address:
        raise TransferError("borrow() takes an array that is not empty")
    if min(shape, default=0) < 0 or not 0 < address < 1 << 64:
        raise TransferError(f"borrow() takes no array of shape {shape} at {address:#x}: there is none")
    from lifecycle.integrations.cuda.devices import device
    from lifecycle.integrations.cuda.streams import stream_of

    ordinal = getattr(getattr(source, "device", None), "index", None)
    if not isinstance(ordinal, int):
        ordinal = getattr(getattr(source, "device", None), "id", 0)
    on = device(ordinal if isinstance(ordinal, int) else 0)
    made = Memory.empty((DEVICE, on.ordinal), on.context, nbytes)
    made._box.value = address
    made.readonly = bool(readonly)
    writer = known.get("stream")
    if writer is not None:
        written = stream_of(writer, context=on.context)
        if stream is None:
            written.synchronize()
        else:
            written.let_wait(stream)
    return manager_or_default(manager, "cuda").register(
        made,
        "cuda.BorrowedMemory",
        name=name,
        release=None,
        release_on=ANY_THREAD,
        size=nbytes,
        parent=parent,
        keep_alive=source,
    )


def _is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...], item: int) -> bool:
    step = item
    for extent, stride in zip(reversed(shape), reversed(strides), strict=True):
        if extent != 1 and stride != step:
            return False
        step *= extent
    return True


def refuse_range(memory: Memory, offset: Any, nbytes: Any, which: str) -> None:
    """Raise `TransferError` unless `memory` has that range."""
    for value in (offset, nbytes):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise TransferError(f"offsets and sizes are whole numbers, 0 or more, not {value!r}")
    if offset + nbytes > memory.nbytes:
        raise TransferError(
            f"{which}: {memory!r} does not have {nbytes} bytes from {offset} on; nothing was copied"
        )
