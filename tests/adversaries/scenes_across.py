"""Scenes of topics between processes, of both transports, and the stage on which they are played. Nothing here
imports a transport before a `Stage` is made."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import importlib
import itertools
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import attrs

from lifecycle import FrameDistributor, LifecycleError, SafetyConfig, SafetyManager
from lifecycle.errors import Empty, Lagged
from lifecycle.testing import Struck
from tests.adversaries.stage import PATIENCE, _clear_our_frames, locks_taken
from tests.adversaries.stage_gstreamer import forget
from tests.core.adversary import assert_nothing_left

MODULES = {"iceoryx2": "lifecycle.integrations.iceoryx2", "zenoh": "lifecycle.integrations.zenoh"}
BOTH = tuple(MODULES)
CONFIG = SafetyConfig(
    finalizer_timeout=60.0,
    shutdown_timeout=60.0,
    max_retained=20,
    # The record of a release that was interrupted keeps its traceback, and that what the release was given.
    state_retention=0.05,
    cleanup_interval=0.05,
)
NBYTES = 256
LOANS, HELD = 3, 6
ASYNCIO = "an interrupt here is asyncio's to deal with"

_numbers = itertools.count()


@attrs.frozen
class Scene:
    """One way to exercise some operations."""

    name: str
    operations: tuple[str, ...]
    transports: tuple[str, ...]
    play: Callable[[Stage], object]
    few: bool
    """Each try is long: only a few points are tried."""
    no_interrupts: str
    """Why no interrupt is raised in it, empty where one is."""
    alone: bool
    """It waits for its frames for ever, so nobody else receives any of them."""
    ends: bool
    """An end is closed under it, too: it works with both, and waits for nothing for ever."""

    def __str__(self) -> str:
        return self.name


TABLE: dict[str, Scene] = {}


def scene(
    *operations: str,
    transports: tuple[str, ...] = BOTH,
    few: bool = False,
    no_interrupts: str = "",
    alone: bool = False,
    ends: bool = False,
) -> Callable[[Callable[[Stage], object]], Callable[[Stage], object]]:
    """Enter the decorated function: it exercises `operations`."""

    def enter(play: Callable[[Stage], object]) -> Callable[[Stage], object]:
        assert play.__name__ not in TABLE, f"two scenes are called {play.__name__}"
        TABLE[play.__name__] = Scene(
            play.__name__, operations, transports, play, few, no_interrupts, alone, ends
        )
        return play

    return enter


class Stage:
    """One topic with both its ends in this process, and what must be true of it after each run."""

    def __init__(self, transport: str) -> None:
        self.transport = transport
        self.module: Any = importlib.import_module(MODULES[transport])
        self.np: Any = importlib.import_module("numpy")
        self.session: Any = None
        if transport == "zenoh":
            import zenoh

            config = zenoh.Config()
            config.insert_json5("mode", '"peer"')
            config.insert_json5("scouting/multicast/enabled", "false")
            config.insert_json5("listen/endpoints", "[]")
            self.session = zenoh.open(config)
        number = next(_numbers)
        self.manager = SafetyManager(CONFIG, name=f"stage-{number}")
        self.topic = f"adversary/{os.getpid()}/{number}-"
        self.things: list[Any] = []
        # Seconds for which a scene waits for what it has sent: few where others take it away.
        self.patience = PATIENCE
        self.open()

    # -- for scenes

    def open(self) -> None:
        """Both ends."""
        self.publisher = self.new_publisher(self.topic)
        self.receiver = self.new_receiver(self.topic)
        self.base: dict[str, object] = {}
        self.settle("nothing yet")
        self.base = self._census()

    def new_publisher(self, topic: str, manager: SafetyManager | None = None) -> Any:
        """A publisher of `topic`."""
        manager = manager or self.manager
        if self.transport == "zenoh":
            return self.module.Publisher(manager, topic, session=self.session)
        return self.module.Publisher(
            manager, topic, NBYTES, receivers=3, held=HELD, behind=4, loans=LOANS, history=0
        )

    def new_receiver(self, topic: str, manager: SafetyManager | None = None, **more: Any) -> Any:
        """A receiver of `topic`."""
        if self.transport == "zenoh":
            more["session"] = self.session
        more.setdefault("start", self.patience)
        return self.module.Receiver(manager or self.manager, topic, **more)

    def keep(self, thing: Any) -> Any:
        """Close `thing` when the run is over."""
        self.things.append(thing)
        return thing

    def publish(self, value: int = 7) -> None:
        """A frame, every byte of it the same."""
        self.publisher.copy(self.np.full(NBYTES, value % 256, "u1"))

    def recv(self, receiver: Any = None) -> Any:
        """The next frame, whatever was missed before it."""
        receiver = receiver or self.receiver
        while True:
            try:
                return self.keep(receiver.recv(self.patience))
            except Lagged:
                continue

    # -- for adversaries

    def drain(self) -> None:
        """Receive whatever is there; each frame is whole."""
        while True:
            frame = array = None
            try:
                frame = self.receiver.recv(0)
                array = frame.array()
                assert len(set(array.ravel().tolist())) == 1, "torn"
            except Lagged:
                continue
            except Empty:
                return
            finally:
                array = None
                if frame is not None:
                    frame.close()
                frame = None

    def settle(self, what: str, struck: Struck[Any] | None = None) -> None:
        """End the run, and see that everything is as it was, and every sum is right."""
        _clear_our_frames(struck)
        while self.things:
            thing = self.things.pop()
            try:
                thing.close()
            except LifecycleError:
                pass
            finally:
                thing = None
        if struck is not None and struck.error is not None:
            forget(struck.error)
        # What an interrupt has cut off behind the send is made up for by whoever comes next.
        self.publish(255)
        expected = self.publisher.published
        self._await(what, lambda: self.receiver.stats().published >= expected and self._drained())
        sums = (self.receiver.received, self.receiver.missed, self.receiver.lag)
        assert expected == sum(sums), f"{what}: {expected} published, {sums} received, missed and lag"
        self._await(what, lambda: not self._left(), self._left)
        if self.transport == "iceoryx2":
            loans = [self.publisher.loan(8, timeout=PATIENCE) for _ in range(LOANS)]
            while loans:
                loans.pop().close()
        self._await(what, lambda: not self._locked(), self._locked)

    def _drained(self) -> bool:
        self.drain()
        return True

    def _locked(self) -> list[str]:
        return locks_taken(self.manager, self.publisher, self.receiver)

    def _await(self, what: str, done: Callable[[], bool], left: Callable[[], object] = str) -> None:
        until = time.monotonic() + PATIENCE
        pause = 0.0005
        while not done():
            assert time.monotonic() < until, f"{what}: {left()}"
            time.sleep(pause)
            pause = min(2 * pause, 0.02)
            if pause > 0.002:
                gc.collect()
                self._forget_connections()

    def _forget_connections(self) -> None:
        """What the engine keeps of a receiver that has gone, a file and a socket, until the next frame."""
        publisher = getattr(self, "publisher", None)
        ports = getattr(publisher, "_ports", None) if self.transport == "iceoryx2" else None
        if ports is not None:
            with ports.turn:
                ports.publisher.update_connections()
                ports.tell()

    def _census(self) -> dict[str, Any]:
        found: dict[str, object] = {
            "objects": self.manager.stats().active_objects,
            "components": sorted(type(one).__name__ for one in self.manager.components()),
            "threads": Counter(thread.name for thread in threading.enumerate() if self.topic in thread.name),
        }
        if self.transport == "iceoryx2":
            found["seats"] = self.publisher.receivers
            if os.path.isdir("/proc/self/fd"):
                found["descriptors"] = len(os.listdir("/proc/self/fd"))
        return found

    def _left(self) -> str:
        now = self._census()
        return "; ".join(
            f"{name}: {now[name]} instead of {before}"
            + (f" ({[str(info) for info in self.manager.objects()]})" if name == "objects" else "")
            for name, before in self.base.items()
            # Fewer descriptors are no leak: what an earlier test had left has ended meanwhile.
            if now[name] != before and not (name == "descriptors" and now[name] < before)
        )

    def end(self, ok: bool = True) -> None:
        """Everything ends, and nothing is left: no object, thread or service."""
        while self.things:
            try:
                self.things.pop().close()
            except LifecycleError:
                continue
        self.receiver.close()
        self.publisher.close()
        report = self.manager.close()
        left = (report.stuck, report.leaked, report.errors, report.running)
        assert left == ((), (), (), ()) or not ok, report
        assert_nothing_left(self.manager)
        del self.publisher, self.receiver
        if self.session is not None:
            self.session.close()
        self._await("at the end", lambda: not self._remains(), self._remains)

    def _remains(self) -> str:
        threads = [
            thread.name
            for thread in threading.enumerate()
            if self.topic in thread.name or thread.name.endswith(self.manager.name)
        ]
        services: list[str] = []
        if self.transport == "iceoryx2":
            gc.collect()
            services = services_of(self.topic)
        return f"{threads or ''}{services or ''}"


def services_of(topic: str) -> list[str]:
    """The engine's services whose names begin with that of a topic."""
    import iceoryx2 as iox

    found = iox.Service.list(iox.config.global_config(), iox.ServiceType.Ipc)
    names = [one.name().to_string() for one in found if one is not None]
    return [name for name in names if name.startswith(topic)]


# -- publishing ----------------------------------------------------------------------------------------------


@scene(
    "Publisher.loan",
    "Publisher.publish",
    "Loan.__init__",
    "Loan.__enter__",
    "Loan.__exit__",
    "Loan.__repr__",
    "Loan.array",
    "Loan.data",
    "Loan.close",
    "Loan.dtype",
    "Loan.handle",
    "Loan.nbytes",
    "Loan.shape",
    "Uncopied.__reduce_ex__",
    transports=("iceoryx2",),
    ends=True,
)
def write_in_place(stage: Stage) -> None:
    with stage.keep(stage.publisher.loan((16, 16), "u1")) as loan:
        picture = loan.array()
        picture[...] = 9
        del picture
        loan.data()[:1] = b"\x09"
        repr(loan)
        with contextlib.suppress(TypeError):
            copy.copy(loan)
        assert (loan.shape, loan.nbytes, loan.dtype.itemsize, loan.handle.valid) == ((16, 16), 256, 1, True)
        stage.publisher.publish(loan, key=False)


@scene("Publisher.copy", "Uncopied.__reduce_ex__")
def publish_a_copy(stage: Stage) -> None:
    with contextlib.suppress(TypeError):
        copy.copy(stage.publisher)
    stage.publish(1)


@scene("Publisher.loan", "Loan.close", transports=("iceoryx2",))
def refused_a_loan(stage: Stage) -> None:
    """All are being written, and the last array of one goes."""
    loans = [stage.keep(stage.publisher.loan(8)) for _ in range(LOANS)]
    array = loans[0].array()
    loans[0].close()
    with contextlib.suppress(LifecycleError):
        stage.publisher.loan(8)
    del array
    stage.keep(stage.publisher.loan(8, timeout=stage.patience))
    with contextlib.suppress(LifecycleError):
        stage.publisher.loan(NBYTES + 1)


# -- receiving -----------------------------------------------------------------------------------------------


@scene(
    "TopicReceiver.recv",
    "Frame.__init__",
    "Frame.__enter__",
    "Frame.__exit__",
    "Frame.__reduce_ex__",
    "Frame.__repr__",
    "Frame.array",
    "Frame.data",
    "Frame.share",
    "Frame.close",
    "Frame.closed",
    "Frame.dtype",
    "Frame.epoch",
    "Frame.handle",
    "Frame.key",
    "Frame.nbytes",
    "Frame.published_ns",
    "Frame.seq",
    "Frame.shape",
    ends=True,
)
def receive(stage: Stage) -> None:
    stage.publish(3)
    with stage.recv() as frame:
        repr(frame)
        with contextlib.suppress(TypeError):
            copy.copy(frame)
        share = stage.keep(frame.share())
        assert (frame.shape, frame.nbytes, frame.dtype.itemsize, frame.key) == ((NBYTES,), NBYTES, 1, True)
        assert frame.seq < stage.publisher.published
        assert frame.epoch == stage.publisher.epoch
        assert frame.published_ns > 0
        part = frame.array()[5:9]
    assert frame.closed
    assert not frame.handle.valid
    assert part.tolist() == [3] * 4
    assert bytes(share.data()[:4]) == b"\x03" * 4
    share.close()


@scene("TopicReceiver.recv")
def receive_behind_a_gap(stage: Stage) -> None:
    for value in range(7):
        stage.publish(value)
    stage.recv().close()
    stage.recv().close()


@scene(
    "TopicReceiver.__iter__",
    "FrameLoop.__init__",
    "FrameLoop.__iter__",
    "FrameLoop.__next__",
    "FrameLoop.__del__",
    alone=True,
)
def receive_in_a_loop(stage: Stage) -> None:
    for value in range(3):
        stage.publish(value)
    for number, frame in enumerate(iter(stage.receiver)):
        assert len(set(frame.array().tolist())) == 1
        if number == 2:
            break


@scene(
    "TopicReceiver.recv_async",
    "TopicReceiver.__aiter__",
    "FrameLoop.__aiter__",
    "FrameLoop.__anext__",
    no_interrupts=ASYNCIO,
    alone=True,
)
def receive_in_a_coroutine(stage: Stage) -> None:
    async def read() -> None:
        (await stage.receiver.recv_async(stage.patience)).close()
        async for frame in aiter_of(stage.receiver):
            assert frame.nbytes == NBYTES
            break

    for value in range(2):
        stage.publish(value)
    asyncio.run(read())


def aiter_of(receiver: Any) -> Any:
    """A loop's iterator, asked for as an ``async for`` over the loop would."""
    return receiver.__aiter__().__aiter__()


@scene(
    "Receiver.__init__",
    "TopicReceiver.__enter__",
    "TopicReceiver.__exit__",
    "TopicReceiver.close",
    "TopicReceiver.__repr__",
    "TopicReceiver.closed",
    few=True,
)
def take_a_seat(stage: Stage) -> None:
    with stage.keep(stage.new_receiver(stage.topic, policy="keep-key-frames")) as receiver:
        assert not receiver.closed
        repr(receiver)
        stage.publish(4)
        stage.recv(receiver)
    assert receiver.closed


@scene(
    "Publisher.__init__",
    "Publisher.__enter__",
    "Publisher.__exit__",
    "Publisher.__repr__",
    "Publisher.close",
    "Publisher.closed",
    few=True,
)
def make_a_topic(stage: Stage) -> None:
    with stage.keep(stage.new_publisher(f"{stage.topic}other")) as publisher:
        repr(publisher)
        publisher.copy(b"alone")
    assert publisher.closed


@scene(
    "Publisher.name",
    "Publisher.epoch",
    "Publisher.published",
    "Publisher.stats",
    "TopicReceiver.name",
    "TopicReceiver.lag",
    "TopicReceiver.missed",
    "TopicReceiver.received",
    "TopicReceiver.restarts",
    "TopicReceiver.source",
    "TopicReceiver.stats",
    "Publisher.describe",
    "TopicReceiver.describe",
)
def look(stage: Stage) -> None:
    stage.publish(5)
    publisher, receiver = stage.publisher, stage.receiver
    assert publisher.name == receiver.name == stage.topic
    assert publisher.stats().published == publisher.published
    assert publisher.epoch > 0
    assert min(receiver.lag, receiver.missed, receiver.received, receiver.restarts) >= 0
    assert receiver.source in ("alive", "closed")
    assert receiver.stats().received == receiver.received
    assert publisher.describe()["topic"] == receiver.describe()["topic"] == stage.topic


@scene(
    "Publisher.consumers",
    "Publisher.reap",
    "Publisher.receivers",
    "Publisher.nbytes",
    "Publisher.reserved",
    transports=("iceoryx2",),
)
def look_at_the_others(stage: Stage) -> None:
    publisher = stage.publisher
    assert {peer.pid for peer in publisher.consumers()} <= {os.getpid()}
    assert publisher.reap().failed == 0
    assert (publisher.nbytes, publisher.reserved, publisher.receivers) == (NBYTES, "reserved", 1)


# -- bridges -------------------------------------------------------------------------------------------------


@scene(
    "TopicReceiver.into",
    "Publisher.pump",
    "Bridge.__init__",
    "Bridge.__enter__",
    "Bridge.__exit__",
    "Bridge.__repr__",
    "Bridge.close",
    "Bridge.running",
    "Bridge.stats",
    few=True,
    ends=True,
)
def carry(stage: Stage) -> None:
    local: FrameDistributor[Any] = stage.keep(FrameDistributor(4))
    here: FrameDistributor[Any] = stage.keep(FrameDistributor(2))
    reader = stage.keep(here.subscribe())
    source = stage.keep(local.subscribe())
    seat = stage.keep(stage.new_receiver(stage.topic))
    with stage.keep(stage.publisher.pump(source)) as pump, stage.keep(seat.into(here)) as bridge:
        repr(pump)
        local.publish(stage.np.full(NBYTES, 8, "u1"))
        with reader.recv(stage.patience) as frame:
            assert set(frame.array().tolist()) == {8}
        assert pump.stats().failed == bridge.stats().failed == 0
    assert not bridge.running


def scenes(transport: str, wanted: Callable[[Scene], bool] = lambda one: True) -> Iterator[Scene]:
    """Those of one transport."""
    return (one for one in TABLE.values() if transport in one.transports and wanted(one))
