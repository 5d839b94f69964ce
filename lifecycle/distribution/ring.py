"""The ring: what was published, in order, and who reads it.

**Slots** (`slots`). Each frame has a slot with a number, hung on the slot before it (`chain`): that one step
is the publication. A table finds a slot by its number; the slot that fell out of the capacity is taken from
it and its share closed. Numbers have no gaps, so a receiver needs nothing but its own number, and what it has
missed is a difference.

**Receivers** (`subscribers`) cost the publisher nothing: it knows how many there are, and wakes all waiting
ones (`heard`) in one step. It does so once more when it leaves `publish`, however that is: an interrupt may
have struck between the slot and the first.

**Guaranteed.** A frame is published wholly or not at all, and then to all receivers. Its share is closed by
the publish that overwrites it, or when the ring is closed and read by everyone. Publishing to a closed ring
raises `ClosedError` and keeps nothing.

**How the table keeps up.** A slot may be linked and not yet in the table, when its publisher was held up in
between. The next thread that walks the chain past such a slot enters it, so everything before the last slot
is in the table. A slot that was entered after it had been overwritten already takes itself out.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Generic, TypeVar

from lifecycle.distribution.chain import Register
from lifecycle.distribution.policies import BlockPublisher, EvictAfter
from lifecycle.distribution.sharing import give_back, is_shareable, is_valid, keepers_of
from lifecycle.distribution.slots import GONE, Slot, empty_slot
from lifecycle.distribution.subscribers import EVICTED, Subscribers, Subscription, SubscriptionRef, position
from lifecycle.errors import ClosedError
from lifecycle.lowlevel import (
    Tally,
    WaitList,
    is_control_flow,
    is_dead,
    monotonic,
    must_not_wait,
    snapshot,
)
from lifecycle.stats import DistributorStats, GroupStats

T = TypeVar("T")

LOOK = 0.25
"""Seconds between two looks of a publisher that is blocked for receivers that were dropped."""
TAKE_UP, ENOUGH = 8, 16
"""After how many steps a walk along the slots takes up the tail again, and from how many on it may end
there."""
PLACES = 1024
"""At most so many slots are found without the table."""
NAMED = 3
"""How many of the frames that are held elsewhere are named."""
STRIKES = 3
"""How often giving a share back is broken off by control flow until it is not tried again. Of a share that is
not a handle: those of handles are given back by then."""


class Ring(Generic[T]):
    """See the module. Shared by a distributor and its receivers; every method may be called on any thread, at
    any moment."""

    def __init__(self, capacity: int, name: str) -> None:
        self.capacity = capacity
        self.name = name
        self.tail: Slot = empty_slot(-1)
        self.table: dict[int, Slot] = {}
        # The latest slots by their number modulo its length: to be looked at before the table, whose reading
        # takes a lock where there is no GIL. A slot of another number may stand there, or an old one.
        self.places: list[Slot] = [empty_slot(-1)] * min(capacity, PLACES)
        self.kept: dict[int, Slot] = {}  # overwritten key frames
        self.subscribers: Register[Subscribers] = Register(Subscribers())
        # Who waits for something to receive, and for a receiver that blocks the publisher to move on.
        self.heard: WaitList = WaitList()
        self.room: WaitList = WaitList()
        self.dropped: deque[SubscriptionRef] = deque()
        self.discarded: bool = False
        self.close_failures: Tally = Tally()

    # -- publishing ------------------------------------------------------------------------------------------

    def publish(self, item: T, key: bool) -> int:
        """See `FrameDistributor.publish`."""
        # As `empty_slot`, without the call.
        slot: Slot = Slot()
        slot.item = GONE
        slot.shared = slot.end = slot.gone = slot.indexed = False
        slot.struck = 0
        # Asked here and once: what is no truth is the publisher's affair, and no receiver's.
        slot.key = bool(key)
        tail = after = None
        began = None
        try:
            slot.shared = is_shareable(item)
            slot.item = item.share() if slot.shared else item  # type: ignore[attr-defined]
            tail = self.tail
            while True:
                after = tail.get(None)
                if after is not None:
                    if not after.indexed:
                        self._index(after)
                    tail = after
                    continue
                if tail.end:
                    raise self.refusal()
                slot.seq = tail.seq + 1
                if self.subscribers.value.blocking:
                    began = began or monotonic()
                    if self._waited_for_room(slot.seq, began):
                        continue
                if tail.setdefault(None, slot) is slot:
                    return self._published(slot)
        except BaseException:
            if tail is not None and tail.get(None) is slot:
                # Interrupted after the deciding step: what follows from it is done all the same.
                self._published(slot)
            else:
                self._give_back(slot)
            raise
        finally:
            try:
                if self.heard.hung:
                    self.heard.wake()
            finally:
                item = tail = after = slot = None  # type: ignore[assignment]  # K3

    def _published(self, slot: Slot) -> int:
        """What follows from a publication. Each step may be repeated."""
        self._index(slot)
        if slot.seq > self.tail.seq:
            # Not where a publisher was held up before this, and others have gone on: the tail would go back.
            self.tail = slot
        if self.heard.hung:
            self.heard.wake()
        seq = slot.seq
        capacity = self.capacity
        if seq >= capacity:
            self._overwrite(seq - capacity)
        if len(self.table) > capacity:  # an interrupt, or another publisher, left some to be overwritten
            for old in snapshot(self.table):
                if old <= seq - capacity:
                    self._overwrite(old)
        if self.dropped or seq % capacity == 0:
            self.bury()
        subscribers = self.subscribers.value
        if subscribers.evicting and seq % capacity == 0:
            for subscription in subscribers.evicting:
                self._evict_if_left_behind(subscription, seq)
            subscribers = self.subscribers.value
        return len(subscribers.subscriptions)

    def _index(self, slot: Slot) -> None:
        if not slot.indexed:
            self.table[slot.seq] = slot
            self.places[slot.seq % len(self.places)] = slot
            slot.indexed = True
            if slot.gone or self.discarded:
                self.table.pop(slot.seq, None)

    def _overwrite(self, seq: int) -> None:
        slot = self.table.get(seq)
        if slot is None:
            return
        try:
            slot.gone = True
            keep = self.subscribers.value.keep
            if keep and slot.key and slot.item is not GONE:
                self.kept[seq] = slot
                self._trim_kept(keep)
            elif slot.shared:
                self._give_back(slot)
            else:
                slot.item = GONE
            self.table.pop(seq, None)
        finally:
            slot = None  # a kept traceback must keep nothing alive

    def _trim_kept(self, keep: int) -> None:
        while len(self.kept) > keep:
            seq = min(snapshot(self.kept), default=-1)
            slot = self.kept.get(seq)
            if slot is not None:
                self._give_back(slot)
                self.kept.pop(seq, None)

    def _give_back(self, slot: Slot) -> None:
        """Close the ring's share of a slot. What its owner's ``close`` raises is no error of the caller;
        control flow passes, and the share is closed again by whoever comes by next."""
        item = slot.item
        try:
            if item is not GONE and slot.shared:
                self.close_share(item)
        except BaseException:
            slot.struck += 1
            if slot.struck >= STRIKES:
                slot.item = GONE
            raise
        finally:
            item = None
        slot.item = GONE

    def close_share(self, share: Any) -> None:
        """Close a share that was not handed out; an exception is counted, whatever it is, but for control
        flow."""
        try:
            give_back(share)
        except BaseException as error:
            if is_control_flow(error):
                raise
            self.close_failures.add()
        finally:
            share = None  # K3

    def key_from(self, seq: int) -> tuple[int, bool]:
        """The first key frame from `seq` on that is still there; else the number of what comes next, of which
        only a key frame will do."""
        newest = self.newest()
        kept = sorted(number for number in snapshot(self.kept) if number >= seq)
        for number in (*kept, *range(max(seq, newest.seq - self.capacity + 1), newest.seq + 1)):
            if self.has_key(number):
                return number, False
        return newest.seq + 1, True

    def newest_key(self) -> tuple[int, bool]:
        """The newest key frame that is still there; else as `key_from`."""
        newest = self.newest().seq
        for number in range(newest, max(-1, newest - self.capacity), -1):
            if self.has_key(number):
                return number, False
        return newest + 1, True

    def has_key(self, seq: int) -> bool:
        """Return True if frame `seq` is a key frame that can be had."""
        slot = self.kept.get(seq)
        if slot is None:
            slot = self.table.get(seq)
            if slot is None or slot.gone:
                return False
        return slot.key and slot.item is not GONE and is_valid(slot.item)

    def newest(self) -> Slot:
        """The slot that was the last when this began, or a later one, or the end; everything before it is in
        the table.

        A publisher without pause may make slots as fast as they are walked past, above all without the GIL.
        So the walk takes up the tail again now and then, and ends where that has overtaken it: what it stops
        at came after the call began, and what comes later rings its bell.
        """
        slot = self.tail
        steps = 0
        while None in slot:
            slot = slot[None]
            if not slot.indexed:
                self._index(slot)
            steps += 1
            if not steps % TAKE_UP:
                tail = self.tail
                if tail.seq > slot.seq:
                    slot = tail
                    if steps >= ENOUGH:
                        break
        return slot

    # -- receivers that concern the publisher ----------------------------------------------------------------

    def _waited_for_room(self, seq: int, began: float) -> bool:
        """Wait while frame `seq` would overwrite one that a blocking receiver has not read and its deadline
        is not over. True when it waited, and everything is to be looked at again."""
        self.bury()
        left = self._patience(seq) - (monotonic() - began)
        if left <= 0 or must_not_wait():
            return False
        # A dropped receiver wakes no thread.
        self.room.wait(lambda: self._has_room(seq, began), left, look=self.bury, every=LOOK)
        return True

    def _patience(self, seq: int) -> float:
        """Seconds for which frame `seq` waits in all for the receivers that it would overtake."""
        return max(
            (
                subscription.policy.deadline
                for subscription in self.subscribers.value.blocking
                if isinstance(subscription.policy, BlockPublisher) and self._is_full(subscription, seq)
            ),
            default=0.0,
        )

    def _has_room(self, seq: int, began: float) -> bool:
        return self.closed or self._patience(seq) <= monotonic() - began

    def _is_full(self, subscription: Subscription, seq: int) -> bool:
        now = subscription.now()
        return not now.ended and seq - self.capacity >= now.cursor

    def _evict_if_left_behind(self, subscription: Subscription, newest: int) -> None:
        """A receiver lags once for each time that the whole ring has passed it by; at the number that it is
        allowed it goes."""
        now = subscription.now()
        behind = newest - self.capacity + 1 - now.cursor
        laps = -(-behind // self.capacity) if behind > 0 else 0
        assert isinstance(subscription.policy, EvictAfter)
        if laps and now.lags + laps >= subscription.policy.lags:
            self.retire(subscription, EVICTED)

    def awaited(self) -> tuple[str, ...]:
        """The receivers for which whoever publishes the next frame waits, in words."""
        seq = self.newest().seq + 1
        full = [
            subscription
            for subscription in self.subscribers.value.blocking
            if self._is_full(subscription, seq)
        ]
        return tuple(
            f"receiver {subscription.name!r} of group {subscription.group!r}" for subscription in full
        )

    def held_elsewhere(self) -> tuple[str, ...]:
        """The oldest frames of the ring that have other holders, each with these holders. Walks the heap,
        within its budget."""
        told: list[str] = []
        slot = None
        try:
            for seq in sorted(snapshot(self.table)):
                slot = self.table.get(seq)
                keepers = keepers_of(slot.item) if slot is not None and slot.shared else ""
                if keepers:
                    told.append(keepers)
                if len(told) == NAMED:
                    break
            return tuple(told)
        finally:
            slot = None  # K3

    # -- who receives ----------------------------------------------------------------------------------------

    def retire(self, subscription: Subscription, reason: str) -> None:
        """End a receiver: what it has not read counts as missed. Calling again changes nothing."""
        self._retire(subscription, reason)
        self.discard_if_read()

    def _retire(self, subscription: Subscription, reason: str) -> None:
        try:
            while True:
                now = subscription.now()
                if now.ended:
                    break
                end = max(now.cursor, self.newest().seq + 1)
                last = position(end, now.received, now.missed + end - now.cursor, now.lags, ended=reason)
                if subscription.advance(now, last):
                    break
            subscribers = self.subscribers.update(lambda subscribers: subscribers.without(subscription))
            self._trim_kept(subscribers.keep)
        finally:
            # No call of Python lies before either, so an interrupt costs nobody the wake-up.
            try:
                self.heard.wake()
            finally:
                self.room.wake()

    def bury(self) -> None:
        """End the receivers that were dropped without `close`, one after the other: there may be more of them
        than calls can be nested."""
        while self.dropped:
            try:
                ref = self.dropped.popleft()
            except IndexError:
                return
            try:
                self._retire(ref.subscription, "dropped")
                self._discard_read()
            except BaseException:
                self.dropped.append(ref)
                raise
        # Where a receiver was dropped at the recursion limit CPython could not post it.
        for subscription in self.subscribers.value.subscriptions:
            if subscription.ref is not None and is_dead(subscription.ref):
                self._retire(subscription, "dropped")
                self._discard_read()

    # -- the end ---------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """True if nothing can be published any more."""
        return self.newest().end

    def refusal(self) -> ClosedError:
        """What publishing and subscribing raise then."""
        return ClosedError(
            f"distributor {self.name!r} is closed after {self.newest().seq + 1} frames: what was published "
            "can still be received, but nothing more is taken; the frame is still yours. Make a new "
            "distributor"
        )

    def close(self) -> None:
        """Hang the end on the last slot. Calling again changes nothing."""
        try:
            while True:
                tail = self.newest()
                if tail.end:
                    break
                end = empty_slot(tail.seq, end=True)
                if tail.setdefault(None, end) is end:
                    self.tail = end
                    break
        finally:
            # No call of Python lies before either, so an interrupt costs nobody the wake-up.
            try:
                self.heard.wake()
            finally:
                self.room.wake()
        self.bury()
        self.discard_if_read()

    def discard_if_read(self) -> None:
        """Once closed, and read by everyone who still can, the frames are given back."""
        if self.dropped:
            self.bury()
        self._discard_read()

    def _discard_read(self) -> None:
        newest = self.newest()
        if newest.end and all(
            subscription.now().cursor > newest.seq for subscription in self.subscribers.value.subscriptions
        ):
            self.discard()

    def discard(self) -> None:
        """Give every frame back. For a closed ring."""
        self.discarded = True
        for table in (self.table, self.kept):
            for seq in snapshot(table):
                slot = table.get(seq)
                if slot is not None:
                    slot.gone = True
                    self._give_back(slot)
                    table.pop(seq, None)

    # -- figures ---------------------------------------------------------------------------------------------

    def stats(self) -> DistributorStats:
        """See `FrameDistributor.stats`."""
        self.bury()
        subscribers = self.subscribers.value
        newest = self.newest()
        published = newest.seq + 1
        figures: dict[str, list[int]] = {
            group: [0, total.published, total.received, total.missed, 0, total.evictions]
            for group, total in subscribers.totals.items()
        }
        for subscription in subscribers.subscriptions:
            now = subscription.now()
            group = figures[subscription.group]
            lag = 0 if now.ended else max(0, published - now.cursor)
            group[0] += not now.ended
            group[1] += now.cursor + lag - subscription.start
            group[2] += now.received
            group[3] += now.missed
            group[4] = max(group[4], lag)
            group[5] += now.ended == EVICTED
        return DistributorStats(
            name=self.name,
            capacity=self.capacity,
            published=published,
            held=len(self.table) + len(self.kept),
            receivers=len(subscribers.subscriptions),
            closed=newest.end,
            close_failures=int(self.close_failures),
            groups={group: GroupStats(group, *numbers) for group, numbers in figures.items()},
        )

    def __del__(self) -> None:
        if snapshot is None:
            return  # type: ignore[unreachable]  # the interpreter is ending, and has taken our module apart
        self.discard()
