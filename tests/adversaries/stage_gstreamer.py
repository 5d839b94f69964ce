"""The stage for operations of `lifecycle.integrations.gstreamer`: real pipelines, and a census of what is there.

A scene has a *world*, made once (a pipeline that plays, an adapter and its samples), and is played again and again in it. What the
world consists of is counted before the first time: objects of the manager, pads, elements, signal handlers, threads, mappings,
pipelines. After each time it has to be the same again, and GStreamer must have said nothing critical (`Stage.settle`).

Nothing here imports GStreamer before a `Stage` is made.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import threading
import time
import types
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import attrs

from lifecycle import LifecycleError, SafetyConfig, SafetyManager
from lifecycle.testing import Struck
from tests.adversaries.stage import PATIENCE, _clear_our_frames, forget_what_was_printed
from tests.core.adversary import TRACING_KEEPS_LOCALS, assert_nothing_left

CONFIG = SafetyConfig(
    finalizer_timeout=60.0,
    shutdown_timeout=60.0,
    max_retained=20,
    # The record of a release that was interrupted keeps its traceback, and that what the release was given.
    state_retention=0.05,
    cleanup_interval=0.05,
)
OF_THE_PROCESS = {"gst-loans", "gst-bus-drain"}
"""Threads that serve all pipelines, and end by themselves when nothing is left for them to do."""


@attrs.frozen
class Scene:
    """One way to exercise some operations."""

    name: str
    operations: tuple[str, ...]
    play: Callable[[Stage], object]
    world: Callable[[Stage], object] | None
    few: str
    """Why only a few points are tried, empty where as many are as elsewhere."""
    walks: bool
    """It goes through every object of the process, where nothing is tried."""
    no_interrupts: str
    """Why no interrupt is raised in it, empty where one is."""
    lets_go: str
    """Why the traceback of an interrupt is let go before the balance is struck, empty where it is kept."""
    panics: bool
    """A callback in it raises what nobody declared."""
    needs: tuple[str, ...]
    views: bool
    """Views end in it before what they are of: not where a frame that is traced keeps a copy of its locals."""

    def __str__(self) -> str:
        return self.name


class Table(dict[str, Scene]):
    """Scenes by name."""

    def scene(
        self,
        *operations: str,
        world: Callable[[Stage], object] | None = None,
        few: str = "",
        walks: bool = False,
        no_interrupts: str = "",
        lets_go: str = "",
        panics: bool = False,
        needs: tuple[str, ...] = (),
        views: bool = False,
    ) -> Callable[[Callable[[Stage], object]], Callable[[Stage], object]]:
        """Enter the decorated function: it exercises `operations`."""

        def enter(play: Callable[[Stage], object]) -> Callable[[Stage], object]:
            assert play.__name__ not in self, f"two scenes are called {play.__name__}"
            self[play.__name__] = Scene(
                play.__name__,
                operations,
                play,
                world,
                few,
                walks,
                no_interrupts,
                lets_go,
                panics,
                needs,
                views,
            )
            return play

        return enter


class Stage:
    """One manager, and the world of one scene."""

    def __init__(self, scene: Scene) -> None:
        import numpy

        import lifecycle.integrations.gstreamer
        from tests.gstreamer import program

        self.scene = scene
        self.np: Any = numpy
        self.gst: Any = lifecycle.integrations.gstreamer
        self.program: Any = program
        self.Gst: Any = program.Gst
        self.criticals: list[str] = []
        self._handlers = _listen(self.criticals)
        self._others = set(threading.enumerate())
        self.manager = SafetyManager(CONFIG, name="stage")
        self.world = types.SimpleNamespace()
        self.things: list[Any] = []  # of this run, to be closed at its end, the last first
        self.furniture: list[Any] = []  # of the world, closed at the very end
        self.alive: Counter[int] = Counter()  # pipelines that are not freed, by run
        self.run = 0
        self.samples: list[Any] = []
        self.counts: dict[str, Callable[[], object]] = {
            "objects": lambda: self.manager.stats().active_objects,
            "threads": self._threads,
            "pipelines": lambda: +self.alive,
            "mappings": self._mappings,
        }
        if scene.world is not None:
            scene.world(self)
        self.run = 1
        self.base = self._census()

    # -- for scenes and worlds

    def keep(self, thing: Any) -> Any:
        """Close `thing` when the run is over."""
        self.things.append(thing)
        return thing

    def furnish(self, thing: Any) -> Any:
        """Close `thing` when all runs are over."""
        self.furniture.append(thing)
        return thing

    def launch(self, description: str) -> Any:
        """A pipeline that has to be freed by the end of the run (one of the world: by the end)."""
        pipeline = self.Gst.parse_launch(description)
        if not isinstance(pipeline, self.Gst.Pipeline):  # one element
            alone, pipeline = pipeline, self.Gst.Pipeline.new(None)
            pipeline.add(alone)
        run = self.run
        self.alive[run] += 1
        pipeline.weak_ref(lambda *_: self.alive.subtract((run,)))
        return pipeline

    def sample(self, size: int, caps: str) -> Any:
        """A sample of the world's, whose mappings are counted."""
        made = self.program.sample_of(bytes(size), caps)
        self.samples.append(made)
        return made

    def count_handlers(self, what: str, source: Any, *signals: str) -> None:
        """Count the handlers of a GObject's signals, too."""
        for signal in signals:
            self.counts[f"{signal} of {what}"] = functools.partial(_handlers_of, source, signal)

    def count_pipeline(self, guard: Any, *elements: str) -> None:
        """Count what a pipeline of the world consists of: elements, pads, handlers of its bus, streaming threads."""
        pipeline = guard.pipeline
        self.counts[f"elements of {guard.name}"] = lambda: sorted(
            one.get_name() for one in _all(self.Gst, pipeline)
        )
        self.counts[f"pads of {guard.name}"] = lambda: {
            name: pipeline.get_by_name(name).numpads for name in elements
        }
        self.counts[f"state of {guard.name}"] = lambda: guard.state
        self.count_handlers(f"bus of {guard.name}", pipeline.get_bus(), "sync-message")

    # -- for adversaries

    def play(self) -> object:
        """Once."""
        return self.scene.play(self)

    def settle(self, what: str, struck: Struck[Any] | None = None, *, calm: bool = False) -> None:
        """End the run, and see that the world is as it was. `what` is what had been done to it; `calm`: nothing that could have
        made a call fail."""
        if struck is not None:
            forget_what_was_printed()
        if struck is not None and struck.error is not None and (self.scene.lets_go or TRACING_KEEPS_LOCALS):
            struck.error.with_traceback(None)
        _clear_our_frames(struck)
        while self.things:
            thing = self.things.pop()
            try:
                thing() if callable(thing) else thing.close()
            except LifecycleError:
                if calm:
                    raise
            finally:
                thing = None
        if struck is not None and struck.error is not None:
            # The traceback is kept: our frames may hold what the user gave them, but nothing that is ours.
            self._await(what, without="pipelines")
            forget(struck.error)
        self._await(what)
        assert not self.criticals, f"{what}: {self.criticals}"
        stats = self.manager.stats()
        assert not stats.stuck, f"{what}: {stats}"
        assert stats.total_objects == stats.active_objects + stats.released + stats.failed, f"{what}: {stats}"
        if calm:
            assert not stats.failed, f"{what}: {stats}"
            assert not stats.leaks, f"{what}: {stats}"
            assert self.scene.panics or not stats.panics, f"{what}: {stats}"
        self.run += 1

    def _await(self, what: str, without: str = "") -> None:
        until = time.monotonic() + PATIENCE
        pause = 0.0005
        while (left := self._left(without)) and time.monotonic() < until:
            time.sleep(pause)
            pause = min(2 * pause, 0.02)
            if pause > 0.002:
                gc.collect()
        assert not left, f"{what}: {left}"

    def end(self, ok: bool = True) -> None:
        """The world ends. Nothing is left of it: no object, pipeline, mapping or thread. With `ok` nothing was left when its
        manager was closed, either."""
        self.samples.clear()
        while self.things:
            thing = self.things.pop()
            try:
                thing() if callable(thing) else thing.close()
            except LifecycleError:
                pass
            thing = None
        while self.furniture:
            thing = self.furniture.pop()
            thing() if callable(thing) else thing.close()
            thing = None
        report = self.manager.close()
        # A release that an interrupt struck has failed; that is no fault.
        left = (report.stuck, report.leaked, report.errors, report.running)
        assert left == ((), (), (), ()) or not ok, report
        assert_nothing_left(self.manager)
        vars(self.world).clear()
        self.counts.clear()
        until = time.monotonic() + PATIENCE
        while (left := self._remains()) and time.monotonic() < until:
            gc.collect()
            time.sleep(0.005)
        for handler in self._handlers:
            handler()
        assert not left, left
        assert not self.criticals, self.criticals

    def _remains(self) -> str:
        if +self.alive:
            return f"pipelines are never freed: {+self.alive}"
        threads = [
            thread.name
            for thread in threading.enumerate()
            if thread not in self._others
            and not isinstance(thread, threading._DummyThread)
            and thread.name not in OF_THE_PROCESS
        ]
        return f"threads go on: {threads}" if threads else ""

    def _census(self) -> dict[str, object]:
        return {name: count() for name, count in self.counts.items()}

    def _left(self, without: str) -> str:
        now = self._census()
        return "; ".join(
            f"{name}: {now[name]} instead of {before}"
            + (f" ({[str(info) for info in self.manager.objects()]})" if name == "objects" else "")
            for name, before in self.base.items()
            if now[name] != before and name != without
        )

    def _threads(self) -> Counter[str]:
        return Counter(
            thread.name.rstrip("0123456789")
            for thread in threading.enumerate()
            if thread.name.startswith(("gst-", "capture-")) and thread.name not in OF_THE_PROCESS
        )

    def _mappings(self) -> list[int]:
        from lifecycle.integrations.gstreamer._native import (
            MiniObject,
            memory_count,
            memory_of,
            sample_buffer,
        )

        found = []
        for sample in self.samples:
            buffer = sample_buffer(hash(sample))
            assert buffer is not None
            for index in range(memory_count(buffer)):  # mapped as a whole, several memories become one
                found.append((int(MiniObject.from_address(memory_of(buffer, index)).lockstate) >> 8) & 0xFF)
        return [count for count in found if count]


def forget(error: BaseException) -> None:
    """Let go of all that an exception's tracebacks keep, and those of what it came from."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            one.with_traceback(None)
            waiting += [one.__cause__, one.__context__]


def _all(Gst: Any, parent: Any) -> Iterator[Any]:
    while True:
        found = []
        iterator = parent.iterate_recurse()
        while True:
            result, element = iterator.next()
            if result == Gst.IteratorResult.OK:
                found.append(element)
            elif result == Gst.IteratorResult.RESYNC:
                break
            else:
                return iter(found)


_OF_THIS_SIGNAL = 1


def _handlers_of(source: Any, signal: str) -> int:
    """How many handlers a signal of a GObject has. (GLib says it where it blocks them: they are unblocked at once.)"""
    from gi.repository import GObject

    gobject = ctypes.CDLL("libgobject-2.0.so.0")
    number = GObject.signal_lookup(signal, source.__gtype__)
    counts = []
    for name in ("g_signal_handlers_block_matched", "g_signal_handlers_unblock_matched"):
        function = getattr(gobject, name)
        function.restype = ctypes.c_uint
        function.argtypes = (
            ctypes.c_void_p,
            ctypes.c_int,
            ctypes.c_uint,
            ctypes.c_uint32,
            *[ctypes.c_void_p] * 3,
        )
        counts.append(function(hash(source), _OF_THIS_SIGNAL, number, 0, None, None, None))
    return int(counts[0])


DOMAINS = (
    "GStreamer",
    "GLib",
    "GLib-GObject",
    "GStreamer-App",
    "GStreamer-Video",
    "GStreamer-Base",
    "GStreamer-WebRTC",
)


OF_WEBRTCBIN = (
    "gst_pad_create_stream_id_internal: assertion 'parent->numsinkpads <= 1' failed",
    "gst_event_new_stream_start: assertion 'stream_id != NULL' failed",
    "gst_pad_push_event: assertion 'GST_IS_EVENT (event)' failed",
)
"""What the elements inside webrtcbin say now and then when they begin to send on a loaded machine. Neither the
library nor the scenes make such events."""


def _listen(criticals: list[str]) -> list[Callable[[], object]]:
    """Note what GLib and GStreamer say that is critical; what is returned ends that."""
    from gi.repository import GLib

    levels = GLib.LogLevelFlags
    wanted = levels.LEVEL_CRITICAL | levels.LEVEL_WARNING | levels.FLAG_RECURSION | levels.FLAG_FATAL

    def heard(domain: str, level: Any, message: str, data: Any = None) -> None:
        if message not in OF_WEBRTCBIN:
            criticals.append(f"{domain}: {message}")

    ends: list[Callable[[], object]] = []
    for domain in DOMAINS:
        number = GLib.log_set_handler(domain, wanted, heard, None)
        ends.append(functools.partial(GLib.log_remove_handler, domain, number))
    return ends
