"""Contexts that tell of their end: Qt's."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from lifecycle import LifecycleError
from lifecycle.integrations.gpu.errors import GLError

if TYPE_CHECKING:
    from lifecycle.integrations.gpu.opengl.domain import Domain


def watch_end(domain: Domain, context: Any) -> None:
    """Close `domain` when `context` says that it is about to be destroyed; it is current then. What cannot be
    closed in order, since its memory is still mapped, is given up."""
    ends = getattr(context, "aboutToBeDestroyed", None)
    connect = getattr(ends, "connect", None)
    if not callable(connect):
        raise GLError(
            f"{context!r} does not tell of its end (it has no aboutToBeDestroyed): adopt() without it, and "
            "close() the domain before the context is destroyed"
        )
    weak = weakref.ref(domain)

    def end() -> None:
        living = weak()
        if living is None:
            return
        try:
            living.close(timeout=1.0)
        except LifecycleError as error:
            living.lost(f"its context was destroyed: {error}")
        except BaseException:
            living.lost("its context was destroyed")
            raise

    connect(end)
