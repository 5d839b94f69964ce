"""Qt: a view whose context is adopted, drained behind each frame, and given up in order as it ends.

A `QOpenGLWidget` that is docked, undocked or moved to another window gets a new context, in which the names
of the old one mean other objects or none, and its ``initializeGL`` is called again. So `adopt` belongs there:
it gives the domain of the context that the view has now. The old domain was closed as Qt destroyed its
context.

::

    class View(QOpenGLWidget):
        def initializeGL(self):                       # again after it was moved to another window
            self.domain = adopt(self)
"""

from __future__ import annotations

import weakref
from typing import Any

from lifecycle import SafetyManager
from lifecycle.integrations.gpu import opengl
from lifecycle.integrations.gpu.errors import GLError
from lifecycle.integrations.gpu.opengl.toolkits import made_current, watch_end
from lifecycle.lowlevel import complain

__all__ = ["adopt"]

_adopted: weakref.WeakKeyDictionary[Any, opengl.Domain] = weakref.WeakKeyDictionary()
"""The domains that views have now."""


def adopt(
    view: Any, *, name: str = "qt", manager: SafetyManager | None = None, fences: str = "gl"
) -> opengl.Domain:
    """The domain of the context that a view of Qt has now; the same one when asked again.

    Parameters
    ----------
    view:
        A `QOpenGLWidget` or `QOpenGLWindow`, in its ``initializeGL`` or later, or a `QOpenGLContext` that is
        current on this thread. The context of a view is made current if it is not. Behind each frame that a
        view shows the domain is drained.
    name, manager, fences:
        As for `opengl.adopt`.

    Where Qt destroys the context the domain is closed before: what is due is released, and the rest is given
    up with the context. Memory that is mapped at that moment is given up too, and reading it is an error.

    Call it on the thread that draws. Raises `GLError` for what has no context yet or is none of these, and
    what `opengl.adopt` raises.
    """
    context, of = _context_and_view(view)
    if context is None:
        raise GLError(
            f"adopt() takes a QOpenGLWidget or QOpenGLWindow that has its context, or a QOpenGLContext, not "
            f"{view!r}: call it in initializeGL()"
        )
    if type(context).currentContext() is not context and of is not None:
        of.makeCurrent()
    if type(context).currentContext() is not context:
        raise GLError(
            f"the context of {view!r} is not current on this thread: call adopt() in initializeGL() or "
            "paintGL(), or makeCurrent() first"
        )
    domain = opengl.adopt(name=name, manager=manager, fences=fences)
    watch_end(domain, context, of)
    if of is not None:
        known = of in _adopted
        _adopted[of] = domain
        if not known:
            _drain_behind_frames(of)
    return domain


def _context_and_view(view: Any) -> tuple[Any, Any]:
    """``(context, view)``: no context for what has none, no view for a context by itself."""
    if callable(getattr(type(view), "currentContext", None)):
        return view, None
    ask = getattr(view, "context", None)
    if not callable(ask) or not callable(getattr(view, "makeCurrent", None)):
        return None, None
    context = ask()
    return (context, view) if callable(getattr(type(context), "currentContext", None)) else (None, None)


def _drain_behind_frames(view: Any) -> None:
    """Drain the domain that the view has then behind each frame that it shows."""
    weak = weakref.ref(view)

    def drain() -> None:
        of = weak()
        domain = None if of is None else _adopted.get(of)
        if of is None or domain is None or domain.lost_reason:
            return
        try:
            with made_current(of.context(), of, domain):
                if domain.here():
                    domain.drain()
        except BaseException:  # Qt's bindings print what leaves a slot, or end the process
            complain()

    shown: Any = getattr(view, "frameSwapped", None)
    if shown is not None:
        shown.connect(drain)
