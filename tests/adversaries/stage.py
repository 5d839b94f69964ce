"""The stage on which every public operation is tried, and what has to be true after each try.

A *scene* does one or a few operations on a stage; it names those it exercises, and the table of all scenes
(`scenes_*.py`) names every public operation there is. An adversary plays a scene again and again, each time
with something happening in its middle, and calls `Stage.settle` after each: everything that was registered
has ended, once, and the figures say so.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
import traceback
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import attrs

from lifecycle import (
    ANY_THREAD,
    BACKGROUND,
    BufferPool,
    Handle,
    LifecycleError,
    ObjectPool,
    Profiler,
    ReleaseQueue,
    SafetyConfig,
    SafetyManager,
)
from lifecycle._core import runtime
from lifecycle._core.record import SHUT_CELL
from lifecycle.errors import ExclusiveError
from lifecycle.states import TRANSITIONS, ObjectState
from lifecycle.testing import Struck, library
from tests.core.adversary import TRACING_KEEPS_LOCALS, assert_nothing_left

CONFIG = SafetyConfig(finalizer_timeout=60.0, shutdown_timeout=60.0, max_retained=20)
"""Leaks are counted: what was not forgotten must not be reported as if it was."""
PATIENCE = float(os.environ.get("LIFECYCLE_PATIENCE", "20"))
"""Seconds after which what has not ended is taken never to end."""
PLACES = ("any_thread", "background", "queue")


class Native:
    """Stands for a native object: counts its releases, and notes on which thread and in which context they
    were."""

    def __init__(self) -> None:
        self.released = 0
        self.released_on: int | None = None  # the thread, as `threading.get_ident` names it
        self.in_collector = False
        self.memory = bytearray(64)

    def free(self) -> None:
        """The release."""
        self.released += 1
        self.released_on = threading.get_ident()
        self.in_collector = self.in_collector or runtime.in_collector()

    def use(self) -> int:
        """What a user does with it."""
        assert not self.released, "used after its release"
        return 1


def ours(code: types.CodeType) -> bool:
    """Whether code is the library's or of one of its integrations."""
    return library(code)


@attrs.frozen
class Scene:
    """One way to exercise some operations."""

    name: str
    operations: tuple[str, ...]
    play: Callable[[Stage], object]
    prepare: Callable[[Stage], object] | None
    places: tuple[str, ...]
    drops: int
    """Handles that it drops unclosed, each of which is to be reported."""
    interrupts: bool
    lines: bool
    meddle: bool
    lets_go: bool
    """The traceback of an interrupt is let go before the balance is struck: the frames of the calls hold what
    is the caller's."""
    callers: bool
    """An interrupt may leave an object to its caller: the call is not the one that promises to release it
    then."""

    def __str__(self) -> str:
        return self.name


class Table(dict[str, Scene]):
    """Scenes by name."""

    def scene(
        self,
        *operations: str,
        prepare: Callable[[Stage], object] | None = None,
        places: tuple[str, ...] = ("any_thread",),
        drops: int = 0,
        interrupts: bool = True,
        lines: bool = True,
        meddle: bool = True,
        lets_go: bool = False,
        callers: bool = False,
    ) -> Callable[[Callable[[Stage], object]], Callable[[Stage], object]]:
        """Enter the decorated function: it exercises `operations`."""

        def enter(play: Callable[[Stage], object]) -> Callable[[Stage], object]:
            assert play.__name__ not in self, f"two scenes are called {play.__name__}"
            self[play.__name__] = Scene(
                play.__name__,
                operations,
                play,
                prepare,
                places,
                drops,
                interrupts,
                lines,
                meddle,
                lets_go,
                callers,
            )
            return play

        return enter


class Stage:
    """One manager, and a fresh object for each time a scene is played."""

    def __init__(self, scene: Scene, place: str = "any_thread") -> None:
        self.scene = scene
        self.manager = SafetyManager(CONFIG, name="stage")
        self.queue = ReleaseQueue("stage", thread="current")
        self.queues: list[ReleaseQueue] = []  # others, of this run
        self.where: Any = {"any_thread": ANY_THREAD, "background": BACKGROUND, "queue": self.queue}[place]
        self.natives: list[Native] = []
        self.detached: list[Native] = []
        self.things: list[Any] = []  # to be closed at the end, the last first
        self.dropped = 0  # handles that were dropped unclosed, in all
        self.props = types.SimpleNamespace()  # what a scene has prepared
        self.seen: deque[weakref.ref[Native]] = deque()
        self.ran: deque[object] = deque()
        self.flush()

    # -- for scenes

    def native(self) -> Native:
        """A new native object, known to the stage."""
        native = Native()
        self.natives.append(native)
        self.seen.append(weakref.ref(native))
        return native

    def register(self, **facts: Any) -> Handle[Native]:
        """A new object at the stage's place. The caller keeps the handle, or the stage does, by `keep`."""
        facts.setdefault("release", Native.free)
        facts.setdefault("release_on", self.where)
        native = self.native()
        try:
            return self.manager.register(native, "native", **facts)
        except LifecycleError:  # refused: it is the caller's
            if not native.released:
                self.natives[:] = [one for one in self.natives if one is not native]
            raise
        finally:
            native = None  # type: ignore[assignment]

    def keep(self, thing: Any) -> Any:
        """Close `thing` when the run is over."""
        self.things.append(thing)
        return thing

    @property
    def handle(self) -> Handle[Native]:
        """The object of this run."""
        return self.things[0]  # type: ignore[no-any-return]

    # -- for adversaries

    def renew(self) -> None:
        """A new object, and whatever the scene prepares."""
        self.keep(self.register())
        if self.scene.prepare is not None:
            self.scene.prepare(self)

    def play(self) -> object:
        """Once."""
        return self.scene.play(self)

    def look_after_pools(self, pools: list[Any]) -> None:
        """Have pools find what was lost on its way back: what is handed in late goes at the next call."""
        for pool in pools:
            pool.close()

    def flush(self) -> None:
        """Run what waits, as any register and close would, and the queue's owner."""
        for queue in (self.queue, *self.queues):
            queue.drain()
        self.manager.register(object(), "flush", release_on=ANY_THREAD).close()

    def settle(self, what: str, struck: Struck[Any] | None = None, refused: bool = False) -> None:
        """End the run: close everything, and see that the balance is right. `what` is what had been done to
        it; `refused`: the scene ended with a refusal, so that some of its objects may have stayed its own."""
        if struck is not None and struck.error is not None and self.scene.lets_go:
            struck.error.with_traceback(None)
        _clear_our_frames(struck)
        wrong = self._figures_of_now()
        assert not wrong, f"{what}: {wrong}"
        roots = [self.manager, *self.things]
        pools = [thing for thing in self.things if isinstance(thing, (ObjectPool, BufferPool))]
        vars(self.props).clear()
        while self.things:
            thing = self.things.pop()
            try:
                close(thing)
            except LifecycleError:
                pass
            del thing
        for number in list(
            self.manager._registry.kept
        ):  # what the manager keeps, since an interrupt came before it was told not to
            self.manager.unregister(number, timeout=0)
        until = time.monotonic() + PATIENCE
        pause = 0.0002
        while (left := self._left(struck, refused)) and time.monotonic() < until:
            self.flush()
            self.look_after_pools(pools)
            time.sleep(pause)
            pause = min(2 * pause, 0.02)
            if pause > 0.01:
                gc.collect()
        assert not left, f"{what}: {left}"
        twice = [native for native in self.natives if native.released > 1]
        assert not twice, f"{what}: released more than once"
        assert not any(native.in_collector for native in self.natives), (
            f"{what}: released inside a collection"
        )
        while (taken := locks_taken(*roots)) and time.monotonic() < until:
            time.sleep(0.001)  # another thread has it for a moment
        assert not taken, f"{what}: left locked: {taken}"
        self.natives.clear()
        self.detached.clear()
        self.queues.clear()

    def _figures_of_now(self) -> str:
        """What is counted as valid is valid, while some of it is still there."""
        until = time.monotonic() + PATIENCE
        while True:
            valid = sum(info.state is ObjectState.VALID for info in self.manager.objects())
            counted = sum(kind.states["valid"] for kind in self.manager.stats().types.values())
            if valid == counted:
                return ""
            if time.monotonic() > until:
                return f"{counted} objects are counted as valid, and {valid} are"
            self.flush()
            time.sleep(0.001)

    def _left(self, struck: Struck[Any] | None, refused: bool) -> str:
        """What has not ended yet, or does not add up."""
        never = [n for n in self.natives if not n.released and not any(n is one for one in self.detached)]
        stats = self.manager.stats()
        kind = stats.types.get("native")
        if kind is None:
            return ""
        if kind.registered != kind.live + sum(kind.ended.values()):
            return f"registered {kind.registered}, but {kind.live} live and {dict(kind.ended)} ended"
        if stats.active_objects:
            return f"still there: {[str(info) for info in self.manager.objects()]}"
        if struck is not None and struck.error is not None:
            refused = (
                refused or struck.on_entry or self.scene.callers or isinstance(struck.error, LifecycleError)
            )
        if never and not refused:
            return f"{len(never)} of {len(self.natives)} were never released"
        registry = self.manager._registry
        for name in ("claims", "roots", "shared", "delayed", "waiters", "still"):
            if getattr(registry, name):
                return f"left in the manager's {name}: {getattr(registry, name)!r}"
        return ""

    def works(self) -> None:
        """The manager does its work on every place."""
        for place in (ANY_THREAD, BACKGROUND, self.queue):
            handle = self.register(release_on=place)
            with handle.lease() as native:
                native.use()
            handle.close(timeout=0 if place is self.queue else PATIENCE)
        self.queue.drain()
        self.settle("afterwards")

    def end(self, leaks: bool = True) -> None:
        """Close the manager. Nothing may be left, in its tables or of the natives; with `leaks` those
        reported are exact."""
        self.works()
        stats = self.manager.stats()
        if leaks:
            assert stats.leaks == self.dropped, (
                f"{stats.leaks} leaks reported where {self.dropped} handles were dropped"
            )
        report = self.manager.close()
        # A release that an interrupt struck has failed; that is no fault.
        assert (report.stuck, report.leaked, report.errors, report.running) == ((), (), (), ()), report
        assert_nothing_left(self.manager)
        forget_what_was_printed()
        if any(ref() is not None for ref in self.seen):
            gc.collect()
        kept = [native for ref in self.seen if (native := ref()) is not None]
        native = None
        assert not kept, f"{len(kept)} natives are kept by {[_who_keeps(one) for one in kept[:2]]}"


def forget_what_was_printed() -> None:
    """What struck a callback before its first line was printed by PyGObject or PySide, and `sys` keeps it."""
    for name in ("last_exc", "last_type", "last_value", "last_traceback"):
        vars(sys).pop(name, None)


def close(thing: Any) -> None:
    """End whatever a scene made."""
    if isinstance(thing, Handle):
        thing.close(timeout=0)
    elif isinstance(thing, Profiler):
        thing.stop()
    elif callable(thing):
        thing()
    else:
        thing.close()


def _who_keeps(native: Native) -> list[str]:
    keepers = [one for one in gc.get_referrers(native) if not isinstance(one, list)]
    return [
        repr(keeper)[:200]
        + " in "
        + ", ".join(type(k).__name__ + repr(k)[:100] for k in gc.get_referrers(keeper))
        for keeper in keepers
    ]


def _clear_our_frames(struck: Struck[Any] | None) -> None:
    """A traceback is kept while its run is checked: what the library's own frames hold must not matter. Those
    of the tests let go, and so does one that was struck on entry, before it could do anything about its
    arguments."""
    if struck is None or struck.error is None:
        return
    seen: set[int] = set()
    error: BaseException | None = struck.error
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        struck_frame = next((frame for frame in reversed(frames) if ours(frame.f_code)), None)
        for frame in reversed(frames):
            if not ours(frame.f_code) or (struck.on_entry and frame is struck_frame):
                try:
                    frame.clear()
                except RuntimeError:  # the one that plays, and is not over
                    continue
                if TRACING_KEEPS_LOCALS:
                    _ = frame.f_locals  # the copy that tracing made of them is made anew, empty
        error = error.__cause__ or error.__context__


# -- locks ---------------------------------------------------------------------------------------------------

LOCK, RLOCK = type(threading.Lock()), type(threading.RLock())
CONTAINERS = (dict, list, tuple, set, deque)
DEPTH = 12


def locks_taken(*roots: object) -> list[str]:
    """The locks of the library that somebody has taken, as far as they can be reached from `roots`."""
    return [
        path
        for path, lock in locks_of(*roots)
        if (lock._is_owned() if isinstance(lock, RLOCK) else lock.locked())
    ]


def locks_of(*roots: object) -> Iterator[tuple[str, Any]]:
    """Every lock that can be reached from `roots` through objects of the library, with the way to it."""
    for number, lock in enumerate(runtime._process_locks):
        yield f"process lock {number}", lock
    seen: set[int] = set()
    waiting: list[tuple[str, object, int]] = [(type(root).__name__, root, 0) for root in roots]
    while waiting:
        path, item, depth = waiting.pop()
        if id(item) in seen or depth > DEPTH:
            continue
        seen.add(id(item))
        if isinstance(item, (LOCK, RLOCK)):
            yield path, item
        elif isinstance(item, CONTAINERS):
            inner = list(item.values()) if isinstance(item, dict) else list(item)
            if len(inner) <= 200:
                waiting.extend((f"{path}[{number}]", one, depth + 1) for number, one in enumerate(inner))
        elif type(item).__module__.startswith("lifecycle"):
            if isinstance(item, NAPS):
                continue
            waiting.extend((f"{path}.{name}", one, depth + 1) for name, one in _attributes(item))


NAPS = (runtime.TimedQueue,)
"""Who sleeps does so in a lock that is taken: these are nobody's turn."""


def _attributes(item: object) -> Iterator[tuple[str, object]]:
    for cls in type(item).__mro__:
        for name in (
            getattr(cls, "__slots__", ()) if not isinstance(getattr(cls, "__slots__", ()), str) else ()
        ):
            try:
                value = getattr(item, name)
            except AttributeError:
                continue
            yield name, value
    yield from getattr(item, "__dict__", {}).items()


# -- what must agree at every moment -------------------------------------------------------------------------


def _reachable() -> dict[ObjectState, frozenset[ObjectState]]:
    reached = {state: set(following) for state, following in TRANSITIONS.items()}
    for _ in reached:
        for following in reached.values():
            following.update(*(reached[one] for one in set(following)))
    return {state: frozenset(following) for state, following in reached.items()}


REACHABLE = _reachable()
"""Which state may come after which, for who does not see every change, since other threads make some."""


class Watch:
    """Looks at an object again and again: what can be asked about it must agree, and its states follow the
    table."""

    def __init__(self, manager: SafetyManager, handle: Handle[Any]) -> None:
        self.manager = manager
        self.handle = handle
        self.id = handle.id
        self.trail: list[ObjectState] = [handle.state]
        self.wrong: list[str] = []

    def look(self) -> None:
        """Once. Callable on one thread at a time, at any moment."""
        state = self.handle.state
        if state is not self.trail[-1]:
            self.trail.append(state)
        answers = self.answers()
        # Nothing runs in between on this thread: whatever is said twice is said of one moment.
        if len(set(answers.values())) != 1 and self.answers() == answers:
            self.wrong.append(f"answers that do not agree: {answers}, {state}")

    def astray(self, released_on: int | None) -> list[str]:
        """The steps that the table of states does not allow. Who looks on the thread that released the object
        sees each of them; where another thread did, it may have made several between two looks."""
        following = TRANSITIONS if released_on in (None, threading.get_ident()) else REACHABLE
        return [
            f"{one} -> {two} is not in the table of states"
            for one, two in pairwise(self.trail)
            if two not in following[one]
        ]

    def answers(self) -> dict[str, bool]:
        """Whether the object can be used, in every way in which that can be asked."""
        answers = {
            "state": self.handle.state is ObjectState.VALID,
            "is_valid(id)": self.manager.is_valid(self.id),
            "access by id": granted(lambda: self.manager.safe_access(self.id, _nothing)),
        }
        if self.handle._cell is not SHUT_CELL:  # otherwise this share says no, whatever the others say
            answers["valid"] = self.handle.valid
            answers["is_valid(handle)"] = self.manager.is_valid(self.handle)
            answers["lease"] = granted(lambda: self.handle.lease().close())
        return answers


def granted(access: Callable[[], object]) -> bool:
    """Whether an access is granted, or would be but for somebody who uses the object exclusively: the door is
    open then too."""
    try:
        access()
    except ExclusiveError:
        return True
    except LifecycleError:
        return False
    return True


def _nothing(native: object) -> None:
    return None
