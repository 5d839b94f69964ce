"""Pools against a small reference model, whatever the order of calls."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip(
    "hypothesis", reason="needs hypothesis: run the tests with `make test`, which installs it"
)

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lifecycle import BufferPool, ClosedError, Handle, ObjectPool, SafetyManager
from lifecycle.errors import NotLentError, PoolExhaustedError, ReturnedTwiceError
from tests.core.adversary import STORM
from tests.core.natives import Native
from tests.support import eventually

LOOSE = settings(
    max_examples=int(25 * STORM),
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    print_blob=True,
)


class Lent:
    """What the model knows of one loan."""

    def __init__(self, handle: Handle[Any], item: int, plain: bool) -> None:
        self.handles = [handle]
        self.views: list[Any] = []
        self.item = item
        self.plain = plain


class PoolModel(RuleBasedStateMachine):
    """The reference: which items are idle (the last used at the end), which are lent, and how large the pool
    is."""

    pool: Any
    fallback = False
    still_serves = False

    def __init__(self) -> None:
        super().__init__()
        self.manager = SafetyManager(name="model")
        self.idle: list[int] = []
        self.lent: list[Lent] = []
        self.given_back: list[Handle[Any]] = []
        self.limit = 0
        self.closed = False
        self.made = self.reused = self.plain = self.refused = self.after = 0

    def item_of(self, handle: Handle[Any]) -> int:
        return id(handle._record.obj)

    @property
    def own(self) -> list[Lent]:
        return [lent for lent in self.lent if not lent.plain]

    def over(self, lent: Lent) -> None:
        """Its last holder has gone."""
        self.lent.remove(lent)
        if lent.plain or self.closed or len(self.own) + len(self.idle) >= self.limit:
            return
        self.idle.append(lent.item)

    def let_go(self, lent: Lent) -> None:
        if not lent.handles and not lent.views:
            self.over(lent)

    # -- what may happen -------------------------------------------------------------------------------------

    @rule()
    def get(self) -> None:
        idle, own = list(self.idle), len(self.own)
        if self.closed and not self.still_serves:
            with pytest.raises(ClosedError):
                self.pool.get()
            self.after += 1
            return
        if self.closed or (not idle and own >= self.limit):
            if not self.closed and not self.fallback:
                with pytest.raises(PoolExhaustedError):
                    self.pool.get()
                self.refused += 1
                return
            handle = self.pool.get()
            self.after += self.closed
            self.plain += not self.closed
            self.lent.append(Lent(handle, 0, plain=True))
            return
        handle = self.pool.get()
        item = self.item_of(handle)
        if idle:
            assert item == idle[-1], "not the one that was used last"
            self.idle.pop()
            self.reused += 1
        else:
            self.made += 1
        assert item not in [lent.item for lent in self.own], "lent twice"
        self.lent.append(Lent(handle, item, plain=False))

    @precondition(lambda self: self.lent)
    @rule(data=st.data())
    def close_one(self, data: st.DataObject) -> None:
        lent = data.draw(st.sampled_from(self.lent))
        if not lent.handles:
            return
        handle = lent.handles.pop()
        last = not lent.handles and not lent.views
        if data.draw(st.booleans()):
            assert handle.close() is last
        else:
            assert self.pool.put(handle) is last
        self.given_back.append(handle)
        self.let_go(lent)

    @precondition(lambda self: self.lent)
    @rule(data=st.data())
    def share(self, data: st.DataObject) -> None:
        lent = data.draw(st.sampled_from(self.lent))
        if lent.handles:
            lent.handles.append(lent.handles[0].share())

    @precondition(lambda self: self.lent)
    @rule(data=st.data())
    def hold(self, data: st.DataObject) -> None:
        lent = data.draw(st.sampled_from(self.lent))
        if lent.handles:
            handle = lent.handles[0]
            lent.views.append(handle.view()[1:] if isinstance(self.pool, BufferPool) else handle.lease())  # type: ignore[call-arg]

    @precondition(lambda self: self.lent)
    @rule(data=st.data())
    def let_a_view_go(self, data: st.DataObject) -> None:
        lent = data.draw(st.sampled_from(self.lent))
        if lent.views:
            lent.views.pop()
            self.let_go(lent)
            self.manager._machinery.tend()

    @precondition(lambda self: self.given_back)
    @rule(data=st.data())
    def give_back_again(self, data: st.DataObject) -> None:
        with pytest.raises((ReturnedTwiceError, NotLentError)):
            self.pool.put(data.draw(st.sampled_from(self.given_back)))

    @rule(keep=st.integers(0, 3))
    def trim(self, keep: int) -> None:
        gone = max(0, len(self.idle) - keep)
        assert bool(self.pool.trim(keep)) is bool(gone)
        del self.idle[:gone]

    @rule(limit=st.integers(1, 5))
    def resize(self, limit: int) -> None:
        if self.closed:
            return
        self.pool.resize(**{"count" if isinstance(self.pool, BufferPool) else "size": limit})
        self.limit = limit
        too_many = max(0, len(self.own) + len(self.idle) - limit)
        del self.idle[len(self.idle) - min(too_many, len(self.idle)) :]

    @precondition(lambda self: self.made + self.plain > 5)
    @rule()
    def close_the_pool(self) -> None:
        report = self.pool.close()
        assert len(report.missing) == len(self.lent)
        self.closed = True
        self.idle = []

    # -- what is always true ---------------------------------------------------------------------------------

    @invariant()
    def the_figures_are_those_of_the_model(self) -> None:
        if not self.limit:
            return
        stats = self.pool.stats()
        assert stats.items == {"idle": len(self.idle), "in_use": len(self.lent)}
        assert stats.items_limit == self.limit
        assert stats.results["created"] == self.made
        assert stats.results["reused"] == self.reused
        assert stats.results["fallback"] == self.plain
        assert stats.results["refused"] == self.refused
        assert stats.results["closed"] == self.after
        assert len(self.pool.loans()) == len(self.lent)

    def teardown(self) -> None:
        for lent in self.lent:
            lent.views.clear()
            for handle in lent.handles:
                handle.close()
        if self.limit:
            self.pool.close()
            eventually(lambda: self.manager.stats().active_objects == 0)
        self.manager.close()


class ObjectPoolModel(PoolModel):
    @initialize(size=st.integers(1, 4), fallback=st.booleans(), reset=st.booleans())
    def make(self, size: int, fallback: bool, reset: bool) -> None:
        self.fallback = fallback
        self.limit = size
        self.pool = ObjectPool(
            self.manager,
            Native,
            size=size,
            timeout=0,
            exhausted="fallback" if fallback else "refuse",
            reset=(lambda native: None) if reset else None,
            destroy=Native.free,
        )


class BufferPoolModel(PoolModel):
    still_serves = True

    @initialize(
        count=st.integers(1, 4), exhausted=st.sampled_from(["fallback", "refuse"]), poison=st.booleans()
    )
    def make(self, count: int, exhausted: str, poison: bool) -> None:
        self.fallback = exhausted == "fallback"
        self.limit = count
        self.pool = BufferPool(
            self.manager, 5000, count, exhausted=exhausted, poison=0xA5 if poison else None
        )


TestObjectPool = pytest.mark.filterwarnings("ignore::ResourceWarning")(ObjectPoolModel.TestCase)
TestObjectPool.settings = LOOSE
TestBufferPool = pytest.mark.filterwarnings("ignore::ResourceWarning")(BufferPoolModel.TestCase)
TestBufferPool.settings = LOOSE
