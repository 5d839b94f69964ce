"""`Client`: one of those that a `Fanout` gives frames to, from its first key frame to its end.

It is given frames by the fanout's thread alone. Its end is told on a thread of its own: that of the fanout is
every client's.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import attrs

from lifecycle import ClosedError, LifecycleError
from lifecycle.integrations.gstreamer._native import GstVideo
from lifecycle.integrations.gstreamer.errors import FeederFull, GStreamerError
from lifecycle.integrations.gstreamer.feeding.feeder import Feeder
from lifecycle.integrations.gstreamer.frames.frame import Frame
from lifecycle.integrations.gstreamer.pipelines.guard import Core, Guard, or_nothing
from lifecycle.integrations.gstreamer.pipelines.threads import in_the_background

if TYPE_CHECKING:
    from lifecycle.integrations.gstreamer.sharing.clients import Fanout

__all__ = ["Client", "ClientStats", "Closeable", "asked_by"]

_count = itertools.count()


class Closeable(Protocol):
    """What a client may own beside its pipeline."""

    def close(self) -> object:
        """End it."""


@attrs.frozen
class ClientStats:
    """A client's figures at one moment."""

    name: str
    """The client's name."""
    sent: int
    """Frames given to its appsrc."""
    dropped: int
    """Frames that it did not get: before its first key frame, or since it fell behind."""
    fell_behind: int
    """How often its appsrc was full."""
    waiting_for_key: bool
    """True if it gets nothing before the next key frame."""


class _ClientCore(Core):
    def __init__(self, feeder: Feeder, owned: list[Closeable]) -> None:
        self.feeder = feeder
        self.owned = owned

    def release(self) -> None:
        """No further frame; then what it owns goes, the last first, whatever fails."""
        failed: BaseException | None = None
        for closeable in (self.feeder, *reversed(self.owned)):
            try:
                closeable.close()
            except Exception as error:
                failed = failed or error
        if failed is not None:
            raise failed


class Client(Guard[_ClientCore]):
    """One client of a `Fanout`, from `Fanout.add` until `close`."""

    type_name: ClassVar[str] = "gst.Client"

    @or_nothing
    def __init__(
        self,
        fanout: Fanout,
        name: str,
        feeder: Feeder,
        owned: list[Closeable],
        on_end: Callable[[Client], object] | None,
    ) -> None:
        self.error: BaseException | None = None
        """Why it was taken off, if it was."""
        self.end: Literal["eos", "error"] | None = None
        """How it has ended, before it was closed: its source has come to its end, which was sent into its
        pipeline, or `error` has come up."""
        self._forget = fanout._clients.pop
        self._ask = fanout.request_key_frame
        self._feeder = feeder
        self._on_end = on_end
        self._needs_key = True
        self._sent = self._dropped = self._behind = 0
        self.key: int = next(_count)
        self._register(fanout.manager, _ClientCore(feeder, owned), name, None)

    def _give(self, frame: Frame, key: bool) -> None:
        """Called by the fanout's thread alone."""
        if self.end is not None:
            return
        if self._needs_key:
            if not key:
                self._dropped += 1
                # Again with every frame, as often as it may be: a request can be lost, or come just before
                # its client.
                self._ask()
                return
            # Before it is given: a restart that comes meanwhile stays asked for.
            self._needs_key = False
        try:
            self._feeder.push(frame, timeout=0)
        except FeederFull:
            self._dropped += 1
            self._behind += 1
            self._needs_key = True
        except ClosedError:
            self._dropped += 1
        except (GStreamerError, LifecycleError) as error:
            self._fail(error)
        else:
            self._sent += 1

    def restart(self) -> None:
        """Give it nothing before the next key frame, and ask for that: what it was sent so far is lost, as
        before it was connected."""
        self._needs_key = True

    def _asked(self, pad: Any, info: Any) -> None:
        """Its own pipeline asks upstream for a key frame, as when packets were lost (PLI)."""
        if GstVideo.video_event_is_force_key_unit(info.get_event()):
            self.restart()

    def _source_ended(self, error: BaseException | None) -> None:
        """Called by the fanout's thread alone, again and again: no frame follows."""
        if self.end is not None:
            return
        if error is None:
            try:
                self._feeder.end_of_stream()
            except (GStreamerError, LifecycleError) as refused:
                error = refused
        if error is not None:
            self._fail(error)
            return
        self.end = "eos"
        # It stays until it is closed: what waits in its pipeline is still to be shown, or written.
        in_the_background(self._tell_end, f"gst-client-{self.name}")

    def _fail(self, error: BaseException) -> None:
        error.__traceback__ = None
        self.error = error
        self.end = "error"
        self._forget(self.key, None)
        in_the_background(self._end, f"gst-client-{self.name}")

    def _tell_end(self) -> None:
        try:
            if self._on_end is not None:
                self._on_end(self)
        except BaseException as error:
            self.manager.report_panic(f"on_end of client {self.name}", error, type_name=self.type_name)

    def _end(self) -> None:
        self._tell_end()
        try:
            self.close()
        except LifecycleError as error:
            self.manager.report_panic(f"closing client {self.name}", error, type_name=self.type_name)

    def close(self) -> bool:
        """Take it off, and close what it owns; True when that is done."""
        self._forget(self.key, None)
        return super().close()

    def stats(self) -> ClientStats:
        """The figures, as a frozen snapshot."""
        return ClientStats(self.name, self._sent, self._dropped, self._behind, self._needs_key)


def asked_by(client: Client) -> Callable[[Any, Any], None]:
    """A pad's probe that has the client ask for a key frame where its pipeline does. What that pipeline keeps
    must not keep the client."""
    weak = weakref.ref(client)

    def asked(pad: Any, info: Any) -> None:
        living = weak()
        if living is not None:
            living._asked(pad, info)

    return asked
