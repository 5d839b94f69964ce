"""moderngl: what its context collects is released where its names are valid, by one line.

moderngl deletes an object where its wrapper dies, on whatever thread the collector runs, where the call does
nothing and the object leaks. With ``gc_mode = "context_gc"`` it keeps the dead ones for the thread of the
context, and something has to ask for them: `adopt` does, with every `drain` of the domain. Its own
``context.gc()`` may be called as before: it asks first whether the context is current, and an object that was
released before it died does not stop it any more.

::

    context = moderngl.create_context()
    domain = adopt(context)
    ...
    domain.drain()                                    # once a frame
"""

from __future__ import annotations

import weakref
from functools import cache
from typing import Any

from lifecycle import Handle, SafetyManager
from lifecycle.errors import AccessRefusedError
from lifecycle.integrations.gpu import opengl
from lifecycle.integrations.gpu.errors import GLError
from lifecycle.lowlevel import complain

__all__ = ["ModernGLDomain", "adopt"]

_OBJECTS = {
    "Texture": "texture",
    "Texture3D": "texture",
    "TextureArray": "texture",
    "TextureCube": "texture",
    "Buffer": "buffer",
    "Renderbuffer": "renderbuffer",
    "Framebuffer": "framebuffer",
    "VertexArray": "vertex_array",
    "Program": "program",
    "ComputeShader": "program",
    "Query": "query",
    "Sampler": "sampler",
}


class ModernGLDomain:
    """A context of moderngl that was adopted. What it has not itself is asked of its `domain`."""

    def __init__(self, context: Any, domain: opengl.Domain) -> None:
        self._context = weakref.ref(context)
        self.domain = domain

    def __getattr__(self, name: str) -> Any:
        return getattr(self.domain, name)

    def own(self, obj: Any, *, size: int = 0, parent: Any = None) -> Handle[Any]:
        """Take ownership of an object of moderngl: it is released once, where its name is valid, when nobody
        and no device uses it any more. Raises `GLError` for what is none of moderngl's, or was released.

        Methods of an object that was released so raise `AccessRefusedError`. Where moderngl hands it to C, as
        a program to a vertex array, moderngl's own `TypeError` comes."""
        self.domain.check_here(f"own({obj!r})")
        kind = _OBJECTS.get(type(obj).__name__)
        if kind is None or not callable(getattr(obj, "release", None)):
            raise GLError(f"own() takes an object of moderngl, not {obj!r}; for names use domain.own()")
        if type(getattr(obj, "mglo", None)).__name__ == "InvalidObject":
            raise GLError(f"{obj!r} was released already: it cannot be owned any more")
        shared = kind not in ("framebuffer", "vertex_array", "query")
        return self.domain.manager.register(
            obj,
            f"moderngl.{type(obj).__name__}",
            release=_release,
            release_on=self.domain.shared_queue if shared else self.domain.queue,
            native=getattr(obj, "glo", None),
            size=size or int(getattr(obj, "size", 0) if kind == "buffer" else 0),
            parent=parent,
        )

    def drain(self) -> int:
        """As `Domain.drain`; also deletes what moderngl's context has collected."""
        count = self.domain.drain()
        context = self._context()
        if context is not None and context.gc_mode == "context_gc":
            count += context.gc() or 0
        return count

    def close(self, timeout: float | None = 10.0) -> int:
        """As `Domain.close`, after a last `drain`."""
        if not self.domain.lost_reason:
            self.domain.timeline.wait(timeout)
            self.drain()
        return self.domain.close(timeout)

    def __repr__(self) -> str:
        return f"<ModernGLDomain {self.domain!r}>"


def adopt(context: Any, *, name: str = "moderngl", manager: SafetyManager | None = None) -> ModernGLDomain:
    """Adopt a context of moderngl, which is current on this thread: what it makes and nobody releases is kept
    until the next `drain` or ``context.gc()`` here. Its class is exchanged for one of its own that differs in
    ``gc`` alone; its identity stays. The same domain when asked again.

    Raises `GLError` for what is no context of moderngl, and what `opengl.adopt` raises.
    """
    if not callable(getattr(context, "gc", None)) or not hasattr(context, "gc_mode"):
        raise GLError(f"adopt() takes a context of moderngl, not {context!r}")
    domain = opengl.adopt(name=name, manager=manager)
    known = _adopted.get(context)
    if known is not None and known.domain is domain:
        return known
    context.gc_mode = "context_gc"
    if not getattr(type(context), "_lifecycle_asks", False):
        plain: Any = type(context)
        context.__class__ = _asking(plain)
    made = _adopted[context] = ModernGLDomain(context, domain)
    return made


_adopted: weakref.WeakKeyDictionary[Any, ModernGLDomain] = weakref.WeakKeyDictionary()


@cache
def _asking(plain: Any) -> type[Any]:
    """A class of contexts that collect only where they are current."""

    def gc(context: Any) -> int:
        known = _adopted.get(context)
        if known is not None and not known.domain.here():
            return 0
        count = 0
        try:
            for dead in iter(context.objects.popleft, None):  # K2
                count += _release_dead(dead)
        except IndexError:  # none is left
            return count
        return count

    members = {"_lifecycle_asks": True, "gc": gc, "__module__": plain.__module__, "__doc__": plain.__doc__}
    return type(plain.__name__, (plain,), members)


def _release_dead(dead: Any) -> bool:
    """Release what has been collected; False for what had been released before. One that fails is said, and
    stops none of the others."""
    release = getattr(dead, "release", None)
    if release is None:
        return False
    try:
        release()
    except Exception:
        complain()
    return True


class _ReleasedError(AccessRefusedError, AttributeError):
    """Raised by what is called on an object of moderngl that was released as owned."""


def _release(obj: Any) -> None:
    obj.release()
    plain: Any = type(obj.mglo)
    if plain.__name__ == "InvalidObject":
        obj.mglo = said = _saying(plain)()
        said.what = f"moderngl.{type(obj).__name__} {getattr(obj, 'glo', '')}"


@cache
def _saying(plain: Any) -> Any:
    """moderngl's stand-in for what was released, which says so. moderngl knows it by its class."""

    def refuse(stand_in: Any, name: str) -> Any:
        raise _ReleasedError(
            f"{vars(stand_in).get('what', 'the object')} was released, since its handle was closed or "
            f"dropped: {name!r} cannot be used any more; close the handle after the last use"
        )

    return type(plain.__name__, (plain,), {"__getattr__": refuse, "__module__": plain.__module__})
