"""What a fence is, and how one is asked.

**Only True is True.** What a fence says is taken by whitelist: True is signalled, False is pending, and
anything else (another value, an exception, a code that nobody knows) means that the fence is *lost*. A lost
fence never counts as signalled.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol, runtime_checkable

from lifecycle._core import runtime
from lifecycle._core.waiting import poll
from lifecycle.errors import text_of

FenceMode = Literal["poll", "wait", "ignore"]
MODES: tuple[FenceMode, ...] = ("poll", "wait", "ignore")
POLL = 0.001
"""Seconds between two questions to a fence that cannot be waited for."""


@runtime_checkable
class Fence(Protocol):
    """What a release can wait for. Only `signalled` is needed; the others may be left out.

    ``timeline``
        An attribute: any object. Fences of one timeline signal in order, so only the first of them is asked;
        see `Timeline`.
    ``may_poll() -> bool``
        True if it may be asked on this thread now. Any other result: it counts as pending, and is asked again
        later.
    ``wait(timeout: float) -> bool``
        Wait for it. For queues with ``fences="wait"``.
    ``delete()``
        Called once, at the object's place, when it has signalled and no other object waits for it. Never for
        one that is lost.
    """

    def signalled(self) -> bool:
        """Return True if the device has finished with the object, False if not yet. Any other result, or an
        exception, means that it is not known: the fence is lost. Called at the object's place, where its
        release will run."""
        ...


class Answer:
    """What a fence said."""

    __slots__ = ("why",)

    def __init__(self, why: str) -> None:
        self.why = why

    def __repr__(self) -> str:
        return self.why


SIGNALLED, PENDING = Answer("signalled"), Answer("pending")


def ask(fence: Any, mode: FenceMode, patience: float) -> Answer:
    """`SIGNALLED`, `PENDING`, or why it is lost. With mode "wait" waits up to `patience` seconds. An
    interrupt passes."""
    if mode == "ignore":
        return SIGNALLED
    try:
        may_poll = getattr(fence, "may_poll", None)
        if may_poll is not None and may_poll() is not True:
            return PENDING
        said = fence.signalled()
        if said is False and mode == "wait" and not runtime.must_not_wait():
            said = _waited(fence, patience)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and runtime.on_main_thread():
            raise
        return Answer(text_of(error))
    if said is True:
        return SIGNALLED
    return PENDING if said is False else Answer(f"it said {_shown(said)}, which is neither True nor False")


def _waited(fence: Any, patience: float) -> Any:
    wait = getattr(fence, "wait", None)
    if wait is not None:
        return wait(patience)
    said: Any = False

    def has_answered() -> bool:
        nonlocal said
        said = fence.signalled()
        return said is not False

    poll(has_answered, patience, first=POLL, longest=POLL)
    return said


def _shown(value: object) -> str:
    try:
        return repr(value)[:80]
    except Exception:
        return f"a {type(value).__name__}"
