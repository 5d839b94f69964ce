"""`PipelineGuard`: a pipeline that is at NULL before the last reference to it goes, whatever happens.

**The problem.** A PLAYING pipeline that is dropped crashes, or leaves threads that burn. ``set_state(NULL)``
joins the streaming threads and cannot be cancelled: from a callback, or with a lock held that a callback
wants, it hangs for ever, and says nothing. An error on the bus that nobody reads is a pipeline that stands
still in silence.

**The idea.** The pipeline is an object of the manager whose release is NULL, on a timed worker. Every way out
leads there: `close`, a dropped guard, the manager's end, the interpreter's exit. What takes longer than
``finalizer_timeout`` is `STUCK`, and the error names the elements that are not at NULL and the Python line in
which a streaming thread stands.

**Listening.** Errors, warnings, the end of the stream and the coming and going of streaming threads are heard
by synchronous messages, which take nothing off the bus: `BusWatch`, a GLib signal watch, or a loop of the
program's own see them too. What nobody fetches is dropped in time (`drain.py`). The handlers know only the
`News`, never the pipeline.

**Closing**: end-of-stream with a deadline where asked, NULL, the bus drained, the handlers gone. In this
order, since a file is complete only after its end-of-stream, and nothing tells of it after NULL.
"""

from __future__ import annotations

import functools
import threading
import time
import weakref
from collections.abc import Callable
from queue import Empty
from typing import Any, ClassVar, Final, NoReturn

from lifecycle import Handle, ObjectState, SafetyManager
from lifecycle.integrations.gstreamer._native import Gst
from lifecycle.integrations.gstreamer.errors import (
    GuardError,
    PipelineError,
    StateTimeout,
)
from lifecycle.integrations.gstreamer.pipelines.descriptions import parse
from lifecycle.integrations.gstreamer.pipelines.drain import leave_bus, watch_bus
from lifecycle.integrations.gstreamer.pipelines.guard import (
    Core,
    Guard,
    check_manager,
    check_seconds,
    elements_of,
    name_of,
    or_nothing,
    pointer_of,
)
from lifecycle.integrations.gstreamer.pipelines.news import News
from lifecycle.integrations.gstreamer.pipelines.threads import (
    TookTooLong,
    in_the_background,
    may_wait,
    on_streaming_thread,
    with_deadline,
)
from lifecycle.lowlevel import snapshot

__all__ = ["START_TIMEOUT", "PipelineGuard", "bin_of"]

SLICE: Final = 0.05
"""Seconds between two looks of who waits for a state or a message."""
START_TIMEOUT: Final = 10.0
"""Seconds that a change of state may take unless told otherwise."""


class PipelineGuard(Guard["_PipelineCore"]):
    """Owns a pipeline: see that it plays, hear its errors, and leave it at NULL.

    Parameters
    ----------
    manager:
        Whose object the pipeline becomes. Its ``finalizer_timeout`` is the deadline of NULL; closing it
        closes the pipeline.
    pipeline:
        A `Gst.Pipeline`, or a description as for ``gst-launch-1.0``. One pipeline has one guard.
    name:
        Shown in messages, metrics and reports; the pipeline's own by default.
    eos:
        Seconds for which closing waits for the end of the stream to reach every sink before NULL, so that
        files are complete; None (the default) stops at once. Only a pipeline that plays, or is about to, gets
        it.

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
        self._eos = eos
        self._eos_claim = [None]
        self._eos_over = threading.Event()
        self._news = news = News()
        self._pipeline = weakref.ref(pipeline)
        self._register(
            manager, _PipelineCore(pipeline, news), name or pipeline.get_name(), pointer_of(pipeline)
        )
        with self._handle.lease() as core:
            core.listen()
        self._leave_manager = manager.on_close(_weak_close(self))
        with self._handle.lease() as core:
            core.leave_manager = self._leave_manager

    # -- the pipeline ----------------------------------------------------------------------------------------

    @property
    def pipeline(self) -> Any:
        """The `Gst.Pipeline`. Raises `AccessRefusedError` once the guard is closed."""
        with self._handle.lease() as core:
            return core.pipeline

    def __getitem__(self, name: str) -> Any:
        """The element of that name, also inside a bin. Raises `GuardError` naming those that there are."""
        with self._handle.lease() as core:
            element = core.pipeline.get_by_name(name)
            if element is None:
                names = ", ".join(sorted(other.get_name() for other in elements_of(core.pipeline)))
                raise GuardError(
                    f"pipeline {self.name!r} has no element named {name!r}; it has {names or 'none'}"
                )
            return element

    @property
    def state(self) -> str:
        """The pipeline's state as GStreamer has it now: ``null``, ``ready``, ``paused`` or ``playing``."""
        pipeline = self._pipeline()
        return "null" if pipeline is None else str(pipeline.get_state(0)[1].value_nick)

    @property
    def errors(self) -> tuple[PipelineError, ...]:
        """The last errors of its elements, oldest first (the last 16)."""
        return self._news.errors.now()

    @property
    def streaming_threads(self) -> int:
        """How many streaming threads it has now."""
        return len(self._news.threads)

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
            pipeline, news = core.pipeline, self._news
        if pipeline.get_state(0)[1] <= Gst.State.READY:
            news.errors.clear()
            news.ended = False

        change: Any = functools.partial(_go, pipeline, target, weakref.ref(self))
        if timeout == 0:
            in_the_background(change, f"gst-{self.name}")
            return
        if on_streaming_thread():
            raise GuardError(
                f"pipeline {self.name!r} was asked to go to {wanted} from one of its streaming threads, "
                "which the change would wait for; ask with timeout=0, or hand it to another thread"
            )
        until = time.monotonic() + timeout
        try:
            result = with_deadline(change, timeout, f"gst-{self.name}")
            self._await_state(pipeline, target, result, until)
        except TookTooLong:
            self._too_late(pipeline, target, timeout)
        finally:
            pipeline = change = None  # a kept traceback keeps no pipeline

    def _await_state(self, pipeline: Any, target: Any, result: Any, until: float) -> None:
        """Wait until the pipeline is where it was sent; raises like `play`, and `TookTooLong`."""
        while True:
            if result == Gst.StateChangeReturn.FAILURE:
                self._failed(target)
            self.check()
            if result == Gst.StateChangeReturn.NO_PREROLL or (
                result == Gst.StateChangeReturn.SUCCESS and pipeline.get_state(0)[1] == target
            ):
                return
            if not self._handle.valid:
                self._handle.lease()  # raises: closed meanwhile
            left = until - time.monotonic()
            if left <= 0:
                raise TookTooLong
            result = pipeline.get_state(int(min(SLICE, left) * 1e9))[0]

    def _failed(self, target: Any) -> NoReturn:
        until = time.monotonic() + SLICE
        while not self._news.errors and time.monotonic() < until:
            time.sleep(0.001)  # the message may be on its way, on another thread
        self.check()
        raise PipelineError(
            f"pipeline {self.name!r} cannot go to {target.value_nick.upper()}: an element refused and said "
            "nothing on the bus; run with GST_DEBUG=3 to see which"
        )

    def _too_late(self, pipeline: Any, target: Any, timeout: float) -> NoReturn:
        elements, blocked = _stragglers(pipeline, target), self._news.threads.blocked()
        warnings = "; ".join(self._news.warnings)
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
        if timeout is not None:
            check_seconds(timeout, f"pipeline {self.name!r}: timeout=")
        until = None if timeout is None else time.monotonic() + timeout
        with self._news.listening() as arrived:
            while True:
                self.check()
                if self._news.ended:
                    return True
                left = SLICE if until is None else min(SLICE, until - time.monotonic())
                if left <= 0:
                    return False
                try:
                    if arrived.get(timeout=left):
                        self.check()
                        return True
                except Empty:
                    if not self._handle.valid:
                        self._handle.lease()

    def check(self) -> None:
        """Raise the first `PipelineError` that an element has reported since the last change of state, if
        there is one."""
        for first in self._news.errors.now()[:1]:
            raise first

    @property
    def ended(self) -> bool:
        """Whether the end of the stream has reached every sink."""
        return self._news.ended

    # -- the end ---------------------------------------------------------------------------------------------

    def close(self) -> bool:
        """End the stream where asked, then NULL; True when the pipeline is there.

        On a streaming thread (of any guarded pipeline), inside a garbage collection and under
        `lifecycle.never_wait` all of it is handed over and the answer is False. Raises `StateTimeout` when
        NULL took longer than the manager's ``finalizer_timeout``: the pipeline is then `STUCK`, the error
        names what holds it up, and if that ends NULL is finished late.
        """
        if (
            self._eos is not None
            and self._handle.valid
            and not self._eos_over.is_set()
            and not self._end_first(self._eos)
        ):
            return False
        return self._close_now()

    def _end_first(self, timeout: float) -> bool:
        """See that the stream has ended, as far as it may be waited for here; False: somebody else does, and
        closes then."""
        try:
            self._eos_claim.pop()
        except IndexError:  # another thread ends it, and to close now would cut it short
            return may_wait() and (self._eos_over.wait(timeout + SLICE) or True)
        if may_wait():
            self._end_stream(timeout)
        elif on_streaming_thread():
            in_the_background(self._end_and_close, f"gst-{self.name}")
            return False
        return True  # inside a collection nobody can be asked to wait: it goes without

    def _end_and_close(self) -> None:
        self._end_stream(self._eos or 0.0)
        try:
            self._close_now()
        except StateTimeout as error:
            self.manager.report_panic(f"closing {self!r}", error, type_name=self.type_name)

    def _close_now(self) -> bool:
        self._leave_manager()
        return super().close()

    def _end_stream(self, timeout: float) -> None:
        """Send end-of-stream and wait for it at the sinks; what goes wrong is no reason not to stop."""
        pipeline = self._pipeline()
        try:
            if pipeline is None or self._news.ended or Gst.State.PLAYING not in pipeline.get_state(0)[1:]:
                return
            until = time.monotonic() + timeout
            send = functools.partial(pipeline.send_event, Gst.Event.new_eos())
            with self._news.listening() as arrived:
                with_deadline(send, timeout, f"gst-{self.name}")
                while not (self._news.ended or self._news.errors) and time.monotonic() < until:
                    try:
                        if arrived.get(timeout=max(0.001, min(SLICE, until - time.monotonic()))):
                            break
                    except Empty:
                        continue
        except TookTooLong:
            return
        finally:
            pipeline = send = None  # type: ignore[assignment]
            self._eos_over.set()

    def _stuck(self) -> NoReturn:
        pipeline = self._pipeline()
        elements = () if pipeline is None else _stragglers(pipeline, Gst.State.NULL)
        blocked = self._news.threads.blocked()
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


def _weak_close(guard: PipelineGuard) -> Any:
    weak = weakref.ref(guard)

    def close() -> None:
        living = weak()
        if living is not None and living.handle.state is not ObjectState.ORPHANED:
            living.close()

    return close


class _PipelineCore(Core):
    """The pipeline and who listens to it."""

    def __init__(self, pipeline: Any, news: News) -> None:
        self.pipeline = pipeline
        self.news = news
        self.heard: Any = None
        self.signals: list[int] = []
        self.leave_manager: Callable[[], object] = int

    def listen(self) -> None:
        """Hear of what happens, from the first state change on."""
        self.news.pipeline = pointer_of(self.pipeline)
        bus = self.pipeline.get_bus()
        bus.enable_sync_message_emission()
        self.heard = bus
        handlers = {
            "sync-message::stream-status": self.news.on_stream_status,
            "sync-message::error": self.news.on_error,
            "sync-message::warning": self.news.on_warning,
            "sync-message::eos": self.news.on_eos,
            "sync-message::reset-time": self.news.on_reset_time,
            "sync-message::state-changed": self.news.on_state_changed,
        }
        # Connected and known in one call into C: no interrupt falls between.
        self.signals.extend(map(bus.connect, handlers, handlers.values()))
        self.news.bus = watch_bus(bus)

    def release(self) -> None:
        """What is being recorded is finished, NULL, the bus emptied, nobody listening."""
        self.finish_parts()
        self.pipeline.set_state(Gst.State.NULL)
        leave_bus(self.news.bus)
        signals, self.signals = self.signals, []
        bus = self.pipeline.get_bus()
        while bus.pop() is not None:  # each message keeps its element
            pass
        for signal in signals:
            bus.disconnect(signal)
        if self.heard is not None:
            bus.disable_sync_message_emission()
        self.news.threads.clear()
        self.leave_manager()  # of a guard that was dropped

    def finish_parts(self) -> None:
        """Have the branches that want it see the end of the stream, all of them at once."""
        parts = snapshot(self.news.parts.values())
        until = time.monotonic() + max((part.eos or 0.0 for part in parts), default=0.0)
        for wait in [part.begin_finish() for part in parts]:
            wait(until)


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
