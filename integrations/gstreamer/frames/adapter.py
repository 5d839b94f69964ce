"""The adapter: from samples to frames.

One for each manager and purpose; it knows the layouts of the caps it has seen, and shares the table of live
mappings with the manager's other adapters.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from lifecycle import ANY_THREAD, SafetyManager
from lifecycle.integrations.gstreamer._buffers import new_buffer
from lifecycle.integrations.gstreamer._native import Gst, ready, sample_buffer, sample_caps
from lifecycle.integrations.gstreamer.errors import FormatError, MapError, SampleError
from lifecycle.integrations.gstreamer.frames.formats import Layout, LayoutCache, frame_of
from lifecycle.integrations.gstreamer.frames.frame import TYPE_NAME, Frame
from lifecycle.integrations.gstreamer.frames.held import Live, end_held
from lifecycle.integrations.gstreamer.frames.writable import WritableFrame
from lifecycle.lowlevel import Uncopied

__all__ = ["SampleAdapter"]

T = TypeVar("T")

_Sample = Gst.Sample
_tables: weakref.WeakKeyDictionary[SafetyManager, Live] = weakref.WeakKeyDictionary()


class SampleAdapter(Uncopied):
    """Makes frames of samples.

    Parameters
    ----------
    manager:
        Owns the frames.
    name:
        Shown in messages and reports as the name of every frame made here.

    One adapter serves any number of threads and of formats; what it knows of caps is cached, so keep it.
    """

    _remedy = "pass the adapter itself, or make another over the same manager"

    __slots__ = ("_known", "_layouts", "_live", "_name", "_register", "manager")

    def __init__(self, manager: SafetyManager, *, name: str | None = None) -> None:
        self.manager: SafetyManager = manager
        self._name = name
        self._register = manager.registrar(TYPE_NAME, release=end_held, release_on=ANY_THREAD)
        self._live = _tables.setdefault(manager, {})
        self._layouts = LayoutCache(whose=name or "")
        if Gst.is_initialized():
            ready()
        self._known = self._layouts.known

    def frame(self, sample: Any) -> Frame:
        """The frame of a `Gst.Sample`. Nothing is mapped or copied yet; callable on any thread.

        Raises `SampleError` for what is no sample, or one without a buffer or without fixed caps.
        """
        if not isinstance(sample, _Sample):
            raise SampleError(
                f"a frame is made of a Gst.Sample, not of {type(sample).__name__} ({sample!r}); pull one "
                "from an appsink (None there means end of stream, or nothing within the timeout), or wrap a "
                "buffer: Gst.Sample.new(buffer, caps)"
            )
        pointer = hash(sample)
        layout = self._known.get(sample_caps(pointer))  # type: ignore[arg-type]  # None is in no table
        if layout is None:
            layout = self._learn(sample)
        if sample_buffer(pointer) is None:
            raise SampleError(
                f"{frame_of(self._name)}the sample at {pointer:#x} ({layout}) has no buffer; skip it, it "
                "carries caps or a buffer list only"
            )
        return Frame(self, sample, layout)

    def convert(self, sample: Any, fn: Callable[[Any], T]) -> T:
        """Return ``fn(array)`` for the sample's picture. One call does all: frame, panic boundary and close.

        The array is the read-only one of `Frame.array`; it may be kept, or be part of the result. An
        exception of `fn` that is not declared is a panic: `AccessPanicError`, from it. Raises what `frame`
        and `Frame.array` raise.
        """
        with self.frame(sample) as frame:
            frame.array()  # what the sample or its format cannot give is no panic of fn's
            result: T = self.manager.safe_access(frame.handle, frame._show, fn)
            return result

    def buffer(self, caps: Any, size: int | None = None) -> WritableFrame:
        """A new buffer to be written, laid out as GStreamer lays out `caps` (a `Gst.Caps` or its text).

        `size` is its number of bytes; what a picture needs where None. Raises `FormatError` where there is
        nothing that says it.
        """
        layout = self.layout(caps)
        wanted = layout.size if size is None else size
        if isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < max(1, layout.size):
            raise FormatError(
                f"{layout}: a buffer for it needs {layout.size or 'a size= in'} bytes, not {size!r}; give "
                "size= its whole length"
            )
        owned = new_buffer(wanted)
        if not owned.value:
            raise MapError(f"{layout}: there is no memory for a buffer of {wanted} bytes")
        return WritableFrame(self.manager, owned, layout, copied=False)

    def layout(self, caps: Any) -> Layout:
        """The layout of `caps`, a `Gst.Caps` or its text. Raises `SampleError` for caps that do not describe
        one format."""
        if isinstance(caps, str):
            text, caps = caps, Gst.Caps.from_string(caps)
            if caps is None:
                raise SampleError(
                    f"«{text}» are no caps; write them as in «video/x-raw,format=RGB,width=640,height=480»"
                )
        if not isinstance(caps, Gst.Caps):
            raise SampleError(f"caps are a Gst.Caps or its text, not {caps!r}")
        return self._known.get(hash(caps)) or self._layouts.add(caps)

    def _learn(self, sample: Any) -> Layout:
        ready()
        caps = sample.get_caps()
        if caps is None:
            raise SampleError(
                f"{frame_of(self._name)}the sample at {hash(sample):#x} has no caps, so the meaning of its "
                "bytes is not known; pull it from a running appsink, or give Gst.Sample.new its caps"
            )
        return self._layouts.add(caps)

    def __repr__(self) -> str:
        name = self._name or TYPE_NAME
        return f"<SampleAdapter {name!r} of manager {self.manager.name!r}: {len(self._known)} formats known>"
