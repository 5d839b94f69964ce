"""An appsink's queue: what the user has set, what it is while it is not drained, and a bound where there is
none.

An appsink that nobody drains grows by gigabytes, or freezes its pipeline. So a capture that ends leaves it
flowing: one buffer, the newest. What the user had set is kept with the element, in its wrapper, which lives
as long as the element; the next capture, or the next run, puts it back. What the user sets himself meanwhile
stays.

An appsink as it is by default has no bound. A capture whose body is slower than its source would fill the
memory within seconds, so it gets one: frames beyond it are dropped where the source is live, and elsewhere
the source waits.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from lifecycle.integrations.gstreamer._native import Gst

__all__ = ["BOUND", "bound", "let_flow", "live", "take_back"]

BOUND: Final = 8
"""The bound, in frames, of a queue for which the program has set none."""
FLOWING: Final[dict[str, Any]] = {"drop": True, "max-buffers": 1}
"""Neither growth nor a freeze in an appsink that nobody drains."""
LIMITS: Final = ("max-buffers", "max-bytes", "max-time")
"""What bounds an appsink; the last two are there from GStreamer 1.26 on."""
_KEPT: Final = "_lifecycle_queue"

_log = logging.getLogger("lifecycle.gstreamer")


def _now(sink: Any) -> dict[str, Any]:
    return {key: sink.get_property(key) for key in FLOWING}


def let_flow(sink: Any, before: dict[str, Any] | None = None) -> None:
    """Have it flow although it is not drained; what it was is kept for `take_back`. `before` is what the user
    had set where we have bounded it. Again: nothing."""
    now = _now(sink)
    if now != FLOWING:
        setattr(sink, _KEPT, now)
        for key, value in FLOWING.items():
            sink.set_property(key, value)
    kept = getattr(sink, _KEPT, None)
    if before is not None and kept is not None and kept["max-buffers"] == BOUND:
        setattr(sink, _KEPT, before)


def take_back(sink: Any) -> None:
    """Put back what was set before `let_flow`, unless the user has set something else meanwhile."""
    kept = getattr(sink, _KEPT, None)
    if kept is not None:
        if _now(sink) == FLOWING:
            for key, value in kept.items():
                sink.set_property(key, value)
        delattr(sink, _KEPT)


def bound(sink: Any, name: str) -> dict[str, Any] | None:
    """Bound a queue that has no bound, and say so in the log. Returns what the user had set; None where it
    has a bound."""
    if any(sink.find_property(key) is not None and sink.get_property(key) for key in LIMITS):
        return None
    before = _now(sink)
    sink.set_property("max-buffers", BOUND)
    _log.warning(
        "capture %r: its appsink has no bound, so it holds %d frames at most from here on (what is too much "
        "a live source drops, any other waits); set max-buffers, or give Capture(bound=None)",
        name,
        BOUND,
    )
    return before


def live(sink: Any) -> bool | None:
    """Return True if what comes is live, so that it cannot wait; None where that is not known yet."""
    if sink.get_state(0)[1] < Gst.State.PAUSED:
        return None
    query = Gst.Query.new_latency()
    # What comes, not what the sink makes of it: with ``sync=false`` it says itself that it is not live.
    if not sink.get_static_pad("sink").peer_query(query):
        return None
    return bool(query.parse_latency()[0])
