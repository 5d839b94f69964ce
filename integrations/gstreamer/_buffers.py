"""GStreamer's C interface for buffers that are ours to write, to make and to give away.

- **A reference is an object.** `Owned` holds one reference on a buffer and gives it up once: when it is
  dropped, given away, or dies. What makes a buffer puts it there in one C expression, and its death calls C,
  so no interrupt can fall between having a reference and having a record of it, nor into the giving up.
- **Giving away is one C expression.** `push_to` takes the reference out of its `Owned` and hands it to the
  appsrc without a bytecode in between.
- **What runs when GStreamer drops something is C.** A Python function would have to be called on whatever
  thread that happens, also while the interpreter ends (where it kills the process). See `loans.py`.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import itertools
from collections.abc import Callable
from typing import Any, Final

from lifecycle.integrations.gstreamer._native import (
    ANY,
    Gst,
    Mapping,
    _function,
    _open,
    map_foreign,
    ready,
    unmap_foreign,
)

__all__ = [
    "READ_WRITE",
    "Flow",
    "Own",
    "Owned",
    "acquire_from_pool",
    "add_parent",
    "add_video_meta",
    "configure_pool",
    "deep_copy",
    "end_own",
    "has_memory_for",
    "is_writable",
    "level_of",
    "limits_of_pool",
    "map_own",
    "new_buffer",
    "nothing_owned",
    "own_reference",
    "push_to",
    "shallow_copy",
    "sole_owner",
    "tell_end",
    "wrap_memory",
    "wrapper_of",
]

_p = ctypes.c_void_p
_size = ctypes.c_size_t
_quick = _open(ctypes.PyDLL, "gstreamer")
_slow = _open(ctypes.CDLL, "gstreamer")
_app = _open(ctypes.CDLL, "gstapp")
_app_quick = _open(ctypes.PyDLL, "gstapp")
_video = _open(ctypes.PyDLL, "gstvideo")
_byref = ctypes.byref

READ_WRITE: Final = 3
_replace = _function(_slow, "gst_mini_object_replace", ctypes.c_int, _p, _p)
_steal = _function(_quick, "gst_mini_object_steal", _p, _p)
_take = _function(_quick, "gst_mini_object_take", ctypes.c_int, _p, _p)


class Owned(_p):
    """One reference on a buffer (or any mini object), or nothing. Made by `nothing_owned` and the functions
    below; one thread uses it at a time. Its death gives the reference up, in C, as that of a `Mapping` ends
    the mapping."""

    __slots__ = ("__del__",)
    value: int | None
    __del__: Callable[[], object]

    def drop(self) -> None:
        """Give the reference up, once: C empties this in the same step, and no call comes before it."""
        self.__del__()


def nothing_owned() -> Owned:
    """An `Owned` to be filled."""
    owned = Owned()
    owned.__del__ = functools.partial(_replace, ctypes.addressof(owned), None)
    return owned


def _fill(owned: Owned, make: Callable[..., Any], *arguments: Any) -> None:
    """Put what ``make(*arguments)`` returns into `owned`, in one step."""
    list(map(_take, (_byref(owned),), map(make, *((one,) for one in arguments))))


def _owned(make: Callable[..., Any], *arguments: Any) -> Owned:
    owned = nothing_owned()
    try:
        _fill(owned, make, *arguments)
        return owned
    except BaseException:
        owned.__del__()
        raise


class Flow:
    """`GstFlowReturn`, as far as a push can answer."""

    OK: Final = 0
    EOS: Final = -3


_ref = _function(_quick, "gst_mini_object_ref", _p, _p)
_copy_deep = _function(_slow, "gst_buffer_copy_deep", _p, _p)
_allocate = _function(_slow, "gst_buffer_new_allocate", _p, _p, _size, _p)
_wrap = _function(_quick, "gst_buffer_new_wrapped_full", _p, ctypes.c_uint, _p, _size, _size, _size, _p, _p)
_copy_region = _function(_quick, "gst_buffer_copy_region", _p, _p, ctypes.c_int, _size, _size)
_is_writable = _function(_quick, "gst_mini_object_is_writable", ctypes.c_int, _p)
_memory_writable = _function(_quick, "gst_buffer_is_all_memory_writable", ctypes.c_int, _p)
_add_parent = _function(_quick, "gst_buffer_add_parent_buffer_meta", _p, _p, _p)
_weak_ref = _function(_quick, "gst_mini_object_weak_ref", None, _p, _p, _p)
_add_video_meta = _function(
    _video,
    "gst_buffer_add_video_meta_full",
    _p,
    _p,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_uint,
    ctypes.c_uint,
    ctypes.c_uint,
    _p,
    _p,
)
_set_buffer = _function(_quick, "gst_sample_set_buffer", None, _p, _p)
_push = _function(_app, "gst_app_src_push_buffer", ctypes.c_int, _p, _p)
_level_buffers = _function(_app_quick, "gst_app_src_get_current_level_buffers", ctypes.c_uint64, _p)


def _glib_function(name: str) -> Any:
    """A function of GLib: by way of GStreamer's library, whose symbols include it, or of its own."""
    try:
        return getattr(_quick, name)
    except AttributeError:  # Windows, where a library's symbols are its own alone
        return getattr(ctypes.CDLL(ctypes.util.find_library("glib-2.0-0") or "libglib-2.0-0.dll"), name)


NOTIFY: Final[int] = ctypes.cast(_glib_function("g_atomic_int_inc"), _p).value or 0
"""The C function that tells that GStreamer has let go: it adds one to the slot whose address it is given."""

_try_malloc = _glib_function("g_try_malloc")
_try_malloc.restype = _p
_try_malloc.argtypes = (_size,)
_free = _glib_function("g_free")
_free.restype = None
_free.argtypes = (_p,)
LARGE: Final = 1 << 26
"""Bytes from which on it is asked first whether there is memory: GLib ends the process where there is none.
"""

COPY_ALL: Final = 0xF  # flags, timestamps, meta, memory: everything but a merge or a deep copy
ALL: Final = _size(-1).value


def own_reference(buffer: Any) -> Owned:
    """One more reference on a buffer that somebody keeps alive over this call."""
    return _owned(_ref, buffer)


def deep_copy(buffer: Any) -> Owned:
    """A copy of buffer and bytes; empty where it cannot be made."""
    return _owned(_copy_deep, buffer)


def shallow_copy(buffer: Any) -> Owned:
    """Another buffer over the same memory, with all flags, times and metas, whose times can be changed."""
    return _owned(_copy_region, buffer, COPY_ALL, 0, ALL)


def has_memory_for(size: int) -> bool:
    """Return True if so many bytes can be had in one piece now."""
    if size < LARGE:
        return True
    if size > ALL - LARGE:
        return False
    taken, given_back = itertools.tee(map(_try_malloc, (size + LARGE,)))
    # In one call into C: no interrupt falls between.
    ((address, _),) = list(zip(taken, map(_free, given_back), strict=True))
    return address is not None


def new_buffer(size: int) -> Owned:
    """A buffer of so many bytes; empty where there is no memory for it."""
    return _owned(_allocate, None, size, None) if has_memory_for(size) else nothing_owned()


def wrap_memory(owned: Owned, flags: int, address: int, size: int, slot: int | None) -> None:
    """Have `owned` hold a buffer over memory that is not GStreamer's; as it goes, one is added to the slot at
    `slot`."""
    _fill(owned, _wrap, flags, address, size, 0, size, slot, None if slot is None else NOTIFY)


def sole_owner(buffer: Any) -> bool:
    """Return True if nobody else holds the buffer or any of its memories."""
    return bool(_is_writable(buffer)) and bool(_memory_writable(buffer))


def is_writable(buffer: Any) -> bool:
    """Return True if there is one reference on the buffer, and so nobody else."""
    return bool(_is_writable(buffer))


def tell_end(buffer: Any, slot: int) -> None:
    """Have one added to the slot at `slot` as the buffer is freed (not: as it goes back to a pool)."""
    _weak_ref(buffer, NOTIFY, slot)


def add_parent(buffer: Any, parent: Any) -> None:
    """Have `buffer` hold `parent` until it goes back to its pool, or is freed."""
    _add_parent(buffer, parent)


def add_video_meta(
    buffer: Any, video_format: int, width: int, height: int, offsets: list[int], strides: list[int]
) -> None:
    """Say where the planes of this very buffer lie."""
    count = len(offsets)
    _add_video_meta(
        buffer,
        0,
        video_format,
        width,
        height,
        count,
        (_size * 4)(*offsets),
        (ctypes.c_int * 4)(*strides),
    )


class Own(Mapping):
    """A buffer that is ours alone, and its one mapping for writing. What a `WritableFrame` registers."""

    __slots__ = ("owned",)
    owned: Owned


def map_own(own: Own) -> bool:
    """Map the buffer of `own` for reading and writing; the result is in `own`."""
    buffer = own.owned.value
    assert buffer is not None
    ready()
    own.buffer = buffer
    own.__del__ = functools.partial(next, map(unmap_foreign, ANY, (ctypes.addressof(own),)), None)
    return bool(map_foreign(buffer, own, READ_WRITE))


def end_own(own: Own) -> None:
    """The release function of every `Own`: unmap, and give the buffer up. Calling twice is calling once.

    Each is one call of C with nothing called before it, so an interrupt strikes before both or after one,
    and then the other follows."""
    try:
        if own.memory is not None:
            own.__del__()
    finally:
        own.owned.__del__()


def wrapper_of(owned: Owned) -> Any:
    """The `Gst.Buffer` of PyGObject for a buffer; `owned` gives its reference up for it."""
    sample = Gst.Sample.new(None, None, None, None)
    _set_buffer(hash(sample), owned)
    owned.drop()
    return sample.get_buffer()


# -- appsrc --------------------------------------------------------------------------------------------------


def push_to(appsrc: int, owned: Owned) -> int:
    """Hand a buffer to the appsrc at `appsrc`; the flow it answers with. `owned` has nothing any more."""
    flow: int
    (flow,) = map(_push, (appsrc,), map(_steal, (_byref(owned),)))
    return flow


def level_of(appsrc: int) -> int:
    """How many buffers wait in the appsrc at `appsrc`."""
    level: int = _level_buffers(appsrc)
    return level


# -- pools ---------------------------------------------------------------------------------------------------


class AcquireParams(ctypes.Structure):
    """`GstBufferPoolAcquireParams`."""

    _fields_ = (
        ("format", ctypes.c_int),
        ("start", ctypes.c_int64),
        ("stop", ctypes.c_int64),
        ("flags", ctypes.c_int),
        ("_reserved", _p * 4),
    )


DONT_WAIT: Final = 1 << 1
_DONT_WAIT_PARAMS = AcquireParams(flags=DONT_WAIT)
_acquire = _function(
    _slow, "gst_buffer_pool_acquire_buffer", ctypes.c_int, _p, _p, ctypes.POINTER(AcquireParams)
)
_get_config = _function(_quick, "gst_buffer_pool_get_config", _p, _p)
_set_config = _function(_quick, "gst_buffer_pool_set_config", ctypes.c_int, _p, _p)
_config_set = _function(
    _quick, "gst_buffer_pool_config_set_params", None, _p, _p, ctypes.c_uint, ctypes.c_uint, ctypes.c_uint
)
_config_get = _function(
    _quick,
    "gst_buffer_pool_config_get_params",
    ctypes.c_int,
    _p,
    _p,
    *(ctypes.POINTER(ctypes.c_uint),) * 3,
)
_config_option = _function(_quick, "gst_buffer_pool_config_add_option", None, _p, ctypes.c_char_p)
_free_structure = _function(_quick, "gst_structure_free", None, _p)


def acquire_from_pool(pool: int, owned: Owned) -> int:
    """Have a buffer of the pool put into `owned`, without waiting; the flow (EOS: there is none now)."""
    flow: int = _acquire(pool, _byref(owned), _byref(_DONT_WAIT_PARAMS))
    return flow


def configure_pool(
    pool: int, caps: int, size: int, least: int, most: int, options: tuple[bytes, ...]
) -> bool:
    """Set the configuration of a pool that is not active; False when it does not take it."""
    config = _get_config(pool)
    _config_set(config, caps, size, least, most)
    for option in options:
        _config_option(config, option)
    return bool(_set_config(pool, config))


def limits_of_pool(pool: int) -> tuple[int, int, int]:
    """``(bytes, least, most)`` of a pool's configuration; `most` is 0 where it has no bound."""
    size, least, most = ctypes.c_uint(), ctypes.c_uint(), ctypes.c_uint()
    config = _get_config(pool)
    _config_get(config, None, _byref(size), _byref(least), _byref(most))
    _free_structure(config)
    return size.value, least.value, most.value
