"""Fixtures for the whole suite, and the rule that on CI nothing is skipped because a part is missing.

A test that needs something which may not be installed says so with ``@pytest.mark.needs("gstreamer")``. On a
developer's machine it is skipped where that part is missing, with the line that installs it; where the
environment has ``CI=true`` it fails. A skip for any other reason (a platform, an interpreter's version) stays
a skip.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import os
import shutil
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest
import structlog

from lifecycle._core import runtime
from tests import support

if TYPE_CHECKING:
    from lifecycle import SafetyManager
    from lifecycle.testing import check_transitions

if not (support.ROOT / "lifecycle" / "integrations" / "__init__.py").exists():
    # An sdist holds no links, and on Windows git makes none without developer mode.
    raise pytest.UsageError(
        "lifecycle/integrations, a link to the folder integrations, is missing: ln -s ../integrations lifecycle/"
    )

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As in a job that a script has put into the background. The processes of the tests would ignore it too.
    signal.signal(signal.SIGINT, signal.default_int_handler)

SYSTEM_PACKAGES = "run tools/system-packages.sh gstreamer gstreamer-tests"
GPU_PACKAGES = "run tools/system-packages.sh gpu, and the tests with `make test`"
MAKE = "run the tests with `make test`, which installs it"
BIG = {
    "av": "av",
    "cv2": "opencv-python-headless",
    "h5py": "h5py",
    "jax": "jax",
    "pyarrow": "pyarrow",
    "torch": "torch",
}
"""Parts that nothing installs, and their packages, of 20 to 200 MB and more: tests of programs with them are run
by hand, on CI as elsewhere."""


def tool(name: str) -> str | None:
    """The path of a program on PATH or beside this interpreter (where `make test` puts Prometheus), None if
    there is none."""
    beside = os.path.dirname(sys.executable)
    return shutil.which(name, path=f"{beside}{os.pathsep}{os.environ.get('PATH', os.defpath)}")


def _module(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def _gstreamer() -> bool:
    if not _module("gi"):
        return False
    import gi

    try:
        for namespace in ("Gst", "GstApp", "GstVideo"):
            gi.require_version(namespace, "1.0")
    except ValueError:
        return False
    return True


def _gst_overrides() -> bool:
    return _gstreamer() and importlib.util.find_spec("gi.overrides.Gst") is not None


def _webrtc() -> bool:
    if not _gstreamer():
        return False
    import gi

    try:
        gi.require_version("GstWebRTC", "1.0")
    except ValueError:
        return False
    from gi.repository import Gst

    Gst.init(None)
    return all(Gst.ElementFactory.find(name) is not None for name in ("webrtcbin", "nicesrc", "vp8enc"))


def _gst_gl() -> bool:
    """Whether GStreamer can draw here: with no window system from 1.24 on, before that on a display."""
    if not _gstreamer():
        return False
    probe = """
        import gi
        gi.require_version("GstGL", "1.0")
        from gi.repository import Gst
        Gst.init(None)
        assert Gst.ElementFactory.find("gltestsrc") is not None
        source = Gst.parse_launch("gltestsrc ! fakesink")
        source.set_state(Gst.State.PAUSED)
        drawing = source.get_state(20 * Gst.SECOND)[0] == Gst.StateChangeReturn.SUCCESS
        source.set_state(Gst.State.NULL)
        assert drawing
    """
    return support.run_python(probe, env=support.drawing_environment()).rc == 0


def _gl() -> bool:
    if not _module("OpenGL") or not _module("numpy"):
        return False
    from tests.gpu.contexts import Context, release_current

    try:
        context = Context().make_current()
    except (OSError, AttributeError):
        return False
    release_current()
    context.destroy()
    return True


def _qt_gl() -> bool:
    """Whether Qt can draw on a display here."""
    if not _gl() or importlib.util.find_spec("PySide6") is None:
        return False
    probe = """
        from PySide6.QtGui import QGuiApplication, QOffscreenSurface, QOpenGLContext
        application = QGuiApplication([])
        surface, context = QOffscreenSurface(), QOpenGLContext()
        surface.create()
        assert context.create() and context.makeCurrent(surface)
    """
    environment = {**support.display(), "QT_QPA_PLATFORM": "xcb", "LIBGL_ALWAYS_SOFTWARE": "1"}
    return support.run_python(probe, env=environment).rc == 0


def _wgpu() -> bool:
    if not _module("wgpu") or not _module("numpy"):
        return False
    from tests.gpu.adapters import adapter

    return adapter() is not None


PARTS: dict[str, tuple[Callable[[], bool], str]] = {
    "gstreamer": (_gstreamer, SYSTEM_PACKAGES),
    "gst-overrides": (_gst_overrides, SYSTEM_PACKAGES),
    "webrtc": (_webrtc, SYSTEM_PACKAGES),
    "gst-gl": (_gst_gl, "gstreamer1.0-gl, and before GStreamer 1.24 a display, such as Xvfb's"),
    "numpy": (lambda: _module("numpy"), MAKE),
    "prometheus_client": (lambda: _module("prometheus_client"), MAKE),
    "opentelemetry": (lambda: _module("opentelemetry.sdk.metrics"), MAKE),
    "gunicorn": (lambda: _module("gunicorn"), MAKE),
    "uvloop": (lambda: _module("uvloop"), MAKE),
    "trio": (lambda: _module("trio"), MAKE),
    "lmdb": (lambda: _module("lmdb"), MAKE),
    "iceoryx2": (lambda: _module("iceoryx2") and _module("numpy"), MAKE),
    "zenoh": (lambda: _module("zenoh") and _module("numpy"), MAKE),
    "pillow": (lambda: _module("PIL.Image"), MAKE),
    "ml_dtypes": (lambda: _module("ml_dtypes"), MAKE),
    "tvm_ffi": (lambda: _module("tvm_ffi"), MAKE),
    "pyside6": (lambda: _module("PySide6.QtCore"), MAKE),
    "gl": (_gl, GPU_PACKAGES),
    "moderngl": (lambda: _gl() and _module("moderngl"), GPU_PACKAGES),
    "pyglet": (lambda: _gl() and importlib.util.find_spec("pyglet") is not None, GPU_PACKAGES),
    "vispy": (lambda: _gl() and importlib.util.find_spec("vispy") is not None, GPU_PACKAGES),
    "wgpu": (_wgpu, GPU_PACKAGES),
    "qt-gl": (_qt_gl, "run tools/system-packages.sh gpu qt, and the tests with `make test-gpu`"),
    "promtool": (lambda: tool("promtool") is not None, MAKE),
    "prometheus": (lambda: tool("prometheus") is not None, MAKE),
    **{
        part: (partial(_module, part), f"too big for every run: pip install {package}")
        for part, package in BIG.items()
    },
}


ON_ONE_PYTHON = dict.fromkeys(
    (
        "iceoryx2",
        "lmdb",
        "ml_dtypes",
        "moderngl",
        "pyglet",
        "pyside6",
        "qt-gl",
        "trio",
        "tvm_ffi",
        "uvloop",
        "vispy",
        "wgpu",
        "zenoh",
    ),
    (3, 11),
)
"""Parts that `make test` installs for one version of CPython alone (pyproject.toml): elsewhere their absence
is no fault."""


@cache
def missing(part: str) -> str | None:
    """Why tests that need `part` cannot run here, None if they can."""
    found, remedy = PARTS[part]
    if found():
        return None
    if part in BIG:
        return f"without {part}: {remedy}"
    only = ON_ONE_PYTHON.get(part, sys.version_info[:2])
    if only != sys.version_info[:2]:
        return f"{part} is tested on CPython {only[0]}.{only[1]} alone"
    return f"needs {part}: {remedy}"


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        for part in marker.args:
            if part not in PARTS:
                raise pytest.UsageError(f"{item.nodeid}: needs({part!r}): the parts are {', '.join(PARTS)}")
            if reason := missing(part):
                pytest.skip(reason)


def pytest_configure(config: pytest.Config) -> None:
    """Have our log shown with the test that failed, instead of between the dots."""
    structlog.configure(logger_factory=structlog.stdlib.LoggerFactory())
    if support.SLOW_WAY:
        from lifecycle._core.place import AnyThread

        AnyThread.at_once = False


AnyReport = TypeVar("AnyReport", pytest.TestReport, pytest.CollectReport)


def _no_missing_part_on_ci(report: AnyReport) -> AnyReport:
    if os.environ.get("CI") == "true" and report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if reason.startswith("needs "):
            report.outcome = "failed"
            report.longrepr = f"on CI every part is installed, but this test {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _no_missing_part_on_ci((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _no_missing_part_on_ci((yield))


@pytest.fixture(scope="module", autouse=True)
def collections_are_of_the_tests_own() -> None:
    """Tests collect all the time, and half a million objects of pytest, of libraries and of the tests
    themselves are there by now: no collection of this module's tests looks through them, nor of the next
    ones'."""
    # As it is imported it looks for who refers to what it is given, and finds nothing that is frozen.
    _module("hypothesis")
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def transitions() -> Iterator[check_transitions]:
    """Every change of an object's state in the whole run is looked up in the table."""
    from lifecycle.testing import check_transitions

    with check_transitions() as check:
        yield check


@pytest.fixture(autouse=True)
def objects_live_by_the_table(
    transitions: check_transitions, request: pytest.FixtureRequest
) -> Iterator[None]:
    """A change that the table does not have fails the test it happens in, on whichever thread."""
    if request.node.get_closest_marker("unwatched") is None:
        yield
    else:
        transitions.stop()
        try:
            yield
        finally:
            transitions.start()
    broken, transitions.broken = transitions.broken, []
    assert not broken, "\n".join(broken)


@pytest.fixture(autouse=True)
def may_wait() -> Iterator[None]:
    """A test that leaves this thread marked as one that may not wait would change what all later ones see."""
    yield
    me = runtime.get_ident()
    marked = me in runtime.no_wait_threads
    runtime.no_wait_threads.discard(me)
    assert not marked, "this thread is still marked as one that may not wait"


@pytest.fixture
def run_python() -> Callable[..., support.Finished]:
    """`support.run_python`, for tests that would rather not import it."""
    return support.run_python


@pytest.fixture
def promtool() -> str:
    """The path of `promtool`."""
    if reason := missing("promtool"):
        pytest.skip(reason)
    return str(tool("promtool"))


@pytest.fixture
def prometheus_server() -> str:
    """The path of the Prometheus server."""
    if reason := missing("prometheus"):
        pytest.skip(reason)
    return str(tool("prometheus"))


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> support.Refusal:
    """Call ``refusal("postmortem", "absent.rec")`` for the one line with which that command is refused."""
    from lifecycle.cli.main import main

    def refused(*words: str) -> str:
        assert main(list(words)) == 2
        printed = capsys.readouterr()
        assert not printed.out
        assert printed.err.startswith("lifecycle: ")
        assert printed.err.count("\n") == 1
        return printed.err

    return refused


@pytest.fixture
def manager(request: pytest.FixtureRequest) -> Iterator[SafetyManager]:
    """A `SafetyManager` named after the test, closed at the end.

    At the end nothing may be live in it any more: a test that means to leave something live is marked
    ``leaves_live``.
    """
    from lifecycle import SafetyConfig, SafetyManager

    # No deadline passes on a loaded machine.
    patient = SafetyConfig(finalizer_timeout=60.0, shutdown_timeout=60.0)
    with SafetyManager(patient, name=request.node.name) as made:
        yield made
        if request.node.get_closest_marker("leaves_live") is None and not made.closed:
            gc.collect()
            support.eventually(lambda: made.stats().active_objects == 0)


@pytest.fixture
def repository() -> Path:
    """The root of the repository."""
    return support.ROOT


def pytest_report_header(config: pytest.Config) -> list[str]:
    """What this run has and has not, at the top of its output."""
    absent = [part for part in PARTS if missing(part)]
    return [
        f"parts: {', '.join(part for part in PARTS if part not in absent)}; missing: {', '.join(absent) or 'none'}"
    ]


@pytest.fixture
def no_collection_by_itself() -> Iterator[None]:
    """As in a program that waits and makes nothing. The collector is enabled."""
    before = gc.get_threshold()
    gc.collect()
    gc.set_threshold(1_000_000, 1_000, 1_000)
    yield
    gc.set_threshold(*before)
