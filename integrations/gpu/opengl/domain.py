"""Domains: a context that was adopted, and the share group it belongs to, each with its release queue."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, ClassVar

import attrs

from lifecycle import Handle, HeldError, ReleaseQueue, SafetyManager, Submission, Timeline
from lifecycle.errors import FenceError, QueueLostError, WrongContextError
from lifecycle.integrations.gpu.defaults import manager_or_default
from lifecycle.integrations.gpu.errors import GLError
from lifecycle.integrations.gpu.log import at, note
from lifecycle.integrations.gpu.opengl.fences import BehindFence, EGLFence, GLFence
from lifecycle.integrations.gpu.opengl.names import check_name, check_text, deleter, kind_of
from lifecycle.integrations.gpu.opengl.toolkits import watch_end
from lifecycle.integrations.gpu.opengl.worlds import Facts, World, check_pyopengl, context_world, share_world
from lifecycle.lowlevel import caller

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lifecycle.integrations.gpu.opengl.debug import DebugMessage
    from lifecycle.integrations.gpu.opengl.mapping import Mapping
    from lifecycle.integrations.gpu.opengl.ring import Ring
    from lifecycle.integrations.gpu.opengl.state import StateGuard
    from lifecycle.integrations.gpu.opengl.textures import TextureCache

__all__ = ["Domain", "adopt"]


class Share:
    """A share group: the queue of what all its contexts see, and the domains of those contexts."""

    __slots__ = ("__weakref__", "domains", "queue", "world")

    def __init__(self, world: World, name: str) -> None:
        self.world: World = world
        self.queue: ReleaseQueue = ReleaseQueue(f"{name}.shared", here=world.here)
        self.domains: weakref.WeakSet[Domain] = weakref.WeakSet()


_domains: weakref.WeakSet[Domain] = weakref.WeakSet()
_queues: weakref.WeakSet[ReleaseQueue] = weakref.WeakSet()


class DomainSubmission(Submission):
    """A submission that refuses names of other worlds."""

    __slots__ = ("_places",)
    _places: tuple[Any, Any]
    use = Submission._use_in_worlds

    def _check(self, handle: Handle[Any]) -> None:
        """Raise `WrongContextError` for an object of another share group or context, whose name means nothing
        here."""
        place = getattr(getattr(handle, "_record", None), "place", None)
        if place is not None and place not in self._places and getattr(place, "queue", None) in _queues:
            raise WrongContextError(
                f"{handle!r} belongs to {place.name!r} and cannot be used here: its name means nothing, or "
                "another object, in this context"
            )


class _ContextTimeline(Timeline):
    """Makes submissions that know their worlds."""

    __slots__ = ("places",)
    places: tuple[Any, Any]
    submission_type: ClassVar[type[Submission]] = DomainSubmission


class Domain:
    """An OpenGL context that was adopted. Made by `adopt`.

    Objects that its contexts share (textures, buffers, renderbuffers, samplers, programs, shaders) are
    released where any context of the share group is current; vertex arrays, framebuffers, queries, pipelines
    and transform feedbacks where this one is. Elsewhere closing only posts, and the next `drain` releases.
    """

    def __init__(self, name: str, manager: SafetyManager, facts: Facts, share: Share, fences: str) -> None:
        self.name = name
        self.manager = manager
        self.facts = facts
        self._share = share
        self._world = context_world(facts.current, facts.pointer, facts.labels)
        self._queue = ReleaseQueue(name, here=self._world.here)
        self._fences = fences
        self.lost_reason: str = ""
        self.site: str = at(caller())
        """Where it was adopted: ``file.py:31``."""
        self.watched: bool = False
        """True if its context will tell of its end."""
        self.on_lost: list[Callable[[Domain], object]] = []
        self.mappings: set[int] = set()
        """The ids of what was mapped here, also of what has ended."""
        self._make_timeline()
        _queues.add(self._queue)
        _queues.add(share.queue)
        share.domains.add(self)
        _domains.add(self)

    def _make_timeline(self) -> None:
        weak = weakref.ref(self)
        world = self._world

        def check() -> None:
            domain = weak()
            try:
                if domain is None:
                    raise GLError("the domain is gone")
                domain.check_here("the end of a submission")
            finally:
                domain = None

        def egl_fence() -> EGLFence:
            if world.inherited or world.lost or not world.same_context():
                check()
            return EGLFence()

        if self._fences == "egl":
            timeline = _ContextTimeline(self.name, fence=egl_fence, waiter=True, manager=self.manager)
        else:
            fence = BehindFence.maker(world, check)
            timeline = _ContextTimeline(self.name, self._queue, fence=fence, manager=self.manager)
        self.timeline = timeline

    # -- where -----------------------------------------------------------------------------------------------

    def here(self) -> bool:
        """Return True if its context is current on this thread now."""
        return not self.lost_reason and self._world.here()

    @property
    def shared_queue(self) -> ReleaseQueue:
        """The queue of what the share group has in common."""
        return self._share.queue

    @property
    def queue(self) -> ReleaseQueue:
        """The queue of what belongs to this context alone."""
        return self._queue

    def check_here(self, what: str) -> None:
        """Raise `QueueLostError` where the context is gone, `WrongContextError` where it is not current."""
        if self.lost_reason:
            raise QueueLostError(
                f"{what}: the context of domain {self.name!r} is gone ({self.lost_reason}); adopt the "
                "context "
                "that took its place"
            )
        if not self._world.here():
            raise WrongContextError(
                f"{what}: the context of domain {self.name!r} is not current on this thread; make it current "
                "first"
            )

    def check_handle(self, handle: Any, kind: str, what: str) -> None:
        """Raise `GLError` for what is no handle of an object of that kind, and `WrongContextError` for one of
        another share group or context."""
        if not callable(getattr(handle, "lease", None)):
            raise GLError(
                f"{what} takes the handle of a {kind}, as own({kind!r}, name) gives one, not {handle!r}"
            )
        name = getattr(handle, "type_name", "")
        if name.startswith("gl.") and name != f"gl.{kind}":
            raise GLError(f"{what} takes the handle of a {kind}, not {handle!r}")
        if self._is_elsewhere(handle):
            raise WrongContextError(
                f"{what}: {handle!r} belongs to another share group or context, where its name means another "
                "object or none"
            )

    def _is_elsewhere(self, handle: Any) -> bool:
        place = getattr(getattr(handle, "_record", None), "place", None)
        mine = (self._share.queue.generation, self._queue.generation)
        return place not in mine and getattr(place, "queue", None) in _queues

    # -- owning ----------------------------------------------------------------------------------------------

    def own(self, kind: str, name: int, *, size: int = 0, parent: Any = None) -> Handle[int]:
        """Take ownership of an object of OpenGL: ``own("texture", name)``. It is deleted once, where its name
        is valid, when neither the program nor a device uses it any more.

        `size` is its native bytes; `parent` a handle whose object must not be released before it. Raises
        `GLError` for a name that names nothing of that kind, `WrongContextError` where the context is not
        current, `DuplicateError` for a name that has an owner already. The object is yours then.
        """
        self.check_here(f"own({kind!r}, {name!r})")
        known = kind_of(kind)
        number = check_name(known, name)
        return self.manager.register(
            number,
            f"gl.{known.name}",
            release=deleter(known, number),
            release_on=self._share.queue if known.shared else self._queue,
            native=number,
            size=size,
            parent=parent,
        )

    # -- the device ------------------------------------------------------------------------------------------

    def fence(self) -> GLFence | EGLFence:
        """A fence behind all that the context was given. Raises `WrongContextError` where it is not
        current: a fence covers the commands of its own context alone."""
        self.check_here("fence()")
        timeline = getattr(self, "timeline", None)
        if self._fences == "egl":
            return EGLFence(timeline)
        return GLFence(self._world.here, timeline)

    def submission(self) -> DomainSubmission:
        """What is drawn in the ``with`` block, with what it uses: ``glBindTexture(GL_TEXTURE_2D,
        work.use(texture))``. Raises `WrongContextError` where the context is not current.

        Where another context is current at the end of the block its fence is made by the next `drain`.
        """
        if self.lost_reason or not self._world.here():
            self.check_here("submission()")
        submission: Any = self.timeline.submission()
        shared, own = places = self._share.queue.generation, self._queue.generation
        submission._places = places
        submission._uses.worlds = (0, shared.world, own.world)
        return submission  # type: ignore[no-any-return]

    def drain(self) -> int:
        """Give back what the device is done with, and run the releases that wait for this context and its
        share group; how many ran. For once a frame. Raises `WrongContextError` where the context is not
        current."""
        self.check_here("drain()")
        # Its own queue polls for both, and where this context is current its share group is.
        count = self._queue._drain(asked=True)
        return count + self._share.queue._drain(asked=True, polled=True)

    # -- memory, pictures, state -----------------------------------------------------------------------------

    def map(self, buffer: Handle[int], offset: int, nbytes: int, access: str = "read") -> Mapping:
        """Map a part of a buffer; see `Mapping`."""
        from lifecycle.integrations.gpu.opengl.mapping import map_buffer

        return map_buffer(self, buffer, offset, nbytes, access)

    def ring(self, slot_bytes: int, slots: int = 3, *, name: str = "ring") -> Ring:
        """Memory that the host writes while the device reads other parts of it; see `Ring`."""
        from lifecycle.integrations.gpu.opengl.ring import Ring

        return Ring(self, slot_bytes, slots, name)

    def upload(
        self, texture: Handle[int], array: Any, *, offset: tuple[int, int] = (0, 0), level: int = 0
    ) -> None:
        """Copy an array into a two-dimensional texture, whose lengths were checked before the call; see
        `transfers`."""
        from lifecycle.integrations.gpu.opengl.transfers import upload

        upload(self, texture, array, offset, level)

    def read_back(self, texture: Handle[int], dtype: str = "u1", channels: int = 4, *, level: int = 0) -> Any:
        """A two-dimensional texture as a new array of ``(height, width, channels)``."""
        from lifecycle.integrations.gpu.opengl.transfers import read_back

        return read_back(self, texture, dtype, channels, level)

    def state_guard(self, *groups: str, units: Iterable[int] = range(16)) -> StateGuard:
        """Restores the state of OpenGL at the end of a block; see `StateGuard`."""
        from lifecycle.integrations.gpu.opengl.state import StateGuard

        return StateGuard(self, groups, units)

    def debug_callback(
        self, fn: Callable[[DebugMessage], object], *, synchronous: bool = True
    ) -> Handle[Any]:
        """Have the driver's messages told to ``fn(message)``, as long as the handle is open. The callback
        stays valid until the driver has been told of its end, wherever the handle was closed or dropped."""
        from lifecycle.integrations.gpu.opengl.debug import install

        return install(self, fn, synchronous)

    def debug_log(self) -> list[DebugMessage]:
        """The messages that the driver has kept, taken out of its log; needs no callback."""
        from lifecycle.integrations.gpu.opengl.debug import read_log

        return read_log(self)

    def cache(self, make: Callable[[Any], Any], *, name: str = "textures") -> TextureCache:
        """Textures by key, made by ``make(key)`` when first asked for; see `TextureCache`."""
        from lifecycle.integrations.gpu.opengl.textures import TextureCache

        return TextureCache(self, make, name)

    # -- the end ---------------------------------------------------------------------------------------------

    def close(self, timeout: float | None = 10.0) -> int:
        """Before the context is destroyed, with it current: wait up to `timeout` seconds for the device, run
        the releases that wait, then give up the objects that are left, which end with the context. Return the
        number of these. A second call returns 0.

        Raises `HeldError`, naming them, while memory is mapped: whoever reads it would read what is gone.
        Nothing is given up then.
        """
        if self.lost_reason:
            return 0
        self.check_here("close()")
        self.timeline.wait(timeout)
        self.drain()
        mapped = [info for info in self.manager.objects() if info.id in self.mappings]
        if mapped:
            names = tuple(str(info) for info in mapped)
            raise HeldError(
                f"domain {self.name!r} cannot be closed: memory of it is still mapped ({'; '.join(names)}); "
                "close those mappings and drop what reads them",
                names,
            )
        return self.lost("it was closed")

    def lost(self, reason: str) -> int:
        """The context is gone: what belonged to it is given up – shut, never deleted, counted – and what it
        shared too, unless another context of its share group was adopted and lives. How many objects that
        were. Callable on any thread, and again."""
        if self.lost_reason:
            return 0
        note("gl.lost", domain=self.name, reason=str(reason))
        self.lost_reason = str(reason) or "lost"
        self._world.lost = True
        count = self.timeline.lost(self.lost_reason) + self._queue.lost(self.lost_reason)
        self._share.domains.discard(self)
        if not any(not other.lost_reason for other in list(self._share.domains)):
            count += self._share.queue.lost(self.lost_reason)
        for callback in list(self.on_lost):
            callback(self)
        return count

    @property
    def stats(self) -> DomainStats:
        """Its figures at this moment."""
        timeline = self.timeline
        return DomainStats(
            self.name,
            timeline.in_flight,
            timeline.oldest,
            timeline.signalled,
            timeline.lost_submissions,
            self._share.queue.backlog,
            self._queue.backlog,
        )

    def __enter__(self) -> Domain:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        how = f"lost ({self.lost_reason})" if self.lost_reason else self.facts.text
        return f"<Domain {self.name!r}: {how}>"


@attrs.frozen
class DomainStats:
    """The figures of a domain at one moment."""

    domain: str
    """The domain's name."""
    in_flight: int
    """Submissions whose fence has not signalled."""
    oldest: float
    """Unix time at which the oldest submission in flight was begun, 0.0 when there is none."""
    signalled: int
    """Submissions whose fence has signalled, ever."""
    lost: int
    """Submissions whose fence was lost, ever."""
    shared_backlog: int
    """Releases that wait for any context of the share group."""
    context_backlog: int
    """Releases that wait for this context."""

    def __call__(self) -> DomainStats:
        """Itself: ``domain.stats`` and ``domain.stats()`` are the same."""
        return self


def adopt(
    context: Any = None, *, name: str = "gl", manager: SafetyManager | None = None, fences: str = "gl"
) -> Domain:
    """The domain of the OpenGL context that is current on this thread; the same one when asked again.

    Parameters
    ----------
    context:
        The toolkit's object for it, where it can tell of its end: a `QOpenGLContext`, whose
        ``aboutToBeDestroyed`` then closes the domain. None for any other.
    name:
        Shown in messages, reports and metrics.
    manager:
        Owns its objects; None: the process's manager for GPU objects.
    fences:
        ``"gl"``: sync objects of OpenGL, which the draining thread polls. ``"egl"``: those of EGL, which a
        thread of their own waits for, so that what was used is given back though nothing is drawn.

    Raises `GLError` where no context is current, or it is one of OpenGL ES or older than 3.0 (3.2 without
    ARB_sync), and where PyOpenGL is loaded and looks for contexts of another window system.
    """
    check_text(name, "adopt(name=)")
    if manager is not None and not isinstance(manager, SafetyManager):
        raise GLError(f"adopt(manager=) takes a SafetyManager, not {manager!r}")
    facts = Facts()
    check_pyopengl(facts)
    if not isinstance(fences, str) or fences not in ("gl", "egl"):
        raise FenceError(f"adopt(fences=) takes 'gl' or 'egl', not {fences!r}")
    if not facts.syncs:
        raise GLError(
            f"the current context is OpenGL {facts.text!r}, without sync objects: 3.2 or ARB_sync is needed"
        )
    share = None
    for domain in list(_domains):
        if domain.lost_reason:
            continue
        if domain._world.here():
            if context is not None:
                watch_end(domain, context)
            return domain
        if share is None and domain._share.world.here():
            share = domain._share
    if share is None:
        share = Share(share_world(facts.current, facts.pointer, facts.labels), name)
    made = Domain(name, manager_or_default(manager), facts, share, fences)
    note(
        "gl.adopted", domain=name, version=facts.text, renderer=facts.renderer, shared=len(share.domains) > 1
    )
    if context is not None:
        watch_end(made, context)
    return made
