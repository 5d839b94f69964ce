"""The public face of distribution: one or several publishers, any number of receivers."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Generic, Literal, TypeVar

from lifecycle.distribution.policies import Policy, policy_of
from lifecycle.distribution.receiver import FrameReceiver, subscribe
from lifecycle.distribution.ring import Ring
from lifecycle.errors import LifecycleError, shown
from lifecycle.lowlevel import Uncopied, whole
from lifecycle.manager import SafetyManager
from lifecycle.stats import DistributorStats

T = TypeVar("T")


class FrameDistributor(Uncopied, Generic[T]):
    """Gives every frame to every receiver, without a copy.

    Parameters
    ----------
    capacity:
        The number of frames that are kept for slower receivers, exactly. Each of them is one share of its
        frame, so a bounded pool of buffers must be larger.
    name:
        The label in metrics and messages.
    manager:
        Its metrics show this distributor, and closing it closes the distributor first. Not needed otherwise.

    Publishing takes the same time for one receiver and for a thousand. All methods may be called on any
    thread and at any moment, also from callbacks and releases that a publish has caused. A context manager
    that closes itself; a distributor that is dropped is closed too.
    """

    _remedy = "pass the distributor itself; subscribe() gives another receiver"

    __slots__ = ("__weakref__", "_leave_manager", "_ring")

    kind: Final = "distributor"

    def __init__(self, capacity: int, *, name: str = "", manager: SafetyManager | None = None) -> None:
        number = whole(capacity)
        if number is None or number < 1:
            raise LifecycleError(
                f"FrameDistributor(capacity) takes a whole number of frames, 1 or more, not {shown(capacity)}"
            )
        if not isinstance(name, str):
            raise LifecycleError(f"FrameDistributor(name=) takes a text, not {name!r}")
        self._ring: Ring[T] = Ring(number, name)
        self._leave_manager: Any = None
        if manager is not None:
            self._leave_manager = manager.on_close(_closer(weakref.ref(self._ring)))
            manager.add_component(self)

    # -- publishing ------------------------------------------------------------------------------------------

    def publish(self, frame: T, *, key: bool = True) -> int:
        """Give `frame` to every receiver, and return the number of receivers. Your own share stays open.

        A `Handle`, a GStreamer `Frame` and any other object with ``share()`` and ``close()`` is shared; any
        other object is passed on as it is. Nothing is copied. The oldest frame of a full ring is closed,
        without waiting for its release. `key` marks a frame that can be used without its predecessors (see
        `KeepKeyFrames`).

        Raises `ClosedError` on a closed distributor, and what ``frame.share()`` raises for a frame that is
        closed; then nothing was published or kept. Waits only for receivers with `BlockPublisher`.
        """
        return self._ring.publish(frame, key)

    # -- receiving -------------------------------------------------------------------------------------------

    def subscribe(
        self,
        *,
        start: Literal["now", "keyframe", "oldest"] = "now",
        group: str = "",
        policy: Policy | str = "drop-oldest",
        name: str = "",
    ) -> FrameReceiver[T]:
        """Return a new receiver.

        Parameters
        ----------
        start:
            The first frame that it gets: the next one, the newest key frame in the ring (or else the next key
            frame), or the oldest frame in the ring.
        group:
            Figures are summed by group, also in metrics.
        policy:
            What happens when it falls behind: ``"drop-oldest"``, ``"latest-only"``, ``"keep-key-frames"``,
            ``"block"``, ``"evict"``, or one of the policy classes with figures of your own.
        name:
            Shown in messages.

        Raises `ClosedError` on a closed distributor.
        """
        for what, value in (("group", group), ("name", name)):
            if not isinstance(value, str):
                raise LifecycleError(f"subscribe({what}=) takes a text, not {value!r}")
        chosen = policy_of(policy)
        ring = self._ring
        newest = ring.newest().seq
        at, awaits_key = newest + 1, False
        if start == "oldest":
            at = max(0, newest + 1 - ring.capacity)
        elif start == "keyframe":
            at, awaits_key = ring.newest_key()
        elif start != "now":
            raise LifecycleError(f"subscribe(start=) takes 'now', 'keyframe' or 'oldest', not {start!r}")
        return subscribe(ring, name, group, chosen, at, awaits_key)

    # -- facts -----------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The distributor's name."""
        return self._ring.name

    @property
    def capacity(self) -> int:
        """How many frames are kept."""
        return self._ring.capacity

    @property
    def published(self) -> int:
        """Frames published."""
        return self._ring.newest().seq + 1

    @property
    def receivers(self) -> int:
        """How many receivers there are now."""
        self._ring.bury()
        return len(self._ring.subscribers.value.subscriptions)

    @property
    def closed(self) -> bool:
        """True if it was closed."""
        return self._ring.closed

    def __len__(self) -> int:
        """How many frames are kept now."""
        return len(self._ring.table) + len(self._ring.kept)

    def __bool__(self) -> bool:
        return True

    def stats(self) -> DistributorStats:
        """The figures, as a frozen snapshot."""
        return self._ring.stats()

    # -- the end ---------------------------------------------------------------------------------------------

    def close(self, *, discard: bool = False) -> None:
        """Refuse new frames, and wake all that wait. Published frames can still be received, and are closed
        when every receiver has read them; with `discard` they are closed at once and count as missed. A
        second call changes nothing."""
        self._ring.close()
        if discard:
            self._ring.discard()
        if self._leave_manager is not None:
            self._leave_manager()

    def __enter__(self) -> FrameDistributor[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_leave_manager", UNMADE) is not UNMADE:
            self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open"
        return (
            f"<FrameDistributor {self.name!r}: {state}, {self.published} published, {len(self)} of "
            f"{self.capacity} kept, {self.receivers} receivers>"
        )


UNMADE = object()


def _closer(ring: weakref.ref[Ring[Any]]) -> Callable[[], None]:
    """What a manager calls when it closes: keeps no ring alive, whatever interrupt had the distributor
    forgotten there."""

    def close() -> None:
        there = ring()
        if there is not None:
            there.close()

    return close
