"""The errors of DLPack, beside those of `lifecycle` itself."""

from __future__ import annotations

from lifecycle import LifecycleError


class DLPackError(LifecycleError, BufferError):
    """A tensor cannot be exchanged as asked: a type, layout, device or version that DLPack or its user does
    not have, or a capsule that was used already. Nothing was handed over and nothing was taken."""
