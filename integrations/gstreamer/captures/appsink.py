"""What an appsink answers: how it is pulled from, and why a pull gave nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lifecycle.integrations.gstreamer._native import Gst, GstApp
from lifecycle.integrations.gstreamer.errors import CaptureError

__all__ = ["an_appsink", "answers_at_once", "flow_of", "in_pipeline", "puller"]


def flow_of(sink: Any) -> str:
    """Why a pull gave nothing: ``flowing`` (nothing there yet), ``eos``, or ``idle`` (the element does not
    run).

    The property ``eos`` is true of an element that has not been started, too, and between two questions it
    may be started: so the state is asked first, and the property again behind it. Of an element that runs it
    says that the end has come and that nothing is left to be pulled, be it the end of a run that a change to
    READY has ended: the element keeps it, its pad does not.
    """
    if not sink.get_property("eos"):
        _, state, pending = sink.get_state(0)
        return "idle" if state == Gst.State.READY and pending <= state else "flowing"
    if sink.get_state(0)[1] < Gst.State.PAUSED:
        return "idle"
    return "eos" if sink.get_property("eos") and _has_seen_end(sink) else "flowing"


def _has_seen_end(sink: Any) -> bool:
    """Return True if the end of the stream is at its pad, or on its way from the pad before."""
    pad = sink.get_static_pad("sink")
    return any(
        one is not None and one.get_sticky_event(Gst.EventType.EOS, 0) is not None
        for one in (pad, pad.get_peer())
    )


def answers_at_once(sink: Any) -> bool:
    """Return True if a pull that finds nothing does not wait: of an element that does not run, is at its end,
    or keeps the end of a run before."""
    return bool(sink.get_property("eos"))


def an_appsink(element: Any) -> Any:
    """`element`, if it is an appsink. Raises `CaptureError`."""
    factory = element.get_factory() if isinstance(element, Gst.Element) else None
    if not isinstance(element, GstApp.AppSink) and (factory is None or factory.get_name() != "appsink"):
        raise CaptureError(
            f"a capture pulls from an appsink, not from {element!r}; end the branch in «appsink "
            "name=capture» and give that element"
        )
    return element


def in_pipeline(element: Any) -> bool:
    """Return True if it is part of a pipeline, in whatever bin of it."""
    while element is not None and not isinstance(element, Gst.Pipeline):
        element = element.get_parent()
    return element is not None


def puller(element: Any) -> Callable[[Any, int], Any]:
    """How to pull from this element: its method, or the action where it was made before GstApp was known."""
    if isinstance(element, GstApp.AppSink):
        pull: Callable[[Any, int], Any] = GstApp.AppSink.try_pull_sample
        return pull
    return lambda sink, nanoseconds: sink.emit("try-pull-sample", nanoseconds)
