"""`assert_no_gpu_leaks`: no context, texture, buffer or device that was made in a block is left when it ends.

What the library knows of is told with the line where it was made. A second witness is asked beside it, which
is not the library: OpenGL, for the names that the current context knows, and wgpu, by its own report. So what
nobody has registered is found as well, and what the library takes for released and the driver does not.

Whatever of this the process has not imported is not asked, and not imported for the question.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import sys
import time
import weakref
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final

import attrs

from lifecycle._core import runtime
from lifecycle.manager import manager as manager_module
from lifecycle.states import ENDED, FAILED, STUCK
from lifecycle.stats import ObjectInfo
from lifecycle.testing.gl_names import made
from lifecycle.testing.leaks import LOOK_EVERY, LeftBehind
from lifecycle.testing.notes import notes

NAMES: Final = 4096
"""So many names of OpenGL of each kind are asked for: drivers give small numbers."""

_KINDS: Final = {
    "texture": "glIsTexture",
    "buffer": "glIsBuffer",
    "renderbuffer": "glIsRenderbuffer",
    "framebuffer": "glIsFramebuffer",
    "vertex_array": "glIsVertexArray",
    "sampler": "glIsSampler",
    "program": "glIsProgram",
    "shader": "glIsShader",
    "query": "glIsQuery",
}
_OF_GPUS: Final = ("gl.", "moderngl.", "wgpu.", "cuda.")
_NOT_MADE: Final = ("Adapter", "CanvasContext", "PipelineCache", "total")

Names = Mapping[str, frozenset[int]]
Counts = Mapping[str, int]


@attrs.frozen
class GPULeftovers(LeftBehind):
    """What a block left behind on the GPU, each in words."""

    contexts: tuple[str, ...] = ()
    """Contexts of OpenGL that were adopted or made, and neither closed nor lost."""
    objects: tuple[str, ...] = ()
    """Registered objects that are not released, and wrappers of wgpu that live, and where each was made."""
    names: tuple[str, ...] = ()
    """What OpenGL itself knows in the context that is current, and nobody has registered; and where it was
    made, if PyOpenGL or moderngl made it."""
    counts: tuple[str, ...] = ()
    """Of what wgpu itself counts more than before, and how many more."""

    def _in_order(self) -> list[str]:
        return [*self.objects, *self.contexts, *self.names, *self.counts]


class GPULeaksFound(AssertionError):
    """Raised by `assert_no_gpu_leaks`; `left` says what was found."""

    def __init__(self, left: GPULeftovers) -> None:
        super().__init__(f"left on the GPU: {left.first()}\n{left}")
        self.left = left


class assert_no_gpu_leaks(contextlib.ContextDecorator):
    """``with assert_no_gpu_leaks():`` fails with `GPULeaksFound` when contexts, textures, buffers, devices or
    their like that were made in the block are left at its end. Also a decorator. When the block itself
    raises, that passes and nothing is checked.

    `timeout` is the seconds for which what is left may still end by itself. `ignore` exempts. Collects
    garbage. OpenGL's names are asked for in the context that is current on this thread; of another only what
    was registered is seen. Names that were generated and never bound are no objects yet.
    """

    def __init__(self, *, timeout: float = 3.0) -> None:
        self._timeout = timeout
        self._ignored: list[Any] = []
        self._first = 0
        self._current: object = None
        self._names: Names = {}
        self._counts: Counts = {}
        self._domains: weakref.WeakSet[Any] = weakref.WeakSet()
        self._contexts: frozenset[int] = frozenset()

    def _recreate_cm(self) -> assert_no_gpu_leaks:
        return assert_no_gpu_leaks(timeout=self._timeout)

    def ignore(self, *what: Any) -> None:
        """Leave out handles, adopted domains, and objects of wgpu."""
        self._ignored += what

    def left(self) -> GPULeftovers:
        """What is left of the block so far."""
        gc.collect()
        ids = {getattr(one, "id", 0) for one in self._ignored}
        infos = [info for info in _objects_since(self._first) if info.id not in ids]
        owned = {(_kind(info), info.native) for info in infos}
        owned |= {(_kind(one), getattr(one, "native", None)) for one in self._ignored}
        return GPULeftovers(
            contexts=tuple(self._contexts_left()),
            objects=(*map(str, infos), *self._wrappers_left()),
            names=tuple(self._names_left(owned)),
            counts=tuple(self._counts_left()),
        )

    def _contexts_left(self) -> list[str]:
        found = [
            f"domain {domain.name!r}, adopted at {domain.site}, neither closed nor lost"
            for domain in _adopted()
            if domain not in self._domains and not any(one is domain for one in self._ignored)
        ]
        made = _made_contexts()
        return found + [
            f"a context without a window, made at {made[one]}, not destroyed"
            for one in made
            if one not in self._contexts
        ]

    def _wrappers_left(self) -> list[str]:
        ignored = set(map(id, self._ignored))
        return sorted(
            f"{wrapper}, made at {site}"
            for wrapper, site, number in _wrappers.items()
            if number > self._first and id(wrapper) not in ignored
        )

    def _names_left(self, owned: set[tuple[str, Any]]) -> list[str]:
        current, now = _names_of_opengl()
        before = self._names if current == self._current else {}
        return [
            f"{kind} {name}{_made_at(kind, name)}, which OpenGL knows, and no registered object stands for it"
            for kind, names in now.items()
            for name in sorted(names - before.get(kind, frozenset()))
            if (kind, name) not in owned and ("", name) not in owned
        ]

    def _counts_left(self) -> list[str]:
        ignored = [type(one).__name__.removeprefix("GPU") for one in self._ignored]
        found = []
        for kind, count in _counts_of_wgpu().items():
            more = count - self._counts.get(kind, 0) - ignored.count(kind.partition(" ")[0])
            if kind.startswith("Queue") and "Device" in ignored:
                more -= ignored.count("Device")
            if more > 0:
                found.append(f"{more} more {kind} than before")
        return found

    def __enter__(self) -> assert_no_gpu_leaks:
        notes.begin()
        made.begin()
        _wrappers.begin()
        gc.collect()
        self._domains = weakref.WeakSet(_adopted())
        self._contexts = frozenset(_made_contexts())
        self._current, self._names = _names_of_opengl()
        self._counts = _counts_of_wgpu()
        self._first = runtime.next_id()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        __tracebackhide__ = True
        self.leave(check=error is None)

    def leave(self, *, check: bool = True) -> None:
        """End the block, for code that cannot use `with`; without `check`, nothing is checked."""
        __tracebackhide__ = True
        try:
            until = time.monotonic() + self._timeout
            while check and (left := self.left()):
                if time.monotonic() > until:
                    raise GPULeaksFound(left)
                time.sleep(LOOK_EVERY)
        finally:
            _wrappers.end()
            made.end()
            notes.end()


class _Wrappers:
    """wgpu's objects, where each was made and after which id, noted while somebody wants to know."""

    def __init__(self) -> None:
        self._made: weakref.WeakKeyDictionary[Any, tuple[str, int]] = weakref.WeakKeyDictionary()
        self._lock = runtime.RLock()
        self._users = 0
        self._method: Any = None

    def begin(self) -> None:
        """Note from here on; once more for each that asks."""
        base = _wgpu_base()
        with self._lock:
            self._users += 1
            if base is None or self._method is not None:
                return
            method = self._method = base.__init__

        def noting(wrapper: Any, *args: Any, **kwargs: Any) -> None:
            method(wrapper, *args, **kwargs)
            frame = runtime.caller(2)
            while frame is not None and _of_wgpu(frame.f_code.co_filename):
                frame = runtime.users_frame(frame.f_back)
            self._made[wrapper] = (runtime.describe_site(runtime.site_of(frame)), runtime.next_id())

        base.__init__ = noting

    def end(self) -> None:
        """The opposite of one `begin`."""
        with self._lock:
            self._users -= 1
            if not self._users and self._method is not None:
                base: Any = _wgpu_base()
                base.__init__, self._method = self._method, None

    def items(self) -> list[tuple[Any, str, int]]:
        """Those that live and hold something native: ``(wrapper, where, after which id)``."""
        return [
            (wrapper, site, number)
            for wrapper in runtime.snapshot(self._made)
            for site, number in [self._made.get(wrapper, ("", 0))]
            if type(wrapper).__name__.removeprefix("GPU") not in (*_NOT_MADE, "Queue")
            and getattr(wrapper, "_internal", None) is not None
        ]


_wrappers = _Wrappers()


def _wgpu_base() -> Any:
    module = sys.modules.get("wgpu")
    return None if module is None else getattr(getattr(module, "classes", None), "GPUObjectBase", None)


def _of_wgpu(filename: str) -> bool:
    module: Any = sys.modules["wgpu"]
    return filename.startswith(module.__path__[0])


def _counts_of_wgpu() -> Counts:
    """wgpu's own report: of its wrappers, and of what its native library holds."""
    diagnostics = getattr(sys.modules.get("wgpu"), "diagnostics", None)
    found = {}
    for report, what in (("object_counts", "wrappers"), ("wgpu_native_counts", "native objects")):
        asked = getattr(diagnostics, report, None)
        for kind, of in ({} if asked is None else asked.get_dict()).items():
            if kind not in _NOT_MADE:
                found[f"{kind} ({what} of wgpu)"] = int(of["count"])
    return found


def _adopted() -> list[Any]:
    """The adopted contexts that are neither closed nor lost."""
    module = sys.modules.get("lifecycle.integrations.gpu.opengl.domain")
    return [] if module is None else [one for one in runtime.snapshot(module._domains) if not one.lost_reason]


def _made_contexts() -> dict[int, str]:
    module = sys.modules.get("lifecycle.integrations.gpu.offscreen")
    return {} if module is None else dict(module.living)


def _names_of_opengl() -> tuple[object, Names]:
    """What tells the current context from others, and the names that it knows, but for those that say which
    context it is. ``(None, {})`` where none is current."""
    # By its name: integrations are built on what tests see, and not the other way round.
    native = importlib.import_module("lifecycle.integrations.gpu._native")
    who = native.who_is_current()
    if who is None:
        return None, {}
    tokens: set[tuple[str, int]] = set()
    for domain in _adopted():
        if domain._share.world.here():
            tokens |= {("buffer", domain._share.world.name), ("vertex_array", domain._world.name)}
    found = {}
    for kind, question in _KINDS.items():
        asks = native.function(question)
        found[kind] = frozenset(name for name in range(1, NAMES) if asks(name) and (kind, name) not in tokens)
    return who[1], found


def _made_at(kind: str, name: int) -> str:
    site = made.site(kind, name)
    return f", made at {site}" if site else ""


def _kind(one: Any) -> str:
    """The kind of OpenGL's objects that something registered is; empty for any, as of a moderngl.Texture."""
    prefix, _, kind = str(getattr(one, "type_name", "")).partition(".")
    return kind if prefix == "gl" else ""


def _objects_since(first: int) -> list[ObjectInfo]:
    """The objects of GPUs that were registered since and are not released."""
    return [
        info
        for manager in runtime.snapshot(manager_module._managers)
        for info in manager.objects()
        if info.id > first
        and info.type_name.startswith(_OF_GPUS)
        and (info.state not in ENDED or info.state in (FAILED, STUCK))
    ]
