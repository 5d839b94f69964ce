"""The receiver of a topic between machines."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any, Final

from lifecycle import ANY_THREAD, SafetyManager
from lifecycle.distribution import Policy
from lifecycle.errors import ClosedError, LifecycleError
from lifecycle.integrations.across.errors import (
    FrameFormatError,
    NoPublisherError,
    TopicError,
    TransportError,
)
from lifecycle.integrations.across.feeds import NOBODY, Source
from lifecycle.integrations.across.frames import Frame
from lifecycle.integrations.across.header import SIZE, Head, read
from lifecycle.integrations.across.receiving import SLICE, TopicReceiver, check_policy
from lifecycle.integrations.zenoh._session import END, HELLO, LIFE, key_of, session_of, zenoh
from lifecycle.lowlevel import check_timeout, keep_for_ever, monotonic, must_not_wait, recipe

__all__ = ["FRAME", "Receiver"]

FRAME: Final = "zenoh.Frame"
"""The type under which frames are registered."""
LATEST: Final = 2**63
"""A position behind every frame."""

ANSWER: Final = 1.0
"""Seconds that a new receiver waits at most until its publisher has answered that it knows the receiver."""
GRACE: Final = 0.25
"""Seconds for which a publisher whose token has ended counts as alive. zenoh tells of tokens ahead of data,
so the message that it has closed may still be on its way."""


def _forget(payload: bytes) -> None:
    """The release: the bytes are Python's own, and go with the last reference."""


class _Arrivals:
    """What zenoh's threads put and receivers take. It keeps nothing else."""

    def __init__(self, behind: int) -> None:
        self.frames: deque[tuple[Head, bytes]] = deque(maxlen=behind)
        self.heard = threading.Event()
        self.alive: set[int] = set()
        self.lost: dict[int, float] = {}
        """When the token of a publisher has ended (monotonic)."""
        self.ended: dict[int, int] = {}
        self.first: dict[int, int] = {}
        self.last: dict[int, int] = {}
        self.refused = 0

    def came(self, sample: Any) -> None:
        """A frame has come."""
        try:
            payload = sample.payload.to_bytes()
            attachment = sample.attachment
            header = b"" if attachment is None else attachment.to_bytes()
            if len(header) != SIZE:
                self.refused += 1  # somebody else's data under this key
                return
            head = read(header, len(payload))
        except FrameFormatError:
            self.refused += 1
            return
        self.first.setdefault(head.epoch, head.seq)
        self.last[head.epoch] = max(head.seq, self.last.get(head.epoch, -1))
        self.frames.append((head, payload))
        self.heard.set()

    def lives(self, sample: Any) -> None:
        """A publisher has come or gone."""
        number = str(sample.key_expr).rpartition("/")[2]
        if number.isdecimal():
            if sample.kind == zenoh.SampleKind.PUT:
                self.alive.add(int(number))
            else:
                self.lost[int(number)] = monotonic()
                self.alive.discard(int(number))
            self.heard.set()

    def closes(self, sample: Any) -> None:
        """A publisher tells that it closes, and how much it has published."""
        attachment = sample.attachment
        header = b"" if attachment is None else attachment.to_bytes()
        try:
            if len(header) != SIZE:
                raise FrameFormatError(f"{len(header)} bytes are no header")
            head = read(header, 0)
        except FrameFormatError:
            # Somebody else's data under this key.
            self.refused += 1
            return
        self.ended[head.epoch] = head.seq
        self.heard.set()


class _Feed:
    """See `across.feeds.Feed`."""

    def __init__(self, manager: SafetyManager, name: str, session: Any, own: bool, behind: int) -> None:
        self.name = name
        self.session = session
        self.own = own
        self.recipe: Any = recipe(manager, FRAME, release=_forget, release_on=ANY_THREAD)
        self.arrivals = arrivals = _Arrivals(behind)
        try:
            self.ends: tuple[Any, ...] = (
                session.declare_subscriber(name, arrivals.came),
                session.declare_subscriber(f"{name}/{END}", arrivals.closes),
                session.liveliness().declare_subscriber(f"{name}/{LIFE}/*", arrivals.lives, history=True),
            )
        except zenoh.ZError as error:
            raise TransportError(f"topic {name!r} cannot be received: zenoh says {error}") from None

    def introduce(self, epoch: int, seconds: float) -> None:
        """Wait until the publisher of that life has answered, `seconds` at most. From then on zenoh sends
        what it publishes: before, it may not know of the subscription yet, and sends nothing."""
        told: list[object] = []
        heard = self.arrivals.heard

        def tell(*reply: object) -> None:
            told.append(reply)
            heard.set()

        try:
            # The second call is without a reply: nobody is there to answer, or has.
            self.session.get(
                f"{self.name}/{HELLO}/{epoch}", handler=zenoh.handlers.Callback(tell, tell), timeout=seconds
            )
        except zenoh.ZError:
            return  # the session was closed, as `take` says
        until = monotonic() + seconds
        while not told and (left := until - monotonic()) > 0:
            self.wait(min(SLICE, left))

    def take(self) -> Frame | None:
        """See `across.feeds.Feed`."""
        payload = None
        gone = self.closed()
        try:
            try:
                head, payload = self.arrivals.frames.popleft()
            except IndexError:
                if not gone:
                    return None
                raise ClosedError(
                    f"the zenoh session of topic {self.name!r} was closed under its receiver: nothing comes "
                    "any more. Open another session, and make another receiver with it"
                ) from None
            return Frame(self.recipe.register(payload, None, head.nbytes), head, payload)
        finally:
            payload = None  # K3

    def has_more(self) -> bool:
        """See `across.feeds.Feed`."""
        return bool(self.arrivals.frames)

    def closed(self) -> bool:
        """See `across.feeds.Feed`."""
        return bool(self.session.is_closed())

    def wait(self, seconds: float) -> None:
        """See `across.feeds.Feed`."""
        heard = self.arrivals.heard
        heard.wait(seconds)
        heard.clear()

    def source(self) -> Source:
        """See `across.feeds.Feed`."""
        arrivals = self.arrivals
        known = {*tuple(arrivals.alive), *tuple(arrivals.ended), *tuple(arrivals.last)}
        if not known:
            return NOBODY
        epoch = max(known)
        published = max(arrivals.last.get(epoch, -1) + 1, arrivals.ended.get(epoch, 0))
        if any(one not in arrivals.ended for one in tuple(arrivals.alive)):
            # Also an earlier one, where several publish at once: frames come as long as one of them is open.
            return Source(epoch, published, "alive")
        if epoch in arrivals.ended:
            return Source(epoch, published, "closed")
        alive = monotonic() - arrivals.lost.get(epoch, -GRACE) < GRACE
        return Source(epoch, published, "alive" if alive else "died")

    def peers(self) -> list[dict[str, Any]]:
        """See `across.feeds.Feed`: zenoh does not tell."""
        return []

    def start(self, epoch: int) -> int | None:
        """See `across.feeds.Feed`."""
        return self.arrivals.first.get(epoch)

    def shut(self) -> None:
        """See `across.feeds.Feed`."""
        # A waiting thread must see it.
        self.arrivals.heard.set()
        steps = [end.undeclare for end in self.ends]
        if self.own and steps:
            steps.append(self.session.close)
        # Each may be done again after an interrupt (K7).
        for step in steps:
            try:
                step()
            except zenoh.ZError:
                # Done before, or the session was closed under it, and everything with it.
                continue
        self.ends = ()

    def keep(self) -> None:
        """See `across.feeds.Feed`."""
        keep_for_ever((self.session, self.ends))
        self.ends = ()


class Receiver(TopicReceiver):
    """Receives the frames of a topic from another machine, as copies.

    Parameters
    ----------
    manager:
        Owns the frames. Closing it closes the receiver first.
    name:
        The topic.
    policy:
        What happens when it falls behind: ``"drop-oldest"``, ``"latest-only"``, ``"keep-key-frames"``. There
        is no ``"block"``: a publisher waits for no other process.
    behind:
        How many frames wait for it.
    start:
        Seconds to wait for a publisher (None: for ever); a thread that must not wait does not.
    session:
        A ``zenoh.Session`` that stays yours; None opens one of its own, with zenoh's defaults. Once it is
        closed, what has come can be received, and then `recv` raises `ClosedError`.

    Once it is made its publisher knows it: what that publishes from then on comes here or counts as missed.
    Counts are exact from the first frame on that came here: what the network dropped is missed. `source` is
    ``"died"`` a quarter of a second after zenoh has told that the publisher is gone: it tells at once of a
    process on this machine, and after the session's lease of a host that is dead. A context manager that
    closes itself.

    Raises `NoPublisherError` where nobody publishes in time, `TopicError`, `TransportError`.
    """

    transport = "zenoh"
    _frame_type = FRAME

    def __init__(
        self,
        manager: SafetyManager,
        name: str,
        *,
        policy: Policy | str = "drop-oldest",
        behind: int = 4,
        start: float | None = 5.0,
        session: Any = None,
    ) -> None:
        if not isinstance(manager, SafetyManager):
            raise LifecycleError(f"Receiver(manager, name) takes a SafetyManager, not {manager!r}")
        key_of(name)
        chosen = check_policy(policy)
        if start is not None:
            check_timeout(start)
        if isinstance(behind, bool) or not isinstance(behind, int) or behind < 1:
            raise TopicError(
                f"Receiver(behind=) of topic {name!r} takes a whole number from 1 on, not {behind!r}"
            )
        if manager.closed:
            raise ClosedError(
                f"manager {manager.name!r} is closed, so it takes no receiver; make a new manager"
            )
        feed = _Feed(manager, name, *session_of(session, name), behind)
        until = None if start is None else monotonic() + start
        while feed.source().epoch == 0:
            left = SLICE if until is None else until - monotonic()
            if left <= 0 or must_not_wait():
                feed.shut()
                raise NoPublisherError(
                    f"nobody published topic {name!r} within {start} s: start its publisher, see that the "
                    "sessions reach each other, or give start= more seconds"
                )
            feed.wait(min(SLICE, left))
        if not (feed.arrivals.first or must_not_wait()):
            left = ANSWER if until is None else until - monotonic()
            feed.introduce(feed.source().epoch, max(0.0, min(ANSWER, left)))
        super().__init__(manager, name, chosen, feed)
        if not feed.arrivals.first:
            # What was published before it came here is not known, nor missed.
            self._position = self._position._replace(cursor=LATEST)
