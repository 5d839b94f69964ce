"""Objects of the graphics card under watch: ``lifecycle run --gl`` (PyOpenGL, moderngl) and ``--wgpu``.

Both are thin. Of moderngl and wgpu the classes are watched as `watch` does it, but for objects that nobody
releases, which end by themselves or with their context. Of PyOpenGL the functions that make, delete and map
are looked at: in which context that is done. Of wgpu it is known what each recording uses, since a submission
of what is destroyed or mapped aborts the process in C: it is told before that.
"""

from __future__ import annotations

import weakref
from types import FrameType, ModuleType
from typing import Any

from lifecycle.watch import sites
from lifecycle.watch.imports import when_imported
from lifecycle.watch.journal import Seen, frame_here, journal
from lifecycle.watch.methods import FREED_BY_THEMSELVES
from lifecycle.watch.patches import hidden, patch, quiet
from lifecycle.watch.targets import watch

MODERNGL = tuple(
    f"moderngl:{name}.release"
    for name in (
        *("Buffer", "ComputeShader", "Context", "Framebuffer", "Program", "Renderbuffer", "Sampler"),
        *("Texture", "Texture3D", "TextureArray", "TextureCube", "VertexArray"),
    )
)
_WGPU = "wgpu.backends.wgpu_native._api"
DEEPEST = 6
"""Lists and dictionaries within each other that are looked through for resources."""

_package = {"gl": "", "wgpu": ""}


def _seen(name: str, of: str, address: int = 0, size: int = 0) -> Seen:
    frame = sites.user(frame_here(1), _package[of])
    number = 0
    if journal.recorded is not None:
        number = journal.recorded.registered(name, frame, address, size)
    return Seen(name, sites.site(frame), False, number)


def _at(seen: Seen) -> str:
    return sites.text(seen.site)


# -- OpenGL --------------------------------------------------------------------------------------------------

KINDS = {
    "Textures": "texture",
    "Buffers": "buffer",
    "Renderbuffers": "renderbuffer",
    "Samplers": "sampler",
    "VertexArrays": "vertex array",
    "Framebuffers": "framebuffer",
    "Queries": "query",
}

_contexts: set[int] = set()
"""Contexts in which something was made: so the platform's answer can be believed."""
_names: dict[tuple[int, str, int], Seen] = {}
"""By context, kind and name."""
_deleted: dict[tuple[int, str, int], Seen] = {}
_mapped: dict[tuple[int, int], Seen] = {}
"""By context and buffer."""
_TARGETS = (0x8892, 0x8893, 0x88EB, 0x88EC, 0x8A11, 0x8F36, 0x8F37, 0x90D2)
"""Of buffers: array, element array, pixel pack and unpack, uniform, copy read and write, shader storage."""
_BINDINGS = dict(zip(_TARGETS, (0x8894, 0x8895, 0x88ED, 0x88EF, 0x8A28, 0x8F36, 0x8F37, 0x90D3), strict=True))
"""What asks for the buffer that is bound to a target."""


def begin_gl() -> None:
    """Watch PyOpenGL and moderngl from when the program has them."""
    FREED_BY_THEMSELVES.update(target.replace(":", ".").rpartition(".")[0] for target in MODERNGL)
    how = {"GL": ""}

    def loaded(module: ModuleType) -> None:
        _package["gl"] = sites.package_of(module)
        how["GL"] = "calls"
        for kind in KINDS:
            for verb in ("Gen", "Create"):
                _exchange(module, f"gl{verb}{kind}", _making(KINDS[kind]))
            _exchange(module, f"glDelete{kind}", _deleting(KINDS[kind]))
        _exchange(module, "glMapBufferRange", _mapping)
        _exchange(module, "glUnmapBuffer", _unmapping)

    when_imported("OpenGL.GL", loaded)
    classes = watch(*MODERNGL)
    # One line for all of them: a program has one of the two libraries.
    for one in classes:
        journal.watched.pop(one.name, None)
    never = "not neither OpenGL.GL nor moderngl was imported"
    journal.watched["OpenGL"] = lambda: how["GL"] or (classes[0].how if classes[0].how != "not" else never)


def _exchange(module: ModuleType, name: str, around: Any) -> None:
    original = getattr(module, name, None)
    # False: the driver has no such function, and programs ask for that.
    if original:
        setattr(module, name, hidden(around, original))


def _context() -> int:
    """The current context, 0 for none."""
    import OpenGL.platform

    found = OpenGL.platform.PLATFORM.GetCurrentContext()
    return int(getattr(found, "value", found) or 0)


def _numbers(names: Any) -> list[int]:
    # What can be gone through once alone is the program's.
    if hasattr(names, "__len__"):
        return [int(one) for one in names]
    return [int(names)] if hasattr(names, "__index__") else []


def _making(kind: str) -> Any:
    @quiet
    def made(result: Any) -> None:
        context = _context()
        if not context:
            if _contexts:
                seen = _seen(kind, "gl")
                journal.mistake(
                    seen, f"a {kind} made without a current context, which makes none: at {_at(seen)}"
                )
            return
        _contexts.add(context)
        seen = _seen(kind, "gl")
        for name in _numbers(result):
            key = (context, kind, name)
            _names[key] = seen
            _deleted.pop(key, None)

    def make(original: Any, args: Any, more: Any) -> Any:
        result = original(*args, **more)
        made(result)
        return result

    return make


def _deleting(kind: str) -> Any:
    @quiet
    def about_to(*args: Any) -> None:
        context = _context()
        # ``glDeleteTextures(names)`` and ``glDeleteTextures(count, names)``
        for name in _numbers(args[-1]):
            seen = _names.get((context, kind, name))
            if seen is not None:
                del _names[context, kind, name]
                frame = sites.user(frame_here(1), _package["gl"])
                _deleted[context, kind, name] = Seen(kind, sites.site(frame), False, seen.number)
                _over(seen, frame)
                if kind == "buffer":
                    # OpenGL unmaps what it deletes.
                    _over(_mapped.pop((context, name), None), frame)
                continue
            others = [one for (where, what, number), one in _names.items() if (what, number) == (kind, name)]
            if context in _contexts or not context:
                _strange(context, kind, name, others)

    def delete(original: Any, args: Any, more: Any) -> Any:
        about_to(*args)
        return original(*args, **more)

    return delete


def _over(seen: Seen | None, frame: FrameType | None) -> None:
    """It ends, or has ended: a thread that uses it crashes from now on."""
    if seen is not None and journal.recorded is not None:
        journal.recorded.closed(seen, frame)


def _strange(context: int, kind: str, name: int, others: list[Seen]) -> None:
    """A name is deleted in a context that has not made it."""
    here = _seen(kind, "gl")
    if not context and others:
        journal.mistake(
            others[-1],
            f"deleted without a current context, which deletes nothing: {kind} {name} made at "
            f"{_at(others[-1])}: at {_at(here)}",
        )
    elif others:
        journal.risk(
            here,
            f"deleted in another context than it was made in, which is right where they share: {kind} {name} "
            f"made at {_at(others[-1])}: at {_at(here)}",
        )
    elif (context, kind, name) in _deleted:
        before = _deleted[context, kind, name]
        journal.risk(here, f"deleted twice: {kind} {name} at {_at(here)}; first at {_at(before)}")


def _bound(target: Any) -> int:
    """The buffer that is bound to a target: it may be mapped by one and unmapped by another."""
    from OpenGL.GL import glGetIntegerv

    binding = _BINDINGS.get(int(target))
    # What is not known is told apart by its target, which no name of a buffer is.
    return -int(target) if binding is None else int(glGetIntegerv(binding))


@quiet
def _was_mapped(address: Any, target: Any, offset: Any, length: Any, access: Any) -> None:
    at = int(getattr(address, "value", address) or 0)
    if at:
        _mapped[_context(), _bound(target)] = _seen("mapping of a buffer", "gl", at, int(length))


def _mapping(original: Any, args: Any, more: Any) -> Any:
    result = original(*args, **more)
    _was_mapped(result, *args)
    return result


@quiet
def _was_unmapped(target: Any) -> None:
    _over(_mapped.pop((_context(), _bound(target)), None), sites.user(frame_here(0), _package["gl"]))


def _unmapping(original: Any, args: Any, more: Any) -> Any:
    result = original(*args, **more)
    _was_unmapped(*args)
    return result


# -- wgpu ----------------------------------------------------------------------------------------------------

Table = weakref.WeakKeyDictionary[Any, Any]

_gone: Table = Table()
"""Resources and devices that were destroyed, each with where."""
_busy: Table = Table()
"""Buffers that are mapped, or will be."""
_uses: Table = Table()
"""What encoders, passes, command buffers, bind groups, bundles and views stand for."""
_submitted: Table = Table()
_resources: tuple[type, ...] = ()


def begin_wgpu() -> None:
    """Watch wgpu from when the program has it."""
    how = {"wgpu": "not its module was never imported"}
    journal.watched["wgpu"] = lambda: how["wgpu"]

    def loaded(module: Any) -> None:
        global _resources
        _package["wgpu"] = sites.package_of(module)
        how["wgpu"] = "calls"
        _resources = (module.GPUBuffer, module.GPUTexture, module.GPUQuerySet)
        for cls in (*_resources, module.GPUDevice):
            patch(cls, "destroy", _destroying)
        for name in ("map_async", "map_sync"):
            patch(module.GPUBuffer, name, _mapping_buffer)
        for name in ("unmap", "unmap_sync"):
            patch(module.GPUBuffer, name, _unmapping_buffer)
        patch(module.GPUQueue, "submit", _submitting)
        for name in ("read_buffer", "read_texture", "write_buffer", "write_texture"):
            patch(module.GPUQueue, name, _queueing)
        patch(module.GPUTexture, "create_view", _standing_for)
        for name in ("create_bind_group", "create_bind_group_async"):
            patch(module.GPUDevice, name, _standing_for)
        encoders = (
            "GPUCommandEncoder",
            "GPURenderPassEncoder",
            "GPUComputePassEncoder",
            "GPURenderBundleEncoder",
        )
        for cls in (getattr(module, name) for name in encoders):
            for name in dir(cls):
                if not name.startswith("_") and callable(getattr(cls, name)):
                    patch(
                        cls,
                        name,
                        _standing_for if name == "finish" or name.startswith("begin") else _recording,
                    )

    when_imported(_WGPU, loaded)


def _found(value: Any, deep: int = 0) -> list[Any]:
    """The resources that an argument stands for."""
    if isinstance(value, _resources):
        return [value]
    if isinstance(value, (str, bytes, int, float)) or value is None or deep > DEEPEST:
        return []
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [one for each in value for one in _found(each, deep + 1)]
    try:
        return list(_uses.get(value, ()))
    except TypeError:
        # It takes no weak reference, so it is nothing of wgpu's.
        return []


@quiet
def _use(owner: Any, args: Any, more: Any) -> None:
    found = _found([*args, more])
    if found:
        _uses.setdefault(owner, weakref.WeakSet()).update(found)


def _recording(original: Any, args: Any, more: Any) -> Any:
    """Around what uses resources."""
    _use(args[0], args[1:], more)
    return original(*args, **more)


@quiet
def _stands(result: Any, args: Any, more: Any) -> None:
    """The same set for an encoder, its passes and its command buffer."""
    uses = (
        _uses.setdefault(args[0], weakref.WeakSet())
        if not isinstance(args[0], _resources)
        else weakref.WeakSet(args[:1])
    )
    uses.update(_found([*args[1:], more]))
    _uses[result] = uses


def _standing_for(original: Any, args: Any, more: Any) -> Any:
    """Around what makes an object that stands for resources."""
    result = original(*args, **more)
    _stands(result, args, more)
    return result


def _destroying(original: Any, args: Any, more: Any) -> Any:
    _note(_gone, args[0])
    return original(*args, **more)


def _mapping_buffer(original: Any, args: Any, more: Any) -> Any:
    _note(_busy, args[0])
    return original(*args, **more)


@quiet
def _note(table: Table, what: Any) -> None:
    table.setdefault(what, _seen(type(what).__name__, "wgpu"))


def _unmapping_buffer(original: Any, args: Any, more: Any) -> Any:
    result = original(*args, **more)
    _busy.pop(args[0], None)
    return result


@quiet
def _about_to_submit(queue: Any, buffers: Any) -> None:
    if not isinstance(buffers, (list, tuple)):
        return
    device = queue._device
    if device in _gone:
        _mistake("submitted to a destroyed device", device, f"; destroyed at {_at(_gone[device])}")
    for number, one in enumerate(buffers):
        before = _submitted.get(one)
        if before is not None or one in buffers[:number]:
            _mistake("submitted twice", one, f"; first at {_at(before)}" if before is not None else "")
        elif getattr(one, "_device", device) is not device:
            _mistake("submitted to another device", one, "")
        for used in list(_uses.get(one, ())):
            for table, how in ((_gone, "destroyed"), (_busy, "mapped")):
                if used in table:
                    _mistake(f"submitted while {how}", used, f"; {how} at {_at(table[used])}")
    seen = _seen("GPUCommandBuffer", "wgpu")
    for one in buffers:
        _submitted[one] = seen


def _submitting(original: Any, args: Any, more: Any) -> Any:
    _about_to_submit(args[0], *args[1:], *more.values())
    return original(*args, **more)


@quiet
def _about_to_queue(args: Any, more: Any) -> None:
    for used in _found([*args, more]):
        if used in _gone:
            _mistake("used while destroyed", used, f"; destroyed at {_at(_gone[used])}")


def _queueing(original: Any, args: Any, more: Any) -> Any:
    _about_to_queue(args[1:], more)
    return original(*args, **more)


def _mistake(what: str, thing: Any, more: str) -> None:
    label = getattr(thing, "label", "")
    name = f"{type(thing).__name__} {label!r}" if label else type(thing).__name__
    seen = _seen(name, "wgpu")
    journal.mistake(seen, f"{what}: {name} at {_at(seen)}{more}")
