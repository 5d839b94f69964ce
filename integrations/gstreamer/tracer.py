"""GStreamer's own leaks tracer, as an oracle that knows nothing of this library.

It counts every sample, buffer and memory that is made and freed, in C. Where the frames of a program are all
closed and dropped it finds nothing alive; a mapping that was never ended is a `GstMemory` more. For demos,
tests and a suspicious afternoon: it costs.
"""

from __future__ import annotations

import gc
import os
import re
from collections import Counter
from typing import Any

from lifecycle.integrations.gstreamer._native import Gst, ready
from lifecycle.integrations.gstreamer.errors import GStreamerError
from lifecycle.lowlevel import Uncopied

__all__ = ["LeaksTracer"]

_SETTING = 'leaks(filters="GstSample,GstBuffer,GstMemory",stack-traces-flags=none)'
_ACTIVITY = re.compile(
    r"objects-(created|removed), type-name=\(string\)(\w+), address=\(string\)(0x[0-9a-f]+)"
)


class LeaksTracer(Uncopied):
    """The tracer of this process; `enable` must have been called before ``Gst.init``. Use `start`, then
    `alive`, in turns."""

    _remedy = "there is one tracer in a process"

    def __init__(self) -> None:
        for tracer in Gst.tracing_get_active_tracers():
            if tracer.__gtype__.name == "GstLeaksTracer":
                self._tracer: Any = tracer
                return
        raise GStreamerError(
            "GStreamer's leaks tracer is not active in this process: call LeaksTracer.enable() before "
            "Gst.init(None)"
        )

    @staticmethod
    def enable() -> None:
        """Have GStreamer load the tracer when it is initialised. Raises `GStreamerError` when it is
        already."""
        if Gst.is_initialized():
            raise GStreamerError(
                "GStreamer is initialised already, and loads its tracers only then: enable it before "
                "Gst.init(None)"
            )
        others = os.environ.get("GST_TRACERS", "")
        if "leaks" not in others:
            os.environ["GST_TRACERS"] = f"{others};{_SETTING}" if others else _SETTING

    def start(self) -> None:
        """Watch what is made from here on."""
        ready()  # the one buffer that stays for good is no leak
        gc.collect()
        # A second start without this would hang, as after a check that was interrupted.
        self._tracer.emit("activity-stop-tracking")
        self._tracer.emit("activity-start-tracking")

    def alive(self) -> dict[str, int]:
        """What was made since `start` and is still there, by type; and watch no more.

        By the tracer's lists of activities: asking it for the live objects themselves steals references, and
        crashes.
        """
        gc.collect()
        text = self._tracer.emit("activity-get-checkpoint").to_string().replace("\\", "")
        self._tracer.emit("activity-stop-tracking")
        # Addresses are used again, and the two lists are not ordered against each other: what counts is the
        # difference.
        balance: Counter[tuple[str, str]] = Counter()
        for what, kind, address in _ACTIVITY.findall(text):
            balance[kind, address] += 1 if what == "created" else -1
        alive: Counter[str] = Counter()
        for (kind, _), count in balance.items():
            alive[kind] += max(0, count)
        return {kind: count for kind, count in alive.items() if count}
