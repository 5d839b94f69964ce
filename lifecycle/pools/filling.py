"""Keeping items ready: the thread of a pool with ``min_idle=``, which makes what is missing.

Items are made on it alone, so nobody who borrows waits for that as long as there are enough. It is started
with the pool and ends with it: it refers to its pool weakly while it waits. To wake it is one step, so that
can be done anywhere; what `create` raises is reported, and it tries again after a while, ever more rarely.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Final

from lifecycle.lowlevel import WaitList

if TYPE_CHECKING:
    from lifecycle.pools.pool import Pool

__all__ = ["Filler"]

FIRST_PAUSE: Final = 0.1
"""Seconds after which it tries again when nothing could be made; twice that, and so on, up to
`LONGEST_PAUSE`."""
LONGEST_PAUSE: Final = 30.0
LOOK: Final = 5.0
"""Seconds after which it looks around unasked: for what was thrown away, and slots that are free again."""


class Filler:
    """Keeps the idle items of a pool at its `min_idle`."""

    def __init__(self, pool: Pool) -> None:
        self._bell = WaitList()
        self._rung = {0: None}
        self.making: bool = False
        """True if it has a slot in hand: one that no caller has, and that is as good as idle."""
        self._pool = weakref.ref(pool, self._gone)
        threading.Thread(target=self._run, name=f"pool-{pool.name}", daemon=True).start()

    def wake(self) -> None:
        """Have it look. Callable in any context."""
        self._rung[0] = None
        self._bell.wake()

    def _gone(self, _: object) -> None:
        self.wake()

    def _run(self) -> None:
        pause = 0.0
        while True:
            if pause:
                # However often it is rung: what could not be made is not tried at once again.
                self._bell.wait(self._is_over, pause)
            else:
                self._bell.wait(self._is_rung, LOOK)
            self._rung.clear()
            pool = self._pool()
            try:
                if pool is None or pool.closed or pool._filler not in (self, None):
                    return
                pause = min(2 * pause or FIRST_PAUSE, LONGEST_PAUSE) if not self._fill(pool) else 0.0
            finally:
                pool = None

    def _is_rung(self) -> bool:
        return bool(self._rung)

    def _is_over(self) -> bool:
        pool = self._pool()
        return pool is None or pool.closed

    def _fill(self, pool: Pool) -> bool:
        """Make what is missing. False: it could not be made."""
        try:
            self.making = True
            while pool.free_list.count_idle()[0] < pool._min_idle and pool._make_one(pool._want()):
                pass
            return True
        except BaseException as error:
            if not pool.closed:
                pool.manager.report_error(
                    f"pool {pool.name}: create, to have {pool._min_idle} idle",
                    error,
                    type_name=pool._type_name,
                )
            return False
        finally:
            # The slot has been put back before.
            self.making = False
            pool = None  # type: ignore[assignment]
