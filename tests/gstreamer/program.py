"""What the programs that the tests run in processes of their own have in common: pipelines, samples, fd
memory.

Imported by tests as well; importing it initialises GStreamer.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstApp", "1.0")
gi.require_version("GstAllocators", "1.0")
from gi.repository import Gst, GstAllocators, GstApp

__all__ = [
    "FULL_HD",
    "SMALL",
    "Gst",
    "GstApp",
    "appsink_of",
    "closed_fd",
    "fd_sample",
    "launch",
    "pull",
    "sample_of",
    "samples",
    "shutdown",
]

Gst.init(None)

FULL_HD = "video/x-raw,format=RGB,width=1920,height=1080,framerate=30/1"
SMALL = "video/x-raw,format=RGB,width=64,height=48,framerate=30/1"


def launch(
    caps: str = SMALL,
    *,
    frames: int = -1,
    source: str = "videotestsrc",
    sink: str = "sync=false max-buffers=4",
    playing: bool = True,
) -> tuple[Any, Any]:
    """A pipeline, and its appsink."""
    pipeline = Gst.parse_launch(f"{source} num-buffers={frames} ! {caps} ! appsink name=sink {sink}")
    if playing:
        pipeline.set_state(Gst.State.PLAYING)
    return pipeline, appsink_of(pipeline)


def appsink_of(pipeline: Any) -> Any:
    """The pipeline's element named ``sink``."""
    return pipeline.get_by_name("sink")


def pull(sink: Any, seconds: float = 10.0) -> Any:
    """One sample; fails where none comes."""
    sample = GstApp.AppSink.try_pull_sample(sink, int(seconds * 1e9))
    assert sample is not None, "no sample"
    return sample


def samples(count: int, caps: str = SMALL, **options: Any) -> Iterator[Any]:
    """`count` samples of a pipeline that ends with them."""
    pipeline, sink = launch(caps, frames=count, **options)
    try:
        for _ in range(count):
            yield pull(sink)
    finally:
        shutdown(pipeline)


def shutdown(pipeline: Any) -> None:
    """NULL, and wait for it."""
    pipeline.set_state(Gst.State.NULL)
    pipeline.get_state(10 * Gst.SECOND)


def sample_of(data: bytes, caps: str = SMALL) -> Any:
    """A sample over a copy of `data`."""
    buffer = Gst.Buffer.new_allocate(None, len(data), None)
    buffer.fill(0, data)
    return Gst.Sample.new(buffer, Gst.Caps.from_string(caps), None, None)


def fd_sample(data: bytes, caps: str = SMALL, *, says: int | None = None) -> Any:
    """A sample over a memfd that holds `data`, whose memory says it has `says` bytes: unmapping it is munmap."""
    fd = os.memfd_create("frame")
    os.write(fd, data)
    allocator = GstAllocators.FdAllocator.new()
    memory = GstAllocators.FdAllocator.alloc(
        allocator, fd, len(data) if says is None else says, GstAllocators.FdMemoryFlags.NONE
    )
    buffer = Gst.Buffer.new()
    buffer.append_memory(memory)
    return Gst.Sample.new(buffer, Gst.Caps.from_string(caps), None, None)


def closed_fd() -> int:
    """The number of a file descriptor that is not open: mapping it fails."""
    fd = os.memfd_create("closed")
    os.close(fd)
    return fd
