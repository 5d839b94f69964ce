"""Pressure: asking those who can spare memory to give it back, one after the other, until it is enough."""

from __future__ import annotations

from collections.abc import Callable

from lifecycle.lowlevel import is_control_flow, must_not_wait, next_id, run_apart, snapshot


class Pressure:
    """The pressure callbacks of one `MemoryManager`. `enough` says that the low-water marks are reached,
    `failed` is told what a callback raised, `last_resort` is called behind them all. Every callback runs
    without a lock of ours."""

    def __init__(
        self,
        enough: Callable[[], bool],
        failed: Callable[[BaseException], object],
        last_resort: Callable[[], object] | None,
    ) -> None:
        self._enough = enough
        self._failed = failed
        self._last_resort = last_resort
        self._callbacks: dict[int, Callable[[], object]] = {}
        self._relieving: dict[None, object] = {}  # who runs them
        self.runs: int = 0

    def add(self, fn: Callable[[], object]) -> Callable[[], None]:
        """Have `fn` called under pressure; returns a function that takes it back."""
        key = next_id()
        self._callbacks[key] = fn

        def remove() -> None:
            self._callbacks.pop(key, None)

        return remove

    def relieve(self, to_low_water: bool = True) -> None:
        """Run the pressure callbacks, on one thread at a time, as far as they are needed; apart, if this one
        must not wait."""
        if must_not_wait():
            if (self._callbacks or self._last_resort is not None) and not self._relieving:
                run_apart(self.relieve)
            return
        mine = object()
        try:
            if self._relieving.setdefault(None, mine) is not mine:
                return
            self.runs += 1
            steps = [*snapshot(self._callbacks.values())]
            if self._last_resort is not None:
                steps.append(self._last_resort)
            for step in steps:
                if to_low_water and self._enough():
                    break
                try:
                    step()
                except BaseException as error:
                    # An extension's own panic too: it stops neither the others nor who asks for room.
                    if is_control_flow(error):
                        raise
                    self._failed(error)
        finally:
            if self._relieving.get(None) is mine:
                self._relieving.pop(None, None)

    def after_fork(self) -> None:
        """In the child: nobody runs them."""
        self._relieving.clear()
