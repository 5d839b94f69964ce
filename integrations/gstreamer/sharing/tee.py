"""A tee whose branches come and go while the pipeline plays, each failing alone.

**A branch that ends, fails, or cannot take what is sent** does so alone: its *fuse* tells the tee that all is
well, and has the branch taken off (`fuse.py`). Which it was is `Branch.end`; an error is the branch's
(`Branch.error`, ``on_error=``) and that of its captures, not the pipeline's. For the message of the element
that failed the tee has to be given with its `PipelineGuard`.

**A branch that stands still** does not stop the others, as it does in plain GStreamer as soon as a client
joins: the allocation query that follows is answered by each branch's own thread, in its turn. So it is
answered at the branch's door, and one that is closed while its queue is full has the queue opened first. One
that holds up the tee, since its queue is full and does not leak, is named by `SafetyManager.health`.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from lifecycle import AccessRefusedError, SafetyManager
from lifecycle.integrations.gstreamer._native import Gst
from lifecycle.integrations.gstreamer.errors import GuardError, LinkError, PipelineError
from lifecycle.integrations.gstreamer.pipelines.descriptions import parse_bin
from lifecycle.integrations.gstreamer.pipelines.figures import figures_of
from lifecycle.integrations.gstreamer.pipelines.finishing import AtClose, enter_part, sinks_of
from lifecycle.integrations.gstreamer.pipelines.guard import (
    check_manager,
    check_name,
    check_seconds,
    name_of,
    pads_of,
)
from lifecycle.integrations.gstreamer.pipelines.pads import link_pads
from lifecycle.integrations.gstreamer.pipelines.pipeline import PipelineGuard
from lifecycle.integrations.gstreamer.sharing.branch import (
    FLUSH_TIMEOUT,
    Branch,
    BranchCore,
    BranchEnd,
    low_latency_queue,
    shortened,
)
from lifecycle.lowlevel import Uncopied, weakly

__all__ = ["Tee"]

_count = itertools.count()


class Tee(Uncopied):
    """A tee whose branches come and go.

    ::

        pipeline = PipelineGuard(manager, "v4l2src ! videoconvert ! tee name=t")
        tee = Tee(manager, pipeline, "t")
        pipeline.play()
        with tee.attach("videoconvert ! video/x-raw,format=RGB ! appsink") as branch:
            ...

    Parameters
    ----------
    manager:
        Owns the branches.
    pipeline:
        The `PipelineGuard` (then a branch that fails is taken off alone), or the plain `Gst.Bin` that holds
        the tee.
    tee:
        The tee, or its name. Its ``allow-not-linked`` is set, so that it flows on without a branch.
    """

    _remedy = "pass the tee itself"

    def __init__(self, manager: SafetyManager, pipeline: Any, tee: Any) -> None:
        check_manager(manager, "Tee(manager, pipeline, tee)")
        guard = pipeline if isinstance(pipeline, PipelineGuard) else None
        if guard is None and not isinstance(pipeline, Gst.Bin):
            raise GuardError(f"Tee(pipeline=) takes a PipelineGuard or a Gst.Bin, not {pipeline!r}")
        if isinstance(tee, str):
            name = tee
            check_name(name, "Tee(tee=)")
            tee = pipeline[name] if guard is not None else pipeline.get_by_name(name)
            if tee is None:
                raise GuardError(f"{pipeline.get_name()!r} has no element named {name!r}")
        factory = tee.get_factory() if isinstance(tee, Gst.Element) else None
        if factory is None or factory.get_name() != "tee":
            raise GuardError(
                f"Tee takes a tee or its name, not {tee!r}; put «tee name=t» where branches are to begin"
            )
        if tee.get_parent() is None:
            raise GuardError(f"tee {tee.get_name()!r} is in no pipeline yet; add it first")
        tee.set_property("allow-not-linked", True)
        figures_of(manager)
        self.manager = manager
        self.name: str = str(tee.get_name())
        self._guard = guard
        self._tee = tee
        self._branches: weakref.WeakSet[Branch] = weakref.WeakSet()

    def attach(
        self,
        branch: Any,
        *,
        name: str | None = None,
        queue: Any = None,
        eos: float | None = None,
        negotiates: bool = False,
        on_error: Callable[[PipelineError], object] | None = None,
        on_end: Callable[[BranchEnd], object] | None = None,
    ) -> Branch:
        """Add a branch and have it flow, whatever the pipeline is doing. Callable on any thread.

        Parameters
        ----------
        branch:
            A description with one free sink pad (``"videoconvert ! appsink"``), or an element or bin that is
            in no other.
        name:
            Its name in the pipeline, in messages and reports; ``branch0`` and so on by default.
        queue:
            The queue at its head; `low_latency_queue` by default. Give your own for a branch that wants every
            frame: once it is full it holds up the tee, unless it is leaky.
        eos:
            Seconds for which closing waits for the end of the stream to reach its sinks, so that files are
            complete: closing the branch, its pipeline (all such branches at once), the manager or the
            program. Keep it below the manager's ``finalizer_timeout``.
        negotiates:
            Have the source ask this branch, too, which caps it takes. Otherwise the source sends what it
            would without it, and a branch that cannot take that fails alone. One that is attached before any
            caps have reached the tee is asked until they have.
        on_error:
            Called with the `PipelineError` when an element in it fails, on that element's thread, once the
            branch is off the tee. `Branch.close` called there is handed over.
        on_end:
            Called with the `BranchEnd` when it has ended by itself or has failed, on a thread of its own,
            once the branch is off the tee.

        Its sinks are set to ``async=false``: they would take the playing pipeline back to wait for their
        first buffer. Raises `DescriptionError`, `GuardError` or `LinkError`, with everything undone, and
        `AccessRefusedError` when the pipeline is closed.
        """
        if eos is not None:
            check_seconds(eos, "Tee.attach(eos=)")
        if name is not None:
            check_name(name, "Tee.attach(name=)")
        lease = self._guard.handle.lease() if self._guard is not None else None
        made = None
        try:
            tee = self._tee
            if tee.get_parent() is None:
                raise GuardError(f"tee {self.name!r} is in no pipeline any more")
            caps = tee.get_static_pad("sink").get_current_caps()
            queue = queue or low_latency_queue()
            wrapped = _wrap(branch, name or f"branch{next(_count)}", queue, caps)
            made = Branch(
                self.manager, BranchCore(tee, tee.get_parent(), wrapped, queue, eos), on_error, on_end
            )
            try:
                with made.handle.lease() as core:
                    core.guard(negotiates)
                self._enter(made)
                if self._guard is not None:
                    self._isolate(made, wrapped)
                with made.handle.lease() as core:
                    core.join()
                    self._count(core)
            except BaseException as error:
                core = None
                made.handle.close()
                if made.error is not None and isinstance(error, GuardError):
                    raise GuardError(f"{error} ({made.error})") from None
                raise
            self._branches.add(made)
            return made
        finally:
            made = core = None
            if lease is not None:
                lease.close()

    def _enter(self, branch: Branch) -> None:
        """Have it finished when the manager ends, and named when it holds up the tee."""
        with branch.handle.lease() as core:
            core.leaving.append(self.manager.add_check(weakly(core.problem, "")))
            if core.eos is not None:
                core.leaving.append(enter_part(self.manager, core))
                core.leaving.append(self.manager.on_close(AtClose(self.manager)))

    def _count(self, core: BranchCore) -> None:
        """Have it in the metrics."""
        figures, fuse = figures_of(self.manager), core.fuse
        assert fuse is not None
        core.leaving.append(partial(figures.leave, fuse))
        figures.enter(core.bin.get_name(), fuse)

    def _isolate(self, branch: Branch, wrapped: Any) -> None:
        """Have what fails in `wrapped` told to the branch, as long as it is open. What fails in it while it
        is being closed is no error of the pipeline either."""
        assert self._guard is not None
        weak = weakref.ref(branch)

        def failed(error: PipelineError) -> bool:
            living = weak()
            if living is not None:
                # Refused where it is closed.
                with suppress(AccessRefusedError):
                    living._failed(error)
            return True

        journal = self._guard._journal
        with branch.handle.lease() as core:
            key = id(core)
            core.leaving.append(journal.delegate(wrapped, failed))
            core.leaving.append(partial(journal.parts.pop, key, None))
            if core.eos is not None:
                journal.parts[key] = core

    def flush(self, timeout: float = FLUSH_TIMEOUT) -> None:
        """Drop everything that waits in any branch. As `Branch.flush`."""
        for branch in self.branches:
            branch.flush(timeout)

    @property
    def branches(self) -> tuple[Branch, ...]:
        """The branches that are attached and not closed."""
        return tuple(branch for branch in self._branches if not branch.closed)

    def __repr__(self) -> str:
        return f"<Tee {self.name!r}: {len(self.branches)} branches>"


def _wrap(branch: Any, name: str, queue: Any, caps: Any) -> Any:
    """One bin: the queue, what was given, and a ghost pad. Refused, what was given is as it was."""
    if isinstance(branch, str):
        inner = parse_bin(branch)
    elif isinstance(branch, Gst.Element):
        inner = branch
        if inner.get_parent() is not None:
            raise GuardError(
                f"{inner.get_name()!r} is in {inner.get_parent().get_name()!r} already and cannot be a "
                "branch as well; make another"
            )
    else:
        raise GuardError(f"Tee.attach takes a description, a Gst.Bin or a Gst.Element, not {branch!r}")
    if not isinstance(queue, Gst.Element) or queue.get_parent() is not None:
        raise GuardError(
            f"Tee.attach(queue=) takes a new queue element, such as low_latency_queue(), not {queue!r}"
        )
    free = [pad for pad in pads_of(inner, Gst.PadDirection.SINK) if not pad.is_linked()]
    if len(free) != 1:
        raise LinkError(
            f"the branch {name!r} has {len(free)} free sink pads ({', '.join(map(name_of, free)) or 'none'}) "
            "and needs one, where the tee's data goes in"
        )
    taken = None if caps is None else free[0].query_caps(None)
    if taken is not None and not taken.can_intersect(caps):
        raise LinkError(
            f"the branch {name!r} cannot be linked to the tee: one gives {shortened(caps.to_string())}, the "
            f"other takes {shortened(taken.to_string())}; put a converter between "
            "(videoconvert, audioconvert)"
        )
    for sink in sinks_of(inner) if isinstance(inner, Gst.Bin) else [inner]:
        if sink.find_property("async") is not None:
            sink.set_property("async", False)
    outer = Gst.Bin.new(name)
    outer.add(queue)
    outer.add(inner)
    link_pads(queue.get_static_pad("src"), free[0])
    door = Gst.GhostPad.new("sink", queue.get_static_pad("sink"))
    outer.add_pad(door)
    return outer
