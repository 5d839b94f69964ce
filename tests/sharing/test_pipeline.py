"""A real 1080p pipeline to sixteen receivers."""

from __future__ import annotations

import pytest

from tests.core.adversary import STORM, in_own_process
from tests.sharing import pipeline


@pytest.mark.needs("gstreamer", "numpy")
def test_sixteen_receivers_three_slow_one_dead_one_panicking() -> None:
    said = in_own_process(pipeline.check, int(120 * STORM), timeout=100)
    assert said.startswith("published")
