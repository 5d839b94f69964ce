"""Qt, through PySide6 (or PyQt6 where that is what is there): a release queue that the event loop of a thread
drains.

A `QObject` that belongs to the loop's thread stands for it: what is posted goes through a queued connection,
which Qt lets any thread use and which needs no timer. Releases run between two events of that thread, where
widgets and GL contexts may be touched.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from lifecycle import (
    LifecycleError,
    ReleaseQueue,
)
from lifecycle.lowlevel import complain

if TYPE_CHECKING:
    from PySide6.QtCore import QCoreApplication, QObject, Qt, Signal, Slot
else:
    try:
        from PySide6.QtCore import QCoreApplication, QObject, Qt, Signal, Slot
    except ImportError:
        from PyQt6.QtCore import QCoreApplication, QObject, Qt
        from PyQt6.QtCore import pyqtSignal as Signal
        from PyQt6.QtCore import pyqtSlot as Slot

__all__ = ["release_queue"]


class _Poster(QObject):
    """Lives on the loop's thread, and is asked from others."""

    posted = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self.posted.connect(self.call, Qt.ConnectionType.QueuedConnection)

    @Slot(object)
    def call(self, fn: Callable[[], object]) -> None:
        """Run what was posted, on the loop's thread."""
        try:
            fn()
        except BaseException:  # an interrupt: Qt's bindings print what leaves a slot, or end the process
            complain()


def release_queue(name: str = "qt") -> ReleaseQueue:
    """A `ReleaseQueue` of the Qt event loop of the calling thread: what is registered with ``release_on=`` it
    is released there, between two events, wherever it was closed or dropped.

    Call it on the thread that runs the loop: the main thread once there is a `QCoreApplication`, or in the
    `run` of a `QThread`. Raises `LifecycleError` where there is no application yet.
    """
    application = QCoreApplication.instance()
    if application is None:
        raise LifecycleError(
            f"release_queue({name!r}) belongs to a Qt event loop: make the QApplication (or "
            "QCoreApplication) first"
        )
    poster = _Poster()
    queue = ReleaseQueue(name, thread="current", post=poster.posted.emit)
    weakref.finalize(queue, _retire, poster).atexit = False
    return queue


def _retire(poster: _Poster) -> None:
    """The queue is gone. A QObject must not die on another thread than its own: it leaves with the last thing
    posted to it."""
    try:
        poster.posted.emit(lambda: poster)
    except RuntimeError:  # Qt has deleted it already
        return
