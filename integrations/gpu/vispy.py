"""vispy: a canvas whose context is adopted, drained after each frame, and given up in order when it closes.

::

    canvas = vispy.app.Canvas()
    domain = adopt(canvas)                            # in on_initialize, or once it is shown
"""

from __future__ import annotations

import weakref
from typing import Any

from lifecycle import HeldError, SafetyManager
from lifecycle.integrations.gpu import opengl
from lifecycle.integrations.gpu.errors import GLError

__all__ = ["adopt"]

_adopted: weakref.WeakKeyDictionary[Any, opengl.Domain] = weakref.WeakKeyDictionary()
"""The domains of canvases. Not an attribute of theirs: a SceneCanvas is frozen, and takes none."""


def adopt(canvas: Any, *, name: str = "vispy", manager: SafetyManager | None = None) -> opengl.Domain:
    """Adopt the context of a canvas of vispy, making it current on this thread. Behind each of its draws the
    domain is drained; where it closes, the domain is closed before its context goes. The same domain when
    asked again.

    Raises `GLError` for what is no canvas, and what `opengl.adopt` raises.
    """
    events: Any = getattr(canvas, "events", None)
    if not callable(getattr(canvas, "set_current", None)) or not hasattr(events, "draw"):
        raise GLError(f"adopt() takes a canvas of vispy, not {canvas!r}")
    canvas.set_current()
    domain = opengl.adopt(name=name, manager=manager)
    weak, weak_canvas = weakref.ref(domain), weakref.ref(canvas)

    def drain(event: object) -> None:
        living = weak()
        if living is not None and not living.lost_reason and living.here():
            living.drain()

    def close(event: object) -> None:
        living, closing = weak(), weak_canvas()
        if living is not None and closing is not None and not living.lost_reason:
            closing.set_current()
            try:
                living.close(timeout=1.0)
            except HeldError as error:
                living.lost(f"its canvas was closed: {error}")

    if _adopted.get(canvas) is not domain:
        events.draw.connect(drain, position="last")
        events.close.connect(close, position="first")
        _adopted[canvas] = domain
    return domain
