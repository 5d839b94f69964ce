"""Children of a proxy: light ones, and those with a release of their own."""

from __future__ import annotations

import gc
import os
import sqlite3
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lifecycle import AccessRefusedError, HeldError, LifecycleError, SafetyManager
from lifecycle.errors import ExclusiveError
from lifecycle.proxies import VIEW, Child, handle_of
from tests.proxies.natives import Part, Store
from tests.support import eventually


@pytest.fixture
def raw() -> Store:
    return Store()


Open = Callable[..., Any]


@pytest.fixture
def open_store(manager: SafetyManager, raw: Store) -> Open:
    """Puts the store behind a proxy."""

    def made(**rules: Any) -> Any:
        return manager.proxy(raw, **{"release": "close", **rules})

    return made


LIGHT = {"by type": {Part: None}, "by a child": {Part: Child(None)}}


@pytest.mark.parametrize("rules", LIGHT.values(), ids=LIGHT)
def test_a_light_child_goes_through_the_door_of_its_parent(rules: Any, open_store: Open) -> None:
    store = open_store(children=rules)
    part = store.part("a")
    assert part.read() == "a"
    assert isinstance(part, Part)
    assert type(part) is not Part
    assert part.owner() is store
    store.close()
    with pytest.raises(AccessRefusedError):
        part.read()
    with pytest.raises(AccessRefusedError):
        part.key


def test_children_by_the_name_of_a_method(open_store: Open) -> None:
    store = open_store(children={"part": None, "named": None, "parts": None, "part_steps": None})
    for part in (store.part("a"), store.named()["a"], store.parts("a", "b")[0], next(store.part_steps(1))):
        assert type(part) is not Part
        assert isinstance(part, Part)
    assert type(store.part("x").part("y")) is Part, "a name is the name of a method of this object"
    store.close()


def test_children_within_lists_dicts_and_generators(open_store: Open, raw: Store) -> None:
    store = open_store(children={Part: None})
    parts = [*store.parts("a", "b"), *store.named().values(), *store.part_steps(2)]
    raw.kept = [(Part(raw, "x"), 1), {"k": [Part(raw, "y")]}]
    parts += [store.kept[0][0], store.kept[1]["k"][0]]
    assert all(type(part) is not Part for part in parts)
    assert [part.key for part in parts] == ["a", "b", "a", "0", "1", "x", "y"]
    store.close()
    for part in parts:
        with pytest.raises(AccessRefusedError):
            part.read()


def test_children_of_children(open_store: Open) -> None:
    store = open_store(children={Part: None})
    deep = store.part("a").part("b").part("c")
    assert type(deep) is not Part
    assert deep.read() == "a/b/c"
    assert deep.owner() is store
    store.close()
    with pytest.raises(AccessRefusedError):
        deep.read()


def test_the_same_child_is_the_same_proxy(open_store: Open, raw: Store) -> None:
    raw.kept = [Part(raw, "a")]
    store = open_store(children={Part: None})
    assert store.kept[0] is store.kept[0]
    store.close()


def test_a_child_keeps_its_parent(manager: SafetyManager, open_store: Open, raw: Store) -> None:
    part = open_store(children={Part: None}).part("a")
    gc.collect()
    assert part.read() == "a"
    assert part.owner().read() == 1
    assert raw.released == 0
    part.owner().close()
    assert raw.released == 1
    assert manager.stats().leaks == 0


def test_raw_children_go_before_the_release(manager: SafetyManager) -> None:
    """What refers to the native is dropped before that is released, at its place; the newest first."""
    log: list[str] = []

    class Cursor:
        def __init__(self, name: str) -> None:
            self.name = name

        def __del__(self) -> None:
            log.append(f"del {self.name}")

    class Base:
        def cursor(self, name: str) -> Cursor:
            return Cursor(name)

        def close(self) -> None:
            log.append("close")

    base = manager.proxy(Base(), release="close", children={Cursor: None})
    kept = [base.cursor("first"), base.cursor("second")]
    base.cursor("third")
    assert log == ["del third"]
    base.close()
    assert log == ["del third", "del second", "del first", "close"]
    del kept


def test_many_children_leave_nothing_behind(open_store: Open) -> None:
    store = open_store(children={Part: None})
    kept = []
    for number in range(1000):
        part = store.part("a")
        if number % 10 == 0:
            kept.append(part)
    del part
    members = handle_of(store)._dependents.members  # type: ignore[attr-defined]
    assert len(members) <= 400
    assert sum(one() is not None for one in members.values()) == 100
    store.close()


# -- registered ones -----------------------------------------------------------------------------------------


def test_a_registered_child_is_released_before_its_parent(open_store: Open, raw: Store) -> None:
    store = open_store(children={Part: "free"})
    first, second = store.part("a"), store.part("b")
    assert handle_of(first).id != handle_of(store).id
    assert first.read() == "a"
    assert store.close()
    assert raw.log[-3:] == ["free b", "free a", "close"]
    for part in (first, second):
        with pytest.raises(AccessRefusedError):
            part.read()


def test_a_registered_child_closes_by_its_own_name(open_store: Open, raw: Store) -> None:
    store = open_store(children={Part: "free"})
    part = store.part("a")
    assert part.free()
    with pytest.raises(AccessRefusedError):
        part.read()
    assert store.read() == 1
    store.close()
    assert raw.log.count("free a") == 1


def test_the_children_of_a_child_close_with_it(open_store: Open, raw: Store) -> None:
    store = open_store(children={Part: "free"})
    inner = store.part("a").part("b")
    outer_gone = inner.owner()
    assert outer_gone is store
    store.close()
    assert raw.log[-3:] == ["free a/b", "free a", "close"]
    with pytest.raises(AccessRefusedError):
        inner.read()


def test_a_forgotten_child_is_released_and_is_no_leak(
    manager: SafetyManager, open_store: Open, raw: Store
) -> None:
    store = open_store(children={Part: "free"})
    store.part("a")
    gc.collect()
    manager.register(object(), "flush", release=id, release_on=manager_place()).close()
    eventually(lambda: raw.log.count("free a") == 1)
    store.close()
    assert manager.stats().leaks == 0
    assert raw.log == ["part a", "free a", "close"]


def manager_place() -> Any:
    from lifecycle import ANY_THREAD

    return ANY_THREAD


def test_a_registered_child_comes_back_as_the_same_proxy(open_store: Open, raw: Store) -> None:
    raw.kept = [Part(raw, "a")]
    store = open_store(children={Part: "free"})
    part = store.kept[0]
    assert store.kept[0] is part
    store.close()
    assert raw.log.count("free a") == 1


def test_closing_by_the_handle_closes_the_children(open_store: Open, raw: Store) -> None:
    store = open_store(children={Part: "free"})
    part = store.part("a")
    with handle_of(store):
        assert part.read() == "a"
    with pytest.raises(AccessRefusedError):
        part.read()
    assert raw.log[-2:] == ["free a", "close"]
    assert "test_children.py" in repr(store)


def test_a_view_of_a_child_defers_the_parent(open_store: Open, raw: Store) -> None:
    store = open_store(children={Part: Child("free", children={"memory": VIEW})})
    part = store.part("a")
    with handle_of(part).lease():
        assert not store.close()
        assert raw.log == ["part a"]
    assert handle_of(store).close(timeout=5)
    assert raw.log == ["part a", "free a", "close"]


def test_a_child_that_fails_to_close_does_not_keep_the_others_from_it(open_store: Open, raw: Store) -> None:
    def fails(part: Part) -> None:
        raw.log.append(f"fails {part.key}")
        raise OSError("in use")

    store = open_store(children={Part: fails})
    kept = store.parts("a", "b")
    store.close()
    assert raw.log[-3:] == ["fails b", "fails a", "close"]
    del kept


# -- handles of light children -------------------------------------------------------------------------------


def test_the_handle_of_a_light_child(open_store: Open) -> None:
    store = open_store(children={Part: None})
    part = store.part("a")
    handle = handle_of(part)
    with handle.lease() as real:
        assert type(real) is Part
        assert handle_of(store).holders()[0].kind == "lease"
    assert handle.lease().__enter__().key == "a"
    repr(handle.lease())
    assert handle.id == handle_of(store).id
    assert handle.valid
    for refused in (handle.close, handle.share, handle.detach, handle.weak, handle.exclusive):
        with pytest.raises(LifecycleError, match="light child"):
            refused()
    assert store.take(part) == ["Part"]
    assert "LightHandle" in repr(handle)
    store.close()
    with pytest.raises(AccessRefusedError):
        handle.lease()


# -- ends ----------------------------------------------------------------------------------------------------


def test_an_end_is_now_and_takes_the_place_of_the_release(open_store: Open, raw: Store) -> None:
    store = open_store(ends=("save",), children={Part: "free"})
    part = store.part("a")
    assert store.save() == "saved"
    assert raw.log == ["part a", "free a", "save"]
    assert raw.released == 1
    assert handle_of(store).state == "released"
    for one in (store.read, part.read, store.save):
        with pytest.raises(AccessRefusedError):
            one()
    store.close()
    assert raw.released == 1


def test_an_end_with_a_view_alive_is_refused_and_nothing_has_happened(open_store: Open, raw: Store) -> None:
    store = open_store(ends=("save",), children={Part: "free"})
    part = store.part("a")
    view = store.view()
    with pytest.raises(HeldError, match="view"):
        store.save()
    assert part.read() == "a"
    assert store.read() == 1
    assert raw.log == ["part a"]
    del view
    assert store.save() == "saved"


def test_an_end_with_a_view_of_a_child_alive_is_refused(open_store: Open, raw: Store) -> None:
    store = open_store(ends=("save",), children={Part: "free"})
    part = store.part("a")
    view = handle_of(part).view(id(part), 8)
    with pytest.raises(HeldError, match="view"):
        store.save()
    assert part.read() == "a"
    del view
    store.close()


def test_an_end_that_raises_has_not_ended_it(open_store: Open, raw: Store) -> None:
    store = open_store(ends=("save_badly",))
    with pytest.raises(OSError, match="disk full"):
        store.save_badly()
    assert store.read() == 1
    store.close()
    assert raw.log == ["close"]


def test_an_end_shuts_it_for_other_shares_too(open_store: Open, raw: Store) -> None:
    store = open_store(ends=("save",))
    share = handle_of(store).share()
    store.save()
    with pytest.raises(AccessRefusedError):
        share.lease()
    assert share.close()
    assert raw.log == ["save"]


def test_an_end_inside_a_call_of_its_own_is_refused(open_store: Open, raw: Store) -> None:
    store = open_store(ends=("save",))
    with pytest.raises(ExclusiveError, match="wait for itself"):
        store.call(store.save)
    assert store.read() == 1
    assert store.save() == "saved"


def test_the_end_of_a_block(open_store: Open, raw: Store) -> None:
    store = open_store(ends=("__exit__",))
    with store as inside:
        assert inside is store
        assert inside.read() == 1
    assert raw.log == ["exit"]
    assert handle_of(store).state == "released"
    assert raw.released == 0


def test_a_block_may_close_its_object(open_store: Open, raw: Store) -> None:
    with open_store(ends=("__exit__",)) as store:
        store.close()
    assert raw.log == ["close"]


def test_a_block_is_no_end_unless_named(open_store: Open, raw: Store) -> None:
    store = open_store()
    with store:
        pass
    assert store.read() == 1
    store.close()
    assert raw.log == ["exit", "close"]


class Session:
    """What leaving its block does is up to the exception: commit, or roll back."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.memory = bytearray(b"seen")

    def see(self) -> memoryview:
        return memoryview(self.memory)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type | None, *_: object) -> bool:
        self.log.append("commit" if kind is None else f"roll back: {kind.__name__}")
        return kind is KeyError


def test_a_block_that_raises_tells_its_end_of_the_exception(manager: SafetyManager) -> None:
    raw = Session()
    session = manager.proxy(raw, release="__exit__")
    with pytest.raises(ZeroDivisionError), session:
        1 / 0
    assert raw.log == ["roll back: ZeroDivisionError"]
    assert handle_of(session).state == "released"
    with manager.proxy(raw, release="__exit__"):
        raise KeyError  # which is what it swallows
    with manager.proxy(raw, release="__exit__"):
        pass
    assert raw.log[1:] == ["roll back: KeyError", "commit"]


def test_a_block_that_raises_under_a_view_is_closed_when_that_goes(manager: SafetyManager) -> None:
    raw = Session()
    session = manager.proxy(raw, release="__exit__")
    with pytest.raises(ZeroDivisionError), session:
        seen = session.see()
        1 / 0
    assert bytes(seen) == b"seen"
    assert raw.log == []
    del seen
    assert handle_of(session).close(timeout=5)
    assert raw.log == ["commit"]


def test_the_end_of_a_registered_child(open_store: Open, raw: Store) -> None:
    store = open_store(children={Part: Child("free", ends=("commit",))})
    part = store.part("a")
    assert part.commit() == "done"
    with pytest.raises(AccessRefusedError):
        part.read()
    store.close()
    assert raw.log == ["part a", "commit a", "close"]


def test_the_end_of_a_light_child(open_store: Open, raw: Store) -> None:
    store = open_store(children={Part: Child(None, ends=("commit",))})
    part = store.part("a")
    assert part.commit() == "done"
    with pytest.raises(AccessRefusedError):
        part.read()
    assert store.read() == 1
    store.close()
    assert raw.log == ["part a", "commit a", "close"]


def test_light_children_are_over_with_an_end_that_fails(open_store: Open) -> None:
    store = open_store(ends=("save_badly",), children={Part: None})
    part = store.part("a")
    with pytest.raises(OSError, match="disk full"):
        store.save_badly()
    with pytest.raises(AccessRefusedError):
        part.read()
    with pytest.raises(AccessRefusedError):
        len(part.key)
    store.close()


class Closes:
    """Leaving its block closes it, and it does not say whether it is closed."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.memory = bytearray(b"seen")

    def see(self) -> memoryview:
        return memoryview(self.memory)

    def close(self) -> None:
        self.log.append("close")

    def __enter__(self) -> Closes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Flushes(Closes):
    """Does more than that."""

    def flush(self) -> None:
        self.log.append("flush")

    def __exit__(self, *_: object) -> None:
        self.flush()
        self.close()


@pytest.mark.parametrize("release", ["close", Closes.close, lambda one: one.close()])
@pytest.mark.parametrize("kind", [Closes, Flushes])
def test_a_block_whose_end_calls_the_release_ends_its_object_once(
    manager: SafetyManager, kind: type[Closes], release: Any
) -> None:
    raw = kind()
    with manager.proxy(raw, release=release) as one:
        assert raw.log == []
    expected = ["flush", "close"] if kind is Flushes else ["close"]
    assert raw.log == expected
    assert handle_of(one).state == "released"
    with pytest.raises(AccessRefusedError):
        one.see()
    with pytest.raises(ZeroDivisionError), manager.proxy(raw, release=release):
        1 / 0
    assert raw.log == 2 * expected
    assert manager.stats().leaks == 0


def test_a_block_that_only_closes_follows_its_views(manager: SafetyManager) -> None:
    raw = Closes()
    with manager.proxy(raw, release="close") as one:
        seen = one.see()
    assert raw.log == []
    assert bytes(seen) == b"seen"
    del seen
    assert handle_of(one).close(timeout=20)
    assert raw.log == ["close"]


def test_a_block_in_c_is_an_end_unless_its_type_can_commit(manager: SafetyManager) -> None:
    with manager.proxy(os.scandir("."), release="close") as entries:
        assert next(entries).name
    assert handle_of(entries).state == "released"
    connection = manager.proxy(sqlite3.connect(":memory:"), release="close")
    with connection:
        connection.execute("create table t(x)")
    assert connection.execute("select 7").fetchone() == (7,)
    connection.close()
    named = manager.proxy(os.scandir("."), release="close", ends=("close",))  # all of its ends
    with named:
        pass
    assert handle_of(named).state == "valid"
    named.close()


def test_a_block_that_closes_its_object_is_an_end(manager: SafetyManager, tmp_path: Path) -> None:
    """A file says that it is closed; a connection that commits says nothing."""
    file = manager.proxy(open(tmp_path / "some", "w"), release="close")  # noqa: SIM115
    with file as same:
        same.write("x")
    assert handle_of(file).state == "released"
    with pytest.raises(AccessRefusedError, match=r"handle_of\(proxy\)\.share\(\)"):
        file.write("y")
    assert manager.stats().active_objects == 0


def test_what_a_proxy_keeps_alive_lives_until_its_release_has_returned(
    manager: SafetyManager, raw: Store
) -> None:
    class Thunk:
        """What the native would call."""

    thunk = Thunk()
    alive = weakref.ref(thunk)
    store = manager.proxy(raw, release="close", keep_alive=thunk)
    del thunk
    gc.collect()
    assert alive() is not None
    store.close()
    gc.collect()
    assert alive() is None
    made = manager.proxy_factory(Store, release="close", keep_alive=(1, 2))()
    assert made.read() == 1
    made.close()
