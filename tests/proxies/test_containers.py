"""What is in a container of results is guarded, whatever kind of container it is (F5)."""

from __future__ import annotations

import functools
import gc
import types
import weakref
from collections import OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable, ItemsView, KeysView, ValuesView
from typing import Any

import pytest

from lifecycle import AccessRefusedError, RegistrationError, SafetyManager
from lifecycle.proxies import VIEW, Child, handle_of


class Part:
    def __init__(self, key: str) -> None:
        self.key = key
        self.freed = 0

    def read(self) -> str:
        assert not self.freed, "touched after its release"
        return self.key

    def free(self) -> None:
        self.freed += 1


class Rows(list[Any]):
    """A list that takes something else than its items, and has facts of its own."""

    __slots__ = ("__dict__", "columns")

    def __init__(self, columns: str, items: Any) -> None:
        super().__init__(items)
        self.columns = columns
        self.note = "note"


class Table(dict[Any, Any]):
    pass


class Pair(tuple[Any, ...]):
    pass


class Bag(set[Any]):
    pass


class Line(deque[Any]):
    pass


class Sorted(OrderedDict[Any, Any]):
    pass


class Counted(defaultdict[Any, Any]):
    pass


Point = namedtuple("Point", "part number")


def outside(part: Any, *_: Any) -> Any:
    return part


class Device:
    def __init__(self) -> None:
        self.parts = [Part("a"), Part("b")]
        self.closed = 0

    def close(self) -> None:
        self.closed += 1

    def get(self, make: Callable[[list[Part]], Any]) -> Any:
        return make(self.parts)

    def me(self, make: Callable[[Device], Any]) -> Any:
        return make(self)

    def read(self) -> int:
        assert not self.closed, "touched after its release"
        return 7


SHAPES: dict[str, Callable[[list[Part]], Any]] = {
    "values": lambda parts: {one.key: one for one in parts}.values(),
    "keys": lambda parts: dict.fromkeys(parts, 1).keys(),
    "items": lambda parts: {one.key: one for one in parts}.items(),
    "values in their order": lambda parts: OrderedDict((one.key, one) for one in parts).values(),
    "read-only dict": lambda parts: types.MappingProxyType({one.key: one for one in parts}),
    "kin of list": lambda parts: Rows("key", parts),
    "kin of dict": lambda parts: Table((one.key, one) for one in parts),
    "kin of tuple": lambda parts: Pair(parts),
    "kin of set": lambda parts: Bag(parts),
    "kin of deque": lambda parts: Line(parts, 5),
    "kin of OrderedDict": lambda parts: Sorted((one.key, one) for one in parts),
    "kin of defaultdict": lambda parts: Counted(list, {one.key: one for one in parts}),
    "named tuple": lambda parts: Point(parts[0], 3),
    "within each other": lambda parts: [Rows("", [{"x": Pair(parts)}])],
}


def found_in(value: Any) -> list[Any]:
    if isinstance(value, (dict, types.MappingProxyType)):
        value = [*value, *value.values()]
    if isinstance(value, (list, tuple, set, deque, KeysView, ValuesView, ItemsView)):
        return [found for one in value for found in found_in(one)]
    return [value] if isinstance(value, Part) else []


@pytest.mark.parametrize("rule", [None, "free"])
@pytest.mark.parametrize("shape", SHAPES)
def test_children_in_it_are_proxies(shape: str, rule: str | None, manager: SafetyManager) -> None:
    raw = Device()
    device = manager.proxy(raw, release="close", children={Part: rule})
    given = device.get(SHAPES[shape])
    found = found_in(given)
    assert found
    assert type(given) is type(SHAPES[shape](raw.parts)), "of its own kind"
    for part in found:
        assert type(part) is not Part
        assert part.read() in ("a", "b")
    device.close()
    gc.collect()
    for part in found:
        with pytest.raises(AccessRefusedError):
            part.read()
    assert handle_of(device).close(timeout=5)
    assert {one.freed for one in raw.parts} <= {0, 1 if rule else 0}


def test_it_keeps_what_it_has_besides_its_items(manager: SafetyManager) -> None:
    device = manager.proxy(Device(), release="close", children={Part: None})
    rows = device.get(lambda parts: Rows("key", parts))
    assert (rows.columns, rows.note) == ("key", "note")
    assert device.get(lambda parts: Line(parts, 5)).maxlen == 5
    assert device.get(lambda parts: Counted(list, {1: parts[0]})).default_factory is list
    device.close()


def test_data_comes_as_it_is(manager: SafetyManager) -> None:
    device = manager.proxy(Device(), release="close", children={Part: None})
    given: list[Any] = [
        Rows("", [1, 2]),
        Table(a=1),
        {"a": 1}.values(),
        types.MappingProxyType({1: 2}),
        Pair((1,)),
    ]
    for same in given:
        assert device.me(functools.partial(outside, same)) is same
    device.close()


MINE: dict[str, tuple[Callable[[Device], Any], Callable[[Any], Any]]] = {
    "values": (lambda one: {1: one}.values(), lambda given: next(iter(given))),
    "read-only dict": (lambda one: types.MappingProxyType({1: one}), lambda given: given[1]),
    "kin of list": (lambda one: Rows("", [one]), lambda given: given[0]),
    "weak reference": (weakref.ref, lambda given: given()),
    "weak method": (lambda one: weakref.WeakMethod(one.read), lambda given: given().__self__),
    "partial of it": (lambda one: functools.partial(outside, one), lambda given: given()),
    "partial by name": (lambda one: functools.partial(outside, part=one), lambda given: given()),
    "foreign method": (lambda one: types.MethodType(outside, one), lambda given: given()),
}


@pytest.mark.parametrize("way", MINE)
def test_the_object_itself_is_not_given_out(way: str, manager: SafetyManager) -> None:
    make, take = MINE[way]
    device = manager.proxy(Device(), release="close")
    given = device.me(make)
    assert take(given) is device
    device.close()
    if "partial" in way or way == "foreign method":
        with pytest.raises(AccessRefusedError):
            take(given)


def test_a_partial_of_a_method_in_c_takes_the_object(manager: SafetyManager) -> None:
    class Numbers(list[int]):
        def later(self) -> Any:
            return functools.partial(list.append, self)

    raw = Numbers()
    numbers = manager.proxy(raw, release="clear")
    append = numbers.later()
    append(4)
    assert raw == [4]
    numbers.clear()
    with pytest.raises(AccessRefusedError):
        append(5)


def test_a_method_of_a_base_is_that_of_the_base(manager: SafetyManager) -> None:
    class Base:
        def name(self) -> str:
            return "base"

    class Derived(Base):
        def name(self) -> str:
            return "derived"

        def above(self) -> Any:
            return super().name

        def close(self) -> None: ...

    one = manager.proxy(Derived(), release="close")
    assert one.above()() == "base"
    one.close()


@pytest.mark.parametrize("first", ["owned", "light"])
def test_a_native_that_two_rules_give_has_one_door(first: str, manager: SafetyManager) -> None:
    part = Part("a")

    class Two(Device):
        def owned(self) -> Part:
            return part

        def light(self) -> Part:
            return part

    device = manager.proxy(Two(), release="close", children={"owned": Child("free"), "light": None})
    one = getattr(device, first)()
    other = device.light() if first == "owned" else device.owned()
    assert one.read() == other.read() == "a"
    (one if first == "owned" else other).free()
    assert part.freed == 1
    for each in (one, other):
        with pytest.raises(AccessRefusedError):
            each.read()
    device.close()
    assert handle_of(device).state == "released"
    assert part.freed == 1


@pytest.mark.parametrize("first", ["owned", "light"])
def test_closing_the_parent_closes_a_native_that_two_rules_gave(first: str, manager: SafetyManager) -> None:
    part = Part("a")

    class Two(Device):
        def owned(self) -> Part:
            return part

        light = owned

    raw = Two()
    device = manager.proxy(raw, release="close", children={"owned": Child("free"), "light": None})
    both = (device.owned(), device.light()) if first == "owned" else (device.light(), device.owned())
    assert device.close(), "the child that is registered goes first"
    assert (part.freed, raw.closed) == (1, 1)
    for each in both:
        with pytest.raises(AccessRefusedError):
            each.read()


WRONG: dict[str, tuple[Any, str]] = {
    "its release": ("flee", "no method 'flee'.*its release"),
    "data": ("key", "no method 'key'"),
    "its end": (Child("free", ends=("finish",)), "no method 'finish'.*an end"),
    "its end, light": (Child(None, ends=("finish",)), "no method 'finish'.*an end"),
    "memory": (VIEW, "a Part is none"),
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("by_name", [True, False])
def test_a_rule_that_the_child_does_not_fit_is_told(what: str, by_name: bool, manager: SafetyManager) -> None:
    """As for the object itself: at once, not as a release that fails in the end."""
    rule, says = WRONG[what]
    raw = Device()
    device = manager.proxy(raw, release="close", children={"get" if by_name else Part: rule})
    with pytest.raises(RegistrationError, match=says):
        device.get(lambda parts: parts[0])
    device.close()
    assert raw.closed == 1
    if what == "its end":
        assert raw.parts[0].freed == 1, "it was made, and its release is known"
