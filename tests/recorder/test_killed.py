"""Processes killed at random moments: each file can be read, and nothing in it is wrong."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import pytest

from tests.recorder.killing import BUSY, kill

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="signals and /proc of Linux")

STORM = int(os.environ.get("LIFECYCLE_STORM", "1"))
KILLS = 1 if STORM == 1 else 34 * STORM
"""Of each kind; ``make kills`` kills a thousand."""
READS = 2


@pytest.mark.timeout(120 if STORM == 1 else 400 * STORM)
@pytest.mark.parametrize("how", ["kill", "fault", "exit"])
def test_what_a_killed_process_leaves_is_true(tmp_path: Path, how: str) -> None:
    script = tmp_path / "busy.py"
    script.write_text(BUSY, encoding="utf-8")
    dice = random.Random(7)
    for number in range(KILLS):
        report = kill(script, tmp_path / f"{how}-{number}.rec", how, dice, READS)
        assert report is not None
        # A number is missing where its thread was put aside, or killed, between the claim and the write.
        assert len(report.recording.missing) <= 16
        assert report.recording.torn <= 4
