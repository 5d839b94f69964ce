"""The core against a small reference model, step by step, in whatever order Hypothesis comes up with.

The model knows nothing of pins, cells and tickets: an object has open shares, holders, perhaps a parent, and
a place. It is due when it is shut and nobody holds it, and released as soon as its place runs. After every
step model and library must agree on every object, every handle and every figure.
"""

from __future__ import annotations

import ctypes
import gc
from collections import Counter
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lifecycle import (
    ANY_THREAD,
    BACKGROUND,
    AccessPanicError,
    AccessRefusedError,
    Handle,
    HeldError,
    LifecycleError,
    ReleaseQueue,
    SafetyConfig,
    SafetyManager,
)
from lifecycle._core import runtime
from lifecycle.errors import LimitError
from tests.core.adversary import STORM, assert_adds_up
from tests.support import eventually

CONFIG = SafetyConfig(leak_level="off", finalizer_timeout=60.0, shutdown_timeout=60.0)
LIMIT = 4
"""How many objects of the type «limited» may be unreleased."""
RUNS = settings(
    max_examples=int(15 * STORM),
    stateful_step_count=30,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)


class Native:
    """Counts its releases."""

    def __init__(self) -> None:
        self.memory = bytearray(8)
        self.released = 0

    def free(self) -> None:
        """The release."""
        self.released += 1

    def address(self) -> int:
        return ctypes.addressof((ctypes.c_char * 8).from_buffer(self.memory))


@attrs.define(eq=False)
class Model:
    """What is known of one object."""

    id: int
    native: Native
    place: str
    type_name: str
    parent: Model | None
    shares: int = 1
    holders: int = 0  # leases and views
    children: int = 0  # that have not ended
    fences: int = 0  # that have not signalled
    shut: str = ""  # by what; empty while the door is open
    ended: str = ""

    @property
    def held(self) -> bool:
        return bool(self.holders or self.children)

    @property
    def waits(self) -> bool:
        """Whether it is not released at once when it is shut."""
        return self.held or bool(self.fences)

    def end(self, how: str) -> None:
        """It ends, and lets its parent go."""
        self.ended = how
        if self.parent is not None:
            self.parent.children -= 1


@attrs.define(eq=False)
class Share:
    """A handle, and whether it is still open; `weak` may outlive it."""

    handle: Handle[Native]
    model: Model
    open: bool = True


def outcome(action: Callable[[], Any]) -> Any:
    """What `action` returns, or the type of what it raises: an exception that is kept would keep what its
    frames keep."""
    try:
        return action()
    except (LifecycleError, ZeroDivisionError) as error:
        return type(error)


index = st.integers(0, 10_000)
places = st.sampled_from(["any_thread", "queue", "background"])


class Ownership(RuleBasedStateMachine):
    """Handles, shares, weak handles, leases, views, exclusive access, parents, transfer, panics and limits."""

    config = CONFIG

    def __init__(self) -> None:
        super().__init__()
        self.manager = SafetyManager(self.config, name="modelled")
        self.manager.policy("limited", max_live=LIMIT)
        self.queue = ReleaseQueue("modelled", thread="current")
        self.where: dict[str, Any] = {"any_thread": ANY_THREAD, "queue": self.queue, "background": BACKGROUND}
        self.objects: list[Model] = []
        self.shares: list[Share] = []
        self.weak: list[tuple[Any, Model]] = []
        self.held: list[tuple[Any, Model]] = []
        self.refused = 0  # registrations, by the limit

    # -- choosing

    def share_at(self, at: int) -> Share:
        return self.shares[at % len(self.shares)]

    def settle(self) -> None:
        """Let everything that is due be released, in the model and in fact."""
        while due := [o for o in self.objects if not o.ended and o.shut and not o.waits]:
            for one in due:
                one.end("released")

        def over() -> bool:
            self.queue.drain()
            self.manager.register(object(), "flush", release_on=ANY_THREAD).close()
            return all(o.native.released == 1 for o in self.objects if o.ended == "released")

        if not over():
            if runtime.free_threaded:
                gc.collect()
            eventually(over)

    def shut_for_all(self, model: Model, by: str) -> None:
        model.shut = model.shut or by

    # -- rules

    @rule(place=places, limited=st.booleans(), native=st.booleans(), parent=st.none() | index)
    def register(self, place: str, limited: bool, native: bool, parent: int | None) -> None:
        above = self.share_at(parent) if parent is not None and self.shares else None
        made = Native()
        type_name = "limited" if limited else "plain"
        result = outcome(
            lambda: self.manager.register(
                made,
                type_name,
                release=Native.free,
                release_on=self.where[place],
                native=len(self.objects) if native else None,
                parent=above.handle if above is not None else None,
            )
        )
        if above is not None and not (above.open and not above.model.shut):
            assert result is AccessRefusedError or issubclass(result, AccessRefusedError)
        elif limited and sum(not o.ended for o in self.objects if o.type_name == "limited") >= LIMIT:
            assert result is LimitError
            assert made.released == 0
        else:
            model = Model(result.id, made, place, type_name, above.model if above is not None else None)
            if above is not None:
                above.model.children += 1
            self.objects.append(model)
            self.shares.append(Share(result, model))

    @precondition(lambda self: self.shares)
    @rule(at=index)
    def share(self, at: int) -> None:
        share = self.share_at(at)
        result = outcome(share.handle.share)
        if share.open and not share.model.shut:
            share.model.shares += 1
            self.shares.append(Share(result, share.model))
        else:
            assert issubclass(result, AccessRefusedError)

    @precondition(lambda self: self.shares)
    @rule(at=index)
    def make_weak(self, at: int) -> None:
        share = self.share_at(at)
        self.weak.append((share.handle.weak(), share.model))

    @precondition(lambda self: self.weak)
    @rule(at=index)
    def ask_weak(self, at: int) -> None:
        weak, model = self.weak[at % len(self.weak)]
        result = weak()
        if model.shut:
            assert result is None
        else:
            model.shares += 1
            self.shares.append(Share(result, model))

    @precondition(lambda self: self.shares)
    @rule(at=index, view=st.booleans())
    def hold(self, at: int, view: bool) -> None:
        share = self.share_at(at)
        if view:
            result = outcome(lambda: share.handle.view(share.model.native.address(), 8)[2:4])
        else:
            result = outcome(share.handle.lease)
        if share.open and not share.model.shut:
            share.model.holders += 1
            self.held.append((result, share.model))
        else:
            assert issubclass(result, AccessRefusedError)

    @precondition(lambda self: self.held)
    @rule(at=index)
    def let_go(self, at: int) -> None:
        holder, model = self.held.pop(at % len(self.held))
        model.holders -= 1
        if not isinstance(holder, memoryview):
            holder.close()
        del holder
        self.settle()

    @precondition(lambda self: self.shares)
    @rule(at=index, refuse=st.booleans())
    def close(self, at: int, refuse: bool) -> None:
        share = self.share_at(at)
        model = share.model
        result = outcome(lambda: share.handle.close(held="refuse") if refuse else share.handle.close())
        if share.open and refuse and not model.shut and (model.waits or model.shares > 1):
            assert result is HeldError
            return
        if share.open:
            share.open = False
            model.shares -= 1
            if model.shares == 0:
                self.shut_for_all(model, "close")
        if result is HeldError:  # it was shut already, and is held: that share is given back all the same
            assert refuse
            assert model.waits
        else:
            assert result is (
                model.ended == "released" or (bool(model.shut) and not model.waits and not model.ended)
            )
        self.settle()

    @precondition(lambda self: self.shares)
    @rule(at=index)
    def drop(self, at: int) -> None:
        share = self.shares.pop(at % len(self.shares))
        if share.open and share.model.shares > 1 and not share.model.shut:
            self.shares.append(
                share
            )  # a share that dies unclosed counts on, for detach() and close(held="refuse")
            return
        if share.open:
            share.model.shares -= 1
            # Only `close` gives a share back by itself: a door that was shared falls shut with its last
            # handle.
            if not any(other.open and other.model is share.model for other in self.shares):
                self.shut_for_all(share.model, "drop")
        del share
        self.settle()

    @precondition(lambda self: self.objects)
    @rule(at=index, how=st.sampled_from(["unregister", "invalidate"]))
    def shut(self, at: int, how: str) -> None:
        model = self.objects[at % len(self.objects)]
        if how == "unregister":
            result = self.manager.unregister(model.id)
            assert result is (model.ended == "released" or (not model.waits and not model.ended))
        else:
            assert self.manager.invalidate(model.id, "because") is (not model.shut)
        self.shut_for_all(model, how)
        self.settle()

    @precondition(lambda self: self.shares)
    @rule(at=index, by_id=st.booleans(), what=st.sampled_from(["fine", "error", "panic"]))
    def access(self, at: int, by_id: bool, what: str) -> None:
        share = self.share_at(at)

        def use(native: Native) -> int:
            assert native.released == 0
            if what != "fine":
                raise ZeroDivisionError
            return 7

        errors = (ZeroDivisionError,) if what == "error" else ()
        target = share.model.id if by_id else share.handle
        result = outcome(lambda: self.manager.safe_access(target, use, errors=errors))
        if share.model.shut or not (share.open or by_id):
            assert issubclass(result, AccessRefusedError)
        elif what == "panic":
            assert result is AccessPanicError
            self.shut_for_all(share.model, "panic")
            self.settle()
        else:
            assert result == (7 if what == "fine" else ZeroDivisionError)

    @precondition(lambda self: self.shares)
    @rule(at=index)
    def exclusively(self, at: int) -> None:
        share = self.share_at(at)
        model = share.model
        seen: list[Any] = []

        def use() -> str:
            with share.handle.exclusive(timeout=0) as native:
                assert native is model.native
                seen.append(outcome(share.handle.lease))
                return "alone"

        result = outcome(use)
        if not share.open or model.shut:
            assert issubclass(result, AccessRefusedError)
        elif model.held:
            assert issubclass(result, LifecycleError)
            assert not issubclass(result, AccessRefusedError)
        else:
            assert result == "alone"
            assert issubclass(seen[0], LifecycleError)

    @precondition(lambda self: self.shares)
    @rule(at=index)
    def detach(self, at: int) -> None:
        share = self.share_at(at)
        model = share.model
        result = outcome(share.handle.detach)
        if model.shut or not share.open:
            assert issubclass(result, LifecycleError)
        elif model.waits or model.shares > 1:
            assert result is HeldError
        else:
            assert result is model.native
            model.shares = 0
            share.open = False
            self.shut_for_all(model, "detach")
            model.end("detached")
            self.settle()

    # -- what must be true after each

    @invariant()
    def objects_agree(self) -> None:
        for model in self.objects:
            assert model.native.released == (model.ended == "released"), model
            assert self.manager.is_valid(model.id) is (not model.shut), model

    @invariant()
    def handles_agree(self) -> None:
        for share in self.shares:
            model = share.model
            assert share.handle.valid is (share.open and not model.shut), model
            state = str(share.handle.state)
            if model.ended:
                assert state == model.ended, model
            elif not model.shut:
                assert state == "valid", model
            else:
                assert state == ("invalid" if model.shut in ("invalidate", "panic") else "closing"), model

    @invariant()
    def figures_agree(self) -> None:
        stats = assert_adds_up(self.manager)
        for name in ("plain", "limited"):
            ours = [o for o in self.objects if o.type_name == name]
            kind = stats.types.get(name)
            if kind is None:
                assert not ours
                continue
            assert kind.registered == len(ours)
            assert kind.live == sum(not o.ended for o in ours)
            assert kind.ended["released"] == sum(o.ended == "released" for o in ours)
            assert kind.ended["detached"] == sum(o.ended == "detached" for o in ours)
            assert kind.states["valid"] == sum(not o.shut for o in ours)
            assert {by: number for by, number in kind.closed.items() if number} == Counter(
                o.shut for o in ours if o.shut
            ), "what shut them"

    def teardown(self) -> None:
        for model in self.objects:
            self.shut_for_all(model, "exit")
        open_ones = [o for o in self.objects if not o.ended]
        report = self.manager.close()
        assert report.released + len(report.leaked) == len(open_ones), report
        self.held.clear()
        self.shares.clear()
        self.settle_closed()

    def settle_closed(self) -> None:
        """After the end: what was held is released when its last holder has gone."""

        def over() -> bool:
            gc.collect()
            self.queue.drain()
            return all(o.native.released == (o.ended != "detached") for o in self.objects)

        eventually(over)
        assert self.manager.stats().active_objects == 0


class Queue(RuleBasedStateMachine):
    """A queue that somebody else drains: order, limits, losses; a child's end posts its parent's ticket."""

    def __init__(self) -> None:
        super().__init__()
        self.manager = SafetyManager(CONFIG, name="queued")
        self.queue = ReleaseQueue("queued")
        self.objects: list[Model] = []
        self.handles: list[tuple[Handle[Native], Model]] = []
        self.leases: list[tuple[Any, Model]] = []
        self.waiting: list[Model] = []  # in the order in which they fell due
        self.ran: list[Native] = []
        self.expected: list[Native] = []
        self.orphaned = 0

    def due(self, model: Model) -> None:
        if model.shut and not model.held and not model.ended and model not in self.waiting:
            self.waiting.append(model)

    @rule(parent=st.none() | index)
    def register(self, parent: int | None) -> None:
        above = self.handles[parent % len(self.handles)] if parent is not None and self.handles else None
        native = Native()
        handle = self.manager.register(
            native,
            release=self.ran.append,
            release_on=self.queue,
            parent=above[0] if above is not None else None,
        )
        model = Model(handle.id, native, "queue", "", above[1] if above is not None else None)
        if above is not None:
            above[1].children += 1
        self.objects.append(model)
        self.handles.append((handle, model))

    @precondition(lambda self: self.handles)
    @rule(at=index, drop=st.booleans())
    def close(self, at: int, drop: bool) -> None:
        handle, model = self.handles.pop(at % len(self.handles))
        if not drop:
            assert handle.close() is False, "closing only posts"
        del handle
        model.shut = "close"
        self.due(model)

    @precondition(lambda self: self.handles)
    @rule(at=index)
    def lease(self, at: int) -> None:
        handle, model = self.handles[at % len(self.handles)]
        self.leases.append((handle.lease(), model))
        model.holders += 1

    @precondition(lambda self: self.leases)
    @rule(at=index)
    def end_lease(self, at: int) -> None:
        lease, model = self.leases.pop(at % len(self.leases))
        lease.close()
        model.holders -= 1
        self.due(model)

    @rule(limit=st.none() | st.integers(1, 5))
    def drain(self, limit: int | None) -> None:
        ran = 0
        while self.waiting and (limit is None or ran < limit):
            model = self.waiting.pop(0)
            model.end("released")
            self.expected.append(model.native)
            ran += 1
            if model.parent is not None:
                self.due(model.parent)
        assert self.queue.drain(limit) == ran

    @rule()
    def lost(self) -> None:
        alive = [model for model in self.objects if not model.ended]
        assert self.queue.lost("its world is gone") == len(alive)
        self.orphaned += len(alive)
        for model in alive:
            model.ended = "orphaned"
        self.waiting.clear()
        self.handles = [(handle, model) for handle, model in self.handles if not model.ended]

    @invariant()
    def agree(self) -> None:
        if runtime.free_threaded and self.queue.backlog != len(self.waiting):
            gc.collect()
        assert self.queue.backlog == len(self.waiting)
        assert self.ran == self.expected, "in the order in which they fell due"
        assert self.queue.orphaned == self.orphaned
        stats = assert_adds_up(self.manager)
        assert stats.total_objects == len(self.objects)
        assert stats.released == len(self.expected)
        assert stats.orphaned == self.orphaned
        assert stats.active_objects == sum(not model.ended for model in self.objects)

    def teardown(self) -> None:
        self.leases.clear()
        self.handles.clear()
        for _ in range(len(self.objects) + 1):
            self.queue.drain()
        if runtime.free_threaded:
            gc.collect()
            self.queue.drain()
        report = self.manager.close()
        assert report.ok, report
        assert self.manager.stats().active_objects == 0
        assert len(self.ran) == len({id(native) for native in self.ran}) == len(self.objects) - self.orphaned


TestOwnership = pytest.mark.timeout(600)(Ownership.TestCase)
TestOwnership.settings = RUNS
TestQueue = pytest.mark.timeout(600)(Queue.TestCase)
TestQueue.settings = RUNS
