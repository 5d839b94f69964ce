"""Scenes of the event loops that have bindings of their own: GLib and Qt. Each runs its loop by hand, on this thread."""

from __future__ import annotations

from typing import Any

from tests.adversaries.stage import Native, Stage, Table

GLIB, QT = Table(), Table()
MODULES = {"glib": "lifecycle.integrations.event_loops.glib", "qt": "lifecycle.integrations.event_loops.qt"}
"""The module of each, which alone imports its framework."""


def turn_glib(stage: Stage) -> None:
    """Let the scene's main context do what waits for it."""
    while stage.props.context.iteration(False):
        continue


def turn_qt(stage: Stage) -> None:
    """Let the loop of this thread do what waits for it."""
    from PySide6.QtCore import QCoreApplication

    QCoreApplication.processEvents()


def glib_queue(stage: Stage) -> Any:
    """A queue of a main context of the scene's own."""
    from gi.repository import GLib

    from lifecycle.integrations.event_loops.glib import release_queue

    stage.props.context = GLib.MainContext.new()
    queue = release_queue("loop", stage.props.context)
    stage.queues.append(queue)  # drained by the stage, should an interrupt keep the loop from it
    return queue


def qt_queue(stage: Stage) -> Any:
    """A queue of this thread's loop."""
    from lifecycle.integrations.event_loops.qt import release_queue

    queue = release_queue("loop")
    stage.queues.append(queue)
    return queue


@GLIB.scene("glib.release_queue")
def glib_closes(stage: Stage) -> None:
    handle = stage.keep(stage.register(release_on=glib_queue(stage)))
    with handle.lease() as native:
        native.use()
    handle.close(timeout=0)
    turn_glib(stage)
    stage.handle.close()


@GLIB.scene("glib.release_queue")
def glib_closes_what_is_held(stage: Stage) -> None:
    """The release falls due later, in the loop: the last to hold the object is a share, and a view."""
    handle = stage.keep(stage.register(release_on=glib_queue(stage)))
    share = stage.keep(handle.share())
    stage.props.view = share.view(id(stage), 8)
    handle.close(timeout=0)
    share.close(timeout=0)
    turn_glib(stage)
    stage.props.view = None
    turn_glib(stage)


@QT.scene("qt.release_queue")
def qt_closes(stage: Stage) -> None:
    handle = stage.keep(stage.register(release_on=qt_queue(stage)))
    with handle.lease() as native:
        native.use()
    handle.close(timeout=0)
    turn_qt(stage)
    stage.handle.close()


@QT.scene("qt.release_queue")
def qt_closes_from_another_handle(stage: Stage) -> None:
    handle = stage.keep(stage.register(release_on=qt_queue(stage), release=Native.free))
    share = stage.keep(handle.share())
    handle.close(timeout=0)
    turn_qt(stage)
    share.close(timeout=0)
    turn_qt(stage)
