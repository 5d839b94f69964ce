"""A proxy behaves as its object while that is open, and refuses everything once it is closed (F4, F5)."""

from __future__ import annotations

import array
import contextlib
import copy
import functools
import gc
import inspect
import operator
import pickle
import sqlite3
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from lifecycle import (
    AccessRefusedError,
    ClosedError,
    LifecycleError,
    RegistrationError,
    ReleaseQueue,
    SafetyManager,
)
from lifecycle.errors import CallbackError, DuplicateError, ExclusiveError
from lifecycle.proxies import VIEW, Child, handle_of
from tests.proxies.natives import Compared, Part, Passing, Store, Table, Unhashable
from tests.support import eventually


@pytest.fixture
def raw() -> Store:
    return Store()


@pytest.fixture
def store(manager: SafetyManager, raw: Store) -> Any:
    made = manager.proxy(raw, release="close")
    yield made
    made.close()


SAME: dict[str, Callable[[Any], Any]] = {
    "method": lambda one: one.read(),
    "one argument": lambda one: one.add(1),
    "two arguments": lambda one: one.add(1, 2),
    "by name": lambda one: one.add(one=3, other=4),
    "three arguments": lambda one: one.add(1, 2, more=3),
    "class method": lambda one: one.made(),
    "static method": lambda one: one.helped(3),
    "partial method": lambda one: one.more(),
    "property": lambda one: one.size,
    "attribute": lambda one: one.label,
    "class attribute": lambda one: one.constant,
    "nested class": lambda one: one.Kind,
    "len": len,
    "bool": bool,
    "str": str,
    "format": lambda one: f"{one}",
    "item": lambda one: one["a"],
    "in": lambda one: "a" in one,
    "not in": lambda one: "z" in one,
    "iteration": list,
    "call": lambda one: one(4),
    "sum": lambda one: one + 3,
    "reflected sum": lambda one: 3 + one,
    "dir": lambda one: sorted(dir(one)),
    "docs": lambda one: (one.__doc__, one.read.__doc__, one.read.__name__),
    "signature": lambda one: str(inspect.signature(one.add)),
    "mapped items": lambda one: list(one.mapped()),
    "generator": lambda one: list(one.steps(3)),
    "memory": lambda one: one.view().tobytes(),
}


@pytest.mark.parametrize("what", SAME)
def test_as_the_object(what: str, store: Any, raw: Store) -> None:
    assert SAME[what](store) == SAME[what](raw)


TOUCHES = {
    name: use for name, use in SAME.items() if name not in ("dir", "docs", "signature", "nested class")
} | {
    "setting": lambda one: setattr(one, "label", "x"),
    "deleting": lambda one: delattr(one, "label"),
    "setting an item": lambda one: one.__setitem__("a", 1),
    "deleting an item": lambda one: one.__delitem__("a"),
    "with": lambda one: one.__enter__(),
    "end of with": lambda one: one.__exit__(None, None, None),
    "in place": lambda one: one.__iadd__(1),
    "unknown attribute": lambda one: one.nothing_like_it,
    "its dict": vars,
}


@pytest.mark.parametrize("what", TOUCHES)
def test_refused_once_closed(what: str, store: Any, raw: Store) -> None:
    store.close()
    raw.log.clear()
    with pytest.raises(AccessRefusedError, match=r"was released|released .* ago"):
        TOUCHES[what](store)
    assert raw.log == []


def test_a_method_that_was_kept_is_refused(store: Any) -> None:
    kept = store.read
    assert kept() == 1
    store.close()
    with pytest.raises(AccessRefusedError):
        kept()


@pytest.mark.parametrize("name", ["same", "__enter__", "later_self"], ids=["fluent", "with", "coroutine"])
def test_the_object_itself_comes_back_as_the_proxy(name: str, store: Any) -> None:
    got = getattr(store, name)()
    if name == "later_self":
        with pytest.raises(StopIteration) as stopped:
            got.send(None)
        got = stopped.value.value
    assert got is store


def test_the_object_within_a_container_comes_back_as_the_proxy(store: Any, raw: Store) -> None:
    assert store.both() == (store, 1)
    raw.kept = [raw, {"one": raw}, (1, [raw])]
    kept = store.kept
    assert kept[0] is store
    assert kept[1]["one"] is store
    assert kept[2][1][0] is store
    before = store
    store += 5
    assert store is before
    assert store["c"] == 5


def test_containers_of_the_standard_library_give_out_the_proxy(store: Any, raw: Store) -> None:
    raw.kept = deque([raw, 1], maxlen=3)
    assert (list(store.kept), store.kept.maxlen) == ([store, 1], 3)
    raw.kept = OrderedDict(first=1, second=raw)
    assert (type(store.kept), list(store.kept.items())) == (OrderedDict, [("first", 1), ("second", store)])
    by_default: defaultdict[str, Any] = defaultdict(list, one=raw)
    raw.kept = by_default
    assert store.kept["one"] is store
    assert store.kept["other"] == []
    raw.kept = {raw: 1, "two": (raw,)}
    assert [key is store or value[0] is store for key, value in store.kept.items()] == [True, True]
    for nothing_inside in (deque([1, 2]), OrderedDict(a=1), {"a": 1}):
        raw.kept = nothing_inside
        assert store.kept is nothing_inside


def test_nothing_gives_out_the_object(store: Any, raw: Store) -> None:
    """Every attribute that can be read, and every method that can be called, gives out anything but it."""
    raw.kept = [raw]
    refused: list[str] = []
    for name in sorted({*dir(raw), *dir(type(store)), "__dict__", "__reduce__"}):
        try:
            got = getattr(store, name)
        except (AttributeError, TypeError):
            refused.append(name)
            continue
        assert got is not raw, name
        assert getattr(got, "__self__", None) is not raw, name
        if callable(got) and name not in ("close", "save", "__call__", "__class__"):
            try:
                result = got()
            except (TypeError, AttributeError, KeyError, OSError, ZeroDivisionError) as wants_arguments:
                result = str(wants_arguments)
            assert result is not raw, name
            if hasattr(result, "send"):
                result.close()
    assert "read" not in refused


def test_a_method_taken_from_the_object_goes_through_the_proxy(store: Any) -> None:
    method = store.method_of_own()
    assert method() == 1
    assert method.__self__ is store
    assert method == store.method_of_own()
    assert hash(method) == hash(store.method_of_own())
    store.close()
    with pytest.raises(AccessRefusedError):
        method()
    with pytest.raises(TypeError):
        copy.copy(method)


def test_what_is_passed_on_to_another_object_goes_through_the_proxy(manager: SafetyManager) -> None:
    passing = manager.proxy(Passing(), release="close")
    assert passing.callback is len
    add = passing.add
    assert add(1, 2) == 3
    assert passing.label == "store"
    passing.close()
    with pytest.raises(AccessRefusedError):
        add(1, 2)


def test_is_the_type_for_whoever_asks_by_isinstance(store: Any) -> None:
    assert isinstance(store, Store)
    assert store.__class__ is Store
    assert type(store) is not Store
    assert not isinstance(store, Part)

    @functools.singledispatch
    def which(one: object) -> str:
        return "object"

    @which.register
    def _(one: Store) -> str:
        return "store"

    assert which(store) == "store"
    match store:
        case Store(label=label):
            assert label == "store"
        case _:
            pytest.fail("it does not match its type")


def test_arguments_that_are_proxies_are_passed_as_objects(manager: SafetyManager, store: Any) -> None:
    other = manager.proxy(Store(), release="close")
    assert store.take(other) == ["Store"]
    assert store.take(1, other, named=other) == ["int", "Store", "Store"]
    assert store.call(type, other) is Store
    assert store.call(lambda ones: [type(one) for one in ones], [other, 1]) == [Store, int]
    assert store.call(lambda ones: type(ones["a"]), {"a": other}) is Store
    assert store.call(lambda one: handle_of(other).holders()[0].kind, other) == "lease"
    assert store + other == 4
    assert store.first_of(other) is other, "an argument comes back as the proxy it was"
    assert store.first_of([store]) is store
    assert handle_of(other).holders() == ()
    other.close()
    with pytest.raises(AccessRefusedError):
        store.take(other)


def test_an_argument_that_is_closed_meanwhile_is_released_after_the_call(
    manager: SafetyManager, store: Any
) -> None:
    raw_other = Store()
    other = manager.proxy(raw_other, release="close")

    def closing(one: Store) -> int:
        other.close()
        return one.released

    assert store.call(closing, other) == 0
    assert raw_other.released == 1


def test_closing_inside_a_call_releases_on_the_way_out(store: Any, raw: Store) -> None:
    def closing() -> int:
        assert store.close() is False
        return raw.released

    assert store.call(closing) == 0
    assert raw.released == 1
    assert "touched after release" not in raw.log


def test_a_failing_call_lets_go(store: Any, raw: Store) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        store.fail()
    assert handle_of(store).close()
    assert raw.released == 1
    del caught


def test_equality_is_that_of_the_objects(manager: SafetyManager, store: Any, raw: Store) -> None:
    one, other, third = (manager.proxy(Compared(n), release="close") for n in (1, 1, 2))
    assert one == other
    assert one != third
    assert one == Compared(1)
    assert hash(one) == hash(other) == hash(1)
    assert one < third
    assert sorted([third, one])[0] is one
    assert store == store
    assert store == raw
    assert store != Store()
    assert store != object()
    found = {one: 1, store: 2}
    for proxy in (one, other, third, store):
        proxy.close()
    assert found[one] == 1
    assert found[store] == 2
    assert one == one
    assert one != third
    assert one in [third, one]


def test_what_has_no_hash_has_none(manager: SafetyManager) -> None:
    proxy = manager.proxy(Unhashable(1), release="close", children={Unhashable: None})
    with pytest.raises(TypeError, match="unhashable"):
        hash(proxy)
    proxy.close()


@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, pickle.dumps, lambda one: one.__reduce__()],
    ids=["copy", "deepcopy", "pickle", "reduce"],
)
def test_copies_are_refused(copied: Callable[[Any], Any], store: Any) -> None:
    with pytest.raises(TypeError, match="cannot be copied or pickled"):
        copied(store)


def test_repr_never_raises(manager: SafetyManager, store: Any) -> None:
    child = manager.proxy(Store(), release="close", children={Part: None})
    part = child.part("a")
    assert repr(store).startswith("<proxy of ")
    assert "tests.proxies.natives.Store" in repr(store)
    assert "Part" in repr(part)
    store.close()
    child.close()
    assert "released" in repr(store)
    assert "released" in repr(part)


def test_views_of_a_mapping_go_through_the_proxy(manager: SafetyManager) -> None:
    table = manager.proxy(Table(), release="close")
    keys, items = table.keys(), table.items()
    assert list(keys) == ["a"]
    assert list(items) == [("a", 1)]
    assert "a" in keys
    assert dict(table) == {"a": 1}
    table.close()
    with pytest.raises(AccessRefusedError):
        list(items)
    with pytest.raises(AccessRefusedError):
        list(keys)


def test_a_proxy_keeps_its_object_and_is_a_leak_when_it_is_dropped(
    manager: SafetyManager, raw: Store
) -> None:
    proxy = manager.proxy(raw, release="close")
    weak = weakref.ref(proxy)
    gc.collect()
    assert proxy.read() == 1
    del proxy
    assert weak() is None
    eventually(lambda: manager.stats().leaks == 1)
    eventually(lambda: raw.released == 1)


def test_the_handle(manager: SafetyManager, store: Any, raw: Store) -> None:
    handle = handle_of(store)
    assert handle is handle_of(store)
    assert handle.state == "valid"
    with handle.lease() as real:
        assert real is raw
    share = handle.share()
    assert not store.close()
    with pytest.raises(AccessRefusedError, match="this share"):
        store.read()
    with share.lease() as real:
        assert real is raw
    share.close()
    assert raw.released == 1


def test_detach_gives_the_object_back(manager: SafetyManager, raw: Store) -> None:
    proxy = manager.proxy(raw, release="close")
    assert handle_of(proxy).detach() is raw
    assert raw.released == 0
    with pytest.raises(AccessRefusedError):
        proxy.read()


def test_handle_of_refuses_what_is_no_proxy(raw: Store) -> None:
    with pytest.raises(LifecycleError, match="takes what manager"):
        handle_of(raw)


@pytest.mark.parametrize(
    "release",
    ["close", Store.close, lambda one: one.close(), "bound"],
    ids=["name", "method", "lambda", "bound"],
)
def test_what_a_release_may_be(release: Any, manager: SafetyManager) -> None:
    raw = Store()
    weak = weakref.ref(raw)
    chosen: Any = raw.close if release == "bound" else release
    proxy = manager.proxy(raw, release=chosen)
    del chosen
    log = raw.log
    del raw
    handle_of(proxy).close()
    assert log == ["close"]
    gc.collect()
    assert weak() is None


def test_the_method_that_the_release_calls_is_the_end(manager: SafetyManager) -> None:
    def free(store: Store) -> None:
        print("freed", store.label)
        store.close()

    for release in (Store.close, lambda one: one.close(), operator.methodcaller("close"), free):
        raw = Store()
        proxy = manager.proxy(raw, release=release)
        proxy.close()
        assert raw.log == ["close"]
        assert handle_of(proxy).state == "released"
    raw = Store()
    proxy = manager.proxy(raw, release=lambda one: (one.touch(), one.close()))  # which of them is the end?
    proxy.touch()
    assert handle_of(proxy).state == "valid"
    handle_of(proxy).close()
    raw = Store()
    proxy = manager.proxy(raw, release=lambda one: None)
    proxy.touch()
    assert handle_of(proxy).state == "valid"
    handle_of(proxy).close()


def ended_by(store: Store) -> None:
    with contextlib.suppress(OSError):
        store.close()
    print("closed")


def ended_if_open(store: Store) -> bool:
    if store.label:
        store.close()
    return True


def looked_at(store: Store) -> None:
    store.touch()
    freed.append(store.label)


freed: list[str] = []


@pytest.mark.parametrize("release", [ended_by, ended_if_open])
def test_a_release_may_do_more_than_call_the_method(release: Any, manager: SafetyManager) -> None:
    raw = Store()
    proxy = manager.proxy(raw, release=release)
    proxy.close()
    assert raw.log == ["close"]
    assert handle_of(proxy).state == "released"


@pytest.mark.parametrize(
    "release", [lambda one: freed.append(one.read()), lambda one: not one.read(), looked_at]
)
def test_a_method_that_the_release_asks_is_not_the_end(release: Any, manager: SafetyManager) -> None:
    proxy = manager.proxy(Store(), release=release)
    proxy.read()
    proxy.touch()
    assert handle_of(proxy).state == "valid"
    assert handle_of(proxy).close()


class Fixed:
    """Methods that always take the same number of arguments."""

    def one(self, first: Any) -> Any:
        return "one", first

    def two(self, second: Any, first: Any) -> Any:
        return "two", second, first

    def ours(self, record: Any, pin: Any) -> Any:
        """Called as variables of the proxy's."""
        return "ours", record, pin

    def me(this, self: Any) -> Any:
        return "me", self

    def last(self, before: Any, /, after: Any) -> Any:
        return "last", before, after

    def during(self, do: Callable[[], object], other: Any) -> object:
        return do()

    def release(self) -> None: ...


FIXED: dict[str, Callable[[Any], object]] = {
    "one": lambda it: it.one(1),
    "one by name": lambda it: it.one(first=1),
    "two": lambda it: it.two(1, 2),
    "two by name": lambda it: it.two(first=1, second=2),
    "the second by name": lambda it: it.two(1, first=2),
    "ours": lambda it: it.ours(1, 2),
    "ours by name": lambda it: it.ours(pin=1, record=2),
    "me": lambda it: it.me(self=7),
    "last": lambda it: it.last(1, after=2),
    "a list": lambda it: it.one([1, 2]),
    "containers": lambda it: it.two((), {"a": 1}),
    "too few": lambda it: it.two(1),
    "none": lambda it: it.one(),
    "too many": lambda it: it.one(1, 2),
    "another name": lambda it: it.two(1, third=2),
    "twice": lambda it: it.two(1, second=2),
    "signature": lambda it: [
        str(inspect.signature(getattr(it, name))) for name in ("one", "two", "ours", "last")
    ],
}


@pytest.mark.parametrize("call", FIXED)
def test_methods_of_a_fixed_number_of_arguments(call: str, manager: SafetyManager) -> None:
    """Answers and errors are the object's, to the word."""
    said: list[object] = []
    proxy = manager.proxy(Fixed(), release="release")
    for it in (Fixed(), proxy):
        try:
            said.append(FIXED[call](it))
        except TypeError as error:
            said.append(str(error))
    assert said[0] == said[1]
    assert handle_of(proxy).close()


def test_proxies_as_the_arguments_of_such_methods(manager: SafetyManager) -> None:
    raw, other = Fixed(), Store()
    proxy = manager.proxy(raw, release="release")
    given = manager.proxy(other, release="close")
    assert proxy.one(given) == ("one", other)
    assert proxy.two(first=given, second=[given, 1]) == ("two", [other, 1], other)

    def close() -> list[str]:
        return [str(handle_of(one).close(timeout=0) or handle_of(one).state) for one in (proxy, given)]

    assert proxy.during(close, given) == ["closing", "closing"]
    assert [handle_of(one).state for one in (proxy, given)] == ["released", "released"]
    assert other.released == 1
    with pytest.raises(AccessRefusedError):
        proxy.one(1)
    still_open = manager.proxy(Fixed(), release="release")
    with pytest.raises(AccessRefusedError):
        still_open.two(1, given)
    still_open.release()


def test_a_queue_releases_at_its_place(manager: SafetyManager, raw: Store) -> None:
    queue = ReleaseQueue("mine", thread="current")
    proxy = manager.proxy(raw, release="close", release_on=queue)
    assert not proxy.close() or raw.released
    queue.drain()
    assert raw.released == 1


class Async:
    async def close(self) -> None: ...
    def save(self) -> Iterator[None]:
        yield


BAD: dict[str, tuple[Callable[[SafetyManager], object], type[Exception], str]] = {
    "plain data": (lambda m: m.proxy(7, release=None), RegistrationError, "stands for a native one"),
    "a class": (lambda m: m.proxy(Store, release=None), RegistrationError, "stands for a native one"),
    "no such method": (lambda m: m.proxy(Store(), release="free"), RegistrationError, "has no method 'free'"),
    "no name": (lambda m: m.proxy(Store(), release="a b"), RegistrationError, "name of a method"),
    "not callable": (
        lambda m: m.proxy(Store(), release=cast("Any", 7)),
        RegistrationError,
        "must be callable",
    ),
    "release of nothing": (
        lambda m: m.proxy(Store(), release=cast("Any", lambda: None)),
        RegistrationError,
        "takes no argument.*release=lambda obj",
    ),
    "release of two": (
        lambda m: m.proxy(Store(), release=cast("Any", lambda one, two: None)),
        RegistrationError,
        "takes 2 arguments",
    ),
    "release that needs more": (lambda m: m.proxy(Store(), release="add"), RegistrationError, "arguments"),
    "partial of the object": (
        lambda m: m.proxy(raw := Store(), release=functools.partial(Store.close, raw)),
        RegistrationError,
        "which it would keep alive",
    ),
    "a class of exceptions": (lambda m: m.proxy(Store(), release=OSError), RegistrationError, "exceptions"),
    "release of a child": (
        lambda m: m.proxy(Store(), release=None, children={Part: cast("Any", lambda: None)}),
        RegistrationError,
        "takes no argument",
    ),
    "release of Child": (
        lambda m: Child(cast("Any", lambda: None)),
        RegistrationError,
        "takes no argument",
    ),
    "coroutine": (lambda m: m.proxy(Async(), release="close"), CallbackError, "coroutine"),
    "generator as an end": (
        lambda m: m.proxy(Async(), release=None, ends=("save",)),
        CallbackError,
        "generator",
    ),
    "unknown end": (lambda m: m.proxy(Store(), release=None, ends=("finish",)), RegistrationError, "finish"),
    "ends is a text": (
        lambda m: m.proxy(Store(), release=None, ends="save"),
        RegistrationError,
        "tuple of method names",
    ),
    "unknown exclusive": (
        lambda m: m.proxy(Store(), release=None, exclusive=("nope",)),
        RegistrationError,
        "nope",
    ),
    "children is a list": (
        lambda m: m.proxy(Store(), release=None, children=cast("Any", [Part])),
        RegistrationError,
        "maps types",
    ),
    "a child that is nowhere": (
        lambda m: m.proxy(array.array("B"), release=None, children={"to_bites": None}),
        RegistrationError,
        "would guard nothing; perhaps 'tobytes'",
    ),
    "children of data": (
        lambda m: m.proxy(Store(), release=None, children={int: None}),
        RegistrationError,
        "is data",
    ),
    "key of children": (
        lambda m: m.proxy(Store(), release=None, children=cast("Any", {3: None})),
        RegistrationError,
        "as keys",
    ),
    "rule of children": (
        lambda m: m.proxy(Store(), release=None, children={Part: 3}),
        RegistrationError,
        "rule of",
    ),
    "bad child": (lambda m: Child(cast("Any", 3)), RegistrationError, "Child"),
    "bad ends of a child": (lambda m: Child(None, ends="x"), RegistrationError, "Child"),
    "not a manager's place": (
        lambda m: m.proxy(Store(), release=None, release_on=cast("Any", "x")),
        LifecycleError,
        "release_on",
    ),
    "factory of nothing": (
        lambda m: m.proxy_factory(cast("Any", 3), release=None),
        RegistrationError,
        "make",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_named(what: str, manager: SafetyManager) -> None:
    act, error, text = BAD[what]
    with pytest.raises(error, match=text):
        act(manager)
    assert manager.stats().active_objects == 0


def test_a_proxy_is_not_put_behind_another(manager: SafetyManager, store: Any) -> None:
    with pytest.raises(RegistrationError, match="proxy already"):
        manager.proxy(store, release=None)


def test_one_object_has_one_owner(manager: SafetyManager, store: Any, raw: Store) -> None:
    with pytest.raises(DuplicateError):
        manager.proxy(raw, release="close")
    assert store.read() == 1


def test_view_says_its_name() -> None:
    assert repr(VIEW) == "VIEW"


def test_a_factory_makes_and_guards(manager: SafetyManager) -> None:
    connect = manager.proxy_factory(sqlite3.connect, release="close", children={sqlite3.Cursor: None})
    first, second = connect(":memory:"), connect(database=":memory:")
    assert first.execute("select 1").fetchone() == (1,)
    assert second.execute("select 2").fetchone() == (2,)
    assert connect.__name__ == "connect"
    first.close()
    second.close()


def test_a_factory_gives_back_what_it_may_not_register(manager: SafetyManager) -> None:
    made: list[Store] = []

    def make() -> Store:
        made.append(Store())
        return made[-1]

    manager.policy("tests.proxies.natives.Store", max_live=1)
    factory = manager.proxy_factory(make, release="close")
    first = factory()
    with pytest.raises(LifecycleError):
        factory()
    eventually(lambda: [one.released for one in made] == [0, 1])
    first.close()


def test_a_closed_manager_makes_nothing() -> None:
    manager = SafetyManager(name="closed")
    made: list[int] = []
    factory = manager.proxy_factory(lambda: made.append(1) or Store(), release="close")
    manager.close()
    with pytest.raises(ClosedError):
        factory()
    assert made == []
    raw = Store()
    with pytest.raises(ClosedError):
        manager.proxy(raw, release="close")
    assert raw.released == 1


def test_validators_and_profilers_see_the_calls(manager: SafetyManager, raw: Store) -> None:
    from lifecycle import Profiler

    proxy = manager.proxy(raw, release="close", children={Part: None})
    part = proxy.part("x")
    with Profiler(manager) as profiler:
        assert proxy.read() == 1
        assert proxy.size == 2
        assert len(proxy) == 2
        assert part.read() == "x"
    (profile,) = [one for one in profiler.report() if one.type_name == "tests.proxies.natives.Store"]
    assert profile.held.count >= 4
    manager.policy("tests.proxies.natives.Store", validate=lambda one: one.label == "store")
    assert proxy.read() == 1
    raw.label = "spoilt"
    with pytest.raises(AccessRefusedError, match="validator"):
        part.read()
    proxy.close()


def test_a_child_that_only_its_object_knows_of_may_come_later(manager: SafetyManager) -> None:
    class Late:
        def load(self) -> None:
            self.part = Part(Store(), "late")

    late: Any = manager.proxy(Late(), release=None, children={"part": None})
    late.load()
    assert type(late.part) is not Part
    assert isinstance(late.part, Part)


class Wide:
    """Methods of many arguments, as `subprocess.Popen` has one."""

    def __init__(self) -> None:
        self.ended = 0

    def many(
        self, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, h: Any, i: Any, j: Any, k: Any
    ) -> Any:
        return a() if callable(a) else (a, k)

    def more(self, pin: Any, raw: Any, result: Any, held: Any) -> Any:
        return pin() if callable(pin) else (pin, raw, result, held)

    def save(self) -> None:
        self.ended += 1

    def close(self) -> None:
        self.ended += 1


def test_a_method_may_take_any_number_of_arguments(manager: SafetyManager) -> None:
    raw = Wide()
    wide = manager.proxy(raw, release="close", ends=("save",))
    assert wide.many(*range(11)) == (0, 10)
    assert wide.more(1, 2, result=3, held=4) == (1, 2, 3, 4)
    calls: list[Callable[[], object]] = [
        lambda: wide.many(wide.save, *range(10)),
        lambda: wide.more(wide.save, 1, 2, 3),
    ]
    for call in calls:
        with pytest.raises(ExclusiveError, match="inside a call"):  # and it does not wait for itself
            call()
    wide.save()
    assert raw.ended == 1


def test_functions_of_numpy_take_proxies_of_arrays(manager: SafetyManager) -> None:
    numpy = pytest.importorskip("numpy")
    raw = numpy.arange(6.0)
    one = manager.proxy(raw, release=lambda array: None)
    other = manager.proxy(numpy.ones(6), release=lambda array: None)
    assert numpy.sum(one) == 15
    assert numpy.dot(one, other) == 15
    assert numpy.concatenate([one, other]).shape == (12,)
    assert numpy.concatenate([one] * 40).shape == (240,), "more than are looked through"
    assert numpy.block([[one, other], [other, one]]).shape == (2, 12)
    assert numpy.where(one > 2, one, other)[0] == 1
    numpy.copyto(other, one)
    numpy.add(one, 1, out=one)
    assert (raw[0], other[5]) == (1, 5)
    handle_of(one).close()
    late: list[Callable[[], object]] = [lambda: numpy.sum(one), lambda: numpy.concatenate([other, one])]
    for refused in late:
        with pytest.raises(AccessRefusedError):
            refused()
    handle_of(other).close()
