"""I1-I7 in the middle of every public operation: an interrupt, a collection, another thread, another call,
wherever one can come.

The table of scenes (`scenes_*.py`) names every public operation; here each is played again and again, with
something happening in its middle, and the balance is struck after each time (`Stage.settle`). What is tried
of the many places is drawn, always the same for one seed: ``LIFECYCLE_SEED=7`` draws others,
``LIFECYCLE_STORM=10`` tries them all.
"""

from __future__ import annotations

import functools
import gc
import itertools
import os
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from lifecycle import (
    ANY_THREAD,
    BACKGROUND,
    Handle,
    LifecycleError,
    Profiler,
)
from lifecycle._core import runtime
from lifecycle.states import ENDED
from lifecycle.testing import Interrupt, every_line, every_point, run_interrupted
from tests.adversaries.meddling import ALL, Garbage, Once, in_a_forked_child, some
from tests.adversaries.stage import PLACES, Native, Scene, Stage, Watch, ours
from tests.adversaries.test_surface import SCENES
from tests.core.adversary import assert_adds_up

POINTS = 12
"""Of the points of one scene, how many are interrupted."""
MEETINGS = 8
"""How often another call is tried in the middle of one scene."""
COLLECTIONS = 60
"""Lines of one scene at which garbage is collected."""

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


def played(wanted: Callable[[Scene], bool]) -> list[Any]:
    """The scenes that are wanted, at each of their places."""
    return [
        pytest.param(scene, place, id=f"{scene}-{place}" if len(scene.places) > 1 else str(scene))
        for scene in SCENES.values()
        if wanted(scene)
        for place in scene.places
    ]


@pytest.fixture(autouse=True)
def nothing_is_kept_of_what_cannot_be_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt in a ``__del__`` is CPython's to print; pytest would keep it with all its frames."""
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)


@pytest.fixture
def collected_before() -> None:
    """What other tests have left is not found by this one's collections."""
    gc.collect()


# -- interrupts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scene", "place"), played(lambda scene: scene.interrupts))
def test_an_interrupt_at_any_point(scene: Scene, place: str, collected_before: None) -> None:
    stage = Stage(scene, place)
    stage.renew()
    with every_point(int, of=ours) as all_points:
        try:
            stage.play()
        except LifecycleError:
            pass
    stage.settle("nothing")
    assert all_points.passed, "no code of the library was run"
    for point in some(POINTS, all_points.passed, scene, place):
        stage.renew()
        struck = run_interrupted(stage.play, point, of=ours)
        where = f"interrupted at point {point} of {all_points.passed}, {struck.place or 'none'}"
        assert struck.error is None or isinstance(struck.error, (Interrupt, LifecycleError)), (
            where,
            struck.error,
        )
        stage.settle(where, struck)
        del struck
    stage.end(leaks=False)


# -- the collector -------------------------------------------------------------------------------------------


class Meddler:
    """What may be done in the middle of an operation: to its object, and to others."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.manager = stage.manager
        self.wrong: list[str] = []

    @property
    def handle(self) -> Handle[Native]:
        return self.stage.things[0]  # type: ignore[no-any-return]

    # To the object of the scene.

    def lease(self) -> None:
        with self.handle.lease() as native:
            if not self.stage.detached:
                native.use()

    def access(self) -> None:
        self.manager.safe_access(self.handle.id, Native.use)

    def share(self) -> None:
        with self.handle.share() as mine, mine.lease() as native:
            native.use()

    def close(self) -> None:
        self.handle.close(timeout=0)

    def unregister(self) -> None:
        self.manager.unregister(self.handle.id, timeout=0)

    def invalidate(self) -> None:
        self.manager.invalidate(self.handle.id, "meddled with")

    def detach(self) -> None:
        native = self.stage.natives[0]
        if self.handle.detach(timeout=0) is native:
            self.stage.detached.append(native)

    def exclusive(self) -> None:
        with self.handle.exclusive(timeout=0) as native:
            native.use()

    def child(self) -> None:
        self.stage.register(parent=self.handle).close(timeout=0)

    # To others, and to the manager.

    def another(self) -> None:
        for place in (ANY_THREAD, BACKGROUND, self.stage.queue):
            self.stage.register(release_on=place).close(timeout=0)

    def kept(self) -> None:
        self.manager.unregister(self.stage.register(keep=True), timeout=0)

    def flush(self) -> None:
        if runtime.get_ident() == threading.main_thread().ident:
            self.stage.queue.drain()
        self.manager.register(object(), "flush", release_on=ANY_THREAD).close()

    def look(self) -> None:
        self.manager.stats()
        self.manager.objects()
        self.manager.health()

    def policies(self) -> None:
        self.manager.policy("native", max_live=1000, max_bytes=10_000, validate=Native.use)
        self.manager.policy("native", max_live=None, max_bytes=None, validate=None)

    def profiler(self) -> None:
        with Profiler(self.manager):
            pass

    def finalizer(self) -> None:
        target = Native()
        self.manager.set_safe_finalizer(target, self.stage.ran.append, 2)
        del target

    def hooks(self) -> None:
        self.manager.add_observer(self.stage.ran.append)()
        self.manager.on_close(list)()

    def collect(self) -> None:
        gc.collect()

    def fork(self) -> None:
        """The child finds what it inherited shut, and the manager working."""
        if not hasattr(os, "fork"):
            return
        if wrong := in_a_forked_child(self.in_the_child):
            self.wrong.append(wrong)

    def in_the_child(self) -> None:
        inherited = [native.released for native in self.stage.natives]
        if self.handle.id in self.manager._registry.records:
            assert not self.handle.valid
            assert self.handle.state in ENDED
        for place in (ANY_THREAD, BACKGROUND):
            native = Native()
            handle = self.manager.register(native, "native", release=Native.free, release_on=place)
            with handle.lease() as leased:
                leased.use()
            assert handle.close()
            assert native.released == 1
        self.handle.close(timeout=0)
        assert [native.released for native in self.stage.natives] == inherited
        assert_adds_up(self.manager)

    ALL = (
        lease,
        access,
        share,
        close,
        unregister,
        invalidate,
        detach,
        exclusive,
        child,
        another,
        kept,
        flush,
        look,
        policies,
        profiler,
        finalizer,
        hooks,
        collect,
        fork,
    )

    def do(self, deed: Callable[[Meddler], object]) -> None:
        """One of them; what is refused is refused, and anything else that it raises is wrong."""
        try:
            if self.stage.things:
                deed(self)
        except LifecycleError:
            pass
        except IndexError:
            if self.stage.things:
                raise
        except Exception as error:
            self.wrong.append(f"{deed.__name__}: {type(error).__name__}: {error}")

    # By garbage.

    def garbage(self, number: int) -> None:
        """Make some that is found at once: its ``__del__`` uses a handle and closes it, or does something to
        the scene's object."""
        kind = number % 6
        if kind == 0:
            Garbage(Reader(self, self.stage.register(release_on=(ANY_THREAD, BACKGROUND)[number // 6 % 2])))
        elif kind == 1:
            Garbage(lambda: self.do(Meddler.lease))
        elif kind == 2:
            Garbage(lambda: self.do(Meddler.another))
        elif kind == 3:
            Garbage(lambda: self.do(Meddler.look_without_waiting))
        elif kind == 4:
            Garbage(lambda: self.do(Meddler.share))
        else:
            view = self.stage.register()
            Garbage(Reader(self, view.share()))
            view.close()
            del view
        gc.collect(0)

    def look_without_waiting(self) -> None:
        self.manager.objects()
        self.manager.health()
        assert self.manager.is_valid(self.handle.id) in (True, False)


class Reader:
    """What an object that is garbage does with its handle at the end: uses it, and closes it."""

    def __init__(self, meddler: Meddler, handle: Handle[Native]) -> None:
        self.meddler = meddler
        self.handle = handle

    def __call__(self) -> None:
        try:
            with self.handle.lease() as native:
                if native.released:
                    self.meddler.wrong.append("in __del__: leased after its release")
        except LifecycleError:
            pass  # a collection is not bound to find it usable; that it is told one thing is another test
        self.handle.close(timeout=0)


class Asker(Reader):
    """As a `Reader`; asks first, in every way there is, whether it may."""

    def __call__(self) -> None:
        watch = Watch(self.meddler.manager, self.handle)
        watch.look()
        self.meddler.wrong.extend(watch.wrong)
        super().__call__()


@pytest.mark.parametrize("kept", ["by garbage", "by others too"])
@pytest.mark.parametrize("place", PLACES)
def test_garbage_that_asks_and_closes_is_told_one_thing(
    place: str, kept: str, collected_before: None
) -> None:
    stage = Stage(SCENES["facts"], place)
    meddler = Meddler(stage)
    stage.renew()
    handle = stage.register()
    if kept == "by garbage":
        Garbage(Asker(meddler, handle))
    else:
        Garbage(Asker(meddler, stage.keep(handle).share()))
    del handle
    gc.collect()
    stage.settle("collected")
    assert not meddler.wrong
    stage.end()


@pytest.mark.parametrize(("scene", "place"), played(lambda scene: scene.lines))
def test_the_collector_at_any_line(scene: Scene, place: str, collected_before: None) -> None:
    """Garbage is collected whose last deeds are calls of the library."""
    stage = Stage(scene, place)
    meddler = Meddler(stage)
    stage.renew()
    with every_line(int, of=ours) as lines:
        stage.play()
    stage.settle("nothing")
    stage.dropped += scene.drops
    chosen = set(some(COLLECTIONS, lines.passed, scene, place))
    passed, done = itertools.count(1), itertools.count()

    def collect() -> None:
        if next(passed) in chosen and stage.things:
            meddler.garbage(next(done))

    stage.renew()
    with every_line(collect, of=ours):
        try:
            stage.play()
        except LifecycleError:
            pass
    stage.dropped += scene.drops
    stage.settle("collections in its middle")
    assert not meddler.wrong, meddler.wrong[:3]
    stage.end()


# -- what can be seen ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scene", "place"), played(lambda scene: scene.lines))
def test_whoever_looks_at_any_point_is_told_one_thing(
    scene: Scene, place: str, collected_before: None
) -> None:
    """State, validity and what a lease would be granted agree at every point, and states follow each other as
    the table says."""
    stage = Stage(scene, place)
    stage.renew()
    watch = Watch(stage.manager, stage.handle)
    native = stage.natives[0]  # the one that is watched
    with every_point(watch.look, of=ours) as looked:
        try:
            stage.play()
        except LifecycleError:
            pass
    assert looked.strikes
    del watch.handle
    stage.dropped += scene.drops
    stage.settle("looked at")
    wrong = watch.wrong + watch.astray(native.released_on)
    del native
    assert not wrong, wrong[:3]
    stage.end()


# -- other calls ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["here", "on another thread"])
@pytest.mark.parametrize(("scene", "place"), played(lambda scene: scene.lines and scene.meddle))
def test_another_call_at_any_line(scene: Scene, place: str, how: str, collected_before: None) -> None:
    """As by a signal handler or a ``__del__``, at the points where one may come; and as by another thread, at
    any line."""
    here = how == "here"
    stage = Stage(scene, place)
    meddler = Meddler(stage)
    adversary = every_point if here else every_line
    stage.renew()
    with adversary(int, of=ours) as places:
        stage.play()
    stage.settle("nothing")
    # With the GIL nobody forks between two stores that follow each other; a line is no place at which another
    # thread may.
    deeds = [deed for deed in Meddler.ALL if here or deed is not Meddler.fork]
    choices = list(itertools.product(range(1, places.passed + 1), deeds))
    for choice in some(MEETINGS, len(choices), scene, place, how):
        at, deed = choices[choice - 1]
        meddle = Once(functools.partial(meddler.do, deed), at, here=here)
        stage.renew()
        refused = False
        with adversary(meddle, of=ours):
            try:
                stage.play()
            except LifecycleError:
                refused = True
        what = f"{deed.__name__} {how} at {'point' if here else 'line'} {at} of {places.passed}"
        meddle.comes_back(what)
        stage.settle(what, refused=refused)
        assert not meddler.wrong, (what, meddler.wrong)
    stage.end(leaks=False)


@pytest.mark.parametrize("deed", [Meddler.policies, Meddler.profiler], ids=lambda deed: deed.__name__)
@pytest.mark.parametrize(
    "name",
    ["register_limited", "registrar", "safe_access", "with_handle", "close", "objects_by_id_with_rules"],
)
def test_rules_that_change_at_each_line(name: str, deed: Any, collected_before: None) -> None:
    """On another thread policies are set and taken away, or a profiler comes and goes, at one line after the
    other."""
    stage = Stage(SCENES[name])
    meddler = Meddler(stage)
    stage.renew()
    stage.manager.policy("native", validate=Native.use)
    with every_line(int, of=ours) as lines:
        stage.play()
    stage.settle("nothing")
    for at in some(150, lines.passed, name, deed):
        meddle = Once(functools.partial(meddler.do, deed), at, here=False)
        stage.manager.policy("native", max_live=1000, max_bytes=10_000, validate=Native.use)
        stage.renew()
        with every_line(meddle, of=ours):
            stage.play()  # nothing is refused: no limit is reached, and the validator is content
        what = f"{deed.__name__} at line {at} of {lines.passed}"
        meddle.comes_back(what)
        stage.settle(what)
        assert not meddler.wrong, (what, meddler.wrong)
    stage.end(leaks=False)


def test_the_draw_is_the_same_each_time() -> None:
    assert some(3, 1000, "a") == some(3, 1000, "a")
    assert ALL or some(3, 1000, "a") != some(3, 1000, "b")
    assert some(5, 3) == [1, 2, 3]


def test_warnings_of_leaks_are_not_errors_here() -> None:
    """The stage drops handles on purpose, and counts the reports."""
    with warnings.catch_warnings(record=True):
        assert SCENES["drop"].drops == 1
