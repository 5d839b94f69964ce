"""One branch of a tee: how it joins, leaves and is emptied while the pipeline plays.

**The problem.** Set to NULL before it is unlinked, a branch freezes the whole pipeline without a word on the
bus. Unlinked while a buffer is pushed, or as the last one, it ends the stream with an error. A branch that is
slow, not prerolled or broken holds up, or takes along, all the others.

**The idea.** A branch is one bin that begins with a queue which never holds up the tee, and it leaves in one
order, the only one that works (200 cycles on three versions of GStreamer): unlink when nothing is being
pushed, give the pad back, lock the state, NULL, remove. Where it fails on the way in, the same steps undo
what was done.

Why the queue drops: with ``leaky=downstream`` and one buffer a slow client sees the newest frame, late by one
at most, and costs the others nothing. A recorder wants every frame and gives a queue of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty
from typing import Any, ClassVar, Final

from lifecycle import SafetyManager
from lifecycle._core.runtime import TimedQueue
from lifecycle.integrations.gstreamer._native import Gst
from lifecycle.integrations.gstreamer.captures.capture import Capture
from lifecycle.integrations.gstreamer.captures.runs import Opened
from lifecycle.integrations.gstreamer.errors import GuardError, PipelineError, StateTimeout
from lifecycle.integrations.gstreamer.pipelines.elements import pads_of
from lifecycle.integrations.gstreamer.pipelines.guard import (
    Guard,
    add_to,
    check_seconds,
    elements_of,
    make_element,
    or_nothing,
)
from lifecycle.integrations.gstreamer.pipelines.pads import (
    PadHolder,
    link_pads,
    unlink_when_idle,
    unlinked_when_idle,
)
from lifecycle.integrations.gstreamer.pipelines.threads import contained, may_wait

__all__ = ["FLUSH_TIMEOUT", "Branch", "BranchCore", "low_latency_queue", "sinks_of"]

LEAKY_DOWNSTREAM: Final = 2
FLUSH_TIMEOUT: Final = 2.0
"""Seconds for which a flush waits until nothing is being pushed."""
ISOLATE_TIMEOUT: Final = 1.0
"""Seconds for which a failing branch waits, on its own thread, to be unlinked before its error goes upstream.
"""
CAPTURE_WAIT: Final = 1.0
"""Seconds for which closing a branch waits for a callback of its capture."""


def low_latency_queue(name: str | None = None) -> Any:
    """A `queue` element that holds one buffer, the newest, never blocks whoever pushes into it, and drops
    what it holds at the end of the stream."""
    queue = make_element("queue", name)
    for key, value in (
        ("leaky", LEAKY_DOWNSTREAM),
        ("max-size-buffers", 1),
        ("max-size-bytes", 0),
        ("max-size-time", 0),
        ("silent", True),
        ("flush-on-eos", True),
    ):
        queue.set_property(key, value)
    return queue


class BranchCore(PadHolder):
    """A branch, as far as it has come. Every step of `release` is done once, and only if its counterpart
    was."""

    def __init__(self, tee: Any, parent: Any, branch: Any, eos: float | None) -> None:
        self.tee = tee
        self.parent = parent
        self.bin = branch
        self.eos = eos
        self.captures: list[Opened] = []
        self.forget: Callable[[], object] | None = None
        self.flushing = threading.Lock()

    def join(self) -> None:
        """Into the bin, to its state, onto the tee."""
        if not add_to(self.parent, self.bin):
            raise GuardError(
                f"{self.parent.get_name()!r} does not take the branch {self.bin.get_name()!r}: it has an "
                "element of that name already; give another name="
            )
        if not self.bin.sync_state_with_parent():
            raise GuardError(
                f"branch {self.bin.get_name()!r} cannot follow its pipeline's state; an element in it "
                "refused, the bus says why. Nothing was attached"
            )
        link_pads(self.request(self.tee, "src_%u"), self.bin.get_static_pad("sink"))

    def detach(self, timeout: float) -> bool:
        """Off the tee, when nothing is pushed; False when that was not in time."""
        return self.pad is None or unlinked_when_idle(self.pad, timeout)

    def flush(self, timeout: float) -> None:
        """Unlinked for a moment, so that no flow return of it reaches the tee; linked again, every sticky
        event is sent again."""
        if not self.flushing.acquire(timeout=min(timeout, threading.TIMEOUT_MAX)):
            raise StateTimeout(
                f"branch {self.bin.get_name()!r} is being flushed already, for {timeout:g} s and longer"
            )
        try:
            linked = self.pad is not None and self.pad.is_linked()
            if not self.detach(timeout):
                raise StateTimeout(
                    f"branch {self.bin.get_name()!r} cannot be flushed: the tee's push into it has not ended "
                    f"within {timeout:g} s; its queue blocks: give it one that is leaky, such as "
                    "low_latency_queue()"
                )
            sink = self.bin.get_static_pad("sink")
            sink.send_event(Gst.Event.new_flush_start())
            sink.send_event(Gst.Event.new_flush_stop(False))
            if linked:
                link_pads(self.pad, sink)
        finally:
            self.flushing.release()

    def release(self) -> None:
        """The one order that freezes nobody."""
        captures, self.captures = self.captures, []
        for opened in captures:
            opened.end()  # it takes no further frame; its thread wakes when the appsink is at NULL
        pad, tee = self.pad, self.tee
        if pad is not None:
            unlink_when_idle(pad)
            self.pad = None
            if pad.get_parent() == tee:  # the program may have given it back
                tee.release_request_pad(pad)
        if self.eos is not None and self.bin.get_state(0)[1] == Gst.State.PLAYING:
            end_of_stream(self.bin, self.eos)
        self.bin.set_locked_state(True)  # or a change of the pipeline's state takes it along again
        self.bin.set_state(Gst.State.NULL)
        if self.bin.get_parent() == self.parent:
            self.parent.remove(self.bin)
        if self.forget is not None:
            self.forget()


def end_of_stream(branch: Any, timeout: float) -> bool:
    """Send end-of-stream into a bin, `branch`, that is unlinked, and wait until it has arrived at every sink
    in it."""
    arrived: TimedQueue[None] = TimedQueue()

    @contained(lambda: Gst.PadProbeReturn.OK)
    def look(pad: Any, info: Any) -> Any:
        if info.get_event().type == Gst.EventType.EOS:
            arrived.put(None)
        return Gst.PadProbeReturn.OK

    pads = [pad for sink in sinks_of(branch) for pad in pads_of(sink, Gst.PadDirection.SINK)]
    probes = [(pad, pad.add_probe(Gst.PadProbeType.EVENT_DOWNSTREAM, look)) for pad in pads]
    branch.get_static_pad("sink").send_event(Gst.Event.new_eos())
    try:
        for _ in pads:
            arrived.get(timeout=min(timeout, threading.TIMEOUT_MAX))
        return True
    except Empty:
        return False
    finally:
        for pad, probe in probes:
            pad.remove_probe(probe)


def sinks_of(parent: Any) -> list[Any]:
    """The sinks in a bin, and in the bins in it."""
    return [element for element in elements_of(parent) if _is_sink(element)]


def _is_sink(element: Any) -> bool:
    return (
        not isinstance(element, Gst.Bin)
        and not pads_of(element, Gst.PadDirection.SRC)
        and bool(pads_of(element, Gst.PadDirection.SINK))
    )


class Branch(Guard[BranchCore]):
    """One branch of a `Tee`, from `Tee.attach` until `close`, which may be called on any thread while the
    pipeline plays."""

    type_name: ClassVar[str] = "gst.Branch"

    @or_nothing
    def __init__(
        self,
        manager: SafetyManager,
        core: BranchCore,
        on_error: Callable[[PipelineError], object] | None,
    ) -> None:
        self.error: PipelineError | None = None
        """What failed in it, if something did: it is off the tee then, and waits to be closed."""
        self._on_error = on_error
        self._captures: list[Capture] = []
        self._register(manager, core, core.bin.get_name(), None)

    @property
    def bin(self) -> Any:
        """Its `Gst.Bin`. Raises `AccessRefusedError` once it is closed."""
        with self._handle.lease() as core:
            return core.bin

    def __getitem__(self, name: str) -> Any:
        """The element of that name in it. Raises `GuardError` naming those that there are."""
        found = self.bin.get_by_name(name)
        if found is None:
            names = ", ".join(sorted(element.get_name() for element in elements_of(self.bin)))
            raise GuardError(f"branch {self.name!r} has no element named {name!r}; it has {names}")
        return found

    @property
    def appsink(self) -> Any:
        """Its appsink. Raises `GuardError` when it has none, or several."""
        found = [
            element
            for element in elements_of(self.bin)
            if element.get_factory() is not None and element.get_factory().get_name() == "appsink"
        ]
        if len(found) != 1:
            raise GuardError(
                f"branch {self.name!r} has {len(found)} "
                f"appsinks{'; take the one you mean with branch[name]' if found else ''}"
            )
        return found[0]

    def capture(self, **options: Any) -> Capture:
        """A `Capture` over its appsink (options as there), closed when the branch is."""
        capture = Capture(self.manager, self.appsink, **options)
        with self._handle.lease() as core:
            core.captures.append(capture._opened)
        self._captures.append(capture)
        capture._over()  # from here on it ends with the branch
        return capture

    def close(self) -> bool:
        """Off the tee, to NULL, out of the pipeline; True when that is done. As `Guard.close`; its captures'
        callbacks are waited for as well, unless one of them is who closes."""
        done = super().close()
        if may_wait():
            while self._captures:
                try:
                    capture = self._captures.pop()
                except IndexError:  # another thread closes it as well
                    break
                capture.close(CAPTURE_WAIT)
        return done

    def flush(self, timeout: float = FLUSH_TIMEOUT) -> None:
        """Drop everything that waits in it, as when a client has left or starts anew. The tee and its other
        branches flow on.

        Raises `StateTimeout` when the tee's push into it, or another flush, did not end within `timeout`
        seconds; never does when called on a thread that pushes into the tee. A callback of the branch that is
        running is waited for.
        """
        check_seconds(timeout, f"branch {self.name!r}: flush(timeout=)")
        with self._handle.lease() as core:
            core.flush(timeout)

    def _failed(self, error: PipelineError) -> None:
        """Called on the thread that fails, before it returns its failure upstream."""
        try:
            with self._handle.lease() as core:
                core.detach(ISOLATE_TIMEOUT)
        finally:
            core = None  # type: ignore[assignment]
        self.error = self.error or error
        if self._on_error is not None and self.error is error:
            try:
                self._on_error(error)
            except BaseException as second:
                self.manager.report_panic(f"on_error of branch {self.name}", second, type_name=self.type_name)
