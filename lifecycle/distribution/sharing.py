"""What is published, and how its share is given back."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from lifecycle.manager import Handle


@runtime_checkable
class Shareable(Protocol):
    """What is published by sharing: a `Handle`, a GStreamer `Frame`, or anything else with these two methods.

    ``share()`` gives another owner of the same thing, to be closed on its own; ``close()`` may be called
    twice. Everything else that is published (bytes, arrays, any object) is passed on as it is.
    """

    def share(self) -> Any:
        """Another share of the same thing."""

    def close(self) -> Any:
        """Give this share back."""


def is_shareable(item: object) -> bool:
    """Whether `item` is published by sharing."""
    kind = type(item)
    if kind is Handle:
        return True
    return callable(getattr(kind, "share", None)) and callable(getattr(kind, "close", None))


def give_back(item: Any) -> None:
    """Close a share, waiting for nothing: a release that is timed, or somebody else's to run, follows on its
    own."""
    if type(item) is Handle:
        item.close(timeout=0)
    else:
        item.close()
