"""pyglet: what its objects leave behind is deleted where its names are valid, by one line.

pyglet deletes an object at once where the main thread drops it, also while its context is current on another
thread or on none: there the call does nothing, and the object leaks. `adopt` has it ask whether the context
is really current; what is dropped elsewhere is deleted by the next ``switch_to()``, as pyglet does for
threads.

::

    window = pyglet.window.Window()
    domain = adopt(window.context)
"""

from __future__ import annotations

from functools import cache
from typing import Any

from lifecycle import SafetyManager
from lifecycle.integrations.gpu import opengl
from lifecycle.integrations.gpu.errors import GLError

__all__ = ["adopt"]


def adopt(context: Any, *, name: str = "pyglet", manager: SafetyManager | None = None) -> opengl.Domain:
    """Adopt a context of pyglet, which is current on this thread. Its class is exchanged for one of its own
    that differs in that one question; its identity stays. The same domain when asked again.

    Raises `GLError` for what is no context of pyglet 2, and what `opengl.adopt` raises.
    """
    questions = ("_safe_to_operate_on", "_safe_to_operate_on_object_space")
    if not all(callable(getattr(context, question, None)) for question in questions):
        raise GLError(f"adopt() takes a context of pyglet 2, window.context, not {context!r}")
    domain = opengl.adopt(name=name, manager=manager)
    context._lifecycle_here = domain.here
    if not getattr(type(context), "_lifecycle_asks", False):
        plain: Any = type(context)
        context.__class__ = _asking(plain)
    return domain


@cache
def _asking(plain: Any) -> type[Any]:
    """A class of contexts that ask whether they are current."""

    def here(self: Any) -> bool:
        return self._lifecycle_here()  # type: ignore[no-any-return]

    members = {
        "_lifecycle_asks": True,
        "_safe_to_operate_on": here,
        "_safe_to_operate_on_object_space": here,
        "__module__": plain.__module__,
        "__doc__": plain.__doc__,
    }
    return type(plain.__name__, (plain,), members)
