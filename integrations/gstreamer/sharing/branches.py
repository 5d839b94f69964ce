"""Branches of a tee that come and go while the pipeline plays.

**The problem.** Set to NULL before it is unlinked, a branch freezes the whole pipeline without a word on the bus. Unlinked
while a buffer is pushed, or as the last one, it ends the stream with an error. A branch that is slow, not prerolled or
broken holds up, or takes along, all the others.

**The idea.** A branch is one bin that begins with a queue which never holds up the tee, and it leaves in one order, the only one
that works (200 cycles on three versions of GStreamer): unlink when nothing is being pushed, give the pad back, lock the
state, NULL, remove. Where it fails on the way in, the same steps undo what was done.

**A branch that fails** is unlinked before its error can reach the tee: the error message is heard on the branch's own
thread, ahead of the flow return that would end the stream for everybody. It is told to the branch (`Branch.error`,
``on_error=``) instead of the pipeline. For this the tee has to be given with its `PipelineGuard`.

**A branch that stands still** does not stop the others, as it does in plain GStreamer as soon as a client joins: the allocation
query that follows is answered by each branch's own thread, in its turn. So it is refused at the branch's door
(`_refuse_allocation`).

Why the queue drops: with ``leaky=downstream`` and one buffer a slow client sees the newest frame, late by one at most, and
costs the others nothing. A recorder wants every frame and gives a queue of its own.
"""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from collections.abc import Callable
from queue import Empty
from typing import Any, ClassVar, Final

from integrations.gstreamer._native import Gst
from integrations.gstreamer.captures.capture import Capture
from integrations.gstreamer.errors import GuardError, LinkError, PipelineError, StateTimeout
from integrations.gstreamer.pipelines.elements import pads_of
from integrations.gstreamer.pipelines.guard import (
    Guard,
    add_to,
    check_manager,
    check_seconds,
    elements_of,
    make_element,
    name_of,
)
from integrations.gstreamer.pipelines.pads import PadHolder, link_pads, unlink_when_idle, when_idle
from integrations.gstreamer.pipelines.pipeline import PipelineGuard, parse_bin
from integrations.gstreamer.pipelines.threads import may_wait
from lifecycle import SafetyManager
from lifecycle._world import TimedQueue

__all__ = ["Branch", "Tee", "low_latency_queue"]

LEAKY_DOWNSTREAM: Final = 2
FLUSH_TIMEOUT: Final = 2.0
"""Seconds for which a flush waits until nothing is being pushed."""
ISOLATE_TIMEOUT: Final = 1.0
"""Seconds for which a failing branch waits, on its own thread, to be unlinked before its error goes upstream."""
CAPTURE_WAIT: Final = 1.0
"""Seconds for which closing a branch waits for a callback of its capture."""
_count = itertools.count()


def low_latency_queue(name: str | None = None) -> Any:
    """A `queue` element that holds one buffer, the newest, never blocks whoever pushes into it, and drops what it holds at
    the end of the stream."""
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


class _BranchCore(PadHolder):
    """A branch, as far as it has come. Every step of `release` is done once, and only if its counterpart was."""

    def __init__(self, tee: Any, parent: Any, branch: Any, eos: float | None) -> None:
        self.tee = tee
        self.parent = parent
        self.bin = branch
        self.eos = eos
        self.captures: list[Capture] = []
        self.forget: Callable[[], object] | None = None
        self.flushing = threading.Lock()

    def join(self) -> None:
        """Into the bin, to its state, onto the tee."""
        if not add_to(self.parent, self.bin):
            raise GuardError(
                f"{self.parent.get_name()!r} does not take the branch {self.bin.get_name()!r}: it has an element of that name "
                "already; give another name="
            )
        if not self.bin.sync_state_with_parent():
            raise GuardError(
                f"branch {self.bin.get_name()!r} cannot follow its pipeline's state; an element in it refused, the bus says why. "
                "Nothing was attached"
            )
        link_pads(self.request(self.tee, "src_%u"), self.bin.get_static_pad("sink"))

    def detach(self, timeout: float) -> bool:
        """Off the tee, when nothing is pushed; False when that was not in time."""
        pad = self.pad
        if pad is None or not pad.is_linked():
            return True

        def unlink() -> None:
            peer = pad.get_peer()
            if peer is not None:
                pad.unlink(peer)

        return when_idle(pad, unlink, timeout)

    def flush(self, timeout: float) -> None:
        """Unlinked for a moment, so that no flow return of it reaches the tee; linked again, every sticky event is sent again."""
        until = time.monotonic() + timeout
        while not self.flushing.acquire(blocking=False):
            if time.monotonic() >= until:
                raise StateTimeout(
                    f"branch {self.bin.get_name()!r} is being flushed already, for {timeout:g} s and longer"
                )
            time.sleep(0.001)
        try:
            linked = self.pad is not None and self.pad.is_linked()
            if not self.detach(timeout):
                raise StateTimeout(
                    f"branch {self.bin.get_name()!r} cannot be flushed: the tee's push into it has not ended within "
                    f"{timeout:g} s; its "
                    "queue blocks: give it one that is leaky, such as low_latency_queue()"
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
        for capture in captures:
            capture.close(0)  # it takes no further frame; its thread wakes when the appsink is at NULL
        pad, tee = self.pad, self.tee
        if pad is not None:
            unlink_when_idle(pad)
            self.pad = None
            tee.release_request_pad(pad)
        if self.eos is not None and self.bin.get_state(0)[1] == Gst.State.PLAYING:
            end_of_stream(self.bin, self.eos)
        self.bin.set_locked_state(True)  # or a change of the pipeline's state takes it along again
        self.bin.set_state(Gst.State.NULL)
        if self.bin.get_parent() == self.parent:
            self.parent.remove(self.bin)
        if self.forget is not None:
            self.forget()


def _refuse_allocation(pad: Any, info: Any) -> Any:
    """A query that a queue passes on in its turn, and waits for: a branch that stands still would stop the tee, and with
    it everybody, as soon as another branch joins and allocation is negotiated anew. Refused, each element allocates for
    itself."""
    if info.get_query().type == Gst.QueryType.ALLOCATION:
        return Gst.PadProbeReturn.DROP
    return Gst.PadProbeReturn.OK


def end_of_stream(branch: Any, timeout: float) -> bool:
    """Send end-of-stream into a bin, `branch`, that is unlinked, and wait until it has arrived at every sink in it."""
    arrived: TimedQueue[None] = TimedQueue()

    def look(pad: Any, info: Any) -> Any:
        if info.get_event().type == Gst.EventType.EOS:
            arrived.put(None)
        return Gst.PadProbeReturn.OK

    pads = [pad for sink in sinks_of(branch) for pad in pads_of(sink, Gst.PadDirection.SINK)]
    probes = [(pad, pad.add_probe(Gst.PadProbeType.EVENT_DOWNSTREAM, look)) for pad in pads]
    branch.get_static_pad("sink").send_event(Gst.Event.new_eos())
    try:
        for _ in pads:
            arrived.get(timeout=timeout)
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


class Branch(Guard[_BranchCore]):
    """One branch of a `Tee`, from `Tee.attach` until `close`, which may be called on any thread while the pipeline plays."""

    type_name: ClassVar[str] = "gst.Branch"

    def __init__(
        self,
        manager: SafetyManager,
        core: _BranchCore,
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
                f"branch {self.name!r} has {len(found)} appsinks{'; take the one you mean with branch[name]' if found else ''}"
            )
        return found[0]

    def capture(self, **options: Any) -> Capture:
        """A `Capture` over its appsink (options as there), closed when the branch is."""
        capture = Capture(self.manager, self.appsink, **options)
        with self._handle.lease() as core:
            core.captures.append(capture)
        self._captures.append(capture)
        return capture

    def close(self) -> bool:
        """Off the tee, to NULL, out of the pipeline; True when that is done. As `Guard.close`; its captures' callbacks are
        waited for as well, unless one of them is who closes."""
        done = super().close()
        if may_wait():
            while self._captures:
                self._captures.pop().close(CAPTURE_WAIT)
        return done

    def flush(self, timeout: float = FLUSH_TIMEOUT) -> None:
        """Drop everything that waits in it, as when a client has left or starts anew. The tee and its other branches flow on.

        Raises `StateTimeout` when the tee's push into it, or another flush, did not end within `timeout` seconds; never does when
        called on a thread that pushes into the tee. A callback of the branch that is running is waited for.
        """
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


class Tee:
    """A tee whose branches come and go.

    ::

        pipeline = PipelineGuard(manager, "v4l2src ! videoconvert ! tee name=t")
        tee = Tee(manager, pipeline, "t")
        pipeline.play()
        with tee.attach("videoconvert ! video/x-raw,format=RGB ! appsink") as branch:
            ...

    Parameters
    ----------
    manager:
        Whose objects the branches become.
    pipeline:
        The `PipelineGuard` (then a branch that fails is taken off alone), or the plain `Gst.Bin` that holds the tee.
    tee:
        The tee, or its name. Its ``allow-not-linked`` is set, so that it flows on without a branch.
    """

    def __init__(self, manager: SafetyManager, pipeline: Any, tee: Any) -> None:
        check_manager(manager, "Tee(manager, pipeline, tee)")
        guard = pipeline if isinstance(pipeline, PipelineGuard) else None
        if guard is None and not isinstance(pipeline, Gst.Bin):
            raise GuardError(f"Tee(pipeline=) takes a PipelineGuard or a Gst.Bin, not {pipeline!r}")
        if isinstance(tee, str):
            name = tee
            tee = pipeline[name] if guard is not None else pipeline.get_by_name(name)
            if tee is None:
                raise GuardError(f"{pipeline.get_name()!r} has no element named {name!r}")
        factory = tee.get_factory() if isinstance(tee, Gst.Element) else None
        if factory is None or factory.get_name() != "tee":
            raise GuardError(
                f"Tee takes a tee or its name, not {tee!r}; put «tee name=t» where branches are to begin"
            )
        if tee.get_parent() is None:
            raise GuardError(f"tee {tee.get_name()!r} is in no pipeline yet; add it first")
        tee.set_property("allow-not-linked", True)
        self.manager = manager
        self.name = str(tee.get_name())
        self._guard = guard
        self._tee = tee
        self._branches: weakref.WeakSet[Branch] = weakref.WeakSet()

    def attach(
        self,
        branch: Any,
        *,
        name: str | None = None,
        queue: Any = None,
        eos: float | None = None,
        on_error: Callable[[PipelineError], object] | None = None,
    ) -> Branch:
        """Add a branch and have it flow, whatever the pipeline is doing. Callable on any thread.

        Parameters
        ----------
        branch:
            A description with one free sink pad (``"videoconvert ! appsink"``), or an element or bin that is in no other.
        name:
            Its name in the pipeline, in messages and reports; ``branch0`` and so on by default.
        queue:
            The queue at its head; `low_latency_queue` by default. Give your own for a branch that wants every frame: once it is
            full it holds up the tee, unless it is leaky.
        eos:
            Seconds for which closing waits for the end of the stream to reach its sinks, so that files are complete. Keep
            it below the manager's ``finalizer_timeout``.
        on_error:
            Called with the `PipelineError` when an element in it fails, on that element's thread, once the branch is off the tee.
            `Branch.close` called there is handed over.

        Its sinks are set to ``async=false``: they would take the playing pipeline back to wait for their first buffer. Raises
        `DescriptionError`, `GuardError` or `LinkError`, with everything undone, and `AccessRefusedError` when the pipeline
        is closed.
        """
        if eos is not None:
            check_seconds(eos, "Tee.attach(eos=)")
        lease = self._guard.handle.lease() if self._guard is not None else None
        made = None
        try:
            tee = self._tee
            if tee.get_parent() is None:
                raise GuardError(f"tee {self.name!r} is in no pipeline any more")
            wrapped = _wrap(branch, name or f"branch{next(_count)}", queue or low_latency_queue())
            made = Branch(self.manager, _BranchCore(tee, tee.get_parent(), wrapped, eos), on_error)
            try:
                if self._guard is not None:
                    self._isolate(made, wrapped)
                with made.handle.lease() as core:
                    core.join()
            except BaseException as error:
                core = None
                made.handle.close()
                if made.error is not None and isinstance(error, GuardError):
                    raise GuardError(f"{error} ({made.error})") from None
                raise
            self._branches.add(made)
            return made
        finally:
            made = core = None
            if lease is not None:
                lease.close()

    def _isolate(self, branch: Branch, wrapped: Any) -> None:
        """Have what fails in `wrapped` told to the branch, as long as it lives."""
        assert self._guard is not None
        weak = weakref.ref(branch)

        def failed(error: PipelineError) -> bool:
            living = weak()
            if living is None or not living.handle.valid:
                return False
            living._failed(error)
            return True

        with branch.handle.lease() as core:
            core.forget = self._guard._news.delegate(wrapped, failed)

    def flush(self, timeout: float = FLUSH_TIMEOUT) -> None:
        """Drop everything that waits in any branch. As `Branch.flush`."""
        for branch in self.branches:
            branch.flush(timeout)

    @property
    def branches(self) -> tuple[Branch, ...]:
        """The branches that are attached and not closed."""
        return tuple(branch for branch in self._branches if not branch.closed)

    def __repr__(self) -> str:
        return f"<Tee {self.name!r}: {len(self.branches)} branches>"


def _wrap(branch: Any, name: str, queue: Any) -> Any:
    """One bin: the queue, what was given, and a ghost pad. Refused, what was given is as it was."""
    if isinstance(branch, str):
        inner = parse_bin(branch)
    elif isinstance(branch, Gst.Element):
        inner = branch
        if inner.get_parent() is not None:
            raise GuardError(
                f"{inner.get_name()!r} is in {inner.get_parent().get_name()!r} already and cannot be a branch as well; "
                "make another"
            )
    else:
        raise GuardError(f"Tee.attach takes a description, a Gst.Bin or a Gst.Element, not {branch!r}")
    if not isinstance(queue, Gst.Element) or queue.get_parent() is not None:
        raise GuardError(
            f"Tee.attach(queue=) takes a new queue element, such as low_latency_queue(), not {queue!r}"
        )
    free = [pad for pad in pads_of(inner, Gst.PadDirection.SINK) if not pad.is_linked()]
    if len(free) != 1:
        raise LinkError(
            f"the branch {name!r} has {len(free)} free sink pads ({', '.join(map(name_of, free)) or 'none'}) and needs "
            "one, where the "
            "tee's data goes in"
        )
    for sink in sinks_of(inner) if isinstance(inner, Gst.Bin) else [inner]:
        if sink.find_property("async") is not None:
            sink.set_property("async", False)
    outer = Gst.Bin.new(name)
    outer.add(queue)
    outer.add(inner)
    link_pads(queue.get_static_pad("src"), free[0])
    door = Gst.GhostPad.new("sink", queue.get_static_pad("sink"))
    door.add_probe(Gst.PadProbeType.QUERY_DOWNSTREAM, _refuse_allocation)  # gone with the pad
    outer.add_pad(door)
    return outer
