"""The fuse of a branch: whatever comes back from it, the tee is told that all is well.

**The problem.** A tee hands on what any of its branches returns. One that ends by itself (a snapshot), fails,
or cannot take the stream's new size ends the source for all branches.

**The idea.** A probe on the first pad behind the branch's queue passes each buffer on itself, sees what comes
back, and answers HANDLED, which is OK upstream. After an end or a failure it has *tripped*: it drops what
comes, and says so once. A pad that is flushing (by a flush, or in an element that was set to NULL by hand)
trips nothing: when it comes back it is told again what streams. New caps are passed on likewise, since a
refusal would come before any buffer. It runs on the branch's own thread, so that waiting for Python delays no
other branch.

An end of the stream that the program sends into a branch would have the branch's own pads answer the tee with
it. At its two first pads such a one is told from the stream's own by the pad before, which has not seen it
(`Entrance`). It is held there until the branch is off the tee, and goes in then.

At the *door*, the queue's sink pad, a second probe answers questions of the source: a branch has no say in
what is sent (unless it is asked to negotiate), and none in allocation, which a queue would answer in its turn
and so wait for a branch that stands still. Allocation is *answered*, with the video meta and nothing else: a
tee whose branch refuses it refuses it for all, and the source would copy every picture.

**What is relied on.** There is one C function for all fuses, which never goes; what it is given is a number
in a table. A number that is not there any more lets everything pass.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from lifecycle.integrations.gstreamer._native import Gst, MiniObject, _function, _open, pointer_of
from lifecycle.integrations.gstreamer.pipelines.callbacks import once_each
from lifecycle.lowlevel import complain, monotonic

__all__ = ["Door", "Entrance", "Fuse"]

_p = ctypes.c_void_p
_quick = _open(ctypes.PyDLL, "gstreamer")
_slow = _open(ctypes.CDLL, "gstreamer")
_video = _open(ctypes.PyDLL, "gstvideo")


class _Info(ctypes.Structure):
    """The head of `GstPadProbeInfo`."""

    _fields_ = (("type", ctypes.c_uint), ("id", ctypes.c_ulong), ("data", _p))


class _Typed(ctypes.Structure):
    """The head of `GstEvent` and `GstQuery`."""

    _fields_ = (("mini_object", MiniObject), ("type", ctypes.c_int))


_PROBE = ctypes.CFUNCTYPE(ctypes.c_int, _p, ctypes.POINTER(_Info), _p)
_add_probe = _function(_slow, "gst_pad_add_probe", ctypes.c_ulong, _p, ctypes.c_int, _PROBE, _p, _p)
_remove_probe = _function(_slow, "gst_pad_remove_probe", None, _p, ctypes.c_ulong)
_chain = _function(_slow, "gst_pad_chain", ctypes.c_int, _p, _p)
_chain_list = _function(_slow, "gst_pad_chain_list", ctypes.c_int, _p, _p)
_send_event = _function(_slow, "gst_pad_send_event", ctypes.c_int, _p, _p)
_new_eos = _function(_quick, "gst_event_new_eos", _p)
_get_peer = _function(_quick, "gst_pad_get_peer", _p, _p)
_is_active = _function(_quick, "gst_pad_is_active", ctypes.c_int, _p)
_sticky = _function(_quick, "gst_pad_get_sticky_event", _p, _p, ctypes.c_int, ctypes.c_uint)
_unref = _function(_quick, "gst_object_unref", None, _p)
_mini_unref = _function(_quick, "gst_mini_object_unref", None, _p)
_any = _function(_quick, "gst_caps_new_any", _p)
_parse_caps = _function(_quick, "gst_query_parse_caps", None, _p, ctypes.POINTER(_p))
_caps_result = _function(_quick, "gst_query_set_caps_result", None, _p, _p)
_add_meta = _function(_quick, "gst_query_add_allocation_meta", None, _p, ctypes.c_size_t, _p)
_video_meta_type = _function(_video, "gst_video_meta_api_get_type", ctypes.c_size_t)
_accept_result = _function(_quick, "gst_query_set_accept_caps_result", None, _p, ctypes.c_int)

DROP, OK, HANDLED = 0, 1, 4
BUFFER: Final = int(Gst.PadProbeType.BUFFER)
LIST: Final = int(Gst.PadProbeType.BUFFER_LIST)
EVENT: Final = int(Gst.PadProbeType.EVENT_DOWNSTREAM)
FLUSH: Final = int(Gst.PadProbeType.EVENT_FLUSH)
QUERY: Final = int(Gst.PadProbeType.QUERY_DOWNSTREAM)
CAPS, STREAM_START, SEGMENT, EOS = (
    int(kind)
    for kind in (Gst.EventType.CAPS, Gst.EventType.STREAM_START, Gst.EventType.SEGMENT, Gst.EventType.EOS)
)
ASK_CAPS, ASK_ACCEPT, ASK_ALLOCATION = (
    int(kind) for kind in (Gst.QueryType.CAPS, Gst.QueryType.ACCEPT_CAPS, Gst.QueryType.ALLOCATION)
)
FLOW_NOT_LINKED, FLOW_FLUSHING, FLOW_EOS, FLOW_NOT_NEGOTIATED = -1, -2, -3, -4

_probes: dict[int, Callable[[int, Any], int]] = {}
_next_number: Callable[[], int] = itertools.count(1).__next__


def _called(pad: int, info: Any, number: int | None) -> int:
    probe = _probes.get(number or 0)
    return OK if probe is None else probe(pad, info.contents)


_callback = _PROBE(_called)
ctypes.pythonapi.Py_IncRef(ctypes.py_object(_callback))  # pads may outlive the interpreter


class _Probe:
    """A probe of ours: `add` it, `remove` it once. The table keeps this, and this nothing of the branch."""

    mask: int

    def __init__(self, pad: Any) -> None:
        self.pad = pad
        self._pointer = pointer_of(pad)
        self._number = _next_number()
        self._ids: list[int] = []

    def add(self) -> None:
        """From here on it is called."""
        _probes[self._number] = self._handle
        # Added and known in one call into C: no interrupt falls between.
        self._ids.extend(
            map(_add_probe, (self._pointer,), (self.mask,), (_callback,), (self._number,), (None,))
        )

    def remove(self) -> None:
        """It is called no more. Again: nothing."""
        once_each(partial(_remove_probe, self._pointer), self._ids)  # C: no interrupt falls before the call
        _probes.pop(self._number, None)

    def _handle(self, pad: int, info: _Info) -> int:
        raise NotImplementedError


class Fuse(_Probe):
    """Passes on what comes through the queue's source pad, until the branch ends or fails.

    Parameters
    ----------
    pad:
        The source pad of the branch's queue.
    on_trip:
        ``on_trip(reason)``, called once on the branch's own thread with ``"eos"``, ``"error"`` or
        ``"not-negotiated"``. It must be quick and not fail.
    """

    mask: int = BUFFER | LIST | EVENT | FLUSH

    def __init__(self, pad: Any, on_trip: Callable[[str], object]) -> None:
        super().__init__(pad)
        self.tripped: str = ""
        self.passed: int = 0
        self.dropped: int = 0
        self.refused: int = 0
        self.ended_at: int = 0
        """How many it had passed when the last end of the stream did."""
        self.since: float = 0.0
        """Since when a buffer is in the branch that it has not taken yet, by `monotonic`; 0.0 where none
        is."""
        self.apart: bool = False
        """It is off the tee, or coming off: the end of the stream that comes is its own."""
        self._on_trip = on_trip
        self._stale = False
        self._flushes = 0
        """How often a flush has begun or ended; odd while one is under way."""

    def trip(self, reason: str) -> None:
        """Let nothing pass any more. The first reason counts."""
        if not self.tripped:
            self.tripped = reason
            self._on_trip(reason)

    def _handle(self, pad: int, info: _Info) -> int:
        if info.type & FLUSH:
            self._flushes += 1
            return OK
        if self.tripped:
            if not info.type & EVENT:
                self.dropped += 1
            return DROP
        data = info.data
        assert data is not None
        if info.type & EVENT:
            kind = _Typed.from_address(data).type
            if kind == EOS:
                self.ended_at = self.passed
                return self._ends(pad, data) if self.apart else OK
            return self._new_caps(pad, data) if kind == CAPS else OK
        peer = _get_peer(pad)
        if not peer:
            self.refused += 1
            return DROP
        try:
            if self._stale:
                self._tell_again(pad, peer)
            self.since = monotonic()
            flow = (_chain if info.type & BUFFER else _chain_list)(peer, data)
            if flow >= 0:
                self.passed += 1
            elif flow in (FLOW_FLUSHING, FLOW_NOT_LINKED):
                self.refused += 1
                self._stale = True
            else:
                self._fails(peer, flow)
        except BaseException:
            complain()  # C is to know that the buffer is gone
        finally:
            self.since = 0.0
            _unref(peer)
        return HANDLED

    def _fails(self, peer: int, flow: int) -> None:
        if flow == FLOW_EOS:
            self.tripped = self.tripped or "eos"
            self.ended_at = self.passed
            _send_event(peer, _new_eos())
            self._on_trip("eos")
        else:
            self.trip("not-negotiated" if flow == FLOW_NOT_NEGOTIATED else "error")

    def _ends(self, pad: int, event: int) -> int:
        peer = _get_peer(pad)
        if not peer:
            return DROP
        try:
            _send_event(peer, event)
            self.trip("eos")
        finally:
            _unref(peer)
        return HANDLED

    def _new_caps(self, pad: int, event: int) -> int:
        peer = _get_peer(pad)
        if not peer:
            self._stale = True
            return DROP
        before = self._flushes
        try:
            if not _send_event(peer, event):
                # A flush, on another thread, may have begun or ended while the caps were on their way.
                if before % 2 or before != self._flushes or not _is_active(peer):
                    self._stale = True
                else:
                    self.trip("not-negotiated")
        finally:
            _unref(peer)
        return HANDLED

    def _tell_again(self, pad: int, peer: int) -> None:
        """What was set to NULL has forgotten what streams, and what was flushed may have missed it."""
        self._stale = False
        if all(_knows(peer, pad, kind) for kind in (CAPS, SEGMENT)):
            return
        for kind in (STREAM_START, CAPS, SEGMENT):
            event = _sticky(pad, kind, 0)
            if event:
                _send_event(peer, event)


def _knows(peer: int, pad: int, kind: int) -> bool:
    """Return True if `peer` has been told the sticky event that `pad` has."""
    told, known = _sticky(pad, kind, 0), _sticky(peer, kind, 0)
    for event in (told, known):
        if event:
            _mini_unref(event)
    return bool(known) and (kind == SEGMENT or known == told)


class Entrance(_Probe):
    """Holds an end of the stream that is not the stream's own.

    Parameters
    ----------
    pad:
        The branch's sink pad.
    on_end:
        Called when one is held, on whatever thread sends it. It must be quick and not fail.
    """

    mask: int = EVENT

    def __init__(self, pad: Any, on_end: Callable[[], object]) -> None:
        super().__init__(pad)
        self._on_end = on_end

    def _handle(self, pad: int, info: _Info) -> int:
        data = info.data
        assert data is not None
        if _Typed.from_address(data).type != EOS or not self._is_foreign(pad):
            return OK
        self._on_end()
        return DROP

    def _is_foreign(self, pad: int) -> bool:
        """Return True if the pad before has not seen the end: whoever pushes an event keeps it first."""
        peer = _get_peer(pad)
        if not peer:
            return False  # it is off the tee
        try:
            event = _sticky(peer, EOS, 0)
            if event:
                _mini_unref(event)
            return not event
        finally:
            _unref(peer)


class Door(Entrance):
    """Answers for the branch what the source asks.

    Parameters
    ----------
    pad:
        The queue's sink pad: it asks itself whether new caps are accepted.
    negotiates:
        Whether the branch itself is asked what it takes. Before the first caps it is asked in any case.
    on_end:
        As of `Entrance`: the queue, too, may be sent an end by the program.
    """

    mask: int = QUERY | EVENT

    def __init__(self, pad: Any, negotiates: bool, on_end: Callable[[], object]) -> None:
        super().__init__(pad, on_end)
        self._asked = True
        self._stays = negotiates

    def _handle(self, pad: int, info: _Info) -> int:
        query = info.data
        assert query is not None
        if info.type & EVENT:
            if _Typed.from_address(query).type == CAPS:
                self._asked = self._stays
            return super()._handle(pad, info)
        kind = _Typed.from_address(query).type
        if kind == ASK_ALLOCATION:
            # Each element allocates for itself.
            _add_meta(query, _video_meta_type(), None)
            return HANDLED
        if self._asked or kind not in (ASK_CAPS, ASK_ACCEPT):
            return OK
        if kind == ASK_ACCEPT:
            _accept_result(query, True)
            return HANDLED
        wanted = _p()
        _parse_caps(query, ctypes.byref(wanted))
        if wanted.value:
            _caps_result(query, wanted)
        else:
            caps = _any()
            _caps_result(query, caps)
            _mini_unref(caps)
        return HANDLED
