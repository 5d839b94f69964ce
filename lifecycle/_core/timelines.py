"""Entries that wait for a fence, first in first out, at the cost of one.

**The problem.** A thousand buffers wait for the same GPU. Asking the fence of each, again and again, costs a
thousand questions for one answer: as long as the first has not signalled none has.

**The idea.** Fences of one *timeline* signal in order. So the entries of a timeline stand in a line, at their
place, and only the first one's fence is asked; what stands behind it costs nothing. An entry that leaves
posts the ticket of the next one, whose fence is asked then.

A fence says which timeline it belongs to by its attribute ``timeline`` (any object; a `Timeline` also knows
its queue, and makes submissions: `submissions.py`). Without one it is a timeline of its own: all entries that
wait for the same fence stand in one line.

What is done here is done again after an interrupt, so each step may be repeated.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from lifecycle._core import runtime
from lifecycle._core.describe import about, describe
from lifecycle._core.keeping import Uncopied
from lifecycle._core.record import Record
from lifecycle.errors import FenceError, QueueLostError
from lifecycle.states import ENDED

if TYPE_CHECKING:
    from lifecycle.places.queues import Generation


class Order(Uncopied):
    """Fences that signal in the order in which they were made. A `Timeline` is one that also makes fences."""

    __slots__ = ("__weakref__", "generation", "name")
    name: str
    generation: Generation | None

    def poll_from(self, generation: Generation | None) -> int:
        """End what has signalled, for a thread that waits or drains `generation`. Return how many."""
        raise NotImplementedError

    def used(self) -> list[Record]:
        """The objects of what is in flight."""
        raise NotImplementedError

    def stalled(self, after: float, registry: Any) -> list[str]:
        """The submissions that use objects of `registry` and have been in flight for more than `after`
        seconds, in words."""
        raise NotImplementedError


busy: dict[int, Order] = {}
"""By identity: the timelines with something in flight. Waiting threads poll them; no other thread has to."""


def poll_busy(generation: Generation | None = None) -> int:
    """Poll every timeline that may be asked here: for whoever waits. `generation` is being drained, so what
    belongs to it may be asked as well. How many submissions ended."""
    return sum(timeline.poll_from(generation) for timeline in runtime.snapshot(busy.values()))


def timeline_of(fence: Any) -> Any:
    """The timeline of `fence`: itself if it names none."""
    timeline = getattr(fence, "timeline", None)
    return fence if timeline is None else timeline


def add_fence(record: Record, fence: Any, call: str) -> None:
    """Have the release of `record` wait for `fence`, too. Raises before anything is changed, `FenceError` or
    `QueueLostError`."""
    if not callable(getattr(fence, "signalled", None)):
        text = f"{call} of {describe(record)} takes a fence with a signalled() method, not {fence!r}"
        raise about(record, FenceError(text))
    place = record.place
    if place.lost_reason is not None:
        raise about(
            record,
            QueueLostError(
                f"{describe(record)} cannot wait for {fence!r}: its queue {place.name!r} was lost "
                f"({place.lost_reason}) and the object is orphaned, so there is nothing to release. The "
                "fence is still yours."
            ),
        )
    timeline = timeline_of(fence)
    if isinstance(timeline, Order) and timeline.generation not in (None, place):
        raise about(
            record,
            FenceError(
                f"{describe(record)} is released at {place.name!r} and cannot wait for {fence!r}, a fence of "
                f"another timeline ({timeline!r}). Make one with a timeline of the object's own queue; the "
                "fence is still yours."
            ),
        )
    fences = record.more().fences
    if not fences or not any(other is fence for other in fences):
        try:
            if getattr(fence, "delete", None) is not None:
                users.setdefault(id(fence), {})[record.id] = None
            fences.append(fence)
        except BaseException:
            if not any(other is fence for other in fences) and last_user(record, fence):
                users.pop(id(fence), None)
            raise


users: dict[int, dict[int, None]] = {}
"""Of fences that want to be deleted, by identity: the objects that wait for them. The last one deletes."""


def last_user(record: Record, fence: Any) -> bool:
    """Take `record` out of those that wait for `fence`; True when it was the last. Asked again it says the
    same."""
    waiting = users.get(id(fence))
    if waiting is None:
        return False
    waiting.pop(record.id, None)
    return not waiting


class Left:
    """`Extra.line` of an entry that has had its turn, until it is done with the fence: it need not stand in
    line again."""

    __slots__ = ("line",)

    def __init__(self, line: Line) -> None:
        self.line = line


class Line:
    """The entries of one timeline, the first in front. An entry whose `Extra.line` is another is a
    leftover."""

    __slots__ = ("of", "waiting")

    def __init__(self, of: Any) -> None:
        self.of = of
        self.waiting: deque[Record] = deque()

    def head(self) -> Record | None:
        """The first entry, past leftovers."""
        waiting = self.waiting
        while waiting and (waiting[0].extra.line is not self or waiting[0].phase in ENDED):  # type: ignore[union-attr]
            waiting.popleft()
        return waiting[0] if waiting else None


class Timelines:
    """The lines at one place. The lock is held for a few steps that call nothing of the user's."""

    def __init__(self) -> None:
        self._lines: dict[int, Line] = {}
        self._lock = runtime.RLock()

    def __len__(self) -> int:
        """How many entries wait."""
        return sum(len(line.waiting) for line in runtime.snapshot(self._lines.values()))

    def __bool__(self) -> bool:
        return True

    def behind(self, record: Record, fence: Any) -> bool:
        """Return True if another entry stands before `record` in the line of `fence`."""
        line = self._lines.get(id(timeline_of(fence)))
        if line is None:
            return False
        with self._lock:
            head = line.head()
            return head is not None and head is not record and type(record.more().line) is not Left

    def join(self, record: Record, fence: Any) -> bool:
        """Let `record` stand in the line of `fence`; False when it is the first there, and so must ask."""
        timeline = timeline_of(fence)
        with self._lock:
            line = self._lines.get(id(timeline))
            if line is None:
                line = self._lines[id(timeline)] = Line(timeline)
            extra = record.more()
            if extra.line is not line:
                line.waiting.append(record)
                extra.line = line
            return line.head() is not record

    def leave(self, record: Record) -> Record | None:
        """Take `record` out of its line; the first entry now, None if there is none. Asked again it answers
        anew."""
        extra = record.more()
        place = extra.line
        if place is None:
            return None
        with self._lock:
            if type(place) is not Left:
                extra.line = place = Left(place)  # from here on its entry in the line is a leftover
            line: Line = place.line
            head = line.head()
            if head is None and self._lines.get(id(line.of)) is line:
                del self._lines[id(line.of)]
            return head
