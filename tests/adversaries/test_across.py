"""Every public operation of topics between processes with an interrupt, a collection, another call, a fork in
its middle.

As `test_every_operation.py` does for the core, on real topics. What is tried of the many places is drawn, always
the same for one seed: ``LIFECYCLE_SEED=7`` draws others, ``LIFECYCLE_STORM=10`` tries them all.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import itertools
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lifecycle import FrameDistributor, LifecycleError, SafetyManager
from lifecycle.errors import ClosedError, Empty, Lagged
from lifecycle.testing import Interrupt, every_line, every_point, run_interrupted
from tests.adversaries.meddling import Garbage, Once, in_a_forked_child, look_at, some
from tests.adversaries.scenes_across import BOTH, CONFIG, MODULES, TABLE, Scene, Stage, scenes
from tests.adversaries.stage import PATIENCE, ours
from tests.adversaries.surface import called, operations, operations_of
from tests.support import eventually

pytestmark = [
    pytest.mark.needs("numpy"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]
POINTS, FEW_POINTS = 6, 2
"""Of the points of one scene, how many are interrupted; where each try is long, fewer."""
COLLECTIONS = 12
"""Lines of one scene at which garbage is collected."""
MEDDLED = 0.3
"""Seconds for which a scene waits for a frame that somebody else may have taken."""
MEETINGS = 2
"""How often another call is tried in the middle of one scene."""


def everything(transport: str) -> dict[str, Any]:
    """Every public operation, with the function behind it."""
    from lifecycle.integrations.across.receiving import FrameLoop

    # What no module shows, and public operations return.
    return {**operations((MODULES[transport],)), **operations_of(FrameLoop)}


def played(wanted: Callable[[Scene], bool] = lambda scene: True) -> list[Any]:
    """The scenes that are wanted, with each of their transports."""
    return [
        pytest.param(transport, scene, id=f"{scene}-{transport}", marks=pytest.mark.needs(transport))
        for transport in BOTH
        for scene in scenes(transport, wanted)
    ]


stages: dict[str, Stage] = {}
"""The stage that the last test has left: to make one takes longer than to play most scenes. One at a time, since
it counts descriptors."""


@contextlib.contextmanager
def on_stage(transport: str) -> Iterator[Stage]:
    """A stage; where it was left as it was found the next test has it, too."""
    stage = stages.pop(transport, None)
    while stages:
        stages.popitem()[1].end()
    stage = stage or Stage(transport)
    yield stage
    stage.patience = PATIENCE
    stages[transport] = stage


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left_at_the_end() -> Iterator[None]:
    yield
    while stages:
        stages.popitem()[1].end()


@pytest.fixture(autouse=True)
def nothing_is_kept_of_what_cannot_be_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt in a ``__del__`` is CPython's to print; pytest would keep it with all its frames."""
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)


@pytest.mark.parametrize("transport", [pytest.param(one, marks=pytest.mark.needs(one)) for one in BOTH])
def test_every_public_operation_has_a_scene_and_each_scene_does_what_it_says(transport: str) -> None:
    functions = everything(transport)
    named = {operation for scene in scenes(transport) for operation in scene.operations}
    assert not sorted(set(functions) - named), "public, but in no scene of scenes_across.py"
    done: set[str] = set()
    with on_stage(transport) as stage:
        for scene in scenes(transport):
            with called() as codes:
                scene.play(stage)
                stage.settle(f"{scene}")
                gc.collect()
            done |= {
                name for name in scene.operations if name in functions and functions[name].__code__ in codes
            }
    assert not sorted(set(functions) - done), "in a scene that does not call it"


@pytest.mark.needs(*BOTH)
def test_nothing_is_named_that_is_not_there() -> None:
    named = {operation for scene in TABLE.values() for operation in scene.operations}
    assert not sorted(named - {name for transport in BOTH for name in everything(transport)})


@pytest.mark.parametrize(("transport", "scene"), played(lambda scene: not scene.no_interrupts))
def test_an_interrupt_at_any_point(transport: str, scene: Scene) -> None:
    with on_stage(transport) as stage:

        def play() -> object:
            return scene.play(stage)

        with every_point(int, of=ours) as all_points:
            play()
        stage.settle("nothing")
        assert all_points.passed
        for point in some(FEW_POINTS if scene.few else POINTS, all_points.passed, scene, transport):
            struck = run_interrupted(play, point, of=ours)
            where = f"interrupted at point {point} of {all_points.passed}, {struck.place or 'none'}"
            assert struck.error is None or isinstance(struck.error, (Interrupt, LifecycleError)), (
                where,
                struck.error,
            )
            stage.settle(where, struck)
            del struck


class Meddler:
    """What may be done in the middle of an operation."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.wrong: list[str] = []

    def close_last(self) -> None:
        """What the scene has made last."""
        try:
            thing = self.stage.things[-1]
        except IndexError:
            return  # nothing made yet
        thing.close()

    def look(self) -> None:
        """Ask whatever can be asked."""
        look_at([self.stage.publisher, self.stage.receiver, *self.stage.things])
        self.stage.manager.stats()

    def publish(self) -> None:
        """Another frame."""
        self.stage.publish(11)

    def receive(self) -> None:
        """What has come."""
        self.stage.drain()

    def again(self) -> None:
        """Another seat, and it goes."""
        self.stage.new_receiver(self.stage.topic, start=0).close()

    def collect(self) -> None:
        """Whatever is garbage."""
        gc.collect()

    def close_receiver(self) -> None:
        """The end under whoever works with it."""
        self.stage.receiver.close()

    def close_publisher(self) -> None:
        """The other one."""
        self.stage.publisher.close()

    def fork(self) -> None:
        """The child finds that nothing is its own, and takes nothing with it."""
        if not hasattr(os, "fork"):
            return
        if wrong := in_a_forked_child(self.in_the_child):
            self.wrong.append(wrong)

    def in_the_child(self) -> None:
        for call in (self.stage.receiver.recv, self.stage.publish):
            try:
                call()
            except LifecycleError:
                continue
            raise AssertionError(f"{call} is not refused in a forked child")
        for thing in [*self.stage.things, self.stage.receiver, self.stage.publisher]:
            thing.close()
        gc.collect()

    ALL = (close_last, look, publish, receive, again, collect, fork)
    ENDS = (close_receiver, close_publisher)

    def do(self, deed: Callable[[Meddler], object]) -> None:
        """One of them; what is refused is refused, and anything else that it raises is wrong."""
        try:
            deed(self)
        except LifecycleError:
            pass
        except Exception as error:
            self.wrong.append(f"{deed.__name__}: {type(error).__name__}: {error}")

    def garbage(self, number: int, alone: bool) -> None:
        """Make some that is found at once: its ``__del__`` does one of these things."""
        deeds = [Meddler.look, Meddler.publish, Meddler.close_last]
        if not alone:
            deeds.append(Meddler.receive)
        deed = deeds[number % len(deeds)]
        Garbage(lambda: self.do(deed))
        gc.collect(0)


@pytest.mark.parametrize(("transport", "scene"), played())
def test_the_collector_at_any_line(transport: str, scene: Scene) -> None:
    with on_stage(transport) as stage:
        meddler = Meddler(stage)
        with every_line(int, of=ours) as lines:
            scene.play(stage)
        stage.settle("nothing")
        chosen = set(some(COLLECTIONS, lines.passed, scene, transport))
        passed, done = itertools.count(1), itertools.count()

        def collect() -> None:
            if next(passed) in chosen:
                meddler.garbage(next(done), scene.alone)

        stage.patience = MEDDLED
        with every_line(collect, of=ours):
            try:
                scene.play(stage)
            except (LifecycleError, AssertionError):
                pass  # another has received its frame, or closed it
        stage.settle("collections in its middle")
        assert not meddler.wrong, meddler.wrong[:3]


@pytest.mark.parametrize("how", ["here", "on another thread"])
@pytest.mark.parametrize(("transport", "scene"), played())
def test_another_call_at_any_line(transport: str, scene: Scene, how: str) -> None:
    """As by a signal handler or a ``__del__``, at the points where one may come; and as by another thread, at
    any line. `meet` asserts that it comes back and raises errors of ours only; `Stage.settle` that nothing is
    left and every sum is right."""
    here = how == "here"
    adversary = every_point if here else every_line
    with on_stage(transport) as stage:
        with adversary(int, of=ours) as passes:
            scene.play(stage)
        stage.settle("nothing")
        deeds = [
            deed
            for deed in Meddler.ALL
            if (here or deed is not Meddler.fork) and not (scene.alone and deed is Meddler.receive)
        ]
        choices = list(itertools.product(range(1, passes.passed + 1), deeds))
        for choice in some(MEETINGS, len(choices), scene, transport, how):
            at, deed = choices[choice - 1]
            what = f"{deed.__name__} {how} at {'point' if here else 'line'} {at} of {passes.passed}"
            meet(stage, scene, deed, at, what, here=here)
            stage.settle(what)


@pytest.mark.parametrize("end", Meddler.ENDS, ids=lambda end: end.__name__)
@pytest.mark.parametrize(("transport", "scene"), played(lambda scene: scene.ends))
def test_an_end_is_closed_at_any_line(transport: str, scene: Scene, end: Any) -> None:
    """By another thread: who works with it is told so by an error of ours (`meet` asserts it), and nothing is
    left (`Stage.end` does)."""
    with on_stage(transport) as stage:
        with every_line(int, of=ours) as passes:
            scene.play(stage)
        stage.settle("nothing")
        lines = passes.passed
    while stages:
        stages.popitem()[1].end()
    for at in some(1, lines, scene, transport, end):
        stage = Stage(transport)
        meet(stage, scene, end, at, f"{end.__name__} at line {at} of {lines}", here=False)
        stage.end()


def meet(stage: Stage, scene: Scene, deed: Any, at: int, what: str, *, here: bool) -> None:
    """Play `scene`, and have `deed` done once, in its middle."""
    meddler = Meddler(stage)
    meddle = Once(functools.partial(meddler.do, deed), at, here=here)
    stage.patience = MEDDLED
    with (every_point if here else every_line)(meddle, of=ours):
        try:
            scene.play(stage)
        except (LifecycleError, AssertionError):
            pass  # another has received its frame, or closed it
    stage.patience = PATIENCE
    meddle.comes_back(what)
    assert not meddler.wrong, (what, meddler.wrong)


# -- one call in the middle of another -----------------------------------------------------------------------


NESTED = 12
"""Points at which a call is made in the middle of the same call."""


def numbers(stage: Stage, seconds: float = 0.05) -> list[int]:
    """The numbers of the frames that are there."""
    found = []
    while True:
        try:
            with stage.receiver.recv(seconds) as frame:
                found.append(frame.seq)
        except Lagged:
            found.append(-1)
        except Empty:
            return found


def in_the_middle(run: Callable[[], object], deed: Callable[[], object], at: int) -> None:
    """Call `run`, and `deed` in it, as a signal handler would; what one of them is refused is refused."""

    def refused() -> None:
        with contextlib.suppress(LifecycleError):
            deed()

    with every_point(Once(refused, at), of=ours), contextlib.suppress(LifecycleError):
        run()


@pytest.mark.parametrize("transport", [pytest.param(one, marks=pytest.mark.needs(one)) for one in BOTH])
def test_a_publish_in_the_middle_of_a_publish_has_a_number_of_its_own_or_is_refused(transport: str) -> None:
    """A4: no number is used twice, and none is left out."""
    with on_stage(transport) as stage:
        with every_point(int, of=ours) as all_points:
            stage.publish()
        numbers(stage)
        for at in some(NESTED, all_points.passed, "publish", transport):
            before = stage.publisher.published
            in_the_middle(stage.publish, stage.publish, at)
            after = stage.publisher.published
            assert after - before in (1, 2), at
            assert numbers(stage) == list(range(before, after)), at
        stage.settle("nested")


@pytest.mark.parametrize("transport", [pytest.param(one, marks=pytest.mark.needs(one)) for one in BOTH])
def test_a_recv_in_the_middle_of_a_recv_takes_the_next_or_is_refused(transport: str) -> None:
    """A4: every frame comes once, in its order, and none is missed."""
    with on_stage(transport) as stage:
        got: list[int] = []

        def run() -> None:
            with stage.receiver.recv(1) as frame:
                got.append(frame.seq)

        stage.publish()
        with every_point(int, of=ours) as all_points:
            run()
        for at in some(NESTED, all_points.passed, "recv", transport):
            got.clear()
            before, missed = stage.publisher.published, stage.receiver.missed
            for _ in range(3):
                stage.publish()
            in_the_middle(run, run, at)
            assert sorted(got + numbers(stage)) == list(range(before, before + 3)), at
            assert stage.receiver.missed == missed, at
        stage.settle("nested")


@pytest.mark.parametrize("transport", [pytest.param(one, marks=pytest.mark.needs(one)) for one in BOTH])
def test_a_receiver_that_is_closed_in_the_middle_of_its_recv_stays_closed(transport: str) -> None:
    """A4: what it has got and missed is all that was published, and no frame is kept."""
    with on_stage(transport) as stage:
        stage.publish()
        receiver: Any = None

        def run() -> None:
            receiver.recv(1).close()

        receiver = stage.new_receiver(stage.topic)
        stage.publish()
        with every_point(int, of=ours) as all_points:
            run()
        receiver.close()
        for at in some(NESTED // 2, all_points.passed, "close", transport):
            receiver = stage.new_receiver(stage.topic)
            for _ in range(3):
                stage.publish()
            # What has not come yet by zenoh is not known.
            eventually(lambda: receiver.stats().published == 3)
            in_the_middle(run, receiver.close, at)
            receiver.close()
            assert (receiver.closed, receiver.stats().ended, receiver.lag) == (True, "closed", 0), at
            assert receiver.received + receiver.missed == 3, at
            with pytest.raises(ClosedError):
                receiver.recv(0)
        receiver = None
        stage.settle("closed")


@pytest.mark.parametrize("transport", [pytest.param(one, marks=pytest.mark.needs(one)) for one in BOTH])
def test_a_publisher_that_is_closed_in_the_middle_of_its_publish_tells_what_it_has_sent(
    transport: str,
) -> None:
    """A4: what it says it has published is what the receiver is told."""
    with on_stage(transport) as stage:
        with every_point(int, of=ours) as all_points:
            stage.publish()
        for at in some(NESTED // 2, all_points.passed, "close", "publish", transport):
            topic = f"{stage.topic}{at}"
            with stage.new_publisher(topic) as publisher, stage.new_receiver(topic) as receiver:
                publisher.copy(b"first")
                receiver.recv(PATIENCE).close()
                in_the_middle(functools.partial(publisher.copy, b"second"), publisher.close, at)
                publisher.close()
                with pytest.raises(ClosedError):
                    publisher.copy(b"late")
                with pytest.raises(ClosedError):
                    while True:
                        receiver.recv(PATIENCE).close()
                assert receiver.source == "closed", at
                assert publisher.published == receiver.received + receiver.missed + receiver.lag, at
        publisher = receiver = None
        stage.settle("closed")


def told_an_end(receiver: Any) -> bool:
    """Whether it knows that its publisher has ended."""
    return str(receiver.source) != "alive"


@pytest.mark.parametrize("transport", [pytest.param(one, marks=pytest.mark.needs(one)) for one in BOTH])
def test_a_close_that_was_interrupted_is_made_up_for_by_the_next(transport: str) -> None:
    """A4: the receiver is told that the publisher has closed, and not that its process has ended."""
    with on_stage(transport) as stage:
        with stage.new_publisher(f"{stage.topic}all") as publisher, every_point(int, of=ours) as all_points:
            publisher.close()
        for at in some(NESTED // 2, all_points.passed, "interrupted", transport):
            topic = f"{stage.topic}{at}"
            with stage.new_publisher(topic) as publisher, stage.new_receiver(topic) as receiver:
                struck = run_interrupted(publisher.close, at, of=ours)
                assert struck.error is None or isinstance(struck.error, Interrupt), (at, struck.error)
                del struck
                publisher.close()
                eventually(functools.partial(told_an_end, receiver))
                assert receiver.source == "closed", at
        publisher = receiver = None
        stage.settle("closed")


@pytest.mark.parametrize("transport", [pytest.param(one, marks=pytest.mark.needs(one)) for one in BOTH])
def test_a_close_wakes_the_thread_that_waits(transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It need not look by itself: nothing else would end this wait within an hour."""
    receiving = importlib.import_module("lifecycle.integrations.across.receiving")
    monkeypatch.setattr(receiving, "SLICE", 3600.0)
    monkeypatch.setattr(receiving, "LONGEST", 3600.0)
    with on_stage(transport) as stage:
        receiver = stage.new_receiver(stage.topic)
        told: list[str] = []

        def wait() -> None:
            try:
                receiver.recv()
            except ClosedError as error:
                told.append(str(error))

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        eventually(lambda: receiver._waiting)
        receiver.close()
        thread.join(PATIENCE)
        assert not thread.is_alive()
        assert len(told) == 1
        receiver = None
        stage.settle("closed")


MADE: dict[str, Callable[[Stage, SafetyManager], Callable[[], Any]]] = {
    "publisher": lambda stage, manager: lambda: stage.new_publisher(f"{stage.topic}made", manager),
    "receiver": lambda stage, manager: lambda: stage.new_receiver(stage.topic, manager),
    "bridge": lambda stage, manager: functools.partial(
        stage.new_receiver(stage.topic, manager).into, FrameDistributor(2)
    ),
}


@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize("transport", [pytest.param(one, marks=pytest.mark.needs(one)) for one in BOTH])
def test_a_manager_that_closes_while_an_end_is_made_closes_it(
    transport: str, made: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a signal handler: it is refused, or made and closed, and no thread of it fails."""
    failed: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda failure: failed.append(repr(failure.exc_value)))
    with on_stage(transport) as stage:
        with SafetyManager(CONFIG) as manager:
            make = MADE[made](stage, manager)
            with every_point(int, of=ours) as all_points:
                make()
        for at in some(NESTED, all_points.passed, "made", made, transport):
            manager = SafetyManager(CONFIG)
            make = MADE[made](stage, manager)
            end = None
            closing = Once(manager.close, at)
            with every_point(closing, of=ours), contextlib.suppress(LifecycleError):
                end = make()
            # By zenoh it takes a few points more or less.
            if end is not None and closing.passed >= at:
                assert end.closed if made != "bridge" else not end.running, at
            report = manager.close()
            assert (report.leaked, report.errors, report.running) == ((), (), ()), at
            del end, make
        stage.settle("closed")
    assert not failed
