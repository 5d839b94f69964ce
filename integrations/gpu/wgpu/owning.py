"""wgpu's objects as objects of a manager: owned by share, never by flag."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from wgpu import classes, flags

from lifecycle import ANY_THREAD, Handle, SafetyManager
from lifecycle.integrations.gpu.defaults import manager_or_default
from lifecycle.integrations.gpu.errors import DeviceError, TransferError
from lifecycle.integrations.gpu.wgpu.doors import refuse, shown

_USAGE: Final = {"read": int(flags.BufferUsage.MAP_READ), "write": int(flags.BufferUsage.MAP_WRITE)}


def own(obj: Any, *, parent: Any = None, size: int = 0, manager: SafetyManager | None = None) -> Handle[Any]:
    """Take ownership of an object of wgpu: a shader module, buffer, bind group layout, pipeline layout,
    pipeline, bind group, texture, texture view, encoder, pass, or any other. Its release is its `destroy`
    where it has one; the wrapper goes with it.

    What is only borrowed is a `share` of the handle; an encoder or pass is recorded in
    ``with handle.exclusive()`` and taken by ``handle.detach()``. Raises `DuplicateError` for an object that
    has an owner already, and `DeviceError` for what is none of wgpu's.
    """
    if not isinstance(obj, classes.GPUObjectBase):
        raise DeviceError(f"own() takes an object of wgpu, not {obj!r}")
    return manager_or_default(manager).register(
        obj,
        f"wgpu.{type(obj).__name__.removeprefix('GPU')}",
        name=obj.label or None,
        release=_destroy if callable(getattr(obj, "destroy", None)) else _let_go,
        release_on=ANY_THREAD,
        size=size or _bytes_of(obj),
        parent=parent,
    )


def _destroy(obj: Any) -> None:
    obj.destroy()


def _let_go(obj: Any) -> None:
    """Its native end comes with the wrapper's, whose last reference the library drops next."""


def _bytes_of(obj: Any) -> int:
    return int(obj.size) if isinstance(obj, classes.GPUBuffer) else 0


@contextmanager
def mapped(buffer: Any, mode: str, offset: int = 0, size: int | None = None) -> Iterator[memoryview]:
    """Map a guarded buffer for a block, and give its memory: ``mode`` is ``"read"`` or ``"write"``. Leaving
    the block unmaps; with an array of the memory alive it raises `HeldError`, and the buffer stays mapped. An
    exception in the block passes, and leaves the buffer mapped as long as its traceback holds the memory.

    `offset` is bytes, a multiple of 8. `size` is bytes, a multiple of 4; None: up to the end of the buffer.
    Raises `TransferError` for others, for what is not in the buffer and for a buffer whose usage does not
    allow that mode, `GPUMisuseError` for one that is mapped already, and `DeviceError` for one that is not
    guarded."""
    modes = {"read": flags.MapMode.READ, "write": flags.MapMode.WRITE}
    if not isinstance(mode, str) or mode not in modes:
        raise TransferError(f"mapped(mode) takes 'read' or 'write', not {mode!r}")
    if not hasattr(buffer, "_held"):
        raise DeviceError(f"{buffer!r} is no buffer of a guarded device: call guard(device) first")
    _check_range(buffer, offset, size)
    if not buffer.usage & _USAGE[mode]:
        # wgpu's own refusal leaves the buffer pending for ever.
        raise TransferError(
            f"mapped(mode={mode!r}): {shown(buffer)} cannot be mapped so; make it with "
            f"usage=BufferUsage.MAP_{mode.upper()}"
        )
    if buffer.map_state != "unmapped":
        refuse("mapped", f"mapped(): {shown(buffer)} is {buffer.map_state} already; unmap it first")
    buffer.map_async(modes[mode], offset, size).sync_wait()
    view = buffer.read_mapped(offset, size, copy=False) if mode == "read" else _writable(buffer, offset, size)
    try:
        yield view
    except BaseException:
        view.release()
        view = None
        raise
    view.release()
    view = None
    buffer.unmap()


def _check_range(buffer: Any, offset: Any, size: Any) -> None:
    for what, value, step in (("offset", offset, 8), ("size", 4 if size is None else size, 4)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0 or value % step:
            raise TransferError(
                f"mapped({what}=) takes a whole number of bytes, a multiple of {step}, not {value!r}"
            )
    left = buffer.size - offset
    if left <= 0 or (size is not None and not 0 < size <= left):
        raise TransferError(
            f"mapped(offset={offset}, size={size}) is not in {buffer!r}, which has {buffer.size} bytes"
        )


def _writable(buffer: Any, offset: int, size: int | None) -> memoryview:
    return buffer._held(buffer._experimental_get_mapped_range(offset, size))  # type: ignore[no-any-return]
