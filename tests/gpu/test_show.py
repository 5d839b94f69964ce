"""The show, as a user starts it: with and without the safety, in OpenGL, wgpu and a window of Qt."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT, display


def show(*options: str, env: dict[str, str] | None = None) -> str:
    """What it says. It ends with 0."""

    environment = {
        **os.environ,
        "LIBGL_ALWAYS_SOFTWARE": "1",
        "WGPU_BACKEND_TYPE": "Vulkan",
        "PYTHONFAULTHANDLER": "1",
        **(env or {}),
    }
    done = subprocess.run(
        [sys.executable, "-m", "examples.gl_camera", "--size", "160x120", *options],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def sums(said: str) -> dict[str, int]:
    """The numbers of the last three lines."""
    found = re.search(
        r"(?P<pictures>\d+) pictures, (?P<torn>\d+) torn; .*; (?P<added>\d+) processors added, (?P<removed>\d+) "
        r"removed\n(?P<contexts>\d+) context\(s\); (?P<orphaned>\d+) objects went with a lost one, (?P<late>\d+) "
        r"late.*\nreleased (?P<released>\d+) at the end, left behind: (?P<left>\d+)",
        said,
    )
    assert found is not None, said
    return {name: int(value) for name, value in found.groupdict().items()}


@pytest.mark.needs("gl")
def test_no_picture_is_torn_and_a_lost_context_is_made_again() -> None:
    said = show("--frames", "24", "--lose-at", "12", "--toggle-every", "4")
    found = sums(said)
    assert "submission(s) in flight" in said
    assert found["pictures"] >= 20
    assert found["torn"] == found["left"] == 0
    assert found["contexts"] == 2
    assert found["orphaned"] >= 15
    assert found["late"] >= 10
    assert found["added"] >= 4
    assert found["removed"] >= 1


@pytest.mark.needs("gl")
def test_without_the_safety_the_picture_is_torn(tmp_path: Path) -> None:
    out = tmp_path / "torn.png"
    found = sums(show("--unsafe", "--frames", "24", "--lose-at", "0", "--effort", "1500", "--out", str(out)))
    assert found["torn"] > 0
    assert found["left"] == 0


@pytest.mark.needs("wgpu")
def test_with_wgpu() -> None:
    found = sums(show("--wgpu", "--frames", "24", "--lose-at", "12", "--toggle-every", "5"))
    assert found["pictures"] >= 20
    assert found["torn"] == found["left"] == 0
    assert found["contexts"] == 2
    said = show("--wgpu", "--unsafe")
    assert "the process ended with -6 (SIGABRT)" in said


@pytest.mark.needs("qt-gl")
def test_in_a_window_that_is_left_for_another() -> None:
    env = {**display(), "QT_QPA_PLATFORM": "xcb", "PYOPENGL_PLATFORM": "glx"}
    found = sums(show("--window", "--frames", "20", "--lose-at", "10", env=env))
    assert found["pictures"] >= 16
    assert found["torn"] == found["left"] == 0
    assert found["contexts"] == 2
    assert found["orphaned"] >= 10
