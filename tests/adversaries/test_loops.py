"""GLib and Qt with an interrupt, a collection, another call in the middle of what they do: the tests of
`test_every_operation.py`, on the scenes of `scenes_loops.py`. Qt has a process of its own, since a process has one application."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from tests.adversaries import test_every_operation as adversaries
from tests.adversaries.scenes_loops import GLIB, MODULES, QT
from tests.adversaries.stage import Scene, Stage
from tests.adversaries.surface import called, operations
from tests.core.adversary import in_own_process

TABLES = {"glib": GLIB, "qt": QT}

ADVERSARIES: dict[str, Callable[[Scene], None]] = {
    "interrupts": lambda scene: adversaries.test_an_interrupt_at_any_point(scene, "any_thread", None),
    "collector": lambda scene: adversaries.test_the_collector_at_any_line(scene, "any_thread", None),
    "looks": lambda scene: adversaries.test_whoever_looks_at_any_point_is_told_one_thing(
        scene, "any_thread", None
    ),
    "calls here": lambda scene: adversaries.test_another_call_at_any_line(scene, "any_thread", "here", None),
    "calls elsewhere": lambda scene: adversaries.test_another_call_at_any_line(
        scene, "any_thread", "on another thread", None
    ),
    "nothing": lambda scene: exercises_what_it_says(scene),
}

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


def exercises_what_it_says(scene: Scene) -> None:
    """As `test_surface`."""
    loop = next(name for name, table in TABLES.items() if scene.name in table)
    functions = operations((MODULES[loop],))
    assert set(functions) == {operation for one in TABLES[loop].values() for operation in one.operations}, (
        "an operation without a scene, or a scene without its operation"
    )
    stage = Stage(scene)
    stage.renew()
    with called() as codes:
        stage.play()
        stage.settle("nothing")
    for operation in scene.operations:
        assert functions[operation].__code__ in codes, f"{scene} does not call {operation}"
    stage.end()


@pytest.mark.needs("gstreamer")  # PyGObject is a part of it
@pytest.mark.parametrize("adversary", ADVERSARIES)
@pytest.mark.parametrize("name", GLIB)
def test_glib(name: str, adversary: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
    ADVERSARIES[adversary](GLIB[name])


@pytest.mark.needs("pyside6")
@pytest.mark.parametrize("name", QT)
def test_qt(name: str) -> None:
    in_own_process(in_qt, name, timeout=300)


def in_qt(name: str) -> None:
    """All adversaries on one scene, in a process that has an application."""
    os.environ["QT_QPA_PLATFORM"] = "offscreen"
    from PySide6.QtCore import QCoreApplication

    warnings.simplefilter("ignore")
    sys.unraisablehook = lambda unraisable: None
    signal.signal(signal.SIGINT, lambda *_: None)  # an interrupt in a slot is raised again on this thread
    application: Any = QCoreApplication([])
    for adversary in ADVERSARIES.values():
        adversary(QT[name])
    del application
