"""Contexts that tell of their end: Qt's.

Qt says that a context is about to be destroyed, and has it current on no thread then. So it is made current
for the end of its domain, on its view or on a surface without a window, and what was current before is
current again behind it.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from lifecycle import LifecycleError
from lifecycle.integrations.gpu.errors import GLError
from lifecycle.lowlevel import complain

if TYPE_CHECKING:
    from lifecycle.integrations.gpu.opengl.domain import Domain


def watch_end(domain: Domain, context: Any, view: Any = None) -> None:
    """Close `domain` when `context` says that it is about to be destroyed; `view` is what it belongs to,
    where that can make it current. What cannot be closed in order, since its memory is still mapped, is given
    up. Once for each domain; again it changes nothing.

    Raises `GLError` for a context that does not tell of its end.
    """
    ends = getattr(context, "aboutToBeDestroyed", None)
    connect = getattr(ends, "connect", None)
    if not callable(connect):
        raise GLError(
            f"{context!r} does not tell of its end (it has no aboutToBeDestroyed): adopt() without it, and "
            "close() the domain before the context is destroyed"
        )
    if domain.watched:
        return
    domain.watched = True
    weak_view = (lambda: None) if view is None else weakref.ref(view)
    the_context = _asked_anew(context)
    # The domain is kept by the signal: its objects outlive their user.

    def end() -> None:
        if domain.lost_reason:
            return
        try:
            with made_current(the_context(), weak_view(), domain):
                domain.close(timeout=1.0)
        except LifecycleError as error:
            domain.lost(f"its context was destroyed: {error}")
        except BaseException:
            domain.lost("its context was destroyed")
            complain()  # nobody can be told: Qt's bindings print what leaves a slot, or end the process

    direct = _direct(context)
    if direct is None:
        connect(end)
    else:
        connect(end, direct)  # on the thread that destroys it, before it does


@contextmanager
def made_current(context: Any, view: Any, domain: Domain) -> Iterator[None]:
    """Have a context of Qt current on this thread for a block, if that can be done, and behind it what was
    current before."""
    if context is None or domain.here():
        yield
        return
    kind = _class_of(context)
    before = None if kind is None else kind.currentContext()
    surface = None if before is None else before.surface()
    kept: list[Any] = []
    try:
        if kind is not None:
            _make_current(context, view, domain, kept)
        yield
    finally:
        if before is not None and surface is not None:
            before.makeCurrent(surface)
        elif kind is not None and kind.currentContext() is not None:
            context.doneCurrent()


def _make_current(context: Any, view: Any, domain: Domain, kept: list[Any]) -> None:
    """On the view, else on a surface without a window, which is put into `kept`."""
    try:
        if view is not None and view.context() is context:
            view.makeCurrent()
        made = domain.here()
    except RuntimeError:  # the view's C++ object is gone, and its context goes now
        made = False
    if not made:
        gui = _module_of(context, "QtGui")
        surface = gui.QOffscreenSurface()
        kept.append(surface)
        surface.setFormat(context.format())
        surface.create()
        context.makeCurrent(surface)


def _class_of(context: Any) -> Any:
    """QOpenGLContext of the binding that `context` comes from, None for what is none of Qt's."""
    return next((kind for kind in type(context).__mro__ if kind.__name__ == "QOpenGLContext"), None)


def _module_of(context: Any, name: str) -> Any:
    """A module of the binding that `context` comes from."""
    package = _class_of(context).__module__.rpartition(".")[0]
    return sys.modules[f"{package}.{name}"]


def _asked_anew(context: Any) -> Callable[[], Any]:
    """Gives the context, as long as it lives in Qt, and does not keep it: bindings give up the wrapper of
    what is destroyed before Qt says that it will be."""
    kind = _class_of(context)
    package = "" if kind is None else kind.__module__.partition(".")[0]
    if package.startswith("PySide"):
        shiboken = sys.modules[package.replace("PySide", "shiboken")]
        return partial(shiboken.wrapInstance, shiboken.getCppPointer(context)[0], kind)
    if package.startswith("PyQt"):
        sip = sys.modules[f"{package}.sip"]
        return partial(sip.wrapinstance, sip.unwrapinstance(context), kind)
    return weakref.ref(context)


def _direct(context: Any) -> Any:
    """Qt's word for a connection that is called at once and on the thread that emits."""
    return (
        None
        if _class_of(context) is None
        else _module_of(context, "QtCore").Qt.ConnectionType.DirectConnection
    )
