"""Pads while data flows: unlinking without a freeze, request pads given back once, probes that cannot drop a
buffer by accident.

**Unlinking.** A pad may be unlinked when nothing is being pushed through it: an IDLE probe on the *source*
pad is called then, at once or after the push that is under way. It unlinks once, also if it is called by
several threads. No other order is safe while PLAYING: an element that is set to NULL while it is linked
blocks whoever pushes into it, and with it every other branch of the tee.

**Removing a probe** is decided by one pop, between `close` and a callback that returns ``REMOVE``: GStreamer
warns about the second, and by then the id may belong to another probe.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from queue import Empty
from typing import Any, ClassVar, Final

from lifecycle import ANY_THREAD, SafetyManager
from lifecycle._core.runtime import TimedQueue
from lifecycle.integrations.gstreamer._native import Gst
from lifecycle.integrations.gstreamer.errors import GuardError, LinkError, StateTimeout
from lifecycle.integrations.gstreamer.pipelines.callbacks import (
    Callback,
    CallbackCore,
    CallbackGuard,
    once_each,
)
from lifecycle.integrations.gstreamer.pipelines.guard import Core, Guard, check_manager, name_of, or_nothing
from lifecycle.integrations.gstreamer.pipelines.threads import contained
from lifecycle.lowlevel import Uncopied

__all__ = [
    "PadGuard",
    "PadHolder",
    "ProbeGuard",
    "ProbeInfo",
    "link_pads",
    "unlink_when_idle",
    "unlinked_when_idle",
    "when_idle",
]

UNLINK_TIMEOUT: Final = 4.0
"""Seconds for which an unlink waits for the push that is under way: below the deadline of the release that it
is part of."""


def when_idle(pad: Any, action: Callable[[], object] | None, timeout: float) -> bool:
    """Have ``action()``, if any, called once while nothing is pushed through source pad `pad`, and nothing
    can be; wait up to `timeout` seconds for that. False: it was not idle in time, and the action will not be
    called any more. Raises what the action raises; after an interrupt it will not be called any more
    either."""
    turn = [action]
    left: list[bool] = []
    done: TimedQueue[BaseException | None] = TimedQueue()

    @contained(lambda: Gst.PadProbeReturn.PASS if turn else Gst.PadProbeReturn.REMOVE)
    def idle(pad: Any, info: Any) -> Any:
        failed: BaseException | None = None
        try:
            try:
                chosen = turn.pop()  # the call that gets it acts: it happens once
            except IndexError:
                # Given up: whoever did removes the probe, unless an interrupt keeps it from knowing which.
                return Gst.PadProbeReturn.REMOVE if left else Gst.PadProbeReturn.PASS
            try:
                if chosen is not None:
                    chosen()
            except BaseException as error:
                failed = error
            done.put(failed)
        except BaseException as error:
            # An interrupt, on any line of this. Whoever waits on another thread is told of it: nobody calls
            # this again.
            done.put(error)
            raise
        return Gst.PadProbeReturn.REMOVE

    try:
        probe = pad.add_probe(Gst.PadProbeType.IDLE, idle)
        try:
            failed = done.get(timeout=timeout)
        except Empty:
            try:
                turn.pop()
            except IndexError:
                failed = _ended(done, pad)  # it has begun at the last moment
            else:
                pad.remove_probe(probe)
                return False
        if failed is not None:
            raise failed
        return True
    except BaseException:
        left.append(True)
        turn.clear()
        raise


def _ended(done: TimedQueue[BaseException | None], pad: Any) -> BaseException | None:
    try:
        return done.get(timeout=UNLINK_TIMEOUT)
    except Empty:
        return GuardError(
            f"pad {name_of(pad)} was idle, and what was to be done meanwhile has not ended within "
            f"{UNLINK_TIMEOUT:g} s; it blocks, on a lock or on another push: lifecycle stacks shows where"
        )


def unlinked_when_idle(source: Any, timeout: float) -> bool:
    """Unlink source pad `source` from its peer, if it has one, between two buffers. False when a push did not
    end within `timeout` seconds. Never on a streaming thread of the same pad's."""

    def unlink() -> None:
        peer = source.get_peer()
        if peer is not None:
            source.unlink(peer)

    return source.get_peer() is None or when_idle(source, unlink, timeout)


def unlink_when_idle(source: Any, timeout: float = UNLINK_TIMEOUT) -> None:
    """`unlinked_when_idle`, which raises `StateTimeout` when it could not be done in time."""
    if not unlinked_when_idle(source, timeout):
        raise StateTimeout(
            f"pad {name_of(source)} cannot be unlinked: a push through it has not ended within {timeout:g} "
            "s, so what is behind it blocks; put a queue with leaky=downstream at its head "
            "(low_latency_queue()), or stop the pipeline first"
        )


def link_pads(source: Any, sink: Any) -> None:
    """Link two pads. Raises `LinkError` that says which of them is why."""
    for pad, wanted in ((source, Gst.PadDirection.SRC), (sink, Gst.PadDirection.SINK)):
        if pad.get_direction() != wanted:
            raise LinkError(
                f"pad {name_of(pad)} is a {pad.get_direction().value_nick} pad, where a {wanted.value_nick} "
                f"pad is needed; data flows from a src pad to a sink pad: link {name_of(sink)} to "
                f"{name_of(source)} instead"
            )
        if pad.is_linked():
            raise LinkError(
                f"pad {name_of(pad)} is linked to {name_of(pad.get_peer())} already; unlink it, or put a tee "
                "between"
            )
    result = source.link_full(sink, Gst.PadLinkCheck.DEFAULT)  # an override makes plain link() raise
    if result != Gst.PadLinkReturn.OK:
        raise LinkError(
            f"pad {name_of(source)} cannot be linked to {name_of(sink)} ({result.value_nick}): one gives "
            f"{_caps(source)}, the other takes {_caps(sink)}; put a converter between "
            "(videoconvert, audioconvert), and both into one pipeline"
        )


def _caps(pad: Any) -> str:
    caps = pad.query_caps(None)
    text = "nothing" if caps is None else str(caps.to_string())
    return text if len(text) <= 160 else f"{text[:157]}..."


# -- request pads --------------------------------------------------------------------------------------------


class PadHolder(Core):
    """Asks for a request pad. To have it and to know it are one step, free of interrupts (``FOR_ITER`` and
    its store)."""

    pad: Any = None

    def request(self, element: Any, template: str) -> Any:
        """A new request pad of `element`, which is in `pad` now. Raises `GuardError` naming the templates
        there are."""
        ask = getattr(element, "request_pad_simple", None) or element.get_request_pad  # its name before 1.20
        if isinstance(template, str):
            for self.pad in map(ask, (template,)):
                break
        if self.pad is None:
            known = [
                made.name_template
                for made in element.get_pad_template_list()
                if made.presence == Gst.PadPresence.REQUEST
            ]
            raise GuardError(
                f"element {element.get_name()!r} "
                f"({element.get_factory().get_name() if element.get_factory() else '?'}) gives no pad for "
                f"{template!r}; its request pads are {', '.join(known) or 'none'}"
            )
        return self.pad


class _PadCore(PadHolder):
    def __init__(self, element: Any) -> None:
        self.element = element

    def release(self) -> None:
        """Unlinked, the end said to a mixer, the pad given back."""
        pad = self.pad
        if pad is None or pad.get_parent() != self.element:
            return  # none was given, or the program has given it back itself
        if pad.get_direction() == Gst.PadDirection.SRC:
            unlink_when_idle(pad)
        else:
            peer = pad.get_peer()
            if peer is not None:
                if peer.is_active():
                    unlink_when_idle(peer)
                else:
                    peer.unlink(pad)
            if pad.is_active():
                pad.send_event(Gst.Event.new_eos())  # a mixer waits for no more data from here
        if pad.get_parent() == self.element:
            self.element.release_request_pad(pad)


class PadGuard(Guard[_PadCore]):
    """Owns a request pad: unlinked, an end-of-stream to the mixer behind it, and given back exactly once.

    ::

        with PadGuard(manager, mixer, "sink_%u") as slot:
            slot.link(source_pad)

    Parameters
    ----------
    manager:
        Owns the pad.
    element:
        The element to ask, such as a tee or a mixer.
    template:
        The name of a request pad template, ``"sink_%u"``, or of the pad wanted.

    Closing waits, on a timed worker, until no buffer is being pushed through the pad. Raises `GuardError`
    when the element has no such template or gives no pad.
    """

    type_name: ClassVar[str] = "gst.Pad"

    @or_nothing
    def __init__(self, manager: SafetyManager, element: Any, template: str) -> None:
        check_manager(manager, "PadGuard(manager, element, template)")
        if not isinstance(element, Gst.Element):
            raise GuardError(f"PadGuard takes an element, not {element!r}")
        self._register(manager, _PadCore(element), f"{element.get_name()}.{template}", None)
        with self._handle.lease() as core:
            self.name: str = name_of(core.request(element, template))

    @property
    def pad(self) -> Any:
        """The `Gst.Pad`. Raises `AccessRefusedError` once the guard is closed."""
        with self._handle.lease() as core:
            return core.pad

    def link(self, other: Any) -> None:
        """Link it to pad `other`, in the direction that fits. Raises `LinkError`."""
        with self._handle.lease() as core:
            pad = core.pad
            if not isinstance(other, Gst.Pad):
                raise LinkError(
                    f"pad {self.name} is linked to a pad, not to {other!r}; take element.get_static_pad(name)"
                )
            if pad.get_direction() == Gst.PadDirection.SRC:
                link_pads(pad, other)
            else:
                link_pads(other, pad)


# -- probes --------------------------------------------------------------------------------------------------


class ProbeInfo(Uncopied):
    """What a probe is told: a `Gst.PadProbeInfo` while its callback runs.

    The structure lies on a C stack, which others write over once the callback has returned. Asked after that
    it raises `GuardError`. What its methods give (a buffer, an event, a query) may be kept.
    """

    _remedy = "keep what info.get_buffer() or info.get_event() gives"

    __slots__ = ("_info",)

    def __init__(self, info: Any) -> None:
        object.__setattr__(self, "_info", info)

    def __getattr__(self, name: str) -> Any:
        if name == "_info":
            # Only of one that was never filled in, as `copy` makes them.
            raise AttributeError(name)
        found = getattr(self._now(), name)
        return partial(_ask, self, name) if callable(found) else found

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._now(), name, value)

    def _now(self) -> Any:
        info = self._info
        if info is None:
            raise GuardError(
                "the info of a probe is read after its callback has returned, when its place belongs to "
                "others; keep what info.get_buffer() (or get_event, get_query) gives instead"
            )
        return info

    def _end(self) -> None:
        object.__setattr__(self, "_info", None)

    def __repr__(self) -> str:
        return f"<ProbeInfo: {'over' if self._info is None else 'of a callback that runs'}>"


def _ask(info: ProbeInfo, name: str, *arguments: Any) -> Any:
    """Call a method of the structure, if it is still there: also by a bound method that was kept."""
    return getattr(info._now(), name)(*arguments)


class _ProbeCore(CallbackCore):
    def __init__(self, pad: Any, callback: Callback, mask: Any) -> None:
        self.pad = pad
        self.callback = callback
        self.mask = mask
        self.id: list[int] = []

    def add(self) -> None:
        """Install it. An IDLE probe may be called in here, before its id is known."""
        probe = _Probe(self)
        # Added and known in one call into C: no interrupt falls between. 0 is the id of one that was called,
        # and went, in here.
        self.id.extend(filter(None, map(self.pad.add_probe, (self.mask,), (probe,))))
        if probe.over:
            self.leave()

    def leave(self) -> None:
        """The probe goes, once."""
        once_each(self.pad.remove_probe, self.id)


class _Probe:
    """What the pad keeps: refers to what removes the probe, and so to nothing of the guard."""

    def __init__(self, core: _ProbeCore) -> None:
        self._callback = core.callback
        self._remove = core.leave
        self._known = core.id
        self.over = False
        self._passing = core.callback.fallback

    def __call__(self, pad: Any, info: Any) -> Any:
        shown = None
        try:
            shown = ProbeInfo(info)
            try:
                answer = self._callback(pad, shown)
            finally:
                shown._end()
            if answer == Gst.PadProbeReturn.REMOVE:
                self.over = True
                self._callback.end()
                self._remove()  # where `close` was quicker there is nothing to remove
                return self._passing
            if isinstance(answer, Gst.PadProbeReturn):
                return answer
            return self._passing
        except BaseException as error:  # an interrupt: C would be given zero, which drops the buffer
            self._callback.contain(error)
            return self._passing


class ProbeGuard(CallbackGuard[_ProbeCore]):
    """Owns a pad probe: removed once, and what goes wrong in it lets the data pass.

    ::

        @ProbeGuard.on(manager, pad, Gst.PadProbeType.BUFFER)
        def probe(pad, info):
            print(info.get_buffer().pts)

    Parameters
    ----------
    manager:
        Owns the probe, and is told of panics.
    pad, mask:
        As for `Gst.Pad.add_probe`.
    callback:
        ``callback(pad, info)`` on a streaming thread. What it returns counts if it is a `Gst.PadProbeReturn`;
        anything else, None too, lets the data pass. An exception is reported as a panic and lets the data
        pass (a blocking probe does not block then). `info` is a `ProbeInfo`, good during the call only: keep
        what its methods give. The guard
        alone keeps it, so it may be a method of the object that has the guard: dropped, the two are freed,
        and the guard is reported.
    errors:
        Exceptions that it may raise, counted and nothing more.

    In plain PyGObject an exception, or a forgotten ``return``, is zero in C, which is ``DROP``: nothing
    arrives, without an error.
    """

    type_name: ClassVar[str] = "gst.Probe"

    @or_nothing
    def __init__(
        self,
        manager: SafetyManager,
        pad: Any,
        mask: Any,
        callback: Callable[[Any, Any], Any],
        *,
        errors: tuple[type[BaseException], ...] = (),
    ) -> None:
        check_manager(manager, "ProbeGuard(manager, pad, mask, callback)")
        if not isinstance(pad, Gst.Pad):
            raise GuardError(f"ProbeGuard takes a pad, not {pad!r}; take element.get_static_pad('src')")
        if not isinstance(mask, Gst.PadProbeType) or not mask:
            raise GuardError(f"ProbeGuard(mask=) takes a Gst.PadProbeType, such as BUFFER, not {mask!r}")
        blocks = bool(int(mask) & int(Gst.PadProbeType.BLOCKING))
        passing = Gst.PadProbeReturn.PASS if blocks else Gst.PadProbeReturn.OK
        name = f"probe of {name_of(pad)}"
        self._callback = Callback(manager, name, self.type_name, callback, errors, passing, streams=True)
        self._kept = self._callback.hand_over()
        core = _ProbeCore(pad, self._callback, mask)
        self._register(manager, core, name, None, ANY_THREAD)
        with self._handle.lease() as core:
            core.add()

    @classmethod
    def on(
        cls, manager: SafetyManager, pad: Any, mask: Any, *, errors: tuple[type[BaseException], ...] = ()
    ) -> Callable[[Callable[[Any, Any], Any]], ProbeGuard]:
        """Decorator: the function becomes the guard of a probe that calls it."""
        return lambda function: cls(manager, pad, mask, function, errors=errors)
