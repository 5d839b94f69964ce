"""The demo, which is the first thing anybody runs: it ends well, says so, and writes its picture."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

for part in ("PIL", "rich", "numpy", "prometheus_client"):
    pytest.importorskip(part, reason=f"needs {part}: run the tests with `make test`, which installs it")


@pytest.mark.parametrize(
    "source",
    [
        pytest.param((), marks=pytest.mark.needs("gstreamer"), id="gstreamer"),
        pytest.param(("--embedded",), id="embedded"),
    ],
)
def test_the_demo_ends_well(tmp_path: Path, source: tuple[str, ...]) -> None:
    from PIL import Image

    sheet = tmp_path / "sheet.png"
    done = subprocess.run(
        [sys.executable, "-m", "examples.demo", "--seconds", "2", "--sheet", str(sheet), *source],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    for words in (
        "leaks: 0",
        "everything is released",
        "1: Panic",
        'lifecycle_capture_frames_total{capture="camera",manager="demo",result="ok"}',
        "nothing is alive" if not source else "times munmap",
    ):
        assert words in done.stdout, done.stdout
    with Image.open(sheet) as picture:
        assert picture.size == (3 * 328 + 8, 208 + 8)
        assert len(picture.getcolors(maxcolors=1 << 20) or ()) > 5, "an empty picture"


NO_TYPELIB = """
def require_version(namespace, version):
    raise ValueError(f"Namespace {namespace} not available")
"""
NO_GI = "raise ModuleNotFoundError(\"No module named 'gi'\")"


@pytest.mark.parametrize("gi", [NO_TYPELIB, NO_GI], ids=["PyGObject without GStreamer", "no PyGObject"])
def test_the_demo_runs_where_gstreamer_is_missing(tmp_path: Path, gi: str) -> None:
    """Many desktops have PyGObject, and nothing of GStreamer."""
    (tmp_path / "gi").mkdir()
    (tmp_path / "gi" / "__init__.py").write_text(gi)
    done = subprocess.run(
        [sys.executable, "-m", "examples.demo", "--seconds", "1", "--sheet", str(tmp_path / "sheet.png")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.startswith("GStreamer cannot be had here, so the embedded source runs: "), done.stderr
    assert "Traceback" not in done.stderr
    assert "everything is released" in done.stdout
    assert "times munmap" in done.stdout
