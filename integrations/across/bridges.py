"""Bridges: a thread that carries frames between a topic and a distributor of this process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import attrs

from lifecycle.errors import ClosedError, Empty, Lagged, PoolExhaustedError
from lifecycle.lowlevel import Uncopied, after_fork, weakly
from lifecycle.manager import SafetyManager

__all__ = ["Bridge", "BridgeStats", "nothing_to_leave"]

LOOK = 0.05
"""Seconds between two looks whether it is to end."""
PAUSE = 0.002
"""Seconds after which an exhausted seat is looked at again."""
JOIN = 2.0


def nothing_to_leave() -> None:
    """What an end of a topic is given before it enters itself at its manager, which may be closing: it is
    closed then before it has stored how to leave."""


@attrs.frozen
class BridgeStats:
    """A bridge's figures at one moment."""

    name: str
    """The topic."""
    carried: int
    """Frames handed on."""
    starved: int
    """How often there was no room for the next one, because everything is kept by somebody."""
    failed: int
    """Frames that could not be handed on; the manager has reported why."""
    running: bool
    """True if it still carries."""


class _Carrying:
    """What the thread works with; it keeps no bridge."""

    def __init__(
        self, manager: SafetyManager, name: str, receiver: Any, hand_on: Callable[..., object]
    ) -> None:
        self.manager = manager
        self.name = name
        self.receiver: Any = receiver
        self.hand_on: Any = hand_on
        self.stopped = threading.Event()
        self.carried = self.starved = self.failed = 0

    def run(self) -> None:
        """The thread's work: hand on each frame, until there is nothing more to carry."""
        while not self.stopped.is_set():
            frame = None
            try:
                frame = self.receiver.recv(LOOK)
                if self.stopped.is_set():
                    break
                self.hand_on(frame, key=getattr(frame, "key", True))
                self.carried += 1
            except (Empty, Lagged):
                # What was missed is counted where it was missed.
                continue
            except PoolExhaustedError:
                self.starved += 1
                self.stopped.wait(PAUSE)
            except ClosedError:
                if self.over():
                    break
            except Exception as error:
                self.failed += 1
                self.manager.report_error(f"bridge of topic {self.name!r}", error)
            finally:
                close = getattr(frame, "close", None)
                if callable(close):
                    close()
                frame = close = None
        self.receiver = self.hand_on = None
        self.stopped.set()

    def over(self) -> bool:
        """Return True if nothing can be carried any more: this side of the receiver is closed, or the other
        end."""
        target = getattr(self.hand_on, "__self__", None)
        return bool(self.receiver.closed or getattr(target, "closed", False) or self.manager.closed)

    def stop(self) -> None:
        """Have the thread end behind the frame that it has. Callable on any thread."""
        self.stopped.set()


class Bridge(Uncopied):
    """A thread that carries frames; made by `Receiver.into` and `Publisher.pump`. A context manager that
    closes itself; the ends that it connects are not closed by it. All methods may be called on any thread."""

    _remedy = "make another bridge"
    kind = "bridge"

    def __init__(
        self,
        manager: SafetyManager,
        name: str,
        receiver: Any,
        hand_on: Callable[..., object],
    ) -> None:
        self._carrying = _Carrying(manager, name, receiver, hand_on)
        self.name: str = name
        self._thread = threading.Thread(
            target=self._carrying.run, name=f"lifecycle-bridge-{name}", daemon=True
        )
        self._leave_manager = self._leave = nothing_to_leave
        self._leave_manager = manager.on_close(weakly(self.close))
        self._leave = manager.add_component(self, end=self._carrying.stop, type_name="topic.Bridge")
        after_fork(self._after_fork)
        self._thread.start()
        if manager.stopping.is_set:
            self.close()

    @property
    def running(self) -> bool:
        """True if it still carries."""
        return not self._carrying.stopped.is_set()

    def stats(self) -> BridgeStats:
        """The figures, as a frozen snapshot."""
        now = self._carrying
        return BridgeStats(self.name, now.carried, now.starved, now.failed, self.running)

    def close(self) -> None:
        """Carry nothing more; waits for the frame that is on its way, 2 seconds at most. Closing again
        changes nothing."""
        self._carrying.stop()
        if self._thread is not threading.current_thread() and self._thread.is_alive():
            self._thread.join(JOIN)
        self._leave_manager()
        self._leave()

    def _after_fork(self) -> None:
        """In a forked child there is no such thread, which may have had the lock of the event."""
        self._carrying.stopped = threading.Event()
        self._carrying.stop()

    def __enter__(self) -> Bridge:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        now = self.stats()
        return (
            f"<Bridge of topic {self.name!r}: {'running' if now.running else 'ended'}, {now.carried} carried>"
        )
