"""Scenes of the low-level layer, on which adapters are built."""

from __future__ import annotations

import contextlib
import weakref
from collections import deque
from typing import Any

from lifecycle import ANY_THREAD, Handle, LifecycleError
from lifecycle.lowlevel import (
    BUCKETS,
    Claim,
    CollectorNudge,
    Export,
    HistogramCount,
    Leaving,
    Tally,
    Uncopied,
    about,
    after_fork,
    apart,
    caller,
    check_callback,
    check_facts,
    check_release,
    check_timeout,
    collect,
    describe,
    facts,
    forgets,
    held_pin,
    holders,
    is_closed,
    is_control_flow,
    is_dead,
    keep_for_ever,
    must_not_wait,
    pin,
    raw,
    recipe,
    refuse_near_limit,
    refuses,
    releasing,
    run_apart,
    snapshot,
    sweep_exports,
    taking,
    tend,
    type_name_of,
    view,
    view_of,
    weakly,
    whole,
)
from tests.adversaries.stage import Native, Stage, Table

TABLE = Table()
scene = TABLE.scene


class Part(Handle[Native]):
    """An adapter's own class of handles."""

    __slots__ = ()


def parts(stage: Stage) -> None:
    stage.props.parts = recipe(stage.manager, "native", release=Native.free, release_on=ANY_THREAD)


@scene("Recipe.register", "Recipe.__repr__", prepare=parts, callers=True)
def recipe_registers(stage: Stage) -> None:
    repr(stage.props.parts)
    stage.keep(stage.props.parts.register(stage.native(), handle=Part, native=7, size=3, name="part"))


@scene("Recipe.register", prepare=parts, callers=True)
def recipe_registers_a_child(stage: Stage) -> None:
    stage.keep(stage.props.parts.register(stage.native(), parent=stage.handle))


@scene("Recipe.register", prepare=parts, callers=True)
def recipe_registers_with_a_release_of_its_own(stage: Stage) -> None:
    stage.keep(
        stage.props.parts.register(stage.native(), release=lambda native: native.free(), site=caller())
    )


@scene("apart", "refuses", lets_go=True)
def one_consumers_share(stage: Stage) -> None:
    share = stage.keep(stage.handle.share())
    apart(share)
    with contextlib.suppress(LifecycleError):
        stage.manager.safe_access(share, lambda native: native.nothing)
    assert refuses(share.valid) in (True, False)
    assert not refuses(None)


@scene("recipe", "Recipe.__init__")
def recipe_is_made(stage: Stage) -> None:
    recipe(stage.manager, "native", release=Native.free, release_on=ANY_THREAD)


@scene("pin", "raw", "view", "view_of", "is_closed", "held_pin", "tend", lets_go=True)
def pinned(stage: Stage) -> None:
    held: Any = None
    shown = None
    try:
        held = pin(stage.handle)
        assert raw(held).use() == 1
        shown = view(held, id(held), 1)
        assert shown.nbytes == 1
        shown = view_of(held, raw(held).memory)
        assert (shown.nbytes, shown.readonly) == (64, False)
        stage.handle.close()
        assert is_closed(stage.handle)
        assert held_pin(stage.handle) is held
    finally:
        held = shown = None
    tend(stage.manager)


class Given(Export):
    """Foreign code that is done as soon as it is asked."""

    __slots__ = ("closed",)

    def over(self) -> bool:
        return True

    def ended(self) -> None:
        Export.ended(self)


@scene(
    "Export.__init__",
    "Export.hand_out",
    "Export.ended",
    "Export.over",
    "Export.__str__",
    "sweep_exports",
    lets_go=True,
)
def exported(stage: Stage) -> None:
    held: Any = None
    given = None
    try:
        held = pin(stage.handle)
        given = Given(held, "a test")
        given.hand_out()
        assert str(given).startswith("a test")
        with contextlib.suppress(NotImplementedError):
            Export.over(given)
    finally:
        held = given = None
    stage.handle.close()
    sweep_exports()
    tend(stage.manager)


@scene(
    "facts",
    "about",
    "describe",
    "holders",
    *(
        f"Facts.{name}"
        for name in [
            "__eq__",
            "__hash__",
            "__str__",
            "__repr__",
            "attempts",
            "begun",
            "born",
            "cause",
            "closed_site",
            "ended",
            "fate",
            "has_ended",
            "id",
            "info",
            "max_age",
            "name",
            "native",
            "parent_id",
            "reason",
            "shut",
            "site",
            "size",
            "state",
            "type_name",
        ]
    ),
)
def known(stage: Stage) -> None:
    one = facts(stage.handle)
    assert one == facts(stage.handle.id, stage.manager)
    hash(one)
    repr(one)
    describe(one)
    assert about(one, LifecycleError("it")).id == one.id
    holders(one)
    for name in dir(one):
        if not name.startswith("_"):
            value = getattr(one, name)
            if callable(value):
                value()


@scene("Leaving.__init__", "Leaving.enter", "Leaving.knew")
def leaving(stage: Stage) -> None:
    left: list[int] = []
    table = Leaving(left.append)
    stage.keep(table.clear)
    table.enter(stage.handle)
    stage.handle.close()
    table.knew(facts(stage.handle))


class Kept(Uncopied):
    """What has a method to be called back."""

    def call(self) -> int:
        return 1


@scene(
    "Claim.__init__",
    "Claim.__repr__",
    "Claim.take",
    "Claim.held_by",
    "Claim.holder",
    "taking",
    "weakly",
    "snapshot",
)
def idioms(stage: Stage) -> None:
    claim: Claim[object] = Claim()
    me = object()
    claim.take(me)
    claim.held_by(me)
    assert claim.holder is me
    repr(claim)
    for _ in taking(deque([1]).popleft):
        break
    kept = Kept()
    assert weakly(kept.call)() == 1
    snapshot([1, 2])


@scene("forgets")
def forgetting(stage: Stage) -> None:
    @forgets
    def fail(held: Any) -> None:
        raise LifecycleError("planted")

    try:
        fail(stage.handle)
    except LifecycleError:
        stage.handle.close()


@scene("tend", "releasing", "type_name_of", "is_dead", "keep_for_ever", lets_go=True)
def what_waits_is_run(stage: Stage) -> None:
    releasing(stage.manager)
    assert type_name_of(stage.manager, []) == "list"
    gone = weakref.ref(Kept())
    is_dead(gone)
    keep_for_ever(None)
    stage.handle.close()
    tend(stage.manager, everything=True)


@scene(
    "Tally.__init__",
    "Tally.__int__",
    "Tally.__repr__",
    "CollectorNudge.__init__",
    "CollectorNudge.look",
    "HistogramCount.__init__",
    "HistogramCount.add_all",
    "HistogramCount.snapshot",
)
def counts(stage: Stage) -> None:
    durations = HistogramCount(BUCKETS)
    durations.add_all([0.1, 7.0])
    assert durations.snapshot().count == 2
    tally = Tally()
    tally.add()
    int(tally)
    repr(tally)
    nudge = CollectorNudge()
    nudge.look(lambda: 1)
    nudge.look(lambda: 1)


@scene(
    "check_callback",
    "check_facts",
    "check_release",
    "check_timeout",
    "must_not_wait",
    "after_fork",
    "run_apart",
    "caller",
    "collect",
    "is_control_flow",
    "refuse_near_limit",
    "whole",
)
def checks(stage: Stage) -> None:
    check_callback(len, "fn")
    check_facts("name", 1)
    check_release(list.clear)
    check_timeout(1.0)
    whole(1)
    must_not_wait()
    kept = Kept()
    after_fork(kept.call)  # type: ignore[arg-type]
    run_apart(int)
    caller()
    collect(0)
    is_control_flow(KeyboardInterrupt())
    refuse_near_limit("this")
