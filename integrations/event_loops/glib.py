"""GLib: a release queue that a main context drains, such as the one behind ``GLib.MainLoop().run()`` or a GTK
application.

What is posted is an idle source of its own, attached to the context: GLib lets any thread do that, and wakes
the loop. Releases run between two events of the loop's thread, at the priority of ordinary events, so that a
busy source does not starve them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

try:
    from gi.repository import GLib
except ImportError as _error:
    raise ImportError(
        "lifecycle.integrations.event_loops.glib needs PyGObject, and this Python does not have it "
        f"({_error}); on Debian or Ubuntu, as root: apt-get update && apt-get install python3-gi; then make "
        "the virtual environment by /usr/bin/python3 -m venv --system-site-packages, which lets it see it"
    ) from _error

from lifecycle import (
    LifecycleError,
    ReleaseQueue,
)
from lifecycle.lowlevel import complain

__all__ = ["release_queue"]


def release_queue(name: str = "glib", context: Any = None, *, thread: Any = "current") -> ReleaseQueue:
    """A `ReleaseQueue` of a GLib main context: what is registered with ``release_on=`` it is released by the
    loop that runs the context, wherever it was closed or dropped.

    Parameters
    ----------
    name:
        Shown in metrics, messages and reports.
    context:
        A `GLib.MainContext`; by default the calling thread's own where it has one (``push_thread_default``),
        else the global one.
    thread:
        The thread that runs the loop: ``"current"`` (the calling one), a `threading.Thread`, or its identity.

    Raises `LifecycleError` for what is no main context.
    """
    if context is None:
        context = GLib.MainContext.get_thread_default() or GLib.MainContext.default()
    if not isinstance(context, GLib.MainContext):
        raise LifecycleError(f"release_queue({name!r}, context) takes a GLib.MainContext, not {context!r}")

    def post(fn: Callable[[], object]) -> None:
        source = GLib.Idle(priority=GLib.PRIORITY_DEFAULT)
        source.set_callback(_call, fn)
        source.attach(context)

    return ReleaseQueue(name, thread=thread, post=post)


def _call(fn: Callable[[], object]) -> bool:
    try:
        fn()
    except BaseException:  # an interrupt: PyGObject prints what leaves a callback
        complain()
    return False
