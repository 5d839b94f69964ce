"""Fences of OpenGL, and of EGL.

What a driver answers is taken by whitelist: two values mean signalled, one means pending, and everything else
(0 without a context, an error, a code of somebody else's) is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lifecycle import Timeline
from lifecycle.integrations.gpu._native import egl, egl_sync, function, untyped
from lifecycle.integrations.gpu.errors import GLError

__all__ = ["EGLFence", "GLFence"]

_COMPLETE = 0x9117
_ALREADY_SIGNALED, _TIMEOUT_EXPIRED, _CONDITION_SATISFIED = 0x911A, 0x911B, 0x911C
_SIGNALLED = (_ALREADY_SIGNALED, _CONDITION_SATISFIED)
_FLUSH = 1
_EGL_FENCE, _EGL_SATISFIED, _EGL_EXPIRED = 0x30F9, 0x30F6, 0x30F5
_ZERO, _KIND = (0,), (_COMPLETE,)
_NONE_MADE = "the driver made no sync object: no context is current, or it was lost"
_LONGEST = 0.05


class GLFence:
    """A sync object of OpenGL, behind all that the current context was given. It may be asked where its
    context's share group is current; elsewhere it is pending."""

    __slots__ = ("_flags", "_here", "_syncs", "timeline")

    def __init__(self, here: Callable[[], bool], timeline: Timeline | None = None) -> None:
        self._here = here
        self._flags = _FLUSH  # the first question sends what the fence waits for to the device
        self._syncs: list[int | None] = []
        if timeline is not None:
            self.timeline: Timeline = timeline
        self._syncs.extend(map(function("glFenceSync"), _KIND, _ZERO))  # made and kept in one step
        if not self._syncs[0]:
            self._syncs.clear()
            raise GLError(_NONE_MADE)

    def may_poll(self) -> bool:
        """Return True if its world is current on this thread."""
        return self._here()

    def signalled(self) -> Any:
        """True or False; any other answer of the driver as it is."""
        return self._ask(0)

    def wait(self, timeout: float) -> Any:
        """Wait up to `timeout` seconds, 50 ms at most."""
        return self._ask(int(min(timeout, _LONGEST) * 1e9))

    def _ask(self, nanoseconds: int) -> Any:
        if not self._syncs:
            raise GLError("this fence was deleted")
        said = function("glClientWaitSync")(self._syncs[0], self._flags, nanoseconds)
        if said in _SIGNALLED:
            return True
        if said == _TIMEOUT_EXPIRED:
            self._flags = 0
            return False
        return said

    def delete(self) -> None:
        """Delete the sync object, once. Call it where `may_poll` is true."""
        any(map(function("glDeleteSync"), _taken_out(self._syncs)))  # it answers None

    def __repr__(self) -> str:
        return "<GLFence>" if self._syncs else "<GLFence: deleted>"


class BehindFence(GLFence):
    """The fence of a submission, which nobody but its timeline has: it is asked only where its context is
    current, so it need not be asked whether it may be."""

    __slots__ = ()
    may_poll: Any = None

    @classmethod
    def maker(cls, world: Any, check: Callable[[], None]) -> Callable[[], BehindFence]:
        """A function that makes one behind all that the context of `world`, a `World`, was given. The call
        that begins a submission, or polls, has asked for the world itself: where the address of the current
        context is another since, `check` is called first."""
        make = untyped("glFenceSync")
        current, pointer, new = world.current, world.pointer, cls.__new__

        def fence() -> BehindFence:
            if world.inherited or world.lost or current() != pointer:
                check()
            made = new(cls)
            made._flags = _FLUSH
            syncs: list[int | None] = []
            made._syncs = syncs
            syncs.extend(map(make, _KIND, _ZERO))  # made and kept in one step
            if not syncs[0]:
                syncs.clear()
                raise GLError(_NONE_MADE)
            return made

        return fence


class EGLFence:
    """A sync object of EGL, behind all that the current context was given. It may be asked, waited for and
    deleted on any thread, also after its context has gone."""

    __slots__ = ("_display", "_syncs", "timeline")

    def __init__(self, timeline: Timeline | None = None) -> None:
        loaded = egl()
        create, _, _ = egl_sync()
        self._display = loaded.eglGetCurrentDisplay()
        self._syncs: list[int | None] = []
        if timeline is not None:
            self.timeline: Timeline = timeline
        if not self._display:
            raise GLError("no EGL context is current on this thread: an EGL fence can be made only there")
        self._syncs.extend(map(create, (self._display,), (_EGL_FENCE,), (None,)))
        if not self._syncs[0]:
            self._syncs.clear()
            raise GLError("EGL made no sync object: no context is current, or it was lost")
        function("glFlush")()  # who asks it elsewhere could not send the work to the device

    def signalled(self) -> Any:
        """True or False; any other answer of EGL as it is. Callable on any thread."""
        return self._ask(0)

    def wait(self, timeout: float) -> Any:
        """Wait up to `timeout` seconds, 50 ms at most. Callable on any thread."""
        return self._ask(int(min(timeout, _LONGEST) * 1e9))

    def _ask(self, nanoseconds: int) -> Any:
        if not self._syncs:
            raise GLError("this fence was deleted")
        said = egl_sync()[1](self._display, self._syncs[0], 0, nanoseconds)
        if said == _EGL_SATISFIED:
            return True
        return False if said == _EGL_EXPIRED else said

    def delete(self) -> None:
        """Destroy the sync object, once. Callable on any thread."""
        destroy = egl_sync()[2]
        list(map(destroy, (self._display,), _taken_out(self._syncs)))

    def __repr__(self) -> str:
        return "<EGLFence>" if self._syncs else "<EGLFence: deleted>"


def _taken_out(syncs: list[int | None]) -> Any:
    """An iterator that takes the sync object out as it gives it, so a second deletion finds none."""
    return map(syncs.pop, _ZERO[: len(syncs)])
