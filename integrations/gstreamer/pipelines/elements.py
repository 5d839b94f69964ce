"""`ElementGuard`: an element that joins a pipeline and leaves it while data flows, in the order that does not
freeze."""

from __future__ import annotations

from typing import Any, ClassVar

from lifecycle import SafetyManager
from lifecycle.integrations.gstreamer._native import Gst, pointer_of
from lifecycle.integrations.gstreamer.errors import GuardError, LinkError, StateTimeout
from lifecycle.integrations.gstreamer.pipelines.guard import (
    Core,
    Guard,
    add_to,
    check_manager,
    make_element,
    or_nothing,
    pads_of,
    path_of,
    set_properties,
)
from lifecycle.integrations.gstreamer.pipelines.pads import (
    UNLINK_TIMEOUT,
    link_pads,
    unlink_when_idle,
    when_idle,
)
from lifecycle.integrations.gstreamer.pipelines.pipeline import bin_of

__all__ = ["ElementGuard"]


class _ElementCore(Core):
    def __init__(self, element: Any, parent: Any) -> None:
        self.element = element
        self.parent = parent

    def release(self) -> None:
        """Unlinked, NULL, removed. Where the program has taken it out it is set to NULL, and where it is in
        another bin by now it is that bin's."""
        parent = self.element.get_parent()
        if parent is self.parent:
            leave(self.element, self.parent)
        elif parent is None:
            leave(self.element, None)


def leave(element: Any, parent: Any) -> None:
    """Take `element` out of the bin `parent` (None: of none) while data flows: unlink where it comes in,
    NULL, unlink where it went out, remove. Not on a streaming thread. Raises `StateTimeout` when a push into
    it does not end."""
    for pad in pads_of(element, Gst.PadDirection.SINK):
        peer = pad.get_peer()
        if peer is not None:
            unlink_when_idle(peer)
    element.set_locked_state(True)  # or the bin takes it along when it changes its own state meanwhile
    if not pads_of(element, Gst.PadDirection.SINK):
        # A source is its own pusher, and would report not-linked: it stops linked. NULL waits for the push
        # that is under way, so that is waited for here, where there is a deadline.
        for pad in pads_of(element, Gst.PadDirection.SRC):
            if pad.is_linked() and not when_idle(pad, None, UNLINK_TIMEOUT):
                raise StateTimeout(
                    f"source {path_of(element)} cannot leave: its push has not ended within "
                    f"{UNLINK_TIMEOUT:g} s, so what is behind it blocks; stop the pipeline first, or put a "
                    "leaky queue behind it"
                )
    if element.set_state(Gst.State.NULL) == Gst.StateChangeReturn.FAILURE:
        raise GuardError(
            f"element {path_of(element)} refused to go to NULL; it was unlinked, and stays in its bin"
        )
    for pad in pads_of(element, Gst.PadDirection.SRC):
        peer = pad.get_peer()
        if peer is not None:
            pad.unlink(peer)
    if parent is not None and element.get_parent() is parent:
        parent.remove(element)


class ElementGuard(Guard[_ElementCore]):
    """Owns an element in a bin: at its end it is unlinked, set to NULL and removed, in the order that does
    not freeze.

    Parameters
    ----------
    manager:
        Owns the element.
    element:
        A `Gst.Element`, or a factory's name such as ``"queue"``. One that is in no bin is added; one that is
        in `parent` already is adopted.
    parent:
        A `PipelineGuard`, a `Gst.Pipeline` or another `Gst.Bin`.

    Raises `GuardError` for an element that is in another bin, which the message names, and `DescriptionError`
    for a factory that is not installed.
    """

    type_name: ClassVar[str] = "gst.Element"

    @or_nothing
    def __init__(self, manager: SafetyManager, element: Any, parent: Any) -> None:
        check_manager(manager, "ElementGuard(manager, element, parent)")
        owner, _ = bin_of(parent, "ElementGuard(parent=)")
        if isinstance(element, str):
            element = make_element(element)
        if not isinstance(element, Gst.Element):
            raise GuardError(f"ElementGuard takes an element or a factory's name, not {element!r}")
        if element is owner:
            raise GuardError(f"{element.get_name()!r} cannot be in itself; the bin is the last argument")
        before = element.get_parent()
        if before is not None and before is not owner:
            raise GuardError(
                f"element {element.get_name()!r} is in {path_of(before)!r} and cannot be in "
                f"{owner.get_name()!r} as well; close the guard that holds it there, or make another element"
            )
        self._register(manager, _ElementCore(element, owner), element.get_name(), pointer_of(element))
        if before is not None:
            return
        if not add_to(owner, element):
            raise GuardError(
                f"{owner.get_name()!r} does not take element {element.get_name()!r}: it has one of that name "
                "already; give it another"
            )

    @property
    def element(self) -> Any:
        """The `Gst.Element`. Raises `AccessRefusedError` once the guard is closed."""
        with self._handle.lease() as core:
            return core.element

    def set(self, **properties: Any) -> None:
        """Set properties: ``guard.set(max_buffers=1, drop=True)``. A text is what ``gst-launch-1.0`` would
        make of it. Raises `GuardError` naming the element, and what it has or takes instead, for a property
        that it does not have, or cannot be given that value; none is set then."""
        with self._handle.lease() as core:
            set_properties(core.element, properties)

    def start(self) -> None:
        """Bring it to the state of its bin; link it first. Raises `GuardError` when it refuses."""
        with self._handle.lease() as core:
            if not core.element.sync_state_with_parent():
                raise GuardError(
                    f"element {path_of(core.element)} cannot follow its bin's state; the bus says why "
                    "(PipelineGuard.errors)"
                )

    def link(self, other: Any) -> None:
        """Link its free source pad to a free sink pad of `other` (an element, or a guard of one). Raises
        `LinkError`."""
        with self._handle.lease() as core:
            target = other.element if isinstance(other, ElementGuard) else other
            if not isinstance(target, Gst.Element):
                raise LinkError(f"element {self.name!r} is linked to an element, not to {other!r}")
            source = _free(core.element, Gst.PadDirection.SRC)
            link_pads(source, _free(target, Gst.PadDirection.SINK))


def _free(element: Any, direction: Any) -> Any:
    pads = pads_of(element, direction)
    for pad in pads:
        if not pad.is_linked():
            return pad
    raise LinkError(
        f"element {element.get_name()!r} has no free {direction.value_nick} pad ({len(pads)} in use); ask "
        "for one with PadGuard where it has request pads"
    )
