"""The example adapter on the low-level layer (examples/camera_sdk.py), against its SDK, which counts misuse:
busy, forked, interrupted, dropped, and at exit."""

from __future__ import annotations

import ast
import gc
import os
import random
import select
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from examples import camera_sdk
from examples.camera_sdk import Camera, Frame
from lifecycle import AccessRefusedError, ClosedError, SafetyConfig, SafetyManager
from lifecycle.lowlevel import facts
from lifecycle.testing import code_of, each_interrupt
from tests.support import ROOT, eventually, run_python

SOURCE = ROOT / "examples" / "camera_sdk.c"
ADAPTER = ROOT / "examples" / "camera_sdk.py"
MOST_LINES = 150
POISON = 0xEE
"""What the SDK writes into a buffer that was requeued. A frame's own bytes are below 0x80."""

SETTING = """
    import os, sys, threading, time
    from examples.camera_sdk import Camera, load
    from lifecycle import ClosedError, SafetyManager
    sdk = load(sys.argv[1])
    manager = SafetyManager()
"""
WELL = "sdk: 0 devices open, 0 buffers lent, 0 errors"


def compiler() -> str | None:
    """The compiler at hand, None without one."""
    named = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    return next((path for name in (named, "cc", "gcc", "clang") if (path := shutil.which(name))), None)


CC = compiler()
needs_compiler = pytest.mark.skipif(
    CC is None or not hasattr(os, "fork"),
    reason="needs a C compiler (gcc or clang) and POSIX threads: the SDK is built by the test",
)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    built = tmp_path_factory.mktemp("sdk") / "libcamera_sdk.so"
    assert CC is not None
    subprocess.run(
        [CC, "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread", "-o", built, SOURCE],
        check=True,
        timeout=120,
    )
    return str(built)


@pytest.fixture
def sdk(library: str) -> Iterator[Any]:
    loaded = camera_sdk.load(library)
    before = loaded.cam_errors()
    yield loaded
    gc.collect()
    assert (loaded.cam_opened(), loaded.cam_lent()) == (0, 0)
    assert loaded.cam_errors() == before, "the SDK was misused"


def whole(memory: memoryview) -> None:
    """What is read is one frame's, and nothing that was requeued."""
    first = memory[0]
    assert first < POISON
    assert bytes(memory) == bytes([first]) * len(memory)


def test_the_adapter_is_one_small_file_of_public_names() -> None:
    text = ADAPTER.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES
    imported = [node for node in ast.walk(ast.parse(text)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    modules = {node.module for node in imported if isinstance(node, ast.ImportFrom)}
    assert {name for name in modules if name and name.startswith("lifecycle")} == {
        "lifecycle",
        "lifecycle.lowlevel",
    }
    private = {
        node.attr
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not (isinstance(node.value, ast.Name) and node.value.id == "self")
    }
    assert private <= {"__name__"}


@needs_compiler
def test_frames_are_the_sdks_memory_and_outlive_their_handles(manager: SafetyManager, sdk: Any) -> None:
    with Camera(manager, sdk, buffers=2) as camera:
        frame = camera.frame(timeout=20)
        assert type(frame) is Frame
        assert facts(frame).parent_id == camera._device.id
        memory = frame.memory()
        frame.close()
        with pytest.raises(AccessRefusedError):
            frame.memory()
        camera.frame(timeout=20).close()
        whole(memory)
        del memory
    assert camera.close(timeout=20)
    with pytest.raises(ClosedError, match="the camera is closed"):
        camera.frame()


@needs_compiler
def test_a_frame_that_is_read_keeps_the_device_open(manager: SafetyManager, sdk: Any) -> None:
    camera = Camera(manager, sdk)
    with camera.frame(timeout=20) as frame:
        memory = frame.memory()[10:20]
    assert not camera.close(timeout=0)
    assert sdk.cam_opened() == 1
    whole(memory)
    del memory
    assert camera.close(timeout=20)
    assert sdk.cam_opened() == 0


@needs_compiler
def test_who_waits_for_a_frame_is_told_of_the_end(manager: SafetyManager, sdk: Any) -> None:
    camera = Camera(manager, sdk, pause=1_000_000)
    told: list[BaseException] = []

    def wait() -> None:
        try:
            camera.frame()
        except ClosedError as error:
            told.append(error)

    with pytest.raises(TimeoutError, match="no frame within"):
        camera.frame(timeout=0.01)
    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    time.sleep(0.05)
    camera.close()
    thread.join(20)
    assert told
    assert camera.close(timeout=30)


@needs_compiler
def test_the_descriptor_says_that_the_device_was_unplugged(manager: SafetyManager, sdk: Any) -> None:
    with Camera(manager, sdk) as camera:
        camera.frame(timeout=20).close()
        assert select.select([camera], [], [], 0)[0] == []
        with camera._device.lease() as device:
            sdk.cam_unplug(device.opened)
        assert select.select([camera], [], [], 20)[0] == [camera]


@needs_compiler
def test_a_limit_of_the_type_sends_buffers_straight_back(manager: SafetyManager, sdk: Any) -> None:
    manager.policy("sdk.Frame", max_live=1)
    with Camera(manager, sdk, buffers=4) as camera:
        held = camera.frame(timeout=20)
        time.sleep(0.1)
        assert sdk.cam_lent() <= 2
        held.close()
        camera.frame(timeout=20).close()


@needs_compiler
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_camera_that_is_dropped_is_closed_all_the_same(sdk: Any) -> None:
    manager = SafetyManager(config=SafetyConfig(leak_level="off"))
    camera = Camera(manager, sdk, pause=100)
    camera.frame(timeout=20)
    del camera
    eventually(lambda: sdk.cam_opened() == 0)
    assert manager.close(timeout=20).ok


@needs_compiler
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_storm(sdk: Any) -> None:
    """Several threads take, read, keep, drop and close, while the collector runs and cameras come and go."""
    manager = SafetyManager(config=SafetyConfig(leak_level="off", finalizer_timeout=60.0))
    failures: list[BaseException] = []
    frames: list[int] = []
    until = time.monotonic() + 4

    def consume(camera: Camera, seed: int) -> None:
        dice = random.Random(seed)
        kept: list[memoryview] = []
        try:
            while True:
                frame = camera.frame(timeout=30)
                memory = frame.memory()
                kept.append(memory[dice.randrange(16) :])
                if dice.random() < 0.8:
                    frame.close()
                del frame, memory
                for one in kept:
                    whole(one)
                if dice.random() < 0.7:
                    kept.clear()
                frames.append(1)
        except ClosedError:
            return
        except BaseException as error:
            failures.append(error)

    turn = 0
    while time.monotonic() < until:
        turn += 1
        camera = Camera(manager, sdk, buffers=6, nbytes=512, pause=50)
        threads = [threading.Thread(target=consume, args=(camera, 10 * turn + n)) for n in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        gc.collect()
        camera.close(timeout=0)
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
    del camera
    gc.collect()
    assert failures == []
    assert len(frames) > 50
    assert manager.close(timeout=30).ok


@needs_compiler
@pytest.mark.skipif(
    sys.version_info < (3, 11),
    reason="up to 3.10 a traced frame keeps a copy of its locals, which holds frames",
)
def test_interrupted_anywhere_nothing_is_lost(sdk: Any) -> None:
    manager = SafetyManager(config=SafetyConfig(leak_level="off"))

    made: list[Camera] = []

    def run() -> None:
        with Camera(manager, sdk, buffers=2, nbytes=64, pause=100) as camera:
            made.append(camera)
            camera.frame(timeout=20).close()

    struck = 0
    functions = (Camera.__init__, Camera.frame, Camera.close, Camera._empty, Camera.__exit__)
    for _ in each_interrupt(run, of=code_of(*functions)):
        struck += 1
        # One that was struck before it was closed is still referred to by the traceback.
        for camera in made:
            camera.close(timeout=20)
        made.clear()
        gc.collect()
        eventually(lambda: sdk.cam_opened() == 0)
    assert struck >= 20
    assert manager.close(timeout=30).ok


@needs_compiler
@pytest.mark.parametrize("how", ["closed", "left", "held"])
def test_exit_while_busy(library: str, how: str) -> None:
    """The interpreter ends while a daemon thread takes frames, and somebody may still read one."""
    end = {
        "closed": "camera.close()",
        "left": "",
        "held": "held = camera.frame(timeout=20); memory = held.memory(); held.close()",
    }[how]
    done = run_python(
        SETTING
        + f"""
    camera = Camera(manager, sdk, pause=100)
    count = []

    def consume():
        try:
            while True:
                with camera.frame() as frame:
                    count.append(frame.memory()[0])
        except ClosedError:
            pass

    threading.Thread(target=consume, daemon=True).start()
    while len(count) < 20:
        time.sleep(0.01)
    {end}
    """,
        env={"CAMERA_SDK_REPORT": "1"},
        argv=(library,),
    )
    assert done.rc == 0, done
    if how == "held":
        # What is still read is not freed under its reader, and the process ends with it. The stream is stopped.
        assert "sdk: 1 devices open, 1 buffers lent, 0 errors" in done.stderr
        assert "sdk.Frame" in done.stderr
        assert "sdk.Stream" not in done.stderr
    else:
        assert WELL in done.stderr
        assert "sdk.Frame" not in done.stderr


@needs_compiler
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_touches_nothing_of_the_sdk(library: str) -> None:
    done = run_python(
        SETTING
        + """
    import faulthandler, warnings
    warnings.simplefilter("ignore", DeprecationWarning)
    # Its thread is not in the child, which would wait for it as it ends.
    faulthandler.cancel_dump_traceback_later()
    camera = Camera(manager, sdk, pause=100)
    mine = camera.frame(timeout=20)
    pid = os.fork()
    if pid == 0:
        try:
            camera.frame(timeout=20)
        except ClosedError:
            print("closed in the child", flush=True)
        mine.close()
        camera.close(timeout=1)
        sys.exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert mine.memory()[0] < 0x80
    mine.close()
    for _ in range(5):
        camera.frame(timeout=20).close()
    assert camera.close(timeout=20)
    print("went on")
    """,
        env={"CAMERA_SDK_REPORT": "1"},
        argv=(library,),
    )
    assert done.check().split("\n")[:2] == ["closed in the child", "went on"]
    child, parent = (line for line in done.stderr.splitlines() if line.startswith("sdk:"))
    assert child.endswith(" 0 errors")
    assert parent == WELL
