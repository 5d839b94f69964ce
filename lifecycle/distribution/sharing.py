"""What is published, and how its share is given back."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from lifecycle.errors import LifecycleError
from lifecycle.lowlevel import apart, describe, holders
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
    """Return True if `item` is published by sharing."""
    kind = type(item)
    if kind is Handle:
        return True
    return callable(getattr(kind, "share", None)) and callable(getattr(kind, "close", None))


def share_of(item: Any) -> Any:
    """A share for a consumer: a panic in `safe_access` on it takes the frame from nobody else."""
    share = item.share()
    try:
        handle = share if isinstance(share, Handle) else getattr(share, "handle", None)
        if isinstance(handle, Handle):
            apart(handle)
        return share
    except BaseException:
        give_back(share)
        raise
    finally:
        item = share = handle = None  # K3


def keepers_of(item: Any) -> str:
    """Who holds what was published, beside the share `item` of it, in words: empty where nobody does, nothing
    is known, or the budget for walks of the heap is spent."""
    handle = None
    try:
        handle = item if isinstance(item, Handle) else getattr(item, "handle", None)
        if not isinstance(handle, Handle):
            return ""
        found = holders(handle, within_budget=True)
        return f"{describe(handle)} by {' and '.join(map(str, found))}" if found else ""
    except LifecycleError:
        # It was given back meanwhile.
        return ""
    finally:
        item = handle = None  # K3


def is_valid(item: Any) -> bool:
    """False for a frame that its owner has shut, where that can be told without taking it."""
    return not isinstance(item, Handle) or item.valid


def give_back(item: Any) -> None:
    """Close a share, waiting for nothing: a release that is timed, or somebody else's to run, follows on its
    own."""
    if type(item) is Handle:
        item.close(timeout=0)
    else:
        item.close()
