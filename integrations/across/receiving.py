"""The receiver of a topic: what it has got and missed, and what happens when it falls behind.

**Counted exactly.** Where a receiver stands is one tuple, replaced by one store; a lock has one thread at a
time take a frame and count it. The lock is held for no wait and for no code of the user's. An interrupt while
the engine's frame becomes an object drops it, and it is missed by the next difference. From then on an
interrupt leaves it to the next call.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from lifecycle import FrameDistributor
from lifecycle.distribution import DropOldest, KeepKeyFrames, LatestOnly, Policy, crossing
from lifecycle.distribution.policies import policy_of
from lifecycle.errors import ClosedError, Empty, Lagged, LifecycleError
from lifecycle.integrations.across.bridges import Bridge, nothing_to_leave
from lifecycle.integrations.across.errors import BusyError, SourceDiedError, TopicError
from lifecycle.integrations.across.feeds import NOBODY, Feed
from lifecycle.integrations.across.frames import Frame
from lifecycle.integrations.across.position import Position
from lifecycle.lowlevel import Uncopied, after_fork, check_timeout, monotonic, must_not_wait, weakly
from lifecycle.manager import SafetyManager
from lifecycle.stats import DistributorStats, GroupStats, ReceiverStats

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SLICE", "TopicReceiver", "check_name", "check_policy"]

SLICE = 0.05
"""Seconds that the first waits of a call last at most. A frame, an end and a close wake it; the death of the
publisher's process, and what another thread was woken for, are looked for."""
LONGEST, GROWTH = 0.25, 1.25
"""Where nothing comes, each wait is that many times as long as the one before it, up to these seconds."""
FORKED = "of the parent process, which this one was forked from"

R = TypeVar("R", bound="TopicReceiver")


def check_name(name: object) -> str:
    """The name of a topic. Raises `TopicError`."""
    if not isinstance(name, str) or not 0 < len(name) <= 200 or not name.isascii() or not name.isprintable():
        raise TopicError(f"a topic's name is a text of 1 to 200 printable ASCII letters, not {name!r}")
    if "?" in name:
        raise TopicError(f"a topic's name has no '?', which begins what belongs to a topic: not {name!r}")
    return name


def check_policy(policy: Policy | str) -> Policy:
    """The policy that is meant. Raises `LifecycleError`."""
    chosen = policy_of(policy)
    if not isinstance(chosen, (DropOldest, LatestOnly, KeepKeyFrames)):
        raise LifecycleError(
            f"policy={policy!r} is not for receivers of other processes: a publisher waits for no other "
            "process, which might be stopped or dead, and a seat is its owner's own. Use 'drop-oldest', "
            "'latest-only' or 'keep-key-frames', and `into` a FrameDistributor, whose receivers may have any "
            "policy"
        )
    return chosen


class TopicReceiver(Uncopied):
    """What the receivers of all transports have in common. All methods may be called on any thread; several
    threads may receive from one receiver, each frame goes to one of them."""

    _remedy = "make another receiver of the topic"
    kind: ClassVar[str] = "topic"
    transport: ClassVar[str] = ""
    _frame_type: ClassVar[str] = ""

    def __init__(
        self, manager: SafetyManager, name: str, policy: Policy, feed: Feed, seat: int | None = None
    ) -> None:
        """`seat` is how many frames may be kept at a time; None: any number."""
        self._manager = manager
        self._name = name
        self._policy = policy
        self._latest = type(policy) is LatestOnly
        self._feed: Feed | None = feed
        # What is not shut yet of a receiver that is closed.
        self._to_shut: Feed | None = None
        self._seat = seat
        self._turn = threading.RLock()
        # What has come and is not placed yet.
        self._arrived: Frame | None = None
        self._told = 0
        # While a thread takes one; what comes in the middle of that on the same thread waits for it to end.
        self._busy = self._closes = False
        # The threads that wait.
        self._waiting: dict[int, bool] = {}
        # Asked once the topic knows of this receiver: what was published before then it need not get.
        source = feed.source()
        self._last = source
        self._position = Position(source.epoch, source.published, awaits_key=type(policy) is KeepKeyFrames)
        self._figures = TopicFigures(self)
        self._leave_manager = self._leave = nothing_to_leave
        self._leave_manager = manager.on_close(weakly(self.close))
        self._leave = manager.add_component(self, end=feed.shut, type_name=f"{self.transport}.Receiver")
        manager.add_component(self._figures)
        after_fork(self._after_fork)
        if manager.stopping.is_set:
            self.close()

    # -- receiving -------------------------------------------------------------------------------------------

    def recv(self, timeout: float | None = None) -> Frame:
        """The next frame: a share that is yours to close.

        Waits up to `timeout` seconds (None: for ever, 0: not at all); a thread that must not wait does not.
        An interrupt in here loses no frame, or counts it as missed.

        Raises `Empty` when nothing came, `Lagged` when frames were missed (the next call goes on),
        `PoolExhaustedError` when this receiver keeps as many frames as its seat has, `BusyError` in the
        middle of another `recv` on the same thread, `ClosedError` when everything was read and the publisher,
        or this receiver, is closed, and `SourceDiedError` when the publisher's process ended without closing.
        Each of these two is raised at once the first time; later calls wait for another publisher of the
        topic, and raise it again when the time is over.
        """
        if timeout is not None:
            check_timeout(timeout)
        frame = self._take()
        if frame is not None:
            return frame
        if must_not_wait():
            timeout = 0
        until = None if timeout is None else monotonic() + timeout
        pause, waited = SLICE, False
        while True:
            feed, seconds = self._nothing_yet(until, timeout, pause, waited)
            self._wait(feed, seconds)
            frame = self._take()
            if frame is not None:
                return frame
            pause, waited = min(pause * GROWTH, LONGEST), True

    async def recv_async(self, timeout: float | None = None) -> Frame:
        """`recv` for coroutines: the event loop goes on meanwhile, a thread of its executor waits. Cancelling
        it loses no frame."""
        import asyncio

        if timeout is not None:
            check_timeout(timeout)
        until = None if timeout is None else monotonic() + timeout
        pause, waited = SLICE, False
        while True:
            frame = self._take()
            if frame is not None:
                return frame
            feed, seconds = self._nothing_yet(until, timeout, pause, waited)
            await asyncio.get_running_loop().run_in_executor(None, self._wait, feed, seconds)
            pause, waited = min(pause * GROWTH, LONGEST), True

    def __iter__(self) -> Iterator[Frame]:
        """Frames until the publisher closes. Each is closed when the next one is asked for. What was missed
        is counted and not raised; `SourceDiedError` is raised."""
        return FrameLoop(self)

    def __aiter__(self) -> AsyncIterator[Frame]:
        """As ``__iter__``, for coroutines."""
        return FrameLoop(self)

    def into(self, distributor: FrameDistributor[Any]) -> Bridge:
        """Have a thread publish every frame to `distributor` of this process, without a copy, until this
        receiver, the bridge or the distributor is closed; a publisher that is made again is waited for.

        The distributor keeps up to ``capacity`` frames, and they count against this receiver's seat: raises
        `TopicError` where that leaves none to work with.
        """
        if not isinstance(distributor, FrameDistributor):
            raise LifecycleError(f"into() takes a FrameDistributor, not {distributor!r}")
        if self._seat is not None and distributor.capacity >= self._seat:
            raise TopicError(
                f"a distributor with capacity {distributor.capacity} would keep all {self._seat} frame(s) of "
                f"the seat at topic {self._name!r}: give it a smaller capacity, or have the topic made with "
                "more held="
            )
        return Bridge(self._manager, self._name, self, distributor.publish)

    # -- taking one ------------------------------------------------------------------------------------------

    def _open_feed(self) -> Feed:
        feed = self._feed
        if feed is None:
            ended = self._position.ended or "closed"
            raise ClosedError(
                f"the {self.transport} receiver of topic {self._name!r} is {ended}: nothing can be received "
                "from it; make another receiver"
            )
        return feed

    def _take(self) -> Frame | None:
        """The next frame, counted, or None. Raises `Lagged`."""
        frame: Frame | None = None
        arrived: Frame | None = None
        now: Any = None
        new = None
        try:
            try:
                with self._turn:
                    if self._busy:
                        raise BusyError(
                            f"{self!r} is receiving on this thread, in the middle of which this call came (a "
                            "signal handler, a __del__): receive on another thread, or afterwards"
                        )
                    try:
                        self._busy = True
                        # From here on a close on this thread waits.
                        feed = self._open_feed()
                        while True:
                            now = self._position
                            frame = now.waiting
                            if frame is None:
                                frame = self._arrived = self._arrived or feed.take()
                                if frame is None:
                                    return None
                                if now.follows(frame._head) and not self._latest:
                                    # As nearly all do: nothing was missed, and it is for the caller.
                                    arrived = frame
                                    new = now.with_next()
                                    self._position = new
                                    self._arrived = None  # K4
                                    if crossing.note is not None:
                                        self._note(frame)
                                    return frame
                                before = now
                                self._position = now = self._started(now).before(frame, type(self._policy))
                                self._arrived = None  # K4
                                if now.lags > before.lags:
                                    raise self._lagged(now.missed - before.missed)
                            received = self._wants(feed, now, frame)
                            new = now._replace(
                                received=now.received + received,
                                missed=now.missed + (not received),
                                cursor=now.cursor + (now.epoch == frame.epoch),
                                awaits_key=now.awaits_key and not received,
                                waiting=None,
                            )
                            self._position = new
                            if received:
                                if crossing.note is not None:
                                    self._note(frame)
                                return frame
                            new = None
                            frame.close()
                    finally:
                        self._busy = False
            finally:
                # In here: behind the handler nothing may jump, where 3.10 looks for signals.
                if self._closes:
                    self.close()
        except BaseException:
            if new is not None and self._position is new:
                # An interrupt fell between the count and the caller: it waits again.
                self._position = now
                self._arrived = arrived  # K4
            raise
        finally:
            frame = arrived = now = new = before = feed = None  # type: ignore[assignment]  # K3

    def _note(self, frame: Frame) -> None:
        """Have a recorder write that it was received."""
        note = crossing.note
        if note is not None:
            note("received", self._frame_type, frame.handle.id, self._name, frame.seq, frame.nbytes)

    def _started(self, now: Position) -> Position:
        """Where it stands before its first frame, as far as that is known."""
        feed = self._feed
        start = None if now.begun or feed is None else feed.start(now.epoch)
        return now if start is None else now._replace(cursor=start)

    def _wants(self, feed: Feed, now: Position, frame: Frame) -> bool:
        """Return True if the policy gives `frame` to the caller; otherwise it counts as missed."""
        if self._latest:
            return not feed.has_more()
        return frame.key or not now.awaits_key

    def _wait(self, feed: Feed, seconds: float) -> None:
        """Wait for what comes; one thread is woken for it."""
        me = threading.get_ident()
        if len(self._waiting) > (me in self._waiting):
            # Another waits as well, and two frames may wake one thread once.
            seconds = min(seconds, SLICE)
        try:
            self._waiting[me] = True
            feed.wait(seconds)
        finally:
            self._waiting.pop(me, None)

    def _nothing_yet(
        self, until: float | None, timeout: float | None, pause: float, waited: bool
    ) -> tuple[Feed, float]:
        """Nothing is there: raise what that means, or return what to wait in, and for how many seconds. The
        publisher is asked for where a wait has brought nothing: its close ends one."""
        left = pause if until is None else min(pause, until - monotonic())
        feed = self._open_feed()
        if not waited and left > 0:
            return feed, left
        source = self._last = feed.source()
        if source.state != "alive" and (self._told != source.epoch or left <= 0):
            # Asked after the end was seen: what was sent before it has come by now.
            if feed.has_more():
                return feed, 0
            self._told = source.epoch
            if source.state == "died":
                raise SourceDiedError(
                    f"{self!r} has read everything, and its publisher's process ended without closing the "
                    "topic; the next recv() waits for another one. See why it ended"
                )
            raise ClosedError(
                f"{self!r} has read everything, and its publisher is closed; the next recv() waits for "
                "another one"
            )
        if left <= 0:
            raise Empty(
                f"{self!r}: no frame within {timeout or 0} s; wait longer, or see whether the publisher "
                "still runs"
            )
        return feed, left

    def _lagged(self, missed: int) -> Lagged:
        return Lagged(
            f"{self!r} fell behind and missed {missed} frame(s); the next recv() goes on with what is still "
            "there: receive faster, have the topic made with more behind=, or choose another policy",
            missed,
        )

    # -- facts -----------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The topic."""
        return self._name

    @property
    def received(self) -> int:
        """Frames received, of all lives of the publisher."""
        return self._position.received

    @property
    def missed(self) -> int:
        """Frames that this receiver will never get. For each life, once its publisher is at rest, ``published
        == received + missed + lag`` from the first frame on that it could get."""
        return self._position.missed

    @property
    def lag(self) -> int:
        """Frames published and neither received nor missed yet. While the publisher publishes it may be one
        too small."""
        feed = self._feed
        if feed is None:
            return 0
        source = self._last = feed.source()
        return self._started(self._position).lag(source)

    @property
    def restarts(self) -> int:
        """How many lives of the publisher were seen after the first."""
        return self._position.restarts

    @property
    def source(self) -> str:
        """The publisher: ``"alive"``, ``"closed"``, or ``"died"`` where its process ended without closing."""
        feed = self._feed
        if feed is not None:
            self._last = feed.source()
        return self._last.state

    @property
    def closed(self) -> bool:
        """True if this receiver was closed, or what carries its frames under it."""
        feed = self._feed
        return feed is None or feed.closed()

    def stats(self) -> ReceiverStats:
        """The figures, as a frozen snapshot."""
        feed = self._feed
        now = self._position
        source = NOBODY if feed is None else feed.source()
        lag = 0 if feed is None else self._started(now).lag(source)
        return ReceiverStats(
            name=self._name,
            group="",
            published=now.received + now.missed + lag,
            received=now.received,
            missed=now.missed,
            lags=now.lags,
            lag=lag,
            ended=now.ended,
        )

    def describe(self) -> dict[str, Any]:
        """What ``lifecycle inspect PID topics`` shows of it, as data: topic, figures, processes."""
        feed, now = self._feed, self.stats()
        return {
            "topic": self._name,
            "transport": self.transport,
            "end": "receiver",
            "source": self.source,
            "received": now.received,
            "missed": now.missed,
            "lag": now.lag,
            "restarts": self.restarts,
            "peers": [] if feed is None else feed.peers(),
        }

    # -- the end ---------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Receive nothing more, and give the seat back. What was not read counts as missed. Frames and arrays
        that were received stay valid. Closing again changes nothing."""
        feed = self._feed
        waiting: Frame | None = None
        arrived: Frame | None = None
        try:
            if feed is not None:
                with self._turn:
                    if self._busy:
                        # By a signal handler or a ``__del__``, in the middle of taking one: that closes it.
                        self._closes = True
                        return
                    now = self._started(self._position)
                    if not now.ended:
                        try:
                            lag = now.lag(feed.source())
                        except LifecycleError:
                            lag = 0
                        waiting, arrived = now.waiting, self._arrived
                        self._arrived = None
                        self._position = now._replace(
                            missed=now.missed + lag, cursor=now.cursor + lag, ended="closed", waiting=None
                        )
                    self._to_shut, self._feed = feed, None
                for frame in (waiting, arrived):
                    if frame is not None:
                        frame.close()
            # An interrupt leaves it to the next close (K7).
            feed = self._to_shut
            if feed is not None:
                feed.shut()
                self._to_shut = None
            self._leave_manager()
            self._leave()
        finally:
            frame = waiting = arrived = None  # K3

    def _after_fork(self) -> None:
        """In a forked child: all of it is the parent's."""
        # The old lock may be a thread's that is not here.
        self._turn = threading.RLock()
        self._busy = self._closes = False
        self._waiting = {}
        feed, self._feed = self._feed, None
        self._to_shut = self._arrived = None
        self._position = self._position._replace(ended=FORKED, waiting=None)
        if feed is not None:
            feed.keep()

    def __enter__(self: R) -> R:
        self._open_feed()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        now = self._position
        state = now.ended or f"{now.received} received, {now.missed} missed"
        return f"<{self.transport} receiver of {self._name!r}: {state}>"


class TopicFigures:
    """A receiver among the components whose figures are shown: those of a distributor that has one."""

    kind = "distributor"

    def __init__(self, receiver: TopicReceiver) -> None:
        import weakref

        self.name: str = receiver.name
        self._receiver: Callable[[], TopicReceiver | None] = weakref.ref(receiver)

    def stats(self) -> DistributorStats:
        """What this process has received of the topic; it has published nothing."""
        receiver = self._receiver()
        group = GroupStats(group="", receivers=0, published=0, received=0, missed=0, lag=0, evictions=0)
        if receiver is not None:
            now = receiver.stats()
            group = GroupStats(
                group="",
                receivers=int(not receiver.closed),
                published=now.published,
                received=now.received,
                missed=now.missed,
                lag=now.lag,
                evictions=0,
            )
        return DistributorStats(
            name=self.name,
            capacity=0,
            published=0,
            held=0,
            receivers=group.receivers,
            closed=not group.receivers,
            close_failures=0,
            groups={"": group},
        )


class FrameLoop(Uncopied):
    """A loop over a receiver's frames. Holds the one that the body works on, and closes it when the next is
    asked for, and when the loop itself is dropped."""

    _remedy = "begin another loop over the receiver"

    __slots__ = ("_frame", "_receiver")

    def __init__(self, receiver: TopicReceiver) -> None:
        self._receiver = receiver
        self._frame: Frame | None = None

    def __iter__(self) -> FrameLoop:
        return self

    def __aiter__(self) -> FrameLoop:
        return self

    def _let_go(self) -> None:
        if self._frame is not None:
            self._frame.close()
        self._frame = None

    def __next__(self) -> Frame:
        self._let_go()
        while True:
            try:
                self._frame = self._receiver.recv()
                return self._frame
            except Lagged:
                continue  # counted in `missed`
            except SourceDiedError:
                raise
            except ClosedError:
                raise StopIteration from None

    async def __anext__(self) -> Frame:
        self._let_go()
        while True:
            try:
                self._frame = await self._receiver.recv_async()
                return self._frame
            except Lagged:
                continue
            except SourceDiedError:
                raise
            except ClosedError:
                raise StopAsyncIteration from None

    def __del__(self) -> None:
        self._let_go()
