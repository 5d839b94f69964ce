"""The table of scenes names every public operation that there is, and each scene does what it says."""

from __future__ import annotations

import pytest

from lifecycle._core import runtime
from lifecycle._core.leases import Lease
from lifecycle.distribution.receiver import FrameLoop
from lifecycle.manager.access import AccessBlock
from lifecycle.manager.observed import ObservedHandle, ObservedLease
from lifecycle.profiling import _TimedLease
from lifecycle.recorder import active
from tests.adversaries import scenes_core, scenes_integrations, scenes_lowlevel, scenes_more, scenes_proxies
from tests.adversaries.stage import Scene, Stage
from tests.adversaries.surface import CORE, called, operations, operations_of
from tests.core.adversary import TRACING_KEEPS_LOCALS

RETURNED = (AccessBlock, FrameLoop, Lease, ObservedHandle, ObservedLease, _TimedLease)
"""Classes that no module shows, of which public operations return objects."""

NOT_ON_A_STAGE = {
    "Profiler.ended": "the keeper's thread calls it",
    "Pool.look_after": "called where an adapter lends what is the pool's, see tests/pools",
    "complain": "writes on stderr what is handled just now: tests/core/test_process.py",
    "Answer.__init__": "made at import and for fences that raise",
    "array_of": "needs NumPy: tests/core/test_first_hour.py and tests/proxies, whose arrays it makes",
    **dict.fromkeys(
        (
            "Flag.__bool__",
            "Flag.__init__",
            "Flag.is_set",
            "Flag.wait",
            "Flag.wait_async",
            "Inbox.__init__",
            "Inbox.__len__",
            "Inbox.get",
            "Inbox.take",
            "Line.__init__",
            "Line.__len__",
            "Line.wait",
            "Reply.__init__",
            "Reply.get",
            "Reply.give_up",
            "Reply.has",
            "Reply.offer",
            "WaitList.__init__",
            "WaitList.__len__",
            # Without the GIL a flag rings by a call of its own.
            *(("Flag.set", "WaitList.wake") if runtime.free_threaded else ("WaitList.rings",)),
            "WaitList.wait",
            "WaitList.wait_async",
            "poll",
        ),
        "waits need threads that change something: tests/core/test_waiting.py and test_waiting_forms.py strike "
        "them at each point",
    ),
}
"""Operations that no scene can exercise on this thread, and why."""

SCENES = {
    **scenes_core.TABLE,
    **scenes_lowlevel.TABLE,
    **scenes_more.TABLE,
    **scenes_proxies.TABLE,
    **scenes_integrations.TABLE,
}


def everything() -> dict[str, object]:
    """Every public operation, with the function behind it."""
    found = operations((*CORE, *scenes_proxies.MODULES, *scenes_integrations.MODULES))
    for cls in (*RETURNED, *scenes_proxies.RETURNED):
        found.update(operations_of(cls))
    return found


def named() -> set[str]:
    """The operations that scenes say they exercise."""
    return {operation for scene in SCENES.values() for operation in scene.operations}


def test_every_public_operation_has_a_scene() -> None:
    missing = sorted(set(everything()) - named() - set(NOT_ON_A_STAGE))
    assert not missing, (
        f"public, but in no scene of tests/adversaries: {missing}. Write one, so that interrupts, collections and other threads are "
        "tried in the middle of it"
    )


def test_nothing_is_named_that_is_not_there() -> None:
    assert not sorted((named() | set(NOT_ON_A_STAGE)) - set(everything()))


@pytest.mark.parametrize("scene", SCENES.values(), ids=str)
def test_a_scene_exercises_what_it_says(scene: Scene) -> None:
    functions = everything()
    for place in scene.places:
        stage = Stage(scene, place)
        stage.renew()
        if not scene.lines and TRACING_KEEPS_LOCALS:
            pytest.skip("on 3.10 a profile function keeps from working what counts holders")
        with called() as codes:
            stage.play()
            stage.settle("nothing")
        for operation in scene.operations:
            code = functions[operation].__code__  # type: ignore[attr-defined]
            # A flight recorder has functions of its own in the place of some.
            recorded = active() is not None and code.co_name in {one.co_name for one in codes}
            assert code in codes or recorded, f"{scene} does not call {operation}"
        stage.dropped += scene.drops
        stage.end()
