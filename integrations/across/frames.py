"""Frames that came from another process: handles, whose memory leaves as views and arrays that hold them."""

from __future__ import annotations

from typing import Any, NoReturn

from lifecycle import Handle
from lifecycle.integrations.across.header import Head, array_over
from lifecycle.lowlevel import is_closed

__all__ = ["Frame"]


class Frame:
    """One frame of a topic; a share that is yours to close. Use it as a context manager.

    A `FrameDistributor` shares it as it does any frame. All methods may be called on any thread.
    """

    __slots__ = ("__weakref__", "_handle", "_head", "_where")

    def __init__(self, handle: Handle[Any], head: Head, where: Any) -> None:
        self._handle = handle
        self._head = head
        self._where = where

    def data(self) -> memoryview:
        """The frame's bytes, read-only, without a copy. Every slice and array made of it holds the frame,
        beyond `close`, the receiver and its publisher. Raises `AccessRefusedError` once this share is
        closed."""
        where = self._where
        if type(where) is int:
            return self._handle.view(where, self._head.nbytes)
        return self._handle.view(where, readonly=True).cast("B")

    def array(self) -> Any:
        """The frame as a read-only NumPy array, without a copy; it holds the frame as `data` does."""
        head = self._head
        return array_over(self.data(), head.shape, head.dtype)

    def share(self) -> Frame:
        """Another share of the same frame, to be closed on its own."""
        return Frame(self._handle.share(), self._head, self._where)

    def close(self) -> bool:
        """Give this share back; arrays made before stay valid. Closing again changes nothing. True once the
        frame is back with its publisher."""
        return self._handle.close(timeout=0)

    @property
    def handle(self) -> Handle[Any]:
        """The handle behind it."""
        return self._handle

    @property
    def closed(self) -> bool:
        """True if this share was closed."""
        return is_closed(self._handle)

    @property
    def seq(self) -> int:
        """Its number in its publisher's life, from 0 on."""
        return self._head.seq

    @property
    def epoch(self) -> int:
        """Which life of the publisher it is from. A later life has a higher number."""
        return self._head.epoch

    @property
    def key(self) -> bool:
        """True if it stands for itself (see `KeepKeyFrames`)."""
        return self._head.key

    @property
    def published_ns(self) -> int:
        """When it was published, as of ``time.time_ns()`` on its publisher's machine."""
        return self._head.published_ns

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of its array."""
        return self._head.shape

    @property
    def dtype(self) -> Any:
        """The NumPy type of its elements."""
        return self._head.dtype

    @property
    def nbytes(self) -> int:
        """Its bytes."""
        return self._head.nbytes

    def __enter__(self) -> Frame:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(f"{self!r} cannot be copied or pickled: share() it, or send its data")

    def __repr__(self) -> str:
        return f"<Frame {self.seq}: {self.shape} of {self.dtype}, {self._handle!r}>"
