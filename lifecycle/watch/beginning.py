"""What a program that ``lifecycle run`` starts does first: what the variable `LIFECYCLE_RUN` says.

It is called by a `sitecustomize` of ours, before the program's first line. Nothing in here may stop the
program: what goes wrong is one line on standard error.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from types import FrameType
from typing import Any

from lifecycle._core.runtime import next_id
from lifecycle.recorder import layout
from lifecycle.recorder import recorder as recorder_module
from lifecycle.watch.errors import WatchError
from lifecycle.watch.journal import Seen, journal
from lifecycle.watch.targets import watch

VARIABLE = "LIFECYCLE_RUN"


def begin() -> None:
    """Start what was asked for."""
    asked = json.loads(os.environ[VARIABLE])
    recorder = recorder_module.active()
    if recorder is not None:
        journal.recorded = _Recorded(recorder)
        threading.setprofile(_enter_thread)
    try:
        watch(*asked["watch"], verbose=asked["verbose"], to=asked["to"])
        if asked.get("gst"):
            from lifecycle.watch import gstreamer

            gstreamer.begin(asked["make_safe"])
        if asked.get("gl") or asked.get("wgpu"):
            from lifecycle.watch import gpu

            if asked["gl"]:
                gpu.begin_gl()
            if asked["wgpu"]:
                gpu.begin_wgpu()
    except (OSError, WatchError) as error:
        sys.stderr.write(f"lifecycle: nothing is watched: {error}\n")
    journal._pid = asked["pid"]


def _enter_thread(frame: FrameType, event: str, argument: Any) -> None:
    """Give a thread its place in the recorder's file at its first call, and never again."""
    sys.setprofile(None)
    recorder = recorder_module.active()
    if recorder is not None:
        recorder.enter_thread()


class _Recorded:
    """What is watched, in the flight recorder."""

    def __init__(self, recorder: recorder_module.Recorder) -> None:
        self._recorder = recorder

    def registered(self, name: str, frame: FrameType | None, address: int = 0, size: int = 0) -> int:
        """A registration. Returns the object's id."""
        number = next_id()
        self._recorder.write(layout.REGISTER, number, name, frame=frame, address=address, size=size)
        return number

    def closing(self, seen: Seen, frame: FrameType | None) -> None:
        """A close that may not come back."""
        self._recorder.write(layout.BEGINS, seen.number, seen.name, flag=1, frame=frame)

    def closed(self, seen: Seen, frame: FrameType | None) -> None:
        """A close that is over."""
        self._recorder.write(layout.SHUT, seen.number, seen.name, flag=1, frame=frame)
        self._recorder.write(layout.ENDS, seen.number, seen.name, flag=1, frame=frame)

    def risk(self, seen: Seen, what: str, frame: FrameType | None) -> None:
        """A call that may not come back."""
        self._recorder.write(layout.RISK, seen.number, seen.name, text=what, frame=frame)

    def came_back(self, seen: Seen) -> None:
        """Such a call that has come back."""
        self._recorder.write(layout.RISK, seen.number, seen.name, flag=layout.CAME_BACK)

    def misuse(self, seen: Seen, what: str) -> None:
        """What is certain."""
        self._recorder.write(layout.MISUSE, seen.number, seen.name, text=what)
