"""The long run in small: what ``make soak`` does for an hour, for some seconds."""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.support import run_python

pytestmark = pytest.mark.needs("gstreamer", "numpy")

FRAMES = int(os.environ.get("GSTREAMER_SOAK_FRAMES", "600"))
FRAME_MB = 1280 * 720 * 3 / 1e6


def measured(code: str) -> dict[str, Any]:
    done = run_python(
        f"import json\nfrom benchmarks import soak\nresult = {code}\nresult.pop('values', 0)\nprint(json.dumps(result))",
        env={"MALLOC_MMAP_THRESHOLD_": "65536"},
        timeout=600,
    )
    import json

    result: dict[str, Any] = json.loads(done.check().splitlines()[-1])
    assert "CRITICAL" not in done.stderr, done.stderr
    return result


@pytest.mark.timeout(660)
def test_memory_stays_where_it_is() -> None:
    """A slow one, one that panics and clients that come and go cost no memory: within a few frames of where
    it began."""
    result = measured(f"soak.memory('guarded', {FRAMES}, 2.2)")
    assert result["frames"] >= FRAMES
    assert result["panics"] > 0
    assert result["joined"] >= 1
    assert result["left"] == 0
    assert result["errors"] == 0
    first = [value for count, value in result["points"] if count > 0.2 * result["frames"]]
    assert max(first) - min(first) < 20 * FRAME_MB + result["frames"] / 5000, result["points"]
    assert result["end"] - result["base"] < 10 * FRAME_MB, result
    if result["frames"] >= 50_000:
        assert result["growth"] < 2, result["growth"]


def test_the_age_of_a_fast_consumers_frames() -> None:
    """A consumer that takes 0.3 s for a frame makes none older for the one beside it, which is asked in
    `benchmarks.soak`; here only that both are served: a loaded machine makes every frame old."""
    result = measured("soak.age(1.2)")
    assert result["count"] > 5
    assert result["p50"] < 300
