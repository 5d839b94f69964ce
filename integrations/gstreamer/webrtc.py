"""`WebRTCPeer`: a webrtcbin whose negotiation has deadlines and whose callbacks are guarded.

**The problem.** webrtcbin answers by promises and signals on threads of its own. What raises there is lost,
and the client waits for ever; an ICE candidate that arrives before the description is dropped; a handler that
outlives the session crashes.

**The idea.** Each step is a call with a deadline and an error that says which step. Signals are
`SignalGuard`. What is exchanged with the other side are plain texts, so that any signalling carries them:
websockets, HTTP, or a function call within one process.

Importing this module needs the typelibs of plugins-bad (Debian: gir1.2-gst-plugins-bad-1.0,
gstreamer1.0-plugins-bad and gstreamer1.0-nice).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from lifecycle import SafetyManager
from lifecycle.integrations.gstreamer._native import Gst
from lifecycle.integrations.gstreamer.errors import GStreamerError, GuardError, MissingGStreamerError
from lifecycle.integrations.gstreamer.pipelines.callbacks import close_each
from lifecycle.integrations.gstreamer.pipelines.guard import (
    check_manager,
    check_name,
    check_seconds,
    or_nothing,
)
from lifecycle.integrations.gstreamer.pipelines.pipeline import PipelineGuard
from lifecycle.integrations.gstreamer.pipelines.signals import SignalGuard
from lifecycle.integrations.gstreamer.pipelines.threads import TookTooLong, on_streaming_thread, with_deadline
from lifecycle.lowlevel import Uncopied

try:
    import gi

    gi.require_version("GstWebRTC", "1.0")
    gi.require_version("GstSdp", "1.0")
    from gi.repository import GstSdp, GstWebRTC
except (ImportError, ValueError) as _error:
    raise MissingGStreamerError(
        f"lifecycle.integrations.gstreamer.webrtc needs GStreamer's WebRTC library ({_error}); on Debian or "
        "Ubuntu, as root: apt-get update && apt-get install gir1.2-gst-plugins-bad-1.0 "
        "gstreamer1.0-plugins-bad gstreamer1.0-nice"
    ) from _error

__all__ = ["NegotiationError", "WebRTCPeer", "connect"]

STEP_TIMEOUT: Final = 10.0
"""Seconds that one step of a negotiation may take unless told otherwise."""


class NegotiationError(GStreamerError, RuntimeError):
    """A step of a negotiation failed or was not done in time; the message says which, and of which peer."""


class WebRTCPeer(Uncopied):
    """One end of a WebRTC session: the webrtcbin of a guarded pipeline.

    Parameters
    ----------
    manager:
        Owns the signal handlers, and is told of panics.
    pipeline:
        The `PipelineGuard` that holds it. Whoever made it closes it, after the peer (`Fanout.add` takes
        both).
    webrtcbin:
        The element, or its name.
    on_ice:
        ``on_ice(mline, candidate)``, on a thread of webrtcbin's, for each candidate to be told the other
        side.
    on_pad:
        ``on_pad(pad)``, on a streaming thread, for each incoming stream: link it to a depayloader there.

    A context manager. All methods may be called on any thread but a streaming thread.
    """

    _remedy = "make another peer for another webrtcbin"

    @or_nothing
    def __init__(
        self,
        manager: SafetyManager,
        pipeline: PipelineGuard,
        webrtcbin: Any,
        *,
        on_ice: Callable[[int, str], object] | None = None,
        on_pad: Callable[[Any], object] | None = None,
    ) -> None:
        check_manager(manager, "WebRTCPeer(manager, pipeline, webrtcbin)")
        if not isinstance(pipeline, PipelineGuard):
            raise GuardError(f"WebRTCPeer takes the PipelineGuard that holds its webrtcbin, not {pipeline!r}")
        if isinstance(webrtcbin, str):
            webrtcbin = pipeline[webrtcbin]
        factory = webrtcbin.get_factory() if isinstance(webrtcbin, Gst.Element) else None
        if factory is None or factory.get_name() != "webrtcbin":
            raise GuardError(f"WebRTCPeer takes a webrtcbin or its name, not {webrtcbin!r}")
        self.manager = manager
        self.name: str = f"{pipeline.name}.{webrtcbin.get_name()}"
        self._element: Any = webrtcbin
        self._on_ice = on_ice
        self._on_pad = on_pad
        self._ready = threading.Event()
        self._described = False
        self._candidates: deque[tuple[int, str]] = deque()
        """The other side's that webrtcbin was not told yet."""
        self._signals: list[SignalGuard] = []
        for name, handler in (
            ("on-negotiation-needed", lambda *_: self._ready.set()),
            ("on-ice-candidate", self._ice),
            ("pad-added", self._pad),
        ):
            self._signals.append(SignalGuard(manager, webrtcbin, name, handler))

    def _abandon(self) -> None:
        """Its making has failed: no handler stays."""
        close_each(partial(signal.close, 0) for signal in vars(self).get("_signals", ()))

    def _ice(self, element: Any, mline: int, candidate: str) -> None:
        if self._on_ice is not None:
            self._on_ice(mline, candidate)

    def _pad(self, element: Any, pad: Any) -> None:
        if self._on_pad is not None and pad.get_direction() == Gst.PadDirection.SRC:
            self._on_pad(pad)

    # -- negotiating -----------------------------------------------------------------------------------------

    def offer(self, timeout: float = STEP_TIMEOUT) -> str:
        """Describe what this side sends, as SDP; the pipeline must play. For the side that begins."""
        self._check_timeout(timeout)
        self._now()
        if not self._ready.wait(min(timeout, threading.TIMEOUT_MAX)):
            raise NegotiationError(
                f"peer {self.name!r} has nothing to offer within {timeout:g} s: its pipeline must play, and "
                "caps must have reached webrtcbin (give the payloader's caps, "
                "application/x-rtp,media=…,encoding-name=…,payload=…, in front of it)"
            )
        return self._describe("create-offer", "offer", timeout)

    def answer(self, offer: str, timeout: float = STEP_TIMEOUT) -> str:
        """Take the other side's offer, and describe what this side does with it, as SDP."""
        self._remote(GstWebRTC.WebRTCSDPType.OFFER, offer, timeout)
        return self._describe("create-answer", "answer", timeout)

    def accept(self, answer: str, timeout: float = STEP_TIMEOUT) -> None:
        """Take the other side's answer to `offer`."""
        self._remote(GstWebRTC.WebRTCSDPType.ANSWER, answer, timeout)

    def add_ice(self, mline: int, candidate: str) -> None:
        """Take a candidate of the other side; one that comes before its description is kept until then.
        Raises `NegotiationError` for what no candidate can be."""
        if type(mline) is not int or not 0 <= mline < 1 << 32:
            raise NegotiationError(
                f"peer {self.name!r}: add_ice(mline) takes the number of a media line, 0 or more, "
                f"not {mline!r}"
            )
        check_name(candidate, f"peer {self.name!r}: add_ice(candidate)", NegotiationError)
        self._now()
        self._candidates.append((mline, candidate))
        # Else whoever sets it, which is after this, tells it.
        if self._described:
            self._tell_candidates()

    def _describe(self, signal: str, field: str, timeout: float) -> str:
        reply = self._ask(signal, timeout, None)
        description = None if reply is None else reply.get_value(field)
        if description is None:
            raise NegotiationError(
                f"peer {self.name!r}: {signal} gave nothing ({'' if reply is None else reply.to_string()})"
            )
        text = str(description.sdp.as_text())
        self._ask("set-local-description", timeout, description)
        return text

    def _remote(self, kind: Any, text: str, timeout: float) -> None:
        if not isinstance(text, str) or not text.startswith("v="):
            raise NegotiationError(
                f"peer {self.name!r}: a description is SDP, a text that begins with «v=», not {text!r:.80}"
            )
        result, message = GstSdp.SDPMessage.new_from_text(text)
        if result != GstSdp.SDPResult.OK:
            raise NegotiationError(f"peer {self.name!r}: the description cannot be read: {text!r:.80}")
        description = GstWebRTC.WebRTCSessionDescription.new(kind, message)
        self._ask("set-remote-description", timeout, description)
        self._described = True
        self._tell_candidates()

    def _tell_candidates(self) -> None:
        """Tell webrtcbin those that it does not know. What an interrupt strikes is told with the next one."""
        element = self._now()
        entry: tuple[int, str] | None = None
        try:
            for entry in iter(self._candidates.popleft, None):  # K2
                element.emit("add-ice-candidate", *entry)
                entry = None
        except IndexError:
            # None is left.
            entry = None
        except Exception:
            # It is refused, which says nothing of those behind it.
            entry = None
            raise
        finally:
            if entry is not None:
                self._candidates.appendleft(entry)
            element = None  # K3

    def _ask(self, signal: str, timeout: float, argument: Any) -> Any:
        """One promise, waited for; its reply."""
        self._check_timeout(timeout)
        if on_streaming_thread():
            raise NegotiationError(
                f"peer {self.name!r} was asked for {signal} on a streaming thread, which may not wait"
            )
        element = self._now()
        promise: Any = None

        def ask() -> Any:
            element.emit(signal, argument, promise)
            return promise.wait()

        try:
            for promise in iter(Gst.Promise.new, None):  # noqa: B007  # made and known in one step
                break
            result = with_deadline(ask, timeout, f"gst-{self.name}")
        except BaseException as error:
            if promise is not None:
                promise.interrupt()  # one that is still waited for must not be freed
            if not isinstance(error, TookTooLong):
                raise
            raise NegotiationError(
                f"peer {self.name!r}: {signal} was not done within {timeout:g} s"
            ) from None
        reply = promise.get_reply()
        problem = reply.get_value("error") if reply is not None and reply.has_field("error") else None
        if result != Gst.PromiseResult.REPLIED or problem is not None:
            raise NegotiationError(f"peer {self.name!r}: {signal} failed: {problem or result.value_nick}")
        return reply

    def _check_timeout(self, timeout: float) -> None:
        check_seconds(timeout, f"peer {self.name!r}: timeout=", NegotiationError)

    def _now(self) -> Any:
        element = self._element
        if element is None:
            raise NegotiationError(f"peer {self.name!r} is closed")
        return element

    # -- knowing and ending ----------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """``new``, ``connecting``, ``connected``, ``disconnected``, ``failed`` or ``closed``."""
        element = self._element
        return "closed" if element is None else str(element.get_property("connection-state").value_nick)

    def wait(self, timeout: float = STEP_TIMEOUT) -> None:
        """Block until the two sides are connected. Raises `NegotiationError` when they fail to, or not within
        `timeout` seconds."""
        self._check_timeout(timeout)
        until = time.monotonic() + timeout
        while (state := self.state) != "connected":
            if state in ("failed", "closed") or time.monotonic() >= until:
                raise NegotiationError(
                    f"peer {self.name!r} is {state} after {timeout:g} s at most: see that candidates are "
                    "told both ways (on_ice, add_ice), and that the network lets UDP through"
                )
            time.sleep(0.005)

    def close(self) -> bool:
        """Take its handlers away; True when none runs any more. Its pipeline is closed by the pipeline's
        owner."""
        self._element = None
        return close_each(signal.close for signal in self._signals)

    def __enter__(self) -> WebRTCPeer:
        self._now()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<WebRTCPeer {self.name!r}: {self.state}>"


def connect(sender: WebRTCPeer, receiver: WebRTCPeer, timeout: float = STEP_TIMEOUT) -> None:
    """Negotiate between two peers of one process, whose candidates must be told each other (`on_ice` to
    `add_ice`), and wait until they are connected."""
    sender.accept(receiver.answer(sender.offer(timeout), timeout), timeout)
    sender.wait(timeout)
    receiver.wait(timeout)
