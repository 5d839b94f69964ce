"""`SignalGuard`: a signal handler that is disconnected once, and whose exceptions reach only the manager."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Final

from gi.repository import GObject

from lifecycle import ANY_THREAD, SafetyManager
from lifecycle.integrations.gstreamer._buffers import own_reference
from lifecycle.integrations.gstreamer._native import Gst
from lifecycle.integrations.gstreamer.errors import GuardError
from lifecycle.integrations.gstreamer.pipelines.callbacks import Callback, CallbackCore, CallbackGuard
from lifecycle.integrations.gstreamer.pipelines.guard import check_manager, name_of, or_nothing
from lifecycle.integrations.gstreamer.pipelines.threads import contained

__all__ = ["SignalGuard"]

COUNTED: Final = (
    Gst.Buffer,
    Gst.BufferList,
    Gst.Caps,
    Gst.Context,
    Gst.Event,
    Gst.Memory,
    Gst.Message,
    Gst.Query,
    Gst.Sample,
    Gst.TagList,
)
"""What counts its references: `GstMiniObject`."""


class _SignalCore(CallbackCore):
    def __init__(self, source: Any, callback: Callback) -> None:
        self.source = source
        self.callback = callback
        self.id: list[int] = []

    def leave(self) -> None:
        """The handler goes. GObject uses no id twice, so it is asked for again after an interrupt."""
        for signal in self.id:
            if self.source.handler_is_connected(signal):  # the program may have disconnected it
                self.source.disconnect(signal)
        self.id.clear()


class SignalGuard(CallbackGuard[_SignalCore]):
    """Owns a signal handler.

    ::

        with SignalGuard(manager, element, "pad-added", link_it):
            ...

    Parameters
    ----------
    manager:
        Owns the connection, and is told of panics.
    source, signal:
        Any GObject, and the signal's name, with a detail where wanted (``"notify::caps"``).
    callback:
        Called with what the signal gives, `source` first, on whatever thread emits it. Buffers, events and
        the like that it is given may be kept. The guard alone keeps it, so it may be a method of the object
        that has the guard: dropped, the two are freed, and the guard is reported.
    fallback:
        What the emitter is given when the callback raises, or returns None where the signal wants an answer.
        By default `Gst.FlowReturn.OK` where a flow return is wanted, None otherwise.
    errors:
        Exceptions that it may raise, counted and nothing more.

    Raises `GuardError` for a signal that `source` does not have, and for an appsink's ``new-sample``, whose
    handler stalls the pipeline when it raises before it has pulled: `Capture` pulls first.
    """

    type_name: ClassVar[str] = "gst.Signal"

    @or_nothing
    def __init__(
        self,
        manager: SafetyManager,
        source: Any,
        signal: str,
        callback: Callable[..., Any],
        *,
        fallback: Any = None,
        errors: tuple[type[BaseException], ...] = (),
    ) -> None:
        check_manager(manager, "SignalGuard(manager, source, signal, callback)")
        if not isinstance(source, GObject.Object) or not isinstance(signal, str):
            raise GuardError(
                f"SignalGuard takes a GObject and a signal's name, not {source!r} and {signal!r}"
            )
        of = f"{name_of(source) if isinstance(source, Gst.Object) else type(source).__name__}"
        returns = _return_type(source, signal, of)
        if signal in ("new-sample", "new-preroll") and returns == "GstFlowReturn":
            raise GuardError(
                f"{signal} of appsink {of!r} is for Capture: a handler that raises before it has pulled "
                "leaves a full queue, and the pipeline stands still. Use Capture(manager, appsink).on_frame, "
                "with streaming=True for this very thread"
            )
        if fallback is None and returns == "GstFlowReturn":
            fallback = Gst.FlowReturn.OK
        name = f"{signal} of {of}"
        self._callback = Callback(manager, name, self.type_name, callback, errors, fallback)
        self._kept = self._callback.hand_over()
        self._register(manager, _SignalCore(source, self._callback), name, None, ANY_THREAD)
        wants = returns not in ("void", None)
        handler = _Handler(self._callback, fallback if wants else None)
        with self._handle.lease() as core:
            # Connected and known in one call into C: no interrupt falls between.
            core.id.extend(map(source.connect, (signal,), (handler,)))


class _Handler:
    """What the source calls. Gives the fallback for None, where the signal wants an answer, and sees that
    what the callback was given may be kept."""

    def __init__(self, callback: Callback, fallback: Any) -> None:
        self._callback = callback
        self._fallback = fallback

    def __call__(self, *arguments: Any) -> Any:
        try:
            answer = self._callback(*arguments)
            return self._fallback if answer is None else answer
        finally:
            _make_lasting(arguments)
            arguments = ()


@contained()
def _make_lasting(arguments: tuple[Any, ...]) -> None:
    """Have what a signal has given own a reference. PyGObject gives buffers and the like without one, and
    whoever keeps them would look at memory that is somebody else's. After the callback: during it the
    emitter's reference may be the only one, which is what makes a buffer writable."""
    for argument in arguments:
        if isinstance(argument, COUNTED):
            argument._lifecycle_reference = own_reference(hash(argument))


def _return_type(source: Any, signal: str, of: str) -> str | None:
    """The name of the type that handlers return. Raises `GuardError` where there is no such signal."""
    plain = signal.partition("::")[0]
    if not GObject.signal_lookup(plain, source.__gtype__):
        known: set[str] = set()
        kind = source.__gtype__
        while kind.name != "void":
            known.update(GObject.signal_list_names(kind))
            if kind.name == "GObject":
                break
            kind = kind.parent
        raise GuardError(f"{of!r} has no signal {plain!r}; it has {', '.join(sorted(known)) or 'none'}")
    found = GObject.signal_query(plain, source.__gtype__)
    return None if found is None else str(found.return_type.name)
