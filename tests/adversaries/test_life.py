"""The core's model (`tests/core/test_model.py`), widened to everything that a life may bring.

To handles, shares, leases, views, parents and limits come: objects that the manager keeps or only observes,
safe finalizers, fences, factories, guards, policies, lost queues; and garbage whose ``__del__`` uses, closes
or saves its handle, collections on other threads, forks, calls near the recursion limit, exceptions raised in
a thread from outside. After every step what can be asked of each object agrees, what was seen follows the
table of states, and figures and leak reports are exact.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from lifecycle import ANY_THREAD, BACKGROUND, CleanupGuard, Handle, LifecycleError, SafetyConfig
from lifecycle.errors import LimitError
from lifecycle.states import ENDED, ObjectState
from tests.adversaries.meddling import in_a_forked_child
from tests.adversaries.stage import REACHABLE, granted
from tests.core.adversary import STORM
from tests.core.test_model import Model, Native, Ownership, Share, index, outcome, places
from tests.support import eventually

MADE = 2
"""How many unreleased objects the factory makes."""
TOP = 40
"""Frames before the recursion limit within which calls are tried."""

SHRINK = bool(os.environ.get("LIFECYCLE_SHRINK"))
"""Whether a life that fails is made as short as can be."""

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


class Switch:
    """A fence, and which objects wait for it."""

    def __init__(self) -> None:
        self.done = False
        self.models: list[Model] = []

    def signalled(self) -> bool:
        return self.done


class Target:
    """What is observed, or has a safe finalizer."""

    def __init__(self) -> None:
        self.ended = False


@attrs.define(eq=False)
class Watched:
    """An observed object: whether its owner has it still, and whether it was closed here."""

    handle: Handle[Target]
    target: Target | None
    closed: bool = False

    @property
    def valid(self) -> bool:
        return self.target is not None and not self.target.ended and not self.closed


@attrs.define(eq=False)
class Finalized:
    """A safe finalizer, and how often it ran."""

    finalizer: Any
    target: Target | None
    ran: list[int]
    cancelled: bool = False


class Garbage:
    """What only the collector finds."""

    def __init__(self, deed: Callable[[], object]) -> None:
        self.deed = deed
        self.me = self

    def __del__(self) -> None:
        self.deed()


class Struck(BaseException):
    """Raised in a thread from outside."""


def at_depth(near: int, act: Callable[[], object]) -> object:
    """Call `act` with `near` frames left before the recursion limit."""

    def descend(left: int) -> object:
        return descend(left - 1) if left else act()

    depth, frame = 0, sys._getframe()
    while frame is not None:
        depth, frame = depth + 1, frame.f_back  # type: ignore[assignment]
    return descend(max(0, sys.getrecursionlimit() - depth - near))


class Life(Ownership):
    """Everything that may happen to an object."""

    config = SafetyConfig(finalizer_timeout=60.0, shutdown_timeout=60.0)

    def __init__(self) -> None:
        super().__init__()
        self.watched: list[Watched] = []
        self.finalized: list[Finalized] = []
        self.fences: list[Switch] = []
        self.seen: dict[int, ObjectState] = {}
        self.saved: list[Share] = []
        self.told: list[Any] = []
        self.manager.add_leak_hook(self.told.append)
        self.make = self.manager.factory(
            Native, "made", release=Native.free, release_on=ANY_THREAD, limit=MADE
        )

    def due(self, model: Model) -> bool:
        return bool(model.shut) and not model.held and not model.ended

    def given_back(self, share: Share, by: str) -> None:
        """In the model: a share was closed, or died as the last."""
        if share.open:
            share.open = False
            share.model.shares -= 1
            if share.model.shares == 0:
                self.shut_for_all(share.model, by)

    def may_die(self, share: Share) -> bool:
        """Whether the model can tell what the death of this share does: one of several that dies unclosed
        counts on."""
        return not share.open or bool(share.model.shut) or share.model.shares == 1

    def state_of(self, model: Model) -> str:
        """Its state, as the manager tells it; empty when it is not known any more."""
        return next((info.state for info in self.manager.objects() if info.id == model.id), "")

    # -- other ways to be there

    @rule(place=places)
    def keep(self, place: str) -> None:
        made = Native()
        handle = self.manager.register(
            made, "plain", release=Native.free, release_on=self.where[place], keep=True
        )
        model = Model(handle.id, made, place, "plain", None)
        self.objects.append(model)
        self.weak.append((handle.weak(), model))

    @rule()
    def make_one(self) -> None:
        result = outcome(self.make)
        alive = [o for o in self.objects if o.type_name == "made" and not o.ended]
        if len(alive) >= MADE:
            assert result is LimitError
            return
        model = Model(result.id, result._record.obj, "any_thread", "made", None)
        self.objects.append(model)
        self.shares.append(Share(result, model))

    @rule()
    def observe(self) -> None:
        target = Target()
        self.watched.append(
            Watched(self.manager.observe(target, "observed", alive=lambda target: not target.ended), target)
        )

    @precondition(lambda self: self.watched)
    @rule(at=index, how=st.sampled_from(["let go", "end", "close", "look"]))
    def end_observed(self, at: int, how: str) -> None:
        watched = self.watched[at % len(self.watched)]
        if how == "let go":
            watched.target = None
            gc.collect()
        elif how == "end" and watched.target is not None:
            watched.target.ended = True
        elif how == "close":
            watched.closed = True
            watched.handle.close()
        assert self.manager.is_valid(watched.handle.id) is watched.valid
        assert self.manager.is_valid(watched.handle) is watched.valid
        assert watched.handle.valid is watched.valid
        assert (watched.handle.state is ObjectState.VALID) is watched.valid
        assert granted(lambda: watched.handle.lease().close()) is watched.valid

    # -- actions

    @rule()
    def finalize(self) -> None:
        target, ran = Target(), list[int]()
        self.finalized.append(Finalized(self.manager.set_safe_finalizer(target, ran.append, 1), target, ran))

    @precondition(lambda self: self.finalized)
    @rule(at=index, cancel=st.booleans())
    def end_finalized(self, at: int, cancel: bool) -> None:
        one = self.finalized[at % len(self.finalized)]
        if cancel:
            due = one.target is None or one.cancelled
            assert one.finalizer.cancel() is not due
            one.cancelled = one.cancelled or not due
        else:
            one.target = None
            gc.collect()
        if one.target is None and not one.cancelled:
            eventually(lambda: one.finalizer.state == "released")
        assert one.ran == ([1] if one.target is None and not one.cancelled else [])

    @precondition(lambda self: self.shares)
    @rule(at=index, how=st.sampled_from(["end", "close", "defuse"]))
    def guard(self, at: int, how: str) -> None:
        share = self.share_at(at)
        with CleanupGuard(share.handle.close) as guard:
            if how == "close":
                assert guard.close()
            elif how == "defuse":
                assert guard.defuse()
        assert not guard.armed
        if how != "defuse":
            self.given_back(share, "close")
        self.settle()

    @rule(how=st.sampled_from(["limits", "none", "validator"]))
    def policies(self, how: str) -> None:
        if how == "limits":
            self.manager.policy("plain", max_live=1000, max_bytes=1_000_000, max_age=1000.0)
        elif how == "validator":
            self.manager.policy("plain", validate=lambda native: native.released == 0)
        else:
            self.manager.policy("plain", max_live=None, max_bytes=None, max_age=None, validate=None)

    # -- fences

    @precondition(lambda self: self.shares)
    @rule(at=index, closing=st.booleans())
    def release_after(self, at: int, closing: bool) -> None:
        share = self.share_at(at)
        model = share.model
        if not share.open or model.shut:
            assert closing or issubclass(
                outcome(lambda: share.handle.release_after(Switch())), LifecycleError
            )
            return
        fence = Switch()
        if closing:
            share.handle.close(after=fence, timeout=0)
            self.given_back(share, "close")
        else:
            share.handle.release_after(fence)
        fence.models.append(model)
        model.fences += 1
        self.fences.append(fence)
        self.settle()

    @precondition(lambda self: self.fences)
    @rule(at=index)
    def signal(self, at: int) -> None:
        fence = self.fences.pop(at % len(self.fences))
        fence.done = True
        for model in fence.models:
            model.fences -= 1
        self.settle()

    # -- the collector

    @precondition(lambda self: self.shares)
    @rule(
        at=index,
        deed=st.sampled_from(["nothing", "close", "use and close", "share and close", "save"]),
        elsewhere=st.booleans(),
    )
    def garbage(self, at: int, deed: str, elsewhere: bool) -> None:
        """A share is part of a cycle that nobody uses any more."""
        share = self.shares[at % len(self.shares)]
        if not self.may_die(share):
            return
        self.shares.remove(share)
        handle, model, usable = share.handle, share.model, share.open and not share.model.shut
        share.handle = None  # type: ignore[assignment]
        box, saved = [handle], list[Handle[Native]]()
        wrong: list[str] = []

        def last_deed() -> None:
            mine = box.pop()
            if deed in ("use and close", "share and close"):
                got = granted(
                    lambda: mine.lease().close() if deed == "use and close" else mine.share().close()
                )
                if got and model.native.released:
                    wrong.append("used after its release")
                if mine.valid is not (mine.state is ObjectState.VALID) and usable:
                    wrong.append(f"valid is {mine.valid}, the state {mine.state}")
                if usable and self.manager.is_valid(model.id) is not mine.valid:
                    wrong.append(f"is_valid(id) is not {mine.valid}")
            if deed == "save":
                saved.append(mine)
            elif deed != "nothing":
                mine.close(timeout=0)

        Garbage(last_deed)
        del last_deed, handle
        if elsewhere:
            thread = threading.Thread(target=gc.collect)
            thread.start()
            thread.join(60)
        else:
            gc.collect()
        assert not wrong, wrong
        if deed == "save":
            share.handle = saved.pop()
            self.shares.append(share)
        elif share.open:
            self.given_back(share, "drop" if deed == "nothing" else "close")
        self.settle()

    # -- the recursion limit, and what strikes from outside

    @precondition(lambda self: self.shares)
    @rule(at=index, near=st.integers(1, TOP), what=st.sampled_from(["close", "drop", "lease", "share"]))
    def near_the_limit(self, at: int, near: int, what: str) -> None:
        share = self.share_at(at)
        handle = share.handle
        if what == "drop":
            if not self.may_die(share):
                return
            self.shares.remove(share)
            share.handle = None  # type: ignore[assignment]
            box = [handle]
            del handle
            try:
                at_depth(near, box.clear)
            except RecursionError:
                box.clear()
            self.given_back(share, "drop")
            if share.model.shut:
                # Where not even the callback of its death could be called, the keeper finds it within a second.
                eventually(lambda: self.state_of(share.model) != "valid")
        else:
            acts: dict[str, Callable[[], object]] = {
                "close": lambda: handle.close(timeout=0),
                "lease": lambda: handle.lease().close(),
                "share": lambda: made.append(handle.share()),
            }
            made: list[Handle[Native]] = []
            try:
                outcome(lambda: at_depth(near, acts[what]))
            except RecursionError:
                pass
            while made:
                made.pop().close()
            del acts
            if what == "close":
                handle.close(timeout=0)
                self.given_back(share, "close")
            del handle
        gc.collect()
        self.settle()

    @precondition(lambda self: self.shares)
    @rule(at=index, what=st.sampled_from(["lease", "close", "access"]))
    def strike(self, at: int, what: str) -> None:
        """An exception is raised in a thread that uses a share, which holds nothing afterwards. (A share that
        it had just been given would be lost with it, unclosed.)"""
        share = self.share_at(at)
        handle = share.handle
        begun = threading.Event()

        def use() -> None:
            begun.set()
            for _ in range(300):
                if what == "lease":
                    granted(lambda: handle.lease().close())
                elif what == "access":
                    granted(lambda: self.manager.safe_access(handle, id))
                else:
                    handle.close(timeout=0)

        def work() -> None:
            try:
                use()
            except Struck:
                return

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        begun.wait(60)
        raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
        raise_in(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Struck))
        thread.join(60)
        assert not thread.is_alive()
        if what == "close":
            handle.close(timeout=0)
            self.given_back(share, "close")
        del handle, use, work, thread
        self.settle()

    # -- processes and places

    @precondition(lambda self: self.objects and hasattr(os, "fork"))
    @rule()
    def fork(self) -> None:
        before = [o.native.released for o in self.objects]

        def check() -> None:
            self.in_the_child()
            assert [o.native.released for o in self.objects] == before

        assert not in_a_forked_child(check)

    def in_the_child(self) -> None:
        for share in self.shares:
            assert not share.handle.valid
            assert share.handle.state in ENDED
            share.handle.close(timeout=0)
        for place in (ANY_THREAD, BACKGROUND):
            native = Native()
            assert self.manager.register(native, "plain", release=Native.free, release_on=place).close()
            assert native.released == 1

    @precondition(lambda self: not any(o.held for o in self.objects if o.place == "queue" and not o.ended))
    @rule()
    def lose(self) -> None:
        """The queue's world is gone. (Not while somebody holds an object of it: that is
        `tests/core/test_places.py`.)"""
        alive = [o for o in self.objects if o.place == "queue" and not o.ended]
        assert self.queue.lost("its world is gone") == len(alive)
        for model in alive:
            self.shut_for_all(model, "orphaned")
            model.end("orphaned")
        self.settle()

    # -- what must be true after each

    @invariant()
    def handles_agree(self) -> None:
        for share in self.shares:
            model, handle = share.model, share.handle
            assert handle.valid is (share.open and not model.shut), model
            assert self.manager.is_valid(handle) is handle.valid, model
            state = handle.state
            if model.ended:
                assert state == model.ended, model
            elif not model.shut:
                assert state == "valid", model
            elif self.due(model):
                assert state == "due", model
            else:
                assert state == ("invalid" if model.shut in ("invalidate", "panic") else "closing"), model
            before = self.seen.setdefault(model.id, state)
            assert state is before or state in REACHABLE[before], f"{before} -> {state}"
            self.seen[model.id] = state

    @invariant()
    def accesses_agree(self) -> None:
        for model in self.objects:
            got = granted(lambda: self.manager.safe_access(model.id, id))
            assert got is (not model.shut), model

    @invariant()
    def leaks_are_exact(self) -> None:
        stats = self.manager.stats()
        assert stats.leaks == sum(o.shut == "drop" for o in self.objects)

    @invariant()
    def figures_agree(self) -> None:
        orphaned = [o for o in self.objects if o.shut == "orphaned"]
        stats = self.manager.stats()
        for name in ("plain", "limited", "made"):
            ours = [o for o in self.objects if o.type_name == name]
            kind = stats.types.get(name)
            if kind is None:
                assert not ours
                continue
            assert kind.registered == len(ours)
            assert kind.live == sum(not o.ended for o in ours)
            for end in ("released", "detached", "orphaned"):
                assert kind.ended[end] == sum(o.ended == end for o in ours), end
            assert kind.ended["failed"] == kind.ended["stuck"] == 0
            assert kind.states["valid"] == sum(not o.shut for o in ours)
        assert stats.orphaned == len([o for o in self.objects if o.ended == "orphaned"]) >= len(orphaned)

    def teardown(self) -> None:
        while self.fences:
            self.signal(0)
        self.watched.clear()
        targets = [one for one in self.finalized if one.target is not None and not one.cancelled]
        for model in self.objects:
            self.shut_for_all(model, "exit")
        report = self.manager.close()
        assert not report.failed, report
        assert not report.stuck, report
        self.held.clear()
        self.shares.clear()

        def over() -> bool:
            gc.collect()
            self.queue.drain()
            return all(o.native.released == (o.ended not in ("detached", "orphaned")) for o in self.objects)

        eventually(over)
        eventually(lambda: self.manager.stats().active_objects == 0)
        assert all(one.ran == [1] for one in targets)
        told = [event for event in self.told if event.kind == "leak"]
        assert sum(event.fields["count"] for event in told) <= self.manager.stats().leaks


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=int(12 * STORM),
    stateful_step_count=25,
    deadline=None,
    database=None,
    print_blob=True,
    # Whoever wants the shortest failing life asks for it: many a fault of the core shows as a wait in vain,
    # again for each try.
    phases=(Phase.generate, Phase.shrink) if SHRINK else (Phase.generate,),
    suppress_health_check=list(HealthCheck),
)
