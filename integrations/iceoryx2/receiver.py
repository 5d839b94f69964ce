"""The receiver of a topic of this machine."""

from __future__ import annotations

import ctypes
import threading
import time
from typing import Any, Final

from lifecycle import ANY_THREAD, SafetyManager
from lifecycle.distribution import Policy
from lifecycle.errors import ClosedError, LifecycleError, PoolExhaustedError
from lifecycle.integrations.across.errors import NoPublisherError, TransportError
from lifecycle.integrations.across.feeds import Source
from lifecycle.integrations.across.frames import Frame
from lifecycle.integrations.across.header import SIZE, read
from lifecycle.integrations.across.receiving import TopicReceiver, check_name, check_policy
from lifecycle.integrations.iceoryx2 import _engine
from lifecycle.integrations.iceoryx2._engine import Ends, Facts, Key, Watch, iox
from lifecycle.lowlevel import check_timeout, keep_for_ever, monotonic, must_not_wait, recipe, taking

__all__ = ["SAMPLE", "Receiver"]

SAMPLE: Final = "iceoryx2.Sample"
"""The type under which frames are registered."""
POLL: Final = 0.02
"""Seconds between two looks for a topic that is not there yet."""
LOOK: Final = 0.2
"""Seconds between two looks at the engine's own list for a publisher that has died."""
SELDOM: Final = 1.0
"""Where the system tells that a process has ended."""
RETRIES: Final = 5
PAUSE: Final = 0.001
"""Seconds between two looks for a frame that comes back."""


class _Feed(Ends):
    """See `across.feeds.Feed`."""

    __slots__ = (
        "_dead",
        "_looked",
        "_looking",
        "_page",
        "_pid",
        "_reader",
        "_receive",
        "_watch",
        "heard",
        "held",
        "manager",
        "name",
        "recipe",
        "ring",
        "starved",
        "subscriber",
        "waker",
    )

    def __init__(self, manager: SafetyManager, name: str) -> None:
        super().__init__(name)
        self.manager = manager
        self.name = name
        self.starved = 0
        self.recipe: Any = recipe(manager, SAMPLE, release=iox.Sample.delete, release_on=ANY_THREAD)
        # One thread at a time asks for the publisher: the system's poll is refused to a second one.
        self._looking = threading.RLock()
        self._watch = Watch()
        self._pid = 0
        self._dead = 0
        self._looked = 0.0

    def open(self) -> bool:
        """Open what there is; False where there is no topic yet. Raises what else is wrong."""
        try:
            service = _engine.frames_service(self.node, self.name).open()
        except iox.PublishSubscribeOpenError as error:
            reason = _engine.text_of_reason(error)
            if "DoesNotExist" in reason or "Initialization" in reason or "MarkedForDestruction" in reason:
                return False
            raise _engine.refused(f"topic {self.name!r} cannot be opened", error) from None
        try:
            if not self._turn_page(0):
                return False
            ports = int(service.static_config.max_subscribers) + _engine.SPARE_NODES
            event = _engine.event_service(self.node, self.name, ports)
            heard, waker = event.listener_builder().create(), event.notifier_builder().create()
            ring = _engine.joins_service(self.node, self.name, ports).notifier_builder().create()
        except _ENGINE as error:
            raise _engine.refused(f"topic {self.name!r} cannot be opened", error) from None
        self.service = self.hold(service)
        config = service.static_config
        self.held = int(config.subscriber_max_borrowed_samples)
        self.heard = self.hold(heard)
        self.waker = self.hold(waker)
        self.ring = self.hold(ring)
        self.subscriber = self.hold(self._seat(config))
        self._receive = self.subscriber.receive
        self.ring.notify()
        return True

    def _seat(self, config: Any) -> Any:
        for last in (False, True):
            try:
                return (
                    self.service.subscriber_builder().buffer_size(config.subscriber_max_buffer_size).create()
                )
            except iox.SubscriberCreateError as error:
                if "ExceedsMaxSupportedSubscribers" not in _engine.text_of_reason(error):
                    raise _engine.refused(f"topic {self.name!r} cannot be received", error) from None
                if not last:
                    _engine.reap(_engine.settings())
        others = ", ".join(
            f"{executable or 'a process'} (pid {pid}, {state})" for pid, executable, state, _ in self.nodes()
        )
        raise PoolExhaustedError(
            f"topic {self.name!r} has {config.max_subscribers} seat(s), and all are taken; processes at the "
            f"topic: {others}. Close a receiver, or have the topic made with more receivers="
        )

    # -- Feed ------------------------------------------------------------------------------------------------

    def take(self) -> Frame | None:
        """See `across.feeds.Feed`. Raises `PoolExhaustedError` where everything that the seat may keep is
        kept."""
        sample = None
        tries = 0
        try:
            while True:
                try:
                    for sample in taking(self._receive):  # noqa: B007 - K2
                        break
                    break
                except iox.ReceiveError as error:
                    reason = _engine.text_of_reason(error)
                    if "ExceedsMaxBorrows" not in reason:
                        raise TransportError(
                            f"nothing can be received of topic {self.name!r}: iceoryx2 says {reason}"
                        ) from None
                # Arrays that are gone have posted their frames: run that, and ask once more.
                tries += 1
                if not self.manager.run_due() and tries > 1:
                    if tries > RETRIES:
                        self.starved += 1
                        raise PoolExhaustedError(
                            f"a receiver of topic {self.name!r} keeps the {self.held} frame(s) that its seat "
                            "may keep: close frames, and the arrays made from them, or have the topic made "
                            "with more held="
                        )
                    # Another thread may be giving one back.
                    time.sleep(PAUSE)
            if sample is None:
                return None
            address = sample.payload_ptr
            head = read(
                ctypes.string_at(sample.user_header_ptr, SIZE),
                sample.header.number_of_elements * _engine.LINE,
            )
            return Frame(self.recipe.register(sample, address, head.nbytes), head, address)
        finally:
            sample = None  # K3

    def has_more(self) -> bool:
        """See `across.feeds.Feed`."""
        return bool(self.subscriber.has_samples())

    def closed(self) -> bool:
        """See `across.feeds.Feed`: its node is its own."""
        return False

    def wait(self, seconds: float) -> None:
        """See `across.feeds.Feed`."""
        try:
            self.heard.timed_wait(iox.Duration.from_micros(max(0, int(seconds * 1e6))))
        except iox.ListenerWaitError:
            # A signal, or an event that cannot be read: looked for by polling.
            time.sleep(min(seconds, PAUSE))

    def _turn_page(self, epoch: int) -> bool:
        """Read the blackboard of the latest life after `epoch`; False where there is none."""
        for life in reversed(_engine.lives(self.name)):
            if life <= epoch:
                return False
            try:
                board = _engine.board_of(self.node, self.name, life)
                reader = board.reader_builder().create().entry(Key(1), Facts)
            except (iox.BlackboardOpenError, iox.ReaderCreateError, iox.EntryHandleError):
                continue  # it is just being made, or removed
            if reader.get().decode_as(Facts).epoch == life:
                self._reader = reader
                self._page = (board, reader)
                return True
        return False

    def source(self) -> Source:
        """See `across.feeds.Feed`."""
        with self._looking:
            while True:
                facts = self._reader.get().decode_as(Facts)
                epoch = int(facts.epoch)
                state = "alive"
                if facts.closed:
                    state = "closed"
                elif self._has_died(epoch, int(facts.pid)):
                    state = "died"
                if state == "alive" or not self._turn_page(epoch):
                    return Source(epoch, int(facts.published), state)

    def peers(self) -> list[dict[str, Any]]:
        """See `across.feeds.Feed`."""
        with self._looking:
            found = self.nodes()
        return [{"pid": pid, "executable": name, "state": state} for pid, name, state, _ in found]

    def keep(self) -> None:
        """See `across.feeds.Feed`."""
        # The old lock may be a thread's that is not here.
        self._looking = threading.RLock()
        super().keep()
        keep_for_ever(self._page)

    def _has_died(self, epoch: int, pid: int) -> bool:
        if self._dead == epoch:
            return True
        if self._pid != pid:
            self._pid = pid
            self._watch.follow({pid})
            self._looked = 0.0
        now = monotonic()
        if not self._watch.wait(0) and now - self._looked < (SELDOM if self._watch.follows(pid) else LOOK):
            return False
        self._looked = now
        # The engine knows best, where it still has an entry: none is left once somebody has reaped it.
        states = [state for other, _, state, _ in self.nodes() if other == pid]
        if self.service.dynamic_config.number_of_publishers and "alive" in states:
            self._watch.follow(set())
            self._watch.follow({pid})
            return False
        self._dead = epoch
        return True

    def start(self, epoch: int) -> int | None:
        """See `across.feeds.Feed`."""
        return None

    def shut(self) -> None:
        """See `across.feeds.Feed`: whoever has let go of the engine's ends has ended them."""
        try:
            self.waker.notify()
        except iox.NotifierNotifyError:
            # They look by themselves a moment later.
            pass
        with self._looking:
            self._watch.close()


_ENGINE: Final = tuple(
    error for error in vars(iox).values() if isinstance(error, type) and issubclass(error, Exception)
)


class Receiver(TopicReceiver):
    """Receives the frames of a topic of this machine, without a copy.

    Parameters
    ----------
    manager:
        Owns the frames. Closing it closes the receiver first.
    name:
        The topic. Its figures are its publisher's.
    policy:
        What happens when it falls behind: ``"drop-oldest"``, ``"latest-only"``, ``"keep-key-frames"``. There
        is no ``"block"``: a publisher waits for no other process.
    start:
        Seconds to wait for the topic to be made (None: for ever); a thread that must not wait does not.

    It takes a seat: a place among the topic's receivers, with as many frames as it may keep, which nobody
    else can take. A context manager that closes itself.

    Raises `NoPublisherError` where there is no topic in time, `TopicError` for a name that is none, or of
    another kind of service, `PoolExhaustedError` when all seats are taken, `LifecycleError` for a policy that
    it cannot have.
    """

    transport = "iceoryx2"
    _frame_type = SAMPLE

    def __init__(
        self,
        manager: SafetyManager,
        name: str,
        *,
        policy: Policy | str = "drop-oldest",
        start: float | None = 5.0,
    ) -> None:
        if not isinstance(manager, SafetyManager):
            raise LifecycleError(f"Receiver(manager, name) takes a SafetyManager, not {manager!r}")
        check_name(name)
        chosen = check_policy(policy)
        check_timeout(start)
        if manager.closed:
            raise ClosedError(
                f"manager {manager.name!r} is closed, so it takes no receiver; make a new manager"
            )
        _engine.check_room(f"topic {name!r} cannot be received")
        feed = _Feed(manager, name)
        manager.policy(SAMPLE, fork="keep")
        until = None if start is None else monotonic() + start
        while not feed.open():
            if (until is not None and monotonic() >= until) or must_not_wait():
                raise NoPublisherError(
                    f"topic {name!r} was not there within {start} s: start its publisher, with the same "
                    "version of iceoryx2 and as the same user, or give start= more seconds"
                )
            time.sleep(POLL)
        super().__init__(manager, name, chosen, feed, feed.held)
