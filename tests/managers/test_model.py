"""Both facades against small models: a dict of what is live."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from lifecycle import (
    ANY_THREAD,
    AccessPanicError,
    AccessRefusedError,
    MemoryConfig,
    MemoryManager,
    ObjectLifecycleManager,
    RegistrationError,
    SafetyConfig,
    SafetyManager,
)
from lifecycle.errors import BudgetError
from tests.core.natives import Native

TYPES = st.sampled_from(["frame", "texture"])
NAMES = st.sampled_from(["a", "b", None])


class MemoryMachine(RuleBasedStateMachine):
    """Tracks, holds, releases, panics and limits; the model is a dict of sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.manager = SafetyManager(SafetyConfig(leak_level="off"), name="model")
        self.memory = MemoryManager(self.manager, MemoryConfig(max_bytes=500, high_water=1.0))
        self.live: dict[int, tuple[str, int, Native]] = {}
        self.held: dict[int, Any] = {}
        self.shut: set[int] = set()
        self.limits: dict[str, int | None] = {}
        self.peak = 0

    def _of(self, kind: str) -> int:
        return sum(size for name, size, _ in self.live.values() if name == kind)

    @rule(kind=TYPES, size=st.integers(0, 200))
    def track(self, kind: str, size: int) -> None:
        total = sum(size for _, size, _ in self.live.values())
        limit = self.limits.get(kind)
        fits = total + size <= 500 and (limit is None or self._of(kind) + size <= limit)
        native = Native()
        try:
            id = self.memory.track_object(native, kind, size, release=Native.free, release_on=ANY_THREAD)
        except BudgetError:
            assert not fits
            return
        assert fits
        self.live[id] = (kind, size, native)
        self.peak = max(self.peak, total + size)

    @rule(kind=TYPES, limit=st.one_of(st.none(), st.integers(1, 300)))
    def limit(self, kind: str, limit: int | None) -> None:
        self.memory.set_budget(kind, max_bytes=limit)
        self.limits[kind] = limit

    @rule(data=st.data())
    def hold(self, data: st.DataObject) -> None:
        free = sorted(set(self.live) - set(self.held) - self.shut)
        if free:
            id = data.draw(st.sampled_from(free))
            self.held[id] = self.manager.safe_access(id)

    @rule(data=st.data())
    def let_go(self, data: st.DataObject) -> None:
        if self.held:
            id = data.draw(st.sampled_from(sorted(self.held)))
            del self.held[id]
            self.manager._any_thread.run_some(None)
            if id in self.shut:
                self._gone(id)

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.live:
            id = data.draw(st.sampled_from(sorted(self.live)))
            assert self.memory.release_object(id) == (id not in self.held)
            self.shut.add(id)
            if id not in self.held:
                self._gone(id)

    @rule(data=st.data())
    def panic(self, data: st.DataObject) -> None:
        if self.live:
            id = data.draw(st.sampled_from(sorted(self.live)))
            try:
                self.memory.safe_object_access(id, lambda native: 1 / 0)
            except AccessPanicError:
                assert id not in self.shut
            except AccessRefusedError:
                assert id in self.shut
                return
            self.shut.add(id)
            if id not in self.held:
                self._gone(id)

    def _gone(self, id: int) -> None:
        native = self.live.pop(id)[2]
        assert native.released == 1
        self.shut.discard(id)

    @invariant()
    def figures_are_those_of_the_model(self) -> None:
        stats = self.memory.stats()
        assert stats.all.bytes == sum(size for _, size, _ in self.live.values())
        assert stats.all.objects == len(self.live) == len(self.memory)
        assert stats.all.peak_bytes == self.peak
        for kind, figures in stats.types.items():
            assert figures.bytes == self._of(kind)

    def teardown(self) -> None:
        self.held.clear()
        assert self.memory.close()
        assert self.memory.stats().all.bytes == 0
        self.manager.close()


class ObjectsMachine(RuleBasedStateMachine):
    """Registers, finds, unregisters families under names; the model is a dict of parents and names."""

    def __init__(self) -> None:
        super().__init__()
        self.manager = SafetyManager(SafetyConfig(leak_level="off"), name="model")
        self.objects = ObjectLifecycleManager(self.manager)
        self.open: dict[int, tuple[str | None, str]] = {}
        self.parents: dict[int, int] = {}  # of all that have not ended
        self.shut: dict[int, tuple[str | None, str]] = {}  # not ended: a child holds it

    @rule(name=NAMES, kind=TYPES, data=st.data())
    def register(self, name: str | None, kind: str, data: st.DataObject) -> None:
        parent = data.draw(st.sampled_from([0, *sorted(self.parents)]))
        try:
            id = self.objects.register_object(
                Native(), kind, name, release=Native.free, release_on=ANY_THREAD, parent=parent or None
            )
        except RegistrationError:
            assert parent in self.shut
            return
        assert parent not in self.shut
        self.open[id] = (name, kind)
        self.parents[id] = parent

    @rule(data=st.data())
    def unregister(self, data: st.DataObject) -> None:
        if not self.parents:
            return
        id = data.draw(st.sampled_from(sorted(self.parents)))
        ends = id not in self.parents.values()
        assert self.objects.unregister_object(id) == ends
        if id in self.open:
            self.shut[id] = self.open.pop(id)
        while id in self.shut and id not in self.parents.values():
            del self.shut[id]
            id = self.parents.pop(id)
        self.manager._any_thread.run_some(None)

    @invariant()
    def it_knows_what_the_model_knows(self) -> None:
        everything = {**self.open, **self.shut}
        assert [info.id for info in self.objects.find()] == sorted(everything)
        for name in ("a", "b"):
            expected = sorted(id for id, (known, _) in everything.items() if known == name)
            assert [info.id for info in self.objects.find(name)] == expected
        for id, parent in self.parents.items():
            assert self.objects.parent(id) == parent
            children = sorted(child for child, its in self.parents.items() if its == id)
            assert list(self.objects.children(id)) == children
            assert [str(step.state) for step in self.objects.history(id)] == (
                ["valid"] if id in self.open else ["valid", "closing"]
            )
        shown = [info.id for family in self.objects.tree() for _, info in family.walk()]
        assert sorted(shown) == sorted(everything)

    def teardown(self) -> None:
        assert self.objects.close()
        assert not self.objects._names
        assert not self.objects._children
        self.manager.close()


MemoryMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
ObjectsMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestMemory = MemoryMachine.TestCase
TestObjects = ObjectsMachine.TestCase
