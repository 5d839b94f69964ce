"""Fixtures of the GStreamer tests. Nothing here imports GStreamer before a test that is marked as needing it
runs."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from lifecycle import SafetyManager
    from lifecycle.integrations.gstreamer import SampleAdapter


@pytest.fixture
def gst() -> ModuleType:
    """`tests.gstreamer.program`: pipelines and samples, with GStreamer initialised."""
    from tests.gstreamer import program

    return program


@pytest.fixture
def adapter(gst: ModuleType, manager: SafetyManager) -> SampleAdapter:
    """An adapter of the test's own manager."""
    from lifecycle.integrations.gstreamer import SampleAdapter

    return SampleAdapter(manager)


@pytest.fixture
def live(gst: ModuleType) -> Iterator[Any]:
    """The appsink of a live pipeline that never ends."""
    pipeline, sink = gst.launch(source="videotestsrc is-live=true", sink="sync=false")
    yield sink
    del sink
    gst.shutdown(pipeline)
