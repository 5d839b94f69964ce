"""`PoolAdapter`: a `Gst.BufferPool` whose buffers are counted until they are really back.

**The problem.** `acquire_buffer` waits for ever in C when the pool is empty, where no Ctrl-C reaches; what
ends the wait (``set_flushing``) fails every other waiter too. `release_buffer` by hand breaks the pool, which
has its buffers back when they are dropped. And nobody can tell how many are out, since a buffer that was
pushed comes back from somewhere downstream.

**The idea.** A timed acquire asks without waiting, again and again, longer and longer apart. Each buffer that
is lent carries a sentinel, a tiny buffer that goes when it is back in its pool, and whose going is counted in
C (`loans.py`). So what is out is known exactly, wherever it is, and by whom it was last held.
"""

from __future__ import annotations

import ctypes
import threading
import time
from bisect import bisect_left
from collections.abc import Callable
from typing import Any, Final

import attrs

from lifecycle import ClosedError, ObjectState, SafetyManager
from lifecycle.errors import PoolError, PoolTimeoutError
from lifecycle.integrations.gstreamer._buffers import (
    Flow,
    Owned,
    acquire_from_pool,
    add_parent,
    configure_pool,
    has_memory_for,
    limits_of_pool,
    nothing_owned,
)
from lifecycle.integrations.gstreamer._native import Gst, GstVideo, pointer_of
from lifecycle.integrations.gstreamer.errors import FormatError
from lifecycle.integrations.gstreamer.feeding.loans import Loans, sweep
from lifecycle.integrations.gstreamer.frames.adapter import SampleAdapter
from lifecycle.integrations.gstreamer.frames.formats import Layout
from lifecycle.integrations.gstreamer.frames.held import names_of_holders
from lifecycle.integrations.gstreamer.frames.writable import WritableFrame
from lifecycle.integrations.gstreamer.pipelines.guard import (
    check_manager,
    check_seconds,
    end_opened,
    or_nothing,
)
from lifecycle.integrations.gstreamer.pipelines.threads import has_forked, refuse_forked
from lifecycle.lowlevel import CollectorNudge, Facts, Uncopied, check_facts, facts, tend, weakly
from lifecycle.stats import Histogram, PoolStats

__all__ = ["PoolAdapter"]

LARGEST: Final = 2**32 - 1
"""Bytes of a pool's buffer: GStreamer counts them so."""
WAITS: Final = (0.0002, 0.0005, 0.001, 0.002, 0.005)
"""Seconds between two looks for a buffer: longer and longer."""
SETTLE_TURNS: Final = 64
"""Bounded shares of what waits for any thread, until what is this pool's is back."""
BOUNDS: Final = (1e-5, 1e-4, 1e-3, 5e-3, 0.0166, 0.0333, 0.1, 0.5, 1.0, 5.0, 30.0)
_SENTINEL = ctypes.create_string_buffer(1)
_SENTINEL_ADDRESS: Final = ctypes.addressof(_SENTINEL)
ctypes.pythonapi.Py_IncRef(ctypes.py_object(_SENTINEL))  # a buffer may outlive this module


@attrs.define(eq=False)
class Out:
    """A buffer that is out: since when, as which object, and where it went when it was handed on."""

    since: float
    facts: Facts | None = None
    where: str = "being lent"

    def __str__(self) -> str:
        known = self.facts
        age = f"for {time.monotonic() - self.since:.1f} s"
        if known is not None and not known.has_ended:
            names = ", ".join(names_of_holders(known, own=1)) or "its WritableFrame"
            return f"object {known.id}, {age}, held by {names}"
        return f"a buffer {self.where}, {age}"


class _Opened:
    """What an adapter has opened, and how that ends. Refers to nothing of the adapter, which may be gone by
    then."""

    def __init__(self, pool: Any, activated: bool) -> None:
        self.pool = pool
        self.activated = activated
        self.closed = threading.Event()
        self.leave_manager: Callable[[], object] = int

    def end(self) -> None:
        """The pool lends no more; what is out is freed when it is back. Waits for nothing; again: nothing."""
        self.closed.set()
        if has_forked():
            return
        if self.activated:
            self.pool.set_flushing(True)
            self.pool.set_active(False)
            self.activated = False
        self.leave_manager()


class PoolAdapter(Uncopied):
    """Lends the buffers of a `Gst.BufferPool` as `WritableFrame`, and knows which are out.

    Parameters
    ----------
    manager:
        Owns the frames. Closing it closes the pool first.
    caps:
        What the buffers hold, a `Gst.Caps` or its text.
    most:
        How many buffers there may be; None for no bound.
    least:
        How many are made at once.
    size:
        Bytes of each; what a picture of these caps needs where None.
    pool:
        A pool to be used instead of a new one. One that is active already is used as it is, and stays active
        after `close`.
    name:
        Shown in metrics, messages and reports; the pool's own name by default.

    The pool is configured and active when this returns. All methods may be called on any thread.
    """

    _remedy = "pass the pool itself, or make another of the same caps"

    _abandon = end_opened
    kind: Final = "pool"

    @or_nothing
    def __init__(
        self,
        manager: SafetyManager,
        caps: Any,
        *,
        most: int | None = 8,
        least: int = 0,
        size: int | None = None,
        pool: Any = None,
        name: str | None = None,
    ) -> None:
        check_manager(manager, "PoolAdapter(manager, caps)")
        if manager.closed:
            raise ClosedError(f"manager {manager.name!r} is closed, so it takes no pool; make a new manager")
        if pool is not None and not isinstance(pool, Gst.BufferPool):
            raise PoolError(f"pool= takes a Gst.BufferPool that is not in use, not {pool!r}")
        for what, value, lowest in (("most", most, 1), ("least", least, 0)):
            if (what, value) != ("most", None) and (type(value) is not int or value < lowest):
                raise PoolError(f"{what}= takes a whole number, {lowest} or more, not {value!r}")
        if most is not None and least > most:
            raise PoolError(f"least={least} buffers are more than most={most}")
        self.manager = manager
        self._adapter = SampleAdapter(manager)
        self._layout: Layout = self._adapter.layout(caps)
        video = bool(self._layout.planes)
        if pool is None:
            pool = GstVideo.VideoBufferPool.new() if video else Gst.BufferPool.new()
        check_facts(name, 0)
        self.name: str = str(name or pool.get_name())
        self._pool = pool
        self._pointer = pointer_of(pool)
        self._activated = not pool.is_active()
        if self._activated:
            self._configure(size, least, most or 0, video)
        self._most = limits_of_pool(self._pointer)[2]
        self._loans = Loans()
        self._seen: set[int] = set()
        self._starving = CollectorNudge()
        self._opened = _Opened(pool, self._activated)
        self._closed = self._opened.closed
        self._counting = threading.RLock()
        self._waiters = 0
        self._results = dict.fromkeys(("reused", "created", "fallback", "timeout", "refused", "closed"), 0)
        self._waits = 0
        self._wait_seconds = 0.0
        self._wait_counts = [0] * (len(BOUNDS) + 1)
        self._over = manager.add_component(self, end=self._opened.end, type_name="gst.Pool")
        self._opened.leave_manager = manager.on_close(weakly(self.close))

    def _configure(self, size: int | None, least: int, most: int, video: bool) -> None:
        layout = self._layout
        wanted = layout.size if size is None else size
        if type(wanted) is not int or wanted < max(1, layout.size):
            raise FormatError(
                f"pool {self.name!r} of {layout}: a buffer needs {layout.size or 'a size= in'} bytes, not "
                f"{size!r}"
            )
        if wanted > LARGEST or not has_memory_for(wanted * max(1, least)):
            raise PoolError(
                f"pool {self.name!r} of {layout}: there is no memory for {max(1, least)} × {wanted} bytes"
            )
        options = (b"GstBufferPoolOptionVideoMeta",) if video else ()
        if not configure_pool(self._pointer, hash(layout.caps), wanted, least, most, options):
            raise PoolError(
                f"pool {self.name!r} does not take this configuration: {layout}, {wanted} bytes, {least} to "
                f"{most}"
            )
        if not self._pool.set_active(True):
            raise PoolError(
                f"pool {self.name!r} cannot be activated: there is no memory for {least} × {wanted} bytes"
            )

    # -- lending ---------------------------------------------------------------------------------------------

    def acquire(self, timeout: float | None = None) -> WritableFrame:
        """A buffer of the pool, to be written. Waits up to `timeout` seconds for one to come back, None for
        ever, 0 not at all.

        It goes back when it is closed or dropped, or, pushed with `Feeder.push`, when the last element has
        dropped it. Contents are what they were. Raises `PoolTimeoutError` with the holders of what is out,
        `ClosedError` when pool or manager is closed, also meanwhile.
        """
        if timeout is not None:
            check_seconds(timeout, f"pool {self.name!r}: timeout=", PoolError)
        began = time.monotonic()
        owned = self._get(began, timeout)
        frame = sentinel = None
        try:
            out = Out(time.monotonic())
            sentinel = nothing_owned()
            self._loans.lend(None, sentinel, 0, _SENTINEL_ADDRESS, 1, out)
            add_parent(owned, sentinel)
            sentinel.drop()
            address = owned.value or 0
            frame = WritableFrame(self.manager, owned, self._layout, copied=False)
            out.facts = facts(frame._handle)
            out.where = "handed on"
            frame._out = out
            waited = out.since - began
            with self._counting:
                self._results["reused" if address in self._seen else "created"] += 1
                self._wait_counts[bisect_left(BOUNDS, waited)] += 1
                self._wait_seconds += waited
            self._seen.add(address)
            return frame
        except BaseException:
            if frame is not None:
                frame.close()
            owned.drop()
            if sentinel is not None:
                sentinel.drop()
            raise
        finally:
            owned = sentinel = frame = None  # type: ignore[assignment]  # a kept traceback must keep no buffer

    def _get(self, began: float, timeout: float | None) -> Owned:
        owned = nothing_owned()
        waits = iter(WAITS)
        wait = 0.0
        waiting = False
        try:
            while True:
                if self._closed.is_set() or has_forked():
                    self._refuse_closed()
                flow = acquire_from_pool(self._pointer, owned)
                if owned.value:
                    return owned
                if flow != Flow.EOS:
                    if self._closed.is_set():  # between the question and the answer
                        self._refuse_closed()
                    self._count("refused")
                    raise PoolError(
                        f"pool {self.name!r} lends nothing (flow {flow}): it was deactivated or flushed "
                        "from outside; make a new one"
                    )
                if timeout is not None and time.monotonic() >= began + timeout:
                    self._count("timeout")
                    holders = self.holders()
                    raise PoolTimeoutError(
                        f"pool {self.name!r}: no buffer came back within {timeout} s, all {self._most} are "
                        f"out: {'; '.join(holders) or 'taken past this adapter'}",
                        holders,
                    )
                self._settle()
                self._starving.look(self._loans_now)
                if not waiting:
                    waiting = True
                    with self._counting:
                        self._waiters += 1
                        self._waits += 1
                wait = next(waits, wait)
                left = wait if timeout is None else max(0.0, min(wait, began + timeout - time.monotonic()))
                self._closed.wait(left)
        finally:
            owned = None  # type: ignore[assignment]  # a kept traceback must keep no buffer
            if waiting:
                with self._counting:
                    self._waiters -= 1

    def _count(self, result: str) -> None:
        with self._counting:
            self._results[result] += 1

    def _refuse_closed(self) -> None:
        refuse_forked(f"pool {self.name!r}")
        self._count("closed")
        whose = f"manager {self.manager.name!r}" if self.manager.closed else f"pool {self.name!r}"
        raise ClosedError(f"{whose} is closed: pool {self.name!r} lends nothing any more; make a new one")

    # -- knowing ---------------------------------------------------------------------------------------------

    def _loans_now(self) -> list[float]:
        """The loans of now: equal as long as nothing comes back."""
        return [out.since for out in self._loans.info.copy().values()]

    def _settle(self) -> None:
        """Have those go back whose last view has just gone: they would wait for the next registration or
        close."""
        for _ in range(SETTLE_TURNS):
            loans = self._loans.info.copy().values()
            if not any(out.facts is not None and out.facts.state is ObjectState.DUE for out in loans):
                return
            tend(self.manager)

    @property
    def outstanding(self) -> int:
        """How many buffers are out now: lent, held by views, or anywhere downstream. Exact."""
        self._settle()
        return len(self._loans)

    def holders(self) -> tuple[str, ...]:
        """Where each buffer is that is out, longest first. Looks through the whole heap."""
        self._settle()
        sweep()
        return tuple(str(out) for out in sorted(self._loans.info.copy().values(), key=lambda out: out.since))

    @property
    def caps(self) -> Any:
        """The `Gst.Caps` of its buffers."""
        return self._layout.caps

    def stats(self) -> PoolStats:
        """The figures, as a frozen snapshot. Callable on any thread."""
        out = self.outstanding
        known = len(self._seen)
        return PoolStats(
            name=self.name,
            items={"idle": max(0, known - out), "in_use": out},
            items_limit=self._most,
            # In a forked child its lock may be held by a thread that is not here.
            item_bytes=0 if has_forked() else known * limits_of_pool(self._pointer)[0],
            waiters=self._waiters,
            results=dict(self._results),
            waits=self._waits,
            wait_seconds=self._wait_seconds,
            get_wait=Histogram(bounds=BOUNDS, counts=tuple(self._wait_counts), sum=self._wait_seconds),
            losses={},
            dropped=0,
            longest=None,
        )

    # -- the end ---------------------------------------------------------------------------------------------

    def close(self) -> bool:
        """Lend no more; waiting calls raise `ClosedError`. What is out stays good, and is freed when it is
        back. True when nothing is out. Closing again gives the answer as it is then."""
        self._opened.end()
        self._over()
        return self.outstanding == 0

    @property
    def closed(self) -> bool:
        """True if it was closed."""
        return self._closed.is_set()

    def __enter__(self) -> PoolAdapter:
        if self._closed.is_set():
            self._refuse_closed()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self.outstanding} out of {self._most or 'any number'}"
        return f"<PoolAdapter {self.name!r} of {self._layout}: {state}>"
