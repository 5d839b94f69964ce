"""Snapshots and events compare, hash and show themselves as what attrs makes of their fields would."""

from __future__ import annotations

import pickle
from typing import Any

import attrs
import pytest

from lifecycle import events, stats
from lifecycle.events import Event, Leak, Panic

CLASSES: list[type[Any]] = [
    cls
    for module in (events, stats)
    for cls in vars(module).values()
    if isinstance(cls, type) and issubclass(cls, stats.Value) and cls is not stats.Value
]


def filled(cls: type[Any], **others: object) -> Any:
    """One of `cls`, with a value of its own in each field."""
    values = {
        field.name: (field.name, number) for number, field in enumerate(attrs.fields(cls)) if field.init
    }
    return cls(**{**values, **others})


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_as_attrs_makes_them(cls: type[Any]) -> None:
    value, same = filled(cls), filled(cls)
    fields = attrs.fields(cls)
    assert value == same
    assert hash(value) == hash(same)
    assert len({value, same}) == 1
    shown = ", ".join(f"{field.name}={getattr(value, field.name)!r}" for field in fields if field.repr)
    assert repr(value) == f"{cls.__qualname__}({shown})"
    assert pickle.loads(pickle.dumps(value)) == value
    for field in fields:
        if field.init:
            other = filled(cls, **{field.name: "another"})
            assert (value == other) is not field.eq, field.name
            assert (value != other) is field.eq, field.name
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(value, fields[0].name, 1)


def test_only_what_is_of_the_same_class_is_equal() -> None:
    leak, panic = filled(Leak, details=()), filled(Panic, details=())
    assert leak != panic
    assert leak != "leak"
    assert filled(Event) != attrs.astuple(filled(Event))


def test_one_that_contains_itself_can_be_shown() -> None:
    details: dict[str, object] = {}
    event = Leak(manager="m", time=1.0, details=details)
    details["event"] = event
    assert "details={'event': ...}" in repr(event)
    with pytest.raises(TypeError):
        hash(event)
