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
import time
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Final, Literal

import attrs

from lifecycle import AccessRefusedError, SafetyManager
from lifecycle.integrations.gstreamer._native import Gst
from lifecycle.integrations.gstreamer.captures.capture import Capture
from lifecycle.integrations.gstreamer.captures.runs import Opened
from lifecycle.integrations.gstreamer.errors import GuardError, PipelineError, StateTimeout
from lifecycle.integrations.gstreamer.pipelines.callbacks import once_each
from lifecycle.integrations.gstreamer.pipelines.finishing import call_it, files_of, sinks_of, tell_unfinished
from lifecycle.integrations.gstreamer.pipelines.guard import (
    Guard,
    add_to,
    check_name,
    check_seconds,
    elements_of,
    make_element,
    or_nothing,
    pads_of,
)
from lifecycle.integrations.gstreamer.pipelines.pads import (
    UNLINK_TIMEOUT,
    PadHolder,
    link_pads,
    unlink_when_idle,
    unlinked_when_idle,
)
from lifecycle.integrations.gstreamer.pipelines.scopes import enter_scope
from lifecycle.integrations.gstreamer.pipelines.threads import in_the_background, may_wait, refuse_forked
from lifecycle.integrations.gstreamer.sharing.fuse import Door, Entrance, Fuse
from lifecycle.lowlevel import Claim, Flag, check_timeout, monotonic, poll, weakly

__all__ = [
    "FLUSH_TIMEOUT",
    "Branch",
    "BranchCore",
    "BranchEnd",
    "BranchStats",
    "low_latency_queue",
    "shortened",
]

LEAKY_DOWNSTREAM: Final = 2
FLUSH_TIMEOUT: Final = 2.0
"""Seconds for which a flush waits until nothing is being pushed."""
ISOLATE_TIMEOUT: Final = 1.0
"""Seconds for which a failing branch waits, on its own thread, to be unlinked before its error goes upstream.
"""
MESSAGE_WAIT: Final = 0.2
"""Seconds for which the end of a failing branch waits for the message that says why."""
HOLDS_UP: Final = 1.0
"""Seconds for which a branch with a full queue may stand before that is told."""
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


@attrs.frozen
class BranchEnd:
    """How a branch came to its end, before it was closed."""

    reason: Literal["eos", "error", "not-negotiated"]
    """It has taken all that it wants, an element in it failed, or it cannot take what the source sends."""
    error: PipelineError | None
    """What failed; None where it ended by itself."""
    time: float
    """Unix time in seconds."""


@attrs.frozen
class BranchStats:
    """A branch's figures at one moment."""

    name: str
    """The branch's name."""
    passed: int
    """Buffers (or lists of buffers) that it has taken."""
    dropped: int
    """Those that came after its end."""
    refused: int
    """Those that came while it was being flushed, or set to NULL."""
    blocked: float = 0.0
    """Seconds for which it has not taken the buffer that it was given last; 0.0 while it flows."""


class BranchCore(PadHolder):
    """A branch, as far as it has come. Every step of `release` is done once, and only if its counterpart
    was."""

    pad: Any

    def __init__(self, tee: Any, parent: Any, branch: Any, queue: Any, eos: float | None) -> None:
        self.tee = tee
        self.parent = parent
        self.bin = branch
        self.queue = queue
        self.eos = eos
        self.captures: list[Opened] = []
        self.leaving: list[Callable[[], object]] = []
        """What is called once it is out of its pipeline. Each may be called again."""
        self.flushing: threading.Lock = threading.Lock()
        self.fuse: Fuse | None = None
        self.door: Door | None = None
        self.entrance: Entrance | None = None
        self.ended_by_hand: Callable[[], object] = int
        """Called when the program has sent an end of the stream into it."""
        self.leave_scope: Callable[[], object] = int
        self.told: Callable[[Any, str], object] = _tell_nobody
        self.held_back: bool = False
        """It could not follow its pipeline's state, and is asked no more."""
        self._finishing: Claim[object] = Claim()
        self._finished = Flag()
        self.over: Flag = Flag()

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

    def guard(self, negotiates: bool) -> None:
        """From here on nothing of it reaches the tee."""
        assert self.fuse is not None
        self.fuse.add()
        self.door = Door(self.queue.get_static_pad("sink"), negotiates, self.ended_by_hand)
        self.door.add()
        self.entrance = Entrance(self.bin.get_static_pad("sink"), self.ended_by_hand)
        self.entrance.add()
        self.leave_scope = enter_scope(self.bin)

    def blocked(self) -> float:
        """Seconds for which it has not taken a buffer; 0.0 while it flows."""
        since = 0.0 if self.fuse is None else self.fuse.since
        return max(0.0, monotonic() - since) if since else 0.0

    def problem(self) -> str:
        """For `SafetyManager.health`: that it holds up the tee, since it stands and its queue is full."""
        seconds = self.blocked()
        if seconds < HOLDS_UP or self.over or not is_full(self.queue):
            return ""
        return (
            f"branch {self.bin.get_name()!r} holds up its tee: it took no buffer for {seconds:.1f} s, "
            "and its queue is full and does not leak; close it, or attach it with a queue that leaks"
        )

    def open_queue(self) -> None:
        """Have a push of the tee that waits in the queue return: it takes any number from here on."""
        for limit in ("max-size-buffers", "max-size-bytes", "max-size-time"):
            if self.queue.find_property(limit) is not None:
                self.queue.set_property(limit, 0)

    def begin_finish(self) -> Callable[[float], str]:
        """Take it off the tee and send the end of the stream into it, where it is to be finished. Returns
        what waits, until a moment of `monotonic`, for that to have reached its sinks, and says what has
        not."""
        if self.eos is None or (self.fuse is not None and self.fuse.tripped not in ("", "eos")):
            return _no_wait
        if not self._finishing.take(object()):
            return self._await_other
        state = self.bin.get_state(0)[1]
        begun = self.fuse is not None and bool(self.fuse.passed > self.fuse.ended_at or self.fuse.since)
        if state < Gst.State.PAUSED or (state == Gst.State.PAUSED and not begun):
            self._finished.set()
            return self._tell_stopped if begun else _no_wait
        self.open_queue()
        if self.pad is not None:
            unlinked_when_idle(self.pad, UNLINK_TIMEOUT)
        if state == Gst.State.PAUSED:
            # Its sinks take nothing until they play: on its own, while its pipeline stands.
            self.bin.set_locked_state(True)
            self.bin.set_state(Gst.State.PLAYING)
        if self.fuse is None or not self.fuse.tripped:
            self.bin.get_static_pad("sink").send_event(Gst.Event.new_eos())
        return self._finish

    def _await_other(self, until: float) -> str:
        """Another thread waits for the end, and tells what has not come to it."""
        self._finished.wait(max(0.0, until - monotonic()))
        return ""

    def _finish(self, until: float) -> str:
        try:
            return "" if reached_end(self.bin, until) else self._tell("closed", f" within {self.eos:g} s")
        finally:
            self._finished.set()

    def _tell_stopped(self, until: float) -> str:
        """It was taken to READY or NULL while it was being written: that cannot be made good any more."""
        return self._tell("stopped", " (close it before its pipeline goes to READY or NULL)")

    def _tell(self, what: str, when: str) -> str:
        said = (
            f"branch {self.bin.get_name()!r} was {what} before the end of the stream had reached its sinks"
            f"{when}: {files_of(self.bin) or 'its sinks'} may be incomplete"
        )
        self.told(self.bin, said)
        return said

    def detach(self, timeout: float) -> bool:
        """Off the tee, when nothing is pushed; False when that was not in time."""
        return self.pad is None or unlinked_when_idle(self.pad, timeout)

    def hold_back(self) -> None:
        """It has failed: if that was on its way to its pipeline's state, as a file that cannot be opened, it
        is not asked again, or the pipeline could go nowhere."""
        if self.bin.get_state(0)[1] < self.bin.target_state:
            self.bin.set_locked_state(True)
            self.held_back = True

    def take_out(self) -> None:
        """Where it was held back: out of its pipeline, which would wait for the end of its sinks."""
        if self.held_back:
            self.bin.set_state(Gst.State.NULL)
            if self.bin.get_parent() == self.parent:
                self.parent.remove(self.bin)

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

    def why(self, reason: str) -> PipelineError:
        """What is said of an end that no element has reported."""
        name = self.bin.get_name()
        if reason == "error":
            text = "an element in it gave up without a message on the bus"
        else:
            given = self.queue.get_static_pad("src").get_current_caps()
            inner = self.queue.get_static_pad("src").get_peer()
            taken = None if inner is None else inner.query_caps(None)
            text = (
                f"it cannot take what the source sends ({'?' if given is None else given.to_string()}); it "
                f"takes {'nothing' if taken is None else shortened(taken.to_string())}; put a converter at "
                "its head"
            )
        return PipelineError(f"branch {name!r} has failed: {text}", element=name, text=text)

    def release(self) -> None:
        """The only order that blocks no thread."""
        captures, self.captures = self.captures, []
        for opened in captures:
            opened.end()  # it takes no further frame; its thread wakes when the appsink is at NULL
        if self.eos is not None:
            self.begin_finish()(monotonic() + self.eos)
        pad, tee = self.pad, self.tee
        if pad is not None:
            self.open_queue()
            unlink_when_idle(pad)
            self.pad = None
            if pad.get_parent() == tee:  # the program may have given it back
                tee.release_request_pad(pad)
        self.bin.set_locked_state(True)  # or a change of the pipeline's state takes it along again
        self.bin.set_state(Gst.State.NULL)
        if self.bin.get_parent() == self.parent:
            self.parent.remove(self.bin)
        for probe in (self.fuse, self.door, self.entrance):
            if probe is not None:
                probe.remove()
        self.leave_scope()
        self.over.set()
        once_each(call_it, self.leaving)


def _tell_nobody(branch: Any, text: str) -> None:
    """It has no manager yet."""


def _no_wait(until: float) -> str:
    """There is nothing to wait for."""
    return ""


def reached_end(branch: Any, until: float) -> bool:
    """Wait until every sink in the bin `branch` has seen the end of the stream, or until that moment of
    `monotonic`; whether they have. A pad keeps the event once its element has done with it."""
    pads = [pad for sink in sinks_of(branch) for pad in pads_of(sink, Gst.PadDirection.SINK)]
    return poll(
        lambda: all(pad.get_sticky_event(Gst.EventType.EOS, 0) for pad in pads),
        max(0.0, until - monotonic()),
    )


def is_full(queue: Any) -> bool:
    """Return True if whoever pushes into a queue waits."""
    if queue.find_property("leaky") is None or int(queue.get_property("leaky")) != 0:
        return False
    return any(
        0 < queue.get_property(f"max-size-{what}") <= queue.get_property(f"current-level-{what}")
        for what in ("buffers", "bytes", "time")
    )


def shortened(text: str, most: int = 160) -> str:
    """Caps, for messages."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


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
        on_end: Callable[[BranchEnd], object] | None = None,
    ) -> None:
        self.error: PipelineError | None = None
        """What failed in it, if something did: it is off the tee then, and waits to be closed."""
        self._on_error = on_error
        self._on_end = on_end
        self._ends: Claim[BranchEnd] = Claim()
        self._over = core.over
        self._captures: list[Capture] = []
        core.told = partial(tell_unfinished, manager, "closing a branch", self.type_name)
        core.fuse = Fuse(core.queue.get_static_pad("src"), weakly(self._tripped))
        core.ended_by_hand = weakly(self._ended_by_hand)
        self._register(manager, core, core.bin.get_name(), None)

    @property
    def end(self) -> BranchEnd | None:
        """How it came to its end, if it has: it gets nothing more then, and waits to be closed. None while it
        flows, and where it was closed before."""
        return self._ends.holder

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the branch has ended, by itself or by `close`, `timeout` seconds at most; whether it
        has.

        Raises its `PipelineError` where it has failed, also after it was closed. The end of the whole stream
        is the pipeline's (`PipelineGuard.wait`).
        """
        check_timeout(timeout)
        refuse_forked(f"branch {self.name!r}")
        if not self._over.wait(timeout):
            return False
        if self.error is not None:
            raise self.error.again()
        return True

    def stats(self) -> BranchStats:
        """The figures, as a frozen snapshot. Raises `AccessRefusedError` once it is closed."""
        with self._handle.lease() as core:
            fuse = core.fuse
            if fuse is None:
                return BranchStats(self.name, 0, 0, 0)
            return BranchStats(self.name, fuse.passed, fuse.dropped, fuse.refused, core.blocked())

    @property
    def bin(self) -> Any:
        """Its `Gst.Bin`. Raises `AccessRefusedError` once it is closed."""
        with self._handle.lease() as core:
            return core.bin

    def __getitem__(self, name: str) -> Any:
        """The element of that name in it. Raises `GuardError` naming those that there are."""
        check_name(name, f"branch {self.name!r}: the name of an element")
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
        """Off the tee, to NULL, out of the pipeline; True when that is done. As `Guard.close`; it waits for
        the callbacks of its captures too, except for one that makes this call."""
        done = super().close()
        self._over.set()
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
        core = None
        try:
            with self._handle.lease() as core:
                if core.fuse is not None:
                    core.fuse.trip("error")
                core.hold_back()
                core.detach(ISOLATE_TIMEOUT)
        finally:
            core = None
        self._tell_error(error)

    def _tell_error(self, error: PipelineError) -> None:
        self.error = self.error or error
        if self._on_error is not None and self.error is error:
            try:
                self._on_error(error)
            except BaseException as second:
                self.manager.report_panic(f"on_error of branch {self.name}", second, type_name=self.type_name)

    def _tripped(self, reason: Literal["eos", "error", "not-negotiated"]) -> None:
        """Called by the fuse, on the branch's own thread."""
        in_the_background(partial(self._end_apart, reason), f"gst-branch-{self.name}")

    def _ended_by_hand(self) -> None:
        """Called at its entrance, on whatever thread has sent the end."""
        in_the_background(self._end_by_hand, f"gst-branch-{self.name}")

    def _end_by_hand(self) -> None:
        """Off the tee, and then to its end: what waits in its queue comes before that."""
        core = None
        try:
            with self._handle.lease() as core:
                pass
            # Without the lease, which would have `close` return before the end is there.
            core.open_queue()
            if core.fuse is not None:
                # Before it is off: an end that is sent from then on is held no more, and is the branch's.
                core.fuse.apart = True
                if core.detach(UNLINK_TIMEOUT):
                    core.bin.get_static_pad("sink").send_event(Gst.Event.new_eos())
        except AccessRefusedError:
            return  # closed meanwhile
        finally:
            core = None

    def _end_apart(self, reason: Literal["eos", "error", "not-negotiated"]) -> None:
        """Off the tee; its sinks are told the end, or the pipeline's own would wait for them; then whoever
        wants to know."""
        core = None
        try:
            if reason == "error":
                self._await_error()
            with self._handle.lease() as core:
                core.detach(UNLINK_TIMEOUT)
                core.take_out()
                if reason != "eos" and self.error is None:
                    self._tell_error(core.why(reason))
                sinks = sinks_of(core.bin) if reason != "eos" and not core.held_back else []
        except AccessRefusedError:
            return  # closed meanwhile
        finally:
            core = None
        end = BranchEnd(reason, self.error, time.time())
        self._ends.take(end)
        self._over.set()
        for pad in [pad for sink in sinks for pad in pads_of(sink, Gst.PadDirection.SINK)]:
            in_the_background(partial(pad.send_event, Gst.Event.new_eos()), f"gst-branch-{self.name}")
        if self._on_end is not None:
            try:
                self._on_end(end)
            except BaseException as error:
                self.manager.report_panic(f"on_end of branch {self.name}", error, type_name=self.type_name)

    def _await_error(self) -> None:
        """The message of what has failed comes on the failing thread, which may be another."""
        poll(lambda: self.error is not None, MESSAGE_WAIT)
