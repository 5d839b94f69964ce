"""A receiver: a position in the ring, and the ways of moving it.

**Falling behind.** The ring keeps `capacity` frames. A receiver that is further behind is told by `Lagged`
from `recv`, once, how many frames exactly it has missed, and goes on with the oldest that is still there (or
as its policy says). Iterating does not raise it; `FrameReceiver.missed` counts in any case.

**Closing.** After the distributor is closed a receiver still gets everything that was published and not
overwritten; then `recv` raises `ClosedError` and loops end.

**Whose frame.** `recv` gives a share that is the caller's to close. A loop closes each frame when it asks for
the next.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, Generic, NoReturn, TypeVar

from lifecycle.distribution.policies import EvictAfter, KeepKeyFrames, LatestOnly
from lifecycle.distribution.ring import STRIKES, Ring
from lifecycle.distribution.sharing import give_back, is_shareable, share_of
from lifecycle.distribution.slots import GONE, Slot
from lifecycle.distribution.subscribers import EVICTED, Position, Subscription, SubscriptionRef, position
from lifecycle.errors import ClosedError, Empty, EvictedError, Lagged
from lifecycle.lowlevel import Uncopied, check_timeout, is_control_flow, monotonic
from lifecycle.stats import ReceiverStats

T = TypeVar("T")


class _Nothing:
    def __repr__(self) -> str:
        return "nothing"


NOTHING: Any = _Nothing()
"""No frame yet."""


class Shut:
    """Instead of a share: the frame can no longer be received, since sharing it raised `error`."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error: BaseException = error


SHUT_BY_OWNER = "the first of them was shut by its owner, or could not be shared, before it was received"
NOTHING_YET, LOOK_AGAIN = -1, -2
NAMED_AFTER = 1.0
"""Seconds of waiting after which the error names the holders of the frames. That walks the heap, so it is not
done for a short wait that is repeated."""


class FrameReceiver(Generic[T]):
    """One consumer of a `FrameDistributor`; made by `FrameDistributor.subscribe`.

    All methods may be called on any thread and at any moment. Several threads may receive from one receiver:
    each frame goes to one of them. A receiver that is dropped is closed; use it as a context manager to have
    it closed at the end of a block.
    """

    __slots__ = ("__weakref__", "_ring", "_struck", "_subscription")

    def __init__(self, ring: Ring[T], subscription: Subscription) -> None:
        self._struck: tuple[int, int] = (-1, 0)
        """The frame whose sharing was broken off last, and how often that one's was."""
        self._ring = ring
        self._subscription = subscription
        subscription.ref = SubscriptionRef(self, ring.dropped.append)
        subscription.ref.subscription = subscription

    # -- receiving -------------------------------------------------------------------------------------------

    def recv(self, timeout: float | None = None) -> T:
        """Return the next frame: a share, which you have to close, or the plain object that was published.

        Waits up to `timeout` seconds (None: for ever, 0: not at all). A thread that must not wait
        (`never_wait`, a garbage collection) does not. Raises `Empty` when no frame came; after a second or
        more the error names what holds the published frames, also as its `holders`. Raises `Lagged` when
        frames were missed (the next call goes on), `ClosedError` when everything was read and the
        distributor, or this receiver, is closed, and `EvictedError` when its policy removed the receiver. A
        frame that an interrupt loses counts as missed.
        """
        if timeout is not None:
            check_timeout(timeout)
        item = self._take()
        if item is NOTHING:
            until = None if timeout is None else monotonic() + timeout
            while item is NOTHING:
                left = None if until is None else until - monotonic()
                if not self._ring.heard.wait(self._has_news, left):
                    raise self._empty(timeout)
                # Another thread may take it first.
                item = self._take()
        return item  # type: ignore[no-any-return]

    async def recv_async(self, timeout: float | None = None) -> T:
        """`recv` for coroutines; it does not block the event loop. Cancelling it loses no frame."""
        if timeout is not None:
            check_timeout(timeout)
        item = self._take()
        if item is NOTHING:
            until = None if timeout is None else monotonic() + timeout
            while item is NOTHING:
                left = None if until is None else until - monotonic()
                if not await self._ring.heard.wait_async(self._has_news, left):
                    raise self._empty(timeout)
                item = self._take()
        return item  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[T]:
        """Frames until the end. Each is closed when the next one is asked for; what must live longer is to be
        shared."""
        return FrameLoop(self)

    def __aiter__(self) -> AsyncIterator[T]:
        """As ``__iter__``, for coroutines."""
        return FrameLoop(self)

    # -- taking one ------------------------------------------------------------------------------------------

    def _has_news(self) -> bool:
        """Return True if `_take` would not say `NOTHING`. Takes nothing."""
        now = self._subscription.now()
        newest = self._ring.newest()
        return bool(now.ended) or newest.end or now.cursor <= newest.seq

    def _take(self) -> Any:
        """The next frame, or `NOTHING`; raises what `recv` raises. Decided by one step, after everything is
        at hand."""
        subscription, ring = self._subscription, self._ring
        slot: Slot | None = None
        now = new = None
        item = NOTHING
        try:
            while True:
                now = subscription.now()
                if now.ended:
                    raise self._over(now)
                slot, at = self._next_slot(now)
                if slot is None:
                    if at == NOTHING_YET:
                        return NOTHING
                    continue
                item = self._share_of(slot, at)
                newest = at
                while type(item) is Shut:
                    slot, at = self._past_shut(now, at, newest, item.error)
                    item = GONE if slot is None else self._share_of(slot, at)
                if item is GONE or slot is None:
                    continue
                new = position(at + 1, now.received + 1, now.missed + at - now.cursor, now.lags)
                if subscription.advance(now, new):
                    return item
                if slot.shared:
                    ring.close_share(item)  # another thread took that one
                item = NOTHING
        except BaseException:
            if item is not NOTHING and item is not GONE and type(item) is not Shut and slot.shared:  # type: ignore[union-attr]
                ring.close_share(item)
            if new is not None and now is not None and now.get(None) is new:
                self._never_came()
            raise
        finally:
            try:
                # It has moved on, perhaps.
                if ring.room.hung:
                    ring.room.wake()
                if ring.tail.end:
                    ring.discard_if_read()
            finally:
                item = slot = now = new = None  # K3

    def _next_slot(self, now: Position) -> tuple[Slot | None, int]:
        """The slot to be received now, and its number; without a slot, `NOTHING_YET` or `LOOK_AGAIN`. Raises
        `Lagged`, after the receiver was put where it goes on."""
        ring, policy = self._ring, self._subscription.policy
        cursor = now.cursor
        if type(policy) is LatestOnly:
            newest = ring.newest()
            cursor = max(cursor, newest.seq)
        slot: Slot | None = ring.places[cursor % len(ring.places)]
        if slot.seq != cursor:  # type: ignore[union-attr]
            try:
                slot = ring.table[cursor]
            except KeyError:
                slot = None
        if slot is None or slot.gone:
            slot = ring.kept.get(cursor) if ring.kept and type(policy) is KeepKeyFrames else None
        if slot is not None:
            if not now.awaits_key or slot.key:
                return slot, cursor
            self._move(now, *ring.key_from(cursor + 1))
            return None, LOOK_AGAIN
        newest = ring.newest()
        if now.cursor > newest.seq:
            if newest.end:
                raise self._at_end()
            return None, NOTHING_YET
        if ring.discarded:
            self._lag(now, newest.seq + 1, False)
        elif cursor <= newest.seq - ring.capacity and type(policy) is not LatestOnly:
            if type(policy) is KeepKeyFrames:
                self._lag(now, *ring.key_from(cursor))
            else:
                self._lag(now, newest.seq - ring.capacity + 1, now.awaits_key)
        return None, LOOK_AGAIN

    def _move(self, now: Position, to: int, awaits_key: bool) -> None:
        """Go on at `to`, without having fallen behind: what lies between is missed."""
        missed = now.missed + to - now.cursor
        self._subscription.advance(now, position(to, now.received, missed, now.lags, awaits_key))

    def _lag(self, now: Position, to: int, awaits_key: bool, error: BaseException | None = None) -> None:
        """Go on at `to` and say so, unless another thread moved this receiver meanwhile. `error`: why the
        frame could not be shared, where that and not falling behind is the reason."""
        subscription = self._subscription
        missed = to - now.cursor
        lags = now.lags + 1
        if isinstance(subscription.policy, EvictAfter) and lags >= subscription.policy.lags:
            self._ring.retire(subscription, EVICTED)
            return
        if subscription.advance(now, position(to, now.received, now.missed + missed, lags, awaits_key)):
            raise self._lagged(missed, SHUT_BY_OWNER if error is not None else "") from error

    def _share_of(self, slot: Slot, at: int) -> Any:
        """A share of the slot's frame for the receiver; `GONE` when it was overwritten meanwhile, and a
        `Shut` when it can be had by nobody any more: its owner has shut it, or it cannot be shared. Control
        flow passes, but for the third time at one frame: then it is what sharing it does."""
        item = slot.item
        try:
            if item is GONE or not slot.shared:
                return item
            return share_of(item)
        except BaseException as error:
            if is_control_flow(error):
                before, strikes = self._struck
                self._struck = at, strikes + 1 if before == at else 1
                if self._struck[1] < STRIKES:
                    raise
            return GONE if slot.gone and slot is not self._ring.kept.get(at) else Shut(error)
        finally:
            item = slot = None  # type: ignore[assignment]  # a kept traceback must keep nothing alive

    def _past_shut(
        self, now: Position, at: int, newest: int, error: BaseException
    ) -> tuple[Slot | None, int]:
        """Frame `at` can be had by nobody: go on as the policy says. With `LatestOnly` that is the next older
        one, which is returned with its number, or what comes after `newest`, which was tried first; otherwise
        `Lagged` is raised, or everything is to be looked at again."""
        ring, policy = self._ring, self._subscription.policy
        if type(policy) is LatestOnly:
            for older in range(at - 1, now.cursor - 1, -1):
                slot = ring.table.get(older)
                if slot is not None and not slot.gone:
                    return slot, older
            self._move(now, newest + 1, False)
        elif type(policy) is KeepKeyFrames:
            self._lag(now, *ring.key_from(at + 1), error)
        else:
            self._lag(now, at + 1, now.awaits_key, error)
        return None, LOOK_AGAIN

    def _never_came(self) -> None:
        """An interrupt fell between the deciding step and the caller: what counts as received was not."""
        while True:
            now = self._subscription.now()
            if now.ended or self._subscription.advance(
                now,
                position(now.cursor, now.received - 1, now.missed + 1, now.lags, now.awaits_key),
            ):
                return

    # -- what can go wrong -----------------------------------------------------------------------------------

    def _lagged(self, missed: int, shut: str = "") -> Lagged:
        if shut:
            return Lagged(
                f"{self!r} missed {missed} frame(s): {shut}; the next recv() goes on with what is still "
                "there",
                missed,
            )
        return Lagged(
            f"{self!r} fell behind and missed {missed} frame(s); the next recv() goes on with what is still "
            f"there: receive faster, give the distributor more than {self._ring.capacity} slots, or choose "
            "another policy",
            missed,
        )

    def _empty(self, timeout: float | None) -> Empty:
        told = f"{self!r}: no frame within {timeout or 0} s; "
        blocking = self._ring.awaited()
        if blocking:
            told += f"whoever publishes waits for {' and '.join(blocking)} to receive; "
        held = self._ring.held_elsewhere() if timeout is not None and timeout >= NAMED_AFTER else ()
        if held:
            told += f"held are {'; '.join(held)}: where that starves the source, close them earlier; "
        error = Empty(f"{told}wait longer, or see whether the publisher still runs")
        error.holders = held
        return error

    def _at_end(self) -> ClosedError:
        return ClosedError(
            f"{self!r} has read everything, and its distributor is closed; there is nothing more to come"
        )

    def _over(self, now: Position) -> ClosedError:
        if now.ended == EVICTED:
            return EvictedError(
                f"{self!r} was thrown out after {now.lags} lag(s) by its policy "
                f"{self._subscription.policy!r}: resubscribe() and receive faster, or choose another policy"
            )
        return ClosedError(f"{self!r} is {now.ended}: nothing can be received from it; subscribe() again")

    # -- facts -----------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The receiver's name, empty without one."""
        return self._subscription.name

    @property
    def group(self) -> str:
        """The group that its figures belong to."""
        return self._subscription.group

    @property
    def received(self) -> int:
        """Frames received."""
        return self._subscription.now().received

    @property
    def missed(self) -> int:
        """Frames that this receiver will never get. ``published == received + missed + lag``, always."""
        return self._subscription.now().missed

    @property
    def lag(self) -> int:
        """Frames published and neither received nor missed yet."""
        now = self._subscription.now()
        return 0 if now.ended else max(0, self._ring.newest().seq + 1 - now.cursor)

    @property
    def closed(self) -> bool:
        """True if nothing can be received any more: closed, dropped or evicted, or the distributor is closed
        and all is read."""
        now = self._subscription.now()
        newest = self._ring.newest()
        return bool(now.ended) or (newest.end and now.cursor > newest.seq)

    @property
    def evicted(self) -> bool:
        """True if its policy removed it."""
        return self._subscription.now().ended == EVICTED

    def __len__(self) -> int:
        """How many frames could be received right now."""
        most = 1 if type(self._subscription.policy) is LatestOnly else self._ring.capacity
        return 0 if self._ring.discarded else min(self.lag, most)

    def __bool__(self) -> bool:
        return True

    def stats(self) -> ReceiverStats:
        """The figures, as a frozen snapshot."""
        subscription = self._subscription
        now = subscription.now()
        lag = 0 if now.ended else max(0, self._ring.newest().seq + 1 - now.cursor)
        return ReceiverStats(
            name=subscription.name,
            group=subscription.group,
            published=now.cursor + lag - subscription.start,
            received=now.received,
            missed=now.missed,
            lags=now.lags,
            lag=lag,
            ended=now.ended,
        )

    # -- the end ---------------------------------------------------------------------------------------------

    def resubscribe(self) -> FrameReceiver[T]:
        """Another receiver of the same name, group and policy, from now on. Raises `ClosedError` when the
        distributor is closed."""
        subscription = self._subscription
        return subscribe(
            self._ring,
            subscription.name,
            subscription.group,
            subscription.policy,
            self._ring.newest().seq + 1,
            False,
        )

    def close(self) -> None:
        """Stop receiving. Frames that were not read count as missed. A second call changes nothing."""
        self._ring.retire(self._subscription, "closed")

    def __enter__(self) -> FrameReceiver[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(
            f"{self!r} cannot be copied or pickled: use resubscribe() for another receiver, or send the "
            "frames' data"
        )

    def __repr__(self) -> str:
        subscription = self._subscription
        name = f" {subscription.name!r}" if subscription.name else ""
        group = f" of group {subscription.group!r}" if subscription.group else ""
        now = subscription.now()
        state = now.ended or f"{now.received} received, {now.missed} missed, {self.lag} to come"
        return f"<FrameReceiver{name}{group} of {self._ring.name!r}: {state}>"


class FrameLoop(Uncopied, Generic[T]):
    """A loop over a receiver's frames. Holds the one that the body works on, and closes it when the next is
    asked for, and when the loop itself is dropped."""

    _remedy = "begin another loop over the receiver"

    __slots__ = ("_frame", "_receiver", "_struck")

    def __init__(self, receiver: FrameReceiver[T]) -> None:
        self._struck = 0  # how often closing the frame was broken off
        self._receiver = receiver
        self._frame: Any = NOTHING

    def __iter__(self) -> FrameLoop[T]:
        return self

    def __aiter__(self) -> FrameLoop[T]:
        return self

    def _let_go(self) -> None:
        frame = self._frame
        try:
            if frame is not NOTHING and is_shareable(frame):
                give_back(frame)
        except BaseException as error:
            # What its close raised is told once, and the loop goes on behind it. An interrupted one is closed
            # again.
            self._struck += 1
            if not is_control_flow(error) or self._struck >= STRIKES:
                self._frame = NOTHING
                self._struck = 0
            raise
        finally:
            frame = None  # K3
        self._frame = NOTHING
        self._struck = 0

    def __next__(self) -> T:
        self._let_go()
        while True:
            try:
                self._frame = self._receiver.recv()
                return self._frame  # type: ignore[no-any-return]
            except Lagged:
                continue  # counted in `missed`
            except EvictedError:
                raise
            except ClosedError:
                raise StopIteration from None

    async def __anext__(self) -> T:
        self._let_go()
        while True:
            try:
                self._frame = await self._receiver.recv_async()
                return self._frame  # type: ignore[no-any-return]
            except Lagged:
                continue
            except EvictedError:
                raise
            except ClosedError:
                raise StopAsyncIteration from None

    def __del__(self) -> None:
        self._let_go()


def subscribe(
    ring: Ring[T], name: str, group: str, policy: Any, start: int, awaits_key: bool
) -> FrameReceiver[T]:
    """A new receiver at `start`; raises `ClosedError` on a closed ring."""
    if ring.closed:
        raise ring.refusal()
    subscription = Subscription(name, group, policy, start, awaits_key)
    receiver = FrameReceiver(ring, subscription)
    ring.subscribers.update(lambda subscribers: subscribers.with_subscription(subscription))
    return receiver
