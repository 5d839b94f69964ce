"""A clock that lies: what the library does when time jumps.

The library reads two clocks, `time.monotonic` for every deadline and `time.time` for what people read. In a
`LyingClock` both are replaced, in every module of the library and of its integrations at once; waits
themselves take real time, as long as the lie makes them.
"""

from __future__ import annotations

import os
import sys
import time
from types import ModuleType, TracebackType
from typing import Any

_LIBRARY = os.path.dirname(os.path.dirname(__file__)) + os.sep
_KIT = os.path.dirname(__file__) + os.sep


class LyingClock:
    """Within the block the library's clocks say what this one says. Not for two blocks at a time.

    ``clock.advance(3600)`` lets an hour pass at once: deadlines are over, records expire.
    ``clock.set_wall(0.0)`` sets the wall clock alone, as an administrator or NTP does. ``clock.stop()`` lets
    no time pass until ``clock.run()``. All methods may be called on any thread.
    """

    def __init__(self) -> None:
        self._ahead = 0.0
        self._wall_ahead = 0.0
        self._stopped: tuple[float, float] | None = None
        self._replaced: list[tuple[ModuleType, str, Any]] = []

    def monotonic(self) -> float:
        """What the library takes for `time.monotonic`."""
        stopped = self._stopped
        return (time.monotonic() if stopped is None else stopped[0]) + self._ahead

    def wall(self) -> float:
        """What the library takes for `time.time`."""
        stopped = self._stopped
        return (time.time() if stopped is None else stopped[1]) + self._ahead + self._wall_ahead

    def advance(self, seconds: float) -> None:
        """Let so many seconds pass at once, on both clocks. Raises `ValueError` below 0: a monotonic clock
        does not go back."""
        if seconds < 0:
            raise ValueError(
                f"a monotonic clock does not go back: {seconds!r}; set_wall() sets the wall clock back"
            )
        self._ahead += seconds

    def set_wall(self, to: float) -> None:
        """Set the wall clock alone, forth or back; Unix time in seconds."""
        self._wall_ahead += to - self.wall()

    def stop(self) -> None:
        """Let no time pass."""
        self._stopped = (time.monotonic(), time.time())

    def run(self) -> None:
        """Let time pass again, from where it stood."""
        stopped, self._stopped = self._stopped, None
        if stopped is not None:
            missed = time.monotonic() - stopped[0]
            self._ahead -= missed
            self._wall_ahead -= time.time() - stopped[1] - missed

    def __enter__(self) -> LyingClock:
        lies = {id(time.monotonic): self.monotonic, id(time.time): self.wall}
        for module in list(sys.modules.values()):
            file = getattr(module, "__file__", None)
            if not isinstance(file, str) or not file.startswith(_LIBRARY) or file.startswith(_KIT):
                continue
            for key, value in list(vars(module).items()):
                lie = lies.get(id(value))
                if lie is not None:
                    self._replaced.append((module, key, value))
                    setattr(module, key, lie)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._replaced:
            setattr(*self._replaced.pop())
