"""Exports: memory of an object as a tensor that other libraries take without a copy."""

from __future__ import annotations

import ctypes
from collections import deque
from sys import getrefcount
from typing import Any

from lifecycle import Handle
from lifecycle.errors import shown
from lifecycle.integrations.dlpack import _native
from lifecycle.integrations.dlpack.dtypes import (
    BFLOAT16,
    check_size,
    contiguous,
    itemsize_of,
    normal,
    to_dlpack,
)
from lifecycle.integrations.dlpack.errors import DLPackError
from lifecycle.lowlevel import Export, Facts, Pin, Uncopied, describe, facts, forgets, held_pin, pin, view

__all__ = ["CPU", "CUDA", "CUDA_HOST", "CUDA_MANAGED", "Tensor", "tensor"]

CPU, CUDA, CUDA_HOST, CUDA_MANAGED = 1, 2, 3, 13
"""Kinds of devices, as DLPack numbers them."""


class Tensor(Uncopied):
    """Memory of an object, which it holds as a view does. Made by `tensor`.

    ``numpy.from_dlpack(it)``, ``torch.from_dlpack(it)`` and the like take it without a copy, on any thread,
    also at exit. What they were handed holds the object until they free it. NumPy's ``asarray`` and what
    reads ``__cuda_array_interface__`` keep this object instead.
    """

    _remedy = "make another with tensor()"

    __slots__ = (
        "__weakref__",
        "_facts",
        "_memory",
        "_stream",
        "address",
        "device",
        "dtype",
        "readonly",
        "shape",
        "strides",
    )
    _facts: Facts
    _memory: memoryview
    """Holds the pin; never read."""
    _stream: Any
    address: int
    device: tuple[int, int]
    dtype: str
    readonly: bool
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """In bytes."""

    @property
    def nbytes(self) -> int:
        """Bytes from the first element to the end of the last."""
        return _extent(self.shape, self.strides, itemsize_of(self.dtype))

    def __dlpack_device__(self) -> tuple[int, int]:
        """Kind and number of the device that the memory is of."""
        return self.device

    @forgets
    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A capsule for one consumer; as the array API describes. Raises `DLPackError`, a `BufferError`, for
        what would be misunderstood: read-only memory without a version, another device, a copy."""
        if dl_device is not None and pair(dl_device, "dl_device") != self.device:
            raise DLPackError(f"{self!r} is on device {self.device}, not {dl_device}: copy it there first")
        if copy:
            raise DLPackError(f"{self!r} is shared and never copied: copy what you make of it")
        versioned = max_version is not None and pair(max_version, "max_version")[0] >= _native.MAJOR
        if self.readonly and not versioned:
            raise DLPackError(
                f"{self!r} is read-only, which a capsule without a version cannot say: ask for "
                "max_version=(1, 0), or make it with readonly=False"
            )
        if not versioned and _native.NO_TIME[0] <= self.address < _native.NO_TIME[1]:
            raise DLPackError(
                f"{self!r} lies at an address that cannot be told from a time: ask for max_version=(1, 0)"
            )
        self._let_wait(stream)
        code, bits = to_dlpack(self.dtype)
        size = bits // 8
        out = capsule = held = None
        try:
            held = held_pin(self._facts)
            if held is None:
                raise DLPackError(f"{self!r} is taken apart by the collector just now")
            block, blocks = _native.take_block(len(self.shape))
            word = _native.fill(
                block,
                versioned=versioned,
                readonly=self.readonly,
                data=self.address,
                device=self.device,
                code=code,
                bits=bits,
                shape=self.shape,
                strides=tuple(stride // size for stride in self.strides),
            )
            out = Capsule(held, "an export by DLPack")
            out.word = ctypes.c_uint64.from_address(block)
            out.unlike = word
            out.block = block
            out.blocks = blocks
            out.names = (_native.NAME_VERSIONED if versioned else _native.NAME, _native.TAKEN_BACK)
            # Kept here as well until it is returned: whoever sweeps meanwhile sees that it is not lost.
            out.capsule = capsule = _native.new_capsule(block, versioned)
            out.hand_out()
            return capsule
        finally:
            out = capsule = held = None  # K3

    def _let_wait(self, stream: Any) -> None:
        """Have the consumer's stream wait for what the producer's was given."""
        if self.device[0] != CUDA:
            if stream is not None:
                raise DLPackError(f"{self!r} is not on a device with streams, so stream= has to be None")
            return
        if stream is not None and (isinstance(stream, bool) or not isinstance(stream, int) or stream < -1):
            raise DLPackError(f"stream= of CUDA is None, -1, 1, 2 or the address of a stream, not {stream!r}")
        if stream == 0:
            raise DLPackError("stream=0 is ambiguous in CUDA: 1 is the legacy stream, 2 that per thread")
        if self._stream is not None and stream != -1:
            self._stream.let_wait(1 if stream is None else stream)

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """NumPy's view of memory that the host can touch."""
        if self.device[0] not in (CPU, CUDA_HOST, CUDA_MANAGED):
            raise AttributeError("__array_interface__ is for memory of the host")
        return self._interface()

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """The same for memory of CUDA, with the stream that its consumer has to wait for."""
        if self.device[0] not in (CUDA, CUDA_MANAGED):
            raise AttributeError("__cuda_array_interface__ is for memory of CUDA")
        known = self._interface()
        known["stream"] = None if self._stream is None else (self._stream.number or 1)
        return known

    def _interface(self) -> dict[str, Any]:
        if self.dtype == BFLOAT16:
            raise AttributeError("bfloat16 has no letters in the array interface: use DLPack")
        return {
            "shape": self.shape,
            "typestr": self.dtype,
            "data": (self.address, self.readonly),
            "strides": self.strides,
            "version": 3,
        }

    def __repr__(self) -> str:
        only = ", read-only" if self.readonly else ""
        return f"<Tensor {self.dtype}{list(self.shape)} of {describe(self._facts)}{only}>"


class Capsule(Export):
    """A capsule that was handed out. Done: the deleter has written, or the tensor was never taken."""

    __slots__ = ("block", "blocks", "capsule", "names", "unlike", "word")
    block: int
    blocks: deque[int]
    capsule: Any
    names: tuple[int, int]
    unlike: int
    word: ctypes.c_uint64

    def over(self) -> bool:
        """As `Export.over`."""
        if self.word.value != self.unlike:
            return True
        # While it has the name that it was made with it was not taken, and without other references it cannot
        # be taken.
        if getrefcount(self.capsule) > SOLE:
            return False
        if not _native.is_named(self.capsule, self.names[0]):
            return _native.is_named(self.capsule, self.names[1])
        # Without the GIL a reference may change hands between the two halves of a count.
        if getrefcount(self.capsule) > SOLE or getrefcount(self.capsule) > SOLE:
            return False
        _native.set_name(self.capsule, self.names[1])
        return True

    def ended(self) -> None:
        """As `Export.ended`: the block may be used again."""
        self.capsule = None
        self.blocks.append(self.block)


def _sole() -> int:
    """What `getrefcount` says in `Capsule.over` of a capsule that only the export refers to."""
    out = Capsule.__new__(Capsule)
    out.capsule = _native.new_capsule(_native.NAME, False)
    return getrefcount(out.capsule)


SOLE = _sole()


@forgets
def tensor(
    handle: Handle[Any] | Pin,
    address: int,
    *,
    shape: tuple[int, ...],
    dtype: Any = "u1",
    strides: tuple[int, ...] | None = None,
    readonly: bool = True,
    device: tuple[int, int] = (CPU, 0),
    stream: Any = None,
) -> Tensor:
    """Memory of the object of `handle`, from `address` on, as a tensor that holds the object.

    Parameters
    ----------
    shape, strides:
        Numbers of elements, and bytes between them. Without strides the last dimension is contiguous. No
        stride may be negative: other libraries abort the process on one.
    dtype:
        As NumPy writes it, ``"<f4"``, or a dtype; ``"bfloat16"`` too.
    readonly:
        Whether consumers may not write. PyTorch does not look at it, and writes.
    device:
        Kind and number as in DLPack: ``(1, 0)`` the host, ``(2, n)`` CUDA, ``(3, 0)`` its pinned memory.
    stream:
        With CUDA: what writes the memory. A consumer is made to wait for it. A `CUDATimeline`, a stream of
        PyTorch, CuPy or Numba, or its address. None: the memory is written already.

    The memory must be the object's. Raises `DLPackError` for what cannot be described, `LifecycleError` for
    an address that is none, and what an access raises. Callable on any thread.
    """
    made = Tensor()
    held = None
    try:
        made.dtype = normal(dtype)
        made.shape, made.strides = _layout(shape, strides, itemsize_of(made.dtype))
        made.device = _device(device)
        made.readonly = bool(readonly)
        made.address = address
        made._stream = None
        if stream is not None:
            if made.device[0] != CUDA:
                raise DLPackError("stream= is for memory of CUDA, device=(2, n)")
            from lifecycle.integrations.cuda.streams import stream_of

            made._stream = stream_of(stream)
        if not isinstance(handle, Pin) and not callable(getattr(handle, "lease", None)):
            raise DLPackError(f"tensor() takes the Handle of what the memory belongs to, not {shown(handle)}")
        held = handle if isinstance(handle, Pin) else pin(handle)
        made._facts = facts(held)
        made._memory = view(held, address, max(1, made.nbytes), made.readonly)
        return made
    finally:
        made = held = handle = None  # type: ignore[assignment]  # K3


def pair(given: Any, what: str) -> tuple[int, int]:
    """What a consumer, or a producer, says in two numbers; those of its own enumerations are numbers too."""
    if (
        not isinstance(given, (tuple, list))
        or len(given) != 2
        or not all(hasattr(part, "__index__") and part >= 0 for part in given)
    ):
        raise DLPackError(f"{what} of DLPack is a pair of whole numbers, not {shown(given)}")
    return int(given[0]), int(given[1])


def _device(device: Any) -> tuple[int, int]:
    if (
        not isinstance(device, tuple)
        or len(device) != 2
        or not all(type(part) is int and 0 <= part < 1 << 31 for part in device)
    ):
        raise DLPackError(f"device= takes (kind, number) of DLPack, (1, 0) for the host, not {device!r}")
    return device


def _layout(shape: Any, strides: Any, itemsize: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape and strides in bytes, checked."""
    if (
        not isinstance(shape, tuple)
        or len(shape) > _native.MOST_DIMENSIONS
        or not all(type(extent) is int and 0 <= extent < 1 << 62 for extent in shape)
    ):
        raise DLPackError(
            f"shape= takes a tuple of {_native.MOST_DIMENSIONS} whole numbers at most, none below 0, not "
            f"{shown(shape)}"
        )
    check_size(shape, itemsize)
    if strides is None:
        return shape, contiguous(shape, itemsize)
    if (
        not isinstance(strides, tuple)
        or len(strides) != len(shape)
        or not all(type(stride) is int and abs(stride) < 1 << 62 for stride in strides)
    ):
        raise DLPackError(f"strides= takes a tuple of {len(shape)} whole numbers of bytes, not {strides!r}")
    if any(stride < 0 for stride in strides):
        raise DLPackError(
            f"strides {strides} run backwards: other libraries abort the process on that. Copy the memory in "
            "order, or flip what the consumer makes of it"
        )
    if any(stride % itemsize for stride in strides):
        raise DLPackError(f"strides {strides} are no multiples of {itemsize} bytes: DLPack counts elements")
    return shape, strides


def _extent(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> int:
    """Bytes from the first element to the end of the last one."""
    if 0 in shape:
        return 0
    return itemsize + sum((extent - 1) * stride for extent, stride in zip(shape, strides, strict=True))
