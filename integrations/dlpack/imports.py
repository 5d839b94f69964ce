"""Imports: a tensor of another library as an object that is owned here, and given back once."""

from __future__ import annotations

import importlib
import operator
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import compress
from typing import Any

from lifecycle import ANY_THREAD, Handle, SafetyManager
from lifecycle.errors import shown
from lifecycle.integrations.dlpack import _native
from lifecycle.integrations.dlpack.dtypes import BFLOAT16, check_size, contiguous, itemsize_of, normal
from lifecycle.integrations.dlpack.dtypes import from_dlpack as dtype_of
from lifecycle.integrations.dlpack.errors import DLPackError
from lifecycle.integrations.dlpack.tensors import CPU, CUDA, CUDA_HOST, CUDA_MANAGED, pair, tensor
from lifecycle.integrations.gpu.defaults import manager_or_default
from lifecycle.lowlevel import PlaceLike, Uncopied, array_of, forgets, pin, raw

__all__ = ["Imported", "from_dlpack"]


class Imported(Uncopied):
    """A tensor that was taken from another library: what `from_dlpack` registers. Its memory is valid under
    a lease."""

    _remedy = "make another share of its handle"

    __slots__ = (
        "_end",
        "address",
        "device",
        "dtype",
        "nbytes",
        "readonly",
        "shape",
        "strides",
    )
    _end: Callable[[], object]
    address: int
    """Of the first element."""
    device: tuple[int, int]
    dtype: str
    nbytes: int
    """Bytes of its elements."""
    readonly: bool
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """In bytes."""

    @forgets
    def array(self, handle: Handle[Any]) -> Any:
        """An ndarray of the memory that holds the object; `handle` is the object's own. Raises `DLPackError`
        where the host cannot touch the memory, and for any other handle, which would not hold it. Callable on
        any thread."""
        import numpy

        if self.device[0] not in (CPU, CUDA_HOST, CUDA_MANAGED):
            raise DLPackError(f"{self!r} is memory of device {self.device}, which the host cannot read")
        if self.dtype == BFLOAT16:
            kind, shown_as = importlib.import_module("ml_dtypes").bfloat16, normal("u2")
        else:
            kind, shown_as = numpy.dtype(self.dtype), self.dtype
        if not self.nbytes:
            return numpy.empty(self.shape, kind)  # there is no memory, and so nothing to hold
        held = None
        try:
            held = pin(handle) if callable(getattr(handle, "lease", None)) else None
            if held is None or raw(held) is not self:
                raise DLPackError(
                    f"array() of {self!r} takes the handle that it was given by, not {shown(handle)}"
                )
            if any(stride < 0 for stride in self.strides):
                # Only its description is used, and `array_of` holds the object for it.
                array = array_of(held, numpy.asarray(_Interface(self, shown_as)))
            else:
                array = numpy.asarray(
                    tensor(
                        held,
                        self.address,
                        shape=self.shape,
                        dtype=shown_as,
                        strides=self.strides,
                        readonly=self.readonly,
                    )
                )
        finally:
            held = None  # K3
        return array.view(kind) if self.dtype == BFLOAT16 else array

    def __repr__(self) -> str:
        only = ", read-only" if self.readonly else ""
        return f"<Imported {self.dtype}{list(self.shape)} on device {self.device}{only}>"


class _Interface:
    __slots__ = ("__array_interface__",)

    def __init__(self, of: Imported, typestr: str) -> None:
        self.__array_interface__ = {
            "shape": of.shape,
            "typestr": typestr,
            "data": (of.address, of.readonly),
            "strides": of.strides,
            "version": 3,
        }


_give_back: Callable[[Imported], object] = operator.methodcaller("_end")
"""The release, all of it in C: an interrupt comes before it or after it, and its producer is told."""


def _ending(capsule: Any, deleter: int, versioned: bool) -> Callable[[], object]:
    """What tells the producer, once, if the tensor had become ours; without that the capsule's own destructor
    does it."""
    if not deleter:
        return partial(bool, capsule)
    at = _native.struct_of(capsule, versioned, False)
    used = _native.USED_VERSIONED if versioned else _native.USED
    ours = map(_call, (partial(_native.is_valid, capsule, used),))
    return partial(deque, map(_call, compress((partial(_native.Deleter(deleter), at),), ours)), 0)


_call: Callable[[Any], Any] = operator.methodcaller("__call__")

_taking: dict[int, object] = {}
"""By identity: the capsules that are being taken now, each with its taker (K1)."""


def _letting_go(key: int, me: object) -> Callable[[], object]:
    """Takes a claim back if `me` has it: one step of C, so an interrupt leaves none."""
    is_mine = map(operator.is_, (me,), map(_taking.get, (key,)))
    return partial(deque, map(_call, compress((partial(_taking.pop, key, None),), is_mine)), 0)


@forgets
def from_dlpack(
    producer: Any,
    *,
    manager: SafetyManager | None = None,
    copy: bool | None = None,
    writable: bool = False,
    stream: int | None = None,
    release_on: PlaceLike = ANY_THREAD,
    parent: Any = None,
) -> Handle[Imported]:
    """Take a tensor from another library, without a copy; its handle owns it, and gives it back once.

    Parameters
    ----------
    producer:
        Anything with ``__dlpack__``, or a capsule.
    copy:
        Given to the producer: True asks for a copy, False forbids one.
    writable:
        A capsule without a version cannot say whether it is read-only, so it is taken as read-only. True: you
        know that it may be written to.
    stream:
        With CUDA: the consumer's stream, which the producer makes wait. None: the legacy default stream.
    release_on, parent, manager:
        As for `SafetyManager.register`; the manager is one of the process's own, named ``dlpack``, unless
        given.

    Raises `DLPackError` for what cannot be taken, with nothing taken, and what `register` and the producer
    raise. Callable on any thread; of several that take the same capsule one does.
    """
    capsule = made = handle = None
    me = object()
    let_go: Callable[[], object] = bool
    try:
        capsule = _capsule_of(producer, copy, stream)
        let_go = _letting_go(id(capsule), me)
        if _taking.setdefault(id(capsule), me) is not me:
            raise DLPackError(
                f"{shown(capsule)} is taken on another thread just now: a capsule is for one consumer; ask "
                "for another"
            )
        # Asked once it is ours to take: whoever took it before has renamed it by then.
        versioned = _native.is_named(capsule, _native.NAME_VERSIONED)
        if not versioned and not _native.is_named(capsule, _native.NAME):
            if any(_native.is_named(capsule, name) for name in _native.TAKEN):
                raise DLPackError(
                    f"{shown(capsule)} was used already: a capsule is for one consumer; ask for another"
                )
            raise DLPackError(
                f"{shown(capsule)} is no capsule of a tensor: its producer does not follow DLPack, or it is "
                "another library's capsule"
            )
        made = _described(capsule, versioned, writable)
        handle = manager_or_default(manager, "dlpack").register(
            made,
            "dlpack.Tensor",
            name=type(producer).__module__.partition(".")[0],
            release=_give_back,
            release_on=release_on,
            size=made.nbytes,
            parent=parent,
            unique=False,
        )
        # Owned before it is taken: from here on one of the two gives it back, whichever name it has.
        _native.set_name(capsule, _native.USED_VERSIONED if versioned else _native.USED)
        return handle
    finally:
        let_go()
        capsule = made = handle = producer = parent = None  # K3


def _described(capsule: Any, versioned: bool, writable: bool) -> Imported:
    said = _native.Described(capsule, versioned)
    made = Imported()
    made._end = _ending(capsule, said.deleter, versioned)
    made.device = said.device
    made.dtype = dtype_of(said.code, said.bits, said.lanes)
    size = itemsize_of(made.dtype)
    made.shape = said.shape
    if any(extent < 0 for extent in said.shape):
        raise DLPackError(f"a tensor of shape {said.shape} cannot be taken")
    check_size(said.shape, size)
    if said.strides is None:
        made.strides = contiguous(said.shape, size)
    else:
        made.strides = tuple(stride * size for stride in said.strides)
    made.address = said.address
    count = 1
    for extent in said.shape:
        count *= extent
    made.nbytes = count * size
    if count and not said.address:
        raise DLPackError(f"a tensor of {made.nbytes} bytes without an address cannot be taken")
    if versioned:
        made.readonly = bool(said.flags & _native.READ_ONLY)
        if writable and made.readonly:
            raise DLPackError(
                "the tensor is read-only, as its producer says: take it without writable=True, or a copy"
            )
    else:
        made.readonly = not writable
    return made


def _capsule_of(producer: Any, copy: bool | None, stream: int | None) -> Any:
    """Ask for a capsule with a version, and where the producer knows none without."""
    if type(producer).__name__ == "PyCapsule":
        return producer
    ask = getattr(producer, "__dlpack__", None)
    if not callable(ask) or isinstance(producer, type):
        raise DLPackError(
            f"from_dlpack() takes an object with __dlpack__, or a capsule, not {shown(producer)}"
        )
    wanted: dict[str, Any] = {}
    where = getattr(producer, "__dlpack_device__", None)
    if where is not None and pair(where(), "__dlpack_device__()")[0] == CUDA:
        wanted["stream"] = 1 if stream is None else stream
    elif stream is not None:
        raise DLPackError("stream= is for memory of CUDA")
    if copy is not None:
        wanted["copy"] = copy
    try:
        return ask(max_version=(_native.MAJOR, _native.MINOR), **wanted)
    except TypeError:
        # It is older than versions; whatever else is wrong it says again.
        return ask(**wanted)
