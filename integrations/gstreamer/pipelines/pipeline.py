"""`PipelineGuard`: a pipeline that is at NULL before the last reference to it goes, whatever happens.

**The problem.** A PLAYING pipeline that is dropped crashes, or leaves threads that burn. ``set_state(NULL)``
joins the streaming threads and cannot be cancelled: from a callback, or with a lock held that a callback
wants, it hangs for ever, and says nothing. If the bus is not read, an error on it goes unnoticed: the
pipeline stands still without a message.

**The idea.** The pipeline is an object of the manager whose release is NULL, on a timed worker. Every way out
leads there: `close`, a dropped guard, the manager's end, the interpreter's exit. What takes longer than
``finalizer_timeout`` is `STUCK`, and the error names the elements that are not at NULL and the Python line in
which a streaming thread stands.

**Listening.** Errors, warnings, the end of the stream and the coming and going of streaming threads are heard
by synchronous messages, which take nothing off the bus: `BusWatch`, a GLib signal watch, or a loop of the
program's own see them too. Messages that are not fetched are dropped in time (`drain.py`). The handlers know
only the `Journal`, never the pipeline.

**Closing**: end-of-stream with a deadline where asked, NULL, the bus drained, the handlers gone. In this
order, since a file is complete only after its end-of-stream, and nothing tells of it after NULL.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Final, NoReturn

from lifecycle import Handle, ObjectState, SafetyManager
from lifecycle.integrations.gstreamer._native import Gst, pointer_of
from lifecycle.integrations.gstreamer.errors import (
    GuardError,
    PipelineError,
    StateTimeout,
)
from lifecycle.integrations.gstreamer.pipelines.callbacks import once_each
from lifecycle.integrations.gstreamer.pipelines.descriptions import parse
from lifecycle.integrations.gstreamer.pipelines.drain import leave_bus, watch_bus
from lifecycle.integrations.gstreamer.pipelines.figures import figures_of
from lifecycle.integrations.gstreamer.pipelines.finishing import (
    AtClose,
    call_it,
    enter_part,
    files_of,
    finish,
    tell_unfinished,
)
from lifecycle.integrations.gstreamer.pipelines.guard import (
    Core,
    Guard,
    check_manager,
    check_name,
    check_seconds,
    elements_of,
    name_of,
    or_nothing,
    set_properties,
)
from lifecycle.integrations.gstreamer.pipelines.journal import BusMessage, Journal
from lifecycle.integrations.gstreamer.pipelines.listening import tell_run_begins
from lifecycle.integrations.gstreamer.pipelines.threads import (
    Lane,
    TookTooLong,
    awaited,
    in_the_background,
    may_wait,
    on_streaming_thread,
    with_deadline,
)
from lifecycle.lowlevel import Claim, Flag, snapshot

__all__ = ["START_TIMEOUT", "PipelineGuard", "bin_of"]

SLICE: Final = 0.05
"""Seconds between two checks of a thread that waits for a state or a message."""
START_TIMEOUT: Final = 10.0
"""Seconds that a change of state may take unless told otherwise."""


class PipelineGuard(Guard["_PipelineCore"]):
    """Owns a pipeline: see that it plays, hear its errors, and leave it at NULL.

    Parameters
    ----------
    manager:
        Owns the pipeline. Its ``finalizer_timeout`` is the deadline of NULL; closing it
        closes the pipeline.
    pipeline:
        A `Gst.Pipeline`, or a description as for ``gst-launch-1.0``. One pipeline has one guard.
    name:
        Shown in messages, metrics and reports; the pipeline's own by default.
    eos:
        Seconds for which closing waits for the end of the stream to reach every sink before NULL, so that
        files are complete; None (the default) stops at once. Only a pipeline that plays, is about to, or has
        played gets it: one that is PAUSED plays on for it. One that was taken to READY before its end is
        reported, with its files.

    ::

        with PipelineGuard(manager, "videotestsrc ! autovideosink") as pipeline:
            pipeline.play()
            pipeline.wait(10)

    Raises `DescriptionError` when the description does not parse or names elements that are not installed,
    `DuplicateError` when the pipeline has a guard already, `ForkedError` in a child of a process that used
    GStreamer.
    """

    type_name: ClassVar[str] = "gst.Pipeline"

    @or_nothing
    def __init__(
        self, manager: SafetyManager, pipeline: Any, *, name: str | None = None, eos: float | None = None
    ) -> None:
        check_manager(manager, "PipelineGuard(manager, pipeline)")
        if eos is not None:
            check_seconds(eos, "PipelineGuard(eos=)")
        if isinstance(pipeline, str):
            pipeline = parse(pipeline)
        elif not isinstance(pipeline, Gst.Pipeline):
            raise GuardError(
                f"PipelineGuard takes a Gst.Pipeline or a description, not {pipeline!r}; guard an element of "
                "a pipeline with ElementGuard, a part that comes and goes with Tee.attach"
            )
        self._journal = journal = Journal()
        self._pipeline = weakref.ref(pipeline)
        self._changes = Lane()
        name = name or pipeline.get_name()
        self._stream: _Stream | None = None
        if eos is not None:
            figures_of(manager)
            told = partial(tell_unfinished, manager, "closing a pipeline", self.type_name)
            self._stream = _Stream(pipeline, journal, eos, name, told)
        self._register(manager, _PipelineCore(pipeline, journal), name, pointer_of(pipeline))
        with self._handle.lease() as core:
            core.listen()
        with self._handle.lease() as core:
            core.leaving.append(manager.on_close(_weak_close(self)))
            if self._stream is not None:
                core.leaving.append(enter_part(manager, self._stream))
                core.leaving.append(manager.on_close(AtClose(manager)))

    # -- the pipeline ----------------------------------------------------------------------------------------

    @property
    def pipeline(self) -> Any:
        """The `Gst.Pipeline`. Raises `AccessRefusedError` once the guard is closed."""
        with self._handle.lease() as core:
            return core.pipeline

    def __getitem__(self, name: str) -> Any:
        """The element of that name, also inside a bin. Raises `GuardError` naming those that there are."""
        check_name(name, f"pipeline {self.name!r}: the name of an element")
        with self._handle.lease() as core:
            element = core.pipeline.get_by_name(name)
            if element is None:
                names = ", ".join(sorted(other.get_name() for other in elements_of(core.pipeline)))
                raise GuardError(
                    f"pipeline {self.name!r} has no element named {name!r}; it has {names or 'none'}"
                )
            return element

    def set(self, element: str, /, **properties: Any) -> None:
        """Set properties of the element of that name: ``pipeline.set("camera", is_live=True)``. Raises as
        ``pipeline[name]`` and `ElementGuard.set` do."""
        set_properties(self[element], properties)

    @property
    def state(self) -> str:
        """The pipeline's state as GStreamer has it now: ``null``, ``ready``, ``paused`` or ``playing``."""
        pipeline = self._pipeline()
        return "null" if pipeline is None else str(pipeline.get_state(0)[1].value_nick)

    @property
    def errors(self) -> tuple[PipelineError, ...]:
        """The last errors of its elements, oldest first (the last 16)."""
        return self._journal.errors.now()

    def messages(self) -> tuple[BusMessage, ...]:
        """Return the messages of the pipeline, oldest first: the last 16 errors (those of its branches, too),
        the last 16 ends, and 256 other messages: warnings, and what the guard has dropped from a bus that is
        not read. Takes nothing off the bus."""
        return self._journal.messages()

    @property
    def streaming_threads(self) -> int:
        """How many streaming threads it has now."""
        return len(self._journal.threads)

    # -- states ----------------------------------------------------------------------------------------------

    def play(self, timeout: float = START_TIMEOUT) -> None:
        """Go to PLAYING, and be there when this returns.

        Raises `PipelineError` with the element and its message when one fails, `StateTimeout` when `timeout`
        seconds were not enough (naming the elements that are not there), `AccessRefusedError` when the guard
        is closed, before or meanwhile. With ``timeout=0`` it only asks; then it may be called on a streaming
        thread, which otherwise raises `GuardError`.
        """
        self._change(Gst.State.PLAYING, timeout)

    def pause(self, timeout: float = START_TIMEOUT) -> None:
        """Go to PAUSED, as `play`."""
        self._change(Gst.State.PAUSED, timeout)

    def ready(self, timeout: float = START_TIMEOUT) -> None:
        """Go to READY, as `play`: streams stop, devices stay open."""
        self._change(Gst.State.READY, timeout)

    def _change(self, target: Any, timeout: float) -> None:
        check_seconds(timeout, f"pipeline {self.name!r}: timeout=")
        wanted = target.value_nick.upper()
        with self._handle.lease() as core:
            pipeline, journal = core.pipeline, self._journal
        if pipeline.get_state(0)[1] <= Gst.State.READY:
            journal.run_begins()
            if target > Gst.State.READY:
                tell_run_begins(pipeline.get_bus())

        change: Any = partial(_go, pipeline, target, weakref.ref(self))
        delegated = journal.delegated
        if timeout == 0:
            self._changes.begin(change, f"gst-{self.name}")
            return
        if on_streaming_thread():
            raise GuardError(
                f"pipeline {self.name!r} was asked to go to {wanted} from one of its streaming threads, "
                "which the change would wait for; ask with timeout=0, or hand it to another thread"
            )
        until = time.monotonic() + timeout
        try:
            while True:
                left = max(0.001, until - time.monotonic())
                result = with_deadline(change, left, f"gst-{self.name}", self._changes)
                if self._await_state(pipeline, target, result, until, delegated):
                    return
                # A branch failed on the way, and the bin that it stands in with it: without it, once more.
                delegated = journal.delegated
        except TookTooLong:
            self._too_late(pipeline, target, timeout)
        finally:
            pipeline = change = None  # a kept traceback keeps no pipeline

    def _await_state(
        self, pipeline: Any, target: Any, result: Any, until: float, delegated: int | None = None
    ) -> bool:
        """Wait until the pipeline is where it was sent: True. Raises like `play`, and `TookTooLong`. False if
        it cannot go there, and of its branches more have failed than those `delegated` before."""
        while True:
            if result == Gst.StateChangeReturn.FAILURE and self._failed(target, delegated):
                return False
            self.check()
            if result == Gst.StateChangeReturn.NO_PREROLL or (
                result == Gst.StateChangeReturn.SUCCESS and pipeline.get_state(0)[1] == target
            ):
                return True
            if not self._handle.valid:
                self._handle.lease()  # raises: closed meanwhile
            left = until - time.monotonic()
            if left <= 0:
                raise TookTooLong
            result = pipeline.get_state(int(min(SLICE, left) * 1e9))[0]

    def _failed(self, target: Any, delegated: int | None) -> bool:
        """Raise what made it fail; True if that was a branch alone."""
        journal = self._journal
        # The message may be on its way, on another thread.
        journal.waiters.wait(
            lambda: bool(journal.errors) or (delegated is not None and journal.delegated > delegated), SLICE
        )
        self.check()
        if delegated is not None and journal.delegated > delegated:
            return True
        raise PipelineError(
            f"pipeline {self.name!r} cannot go to {target.value_nick.upper()}: an element refused and said "
            "nothing on the bus; run with GST_DEBUG=3 to see which"
        )

    def _too_late(self, pipeline: Any, target: Any, timeout: float) -> NoReturn:
        elements, blocked = _stragglers(pipeline, target), self._journal.threads.blocked()
        warnings = "; ".join(self._journal.warnings)
        raise StateTimeout(
            f"pipeline {self.name!r} is not {target.value_nick.upper()} after {timeout:g} s: "
            f"{_listing(elements)}{_standing(blocked)}"
            f"{f'; warnings on the bus: {warnings}' if warnings else ''}. "
            "See that every source delivers, that caps can be agreed on, and that sinks which will not "
            "preroll have async=false",
            elements=elements,
            blocked=blocked,
        )

    # -- waiting ---------------------------------------------------------------------------------------------

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the stream has ended at every sink (True), or `timeout` seconds have passed (False).

        Raises `PipelineError` as soon as an element reports an error, `AccessRefusedError` when the guard is
        closed meanwhile.
        """
        self._check_timeout(timeout)
        return self._journal.waiters.wait(self._has_ended(), timeout, look=_look)

    async def wait_async(self, timeout: float | None = None) -> bool:
        """`wait` in a coroutine of asyncio or trio."""
        self._check_timeout(timeout)
        return await self._journal.waiters.wait_async(self._has_ended(), timeout, look=_look)

    def _check_timeout(self, timeout: float | None) -> None:
        if timeout is not None:
            check_seconds(timeout, f"pipeline {self.name!r}: timeout=")

    def _has_ended(self) -> Callable[[], bool]:
        """Asks whether it has ended, from here on; raises what there is to be said of it."""
        journal, ends = self._journal, self._journal.ends

        def ended() -> bool:
            self.check()
            if journal.ended or journal.ends > ends:
                return True
            if not self._handle.valid:
                self._handle.lease()
            return False

        return ended

    def check(self) -> None:
        """Raise the first `PipelineError` that an element has reported since the last change of state, if
        there is one."""
        for first in self._journal.errors.now()[:1]:
            raise first

    @property
    def ended(self) -> bool:
        """True if the end of the stream has reached every sink."""
        return self._journal.ended

    # -- seeking ---------------------------------------------------------------------------------------------

    def seek(
        self,
        position: int,
        *,
        stop: int | None = None,
        rate: float = 1.0,
        accurate: bool = False,
        segment: bool = False,
        timeout: float = START_TIMEOUT,
    ) -> None:
        """Go on from `position`, and be there when this returns. An end that has come, or is on its way, is
        undone: `wait` may be called right behind it.

        Parameters
        ----------
        position, stop:
            Nanoseconds from the beginning of the stream. It ends at `stop`, or at its own end where None.
        rate:
            1.0 as recorded, 2.0 twice as fast, below 0 backwards (from `stop`).
        accurate:
            To this very frame, instead of to the key frame before it, which is quicker.
        segment:
            The end at `stop` is no end of the stream: `wait` and loops end, and nothing has to be flushed for
            the next seek.
        timeout:
            Seconds for the first frame to be there.

        Raises `GuardError` for times and rates that are none, and on a streaming thread; `PipelineError`
        where the pipeline cannot seek or an element fails; `StateTimeout`; `AccessRefusedError` when the
        guard is closed."""
        for what, value in (("position", position), ("stop", stop)):
            if not (value is None and what == "stop") and not (type(value) is int and 0 <= value < 1 << 63):
                raise GuardError(
                    f"pipeline {self.name!r}: seek({what}=) takes nanoseconds, 0 or more, not {value!r}"
                )
        if stop is not None and stop <= position:
            raise GuardError(f"pipeline {self.name!r}: seek to {position} stops before that, at {stop}")
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not rate or not -1e6 < rate < 1e6:
            raise GuardError(f"pipeline {self.name!r}: seek(rate=) takes a number other than 0, not {rate!r}")
        check_seconds(timeout, f"pipeline {self.name!r}: timeout=")
        if on_streaming_thread():
            raise GuardError(
                f"pipeline {self.name!r} was asked to seek from one of its streaming threads, which the "
                "flush would wait for; hand it to another thread"
            )
        flags = Gst.SeekFlags.FLUSH | (Gst.SeekFlags.ACCURATE if accurate else Gst.SeekFlags.KEY_UNIT)
        if segment:
            flags |= Gst.SeekFlags.SEGMENT
        start, end = Gst.SeekType.SET, Gst.SeekType.NONE if stop is None else Gst.SeekType.SET
        last = -1 if stop is None else stop
        event = Gst.Event.new_seek(rate, Gst.Format.TIME, flags, start, position, end, last)
        with self._handle.lease() as core:
            pipeline = core.pipeline
        until = time.monotonic() + timeout
        target = pipeline.target_state
        over = self._journal.seek_begins(event.get_seqnum())
        try:
            target, taken = with_deadline(
                partial(_seek, pipeline, event), timeout, f"gst-{self.name}", self._changes
            )
            over(taken)
            if not taken:
                self.check()
                raise PipelineError(
                    f"pipeline {self.name!r}, which is {self.state.upper()}, cannot seek to {position}: no "
                    "element of it can, or none can yet (it has to be PAUSED or PLAYING); live sources never "
                    "can"
                )
            self._await_state(pipeline, target, pipeline.get_state(0)[0], until)
        except TookTooLong:
            self._too_late(pipeline, target, timeout)
        finally:
            pipeline = event = over = None  # type: ignore[assignment]  # a kept traceback keeps no pipeline

    # -- in coroutines ---------------------------------------------------------------------------------------

    async def play_async(self, timeout: float = START_TIMEOUT) -> None:
        """`play` in a coroutine of asyncio or trio. A task that is cancelled leaves the change under way, as
        all of these."""
        await awaited(partial(self.play, timeout), f"gst-{self.name}")

    async def pause_async(self, timeout: float = START_TIMEOUT) -> None:
        """`pause` in a coroutine."""
        await awaited(partial(self.pause, timeout), f"gst-{self.name}")

    async def ready_async(self, timeout: float = START_TIMEOUT) -> None:
        """`ready` in a coroutine."""
        await awaited(partial(self.ready, timeout), f"gst-{self.name}")

    async def seek_async(self, position: int, **options: Any) -> None:
        """`seek` in a coroutine; options as there."""
        await awaited(partial(self.seek, position, **options), f"gst-{self.name}")

    async def close_async(self) -> bool:
        """`close` in a coroutine: the end of the stream and NULL are awaited."""
        return await awaited(self.close, f"gst-{self.name}")

    # -- the end ---------------------------------------------------------------------------------------------

    def close(self) -> bool:
        """End the stream where asked, then NULL; True when the pipeline is there.

        On a streaming thread (of any guarded pipeline), inside a garbage collection and under
        `lifecycle.never_wait` all of it is handed over and the answer is False. Raises `StateTimeout` when
        NULL took longer than the manager's ``finalizer_timeout``: the pipeline is then `STUCK`, the error
        names what holds it up, and if that ends NULL is finished late.
        """
        stream = self._stream
        if stream is not None and self._handle.valid and not stream.over:
            if may_wait():
                finish([stream])
            elif on_streaming_thread():
                in_the_background(self._end_and_close, f"gst-{self.name}")
                return False
            # Inside a collection no thread may wait: it goes without.
        return self._close_now()

    def _end_and_close(self) -> None:
        if self._stream is not None:
            finish([self._stream])
        try:
            self._close_now()
        except StateTimeout as error:
            self.manager.report_panic(f"closing {self!r}", error, type_name=self.type_name)

    def _close_now(self) -> bool:
        return super().close()

    def _stuck(self) -> NoReturn:
        pipeline = self._pipeline()
        elements = () if pipeline is None else _stragglers(pipeline, Gst.State.NULL)
        blocked = self._journal.threads.blocked()
        raise StateTimeout(
            f"pipeline {self.name!r} did not reach NULL within {self.manager.config.finalizer_timeout:g} s: "
            f"{_listing(elements)}{_standing(blocked)}. It is quarantined as STUCK and never touched again; "
            "if what blocks it returns, NULL is finished. A callback must not wait for the thread that "
            "closes, nor for a lock it holds",
            elements=elements,
            blocked=blocked,
        )


def _go(pipeline: Any, target: Any, guard: Callable[[], PipelineGuard | None]) -> Any:
    """Change the state. A pipeline whose guard was closed meanwhile is left at NULL, as whoever closed it
    left it."""
    result = pipeline.set_state(target)
    living = guard()
    if living is None or living.closed:
        pipeline.set_state(Gst.State.NULL)
    return result


def _seek(pipeline: Any, event: Any) -> tuple[Any, bool]:
    """Send a seek: where the pipeline was sent by then, since a flush takes its sinks back to PAUSED for a
    while, and whether anybody has taken it."""
    return pipeline.target_state, pipeline.send_event(event)


def _weak_close(guard: PipelineGuard) -> Any:
    weak = weakref.ref(guard)

    def close() -> None:
        living = weak()
        if living is not None and living.handle.state is not ObjectState.ORPHANED:
            living.close()

    return close


class _Stream:
    """The stream of a pipeline with ``eos=``, to be finished."""

    def __init__(
        self, pipeline: Any, journal: Journal, eos: float, name: str, told: Callable[[Any, str], object]
    ) -> None:
        self._pipeline = weakref.ref(pipeline)
        self._journal = journal
        self.eos: float | None = eos
        self._name = name
        self._told = told
        self._claim: Claim[object] = Claim()
        self._files = ""
        self.over: Flag = Flag()

    def begin_finish(self) -> Callable[[float], str]:
        """As `Part` says."""
        if not self._claim.take(object()):
            return self._await_other
        pipeline = self._pipeline()
        try:
            journal = self._journal
            states = () if pipeline is None else pipeline.get_state(0)[1:]
            if Gst.State.PLAYING in states:
                paused = False
            elif Gst.State.PAUSED in states and journal.played:
                paused = True
            else:
                self.over.set()
                stopped = journal.played and not journal.errors and pipeline is not None
                self._files = files_of(pipeline) if stopped and not journal.ended else ""
                return self._tell_stopped if self._files else self._await_other
            if journal.ended:
                self.over.set()
                return self._await_other
            in_the_background(partial(_end_stream, pipeline, paused, self.eos or 0.0), f"gst-{self._name}")
            return self._finish
        finally:
            pipeline = None

    def _tell_stopped(self, until: float) -> str:
        """Its files cannot be made good any more."""
        said = (
            f"pipeline {self._name!r} was stopped before the end of the stream had reached its sinks (close "
            f"it before it goes to READY or NULL): {self._files} may be incomplete"
        )
        pipeline = self._pipeline()
        try:
            self._told(pipeline, said)
            return said
        finally:
            pipeline = None

    def _await_other(self, until: float) -> str:
        self.over.wait(max(0.0, until - time.monotonic()))
        return ""

    def _finish(self, until: float) -> str:
        journal = self._journal
        pipeline = self._pipeline()
        try:
            journal.waiters.wait(
                lambda: journal.ended or bool(journal.errors), max(0.0, until - time.monotonic())
            )
            # What failed is told elsewhere, and is no reason not to stop.
            if journal.ended or journal.errors or pipeline is None:
                return ""
            said = (
                f"pipeline {self._name!r} was closed before the end of the stream had reached its sinks "
                f"within {self.eos:g} s: {files_of(pipeline) or 'what they write'} may be incomplete"
            )
            self._told(pipeline, said)
            return said
        finally:
            pipeline = None
            self.over.set()


def _end_stream(pipeline: Any, paused: bool, seconds: float) -> None:
    """Send the end into it. Where it is paused its sinks take that once they play. Sent before that it would
    wait for a source that waits for its sink, with the lock that every change of the state needs."""
    if paused:
        pipeline.set_state(Gst.State.PLAYING)
        if pipeline.get_state(int(seconds * 1e9))[1] != Gst.State.PLAYING:
            return
    pipeline.send_event(Gst.Event.new_eos())


def _look() -> None:
    """A waiting thread checks now and then: a closed guard wakes no waiter before its end."""


class _PipelineCore(Core):
    """The pipeline and who listens to it."""

    def __init__(self, pipeline: Any, journal: Journal) -> None:
        self.pipeline = pipeline
        self.journal = journal
        self.heard: Any = None
        self.signals: list[int] = []
        self.leaving: list[Callable[[], object]] = []

    def listen(self) -> None:
        """Hear of what happens, from the first state change on."""
        self.journal.pipeline = pointer_of(self.pipeline)
        bus = self.pipeline.get_bus()
        bus.enable_sync_message_emission()
        self.heard = bus
        handlers = {
            "sync-message::stream-status": self.journal.on_stream_status,
            "sync-message::error": self.journal.on_error,
            "sync-message::warning": self.journal.on_warning,
            "sync-message::eos": self.journal.on_eos,
            "sync-message::segment-done": self.journal.on_eos,
            "sync-message::reset-time": self.journal.on_reset_time,
            "sync-message::state-changed": self.journal.on_state_changed,
        }
        # Connected and known in one call into C: no interrupt falls between.
        self.signals.extend(map(bus.connect, handlers, handlers.values()))
        self.journal.bus = watch_bus(bus, self.journal.note)

    def release(self) -> None:
        """Recordings are finished, the state is NULL, the bus is emptied and the listeners are removed."""
        self.finish_parts()
        self.pipeline.set_state(Gst.State.NULL)
        leave_bus(self.journal.bus)
        signals, self.signals = self.signals, []
        bus = self.pipeline.get_bus()
        while bus.pop() is not None:  # each message keeps its element
            pass
        for signal in signals:
            bus.disconnect(signal)
        if self.heard is not None:
            bus.disable_sync_message_emission()
        self.journal.threads.clear()
        self.journal.waiters.wake()
        once_each(call_it, self.leaving)

    def finish_parts(self) -> None:
        """Have the branches that want it see the end of the stream, all of them at once."""
        finish(snapshot(self.journal.parts.values()))


def _stragglers(pipeline: Any, target: Any) -> tuple[str, ...]:
    """The elements that are not where the pipeline goes, as ``name (paused)``; bins only where nothing in
    them is."""
    late: list[str] = []
    bins: list[str] = []
    for element in elements_of(pipeline):
        state = element.get_state(0)[1]
        if state == target:
            continue
        (bins if isinstance(element, Gst.Bin) else late).append(f"{element.get_name()} ({state.value_nick})")
    return tuple(late or bins)


def _listing(elements: tuple[str, ...]) -> str:
    if not elements:
        return "every element is there, the pipeline itself is not"
    more = f" and {len(elements) - 8} more" if len(elements) > 8 else ""
    return f"not there yet {'is' if len(elements) == 1 else 'are'} {', '.join(elements[:8])}{more}"


def _standing(blocked: tuple[str, ...]) -> str:
    return f"; {'; '.join(blocked)}" if blocked else ""


def bin_of(owner: Any, what: str) -> tuple[Any, Handle[Any] | None]:
    """The `Gst.Bin` of a guard or of itself, and the guard's handle."""
    if isinstance(owner, PipelineGuard):
        return owner.pipeline, owner.handle
    if isinstance(owner, Gst.Bin):
        return owner, None
    raise GuardError(
        f"{what} takes a PipelineGuard or a Gst.Bin, not {owner!r}"
        + (f" ({name_of(owner)})" if isinstance(owner, Gst.Object) else "")
    )
