"""The guard: a device whose misuse raises before it reaches native code.

The classes of the objects are exchanged, one object at a time, for subclasses of the same name. So
``isinstance``, identity and the library's private calls go on, no module is patched, and a device that is not
guarded is as it was. (The name must stay: wgpu counts its objects by it.)
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Callable
from typing import Any, Final

from wgpu import classes

from lifecycle import HeldError
from lifecycle.integrations.gpu.errors import DeviceError
from lifecycle.integrations.gpu.wgpu.doors import KEY, DeviceState, Door, Part, Pin, Recording, refuse, shown

_RESOURCES: Final = (classes.GPUBuffer, classes.GPUTexture, classes.GPUQuerySet)
_PARTS: Final = (classes.GPUTextureView, classes.GPUBindGroup, classes.GPURenderBundle)


def guard(device: Any) -> Any:
    """Guard `device`, and return it. Call it before its first resource is made; again it changes nothing.

    Misuse of what the device makes raises `GPUMisuseError` at the line that did it; what is destroyed while a
    recording uses it is destroyed once that was submitted or dropped. Results of correct code do not change.
    """
    if not isinstance(device, classes.GPUDevice):
        raise DeviceError(f"guard() takes a GPUDevice of wgpu, not {device!r}")
    if KEY not in device.__dict__:
        state = DeviceState(device.label)
        device.queue.__dict__[KEY] = state
        device.__dict__[KEY] = state
        device.queue.__class__ = guarded_class(type(device.queue))
        device.__class__ = guarded_class(type(device))
    return device


def guarded(one: Any) -> bool:
    """Return True if an object of wgpu is guarded."""
    return KEY in getattr(one, "__dict__", ())


def state_of(device: Any) -> DeviceState:
    """What is known of a guarded device. Raises `DeviceError` for any other."""
    state = getattr(device, KEY, None)
    if not isinstance(state, DeviceState):
        raise DeviceError(f"{device!r} is not guarded: call guard(device) first")
    return state


_inside = threading.local()
"""``calls``: how many calls of the library this thread is inside of that read from a buffer of their own and
unmap it before their last view of it has gone, which they do not use any more."""

_made: dict[Any, Any] = {}


def guarded_class(base: Any) -> Any:
    """The guarded subclass of a class of wgpu's; the class itself where nothing is to be guarded."""
    made = _made.get(base)
    return made if made is not None else _made.setdefault(base, _new_class(base))


def _new_class(base: Any) -> Any:
    for public, mixin in _MIXINS.items():
        if issubclass(base, public):
            # The methods themselves, and no second base: with that the layout would differ.
            methods = {
                name: method
                for each in reversed(mixin.__mro__[:-1])
                for name, method in vars(each).items()
                if callable(method)
            }
            return type(base.__name__, (base,), {**methods, "__slots__": (), "__module__": base.__module__})
    return base


def _library(one: Any) -> Any:
    """The library's own methods of a guarded object."""
    return super(type(one), one)


def take_in(one: Any, state: DeviceState, known: Any = None) -> Any:
    """Guard an object that was just made, or is met for the first time."""
    if KEY not in one.__dict__:
        if known is None:
            known = Door(state) if isinstance(one, _RESOURCES) else Part(state, {})
        one.__dict__[KEY] = known
        one.__class__ = guarded_class(type(one))
    return one


def collect(value: Any, state: DeviceState, uses: dict[Any, Pin | None], what: str) -> None:
    """Put into `uses` what a call's argument uses. Refuses what is destroyed, or of another device."""
    if value is None or isinstance(value, (int, float, str, bytes)):
        return
    known = getattr(value, KEY, None)
    if known is None:
        if isinstance(value, (*_RESOURCES, *_PARTS)):
            known = getattr(_met(value, state, what), KEY)
        elif isinstance(value, (list, tuple)):
            for each in value:
                collect(each, state, uses, what)
            return
        elif hasattr(value, "values"):
            for each in value.values():
                collect(each, state, uses, what)
            return
        else:
            return
    if getattr(known, "device", None) is not state:
        refuse("foreign", f"{what}: {shown(value)} belongs to another device")
    if type(known) is Door:
        if known.pin is None:
            refuse("destroyed", f"{what}: {shown(value)} was destroyed")
        uses[value] = known.pin
    elif type(known) is Part:
        for one in known.uses:
            door = getattr(one, KEY)
            if door.pin is None:
                refuse("destroyed", f"{what}: {shown(one)} was destroyed, which {shown(value)} stands for")
            uses[one] = door.pin


def _met(value: Any, state: DeviceState, what: str) -> Any:
    """An object that was made before the guard."""
    device = value._device
    if getattr(device, KEY, None) is not state:
        refuse("foreign", f"{what}: {shown(value)} belongs to another device")
    if isinstance(value, classes.GPUTextureView):
        texture = value.texture
        take_in(texture, state)
        return take_in(value, state, Part(state, {texture: getattr(texture, KEY).pin}))
    return take_in(value, state)


def _making(name: str) -> Callable[..., Any]:
    """A method of a device that makes a resource."""

    def make(self: Any, *args: Any, **kwargs: Any) -> Any:
        state = self.__dict__[KEY]
        # As the program has called it: `_create_buffer` is create_buffer's.
        state.check(f"{name.lstrip('_')}()")
        return take_in(getattr(_library(self), name)(*args, **kwargs), state)

    return _named(make, name)


def _checked(name: str) -> Callable[..., Any]:
    """A method of a device that makes what needs no guard."""

    def make(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.__dict__[KEY].check(f"{name}()")
        return getattr(_library(self), name)(*args, **kwargs)

    return _named(make, name)


def _recorded(name: str) -> Callable[..., Any]:
    """A method of an encoder or pass whose arguments are used."""

    def record(self: Any, *args: Any, **kwargs: Any) -> Any:
        recording = self.__dict__[KEY]
        if recording.over:
            refuse("finished", f"{name}(): {shown(self)} was {recording.over}; begin another")
        uses: dict[Any, Pin | None] = {}
        for value in args:
            collect(value, recording.device, uses, f"{name}()")
        for value in kwargs.values():
            collect(value, recording.device, uses, f"{name}()")
        made = getattr(_library(self), name)(*args, **kwargs)
        recording.uses.update(uses)
        return made

    return _named(record, name)


def _begun(name: str) -> Callable[..., Any]:
    """A method of an encoder that begins a pass."""
    record = _recorded(name)

    def begin(self: Any, *args: Any, **kwargs: Any) -> Any:
        made = record(self, *args, **kwargs)
        return take_in(made, self.__dict__[KEY].device, self.__dict__[KEY])

    return _named(begin, name)


def _named(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    function.__name__ = function.__qualname__ = name
    return function


class _Mixin:
    __slots__ = ()
    __dict__: dict[str, Any]


class _Device(_Mixin):
    __slots__ = ()
    _create_buffer = _making("_create_buffer")
    create_texture = _making("create_texture")
    _create_query_set = _making("_create_query_set")
    _create_statistics_query_set = _making("_create_statistics_query_set")

    def create_command_encoder(self, **kwargs: Any) -> Any:
        state = self.__dict__[KEY]
        state.check("create_command_encoder()")
        return take_in(_library(self).create_command_encoder(**kwargs), state, Recording(state))

    def create_render_bundle_encoder(self, **kwargs: Any) -> Any:
        state = self.__dict__[KEY]
        state.check("create_render_bundle_encoder()")
        return take_in(_library(self).create_render_bundle_encoder(**kwargs), state, Recording(state))

    def create_bind_group(self, **kwargs: Any) -> Any:
        state = self.__dict__[KEY]
        state.check("create_bind_group()")
        uses: dict[Any, Pin | None] = {}
        collect(kwargs.get("entries"), state, uses, "create_bind_group()")
        # The group itself keeps its resources open for nobody: `destroy` shuts them for it as well.
        return take_in(
            _library(self).create_bind_group(**kwargs),
            state,
            Part(state, dict.fromkeys(uses)),
        )

    def destroy(self) -> None:
        state = self.__dict__[KEY]
        with state.lock:
            state.dead = True
            _library(self).destroy()
            # Once to the end of the work in flight: maps and fences that are pending are answered.
            self._poll_wait()  # type: ignore[attr-defined]


for _name in (
    "create_sampler",
    "create_bind_group_layout",
    "create_pipeline_layout",
    "create_shader_module",
    "create_compute_pipeline",
    "create_compute_pipeline_async",
    "create_render_pipeline",
    "create_render_pipeline_async",
):
    setattr(_Device, _name, _checked(_name))


class _Encoder(_Mixin):
    __slots__ = ()
    begin_compute_pass = _begun("begin_compute_pass")
    begin_render_pass = _begun("begin_render_pass")

    def finish(self, **kwargs: Any) -> Any:
        recording = self.__dict__[KEY]
        if recording.over:
            refuse("finished", f"finish(): {shown(self)} was {recording.over} already")
        made = _library(self).finish(**kwargs)
        recording.over = "finished"
        over = Recording(recording.device)
        over.uses = recording.uses
        recording.uses = {}
        return take_in(made, recording.device, over)


class _BundleEncoder(_Mixin):
    __slots__ = ()

    def finish(self, **kwargs: Any) -> Any:
        recording = self.__dict__[KEY]
        if recording.over:
            refuse("finished", f"finish(): {shown(self)} was {recording.over} already")
        made = _library(self).finish(**kwargs)
        recording.over = "finished"
        return take_in(made, recording.device, Part(recording.device, dict.fromkeys(recording.uses)))


class _Pass(_Mixin):
    __slots__ = ()


class _CommandBuffer(_Mixin):
    __slots__ = ()


class _View(_Mixin):
    __slots__ = ()


for _name in ("clear_buffer", "copy_buffer_to_buffer", "copy_buffer_to_texture", "copy_texture_to_buffer"):
    setattr(_Encoder, _name, _recorded(_name))
for _name in ("copy_texture_to_texture", "resolve_query_set"):
    setattr(_Encoder, _name, _recorded(_name))
for _class in (_Pass, _BundleEncoder):
    for _name in (
        "set_bind_group",
        "set_index_buffer",
        "set_vertex_buffer",
        "draw_indirect",
        "draw_indexed_indirect",
        "dispatch_workgroups_indirect",
        "execute_bundles",
        "_multi_draw_indirect",
        "_multi_draw_indexed_indirect",
        "_multi_draw_indirect_count",
        "_multi_draw_indexed_indirect_count",
    ):
        setattr(_class, _name, _recorded(_name))


class _Resource(_Mixin):
    __slots__ = ()

    def destroy(self) -> None:
        door = self.__dict__[KEY]
        with door.device.lock:
            pin = door.pin
            if pin is None:
                return
            late = _library(self).destroy
            # Three stores, with nothing called between: from here on the pin holds this object, until those
            # who hold the pin have let go, and this object no longer holds the pin.
            door.pin = None
            pin.keeps = self
            pin.__del__ = late
        del pin, late


class _Texture(_Resource):
    __slots__ = ()

    def create_view(self, **kwargs: Any) -> Any:
        door = self.__dict__[KEY]
        if door.pin is None:
            refuse("destroyed", f"create_view(): {shown(self)} was destroyed")
        return take_in(_library(self).create_view(**kwargs), door.device, Part(door.device, {self: None}))


class _Buffer(_Resource):
    __slots__ = ()

    def map_async(self, *args: Any, **kwargs: Any) -> Any:
        door = self._open("map_async()")
        with door.device.lock:
            self._open("map_async()")
            return _library(self).map_async(*args, **kwargs)

    def unmap(self) -> None:
        door = self._open("unmap()")
        alive = [one for one in (reference() for reference in door.mapped) if one is not None]
        if alive and not getattr(_inside, "calls", 0):
            raise HeldError(
                f"{shown(self)} cannot be unmapped: {len(alive)} view(s) of its mapped memory are alive, and "
                "would read what is gone; drop the arrays made of them first",
                ("a view of mapped memory",) * len(alive),
            )
        with door.device.lock:
            _library(self).unmap()
            door.mapped.clear()

    def read_mapped(self, buffer_offset: Any = None, size: Any = None, *, copy: bool = True) -> Any:
        self._open("read_mapped()")
        if copy:
            return _library(self).read_mapped(buffer_offset, size, copy=True)
        view = _library(self).read_mapped(buffer_offset, size, copy=False)
        return self._held(view).toreadonly()

    def write_mapped(self, *args: Any, **kwargs: Any) -> None:
        self._open("write_mapped()")
        _library(self).write_mapped(*args, **kwargs)

    def _open(self, what: str) -> Door:
        door: Door = self.__dict__[KEY]
        door.device.check(what)
        if door.pin is None:
            refuse("destroyed", f"{what}: {shown(self)} was destroyed")
        return door

    def _held(self, view: Any) -> memoryview:
        """The same memory as `view`, by a view that holds the buffer's pin and the buffer."""
        door: Door = self.__dict__[KEY]
        whole = ctypes.c_ubyte.from_buffer(view) if not view.readonly else None
        address = ctypes.addressof(whole) if whole is not None else _address_of(view)
        held: Any = (ctypes.c_ubyte * view.nbytes).from_address(address)
        held.holds = (door.pin, self)
        door.mapped.append(weakref.ref(held))
        return memoryview(held).cast("B")


def _address_of(view: memoryview) -> int:
    """Where a read-only view begins."""
    import numpy as np

    return int(np.frombuffer(view, np.uint8).__array_interface__["data"][0])


class _Queue(_Mixin):
    __slots__ = ()

    def submit(self, command_buffers: Any) -> None:
        state: DeviceState = self.__dict__[KEY]
        buffers = list(command_buffers)
        with state.lock:
            state.check("submit()")
            seen: set[int] = set()
            for one in buffers:
                _check_submit(one, state, seen)
            _library(self).submit(buffers)
            for one in buffers:
                getattr(one, KEY).over = "submitted"
        # From here on wgpu keeps its own count. What `destroy` put off is done now, without the lock.
        for one in buffers:
            getattr(one, KEY).uses.clear()

    def _touch(self, what: str, *values: Any) -> None:
        state: DeviceState = self.__dict__[KEY]
        state.check(what)
        uses: dict[Any, Pin | None] = {}
        for value in values:
            collect(value, state, uses, what)
        for one in uses:
            _check_unmapped(one, what)

    def write_buffer(self, buffer: Any, *args: Any, **kwargs: Any) -> None:
        with self.__dict__[KEY].lock:
            self._touch("write_buffer()", buffer)
            _library(self).write_buffer(buffer, *args, **kwargs)

    def write_texture(self, destination: Any, *args: Any, **kwargs: Any) -> None:
        with self.__dict__[KEY].lock:
            self._touch("write_texture()", destination)
            _library(self).write_texture(destination, *args, **kwargs)

    def read_buffer(self, buffer: Any, *args: Any, **kwargs: Any) -> Any:
        self._touch("read_buffer()", buffer)
        return _library(self).read_buffer(buffer, *args, **kwargs)

    def read_texture(self, source: Any, *args: Any, **kwargs: Any) -> Any:
        self._touch("read_texture()", source)
        _inside.calls = getattr(_inside, "calls", 0) + 1
        try:
            return _library(self).read_texture(source, *args, **kwargs)
        finally:
            _inside.calls -= 1


def _check_submit(one: Any, state: DeviceState, seen: set[int]) -> None:
    recording = getattr(one, KEY, None)
    if not isinstance(one, classes.GPUCommandBuffer):
        refuse("foreign", f"submit(): {one!r} is no GPUCommandBuffer")
    if recording is None or recording.device is not state:
        refuse(
            "foreign",
            f"submit(): {shown(one)} was recorded on another device, or before guard(): record it anew",
        )
    if recording.over == "submitted" or id(one) in seen:
        refuse("submitted", f"submit(): {shown(one)} can be submitted once: record it anew")
    seen.add(id(one))
    for used in recording.uses:
        _check_unmapped(used, "submit()")


def _check_unmapped(used: Any, what: str) -> None:
    mapped = getattr(used, "_map_state", "unmapped")
    if mapped != "unmapped":
        refuse("mapped", f"{what}: {shown(used)} is {mapped}: unmap it before the device uses it")


_MIXINS: Final[dict[type, type]] = {
    classes.GPUDevice: _Device,
    classes.GPUQueue: _Queue,
    classes.GPUCommandEncoder: _Encoder,
    classes.GPURenderBundleEncoder: _BundleEncoder,
    classes.GPUComputePassEncoder: _Pass,
    classes.GPURenderPassEncoder: _Pass,
    classes.GPUCommandBuffer: _CommandBuffer,
    classes.GPUBuffer: _Buffer,
    classes.GPUTexture: _Texture,
    classes.GPUQuerySet: _Resource,
    classes.GPUTextureView: _View,
    classes.GPUBindGroup: _View,
    classes.GPURenderBundle: _View,
}
