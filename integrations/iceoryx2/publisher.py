"""The publisher of a topic.

**Sent or given back.** `publish` takes the loan out of the manager, and hands it to the engine. In between
nobody has it but that call: interrupted there, it is dropped, and the engine has it back. What was sent is
told by the step that stores the engine's answer, so a frame that went out counts as published whatever comes
then.

**Figures follow.** A frame's number is that of the last one that went out, plus one. The blackboard follows
the send, and so does the event that wakes receivers; the next call makes up for one that was interrupted.

**The watcher** is a thread that waits for receivers that ring (it gives them the frames of `history`) and for
the death of their processes, whose seats it has freed at once.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from typing import Any, Final

import attrs

from lifecycle import ANY_THREAD, FrameReceiver, SafetyManager
from lifecycle.distribution import crossing
from lifecycle.errors import ClosedError, ForeignHandleError, LifecycleError, PoolExhaustedError
from lifecycle.integrations.across.bridges import Bridge, nothing_to_leave
from lifecycle.integrations.across.errors import (
    BusyError,
    FrameTooLargeError,
    TopicError,
    TransportError,
)
from lifecycle.integrations.across.header import Form, array_of, form_of
from lifecycle.integrations.across.receiving import check_name
from lifecycle.integrations.iceoryx2 import _engine
from lifecycle.integrations.iceoryx2._engine import Ends, Facts, Figures, Key, Watch, iox
from lifecycle.integrations.iceoryx2.loans import Lent, Loan, write_header
from lifecycle.integrations.iceoryx2.peers import Peer, Reaped
from lifecycle.lowlevel import (
    Uncopied,
    after_fork,
    check_timeout,
    complain,
    keep_for_ever,
    monotonic,
    must_not_wait,
    recipe,
    taking,
    weakly,
)
from lifecycle.stats import DistributorStats

__all__ = ["LOAN", "Publisher"]

LOAN: Final = "iceoryx2.Loan"
"""The type under which loans are registered."""
PAUSE: Final = 0.001
"""Seconds between two looks for a loan that comes back."""
SLICE, LONG_SLICE = 0.05, 0.25
"""Seconds between two looks of the watcher: where it cannot, and where it can wait for all that it serves."""
AGAIN: Final = (0.05, 8.0)
"""Seconds after which the watcher looks again where a dead process could not be freed, or nobody tells when
one ends, doubled from the first to the longest."""
REOPEN: Final = 2.0
"""Seconds within which a topic of a publisher that has just ended must have become free."""


class _Sending:
    """One frame on its way. `told` is None until the engine has answered."""

    __slots__ = ("seq", "told")

    def __init__(self, seq: int) -> None:
        self.seq = seq
        self.told: int | None = None

    @property
    def next(self) -> int:
        """How many went out, this one included if it did."""
        return self.seq + (self.told is not None)


class _Counts:
    """What is known of one life, also once its ports were let go: a publish that is closed in its middle goes
    on to the end, and counts."""

    __slots__ = ("epoch", "failed", "freed", "sending")

    def __init__(self) -> None:
        self.epoch = self.freed = self.failed = 0
        self.sending = _Sending(0)


class _Ports(Ends):
    """The publisher's ends. The watcher and calls in flight keep them."""

    __slots__ = (
        "busy",
        "counts",
        "entry",
        "forked",
        "heard",
        "known",
        "lent",
        "name",
        "nbytes",
        "passing",
        "pid",
        "publisher",
        "rings",
        "stopped",
        "turn",
        "waker",
    )

    def __init__(self, name: str, nbytes: int, figures: Figures, loans: int) -> None:
        super().__init__(name)
        self.name = name
        self.nbytes = nbytes
        self.turn = threading.RLock()
        self.waker: list[int] = []
        self.stopped = self.busy = self.forked = False
        self.known = -1
        # Asked once: it is a call of the system, and a forked child tells nothing.
        self.pid = os.getpid()
        self.counts = _Counts()
        # What is on its way between the manager and the engine, for a child that is forked there.
        self.passing: Any = None
        self.lent: weakref.WeakSet[Lent] = weakref.WeakSet()
        self.service = self.hold(self._service(name, figures))
        self.publisher = self.hold(self._port(name, nbytes, loans))
        try:
            ports = figures.receivers + _engine.SPARE_NODES
            self.heard = self.hold(_engine.event_service(self.node, name, ports).notifier_builder().create())
            self.rings = self.hold(_engine.joins_service(self.node, name, ports).listener_builder().create())
            self.entry = self.hold(self._entry(name, figures))
        except _ENGINE as error:
            raise _engine.refused(f"topic {name!r} cannot be opened", error) from None
        # K2: opened and known in one step.
        for self.waker[:] in taking(os.pipe):
            break

    def _service(self, name: str, figures: Figures) -> Any:
        """The service with these figures, created, or opened where receivers of an earlier life keep it."""
        until = monotonic() + REOPEN
        while True:
            try:
                found = _engine.frames_service(self.node, name).open()
            except iox.PublishSubscribeOpenError as error:
                reason = _engine.text_of_reason(error)
                if reason != "DoesNotExist" and (monotonic() > until or "Incompatible" in reason):
                    raise _engine.refused(f"topic {name!r} cannot be opened", error) from None
            else:
                has = Figures.of(found.static_config)
                if has != figures:
                    raise TopicError(
                        f"topic {name!r} is there with {has}, kept by its receivers or a publisher, and was "
                        f"asked for with {figures}: use the same figures, or end those processes first"
                    )
                return found
            try:
                return (
                    _engine.frames_service(self.node, name)
                    .max_publishers(1)
                    .max_subscribers(figures.receivers)
                    .subscriber_max_borrowed_samples(figures.held)
                    .subscriber_max_buffer_size(figures.behind)
                    .history_size(figures.history)
                    .enable_safe_overflow(True)
                    .max_nodes(figures.receivers + _engine.SPARE_NODES)
                    .create()
                )
            except iox.PublishSubscribeCreateError as error:
                if monotonic() > until:
                    raise _engine.refused(f"topic {name!r} cannot be made", error) from None
                time.sleep(PAUSE)

    def _port(self, name: str, nbytes: int, loans: int) -> Any:
        """The port that sends; a dead predecessor is reaped for it."""
        until = monotonic() + REOPEN
        while True:
            try:
                return (
                    self.service.publisher_builder()
                    .initial_max_slice_len(_lines(nbytes))
                    .max_loaned_samples(loans)
                    .backpressure_strategy(iox.BackpressureStrategy.DiscardData)
                    .allocation_strategy(iox.AllocationStrategy.Static)
                    .create()
                )
            except iox.PublisherCreateError as error:
                if "ExceedsMaxSupportedPublishers" not in _engine.text_of_reason(error):
                    raise _engine.refused(f"topic {name!r} cannot be published", error) from None
                self.reap()
                states = [state for _, _, state, _ in self.nodes()]
                if monotonic() > until or (states and "dead" not in states):
                    raise _engine.another_publisher(name, self) from None
                time.sleep(PAUSE)

    def _entry(self, name: str, figures: Figures) -> Any:
        """The entry of this life's blackboard."""
        epoch = self.counts.epoch = max(time.time_ns(), *(life + 1 for life in (0, *_engine.lives(name))))
        readers = figures.receivers + _engine.SPARE_NODES
        board = self.hold(_engine.new_board(self.node, name, epoch, readers))
        entry = self.hold(self.hold(board.writer_builder().create()).entry(Key(1), Facts))
        entry.update_with_copy(Facts(epoch, 0, 0, self.pid))
        return entry

    # -- in use ----------------------------------------------------------------------------------------------

    def send(self, loan: Loan | Lent, form: Form, key: bool) -> int:
        """Send what was lent. See the module."""
        raw = sample = sending = None
        counts = self.counts
        kept = ", and the loan stays yours" if isinstance(loan, Loan) else ""
        with self.turn:
            if self.busy:
                raise BusyError(
                    f"a frame of topic {self.name!r} is being published on this thread, in the middle of "
                    "which this call came (a signal handler, a __del__): publish on another thread, or "
                    f"afterwards{kept}"
                )
            self.busy = True
            try:
                sending = _Sending(counts.sending.next)
                if self.stopped:
                    raise ClosedError(f"the publisher of topic {self.name!r} is closed{kept}")
                if isinstance(loan, Lent):
                    id, raw = 0, loan.raw
                    header = raw.user_header_ptr
                    write_header(header, form, sending.seq, counts.epoch, time.time_ns(), key)
                else:
                    id = loan._handle.id
                    loan._write_header(sending.seq, counts.epoch, time.time_ns(), key)
                    raw = loan._handle.detach()
                self.passing = raw
                sample = raw.assume_init()
                self.passing = sample
                counts.sending = sending
                try:
                    for sending.told in taking(sample.send):
                        break
                except iox.SendError as error:
                    # Some may have it, so its number is not used again: for the others it counts as missed.
                    sending.told = 0
                    raise TransportError(
                        f"frame {sending.seq} of topic {self.name!r} was not delivered to all: iceoryx2 says "
                        f"{_engine.text_of_reason(error)}"
                    ) from None
                note = crossing.note
                if note is not None:
                    note("published", LOAN, id, self.name, sending.seq, form.nbytes)
                return sending.told or 0
            finally:
                raw = sample = loan = self.passing = None  # type: ignore[assignment]  # K3
                self.busy = False
                if self.stopped or (sending is not None and sending.told is not None):
                    self.tell()

    def tell(self) -> None:
        """Write the figures, and wake whoever waits. May be repeated."""
        if self.forked:
            # They are the parent's, in whose publish this process was forked.
            return
        now = self.counts
        told = None
        # What came in the middle of it, by a signal handler or a ``__del__``, is not written over for good.
        while told != (told := (now.sending.next, int(self.stopped))):
            self.entry.update_with_copy(Facts(now.epoch, *told, self.pid))
        try:
            self.heard.notify()
        except iox.NotifierNotifyError:
            # Receivers look by themselves a moment later; one that is stopped takes no more.
            pass

    def reap(self) -> Reaped:
        """Free what the dead of this topic had. Not in turn: publishing goes on."""
        with self.turn:
            dead = {identity for _, _, state, identity in self.nodes() if state == "dead"}
        freed, failed = _engine.reap(_engine.settings(), dead) if dead else (0, 0)
        self.counts.freed += freed
        self.counts.failed += failed
        return Reaped(freed, failed)

    def reap_all(self) -> Reaped:
        """That, and what those had who died before they had joined a topic, or in other topics."""
        own = self.reap()
        freed, left = _engine.reap(_engine.settings())
        with self.turn:
            # It keeps the file of a connection until it looks.
            self.publisher.update_connections()
        return Reaped(own.freed + freed, own.failed, left)

    def peers(self) -> tuple[Peer, ...]:
        """The processes at the topic, this end's own entry left out."""
        with self.turn:
            return tuple(Peer(pid, executable, state) for pid, executable, state, _ in self.nodes())  # type: ignore[arg-type]

    def over(self) -> bool:
        """Return True if it was closed."""
        return self.stopped

    def watch(self) -> None:
        """The watcher's work."""
        watch = Watch()
        told = undone = False
        again, longest = AGAIN
        waited = 0.0
        try:
            with self.turn:
                if self.stopped:
                    # Before this thread began: the waker may be closed.
                    return
                pause = LONG_SLICE if watch.listen(self.rings) else SLICE
                watch.also(self.waker[0])
            while True:
                begun = monotonic()
                died = watch.wait(min(pause, again) if undone else pause)
                # Asked out of turn: a call that closes in the middle of a publish has the turn, and waits for
                # this.
                if self.over():
                    return
                waited += monotonic() - begun
                try:
                    due = undone and waited >= again
                    looked = self._look(watch, died or due)
                    if looked is not None:
                        again = min(2 * again, longest) if looked and due else AGAIN[0]
                        undone, waited = looked, 0.0
                except Exception:
                    # What the engine cannot tell now it may tell later; said once.
                    if not told:
                        complain()
                    told = True
                    # What it did not take would wake it for ever.
                    time.sleep(SLICE)
        finally:
            watch.close()

    def _look(self, watch: Watch, died: bool) -> bool | None:
        """Serve the peers that have sent a wake-up, and free what dead peers had. True if that has to be
        looked at again: one was not freed, or has died since; None where nothing was looked at."""
        with self.turn:
            if self.over():
                return None
            rung = bool(self.rings.try_wait())
            if rung:
                self.publisher.update_connections()
                # Who rang may wait already, for what it has been given by that.
                self.tell()
            if not (died or rung or self.service.dynamic_config.number_of_subscribers != self.known):
                return None
            nodes = self.nodes()
        if died or any(state == "dead" for _, _, state, _ in nodes):
            self.reap()
        with self.turn:
            if self.over():
                return None
            self.publisher.update_connections()
            nodes = self.nodes()
            self.known = self.service.dynamic_config.number_of_subscribers
        alive = {pid for pid, _, state, _ in nodes if state == "alive" and pid != self.pid}
        watch.follow(alive)
        return any(state == "dead" for _, _, state, _ in nodes) or not all(map(watch.follows, alive))

    def shut(self) -> None:
        """Tell receivers that it is closed, and end the watcher. May be repeated (K7)."""
        with self.turn:
            self.stopped = True
            # In the middle of a send, by a signal handler or a ``__del__``: that tells it.
            if not self.busy:
                self.tell()
            # In turn, so that nobody closes it meanwhile.
            for writing in self.waker[1:]:
                os.write(writing, b"x")

    def keep(self) -> None:
        """In a forked child: destroy nothing, ever, and tell nothing."""
        # The old lock may be a thread's that is not here.
        self.turn = threading.RLock()
        self.stopped = self.forked = True
        self.busy = False
        for lent in (self.passing, *(one.raw for one in self.lent)):
            keep_for_ever(lent)
        super().keep()

    def forget_waker(self) -> None:
        """Once the watcher has ended. May be repeated."""
        with self.turn:
            try:
                # K2: whoever takes it closes it.
                for descriptor in taking(self.waker.pop):
                    os.close(descriptor)
            except IndexError:
                # Both are closed.
                return

    def __del__(self) -> None:
        # What is closed before loses nothing by an interrupt in here.
        if getattr(self, "waker", ()):
            self.forget_waker()


_ENGINE: Final = tuple(
    error for error in vars(iox).values() if isinstance(error, type) and issubclass(error, Exception)
)


def _lines(nbytes: int) -> int:
    return max(1, -(-nbytes // _engine.LINE))


@attrs.frozen
class PublisherStats(DistributorStats):
    """A publisher's figures at one moment: those of a distributor, of which the other processes' receivers
    are not known, and what is its own."""

    freed: int = 0
    """Dead processes whose seats were freed here."""
    failed: int = 0
    """Reapings of dead processes that failed."""
    frames: int = 0
    """Frames that its memory has room for."""


class Publisher(Uncopied):
    """Publishes frames to other processes of this machine, by shared memory.

    Parameters
    ----------
    manager:
        Owns the loans. Closing it closes the publisher first.
    name:
        The topic: 1 to 200 printable ASCII letters, none of them '?'. It has one publisher at a time.
    nbytes:
        The largest frame, in bytes.
    receivers, held, behind, history:
        The topic's figures, fixed by who creates it: how many receivers there may be, how many frames each
        may keep, how many wait for it, and how many of the last ones a receiver that comes later is given.
        Memory for ``receivers × (held + behind) + history + loans`` frames is taken at once.
    loans:
        How many frames may be written at a time.
    reserve:
        Have the pages reserved now, so that a lack of shared memory is a `SharedMemoryError` here. False:
        pages are taken as they are first used, and where none is left the process is killed by SIGBUS.

    It waits for no other process: a receiver that is slow, stopped or dead misses frames. A context manager
    that closes itself. All methods may be called on any thread.

    Raises `TopicError` for a name or figures that are none or differ from those of a topic that is there,
    `SecondPublisherError`, `SharedMemoryError`, `TransportError`.
    """

    _remedy = "make another publisher, of another topic"
    kind: Final = "distributor"

    def __init__(
        self,
        manager: SafetyManager,
        name: str,
        nbytes: int,
        *,
        receivers: int = 4,
        held: int = 4,
        behind: int = 4,
        history: int = 1,
        loans: int = 2,
        reserve: bool = True,
    ) -> None:
        if not isinstance(manager, SafetyManager):
            raise LifecycleError(f"Publisher(manager, name, nbytes) takes a SafetyManager, not {manager!r}")
        self._name = check_name(name)
        for what, value, least in (
            ("nbytes", nbytes, 1),
            ("receivers", receivers, 1),
            ("held", held, 1),
            ("behind", behind, 1),
            ("history", history, 0),
            ("loans", loans, 1),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= 2**40:
                raise TopicError(
                    f"Publisher({what}=) of topic {name!r} takes a whole number from {least} on, not "
                    f"{value!r}"
                )
        if history > behind:
            raise TopicError(
                f"topic {name!r}: history={history} is more than behind={behind}, and a receiver could not "
                "be given it"
            )
        if manager.closed:
            raise ClosedError(
                f"manager {manager.name!r} is closed, so it takes no publisher; make a new manager"
            )
        self._manager = manager
        self._figures = Figures(receivers, held, behind, history)
        self._frames = receivers * (held + behind) + history + loans
        self._nbytes = nbytes
        self._loans = loans
        self._forked = False
        _engine.check_room(
            f"topic {name!r} with room for {self._frames} frames of {nbytes} bytes cannot be made",
            _lines(nbytes) * _engine.LINE * self._frames if reserve else 0,
        )
        ports = _Ports(name, nbytes, self._figures, loans)
        self._reserved = "not reserved"
        if reserve:
            self._reserved = _engine.reserve(ports.publisher, _lines(nbytes) * _engine.LINE, self._frames)
        self._counts = ports.counts
        self._ports: _Ports | None = ports
        # What is not shut yet of a publisher that is closed.
        self._to_shut: _Ports | None = ports
        self._recipe = recipe(manager, LOAN, release=iox.SampleMutUninit.delete, release_on=ANY_THREAD)
        manager.policy(LOAN, fork="keep")
        self._watcher = threading.Thread(target=ports.watch, name=f"lifecycle-topic-{name}", daemon=True)
        self._leave_manager = self._leave = nothing_to_leave
        self._leave_manager = manager.on_close(weakly(self.close))
        self._leave = manager.add_component(self, end=ports.shut, type_name="iceoryx2.Publisher")
        after_fork(self._after_fork)
        self._watcher.start()
        ports.tell()
        if manager.stopping.is_set:
            self.close()

    # -- publishing ------------------------------------------------------------------------------------------

    def _open(self) -> _Ports:
        ports = self._ports
        if ports is None:
            raise ClosedError(f"{self!r}: nothing can be published any more; make another publisher")
        return ports

    def loan(self, shape: Any, dtype: Any = "u1", *, timeout: float | None = 0) -> Loan:
        """A frame to be written in place, of this shape and type of elements; what it holds is not defined.

        Where all loans are lent it waits up to `timeout` seconds for one (None: for ever; 0: not at all).
        Raises `PoolExhaustedError` then, `FrameFormatError` for what another process could not read,
        `FrameTooLargeError` for more than the topic's ``nbytes``, and `ClosedError`.
        """
        check_timeout(timeout)
        form = form_of(shape, dtype)
        ports = self._open()
        raw = handle = None
        try:
            raw = self._lend(ports, form, timeout)
            address, header = raw.payload_ptr, raw.user_header_ptr
            handle = self._recipe.register(raw, address, form.nbytes)
            note = crossing.note
            if note is not None:
                note("loan", LOAN, handle.id, self._name, 0, form.nbytes)
            return Loan(handle, form, address, header, ports)
        finally:
            raw = handle = None  # K3

    def _lend(self, ports: _Ports, form: Form, timeout: float | None) -> Any:
        """The engine's loan, for a frame of this form. As `loan`."""
        if form.nbytes > self._nbytes:
            raise FrameTooLargeError(
                f"a frame of {form.shape} {form.dtype} has {form.nbytes} bytes, and topic {self._name!r} was "
                f"made for {self._nbytes}: make its publisher with more nbytes="
            )
        until = None
        tried = False
        while True:
            try:
                return ports.publisher.loan_slice_uninit(_lines(form.nbytes))
            except iox.LoanError as error:
                reason = _engine.text_of_reason(error)
                if reason not in ("ExceedsMaxLoans", "OutOfMemory"):
                    raise TransportError(
                        f"topic {self._name!r} gives no frame: iceoryx2 says {reason}"
                    ) from None
            if timeout is not None and until is None:
                until = monotonic() + timeout
            if self._manager.run_due() or not tried:
                tried = True
                continue
            if (until is not None and monotonic() >= until) or must_not_wait():
                raise PoolExhaustedError(
                    f"topic {self._name!r} has {self._loans} loan(s), and all are being written: publish "
                    "or close them (and their arrays), or make its publisher with more loans="
                )
            time.sleep(PAUSE)

    def publish(self, loan: Loan, *, key: bool = True) -> int:
        """Send a loan to every receiver, and return how many there are. The loan is over then.

        `key` tells frames that stand for themselves from those that need their predecessors (see
        `KeepKeyFrames`). Raises `HeldError`, naming them, while arrays or views of the loan live, which could
        write what others read; `AccessRefusedError` for a loan that is over, `ForeignHandleError` for another
        publisher's, `ClosedError`, `BusyError` in the middle of another `publish` on the same thread; nothing
        has been sent then. Raises `TransportError` where the engine has failed to deliver.
        """
        if not isinstance(loan, Loan):
            raise LifecycleError(f"publish() takes a Loan, not {type(loan).__name__}; copy() takes arrays")
        ports = self._open()
        if loan._owner is not ports:
            raise ForeignHandleError(f"{loan!r} is no loan of {self!r}: publish it where it was lent")
        return ports.send(loan, loan._form, bool(key))

    def copy(self, array: Any, *, key: bool = True) -> int:
        """Publish a copy of an array, of any strides, of bytes, or of anything that NumPy makes an array of.
        As `loan` and `publish`; raises what they raise."""
        source = array_of(array)
        form = form_of(source.shape, source.dtype)
        ports = self._open()
        lent = None
        try:
            lent = Lent(self._lend(ports, form, 0))
            ports.lent.add(lent)
            lent.fill(source, form)
            return ports.send(lent, form, bool(key))
        finally:
            source = lent = None  # K3

    def pump(self, receiver: FrameReceiver[Any]) -> Bridge:
        """Have a thread publish a copy of each frame of a local distributor: arrays, bytes, or frames with
        ``array()``; until the receiver, the bridge or this publisher is closed."""
        if not isinstance(receiver, FrameReceiver):
            raise LifecycleError(
                f"pump() takes a FrameReceiver, made by FrameDistributor.subscribe, not {receiver!r}"
            )
        self._open()
        return Bridge(self._manager, self._name, receiver, self._copy_frame)

    def _copy_frame(self, frame: Any, *, key: bool) -> int:
        made = getattr(frame, "array", None)
        return self.copy(made() if callable(made) else frame, key=key)

    # -- others ----------------------------------------------------------------------------------------------

    def consumers(self) -> tuple[Peer, ...]:
        """The processes at the topic, this publisher's own entry left out. A process that is stopped, or
        hangs, is alive: it keeps its seat until it ends."""
        return self._open().peers()

    def describe(self) -> dict[str, Any]:
        """What ``lifecycle inspect PID topics`` shows of it, as data: topic, figures, processes."""
        ports, stats = self._ports, self.stats()
        # Not asked of `consumers`: another thread may close it by then.
        peers = () if ports is None else ports.peers()
        return {
            "topic": self._name,
            "transport": "iceoryx2",
            "end": "publisher",
            "published": stats.published,
            "receivers": stats.receivers,
            "freed": stats.freed,
            "failed": stats.failed,
            "peers": [attrs.asdict(peer) for peer in peers],
        }

    def reap(self) -> Reaped:
        """Free the seats and frames of processes that have died, and remove their files, those of other
        topics too. The watcher frees by itself what was this topic's, and every process that opens a topic
        does all of it."""
        return self._open().reap_all()

    # -- facts -----------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The topic."""
        return self._name

    @property
    def published(self) -> int:
        """Frames published in this life."""
        return self._counts.sending.next

    @property
    def epoch(self) -> int:
        """Which life of the topic's publisher this is."""
        return self._counts.epoch

    @property
    def nbytes(self) -> int:
        """The largest frame, in bytes."""
        return self._nbytes

    @property
    def receivers(self) -> int:
        """How many receivers there are now; dead ones until they are reaped."""
        ports = self._ports
        return 0 if ports is None else int(ports.service.dynamic_config.number_of_subscribers)

    @property
    def reserved(self) -> str:
        """How its memory was reserved, in words."""
        return self._reserved

    @property
    def closed(self) -> bool:
        """True if it was closed."""
        return self._ports is None

    def stats(self) -> PublisherStats:
        """The figures, as a frozen snapshot."""
        return PublisherStats(
            name=self._name,
            capacity=self._figures.behind,
            published=self.published,
            held=0,
            receivers=self.receivers,
            closed=self.closed,
            close_failures=0,
            groups={},
            freed=self._counts.freed,
            failed=self._counts.failed,
            frames=self._frames,
        )

    # -- the end ---------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Publish nothing more, and tell the receivers. Frames that they have stay valid, unread ones can be
        received. Closing again changes nothing."""
        self._ports = None
        last = self._to_shut
        # An interrupt leaves it to the next close (K7).
        if last is not None:
            last.shut()
            if self._watcher is not threading.current_thread() and self._watcher.ident is not None:
                self._watcher.join(2.0)
            if not self._watcher.is_alive():
                last.forget_waker()
            self._to_shut = None
        self._leave_manager()
        self._leave()

    def _after_fork(self) -> None:
        """In a forked child: all of it is the parent's."""
        self._ports = None
        self._forked = True
        last, self._to_shut = self._to_shut, None
        if last is not None:
            last.keep()

    def __enter__(self) -> Publisher:
        self._open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "of the parent process" if self._forked else "closed" if self.closed else "open"
        return f"<iceoryx2 publisher of {self._name!r}: {state}, {self.published} published>"
