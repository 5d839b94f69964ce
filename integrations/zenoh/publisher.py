"""The publisher of a topic between machines."""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import Any, Final

from lifecycle import FrameReceiver, SafetyManager
from lifecycle.distribution import crossing
from lifecycle.errors import ClosedError, LifecycleError
from lifecycle.integrations.across.bridges import Bridge, nothing_to_leave
from lifecycle.integrations.across.errors import BusyError, TransportError
from lifecycle.integrations.across.header import array_of, form_of, pack
from lifecycle.integrations.zenoh._session import END, HELLO, LIFE, key_of, session_of, zenoh
from lifecycle.lowlevel import Uncopied, after_fork, keep_for_ever, taking, weakly
from lifecycle.stats import DistributorStats

__all__ = ["Publisher"]

NOTHING: Final = form_of(0, "u1")


def _answer(query: Any) -> None:
    """Tell a new receiver that its subscription is known here: zenoh keeps the order of the two."""
    try:
        query.reply(query.key_expr, b"")
    except zenoh.ZError:
        return  # the session is being closed, and the receiver sees the token's end


class _Sending:
    """One frame on its way."""

    __slots__ = ("answer", "seq")

    def __init__(self, seq: int) -> None:
        self.seq = seq
        self.answer: tuple[Any, ...] = ()

    @property
    def next(self) -> int:
        """How many went out, this one included if it did."""
        return self.seq + bool(self.answer)


class _Ports:
    """The publisher's ends. Calls in flight keep them."""

    def __init__(self, name: str, session: Any, own: bool) -> None:
        self.name = name
        self.session = session
        self.own = own
        self.turn = threading.RLock()
        self.stopped = self.ended = self.forked = False
        # While a frame is sent; a close in the middle of that on the same thread waits for its end.
        self.busy = self.closes = False
        self.epoch = time.time_ns()
        self.sending = _Sending(0)
        try:
            self.publisher = session.declare_publisher(name)
            # Before the token: who sees that can ask.
            self.hello = session.declare_queryable(f"{name}/{HELLO}/{self.epoch}", _answer)
            self.token = session.liveliness().declare_token(f"{name}/{LIFE}/{self.epoch}")
        except zenoh.ZError as error:
            raise TransportError(f"topic {name!r} cannot be published: zenoh says {error}") from None

    def send(self, source: Any, form: Any, key: bool) -> int:
        """Send a copy."""
        try:
            return self._send(source, form, key)
        finally:
            if self.closes:
                self.shut()

    def _send(self, source: Any, form: Any, key: bool) -> int:
        """Send it, counted by the step that sends it."""
        with self.turn:
            if self.stopped:
                whose = "is of the parent process" if self.forked else "is closed"
                raise ClosedError(f"the publisher of topic {self.name!r} {whose}; make another")
            if self.busy:
                raise BusyError(
                    f"a frame of topic {self.name!r} is being published on this thread, in the middle of "
                    "which this call came (a signal handler, a __del__): publish on another thread, or "
                    "afterwards"
                )
            self.busy = True
            try:
                sending = _Sending(self.sending.next)
                header = pack(form, sending.seq, self.epoch, time.time_ns(), key)
                payload = source.tobytes()
                put = partial(self.publisher.put, payload, attachment=header)
                self.sending = sending
                # K2: sent and counted in one step.
                for sending.answer in zip(taking(put)):
                    break
                note = crossing.note
                if note is not None:
                    note("published", "zenoh.Put", 0, self.name, sending.seq, form.nbytes)
            except zenoh.ZError as error:
                sending.answer = (None,)  # somebody may have it: its number is not used again
                raise TransportError(
                    f"frame {sending.seq} of topic {self.name!r} was not sent: zenoh says {error}"
                ) from None
            finally:
                self.busy = False
            try:
                return int(self.publisher.matching_status.matching)
            except zenoh.ZError:
                # The session was closed since: nobody can listen any more.
                return 0

    def shut(self) -> None:
        """Tell receivers that it is closed. May be repeated."""
        with self.turn:
            self.stopped = True
            if self.busy:
                # By a signal handler or a ``__del__``, in the middle of a send: that ends it.
                self.closes = True
                return
        if self.ended:
            return
        steps = [self._tell_end, self.token.undeclare, self.hello.undeclare, self.publisher.undeclare]
        if self.own:
            steps.append(self.session.close)
        # Each may be done again after an interrupt (K7).
        for step in steps:
            try:
                step()
            except zenoh.ZError:
                # Done before, or the session was closed under it: its receivers see the token's end.
                continue
        self.ended = True

    def _tell_end(self) -> None:
        header = pack(NOTHING, self.sending.next, self.epoch, time.time_ns(), False)
        self.session.put(f"{self.name}/{END}", b"", attachment=header)

    def keep(self) -> None:
        """In a forked child: destroy nothing, ever."""
        keep_for_ever(self)
        # The old lock may be a thread's that is not here.
        self.turn = threading.RLock()
        self.stopped = self.ended = self.forked = True
        self.busy = self.closes = False


class Publisher(Uncopied):
    """Publishes frames to other machines, by copies: zenoh.

    Parameters
    ----------
    manager:
        Closing it closes the publisher first.
    name:
        The topic: a zenoh key without wildcards. It should have one publisher at a time, which is not
        checked: of two that publish at once receivers get both, each with its own `epoch` and counts.
    session:
        A ``zenoh.Session`` that stays yours, to be closed after the publisher; None opens one of its own,
        with zenoh's defaults.

    Pictures are large for a network: send encoded frames, with ``key=``. It waits for nobody: zenoh drops
    what a network cannot take, and receivers count that as missed. A context manager that closes itself. All
    methods may be called on any thread.
    """

    _remedy = "make another publisher, of another topic"
    kind: Final = "distributor"

    def __init__(self, manager: SafetyManager, name: str, *, session: Any = None) -> None:
        if not isinstance(manager, SafetyManager):
            raise LifecycleError(f"Publisher(manager, name) takes a SafetyManager, not {manager!r}")
        if manager.closed:
            raise ClosedError(
                f"manager {manager.name!r} is closed, so it takes no publisher; make a new manager"
            )
        self._manager = manager
        self._name = key_of(name)
        self._ports: _Ports = _Ports(self._name, *session_of(session, self._name))
        self._leave_manager = self._leave = nothing_to_leave
        self._leave_manager = manager.on_close(weakly(self.close))
        self._leave = manager.add_component(self, end=self._ports.shut, type_name="zenoh.Publisher")
        after_fork(self._after_fork)
        if manager.stopping.is_set:
            self.close()

    def copy(self, frame: Any, *, key: bool = True) -> int:
        """Publish a copy of an array, of any strides, of bytes (an encoded frame), or of anything that NumPy
        makes an array of. Return 1 if there is a receiver, else 0.

        `key` tells frames that stand for themselves from those that need their predecessors (see
        `KeepKeyFrames`). Raises `FrameFormatError` for what another process could not read, `ClosedError`,
        `BusyError` and `TransportError`.
        """
        source = array_of(frame)
        return self._ports.send(source, form_of(source.shape, source.dtype), bool(key))

    def pump(self, receiver: FrameReceiver[Any]) -> Bridge:
        """Have a thread publish a copy of each frame of a local distributor: arrays, bytes, or frames with
        ``array()``; until the receiver, the bridge or this publisher is closed."""
        if not isinstance(receiver, FrameReceiver):
            raise LifecycleError(
                f"pump() takes a FrameReceiver, made by FrameDistributor.subscribe, not {receiver!r}"
            )
        return Bridge(self._manager, self._name, receiver, self._copy_frame)

    def _copy_frame(self, frame: Any, *, key: bool) -> int:
        made = getattr(frame, "array", None)
        return self.copy(made() if callable(made) else frame, key=key)

    @property
    def name(self) -> str:
        """The topic."""
        return self._name

    @property
    def published(self) -> int:
        """Frames published in this life."""
        return self._ports.sending.next

    @property
    def epoch(self) -> int:
        """Which life of the topic's publisher this is."""
        return self._ports.epoch

    @property
    def closed(self) -> bool:
        """True if it was closed."""
        return self._ports.stopped

    def stats(self) -> DistributorStats:
        """The figures, as a frozen snapshot. How many receivers there are elsewhere is not known."""
        return DistributorStats(
            name=self._name,
            capacity=0,
            published=self.published,
            held=0,
            receivers=0,
            closed=self.closed,
            close_failures=0,
            groups={},
        )

    def describe(self) -> dict[str, Any]:
        """What ``lifecycle inspect PID topics`` shows of it, as data: the topic and its figures. Receivers on
        other machines are not known."""
        return {
            "topic": self._name,
            "transport": "zenoh",
            "end": "publisher",
            "published": self.published,
            "peers": [],
        }

    def close(self) -> None:
        """Publish nothing more, and tell the receivers. Closing again changes nothing."""
        self._ports.shut()
        self._leave_manager()
        self._leave()

    def _after_fork(self) -> None:
        """In a forked child: all of it is the parent's."""
        self._ports.keep()

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "of the parent process" if self._ports.forked else "closed" if self.closed else "open"
        return f"<zenoh publisher of {self._name!r}: {state}, {self.published} published>"
