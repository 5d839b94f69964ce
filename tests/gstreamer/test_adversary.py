"""Guards, whatever the collector and interrupts do in the middle of them (`tests.gstreamer.adversary`)."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support import ROOT

pytestmark = pytest.mark.needs("gstreamer", "numpy")

STRIDE = os.environ.get("GSTREAMER_STRIDE", "29")
"""Every how many lines an interrupt strikes; 1 visits all."""


@pytest.mark.parametrize("kind", ["collector", "interrupt"])
@pytest.mark.timeout(600)
def test_at_the_lines_of_the_guards(kind: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.gstreamer.adversary", kind, STRIDE],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "G_DEBUG": "fatal-criticals"},
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    visited = dict(line.split() for line in done.stdout.splitlines())
    assert set(visited) == {"branch", "probe", "pad", "signal", "element", "another_pipeline"}
    assert all(int(count) > 1 for count in visited.values()), visited
