"""Every public operation of `lifecycle.integrations.gstreamer` with an interrupt, a collection, another call in its middle.

As `test_every_operation.py` does for the core, on real pipelines. What is tried of the many places is drawn, always the same for
one seed: ``LIFECYCLE_SEED=7`` draws others, ``LIFECYCLE_STORM=10`` tries them all.
"""

from __future__ import annotations

import functools
import gc
import itertools
import os
import signal
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lifecycle import LifecycleError
from lifecycle._core.runtime import snapshot
from lifecycle.testing import Interrupt, Struck, each_interrupt, every_line, every_point, run_interrupted
from tests.adversaries import scenes_loops
from tests.adversaries.meddling import ALL, Garbage, Once, look_at, some
from tests.adversaries.scenes_gstreamer import MODULES, TABLE
from tests.adversaries.stage import ours
from tests.adversaries.stage_gstreamer import Scene, Stage
from tests.adversaries.surface import called, operations, operations_of
from tests.core.adversary import TRACING_KEEPS_LOCALS, in_own_process

POINTS, FEW_POINTS = 6, 3
"""Of the points of one scene, how many are interrupted; where each try is long, fewer (`Scene.few` says why)."""
COLLECTIONS, FEW_COLLECTIONS = 20, 10
"""Lines of one scene at which garbage is collected."""
MEETINGS, FEW_MEETINGS = 3, 2
"""How often another call is tried in the middle of one scene."""

pytestmark = [
    pytest.mark.needs("gstreamer", "numpy"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

NOT_ON_A_STAGE = {
    "LeaksTracer.__init__": "in a process of its own, see test_the_leaks_tracer",
    "LeaksTracer.enable": "in a process of its own, see test_the_leaks_tracer",
    "LeaksTracer.start": "in a process of its own, see test_the_leaks_tracer",
    "LeaksTracer.alive": "in a process of its own, see test_the_leaks_tracer",
}
"""Operations of which no scene is played here, and why."""


def everything() -> dict[str, Any]:
    """Every public operation, with the function behind it."""
    from lifecycle.integrations.gstreamer.captures.iteration import Frames
    from lifecycle.integrations.gstreamer.feeding.feeder import FeederFrame

    found = operations(MODULES)
    for cls in (Frames, FeederFrame):  # which no module shows, and public operations return
        found.update(operations_of(cls))
    return found


def named() -> set[str]:
    """The operations that scenes say they exercise."""
    return {operation for scene in TABLE.values() for operation in scene.operations}


def played(wanted: Callable[[Scene], bool] = lambda scene: True) -> list[Any]:
    """The scenes that are wanted."""
    return [
        pytest.param(
            scene,
            id=str(scene),
            marks=[
                *([pytest.mark.needs(*scene.needs)] if scene.needs else ()),
                *([UNTRACED] if scene.views else ()),
            ],
        )
        for scene in TABLE.values()
        if wanted(scene)
    ]


UNTRACED = pytest.mark.skipif(
    TRACING_KEEPS_LOCALS, reason="on 3.10 tracing itself holds a view beyond its end, in a copy of the locals"
)


def number(scene: Scene, many: int, few: int) -> int:
    return few if scene.few else many


def places(scene: Scene) -> Callable[[types.CodeType], bool]:
    """The code in which something may happen in the middle of a scene."""
    return beside_the_heap if scene.walks else ours


def beside_the_heap(code: types.CodeType) -> bool:
    """The library's code, but for that which goes through every object of the process: a hundred thousand lines of the same few, in
    which interrupts and collections are tests/core/test_interrupts.py's."""
    return ours(code) and not code.co_filename.endswith("referrers.py") and code is not snapshot.__code__


@pytest.fixture(autouse=True)
def nothing_is_kept_of_what_cannot_be_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt in a ``__del__`` is CPython's to print; pytest would keep it with all its frames."""
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
    gc.collect()


@pytest.fixture
def raised_again() -> Iterator[list[int]]:
    """What a callback of the user's was interrupted by is raised again on the main thread: that is noted."""
    noted: list[int] = []
    before = signal.signal(signal.SIGINT, lambda *_: noted.append(1))
    yield noted
    signal.signal(signal.SIGINT, before)


# -- the table ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.needs("webrtc")
def test_every_public_operation_has_a_scene() -> None:
    missing = sorted(set(everything()) - named() - set(NOT_ON_A_STAGE))
    assert not missing, (
        f"public, but in no scene of tests/adversaries/scenes_gstreamer.py: {missing}. Write one, so that interrupts, collections and "
        "other threads are tried in the middle of it"
    )


@pytest.mark.needs("webrtc")
def test_nothing_is_named_that_is_not_there() -> None:
    assert not sorted((named() | set(NOT_ON_A_STAGE)) - set(everything()))


@pytest.mark.needs("webrtc")
@pytest.mark.parametrize("scene", played())
def test_a_scene_exercises_what_it_says(scene: Scene) -> None:
    functions = everything()
    stage = Stage(scene)
    with called() as codes:
        stage.play()
        stage.settle("nothing", calm=True)
        gc.collect()
    missed = [operation for operation in scene.operations if functions[operation].__code__ not in codes]
    stage.end()
    assert not missed, f"{scene} does not call {missed}"


def test_every_module_of_the_integrations_is_looked_at() -> None:
    """A new integration, or a new module of one that programs import by itself, needs scenes too."""
    root = Path(integrations_of())
    found = {f"lifecycle.integrations.{path.stem}" for path in root.glob("[a-z]*.py")}
    found |= {
        f"lifecycle.integrations.event_loops.{path.stem}" for path in root.glob("event_loops/[a-z]*.py")
    }
    found |= {f"lifecycle.integrations.{path.parent.name}" for path in root.glob("*/__init__.py")}
    found |= {f"lifecycle.integrations.gstreamer.{path.stem}" for path in root.glob("gstreamer/[a-z]*.py")}
    looked_at = {
        *MODULES,
        *scenes_loops.MODULES.values(),
        "lifecycle.integrations.event_loops.asyncio",  # scenes_integrations.py
        "lifecycle.integrations.prometheus",
        "lifecycle.integrations.event_loops",  # shows nothing itself
        "lifecycle.integrations.gstreamer.errors",  # shown by the package, as what is of the tracer
        "lifecycle.integrations.gstreamer.tracer",
        "lifecycle.integrations.across",  # scenes_across.py, through the next two
        "lifecycle.integrations.iceoryx2",
        "lifecycle.integrations.zenoh",
        "lifecycle.integrations.gpu",  # tests/gpu tries its own operations
        "lifecycle.integrations.cuda",  # and so do tests/cuda, tests/dlpack and tests/opentelemetry
        "lifecycle.integrations.dlpack",
        "lifecycle.integrations.opentelemetry",
        # Shorter names of modules of lifecycle.integrations.gpu.
        *(
            f"lifecycle.integrations.{name}"
            for name in ("moderngl", "opengl", "pyglet", "qt", "vispy", "wgpu")
        ),
    }
    assert found == looked_at


def integrations_of() -> str:
    import lifecycle.integrations.event_loops

    return os.path.dirname(os.path.dirname(lifecycle.integrations.event_loops.__file__))


# -- interrupts --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scene", played(lambda scene: not scene.no_interrupts))
def test_an_interrupt_at_any_point(scene: Scene, raised_again: list[int]) -> None:
    stage = Stage(scene)
    with every_point(int, of=places(scene)) as all_points:
        stage.play()
    stage.settle("nothing", calm=True)
    for point in some(number(scene, POINTS, FEW_POINTS), all_points.passed, scene):
        struck = run_interrupted(stage.play, point, of=places(scene))
        where = f"interrupted at point {point} of {all_points.passed}, {struck.place or 'none'}"
        assert struck.error is None or isinstance(struck.error, (Interrupt, LifecycleError)), (
            where,
            struck.error,
        )
        stage.settle(where, struck)
        del struck
    stage.end()


# -- the collector, and other calls ------------------------------------------------------------------------------------------------


class Meddler:
    """What may be done in the middle of an operation."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.wrong: list[str] = []
        self.sample = stage.sample(32 * 24 * 3, "video/x-raw,format=RGB,width=32,height=24")
        self.adapter = stage.gst.SampleAdapter(stage.manager)
        stage.base = stage._census()

    def close_last(self) -> None:
        """What the scene has made last."""
        self.close(-1)

    def close_first(self) -> None:
        """What the scene has made first."""
        self.close(0)

    def close(self, which: int) -> None:
        try:
            thing = self.stage.things[which]
        except IndexError:
            return  # nothing made yet
        thing.close()

    def look(self) -> None:
        """Ask whatever can be asked."""
        look_at(list(self.stage.things))
        self.stage.manager.stats()
        self.stage.manager.objects()

    def again(self) -> None:
        """The same scene, where it may be played within itself."""
        if not self.stage.scene.no_interrupts:
            self.stage.play()

    def frame(self) -> None:
        """Another frame."""
        with self.adapter.frame(self.sample) as frame:
            frame.array()

    def flush(self) -> None:
        """Whatever waits, in all of the process."""
        gc.collect()

    ALL = (close_last, close_first, look, again, frame, flush)

    def do(self, deed: Callable[[Meddler], object]) -> None:
        """One of them; what is refused is refused, and anything else that it raises is wrong."""
        try:
            deed(self)
        except LifecycleError:
            pass
        except Exception as error:
            self.wrong.append(f"{deed.__name__}: {type(error).__name__}: {error}")

    def garbage(self, number: int) -> None:
        """Make some that is found at once: its ``__del__`` reads a frame, closes what the scene has made, or looks at it."""
        kind = number % 8
        if kind == 0:
            frame = self.adapter.frame(self.sample)
            array = frame.array()

            def read() -> None:
                assert array.sum() == 0
                frame.close()

            Garbage(lambda: self.do(lambda _: read()))
        elif kind == 1:
            Garbage(lambda: self.do(Meddler.look))
        elif kind == 2:
            Garbage(lambda: self.do(Meddler.frame))
        elif kind == 7:
            Garbage(lambda: self.do(Meddler.close_last))
        gc.collect(0)


@pytest.mark.parametrize("scene", played())
def test_the_collector_at_any_line(scene: Scene) -> None:
    stage = Stage(scene)
    meddler = Meddler(stage)
    with every_line(int, of=places(scene)) as lines:
        stage.play()
    stage.settle("nothing", calm=True)
    chosen = set(some(number(scene, COLLECTIONS, FEW_COLLECTIONS), lines.passed, scene))
    passed, done = itertools.count(1), itertools.count()

    def collect() -> None:
        if next(passed) in chosen:
            meddler.garbage(next(done))

    with every_line(collect, of=places(scene)):
        try:
            stage.play()
        except LifecycleError:
            pass
    stage.settle("collections in its middle")
    assert not meddler.wrong, meddler.wrong[:3]
    stage.end()


@pytest.mark.parametrize("how", ["here", "on another thread"])
@pytest.mark.parametrize("scene", played())
def test_another_call_at_any_line(scene: Scene, how: str) -> None:
    """As by a signal handler or a ``__del__``, at the points where one may come; and as by another thread, at any line."""
    here = how == "here"
    stage = Stage(scene)
    meddler = Meddler(stage)
    adversary = every_point if here else every_line
    with adversary(int, of=places(scene)) as passes:
        stage.play()
    stage.settle("nothing", calm=True)
    choices = list(itertools.product(range(1, passes.passed + 1), Meddler.ALL))
    for choice in some(number(scene, MEETINGS, FEW_MEETINGS), len(choices), scene, how):
        at, deed = choices[choice - 1]
        meddle = Once(functools.partial(meddler.do, deed), at, here=here)
        with adversary(meddle, of=places(scene)):
            try:
                stage.play()
            except LifecycleError:
                pass
        what = f"{deed.__name__} {how} at {'point' if here else 'line'} {at} of {passes.passed}"
        meddle.comes_back(what)
        stage.settle(what)
        assert not meddler.wrong, (what, meddler.wrong)
    stage.end()


@pytest.mark.parametrize("scene", played())
def test_the_manager_closes_at_any_line(scene: Scene) -> None:
    """On another thread: everything ends, once, and the scene is told so by an error of ours."""
    stage = Stage(scene)
    with every_line(int, of=places(scene)) as lines:
        stage.play()
    stage.settle("nothing", calm=True)
    stage.end()
    for at in some(1 if scene.few and not ALL else 2, lines.passed, scene, "manager"):
        stage = Stage(scene)
        meddle = Once(stage.manager.close, at, here=False)
        with every_line(meddle, of=places(scene)):
            try:
                stage.play()
            except LifecycleError:
                pass
        meddle.comes_back(f"the manager closes at line {at} of {lines.passed}")
        stage.end(ok=False)


# -- the tracer --------------------------------------------------------------------------------------------------------------------


def test_the_leaks_tracer() -> None:
    """In a process of its own, which has it loaded; there it is the judge of the scenes of frames and buffers, too."""
    in_own_process(under_the_tracer, timeout=120)


def under_the_tracer() -> None:
    """Interrupts and collections, in the tracer's own operations and under its eyes."""
    import gi

    gi.require_version("Gst", "1.0")
    from lifecycle.integrations.gstreamer import GStreamerError, LeaksTracer

    warnings.simplefilter("ignore")
    sys.unraisablehook = lambda unraisable: None
    for _ in each_interrupt(LeaksTracer.enable, of=ours):
        pass
    from tests.gstreamer import program

    with pytest.raises(GStreamerError):
        LeaksTracer.enable()
    tracer = LeaksTracer()
    kept: list[Any] = []
    gc.collect()
    # The tracer collects before it answers.
    gc.freeze()

    def watch() -> None:
        tracer.start()
        kept.append(program.Gst.Buffer.new_allocate(None, 16, None))
        alive = tracer.alive()
        assert alive.get("GstBuffer") == 1, alive
        kept.clear()

    for struck_here in each_interrupt(watch, of=ours):
        assert struck_here.error is None or isinstance(struck_here.error, Interrupt), struck_here
        kept.clear()
    with every_line(gc.collect, of=ours):
        watch()
    struck: Struck[Any]
    for name in ("read", "own", "write", "lend", "write_what_was_read"):
        stage = Stage(TABLE[name])
        stage.play()
        stage.settle("nothing", calm=True)
        tracer.start()
        for point in (20, 60, 100, 140, 180, 220, 260, 300):
            struck = run_interrupted(stage.play, point, of=ours)
            stage.settle(f"interrupted at point {point}", struck)
            del struck
        alive = tracer.alive()
        assert not alive, f"{name}: {alive}"
        stage.end()
